"""NaN is never convergence, never the better of two, never a small change: in values, gradients and curvatures."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxem
from jaxem import GEM, SQUAREM, Anderson, Block, Status
from jaxem.algorithms import metric
from jaxem.core import trees

KEY = jax.random.key(1)
DATA = jnp.array([1.0, 3.0, 2.5])
LBFGS, SGD, ADAM = optax.lbfgs(), optax.sgd(0.3), optax.adam(0.1)


def flat(p: Any, power: float) -> Any:
    """Zero wherever p is; of power 1/2 its slope is NaN, of power 3/2 its curvature."""
    return 0 * (0 * p) ** power


def square(p: Any, y: Any) -> Any:
    return (-((y - p["a"]) ** 2) / 2 - (y - p["b"] - 3) ** 2)[None]


MASKED = jaxem.from_log_joint(lambda p, y: jnp.where(jnp.isnan(y), 0.0, square(p, y)))
ONE_SLOPE = jaxem.from_log_joint(lambda p, y: square(p, y) + flat(p["b"], 0.5))
CURVATURE = jaxem.from_log_joint(lambda p, y: square(p, y) + flat(p["b"], 1.5))
PRIOR = jaxem.from_log_joint(square, log_prior=lambda p: flat(p["a"], 0.5))
PRIOR_CURVATURE = jaxem.from_log_joint(square, log_prior=lambda p: flat(p["a"], 1.5))
LATE = jaxem.from_log_joint(lambda p, y: square(p, y) + flat(jnp.where(p["a"] > 1, p["a"], 1.0), 0.5))
START = {"a": jnp.array(0.0), "b": jnp.array(0.0)}
MISSING = jnp.array([1.0, jnp.nan, 3.0])

ALGORITHMS = {
    "L-BFGS": GEM(LBFGS),
    "sgd": GEM(SGD),
    "adam": GEM(ADAM, steps=1),
    "blocks": GEM(SGD, blocks=(Block("a"), Block("b"))),
    "on the likelihood": GEM(SGD, blocks=(Block("a"), Block("b", likelihood=True))),
    "batches": GEM(SGD, batch_size=2),
    "SQUAREM": SQUAREM(GEM(SGD)),
    "Anderson": Anderson(GEM(SGD)),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("model", "data"), [(MASKED, MISSING), (ONE_SLOPE, DATA), (PRIOR, DATA)], ids=["masked", "one slope", "prior"]
)
def test_a_gradient_that_is_nan_ends_the_fit(model, data, algorithm):
    """At a finite objective; and at once, not after a thousand refused steps."""
    fit = jaxem.fit(model, START, data, algorithm=ALGORITHMS[algorithm], max_steps=20, key=KEY)
    assert fit.status == Status.NON_FINITE and int(fit.steps) == 0
    assert np.isfinite(fit.objective) and fit.params == START  # the last good iterate


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_the_masked_sum_of_squares_as_reported(precision):
    model = jaxem.from_log_joint(lambda p, y: jnp.where(jnp.isnan(y), 0, -((y - p) ** 2) / 2)[None])
    run = lambda y: jaxem.fit(model, precision(0), np.asarray(y, precision)).status
    assert run([1, 3, np.nan]) == Status.NON_FINITE
    assert run([1, 3]) == Status.CONVERGED


@pytest.mark.parametrize("algorithm", ["L-BFGS", "sgd", "blocks", "batches", "SQUAREM"])
@pytest.mark.parametrize("model", [CURVATURE, PRIOR_CURVATURE], ids=["one coordinate", "prior"])
def test_a_curvature_that_is_nan_settles_nothing(model, algorithm):
    """The way up is known, and taken; that it has ended is not."""
    fit = jaxem.fit(model, START, DATA, algorithm=ALGORITHMS[algorithm], max_steps=30, key=KEY)
    assert fit.status == Status.MAX_STEPS
    assert fit.objective > fit.trace[0] + 1


@pytest.mark.parametrize("algorithm", ["L-BFGS", "sgd", "blocks", "SQUAREM"])
def test_a_gradient_that_becomes_nan_on_the_way(algorithm):
    """Beyond a = 1 there is none; the optimum lies there."""
    fit = jaxem.fit(LATE, START, DATA, algorithm=ALGORITHMS[algorithm], max_steps=30)
    assert fit.status in (Status.MAX_STEPS, Status.NON_FINITE)
    assert float(fit.params["a"]) <= 1 and np.isfinite(fit.objective)


def test_a_closed_form_without_a_gradient_beside_it_is_not_settled():
    """The closed form is right, and reaches the mean of what was seen; but nothing tells that it has."""
    means = lambda p, q, y: {"a": jnp.nanmean(y), "b": jnp.nanmean(y) - 3}
    fit = jaxem.fit(MASKED, START, MISSING, algorithm=GEM(blocks=(Block(("a", "b"), means),)), max_steps=10)
    assert fit.status == Status.MAX_STEPS and fit.params["a"] == 2


class Moody(NamedTuple):
    count: Any
    memory: Any


def moody(bad: tuple[int, ...], spoils: bool) -> optax.GradientTransformation:
    """Gradient ascent whose update is NaN at some counts, and which then remembers it for good, if it ``spoils``."""

    def update(gradient: Any, state: Moody, params: Any = None) -> tuple[Any, Moody]:
        ill = jnp.isin(state.count, jnp.asarray(bad))
        memory = jax.tree.map(lambda m, g: jnp.where(ill & spoils, jnp.nan, m + 0 * g), state.memory, gradient)
        step = jax.tree.map(lambda g, m: jnp.where(ill, jnp.nan, -0.3 * g) + 0 * m, gradient, memory)
        return step, Moody(state.count + 1, memory)

    return optax.GradientTransformation(
        lambda params: Moody(jnp.int32(0), jax.tree.map(jnp.zeros_like, params)), update
    )


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("spoils", [True, False])
def test_an_optimiser_that_is_nan_once_is_not_nan_for_ever(spoils, batch_size):
    """Halving a step of NaN never helps: it starts afresh."""
    model = jaxem.from_log_joint(square)
    algorithm = GEM(moody((17,) if batch_size else (3, 17), spoils), steps=5, batch_size=batch_size)
    fit = jaxem.fit(model, START, DATA, algorithm=algorithm, max_steps=300, key=KEY)
    assert fit.status in (Status.CONVERGED, *((Status.MAX_STEPS,) if batch_size else ()))
    assert abs(float(fit.params["a"]) - float(DATA.mean())) < (0.1 if batch_size else 1e-3)


@pytest.mark.parametrize("place", ["gradient", "hessian"])
def test_the_gain_of_what_is_nan_is_nan(place):
    parts = {"gradient": np.zeros(3), "hessian": -np.eye(3)}
    parts[place][-1] = np.nan
    assert np.isnan(metric.newton_gain(*parts.values(), metric.spectrum(*parts.values())))
    product = lambda v: parts["hessian"] @ v
    gradient = parts["gradient"] + 1.0  # something to look along
    assert np.isnan(metric.conjugate_gain(product, jnp.asarray(gradient), jnp.ones(3), jnp.asarray(10.0)))


def test_many_coordinates_with_a_curvature_that_is_nan_are_not_settled():
    """Where it is known by products alone, and from the optimum on."""
    p = metric.LARGEST_MATRIX + 1
    start, fits = jnp.full(p, DATA.mean()), {}
    for power in (1.5, 2.5):  # one derivative more, and all is well
        model = jaxem.from_log_joint(lambda q, y, power=power: (-((y - q) ** 2).sum() + flat(q[3], power))[None])
        fits[power] = jaxem.fit(model, start, DATA, algorithm=GEM(SGD), max_steps=5).status
    assert fits == {1.5: Status.MAX_STEPS, 2.5: Status.CONVERGED}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_change_to_or_from_no_number_is_not_small(bad, side):
    finite = {"a": jnp.ones(3), "b": jnp.zeros(2)}
    other = {"a": jnp.ones(3), "b": jnp.array([0.0, bad])}
    change = trees.relative_change(*((finite, other) if side else (other, finite)))
    assert not change <= 1e300
    assert not trees.relative_change(other, other) <= 1e300
