"""The four forms of the covariances of K normal classes: full, tied, diag, spherical.

Each form has the same functions of deviations y_kn = x_n - m_k, ``(K, D, N)`` with observations in columns: squared
Mahalanobis distances and log-determinants, the second moments that the maximiser needs, and whether a class has
collapsed. Priors and mixtures are not used here.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices
from jaxem.core.spaces import Positive, PositiveDefinite, Space, answers
from jaxem.families import scales


class Distance(NamedTuple):
    """How far rows lie from the classes: log N(x_n; m_k, S_k) = -(squares + constants) / 2."""

    squares: Array  # (N, K), squared Mahalanobis distances
    constants: Array  # (N or 1, K or 1), log|2 pi S|

    def log_normal(self) -> Array:
        """The log-density of the normal distribution, (N, K)."""
        return -0.5 * (self.squares + self.constants)


class Factored(NamedTuple):
    """Covariance matrices with Cholesky factors that were not computed from them.

    The entries of a matrix are rounded, which changes its smallest eigenvalues by eps times its condition. Factors that
    are computed from axes and lengths along them have errors of eps times the root of that condition.
    """

    matrices: Array  # (K, D, D)
    lower: Array  # (K, D, D)


def factored(half: Array) -> Factored:
    """The matrices half half' (..., D, D) and their Cholesky factors, those of L^-1 half half' L^-T times L.

    L is the Cholesky factor of the rounded matrix. L^-1 half is nearly orthogonal, so that its own factor is accurate.

    Source: Yamamoto et al. (2015), *Roundoff error analysis of the CholeskyQR2 algorithm*.
    """
    square = lambda half: matrices.product(half, jnp.swapaxes(half, -1, -2))
    rough = matrices.cholesky(square(half))
    rest = matrices.cholesky(square(matrices.solve_lower(rough, half)))
    return Factored(square(half), matrices.product(rough, rest))


def matrices_of(covariances: Array | Factored) -> Array:
    """The matrices, (..., D, D)."""
    return covariances.matrices if isinstance(covariances, Factored) else covariances


def lower_of(covariances: Array | Factored) -> Array:
    """Their Cholesky factors, (..., D, D)."""
    return covariances.lower if isinstance(covariances, Factored) else matrices.cholesky(covariances)


class Form(NamedTuple):
    """One form of the covariances."""

    space: Space
    axes: str
    # covariances, y (K, D, N) -> squared distances (K, N), log-determinants (K,)
    distance: Callable[[Any, Array], tuple[Array, Array]]
    # weights (N, K), y (K, D, N) -> second moments, shaped like the covariances
    second: Callable[[Array, Array], Array]
    # d (K, D), n (K,) -> n_k d_k d_k', shaped like the covariances (summed over k where they are shared)
    outer: Callable[[Array, Array], Array]
    # f (K, D), d (K, D) -> f_k d_k' + d_k f_k', likewise
    cross: Callable[[Array, Array], Array]
    # n (K,), D -> the divisor that turns second moments into covariances; broadcasts against the covariances
    divisor: Callable[[Array, int], Array]
    # covariances, D -> marginal variances (K or 1, D)
    variances: Callable[[Any, int], Array]
    # covariances, D -> K factors A_k with A_k A_k' = covariance, (K or 1, D, D)
    factor: Callable[[Any, int], Array]

    @property
    def of_matrices(self) -> bool:
        """Whether the covariances are matrices rather than variances."""
        return answers.event_ndim(self.space) == 2


def collapsed(means: Array, variances: Array) -> Array:
    """Whether a variance is zero relative to the spread of all classes, from ``means (K, D)``, ``variances (K, D)``.

    Where the means lie a distance s apart, rounding error alone gives standard deviations of about eps s.
    """
    eps = jnp.finfo(variances.dtype).eps
    between = (means.max(axis=0) - means.min(axis=0)) ** 2
    spread = (variances.max(axis=0) + between)[None, :]
    return (variances <= (4 * eps) ** 2 * spread).any()


def singular(covariances: Array) -> Array:
    """Whether a covariance matrix is finite but singular to rounding error.

    It is judged by the Cholesky factor of its correlations, so that units do not matter.
    """
    d = covariances.shape[-1]
    scale = jnp.sqrt(jnp.diagonal(covariances, axis1=-2, axis2=-1))
    correlations = covariances / (scale[..., :, None] * scale[..., None, :])
    pivots = jnp.diagonal(matrices.cholesky(correlations), axis1=-2, axis2=-1)
    regular = (pivots**2 > d * jnp.finfo(covariances.dtype).eps).all(axis=-1)
    finite = jnp.isfinite(covariances).all(axis=(-2, -1))
    return (finite & ~regular).any()


def deviations(x: Array, means: Array | None, k: int) -> Array:
    """x_n - m_k, or x_n without ``means``, (K, D, N)."""
    y = jnp.broadcast_to(x.T[None], (k, x.shape[1], x.shape[0]))
    return y if means is None else y - means[:, :, None]


def first_moments(weights: Array, y: Array) -> Array:
    """sum_n r_nk y_kn, (K, D)."""
    return jnp.matmul(y, weights.T[:, :, None])[:, :, 0]


def _over_dimensions(y: Array) -> Array:
    """The sum over D, (K, N). Up to 8 dimensions it is a sum of rows, which XLA fuses with the loop that made them."""
    return functools.reduce(jnp.add, (y[:, i] for i in range(y.shape[1]))) if y.shape[1] <= 8 else y.sum(axis=1)


def _matrix_distance(covariances: Array | Factored, y: Array) -> tuple[Array, Array]:
    """|L^-1 y|^2 (K, N) and log-determinants; large matrices are inverted once and multiplied."""
    lower = lower_of(covariances)
    lower_of_each = jnp.broadcast_to(lower, (*y.shape[:1], *lower.shape[1:]))
    small = matrices.is_small(lower)
    whitened = matrices.solve_lower(lower_of_each, y) if small else jnp.matmul(matrices.inverse(lower), y)
    return _over_dimensions(whitened**2), matrices.log_determinant(lower)


def _full_second(weights: Array, y: Array) -> Array:
    d = y.shape[1]
    if d > matrices.UNROLLED:
        return jnp.matmul(weights.T[:, None, :] * y, jnp.swapaxes(y, 1, 2))
    pairs = [(i, j) for i in range(d) for j in range(i + 1)]
    sums = first_moments(weights, jnp.stack([y[:, i] * y[:, j] for i, j in pairs], axis=1))
    return jnp.stack(
        [jnp.stack([sums[:, pairs.index((max(i, j), min(i, j)))] for j in range(d)], 1) for i in range(d)], 1
    )


def _full_outer(d: Array, n: Array) -> Array:
    return n[:, None, None] * d[:, :, None] * d[:, None, :]


def _diag_second(weights: Array, y: Array) -> Array:
    return first_moments(weights, y**2)


_full = Form(
    space=PositiveDefinite(),
    axes="K D D",
    distance=_matrix_distance,
    second=_full_second,
    outer=_full_outer,
    cross=lambda f, d: f[:, :, None] * d[:, None, :] + d[:, :, None] * f[:, None, :],
    divisor=lambda n, d: n[:, None, None],
    variances=lambda c, d: jnp.diagonal(matrices_of(c), axis1=-2, axis2=-1),
    factor=lambda c, d: lower_of(c),
)
_tied = Form(
    space=PositiveDefinite(),
    axes="D D",
    distance=lambda c, y: _matrix_distance(c[None], y),
    second=lambda weights, y: _full_second(weights, y).sum(axis=0),
    outer=lambda d, n: (n[:, None] * d).T @ d,
    cross=lambda f, d: f.T @ d + d.T @ f,
    divisor=lambda n, d: n.sum(),
    variances=lambda c, d: jnp.diagonal(c)[None],
    factor=lambda c, d: matrices.cholesky(c)[None],
)
_diag = Form(
    space=Positive(),
    axes="K D",
    distance=lambda c, y: (_over_dimensions((y * scales.inverse_root(c)[:, :, None]) ** 2), scales.log(c).sum(axis=-1)),
    second=_diag_second,
    outer=lambda d, n: n[:, None] * d * d,  # in this order 0 where n is, even where d^2 overflows
    cross=lambda f, d: 2 * f * d,
    divisor=lambda n, d: n[:, None],
    variances=lambda c, d: c,
    factor=lambda c, d: jnp.sqrt(c)[:, :, None] * jnp.eye(d, dtype=c.dtype)[None],
)
_spherical = Form(
    space=Positive(),
    axes="K",
    distance=lambda c, y: (
        _over_dimensions((y * scales.inverse_root(c)[:, None, None]) ** 2),
        y.shape[1] * scales.log(c),
    ),
    second=lambda weights, y: _diag_second(weights, y).sum(axis=-1),
    outer=lambda d, n: (n[:, None] * d * d).sum(axis=-1),
    cross=lambda f, d: 2 * (f * d).sum(axis=-1),
    divisor=lambda n, d: n * d,
    variances=lambda c, d: jnp.broadcast_to(c[:, None], (c.shape[0], d)),
    factor=lambda c, d: jnp.sqrt(c)[:, None, None] * jnp.eye(d, dtype=c.dtype)[None],
)

FORMS: dict[str, Form] = {"full": _full, "tied": _tied, "diag": _diag, "spherical": _spherical}


def log_normal(form: Form, covariances: Any, y: Array) -> Array:
    """log N(y_kn; 0, covariance_k), (K, N)."""
    distance, log_determinant = form.distance(covariances, y)
    constant = y.shape[1] * math.log(2 * math.pi)
    return -0.5 * (distance + log_determinant[:, None] + constant)


def expected_log_normal(form: Form, covariances: Any, scatter: Array, n: Array, d: int) -> Array:
    """-sum_k (n_k log|S_k| + tr(S_k^-1 scatter_k)) / 2, with ``scatter`` about the means, shaped like the covariances.

    Without the term in log(2 pi).
    """
    divisor = form.divisor(n, d)
    if form.of_matrices:
        factored = isinstance(covariances, Factored)
        return (
            _of_factors(covariances.lower, scatter, divisor)
            if factored
            else _of_matrices(covariances, scatter, divisor)
        )
    return -0.5 * (divisor * jnp.log(covariances) + scatter / covariances).sum()


def _of_factors(lower: Array, scatter: Array, n: Array) -> Array:
    log_determinants = n.reshape(lower.shape[:-2]) * matrices.log_determinant(lower)
    return -0.5 * (log_determinants + jnp.trace(matrices.solve(lower, scatter), axis1=-2, axis2=-1)).sum()


@jax.custom_jvp
def _of_matrices(covariances: Array, scatter: Array, n: Array) -> Array:
    return _of_factors(matrices.cholesky(covariances), scatter, n)


@_of_matrices.defjvp
def _of_matrices_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """dQ = -(tr((n - P A) P dS) + tr(P dA) + log|S| dn) / 2, where P = S^-1 and A is ``scatter``.

    No Cholesky factor is differentiated.
    """
    covariances, scatter, n = primals
    turned, scattered, counted = tangents
    lower = matrices.cholesky(covariances)
    inverse = matrices.inverse(lower)
    precisions = jnp.matmul(jnp.swapaxes(inverse, -1, -2), inverse)
    identity = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=n.dtype), lower.shape)
    slope = jnp.matmul(n * identity - jnp.matmul(precisions, scatter), precisions)
    log_determinants = counted.reshape(lower.shape[:-2]) * matrices.log_determinant(lower)
    change = (slope * turned).sum() + (precisions * scattered).sum() + log_determinants.sum()
    return _of_matrices(covariances, scatter, n), -0.5 * change


def scatter_about_mean(form: Form, second: Array, delta: Array, n: Array) -> Array:
    """Sums of squares about the means, from ``second`` about an origin and ``delta (K, D)``, means minus origin.

    Where the means are far from the origin, the difference is rounding error. An amount of that size is added to the
    diagonal, so that cancellation makes no covariance singular. The next iteration has its origin at these means and
    computes the sums accurately.
    """
    d = delta.shape[-1]
    outer = form.outer(delta, n)
    hidden = 8 * d * float(jnp.finfo(delta.dtype).eps) * outer
    if form.of_matrices:
        hidden = hidden * jnp.broadcast_to(jnp.eye(d, dtype=delta.dtype), hidden.shape)
    return second - outer + hidden


def raised(form: Form, scatter: Array, n: Array, d: int, floor: Any) -> Array:
    """Sums of squares with those of a floor rho: scatter_k + n_k rho I, from ``n (K,)``; unchanged for ``None``.

    A density times exp(-rho tr(S^-1) / 2) has the expected logarithm of one whose scatter is larger by rho I a row.
    """
    if floor is None:
        return scatter
    added = jnp.asarray(floor, scatter.dtype) * form.divisor(n, d)
    if form.of_matrices:
        added = added * jnp.broadcast_to(jnp.eye(d, dtype=scatter.dtype), scatter.shape)
    return scatter + added


def lost_to_floor(form: Form, covariances: Any, d: int, floor: Any) -> Array:
    """rho tr(S_k^-1) / 2, what a floor takes off the log-density of class k: (K,), or (1,) where all share it."""
    half = 0.5 * jnp.asarray(floor, jax.tree.leaves(covariances)[0].dtype)
    if form.of_matrices:
        inverse = matrices.inverse(lower_of(covariances).reshape(-1, d, d))
        return (half * inverse * inverse).sum(axis=(-2, -1))
    return (half * form.variances(scales.reciprocal(covariances), d)).sum(axis=-1)


def is_degenerate(form: Form, means: Array, covariances: Any) -> Array:
    """Whether a class has collapsed to a point, a line or a plane (in fewer than D dimensions)."""
    variances = form.variances(covariances, means.shape[-1])
    bad = collapsed(means, jnp.broadcast_to(variances, means.shape))
    return bad | singular(matrices_of(covariances)) if form.of_matrices else bad
