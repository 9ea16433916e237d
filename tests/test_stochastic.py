"""Monte Carlo EM, stochastic approximation, and the rule that sees through their noise."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from closeness import assert_within, eps

import jaxem
from jaxem import SAEM, Model, MonteCarloEM, OnlineEM, Status
from jaxem.core import expectation
from jaxem.fitting.stopping import Progress

KEY = jax.random.key(5)
NEVER = jaxem.fitting.parameter_change(0.0)

# A model that can only draw: the fifth cell of Rao's linkage data is binomial.
LINKAGE = np.array([[125.0, 18.0, 20.0, 34.0]])
BEST = 0.6268214978709824  # the positive root of 197 t^2 - 15 t - 68


def draw_cell(key, theta, counts):
    return jax.random.binomial(key, counts[:, 0], theta / (2 + theta), dtype=theta.dtype)


def sums(z, counts):
    return jnp.stack([(z + counts[:, 3]).sum(), (z + counts[:, 1:].sum(axis=1)).sum()])


def ratio(statistics):
    return statistics[0] / statistics[1]


def log_likelihood(theta, counts):
    p = jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])
    return (counts * jnp.log(p)[None, :]).sum()


SAMPLER = Model(sample_posterior=draw_cell, statistics=sums, maximize=ratio)
JUDGED = Model(sample_posterior=draw_cell, statistics=sums, maximize=ratio, log_likelihood=log_likelihood)

# How far one draw moves theta: the standard deviation of z times d ratio / d z, both at the optimum.
CHANCE = BEST / (2 + BEST)
DRAWN = 125 * CHANCE + 72
ONE_DRAW = np.sqrt(125 * CHANCE * (1 - CHANCE)) * (1 - BEST) / DRAWN
RATE = 0.1328  # of EM here (Dempster, Laird & Rubin 1977): what a step keeps of the error before it


@pytest.mark.slow
def test_draws_are_enough():
    fit = jaxem.fit(SAMPLER, 0.5, LINKAGE, algorithm=MonteCarloEM(400), max_steps=15, key=KEY)
    # Without an objective nothing but max_steps ends it.
    assert fit.status == Status.MAX_STEPS and fit.steps == 15
    assert fit.objective is None and fit.trace is None and fit.evaluations == 16 * 400
    noise = ONE_DRAW / np.sqrt(400) / np.sqrt(1 - RATE**2)
    assert_within(fit.params, BEST, 5 * noise)
    assert abs(fit.params - BEST) > 1e-6  # noise there is
    with pytest.raises(ValueError, match="this stopping rule reads the objective, and the model has none"):
        jaxem.fit(
            SAMPLER, 0.5, LINKAGE, algorithm=MonteCarloEM(400), stop=jaxem.fitting.plateau(), max_steps=15, key=KEY
        )
    with pytest.raises(ValueError, match="MonteCarloEM draws random numbers: give fit a key"):
        jaxem.fit(SAMPLER, 0.5, LINKAGE, algorithm=MonteCarloEM())


@pytest.mark.slow
def test_averages_are_better_than_draws():
    run = lambda algorithm: jax.jit(
        jax.vmap(lambda key: jaxem.fit(SAMPLER, 0.5, LINKAGE, algorithm=algorithm, max_steps=450, key=key).params)
    )(jax.random.split(KEY, 20))
    drawn, averaged = (np.sqrt(np.mean((np.asarray(run(a)) - BEST) ** 2)) for a in (MonteCarloEM(1), SAEM()))
    # 400 averaged draws; each error goes on by RATE, so the average is 1 / (1 - RATE) times as noisy. The mean square
    # of 20 is within a factor of three of what it estimates.
    assert ONE_DRAW / 3 < drawn < 3 * ONE_DRAW
    assert averaged < 3 * ONE_DRAW / np.sqrt(400) / (1 - RATE)


@pytest.mark.slow
def test_a_likelihood_is_an_objective():
    fit = jaxem.fit(JUDGED, 0.5, LINKAGE, algorithm=SAEM(n_samples=4), max_steps=200, key=KEY)
    assert fit.converged and 70 <= fit.steps < 200  # 50 to forget the start, 20 to be an average
    assert fit.evaluations == 5 * (1 + fit.steps)
    assert_within(fit.objective, log_likelihood(fit.params, jnp.asarray(LINKAGE)), 1e-11)
    top = log_likelihood(jnp.asarray(BEST), jnp.asarray(LINKAGE))
    assert 0 <= top - fit.objective < 0.05


def test_equal_keys_give_equal_fits(count_compilations):
    model, params, data = case("normal mixture", "float32")
    run = lambda key: jaxem.fit(model, params, data, algorithm=SAEM(n_samples=2), max_steps=60, key=key)
    keys = [jax.random.key(1), jax.random.key(1), jax.random.key(2)]
    first = run(keys[0])
    with count_compilations() as compiled:
        again, other = run(keys[1]), run(keys[2])
    assert compiled.count == 0
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.trace, other.trace, equal_nan=True)
    # New numbers at every step: with the same ones the trace would come to rest.
    assert len(np.unique(np.asarray(first.trace)[5:45])) > 20


@pytest.mark.parametrize(("name", "precision"), [("weighted", "float64"), ("factor analysis", "float32")])
@pytest.mark.slow
def test_many_draws_are_the_e_step(name, precision):
    model, params, data = case(name, precision)
    n = 2000

    @jax.jit
    def statistics(key):
        one = lambda key: model.statistics(model.sample_posterior(key, params, data), data).sums
        each = jax.lax.map(one, jax.random.split(key, n), batch_size=200)
        averaged = MonteCarloEM(n).init(model, params, data, jax.random.key(9))
        return expectation.expect(model, params, data), each, averaged

    exact, each, averaged = statistics(KEY)
    for wanted, draws, mean in zip(
        *map(jax.tree.leaves, (exact.summary, each, averaged.memory.statistics)), strict=True
    ):
        draws, wanted = np.asarray(draws, np.float64), np.asarray(wanted, np.float64)
        error = draws.std(axis=0) / np.sqrt(n)
        rounding = 64 * eps(precision) * np.abs(draws).max()
        assert error.max() > rounding
        assert_within(draws.mean(axis=0), wanted, 5 * error + rounding)
        assert_within(mean, wanted, 5 * error + rounding)
    assert_within(averaged.objective, exact.objective, 64 * eps(precision) * abs(float(exact.objective)))
    assert averaged.evaluations == n + 1


def test_draws_of_factors_spread_like_their_posterior():
    model, params, data = case("factor analysis", "float32")
    # Factors that pull the same variables: much of what is not known of the one is not known of the other.
    params = params._replace(loadings=jnp.asarray([[2, 2], [1, 1], [0, 1], [1, 2], [2, 2]], jnp.float32))
    n = 4000

    @jax.jit
    def drawn(key):
        keys = jax.random.split(key, n)
        return model.e_step(params, data), jax.vmap(lambda k: model.sample_posterior(k, params, data))(keys)

    q, draws = drawn(KEY)
    means = np.asarray(draws.means, np.float64)[:, 0]
    wanted = np.asarray(q.covariance, np.float64)
    scale = np.sqrt(np.diag(wanted))
    assert wanted[0, 1] < -0.5 * scale[0] * scale[1]
    assert_within(means.mean(axis=0), q.means[0], 5 * scale / np.sqrt(n))
    # The variance of a sample covariance of normals: (v_ii v_jj + v_ij^2) / n.
    assert_within(np.cov(means.T), wanted, 5 * np.sqrt((np.outer(scale, scale) ** 2 + wanted**2) / n))
    assert (draws.covariance == 0).all()


# The rule


@functools.partial(jax.jit, static_argnames="window")
def met(trace: jax.Array, steps: Any, window: int = 20) -> jax.Array:
    one = lambda steps: jaxem.fitting.plateau(window).met(Progress(None, None, trace, steps, jnp.float64(1)))
    return jax.vmap(one)(steps)


STEPS = np.arange(1, 300, dtype=np.int32)


def stops(trace: Any, window: int = 20) -> np.ndarray:
    """At which steps the rule is met."""
    return STEPS[np.asarray(met(jnp.asarray(trace, np.float64), STEPS, window))]


NOISE = np.random.default_rng(6).normal(size=300)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e9])
def test_noise_ends_a_fit_and_a_rise_does_not(scale):
    level = -scale
    found = stops(level + scale * NOISE)
    assert found[0] == 19  # as soon as the window is full
    assert len(found) > 0.9 * (len(STEPS) - 18)
    # A rise that stands out of the noise goes on until it ends.
    rising = np.minimum(STEPS.max(), np.arange(300.0))
    assert len(stops(level + scale * (rising + NOISE))) == 0
    # Too slow to be seen in this window, but not in a wider one: over 10 steps 0.4 noises, over 100 steps 4.
    slow = scale * (0.04 * np.arange(300) + NOISE)
    assert len(stops(slow)) > 0 and len(stops(slow, 200)) == 0
    bent = np.minimum(np.arange(300.0), 150)
    end = stops(level + scale * (bent + 3 * NOISE))[0]
    assert 150 < end < 175


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9, 0.99, 1.0])
def test_an_even_or_geometric_ascent_goes_on(rate):
    """... for as long as it is one: until what is left is lost in rounding."""
    t = np.arange(300)
    trace = -(rate**t) if rate < 1 else 3.0 * t
    found = stops(trace)
    flat = np.flatnonzero(np.diff(trace) <= 4 * np.finfo(float).tiny)
    end = STEPS[-1] if len(flat) == 0 else flat[0]
    assert len(found) == 0 or found[0] >= min(end, 19)
    assert rate < 0.3 or len(found) == 0 or trace[found[0]] > -1e-12


def test_a_still_objective_ends_a_fit():
    assert stops(np.full(300, -3.0))[0] == 19
    early = np.full(300, np.nan)
    early[:15] = -3.0
    assert len(stops(early)) == 0


def test_the_window_is_checked():
    for window in (6, 9):
        with pytest.raises(ValueError, match=f"window must be an even number of at least 8; it is {window}"):
            jaxem.fitting.plateau(window)


def test_a_noisy_fit_ends_by_it():
    model, params, data = case("normal mixture", "float32")
    fit = jaxem.fit(model, params, data, algorithm=OnlineEM(batch_size=25), max_steps=200, key=KEY)
    assert fit.converged and 19 <= fit.steps < 100
    assert stops(np.pad(np.asarray(fit.trace, np.float64), (0, 99), constant_values=np.nan))[0] == fit.steps
