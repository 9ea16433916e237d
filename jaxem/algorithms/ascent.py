"""Climbing a smooth function in unconstrained coordinates with an optax optimiser, and never falling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxem.core import trees
from jaxem.core.trees import concatenate

_STUCK = 1e-3  # the share of a step below which halving has not helped

Function = Callable[[Any], Array]


class Pace(NamedTuple):
    """What is carried from one climb to the next."""

    optimizer: Any  # the state of the optimiser
    scale: Array  # the share of the optimiser's step that was last safe to take


class Climb(NamedTuple):
    """Where a climb stands."""

    free: Any
    value: Array
    gradient: Any
    pace: Pace
    moved: Array  # whether any step was taken


def climb(
    optimizer: optax.GradientTransformationExtraArgs, function: Function, free: Any, pace: Pace, steps: int
) -> Climb:
    """``steps`` tries from ``free``: a step is taken if the function does not fall, else the next is half as long."""
    if _learns_curvature(pace.optimizer):
        pace = Pace(optimizer.init(free), pace.scale)
    start = Climb(free, *jax.value_and_grad(function)(free), pace, jnp.bool_(False))
    end, _ = jax.lax.scan(lambda at, _: (_try(optimizer, function, at), None), start, length=steps)
    return end


def drift(
    optimizer: optax.GradientTransformationExtraArgs,
    function_of: Callable[[Array], Function],
    free: Any,
    pace: Pace,
    keys: Array,
) -> Climb:
    """The pace's share of a step for each key, uphill on the function drawn with it, and not judged."""

    def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], tuple[Array, Any]]:
        at, state = carry
        function = function_of(key)
        value, gradient = jax.value_and_grad(function)(at)
        by, state = direction(optimizer, function, at, value, gradient, state)
        return (jax.tree.map(lambda u, s: u + pace.scale * s, at, by), state), (value, gradient)

    (end, state), values = jax.lax.scan(step, (free, pace.optimizer), keys)
    value, gradient = jax.tree.map(lambda leaf: leaf[-1], values)
    return Climb(end, value, gradient, Pace(state, pace.scale), jnp.bool_(True))


def _learns_curvature(state: Any) -> bool:
    """Whether the optimiser is a quasi-Newton method, which takes the change of the function for its curvature."""
    quasi_newton = lambda node: isinstance(node, optax.ScaleByLBFGSState)
    return any(map(quasi_newton, jax.tree.leaves(state, is_leaf=quasi_newton)))


def _try(optimizer: optax.GradientTransformationExtraArgs, function: Function, at: Climb) -> Climb:
    step, state = direction(optimizer, function, at.free, at.value, at.gradient, at.pace.optimizer)
    free = jax.tree.map(lambda u, s: u + at.pace.scale * s, at.free, step)
    value, gradient = jax.value_and_grad(function)(free)
    kept = value >= at.value  # NaN is not
    new = Climb(free, value, gradient, Pace(state, jnp.minimum(2 * at.pace.scale, 1)), jnp.bool_(True))
    return trees.select(kept, new, at._replace(pace=slower(optimizer, at.pace, at.free)))


def direction(
    optimizer: optax.GradientTransformationExtraArgs,
    function: Function,
    free: Any,
    value: Array,
    gradient: Any,
    state: Any,
) -> tuple[Any, Any]:
    """The optimiser's step uphill, and its new state."""
    minus = lambda free: -function(free)  # optax minimises
    down = jax.tree.map(jnp.negative, gradient)
    # Optimisers mix integer and floating dtypes freely; whether the caller's code may is for the caller to say.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        step, state = optimizer.update(down, state, free, value=-value, grad=down, value_fn=minus)
    return jax.tree.map(lambda s, u: s.astype(u.dtype), step, free), state


def slower(optimizer: optax.GradientTransformationExtraArgs, pace: Pace, free: Any) -> Pace:
    """The pace after a step that led downhill: half as long; and where halving has not helped, an optimiser that
    starts afresh: what it remembers of older functions may point downhill for good."""
    state = trees.select(pace.scale < _STUCK, optimizer.init(free), pace.optimizer)
    return Pace(state, pace.scale / 2)


def gain(gradient: Any, curvature: Any) -> Array:
    """What the best step along the gradient g would gain, to second order: (g'g)^2 / (2 |g'Hg|), ``curvature`` = Hg."""
    g, hg = concatenate(jax.tree.leaves(gradient)), concatenate(jax.tree.leaves(curvature))
    squared = g @ g
    return jnp.where(squared > 0, 0.5 * squared**2 / jnp.abs(g @ hg), 0.0)
