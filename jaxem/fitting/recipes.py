"""Algorithms and stopping rules as JSON, and back, by a fixed table of jaxem's own.

What holds anything but numbers, texts and other records of the table (an optax optimiser, a function, a rule of one's
own) has no such form; who resumes the run passes it again.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from jaxem import algorithms
from jaxem.algorithms import schedules
from jaxem.fitting import stopping

_RULES = ("_ParameterChange", "_ObjectiveChange", "_Aitken", "_Plateau", "_AllOf", "_AnyOf")
_FUNCTIONS = {name: getattr(schedules, name) for name in ("heating", "decaying", "averaging")}

Recipe = Any  # a JSON value


@functools.cache
def _records() -> dict[str, type]:
    """The table, which loads all algorithms."""
    public = {name: getattr(algorithms, name) for name in dir(algorithms)}
    kinds = {name: kind for name, kind in public.items() if isinstance(kind, type)}
    return {**kinds, **{name: vars(stopping)[name] for name in _RULES}}


class Unwritable(Exception):
    """A value that has no form in JSON."""


def describe(record: Any) -> dict[str, Recipe]:
    """The recipe of an algorithm or a rule; without ``made`` where it has to be passed again."""
    try:
        return {"type": kind_of(record), "made": _write(record)}
    except Unwritable:
        return {"type": kind_of(record)}


def rebuild(recipe: dict[str, Recipe]) -> Any:
    """The algorithm or rule of a recipe that has ``made``."""
    return _read(recipe["made"])


def kind_of(record: Any) -> str:
    """The names of the classes, such as ``SQUAREM(EM)``; ``none`` for ``None``."""
    if record is None:
        return "none"
    inner = getattr(record, "inner", None)
    name = type(record).__qualname__
    return name if inner is None else f"{name}({kind_of(inner)})"


def _write(value: Any) -> Recipe:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.generic) or (isinstance(value, np.ndarray | jax.Array) and np.shape(value) == ()):
        number = np.asarray(value)
        if number.dtype.kind not in "fiu":
            raise Unwritable
        return {"float": float(number).hex()} if number.dtype.kind == "f" else int(number)
    if isinstance(value, tuple):
        return [_write(part) for part in value]
    if _records().get(type(value).__name__) is type(value):
        names = [field.name for field in dataclasses.fields(value)]  # pyright: ignore[reportArgumentType]
        fields = {name: _write(getattr(value, name)) for name in names}
        return {"record": type(value).__name__, "fields": fields}
    for name, function in _FUNCTIONS.items():
        if value is function:
            return {"function": name}
    raise Unwritable


def _read(recipe: Recipe) -> Any:
    if isinstance(recipe, list):
        return tuple(map(_read, recipe))
    if not isinstance(recipe, dict):
        return recipe
    if "float" in recipe:
        return float.fromhex(recipe["float"])
    if "function" in recipe:
        return _FUNCTIONS[recipe["function"]]
    return _records()[recipe["record"]](**{name: _read(value) for name, value in recipe["fields"].items()})
