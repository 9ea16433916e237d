"""Data: a record whose arrays share a leading axis of independent observations."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxem.core.records import register

Data = Any  # a Dataset, or the tree of its values where there is nothing else


class Columns(NamedTuple):
    """What the columns of a data frame are called."""

    names: tuple[str, ...]
    levels: tuple[tuple[str, ...] | None, ...]  # of each column: its categories, in the order of their codes


@register
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Everything that describes N independent observations; made and checked by ``jaxem.dataset``.

    Functions that a user writes get the values alone where there is nothing else, and this record otherwise.
    """

    values: Any  # what is modelled: a tree of arrays (N, ...), or (N, T, ...) for sequences
    given: Any = None  # covariates, which are conditioned on: a tree of arrays (N, ...)
    observed: Any = None  # like ``values``, bool: False where a cell is missing; None: nothing is
    lengths: Array | None = None  # (N,), whole numbers from 1 to T; what lies behind a sequence's end is never used
    weights: Array | None = None  # (N,), how many times each observation counts; None: once
    names: tuple[tuple[str, Columns], ...] | None = dataclasses.field(default=None, metadata={"static": True})

    def columns(self, part: str = "values") -> Columns | None:
        """The columns of a part that came as a data frame: ``"values"``, ``"given"``, or ``"values.name"`` in a tree;
        ``None`` where it did not."""
        return dict(self.names or ()).get(part)

    def __repr__(self) -> str:
        def shown(name: str) -> str:
            part, columns = getattr(self, name), self.columns(name)
            shapes = [str(np.shape(leaf)) for leaf in jax.tree.leaves(part)]
            return f"{name} {', '.join(shapes)}" + (f" ({', '.join(columns.names)})" if columns else "")

        parts = ("values", "given", "observed", "lengths", "weights")
        return f"Dataset({'; '.join(shown(name) for name in parts if getattr(self, name) is not None)})"


def plain(data: Data) -> Data:
    """The values alone where a data set holds nothing else; without names, which no computation depends on."""
    if not isinstance(data, Dataset):
        return data
    alone = all(part is None for part in (data.given, data.observed, data.lengths, data.weights))
    return data.values if alone else data if data.names is None else dataclasses.replace(data, names=None)


@register
@dataclasses.dataclass(frozen=True)
class Sharded:
    """Observations spread over the devices of a mesh, equally many on each; made by ``jaxem.shard``."""

    data: Dataset  # rows that fill a device up have weight 0
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def total(self, of_part: Callable[[Any, Data], Any], operands: Any) -> Any:
        """The sum over devices of ``of_part(operands, data)``, a tree of sums over observations, of which each device
        adds up its own.

        What ``of_part`` needs comes as operands: an array that it closed over would belong to all devices together.
        """
        rows, everywhere = PartitionSpec(self.mesh.axis_names), PartitionSpec()

        def on_each(operands: Any, part: Dataset) -> Any:
            return jax.lax.psum(of_part(operands, part), self.mesh.axis_names)

        over_devices = jax.shard_map(
            on_each, mesh=self.mesh, in_specs=(everywhere, rows), out_specs=everywhere, check_vma=False
        )
        return over_devices(operands, self.data)

    def replicated(self, tree: Any) -> Any:
        """Every array of a tree on each device."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), tree)


def split_weights(data: Data) -> tuple[Data, Array | None]:
    """The observations and their weights, ``None`` where each counts once."""
    data = data.data if isinstance(data, Sharded) else data
    if isinstance(data, Dataset):
        return plain(dataclasses.replace(data, weights=None)), data.weights
    return data, None


def with_weights(observations: Data, weights: Any) -> Dataset:
    """Observations without weights, weighted."""
    if isinstance(observations, Dataset):
        return dataclasses.replace(observations, weights=weights)
    return Dataset(observations, weights=weights)


def values_of(data: Data) -> Any:
    """What is modelled."""
    data = data.data if isinstance(data, Sharded) else data
    return data.values if isinstance(data, Dataset) else data


def lengths_of(data: Data) -> Array | None:
    """The lengths of the sequences (N,), ``None`` where all are full."""
    data = data.data if isinstance(data, Sharded) else data
    return data.lengths if isinstance(data, Dataset) else None


def counted(data: Data) -> tuple[Data, Array | None]:
    """The observations that count, and their weights.

    One of weight zero is replaced by the first that counts: whatever it holds, NaN included, it does no harm, not even
    to a derivative.
    """
    observations, weights = split_weights(data)
    if weights is None:
        return observations, None
    counts = weights != 0  # one that is NaN or negative is no reason to look away
    first = counts.argmax()

    def stand_in(leaf: Array) -> Array:
        other = jnp.where(counts[first], leaf[first], jnp.zeros_like(leaf[first]))[None]
        return jnp.where(counts.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, other)

    return jax.tree.map(stand_in, observations), weights


def check_counts(data: Data) -> None:
    """Raise ``ValueError`` for weights, lengths and masks that are none; where they are traced, for their shapes only.

    Weights are (N,), finite and not negative, one of them above zero; lengths are (N,), from 1 to T; covariates have a
    row for each observation; ``observed`` is shaped like the values.
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
    """T, the second axis that all arrays share; ``None`` where they do not."""
    found = {leaf.shape[1] if leaf.ndim > 1 else None for leaf in jax.tree.leaves(values)}
    return found.pop() if len(found) == 1 else None


