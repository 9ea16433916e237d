"""Traced values that functions of a model close over: a derivative in them is refused by an error."""

import dataclasses
import functools
from types import FunctionType, MethodType
from typing import Any

import jax
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero

_ELSEWHERE = ("jax", "builtins", "numpy", "optax", "functools")  # classes whose methods close over nothing

REFUSAL = (
    "the fit is differentiated in a value that a function of the model closes over: make it a leaf of the model (a "
    "field of a pytree class with e_step and m_step), or a part of the data"
)


def guard(*records: Any) -> None:
    """Raise ``ValueError`` at a derivative with respect to a value that a function in ``records`` closes over.

    The check comes before the loop, whose derivative would raise an error that names no cause.
    """
    closed: list[Tracer] = []
    seen: set[int] = set()
    for record in records:
        _walk(record, closed, seen, leaves=False)
    if closed:
        _constant(closed)


@jax.custom_jvp
def _constant(closed: list[Any]) -> list[Any]:
    return closed


@functools.partial(_constant.defjvp, symbolic_zeros=True)
def _rule(primals: Any, tangents: Any) -> Any:
    moving = jax.tree.leaves(tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
    if any(not isinstance(leaf, SymbolicZero) and leaf.dtype != jax.dtypes.float0 for leaf in moving):
        raise ValueError(REFUSAL)
    return primals[0], tangents[0]


def _walk(value: Any, closed: list[Tracer], seen: set[int], leaves: bool) -> None:
    """Add to ``closed`` the traced values that functions in ``value`` close over; with ``leaves``, its own too."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tracer):
        if leaves:
            closed.append(value)
    elif isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        for part in (*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            _walk(part, closed, seen, leaves=True)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _walk(part, closed, seen, leaves=True)
    elif isinstance(value, MethodType):
        _walk(value.__self__, closed, seen, leaves=True)
        _walk(value.__func__, closed, seen, leaves=True)
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            _walk(part, closed, seen, leaves)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _walk(getattr(value, field.name), closed, seen, leaves)
    if not isinstance(value, type | FunctionType) and not type(value).__module__.startswith(
        ("jax", "builtins", "numpy")
    ):
        for method in vars(type(value)).values():
            if isinstance(method, FunctionType):
                _walk(method, closed, seen, leaves=True)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # the name has no value yet
        return False
