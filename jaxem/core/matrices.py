"""Cholesky factors of small matrices, in batches.

LAPACK is called once for each matrix of a batch, which costs more than the arithmetic of a small one. Up to
``UNROLLED`` rows the formulas are written out instead, so that XLA runs them over the batch, element by element.
"""

import jax.numpy as jnp
from jax import Array
from jax.scipy import linalg

UNROLLED = 4


def is_small(a: Array) -> bool:
    """Whether formulas for ``a (..., D)`` are written out."""
    return a.shape[-1] <= UNROLLED


def cholesky(a: Array) -> Array:
    r"""The lower triangular L with L L' = a, for symmetric ``a (..., D, D)``; NaN where a is not positive definite.

    .. math:: L_{jj} = \Bigl(a_{jj} - \sum_{m<j} L_{jm}^2\Bigr)^{1/2}, \qquad
              L_{ij} = \Bigl(a_{ij} - \sum_{m<j} L_{im} L_{jm}\Bigr) / L_{jj}

    Golub & Van Loan (2013), section 4.2.
    """
    d = a.shape[-1]
    if not is_small(a):
        return jnp.linalg.cholesky(a)
    lower: list[list[Array]] = [[] for _ in range(d)]
    definite = jnp.ones(a.shape[:-2], bool)
    for j in range(d):
        pivot = a[..., j, j] - _dot(lower[j], lower[j])
        definite = definite & (pivot > 0)  # NaN is not
        # The root of a number that is no pivot would have an infinite slope, and NaN beside it in a derivative.
        lower[j].append(jnp.sqrt(jnp.where(definite, pivot, 1)))
        for i in range(j + 1, d):
            symmetric = (a[..., i, j] + a[..., j, i]) / 2
            lower[i].append((symmetric - _dot(lower[i][:j], lower[j][:j])) / lower[j][j])
    zero = jnp.zeros_like(definite, a.dtype)
    rows = [jnp.stack([jnp.where(definite, x, jnp.nan) for x in row] + [zero] * (d - len(row)), -1) for row in lower]
    return jnp.stack(rows, -2)


def solve_lower(lower: Array, b: Array) -> Array:
    """L^-1 b by forward substitution, ``lower (..., D, D)``, ``b (..., D, M)``; their leading axes are equal."""
    d = lower.shape[-1]
    if not is_small(lower):
        return linalg.solve_triangular(lower, b, lower=True)
    x: list[Array] = []
    for i in range(d):
        x.append((b[..., i, :] - _dot([lower[..., i, j, None] for j in range(i)], x)) / lower[..., i, i, None])
    return jnp.stack(x, -2)


def solve(lower: Array, b: Array) -> Array:
    """(L L')^-1 b, ``lower (..., D, D)``, ``b (..., D, M)``; their leading axes are equal."""
    d = lower.shape[-1]
    if not is_small(lower):
        return linalg.cho_solve((lower, True), b)
    y = solve_lower(lower, b)
    x: list[Array] = []
    for i in reversed(range(d)):
        column = [lower[..., j, i, None] for j in reversed(range(i + 1, d))]
        x.append((y[..., i, :] - _dot(column, x)) / lower[..., i, i, None])
    return jnp.stack(x[::-1], -2)


def log_determinant(lower: Array) -> Array:
    """log|L L'|, (...)."""
    return 2 * jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)).sum(axis=-1)


def _dot(a: list[Array], b: list[Array]) -> Array | float:
    """sum_m a_m b_m; 0 for none."""
    return sum((x * y for x, y in zip(a, b, strict=True)), start=0.0)
