"""Fingerprints: digests of a model or of data, equal in every process where what they describe is equal.

Arrays count with shape, dtype and every byte; records with the name of their class and all their fields; functions with
their name, bytecode, constants, defaults, what they close over, and the functions, classes and plain values that they
name as globals (not what they reach as an attribute of a module). Classes count with their methods. Functions of
installed packages count without their globals, which may be the state of a package; of functions and classes of jaxem,
JAX, NumPy, optax and Python itself the name is enough.
"""

import dataclasses
import functools
import hashlib
import sys
import types
from collections.abc import Mapping, Set
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

_LIBRARIES = ("jax", "jaxlib", "jaxem", "numpy", "optax")
_PLAIN = (type(None), type(Ellipsis), bool, int, float, complex, str, bytes)


def fingerprint(thing: Any) -> str:
    """The digest of ``thing``, 32 hexadecimal digits; ``ValueError`` where a value in it is traced."""
    return _Walk({}).of(thing)


class _Walk:
    """A walk through an object that adds all that it meets to a digest."""

    def __init__(self, known: dict[int, tuple[Any, str]]) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._known = known  # what was met, by its address, and its digest; the object is held, so it keeps the address

    def of(self, thing: Any) -> str:
        self._walk(thing)
        return self._digest.hexdigest()

    def _add(self, *parts: Any) -> None:
        self._digest.update("\0".join(map(str, (*parts, "\n"))).encode())

    def _part(self, thing: Any) -> None:
        """Add a part: a plain value, or the digest of anything else."""
        if type(thing) in _PLAIN:
            self._add(type(thing).__name__, repr(thing))
            return
        if id(thing) not in self._known:
            self._known[id(thing)] = thing, "begun"  # what a part of the thing finds, where it leads back to it
            self._known[id(thing)] = thing, _Walk(self._known).of(thing)
        self._add(self._known[id(thing)][1])

    def _walk(self, thing: Any) -> None:
        kind = type(thing)
        if kind in _PLAIN:
            self._part(thing)
        elif isinstance(thing, Tracer):
            raise ValueError("a value is traced by jit, vmap or grad, and a checkpoint needs values")
        elif isinstance(thing, np.ndarray | np.generic | jax.Array):
            self._array(thing)
        elif isinstance(thing, np.dtype):
            self._add("dtype", thing.name)
        elif isinstance(thing, Mesh):
            self._add("mesh", tuple(thing.shape.items()))
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, types.CodeType):
            self._add("code", thing.co_name, thing.co_code.hex(), *thing.co_names, *thing.co_freevars)
            self._each("constants", thing.co_consts)
        elif isinstance(thing, types.FunctionType):
            self._function(thing)
        elif isinstance(thing, types.MethodType):
            self._each("method", (thing.__self__, thing.__func__))
        elif isinstance(thing, functools.partial):
            self._each("partial", (thing.func, thing.args, thing.keywords))
        elif isinstance(thing, Mapping):
            self._each("mapping", [part for item in thing.items() for part in item])
        elif isinstance(thing, Set):
            self._each("set", sorted(map(fingerprint, thing)))
        elif isinstance(thing, tuple | list):
            self._each(kind.__qualname__, thing)
        else:
            self._object(thing)

    def _each(self, what: str, parts: Any) -> None:
        self._add(what, len(parts))
        for part in parts:
            self._part(part)

    def _array(self, array: Any) -> None:
        if isinstance(array, jax.Array) and jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
            self._add("key", jax.random.key_impl(array))
            array = jax.random.key_data(array)
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            raise ValueError("a checkpoint needs all data in this process; these are spread over several")
        array = np.asarray(array)
        self._add("array", array.dtype.name, array.shape)
        if array.dtype.kind == "O":
            self._each("objects", array.ravel().tolist())
        else:
            self._digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _function(self, function: types.FunctionType) -> None:
        self._add("function", function.__qualname__)
        if not is_of_a_library(function):  # else its code belongs to the version of the library
            self._part(function.__code__)
            self._each("names", [function.__globals__[name] for name in _own_names(function)])
        self._each("defaults", (function.__defaults__, function.__kwdefaults__))
        self._each("closure", [_content(cell) for cell in function.__closure__ or ()])

    def _class(self, kind: type) -> None:
        self._add("class", kind.__qualname__)
        if not is_of_a_library(kind):
            methods = {name: _function_of(part) for name, part in vars(kind).items()}
            self._each("methods", [methods[name] for name in sorted(methods) if methods[name] is not None])
            self._each("bases", kind.__bases__)

    def _object(self, thing: Any) -> None:
        kind = type(thing)
        self._part(kind)
        if dataclasses.is_dataclass(thing):
            self._each("fields", [getattr(thing, field.name, None) for field in dataclasses.fields(thing)])
        elif hasattr(thing, "__wrapped__"):  # of jit, custom_jvp, ...
            self._part(thing.__wrapped__)
        elif is_of_a_library(kind) and not kind.__module__.startswith("jaxem."):
            self._add(getattr(thing, "__module__", ""), getattr(thing, "__qualname__", ""))
        else:
            self._each("attributes", [part for item in attributes(thing) for part in item])


def is_of_a_library(thing: Any) -> bool:
    """Whether a class or a function is one of jaxem, JAX, NumPy, optax or Python itself."""
    root = (thing.__module__ or "").split(".")[0]
    return root in _LIBRARIES or root in sys.stdlib_module_names


def _own_names(function: types.FunctionType) -> list[str]:
    """The global names that the code uses, of plain values, and of functions and classes that are not of a library."""
    if "site-packages" in function.__code__.co_filename:
        return []
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    known, values = function.__globals__, (*_PLAIN, np.ndarray, np.generic, jax.Array)
    own = lambda part: callable(part) and getattr(part, "__module__", None) is not None and not is_of_a_library(part)
    return sorted(name for name in names if name in known and (isinstance(known[name], values) or own(known[name])))


def _function_of(part: Any) -> Any:
    """The function of what stands in a class, or ``None`` where it is no method."""
    if isinstance(part, property):
        return part.fget
    if isinstance(part, functools.cached_property):
        return part.func
    part = getattr(part, "__func__", part)  # of a class method or a static method
    return part if isinstance(part, types.FunctionType) else None


def attributes(thing: Any) -> list[tuple[str, Any]]:
    """The attributes of an object, without what it has cached."""
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    found = {name: getattr(thing, name) for name in slots if hasattr(thing, name)} | getattr(thing, "__dict__", {})
    cached = functools.cached_property
    return [item for item in sorted(found.items()) if not isinstance(getattr(type(thing), item[0], None), cached)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the name has no value yet
        return None
