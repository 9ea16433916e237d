"""Expectation-maximisation (Dempster, Laird & Rubin 1977)."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.protocol import State
from jaxem.core import expectation
from jaxem.core.checks import whole_field
from jaxem.core.compilation import program
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.core.records import register


@register
@dataclasses.dataclass(frozen=True)
class EM:
    r"""EM: alternate the exact E-step and the exact M-step.

    .. math:: \theta_{t+1} = \arg\max_\theta \left\{ E_{q_t} \log p(x, z \mid \theta) + \log p(\theta) \right\},
              \qquad q_t = p(z \mid x, \theta_t)

    (the log-prior only where the model has one). Each iteration takes one E-step, which yields the objective of the
    current parameters and the statistics of the next M-step in one pass over the data.

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

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self.move(model, unmet(params), params, data)

    def step(self, model: Any, state: State, data: Data) -> State:
        params, state = self.propose(model, state, data)
        return self.move(model, state, params, data)

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        return expectation.maximize(model, state.params, state.memory, data), state

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        return met(model, state, params, data, self.block_size)

    def sums(self, state: State) -> tuple[Params, Any]:
        return (state.params, state.memory)


def unmet(params: Params) -> State:
    """Initial state, before any E-step."""
    return State(params, None, jnp.int32(0), jnp.int32(0), jnp.bool_(True), None)


# A compiled program of its own, so that the start, the check of a step and the loop trace it only once.
_expect = program(static_argnames=("block_size", "by"))(expectation.expect)


def met(
    model: Any,
    state: State,
    params: Params,
    data: Data,
    block_size: int | None,
    by: expectation.By = "infer",
    more: tuple[Any, ...] = (),
) -> State:
    """The state after one E-step at ``params``; its memory is the summary of q.

    ``by`` and ``more`` choose the E-step of EM or of a variant (see ``expectation.expect``).
    """
    summary, objective = _expect(model, params, data, block_size, by, more)
    return state._replace(params=params, objective=objective, evaluations=state.evaluations + 1, memory=summary)
