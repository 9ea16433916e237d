"""Generalised EM: the M-step by gradient ascent (Dempster, Laird & Rubin 1977; Neal & Hinton 1998)."""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxem.algorithms.protocol import State
from jaxem.core import bound, constraints, trees
from jaxem.core.data import Data, size
from jaxem.core.model import Params, spaces_of
from jaxem.core.trees import concatenate, float_dtype

_STUCK = 1e-3  # the share of a step below which halving has not helped


class Memory(NamedTuple):
    """What GEM carries from one iteration to the next."""

    q: Any  # the posterior at the current parameters
    optimizer: Any  # the state of the optimiser
    scale: Array  # the share of the optimiser's step that was last safe to take


class _Climb(NamedTuple):
    free: Any
    value: Array
    gradient: Any
    optimizer: Any
    scale: Array
    moved: Array


@functools.cache
def _default_optimizer() -> optax.GradientTransformationExtraArgs:
    return optax.lbfgs()  # one object, so that two GEM() are equal and share one compiled program


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GEM:
    r"""An M-step of ``steps`` ascents of Q(theta | q) in unconstrained coordinates, by any optax optimiser.

    A step of the optimiser is taken only if Q (with the log-prior) does not fall; else the next try takes half
    of it. So the ascent law holds at any learning rate. The optimiser's state is carried over.

    Slow is not settled: with a timid optimiser the parameters hardly move long before the optimum. So ``fit``
    calls a GEM fit converged only when, besides the stopping rule, the best step along the gradient g would gain
    at most ``gain_tol`` an observed value (or what rounding error hides):

    .. math:: \tfrac12 (g'g)^2 / |g'Hg| \le gain\_tol \cdot size(data).

    ``optimizer``: default ``optax.lbfgs()``. A freshly built optax optimiser is a new function to JAX and
    compiles anew: build it once and reuse it. Needs ``q_function`` and ``entropy``.
    """

    optimizer: optax.GradientTransformation | None = dataclasses.field(default=None, metadata={"static": True})
    steps: int = dataclasses.field(default=10, metadata={"static": True})
    gain_tol: float = 1e-10

    monotone: ClassVar[bool] = True

    def requires(self) -> tuple[str, ...]:
        return ("q_function", "entropy")

    def _transform(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.optimizer or _default_optimizer())

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        free = constraints.inverse(spaces_of(model), params)
        q = model.e_step(params, data)
        value = bound.objective(model, params, q, data)
        memory = Memory(q, self._transform().init(free), jnp.ones((), float_dtype(free)))
        return State(params, value, jnp.int32(1), jnp.bool_(False), memory)

    def step(self, model: Any, state: State, data: Data) -> State:
        spaces = spaces_of(model)
        q, optimizer, scale = state.memory

        def expected(free: Any) -> Array:
            params = constraints.forward(spaces, free)
            return bound.penalized(model, model.q_function(params, q, data), params)

        free = constraints.inverse(spaces, state.params)
        value, gradient = jax.value_and_grad(expected)(free)
        climb = _Climb(free, value, gradient, optimizer, scale, jnp.bool_(False))
        observed = size(data, value.dtype)
        resolved = jnp.finfo(value.dtype).eps * (jnp.abs(value) + observed)  # Q cannot show a smaller gain
        gain = _gain(expected, free, gradient)
        settled = gain <= jnp.maximum(jnp.asarray(self.gain_tol, value.dtype) * observed, resolved)
        climb, _ = jax.lax.scan(lambda c, _: (self._try(expected, c), None), climb, length=self.steps)
        # The coordinates of the edge of a space are its inside: parameters that did not move stay the same to the bit.
        params = jax.tree.map(
            lambda new, old: jnp.where(climb.moved, new, old),
            constraints.forward(spaces, climb.free),
            state.params,
        )
        q = model.e_step(params, data)
        memory = Memory(q, climb.optimizer, climb.scale)
        return State(params, bound.objective(model, params, q, data), state.evaluations + 1, settled, memory)

    def _try(self, expected: Any, at: _Climb) -> _Climb:
        """One step of the optimiser, kept if Q did not fall."""
        minus = lambda free: -expected(free)  # optax minimises
        down = jax.tree.map(jnp.negative, at.gradient)
        # Optimisers mix integer and floating dtypes freely; whether the caller's code may is for the caller to say.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, optimizer = self._transform().update(
                down, at.optimizer, at.free, value=-at.value, grad=down, value_fn=minus
            )
        free = jax.tree.map(lambda u, step: u + at.scale * step.astype(u.dtype), at.free, updates)
        value, gradient = jax.value_and_grad(expected)(free)
        kept = value >= at.value  # NaN is not
        new = _Climb(free, value, gradient, optimizer, jnp.minimum(2 * at.scale, 1), jnp.bool_(True))
        # What the optimiser remembers of older Qs may point downhill for good: then it starts afresh.
        fresh = trees.select(at.scale < _STUCK, self._transform().init(at.free), at.optimizer)
        old = at._replace(optimizer=fresh, scale=at.scale / 2)
        return jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)


def _gain(expected: Any, free: Any, gradient: Any) -> Array:
    """What the best step along the gradient would gain, to second order."""
    _, curvature = jax.jvp(jax.grad(expected), (free,), (gradient,))
    g, hg = concatenate(jax.tree.leaves(gradient)), concatenate(jax.tree.leaves(curvature))
    squared = g @ g
    return jnp.where(squared > 0, 0.5 * squared**2 / jnp.abs(g @ hg), 0.0)
