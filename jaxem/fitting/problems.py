"""Many models and data sets, of which a fit of many lanes makes one fit each."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxem.core.data import Data
from jaxem.core.records import register


@register
@dataclasses.dataclass(frozen=True)
class Problems:
    """Models and data to be fitted. Each array has a leading axis of problems, or is shared by all of them."""

    model: Any
    data: Data
    own: tuple[bool, ...] = dataclasses.field(metadata={"static": True})  # of each array of (model, data)

    @classmethod
    def one(cls, model: Any, data: Data) -> "Problems":
        """A single problem, which all lanes share."""
        return cls.of(model, data, (False, False))

    @classmethod
    def of(cls, model: Any, data: Data, own: Any) -> "Problems":
        """``own`` says which arrays have the axis: a boolean for each part of (model, data), or for each array."""
        each = jax.tree.map(lambda has, part: jax.tree.map(lambda _: has, part), own, (model, data))
        return cls(model, data, tuple(jax.tree.leaves(each)))

    def at(self, index: Any) -> tuple[Any, Data]:
        """Model and data of problem ``index``, or with a leading axis of those at ``index``."""
        leaves, structure = jax.tree.flatten((self.model, self.data))
        found = [leaf[index] if own else leaf for leaf, own in zip(leaves, self.own, strict=True)]
        return jax.tree.unflatten(structure, found)

    def on_host(self) -> "Problems":
        """The same problems; arrays with an axis of problems are NumPy arrays, of which ``at`` compiles nothing."""
        leaves, structure = jax.tree.flatten((self.model, self.data))
        found = [np.asarray(leaf) if own else leaf for leaf, own in zip(leaves, self.own, strict=True)]
        model, data = jax.tree.unflatten(structure, found)
        return Problems(model, data, self.own)

    def without_data(self) -> "Problems":
        """The models alone."""
        return Problems(self.model, None, self.own[: len(jax.tree.leaves(self.model))])

    @property
    def axes(self) -> tuple[Any, Any]:
        """``in_axes`` of what ``at`` returns for an array of indices."""
        structure = jax.tree.structure((self.model, self.data))
        return jax.tree.unflatten(structure, [0 if own else None for own in self.own])
