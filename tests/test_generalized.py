"""Generalised EM: by L-BFGS it is EM; by groups it is ECM and ECME; by batches it is unbiased, and never falls."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import case
from closeness import assert_within, eps

import jaxem
from jaxem import EM, GEM, Model, Status
from jaxem.algorithms import Group
from jaxem.core import bound, constraints, trees
from jaxem.families import Normal, NormalParams, Poisson, PoissonParams
from jaxem.models import Mixture, MixtureParams

EPS = eps(np.float64)
NEVER = jaxem.fitting.parameter_change(0.0)
RNG = np.random.default_rng(0)
KEY = jax.random.key(5)

NORMAL = Mixture(Normal(), 2)
X = jnp.asarray(RNG.normal(size=60) + np.repeat([0.0, 3.0], 30))
START = MixtureParams(jnp.array([0.4, 0.6]), NormalParams(jnp.array([-0.5, 3.5]), jnp.array([1.0, 2.0])))

POISSON = Mixture(Poisson(), 2)
COUNTS = jnp.asarray(np.concatenate([RNG.poisson(2, size=30), RNG.poisson(8, size=20)]), float)
RATES = MixtureParams(jnp.array([0.5, 0.5]), PoissonParams(jnp.array([1.0, 10.0])))

LBFGS = optax.lbfgs()
SGD = optax.sgd(0.01)


def slack(value: Any, n: int) -> float:
    """What rounding may take from an objective over n values."""
    return 32 * EPS * (abs(float(value)) + n)


def steps_of(fit: jaxem.Fit) -> np.ndarray:
    return np.diff(np.asarray(fit.trace)[: int(fit.steps) + 1])


@pytest.mark.parametrize("name", ["diag", "log-joint"])
@pytest.mark.slow
def test_l_bfgs_follows_the_path_of_em(name):
    """With L-BFGS to convergence each M-step is the exact one: the same five iterates, to 1e-6."""
    model, params, data = case(name, "float64")
    run = lambda algorithm: jaxem.fit(model, params, data, algorithm=algorithm, stop=NEVER, max_steps=5)
    em, gem = run(EM()), run(GEM(LBFGS, steps=60))
    assert_within(gem.trace, em.trace, 1e-6 * np.abs(em.trace))
    for wanted, found in zip(jax.tree.leaves(em.params), jax.tree.leaves(gem.params), strict=True):
        assert_within(found, wanted, 1e-6 * np.abs(wanted).max())
    assert em.trace[5] - em.trace[0] > 1  # a way worth following


# By groups


def new_weights(params: Any, q: Any, x: Any) -> Any:
    return params._replace(weights=q.probabilities.mean(axis=0))


def new_means(params: Any, q: Any, x: Any) -> Any:
    r = q.probabilities
    return params._replace(components=params.components._replace(means=r.T @ x / r.sum(axis=0)))


def new_variances(params: Any, q: Any, x: Any) -> Any:
    """About the means that stand now, those of the group before."""
    r = q.probabilities
    square = (r * (x[:, None] - params.components.means[None, :]) ** 2).sum(axis=0)
    return params._replace(components=params.components._replace(variances=square / r.sum(axis=0)))


CLOSED = (
    Group("weights", new_weights),
    Group("components.means", new_means),
    Group("components.variances", new_variances),
)


@pytest.mark.slow
def test_closed_groups_in_the_right_order_are_em():
    run = lambda algorithm: jaxem.fit(NORMAL, START, X, algorithm=algorithm, stop=NEVER, max_steps=8)
    em, ecm = run(EM()), run(GEM(groups=CLOSED))
    # Sums about other origins: rounding of sixty terms, carried through eight iterations.
    jax.tree.map(lambda a, b: assert_within(a, b, 8 * 60 * EPS * np.abs(b).max()), ecm.params, em.params)
    # In the other order the variances are about the old means: another, slower way to the same optimum.
    other = jaxem.fit(NORMAL, START, X, algorithm=GEM(groups=CLOSED[::-1]), stop=NEVER, max_steps=8)
    assert steps_of(other).min() >= 0 and float(other.objective) < float(em.objective) - 1e-6


@pytest.mark.slow
def test_parameters_in_no_group_are_fixed_to_the_bit():
    fit = jaxem.fit(NORMAL, START, X, algorithm=GEM(LBFGS, groups=(Group("components.means"),)), max_steps=50)
    assert fit.status == Status.CONVERGED and steps_of(fit).min() >= -slack(fit.objective, 60)
    np.testing.assert_array_equal(fit.params.weights, START.weights)
    np.testing.assert_array_equal(fit.params.components.variances, START.components.variances)
    # And it is the optimum over the means alone.
    gradient = jax.grad(
        lambda m: NORMAL.log_likelihood(START._replace(components=START.components._replace(means=m)), X)
    )
    assert np.abs(gradient(fit.params.components.means)).max() < 1e-3
    assert np.abs(fit.params.components.means - START.components.means).min() > 0.1


@pytest.mark.slow
def test_groups_on_the_likelihood_converge_faster():
    """ECME: weights in closed form, then the components on the log-likelihood itself (Liu & Rubin 1994)."""
    ecme = GEM(LBFGS, steps=20, groups=(Group("weights", new_weights), Group("components", likelihood=True)))
    run = lambda algorithm: jaxem.check(jaxem.fit(NORMAL, START, X, algorithm=algorithm))
    em, fit = run(EM()), run(ecme)
    assert steps_of(fit).min() >= -slack(fit.objective, 60)
    assert_within(fit.objective, em.objective, 1e-8 * 60)
    assert 4 * int(fit.steps) < int(em.steps)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Group(()), "a Group needs the name"),
        (lambda: Group("weights", new_weights, likelihood=True), "maximize is for Q"),
        (lambda: GEM(steps=0), "steps must be at least 1; it is 0"),
        (
            lambda: GEM(groups=(Group("weights", likelihood=True), Group("components"))),
            "groups that climb the likelihood must come after",
        ),
        (lambda: GEM(SGD, groups=CLOSED, batch_size=3), "a group with a closed form needs all observations"),
        (
            lambda: jaxem.fit(NORMAL, START, X, algorithm=GEM(groups=(Group("components.mean"),))),
            r"components\.mean\b.*weights, components\.means, components\.variances",
        ),
        (lambda: jaxem.fit(NORMAL, START, X, algorithm=GEM(SGD, batch_size=3)), "key"),
    ],
)
def test_what_cannot_be_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_what_has_no_observations_to_draw_is_refused():
    whole = Model(
        lambda params, data: params,
        q_function=lambda params, q, data: -(params**2),
        entropy=lambda q, data: 0.0,
    )
    with pytest.raises(ValueError, match="GEM in batches needs log_prob"):
        jaxem.fit(whole, 1.0, jnp.ones(3), algorithm=GEM(SGD, batch_size=1), key=KEY)


# By batches


@pytest.mark.slow
def test_batches_with_equal_keys_are_equal_fits():
    algorithm = GEM(SGD, steps=4, batch_size=10)
    run = lambda key: jaxem.fit(POISSON, RATES, COUNTS, algorithm=algorithm, max_steps=30, key=key)
    first, again, other = run(KEY), run(KEY), run(jax.random.key(6))
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert not np.array_equal(first.params.components.rates, other.params.components.rates)
    for fit in (first, other):
        assert steps_of(fit).min() >= 0 and fit.objective > fit.trace[0] + 0.5
        value = POISSON.log_likelihood(fit.params, COUNTS)
        assert_within(fit.objective, value, slack(value, 50))


def test_the_gradient_of_a_batch_is_unbiased():
    """The mean step of many batches of three is the learning rate times W W' times the gradient of Q over all."""
    algorithm = GEM(optax.sgd(5e-3), steps=1, batch_size=3)
    state = algorithm.init(POISSON, RATES, COUNTS, KEY)
    free = constraints.inverse(POISSON.constraints, RATES)

    @jax.jit
    @jax.vmap
    def drawn(key: Any) -> Any:
        params, _ = algorithm.propose(POISSON, state._replace(memory=state.memory._replace(key=key)), COUNTS)
        moved = constraints.inverse(POISSON.constraints, params)
        return trees.concatenate(jax.tree.leaves(jax.tree.map(jnp.subtract, moved, free)))

    q = POISSON.e_step(RATES, COUNTS)
    of_q = lambda u: POISSON.q_function(constraints.forward(POISSON.constraints, u), q, COUNTS)
    gradient = jax.jit(jax.grad(of_q))(free)
    w = algorithm.propose(POISSON, state, COUNTS)[1].memory.paces[0].metric.forward
    wanted = 5e-3 * w @ w.T @ trees.concatenate(jax.tree.leaves(gradient)) / 50
    steps = np.asarray(drawn(jax.random.split(KEY, 4000)))
    error = steps.std(axis=0) / np.sqrt(4000)
    assert (error < 0.05 * np.abs(wanted).max()).all()
    assert_within(steps.mean(axis=0), wanted, 4 * error)


