"""Newton's method for an M-step without a closed form: the maximiser of Q over a few free coordinates.

Each step solves with the exact Hessian, plus a ridge that grows where a step fails (Levenberg 1944, Marquardt 1963).
The value never falls below that of the start. Where rounding hides the differences of values, the gradient decides.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices

_MOST = 60  # steps; from a poor start some 10 to 20 are needed, near the maximum 2 or 3


class _At(NamedTuple):
    """A point with the value, gradient and negative Hessian of the function there."""

    v: Array  # (P,)
    value: Array
    gradient: Array
    information: Array  # (P, P)


class _State(NamedTuple):
    at: _At
    ridge: Array  # relative to the diagonal of the information
    steps: Array
    done: Array


def maximizer(make: Callable[[Any], Callable[[Array], Array]], arrays: Any, starts: Array) -> Array:
    """The point v (P,) that maximises ``make(arrays)``, with the derivative of the maximiser in ``arrays``.

    Arguments:
        make: ``make(arrays)`` is the function to maximise, of v.
        arrays: all that it depends on.
        starts: points (S, P); the best of them is the start.
    """
    function = make(jax.lax.stop_gradient(arrays))
    starts = jax.lax.stop_gradient(starts)
    values = jax.vmap(function)(starts)
    first = starts[jnp.where(jnp.isnan(values), -jnp.inf, values).argmax()]
    found = _climb(function, first)
    # The implicit function theorem: dv = I^-1 d(gradient). The value of the last term is zero.
    slope = jax.grad(make(arrays))(found.v)
    moved = _solve(found.information, slope, jnp.zeros((), slope.dtype))
    return found.v + (moved - jax.lax.stop_gradient(moved))


def _climb(function: Callable[[Array], Array], v: Array) -> _At:
    eps = float(jnp.finfo(v.dtype).eps)

    def evaluate(v: Array) -> _At:
        both = jax.value_and_grad(function)
        (value, gradient), push = jax.linearize(both, v)
        rows = jax.vmap(push)(jnp.eye(v.shape[0], dtype=v.dtype))[1]
        return _At(v, value, gradient, -(rows + rows.T) / 2)

    def step(s: _State) -> _State:
        at = s.at
        d = _solve(at.information, at.gradient, s.ridge)
        gain = at.gradient @ d
        new = evaluate(at.v + d)
        blur = eps * (jnp.abs(at.value) + 1)
        rise = new.value - at.value
        left = new.gradient @ _solve(at.information, new.gradient, s.ridge)
        sound = jnp.isfinite(new.value) & jnp.isfinite(new.gradient).all() & jnp.isfinite(new.information).all()
        # The first evaluation is of the start itself. A NaN fails every comparison.
        better = (rise > blur) | ((rise >= -blur) & (left <= gain / 4))
        kept = sound & (better | (s.steps == 0))
        fine = gain <= 8 * blur  # values can no longer tell
        converged = (left <= eps**2 * (jnp.abs(at.value) + 1)) & kept & (s.steps > 0)
        ridge = jnp.where(kept, jnp.where(s.ridge > 1e-4, s.ridge / 16, 0), jnp.maximum(16 * s.ridge, 1e-3))
        done = converged | (~kept & (fine | (ridge > 1e12))) | ((s.steps == 0) & ~sound)
        return _State(jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, at), ridge, s.steps + 1, done)

    p = v.shape[0]
    nothing = jnp.zeros((), v.dtype)
    start = _At(v, nothing - jnp.inf, jnp.zeros_like(v), jnp.eye(p, dtype=v.dtype))
    state = _State(start, nothing, jnp.int32(0), jnp.bool_(False))
    return jax.lax.while_loop(lambda s: ~s.done & (s.steps < _MOST), step, state).at


def _solve(information: Array, slope: Array, ridge: Array) -> Array:
    """(I + ridge diag I)^-1 slope, in units in which the diagonal of I is one; NaN where that is not positive definite.

    A coordinate on which the function does not depend does not move.
    """
    p = slope.shape[0]
    diagonal = jnp.abs(jnp.diagonal(information))
    live = diagonal > 0
    scale = jnp.where(live, jnp.sqrt(jnp.where(live, diagonal, 1)), 1)
    unit = information / (scale[:, None] * scale[None, :])
    least = 8 * p * float(jnp.finfo(slope.dtype).eps)
    unit = unit + jnp.eye(p, dtype=slope.dtype) * jnp.where(live, least + ridge, 1)[:, None]
    factor = matrices.cholesky(unit)
    return matrices.solve(factor, (jnp.where(live, slope, 0) / scale)[:, None])[:, 0] / scale
