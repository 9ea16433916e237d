"""Hard, annealed, online and incremental EM: where they are EM to the bit, and against k-means and enumeration."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import case
from closeness import as_dtype, assert_within, eps
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from test_hmm import TINY, enumerate_paths

import jaxem
from jaxem import (
    EM,
    SAEM,
    AnnealedEM,
    Dataset,
    HardEM,
    IncrementalEM,
    Model,
    MonteCarloEM,
    OnlineEM,
    Status,
)
from jaxem.algorithms.online import _deal
from jaxem.core import bound, trees
from jaxem.core.bound import rounding
from jaxem.core.data import size
from jaxem.families import Normal, NormalParams, Poisson, PoissonParams
from jaxem.latent import chain_steps, chain_sums
from jaxem.models import Mixture, MixtureParams

KEY = jax.random.key(3)
ONE = optax.constant_schedule(1.0)
NEVER = jaxem.fitting.parameter_change(0.0)
RNG = np.random.default_rng(0)

COUNTS = RNG.permutation(np.concatenate([RNG.poisson(2, size=30), RNG.poisson(8, size=20)])).astype(float)
POISSON = Mixture(Poisson(), 2)
START = MixtureParams(np.array([0.5, 0.5]), PoissonParams(np.array([1.0, 10.0])))


def same(a: Any, b: Any) -> None:
    """To the bit; NaN is NaN."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def same_fit(a: jaxem.Fit, b: jaxem.Fit) -> None:
    same((a.params, a.objective, a.trace, a.steps, a.status), (b.params, b.objective, b.trace, b.steps, b.status))


@functools.cache
def em(name: str, precision: str, steps: int = 8) -> jaxem.Fit:
    return jaxem.fit(*case(name, precision), stop=NEVER, max_steps=steps)


@functools.cache
def poisson_em() -> jaxem.Fit:
    return jaxem.fit(POISSON, START, COUNTS, max_steps=60)


@jax.jit
def objective(model: Any, params: Any, data: Any) -> jax.Array:
    return bound.penalized(model, model.log_likelihood(params, data), params)


def slack(value: Any, data: Any) -> float:
    return float(rounding(value, size(data, value.dtype)))


def assert_honest(fit: jaxem.Fit, model: Any, data: Any) -> None:
    """The objective is the log-likelihood (+ prior) at exactly these parameters."""
    wanted = objective(model, fit.params, data)
    assert_within(fit.objective, wanted, slack(wanted, data))
    assert fit.trace[int(fit.steps)] == fit.objective


def assert_monotone(fit: jaxem.Fit, data: Any) -> None:
    trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
    assert len(trace) > 2
    assert np.diff(trace).min() >= -slack(fit.objective, data)


# Hard EM


def centres_log_joint(centres, x):
    return -((x[None, :] - centres) ** 2).sum(axis=1) / 2


def centres_m_step(q, x):
    return (q.probabilities.T @ x) / q.probabilities.sum(axis=0)[:, None]


# Classes of one size and weight: only their centres are sought.
CENTRES = jaxem.from_log_joint(centres_log_joint, m_step=centres_m_step)


def test_hard_em_is_k_means():
    x = RNG.normal(size=(60, 2)) + 2.0 * RNG.integers(0, 3, (60, 1))
    start = x[:3]
    fit = jaxem.check(jaxem.fit(CENTRES, start, x, algorithm=HardEM()))
    peer = KMeans(3, init=start, n_init=1, algorithm="lloyd", tol=0).fit(x)
    assert fit.steps > 3 and fit.evaluations == fit.steps + 1
    assert_within(fit.params, peer.cluster_centers_, 60 * eps(np.float64) * np.abs(x).max())
    np.testing.assert_array_equal(CENTRES.predict(fit.params, x), peer.labels_)
    assert_within(fit.objective, -peer.inertia_ / 2, 120 * eps(np.float64) * peer.inertia_)


@jax.jit
def classified(model, params, older, data):
    """Q (+ prior) at the most probable z of these parameters and of others; the objective of EM; the entropy."""
    q, other = model.c_step(params, data), model.c_step(older, data)
    values = [bound.penalized(model, model.q_function(params, each, data), params) for each in (q, other)]
    return *values, bound.penalized(model, model.log_likelihood(params, data), params), model.entropy(q, data)


