"""Cholesky factors, triangular solves and eigenvalues of batches of matrices.

LAPACK is called once for each matrix of a batch, which costs more than the arithmetic of a small matrix. For up to
``UNROLLED`` rows the formulas are written out instead, so that XLA runs them over the whole batch.

A large batch given to LAPACK at once is spread over the threads of a CPU by a thread that waits for the others. Where
as many such calls run at a time as there are threads (two, on a machine with two cores), all of them wait for ever
(jaxlib 0.10.2). So on a CPU the matrices are given to LAPACK one by one, even those that ``vmap`` made a batch of.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import sequential_vmap
from jax.scipy import linalg

from jaxem.core.compilation import program

UNROLLED = 4


def is_small(a: Array) -> bool:
    """Whether the formulas for matrices with last axis D, ``a (..., D)``, are written out."""
    return a.shape[-1] <= UNROLLED


def cholesky(a: Array) -> Array:
    r"""The lower triangular L with L L' = a, for symmetric ``a (..., D, D)``; NaN where a is not positive definite.

    .. math:: L_{jj} = \Bigl(a_{jj} - \sum_{m<j} L_{jm}^2\Bigr)^{1/2}, \qquad
              L_{ij} = \Bigl(a_{ij} - \sum_{m<j} L_{im} L_{jm}\Bigr) / L_{jj}

    Source: Golub & Van Loan (2013), section 4.2.
    """
    if isinstance(a, np.ndarray):
        return _on_host(a)  # pyright: ignore[reportReturnType]
    return _small_cholesky(a) if is_small(a) else _each(_cholesky, a)


# Programs of their own, because a model asks for many factors of one shape: each formula is traced once.
@program(quick="few numbers")
def _small_cholesky(a: Array) -> Array:
    d = a.shape[-1]
    entry, lower, definite = _entries((a + a.mT) / 2), [[] for _ in range(d)], True
    for j in range(d):
        pivot = _less(entry[j][j], lower[j], lower[j])
        definite = definite & (pivot > 0)  # NaN is not
        # A root of zero or of a negative number would put an infinite slope or NaN into derivatives.
        lower[j].append(jnp.sqrt(jnp.where(definite, pivot, 1)))
        for i in range(j + 1, d):
            lower[i].append(_less(entry[i][j], lower[i][:j], lower[j][:j]) / lower[j][j])
    zero = jnp.zeros_like(entry[0][0])
    found = jnp.concatenate([jnp.concatenate(row + [zero] * (d - len(row)), axis=-1) for row in lower], axis=-2)
    return jnp.where(definite, found, np.tril(np.full((d, d), np.nan, a.dtype)))


def solve_lower(lower: Array, b: Array) -> Array:
    """L^-1 b by forward substitution, for ``lower (..., D, D)`` and ``b (..., D, M)`` with equal leading axes."""
    return _small_solve_lower(lower, b) if is_small(lower) else _each(_solve_lower, lower, b)


@program(quick="few numbers")
def _small_solve_lower(lower: Array, b: Array) -> Array:
    return jnp.concatenate(_forward(_entries(lower), _rows(b)), axis=-2)


def solve(lower: Array, b: Array) -> Array:
    """(L L')^-1 b, for ``lower (..., D, D)`` and ``b (..., D, M)`` with equal leading axes."""
    return _small_solve(lower, b) if is_small(lower) else _each(_solve, lower, b)


@program(quick="few numbers")
def _small_solve(lower: Array, b: Array) -> Array:
    entry = _entries(lower)
    x = _forward(entry, _rows(b))
    for i in reversed(range(len(x))):
        column = [row[i] for row in entry[i + 1 :]]
        x[i] = _less(x[i], column, x[i + 1 :]) / entry[i][i]
    return jnp.concatenate(x, axis=-2)


def _forward(entry: list[list[Array]], b: list[Array]) -> list[Array]:
    """The rows of L^-1 b, from the elements of L and the rows of b."""
    x: list[Array] = []
    for row, right in zip(entry, b, strict=True):
        x.append(_less(right, row[: len(x)], x) / row[len(x)])
    return x


def _rows(a: Array) -> list[Array]:
    """The rows (..., 1, M) of matrices."""
    return list(jax.lax.split(a, (1,) * a.shape[-2], axis=a.ndim - 2))


def _entries(a: Array) -> list[list[Array]]:
    """The elements (..., 1, 1) of matrices, row by row."""
    return [list(jax.lax.split(row, (1,) * a.shape[-1], axis=a.ndim - 1)) for row in _rows(a)]


def _less(value: Array, a: list[Array], b: list[Array]) -> Array:
    """value - sum_m a_m b_m."""
    for x, y in zip(a, b, strict=True):
        value = value - x * y
    return value


def inverse(lower: Array) -> Array:
    """L^-1, for ``lower (..., D, D)``."""
    return solve_lower(lower, jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape))


