"""The multivariate t distribution."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import brief
from jaxem.core.contexts import Choice
from jaxem.core.data import Data, count
from jaxem.families import freedom, gamma_scale, multivariate_normal, products, unbounded
from jaxem.families.covariance import (
    FORMS,
    Form,
    deviations,
    expected_log_normal,
    scatter_about_mean,
)
from jaxem.families.freedom import Freedom
from jaxem.families.gamma_scale import Scales
from jaxem.families.multivariate_normal import (
    MultivariateNormal,
    MultivariateNormalParams,
    MultivariateNormalStatistics,
)


class MultivariateStudentTParams(NamedTuple):
    """The parameters of ``MultivariateStudentT``."""

    locations: Array  # (K, D)
    scatters: Array  # full (K, D, D), tied (D, D), diag (K, D), spherical (K,)
    tails: Array | None = None  # 1 / nu, (K,) where free, () where tied, None where given; 0 is the normal distribution


class MultivariateStudentTStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    weighted: MultivariateNormalStatistics  # the sums of a normal distribution with weights r_nk E u_nk
    excess: Array  # (K,), sum_n r_nk E (u_nk - 1 - log u_nk)


class Prepared(NamedTuple):
    normal: multivariate_normal.Prepared  # its view has -1/2 the squared distance in the place of the log-density
    log_determinants: Array  # (K,) or (1,), of the scatters
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
    data are (N, D); the parameters are a ``MultivariateStudentTParams``, with tails = 1 / nu. Where the data have no
    heavier tails than a normal distribution, the maximum is at tails = 0, which EM approaches slowly: use
    ``SQUAREM()``, or ``MultivariateNormal()``. Tails that start at exactly 0 stay there. Missing cells are refused.

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
        _, log_determinants = self._form.distance(scatters, jnp.zeros((k, d, 1), m.dtype))
        at, view = MultivariateNormalParams(m, scatters), None
        by = products.chosen(self.covariance, 0 if x is None else count(x), k, d)
        if by is not None:
            of_normal = by.view(self.covariance, m, scatters)
            constant = of_normal.constant + 0.5 * (log_determinants + d * math.log(2 * math.pi))
            view = Choice(of_normal.safe, of_normal._replace(constant=constant), None)
        tails = freedom.of_classes(self.freedom, tails, m)
        return Prepared(multivariate_normal.Prepared(at, scatters, view), log_determinants, tails)

    def _distance(self, c: Prepared, x: Array) -> Array:
        """(x_n - m_k)' S_k^-1 (x_n - m_k), (N, K)."""
        m, scatters, view = c.normal.at.means, c.normal.covariances, c.normal.view
        if view is not None:
            return jnp.maximum(-2 * products.log_density(self.covariance, view, x).T, 0)
        k = m.shape[0]
        textbook = lambda x: self._form.distance(scatters, deviations(x, m, k))[0]
        return products.in_pieces(textbook, self.covariance, k, x).T

    def _constant(self, c: Prepared) -> Array:
        """(D log 2 pi + log|S_k|) / 2, (1, K) or (1, 1)."""
        return 0.5 * (c.normal.at.means.shape[1] * math.log(2 * math.pi) + c.log_determinants)[None, :]

    def log_density(self, c: Prepared, x: Array) -> Array:
        return gamma_scale.log_kernel(c.tails, x.shape[1], self._distance(c, x)) - self._constant(c)

    def hidden(self, c: Prepared, x: Array) -> Scales:
        return gamma_scale.posterior(c.tails, x.shape[1], self._distance(c, x))

    def complete(self, c: Prepared, u: Scales, x: Array) -> Array:
        return gamma_scale.complete(c.tails, x.shape[1], self._distance(c, x), u) - self._constant(c)

    def hidden_entropy(self, c: Prepared, u: Scales, x: Array) -> Array:
        return gamma_scale.entropy(u)

    def hidden_divergence(self, u: Scales, other: Scales) -> Array:
        return gamma_scale.divergence(u, other)

    def statistics(self, c: Prepared | None, r: Array, u: Any, x: Array) -> MultivariateStudentTStatistics:
        ru = r if c is None else r * u.means
        excess = freedom.first(r) if c is None else (r * gamma_scale.excess(u)).sum(axis=0)
        weighted = self._normal.statistics(c and c.normal, ru, (), x)
        return MultivariateStudentTStatistics(r.sum(axis=0), weighted, excess)

    def maximize(self, c: Prepared | None, sums: MultivariateStudentTStatistics) -> MultivariateStudentTParams:
        n, (w, first, second), excess = sums
        delta = first / jnp.where(w == 0, 1, w)[:, None]  # an empty class must not spoil a matrix that all share
        scatter = scatter_about_mean(self._form, second, delta, w)
        locations = delta if c is None else c.normal.at.means + delta
        scatters = scatter / self._form.divisor(n, delta.shape[1])
        return MultivariateStudentTParams(locations, scatters, freedom.maximize(self.freedom, n, excess))

    def expected(self, c: Prepared, params: MultivariateStudentTParams, sums: MultivariateStudentTStatistics) -> Array:
        n, (w, first, second), excess = sums
        d = params.locations - c.normal.at.means
        scatter = second - self._form.cross(first, d) + self._form.outer(d, w)
        tails = freedom.of_classes(self.freedom, params.tails, d)
        normal = expected_log_normal(self._form, params.scatters, scatter, n, d.shape[1])
        return normal + gamma_scale.expected_prior(tails, n, excess).sum()

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

    def features(self, x: Array) -> Array:
        return x

    def supports(self, x: Array) -> Array:
        return jnp.isfinite(x).all(axis=1)

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
        m, scatters, tails = params
        of_noise, of_scales = jax.random.split(key)
        centred = MultivariateNormalParams(jnp.zeros_like(m), scatters)
        noise = self._normal.sample(of_noise, centred, labels)
        scales = gamma_scale.draw(of_scales, freedom.of_classes(self.freedom, tails, m)[labels])
        return m[labels] + noise / jnp.sqrt(scales)[:, None]
