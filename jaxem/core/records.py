"""Records: frozen dataclasses that are pytrees. Two are equal where all their contents are, arrays included."""

import dataclasses
from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer

T = TypeVar("T", bound=type)


def register(cls: T) -> T:
    """Register a dataclass as a pytree; fields marked ``metadata={"static": True}`` are compared, not traced.

    Fields marked ``metadata={"aside": True}`` are in neither: a record that JAX puts together again has their defaults.
    They hold what only a person reads, such as labels of rows, and never cause a compilation.

    It replaces ``jax.tree_util.register_dataclass``. With that function two classes with equal static fields and
    equally many leaves have structures that compare equal, so that ``jit`` may run the program of one class for the
    other (jaxlib 0.10.2).

    Two records are equal where their structures are equal and their arrays agree in shape, dtype and every value (a
    NaN equals a NaN). A traced array equals only itself. The hash ignores values, because an array may change, as
    NumPy arrays do.
    """
    fields = dataclasses.fields(cls)
    static = [field.name for field in fields if field.metadata.get("static")]
    aside = {field.name: field.default for field in fields if field.metadata.get("aside")}
    dynamic = [field.name for field in fields if field.name not in (*static, *aside)]
    keys = [jax.tree_util.GetAttrKey(name) for name in dynamic]

    def split(record: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(record, name) for name in dynamic], (cls, *(getattr(record, name) for name in static))

    def split_with_keys(record: Any) -> tuple[list[Any], tuple[Any, ...]]:
        children, rest = split(record)
        return list(zip(keys, children, strict=True)), rest

    def join(rest: tuple[Any, ...], children: Any) -> Any:
        record = object.__new__(cls)  # skips the checks of __post_init__: children may be anything
        for name, value in zip([*static, *dynamic, *aside], (*rest[1:], *children, *aside.values()), strict=True):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, split_with_keys, join, split)
    if dynamic:  # without dynamic fields the methods that dataclass wrote are enough
        cls.__eq__, cls.__hash__ = _equal, _hash  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def _equal(self: Any, other: Any) -> bool:
    if self is other:
        return True
    if type(self) is not type(other):
        return NotImplemented
    leaves, structure = jax.tree.flatten(self)
    others, other_structure = jax.tree.flatten(other)
    return structure == other_structure and all(map(_same, leaves, others))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    if not (hasattr(a, "dtype") and hasattr(b, "dtype")):
        return type(a) is type(b) and bool(a == b or (a != a and b != b))
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _hash(self: Any) -> int:
    leaves, structure = jax.tree.flatten(self)
    return hash((type(self), structure, tuple((np.shape(leaf), str(getattr(leaf, "dtype", ""))) for leaf in leaves)))
