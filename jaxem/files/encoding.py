"""Models and fits as JSON and named arrays, and back, by the table of jaxem's own classes.

A whole number is itself, and a float ``{"float": its hexadecimal form}``, so that no digit is lost. A container is
``{"tuple": [...]}``, ``{"list": [...]}`` or ``{"dict": [[key, value], ...]}``, an array ``{"array": its name, "of":
"jax"}``, a record ``{"record": its class, "fields": {...}}``.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxem.core.checks import brief
from jaxem.core.spaces.fixed import Fixed
from jaxem.files.classes import CLASSES
from jaxem.files.spread import is_spread

Recipe = Any  # a JSON value
Arrays = dict[str, Any]  # NumPy's, or JAX's where they are spread over several processes

# How an array comes back: as an array of JAX or NumPy, a NumPy scalar, or a constant of a space.
_BACK: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": np.array,
    "scalar": lambda array: array[()],
    "fixed": Fixed.of,
}


def _same(array: Any) -> Any:
    return array


class Unwritable(Exception):
    """A value that has no form in a file: a function, or an object of a class that is not jaxem's. Its text: where."""


def field_names(kind: Any) -> tuple[str, ...]:
    """The names of the fields of a record."""
    return kind._fields if hasattr(kind, "_fields") else tuple(field.name for field in dataclasses.fields(kind))


def encode(value: Any, name: str, arrays: Arrays) -> Recipe:
    """The recipe of a value; its arrays are added to ``arrays``, named by their place, such as ``fit.params.weights``.

    Raises:
        Unwritable: a part of the value has no form in a file.
        ValueError: an array is traced.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"float": value.hex()}
    if kind in (tuple, list):
        return {kind.__name__: [encode(part, f"{name}.{i}", arrays) for i, part in enumerate(value)]}
    if kind is dict:
        pairs = [(encode(key, name, arrays), encode(part, f"{name}.{key}", arrays)) for key, part in value.items()]
        return {"dict": [list(pair) for pair in pairs]}
    if kind is Fixed:
        return _array(value.array, "fixed", name, arrays)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        of = "jax" if isinstance(value, jax.Array) else "numpy" if isinstance(value, np.ndarray) else "scalar"
        return _array(value, of, name, arrays)
    if CLASSES.get(kind.__name__) is kind:
        fields = {own: encode(getattr(value, own), f"{name}.{own}", arrays) for own in field_names(kind)}
        return {"record": kind.__name__, "fields": fields}
    raise Unwritable(name)


def _array(value: Any, of: str, name: str, arrays: Arrays) -> Recipe:
    if isinstance(value, Tracer):
        raise ValueError("save needs values, and an array is traced by jit, vmap or grad")
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key) or np.dtype(value.dtype).kind in "OSUMm":
        raise Unwritable(name)
    base = own = re.sub("[^A-Za-z0-9_.]+", "_", name)
    while own in arrays:  # two keys of a dict may look alike
        own = f"{base}_{len(arrays)}"
    arrays[own] = value if is_spread(value) else np.asarray(value)
    return {"array": own, "of": of}


class Unreadable(Exception):
    """A recipe that this version does not know. Its text says what."""


def decode(recipe: Recipe, arrays: Arrays, place: Callable[[np.ndarray, str], Any]) -> Any:
    """The value of a recipe. Each array that is used is taken out of ``arrays``.

    Arguments:
        recipe: what ``encode`` returned.
        arrays: the arrays of the file.
        place: (array, name) -> an array of JAX.

    Raises:
        Unreadable: the recipe names a class, a field or an array that there is not.
        ValueError: the fields do not make a valid object.
    """
    if recipe is None or isinstance(recipe, bool | int | str):
        return recipe
    again = lambda part: decode(part, arrays, place)
    match recipe:
        case {"float": text} if len(recipe) == 1:
            return float.fromhex(text)
        case {"tuple": parts} if len(recipe) == 1:
            return tuple(map(again, parts))
        case {"list": parts} if len(recipe) == 1:
            return list(map(again, parts))
        case {"dict": pairs} if len(recipe) == 1:
            return {again(key): again(part) for key, part in pairs}
        case {"array": name, "of": of} if len(recipe) == 2 and (of == "jax" or of in _BACK):
            if name not in arrays:
                raise Unreadable(f"the array {name} is missing")
            array = arrays.pop(name)
            return place(array, name) if of == "jax" and isinstance(array, np.ndarray) else _BACK.get(of, _same)(array)
        case {"record": name, "fields": fields} if len(recipe) == 2:
            return _record(name, fields, again)
    raise Unreadable(f"it holds {brief(recipe)}")


def _record(name: str, fields: dict[str, Recipe], again: Callable[[Recipe], Any]) -> Any:
    if name not in CLASSES:
        raise Unreadable(f"there is no class {name}")
    kind = CLASSES[name]
    odd = [field for field in fields if field not in field_names(kind)]
    if odd:
        raise Unreadable(f"{name} has no field {', '.join(odd)}")
    values = {field: again(part) for field, part in fields.items()}
    try:
        return kind(**values)
    except TypeError as error:  # a field without a default is missing
        raise Unreadable(f"{name} cannot be made: {error}") from error
