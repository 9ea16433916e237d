"""Data as a record whose arrays share a leading axis of independent observations."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxem.core import trees
from jaxem.core.records import register
from jaxem.core.streams import Streamed

Data = Any  # a Dataset, or only the tree of its values where it holds nothing else


@register
@dataclasses.dataclass(frozen=True)
class Patterns:
    """Which rows of a table miss the same cells; the conversion of data finds them (see ``missing_cells.py``)."""

    index: Array  # (N,) or (N, T), the pattern of each row
    count: int = dataclasses.field(metadata={"static": True})  # an upper bound of the number of patterns
    # So many consecutive rows, counted from the first row, share their pattern; 1: rows are in any order.
    tile: int = dataclasses.field(default=1, metadata={"static": True})


class Columns(NamedTuple):
    """The names of the columns of a data frame, and their levels."""

    names: tuple[str, ...]  # the name of each column
    levels: tuple[tuple[str, ...] | None, ...]  # for each column its categories in the order of their codes, or None


Named = tuple[tuple[str, Columns], ...]  # the columns of each part, by its path: "values", "given.gate"


class Origin(NamedTuple):
    """The data frame that data came from."""

    library: str  # "pandas", "polars" or "pyarrow"; "" for another
    index: Any  # the labels of its rows: a pandas index, one for each of a list of frames; None for row numbers


@register
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Everything that describes N independent observations. ``jaxem.dataset`` makes and checks it.

    Functions that a user writes receive this record, or the values alone where it holds nothing else.

    Arguments:
        values: what is modelled, a tree of arrays (N, ...), or (N, T, ...) for sequences.
        given: covariates, which are conditioned on: a tree of arrays (N, ...); default none.
        observed: booleans shaped like ``values``, False where a cell is missing; default: no cell is missing.
        lengths: (N,), whole numbers from 1 to T; steps after the end of a sequence are never used; default: all full.
        weights: (N,), how many times each observation counts; default: once each.
        patterns: which rows miss the same cells; found from ``observed`` by the conversion of data.
        names: the columns of each part that came as a data frame; ``columns`` reads them. Static under ``jit``.
        origin: the library and the index of that data frame; not kept by ``jit`` and ``jax.tree.map``.
    """

    values: Any
    given: Any = None
    observed: Any = None
    lengths: Array | None = None
    weights: Array | None = None
    patterns: Any = None
    names: Named | None = dataclasses.field(default=None, metadata={"static": True})
    origin: Origin | None = dataclasses.field(default=None, metadata={"aside": True})

    def columns(self, part: str = "values") -> Columns | None:
        """The columns of a part that came as a data frame.

        Arguments:
            part: ``"values"`` (default), ``"given"``, or a name in a tree such as ``"values.name"``.

        Returns:
            ``Columns(names, levels)``; ``None`` where the part did not come as a data frame.
        """
        return dict(self.names or ()).get(part)

    def __repr__(self) -> str:
        def shown(name: str) -> str:
            part, columns = getattr(self, name), self.columns(name)
            shapes = [str(np.shape(leaf)) for leaf in jax.tree.leaves(part)]
            return f"{name} {', '.join(shapes)}" + (f" ({', '.join(columns.names)})" if columns else "")

        parts = ("values", "given", "observed", "lengths", "weights")
        return f"Dataset({'; '.join(shown(name) for name in parts if getattr(self, name) is not None)})"


def plain(data: Data) -> Data:
    """The data without names, which no computation depends on; the values alone where there is nothing else."""
    if not isinstance(data, Dataset):
        return data
    alone = all(part is None for part in (data.given, data.observed, data.lengths, data.weights))
    named = data.names is not None or data.origin is not None
    return data.values if alone else dataclasses.replace(data, names=None, origin=None) if named else data


@register
@dataclasses.dataclass(frozen=True)
class Sharded:
    """Observations spread over the devices of a mesh, equally many on each. ``jaxem.shard`` makes it."""

    data: Dataset  # rows of padding have weight 0
    mesh: Mesh = dataclasses.field(metadata={"static": True})  # the devices
    rows: int = dataclasses.field(metadata={"static": True})  # of this process, without padding

    def total(self, of_part: Callable[[Any, Data], Any], operands: Any) -> Any:
        """The sum over devices of ``of_part(operands, part)``, a tree of sums over the observations of one device.

        Every array that ``of_part`` needs must be in ``operands``: one that it closed over would belong to all devices.

        Arguments:
            of_part: a function of ``operands`` and of the observations of one device, which returns a tree of sums.
            operands: a tree of arrays, the same on each device.

        Returns:
            The tree of sums.
        """
        rows, everywhere = PartitionSpec(self.mesh.axis_names), PartitionSpec()

        def on_each(operands: Any, part: Dataset) -> Any:
            return jax.lax.psum(of_part(operands, part), self.mesh.axis_names)

        over_devices = jax.shard_map(
            on_each, mesh=self.mesh, in_specs=(everywhere, rows), out_specs=everywhere, check_vma=False
        )
        return over_devices(operands, self.data)

    def replicated(self, tree: Any) -> Any:
        """A copy of every array of a tree on each device.

        Arguments:
            tree: a tree of arrays.

        Returns:
            The same tree, its arrays on all devices.
        """
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), tree)


