"""Sources of rows that do not fit in memory: files, sliceable arrays, and functions that yield chunks.

A source can be read again and again. It knows the structure of its chunks and opens a cursor at any row. Only NumPy is
used, because sources are read while a compiled program waits.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.core import arrow, frames
from jaxem.core.arrays import to_numpy
from jaxem.core.checks import brief
from jaxem.core.data import Columns, Dataset, Named, Sharded
from jaxem.core.reading import Cursor

_PIECE = 2**20  # bytes read at once where a file has another dtype than the chunk


class Source(NamedTuple):
    """A source of rows."""

    structure: Any  # of a ``Dataset``
    leaves: list[jax.ShapeDtypeStruct]  # of one row: shape without the leading axis, dtype as it is stored
    rows: int | None  # None where only a pass tells
    weighted: bool
    open: Callable[[int], Cursor]
    names: Named | None  # the columns of data frames


def source_of(source: Any) -> Source:
    """Whatever ``fit_stream`` takes as a source; ``ValueError`` where it is something else."""
    if arrow.is_arrow(source):
        return _yielding(lambda: arrow.batches(source))
    if callable(source) and not hasattr(source, "shape"):
        return _yielding(source)
    if isinstance(source, Iterator):
        raise ValueError(
            f"fit_stream reads its source many times, and {brief(source)} can be read only once: pass the function "
            "that makes it"
        )
    if isinstance(source, Sharded):
        raise ValueError("fit_stream takes data that are not spread over devices yet: pass the source and the mesh")
    data = source if isinstance(source, Dataset) else Dataset(source)
    nodes, structure = _flatten(data)
    columns = [_column(node, name) for name, node in nodes]
    named = [frames.read(node[:1], name)[2] if frames.is_table(node) else None for name, node in nodes]
    rows = {column.shape[0] for column in columns}
    if len(rows) != 1:
        raise ValueError(
            "the arrays of a source must share a leading axis of observations; their shapes are "
            f"{[tuple(column.shape) for column in columns]}"
        )
    total = rows.pop()
    if total == 0:
        raise ValueError("the source has no rows")
    leaves = [jax.ShapeDtypeStruct(column.shape[1:], column.dtype) for column in columns]
    names = data.names or _named(nodes, named)
    return Source(structure, leaves, total, data.weights is not None, lambda row: _Slices(columns, row), names)


def _flatten(data: Dataset) -> tuple[list[tuple[str, Any]], Any]:
    """The nodes of a record that are one array each, with their names, and the structure."""
    whole = lambda node: isinstance(node, list) or frames.is_table(node)
    parts = Dataset(data.values, data.given, data.observed, data.lengths, data.weights)
    nodes, structure = jax.tree_util.tree_flatten_with_path(parts, is_leaf=whole)
    named = [(jax.tree_util.keystr(path, simple=True, separator="."), node) for path, node in nodes]
    return [(f"the stream ({name})", node) for name, node in named], structure


def _named(nodes: list[tuple[str, Any]], columns: Sequence[Columns | None]) -> Named | None:
    """The columns of the nodes that have names, by path."""
    pairs = zip(nodes, columns, strict=True)
    found = [(name.partition("(")[2].removesuffix(")"), own) for (name, _), own in pairs if own is not None]
    return tuple(found) or None


# Sliceable arrays


def _column(node: Any, name: str) -> Any:
    """An array of a source as something with ``shape``, ``dtype`` and slices of rows."""
    if isinstance(node, str | Path):
        path = Path(node)
        if path.suffix != ".npy":
            raise ValueError(f"{name}: a file must be .npy, or the whole source .parquet or .arrow; got {path.name}")
        node = np.load(path, mmap_mode="r", allow_pickle=False)
    if frames.is_table(node) or isinstance(node, list | jax.Array):
        node = _array(node, name)[0]
    if not (hasattr(node, "shape") and hasattr(node, "dtype") and hasattr(node, "__getitem__")):
        raise ValueError(f"{name}: a source is a file, an array, or a function that yields chunks; got {brief(node)}")
    if len(node.shape) == 0:
        raise ValueError(f"{name}: an array needs a leading axis of observations; its shape is ()")
    _check_numeric(np.dtype(node.dtype), name)
    return _mapped(node) or node


def _check_numeric(dtype: np.dtype, name: str) -> None:
    to_numpy(np.zeros(1, dtype), name)  # refuses texts, dates and complex numbers by name


class _File(NamedTuple):
    """Rows of a file. Its pages are not mapped into memory, where they would count as the memory of this process."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, out: np.ndarray, start: int, stop: int) -> None:
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        whole = out.dtype == self.dtype and out.flags.c_contiguous
        step = max(stop - start, 1) if whole else max(_PIECE // max(row, 1), 1)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + start * row)
            for first in range(start, stop, step):
                rows = min(step, stop - first)
                part = out[first - start : first - start + rows]
                piece = part if whole else np.empty((rows, *self.shape[1:]), self.dtype)
                bytes_left = piece.reshape(-1).view(np.uint8).data
                while bytes_left.nbytes:
                    found = file.readinto(bytes_left)
                    if not found:
                        raise ValueError(f"{os.path.basename(self.path)} ends before its row {stop - 1}")
                    bytes_left = bytes_left[found:]
                if not whole:
                    with np.errstate(over="ignore", invalid="ignore"):
                        np.copyto(part, piece, casting="unsafe")


def _mapped(array: Any) -> _File | None:
    """The rows of a memory map in its file; ``None`` for other arrays, and for a map whose changes are its own."""
    base = getattr(array, "_mmap", None)
    if not isinstance(array, np.memmap) or base is None or array.filename is None:
        return None
    if array.mode == "c" or not array.flags.c_contiguous or array.size == 0:
        return None
    inside = array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    return _File(str(array.filename), begin + inside, array.shape, array.dtype)


class _Slices:
    """A cursor over arrays that can be sliced at any row."""

    def __init__(self, columns: Sequence[Any], row: int) -> None:
        self._columns, self._row, self._total = columns, row, int(columns[0].shape[0])

    def read(self, out: Sequence[np.ndarray]) -> int:
        start, stop = self._row, min(self._row + len(out[0]), self._total)
        for column, leaf in zip(self._columns, out, strict=True):
            part = leaf[: stop - start]
            if isinstance(column, _File):
                column.read(part, start, stop)
            else:
                with np.errstate(over="ignore", invalid="ignore"):
                    found = to_numpy(column[start:stop], "a slice of the source")
                    if found.shape != part.shape:
                        raise ValueError(f"a slice of a source has shape {found.shape}, not {part.shape}")
                    np.copyto(part, found, casting="unsafe")
        self._row = stop
        return stop - start

    def close(self) -> None:
        pass


# Functions that yield chunks


class _Chunk(NamedTuple):
    structure: Any
    leaves: list[np.ndarray]
    columns: tuple[Columns | None, ...]
    weighted: bool
    names: Named | None


def _chunk(found: Any, name: str) -> _Chunk:
    """What a source yielded, as NumPy arrays."""
    if isinstance(found, Sharded):
        raise ValueError(f"{name} is spread over devices; yield arrays")
    data = found if isinstance(found, Dataset) else Dataset(found)
    nodes, structure = _flatten(data)
    arrays = [_array(node, part.replace("the stream", name)) for part, node in nodes]
    leaves = [array for array, _ in arrays]
    rows = {array.shape[0] if array.ndim else -1 for array in leaves}
    if len(rows) != 1 or -1 in rows:
        raise ValueError(
            f"{name}: its arrays must share a leading axis of observations; their shapes are "
            f"{[array.shape for array in leaves]}"
        )
    columns = tuple(columns for _, columns in arrays)
    names = data.names or _named([(part.replace("the stream", name), node) for part, node in nodes], columns)
    return _Chunk(structure, leaves, columns, data.weights is not None, names)


def _array(node: Any, name: str) -> tuple[np.ndarray, Columns | None]:
    wanted = frames.Wanted(trust="dtype")  # the next chunk may hold other texts
    read = frames.read(node, name, wanted) if frames.is_table(node) else frames.read_series(node, name, wanted)
    if read is not None:
        array, observed, columns = read
        frames.refuse_missing(observed, columns, name)
        return array, columns
    return to_numpy(node, name), None


def _yielding(function: Callable[[], Any]) -> Source:
    """A source that is a function without arguments. Its first chunk tells what all chunks look like."""
    chunks = _chunks(function, None)
    try:
        first = next(chunks, None)
    finally:
        chunks.close()
    if first is None:
        raise ValueError("the source has no rows")
    leaves = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in first.leaves]
    return Source(
        first.structure, leaves, None, first.weighted, lambda row: _Yielded(function, first, row), first.names
    )


