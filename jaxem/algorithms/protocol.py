"""How to climb: what an algorithm is."""

from typing import Any, ClassVar, NamedTuple, Protocol

from jax import Array

from jaxem.core.data import Data
from jaxem.core.model import Params


class State(NamedTuple):
    """Where an algorithm stands; the objective belongs to *these* parameters."""

    params: Params
    objective: Array | None  # None for a model without a bound
    evaluations: Array  # E-steps paid for so far
    settled: Array  # False while the algorithm knows that it merely failed to move, or could still climb
    memory: Any  # what the algorithm itself carries


class Algorithm(Protocol):
    """``init`` evaluates the start, ``step`` climbs once; ``monotone`` promises that no step lowers the objective.

    An algorithm is a frozen dataclass registered as a pytree. It never judges itself: ``fit`` does.
    """

    monotone: ClassVar[bool]  # whether a lower objective is an error (``Status.DECREASED``)

    def requires(self) -> tuple[str, ...]:
        """The names of what a model must offer."""
        ...

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        """The state at the start."""
        ...

    def step(self, model: Any, state: State, data: Data) -> State:
        """The state after one more iteration."""
        ...