Spread = Sharded | Streamed  # data of which only sums over parts are to be had; ``data`` has the structure of a part


def split_weights(data: Data) -> tuple[Data, Array | None]:
    """The observations without weights, and the weights (N,); ``None`` where each counts once. Of a stream only shapes
    are known."""
    data = data.data if isinstance(data, Spread) else data
    if isinstance(data, Dataset):
        return plain(dataclasses.replace(data, weights=None)), data.weights
    return data, None


def unpadded(data: Data, found: Array) -> Array:
    """An array with one row per observation, without the rows that pad devices; several processes keep them, for each
    has its own rows followed by its own padding."""
    return found[: data.rows] if isinstance(data, Sharded) and jax.process_count() == 1 else found


def with_weights(observations: Data, weights: Any) -> Dataset:
    """The observations as a record with these weights."""
    if isinstance(observations, Dataset):
        return dataclasses.replace(observations, weights=weights)
    return Dataset(observations, weights=weights)


def values_of(data: Data) -> Any:
    """The values of the data, which are what is modelled; of a stream only shapes are known."""
    data = data.data if isinstance(data, Spread) else data
    return data.values if isinstance(data, Dataset) else data


def observed_of(data: Data) -> Any:
    """The masks of the observed cells, shaped like the values; ``None`` where no cell is missing."""
    data = data.data if isinstance(data, Spread) else data
    return data.observed if isinstance(data, Dataset) else None


def given_of(data: Data) -> Any:
    """The covariates; ``None`` where there are none."""
    data = data.data if isinstance(data, Spread) else data
    return data.given if isinstance(data, Dataset) else None


def patterns_of(data: Data) -> Any:
    """Which rows miss the same cells, where that is known; the parts of a stream need not share their patterns."""
    data = data.data if isinstance(data, Sharded) else data
    return data.patterns if isinstance(data, Dataset) else None


def tile_of(data: Data) -> int:
    """The number of rows in a tile, which blocks of rows must not cut; 1 for rows in any order."""
    patterns = patterns_of(data)
    return patterns.tile if isinstance(patterns, Patterns) else 1


def with_values(data: Data, values: Any) -> Data:
    """The data with other values in the same shapes; masks and everything else are kept."""
    values = jax.tree.map(lambda new, old: new.reshape(old.shape), values, values_of(data))
    return dataclasses.replace(data, values=values) if isinstance(data, Dataset) else values


def part(data: Data, name: str, *takes: str) -> Data:
    """The part ``name`` of data whose values are a dict, with the ``"observed"`` and ``"given"`` that it takes."""
    data = data.data if isinstance(data, Spread) else data
    if not isinstance(data, Dataset):
        return data[name]
    of = lambda tree: tree[name] if "observed" in takes and tree is not None else None
    given = data.given if "given" in takes else None
    return plain(Dataset(data.values[name], given, of(data.observed), patterns=of(data.patterns)))


def lengths_of(data: Data) -> Array | None:
    """The lengths of the sequences (N,); ``None`` where all are full."""
    data = data.data if isinstance(data, Spread) else data
    return data.lengths if isinstance(data, Dataset) else None


def counted(data: Data) -> tuple[Data, Array | None]:
    """The observations with harmless values where the weight is zero, and the weights.

    An observation of weight zero is replaced by the first one of another weight. Whatever it held, NaN included, then
    affects neither values nor derivatives.
    """
    observations, weights = split_weights(data)
    if weights is None or tile_of(data) > 1:  # tiles are filled up with copies of rows that count
        return observations, weights
    counts = weights != 0  # a NaN or negative weight counts, so that it is not hidden
    first = counts.argmax()

    def stand_in(leaf: Array) -> Array:
        other = jnp.where(counts[first], leaf[first], jnp.zeros_like(leaf[first]))[None]
        return jnp.where(counts.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, other)

    return jax.tree.map(stand_in, observations), weights


def check_counts(data: Data) -> None:
    """Raise ``ValueError`` for invalid weights, lengths, masks or covariates; of traced ones only shapes are checked.

    Weights are (N,), finite, not negative and not all zero. Lengths are (N,), from 1 to T. Covariates have a row for
    each observation. ``observed`` is shaped like the values.
    """
    if not isinstance(data, Dataset):
        return
    n = count(data.values)
    if jax.tree.leaves(data.given) and count(data.given) != n:
        raise ValueError(f"given: {n} observations need as many rows of covariates; got {count(data.given)}")
    if data.observed is not None:
        shapes = [jax.tree.map(jnp.shape, part) for part in (data.values, data.observed)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"observed must be shaped like the values, {shapes[0]}; got {shapes[1]}")
    if data.lengths is not None:
        lengths, steps = data.lengths, _steps(data.values)
        if steps is None:
            shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data.values)]
            raise ValueError(f"sequences need values of shape (N, T, ...); got {', '.join(map(str, shapes))}")
        if lengths.shape != (n,) or not (isinstance(lengths, Tracer) or _lengths_are_sound(np.asarray(lengths), steps)):
            raise ValueError(f"the lengths of {n} sequences must be {n} whole numbers from 1 to {steps}")
    if data.weights is not None:
        weights = data.weights
        if weights.shape != (n,):
            raise ValueError(f"the weights of {n} observations need shape ({n},); got {tuple(weights.shape)}")
        if not (isinstance(weights, Tracer) or _weights_are_sound(np.asarray(weights))):
            raise ValueError("observation weights must be finite and not negative, and one of them above zero")


