"""Gradient ascent of a smooth function in unconstrained coordinates by an optax optimiser, without descent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxem.algorithms import metric as metrics
from jaxem.algorithms.metric import Metric, times
from jaxem.core import bound, trees

_STUCK = 1e-3  # if the share of a step has been halved to below this, halving has not helped

Function = Callable[[Array], Array]


class Optimizer(NamedTuple):
    """An optax optimiser of trees, which are vectors (P,) here; the function is a sum over ``size`` values."""

    transform: optax.GradientTransformationExtraArgs
    unravel: Callable[[Array], Any]
    size: Array

    def init(self, like: Array) -> Any:
        """The optimiser's state before the first step; in its coordinates the metric's origin is zero."""
        return self.transform.init(self.unravel(jnp.zeros_like(like)))

    def afresh(self, like: Array, state: Any) -> Any:
        """The initial state again, except for the counts of the schedules."""
        scheduled = lambda node: isinstance(node, optax.ScaleByScheduleState)
        keep = lambda old, new: old if scheduled(old) else new
        return jax.tree.map(keep, state, self.init(like), is_leaf=scheduled)


class Pace(NamedTuple):
    """What is carried from one ascent to the next."""

    optimizer: Any  # state of the optimiser
    scale: Array  # share of the optimiser's step that is taken; at most 1
    metric: Metric  # coordinates in which the optimiser works
    climbs: Array  # number of ascents so far


class Climb(NamedTuple):
    """State of an ascent."""

    free: Array  # (P,)
    value: Array
    gradient: Array
    pace: Pace
    moved: Array  # whether any step was taken


def start(optimizer: Optimizer, metric: Metric) -> Pace:
    """The pace before the first ascent, which replaces the metric by its own."""
    return Pace(optimizer.init(metric.origin), jnp.ones((), metric.origin.dtype), metric, jnp.int32(0))


def measured(optimizer: Optimizer, pace: Pace, metric: Metric) -> Pace:
    """The pace of the next ascent, where ``metric`` was measured at its starting point.

    The optimiser's state belongs to its coordinates. So the coordinates are kept until the metric has changed, which is
    checked at ascents 1, 2, 4, 8, ... and where halving did not help. Then the optimiser is reset, except for its
    schedules. A quasi-Newton method is reset at every ascent, because it would mistake the change of the function for
    curvature.
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
    """``steps`` tries from ``free``: a step that lowers the function is refused, and the next is half as long."""
    begin = Climb(free, *jax.value_and_grad(function)(free), pace, jnp.bool_(False))
    end, _ = jax.lax.scan(lambda at, _: (_try(optimizer, function, at), None), begin, length=steps)
    return end._replace(moved=end.moved | ~trees.all_finite(begin.gradient), free=_defined(begin.gradient, end.free))


def drift(
    optimizer: Optimizer, function_of: Callable[[Array], Function], free: Array, pace: Pace, keys: Array
) -> Climb:
    """One step uphill for each key, on the function drawn with that key, scaled by the pace; none is refused."""

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
    """``free``, or NaN where the gradient is not finite: a point without a gradient must not look stationary."""
    return jnp.where(trees.all_finite(gradient), free, jnp.nan)


def _learns_curvature(state: Any) -> bool:
    """Whether the optimiser is a quasi-Newton method, which mistakes a change of the function for curvature."""
    quasi_newton = lambda node: isinstance(node, optax.ScaleByLBFGSState)
    return any(map(quasi_newton, jax.tree.leaves(state, is_leaf=quasi_newton)))


def _try(optimizer: Optimizer, function: Function, at: Climb) -> Climb:
    step, state = direction(optimizer, function, at.free, at.value, at.gradient, at.pace)
    by = at.pace.scale * step
    free = at.free + by
    value, gradient = jax.value_and_grad(function)(free)
    rise, blur = value - at.value, bound.resolution(at.value, optimizer.size)
    # Where rounding hides the difference, the gradients at both ends decide. NaN fails both comparisons.
    uphill = jnp.where(jnp.abs(rise) <= blur, (at.gradient + gradient) @ by >= 0, rise > 0)
    kept = uphill & trees.all_finite(gradient)
    faster = at.pace._replace(optimizer=state, scale=jnp.minimum(2 * at.pace.scale, 1))
    new = Climb(free, value, gradient, faster, jnp.bool_(True))
    held_back = slower(optimizer, at.pace, trees.all_finite(step))
    return trees.select(kept, new, at._replace(pace=held_back))


def direction(
    optimizer: Optimizer, function: Function, free: Array, value: Array, gradient: Array, pace: Pace
) -> tuple[Array, Any]:
    """The optimiser's step uphill, and its new state. The optimiser works in the metric's coordinates, per value."""
    here, size, unravel = pace.metric.into(free), optimizer.size, optimizer.unravel
    w = pace.metric.forward
    minus = lambda tree: -function(free + times(w, _flat(tree) - here)) / size  # optax minimises
    down = unravel(-times(w.T, gradient) / size)
    # Optimisers mix integer and floating dtypes freely; the caller's own strictness does not apply to them.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        step, state = optimizer.transform.update(
            down, pace.optimizer, unravel(here), value=-value / size, grad=down, value_fn=minus
        )
    return times(w, _flat(step).astype(free.dtype)), state


def slower(optimizer: Optimizer, pace: Pace, sound: Array | bool = True) -> Pace:
    """The pace after a step downhill: half the scale.

    Where halving has not helped, or the step was NaN, the optimiser is reset too: what it remembers of earlier
    functions may point downhill for good.
    """
    afresh = (pace.scale < _STUCK) | ~jnp.asarray(sound)
    state = trees.select(afresh, optimizer.afresh(pace.metric.origin, pace.optimizer), pace.optimizer)
    return pace._replace(optimizer=state, scale=pace.scale / 2)


def holds_nan(state: Any) -> Array:
    """Whether an optimiser's state holds a NaN."""
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    return jnp.stack([jnp.bool_(False), *(jnp.isnan(leaf).any() for leaf in floats)]).any()


def _flat(tree: Any) -> Array:
    return trees.concatenate(tree)
