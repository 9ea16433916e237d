"""The multivariate t distribution."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import brief
from jaxem.core.contexts import Choice
from jaxem.core.data import Data, Dataset, count, observed_of, values_of
from jaxem.families import (
    by_cell,
    freedom,
    gamma_scale,
    incomplete,
    multivariate_normal,
    products,
    seen_cells,
    unbounded,
)
from jaxem.families.covariance import (
    FORMS,
    Distance,
    Form,
    deviations,
    expected_log_normal,
    scatter_about_mean,
)
from jaxem.families.freedom import Freedom
from jaxem.families.gamma_scale import Scales
from jaxem.families.incomplete import Completed
from jaxem.families.multivariate_normal import (
    MultivariateNormal,
    MultivariateNormalParams,
    MultivariateNormalStatistics,
)
from jaxem.families.protocol import missing_as_nan
from jaxem.families.sums import per_cell, weighted_sums


class MultivariateStudentTParams(NamedTuple):
    """The parameters of ``MultivariateStudentT``."""

    locations: Array  # (K, D)
    scatters: Array  # full (K, D, D), tied (D, D), diag (K, D), spherical (K,)
    tails: Array | None = None  # 1 / nu, (K,) where free, () where tied, None where given; 0 is the normal distribution


class MultivariateStudentTStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    weighted: MultivariateNormalStatistics  # the sums of a normal distribution with weights r_nk E u_nk
    excess: Array  # (K,), sum_n r_nk E (u_nk - 1 - log u_nk)
    seen: Array | None = None  # (K, D), the sizes over the seen cells, for variances with missing cells


class Hidden(NamedTuple):
    """The posterior of a row with missing cells, for matrices: q(u) q(missing | u)."""

    scales: Scales
    cells: Completed  # given u, its covariances are divided by u


class Prepared(NamedTuple):
    normal: multivariate_normal.Prepared  # its view has -1/2 the squared distance in the place of the log-density
    log_determinants: Array | None  # (K,) or (1,), of the scatters; None with missing cells
    tails: Array  # (K,)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class MultivariateStudentT:
    r"""The t distribution of D real numbers, with heavier tails than the normal distribution.

    .. math:: \log p(x \mid k) = \log\Gamma\tfrac{\nu_k + D}{2} - \log\Gamma\tfrac{\nu_k}{2}
              - \tfrac D2 \log(\pi \nu_k) - \tfrac12 \log |S_k|
              - \tfrac{\nu_k + D}{2} \log(1 + d^2 / \nu_k), \qquad
              d^2 = (x - m_k)' S_k^{-1} (x - m_k)

    It is a normal distribution with a hidden scale, x | u ~ N(m, S / u), u ~ Gamma(nu / 2, nu / 2), whose posterior is
    part of q. Observations far from the centre have small E u, and little influence.

    .. math:: \text{M: } m_k = \frac{\sum_n r_{nk} \bar u_{nk} x_n}{\sum_n r_{nk} \bar u_{nk}}, \quad
              S_k = \frac{\sum_n r_{nk} \bar u_{nk} (x_n - m_k)(x_n - m_k)'}{\sum_n r_{nk}}, \quad
              \log\tfrac{\nu_k}{2} - \psi(\tfrac{\nu_k}{2}) =
              \frac{\sum_n r_{nk}\, E(u_{nk} - 1 - \log u_{nk})}{\sum_n r_{nk}}

    This is the maximiser for full scatter matrices; the other forms follow from it as for ``MultivariateNormal``. The
    data are (N, D), of which cells may be missing; the parameters are a ``MultivariateStudentTParams``, with tails =
    1 / nu. Where the data have no
    heavier tails than a normal distribution, the maximum is at tails = 0, which EM approaches slowly: use
    ``SQUAREM()``, or ``MultivariateNormal()``. Tails that start at exactly 0 stay there.

    The seen cells o of a row have the t distribution of their d_o dimensions, and d_o and their distance take the place
    of D and d^2 in E u. Given u and the seen cells, the missing ones are normal with covariance C / u, where C is that
    of ``incomplete.py``, so that the M-step adds sum_n r_nk C_nk, without u, to the scatter.

    Arguments:
        covariance: the form of the scatter matrices: ``"full"`` (default), ``"tied"``, ``"diag"`` or ``"spherical"``.
            The coordinates are uncorrelated under ``"diag"`` and ``"spherical"``, but share u, so that they are not
            independent.
        freedom: the degrees of freedom nu: ``"free"`` (default), for each class; ``"tied"``, one for all classes; or a
            number above 0, which is not estimated (``math.inf``: the normal distribution).

    Raises:
        ValueError: ``covariance`` is none of the four names, or ``freedom`` is none of these.

    Source: Lange, Little & Taylor (1989); Liu & Rubin (1995); Peel & McLachlan (2000) for mixtures.
    """

    covariance: str = "full"
    freedom: Freedom = "free"

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "finite numbers"

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data beside values: missing cells, and for matrices which rows miss the same."""
        return self._normal.takes

    def __post_init__(self) -> None:
        if not isinstance(self.covariance, str) or self.covariance not in FORMS:
            raise ValueError(
                f"MultivariateStudentT: covariance must be one of {list(FORMS)}; got {brief(self.covariance)}"
            )
        freedom.check(self)

    @property
    def _normal(self) -> MultivariateNormal:
        return MultivariateNormal(self.covariance)

    @property
    def _form(self) -> Form:
        return FORMS[self.covariance]

    def declare(self) -> MultivariateStudentTParams:
        locations, scatters = self._normal.declare()
        return MultivariateStudentTParams(locations, scatters, freedom.declared(self.freedom))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: MultivariateStudentTParams, x: Data | None) -> Prepared:
        m, scatters, tails = params
        k, d = m.shape
        tails = freedom.of_classes(self.freedom, tails, m)
        if x is not None and observed_of(x) is not None:
            return Prepared(self._normal.prepare(MultivariateNormalParams(m, scatters), x), None, tails)
        _, log_determinants = self._form.distance(scatters, jnp.zeros((k, d, 1), m.dtype))
        at, view = MultivariateNormalParams(m, scatters), None
        by = products.chosen(self.covariance, 0 if x is None else count(x), k, d)
        if by is not None:
            of_normal = by.view(self.covariance, m, scatters)
            constant = of_normal.constant + 0.5 * (log_determinants + d * math.log(2 * math.pi))
            view = Choice(of_normal.safe, of_normal._replace(constant=constant), None)
        return Prepared(multivariate_normal.Prepared(at, scatters, view), log_determinants, tails)

    def _distance(self, c: Prepared, x: Data) -> Distance:
        """(x_n - m_k)' S_k^-1 (x_n - m_k) and log|2 pi S_k|, of the seen cells."""
        m, scatters, view = c.normal.at.means, c.normal.covariances, c.normal.view
        if observed_of(x) is not None:
            return seen_cells.distance(self._form, m, scatters, c.normal.patterns, x)
        assert c.log_determinants is not None
        k, d = m.shape
        constants = (d * math.log(2 * math.pi) + c.log_determinants)[None, :]
        if view is not None:
            return Distance(jnp.maximum(-2 * products.log_density(self.covariance, view, x).T, 0), constants)
        textbook = lambda x: self._form.distance(scatters, deviations(x, m, k))[0]
        return Distance(products.in_pieces(textbook, self.covariance, k, x).T, constants)

    def log_density(self, c: Prepared, x: Data) -> Array:
        return self._log_density(c, self._distance(c, x), x)

    def _log_density(self, c: Prepared, of: Distance, x: Data) -> Array:
        return gamma_scale.log_kernel(c.tails, _dimensions(x), of.squares) - 0.5 * of.constants

    def hidden(self, c: Prepared, x: Data) -> Scales | Hidden:
        """The scales; with missing cells and matrices also those cells."""
        return self.infer(c, x)[1]

    def infer(self, c: Prepared, x: Data) -> tuple[Array, Scales | Hidden]:
        if observed_of(x) is None:
            of, cells = self._distance(c, x), ()
        else:
            of, cells = seen_cells.infer(self._form, c.normal.at.means, c.normal.covariances, c.normal.patterns, x)
        u = gamma_scale.posterior(c.tails, _dimensions(x), of.squares)
        return self._log_density(c, of, x), Hidden(u, cells) if isinstance(cells, Completed) else u

    def complete(self, c: Prepared, hidden: Scales | Hidden, x: Data) -> Array:
        u, cells = _parts(hidden)
        if cells is None:
            of, d = self._distance(c, x), _dimensions(x)
        else:
            of, d = seen_cells.expected_distance(c.normal.at.means, c.normal.covariances, cells), values_of(x).shape[1]
        return gamma_scale.complete(c.tails, d, of.squares, u) - 0.5 * of.constants

    def hidden_entropy(self, c: Prepared, hidden: Scales | Hidden, x: Data) -> Array:
        u, cells = _parts(hidden)
        of_scales = gamma_scale.entropy(u)
        return of_scales if cells is None else of_scales + incomplete.entropy(cells, gamma_scale.expected_log(u))

    def hidden_divergence(self, hidden: Scales | Hidden, other: Scales | Hidden) -> Array:
        (u, cells), (v, others) = _parts(hidden), _parts(other)
        of_scales = gamma_scale.divergence(u, v)
        if cells is None or others is None:
            return of_scales
        return of_scales + incomplete.divergence(cells, others, u.means)

    def statistics(
        self, c: Prepared | None, r: Array, hidden: Scales | Hidden, x: Data
    ) -> MultivariateStudentTStatistics:
        n, seen = r.sum(axis=0), observed_of(x)
        ru, cells, excess = r, None, freedom.first(r)
        if c is not None:
            u, cells = _parts(hidden)
            ru, excess = r * u.means, (r * gamma_scale.excess(u)).sum(axis=0)
        if seen is None:
            weighted = self._normal.statistics(c and c.normal, ru, (), x)
            return MultivariateStudentTStatistics(n, weighted, excess)
        moments = seen_cells.moments(self._form, c and c.normal.at.means, ru, r, cells, x)
        sizes = None if self._form.of_matrices else weighted_sums(r, seen)
        return MultivariateStudentTStatistics(n, MultivariateNormalStatistics(*moments), excess, sizes)

    def maximize(self, c: Prepared | None, sums: MultivariateStudentTStatistics) -> MultivariateStudentTParams:
        n, (w, first, second), excess, seen = sums
        form = self._form_of(w)
        delta = first / per_cell(jnp.where(w == 0, 1, w))  # an empty class must not spoil a matrix that all share
        scatter = scatter_about_mean(form, second, delta, w)
        locations = delta if c is None else c.normal.at.means + delta
        scatters = scatter / form.divisor(n if seen is None else seen, delta.shape[1])
        return MultivariateStudentTParams(locations, scatters, freedom.maximize(self.freedom, n, excess))

    def expected(self, c: Prepared, params: MultivariateStudentTParams, sums: MultivariateStudentTStatistics) -> Array:
        n, (w, first, second), excess, seen = sums
        d, form = params.locations - c.normal.at.means, self._form_of(w)
        scatter = second - form.cross(first, d) + form.outer(d, w)
        tails = freedom.of_classes(self.freedom, params.tails, d)
        normal = expected_log_normal(form, params.scatters, scatter, n if seen is None else seen, d.shape[1])
        return normal + gamma_scale.expected_prior(tails, n, excess).sum()

    def _form_of(self, sizes: Array) -> Form:
        """The form of the scatters, for class sizes (K,), or (K, D) where each column has its own."""
        return self._form if sizes.ndim == 1 else by_cell.FORMS[self.covariance]

    def mean(self, params: MultivariateStudentTParams) -> Array:
        return params.locations

    def covariances(self, params: MultivariateStudentTParams) -> Array:
        """The covariances of the classes, S nu / (nu - 2).

        Arguments:
            params: the parameters, such as ``fit.params.components`` of a mixture.

        Returns:
            An array shaped like the scatters, (K, D, D) where these are tied and the degrees of freedom are not;
            infinite where nu is at most 2.
        """
        scatters = params.scatters
        tails = freedom.of_classes(self.freedom, params.tails, params.locations)
        if self.covariance == "tied" and self.freedom != "free":
            tails = tails[0]
        elif self.covariance != "spherical":
            tails = tails.reshape(-1, *(1,) * (2 if self._form.of_matrices else 1))
        return scatters / jnp.maximum(1 - 2 * tails, 0)

    def contrasts(self, params: MultivariateStudentTParams) -> Array:
        m, scatters, tails = params
        of_normal = self._normal.contrasts(MultivariateNormalParams(m, scatters))
        return jnp.concatenate([of_normal, freedom.of_classes(self.freedom, tails, m)[:, None]], axis=1)

    def impute(self, params: MultivariateStudentTParams, r: Array, x: Dataset) -> Array:
        return seen_cells.impute(self._form, params.locations, params.scatters, r, x)

    def redraw(self, key: Array, params: MultivariateStudentTParams, labels: Array, x: Dataset) -> Array:
        """Draws of the missing cells: first of u given the seen cells, then of the cells given both."""
        of_scales, of_cells = jax.random.split(key)
        u, cells = _parts(self.hidden(self.prepare(params, x), x))
        own = jax.tree.map(lambda leaf: leaf[jnp.arange(labels.shape[0]), labels], u)
        scales = gamma_scale.draw_posterior(of_scales, own)
        if cells is None:
            return self._sample(of_cells, params, labels, scales)
        return incomplete.draw(of_cells, cells, labels, x, scales)

    def features(self, x: Data) -> Array:
        return missing_as_nan(x)

    def supports(self, x: Data) -> Array:
        return jnp.isfinite(values_of(x)).all(axis=1)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the rows ``x`` in this dtype; ``None`` where no reason is found."""
        found = unbounded.out_of_range(x, dtype)
        if found is not None:
            return found
        if self.covariance == "spherical":
            every = len(unbounded.constant_columns(x, dtype)) == x.shape[1]
            return unbounded.constant(x, dtype) if every else None
        found = unbounded.constant(x, dtype)
        if found is None and self._form.of_matrices:
            found = unbounded.dependent(x, dtype, "use covariance='diag' or 'spherical'")
        return found

    def degenerate(self, params: MultivariateStudentTParams) -> Array:
        return self._normal.degenerate(MultivariateNormalParams(params.locations, params.scatters))

    def sample(self, key: Array, params: MultivariateStudentTParams, labels: Array) -> Array:
        of_noise, of_scales = jax.random.split(key)
        tails = freedom.of_classes(self.freedom, params.tails, params.locations)
        return self._sample(of_noise, params, labels, gamma_scale.draw(of_scales, tails[labels]))

    def _sample(self, key: Array, params: MultivariateStudentTParams, labels: Array, u: Array) -> Array:
        """Rows (n, D) given their scales, (n,)."""
        m, scatters, _ = params
        noise = self._normal.sample(key, MultivariateNormalParams(jnp.zeros_like(m), scatters), labels)
        return m[labels] + noise / jnp.sqrt(u)[:, None]


def _dimensions(x: Data) -> int | Array:
    """The number of seen cells: D, or that of each row, (N, 1)."""
    seen, values = observed_of(x), values_of(x)
    return values.shape[1] if seen is None else seen.sum(axis=1).astype(values.dtype)[:, None]


def _parts(hidden: Scales | Hidden) -> tuple[Scales, Completed | None]:
    """The posteriors of the scales and of the missing cells; ``None`` where these are no hidden variables."""
    return (hidden, None) if isinstance(hidden, Scales) else hidden
