"""Expectation-maximisation (Dempster, Laird & Rubin 1977)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.protocol import State
from jaxem.core import expectation
from jaxem.core.data import Data
from jaxem.core.model import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EM:
    """Alternate the exact E-step and the exact M-step: theta <- m_step(e_step(theta)).

    ``block_size``: observations a block, for models with additive statistics (default: as many as fit the
    cache). One E-step an iteration; it yields the statistics of the next M-step and the objective of the
    current parameters in one pass.
    """

    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    monotone: ClassVar[bool] = True

    def requires(self) -> tuple[str, ...]:
        return ("m_step",)

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self._at(model, params, data, jnp.int32(0))

    def step(self, model: Any, state: State, data: Data) -> State:
        params = expectation.maximize(model, state.params, state.memory, data)
        return self._at(model, params, data, state.evaluations)

    def _at(self, model: Any, params: Params, data: Data, evaluations: Array) -> State:
        summary, objective = expectation.expect(model, params, data, self.block_size)
        return State(params, objective, evaluations + 1, jnp.bool_(True), summary)
