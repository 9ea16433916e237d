r"""Normal classes with missing cells. Given the class, the missing cells m of a row and the seen cells o have

.. math:: E[x_m \mid x_o] = \mu_m + S_{mo} S_{oo}^{-1} (x_o - \mu_o), \qquad
          \operatorname{Cov}[x_m \mid x_o] = \left( (S^{-1})_{mm} \right)^{-1} .

The missing cells are hidden variables, and this is their posterior. The matrices depend on which cells are missing and
not on their values. Rows that miss the same cells therefore share them: they are computed once for each pattern.

Source: Little & Rubin (2019), section 11.2; Ghahramani & Jordan (1994) for mixtures.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices, missing_cells
from jaxem.core.data import Data, Dataset, Patterns, observed_of, patterns_of
from jaxem.families.covariance import Distance

_BYTES = 2**21  # of matrices gathered for the rows that are worked on at a time


class Conditional(NamedTuple):
    """What depends on the pattern (p) of missing cells alone, for each covariance matrix."""

    masks: Array  # (P, D), True where a cell is seen
    whiteners: Array  # (P, K or 1, D, D), L^-1 of S_oo = L L', zero in the rows and columns of missing cells
    precisions: Array  # (P, K or 1, D, D), S_oo^-1, zero likewise
    log_determinants: Array  # (P, K or 1), of S_oo
    regressions: Array  # (P, K or 1, D, D), B with E[x | x_o] = m + B (x_o - m_o); zero in the columns of missing cells
    covariances: Array  # (P, K or 1, D, D), of the missing cells given those seen; zero where a cell is seen


class Completed(NamedTuple):
    """The posterior of the missing cells given the class: a normal distribution."""

    values: Array  # (N, K, D), its mean; the data where a cell is seen
    pattern: Array  # (N,), the pattern of each row
    masks: Array  # (P, D), shared by all rows
    covariances: Array  # (P, K or 1, D, D), shared by all rows
    # Of rows in tiles also the means m (K, D) and the regressions B, from which sums follow without ``values``.
    means: Array | None = None
    regressions: Array | None = None


def conditional(covariances: Array, masks: Array) -> Conditional:
    """From covariances (K or 1, D, D) and the masks (P, D) of the seen cells."""
    identity = jnp.eye(covariances.shape[-1], dtype=covariances.dtype)
    seen, across = masks[:, None, :, None], masks[:, None, None, :]  # the cells in rows and in columns of matrices
    lower = matrices.cholesky(jnp.where(seen & across, covariances[None], identity))
    half = jnp.where(seen & across, matrices.inverse(lower), 0)
    scaled = jnp.where(across, 0, matrices.product(half, covariances[None]))  # L^-1 S_om
    return Conditional(
        masks,
        half,
        _gram(half),
        matrices.log_determinant(lower),
        jnp.where(seen, identity, matrices.product(jnp.swapaxes(scaled, -1, -2), half)),
        jnp.where(seen | across, 0, covariances[None] - _gram(scaled)),
    )


def _gram(half: Array) -> Array:
    """half' half, the inverse of L L' from half = L^-1."""
    return matrices.product(jnp.swapaxes(half, -1, -2), half)


def prepare(covariances: Array, x: Data) -> Conditional | None:
    """The matrices of each pattern; ``None`` where patterns are unknown, or nearly every row has its own."""
    observed, patterns = observed_of(x), patterns_of(x)
    if not isinstance(patterns, Patterns):
        return None
    first = slice(None, None, patterns.tile)
    masks = missing_cells.table(observed[first], dataclasses.replace(patterns, index=patterns.index[first]))
    found = conditional(covariances, masks)
    if patterns.tile > 1:
        return found
    # Patterns that do not belong to the masks (a record changed by hand inside a trace) must not pass unnoticed.
    right = (masks[patterns.index] == observed).all()
    return found._replace(precisions=jnp.where(right, found.precisions, jnp.nan))


def _of_rows(covariances: Array, patterns: Conditional | None, x: Dataset) -> tuple[Conditional, Array]:
    """The matrices, and for each row where its own are."""
    if patterns is not None and isinstance(x.patterns, Patterns):
        return patterns, x.patterns.index
    return conditional(covariances, x.observed), jnp.arange(x.values.shape[0])


def _weighted_deviations(means: Array, found: Conditional, pattern: Array, x: Dataset) -> tuple[Array, Array]:
    """y = x - m and v = S_oo^-1 y, both (N, K, D), both zero where a cell is missing."""
    seen, values = x.observed[:, None, :], x.values.astype(means.dtype)[:, None, :]
    y = jnp.where(seen, values - means[None], 0)
    return y, _times_own(found.precisions, y, pattern)


@jax.custom_jvp
def _times_own(precisions: Array, y: Array, pattern: Array) -> Array:
    """P_nk y_nk, (N, K, D), where row n has the matrices P_nk = precisions[pattern[n]], which are symmetric.

    On a CPU row by row: a matrix is read where it lies, and copies of it for many rows would cost five times as much.
    """
    if jax.default_backend() != "cpu":
        return _by_copies(precisions, y, pattern)

    def one(row: tuple[Array, Array]) -> Array:
        y, p = row
        return (jax.lax.dynamic_index_in_dim(precisions, p, 0, False) * y[:, :, None]).sum(axis=1)

    return jax.lax.map(one, (y, pattern))


@_times_own.defjvp
def _times_own_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The derivative by copies: the transpose of a loop over rows would pass over all matrices for each row."""
    precisions, y, pattern = primals
    turned, moved, _ = tangents
    return _times_own(precisions, y, pattern), _by_copies(precisions, moved, pattern) + _by_copies(turned, y, pattern)


