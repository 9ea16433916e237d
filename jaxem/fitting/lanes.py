"""Many fits that do not wait for each other.

``vmap(fit)`` runs every lane until the slowest one has ended. Here the lanes run in batches that fit the cache, a few
steps at a time. Between these runs the lanes that have ended are dropped, and the rest form new batches.
"""

import contextlib
import os
from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.checks import whole_number
from jaxem.core.compilation import program
from jaxem.core.data import Data, rows
from jaxem.core.expectation import rows_in_cache
from jaxem.core.model import Params, has
from jaxem.fitting.fit import RUNNING, Climb, advance, result, start, stepper
from jaxem.fitting.interrupts import Interrupted
from jaxem.fitting.pieces import interrupted, with_max_steps
from jaxem.fitting.result import Fit
from jaxem.fitting.runs import Saved
from jaxem.fitting.watch import Watch

_STEPS = 16  # steps between two checks of which lanes have ended: few are wasted, and a check costs less than a step
_FEWER = 8  # the last lanes run in batches of an eighth of the size; each size is compiled as a program of its own


def climb_all(
    model: Any,
    params: Params,
    datasets: Data,
    where: np.ndarray,
    how: tuple[Any, Any, Any],
    max_steps: int,
    keys: Array | None,
    batch_size: int | None,
    watch: Watch | None,
    saved: Saved | None = None,
) -> Fit:
    """The fits of L lanes: lane l starts from ``params[l]``, has ``keys[l]``, and is fitted to ``datasets[where[l]]``.

    Arguments:
        how: algorithm, stopping rule and tolerance.
        batch_size: lanes that run side by side; ``None``: as many as fit the cache.
        watch: what is told of lanes that have ended, and saves; ``None``: nothing.
        saved: a checkpoint to go on from; of ``params`` and ``keys`` only shapes then count. Each stream goes through
            its lanes in an order that depends neither on other streams nor on pauses, so the bits are the same.
    """
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size, 1)
    lanes = len(where)
    if saved is None:
        width = min(batch_size or _default_width(model, params, datasets, max_steps), -(-lanes // cores()))
        streams = min(cores(), -(-lanes // width))
    else:  # not those of this machine, because they decide which lanes run side by side
        width, streams = saved.facts["width"], saved.facts["streams"]
    sizes = sorted({-(-width // _FEWER), width})
    # Each core has a stream of programs with lanes of its own, so that one runs while another is checked. The last
    # batch of each stream is filled up with lanes that the stream has already.
    own = [np.arange(s, lanes, streams) for s in range(streams)]
    height = -(-len(own[0]) // width) * width
    own = [np.resize(part, height) for part in own]
    if saved is None:
        tables = [_start(model, params, datasets, part, where[part], keys, how[0], max_steps, width) for part in own]
    else:
        before, part = saved.header["max_steps"], own[0]
        begin = lambda params: _start(model, params, datasets, part, where[part], keys, how[0], before, width)
        like = jax.eval_shape(begin, params)
        tables = [with_max_steps(table, max_steps) for table in saved.tree([like] * streams)]
    if trees.holds_tracers(tables):
        raise ValueError(
            "a function of the model closes over a value that is traced (by grad, vmap, ...): make it a leaf of the "
            "model (a field of a pytree class), or a part of the data"
        )
    waiting = []
    for part, table in zip(own, tables, strict=True):
        first = np.arange(height) < np.unique(part).size
        waiting.append(np.flatnonzero(first & (np.asarray(table.status) == RUNNING)))
    if saved is not None:  # in the order of the run, then those that may go on only now
        orders = [np.asarray(order, int) for order in saved.facts["waiting"]]
        waiting = [np.r_[order, np.setdiff1d(part, order)] for order, part in zip(orders, waiting, strict=True)]
        if not any(map(len, waiting)):  # the run has ended: nothing to tell, and nothing new to save
            watch = None
    climbing: deque[tuple[int, np.ndarray, Array]] = deque()

    def send(s: int) -> None:
        group, waiting[s] = np.split(waiting[s], [width])
        if len(group):
            full = np.resize(group, next(size for size in sizes if size >= len(group)))
            data_rows = where[own[s][full]]
            tables[s], status = _climb(tables[s], full, model, datasets, data_rows, *how, np.int32(_STEPS), max_steps)
            climbing.append((s, group, status))

    def receive() -> int:
        s, group, status = climbing.popleft()
        waiting[s] = np.append(waiting[s], group[np.asarray(status)[: len(group)] == RUNNING])
        return s

    def save() -> None:
        """Wait for all that is in flight, and save."""
        while climbing:
            receive()
        if watch is not None:
            watch.save(tables, width=width, streams=streams, waiting=[part.tolist() for part in waiting])

    with watch or contextlib.nullcontext():
        save()
        try:
            for s in range(streams):
                send(s)
            while climbing:
                send(receive())
                if watch is not None:
                    ended = lanes - sum(map(len, waiting)) - sum(len(group) for _, group, _ in climbing)
                    watch.tell((ended, lanes), ended, lanes)
                    watch.check()
                    if watch.due():
                        save()
                        for s in range(streams):
                            send(s)
        except Interrupted:
            pass
        save()
    lane = np.arange(lanes)
    return _collect(model, tables, lane % streams * height + lane // streams)


def cores() -> int:
    """How many programs run at a time: one per core, as small programs use one core each; one on an accelerator."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_width(model: Any, params: Params, datasets: Data, max_steps: int) -> int:
    """How many lanes fit the cache with their data, posterior and trace."""
    one = jax.eval_shape(lambda tree: rows(tree, 0), (params, datasets))
    q = jax.eval_shape(model.e_step, *one) if has(model, "e_step") else None
    size = trees.size_in_bytes((one, q)) + max_steps * trees.float_dtype(one).itemsize
    return rows_in_cache(2 * size)  # twice, to leave room for intermediate values


@program(static_argnames=("max_steps", "width"))
def _start(
    model: Any,
    params: Params,
    datasets: Data,
    lanes: Array,
    where: Array,
    keys: Array | None,
    algorithm: Any,
    max_steps: int,
    width: int,
) -> Climb:
    """The climbs of ``lanes`` before their first step, computed ``width`` at a time."""

    def one(places: tuple[Array, Array]) -> Climb:
        lane, data = places
        key = None if keys is None else keys[lane]
        return start(model, rows(params, lane), rows(datasets, data), algorithm, max_steps, key)

    return jax.lax.map(one, (lanes, where), batch_size=width)


@program(static_argnames=("max_steps",), donate_argnames=("table",))
def _climb(
    table: Climb,
    group: Array,
    model: Any,
    datasets: Data,
    where: Array,
    algorithm: Any,
    stop: Any,
    tol: Any,
    steps: Array,
    max_steps: int,
) -> tuple[Climb, Array]:
    """The table after at most ``steps`` more steps of the lanes at ``group``, side by side, and their statuses."""
    data = rows(datasets, where)

    def step(climbs: Climb) -> Climb:
        one = lambda climb, data: stepper(model, data, algorithm, stop, tol, max_steps)(climb)
        return jax.vmap(one)(climbs, data)

    end = advance(step, rows(table, group), steps)
    return jax.tree.map(lambda leaf, new: leaf.at[group].set(new), table, end), end.status


@program
def _collect(model: Any, tables: list[Climb], places: Array) -> Fit:
    """The fits, in the order of their lanes."""
    climbs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[places], *tables)
    return jax.vmap(result, in_axes=(None, 0))(model, interrupted(climbs))
