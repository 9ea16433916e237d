"""Records: frozen dataclasses that are pytrees, their static fields compared by value."""

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T", bound=type)


def register(cls: T) -> T:
    """Register a dataclass as a pytree; fields marked ``metadata={"static": True}`` are compared, not traced.

    As ``jax.tree_util.register_dataclass``, by which two classes with equal static fields and as many leaves have
    structures that compare equal, so that ``jit`` may run the program of one for the other (jaxlib 0.10.2).
    """
    fields = dataclasses.fields(cls)
    static = [field.name for field in fields if field.metadata.get("static")]
    dynamic = [field.name for field in fields if not field.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in dynamic]

    def split(record: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(record, name) for name in dynamic], (cls, *(getattr(record, name) for name in static))

    def split_with_keys(record: Any) -> tuple[list[Any], tuple[Any, ...]]:
        children, rest = split(record)
        return list(zip(keys, children, strict=True)), rest

    def join(rest: tuple[Any, ...], children: Any) -> Any:
        record = object.__new__(cls)  # without the checks of __post_init__: children may be anything
        for name, value in zip(static + dynamic, (*rest[1:], *children), strict=True):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, split_with_keys, join, split)
    return cls
