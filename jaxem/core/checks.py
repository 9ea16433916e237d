"""Checks of the options of public functions, each made once, before anything is traced."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def whole_number(name: str, value: Any, least: int) -> int:
    """``value`` as an int; ``ValueError`` where it is not an integer (bools and floats are not) or below ``least``."""
    if isinstance(value, Tracer):
        raise ValueError(f"{name} decides what is compiled and must be a plain number; it is traced by jit or vmap")
    try:
        found = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        whole = "" if found is not None else "a whole number of "
        raise ValueError(f"{name} must be {whole}at least {least}; it is {brief(value)}")
    return found


def whole_field(record: Any, name: str, least: int, *, optional: bool = False) -> None:
    """Replace a field of a frozen dataclass by its ``whole_number``; ``None`` is kept where it is ``optional``."""
    value = getattr(record, name)
    if not (optional and value is None):
        object.__setattr__(record, name, whole_number(f"{type(record).__name__}: {name}", value, least))


def number(name: str, value: Any, low: float, high: float, *, open_ends: bool = False) -> None:
    """Raise ``ValueError`` where ``value`` is not a finite number from ``low`` to ``high``; traced values pass."""
    if isinstance(value, Tracer):
        return
    scalar = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and not isinstance(value, bool)
    good = scalar and np.shape(value) == () and np.asarray(value).dtype.kind in "iuf"
    if good:
        found = float(value)
        good = math.isfinite(found) and ((low < found < high) if open_ends else (low <= found <= high))
    if not good:
        bounds = f" between {low:g} and {high:g}" if math.isfinite(high) else f" of at least {low:g}"
        bounds = bounds if math.isfinite(low) else ""
        raise ValueError(f"{name} must be a finite number{bounds}; it is {brief(value)}")


def prng_key(name: str, key: Any) -> None:
    """Raise ``ValueError`` where ``key`` is not one random key, either typed or of the old kind (two uint32)."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    shape = np.shape(key) if typed or isinstance(key, np.ndarray | jax.Array) else None
    if typed and shape == ():
        return
    if not typed and shape == (2,) and key.dtype == np.uint32:
        return
    if typed:
        raise ValueError(f"{name} needs one random key; it got keys of shape {shape}. Use jax.vmap to map over keys")
    raise ValueError(f"{name} needs a random key, e.g. jax.random.key(0); it got {brief(key)}")


def instance(name: str, value: Any, what: str, *attributes: str) -> None:
    """Raise ``ValueError`` where ``value`` is a class or lacks one of ``attributes``; ``what`` says what it must be."""
    if isinstance(value, type):
        raise ValueError(f"{name} must be {what}; it is the class {value.__name__}: write {value.__name__}(...)")
    lacking = [attribute for attribute in attributes if not hasattr(value, attribute)]
    if lacking:
        raise ValueError(f"{name} must be {what}; it is {brief(value)}, which has no {' and no '.join(lacking)}")


def flag(name: str, value: Any) -> None:
    """Raise ``ValueError`` where ``value`` is not True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False; it is {brief(value)}")


def brief(value: Any) -> str:
    """A value in a few characters, for a message: numbers and short strings in full, else the type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, bool | int | float | complex | np.generic):
        return f"{value}"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "...")
    kind = type(value).__name__
    if isinstance(value, Tracer):
        return f"a traced array of shape {value.shape}"
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array of shape {np.shape(value)}"
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
