"""Blocks of parameters, for M-steps that maximise over one after the other."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxem.core.checks import brief
from jaxem.core.model import Params
from jaxem.core.trees import leaf_names


@dataclasses.dataclass(frozen=True)
class Block:
    """Some of the parameters, and how a conditional M-step climbs over them while the others stand still.

    ``names``: parameters by their dotted names (``"weights"``, ``"components.means"``); a name stands for all below it
    (``"components"``).

    ``maximize(params, q, data) -> params``: the maximiser of Q (plus the log-prior) over this block in closed form, the
    other parameters being those of ``params``; only this block of what it returns is used. Without it the block climbs
    by the optimiser. ``likelihood``: climb the log-likelihood itself instead of Q (needs ``log_likelihood``).
    """

    names: str | tuple[str, ...]
    maximize: Callable[..., Params] | None = None
    likelihood: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            object.__setattr__(self, "names", (self.names,))
        if not isinstance(self.names, tuple) or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"a Block needs names of parameters, as texts; got {brief(self.names)}")
        if self.maximize is not None and not callable(self.maximize):
            raise ValueError(f"a Block's maximize must be a function (params, q, data); got {brief(self.maximize)}")
        if not self.names:
            raise ValueError("a Block needs the name of at least one parameter")
        if self.maximize is not None and self.likelihood:
            raise ValueError("a Block with likelihood=True climbs by the optimiser; maximize is for Q")

    def holds(self, params: Params) -> Any:
        """A tree like ``params``, True at the leaves of this block.

        Raises ``ValueError`` for a name that no parameter has.
        """
        found = leaf_names(params)
        for name in self.names:
            if not any(_below(leaf, name) for leaf in found):
                raise ValueError(f"no parameter is called {name!r}; there are {', '.join(found)}")
        inside = [any(_below(leaf, name) for name in self.names) for leaf in found]
        return jax.tree.unflatten(jax.tree.structure(params), inside)


def _below(leaf: str, name: str) -> bool:
    return leaf == name or leaf.startswith(name + ".")


def part(holds: Any, tree: Any) -> Any:
    """The leaves of a block; ``None`` in place of the others."""
    return jax.tree.map(lambda inside, leaf: leaf if inside else None, holds, tree)


def merge(holds: Any, block: Any, tree: Any) -> Any:
    """``tree`` with the leaves of a block put in."""
    leaves = iter(jax.tree.leaves(block))
    return jax.tree.map(lambda inside, leaf: next(leaves) if inside else leaf, holds, tree)
