"""NaN is never convergence, never the better of two, never a small change: in values, gradients and curvatures."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithms import ADDITIVE
from cases import CASES, case

import jaxem
from jaxem import GEM, SQUAREM, Anderson, Status
from jaxem.algorithms import Group, metric
from jaxem.core import bound, trees
from jaxem.core.rows import Statistics

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
    "groups": GEM(SGD, groups=(Group("a"), Group("b"))),
    "on the likelihood": GEM(SGD, groups=(Group("a"), Group("b", likelihood=True))),
    "batches": GEM(SGD, batch_size=2),
    "SQUAREM": SQUAREM(GEM(SGD)),
    "Anderson": Anderson(GEM(SGD)),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("model", "data"), [(MASKED, MISSING), (ONE_SLOPE, DATA), (PRIOR, DATA)], ids=["masked", "one slope", "prior"]
)
@pytest.mark.slow
def test_a_gradient_that_is_nan_ends_the_fit(model, data, algorithm):
    """At a finite objective; and at once, not after a thousand refused steps."""
    fit = jaxem.fit(model, START, data, algorithm=ALGORITHMS[algorithm], max_steps=20, key=KEY)
    assert fit.status == Status.NON_FINITE and int(fit.steps) == 0
    assert np.isfinite(fit.objective) and fit.params == START  # the last good iterate


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.slow
def test_the_masked_sum_of_squares_as_reported(precision):
    model = jaxem.from_log_joint(lambda p, y: jnp.where(jnp.isnan(y), 0, -((y - p) ** 2) / 2)[None])
    run = lambda y: jaxem.fit(model, precision(0), np.asarray(y, precision)).status
    assert run([1, 3, np.nan]) == Status.NON_FINITE
    assert run([1, 3]) == Status.CONVERGED


@pytest.mark.parametrize("algorithm", ["L-BFGS", "sgd", "groups", "batches", "SQUAREM"])
@pytest.mark.parametrize("model", [CURVATURE, PRIOR_CURVATURE], ids=["one coordinate", "prior"])
@pytest.mark.slow
def test_a_curvature_that_is_nan_settles_nothing(model, algorithm):
    """The way up is known, and taken; that it has ended is not."""
    fit = jaxem.fit(model, START, DATA, algorithm=ALGORITHMS[algorithm], max_steps=30, key=KEY)
    assert fit.status == Status.MAX_STEPS
    assert fit.objective > fit.trace[0] + 1


@pytest.mark.parametrize("algorithm", ["L-BFGS", "sgd", "groups", "SQUAREM"])
@pytest.mark.slow
def test_a_gradient_that_becomes_nan_on_the_way(algorithm):
    """Beyond a = 1 there is none; the optimum lies there."""
    fit = jaxem.fit(LATE, START, DATA, algorithm=ALGORITHMS[algorithm], max_steps=30)
    assert fit.status in (Status.MAX_STEPS, Status.NON_FINITE)
    assert float(fit.params["a"]) <= 1 and np.isfinite(fit.objective)


def test_a_closed_form_without_a_gradient_beside_it_is_not_settled():
    """The closed form is right, and reaches the mean of what was seen; but nothing tells that it has."""
    means = lambda p, q, y: {"a": jnp.nanmean(y), "b": jnp.nanmean(y) - 3}
    fit = jaxem.fit(MASKED, START, MISSING, algorithm=GEM(groups=(Group(("a", "b"), means),)), max_steps=10)
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


@pytest.mark.parametrize("spoils", [True, False])
@pytest.mark.slow
def test_an_optimiser_that_is_nan_once_is_not_nan_for_ever(spoils):
    """Halving a step of NaN never helps: it starts afresh, at once."""
    model = jaxem.from_log_joint(square)
    fit = jaxem.fit(model, START, DATA, algorithm=GEM(moody((3, 17), spoils), steps=5), max_steps=300)
    assert fit.status == Status.CONVERGED
    assert abs(float(fit.params["a"]) - float(DATA.mean())) < 1e-3
    in_batches = GEM(moody((2,), spoils), steps=1, batch_size=30)
    fit = jaxem.fit(model, START, DATA, algorithm=in_batches, max_steps=13, key=KEY)
    assert int(fit.fallbacks) <= 5  # each third one


@pytest.mark.parametrize("place", ["gradient", "hessian"])
def test_the_gain_of_what_is_nan_is_nan(place):
    parts = {"gradient": np.zeros(3), "hessian": -np.eye(3)}
    parts[place][-1] = np.nan
    assert np.isnan(metric.newton_gain(*parts.values(), metric.spectrum(*parts.values())))
    product = lambda v: parts["hessian"] @ v
    gradient = parts["gradient"] + 1.0  # something to look along
    assert np.isnan(metric.conjugate_gain(product, jnp.asarray(gradient), jnp.ones(3), jnp.asarray(10.0)))


@pytest.mark.slow
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


# Sums and posteriors of every model: what is NaN there must not become a number


def spoiled(tree: Any) -> list[Any]:
    """The tree with one element of one leaf NaN, for each leaf that holds floats."""
    leaves, structure = jax.tree.flatten(tree)
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size]
    ruin = lambda leaf: np.where(np.arange(leaf.size).reshape(leaf.shape) == 0, np.nan, leaf)
    return [jax.tree.unflatten(structure, [*leaves[:i], ruin(leaves[i]), *leaves[i + 1 :]]) for i in floats]


@pytest.mark.parametrize("name", ADDITIVE)
@pytest.mark.slow
def test_sums_that_are_nan_make_no_parameters(name):
    model, params, data = case(name, "float64")
    sums = jax.jit(lambda: model.statistics(model.e_step(params, data), data).sums)()
    found = lambda s: (trees.all_finite(model.maximize(s)), model.expected_log_joint(params, s))
    step = jax.jit(lambda sums: found(Statistics(params, sums)))
    finite, expected = step(sums)
    assert finite and np.isfinite(expected)
    for bad in spoiled(sums):
        finite, expected = step(bad)
        assert not finite
        assert np.isnan(expected) or name == "factor analysis"  # of a symmetric matrix it reads one half


@pytest.mark.parametrize("name", ["normal mixture", "poisson hmm", "factor analysis", "log-joint"])
def test_a_posterior_that_is_nan_makes_no_bound(name):
    assert name in CASES
    model, params, data = case(name, "float64")
    value = jax.jit(lambda q: (model.q_function(params, q, data), bound.elbo(model, params, q, data)))
    q = jax.jit(lambda: model.e_step(params, data))()
    assert np.isfinite(value(q)).all()
    for bad in spoiled(q):
        found = np.asarray(value(bad))
        # What only the normaliser knows is in neither.
        assert np.isnan(found).all() or (found == np.asarray(value(q))).all()
    all_bad = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), q)
    assert np.isnan(value(all_bad)).all()
