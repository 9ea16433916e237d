"""What accelerators share: units of length for the unconstrained coordinates, and the test that accepts a step."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.algorithms.protocol import Climber, State
from jaxem.core import bound, constraints, trees
from jaxem.core.checks import instance
from jaxem.core.data import Data, size
from jaxem.core.model import Params, has, spaces_of
from jaxem.core.spaces import answers

Tree = Any


def longest_steps(step: Array, before: Array) -> Array:
    """The longest step of each coordinate so far, (p,)."""
    longest = jnp.maximum(before, jnp.abs(step))
    return jnp.where(jnp.isfinite(longest), longest, before)


def units(model: Any, here: Array, like: Params, longest: Array) -> Array:
    """The unit of length of each coordinate ``here``, (p,), so that the units of the data change no decision.

    Coordinates of constrained spaces have no units: they get 1. The unit of an unconstrained number makes its longest
    step as long as the longest step of those other coordinates. A step shorter than eps^(5/8) of the number counts as
    that long; else a number that only rounding error moves would be measured by that error, and weigh as much as the
    others.
    """
    spaces = spaces_of(model)
    free = jax.eval_shape(lambda params: constraints.inverse(spaces, params), like)
    longest = jnp.maximum(longest, float(jnp.finfo(here.dtype).eps) ** 0.625 * jnp.abs(here))
    pure = constraints.each(lambda space, leaf: jnp.full(leaf.shape, answers.unit_free(space)), spaces, free)
    free_of_units = ravel_pytree(pure)[0]
    common = jnp.where(free_of_units, longest, 0).max()
    unit = jnp.where(free_of_units, 1, longest / jnp.where(common > 0, common, 1))
    return jnp.where(unit > 0, unit, 1)


def passes(model: Any, bold: State, plain: Array, data: Data) -> Array:
    """Whether an extrapolated step kept the objective at or above ``plain``, up to rounding, and inside the model."""
    value = bold.objective
    assert value is not None  # accelerators require an objective
    good = (value >= plain - bound.resolution(plain, size(data, plain.dtype))) & trees.all_finite(bold.params)
    return good & ~model.degenerate(bold.params) if has(model, "degenerate") else good


@jax.custom_batching.custom_vmap
def in_all_lanes(flag: Array) -> Array:
    """Whether the flag holds, in all lanes of a ``vmap``: one answer for all of them, so that a loop stays one loop."""
    return flag


@in_all_lanes.def_vmap
def _(axis_size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return flag.all(axis=0), False


def check_inner(name: str, inner: Climber) -> None:
    """Raise ``ValueError`` where ``inner`` cannot be accelerated."""
    instance(f"{name}: inner", inner, "an algorithm, such as EM()", "init", "step")
    parts = ("propose", "before", "move")
    lacking = [part for part in parts if not hasattr(inner, part)]
    if lacking:
        why = "its step is not a map of the parameters alone" if "propose" in lacking else f"it has no {lacking[0]}"
        raise ValueError(f"{name} cannot wrap {type(inner).__name__}: {why}")
    if inner.random() or not inner.monotone:
        raise ValueError(
            f"{name} compares objectives to judge its steps, and the objective of {type(inner).__name__} may fall in a "
            "correct step; give it a monotone algorithm without random numbers, such as EM()"
        )
