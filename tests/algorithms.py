"""The table of algorithms, and what each of them promises of every model that adds up over observations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import CASES, case
from closeness import assert_within

import jaxem
from jaxem import EM, GEM, SAEM, SQUAREM, Anderson, AnnealedEM, HardEM, IncrementalEM, MonteCarloEM, OnlineEM
from jaxem.core import bound
from jaxem.core.bound import rounding
from jaxem.core.data import count, size
from jaxem.core.model import has, is_additive
from jaxem.core.parameters import improving_of

STEPS = 6
_ADAM, _HEATING = optax.adam(0.01), optax.linear_schedule(0.3, 1.0, 4)

# Each built for a model of so many observations.
ALGORITHMS: dict[str, Callable[[int], Any]] = {
    "GEM": lambda n: GEM(steps=3),
    "EM": lambda n: EM(),
    "EM in blocks": lambda n: EM(block_size=max(n // 3, 1)),
    "SQUAREM": lambda n: SQUAREM(),
    "HardEM": lambda n: HardEM(),
    "Anderson": lambda n: Anderson(),
    "AnnealedEM": lambda n: AnnealedEM(_HEATING),
    "OnlineEM": lambda n: OnlineEM(batch_size=max(n // 3, 1)),
    "IncrementalEM": lambda n: IncrementalEM(blocks=min(n, 3)),
    "MonteCarloEM": lambda n: MonteCarloEM(n_samples=3),
    "GEM in batches": lambda n: GEM(_ADAM, steps=3, batch_size=max(n // 3, 1)),
    "SAEM": lambda n: SAEM(),
}
ADDITIVE = [name for name in CASES if is_additive(case(name, "float64").model)]


def offered(algorithm: Any, model: Any) -> bool:
    """Whether the model has what the algorithm needs."""
    if getattr(algorithm, "needs_maximum", False) and improving_of(model) is not None:
        return False
    return all(needed == "objective" or has(model, needed) for needed in algorithm.requires())


def check_promises(algorithm_name: str, case_name: str, precision: str) -> jaxem.Fit | None:
    """Fit two lanes and one alone; the fit, or ``None`` where the model lacks what the algorithm needs.

    The trace is of the precision asked for, and monotone where the algorithm says so. The objective is that of the
    parameters it stands beside, and the log-likelihood (+ prior) where the algorithm climbs that. Lanes of a ``vmap``
    under ``jit`` are the fits that each would be alone.
    """
    model, params, data = case(case_name, precision)
    algorithm = ALGORITHMS[algorithm_name](count(data))
    if not offered(algorithm, model):
        return None
    key = jax.random.key(0)

    def run(start: Any, key: Any) -> jaxem.Fit:
        return jaxem.fit(model, start, data, algorithm=algorithm, max_steps=STEPS, key=key)

    alone = run(params, key)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), params, alone.params)  # another start, inside the space
    lanes = jax.jit(jax.vmap(run, in_axes=(0, None)))(stacked, key)

    assert alone.objective is not None and alone.trace is not None
    steps = int(alone.steps)
    trace = np.asarray(alone.trace)[: steps + 1]
    slack = float(rounding(alone.objective, size(data, alone.objective.dtype)))
    assert alone.status in (jaxem.Status.MAX_STEPS, jaxem.Status.CONVERGED) and steps > 0
    assert alone.objective.dtype == precision == alone.trace.dtype
    assert np.isfinite(trace).all() and trace[-1] == alone.objective
    assert int(alone.evaluations) >= 1
    if algorithm.monotone:
        assert np.diff(trace).min() >= -slack
        # A step along the gradient of one batch may be refused each time.
        assert trace[-1] > trace[0] or algorithm.random()

    here, likelihood = judged(model, algorithm, alone.params, data, key)
    assert_within(alone.objective, here, slack)
    if not isinstance(algorithm, HardEM):
        assert_within(alone.objective, likelihood, slack)

    first = jax.tree.map(lambda leaf: leaf[0], lanes)
    if isinstance(algorithm, HardEM):  # it stands still after finitely many steps, and rounding says when that is seen
        assert abs(int(first.steps) - steps) <= 1 and int(first.status) in (int(alone.status), jaxem.Status.MAX_STEPS)
        steps = min(steps, int(first.steps))
    else:
        assert int(first.status) == int(alone.status) and int(first.steps) == steps
    # Rounding in another order, carried on by as many steps, each of which may magnify it.
    tolerance = 2.0**STEPS * slack
    assert_within(np.asarray(first.trace)[: steps + 1], trace[: steps + 1], tolerance)
    second = jax.tree.map(lambda leaf: leaf[1], lanes)
    assert_within(second.objective, judged(model, algorithm, second.params, data, key)[0], slack)
    return alone


@jax.jit
def judged(model: Any, algorithm: Any, params: Any, data: Any, key: Any) -> tuple[Any, Any]:
    """The objective at these parameters, as the algorithm and as the model's own log-likelihood have it."""
    value = bound.penalized(model, model.log_likelihood(params, data), params)
    return algorithm.init(model, params, data, key).objective, value
