"""Deterministic annealing EM (Ueda & Nakano 1998): begins with a flattened posterior and ends with the exact one."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxem.algorithms import schedules
from jaxem.algorithms.em import blank, met, proposed
from jaxem.algorithms.protocol import State
from jaxem.algorithms.schedules import Schedule
from jaxem.core import expectation
from jaxem.core.checks import whole_field
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.core.records import register
from jaxem.core.trees import float_dtype


class Memory(NamedTuple):
    """What AnnealedEM carries from one iteration to the next."""

    summary: Any  # summary of the tempered q at the current parameters
    met: Array  # number of E-steps before the last one


@register
@dataclasses.dataclass(frozen=True)
class AnnealedEM:
    r"""EM with a tempered posterior: the E-step uses a power of the posterior, and the power rises to 1.

    .. math:: q(z) \propto p(x, z \mid \theta)^{\beta_t}, \qquad \theta \leftarrow \text{m\_step}(q)

    At a small beta every observation belongs partly to every class, and the bound has fewer local optima. At beta = 1
    the iteration is that of EM.

    The best first value of beta depends on the model. Classes that differ only in a mean may start near beta = 0: they
    merge there, and separate again one by one. Classes that each have a variance never separate once they have merged
    (below a beta of about 0.5), and the fit stays that of one class. The default is meant for these.

    The objective is the log-likelihood (plus the log-prior). It may fall while beta is not 1. ``fit`` reports no
    convergence before a step was made at beta = 1.

    The model must have ``tempered_e_step`` and an M-step.

    Arguments:
        schedule: an optax schedule, count -> inverse temperature beta = 1 / T > 0. Count 0 is the E-step at the start,
            and each later E-step adds 1. Default 0.7 + 0.015 count, which is 1 from count 20 on.
        block_size: observations per block, as in ``EM``; default ``None``: as many as fit the cache.

    Raises:
        ValueError: ``schedule`` is not a function, or ``block_size`` is not a whole number of at least 1.

    Source: Ueda & Nakano (1998).
    """

    schedule: Schedule = dataclasses.field(default=schedules.heating, metadata={"static": True})
    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    by_sums: ClassVar[bool] = True
    monotone: ClassVar[bool] = False
    needs_maximum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        schedules.check(self.schedule, "AnnealedEM")
        whole_field(self, "block_size", 1, optional=True)

    def random(self) -> bool:
        return False

    def requires(self) -> tuple[str, ...]:
        return ("tempered_e_step", "m_step")

    def before(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        beta = self._beta(jnp.int32(0), float_dtype(params))
        state = blank(model, params, data, self.block_size, "tempered", (beta,))
        return state._replace(memory=Memory(state.memory, jnp.int32(-1)))

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self.move(model, self.before(model, params, data, key), params, data)

    def step(self, model: Any, state: State, data: Data, begins: Array | bool = False) -> State:
        params, state = proposed(self, model, state, data, begins)
        return self.move(model, state, params, data)

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        dtype = float_dtype(state.params)
        # A schedule may stay within rounding error of 1 for good.
        cold = jnp.abs(self._beta(state.memory.met, dtype) - 1) <= 8 * jnp.finfo(dtype).eps
        params = expectation.maximize(model, state.params, state.memory.summary, data)
        return params, state._replace(settled=cold)

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        count = state.memory.met + 1
        beta = self._beta(count, float_dtype(params))
        new = met(model, state, params, data, self.block_size, "tempered", (beta,))
        return new._replace(memory=Memory(new.memory, count))

    def sums(self, state: State) -> tuple[Params, Any]:
        return (state.params, state.memory.summary)

    def _beta(self, count: Array, dtype: jnp.dtype) -> Array:
        return schedules.value(self.schedule, count, dtype)
