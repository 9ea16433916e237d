"""The protocol of an algorithm."""

from typing import Any, ClassVar, NamedTuple, Protocol

from jax import Array

from jaxem.core.data import Data
from jaxem.core.model import Params


class State(NamedTuple):
    """State of an algorithm; ``objective`` is the objective at exactly ``params``."""

    params: Params
    objective: Array | None  # None for a model without a bound
    evaluations: Array  # E-steps so far
    fallbacks: Array  # steps refused so far, which would have lowered the objective or left the model
    settled: Array  # False while the algorithm knows that it only failed to move, or has more to gain
    memory: Any  # whatever else the algorithm carries


class Algorithm(Protocol):
    """A way to maximise the objective: ``init`` evaluates the start, ``step`` makes one iteration.

    An algorithm is a frozen dataclass registered as a pytree. It never judges itself: ``fit`` does.

    Five attributes are optional. ``sums(state) -> (origin, statistics)``: the sums over all data at the parameters of
    the state, and the parameters they were taken about; the gradient of Q from these sums is that of the function being
    maximised. ``exact``: whether that function is the log-likelihood (plus the log-prior) itself. ``by_sums``: whether
    the algorithm reads the data only through ``expectation.expect``, so that they may be sharded over devices.
    ``needs_maximum``: whether the M-step must maximise Q in every array, because the algorithm adds up sums taken at
    different points, or cannot compare objectives; models with ``Param.improves`` are then refused.
    ``finite``: whether it ends after finitely many steps, so that a step that changes nothing is the last.
    """

    monotone: ClassVar[bool]  # True promises that no step lowers the objective; a fall is then ``Status.DECREASED``

    def random(self) -> bool:
        """Whether the algorithm draws random numbers, and so needs a key."""
        ...

    def requires(self) -> tuple[str, ...]:
        """The names of the functions that a model must have; ``"objective"`` stands for any that give an objective."""
        ...

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        """The state at the start."""
        ...

    def step(self, model: Any, state: State, data: Data) -> State:
        """The state after one more iteration."""
        ...


class Climber(Algorithm, Protocol):
    """An algorithm whose step is a map of the parameters: ``init = move(before)``, ``step = climbed(propose)``.

    ``climbed`` (see ``algorithms.em``) is ``move``, nearer to the old parameters where the objective would fall. So an
    accelerator may put other parameters between ``propose`` and ``move``, and still pays for one E-step.

    The E-step takes longest to compile, so the start and the steps share one: ``fit`` begins with the state ``before``
    it, and ``step`` has a fourth argument, ``begins``, for which it takes the E-step at the start and nothing more.
    Accelerators have this ``before`` and ``step`` too.
    """

    def before(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        """The state before the first E-step, in the form of those after it; its objective is NaN."""
        ...

    def step(self, model: Any, state: State, data: Data, begins: Array | bool = False) -> State:
        """The state after one more iteration, or after the E-step at the start where it ``begins``."""
        ...

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        """The next parameters, not yet evaluated, and the state after finding them."""
        ...

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        """The state at ``params``, after one E-step there."""
        ...
