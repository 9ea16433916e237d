"""Expectation-maximisation (Dempster, Laird & Rubin 1977)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.protocol import Climber, State
from jaxem.core import bound, constraints, expectation, parameters, trees
from jaxem.core.checks import whole_field
from jaxem.core.compilation import program
from jaxem.core.data import Data, size
from jaxem.core.model import Params, has_m_step, spaces_of
from jaxem.core.records import register
from jaxem.core.spaces import Space


@register
@dataclasses.dataclass(frozen=True)
class EM:
    r"""EM: alternate the exact E-step and the exact M-step.

    .. math:: \theta_{t+1} = \arg\max_\theta \left\{ E_{q_t} \log p(x, z \mid \theta) + \log p(\theta) \right\},
              \qquad q_t = p(z \mid x, \theta_t)

    (the log-prior only where the model has one). Each iteration takes one E-step, which yields the objective of the
    current parameters and the statistics of the next M-step in one pass over the data. Where an array of the parameters
    is only improved (``Param.improves``: gates, regressions), its step is halved until the objective does not fall.

    Arguments:
        block_size: the number of observations in a block, for models with additive statistics; memory then does not
            grow with N. Default: as many as fit the cache.

    Raises:
        ValueError: ``block_size`` is not a whole number of at least 1.

    Source: Dempster, Laird & Rubin (1977).
    """

    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    by_sums: ClassVar[bool] = True
    monotone: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_field(self, "block_size", 1, optional=True)

    def random(self) -> bool:
        return False

    def requires(self) -> tuple[str, ...]:
        return ("e_step", "m_step")

    def before(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return blank(model, params, data, self.block_size)

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self.move(model, self.before(model, params, data, key), params, data)

    def step(self, model: Any, state: State, data: Data, begins: Array | bool = False) -> State:
        params, found = proposed(self, model, state, data, begins)
        return climbed(self, model, found, params, data)

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        return _maximize(model, state.params, state.memory, data), state

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        return met(model, state, params, data, self.block_size)

    def sums(self, state: State) -> tuple[Params, Any]:
        return (state.params, state.memory)


def unmet(params: Params) -> State:
    """Initial state, before any E-step."""
    return State(params, None, jnp.int32(0), jnp.int32(0), jnp.bool_(True), None)


# Programs of their own, so that the check of a step and the loop trace them only once.
_expect = program(static_argnames=("block_size", "by"))(expectation.expect)
_maximize = program(expectation.maximize)


def iteration(model: Any, params: Params, data: Data) -> Any:
    """One E-step and the M-step after it, where the model has one, as they are traced in a fit by ``EM()``."""
    summary, objective = _expect(model, params, data, None, "infer", ())
    return (_maximize(model, params, summary, data) if has_m_step(model) else params), objective


def proposed(algorithm: Climber, model: Any, state: State, data: Data, begins: Array | bool) -> tuple[Params, State]:
    """What the algorithm proposes; the parameters that it has where it ``begins``."""
    if begins is False:
        return algorithm.propose(model, state, data)
    return jax.lax.cond(begins, lambda: (state.params, state), lambda: algorithm.propose(model, state, data))


def blank(model: Any, params: Params, data: Data, *how: Any) -> State:
    """The initial state in the form that it has after an E-step (``how``: as for ``met``): its summary is zero, and its
    objective NaN."""
    start = unmet(params)
    shape = jax.eval_shape(lambda: met(model, start, params, data, *how))
    summary = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape.memory)
    objective = None if shape.objective is None else jnp.full((), jnp.nan, shape.objective.dtype)
    return start._replace(objective=objective, memory=summary)


def met(
    model: Any,
    state: State,
    params: Params,
    data: Data,
    block_size: int | None,
    by: expectation.By = "infer",
    more: tuple[Any, ...] = (),
) -> State:
    """The state after one E-step at ``params``, as they are in memory; its memory is the summary of q.

    ``by`` and ``more`` choose the E-step of EM or of a variant (see ``expectation.expect``).
    """
    params = trees.stored(params, state.evaluations >> 31)
    summary, objective = _expect(model, params, data, block_size, by, more)
    return state._replace(params=params, objective=objective, evaluations=state.evaluations + 1, memory=summary)


_SHORTEST = 2.0**-24  # the smallest part of a step that is tried


def climbed(
    algorithm: Climber, model: Any, state: State, params: Params, data: Data, judged: Array | bool = True
) -> State:
    r"""The state at the proposed ``params``; nearer to the old ones where the objective would fall.

    .. math:: u \leftarrow u_t + 2^{-m} (u_{t+1} - u_t), \qquad m = 0, 1, \dots \text{ until } L \ge L(\theta_t)

    for the coordinates u of the leaves that an M-step only improves (``Param.improves``); others keep their maximum.
    Models that maximise are not touched, and neither is the start (``Climber.before``), which has nothing to fall from,
    nor a step that is not to be ``judged``. Each part that is tried costs an E-step, and counts as a step refused.
    """
    improving = parameters.improving_of(model)
    if improving is None or state.objective is None or not algorithm.monotone:
        return algorithm.move(model, state, params, data)
    least = state.objective - bound.rounding(state.objective, size(data, state.objective.dtype))

    def attempt(carry: tuple[Array, State]) -> tuple[Array, State]:
        share, tried = carry
        short = share < 1
        at = trees.select(short, _nearer(model, improving, state.params, params, share), params)
        found = algorithm.move(model, state._replace(evaluations=tried.evaluations), at, data)
        return share / 2, found._replace(fallbacks=tried.fallbacks + short.astype(jnp.int32))

    def lower(carry: tuple[Array, State]) -> Array:
        share, tried = carry
        assert tried.objective is not None
        fell = ~(tried.objective >= least) & ~jnp.isnan(least)  # NaN is lower
        return (share == 1) | (fell & judged & (share >= _SHORTEST))

    return jax.lax.while_loop(lower, attempt, (jnp.ones((), least.dtype), state))[1]


def _nearer(model: Any, improving: Any, old: Params, new: Params, share: Array) -> Params:
    """``new`` with only a share of the step, in coordinates, of the leaves that an M-step only improves."""

    def part(space: Space, improves: bool, before: Array, after: Array) -> Array:
        if not improves:
            return after
        u, v = space.inverse(before, after), space.inverse(after, after)
        return space.forward(u + share.astype(u.dtype) * (v - u), after)

    spaces = spaces_of(model)
    return constraints.linked(spaces, constraints.each(part, spaces, improving, old, new))
