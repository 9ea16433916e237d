"""Data as pictures need them: NumPy arrays with NaN in missing cells, names, a subsample where there are too many."""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.core import data as core
from jaxem.core.conversion import admit
from jaxem.core.data import Columns, Data, Spread
from jaxem.core.labels import columns_of
from jaxem.core.model import Params
from jaxem.models.restricted.model import Restricted

SHOWN = 4000  # points that a picture shows at most


class Given(NamedTuple):
    """What a picture was given, converted."""

    model: Any  # without its restrictions
    params: Params
    data: Data
    columns: dict[str, Columns]  # of each part that came as a data frame; "": the whole


def read(function: str, model: Any, params: Params, data: Data) -> Given:
    """Model, parameters and data of a picture, checked against each other."""
    if isinstance(data, Spread):
        raise ValueError(f"plot.{function} draws data in memory; it got a {type(data).__name__}")
    columns = columns_of(data)
    params, data = admit(model, params, data)
    return Given(bare(model), params, data, columns)


def bare(model: Any) -> Any:
    """The model without its restrictions, which no picture shows."""
    return model.model if isinstance(model, Restricted) else model


def with_nan(data: Data) -> Any:
    """The values as NumPy arrays of floats, NaN in missing cells."""
    values, observed = core.values_of(data), core.observed_of(data)
    floats = jax.tree.map(lambda leaf: np.asarray(leaf, np.result_type(leaf.dtype, np.float32)), values)
    if observed is None:
        return floats
    return jax.tree.map(lambda leaf, seen: np.where(np.asarray(seen), leaf, np.nan), floats, observed)


def weights_of(data: Data) -> np.ndarray | None:
    """The weights (N,); ``None`` where each observation counts once."""
    weights = core.split_weights(data)[1]
    return None if weights is None else np.asarray(weights)


def column_names(columns: dict[str, Columns], d: int, part: str = "") -> list[str]:
    """The names of d columns: those of the data frame, or x, or x_1, x_2, ..."""
    found = columns.get(part)
    if found is not None and len(found.names) == d:
        return list(found.names)
    return ["$x$"] if d == 1 else [f"$x_{{{j + 1}}}$" for j in range(d)]


def subsample(n: int, most: int = SHOWN) -> np.ndarray:
    """At most ``most`` of n rows, in order: always the same ones, drawn evenly."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


class Series(NamedTuple):
    """One column of one sequence."""

    values: np.ndarray  # (T,), NaN where missing
    name: str
    part: str  # of the values
    place: int  # of the column in its part


def one_sequence(function: str, data: Data, index: int) -> tuple[Data, int]:
    """A sequence as data of its own (1, T, ...), without weights, and its length."""
    x = core.split_weights(data)[0]
    n = core.count(core.values_of(x))
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not -n <= index < n:
        raise ValueError(f"plot.{function}: sequence must be one of 0 to {n - 1}; got {index!r}")
    one = core.rows(x, np.array([index % n]))
    lengths = core.lengths_of(one)
    steps = jax.tree.leaves(core.values_of(one))[0].shape[1]
    return one, steps if lengths is None else int(lengths[0])


def series(function: str, one: Data, length: int, columns: dict[str, Columns], column: str | int | None) -> Series:
    """The column of a sequence that a picture shows: by its name, its place, or the first."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(with_nan(one)):
        part = jax.tree_util.keystr(path, simple=True, separator=".")
        flat = leaf[0, :length].reshape(length, -1)
        names = column_names(columns, flat.shape[1], part)
        if part and part not in columns:
            names = [part] if flat.shape[1] == 1 else [f"{part}[{j}]" for j in range(flat.shape[1])]
        found += [Series(flat[:, j], name, part, j) for j, name in enumerate(names)]
    names = [one.name for one in found]
    place = 0 if column is None else names.index(column) if column in names else column
    if isinstance(place, bool) or not isinstance(place, int | np.integer) or not 0 <= place < len(found):
        raise ValueError(f"plot.{function}: column must be a place from 0 to {len(found) - 1} or one of {names}")
    return found[int(place)]


def times_of(function: str, times: Any, length: int) -> np.ndarray:
    """The position of each step: given, or 0, 1, 2, ..."""
    if times is None:
        return np.arange(length)
    found = np.asarray(times)
    if found.ndim != 1 or len(found) < length:
        raise ValueError(f"plot.{function}: times must have a value for each of {length} steps; got {found.shape}")
    return found[:length]


def runs(path: np.ndarray) -> list[tuple[int, int, int]]:
    """The runs of equal states in a path: (state, first step, step after the last)."""
    found, start = [], 0
    for state, steps in itertools.groupby(path.tolist()):
        end = start + len(list(steps))
        found.append((state, start, end))
        start = end
    return found


def edges(times: np.ndarray) -> np.ndarray:
    """The ends of the interval around each step, (T + 1,): half-way between steps."""
    if len(times) == 1:
        return times[0] + np.array([-0.5, 0.5])
    middle = times[:-1] + np.diff(times) / 2
    return np.concatenate([[times[0] - (times[1] - times[0]) / 2], middle, [times[-1] + (times[-1] - times[-2]) / 2]])