@pytest.mark.parametrize(("name", "precision"), [("full, prior", "float64"), ("ragged hmm", "float32")])
@pytest.mark.slow
def test_hard_em_climbs_the_classification_likelihood(name, precision):
    model, params, data = case(name, precision)
    fit = jaxem.fit(model, params, data, algorithm=HardEM(), max_steps=30)
    assert fit.status == Status.CONVERGED
    assert_monotone(fit, data)
    wanted, older, likelihood, entropy = classified(model, fit.params, params, data)
    assert entropy == 0
    assert_within(fit.objective, wanted, slack(wanted, data))
    # Below the log-likelihood, and above what the start's classification gives at these parameters.
    assert older <= wanted < likelihood


def test_an_empty_class_is_degenerate():
    nowhere = MixtureParams(START.weights, PoissonParams(np.array([4.0, 1e4])))
    fit = jaxem.fit(POISSON, nowhere, COUNTS, algorithm=HardEM())
    assert fit.status == Status.DEGENERATE and fit.steps == 0 and np.isfinite(fit.objective)
    same(fit.params, as_dtype(nowhere, np.float64))


# What a hidden Markov model offers, against all its paths

DRAWS = 4000


@jax.jit
def of_paths(model, params, data, beta):
    hard, hot = model.c_step(params, data), model.tempered_e_step(params, data, beta)
    draws = jax.vmap(lambda key: model.sample_posterior(key, params, data))(jax.random.split(KEY, DRAWS))
    return {
        "q_function": model.q_function(params, hard, data),
        "entropy": model.entropy(hard, data),
        "hard_pairs": chain_sums.pair_counts_each(hard),
        "path": hard.smoothed,
        "divergence": model.divergence(hard, model.e_step(params, data), data),
        "normalizers": jnp.stack([hard.log_normalizer, hot.log_normalizer, draws.log_normalizer[0]]),
        "hot": hot.smoothed,
        "hot_pairs": chain_sums.pair_counts_each(hot),
        "drawn": draws.smoothed,
        "drawn_pairs": jax.vmap(chain_sums.pair_counts_each)(draws),
    }


@pytest.mark.parametrize(("kind", "precision"), [("poisson", "float32"), ("normal", "float64")])
def test_paths_against_enumeration(kind, precision):
    model, density, params, _, x, lengths = TINY[kind]
    params, x = as_dtype((params, x), precision)
    beta = 0.3
    found = of_paths(model, params, Dataset(x, lengths=jnp.asarray(lengths)), jnp.asarray(beta, precision))
    exact, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
    best = divergence = 0.0
    log_p = []
    tolerance = 64 * x.size * eps(precision)
    for i, length in enumerate(lengths):
        paths, joint = enumerate_paths(exact, density(exact.emissions, x[i, :length]))
        indicator = paths[:, :, None] == np.arange(model.k)
        pairs = indicator[:, :-1, :, None] & indicator[:, 1:, None, :]
        best += joint.max()
        divergence += logsumexp(joint) - joint.max()
        log_p.append(logsumexp(joint))
        assert (found["path"][i, length:] == 0).all()
        np.testing.assert_array_equal(found["path"][i, :length], indicator[joint.argmax()])
        assert_within(found["hard_pairs"][i], pairs[joint.argmax()].sum(axis=0), 0)
        hot, q = np.exp(beta * joint - logsumexp(beta * joint)), np.exp(joint - logsumexp(joint))
        assert_within(found["hot"][i, :length], np.einsum("p,ptk->tk", hot, indicator), tolerance)
        assert_within(found["hot_pairs"][i], np.einsum("p,ptij->ij", hot, pairs), tolerance)
        # Draws are one path each; their frequencies lie within five standard errors of the exact ones.
        drawn, drawn_pairs = np.asarray(found["drawn"])[:, i], np.asarray(found["drawn_pairs"])[:, i]
        assert (drawn[:, :length].sum(axis=2) == 1).all() and (drawn[:, length:] == 0).all()
        assert (drawn_pairs.sum(axis=(1, 2)) == length - 1).all()
        for values, each in [(drawn[:, :length], indicator), (drawn_pairs, pairs.sum(axis=1))]:
            mean = np.tensordot(q, each, 1)
            variance = np.tensordot(q, (each - mean) ** 2, 1)
            assert_within(values.mean(axis=0), mean, 5 * np.sqrt(variance / DRAWS) + tolerance)
    scale = 1 + np.abs(log_p).max()
    assert_within(found["q_function"], best, tolerance * scale)
    assert_within(found["divergence"], divergence, tolerance * scale)
    assert found["entropy"] == 0
    for normalizer in found["normalizers"]:
        assert_within(normalizer, log_p, tolerance * scale)


