"""The multivariate normal distribution."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.core.checks import brief, number
from jaxem.core.contexts import Choice
from jaxem.core.data import Data, Dataset, count, observed_of, values_of
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Real
from jaxem.families import by_cell, hidden_cells, incomplete, normal_prior, products, seen_cells, unbounded
from jaxem.families.covariance import FORMS as BASES
from jaxem.families.covariance import Form as Base
from jaxem.families.covariance import (
    deviations,
    expected_log_normal,
    first_moments,
    is_degenerate,
    log_normal,
    lost_to_floor,
    matrices_of,
    raised,
    scatter_about_mean,
)
from jaxem.families.forms import FORMS, NAME_OF, SAME, Form
from jaxem.families.hidden_cells import HiddenCells
from jaxem.families.normal_prior import NormalInverseWishart
from jaxem.families.prior_observations import PriorObservations
from jaxem.families.protocol import missing_as_nan
from jaxem.families.sums import per_cell


class MultivariateNormalParams(NamedTuple):
    """The parameters of ``MultivariateNormal``."""

    means: Array  # (K, D)
    # full (K, D, D), tied (D, D), diag (K, D), spherical (K,); EII (), EEI (D,); a ``Shaped`` for VEI, EVI, VEE and
    # EVV, an ``Oriented`` for EVE, VVE, EEV and VEV. ``MultivariateNormal.covariances`` returns matrices for any form.
    covariances: Any


class MultivariateNormalStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk; for variances with missing cells (K, D), over the observed cells
    first: Array  # (K, D), sum_n r_nk (x_n - origin_k)
    second: Array  # sum_n r_nk (x_n - origin_k)(x_n - origin_k)', shaped like the covariances of the base


class Prepared(NamedTuple):
    at: MultivariateNormalParams  # its means are the origin of the sums
    covariances: Any  # those of the base
    view: Any  # a ``Choice`` of the classes prepared for matrix products; None where deviations from means are as fast
    lost: Array | None = None  # (K,) or (1,), what the floor takes off the log-density
    patterns: Any = None  # what depends only on which cells a row misses; None where that is found row by row


@register
@dataclasses.dataclass(frozen=True)
class MultivariateNormal:
    r"""The normal distribution of D real numbers.

    .. math:: \log p(x \mid k) = -\tfrac12 \left( D \log 2\pi + \log |S_k|
              + (x - m_k)' S_k^{-1} (x - m_k) \right)

    .. math:: \text{M: } n_k = \textstyle\sum_n r_{nk},\; m_k = \sum_n r_{nk}\, x_n / n_k,\;
              S_k = \sum_n r_{nk} (x_n - m_k)(x_n - m_k)' / n_k

    This is the maximiser for full covariances. A tied covariance is the mean of the S_k with weights n_k; diagonal
    covariances are the diagonals of the S_k; spherical ones are the means of those diagonals. ``forms.py`` has the
    others. The data are (N, D), of which cells may be missing; the parameters are a ``MultivariateNormalParams``.

    Arguments:
        covariance: ``"full"`` (default): a matrix for each class (K, D, D); ``"tied"``: one matrix for all classes
            (D, D); ``"diag"``: a variance for each class and variable (K, D); ``"spherical"``: one variance for each
            class (K,). Or one of the fourteen names that say of volume, shape and orientation, in this order, whether
            classes have them equal (E), of their own (V), or none (I): ``"EII"``, ``"VII"`` (spherical), ``"EEI"``,
            ``"VEI"``, ``"EVI"``, ``"VVI"`` (diag), ``"EEE"`` (tied), ``"VEE"``, ``"EVE"``, ``"VVE"``, ``"EEV"``,
            ``"VEV"``, ``"EVV"``, ``"VVV"`` (full). The four with a longer name get it. EII, VII, EVE, VVE,
            EEV and VEV compare lengths of axes across variables, so other units of a variable are another model.
        prior: a ``NormalInverseWishart``, for example ``NormalInverseWishart.from_data(x, k)``, or
            ``PriorObservations``, which may be improper and other for each class; the fit is then MAP. ``None``
            (default): maximum likelihood.
        floor: rho >= 0, a floor under the variances in squared units of x, so that no class collapses onto a point.
            Each density is multiplied by exp(-rho tr(S_k^-1) / 2), so that the M-step adds rho I to S_k, as does
            scikit-learn's ``reg_covar`` (whose E-step leaves the factor out, so that it ends at other parameters,
            and no objective rises). The objective of the fit, ``log_prob`` and ``log_likelihood`` contain this factor:
            they are no log-likelihood. The criteria and cross-validation leave it out. It may be traced. ``None``
            (default): no floor.

    Raises:
        ValueError: ``covariance`` is none of these names, ``prior`` is neither a ``NormalInverseWishart`` nor
            ``PriorObservations`` that fit the covariances, there is a prior for another form than full, tied, diag and
            spherical, or ``floor`` is not a finite number of at least 0.

    Source: Celeux & Govaert (1995) for the fourteen forms; Scrucca et al. (2016) for their names.
    """

    covariance: str = dataclasses.field(default="full", metadata={"static": True})
    prior: NormalInverseWishart | PriorObservations | None = None
    floor: ArrayLike | None = None

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "finite numbers"
    separate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        known = isinstance(self.covariance, str) and (self.covariance in FORMS or self.covariance in SAME)
        if not known:
            raise ValueError(
                f"MultivariateNormal: covariance must be one of {[*FORMS, *SAME]}; got {brief(self.covariance)}"
            )
        object.__setattr__(self, "covariance", SAME.get(self.covariance, self.covariance))  # one name for one form
        if self.prior is not None and not isinstance(self.prior, NormalInverseWishart | PriorObservations):
            raise ValueError(
                "MultivariateNormal: prior must be a NormalInverseWishart or PriorObservations; got "
                f"{brief(self.prior)}"
            )
        if self.prior is not None and self.covariance != self._form.base:
            raise ValueError(
                f"MultivariateNormal: there is no prior for {self.covariance!r}; use one of {[*BASES]}, or "
                "leave the prior out"
            )
        if isinstance(self.prior, PriorObservations):
            self.prior.check(self.covariance)
        if self.floor is not None:
            number("MultivariateNormal: floor", self.floor, 0, math.inf)

    @property
    def dimensions(self) -> int | None:
        """D, the number of columns, where there is a prior; else ``None``."""
        if isinstance(self.prior, PriorObservations):
            return self.prior.dimensions
        return None if self.prior is None else jnp.shape(self.prior.mean)[0]

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data beside values: missing cells, and which rows miss the same where that saves work.

        With a floor only where each seen cell counts by itself: the inverse of the covariances of the seen cells is
        another for each row.
        """
        if self.floor is not None and (self._base.of_matrices or self._shares_variances):
            return ()
        return ("observed", "patterns") if self._base.of_matrices else ("observed",)

    @property
    def _shares_variances(self) -> bool:
        """Whether classes share the volume or the shape of their variances, which missing cells must be hidden for."""
        return not self._base.of_matrices and self.covariance != self._form.base

    @property
    def _form(self) -> Form:
        return FORMS[self.covariance]

    @property
    def _base(self) -> Base:
        """The form of the covariances that densities and sums are computed with."""
        return BASES[self._form.base]

    def _of_base(self, params: MultivariateNormalParams) -> Any:
        """The covariances of the base; of forms with axes ``Factored``."""
        return self._form.covariances(params.covariances, *params.means.shape)

    def covariances(self, params: MultivariateNormalParams) -> Array:
        """The covariance matrix of each class, (K, D, D), whatever the form.

        Arguments:
            params: the parameters, such as ``fit.params.components`` of a mixture.

        Returns:
            An array (K, D, D).
        """
        k, d = params.means.shape
        of_base = matrices_of(self._of_base(params))
        if not self._base.of_matrices:
            of_base = self._base.variances(of_base, d)[:, :, None] * jnp.eye(d, dtype=of_base.dtype)[None]
        return jnp.broadcast_to(of_base, (k, d, d))

    def holds(self, other: "MultivariateNormal") -> bool:
        """Whether this form has that of ``other`` as a special case: each letter of its name I, E or V as far along.

        Arguments:
            other: another family of the same kind.

        Returns:
            Whether each model of ``other`` is one of this family.
        """
        own, theirs = (NAME_OF.get(each.covariance, each.covariance) for each in (self, other))
        return all("IEV".index(a) >= "IEV".index(b) for a, b in zip(own, theirs, strict=True))

    def declare(self) -> MultivariateNormalParams:
        means = Param.of(Real(), "K D", location=True)
        return MultivariateNormalParams(means, self._form.declared)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: MultivariateNormalParams, x: Data | None) -> Prepared:
        base, covariances = self._form.base, self._of_base(params)
        if x is not None and observed_of(x) is not None:
            covariances = matrices_of(covariances)  # those of the seen cells are parts of them
            return Prepared(params, covariances, None, patterns=seen_cells.prepare(self._base, covariances, x))
        d = params.means.shape[1]
        lost = None if self.floor is None else lost_to_floor(self._base, covariances, d, self.floor)
        by = products.chosen(base, 0 if x is None else count(x), *params.means.shape)
        if by is None:
            return Prepared(params, covariances, None, lost)
        view = by.view(base, params.means, covariances)
        return Prepared(params, covariances, Choice(view.safe, view, None), lost)

    def log_density(self, c: Prepared, x: Data) -> Array:
        if observed_of(x) is not None:
            found = seen_cells.distance(self._base, c.at.means, c.covariances, c.patterns, x, self.floor)
            return found.log_normal()
        density = self._log_normal(c, x)
        return density if c.lost is None else density - c.lost[None, :]

    def _log_normal(self, c: Prepared, x: Array) -> Array:
        if c.view is not None:
            return products.log_density(self._form.base, c.view, x).T
        means, k = c.at.means, c.at.means.shape[0]
        textbook = lambda x: log_normal(self._base, c.covariances, deviations(x, means, k))
        return products.in_pieces(textbook, self._form.base, k, x).T

    def hidden(self, c: Prepared, x: Data) -> Any:
        """The missing cells given those seen; () where each seen cell counts by itself (diag, spherical)."""
        return self.infer(c, x)[1]

    def infer(self, c: Prepared, x: Data) -> tuple[Array, Any]:
        if observed_of(x) is not None and self._shares_variances:
            variances = self._base.variances(c.covariances, c.at.means.shape[1])
            return self.log_density(c, x), hidden_cells.infer(c.at.means, variances, x)
        if observed_of(x) is None:
            return self.log_density(c, x), ()
        found, cells = seen_cells.infer(self._base, c.at.means, c.covariances, c.patterns, x, self.floor)
        return found.log_normal(), cells

    def complete(self, c: Prepared, hidden: Any, x: Data) -> Array:
        if hidden == ():
            return self.log_density(c, x)
        if isinstance(hidden, HiddenCells):
            variances = self._base.variances(c.covariances, c.at.means.shape[1])
            return self.log_density(c, x) + hidden_cells.expected_log_density(c.at.means, variances, hidden)
        return seen_cells.expected_distance(c.at.means, c.covariances, hidden).log_normal()

    def hidden_entropy(self, c: Prepared, hidden: Any, x: Data) -> Array | float:
        return 0.0 if hidden == () else _posterior_of(hidden).entropy(hidden)

    def hidden_divergence(self, hidden: Any, other: Any) -> Array | float:
        return 0.0 if hidden == () else _posterior_of(hidden).divergence(hidden, other)

    def statistics(self, c: Prepared | None, r: Array, hidden: Any, x: Data) -> MultivariateNormalStatistics:
        k, means = r.shape[1], None if c is None else c.at.means
        if observed_of(x) is not None:
            return self._statistics_of_seen(means, r, hidden, x)

        def textbook(r: Array, x: Array) -> tuple[Array, Array]:
            y = deviations(x, means, k)
            return first_moments(r, y), self._base.second(r, y)

        if c is None or c.view is not None:
            moments = products.moments(self._form.base, None if c is None else c.view, r, x, textbook)
        else:
            moments = products.sum_of_pieces(textbook, self._form.base, r, x)
        return MultivariateNormalStatistics(r.sum(axis=0), *moments)

    def _statistics_of_seen(self, means: Array | None, r: Array, hidden: Any, x: Dataset) -> Any:
        if not self._shares_variances:
            return MultivariateNormalStatistics(*seen_cells.moments(self._base, means, r, r, hidden, x))
        if means is None:  # a start
            y = incomplete.filled(r, x)
            return MultivariateNormalStatistics(r.sum(axis=0), first_moments(r, y), self._base.second(r, y))
        return MultivariateNormalStatistics(r.sum(axis=0), *hidden_cells.moments(self._base, means, r, hidden, x))

    def maximize(self, c: Prepared | None, sums: MultivariateNormalStatistics) -> MultivariateNormalParams:
        n, first, second = sums
        d, form = first.shape[-1], self._base_of(n)
        if isinstance(self.prior, PriorObservations):
            n, first, second = self.prior.added(form, 0.0 if c is None else c.at.means, n, first, second)
        delta = first / per_cell(jnp.where(n == 0, 1, n))  # an empty class must not spoil a covariance that all share
        means = delta if c is None else c.at.means + delta
        scatter = raised(form, scatter_about_mean(form, second, delta, n), sums.sizes, d, self.floor)
        if isinstance(self.prior, PriorObservations):
            return MultivariateNormalParams(means, scatter / self.prior.divisor(form, sums.sizes, d))
        if self.prior is None:
            if n.ndim == 2:
                return MultivariateNormalParams(means, scatter / form.divisor(n, d))
            before = None if c is None else c.at.covariances
            return MultivariateNormalParams(means, self._form.maximize(n, scatter, d, before))
        return MultivariateNormalParams(*normal_prior.posterior_mode(self.prior, self.covariance, n, means, scatter))

    def expected(self, c: Prepared, params: MultivariateNormalParams, sums: MultivariateNormalStatistics) -> Array:
        n, first, second = sums
        d, form = params.means - c.at.means, self._base_of(n)
        scatter = raised(form, second - form.cross(first, d) + form.outer(d, n), n, d.shape[1], self.floor)
        return expected_log_normal(form, self._of_base(params), scatter, n, d.shape[1])

    def _base_of(self, n: Array) -> Base:
        """The form of the covariances, for class sizes (K,), or (K, D) where each column has its own."""
        return self._base if n.ndim == 1 else by_cell.FORMS[self._form.base]

    def log_prior(self, params: MultivariateNormalParams) -> Array | float:
        if self.prior is None:
            return 0.0
        if isinstance(self.prior, PriorObservations):
            return self.prior.log_density(self.covariance, *params)
        return normal_prior.log_prior(self.prior, self.covariance, *params)

    def contrasts(self, params: MultivariateNormalParams) -> Array:
        means, base, covariances = params.means, self._form.base, matrices_of(self._of_base(params))
        k, d = means.shape
        scale = jnp.sqrt(jnp.broadcast_to(self._base.variances(covariances, d), (k, d)).mean(axis=0))
        parts = [(means - means.mean(axis=0)[None, :]) / scale[None, :]]
        if base == "full":
            parts.append((covariances / (scale[:, None] * scale[None, :])[None]).reshape(k, -1))
        elif base != "tied":
            parts.append((covariances.reshape(k, -1) / (scale**2)[None, :])[:, : covariances[0].size])
        return jnp.concatenate(parts, axis=1)

    def impute(self, params: MultivariateNormalParams, r: Array, x: Dataset) -> Array:
        return seen_cells.impute(self._base, params.means, matrices_of(self._of_base(params)), r, x)

    def redraw(self, key: Array, params: MultivariateNormalParams, labels: Array, x: Dataset) -> Array:
        if not self._base.of_matrices:
            return self.sample(key, params, labels)
        c = self.prepare(params, x)
        return incomplete.draw(key, self.infer(c, x)[1], labels, x)

    def features(self, x: Data) -> Array:
        return missing_as_nan(x)

    def supports(self, x: Data) -> Array:
        return jnp.isfinite(values_of(x)).all(axis=1)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the rows ``x`` in this dtype; ``None`` where no reason is found."""
        found = unbounded.out_of_range(x, dtype)
        if found is not None or self.prior is not None or self.floor is not None:
            return found
        base = self._form.base
        name = f"MultivariateNormal({base!r}"
        prior = f"give a prior, e.g. {name}, NormalInverseWishart.from_data(x, k))"
        if base == "spherical":
            every = len(unbounded.constant_columns(x, dtype)) == x.shape[1]
            return unbounded.constant(x, dtype, prior) if every else None
        found = unbounded.constant(x, dtype, prior)
        if found is None and base != "diag":
            found = unbounded.dependent(x, dtype, f"use covariance='diag' or 'spherical', or {prior}")
        return found

    def degenerate(self, params: MultivariateNormalParams) -> Array:
        return is_degenerate(self._base, params.means, self._of_base(params))

    def sample(self, key: Array, params: MultivariateNormalParams, labels: Array) -> Array:
        k, d = params.means.shape
        factors = jnp.broadcast_to(self._base.factor(self._of_base(params), d), (k, d, d))
        noise = jax.random.normal(key, (labels.shape[0], d), params.means.dtype)
        return params.means[labels] + jnp.matmul(factors[labels], noise[:, :, None])[:, :, 0]


def _posterior_of(hidden: Any) -> Any:
    """The module that a posterior of missing cells belongs to."""
    return hidden_cells if isinstance(hidden, HiddenCells) else incomplete