def eigh(a: Array) -> tuple[Array, Array]:
    """The ascending eigenvalues (D,) of a symmetric ``a (D, D)``, and its eigenvectors in columns."""
    return _lapack_eigh(a)


def log_determinant(lower: Array) -> Array:
    """log|L L'|, (...), for ``lower (..., D, D)``."""
    return 2 * lower.__array_namespace__().log(diagonal(lower)).sum(axis=-1)


def diagonal(a: Array) -> Array:
    """The diagonals (..., D) of matrices whose other elements are finite; ``jnp.diagonal`` is a gather."""
    return a.__array_namespace__().where(np.eye(a.shape[-1], dtype=bool), a, 0).sum(axis=-1)


def product(a: Array, b: Array) -> Array:
    """The matrix product a b in full precision, on accelerators too, because terms that cancel need it."""
    if isinstance(a, np.ndarray):
        return a @ b
    return jnp.matmul(a, b, precision=None if jax.default_backend() == "cpu" else "highest")


def _on_host(a: np.ndarray) -> np.ndarray:
    """The Cholesky factors of arrays of NumPy, by NumPy."""
    found = np.full_like(a, np.nan)
    for place in np.ndindex(a.shape[:-2]):
        with contextlib.suppress(np.linalg.LinAlgError):
            found[place] = np.linalg.cholesky((a[place] + a[place].T) / 2)
    # Of a matrix with NaN LAPACK may return the part before it.
    return np.where(np.isnan(found).any(axis=(-2, -1), keepdims=True), np.nan, found).astype(a.dtype)


def _each(function: Callable[..., Array], a: Array, *b: Array) -> Array:
    """``function`` of each matrix of ``a (..., D, D)``."""
    for _ in range(a.ndim - 2):
        function = jax.vmap(function)
    return function(a, *b)


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of one matrix; on a CPU ``vmap`` turns it into a loop."""
    alone = sequential_vmap(function)
    return lambda *arrays: (alone if jax.default_backend() == "cpu" else function)(*arrays)


_lapack_cholesky = _one_by_one(jnp.linalg.cholesky)
_lapack_eigh = _one_by_one(lambda a: tuple(jnp.linalg.eigh(a)))
_lapack_solve_lower = _one_by_one(lambda lower, b: linalg.solve_triangular(lower, b, lower=True))
_lapack_solve = _one_by_one(lambda lower, b: linalg.cho_solve((lower, True), b))

# Derivatives are written out because a loop made by ``sequential_vmap`` has only a forward-mode one.


@jax.custom_jvp
def _cholesky(a: Array) -> Array:
    return _lapack_cholesky(a)


@_cholesky.defjvp
def _cholesky_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """dL = L Phi(L^-1 da L^-T), Phi the lower triangle with half the diagonal (Murray 2016)."""
    (a,), (da,) = primals, tangents
    lower = _cholesky(a)
    whitener = inverse(lower)
    inner = product(product(whitener, (da + da.T) / 2), whitener.T)
    return lower, product(lower, jnp.tril(inner) - jnp.diag(jnp.diag(inner)) / 2)


@jax.custom_jvp
def _solve_lower(lower: Array, b: Array) -> Array:
    return _lapack_solve_lower(lower, b)


@_solve_lower.defjvp
def _solve_lower_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """dx = L^-1 (db - dL x)."""
    (lower, b), (d_lower, db) = primals, tangents
    x = _solve_lower(lower, b)
    return x, product(inverse(lower), db - product(jnp.tril(d_lower), x))


@jax.custom_jvp
def _solve(lower: Array, b: Array) -> Array:
    return _lapack_solve(lower, b)


@_solve.defjvp
def _solve_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """dx = (L L')^-1 (db - (dL L' + L dL') x)."""
    (lower, b), (d_lower, db) = primals, tangents
    x, whitener, d_lower = _solve(lower, b), inverse(lower), jnp.tril(d_lower)
    moved = product(d_lower, product(lower.T, x)) + product(lower, product(d_lower.T, x))
    return x, product(whitener.T, product(whitener, db - moved))
