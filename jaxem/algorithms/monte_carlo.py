"""EM for a posterior that can only be drawn from: Monte Carlo EM and stochastic-approximation EM."""

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

_AVERAGED = 1 / 20  # the step size from which on noise is small beside that of one draw


class Memory(NamedTuple):
    """What both carry from one iteration to the next."""

    statistics: Any
    origin: Params  # what they are taken about
    steps: Array  # so far
    key: Array


@register
@dataclasses.dataclass(frozen=True)
class MonteCarloEM:
    r"""The E-step by ``n_samples`` draws from the posterior; all draws are new at each iteration.

    .. math:: s = \frac1S \sum_{i=1}^S \text{statistics}(z_i), \quad z_i \sim p(z \mid x, \theta), \qquad
              \theta \leftarrow \text{maximize}(s)

    The parameters end up moving about the optimum, by an amount that falls like 1 / sqrt(n_samples). The model needs
    ``sample_posterior``, ``statistics`` and ``maximize``, and no ``e_step``. The objective is its ``log_likelihood``
    (else what its ``e_step`` says of it), plus the log-prior; ``None`` where it has neither, and then only
    ``max_steps`` ends the fit, unless a rule is given. Evaluations: each draw counts as one, and so does the objective.

    Source: Wei & Tanner (1990).
    """

    n_samples: int = dataclasses.field(default=10, metadata={"static": True})

    monotone: ClassVar[bool] = False

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
        # Nothing is kept, so nothing keeps the statistics from being taken about the newest parameters.
        return _drawn(model, state, params, data, memory._replace(origin=params), self.n_samples)


@register
@dataclasses.dataclass(frozen=True)
class SAEM:
    r"""Stochastic-approximation EM: draws of all iterations are averaged, so that a few an iteration are enough.

    .. math:: s \leftarrow (1 - \gamma_t)\, s + \gamma_t \frac1S \sum_{i=1}^S \text{statistics}(z_i), \quad
              z_i \sim p(z \mid x, \theta), \qquad \theta \leftarrow \text{maximize}(s)

    ``schedule``: an optax schedule, count of iterations -> step size gamma in (0, 1]; default 1 for the first 50, to
    reach the neighbourhood of an optimum, then 1 / (count - 49): the average of what follows, and the noise dies out.
    ``fit`` calls nothing converged while gamma is above 1/20, an average of fewer than about 20 iterations.
    ``n_samples``, what the model needs, objective and evaluations: as in ``MonteCarloEM``. With gamma = 1 it is that.

    Source: Delyon, Lavielle & Moulines (1999).
    """

    schedule: Schedule = dataclasses.field(default=schedules.averaging, metadata={"static": True})
    n_samples: int = dataclasses.field(default=1, metadata={"static": True})

    monotone: ClassVar[bool] = False

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
    """The state at these parameters, with the average statistics of new draws there."""
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
    """log p(x | params) + log p(params), without a draw."""
    if has(model, "log_likelihood"):
        return bound.penalized(model, model.log_likelihood(params, data), params)
    return expectation.expect(model, params, data).objective if has(model, "e_step") else None
