"""The first pass over a source: its rows are counted and its values are checked, as ``fit`` checks data in memory."""

import contextlib
import dataclasses
import math
import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import data as datasets
from jaxem.core import trees
from jaxem.core.arrays import X64, check_precision
from jaxem.core.compilation import program
from jaxem.core.conversion import as_params, check_shapes
from jaxem.core.data import Dataset, rows
from jaxem.core.missing_cells import refuse
from jaxem.core.model import Params, has
from jaxem.core.reading import fill
from jaxem.core.sources import Source
from jaxem.fitting.validation import check_inside

_SAMPLE = 2**22  # most bytes of the rows from which it is judged whether a narrower dtype loses digits


class Plan(NamedTuple):
    """The arrays of a chunk as the devices get them; those of the weights come last."""

    source: Source
    dtypes: list[np.dtype]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of computations."""
        return self.dtypes[-1]

    @property
    def bytes_of_row(self) -> int:
        """The size of a row as the devices get it."""
        return sum(out.dtype.itemsize * out.size for out in self.buffers(1))

    def buffers(self, rows: int) -> list[np.ndarray]:
        """New arrays for a chunk."""
        shapes = [leaf.shape for leaf in self.source.leaves] + [()] * (not self.source.weighted)
        return [_pages((rows, *shape), dtype) for shape, dtype in zip(shapes, self.dtypes, strict=True)]

    def record(self, leaves: list[Any]) -> Dataset:
        """The arrays of a chunk as a ``Dataset``."""
        data = jax.tree.unflatten(self.source.structure, leaves[: len(self.source.leaves)])
        return dataclasses.replace(data, weights=leaves[-1])


def plan(source: Source) -> Plan:
    """How the arrays of a source are converted, which only depends on their dtypes."""
    given = [np.dtype(leaf.dtype) for leaf in source.leaves]
    data = jax.tree.unflatten(source.structure, given)
    target = Dataset(
        jax.tree.map(_target, data.values),
        jax.tree.map(_target, data.given),
        jax.tree.map(lambda _: np.dtype(bool), data.observed),
        None if data.lengths is None else _whole(data.lengths),  # pyright: ignore[reportArgumentType]
    )
    floating = [np.empty(0, dtype) for dtype in jax.tree.leaves((target.values, target.given))]
    return Plan(source, [*jax.tree.leaves(target), np.dtype(trees.float_dtype(floating))])


def _pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new array in memory of its own, which goes back to the system with it; an allocator might keep that memory."""
    size = math.prod(shape)
    pages = mmap.mmap(-1, max(size * dtype.itemsize, 1))
    return np.frombuffer(pages, dtype, size).reshape(shape)