def _steps(values: Any) -> int | None:
    """T, the length of the second axis that all arrays share; ``None`` where they do not share one."""
    found = {leaf.shape[1] if leaf.ndim > 1 else None for leaf in jax.tree.leaves(values)}
    return found.pop() if len(found) == 1 else None


def counts_are_sound(data: Data) -> Array:
    """Whether traced lengths and weights have values that ``check_counts`` would accept."""
    sound = jnp.bool_(True)
    data = data.data if isinstance(data, Sharded) else data
    if not isinstance(data, Dataset):
        return sound
    steps = _steps(data.values)
    if data.lengths is not None and steps is not None:
        sound = sound & _lengths_are_sound(data.lengths, steps)
    return sound if data.weights is None else sound & _weights_are_sound(data.weights)


def _lengths_are_sound(lengths: Any, t: int) -> Any:
    return ((lengths >= 1) & (lengths <= t)).all()


def _weights_are_sound(weights: Any) -> Any:
    return ((weights >= 0) & (weights < jnp.inf)).all() & (weights > 0).any()


def count(data: Data) -> int:
    """The number of observations: the length of the leading axis. ``ValueError`` where the leaves do not share it.

    Of a stream it is the number of rows of the chunk that one device works on.
    """
    if isinstance(data, Streamed):
        return data.rows
    shapes = [leaf.shape if hasattr(leaf, "shape") else np.shape(leaf) for leaf in jax.tree.leaves(data)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            "the leaves of the data must share a leading axis of observations; their shapes are "
            f"{[jnp.shape(leaf) for leaf in jax.tree.leaves(data)]}"
        )
    return lengths.pop()


def size(data: Data, dtype: jnp.dtype) -> Array:
    """The (weighted) number of scalar values observed, without padding, missing cells and covariates.

    A log-likelihood grows with it, so it is the scale of every tolerance on one: data taken twice, or in other units,
    lead to the same decisions.
    """
    if isinstance(data, Streamed):
        return data.observed.astype(dtype)
    observations, weights = split_weights(trees.at_hand(data))
    values, lengths = values_of(observations), lengths_of(observations)
    observed = observations.observed if isinstance(observations, Dataset) else None
    scalars = sum(float(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(values))
    if weights is None and lengths is None and observed is None:
        return jnp.asarray(scalars, dtype)
    n = count(values)
    if observed is None:
        known: Any = lengths if weights is None else weights
        each = known.__array_namespace__().full((n,), scalars / max(n, 1), dtype)
        if lengths is not None:
            each = each * lengths.astype(dtype) / max(_steps(values) or 1, 1)
    else:
        cells = [inside(leaf, lengths).reshape(n, -1).sum(axis=1) for leaf in jax.tree.leaves(observed)]
        each = functools.reduce(operator.add, cells).astype(dtype)
    return jnp.asarray((each if weights is None else each * weights.astype(dtype)).sum())


def inside(mask: Any, lengths: Any) -> Any:
    """The mask (N, T, ...), set to False after the end of each sequence; of NumPy's or JAX's arrays."""
    if lengths is None:
        return mask
    steps = lengths.__array_namespace__().arange(mask.shape[1], dtype=lengths.dtype)[None, :] < lengths[:, None]
    return mask & steps.reshape(*steps.shape, *(1,) * (mask.ndim - 2))


def take(data: Data, start: int | Array, length: int) -> Data:
    """``length`` observations from ``start`` on."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, length), data)


def rows(data: Data, index: int | slice | Array | np.ndarray) -> Data:
    """The observations at these places."""
    return jax.tree.map(lambda leaf: leaf[index], data)


def total(values: Array, weights: Array | None = None) -> Array:
    """The (weighted) sum of ``values (N,)``, one for each observation; NaN where a weight is negative or NaN.

    More than 1024 values are added up in pieces of about sqrt(N), so that rounding error grows like sqrt(N), not N.
    """
    if weights is not None:
        weights = jnp.where(weights >= 0, weights.astype(values.dtype), jnp.nan)
        values = jnp.where(weights == 0, 0, values * weights)
    n = values.shape[0]
    width = max(int(np.ceil(np.sqrt(n))), 1)
    if n <= 1024:
        return values.sum()
    full = n // width * width
    return values[:full].reshape(-1, width).sum(axis=1).sum() + values[full:].sum()
