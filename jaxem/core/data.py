"""Data: pytrees whose leaves share a leading axis of independent observations."""

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

Data = Any


@register
@dataclasses.dataclass(frozen=True)
class Weighted:
    """Observations that count ``weights`` times each.

    A weight of 2 is the same as seeing the observation twice, a weight of 0 the same as not seeing it.
    """

    data: Data
    weights: Array  # (N,), non-negative


@register
@dataclasses.dataclass(frozen=True)
class Sharded:
    """Observations spread over the devices of a mesh, equally many on each; made by ``jaxem.shard``."""

    data: Weighted  # rows that fill a device up have weight 0
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def total(self, of_part: Callable[[Any, Data], Any], operands: Any) -> Any:
        """The sum over devices of ``of_part(operands, data)``, a tree of sums over observations, of which each device
        adds up its own.

        What ``of_part`` needs comes as operands: an array that it closed over would belong to all devices together.
        """
        rows, everywhere = PartitionSpec(self.mesh.axis_names), PartitionSpec()

        def on_each(operands: Any, part: Weighted) -> Any:
            return jax.lax.psum(of_part(operands, part), self.mesh.axis_names)

        over_devices = jax.shard_map(
            on_each, mesh=self.mesh, in_specs=(everywhere, rows), out_specs=everywhere, check_vma=False
        )
        return over_devices(operands, self.data)

    def replicated(self, tree: Any) -> Any:
        """Every array of a tree on each device."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), tree)


class Sequences(NamedTuple):
    """Sequences of unequal length, padded to the longest.

    What stands behind a sequence's length is never looked at.
    """

    values: Array  # (N, T, ...)
    lengths: Array  # (N,), whole numbers from 1 to T


def split_weights(data: Data) -> tuple[Data, Array | None]:
    """The observations and their weights, ``None`` where each counts once."""
    data = data.data if isinstance(data, Sharded) else data
    if isinstance(data, Weighted):
        return data.data, data.weights
    return data, None


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


def split_lengths(data: Data) -> tuple[Array, Array | None]:
    """The padded values ``(N, T, ...)`` and the lengths ``(N,)``, ``None`` where all are full."""
    if isinstance(data, Sequences):
        return data.values, data.lengths
    return data, None


def check_counts(data: Data) -> None:
    """Raise ``ValueError`` for weights and lengths that are none; where they are traced, for their shapes only.

    Weights are (N,), finite and not negative, one of them above zero; lengths are (N,), from 1 to T.
    """
    observations, weights = split_weights(data)
    values, lengths = split_lengths(observations)
    if lengths is not None:
        if values.ndim < 2:
            raise ValueError(f"Sequences need values of shape (N, T, ...); got {values.shape}")
        n, t = values.shape[:2]
        if lengths.shape != (n,) or not (isinstance(lengths, Tracer) or _lengths_are_sound(np.asarray(lengths), t)):
            raise ValueError(f"the lengths of {n} sequences must be {n} whole numbers from 1 to {t}")
    if weights is not None:
        n = count(observations)
        if weights.shape != (n,):
            raise ValueError(f"the weights of {n} observations need shape ({n},); got {tuple(weights.shape)}")
        if not (isinstance(weights, Tracer) or _weights_are_sound(np.asarray(weights))):
            raise ValueError("observation weights must be finite and not negative, and one of them above zero")


def counts_are_sound(data: Data) -> Array:
    """Whether ``check_counts`` would pass, for values that are traced."""
    observations, weights = split_weights(data)
    values, lengths = split_lengths(observations)
    sound = jnp.bool_(True)
    if lengths is not None:
        sound = sound & _lengths_are_sound(lengths, values.shape[1])
    return sound if weights is None else sound & _weights_are_sound(weights)


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
    """The number of scalar values observed, padding left out and weights counted.

    It is what a log-likelihood grows with, and so the scale of every tolerance on one: data taken twice,
    or in other units, lead to the same decisions.
    """
    observations, weights = split_weights(data)
    values, lengths = split_lengths(observations)
    sizes = [float(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(values)]
    scalars = sum(sizes)
    if weights is None and lengths is None:
        return jnp.asarray(scalars, dtype)
    n = count(values)
    each = jnp.full((n,), scalars / max(n, 1), dtype)
    if lengths is not None:
        each = each * lengths.astype(dtype) / max(values.shape[1], 1)
    return (each if weights is None else each * weights.astype(dtype)).sum()


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
