"""Generalised EM: the M-step by gradient ascent (Dempster, Laird & Rubin 1977; Neal & Hinton 1998)."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxem.algorithms import blocks as parts
from jaxem.algorithms.ascent import Function, Pace, climb, drift, gain, slower
from jaxem.algorithms.blocks import Block
from jaxem.algorithms.protocol import State
from jaxem.core import bound, constraints, expectation, trees
from jaxem.core.checks import brief, instance, number, whole_field
from jaxem.core.data import Data, count, rows, size
from jaxem.core.model import Params, has, is_additive, require, spaces_of
from jaxem.core.records import register
from jaxem.core.trees import float_dtype


class Memory(NamedTuple):
    """What GEM carries from one iteration to the next."""

    q: Any  # the posterior at the current parameters; None where the M-step sees batches
    paces: tuple[Pace | None, ...]  # of each block; None where it has a maximiser
    key: Array | None


@functools.cache
def _default_optimizer() -> optax.GradientTransformationExtraArgs:
    return optax.lbfgs()  # one object, so that two GEM() are equal and share one compiled program


@register
@dataclasses.dataclass(frozen=True)
class GEM:
    r"""An M-step of ``steps`` ascents of Q(theta | q) in unconstrained coordinates, by any optax optimiser.

    A step of the optimiser is taken only if Q (with the log-prior) does not fall; else the next try takes half
    of it. So the ascent law holds at any learning rate. The optimiser's state is carried over (schedules, momentum),
    but for L-BFGS, which would take the change of Q from one iteration to the next for curvature.

    Slow is not settled: with a timid optimiser the parameters hardly move long before the optimum. So ``fit``
    calls a GEM fit converged only when, besides the stopping rule, the best step along the gradient g would gain
    at most ``gain_tol`` an observed value (or what rounding error hides):

    .. math:: \tfrac12 (g'g)^2 / |g'Hg| \le gain\_tol \cdot size(data).

    ``optimizer``: default ``optax.lbfgs()``. A freshly built optax optimiser is a new function to JAX and
    compiles anew: build it once and reuse it. Needs ``q_function`` and ``entropy``.

    ``blocks``: climb over one ``Block`` of parameters after the other, each by the optimiser or by a closed form (ECM,
    Meng & Rubin 1993), on Q or, the last ones, on the log-likelihood itself (ECME, Liu & Rubin 1994). Parameters in no
    block are held fixed.

    ``batch_size``: each ascent sees as many observations, drawn anew with ``fit``'s key, for models whose
    observations are independent. The whole iteration is then judged by the objective: where that fell, it is refused
    (counted as a fall-back), and the next one goes half as far.
    """

    optimizer: optax.GradientTransformation | None = dataclasses.field(default=None, metadata={"static": True})
    steps: int = dataclasses.field(default=10, metadata={"static": True})
    gain_tol: float = 1e-10
    blocks: tuple[Block, ...] = dataclasses.field(default=(), metadata={"static": True})
    batch_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    monotone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_field(self, "steps", 1)
        whole_field(self, "batch_size", 1, optional=True)
        number("GEM: gain_tol", self.gain_tol, 0, math.inf)
        if self.optimizer is not None:
            instance("GEM: optimizer", self.optimizer, "an optax optimiser, such as optax.adam(0.1)", "init", "update")
        if not isinstance(self.blocks, tuple) or not all(isinstance(block, Block) for block in self.blocks):
            raise ValueError(f"GEM: blocks must be a tuple of jaxem.Block; got {brief(self.blocks)}")
        likelihood = [block.likelihood for block in self.blocks]
        if likelihood != sorted(likelihood):
            raise ValueError(
                "GEM: blocks that climb the likelihood must come after those that climb Q, which holds only at the "
                "parameters of the E-step"
            )
        if self.batch_size is not None and any(block.maximize for block in self.blocks):
            raise ValueError("GEM: a block with a closed form needs all observations; leave batch_size out")

    def random(self) -> bool:
        return self.batch_size is not None

    def requires(self) -> tuple[str, ...]:
        likelihood = any(block.likelihood for block in self.blocks)
        return ("e_step", "q_function", "entropy", *(("log_likelihood",) if likelihood else ()))

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        if self.batch_size is not None and not (is_additive(model) or has(model, "log_prob")):
            # What has neither may have no observations at all.
            require(model, "GEM in batches", "log_prob")
        free = constraints.inverse(spaces_of(model), params)
        one = jnp.ones((), float_dtype(free))
        paces = [
            None if block.maximize else Pace(self._transform.init(parts.part(block.holds(params), free)), one)
            for block in self._blocks(params)
        ]
        state = State(
            params,
            None,
            jnp.int32(0),
            jnp.int32(0),
            jnp.bool_(False),
            Memory(None, tuple(paces), key if self.random() else None),
        )
        return self.move(model, state, params, data)

    def step(self, model: Any, state: State, data: Data) -> State:
        params, proposed = self.propose(model, state, data)
        new = self.move(model, proposed, params, data)
        return self._judged(model, state, new) if self.random() else new

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        memory = state.memory
        params, paces, key = state.params, [], memory.key
        for block, pace in zip(self._blocks(params), memory.paces, strict=True):
            holds = block.holds(params)
            if block.maximize is not None:
                reached = block.maximize(params, memory.q, data)
            else:
                key, here = (None, None) if key is None else jax.random.split(key)
                reached, pace = self._ascend(model, block, params, pace, state, data, here)
            params = parts.merge(holds, parts.part(holds, reached), params)
            paces.append(pace)
        settled = self._settled(model, state, data)
        return params, state._replace(settled=settled, memory=Memory(memory.q, tuple(paces), key))

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        if not self.random():
            q = model.e_step(params, data)
            objective = bound.objective(model, params, q, data)
        else:
            q, on = None, lambda q, block: bound.evidence(model, params, q, block)
            objective = bound.penalized(model, _over_blocks(model, params, data, on), params)
        memory = state.memory._replace(q=q)
        return state._replace(params=params, objective=objective, evaluations=state.evaluations + 1, memory=memory)

    @property
    def _transform(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.optimizer or _default_optimizer())

    def _blocks(self, params: Params) -> tuple[Block, ...]:
        return self.blocks or (Block(tuple(trees.leaf_names(params))),)

    def _ascend(
        self, model: Any, block: Block, params: Params, pace: Any, state: State, data: Data, key: Array | None
    ) -> tuple[Params, Pace]:
        """The parameters after climbing over one block, from ``params``, by the bound touching at ``state.params``."""
        holds = block.holds(params)
        free = constraints.inverse(spaces_of(model), params)

        def forward(part: Any) -> Params:
            return constraints.forward(spaces_of(model), parts.merge(holds, part, free), params)

        def on_all(part: Any) -> Array:
            return _climbed(model, block, forward(part), state.memory.q, data, 1.0)

        def on_batch(key: Array) -> Function:
            n, size = count(data), self.batch_size
            assert size is not None
            batch = rows(data, jax.random.randint(key, (size,), 0, n))
            q = model.e_step(state.params, batch)
            return lambda part: _climbed(model, block, forward(part), q, batch, n / size)

        start = parts.part(holds, free)
        if key is None:
            end = climb(self._transform, on_all, start, pace, self.steps)
        else:
            end = drift(self._transform, on_batch, start, pace, jax.random.split(key, self.steps))
        # There and back is the same but for rounding: what did not move stays the same to the bit.
        return trees.select(end.moved, forward(end.free), params), end.pace

    def _judged(self, model: Any, old: State, new: State) -> State:
        """An iteration on batches, if it raised the objective; else the state before it, to try half as far."""
        free = constraints.inverse(spaces_of(model), old.params)
        paces = new.memory.paces
        blocks = self._blocks(old.params)
        faster = [Pace(pace.optimizer, jnp.minimum(2 * pace.scale, 1)) for pace in paces]
        held_back = [
            slower(self._transform, pace, parts.part(block.holds(old.params), free))
            for pace, block in zip(paces, blocks, strict=True)
        ]
        kept = new._replace(memory=new.memory._replace(paces=tuple(faster)))
        refused = new._replace(
            params=old.params,
            objective=old.objective,
            fallbacks=new.fallbacks + 1,
            settled=jnp.bool_(False),
            memory=new.memory._replace(paces=tuple(held_back)),
        )
        assert new.objective is not None and old.objective is not None
        return trees.select(new.objective >= old.objective, kept, refused)  # NaN is not

    def _settled(self, model: Any, state: State, data: Data) -> Array:
        """Whether even the best step along the gradient of Q at the parameters of the E-step would gain nothing."""
        spaces, q, value = spaces_of(model), state.memory.q, state.objective
        assert value is not None  # init requires a bound
        free = constraints.inverse(spaces, state.params)
        inside = [block.holds(state.params) for block in self._blocks(state.params)]
        holds = jax.tree.map(lambda *each: any(each), *inside)
        part = parts.part(holds, free)

        def forward(part: Any) -> Params:
            return constraints.forward(spaces, parts.merge(holds, part, free), state.params)

        def derivative(slope: Callable[..., Any]) -> Any:
            """``slope(function)`` of Q, in one piece or as a sum over the data, and of the log-prior."""
            on = lambda q, data: slope(lambda part: model.q_function(forward(part), q, data))
            expected = _over_blocks(model, state.params, data, on) if self.random() else on(q, data)
            prior = slope(lambda part: bound.penalized(model, jnp.zeros_like(value), forward(part)))
            return jax.tree.map(jnp.add, expected, prior)

        gradient = derivative(lambda function: jax.grad(function)(part))
        curvature = derivative(lambda function: jax.jvp(jax.grad(function), (part,), (gradient,))[1])
        observed = size(data, value.dtype)
        enough = jnp.maximum(jnp.asarray(self.gain_tol, observed.dtype) * observed, bound.resolution(value, observed))
        return gain(gradient, curvature) <= enough


def _climbed(model: Any, block: Block, params: Params, q: Any, data: Data, share: float) -> Array:
    """What a block climbs: Q, or the log-likelihood, of data that are one of ``share`` parts, and the log-prior."""
    value = model.log_likelihood(params, data) if block.likelihood else model.q_function(params, q, data)
    return bound.penalized(model, share * value, params)


def _over_blocks(model: Any, params: Params, data: Data, function: Callable[..., Any]) -> Any:
    """The sum of ``function(q, data)`` over blocks of the data, q being the posterior at ``params``."""
    size = expectation.default_block_size(model, params, data)
    return expectation.accumulate(lambda block: function(model.e_step(params, block), block), data, size)