def counts_are_sound(data: Data) -> Array:
    """Whether ``check_counts`` would pass, for values that are traced."""
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
    """The number of observations: the length of the leading axis.

    Raises ``ValueError`` where the leaves do not share one.
    """
    lengths = {leaf.shape[0] if leaf.ndim else -1 for leaf in map(jnp.asarray, jax.tree.leaves(data))}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            "the leaves of the data must share a leading axis of observations; their shapes are "
            f"{[jnp.shape(leaf) for leaf in jax.tree.leaves(data)]}"
        )
    return lengths.pop()


def size(data: Data, dtype: jnp.dtype) -> Array:
    """The number of scalar values observed: of those modelled, without padding, missing cells and covariates; weights
    counted.

    It is what a log-likelihood grows with, and so the scale of every tolerance on one: data taken twice,
    or in other units, lead to the same decisions.
    """
    observations, weights = split_weights(data)
    values, lengths = values_of(observations), lengths_of(observations)
    observed = observations.observed if isinstance(observations, Dataset) else None
    scalars = sum(float(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(values))
    if weights is None and lengths is None and observed is None:
        return jnp.asarray(scalars, dtype)
    n = count(values)
    if observed is None:
        each = jnp.full((n,), scalars / max(n, 1), dtype)
        if lengths is not None:
            each = each * lengths.astype(dtype) / max(_steps(values) or 1, 1)
    else:
        each = sum(inside(leaf, lengths).reshape(n, -1).sum(axis=1) for leaf in jax.tree.leaves(observed))
        each = jnp.asarray(each).astype(dtype)
    return (each if weights is None else each * weights.astype(dtype)).sum()


def inside(mask: Array, lengths: Array | None) -> Array:
    """A mask (N, T, ...) that is False behind the end of each sequence."""
    if lengths is None:
        return mask
    steps = jnp.arange(mask.shape[1], dtype=lengths.dtype)[None, :] < lengths[:, None]
    return mask & steps.reshape(*steps.shape, *(1,) * (mask.ndim - 2))


def take(data: Data, start: int | Array, length: int) -> Data:
    """``length`` observations from ``start`` on."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, length), data)


def rows(data: Data, index: int | Array) -> Data:
    """The observations at these places."""
    return jax.tree.map(lambda leaf: leaf[index], data)


def total(values: Array, weights: Array | None = None) -> Array:
    """The (weighted) sum of one value an observation, ``values (N,)``; NaN where a weight is negative or NaN.

    Summed in rows of about sqrt(N), so that the rounding error grows like sqrt(N) and not like N.
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