# Annealed EM


@pytest.mark.parametrize(
    ("name", "precision"),
    [("weighted", "float64"), ("ragged hmm", "float32"), ("factor analysis", "float64")],
)
@pytest.mark.slow
def test_at_temperature_one_it_is_em(name, precision):
    annealed = jaxem.fit(*case(name, precision), algorithm=AnnealedEM(ONE), stop=NEVER, max_steps=8)
    same_fit(annealed, em(name, precision))
    assert annealed.evaluations == em(name, precision).evaluations


def cooling(count):
    return jnp.minimum(0.01 * 1.2**count, 1.0)


def held(count):
    return jnp.where(count < 25, 0.9, 1.0)


def test_annealing_finds_the_better_optimum():
    # Three groups; two centres start in the first, and EM leaves the third to share the other groups.
    x = np.concatenate([RNG.normal(at, 1, (20, 1)) for at in (0, 10, 20)])
    start = np.array([[-1.0], [1.0], [15.0]])
    stuck = jaxem.check(jaxem.fit(CENTRES, start, x))
    free = jaxem.check(jaxem.fit(CENTRES, start, x, algorithm=AnnealedEM(cooling)))
    assert_within(stuck.params[2, 0], 15, 1)
    assert_within(np.sort(free.params[:, 0]), [0, 10, 20], 1)
    # The two groups that shared a centre, 10 apart: 40 squared distances of 25, halved.
    assert free.objective > stuck.objective + 400
    assert_honest(free, CENTRES, jnp.asarray(x))
    # Not monotone on the way, and said so.
    assert not AnnealedEM.monotone and np.nanmin(np.diff(free.trace)) < 0


@pytest.mark.slow
def test_it_does_not_end_before_the_temperature_is_one():
    end = jaxem.fit(CENTRES, np.array([[0.0], [5.0]]), COUNTS[:, None], algorithm=AnnealedEM(held), tol=1e-3)
    assert end.converged and end.steps >= 26  # the step from count 25 is the first at one
    best = jaxem.fit(CENTRES, end.params, COUNTS[:, None])
    assert best.steps < 30 and best.objective - end.objective < 1e-2
    warm = optax.constant_schedule(0.9)
    for_ever = jaxem.fit(CENTRES, end.params, COUNTS[:, None], algorithm=AnnealedEM(warm), tol=1e-3, max_steps=30)
    assert for_ever.status == Status.MAX_STEPS


def test_a_tempered_posterior_is_a_power(dtype):
    model, params, data = case("weighted", str(dtype))
    q, hot = jax.jit(lambda p, d: (model.e_step(p, d), model.tempered_e_step(p, d, 0.3)))(params, data)
    with np.errstate(divide="ignore"):
        power = np.exp(0.3 * np.log(np.asarray(q.probabilities, np.float64)))
    possible = np.asarray(q.probabilities) > np.finfo(dtype).tiny  # what has underflowed has lost its power
    wanted = power / power.sum(axis=1, keepdims=True)
    tolerance = 64 * eps(dtype) * np.abs(np.log(wanted, where=possible, out=np.zeros_like(wanted))).max()
    assert_within(np.asarray(hot.probabilities)[possible], wanted[possible], tolerance)
    same(hot.log_normalizer, q.log_normalizer)
    model, params, data = case("factor analysis", str(dtype))
    q, hot = jax.jit(lambda p, d: (model.e_step(p, d), model.tempered_e_step(p, d, 0.25)))(params, data)
    same(hot, q._replace(covariance=4 * q.covariance))


