"""Many fits as lanes, without waiting for the slowest.

Under ``vmap`` every lane takes part until the slowest has ended. Here each lane runs alone in a program that all lanes
share, one at a time on each core; or, where lanes are small and many, they run side by side in batches that fit the
cache, a few steps at a time, and between these runs the lanes that have ended are dropped. On an accelerator they run
side by side.
"""

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.checks import whole_number
from jaxem.core.compilation import ahead, program, runs
from jaxem.core.data import Data, Sharded, rows, size
from jaxem.core.expectation import rows_in_cache
from jaxem.core.keeping import Kept
from jaxem.core.model import Params, has
from jaxem.core.records import register
from jaxem.fitting.climb import RUNNING, Climb, advance, first, go_on, result, start, stepper
from jaxem.fitting.interrupts import Interrupted
from jaxem.fitting.pieces import with_max_steps
from jaxem.fitting.result import Fit, Status
from jaxem.fitting.runs import Saved
from jaxem.fitting.screening import SAME, Plan, leaders, over, scores, to_the_end
from jaxem.fitting.watch import Watch

_STEPS = 16  # steps between two checks of which lanes have ended: few are wasted, and a check costs less than a step
_FEWER = 8  # the last lanes run in batches of an eighth of the size; each size is compiled as a program of its own
_ABREAST = 32  # with fewer lanes side by side on a CPU, one after another is faster

How = tuple[Any, Any, Any]  # algorithm, stopping rule, tolerance


@register
@dataclasses.dataclass(frozen=True)
class Problems:
    """Models and data to be fitted. Each array has a leading axis of problems, or is shared by all of them."""

    model: Any
    data: Data
    own: tuple[bool, ...] = dataclasses.field(metadata={"static": True})  # of each array of (model, data)

    @classmethod
    def one(cls, model: Any, data: Data) -> "Problems":
        """A single problem, which all lanes share."""
        return cls.of(model, data, (False, False))

    @classmethod
    def of(cls, model: Any, data: Data, own: Any) -> "Problems":
        """``own`` says which arrays have the axis: a boolean for each part of (model, data), or for each array."""
        each = jax.tree.map(lambda has, part: jax.tree.map(lambda _: has, part), own, (model, data))
        return cls(model, data, tuple(jax.tree.leaves(each)))

    def at(self, index: Any) -> tuple[Any, Data]:
        """Model and data of problem ``index``, or with a leading axis of those at ``index``."""
        leaves, structure = jax.tree.flatten((self.model, self.data))
        found = [leaf[index] if own else leaf for leaf, own in zip(leaves, self.own, strict=True)]
        return jax.tree.unflatten(structure, found)

    def on_host(self) -> "Problems":
        """The same problems; arrays with an axis of problems are NumPy arrays, of which ``at`` compiles nothing."""
        leaves, structure = jax.tree.flatten((self.model, self.data))
        found = [np.asarray(leaf) if own else leaf for leaf, own in zip(leaves, self.own, strict=True)]
        model, data = jax.tree.unflatten(structure, found)
        return Problems(model, data, self.own)

    @property
    def axes(self) -> tuple[Any, Any]:
        """``in_axes`` of what ``at`` returns for an array of indices."""
        structure = jax.tree.structure((self.model, self.data))
        return jax.tree.unflatten(structure, [0 if own else None for own in self.own])


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
        return _climb_in_trace(problems, starts, keys, how, max_steps, plan)
    if drop:
        plan = to_the_end(plan)
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
        pause = _Pause(lanes, watch)
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


def _race(lanes: "OneByOne | SideBySide", count: int, drop: bool) -> np.ndarray:
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


class _Pause:
    """What happens between two pieces of a watched run."""

    def __init__(self, lanes: "OneByOne | SideBySide", watch: Watch | None) -> None:
        self.lanes, self.watch = lanes, watch

    def __call__(self) -> None:
        if self.watch is not None:
            ended = int((~self.lanes.going).sum())
            self.watch.tell((ended, self.lanes.going.size), ended, self.lanes.going.size)
            self.watch.check()
            if self.watch.due():
                self.lanes.drain()
                self.save()

    def save(self) -> None:
        """Write a checkpoint, if one is wanted; nothing may be in flight."""
        if self.watch is not None and self.watch.path is not None:
            tree, facts = self.lanes.state()
            self.watch.save(tree, **facts)


