"""Online (stepwise) EM on running statistics (Cappé & Moulines 2009): many M-steps in one pass over the data."""

import dataclasses
from collections.abc import Callable
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
from jaxem.core.data import Data, count, rows
from jaxem.core.model import Params
from jaxem.core.records import register
from jaxem.core.trees import float_dtype


class Memory(NamedTuple):
    """What OnlineEM carries from one pass to the next."""

    running: Any  # running statistics, scaled to the number of observations
    latest: Any  # statistics of all data at the current parameters where they are one batch, else None
    origin: Params  # all statistics are taken about these parameters, so that they can be added
    batches: Array  # number of batches so far
    key: Array | None


@register
@dataclasses.dataclass(frozen=True)
class OnlineEM:
    r"""Online (stepwise) EM: an M-step after each batch of observations, on running statistics.

    .. math:: s \leftarrow (1 - \gamma_t)\, s + \gamma_t \tfrac{N}{B}\, \text{statistics}(\text{batch}), \qquad
              \theta \leftarrow \text{maximize}(s)

    One step is one pass over the data, so ``max_steps=1`` is one pass. The rows are dealt anew with the ``key`` of
    ``fit`` to equal batches of at most ``batch_size`` rows: of every M successive rows, M being the number of batches,
    each batch receives one, at random. So every batch is a stratified sample of all rows, in whatever order they are
    stored. (Where M does not divide N, a few rows, others in each pass, are dealt twice.) A step costs two E-steps: one
    for the batches, and one for the objective of all data at the new parameters. Before the first pass, s holds the
    statistics at the start.

    The objective is noisy and may fall: ``fit`` stops by ``plateau`` unless another rule is given. All statistics are
    taken about the start, so a start far from the data costs digits.

    The model must have ``e_step``, ``statistics`` and ``maximize``.

    Arguments:
        schedule: an optax schedule, count of batches before this one -> step size gamma in (0, 1]; default
            (count + 2)^-0.6. The iteration converges for an exponent in (1/2, 1]: near 1/2 it forgets the start sooner,
            near 1 it is steadier.
        batch_size: rows per batch; default 1000. ``None``: all rows are one batch, nothing is drawn, a step costs one
            E-step, and with gamma = 1 the algorithm is EM.

    Raises:
        ValueError: ``schedule`` is not a function, or ``batch_size`` is not a whole number of at least 1.

    Source: Cappé & Moulines (2009); in passes and batches: Liang & Klein (2009).
    """

    schedule: Schedule = dataclasses.field(default=schedules.decaying, metadata={"static": True})
    batch_size: int | None = dataclasses.field(default=1000, metadata={"static": True})

    monotone: ClassVar[bool] = False
    needs_maximum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        schedules.check(self.schedule, "OnlineEM")
        whole_field(self, "batch_size", 1, optional=True)

    def random(self) -> bool:
        return self.batch_size is not None

    def requires(self) -> tuple[str, ...]:
        return ("e_step", "statistics", "maximize")

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        statistics, value = expectation.sums(model, params, data)
        latest = statistics if self._batches(data) == 1 else None
        memory = Memory(statistics, latest, params, jnp.int32(0), key if self.random() else None)
        return unmet(params)._replace(
            objective=_objective(model, params, value), evaluations=jnp.int32(1), memory=memory
        )

    def step(self, model: Any, state: State, data: Data) -> State:
        memory = state.memory
        if self._batches(data) == 1:
            running = blend(memory.running, memory.latest, self._share(memory.batches, state.params))
            params = expectation.maximize_sums(model, memory.origin, running)
            batches, key = memory.batches + 1, memory.key
            latest, value = expectation.sums(model, params, data, memory.origin)
            paid = 1
        else:
            assert memory.key is not None
            key, here = jax.random.split(memory.key)
            params, running, batches = self._pass(model, state, data, here)
            latest, (_, value) = None, expectation.sums(model, params, data, memory.origin)
            paid = 1 if value is None else 2
        return state._replace(
            params=params,
            objective=_objective(model, params, value),
            evaluations=state.evaluations + paid,
            memory=Memory(running, latest, memory.origin, batches, key),
        )

    def _pass(self, model: Any, state: State, data: Data, key: Array) -> tuple[Params, Any, Array]:
        """Parameters, running statistics and number of batches after one pass over the data in a random order."""
        n, batches, origin = count(data), self._batches(data), state.memory.origin
        size = -(-n // batches)
        turns, places = _deal(key, n, batches)

        def one_batch(carry: tuple[Params, Any, Array], turn: Array) -> tuple[tuple[Params, Any, Array], None]:
            params, running, met = carry
            batch = rows(data, places(turn))
            found, _ = expectation.sums(model, params, batch, origin)
            found = jax.tree.map(lambda leaf: leaf * (n / size), found)
            running = blend(running, found, self._share(met, params))
            return (expectation.maximize_sums(model, origin, running), running, met + 1), None

        start = state.params, state.memory.running, state.memory.batches
        return jax.lax.scan(one_batch, start, turns)[0]

    def _batches(self, data: Data) -> int:
        return 1 if self.batch_size is None else -(-count(data) // self.batch_size)

    def _share(self, batches: Array, params: Params) -> Array:
        return schedules.value(self.schedule, batches, float_dtype(params))


def _deal(key: Array, n: int, batches: int) -> tuple[Array, Callable[[Array], Array]]:
    """The order in which the batches take their turns (M,), and the function from a turn to the rows of its batch.

    The rows lie on a circle, cut at random into runs of M successive rows; the last two runs may overlap. In each run
    the turns are a random rotation of its rows. To shuffle all rows instead, N random numbers have to be sorted, which
    takes several times as long as the E-step of a mixture.
    """
    cut, rotate, order = jax.random.split(key, 3)
    shift = jax.random.randint(cut, (), 0, n, jnp.int32)
    runs = jnp.minimum(jnp.arange(-(-n // batches), dtype=jnp.int32) * batches, n - batches)
    rotations = jax.random.randint(rotate, runs.shape, 0, batches, jnp.int32)

    def places(turn: Array) -> Array:
        inside = runs + (rotations + turn) % batches
        return jnp.where(inside < n - shift, inside + shift, inside - (n - shift))

    return jax.random.permutation(order, jnp.arange(batches, dtype=jnp.int32)), places


def _objective(model: Any, params: Params, value: Array | None) -> Array | None:
    return None if value is None else bound.penalized(model, value, params)
