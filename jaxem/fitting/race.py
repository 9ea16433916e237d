"""What the two ways to run many lanes share: who is in the race, what lanes are compared by, how they end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.compilation import program
from jaxem.core.data import rows
from jaxem.core.model import Params
from jaxem.fitting.climb import RUNNING, Climb, first, result
from jaxem.fitting.problems import Problems
from jaxem.fitting.result import Fit, Status
from jaxem.fitting.watch import Watch

STEPS = 16  # steps between two checks of which lanes have ended: few are wasted, and a check costs less than a step

How = tuple[Any, Any, Any]  # algorithm, stopping rule, tolerance


class Lanes:
    """Fits in a race: what both ways to run them share."""

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


class Pause:
    """What happens between two pieces of a watched run."""

    def __init__(self, lanes: Any, watch: Watch | None) -> None:
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


@program(static_argnames=("max_steps", "width", "unchecked"), quick="few numbers")
def begin(
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


def refuse_closures(climbs: list[Climb]) -> None:
    """Raise ``ValueError`` where a function of the model closes over a traced value."""
    if trees.holds_tracers(climbs):
        raise ValueError(
            "a function of the model closes over a value that is traced (by grad, vmap, ...): make it a leaf of the "
            "model (a field of a pytree class), or a part of the data"
        )


def without_memory(climb: Climb) -> Climb:
    """What a fit is made of."""
    return climb._replace(state=climb.state._replace(memory=None), remaining=None)  # pyright: ignore[reportArgumentType]


def watched(climb: Climb) -> tuple[np.ndarray, ...]:
    """What lanes are compared by: trace, steps, status and what is left."""
    return jax.device_get((climb.trace, climb.steps, climb.status, climb.left))


@program(quick="few numbers")
def collect(problems: Problems, where: Array, tables: list[Climb], places: Array, kept: Array) -> Fit:
    """The fits in the order of their lanes."""
    return ended(jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[places], *tables), problems, where, kept)


def ended(climbs: Climb, problems: Problems, where: Array, kept: Array) -> Fit:
    """The fits of a table of climbs."""
    return jax.vmap(_end, in_axes=(problems.axes[0], 0, 0))(problems.at(where)[0], climbs, kept)


def _end(model: Any, climb: Climb, kept: Array) -> Fit:
    """The fit; a climb that has not ended was left behind, or interrupted where it is ``kept`` in the race."""
    stopped = jnp.where(kept, Status.INTERRUPTED, Status.SCREENED)
    status = jnp.where(climb.status == RUNNING, stopped, climb.status).astype(jnp.int32)
    return result(model, climb._replace(status=status))