class _Lanes:
    """What both ways to run lanes share."""

    def __init__(self, problems: Problems, where: Any, how: How, max_steps: int, width: int, streams: int) -> None:
        self.problems, self.where, self.how, self.max_steps = problems, where, how, max_steps
        self.width, self.streams, self.round = width, streams, 0
        self.running = np.zeros(len(where), bool)
        self.kept = np.ones(len(where), bool)  # whether each lane is still in the race
        self.taken = np.zeros(len(where), int)  # steps of each lane in this round

    @property
    def going(self) -> np.ndarray:
        """Which lanes are still in the race and running."""
        return self.kept & self.running

    def begin_round(self, number: int, kept: np.ndarray) -> None:
        """Begin a round with the lanes that are ``kept``."""
        self.round, self.kept = number, self.kept & kept
        self.taken[:] = 0

    def facts(self) -> dict[str, Any]:
        """What JSON can hold of the state."""
        lists = {"kept": self.kept.tolist(), "taken": self.taken.tolist()}
        return {"width": self.width, "streams": self.streams, "round": self.round, **lists}

    def take(self, facts: dict[str, Any]) -> None:
        """Take over the facts of an earlier run."""
        self.round = facts["round"]
        self.kept, self.taken = np.array(facts["kept"], bool), np.array(facts["taken"], int)


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
    climb = _one_climb(model, data, starts, keys, how[0], max_steps)
    with runs(lanes):
        ahead(go_on, climb, model, data, *how, np.int32(0), max_steps)
    _begun.put(key, True)


_begun = Kept(256)


def _one_climb(model: Any, data: Data, starts: Params, keys: Any, algorithm: Any, max_steps: int) -> Climb:
    """The shapes of one of many climbs, from those of all starts and keys."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (starts, keys))
    return jax.eval_shape(lambda one, key: start(model, one, data, algorithm, max_steps, key), *shapes)


def cores() -> int:
    """How many programs run at a time: one per core, as small programs use one core each; one on an accelerator."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


class OneByOne(_Lanes):
    """Lanes that each run alone, as fast as a fit, all by one program; as many at a time as there are cores."""

    def __init__(self, problems: Problems, *options: Any) -> None:
        super().__init__(problems.on_host(), *options)
        self.together = problems
        self.climbs: list[Climb] = []
        self.seen: list[Any] = [None] * len(self.where)

    def start(self, starts: Params, keys: Array | None, unchecked: bool) -> None:
        """The climbs before their first step."""
        for problem, (params, key) in zip(self.where, _each((starts, keys), len(self.where)), strict=True):
            model, data = self.problems.at(problem)
            self.climbs.append(_begin(model, params, data, self.how[0], self.max_steps, key, unchecked))
        _refuse_closures(self.climbs)
        self._look(np.arange(len(self.where)))

    def state(self) -> tuple[Climb, dict[str, Any]]:
        """The state, for a checkpoint."""
        return _stacked(self.climbs), self.facts()

    def restore(self, saved: Saved, starts: Params, keys: Array | None) -> None:
        """Take over the state of a checkpoint."""
        model, data = self.problems.at(0)
        one = _one_climb(model, data, starts, keys, self.how[0], saved.header["max_steps"])
        lanes = len(self.where)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((lanes, *leaf.shape), leaf.dtype), one)
        self.climbs = _each(with_max_steps(saved.tree(like), self.max_steps), lanes)
        self.take(saved.facts)
        self._look(np.arange(lanes))

    def run(self, budget: int, pause: _Pause) -> None:
        """At most ``budget`` steps of every lane in this round, less those that it has taken."""
        piece, abreast = (budget, len(self.where)) if pause.watch is None else (_STEPS, self.streams)
        while len(left := np.flatnonzero(self.going & (self.taken < budget))):
            for lanes in np.split(left, range(abreast, len(left), abreast)):
                for lane in lanes:
                    model, data = self.problems.at(self.where[lane])
                    steps = np.int32(min(piece, budget - self.taken[lane]))
                    self.climbs[lane] = go_on(self.climbs[lane], model, data, *self.how, steps, self.max_steps)
                    self.taken[lane] += steps
                self._look(lanes)
                pause()

    def drain(self) -> None:
        """Wait for all that is in flight."""
        self._look(np.arange(len(self.where)))

    def _look(self, lanes: np.ndarray) -> None:
        """See which of the lanes are running, when each has made its part."""
        for lane in lanes:
            self.running[lane] = int(self.climbs[lane].status) == RUNNING

    def watched(self) -> Any:
        """What lanes are compared by, (L, ...)."""
        for lane, climb in enumerate(self.climbs):
            if self.taken[lane] or self.seen[lane] is None:
                self.seen[lane] = _watched(climb)
        return [np.stack(leaves) for leaves in zip(*self.seen, strict=True)]

    def fits(self) -> Fit:
        """The fits, in the order of their lanes."""
        climbs = jax.device_get(list(map(_bare, self.climbs)))
        table = jax.tree.map(lambda *leaves: np.stack(leaves), *climbs)
        found = _collect(self.together, self.where, [table._replace(trace=None)], np.arange(len(climbs)), self.kept)
        return dataclasses.replace(found, trace=jax.device_put(table.trace))


