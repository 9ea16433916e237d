"""``fit_stream``: a fit to data that are read in chunks, once a pass."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import interrupts, sources, streams, trees
from jaxem.core.checks import brief, whole_number
from jaxem.core.conversion import as_params
from jaxem.core.model import Params
from jaxem.core.reading import Layout, Reader
from jaxem.core.streams import Streamed, Template
from jaxem.fitting import closures, first_look
from jaxem.fitting.fit import _fit, check_call, check_spread, choose
from jaxem.fitting.result import Fit
from jaxem.fitting.stopping import Rule


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
) -> Fit:
    r"""The fit of a model to data that do not fit in memory.

    It is the fit that ``fit`` finds: the same steps, the same objective and the same stopping rule, up to rounding
    error. The source is read once to check it, and then once for each E-step. While one chunk is worked on, a thread
    reads the next one; about three chunks are in memory at a time. Sums are compensated over chunks.

    The whole fit is one compiled program, to which the host hands the chunks. Another source whose chunks have equal
    shapes does not compile again. The result has no derivative with respect to the data, so ``fit_stream`` cannot run
    inside ``jit``, ``vmap`` or ``grad``.

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

    Returns:
        A ``Fit``, as from ``fit``, without derivatives.

    Raises:
        ValueError: as from ``fit``; the source cannot be read or holds invalid values (the message says in which rows);
            or it changes between passes. Whatever exception the source itself raises comes out unchanged.
    """
    algorithm = choose(algorithm, model)
    max_steps = check_call("fit_stream", algorithm, max_steps, key, tol, stop)
    chunk_bytes = whole_number("chunk_bytes", chunk_bytes, 1)
    check_spread(model, algorithm, "read as a stream")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"fit_stream: mesh must be a jax.sharding.Mesh; got {brief(mesh)}")
    if jax.process_count() > 1:
        raise ValueError("fit_stream runs in one process; spread the data of several by jaxem.shard")
    if trees.is_traced(model, params):
        raise ValueError("fit_stream reads data from the host, so it cannot run inside jit, vmap or grad")
    plan = first_look.plan(sources.source_of(source))
    most = max(chunk_bytes // max(plan.bytes_of_row, 1), 1)
    most = most if plan.source.rows is None else min(most, plan.source.rows)
    total, observed = first_look.look(model, params, plan, most)
    params = as_params(model, params, plan.dtype)
    devices = 1 if mesh is None else mesh.size
    each = -(-total // (-(-total // most) * devices))  # chunks of equal length leave little to be filled up
    layout = Layout(each * devices, -(-total // (each * devices)), total, devices)
    with interrupts.watched() as interrupted:
        reader = Reader(plan.source.open, lambda: plan.buffers(layout.rows), plan.source.weighted, layout, interrupted)
        number = streams.publish(reader)
        try:
            counts = jnp.int32(number), jnp.int32(layout.chunks), jnp.asarray(observed, plan.dtype)
            data = Streamed(*counts, Template.of(plan.record(plan.buffers(each))), mesh)
            data, params, key, tol = data.replicated((data, params, key, tol))
            closures.guard(model, algorithm, stop)
            fitted = jax.block_until_ready(_fit(model, params, data, algorithm, stop, tol, max_steps, key, False))
        except BaseException as error:
            reader.fail(error)  # a program that still runs ends with its next chunk
            raise
        finally:
            streams.withdraw(number)
    if reader.error is not None:
        raise reader.error
    return fitted
