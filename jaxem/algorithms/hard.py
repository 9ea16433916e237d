"""Classification EM (Celeux & Govaert 1992): the most probable latent values in place of their posterior."""

import dataclasses
from typing import Any, ClassVar

from jax import Array

from jaxem.algorithms.em import blank, climbed, met, proposed
from jaxem.algorithms.protocol import State
from jaxem.core import expectation
from jaxem.core.checks import whole_field
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.core.records import register


@register
@dataclasses.dataclass(frozen=True)
class HardEM:
    r"""Classification EM: alternates z <- argmax_z p(z | x, theta) and the exact M-step theta <- m_step(z).

    It maximises the evidence lower bound over distributions q that put all mass on one z. So ``Fit.objective`` is not
    the log-likelihood but the classification likelihood (plus the log-prior)

    .. math:: C(\theta) = \max_z \log p(x, z \mid \theta) \le \log p(x \mid \theta).

    The objective never falls, and stops changing after finitely many steps. HardEM is faster than EM and biased: the
    estimated classes are smaller and further apart than the true ones. For an HMM it is Viterbi training; for spherical
    classes of equal size and weight it is k-means. A class that loses all its observations ends the fit as
    ``DEGENERATE`` where the model reports it.

    The model must have ``c_step``, ``q_function``, ``entropy`` and an M-step.

    Arguments:
        block_size: observations per block, as in ``EM``; default ``None``: as many as fit the cache.

    Raises:
        ValueError: ``block_size`` is not a whole number of at least 1.

    Source: Celeux & Govaert (1992).
    """

    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    by_sums: ClassVar[bool] = True
    monotone: ClassVar[bool] = True
    finite: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_field(self, "block_size", 1, optional=True)

    def random(self) -> bool:
        return False

    def requires(self) -> tuple[str, ...]:
        return ("c_step", "q_function", "entropy", "m_step")

    def before(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return blank(model, params, data, self.block_size, "mode")

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self.move(model, self.before(model, params, data, key), params, data)

    def step(self, model: Any, state: State, data: Data, begins: Array | bool = False) -> State:
        params, found = proposed(self, model, state, data, begins)
        return climbed(self, model, found, params, data)

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        return expectation.maximize(model, state.params, state.memory, data), state

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        # This q has no entropy, so the bound is Q = max_z log p(x, z).
        return met(model, state, params, data, self.block_size, "mode")

    def sums(self, state: State) -> tuple[Params, Any]:
        return (state.params, state.memory)