def only_bound(which, value):
    """A model without a likelihood or a normaliser of its own."""
    return Model(CENTRES.e_step, CENTRES.m_step, CENTRES.q_function, CENTRES.entropy, **{which: value})


def test_the_objective_is_not_that_of_the_tempered_posterior():
    model = only_bound("tempered_e_step", CENTRES.tempered_e_step)
    x, start = jnp.asarray(COUNTS[:, None]), np.array([[0.0], [5.0]])
    fit = jaxem.fit(model, start, x, algorithm=AnnealedEM(held), max_steps=2)
    assert_honest(fit, CENTRES, x)


# Online EM


@pytest.mark.slow
def test_one_batch_and_a_step_of_one_are_em():
    run = lambda algorithm: jaxem.fit(POISSON, START, COUNTS, algorithm=algorithm, stop=NEVER, max_steps=60)
    same_fit(run(OnlineEM(ONE, None)), run(jaxem.EM()))
    # Statistics of a normal distribution are taken about the start instead of the current means: rounding.
    online = jaxem.fit(*case("weighted", "float64"), algorithm=OnlineEM(ONE, None), stop=NEVER, max_steps=8)
    assert trees.relative_change(online.params, em("weighted", "float64").params) <= 64 * 8 * eps(np.float64)
    assert online.evaluations == 9


def averaging(count):
    return 1 / (count + 1)


ONLY = Mixture(Poisson(), 1)
ONLY_START = MixtureParams(np.ones(1), PoissonParams(np.array([3.0])))


@jax.jit
def one_pass(x):
    algorithm = OnlineEM(averaging, 12)
    return algorithm.step(ONLY, algorithm.init(ONLY, as_dtype(ONLY_START, np.float64), x, KEY), x)


@pytest.mark.slow
def test_every_row_is_used_once_a_pass():
    """One class, and step sizes that make an average of the batches: the mean of the rows met."""
    x = np.floor(2.0 ** (np.arange(48) - 24))
    state = one_pass(x)
    assert_within(state.params.components.rates[0], x.mean(), 48 * eps(np.float64) * x.mean())
    # Running statistics are always those of as many rows as there are.
    assert_within(state.memory.running.sums.gate[0], 48, 48 * 48 * eps(np.float64))
    assert state.evaluations == 3 and state.memory.batches == 4
    assert (jax.random.key_data(state.memory.key) != jax.random.key_data(KEY)).any()  # the next order is another one
    # 49 rows make five batches of ten, and one row is met twice.
    x = np.floor(np.linspace(1, 300, 49))
    met_twice = one_pass(x).params.components.rates[0] * 50 - x.sum()
    assert np.abs(met_twice - x).min() <= 64 * eps(np.float64) * x.sum()


@functools.partial(jax.jit, static_argnums=(1, 2))
def dealt(keys, n, batches):
    """For each key the rows of each batch in its turn, (keys, batches, rows)."""

    def once(key):
        turns, places = _deal(key, n, batches)
        return jax.vmap(places)(turns)

    return jax.vmap(once)(keys)


def test_rows_are_dealt_fairly():
    hands = np.asarray(dealt(jax.random.split(KEY, 2000), 60, 5))
    assert (np.sort(hands.reshape(2000, -1)) == np.arange(60)).all()
    # On the circle each batch has one row of every five: no gap between its rows is longer than nine.
    gaps = np.diff(np.sort(hands, axis=2), axis=2)
    assert gaps.max() <= 9 and gaps.min() == 1
    # Each row is as often in each batch as in any other, and two rows of different runs meet as often as by chance.
    turns = np.argsort(hands.reshape(2000, -1), axis=1) // 12
    chance = np.sqrt(2000 * 0.2 * 0.8)
    for turn in range(5):
        assert_within((turns == turn).sum(axis=0), np.full(60, 400.0), 5 * chance)
    assert_within((turns[:, 0] == turns[:, 30]).sum(), 400.0, 5 * chance)
    # A row's neighbour follows it in the next batch by chance only: 1 / 5 in the same run, 4 / 25 in another.
    assert_within((turns[:, :-1] + 1 == turns[:, 1:]).mean(), 0.8 / 5 + 0.2 * 4 / 25, 0.01)
    # 63 rows make five batches of 13, and other two rows are met twice each time.
    hands = np.asarray(dealt(jax.random.split(KEY, 2000), 63, 5)).reshape(2000, -1)
    times = np.stack([np.bincount(hand, minlength=63) for hand in hands])
    assert times.min() == 1 and times.max() == 2
    assert_within((times == 2).sum(axis=0), np.full(63, 2000 * 2 / 63), 5 * np.sqrt(2000 * 2 / 63))


