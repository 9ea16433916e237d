"""Lanes that run side by side, a few steps at a time; between these runs the lanes that have ended are dropped."""

from typing import Any

import jax
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.compilation import ahead, on_all_cores, program
from jaxem.core.data import Data, rows
from jaxem.core.keeping import Kept
from jaxem.core.model import Params
from jaxem.fitting.climb import RUNNING, Climb, advance, stepper
from jaxem.fitting.pieces import with_max_steps
from jaxem.fitting.problems import Problems
from jaxem.fitting.race import STEPS, How, Lanes, Pause, begin, collect, refuse_closures, watched, without_memory
from jaxem.fitting.result import Fit
from jaxem.fitting.runs import Saved

# The last lanes run in batches of an eighth of the size. Each size is compiled as a program of its own, which is not
# worth it on an accelerator, where so many lanes take as long as one.
_FEWER, _AS_ONE = 8, 256
_begun = Kept(256)


class SideBySide(Lanes):
    """Lanes that run side by side in batches. Each core has a table of lanes of its own, whose order depends on nothing
    but the lanes."""

    def __init__(self, problems: Problems, where: Any, how: How, max_steps: int, width: int, streams: int) -> None:
        streams = min(streams, len(where))
        super().__init__(problems, where, how, max_steps, min(width, -(-len(where) // streams)), streams)
        self.lanes = [np.arange(s, len(where), streams) for s in range(streams)]
        # All tables are of one size, so that they share a program; the last batch is filled with lanes a second time.
        height = -(-len(self.lanes[0]) // self.width) * self.width
        self.own = [np.resize(part, height) for part in self.lanes]
        self.tables: list[Climb] = []
        self.waiting: list[np.ndarray] = []  # places in each table, in the order in which they will run
        few = jax.default_backend() != "cpu" and self.width <= _AS_ONE
        self.sizes = sorted({self.width if few else -(-self.width // _FEWER), self.width})

    def start(self, starts: Params, keys: Array | None, unchecked: bool) -> None:
        """The climbs before their first step."""
        options = self.how[0], self.max_steps, self.width, unchecked
        self._compile_ahead(starts, keys, options)
        calls = [(self.problems, starts, keys, own, self.where[own], *options) for own in self.own]
        self.tables = on_all_cores(begin, calls)
        refuse_closures(self.tables)
        self._look()
        self.waiting = [np.flatnonzero(self.going[lanes]) for lanes in self.lanes]

    def _compile_ahead(self, starts: Params, keys: Array | None, options: tuple[Any, ...]) -> None:
        """Begin to compile the program of the steps, beside that of the starts, where this was not done before.

        On a CPU the two would wait for each other's cores, and programs of few lanes are small.
        """
        if jax.default_backend() == "cpu":
            return
        own = self.own[0]
        leaves, structure = jax.tree.flatten((self.problems, self.how, starts, keys))
        key = structure, tuple(map(jax.typeof, leaves)), len(own), *options[1:]
        if trees.is_traced(leaves) or _begun.get(key):
            return
        make = lambda starts, keys: begin(self.problems, starts, keys, own, self.where[own], *options)
        batch = own[: self.width], self.where[own[: self.width]], np.int32(0), self.max_steps
        ahead(_climb, jax.eval_shape(make, starts, keys), self.problems, *self.how, *batch)
        _begun.put(key, True)

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
        like = jax.eval_shape(lambda starts, keys: begin(self.problems, starts, keys, *options), starts, keys)
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

    def run(self, budget: int, pause: Pause) -> None:
        """At most ``budget`` steps of every lane in this round, less those that it has taken."""
        while any(map(len, self.waiting)):
            groups = [part[: self.width] for part in self.waiting]
            self.waiting = [part[self.width :] for part in self.waiting]
            sizes = [next(size for size in (0, *self.sizes) if size >= len(group)) for group in groups]
            for size in self.sizes:
                streams = [s for s in range(self.streams) if sizes[s] == size]
                calls = [self._call(s, np.resize(groups[s], size), budget) for s in streams]
                for s, (table, status) in zip(streams, on_all_cores(_climb, calls), strict=True):
                    self.tables[s], lanes = table, self.lanes[s][groups[s]]
                    self.running[lanes] = np.asarray(status)[: len(lanes)] == RUNNING
                    again = self.running[lanes] & (self.taken[lanes] < budget)
                    self.waiting[s] = np.append(self.waiting[s], groups[s][again])
            pause()

    def _call(self, s: int, places: np.ndarray, budget: int) -> tuple[Any, ...]:
        lanes = np.unique(self.lanes[s][places])
        steps = min(STEPS, budget - int(self.taken[lanes].max()))
        self.taken[lanes] += steps
        where = self.where[self.own[s][places]]
        return self.tables[s], self.problems, *self.how, places, where, np.int32(steps), self.max_steps

    def drain(self) -> None:
        """Nothing is in flight between two pieces."""

    def watched(self) -> Any:
        """What lanes are compared by, (L, ...)."""
        order = np.argsort(np.concatenate(self.lanes))
        parts = [
            [leaf[: len(lanes)] for leaf in watched(table)]
            for lanes, table in zip(self.lanes, self.tables, strict=True)
        ]
        return [np.concatenate(leaves)[order] for leaves in zip(*parts, strict=True)]

    def fits(self) -> Fit:
        """The fits, in the order of their lanes."""
        lane = np.arange(len(self.where))
        places = lane % self.streams * len(self.own[0]) + lane // self.streams
        return collect(
            self.problems.without_data(), self.where, list(map(without_memory, self.tables)), places, self.kept
        )


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
    end = abreast(rows(table, group), problems, where, (algorithm, stop, tol), steps, max_steps)
    return jax.tree.map(lambda leaf, new: leaf.at[group].set(new), table, end), end.status


def abreast(climbs: Climb, problems: Problems, where: Array, how: How, steps: Any, max_steps: int) -> Climb:
    """At most ``steps`` more steps of all climbs under ``vmap``."""
    model_axes, data_axes = problems.axes
    model, data = problems.at(where)

    def step(climb: Climb, model: Any, data: Data) -> Climb:
        return stepper(model, data, *how, max_steps)(climb)

    every = jax.vmap(step, in_axes=(0, model_axes, data_axes))
    return advance(lambda climbs: every(climbs, model, data), climbs, steps)