def _by_copies(precisions: Array, y: Array, pattern: Array) -> Array:
    n, k, d = y.shape
    one = lambda row: jnp.matmul(precisions[row[1]], row[0][:, :, None])[:, :, 0]
    at_a_time = max(_BYTES // (k * d * d * y.dtype.itemsize), 1)
    if n <= at_a_time:
        return jax.vmap(one)((y, pattern))
    return jax.lax.map(jax.checkpoint(one), (y, pattern), batch_size=at_a_time)


def distance(means: Array, covariances: Array, patterns: Conditional | None, x: Dataset) -> Distance:
    """The distances of the seen cells, (x_o - m_o)' S_oo^-1 (x_o - m_o)."""
    found, pattern = _of_rows(covariances, patterns, x)
    return _distance(found, pattern, *_weighted_deviations(means, found, pattern, x))


def constants(found: Conditional) -> Array:
    """log|2 pi S_oo|, (P, K or 1)."""
    seen = found.masks.sum(axis=1).astype(found.log_determinants.dtype)
    return found.log_determinants + math.log(2 * math.pi) * seen[:, None]


def _distance(found: Conditional, pattern: Array, y: Array, v: Array) -> Distance:
    return Distance((y * v).sum(axis=2), constants(found)[pattern])


def infer(means: Array, covariances: Array, patterns: Conditional | None, x: Dataset) -> tuple[Distance, Completed]:
    """``distance``, and the posterior of the missing cells."""
    found, pattern = _of_rows(covariances, patterns, x)
    y, v = _weighted_deviations(means, found, pattern, x)
    predicted = means[None] + _times(covariances, v)
    values = jnp.where(x.observed[:, None, :], x.values.astype(means.dtype)[:, None, :], predicted)
    return _distance(found, pattern, y, v), Completed(values, pattern, found.masks, found.covariances)


def _times(matrix: Array, v: Array) -> Array:
    """S_k v_nk, (N, K, D), from matrices (K or 1, D, D)."""
    columns = jnp.matmul(matrix, jnp.moveaxis(v, 0, 2))  # observations in columns
    return jnp.moveaxis(columns, 2, 0)


def expected_distance(means: Array, covariances: Array, q: Completed) -> Distance:
    """The distances of the completed rows; their constants contain tr S^-1 C, so that E_q log N(x; m, S) follows."""
    lower = matrices.cholesky(covariances)
    inverse = matrices.inverse(lower)
    z = _times(inverse, q.values - means[None])
    spread = (_gram(inverse)[None] * q.covariances).sum(axis=(-2, -1))  # (P, K), tr S^-1 C
    constant = means.shape[1] * math.log(2 * math.pi) + matrices.log_determinant(lower)[None, :]
    return Distance((z**2).sum(axis=2), spread[q.pattern] + constant)


def _missing(q: Completed) -> tuple[Array, Array]:
    """The Cholesky factors of the covariances of the missing cells, 1 where a cell is seen; their number (P, 1)."""
    dtype = q.covariances.dtype
    seen = jnp.eye(q.masks.shape[1], dtype=dtype)[None, None] * q.masks.astype(dtype)[:, None, None, :]
    return matrices.cholesky(q.covariances + seen), (~q.masks).sum(axis=1).astype(dtype)[:, None]


def entropy(q: Completed, log_scales: Array | float = 0.0) -> Array:
    """log|2 pi e C| / 2 of the missing cells, (N, K); with E log u in ``log_scales (N, K)`` that of N(m, C / u)."""
    lower, number = _missing(q)
    of_patterns = 0.5 * (matrices.log_determinant(lower) + number * (1 + math.log(2 * math.pi)))
    return jnp.broadcast_to(of_patterns[q.pattern], q.values.shape[:2]) - 0.5 * number[q.pattern] * log_scales


def divergence(q: Completed, p: Completed, scales: Array | float = 1.0) -> Array:
    """KL(q || p) between the posteriors of the missing cells, (N, K).

    Where the covariances are C / u in both, ``scales (N, K)`` are the means of u.
    """
    (lower_q, number), (lower_p, _) = _missing(q), _missing(p)
    half = matrices.inverse(lower_p)
    ratio = jnp.matmul(half, lower_q)
    free = (~q.masks)[:, None, :]
    squares = (jnp.where(free, (ratio**2).sum(axis=-1), 0)).sum(axis=-1)
    shares = squares - number + matrices.log_determinant(lower_p) - matrices.log_determinant(lower_q)
    shift = jnp.matmul(half[q.pattern], (q.values - p.values)[..., None])[..., 0]
    return 0.5 * (shares[q.pattern] + scales * (shift**2).sum(axis=-1))


def summed_covariances(r: Array, q: Completed) -> Array:
    """sum_n r_nk C_nk, (K, D, D), from weights r (N, K)."""
    weights = jnp.zeros((q.masks.shape[0], r.shape[1]), r.dtype).at[q.pattern].add(r)
    return (weights[:, :, None, None] * q.covariances).sum(axis=0)


def filled(r: Array, x: Dataset) -> Array:
    """The rows (K, D, N) with missing cells set to the means of their columns in each class; for starts."""
    seen = jnp.where(x.observed, x.values, 0).astype(r.dtype)
    n = r.T @ x.observed.astype(r.dtype)
    means = r.T @ seen / jnp.where(n > 0, n, 1)
    means = jnp.where(n > 0, means, x.values[:1].astype(r.dtype))
    return jnp.where(x.observed.T[None], x.values.T[None].astype(r.dtype), means[:, :, None])


def draw(key: Array, q: Completed, labels: Array, x: Dataset, scales: Array | None = None) -> Array:
    """Rows (N, D) whose missing cells are draws from their posterior given the class ``labels (N,)``.

    With ``scales (N,)`` the covariances are C / u.
    """
    n, k, d = q.values.shape
    lower, _ = _missing(q)
    own = jnp.broadcast_to(lower, (lower.shape[0], k, d, d))[q.pattern, labels]
    noise = jnp.where(x.observed, 0, jax.random.normal(key, (n, d), q.values.dtype))
    noise = noise if scales is None else noise / jnp.sqrt(scales)[:, None]
    return q.values[jnp.arange(n), labels] + jnp.matmul(own, noise[:, :, None])[:, :, 0]
