"""``fit_stream``: a fit to data that are read in chunks, once a pass."""

import contextlib
import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import interrupts, sources, streams, trees
from jaxem.core.checks import brief, whole_number
from jaxem.core.conversion import as_params, of_fit
from jaxem.core.interrupts import Interrupted
from jaxem.core.model import Params, check_model
from jaxem.core.reading import Layout, Reader, Stored
from jaxem.core.streams import Streamed, Template
from jaxem.fitting import closures, first_look, runs
from jaxem.fitting.climb import RUNNING, Climb, go_on, start
from jaxem.fitting.fit import _begin, _fit, check_call, check_spread, choose, finish
from jaxem.fitting.pieces import Report, in_pieces, with_max_steps
from jaxem.fitting.result import Fit
from jaxem.fitting.runs import Saved
from jaxem.fitting.stopping import Rule
from jaxem.fitting.watch import Watch, watching


def fit_stream(
    model: Any,
    params: Params,
    source: Any,
    *,
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
    key: Array | None = None,
    chunk_bytes: int = 2**25,
    mesh: Mesh | None = None,
    progress: bool | Callable[[Report], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
) -> Fit:
    r"""The fit of a model to data that do not fit in memory.

    It is the fit that ``fit`` finds: the same steps, the same objective and the same stopping rule, up to rounding
    error. The source is read once to check it, and then once for each E-step. While one chunk is worked on, a thread
    reads the next one; about three chunks are in memory at a time. Sums are compensated over chunks.

    The whole fit is one compiled program, to which the host hands the chunks, or a few programs where it is watched.
    Another source whose chunks have equal shapes does not compile again. The result has no derivative with respect to
    the data, so ``fit_stream`` cannot run inside ``jit``, ``vmap`` or ``grad``.

    Arguments:
        model: as for ``fit``; it must have additive statistics. Functions of your own get each chunk as a ``Dataset``
            with weights, because the last chunk is filled up with rows of weight 0.
        params: the start, as for ``fit``.
        source: N observations that can be read again and again:

            * a path to a ``.npy`` file, a ``numpy.memmap``, or any object with ``shape``, ``dtype`` and slices of rows
              (zarr, HDF5); a tree or a ``Dataset`` of these, with weights, lengths and covariates;
            * a path to a ``.parquet``, ``.arrow`` or ``.feather`` file, or a pyarrow table, data set or Parquet file
              (extra ``parquet``), whose columns are the values;
            * a function without arguments that yields chunks of any length, each an array, a tree of arrays, a
              ``jaxem.Dataset`` or a data frame, and all of one structure, shape and dtype. It is called once for each
              pass, in a thread of its own, and must not use JAX: where all threads of a CPU wait for the chunk, JAX
              has none left to compute it.
        algorithm: ``EM()`` (default), ``HardEM()``, ``AnnealedEM()``, or an accelerator of one of them.
        tol: as for ``fit``; default 1e-10.
        stop: as for ``fit``; default ``None``.
        max_steps: as for ``fit``; default 1000.
        key: as for ``fit``; default ``None``.
        chunk_bytes: the most bytes of a chunk, over all devices; default 32 MiB. Chunks are of equal length.
        mesh: the devices over which the rows of each chunk are spread; default ``None``: one device.
        progress: as for ``fit``.
        checkpoint: as for ``fit``. The file also holds the sums of a pass that was interrupted: on one device up to
            the last chunk, on several those of complete passes.
        every: as for ``fit``.

    Returns:
        A ``Fit``, as from ``fit``, without derivatives.

    Raises:
        ValueError: as from ``fit``; the source cannot be read or holds invalid values (the message says in which rows);
            or it changes between passes. Whatever exception the source itself raises comes out unchanged.
    """
    watch = watching("fit_stream", progress, checkpoint, every, "of a jaxem.fitting.Report", "step")
    algorithm = choose(algorithm, model)
    max_steps = check_call("fit_stream", algorithm, max_steps, key, tol, stop)
    chunk_bytes = whole_number("chunk_bytes", chunk_bytes, 1)
    check_spread(model, algorithm, "read as a stream")
    _check_place(mesh)
    if trees.is_traced(model, params):
        raise ValueError("fit_stream reads data from the host, so it cannot run inside jit, vmap or grad")
    plan = first_look.plan(sources.source_of(source))
    most, digest = _most(plan, chunk_bytes), hashlib.blake2b() if watch is not None and watch.path is not None else None
    total, observed = first_look.look(model, params, plan, most, digest)
    params = as_params(model, params, plan.dtype)
    how = algorithm, stop, tol
    if watch is not None and digest is not None:
        numbers = {"chunk_bytes": chunk_bytes, "observed": observed, "devices": 1 if mesh is None else mesh.size}
        watch.header = runs.describe("fit_stream", model, params, _seen(plan, total, digest), how, max_steps, key)
        watch.header |= {"stream": numbers}
    layout = _layout(plan, most, total, 1 if mesh is None else mesh.size)
    with _reading(plan, layout) as (reader, number):
        data = _streamed(plan, layout, number, observed, mesh)
        data, params, key, tol = data.replicated((data, params, key, tol))
        closures.guard(model, algorithm, stop)
        if watch is None:
            fit = jax.block_until_ready(_fit(model, params, data, algorithm, stop, tol, max_steps, key, False))
        else:
            watched = StreamWatch(watch, reader)
            climb = jax.block_until_ready(_begin(model, params, data, algorithm, max_steps, key, False))
            fit = _watched(model, data, (algorithm, stop, tol), max_steps, climb, watched)
    return dataclasses.replace(fit, names=plan.source.names)


def go_on_from(
    saved: Saved,
    model: Any,
    source: Any,
    *,
    params: Params,
    algorithm: Algorithm | None,
    stop: Rule | None,
    max_steps: int | None,
    progress: Any,
    every: float,
    mesh: Mesh | None,
) -> Fit:
    """``resume`` for a stream."""
    watch = watching("resume", progress, saved.path, every, "of a jaxem.fitting.Report", "step")
    assert watch is not None
    check_model(model)
    _check_place(mesh)
    numbers = saved.header["stream"]
    devices = 1 if mesh is None else mesh.size
    if numbers["devices"] != devices:
        raise ValueError(f"{saved.path} is of a run on {numbers['devices']} devices, and mesh has {devices}")
    plan, digest = first_look.plan(sources.source_of(source)), hashlib.blake2b()
    most = _most(plan, numbers["chunk_bytes"])
    total = first_look.look_again(plan, most, digest)
    saved.check(model, _seen(plan, total, digest))
    found, stop, tol = saved.how(algorithm, stop)
    how = choose(found, model), stop, tol
    before, key = saved.header["max_steps"], saved.key()
    max_steps = check_call("resume", how[0], before if max_steps is None else max_steps, key, tol, stop)
    like = saved.params(model, of_fit(params))
    watch.continues(saved.header | runs.options(how, max_steps))
    layout = _layout(plan, most, total, devices)
    shapes = _streamed(plan, layout, 0, numbers["observed"], mesh)
    template = jax.eval_shape(lambda params, data: start(model, params, data, how[0], before, key), like, shapes)
    climb, stored = _parts(saved, template)
    climb = with_max_steps(climb, max_steps)
    if int(climb.status) != RUNNING:
        return dataclasses.replace(finish(model, climb), names=plan.source.names)
    with _reading(plan, layout, stored) as (reader, number):
        data = _streamed(plan, layout, number, numbers["observed"], mesh)
        data, climb, tol = data.replicated((data, climb, tol))
        fit = _watched(model, data, (*how[:2], tol), max_steps, climb, StreamWatch(watch, reader, climb))
    return dataclasses.replace(fit, names=plan.source.names)


def _check_place(mesh: Mesh | None) -> None:
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"fit_stream: mesh must be a jax.sharding.Mesh; got {brief(mesh)}")
    if jax.process_count() > 1:
        raise ValueError("fit_stream runs in one process; spread the data of several by jaxem.shard")


