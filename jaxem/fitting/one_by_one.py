"""Lanes that each run alone, as fast as a fit, all by one program; as many at a time as there are cores."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.compilation import on_all_cores, program
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.fitting.climb import RUNNING, Climb, first, go_on, start
from jaxem.fitting.pieces import with_max_steps
from jaxem.fitting.problems import Problems
from jaxem.fitting.race import STEPS, Lanes, Pause, collect, refuse_closures, watched, without_memory
from jaxem.fitting.result import Fit
from jaxem.fitting.runs import Saved


class OneByOne(Lanes):
    """Lanes that each run alone, as fast as a fit, all by one program; as many at a time as there are cores."""

    def __init__(self, problems: Problems, *options: Any) -> None:
        super().__init__(problems.on_host(), *options)
        self.climbs: list[Climb] = []
        self.seen: list[Any] = [None] * len(self.where)

    def start(self, starts: Params, keys: Array | None, unchecked: bool) -> None:
        """The climbs before their first step."""
        each = zip(self.where, _each((starts, keys), len(self.where)), strict=True)
        options = self.how[0], self.max_steps
        of_lane = lambda problem, params, key: (problem[0], params, problem[1], *options, key, unchecked)
        self.climbs = on_all_cores(_begin, [of_lane(self.problems.at(at), *start) for at, start in each])
        refuse_closures(self.climbs)
        self._look(np.arange(len(self.where)))

    def state(self) -> tuple[Climb, dict[str, Any]]:
        """The state, for a checkpoint."""
        return _stacked(self.climbs), self.facts()

    def restore(self, saved: Saved, starts: Params, keys: Array | None) -> None:
        """Take over the state of a checkpoint."""
        model, data = self.problems.at(0)
        one = one_climb(model, data, starts, keys, self.how[0], saved.header["max_steps"])
        lanes = len(self.where)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((lanes, *leaf.shape), leaf.dtype), one)
        self.climbs = _each(with_max_steps(saved.tree(like), self.max_steps), lanes)
        self.take(saved.facts)
        self._look(np.arange(lanes))

    def run(self, budget: int, pause: Pause) -> None:
        """At most ``budget`` steps of every lane in this round, less those that it has taken."""
        piece, abreast = (budget, len(self.where)) if pause.watch is None else (STEPS, self.streams)
        while len(left := np.flatnonzero(self.going & (self.taken < budget))):
            for lanes in np.split(left, range(abreast, len(left), abreast)):
                steps = np.minimum(piece, budget - self.taken[lanes]).astype(np.int32)
                calls = [self._call(lane, steps[i]) for i, lane in enumerate(lanes.tolist())]
                for lane, climb in zip(lanes.tolist(), on_all_cores(go_on, calls), strict=True):
                    self.climbs[lane] = climb
                self.taken[lanes] += steps
                self._look(lanes)
                pause()

    def _call(self, lane: int, steps: np.int32) -> tuple[Any, ...]:
        model, data = self.problems.at(self.where[lane])
        return self.climbs[lane], model, data, *self.how, steps, self.max_steps

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
                self.seen[lane] = watched(climb)
        return [np.stack(leaves) for leaves in zip(*self.seen, strict=True)]

    def fits(self) -> Fit:
        """The fits, in the order of their lanes."""
        climbs = jax.device_get(list(map(without_memory, self.climbs)))
        table = jax.tree.map(lambda *leaves: np.stack(leaves), *climbs)
        found = collect(
            self.problems.without_data(), self.where, [table._replace(trace=None)], np.arange(len(climbs)), self.kept
        )
        return dataclasses.replace(found, trace=jax.device_put(table.trace))


def one_climb(model: Any, data: Data, starts: Params, keys: Any, algorithm: Any, max_steps: int) -> Climb:
    """The shapes of one of many climbs, from those of all starts and keys."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (starts, keys))
    return jax.eval_shape(lambda one, key: start(model, one, data, algorithm, max_steps, key), *shapes)


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
