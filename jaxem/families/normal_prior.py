"""The conjugate prior of normal classes, whose MAP estimate exists where the likelihood has no maximum.

Fraley & Raftery (2007), *Bayesian regularization for normal mixture estimation and model-based clustering*.
"""

import math
from typing import NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxem.core import matrices
from jaxem.core.arrays import as_array
from jaxem.core.checks import whole_number
from jaxem.core.compilation import program
from jaxem.core.trees import float_dtype
from jaxem.families import scales, stirling, unbounded
from jaxem.families.sums import per_cell


class NormalInverseWishart(NamedTuple):
    r"""The normal-inverse-Wishart prior of the mean m_k and covariance S_k of each class.

    .. math:: S_k \sim W^{-1}(\nu, \Lambda), \qquad m_k \mid S_k \sim N(\mu, S_k / \kappa)

    For diagonal and spherical covariances each variance has an inverse gamma(dof / 2, s / 2) distribution, where s is
    the mean of the diagonal of ``scale``. All fields may be traced, so that other values compile nothing anew.

    Arguments:
        mean: mu (D,), the mean of the class means.
        shrinkage: kappa, a positive number: how many observations the prior mean is worth.
        dof: nu, the degrees of freedom.
        scale: Lambda (D, D), a positive-definite matrix in squared units of the data.

    Source: Fraley & Raftery (2007).
    """

    mean: Array  # (D,)
    shrinkage: Array  # (), kappa: how many observations the prior mean is worth
    dof: Array  # (), nu
    scale: Array  # (D, D), Lambda, in squared units of the data

    @classmethod
    def from_data(cls, x: ArrayLike, k: int) -> Self:
        r"""A vague prior centred on the data and scaled to K classes, with the defaults of Fraley & Raftery.

        .. math:: \mu = \bar x, \quad \kappa = 0.01, \quad \nu = D + 2, \quad
                  \Lambda = K^{-2 / D} \operatorname{cov}(x)

        The prior is proper for any data. Where the covariance is singular to rounding error (linearly dependent
        columns, or fewer rows than columns), its correlations are multiplied by 0.9. A constant column gets the
        smallest variance of the other columns, or the square of its own size where all columns are constant.

        Arguments:
            x: data (N, D), N >= 2.
            k: the number of classes K, at least 1.

        Returns:
            A ``NormalInverseWishart`` of the floating dtype of ``x``.

        Raises:
            ValueError: ``x`` is not such a table, is not finite, or spans values whose squares overflow or vanish; or
                ``k`` is not a whole number of at least 1.

        Source: Fraley & Raftery (2007), section 3.
        """
        x = as_array(x, "NormalInverseWishart.from_data: x")
        x = x.astype(float_dtype(x))
        k = whole_number("NormalInverseWishart.from_data: k", k, 1)
        if x.ndim != 2 or x.shape[0] < 2:
            raise ValueError(f"NormalInverseWishart.from_data needs data (N, D) with N >= 2; got {x.shape}")
        if not isinstance(x, Tracer):
            wrong = unbounded.out_of_range(np.asarray(x, np.float64), np.dtype(x.dtype))
            if wrong is not None:
                raise ValueError(f"NormalInverseWishart.from_data: {wrong}")
        mean, scale = _mean_and_scale(x, k)
        return cls(mean, jnp.asarray(0.01, x.dtype), jnp.asarray(x.shape[1] + 2.0, x.dtype), scale)


@program(quick="few numbers", static_argnames=("k",))
def _mean_and_scale(x: Array, k: int) -> tuple[Array, Array]:
    n, d = x.shape
    mean = x.mean(axis=0)
    y = x - mean[None, :]
    y = y - y.mean(axis=0)[None, :]  # corrects for the rounding of the mean
    return mean, _regular(y.T @ y / (n - 1), x) / k ** (2 / d)


def _regular(covariance: Array, x: Array) -> Array:
    """The covariance of ``x (N, D)``, made positive definite where it is not."""
    d, eps = x.shape[1], float(jnp.finfo(x.dtype).eps)
    variances, size = jnp.diagonal(covariance), jnp.abs(x).max(axis=0)
    constant = x.max(axis=0) - x.min(axis=0) <= 8 * eps * size
    least = jnp.where(constant, jnp.inf, variances).min()
    own = jnp.where(size > 0, size, 1) ** 2
    # The variance must exceed what rounding of the column's own mean could produce.
    stand_in = jnp.where(jnp.isfinite(least), jnp.maximum(least, own * (64 * eps) ** 2), own)
    variances = jnp.where(constant, stand_in, variances)
    deviations = jnp.sqrt(variances)
    both = constant[:, None] | constant[None, :]
    correlations = jnp.where(both, 0, covariance / (deviations[:, None] * deviations[None, :]))
    correlations = jnp.where(jnp.eye(d, dtype=bool), 1, correlations)
    pivots = jnp.diagonal(matrices.cholesky(correlations))
    regular = (pivots**2 > 64 * d * eps).all()  # false for NaN, which a matrix without a factor gives
    off_diagonal = jnp.where(regular, 1, 0.9) * (1 - jnp.eye(d, dtype=x.dtype)) + jnp.eye(d, dtype=x.dtype)
    blended = correlations * off_diagonal * (deviations[:, None] * deviations[None, :])
    return jnp.where(regular & ~constant.any(), covariance, blended)


