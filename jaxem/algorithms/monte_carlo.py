"""EM for a posterior that can only be sampled: Monte Carlo EM and stochastic-approximation EM."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms import schedules
from jaxem.algorithms.em import unmet
from jaxem.algorithms.protocol import State
from jaxem.algorithms.schedules import Schedule, blend
from jaxem.core import bound, expectation
from jaxem.core.checks import whole_field
from jaxem.core.data import Data
from jaxem.core.model import Params, has
from jaxem.core.records import register
from jaxem.core.trees import float_dtype

_AVERAGED = 1 / 20  # at this step size or below, the noise is small beside that of one draw


class Memory(NamedTuple):
    """What both algorithms carry from one iteration to the next."""

    statistics: Any
    origin: Params  # the parameters that the statistics are taken about
    steps: Array  # iterations so far
    key: Array


@register
@dataclasses.dataclass(frozen=True)
class MonteCarloEM:
    r"""Monte Carlo EM: the E-step averages ``n_samples`` draws from the posterior, all new at each iteration.

    .. math:: s = \frac1S \sum_{i=1}^S \text{statistics}(z_i), \quad z_i \sim p(z \mid x, \theta), \qquad
              \theta \leftarrow \text{maximize}(s)

    The parameters do not come to rest: they vary about the optimum, by an amount that falls like 1 / sqrt(n_samples).

    The model must have ``sample_posterior``, ``statistics`` and ``maximize``; it needs no ``e_step``. The objective is
    its ``log_likelihood`` (or, without one, the value from its ``e_step``), plus the log-prior. A model with neither
    has the objective ``None``, and then only ``max_steps`` ends the fit, unless a stopping rule is given. Each draw
    counts as one evaluation, and so does the objective.

    Arguments:
        n_samples: S, the number of draws per iteration; default 10.

    Raises:
        ValueError: ``n_samples`` is not a whole number of at least 1.

    Source: Wei & Tanner (1990).
    """

    n_samples: int = dataclasses.field(default=10, metadata={"static": True})

    monotone: ClassVar[bool] = False
    needs_maximum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self)

    def random(self) -> bool:
        return True

    def requires(self) -> tuple[str, ...]:
        return ("sample_posterior", "statistics", "maximize")

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return _start(model, params, data, key, self.n_samples)

    def step(self, model: Any, state: State, data: Data) -> State:
        params, memory = _maximize(model, state), state.memory
        # No statistics are kept, so the new ones may be taken about the new parameters.
        return _drawn(model, state, params, data, memory._replace(origin=params), self.n_samples)


@register
@dataclasses.dataclass(frozen=True)
class SAEM:
    r"""Stochastic-approximation EM: averages draws over iterations, so that few draws per iteration are enough.

    .. math:: s \leftarrow (1 - \gamma_t)\, s + \gamma_t \frac1S \sum_{i=1}^S \text{statistics}(z_i), \quad
              z_i \sim p(z \mid x, \theta), \qquad \theta \leftarrow \text{maximize}(s)

    With gamma = 1 it is ``MonteCarloEM``. ``fit`` reports no convergence while gamma is above 1/20, an average over
    fewer than about 20 iterations. What the model must have, the objective and the number of evaluations are as in
    ``MonteCarloEM``.

    Arguments:
        schedule: an optax schedule, count of iterations -> step size gamma in (0, 1]. Default: 1 for the first 50
            iterations, to come near an optimum, then 1 / (count - 49), which averages the later iterations, so that the
            noise vanishes.
        n_samples: S, the number of draws per iteration; default 1.

    Raises:
        ValueError: ``schedule`` is not a function, or ``n_samples`` is not a whole number of at least 1.

    Source: Delyon, Lavielle & Moulines (1999).
    """

    schedule: Schedule = dataclasses.field(default=schedules.averaging, metadata={"static": True})
    n_samples: int = dataclasses.field(default=1, metadata={"static": True})

    monotone: ClassVar[bool] = False
    needs_maximum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        schedules.check(self.schedule, "SAEM")
        _check(self)

    def random(self) -> bool:
        return True

    def requires(self) -> tuple[str, ...]:
        return ("sample_posterior", "statistics", "maximize")

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return _start(model, params, data, key, self.n_samples)

    def step(self, model: Any, state: State, data: Data) -> State:
        params, memory = _maximize(model, state), state.memory
        new = _drawn(model, state, params, data, memory, self.n_samples)
        share = schedules.value(self.schedule, memory.steps, float_dtype(params))
        statistics = blend(memory.statistics, new.memory.statistics, share)
        return new._replace(memory=new.memory._replace(statistics=statistics), settled=share <= _AVERAGED)


def _check(algorithm: MonteCarloEM | SAEM) -> None:
    whole_field(algorithm, "n_samples", 1)


def _start(model: Any, params: Params, data: Data, key: Array | None, n_samples: int) -> State:
    assert key is not None  # fit asks for one
    return _drawn(model, unmet(params), params, data, Memory(None, params, jnp.int32(-1), key), n_samples)


def _maximize(model: Any, state: State) -> Params:
    return expectation.maximize_sums(model, state.memory.origin, state.memory.statistics)


def _drawn(model: Any, state: State, params: Params, data: Data, memory: Memory, n_samples: int) -> State:
    """The state at ``params``, with the average statistics of new draws there."""
    key, here = jax.random.split(memory.key)

    def of_one_draw(key: Array) -> Any:
        return expectation.statistics(model, memory.origin, model.sample_posterior(key, params, data), data)

    def add(sums: Any, key: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, of_one_draw(key)), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_one_draw, here))
    sums, _ = jax.lax.scan(add, zeros, jax.random.split(here, n_samples))
    objective = _objective(model, params, data)
    return state._replace(
        params=params,
        objective=objective,
        evaluations=state.evaluations + n_samples + int(objective is not None),
        memory=Memory(jax.tree.map(lambda leaf: leaf / n_samples, sums), memory.origin, memory.steps + 1, key),
    )


def _objective(model: Any, params: Params, data: Data) -> Array | None:
    """log p(x | params) + log p(params), computed without sampling."""
    if has(model, "log_likelihood"):
        return bound.penalized(model, model.log_likelihood(params, data), params)
    return expectation.expect(model, params, data).objective if has(model, "e_step") else None