@pytest.mark.slow
def test_the_order_of_the_rows_does_not_matter():
    """In rows sorted by class each batch still has its share of every class, so a pass comes as far."""
    x = np.sort(RNG.normal(size=3000) + np.repeat([0.0, 3.0], [1000, 2000]))
    model = Mixture(Normal(), 2)
    start = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.array([1.0, 2.0]), np.array([1.0, 1.0])))
    best = jaxem.fit(model, start, x)
    run = lambda x: jaxem.fit(model, start, x, algorithm=OnlineEM(batch_size=100), stop=NEVER, max_steps=5, key=KEY)
    left = [float(best.objective - run(rows).objective) for rows in (x, RNG.permutation(x))]
    assert all(0 <= one < 0.01 * (best.objective - best.trace[0]) for one in left), left
    hands = np.asarray(dealt(KEY[None], 3000, 30))[0]
    assert_within((hands < 1000).sum(axis=1), np.full(30, 1000 / 30), 2.0)


def test_a_pass_sorts_nothing_of_the_length_of_the_data():
    """Sorting as many random numbers as there are rows would take longer than both E-steps."""
    x = jnp.asarray(RNG.normal(size=5000))
    model, start = Mixture(Normal(), 2), MixtureParams(jnp.ones(2) / 2, NormalParams(jnp.array([0.0, 1]), jnp.ones(2)))
    algorithm = OnlineEM()
    state = algorithm.init(model, start, x, KEY)
    text = str(jax.make_jaxpr(lambda state, x: algorithm.step(model, state, x))(state, x))
    sorted_shapes = re.findall(r":\w+\[([\d,]*)\] = sort\[", text)
    assert sorted_shapes and set(sorted_shapes) == {"5"}  # the order of the five batches


@pytest.mark.slow
def test_online_em_climbs_by_batches():
    run = lambda key, steps=30: jaxem.fit(
        POISSON, START, COUNTS, algorithm=OnlineEM(batch_size=10), stop=NEVER, max_steps=steps, key=key
    )
    fit, again, other = run(KEY), run(KEY), run(jax.random.key(4))
    same(fit, again)
    assert not np.array_equal(fit.trace, other.trace)
    assert fit.evaluations == 1 + 2 * fit.steps
    assert_honest(fit, POISSON, COUNTS)
    best = poisson_em()
    assert 0 <= best.objective - fit.objective < 0.02 * (best.objective - best.trace[0])
    with pytest.raises(ValueError, match="OnlineEM draws random numbers: give fit a key"):
        run(None)


@pytest.mark.slow
def test_online_em_weighs_sequences():
    model, params, data = case("weighted hmm", "float32")
    run = lambda data: jaxem.fit(
        model, params, data, algorithm=OnlineEM(batch_size=4), stop=NEVER, max_steps=6, key=KEY
    )
    x, weights = data.values, data.weights
    fit = run(data)
    assert fit.trace[6] > fit.trace[0]
    assert_honest(fit, model, data)
    # What has no weight, and what stands behind an end, is never looked at.
    inside = chain_steps.within(data.lengths, x.shape[1]) & (weights > 0)[:, None]
    same(run(dataclasses.replace(data, values=jnp.where(inside[:, :, None], x, jnp.nan))), fit)


# Incremental EM


def test_one_block_is_em():
    same_fit(jaxem.fit(POISSON, START, COUNTS, algorithm=IncrementalEM(1), max_steps=60), poisson_em())
    # One sequence is one block, however many are asked for.
    given = case("poisson hmm", "float32")  # kept for all tests, so not made inside a trace
    state = jax.eval_shape(lambda: IncrementalEM().init(*given, None))
    assert state.memory.first.sums.initial.shape == (0, 2) and state.memory.last.sums.initial.shape == (2,)


