"""Data that are read in chunks from the host while a compiled program runs."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import io_callback
from jax.sharding import Mesh, PartitionSpec

from jaxem.core import trees
from jaxem.core.reading import Reader
from jaxem.core.records import register

_OPEN: dict[int, Reader] = {}  # by the number that a ``Streamed`` carries; a program may outlive its reader
_NUMBERS = itertools.count(1)


class Template(NamedTuple):
    """The chunk that one device works on: its structure, and the shape and dtype of each array."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]

    @classmethod
    def of(cls, chunk: Any) -> "Template":
        """The template of a chunk, whose leaves are arrays."""
        leaves, structure = jax.tree.flatten(chunk)
        return cls(structure, tuple((tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves))

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """The leaves as ``jax.ShapeDtypeStruct``."""
        return [jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for shape, dtype in self.leaves]


@register
@dataclasses.dataclass(frozen=True)
class Streamed:
    """Observations that a reader hands out in chunks; ``fit_stream`` makes it.

    The reader is found by a number, which is traced, so that another source of equal shapes compiles nothing.
    """

    number: Array  # (), of the reader
    chunks: Array  # (), in one pass
    observed: Array  # (), the (weighted) number of values observed in one pass
    template: Template = dataclasses.field(metadata={"static": True})
    mesh: Mesh | None = dataclasses.field(metadata={"static": True})

    @property
    def data(self) -> Any:
        """The shapes and dtypes of the chunk of one device, a ``Dataset``; rows of padding have weight 0."""
        return jax.tree.unflatten(self.template.structure, self.template.shapes)

    @property
    def rows(self) -> int:
        """The number of rows of the chunk of one device."""
        return self.template.leaves[0][0][0]

    def total(self, of_part: Callable[[Any, Any], Any], operands: Any) -> Any:
        """The sum over chunks of ``of_part(operands, chunk)``, a tree of sums over the observations of a chunk.

        It is compensated over chunks. Each device of a mesh adds up its own rows of every chunk, and one sum over
        devices follows. Every array that ``of_part`` needs must be in ``operands``. After an error of the source all
        sums are NaN.
        """
        if self.mesh is None:
            return self._on_each(of_part, jnp.int32(0), operands, self.number, self.chunks)
        names, everywhere = self.mesh.axis_names, PartitionSpec()

        def on_each(operands: Any, number: Array, chunks: Array) -> Any:
            found = self._on_each(of_part, jax.lax.axis_index(names).astype(jnp.int32), operands, number, chunks)
            return jax.lax.psum(found, names)

        over_devices = jax.shard_map(
            on_each, mesh=self.mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
        )
        return over_devices(operands, self.number, self.chunks)

    def _on_each(self, of_part: Any, device: Array, operands: Any, number: Array, chunks: Array) -> Any:
        """The sum over the chunks of one device."""
        shapes = jax.eval_shape(lambda part: of_part(operands, part), self.data)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (shapes, shapes))
        chunk_shapes = self.template.shapes
        begin = functools.partial(_begin, shapes)
        after = _first_numbers(operands)
        first, keeps, sums = io_callback(begin, (_INT, _BOOL, shapes), number, device, *after, ordered=False)

        def body(carry: tuple[Array, Array, tuple[Any, Any]]) -> tuple[Array, Array, tuple[Any, Any]]:
            index, _, sums = carry
            take = functools.partial(_take, chunk_shapes)
            fine, leaves = io_callback(take, (_BOOL, chunk_shapes), number, device, index, ordered=False)
            part = jax.tree.unflatten(self.template.structure, leaves)
            sums = trees.two_sum(sums[0], sums[1], of_part(operands, part))
            leaves = jax.tree.leaves(sums)
            # A complete chunk is what may be kept; the sums after an error hold one that is not.
            jax.lax.cond(
                keeps & fine,
                lambda: io_callback(_keep, None, number, device, index, *leaves, ordered=False),
                lambda: None,
            )
            return index + 1, fine, sums

        more = lambda carry: carry[1] & (carry[0] < chunks)
        _, fine, sums = jax.lax.while_loop(more, body, (first, first >= 0, sums))
        failed = lambda leaf: jnp.where(fine, leaf, jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        total, lost = sums
        return jax.tree.map(lambda a, b: failed(a + b), total, lost)

    def replicated(self, tree: Any) -> Any:
        """A copy of every array of a tree on each device."""
        if self.mesh is None:
            return tree
        everywhere = jax.sharding.NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), tree)


def _first_numbers(operands: Any) -> list[Array]:
    """One number of each array. A pass that waits for them follows the passes from which its operands were computed;
    nothing else would keep a compiler from running both at the same time."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(operands)]
    return [leaf.ravel()[0] for leaf in leaves if leaf.size and jnp.issubdtype(leaf.dtype, jnp.floating)]


_INT, _BOOL = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool_)


def publish(reader: Reader) -> int:
    """A number by which compiled programs find this reader."""
    number = next(_NUMBERS)
    _OPEN[number] = reader
    return number


def withdraw(number: int) -> None:
    """Close a reader. A program that still asks for it is told that nothing is left."""
    _OPEN.pop(number).close()


# The callbacks never raise: an error would come out of the compiled program as a wall of text. They remember it, and
# say that the pass has ended.


def _begin(shapes: Any, number: Any, device: Any, *after: Any) -> tuple[np.int32, np.bool_, Any]:
    """The first chunk of a pass (-1: the pass must not begin), whether sums are kept, and the sums so far."""
    del after
    leaves, structure = jax.tree.flatten(shapes)
    nothing = jax.tree.unflatten(structure, [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves])
    reader = _OPEN.get(int(number))
    if reader is None or reader.error is not None:
        return np.int32(-1), np.bool_(False), nothing
    try:
        before, keeps = reader.begin(int(device)), np.bool_(reader.keep is not None)
        if before is None:
            return np.int32(0), keeps, nothing
        sums = [np.asarray(found, leaf.dtype) for found, leaf in zip(before.sums, leaves, strict=True)]
        return np.int32(before.first), keeps, jax.tree.unflatten(structure, sums)
    except BaseException as error:
        reader.fail(error)
        return np.int32(-1), np.bool_(False), nothing


def _take(shapes: list[jax.ShapeDtypeStruct], number: Any, device: Any, index: Any) -> tuple[np.bool_, list[Any]]:
    """The rows of a device in the next chunk; False and zeros where there is none."""
    reader = _OPEN.get(int(number))
    leaves = None
    if reader is not None:
        try:
            leaves = reader.take(int(device), int(index))
        except BaseException as error:  # KeyboardInterrupt too, where the program runs in the main thread
            reader.fail(error)
    if leaves is None:
        return np.bool_(False), [np.zeros(leaf.shape, leaf.dtype) for leaf in shapes]
    return np.bool_(True), leaves


def _keep(number: Any, device: Any, index: Any, *leaves: Any) -> None:
    reader = _OPEN.get(int(number))
    if reader is not None and reader.keep is not None:
        try:
            reader.kept(int(device), int(index), [np.asarray(leaf) for leaf in leaves])
        except BaseException as error:
            reader.fail(error)
