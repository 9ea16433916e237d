"""Many lanes inside a trace, where nothing can be decided outside the program."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import rows
from jaxem.core.model import Params
from jaxem.fitting.climb import Climb, advance, stepper
from jaxem.fitting.problems import Problems
from jaxem.fitting.race import How, begin, ended
from jaxem.fitting.result import Fit, Status
from jaxem.fitting.screening import Plan, scores
from jaxem.fitting.side_by_side import abreast


def climb_in_trace(problems: Problems, starts: Params, keys: Any, how: How, max_steps: int, plan: Plan) -> Fit:
    """``climb_all`` for one problem inside a trace, where nothing can be decided outside the program."""
    lanes = jax.tree.leaves(starts)[0].shape[0]
    lane, where = jnp.arange(lanes, dtype=jnp.int32), jnp.zeros(lanes, jnp.int32)
    beside = jax.default_backend() != "cpu"
    table = begin(problems, starts, keys, lane, where, how[0], max_steps, lanes if beside else 1, True)
    model, data = problems.at(0)
    step = stepper(model, data, *how, max_steps)
    counts, budgets = (jnp.asarray(part, jnp.int32) for part in zip(*plan, strict=True))

    def together(order: Array, count: Array, steps: Array, table: Climb) -> Climb:
        waits = jnp.ones(lanes, bool).at[order].set(lane >= count)
        held = table._replace(status=jnp.where(waits, Status.SCREENED, table.status).astype(jnp.int32))
        new = abreast(held, problems, where, how, steps, max_steps)
        return new._replace(status=jnp.where(waits, table.status, new.status))

    def one_by_one(order: Array, count: Array, steps: Array, table: Climb) -> Climb:
        def one(place: Array, table: Climb) -> Climb:
            end = advance(step, rows(table, order[place]), steps)
            return jax.tree.map(lambda leaf, value: leaf.at[order[place]].set(value), table, end)

        return jax.lax.fori_loop(0, count, one, table)

    def one_round(number: Array, race: tuple[Array, Climb]) -> tuple[Array, Climb]:
        order, table = race
        racing = lane < counts[jnp.maximum(number - 1, 0)]
        heading = jnp.where(racing, scores(table.trace, table.steps, table.status, jnp)[order], -jnp.inf)
        order = order[jnp.argsort(-heading)]  # the sort is stable: whoever is left behind stays behind
        run = together if beside else one_by_one
        return order, run(order, counts[number], budgets[number], table)

    table = jax.lax.fori_loop(0, len(plan), one_round, (lane, table))[1]
    return ended(table, problems, where, jnp.zeros(lanes, bool))
