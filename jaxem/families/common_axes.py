r"""Axes that all classes share, S_k = O diag(a_k) O': the orientation O that maximises Q, with the a_k at their best.

With w_kj = (O' W_k O)_jj, the scatter of class k along axis j, what is left to minimise over O is

.. math:: \textstyle\sum_k n_k \sum_j \log w_{kj} \;\text{ (VVE)}, \qquad
          n D \log \textstyle\sum_k \bigl(\prod_j w_{kj}\bigr)^{1/D} \;\text{ (EVE)}.

Neither is convex. Newton's method on the orthogonal group starts at the axes of the iteration before, and each step is
the best of several lengths along a direction of descent; so it never ends higher than it began, and converges
quadratically. A step takes of the order of D^6 operations: a tenth of a second at D = 30.

Source: Flury (1984), *Common principal components in k groups*; Browne & McNicholas (2014) for EVE.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.spaces.orientation import orthonormal, rotation, skew
from jaxem.families.principal_axes import principal_axes, turned

_MOST = 60  # steps
_LENGTHS = 4.0 ** -np.arange(8)  # of a step, relative to Newton's

Objective = Callable[[Array, Array], Array]  # sizes n (K,), scatters w (K, D) along the axes -> a number free of units


def free_volumes(n: Array, w: Array) -> Array:
    """The sum of n_k log w_kj over n (VVE)."""
    return (n[:, None] * jnp.log(w)).sum() / n.sum()


def equal_volumes(n: Array, w: Array) -> Array:
    """D log of the sum of the geometric means of w_k (EVE); a class without observations takes no part."""
    logs = jnp.where(n > 0, jnp.log(w).mean(axis=1), -jnp.inf)
    return w.shape[1] * jax.nn.logsumexp(logs)


def along(w: Array, axes: Array) -> Array:
    """(O' W_k O)_jj, (K, D), from ``w (K, D, D)`` and ``axes (D, D)``, or (K, D, D) for axes of each class."""
    axes = jnp.broadcast_to(axes, w.shape)
    return (matrices.product(w, axes) * axes).sum(axis=-2)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def common_axes(objective: Objective, n: Array, w: Array, start: Array | None) -> Array:
    """The axes O (D, D), in columns, at a minimum of ``objective``.

    ``n (K,)`` are class sizes, ``w (K, D, D)`` scatters about the class means, and ``start (D, D)`` is where to begin.
    The axes of the pooled scatter are taken instead where they are better, or where there is no start.
    """
    d, axes = w.shape[-1], principal_axes(w.sum(axis=0))
    if d == 1:
        return jnp.ones_like(axes)
    w = _seen(n, w)
    at = lambda axes: objective(n, along(w, axes))
    if start is not None:
        start = orthonormal(start)
        axes = jnp.where(at(start) <= at(axes), start, axes)  # NaN is not

    def unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
        _, _, more, steps = carry
        return more & (steps < _MOST)

    def step(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        axes, last, _, steps = carry
        gradient, inverse = _slopes(objective, n, turned(w, axes))
        move = -matrices.product(inverse, gradient[:, None])[:, 0]
        gain = -(move * gradient).sum()  # about twice what the step gains
        move = move / jnp.maximum(jnp.abs(move).max(), 1)
        turn = lambda length: matrices.product(axes, rotation(skew(length * move, d)))
        ahead = jax.vmap(turn)(jnp.asarray(_LENGTHS, w.dtype))
        values = jax.vmap(at)(ahead)
        best = jnp.where(jnp.isnan(values), jnp.inf, values).argmin()
        eps, value = float(jnp.finfo(w.dtype).eps), at(axes)
        lower = values[best] < value
        # Near the minimum the objective is rounding error, while the gradient still leads there.
        near = gain <= jnp.maximum(eps**0.75, 8 * eps * jnp.abs(value))  # False for NaN
        more = jnp.where(near, (gain > eps**1.25) & (gain < last / 4), lower)
        axes = jnp.where(near, ahead[0], jnp.where(lower, ahead[best], axes))
        return axes, jnp.where(near, gain, jnp.inf), more, steps + 1

    carry = (axes, jnp.full_like(n[0], jnp.inf), jnp.bool_(True), jnp.int32(0))
    return orthonormal(jax.lax.while_loop(unfinished, step, carry)[0])


@common_axes.defjvp
def _common_axes_jvp(
    objective: Objective, primals: tuple[Array, Array, Any], tangents: tuple[Array, Array, Any]
) -> tuple[Array, Array]:
    """H du + dg = 0, where dg is the change of the gradient at the same axes; the start does not matter."""
    axes = common_axes(objective, *primals)
    if axes.shape[0] == 1:
        return axes, jnp.zeros_like(axes)

    def gradient(n: Array, w: Array) -> Array:
        return jax.grad(lambda free: _rotated(objective, n, turned(_seen(n, w), axes), free))(_nothing(w))

    change = jax.jvp(gradient, primals[:2], tangents[:2])[1]
    inverse = _slopes(objective, primals[0], turned(_seen(*primals[:2]), axes))[1]
    move = -matrices.product(inverse, change[:, None])[:, 0]
    return axes, matrices.product(axes, skew(move, axes.shape[0]))


def _seen(n: Array, w: Array) -> Array:
    """The scatters, with the identity for an empty class, which has no weight: a logarithm is taken of them."""
    return jnp.where((n > 0)[:, None, None], w, jnp.eye(w.shape[-1], dtype=w.dtype)[None])


def _nothing(w: Array) -> Array:
    d = w.shape[-1]
    return jnp.zeros((d * (d - 1) // 2,), w.dtype)


def _rotated(objective: Objective, n: Array, turned: Array, free: Array) -> Array:
    """The objective after a rotation, exact to second order."""
    x = skew(free, turned.shape[-1])
    near = jnp.eye(x.shape[0], dtype=x.dtype) + x + matrices.product(x, x) / 2
    return objective(n, along(turned, near))


def _slopes(objective: Objective, n: Array, turned: Array) -> tuple[Array, Array]:
    """The gradient (P,) in angles of rotation, and the inverse (P, P) of the Hessian.

    Eigenvalues of the Hessian are made positive, so that a step descends. Angles are taken in units of their own
    curvature first. A plane in which no class has a direction of its own is flat: the curvature is at least eps^(1/2).
    """
    value = lambda free: _rotated(objective, n, turned, free)
    gradient, hessian = jax.grad(value)(_nothing(turned)), jax.hessian(value)(_nothing(turned))
    least = float(jnp.finfo(turned.dtype).eps) ** 0.5
    scale = 1 / jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(hessian)), least))
    values, vectors = matrices.eigh(hessian * scale[:, None] * scale[None, :])
    roots = scale[:, None] * vectors / jnp.sqrt(jnp.maximum(jnp.abs(values), least))[None, :]
    return gradient, matrices.product(roots, roots.T)
