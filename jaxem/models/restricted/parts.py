"""The parts of a model on which Q depends one by one: an M-step maximises each by itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxem.core.contexts import Apart
from jaxem.core.parameters import leaves
from jaxem.families import Product
from jaxem.gates.constant import Constant
from jaxem.gates.stationary import Stationary
from jaxem.gates.transitions import Kind
from jaxem.models.hmm import HMM
from jaxem.models.mixture import Mixture


class Part(NamedTuple):
    """Arrays of the parameters that Q couples with each other and with no others."""

    leaves: tuple[int, ...]  # their places in the parameters
    counts: bool = False  # whether Q is sum n log p in each array, probabilities p
    family: Any = None  # whose parameters they are, if a family's
    read: Callable[[Any, Any], tuple[Any, Any]] | None = None  # context and sums of the model -> those of the family


def parts_of(model: Any) -> list[Part]:
    """The parts of a model; all arrays together where nothing more is known."""
    declared = model.declare()
    if isinstance(model, Mixture):
        gate = len(leaves(declared.weights))
        read = lambda c, sums: (c.components, sums.components)
        return [Part(tuple(range(gate)), isinstance(model.gate, Constant)), *_of_family(model.family, gate, read)]
    if isinstance(model, HMM):
        first = len(leaves(declared.initial))
        start = first + len(leaves(declared.transition))
        moves = isinstance(model.moves, Kind) and not isinstance(model.initial, Stationary)
        found = [
            Part(tuple(range(first)), isinstance(model.initial, Constant)),
            Part(tuple(range(first, start)), moves),
        ]
        read = lambda c, sums: (c.emissions.context if isinstance(c.emissions, Apart) else c.emissions, sums.emissions)
        return [*found, *_of_family(model.family, start, read)]
    return [Part(tuple(range(len(leaves(declared)))))]


def _of_family(family: Any, start: int, read: Callable[[Any, Any], tuple[Any, Any]]) -> list[Part]:
    if isinstance(family, Product):
        found = []
        for name, own in family.parts.items():
            below = lambda c, sums, name=name: tuple(each[name] for each in read(c, sums))
            parts = _of_family(own, start, below)
            start += sum(len(part.leaves) for part in parts)
            found += parts
        return found
    return [Part(tuple(range(start, start + len(leaves(family.declare())))), family=family, read=read)]
