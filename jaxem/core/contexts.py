"""What an iteration prepares once from the parameters: a *context*, arrays only, so that it passes through ``vmap``.

A context may hold the same thing in a quick form and in a careful one. One question is then asked for all of them, once
for each block of rows and outside everything else: asked twice, a block would cost half as much again.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.records import register

Context = Any
R = TypeVar("R")


@register
@dataclasses.dataclass(frozen=True)
class Choice:
    """One part of a context in two forms: ``quick`` where that is accurate enough, else ``careful``."""

    safe: Array  # (), whether ``quick`` is accurate enough
    quick: Any
    careful: Any


@register
@dataclasses.dataclass(frozen=True)
class Apart(Generic[R]):
    """A part of a context whose choices are made where it is used, by ``choose(part.context, ...)``.

    Where little of a block depends on the choice (the loop over the steps of a chain does not) the rest would be
    compiled twice.
    """

    context: R


def _is_choice(node: Any) -> bool:
    return isinstance(node, Choice)


def _is_leaf(node: Any) -> bool:
    return isinstance(node, Choice | Apart)


def choose(context: Context, function: Callable[[Context], R]) -> R:
    """``function(context)`` with each ``Choice`` in the context replaced by one of its forms: all of them by the quick
    one where all are safe, else all by the careful one."""
    choices = [node for node in jax.tree.leaves(context, is_leaf=_is_leaf) if _is_choice(node)]
    if not choices:
        return function(context)

    def pick(form: str) -> Context:
        return jax.tree.map(lambda node: getattr(node, form) if _is_choice(node) else node, context, is_leaf=_is_leaf)

    safe = jnp.stack([choice.safe for choice in choices]).all()
    return jax.lax.cond(safe, lambda: function(pick("quick")), lambda: function(pick("careful")))
