"""Arrays that are spread over several processes: a folder, in which orbax writes them, each process its own parts.

In the folder ``path`` are the file ``model``, which holds everything else, and the folder ``arrays``.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxem.core import container

FILE, FOLDER = "model", "arrays"

Spread = dict[str, jax.Array]


def is_spread(leaf: Any) -> bool:
    """Whether no process has the whole array."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
        return False
    return not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def describe(spread: Spread) -> dict[str, Any] | None:
    """Shape, dtype and axes of each array, for the header; ``None`` where there is none."""
    axes = lambda leaf: list(getattr(leaf.sharding, "spec", ()))
    return {name: [list(leaf.shape), leaf.dtype.name, axes(leaf)] for name, leaf in spread.items()} or None


def write(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray], spread: Spread) -> None:
    """Write a file, or a folder where arrays are spread; all processes call it, and return when all is written."""
    if not spread:
        if jax.process_index() == 0:
            container.write(path, header, arrays)
        return _wait()
    if path.exists() and not (path / FILE).is_file():
        raise ValueError(f"save: {path} exists and is not a saved model: arrays that are spread need a new folder")
    new, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    first = jax.process_index() == 0
    if first:
        shutil.rmtree(new, ignore_errors=True)
    _wait()
    checkpointer = _orbax().StandardCheckpointer()
    checkpointer.save((new / FOLDER).absolute(), spread)
    checkpointer.wait_until_finished()
    if first:
        container.write(new / FILE, header, arrays)
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
        shutil.rmtree(old, ignore_errors=True)
    return _wait()


def read(path: Path, described: dict[str, Any], mesh: Mesh | None) -> Spread:
    """The arrays of a folder: over the devices of ``mesh`` as they were, or whole on each device."""

    def placed(axes: list[Any]) -> Any:
        if mesh is not None:
            return NamedSharding(
                mesh, PartitionSpec(*(tuple(axis) if isinstance(axis, list) else axis for axis in axes))
            )
        if jax.process_count() == 1:
            return SingleDeviceSharding(jax.devices()[0])
        return NamedSharding(Mesh(np.array(jax.devices()), ("devices",)), PartitionSpec())

    like = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype), sharding=placed(axes))
        for name, (shape, dtype, axes) in described.items()
    }
    return _orbax().StandardCheckpointer().restore((path / FOLDER).absolute(), like)


def _wait() -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxem.save")


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError('arrays that are spread over processes need orbax: pip install "jaxem[orbax]"') from error
    return orbax.checkpoint