@pytest.mark.parametrize(
    ("name", "precision", "blocks"),
    [("ragged hmm", "float32", 4), ("factor analysis", "float64", 7)],
)
@pytest.mark.slow
def test_incremental_em_climbs(name, precision, blocks):
    model, params, data = case(name, precision)
    fit = jaxem.fit(model, params, data, algorithm=IncrementalEM(blocks), stop=NEVER, max_steps=8)
    assert fit.status == Status.MAX_STEPS or fit.status == Status.CONVERGED
    assert fit.evaluations == 1 + 2 * fit.steps
    assert_monotone(fit, data)
    assert_honest(fit, model, data)
    assert fit.trace[2] > em(name, precision).trace[2]  # further than EM in as many steps


@pytest.mark.slow
def test_incremental_em_needs_fewer_e_steps():
    x = np.random.default_rng(1).permutation(np.random.default_rng(0).normal(size=600) + np.repeat([0, 2.5], 300))
    model = Mixture(Normal(), 2)
    start = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.array([-1, 4.0]), np.array([1.0, 1.0])))
    em, incremental = (
        jaxem.fit(model, start, x, algorithm=algorithm, tol=1e-12) for algorithm in (EM(), IncrementalEM(20))
    )
    reached = max(em.objective, incremental.objective) - 1e-4
    paid = [
        np.flatnonzero(fit.trace >= reached)[0] * (int(fit.evaluations) - 1) / int(fit.steps)
        for fit in (em, incremental)
    ]
    assert paid[1] < 0.85 * paid[0]  # 2 / e = 0.74 in theory, for many blocks


# All of them


def test_what_is_missing_is_named():
    factors, log_joint = case("factor analysis", "float64"), case("log-joint", "float64")
    e_step, sampler = Model(lambda p, d: p, lambda q, d: q), Model(sample_posterior=lambda k, p, d: p)
    for (model, params, data), algorithm, says in [
        (factors, HardEM(), r"HardEM needs c_step, which FactorAnalysis lacks\. Write: c_step\(params, data\) -> q"),
        (log_joint, OnlineEM(), r"OnlineEM needs statistics, which LogJointModel lacks\. Write: statistics\(q, data\)"),
        (log_joint, IncrementalEM(), "IncrementalEM needs statistics, which LogJointModel lacks"),
        (
            (e_step, 0.5, COUNTS),
            AnnealedEM(),
            r"AnnealedEM needs tempered_e_step, .* Write: tempered_e_step\(params, d",
        ),
        ((e_step, 0.5, COUNTS), MonteCarloEM(), r"MonteCarloEM needs sample_posterior.* sample_posterior\(key, params"),
        ((sampler, 0.5, COUNTS), SAEM(), "SAEM needs statistics, which Model lacks"),
        ((sampler, 0.5, COUNTS), None, r"EM needs e_step, which Model lacks\. Write: e_step\(params, data\) -> q"),
    ]:
        with pytest.raises(ValueError, match=says):
            jaxem.fit(model, params, data, algorithm=algorithm, key=KEY)
    with pytest.raises(ValueError, match="verify needs e_step, which Model lacks"):
        jaxem.verify(sampler, 0.5, COUNTS)


def test_options_are_checked():
    for make, says in [
        (lambda: AnnealedEM(0.5), r"AnnealedEM: schedule must be a function count -> number, e\.g\. optax.*\(0\.5\)"),
        (lambda: OnlineEM(0.5), "OnlineEM: schedule must be a function"),
        (lambda: SAEM(0.5), "SAEM: schedule must be a function"),
        (lambda: OnlineEM(batch_size=0), "OnlineEM: batch_size must be at least 1; it is 0"),
        (lambda: IncrementalEM(0), "IncrementalEM: blocks must be at least 1; it is 0"),
        (lambda: MonteCarloEM(0), "MonteCarloEM: n_samples must be at least 1; it is 0"),
        (lambda: SAEM(n_samples=0), "SAEM: n_samples must be at least 1; it is 0"),
    ]:
        with pytest.raises(ValueError, match=says):
            make()
