"""Models with fewer classes inside the shapes of a larger one, so that they share one compiled program.

Classes that are not active have probability zero and copy the parameters of class 0. A probability of exactly zero
adds nothing to any sum and no step leaves it, so the likelihood and every step are those of the smaller model.
"""

import dataclasses
from typing import Any

from jax import Array

from jaxem.core import parameters
from jaxem.core.contexts import Context
from jaxem.core.data import Data
from jaxem.core.model import Params, Posterior
from jaxem.core.records import register
from jaxem.core.rows import FromRows
from jaxem.families import protocol as families
from jaxem.gates.constant import Constant


class Maskable:
    """A model of classes that can be restricted to some of them."""

    @property
    def maskable(self: Any) -> bool:
        """Whether ``masked`` is exact.

        A prior would count the copies, and an empty class might spoil parameters that all classes share.
        """
        plain = families.separate(self.family) and not families.has_prior(self.family)
        gates = (getattr(self, name, None) for name in ("gate", "initial", "transition"))
        return plain and all(gate is None or (isinstance(gate, Constant) and gate.prior is None) for gate in gates)

    @property
    def lacking(self: Any) -> tuple[str, ...]:
        """The functions that the model cannot offer.

        Classes cannot be renumbered where each has a family of its own, or where states follow an order.
        """
        parts = (getattr(self, name, None) for name in ("family", "transition"))
        ordered = any(not getattr(part, "exchangeable", True) for part in parts)
        return ("permute", "label_keys") if ordered else ()

    def masked(self, active: Array) -> "Masked":
        """The model restricted to the classes at which ``active (K,)`` is True; class 0 must be one of them."""
        return Masked(self, active)

    def fewer(self: Any, params: Params, k: int) -> Params:
        """The parameters of the first ``k`` classes, those of the model with k classes."""
        return parameters.first_classes(self.declare(), params, k)


@register
@dataclasses.dataclass(frozen=True)
class Masked(FromRows):
    """``model`` restricted to its active classes, ``active (K,)``; class 0 is always active."""

    model: Any
    active: Array

    @property
    def accurate(self) -> bool:
        """As for the model."""
        return self.model.accurate

    def declare(self) -> parameters.Declared:
        return self.model.declare()

    def first(self, key: Array, data: Data, given: Array | None, start: str) -> tuple[Params, Array]:
        """A start, and whether it is sound."""
        params, sound = self.model.first(key, data, given, start, self.active)
        return parameters.masked(self.declare(), params, self.active), sound

    def prepare(self, params: Params, x: Data | None) -> Context:
        return self.model.prepare(params, x)

    def infer(self, c: Context, x: Data) -> Posterior:
        return self.model.infer(c, x)

    def mode(self, c: Context, x: Data) -> Posterior:
        return self.model.mode(c, x)

    def tempered(self, c: Context, x: Data, inverse_temperature: Array | float) -> Posterior:
        return self.model.tempered(c, x, inverse_temperature)

    def draw(self, c: Context, x: Data, key: Array) -> Posterior:
        return self.model.draw(c, x, key)

    def log_marginal(self, c: Context, x: Data) -> Array:
        return self.model.log_marginal(c, x)

    def complete(self, c: Context, q: Posterior, x: Data) -> Array:
        return self.model.complete(c, q, x)

    def entropy_rows(self, c: Context, q: Posterior, x: Data) -> Array:
        return self.model.entropy_rows(c, q, x)

    def divergence_rows(self, q: Posterior, p: Posterior) -> Array:
        return self.model.divergence_rows(q, p)

    def sums(self, c: Context | None, w: Array | None, q: Posterior, x: Data) -> Any:
        return self.model.sums(c, w, q, x)

    def maximum(self, c: Context | None, sums: Any) -> Params:
        """The maximiser of the model, with copies of class 0 in the place of 0 / 0."""
        return parameters.masked(self.declare(), self.model.maximum(c, sums), self.active)

    def expected(self, c: Context, params: Params, sums: Any) -> Array:
        return self.model.expected(c, params, sums)

    def degenerate(self, params: Params) -> Array:
        """As for the model; a class that is not active is not called empty."""
        return self.model.degenerate(parameters.masked(self.declare(), params, self.active, probability=1))

    def coincide(self, params: Params) -> Array:
        """Whether every active class equals another active one."""
        return families.coincide(self.model.family, params[-1], self.active)

    def allows(self, params: Params, data: Data) -> Array:
        return self.model.allows(params, data)