def log_prior(prior: NormalInverseWishart, form: str, means: Array, covariances: Array) -> Array:
    """The normalised log-density of the means and covariances of all classes, ()."""
    y = means - prior.mean[None, :]
    k, d = means.shape
    if form in ("full", "tied"):
        covariances = covariances if form == "full" else covariances[None]
        value = _log_inverse_wishart(prior, covariances).sum()
        lower = matrices.cholesky(covariances)
        z = matrices.solve_lower(jnp.broadcast_to(lower, (k, d, d)), y[:, :, None])[:, :, 0]
        log_determinants = matrices.log_determinant(lower)
    else:
        value = _log_inverse_gamma(prior, covariances).sum()
        variances = covariances if form == "diag" else covariances[:, None]
        z = y / jnp.sqrt(variances)
        log_determinants = jnp.log(jnp.broadcast_to(variances, (k, d))).sum(axis=-1)
    kappa = prior.shrinkage
    normal = -0.5 * (d * (math.log(2 * math.pi) - jnp.log(kappa)) + log_determinants + kappa * (z**2).sum(axis=-1))
    return value + normal.sum()


def posterior_mode(
    prior: NormalInverseWishart, form: str, n: Array, mean: Array, scatter: Array
) -> tuple[Array, Array]:
    """The means and covariances that maximise Q plus the log-prior (Fraley & Raftery 2007, table 1).

    ``n (K,)`` are class sizes, or ``n (K, D)`` for variances where each column has its own. ``mean (K, D)`` are class
    means, and ``scatter`` the sums of squares about those means, shaped like the covariances. An empty class gets the
    mode of the prior.
    """
    kappa, nu = prior.shrinkage, prior.dof
    d = mean.shape[-1]
    cells = per_cell(n)
    y = jnp.where(cells == 0, 0, mean - prior.mean[None, :])
    shrunk = prior.mean[None, :] + cells / (cells + kappa) * y
    w = kappa * n / (kappa + n)  # the weight of the squared distance between class mean and prior mean
    if form == "full":
        spread = prior.scale[None] + scatter + w[:, None, None] * y[:, :, None] * y[:, None, :]
        return shrunk, spread / (nu + n + d + 2)[:, None, None]
    if form == "tied":
        spread = prior.scale + scatter + (w[:, None] * y).T @ y
        return shrunk, spread / (nu + n.sum() + d + n.shape[0] + 1)
    if form == "diag":
        return shrunk, (_mean_scale(prior) + scatter + per_cell(w) * y**2) / (nu + cells + 3)
    spread = _mean_scale(prior) + scatter + (per_cell(w) * y**2).sum(axis=-1)
    return shrunk, spread / (nu + (n * d if n.ndim == 1 else n.sum(axis=-1)) + d + 2)


def _mean_scale(prior: NormalInverseWishart) -> Array:
    return jnp.trace(prior.scale) / prior.scale.shape[-1]


def _log_inverse_wishart(prior: NormalInverseWishart, covariances: Array) -> Array:
    r"""The log-density of W^-1(nu, Lambda) at each S, (K,), written without large terms that cancel.

    With a = nu / 2, the lower triangular matrix H = L_S^-1 L_Lambda, and the deviance D (see ``stirling.py``), it is

    .. math:: -\sum_i D(a, H_{ii}^2 / 2) - \tfrac12 \sum_{i > j} H_{ij}^2
              + \sum_{j < d} \log \frac{(a / e)^a}{\Gamma(a - j / 2)} - \tfrac{d (d - 1)}{4} \log \pi
              - \tfrac{d + 1}{2} \log |S|
    """
    d, a = covariances.shape[-1], prior.dof / 2
    lower = matrices.cholesky(covariances)
    half = matrices.solve_lower(lower, jnp.broadcast_to(matrices.cholesky(prior.scale), lower.shape))
    below = jnp.arange(d, dtype=a.dtype) / 2
    constant = stirling.gamma_at_saddle(a[None], below).sum() - d * (d - 1) / 4 * math.log(math.pi)
    diagonal = jnp.diagonal(half, axis1=-2, axis2=-1)
    deviances = stirling.deviance(jnp.broadcast_to(a, diagonal.shape), diagonal**2 / 2).sum(axis=-1)
    others = (jnp.tril(half, -1) ** 2).sum(axis=(-2, -1))
    return constant - deviances - 0.5 * others - (d + 1) / 2 * matrices.log_determinant(lower)


def _log_inverse_gamma(prior: NormalInverseWishart, variances: Array) -> Array:
    """a log b - log Gamma(a) - (a + 1) log v - b / v = -D(a, b / v) + log((a / e)^a / Gamma(a)) - log v."""
    shape, rate = prior.dof / 2, _mean_scale(prior) / 2
    constant = stirling.gamma_at_saddle(shape, jnp.zeros_like(shape))
    deviances = stirling.deviance(jnp.broadcast_to(shape, variances.shape), rate * scales.reciprocal(variances))
    return constant - deviances - scales.log(variances)
