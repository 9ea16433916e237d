"""Checks of data and parameters for mixtures and hidden Markov models.

Shapes are always checked; values only where they are not traced.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import data as datasets
from jaxem.core.arrays import check_precision
from jaxem.core.checks import instance, whole_number
from jaxem.core.compilation import program
from jaxem.core.data import Data, Dataset, Sharded
from jaxem.core.parameters import check_shapes
from jaxem.families import observed
from jaxem.families import protocol as families


def check_definition(model: Any) -> None:
    """Raise ``ValueError`` where ``family`` is not a family or ``k`` no number of classes; ``k`` becomes an int."""
    name = type(model).__name__
    instance(
        f"{name}: family",
        model.family,
        "a family, such as Normal()",
        "declare",
        "log_density",
        "statistics",
        "maximize",
        "expected",
    )
    object.__setattr__(model, "k", whole_number(f"{name}: k", model.k, 1))
    classes = getattr(model.family, "classes", model.k)
    if classes != model.k:
        raise ValueError(f"{name}: {type(model.family).__name__} has {classes} classes; k is {model.k}")


_REFUSED = {
    "given": "has no covariates: leave given out",
    "observed": "cannot use missing cells: leave those rows out",
    "lengths": "has no sequences of its own: join them to rows, or use HMM",
}


def check_parts(model: Any, data: Data, *takes: str) -> None:
    """Raise ``ValueError`` for a part of the data that is neither values nor weights nor named in ``takes``."""
    record = data.data if isinstance(data, Sharded) else data
    for part, why in _REFUSED.items():
        if part not in takes and isinstance(record, Dataset) and getattr(record, part) is not None:
            family = getattr(model, "family", None)
            reason = getattr(family, "whole_rows", None) if part == "observed" else None
            because = "" if reason is None else f" ({type(family).__name__}: {reason})"
            raise ValueError(f"{type(model).__name__} {why}{because}")


def check(
    model: Any,
    params: Any,
    data: Data | None,
    leading: tuple[str, ...],
    *takes: str,
    lengths: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Raise ``ValueError`` where data or parameters do not fit a model with a family; either may be ``None``.

    ``leading``: the axes of the values before those of one event. ``takes``: the parts of the data that the model can
    use, beside those that its family can. ``lengths``: the known lengths of axes that are not of the family.
    """
    family, values = model.family, None
    title = f"{type(model).__name__} of {type(family).__name__}"
    if data is not None:
        check_parts(model, data, *takes, *families.takes(family))
        values = datasets.values_of(data)
        families.check_shape(family, data, leading, title)
    if params is None:
        return
    own = families.sizes(family, values, len(leading))
    if data is not None and hasattr(family, "widths"):
        own |= family.widths(datasets.given_of(data), len(leading))
    on = f" on {own['D']} column{'s' * (own['D'] != 1)}" if "D" in own else ""
    check_shapes(f"{title} with k = {model.k}{on}", model.declare(), params, {"K": model.k, **own, **lengths})


def check_enough(model: Any, n: int) -> None:
    """Raise ``ValueError`` where there are fewer observations than classes."""
    if n < model.k:
        raise ValueError(f"{n} observations cannot tell {model.k} classes apart; use k <= {n}")


def check_support(family: Any, x: Data, counts: Array | None) -> None:
    """Raise ``ValueError`` where an observation lies outside the support, or whole numbers are too large for floats.

    The first such observation is named. ``counts (N,)`` says which observations count; ``None`` means all.
    """
    possible = np.asarray(_possible(family, x, counts))
    if not possible.all():
        index = int(np.flatnonzero(~possible)[0])
        first = jax.tree.map(lambda leaf: np.asarray(leaf[index]), datasets.values_of(x))
        raise ValueError(
            f"{type(family).__name__} needs {family.support} in every observation; {int((~possible).sum())} of "
            f"{len(possible)} are not, the first is number {index}: {first}"
        )
    for leaf in jax.tree.leaves(datasets.values_of(x)):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            check_precision(leaf, jnp.result_type(float), "the data")


@program(quick="few numbers")
def _possible(family: Any, x: Data, counts: Array | None) -> Array:
    return supported(family, x, counts)


def supported(family: Any, x: Data, counts: Array | None) -> Array:
    """(N,), whether each observation lies in the support of the family or does not count."""
    possible = observed.supports(family, real(x, jnp.result_type(float)))
    return possible if counts is None else possible | ~counts


def real(x: Data, dtype: Any) -> Data:
    """Values and covariates that are whole numbers, booleans or narrower floats as floats of ``dtype``.

    Numbers that are computed from data must not inherit an integer or boolean dtype.
    """
    if isinstance(x, Dataset):
        return dataclasses.replace(x, values=real(x.values, dtype), given=real(x.given, dtype))

    def wide(leaf: Array) -> Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf if floating and jnp.finfo(leaf.dtype).bits >= jnp.finfo(dtype).bits else leaf.astype(dtype)

    return jax.tree.map(wide, x)
