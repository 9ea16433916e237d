"""Climbing a smooth function in unconstrained coordinates with an optax optimiser, and never falling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxem.algorithms import metric as metrics
from jaxem.algorithms.metric import Metric, times
from jaxem.core import bound, trees

_STUCK = 1e-3  # the share of a step below which halving has not helped

Function = Callable[[Array], Array]


class Optimizer(NamedTuple):
    """An optax optimiser of trees that are here vectors (P,), of a function that is a sum over ``size`` values."""

    transform: optax.GradientTransformationExtraArgs
    unravel: Callable[[Array], Any]
    size: Array

    def init(self, like: Array) -> Any:
        """The state before the first step, in coordinates of which the metric's origin is zero."""
        return self.transform.init(self.unravel(jnp.zeros_like(like)))

    def afresh(self, like: Array, state: Any) -> Any:
        """The state of an optimiser that has forgotten all but how far its schedules are."""
        scheduled = lambda node: isinstance(node, optax.ScaleByScheduleState)
        keep = lambda old, new: old if scheduled(old) else new
        return jax.tree.map(keep, state, self.init(like), is_leaf=scheduled)


class Pace(NamedTuple):
    """What is carried from one climb to the next."""

    optimizer: Any  # the state of the optimiser
    scale: Array  # the share of the optimiser's step that was last safe to take
    metric: Metric  # what the optimiser sees as coordinates
    climbs: Array  # so far


class Climb(NamedTuple):
    """Where a climb stands."""

    free: Array  # (P,)
    value: Array
    gradient: Array
    pace: Pace
    moved: Array  # whether any step was taken


def start(optimizer: Optimizer, metric: Metric) -> Pace:
    """Before the first climb; the metric is the first climb's to choose."""
    return Pace(optimizer.init(metric.origin), jnp.ones((), metric.origin.dtype), metric, jnp.int32(0))


def measured(optimizer: Optimizer, pace: Pace, metric: Metric) -> Pace:
    """The pace of another climb, in a ``metric`` taken where that begins.

    What an optimiser remembers belongs to its coordinates. So they stay what they are until the metric differs, which
    is asked at climbs 1, 2, 4, 8, ... and where halving did not help; then the optimiser starts afresh, but for its
    schedules. A quasi-Newton method always does, for it would take the change of the function for curvature.
    """
    afresh = Pace(optimizer.afresh(metric.origin, pace.optimizer), pace.scale, metric, pace.climbs + 1)
    if _learns_curvature(pace.optimizer):
        return afresh
    asked = (pace.climbs & (pace.climbs - 1)) == 0
    stuck = pace.scale < _STUCK
    renewed = (pace.climbs == 0) | ((asked | stuck) & metrics.differ(metric, pace.metric))
    afresh = afresh._replace(scale=jnp.ones_like(pace.scale))
    return trees.select(renewed, afresh, pace._replace(climbs=pace.climbs + 1))


def climb(optimizer: Optimizer, function: Function, free: Array, pace: Pace, steps: int) -> Climb:
    """``steps`` tries from ``free``: a step is taken if the function does not fall, else the next is half as long."""
    begin = Climb(free, *jax.value_and_grad(function)(free), pace, jnp.bool_(False))
    end, _ = jax.lax.scan(lambda at, _: (_try(optimizer, function, at), None), begin, length=steps)
    return end._replace(moved=end.moved | ~trees.all_finite(begin.gradient), free=_defined(begin.gradient, end.free))


def drift(
    optimizer: Optimizer, function_of: Callable[[Array], Function], free: Array, pace: Pace, keys: Array
) -> Climb:
    """The pace's share of a step for each key, uphill on the function drawn with it, and not judged."""

    def step(carry: tuple[Array, Any], key: Array) -> tuple[tuple[Array, Any], tuple[Array, Array]]:
        at, state = carry
        function = function_of(key)
        value, gradient = jax.value_and_grad(function)(at)
        by, state = direction(optimizer, function, at, value, gradient, pace._replace(optimizer=state))
        return (at + pace.scale * by, state), (value, gradient)

    (end, state), values = jax.lax.scan(step, (free, pace.optimizer), keys)
    value, gradient = jax.tree.map(lambda leaf: leaf[-1], values)
    return Climb(end, value, gradient, pace._replace(optimizer=state), jnp.bool_(True))


def _defined(gradient: Array, free: Array) -> Array:
    """``free``, or NaN where there is no way up, for no gradient: what cannot be climbed must not seem to stand."""
    return jnp.where(trees.all_finite(gradient), free, jnp.nan)


def _learns_curvature(state: Any) -> bool:
    """Whether the optimiser is a quasi-Newton method, which takes the change of the function for its curvature."""
    quasi_newton = lambda node: isinstance(node, optax.ScaleByLBFGSState)
    return any(map(quasi_newton, jax.tree.leaves(state, is_leaf=quasi_newton)))


def _try(optimizer: Optimizer, function: Function, at: Climb) -> Climb:
    step, state = direction(optimizer, function, at.free, at.value, at.gradient, at.pace)
    by = at.pace.scale * step
    free = at.free + by
    value, gradient = jax.value_and_grad(function)(free)
    rise, blur = value - at.value, bound.resolution(at.value, optimizer.size)
    # A difference that rounding hides is known by the slopes at its ends. NaN is neither.
    uphill = jnp.where(jnp.abs(rise) <= blur, (at.gradient + gradient) @ by >= 0, rise > 0)
    kept = uphill & trees.all_finite(gradient)
    faster = at.pace._replace(optimizer=state, scale=jnp.minimum(2 * at.pace.scale, 1))
    new = Climb(free, value, gradient, faster, jnp.bool_(True))
    held_back = slower(optimizer, at.pace, trees.all_finite(step))
    return trees.select(kept, new, at._replace(pace=held_back))


def direction(
    optimizer: Optimizer, function: Function, free: Array, value: Array, gradient: Array, pace: Pace
) -> tuple[Array, Any]:
    """The optimiser's step uphill, and its new state. It sees the coordinates of the metric, and means per value."""
    here, size, unravel = pace.metric.into(free), optimizer.size, optimizer.unravel
    w = pace.metric.forward
    minus = lambda tree: -function(free + times(w, _flat(tree) - here)) / size  # optax minimises
    down = unravel(-times(w.T, gradient) / size)
    # Optimisers mix integer and floating dtypes freely; whether the caller's code may is for the caller to say.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        step, state = optimizer.transform.update(
            down, pace.optimizer, unravel(here), value=-value / size, grad=down, value_fn=minus
        )
    return times(w, _flat(step).astype(free.dtype)), state


def slower(optimizer: Optimizer, pace: Pace, sound: Array | bool = True) -> Pace:
    """The pace after a step that led downhill: half as long; and where halving has not helped, or the step was NaN, an
    optimiser that starts afresh: what it remembers of older functions may point downhill for good."""
    afresh = (pace.scale < _STUCK) | ~jnp.asarray(sound)
    state = trees.select(afresh, optimizer.afresh(pace.metric.origin, pace.optimizer), pace.optimizer)
    return pace._replace(optimizer=state, scale=pace.scale / 2)


def holds_nan(state: Any) -> Array:
    """Whether anything that an optimiser remembers is NaN."""
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    return jnp.stack([jnp.bool_(False), *(jnp.isnan(leaf).any() for leaf in floats)]).any()


def _flat(tree: Any) -> Array:
    return trees.concatenate(jax.tree.leaves(tree))
