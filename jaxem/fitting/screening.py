r"""Many starts on one data set: short runs of all of them, and the best few to the end.

After each round the better half goes on (successive halving; short runs before long ones: Biernacki, Celeux & Govaert
2003). Better means heading higher, by the objective that Aitken's rule expects, because a slow start may be ahead in
the end. On a CPU the lanes run one after another: each lane is then as fast as a fit alone, and one that has ended
costs nothing. On an accelerator they run side by side.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.compilation import program
from jaxem.core.data import Data, rows
from jaxem.core.model import Params
from jaxem.fitting.fit import RUNNING, Climb, advance, result, start, stepper
from jaxem.fitting.lanes import cores
from jaxem.fitting.result import Fit, Status, usable
from jaxem.fitting.validation import is_valid

SHORT = 32  # iterations of a round
FEWEST = 4  # lanes that are run to the end, or all where there are fewer
_SLOWEST = 0.98  # rate of convergence beyond which Aitken's rule is not believed

How = tuple[Any, Any, Any]  # algorithm, stopping rule, tolerance


def rounds(lanes: int, finalists: int | None, max_steps: int) -> list[tuple[int, int]]:
    """How many of the lanes run in each round, and for how many iterations; the last round is to the end.

    ``finalists``: lanes that run to the end; default: a fifth of them, and at least four.
    """
    last = min(lanes, max(FEWEST, math.ceil(lanes / 5)) if finalists is None else finalists)
    found, left = [], lanes
    while left > last:
        found.append((left, SHORT))
        left = max(last, math.ceil(left / 2))
    return [*found, (last, max_steps)]


def run(model: Any, starts: Params, keys: Array, data: Data, how: How, max_steps: int, plan: list[Any]) -> Fit:
    """The fits from ``starts``, each leaf (lanes, ...), of which those that the plan leaves behind end ``SCREENED``."""
    lanes, one_by_one = keys.shape[0], jax.default_backend() == "cpu"
    streams = 1 if trees.is_traced((model, starts, keys, data, how)) else min(cores(), lanes)
    # Each core has a table of lanes of its own; the tables are of one size, so that they share a program.
    parts = [np.resize(np.arange(first, lanes, streams), -(-lanes // streams)) for first in range(streams)]
    first = lambda part: (rows(starts, jnp.asarray(part)), keys[part])
    tables = [_start(model, *first(part), data, how[0], max_steps, one_by_one) for part in parts]
    own = [np.arange(len(part)) < np.unique(part).size for part in parts]
    for number, (count, steps) in enumerate(plan):
        orders = _first(own) if number == 0 else _ranked([_scores(table) for table in tables], own, count)
        for s, (order, many) in enumerate(orders):
            options = how[0], how[1], how[2], max_steps, one_by_one
            tables[s] = _run(tables[s], order, many, np.int32(steps), model, data, *options)
    lane = np.arange(lanes)
    return _collect(model, tables, lane % streams * len(parts[0]) + lane // streams)


def _first(own: list[np.ndarray]) -> list[tuple[Any, Any]]:
    """All lanes of each table, and how many they are."""
    return [(np.arange(mine.size), np.int32(mine.sum())) for mine in own]


def _ranked(scores: list[Array], own: list[np.ndarray], count: int) -> list[tuple[Any, Any]]:
    """The lanes of each table with those first that are among the best ``count`` of all, and how many these are."""
    if len(scores) == 1:  # in a trace, or on one core
        return [(jnp.argsort(-scores[0]), np.int32(count))]
    known = np.concatenate([np.asarray(part, np.float64) for part in scores])
    # A lane that has failed comes after all others, and before what only fills a table up.
    known = np.where(np.concatenate(own), np.maximum(known, np.finfo(np.float64).min), -np.inf)
    kept = np.zeros(known.size, bool)
    kept[np.argsort(-known, kind="stable")[:count]] = True
    tables = np.split(kept, np.cumsum([mine.size for mine in own])[:-1])
    return [(np.argsort(~mine, kind="stable"), np.int32(mine.sum())) for mine in tables]


@program(quick="few numbers")
def _scores(table: Climb) -> Array:
    r"""Where each lane is heading, -inf where it has failed: the objective, and what is left by Aitken's rule.

    .. math:: L_t + \frac{a}{1 - a} (L_t - L_{t-1}), \qquad a = \frac{L_t - L_{t-1}}{L_{t-1} - L_{t-2}}
    """
    objective, trace = table.state.objective, table.trace
    assert objective is not None and trace is not None
    before = lambda back: jnp.take_along_axis(trace, jnp.maximum(table.steps - back, 0)[:, None], axis=1)[:, 0]
    gain, older = objective - before(1), before(1) - before(2)
    rate = jnp.where((older > 0) & (gain > 0), jnp.minimum(gain / jnp.where(older > 0, older, 1), _SLOWEST), 0)
    left = jnp.where(table.status == RUNNING, rate / (1 - rate) * gain, 0)
    sound = usable(table.status) | (table.status == RUNNING)
    score = objective + jnp.where(jnp.isfinite(left), left, 0)
    return jnp.where(sound & ~jnp.isnan(score), score, -jnp.inf)


@program(static_argnames=("max_steps", "one_by_one"), quick="few numbers")
def _start(
    model: Any, starts: Params, keys: Array, data: Data, algorithm: Any, max_steps: int, one_by_one: bool
) -> Climb:
    """The climbs before their first step."""

    def one(lane: tuple[Params, Array]) -> Climb:
        params, key = lane
        climb = start(model, params, data, algorithm, max_steps, key)
        valid = is_valid(model, params, data)
        return climb._replace(status=jnp.where(valid, climb.status, Status.INVALID).astype(jnp.int32))

    return jax.lax.map(one, (starts, keys)) if one_by_one else jax.vmap(one)((starts, keys))


@program(static_argnames=("max_steps", "one_by_one"), donate_argnames=("table",))
def _run(
    table: Climb,
    order: Array,
    count: Array,
    steps: Array,
    model: Any,
    data: Data,
    algorithm: Any,
    stop: Any,
    tol: Any,
    max_steps: int,
    one_by_one: bool,
) -> Climb:
    """``steps`` more iterations of the first ``count`` lanes of ``order``."""
    step = stepper(model, data, algorithm, stop, tol, max_steps)
    if not one_by_one:
        waits = jnp.ones(table.status.shape, bool).at[order].set(jnp.arange(order.shape[0], dtype=jnp.int32) >= count)
        held = table._replace(status=jnp.where(waits, Status.SCREENED, table.status).astype(jnp.int32))
        new = advance(jax.vmap(step), held, steps)
        return new._replace(status=jnp.where(waits, table.status, new.status))

    def one(place: Array, table: Climb) -> Climb:
        lane = order[place]
        new = advance(step, rows(table, lane), steps)
        return jax.tree.map(lambda leaf, value: leaf.at[lane].set(value), table, new)

    return jax.lax.fori_loop(0, count, one, table)


@program(quick="few numbers")
def _collect(model: Any, tables: list[Climb], place: Array) -> Fit:
    """The fits in the order of their lanes."""
    climbs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[place], *tables)
    status = jnp.where(climbs.status == RUNNING, Status.SCREENED, climbs.status).astype(jnp.int32)
    return jax.vmap(result, in_axes=(None, 0))(model, climbs._replace(status=status))
