"""The names that data bring along from data frames: of columns, their levels, and the library."""

from typing import Any

import jax

from jaxem.core import frames
from jaxem.core.data import Columns, Data, Dataset, Named, Sharded
from jaxem.core.dataset import named


def labelled(data: Data, like: Named | None = None) -> Dataset:
    """The names of the parts of the data, with those of ``like`` where the data have none, and their origin."""
    data = data.data if isinstance(data, Sharded) else data
    own = data if isinstance(data, Dataset) else _names_alone(data)
    return Dataset((), names=tuple({**dict(own.names or ()), **dict(like or ())}.items()) or None, origin=own.origin)


def library_of(data: Data) -> str | None:
    """The library of the data frame that the data came as."""
    data = data.data if isinstance(data, Sharded) else data
    if isinstance(data, Dataset):
        found = data.origin
    else:
        found = next((one for one in map(frames.origin, _nodes(data)) if one is not None), None)
    return None if found is None else found.library or None


def _names_alone(data: Data) -> Dataset:
    if not any(frames.is_table(node) or frames.is_series(node) for node in _nodes(data)):
        return Dataset(())
    return named(data)


def _nodes(data: Data) -> list[Any]:
    """The nodes among which are the data frames; of a list of sequences the first."""
    return data[:1] if isinstance(data, list) else jax.tree.leaves(data, is_leaf=frames.is_table)


def parts_of(names: Dataset, part: str) -> dict[str, Columns]:
    """The columns of each part of ``"values"`` or ``"given"``, by its path below it; ``""``: the whole."""
    found = ((path.removeprefix(part), columns) for path, columns in names.names or () if path.startswith(part))
    return {path.removeprefix("."): columns for path, columns in found}


def columns_of(data: Data) -> dict[str, Columns]:
    """The columns of each part of the values that came as a data frame or series, by its path; ``""``: the whole."""
    return parts_of(labelled(data), "values")
