"""Groups of parameters, for M-steps that maximise over one group after another."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxem.core.checks import brief
from jaxem.core.model import Params
from jaxem.core.trees import leaf_names


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of parameters, and how a conditional M-step maximises over it while the others are fixed.

    Arguments:
        names: dotted names of parameters (``"weights"``, ``"components.means"``), one or a tuple of them. A name stands
            for all parameters below it (``"components"``).
        maximize: a function ``maximize(params, q, data) -> params``, the maximiser of Q (plus the log-prior) over this
            group in closed form, with the other parameters as in ``params``. Only this group of its result is used.
            Default ``None``: the optimiser of ``GEM`` raises the function step by step.
        likelihood: whether the optimiser raises the log-likelihood itself instead of Q (the model needs
            ``log_likelihood``); default False.

    Raises:
        ValueError: a name is not a text, there is none, ``maximize`` is not a function, or it comes with
            ``likelihood=True``.
    """

    names: str | tuple[str, ...]
    maximize: Callable[..., Params] | None = None
    likelihood: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            object.__setattr__(self, "names", (self.names,))
        if not isinstance(self.names, tuple) or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"a Group needs names of parameters, each a str; got {brief(self.names)}")
        if self.maximize is not None and not callable(self.maximize):
            raise ValueError(f"a Group's maximize must be a function (params, q, data); got {brief(self.maximize)}")
        if not self.names:
            raise ValueError("a Group needs the name of at least one parameter")
        if self.maximize is not None and self.likelihood:
            raise ValueError("a Group with likelihood=True is maximised by the optimiser; maximize is for Q")

    def holds(self, params: Params) -> Any:
        """A tree like ``params``, True at the leaves of this group.

        Arguments:
            params: the parameters.

        Returns:
            A tree of truth values.

        Raises:
            ValueError: no parameter has one of the names.
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
    """The leaves of a group; ``None`` in place of the others."""
    return jax.tree.map(lambda inside, leaf: leaf if inside else None, holds, tree)


def merge(holds: Any, group: Any, tree: Any) -> Any:
    """``tree`` with the leaves of a group replaced by those of ``group``."""
    leaves = iter(jax.tree.leaves(group))
    return jax.tree.map(lambda inside, leaf: next(leaves) if inside else leaf, holds, tree)