def _target(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "b":
        return dtype
    if jnp.issubdtype(dtype, jnp.floating):
        wide = np.float64 if jnp.finfo(dtype).bits >= 64 else np.float32
        return np.dtype(jax.dtypes.canonicalize_dtype(wide))
    return _whole(dtype)


def _whole(dtype: np.dtype) -> np.dtype:
    """The signed whole numbers that hold those of ``dtype``, as far as JAX has them; 32 bits for lengths in floats."""
    wide = dtype.kind in "iu" and (dtype.itemsize == 8 or (dtype.itemsize == 4 and dtype.kind == "u"))
    return np.dtype(jax.dtypes.canonicalize_dtype(np.int64 if wide else np.int32))


def look(model: Any, params: Params, plan: Plan, most: int, digest: Any = None) -> tuple[int, float]:
    """Read a source once, ``most`` rows at a time: its number of rows, and its (weighted) number of observed values.

    Where ``digest`` is given (a hash of ``hashlib``), all rows go into it.

    Raises ``ValueError`` where ``fit`` would refuse these data or this start in memory.
    """
    stored = [np.dtype(leaf.dtype) for leaf in plan.source.leaves] + [plan.dtype] * (not plan.source.weighted)
    raw, ready = Plan(plan.source, stored).buffers(most), plan.buffers(most)
    ready = [a if a.dtype == b.dtype else b for a, b in zip(raw, ready, strict=True)]
    chunk, sample = plan.record(ready), _Sample(raw, ready)
    total, observed, positive = 0, 0.0, False
    cursor = plan.source.open(0)
    try:
        while (found := fill(cursor, raw, plan.source.weighted)) > 0:
            _into(digest, raw, found)
            with _located(total, found, plan.source.rows):
                for leaf, out in zip(raw, ready, strict=True):
                    _cast(leaf, out)
            if total == 0:
                one = _of_jax(rows(chunk, slice(0, 1)))
                check_shapes(model, None, one)
                params = as_params(model, params, plan.dtype)
                check_shapes(model, params, one)
                check_inside(model, params)
            with _located(total, found, plan.source.rows):
                _check(model, params, chunk)
            sample.add(found)
            total, observed = total + found, observed + _observed(chunk)
            positive = positive or bool((ready[-1] > 0).any())
            if found < most or total == plan.source.rows:
                break
    finally:
        cursor.close()
    if total == 0:
        raise ValueError("the source has no rows")
    if not positive:
        raise ValueError("observation weights must be finite and not negative, and one of them above zero")
    if total <= most and has(model, "validate"):
        model.validate(params, _of_jax(datasets.plain(rows(chunk, slice(0, total)))))
    sample.check()
    return total, observed


def look_again(plan: Plan, most: int, digest: Any) -> int:
    """Read a source that was checked before, ``most`` rows at a time, into ``digest``: its number of rows."""
    stored = [np.dtype(leaf.dtype) for leaf in plan.source.leaves] + [plan.dtype] * (not plan.source.weighted)
    raw, total = Plan(plan.source, stored).buffers(most), 0
    cursor = plan.source.open(0)
    try:
        while (found := fill(cursor, raw, plan.source.weighted)) > 0:
            _into(digest, raw, found)
            total += found
            if found < most or total == plan.source.rows:
                break
    finally:
        cursor.close()
    return total


def _into(digest: Any, raw: list[np.ndarray], found: int) -> None:
    if digest is not None:
        for leaf in raw:
            digest.update(np.ascontiguousarray(leaf[:found]).data.cast("B"))


@contextlib.contextmanager
def _located(start: int, found: int, total: int | None) -> Iterator[None]:
    """Say in which rows of the stream an error lies, where they are not all of them."""
    try:
        yield
    except ValueError as error:
        if found == total:
            raise
        raise ValueError(f"{error} (in rows {start} to {start + found - 1} of the stream)") from error


def _of_jax(data: Any) -> Any:
    return jax.tree.map(jnp.asarray, data)


def _cast(leaf: np.ndarray, out: np.ndarray) -> None:
    """Convert an array of a chunk, without a silent change."""
    if out is leaf:
        return
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        np.copyto(out, leaf, casting="unsafe")
    if leaf.dtype.kind == "f" and out.dtype.kind == "i" and not (out == leaf).all():
        raise ValueError("the lengths of sequences must be whole numbers; they are not")
    if jnp.issubdtype(out.dtype, jnp.floating) and (np.isinf(out) & ~np.isinf(leaf.astype(float))).any():
        raise ValueError(f"the data: {out.dtype} cannot hold values of this size; use other units, or {X64}")
    if leaf.dtype.kind in "iu" and out.dtype.kind == "i":
        low, high, limits = int(leaf.min()), int(leaf.max()), np.iinfo(out.dtype)
        if low < limits.min or high > limits.max:
            raise ValueError(
                f"the data: whole numbers from {low} to {high} do not fit {limits.bits} bits: use other units, or {X64}"
            )


def _check(model: Any, params: Params, chunk: Dataset) -> None:
    """Raise ``ValueError`` where values of a chunk are invalid."""
    weights = np.asarray(chunk.weights)
    if not ((weights >= 0) & (weights < np.inf)).all():
        raise ValueError("observation weights must be finite and not negative, and one of them above zero")
    if chunk.lengths is not None or chunk.observed is not None or chunk.given is not None:
        datasets.check_counts(dataclasses.replace(chunk, weights=None))
    for name, part in (("the data", chunk.values), ("given", chunk.given)):
        refuse(name, part, chunk.lengths, chunk.weights)
    if has(model, "allows") and not bool(_allowed(model, params, chunk)):
        if has(model, "validate"):
            model.validate(params, _of_jax(chunk))  # says which observation, and why
        raise ValueError("an observation lies outside what the model allows")


@program(quick="few numbers")
def _allowed(model: Any, params: Params, chunk: Dataset) -> Array:
    return jnp.asarray(model.allows(params, chunk))


def _observed(chunk: Dataset) -> float:
    """The (weighted) number of values observed in a chunk, as ``data.size`` counts them."""
    weights = np.asarray(chunk.weights, np.float64)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(chunk.values)]
    if chunk.observed is not None:
        lengths = None if chunk.lengths is None else np.asarray(chunk.lengths)
        masks = [datasets.inside(np.asarray(mask), lengths) for mask in jax.tree.leaves(chunk.observed)]
        each = sum(mask.reshape(len(weights), -1).sum(axis=1) for mask in masks)
        return float((weights * each).sum())
    each = sum(leaf[0].size for leaf in leaves)
    if chunk.lengths is None:
        return float(weights.sum() * each)
    return float((weights * np.asarray(chunk.lengths)).sum() * (each / leaves[0].shape[1]))


class _Sample:
    """Rows of the whole source whose values get a narrower dtype."""

    def __init__(self, raw: list[np.ndarray], ready: list[np.ndarray]) -> None:
        pairs = zip(raw, ready, strict=True)
        narrow = [jnp.issubdtype(a.dtype, jnp.floating) and a.itemsize > b.itemsize for a, b in pairs]
        self._raw = [leaf for leaf, chosen in zip(raw[:-1], narrow, strict=False) if chosen]
        self._dtypes = [leaf.dtype for leaf, chosen in zip(ready[:-1], narrow, strict=False) if chosen]
        self._kept: list[list[np.ndarray]] = [[] for _ in self._raw]
        self._every = 1

    def add(self, found: int) -> None:
        """Keep every so manyth of the first ``found`` rows, and fewer of all where the sample grows too large."""
        for leaf, kept in zip(self._raw, self._kept, strict=True):
            kept.append(leaf[: found : self._every].copy())
        while sum(part.nbytes for kept in self._kept for part in kept) > _SAMPLE:
            self._every *= 2
            self._kept = [[np.concatenate(kept)[::2]] for kept in self._kept]
            if all(len(kept[0]) <= 1 for kept in self._kept):
                break

    def check(self) -> None:
        """Raise ``ValueError`` where the narrower dtype loses digits that matter."""
        for kept, dtype in zip(self._kept, self._dtypes, strict=True):
            check_precision(np.concatenate(kept), dtype, "the data")
