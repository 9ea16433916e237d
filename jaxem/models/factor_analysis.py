"""Factor analysis: a model with continuous latent variables (Rubin & Thayer 1982)."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices
from jaxem.core.checks import whole_number
from jaxem.core.constraints import Positive, Real
from jaxem.core.data import Data, observed_of, values_of
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows
from jaxem.families import incomplete
from jaxem.latent import gaussian
from jaxem.latent.gaussian import Factors, Seen
from jaxem.models.factor_analysis_data import Observations
from jaxem.models.factor_analysis_params import FactorAnalysisParams
from jaxem.models.factor_analysis_prediction import Prediction
from jaxem.models.factor_analysis_rotation import Rotation
from jaxem.models.factor_analysis_starts import Starts
from jaxem.models.observations import real


class FactorSums(NamedTuple):
    """Sums over n, with e = x - mean - loadings z at the parameters of the context, and w = (z, 1)."""

    ee: Array  # (D,), sum E[e^2]
    ew: Array  # (D, k + 1), sum E[e w']
    ww: Array  # (k + 1, k + 1), sum E[w w']; with missing cells (D, k + 1, k + 1), over the rows in which d is seen


class Prepared(NamedTuple):
    at: FactorAnalysisParams
    seen: Seen
    patterns: Any  # what depends only on which cells a row misses (see ``families/incomplete.py``)


@register
@dataclasses.dataclass(frozen=True)
class FactorAnalysis(FromRows, Starts, Rotation, Prediction, Observations):
    r"""Factor analysis: x = mean + loadings z + e, with ``k`` factors z ~ N(0, I) and noise e ~ N(0, diag(noise)).

    .. math:: \text{E: } V = (I + \Lambda' \Psi^{-1} \Lambda)^{-1},\; m_n = V \Lambda' \Psi^{-1} (x_n - \mu)
              \qquad
              \text{M: } (\Lambda, \mu) = S_{xw} S_{ww}^{-1},\;
              \Psi = \operatorname{diag}(S_{xx} - (\Lambda, \mu) S_{wx}) / N,\; w = (z, 1)

    The data are an array (N, D), with or without weights. The posterior q is a ``Factors``; the parameters are a
    ``FactorAnalysisParams``. The likelihood is that of N(mean, loadings loadings' + diag(noise)), so the loadings are
    determined up to a rotation. The M-step sums residuals instead of x, so that nothing cancels where the data are far
    from zero or the noise is small.

    Arguments:
        k: the number of factors, at least 1. Data need more than k columns.

    Raises:
        ValueError: ``k`` is not a whole number of at least 1.

    Source: Rubin & Thayer (1982).
    """

    k: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole_number("FactorAnalysis: k", self.k, 1))

    accurate: ClassVar[bool] = True

    def declare(self) -> FactorAnalysisParams:
        mean, loadings, noise = Param.of(Real(), "D", location=True), Param.of(Real(), "D k"), Param.of(Positive(), "D")
        return FactorAnalysisParams(mean, loadings, noise)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: FactorAnalysisParams, x: Data | None) -> Prepared:
        patterns = None
        if x is not None and observed_of(x) is not None:
            patterns = incomplete.prepare(_covariance(params)[None], x)
        return Prepared(params, Seen.through(params.loadings, params.noise), patterns)

    def _centred(self, c: Prepared, x: Data) -> tuple[Array, Array | None]:
        """x - mean, zero where missing, and the mask of the cells that are seen."""
        y, seen = real(values_of(x), c.at.mean.dtype) - c.at.mean[None, :], observed_of(x)
        return (y, None) if seen is None else (jnp.where(seen, y, 0), seen)

    def infer(self, c: Prepared, x: Data) -> Factors:
        """The posterior of the factors."""
        y, seen = self._centred(c, x)
        return gaussian.infer(c.seen, y, seen)

    def tempered(self, c: Prepared, x: Data, inverse_temperature: Array | float) -> Factors:
        """The posterior with the same means and its covariance divided by ``inverse_temperature``."""
        y, seen = self._centred(c, x)
        return gaussian.tempered(c.seen, y, inverse_temperature, seen)

    def draw(self, c: Prepared, x: Data, key: Array) -> Factors:
        """All probability on one draw of the factors of each observation."""
        y, seen = self._centred(c, x)
        return gaussian.draw(c.seen, y, key, seen)

    def log_marginal(self, c: Prepared, x: Data) -> Array:
        """log N(x_n; mean, loadings loadings' + diag(noise)), (N,).

        By the Cholesky factor of that (D, D) matrix, or of its rows and columns that are seen; NaN where x_n is NaN.
        """
        covariance = _covariance(c.at)
        if observed_of(x) is not None:
            x = real(x, c.at.mean.dtype)
            return incomplete.distance(c.at.mean[None], covariance[None], c.patterns, x).log_normal()[:, 0]
        y, _ = self._centred(c, x)
        lower = matrices.cholesky(covariance)
        z = matrices.solve_lower(lower, y.T)
        log_determinant = matrices.log_determinant(lower)
        return -0.5 * (y.shape[1] * math.log(2 * math.pi) + log_determinant + (z**2).sum(axis=0))

    def complete(self, c: Prepared, q: Factors, x: Data) -> Array:
        """E_q [log N(z; 0, I) + log N(x; mean + loadings z, diag(noise))], (N,)."""
        _, loadings, noise = c.at
        y, seen = self._centred(c, x)
        turned = jnp.matmul(loadings, q.covariance)  # (D, k), or (N, D, k)
        spread = (turned * jnp.broadcast_to(loadings, turned.shape)).sum(axis=-1)  # the variances of loadings z under q
        squares = (y - q.means @ loadings.T) ** 2 + jnp.broadcast_to(spread, y.shape)
        each = math.log(2 * math.pi) + jnp.log(noise)[None, :] + squares / noise[None, :]
        given = -0.5 * (each if seen is None else jnp.where(seen, each, 0)).sum(axis=1)
        return given + gaussian.expected_log_prior(q)

    def entropy_rows(self, c: Prepared, q: Factors, x: Data) -> Array:
        """log|2 pi e V| / 2, (N,)."""
        return gaussian.entropy(q)

    def divergence_rows(self, q: Factors, p: Factors) -> Array:
        """KL(q || p) between normal distributions, (N,)."""
        return gaussian.divergence(q, p)

    def sums(self, c: Prepared | None, w: Array | None, q: Factors, x: Data) -> FactorSums:
        """Expected sums of squares and products of the residual and (z, 1)."""
        values, seen = real(values_of(x), q.means.dtype), observed_of(x)
        n = jnp.ones((values.shape[0],), values.dtype) if w is None else w.astype(values.dtype)
        one_more = jnp.concatenate([q.means, jnp.ones((values.shape[0], 1), values.dtype)], axis=1)  # (z, 1)
        coefficients = _coefficients(c and c.at, values.shape[1], self.k, values.dtype)
        e = values - coefficients[None, :, -1] - q.means @ coefficients[:, :-1].T
        counts = n[:, None] != 0  # a row of weight zero adds nothing, even where it is NaN
        e, one_more = jnp.where(counts, e, 0), jnp.where(counts, one_more, 0)
        times_n = one_more * n[:, None]
        uncertainty = jnp.zeros((*q.covariance.shape[:-2], self.k + 1, self.k + 1), values.dtype)
        uncertainty = uncertainty.at[..., :-1, :-1].set(q.covariance)
        # e = E e - loadings (z - E z): the deviation of z from its mean enters e with the opposite sign
        if seen is None:
            shared = n.sum() * (coefficients @ uncertainty)
            ww = one_more.T @ times_n + n.sum() * uncertainty
        else:
            e = jnp.where(seen, e, 0)
            m = self.k + 1
            counted = seen.astype(values.dtype).T  # (D, N)
            uncertain = matrices.product(counted, jnp.where(counts, n[:, None] * uncertainty.reshape(-1, m * m), 0))
            squares = (one_more[:, :, None] * times_n[:, None, :]).reshape(-1, m * m)
            shared = jnp.matmul(coefficients[:, None, :], uncertain.reshape(-1, m, m))[:, 0]
            ww = (matrices.product(counted, squares) + uncertain).reshape(-1, m, m)
        return FactorSums(n @ e**2 + (shared * coefficients).sum(axis=1), e.T @ times_n - shared, ww)

    def expected(self, c: Prepared | None, params: FactorAnalysisParams, sums: FactorSums) -> Array:
        """Q from the sums, up to a constant.

        It is -sum_d (N log psi_d + E sum_n (x_nd - mu_d - lambda_d' z_n)^2 / psi_d) / 2.
        """
        ee, ew, ww = sums
        d, dtype = params.mean.size, ew.dtype
        change = _coefficients(params, d, self.k, dtype) - _coefficients(c and c.at, d, self.k, dtype)
        moved = change @ ww if ww.ndim == 2 else jnp.matmul(ww, change[:, :, None])[:, :, 0]
        squares = ee - 2 * (change * ew).sum(axis=1) + (moved * change).sum(axis=1)
        return -0.5 * (ww[..., -1, -1] * jnp.log(params.noise) + squares / params.noise).sum()

    def maximum(self, c: Prepared | None, sums: FactorSums) -> FactorAnalysisParams:
        """The regression of x on (z, 1); the noise is its residual variance."""
        ee, ew, ww = sums
        lower = matrices.cholesky(ww)
        change = matrices.solve(lower, ew.T).T if ww.ndim == 2 else matrices.solve(lower, ew[:, :, None])[:, :, 0]
        noise = (ee - (change * ew).sum(axis=1)) / ww[..., -1, -1]
        coefficients = _coefficients(c and c.at, change.shape[0], self.k, change.dtype) + change
        return FactorAnalysisParams(coefficients[:, -1], coefficients[:, :-1], noise)

    def degenerate(self, params: FactorAnalysisParams) -> Array:
        """Whether a noise variance is zero to rounding error (a Heywood case).

        The noise is the variance minus the part that the factors explain; below 16 eps of that part it is rounding
        error.
        """
        explained = (params.loadings**2).sum(axis=1)
        return (params.noise <= 16 * jnp.finfo(params.noise.dtype).eps * explained).any()


def _covariance(params: FactorAnalysisParams) -> Array:
    """Lambda Lambda' + Psi, (D, D)."""
    return params.loadings @ params.loadings.T + jnp.diag(params.noise)


def _coefficients(params: FactorAnalysisParams | None, d: int, k: int, dtype: Any) -> Array:
    """(loadings, mean), (D, k + 1); zeros without parameters."""
    if params is None:
        return jnp.zeros((d, k + 1), dtype)
    return jnp.concatenate([params.loadings, params.mean[:, None]], axis=1)