def _most(plan: Any, chunk_bytes: int) -> int:
    """The most rows of a chunk."""
    most = max(chunk_bytes // max(plan.bytes_of_row, 1), 1)
    return most if plan.source.rows is None else min(most, plan.source.rows)


def _seen(plan: Any, total: int, digest: Any) -> runs.Seen:
    """By what a source is recognised."""
    shapes = [f"{leaf.dtype}{[total, *leaf.shape]}" for leaf in plan.source.leaves]
    return runs.Seen(shapes, digest.hexdigest(), np.dtype(plan.dtype).name)


def _layout(plan: Any, most: int, total: int, devices: int) -> Layout:
    """How the rows are cut: chunks of equal length leave little to be filled up."""
    each = -(-total // (-(-total // most) * devices))
    return Layout(each * devices, -(-total // (each * devices)), total, devices)


def _streamed(plan: Any, layout: Layout, number: int, observed: float, mesh: Mesh | None) -> Streamed:
    """What the compiled program gets of the reader with this number."""
    counts = jnp.int32(number), jnp.int32(layout.chunks), jnp.asarray(observed, plan.dtype)
    template = Template.of(plan.record(plan.buffers(layout.rows // layout.devices)))
    return Streamed(*counts, template, mesh)


@contextlib.contextmanager
def _reading(plan: Any, layout: Layout, stored: Any = ()) -> Iterator[tuple[Reader, int]]:
    """A reader and its number, for as long as the block lasts. An error of the source comes out of the block."""
    with interrupts.watched() as interrupted:
        buffers = lambda: plan.buffers(layout.rows)
        reader = Reader(plan.source.open, buffers, plan.source.weighted, layout, interrupted, stored)
        number = streams.publish(reader)
        try:
            yield reader, number
        except BaseException as error:
            reader.fail(error)  # a program that still runs ends with its next chunk
            raise
        finally:
            streams.withdraw(number)
    if reader.error is not None and not isinstance(reader.error, Interrupted):
        raise reader.error


def _watched(model: Any, data: Streamed, how: Any, max_steps: int, climb: Climb, watch: "StreamWatch") -> Fit:
    """The fit from ``climb`` on, in pieces of whole passes."""

    def more(climb: Climb, steps: int) -> Climb:
        new = jax.block_until_ready(go_on(climb, model, data, *how, np.int32(steps), max_steps))
        error = watch.reader.error
        if isinstance(error, KeyboardInterrupt):  # the piece ended with the chunk at which Ctrl-C came
            watch.reader.error = Interrupted()
            raise watch.reader.error
        if error is not None:
            raise error
        return new

    return finish(model, in_pieces(climb, more, max_steps, watch))  # pyright: ignore[reportArgumentType]


class StreamWatch:
    """A watch over a stream. Its checkpoints also hold what the passes since the climb in the file have added up, so
    that a run goes on in the middle of a pass."""

    def __init__(self, watch: Watch, reader: Reader, climb: Climb | None = None) -> None:
        self.watch, self.reader, self.path, self.piece = watch, reader, watch.path, watch.piece
        self.seconds, self.tell, self.check, self.due = watch.seconds, watch.tell, watch.check, watch.due
        self._lock, self._climb = threading.Lock(), climb
        self._host = None if climb is None else jax.device_get(climb)
        self._begun = [0] * reader.layout.devices  # passes that had begun at the climb
        self._passes = [list(stored) for stored in reader.stored]
        if watch.path is not None:
            reader.keep = self.keep

    def __enter__(self) -> "StreamWatch":
        self.watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.watch.__exit__(*error)

    def save(self, climb: Climb) -> None:
        """Write a checkpoint, if one is wanted, of a climb between two pieces."""
        if self.path is None:
            return
        with self._lock:
            if climb is not self._climb:
                self._climb, self._host, self._begun = climb, jax.device_get(climb), list(self.reader.begun)
                ahead = zip(self.reader.stored, self._begun, strict=True)
                self._passes = [list(stored[begun:]) for stored, begun in ahead]
            self._write()

    def keep(self, device: int, number: int, chunk: int, sums: Sequence[np.ndarray]) -> None:
        """Take the sums of a device after a chunk, and write a checkpoint where it is time. It may not call JAX."""
        with self._lock:
            mine, place = self._passes[device], number - self._begun[device]
            mine[place:] = [Stored(chunk + 1, [np.array(leaf) for leaf in sums])]
            if self._host is not None and self.due():
                self._write()

    def _write(self) -> None:
        passes = self._passes
        if len(passes) > 1:  # devices are not at the same chunk: complete passes only
            complete = min(sum(one.first == self.reader.layout.chunks for one in mine) for mine in passes)
            passes = [mine[:complete] for mine in passes]
        firsts = [[[one.first, len(one.sums)] for one in mine] for mine in passes]
        tree = {"climb": self._host, "sums": [[list(one.sums) for one in mine] for mine in passes]}
        self.watch.save(tree, passes=firsts)


def _parts(saved: Saved, template: Climb) -> tuple[Climb, list[list[Stored]]]:
    """The climb in a checkpoint, and for each device what it has of the passes since."""
    arrays = sorted(saved.arrays.items(), key=lambda item: int(item[0].split(".")[0]))
    of_climb = len(jax.tree.leaves(template))
    climb = saved._replace(arrays=dict(arrays[:of_climb])).tree({"climb": template})["climb"]
    rest = iter([array for _, array in arrays[of_climb:]])
    passes = saved.facts["passes"]
    return climb, [[Stored(first, [next(rest) for _ in range(count)]) for first, count in mine] for mine in passes]
