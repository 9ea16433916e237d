"""Orthogonal matrices whose columns are axes: a column and its negative are the same axis."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.spaces import answers
from jaxem.core.spaces.protocol import space


def skew(free: Array, d: int) -> Array:
    """The skew-symmetric matrix (..., D, D) with these entries (..., D (D - 1) / 2) above its diagonal."""
    rows, columns = np.triu_indices(d, 1)
    upper = jnp.zeros((*free.shape[:-1], d, d), free.dtype).at[..., rows, columns].set(free, unique_indices=True)
    return upper - jnp.swapaxes(upper, -1, -2)


def rotation(x: Array) -> Array:
    """Cayley's rotation (I - X / 2)^-1 (I + X / 2) of a skew-symmetric ``x (..., D, D)``, I + X + X^2 / 2 near zero.

    It is (I - X^2 / 4)^-1 (I + X / 2)^2, where I - X^2 / 4 = I + X' X / 4 is positive definite.
    """
    half, eye = x / 2, jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    turned = eye + half
    definite = eye + matrices.product(jnp.swapaxes(half, -1, -2), half)
    return matrices.solve(matrices.cholesky(definite), matrices.product(turned, turned))


def orthonormal(near: Array) -> Array:
    """The orthogonal matrix next to one that is orthogonal but for rounding error (a Newton-Schulz step)."""
    gram = matrices.product(jnp.swapaxes(near, -1, -2), near)
    return 1.5 * near - 0.5 * matrices.product(near, gram)


def _signs(q: Array) -> Array:
    """Signs s (..., D) for which Q diag(s) has no eigenvalue near -1, where Cayley's coordinates are infinite.

    The elimination of I + Q diag(s) column by column, with each sign such that the pivot is at least one (Ballard et
    al. 2014, *Reconstructing Householder vectors from tall-skinny QR*, section 3).
    """

    def eliminate(j: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        a, signs = carry
        sign = jnp.where(a[..., j, j] < 0, -1, 1).astype(a.dtype)
        pivot = 1 + sign * a[..., j, j]
        below = jnp.where(jnp.arange(a.shape[-1]) > j, a[..., :, j] * (sign / pivot)[..., None], 0)
        return a - below[..., :, None] * a[..., j, None, :], signs.at[..., j].set(sign)

    return jax.lax.fori_loop(0, q.shape[-1], eliminate, (jax.lax.stop_gradient(q), jnp.ones(q.shape[:-1], q.dtype)))[1]


@space
class Orientation:
    r"""Orthogonal matrices on the last two axes: D axes in columns, each up to its sign, D (D - 1) / 2 coordinates.

    .. math:: x = x_0\, (I - U / 2)^{-1} (I + U / 2), \qquad U \text{ skew-symmetric with the entries } u
              \text{ above its diagonal}

    The chart is made at a point x_0 (the identity where none is given), which has the coordinates zero; near it u are
    angles of rotation, u_ij from axis i to axis j. The coordinates of a point are those of the same axes with the
    signs that bring them near x_0.

    Source: Cayley (1846); for the signs, Ballard et al. (2014).
    """

    description = "orthogonal matrices"
    event_ndim = 2
    unit = 1.0
    unit_free = True

    def forward(self, free: Array, like: Array | None = None) -> Array:
        d = round(((8 * free.shape[-1] + 1) ** 0.5 + 1) / 2)
        limit = 0.1 * float(jnp.finfo(free.dtype).eps) ** -0.5 / d  # half a turn but for a few degrees, or far less
        turned = rotation(skew(jnp.clip(free, -limit, limit), d))
        return turned if like is None else matrices.product(like, turned)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        like = value if like is None else like
        d = value.shape[-1]
        q = matrices.product(jnp.swapaxes(like, -1, -2), value)
        q = q * _signs(q)[..., None, :]
        transposed = jnp.swapaxes(q, -1, -2)
        # U / 2 = (Q - I) (Q + I)^-1 = (Q - Q') (2 I + Q + Q')^-1, of commuting factors
        definite = 2 * jnp.broadcast_to(jnp.eye(d, dtype=q.dtype), q.shape) + q + transposed
        half = matrices.solve(matrices.cholesky(definite), q - transposed)
        rows, columns = np.triu_indices(d, 1)
        return (half - jnp.swapaxes(half, -1, -2))[..., rows, columns]

    def free(self, value: Array) -> Array:
        d = value.shape[-1]
        return jnp.ones((*value.shape[:-2], d * (d - 1) // 2), bool)

    def contains(self, value: Any) -> Any:
        slack = float(jnp.finfo(value.dtype).eps) ** 0.5
        gram = matrices.product(value.swapaxes(-1, -2), value)
        identity = np.broadcast_to(np.eye(value.shape[-1], dtype=value.dtype), gram.shape)
        return (abs(gram - identity) <= slack).all()

    def settle(self, value: Array, eps: float) -> Array:
        """The orthogonal matrix next to one that is orthogonal to the precision ``eps`` of its source only."""
        xp, turned = value.__array_namespace__(), value.swapaxes(-1, -2)
        gram = turned @ value
        off = abs(gram - xp.eye(value.shape[-1], dtype=value.dtype)).max(axis=(-2, -1), keepdims=True)
        rounding = 4 * value.shape[-1] * float(jnp.finfo(value.dtype).eps)
        return xp.where((off > rounding) & (off <= eps**0.5), 1.5 * value - 0.5 * value @ gram, value)

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        axes = range(len(labels[-1]))
        matrices_of = answers.elements(name, labels[:-2])
        return [f"angle {one}[{i}, {j}]" for one in matrices_of for i in axes for j in axes if i < j]

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        """Intervals within -1 and 1, on the scale of the inverse hyperbolic tangent of each entry."""
        slope = 1 - value**2
        inside = slope > 0
        width = jnp.where(inside, half / jnp.where(inside, slope, 1), 0)
        middle = jnp.arctanh(jnp.where(inside, value, 0))
        ends = (jnp.where(inside, jnp.tanh(middle + sign * width), value) for sign in (-1, 1))
        return tuple(ends)  # pyright: ignore[reportReturnType]

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return np.full(shape, shape[-1] == 1)
