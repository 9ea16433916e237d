"""Deterministic annealing EM (Ueda & Nakano 1998): a flat posterior first, the true one in the end."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxem.algorithms import schedules
from jaxem.algorithms.em import met, unmet
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

    summary: Any  # of the tempered q at the current parameters
    met: Array  # E-steps before this one


@register
@dataclasses.dataclass(frozen=True)
class AnnealedEM:
    r"""EM whose E-step takes a power of the posterior, which ``schedule`` raises to 1.

    .. math:: q(z) \propto p(x, z \mid \theta)^{\beta_t}, \qquad \theta \leftarrow \text{m\_step}(q)

    ``schedule``: an optax schedule, count -> inverse temperature beta = 1 / T > 0 of the E-step at the start (count 0)
    and of each one after it; default 0.7 + 0.015 count, 1 from the 20th on. At a small beta all observations belong a
    little to every class, and the bound has fewer hills to be stuck on. At beta = 1 the iteration is that of EM.

    How small is a matter of the model. Classes that differ only in a mean may start near beta = 0, where they merge,
    and part again one by one. Classes that have a variance each never part again once they have merged (below a beta
    of about 0.5): they stay what one class would be. The default is for these.

    The objective is the log-likelihood (plus the log-prior), which may fall while beta is not 1; ``fit`` calls nothing
    converged before a step was made at 1.

    ``block_size``: as in ``EM``. Needs ``tempered_e_step`` and an M-step.

    Source: Ueda & Nakano (1998).
    """

    schedule: Schedule = dataclasses.field(default=schedules.heating, metadata={"static": True})
    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    by_sums: ClassVar[bool] = True
    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        schedules.check(self.schedule, "AnnealedEM")
        whole_field(self, "block_size", 1, optional=True)

    def random(self) -> bool:
        return False

    def requires(self) -> tuple[str, ...]:
        return ("tempered_e_step", "m_step")

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self._met(model, unmet(params), params, data, jnp.int32(0))

    def step(self, model: Any, state: State, data: Data) -> State:
        params, state = self.propose(model, state, data)
        return self.move(model, state, params, data)

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        dtype = float_dtype(state.params)
        # What is rounding error of one may stand there for good.
        cold = jnp.abs(self._beta(state.memory.met, dtype) - 1) <= 8 * jnp.finfo(dtype).eps
        params = expectation.maximize(model, state.params, state.memory.summary, data)
        return params, state._replace(settled=cold)

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        return self._met(model, state, params, data, state.memory.met + 1)

    def sums(self, state: State) -> tuple[Params, Any]:
        return (state.params, state.memory.summary)

    def _met(self, model: Any, state: State, params: Params, data: Data, count: Array) -> State:
        beta = self._beta(count, float_dtype(params))
        new = met(model, state, params, data, self.block_size, "tempered", (beta,))
        return new._replace(memory=Memory(new.memory, count))

    def _beta(self, count: Array, dtype: jnp.dtype) -> Array:
        return schedules.value(self.schedule, count, dtype)
