"""Fingerprints of the parts of a model, for models that a file cannot hold because functions of a user are in them."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxem.files.encoding import field_names
from jaxem.fitting.fingerprint import attributes, fingerprint, is_of_a_library

Parts = dict[str, list[str]]  # name of a part -> ["value" or "code", its fingerprint]

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def parts_of(thing: Any, name: str = "") -> Parts:
    """The fingerprint of each part of a model, by its place, such as ``family.prior`` or ``priors[0]``."""
    kind = type(thing)
    dotted = lambda own: f"{name}.{own}" if name else own
    if kind in _PLAIN or isinstance(thing, np.ndarray | np.generic | jax.Array):
        return {name: ["value", fingerprint(thing)]}
    if kind in (tuple, list):
        found: Parts = {f"number of {name}": ["value", str(len(thing))]}
        for i, part in enumerate(thing):
            found |= parts_of(part, f"{name}[{i}]")
        return found
    if callable(thing) and not dataclasses.is_dataclass(thing):
        return {name: ["code", fingerprint(thing)]}
    found = {f"class of {name or 'the model'}": ["value", kind.__qualname__]}
    if is_of_a_library(kind):
        if not (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
            return {name: ["value", fingerprint(thing)]}
    else:
        methods = {own: part for own, part in vars(kind).items() if callable(part) or isinstance(part, property)}
        for own, part in methods.items():
            if not own.startswith("__") or own == "__call__":
                found[dotted(own)] = ["code", fingerprint(getattr(part, "fget", part))]
    fields = field_names(kind) if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields") else None
    inside = [(own, getattr(thing, own, None)) for own in fields] if fields is not None else attributes(thing)
    for own, part in inside:
        found |= parts_of(part, dotted(own))
    return found


def differences(was: Parts, now: Parts) -> tuple[list[str], bool]:
    """The names of the parts that differ, and whether all of these are code."""
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return names, all(name in was and name in now and was[name][0] == now[name][0] == "code" for name in names)
