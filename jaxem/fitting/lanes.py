"""Many fits as lanes, without waiting for the slowest.

Under ``vmap`` every lane takes part until the slowest has ended. Here each lane runs alone in a program that all lanes
share, one at a time on each core; or, where lanes are small and many, they run side by side in batches that fit the
cache, a few steps at a time, and between these runs the lanes that have ended are dropped. On an accelerator they run
side by side.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.checks import whole_number
from jaxem.core.compilation import ahead, cores, program, runs
from jaxem.core.data import Sharded, rows, size
from jaxem.core.expectation import rows_in_cache
from jaxem.core.interrupts import Interrupted
from jaxem.core.keeping import Kept
from jaxem.core.model import Params, has
from jaxem.fitting.climb import RUNNING, go_on
from jaxem.fitting.lanes_in_trace import climb_in_trace
from jaxem.fitting.one_by_one import OneByOne, one_climb
from jaxem.fitting.problems import Problems
from jaxem.fitting.race import How, Pause
from jaxem.fitting.result import Fit
from jaxem.fitting.runs import Saved
from jaxem.fitting.screening import SAME, Plan, leaders, over, scores, to_the_end
from jaxem.fitting.side_by_side import SideBySide
from jaxem.fitting.watch import Watch

_ABREAST = 32  # with fewer lanes side by side on a CPU, one after another is faster


def climb_all(
    problems: Problems,
    where: np.ndarray,
    starts: Params,
    keys: Array | None,
    how: How,
    max_steps: int,
    plan: Plan,
    *,
    batch_size: int | None = None,
    watch: Watch | None = None,
    saved: Saved | None = None,
    unchecked: bool = False,
    drop: bool = False,
) -> Fit:
    """The fits of L lanes: lane l starts from ``starts[l]``, has ``keys[l]``, and works on problem ``where[l]``.

    Arguments:
        plan: how many lanes of each problem run in each round, and for how many steps (see ``screening``). A lane that
            is left behind ends ``SCREENED``.
        batch_size: lanes that run side by side; ``None``: as many as fit the cache.
        watch: what is told of lanes that have ended, and saves; ``None``: nothing.
        saved: a checkpoint to go on from; of ``starts`` and ``keys`` only shapes then count.
        unchecked: whether data and starts may be invalid, because nobody has looked at their values.
        drop: whether lanes of the last round that cannot win, or have met the leader, end ``SCREENED`` too.
    """
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size, 1)
    if trees.is_traced((problems, starts, keys, how)):
        return climb_in_trace(problems, starts, keys, how, max_steps, plan)
    if drop:
        plan = to_the_end(plan)
    plan = [(count, max(steps, 1)) for count, steps in plan]  # where there are no steps, the start is still evaluated
    if saved is None:
        width, streams = batch_size or lanes_abreast(problems, starts, max_steps, len(where)), cores()
    else:  # not those of this machine, because they decide which lanes run side by side
        width, streams = saved.facts["width"], saved.facts["streams"]
    lanes = (OneByOne if width == 1 else SideBySide)(problems, where, how, max_steps, width, streams)
    with runs(len(where)), watch or contextlib.nullcontext():
        if saved is None:
            lanes.start(starts, keys, unchecked)
        else:
            lanes.restore(saved, starts, keys)
            if not lanes.going.any() and lanes.round == len(plan) - 1:  # nothing to tell, and nothing new to save
                watch = None
        pause = Pause(lanes, watch)
        try:
            pause.save()
            while True:
                lanes.run(plan[lanes.round][1], pause)
                if lanes.round == len(plan) - 1:
                    break
                kept = _race(lanes, plan[lanes.round + 1][0], drop)
                alone = drop and np.bincount(where, kept & lanes.running).max() <= 1  # nobody left to race with
                lanes.begin_round(len(plan) - 1 if alone else lanes.round + 1, kept)
        except Interrupted:
            lanes.drain()
        pause.save()
        return lanes.fits()


def _race(lanes: OneByOne | SideBySide, count: int, drop: bool) -> np.ndarray:
    """Which lanes go on."""
    trace, steps, status, left = lanes.watched()
    heading = scores(trace, steps, status)
    kept = lanes.kept & leaders(np.where(lanes.kept, heading, -np.inf), lanes.where, count)
    if drop:
        objective = np.take_along_axis(trace, steps[:, None], axis=1)[:, 0]
        same = SAME * np.asarray(_sizes(lanes.problems, lanes.where))
        # Nobody is dropped for the sake of a lane that is left behind; one that has ended has reached what it has.
        counts = kept | (status != RUNNING)
        kept &= ~over(np.where(counts, heading, -np.inf), objective, left, lanes.where, same)
    return kept


@program(quick="always")
def _sizes(problems: Problems, where: Array) -> Array:
    """The number of observed values of each lane."""
    dtype = trees.float_dtype(problems.data)
    return jax.lax.map(lambda problem: size(problems.at(problem)[1], dtype), where)


def compile_ahead(
    make: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: tuple[Any, ...],
    problems: Problems,
    how: How,
    max_steps: int,
    lanes: int,
) -> None:
    """Begin to compile the program of the steps, beside what follows, where this was not done before.

    ``make(*arguments, *options)`` makes the starts and the keys of the fits; options are compared, not traced.
    """
    if lanes >= _ABREAST * cores() or jax.default_backend() != "cpu" or trees.is_traced((problems, how, arguments)):
        return
    leaves, structure = jax.tree.flatten((problems, how, arguments))
    key = make, structure, tuple(map(jax.typeof, leaves)), options, max_steps
    if _begun.get(key):
        return
    starts, keys = jax.eval_shape(lambda: make(*arguments, *options))
    model, data = problems.on_host().at(0)
    climb = one_climb(model, data, starts, keys, how[0], max_steps)
    with runs(lanes):
        ahead(go_on, climb, model, data, *how, np.int32(0), max_steps)
    _begun.put(key, True)


_begun = Kept(256)


def lanes_abreast(problems: Problems, starts: Params, max_steps: int, lanes: int) -> int:
    """How many lanes run side by side: as many as fit the cache with what they do not share; one where few do."""
    if lanes < _ABREAST * cores() and jax.default_backend() == "cpu":
        return 1
    one = jax.eval_shape(lambda tree: rows(tree, 0), starts)
    model, data = jax.eval_shape(lambda problems: problems.at(0), problems)
    if isinstance(data, Sharded):
        return 1
    # The model comes by closure: its functions would stay alive as long as JAX remembers the call.
    q = jax.eval_shape(model.e_step, one, data) if has(model, "e_step") else None
    leaves = zip(jax.tree.leaves((model, data)), problems.own, strict=True)
    size = trees.size_in_bytes((one, q, [leaf for leaf, own in leaves if own]))
    size += max_steps * trees.float_dtype((one, data)).itemsize
    width = min(rows_in_cache(2 * size), -(-lanes // cores()))  # twice, to leave room for intermediate values
    return width if width >= _ABREAST or jax.default_backend() != "cpu" else 1