@pytest.mark.slow
def test_a_batch_that_led_downhill_is_refused_and_counted():
    fit = jaxem.fit(
        POISSON, RATES, COUNTS, algorithm=GEM(optax.sgd(30.0), steps=4, batch_size=5), max_steps=60, key=KEY
    )
    assert fit.status in (Status.MAX_STEPS, Status.CONVERGED)
    assert steps_of(fit).min() >= 0 and int(fit.fallbacks) > 5
    assert fit.objective > fit.trace[0] + 0.5  # half as far, and half again, until it helped
    prior = bound.penalized(POISSON, POISSON.log_likelihood(fit.params, COUNTS), fit.params)
    assert_within(fit.objective, prior, slack(prior, 50))


@pytest.mark.slow
def test_an_optimiser_of_ones_own_is_taken_as_it_is():
    """A chain with a schedule: the step it would take is the step that is taken."""
    optimizer = optax.chain(optax.clip(0.5), optax.sgd(optax.piecewise_constant_schedule(0.5, {2: 0.0})))
    fit = jaxem.fit(POISSON, RATES, COUNTS, algorithm=GEM(optimizer, steps=1), stop=NEVER, max_steps=4)
    climbs = steps_of(fit)
    assert (climbs[:2] > 0.1).all() and (
        np.abs(climbs[2:]) <= slack(fit.objective, 50)
    ).all()  # the rate has become zero
