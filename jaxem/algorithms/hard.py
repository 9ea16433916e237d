"""Classification EM (Celeux & Govaert 1992): the most probable latent values instead of all of them."""

import dataclasses
from typing import Any, ClassVar

from jax import Array

from jaxem.algorithms.em import met, unmet
from jaxem.algorithms.protocol import State
from jaxem.core import expectation
from jaxem.core.checks import whole_field
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.core.records import register


@register
@dataclasses.dataclass(frozen=True)
class HardEM:
    r"""Alternate a classification and the exact M-step: z <- argmax_z p(z | x, theta), theta <- m_step(z).

    It climbs the bound over all q that are sure of z, and so ``Fit.objective`` is not the log-likelihood but the
    classification likelihood (plus the log-prior)

    .. math:: C(\theta) = \max_z \log p(x, z \mid \theta) \le \log p(x \mid \theta),

    which never falls, and stands still after finitely many steps. Faster than EM and biased: classes come out smaller
    and further apart than they are. For an HMM it is Viterbi training; for spherical classes of one size and weight,
    k-means. A class that loses all its observations ends the fit as ``DEGENERATE`` where the model says so.

    ``block_size``: as in ``EM``. Needs ``c_step``, ``q_function``, ``entropy`` and an M-step.

    Source: Celeux & Govaert (1992).
    """

    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    by_sums: ClassVar[bool] = True
    monotone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_field(self, "block_size", 1, optional=True)

    def random(self) -> bool:
        return False

    def requires(self) -> tuple[str, ...]:
        return ("c_step", "q_function", "entropy", "m_step")

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self.move(model, unmet(params), params, data)

    def step(self, model: Any, state: State, data: Data) -> State:
        params, state = self.propose(model, state, data)
        return self.move(model, state, params, data)

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        return expectation.maximize(model, state.params, state.memory, data), state

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        # The bound at a q without entropy is Q = max_z log p(x, z).
        return met(model, state, params, data, self.block_size, "mode")

    def sums(self, state: State) -> tuple[Params, Any]:
        return (state.params, state.memory)