class SideBySide(_Lanes):
    """Lanes that run side by side in batches. Each core has a table of lanes of its own, so that one program runs while
    another is checked. The order in which a table goes through its lanes depends on nothing but the lanes."""

    def __init__(self, problems: Problems, where: Any, how: How, max_steps: int, width: int, streams: int) -> None:
        streams = min(streams, len(where))
        super().__init__(problems, where, how, max_steps, min(width, -(-len(where) // streams)), streams)
        self.lanes = [np.arange(s, len(where), streams) for s in range(streams)]
        # All tables are of one size, so that they share a program; the last batch is filled with lanes a second time.
        height = -(-len(self.lanes[0]) // self.width) * self.width
        self.own = [np.resize(part, height) for part in self.lanes]
        self.tables: list[Climb] = []
        self.waiting: list[np.ndarray] = []  # places in each table, in the order in which they will run
        self.climbing: deque[tuple[int, np.ndarray, Array]] = deque()
        self.budget = 0  # steps of each lane in this round

    def start(self, starts: Params, keys: Array | None, unchecked: bool) -> None:
        """The climbs before their first step."""
        for own in self.own:
            options = self.how[0], self.max_steps, self.width, unchecked
            self.tables.append(_start(self.problems, starts, keys, own, self.where[own], *options))
        _refuse_closures(self.tables)
        self._look()
        self.waiting = [np.flatnonzero(self.going[lanes]) for lanes in self.lanes]

    def begin_round(self, number: int, kept: np.ndarray) -> None:
        super().begin_round(number, kept)
        self.waiting = [np.flatnonzero(self.going[lanes]) for lanes in self.lanes]

    def state(self) -> tuple[list[Climb], dict[str, Any]]:
        """The state, for a checkpoint."""
        return self.tables, {**self.facts(), "waiting": [part.tolist() for part in self.waiting]}

    def restore(self, saved: Saved, starts: Params, keys: Array | None) -> None:
        """Take over the state of a checkpoint."""
        before, own = saved.header["max_steps"], self.own[0]
        options = own, self.where[own], self.how[0], before, self.width, False
        like = jax.eval_shape(lambda starts, keys: _start(self.problems, starts, keys, *options), starts, keys)
        self.tables = [with_max_steps(table, self.max_steps) for table in saved.tree([like] * self.streams)]
        self.take(saved.facts)
        self._look()
        # In the order of the run, then those that may go on only now.
        now = [np.flatnonzero(self.going[lanes]) for lanes in self.lanes]
        orders = [np.array(order, int) for order in saved.facts["waiting"]]
        self.waiting = [np.r_[order, np.setdiff1d(part, order)] for order, part in zip(orders, now, strict=True)]

    def _look(self) -> None:
        for lanes, table in zip(self.lanes, self.tables, strict=True):
            self.running[lanes] = np.asarray(table.status)[: len(lanes)] == RUNNING

    def run(self, budget: int, pause: _Pause) -> None:
        """At most ``budget`` steps of every lane in this round, less those that it has taken."""
        sizes, self.budget = sorted({-(-self.width // _FEWER), self.width}), budget
        while True:
            for s in set(range(self.streams)) - {s for s, *_ in self.climbing}:
                group, self.waiting[s] = np.split(self.waiting[s], [self.width])
                if len(group):
                    full = np.resize(group, next(size for size in sizes if size >= len(group)))
                    lanes = self.lanes[s][group]
                    steps = min(_STEPS, budget - int(self.taken[lanes].max()))
                    self.taken[lanes] += steps
                    of_batch = full, self.where[self.own[s][full]], np.int32(steps), self.max_steps
                    self.tables[s], status = _climb(self.tables[s], self.problems, *self.how, *of_batch)
                    self.climbing.append((s, group, status))
            if not self.climbing:
                return
            self._receive()
            pause()

    def _receive(self) -> None:
        """Wait for the batch that was sent first."""
        s, group, status = self.climbing.popleft()
        lanes = self.lanes[s][group]
        self.running[lanes] = np.asarray(status)[: len(group)] == RUNNING
        self.waiting[s] = np.append(self.waiting[s], group[self.running[lanes] & (self.taken[lanes] < self.budget)])

    def drain(self) -> None:
        """Wait for all that is in flight."""
        while self.climbing:
            self._receive()

    def watched(self) -> Any:
        """What lanes are compared by, (L, ...)."""
        order = np.argsort(np.concatenate(self.lanes))
        parts = [
            [leaf[: len(lanes)] for leaf in _watched(table)]
            for lanes, table in zip(self.lanes, self.tables, strict=True)
        ]
        return [np.concatenate(leaves)[order] for leaves in zip(*parts, strict=True)]

    def fits(self) -> Fit:
        """The fits, in the order of their lanes."""
        lane = np.arange(len(self.where))
        places = lane % self.streams * len(self.own[0]) + lane // self.streams
        return _collect(self.problems, self.where, list(map(_bare, self.tables)), places, self.kept)


def _bare(climb: Climb) -> Climb:
    """What a fit is made of."""
    return climb._replace(state=climb.state._replace(memory=None), remaining=None)  # pyright: ignore[reportArgumentType]


def _watched(climb: Climb) -> tuple[np.ndarray, ...]:
    """What lanes are compared by: trace, steps, status and what is left."""
    return jax.device_get((climb.trace, climb.steps, climb.status, climb.left))


@program(quick="always")
def _sizes(problems: Problems, where: Array) -> Array:
    """The number of observed values of each lane."""
    dtype = trees.float_dtype(problems.data)
    return jax.lax.map(lambda problem: size(problems.at(problem)[1], dtype), where)


def _refuse_closures(climbs: list[Climb]) -> None:
    if trees.holds_tracers(climbs):
        raise ValueError(
            "a function of the model closes over a value that is traced (by grad, vmap, ...): make it a leaf of the "
            "model (a field of a pytree class), or a part of the data"
        )


@program(static_argnames=("max_steps", "width", "unchecked"), quick="few numbers")
def _start(
    problems: Problems,
    starts: Params,
    keys: Array | None,
    lanes: Array,
    where: Array,
    algorithm: Any,
    max_steps: int,
    width: int,
    unchecked: bool,
) -> Climb:
    """The climbs of ``lanes`` before their first step, computed ``width`` at a time."""

    def one(places: tuple[Array, Array]) -> Climb:
        lane, problem = places
        model, data = problems.at(problem)
        key = None if keys is None else keys[lane]
        return first(model, rows(starts, lane), data, algorithm, max_steps, key, unchecked)

    return jax.lax.map(one, (lanes, where), batch_size=None if width == 1 else width)


@program(static_argnames=("max_steps",), donate_argnames=("table",))
def _climb(
    table: Climb,
    problems: Problems,
    algorithm: Any,
    stop: Any,
    tol: Any,
    group: Array,
    where: Array,
    steps: Array,
    max_steps: int,
) -> tuple[Climb, Array]:
    """The table after at most ``steps`` more steps of the lanes at ``group``, side by side, and their statuses."""
    end = _abreast(rows(table, group), problems, where, (algorithm, stop, tol), steps, max_steps)
    return jax.tree.map(lambda leaf, new: leaf.at[group].set(new), table, end), end.status


def _abreast(climbs: Climb, problems: Problems, where: Array, how: How, steps: Any, max_steps: int) -> Climb:
    """At most ``steps`` more steps of all climbs under ``vmap``."""
    model_axes, data_axes = problems.axes
    model, data = problems.at(where)

    def step(climb: Climb, model: Any, data: Data) -> Climb:
        return stepper(model, data, *how, max_steps)(climb)

    every = jax.vmap(step, in_axes=(0, model_axes, data_axes))
    return advance(lambda climbs: every(climbs, model, data), climbs, steps)


@program(static_argnames=("max_steps", "unchecked"), quick="few numbers")
def _begin(
    model: Any, params: Params, data: Data, algorithm: Any, max_steps: int, key: Array | None, unchecked: bool
) -> Climb:
    return first(model, params, data, algorithm, max_steps, key, unchecked)


def _each(table: Any, lanes: int) -> list[Any]:
    """The lanes of a table, one by one, on the host: nothing is compiled."""

    def split(leaf: Any) -> list[Any]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            numbers, kind = np.asarray(jax.random.key_data(leaf)), jax.random.key_impl(leaf)
            return [jax.random.wrap_key_data(numbers[lane], impl=kind) for lane in range(lanes)]
        return list(np.asarray(leaf))

    leaves, structure = jax.tree.flatten(table)
    split_leaves = list(map(split, leaves))
    return [jax.tree.unflatten(structure, [each[lane] for each in split_leaves]) for lane in range(lanes)]


@program(quick="always")
def _stacked(climbs: list[Climb]) -> Climb:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *climbs)


def _end(model: Any, climb: Climb, kept: Array) -> Fit:
    """The fit; a climb that has not ended was left behind, or interrupted where it is ``kept`` in the race."""
    stopped = jnp.where(kept, Status.INTERRUPTED, Status.SCREENED)
    status = jnp.where(climb.status == RUNNING, stopped, climb.status).astype(jnp.int32)
    return result(model, climb._replace(status=status))


@program(quick="few numbers")
def _collect(problems: Problems, where: Array, tables: list[Climb], places: Array, kept: Array) -> Fit:
    """The fits in the order of their lanes."""
    return _ended(jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[places], *tables), problems, where, kept)


def _ended(climbs: Climb, problems: Problems, where: Array, kept: Array) -> Fit:
    return jax.vmap(_end, in_axes=(problems.axes[0], 0, 0))(problems.at(where)[0], climbs, kept)


def _climb_in_trace(problems: Problems, starts: Params, keys: Any, how: How, max_steps: int, plan: Plan) -> Fit:
    """``climb_all`` for one problem inside a trace, where nothing can be decided outside the program."""
    lanes = jax.tree.leaves(starts)[0].shape[0]
    lane, where = jnp.arange(lanes), jnp.zeros(lanes, int)
    beside = jax.default_backend() != "cpu"
    table = _start(problems, starts, keys, lane, where, how[0], max_steps, lanes if beside else 1, True)
    model, data = problems.at(0)
    step = stepper(model, data, *how, max_steps)
    counts, budgets = (jnp.asarray(part, jnp.int32) for part in zip(*plan, strict=True))

    def abreast(order: Array, count: Array, steps: Array, table: Climb) -> Climb:
        waits = jnp.ones(lanes, bool).at[order].set(lane >= count)
        held = table._replace(status=jnp.where(waits, Status.SCREENED, table.status).astype(jnp.int32))
        new = _abreast(held, problems, where, how, steps, max_steps)
        return new._replace(status=jnp.where(waits, table.status, new.status))

    def one_by_one(order: Array, count: Array, steps: Array, table: Climb) -> Climb:
        def one(place: Array, table: Climb) -> Climb:
            end = advance(step, rows(table, order[place]), steps)
            return jax.tree.map(lambda leaf, value: leaf.at[order[place]].set(value), table, end)

        return jax.lax.fori_loop(0, count, one, table)

    def one_round(number: Array, table: Climb) -> Climb:
        order = jnp.argsort(-scores(table.trace, table.steps, table.status, jnp))
        run = abreast if beside else one_by_one
        return run(order, counts[number], budgets[number], table)

    return _ended(jax.lax.fori_loop(0, len(plan), one_round, table), problems, where, jnp.zeros(lanes, bool))