def _chunks(function: Callable[[], Any], like: _Chunk | None) -> Any:
    """The chunks that hold rows, each checked against the first of all."""
    yielded = function()
    if not hasattr(yielded, "__iter__") or hasattr(yielded, "shape"):
        raise ValueError(f"the function that is a source must yield chunks; it returns {brief(yielded)}")
    for number, found in enumerate(yielded):
        chunk = _chunk(found, f"chunk {number}")
        if like is not None:
            _check_alike(chunk, like, number)
        if len(chunk.leaves[0]):
            yield chunk


def _check_alike(chunk: _Chunk, like: _Chunk, number: int) -> None:
    if chunk.structure != like.structure:
        raise ValueError(f"chunk {number} of the stream has other parts than the first chunk")
    if chunk.columns != like.columns:
        raise ValueError(f"chunk {number} of the stream has other columns, or other levels, than the first chunk")
    for found, wanted in zip(chunk.leaves, like.leaves, strict=True):
        if found.shape[1:] != wanted.shape[1:]:
            raise ValueError(
                f"chunk {number} of the stream has rows of shape {found.shape[1:]}; those of the first chunk have "
                f"{wanted.shape[1:]}"
            )
        if found.dtype != wanted.dtype:
            raise ValueError(
                f"chunk {number} of the stream has dtype {found.dtype}; the first chunk has {wanted.dtype}"
            )


class _Yielded:
    """A cursor over the chunks that a function yields."""

    def __init__(self, function: Callable[[], Any], like: _Chunk, row: int) -> None:
        self._chunks, self._rest, self._skip = _chunks(function, like), None, row

    def read(self, out: Sequence[np.ndarray]) -> int:
        rows, done = len(out[0]), 0
        while done < rows:
            piece = self._next()
            if piece is None:
                break
            taken = min(rows - done, len(piece[0]))
            for leaf, found in zip(out, piece, strict=True):
                with np.errstate(over="ignore", invalid="ignore"):
                    np.copyto(leaf[done : done + taken], found[:taken], casting="unsafe")
            done += taken
            self._rest = [leaf[taken:] for leaf in piece] if taken < len(piece[0]) else None
        return done

    def _next(self) -> list[np.ndarray] | None:
        """Rows not yet read."""
        while self._rest is None:
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            skipped = min(self._skip, len(chunk.leaves[0]))
            self._skip -= skipped
            if skipped < len(chunk.leaves[0]):
                self._rest = [leaf[skipped:] for leaf in chunk.leaves]
        return self._rest

    def close(self) -> None:
        self._rest = None
        self._chunks.close()
