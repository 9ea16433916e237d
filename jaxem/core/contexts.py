"""Contexts: what an iteration prepares once from the parameters. They hold only arrays, so that ``vmap`` works.

A context may hold parts in two forms, quick and careful. One condition then chooses the form of all parts, once for
each block of rows and outside all other computation: with two conditions a block would take half as long again.
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
    """A part of a context in two forms: ``quick``, used where it is accurate enough, and ``careful``."""

    safe: Array  # (), whether ``quick`` is accurate enough
    quick: Any
    careful: Any


@register
@dataclasses.dataclass(frozen=True)
class Apart(Generic[R]):
    """A part of a context whose choices are made only where it is used, by ``choose(part.context, ...)``.

    It saves compiling a block twice where little of it depends on the choice (the loop over the steps of a chain does
    not).
    """

    context: R


def _is_choice(node: Any) -> bool:
    return isinstance(node, Choice)


def _is_leaf(node: Any) -> bool:
    return isinstance(node, Choice | Apart)


def choose(context: Context, function: Callable[[Context], R]) -> R:
    """``function(context)`` with each ``Choice`` replaced by its quick form where all are safe, else by its careful
    form."""
    choices = [node for node in jax.tree.leaves(context, is_leaf=_is_leaf) if _is_choice(node)]
    if not choices:
        return function(context)

    safe = jnp.stack([choice.safe.all() for choice in choices]).all()  # of all copies, where a model is one of many
    return jax.lax.cond(safe, lambda: function(_pick(context, "quick")), lambda: function(careful(context)))


def careful(context: Context) -> Context:
    """The context with each ``Choice`` replaced by its careful form, for branches that are rarely taken."""
    return _pick(context, "careful")


def _pick(context: Context, form: str) -> Context:
    return jax.tree.map(lambda node: getattr(node, form) if _is_choice(node) else node, context, is_leaf=_is_leaf)
