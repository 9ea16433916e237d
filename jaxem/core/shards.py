"""Data over several devices, and over several processes that each hold their own rows."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxem.core.checks import brief
from jaxem.core.data import Data, Sharded, check_counts, count, split_weights, with_weights
from jaxem.core.dataset import as_data, named
from jaxem.core.trees import float_dtype, holds_tracers


def shard(data: Data, mesh: Mesh | None = None) -> Sharded:
    """Observations spread over the devices of a mesh, for ``fit`` by EM and by algorithms that use its sums.

    Each device holds equally many rows, in their order; rows of weight 0 fill up the end. In each pass over the data
    every device adds up its own blocks, and one sum over devices follows, so that no array of the size of the data
    moves. With several processes (``jax.distributed.initialize``) each passes its own rows, and all run the same code.

    Arguments:
        data: N observations in any form that ``fit`` takes, (N, ...); with several processes, those of this process.
        mesh: the devices; rows are spread over all its axes. Default: all devices.

    Returns:
        A ``Sharded``, to be passed in place of data.

    Raises:
        ValueError: the data are invalid, spread over devices already, or traced; or ``mesh`` is not a mesh.
    """
    if isinstance(data, Sharded):
        raise ValueError("shard: the data are spread over devices already")
    if mesh is None:
        mesh = Mesh(np.array(jax.devices()), ("rows",))
    if not isinstance(mesh, Mesh):
        raise ValueError(f"shard: mesh must be a jax.sharding.Mesh; got {brief(mesh)}")
    names = named(data).names
    data = as_data(data)
    if holds_tracers(data):
        raise ValueError("shard places arrays on devices, so it cannot run inside jit, vmap or grad")
    check_counts(data)
    observations, weights = split_weights(data)
    n, here = count(observations), len(mesh.local_devices)
    weights = np.ones(n, float_dtype(observations)) if weights is None else np.asarray(weights)
    rows = _most(-(-n // here)) * here
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def place(leaf: Any, more: Any) -> jax.Array:
        filled = np.concatenate([leaf, np.broadcast_to(more, (rows - n, *leaf.shape[1:]))])
        return jax.make_array_from_process_local_data(sharding, filled)

    placed = jax.tree.map(lambda leaf: place(np.asarray(leaf), leaf[:1]), observations)
    whole = with_weights(placed, place(weights, np.zeros(1, weights.dtype)))
    return Sharded(dataclasses.replace(whole, names=names), mesh, n)


def _most(number: int) -> int:
    """The largest value of ``number`` over all processes."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))
