"""Linear systems A x = b, where A is given by its products with vectors."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

LARGEST_MATRIX = 128  # most unknowns for which A is formed; also the number of vectors that GMRES keeps
_RESTARTS = 8


class Solution(NamedTuple):
    x: Array  # (P,)
    left: Array  # |b - A x|
    size: Array  # |A b| / |b|


def solve(a: Callable[[Array], Array], b: Array) -> Solution:
    """The solution of A x = b. Up to 128 unknowns A is formed, which takes no more products than GMRES would."""
    if b.shape[0] > LARGEST_MATRIX:
        return _gmres(a, b)
    matrix = jax.lax.map(a, jnp.eye(b.shape[0], dtype=b.dtype)).T
    x = jnp.linalg.solve(matrix, b)
    return Solution(x, norm(b - matrix @ x), norm(matrix @ b) / norm(b))


def _gmres(a: Callable[[Array], Array], b: Array) -> Solution:
    """The solution of A x = b by restarted GMRES (Saad & Schultz 1986)."""
    n = LARGEST_MATRIX

    def expand(carry: tuple[Array, Array], j: Array) -> tuple[tuple[Array, Array], Array]:
        """One Arnoldi step: a new orthonormal vector, and a column of H from two projections on the earlier ones."""
        basis, v = carry
        w = a(v)
        size = norm(w)
        first = basis @ w
        w = w - first @ basis
        second = basis @ w
        w = w - second @ basis
        length = norm(w)
        v = jnp.where(length > 4 * eps * size, w / length, 0)  # zero where the Krylov space is complete
        return (basis.at[j + 1].set(v), v), (first + second).at[j + 1].set(length)

    def cycle(x: Array, left: Array) -> tuple[Array, Array, Array]:
        beta = norm(left)
        v = left / jnp.where(beta > 0, beta, 1)
        basis = jnp.zeros((n + 1, b.shape[0]), b.dtype).at[0].set(v)
        (basis, _), h = jax.lax.scan(expand, (basis, v), jnp.arange(n))
        q, r = jnp.linalg.qr(h.T)
        unused = jnp.diagonal(r) == 0  # columns after the Krylov space was complete
        y = solve_triangular(r + jnp.diag(unused.astype(r.dtype)), jnp.where(unused, 0, beta * q[0]))
        return x + y @ basis[:-1], left - (y @ h) @ basis, norm(h[0])

    def again(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        enough = norm(carry[1]) <= 4 * eps * norm(b)
        return jax.lax.cond(enough, lambda: carry, lambda: cycle(*carry)[:2]), None

    eps = jnp.finfo(b.dtype).eps
    x, left, size = cycle(jnp.zeros_like(b), b)
    (x, left), _ = jax.lax.scan(again, (x, left), length=_RESTARTS)
    return Solution(x, norm(left), size)


def norm(v: Array) -> Array:
    """The Euclidean norm."""
    return jnp.sqrt((v**2).sum())
