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
    fallbacks: Array  # bold steps refused so far, because they would have lowered the objective
    settled: Array  # False while the algorithm knows that it merely failed to move, or could still climb
    memory: Any  # what the algorithm itself carries


class Algorithm(Protocol):
    """``init`` evaluates the start, ``step`` climbs once; ``monotone`` promises that no step lowers the objective.

    An algorithm is a frozen dataclass registered as a pytree. It never judges itself: ``fit`` does.
    """

    monotone: ClassVar[bool]  # whether a lower objective is an error (``Status.DECREASED``)

    def random(self) -> bool:
        """Whether it draws random numbers, and needs a key."""
        ...

    def requires(self) -> tuple[str, ...]:
        """The names of what a model must offer; ``"objective"`` for any way of knowing one."""
        ...

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        """The state at the start."""
        ...

    def step(self, model: Any, state: State, data: Data) -> State:
        """The state after one more iteration."""
        ...

    # It may also have ``sums(state) -> (origin, statistics)``: the sums over all data at the parameters of the state,
    # and what they were taken about; the gradient of Q by them is that of what is climbed. And ``exact``: whether what
    # is climbed is the log-likelihood (plus the log-prior) itself. And ``by_sums``: whether it meets the data in
    # ``expectation.expect`` only, so that they may be spread over devices.


class Climber(Algorithm, Protocol):
    """An algorithm whose step is a map of the parameters, ``step = move(propose)``: what accelerators wrap.

    Between the two the parameters may be exchanged for others, and what they cost is paid only once.
    """

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        """The next parameters, not yet evaluated, and the state after having found them."""
        ...

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        """The state at these parameters, which the data are met with once."""
        ...
