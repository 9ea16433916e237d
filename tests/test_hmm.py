"""Hidden Markov models: against brute force over all paths, against hmmlearn, and at the edges of the numbers."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from hmmlearn import hmm as peers
from scipy import stats
from scipy.special import logsumexp

import jaxem
from jaxem import Dataset, Status
from jaxem.families import MultivariateNormal, MultivariateNormalParams, Normal, NormalParams, Poisson, PoissonParams
from jaxem.latent import chain, chain_paths, chain_sums
from jaxem.models import HMM, HMMParams

EPS = eps(np.float64)
EXACT = jaxem.fitting.parameter_change(0.0)

# Brute force


def poisson(params: Any, x: np.ndarray) -> np.ndarray:
    return stats.poisson.logpmf(x[:, None], params.rates)


def normal(params: Any, x: np.ndarray) -> np.ndarray:
    return stats.norm.logpdf(x[:, None], params.means, np.sqrt(params.variances))


# Two ragged sequences; a posterior comes from the first parameters, which forbid some moves, Q is taken at the second.
TINY = {
    "poisson": (
        HMM(Poisson(), 3),
        poisson,
        HMMParams(
            np.array([0.4, 0.6, 0.0]),
            np.array([[0.7, 0.3, 0.0], [0.2, 0.5, 0.3], [0.1, 0.0, 0.9]]),
            PoissonParams(np.array([1.0, 4.0, 9.0])),
        ),
        HMMParams(
            np.array([0.2, 0.5, 0.3]),
            np.array([[0.1, 0.3, 0.6], [0.3, 0.3, 0.4], [0.5, 0.2, 0.3]]),
            PoissonParams(np.array([2.0, 3.0, 5.0])),
        ),
        np.array([[0.0, 2, 5, 4, 11], [3, 7, 1, 0, 0]]),
        np.array([5, 3], np.int32),
    ),
    "normal": (
        HMM(Normal(), 2),
        normal,
        HMMParams(
            np.array([0.3, 0.7]),
            np.array([[0.8, 0.2], [0.4, 0.6]]),
            NormalParams(np.array([-1.0, 1.0]), np.array([1.0, 0.5])),
        ),
        HMMParams(
            np.array([0.5, 0.5]),
            np.array([[0.1, 0.9], [0.5, 0.5]]),
            NormalParams(np.array([0.0, 2.0]), np.array([2.0, 0.25])),
        ),
        np.array([[0.3, 0, 0, 0, 0], [-1.2, 0.1, 1.5, 0.9, -0.4]]),
        np.array([1, 5], np.int32),
    ),
}


def enumerate_paths(params: HMMParams, log_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every path (K^T, T) of one sequence, and log p(x, z) of it."""
    t, k = log_b.shape
    paths = np.array(list(itertools.product(range(k), repeat=t)))
    with np.errstate(divide="ignore"):
        log_pi, log_a = np.log(params.initial), np.log(params.transition)
    moves = log_a[paths[:, :-1], paths[:, 1:]].sum(axis=1)
    return paths, log_pi[paths[:, 0]] + moves + log_b[np.arange(t), paths].sum(axis=1)


def expectation(q: np.ndarray, values: np.ndarray) -> float:
    """sum_z q(z) v(z), where what cannot be counts nothing."""
    return float((q[q > 0] * values[q > 0]).sum())


@jax.jit
def parts(model, params, other, data):
    q, p = model.e_step(params, data), model.e_step(other, data)
    return {
        "smoothed": q.smoothed,
        "predict_proba": model.predict_proba(params, data),
        "pair_counts": chain_sums.pair_counts(q, None),
        "pair_counts_each": chain_sums.pair_counts_each(q),
        "log_normalizer": model.log_normalizer(q, data),
        "log_likelihood": model.log_likelihood(params, data),
        "log_prob": model.log_prob(params, data),
        "q_function": model.q_function(other, q, data),
        "entropy": model.entropy(q, data),
        "divergence": model.divergence(q, p, data),
        "path": model.predict(params, data),
    }


def brute_force(model, density, params, other, x, lengths):
    n, t = x.shape
    smoothed, pairs = np.zeros((n, t, model.k)), np.zeros((n, model.k, model.k))
    path, log_prob = np.full((n, t), -1), np.zeros(n)
    q_function = entropy = divergence = 0.0
    for i, length in enumerate(lengths):
        paths, joint = enumerate_paths(params, density(params.emissions, x[i, :length]))
        _, other_joint = enumerate_paths(other, density(other.emissions, x[i, :length]))
        log_prob[i] = logsumexp(joint)
        log_q, log_p = joint - log_prob[i], other_joint - logsumexp(other_joint)
        q = np.exp(log_q)
        for k in range(model.k):
            smoothed[i, :length, k] = q @ (paths == k)
            for j in range(model.k):
                pairs[i, k, j] = q @ ((paths[:, :-1] == k) & (paths[:, 1:] == j)).sum(axis=1)
        path[i, :length] = paths[joint.argmax()]
        q_function += expectation(q, other_joint)
        entropy -= expectation(q, log_q)
        with np.errstate(invalid="ignore"):
            divergence += expectation(q, log_q - log_p)
    return {
        "smoothed": smoothed,
        "predict_proba": smoothed,
        "pair_counts": pairs.sum(axis=0),
        "pair_counts_each": pairs,
        "log_normalizer": log_prob.sum(),
        "log_likelihood": log_prob.sum(),
        "log_prob": log_prob,
        "q_function": q_function,
        "entropy": entropy,
        "divergence": divergence,
        "path": path,
    }


@pytest.mark.parametrize("kind", TINY)
def test_agrees_with_enumeration(kind, dtype):
    model, density, *numbers, x, lengths = TINY[kind]
    params, other, x = as_dtype((*numbers, x), dtype)
    found = parts(model, params, other, Dataset(x, lengths=jnp.asarray(lengths)))
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, other, x))
    wanted = brute_force(model, density, *exact, lengths)
    np.testing.assert_array_equal(found.pop("path"), wanted.pop("path"))
    # Ten steps, each with some operations on terms of a log-likelihood of this size.
    scale = 1 + abs(wanted["log_likelihood"]) + abs(wanted["q_function"])
    for name, value in wanted.items():
        assert found[name].dtype == dtype
        size = 1 if name in ("smoothed", "predict_proba", "pair_counts", "pair_counts_each") else scale
        assert_within(found[name], value, 8 * x.size * eps(dtype) * size)


@pytest.mark.slow
def test_equal_lengths_need_no_lengths():
    model, _, params, other, x, _ = TINY["poisson"]
    params, other, x = as_dtype((params, other, x), np.float64)
    without = parts(model, params, other, x)
    full = parts(model, params, other, Dataset(x, lengths=jnp.full((2,), 5, jnp.int32)))
    jax.tree.map(np.testing.assert_array_equal, without, full)


# Against hmmlearn


@functools.cache
def simulated(kind: str) -> tuple[list[np.ndarray], HMMParams]:
    """Three sequences and a start."""
    rng = np.random.default_rng(7)
    sequences = []
    for t in (40, 25, 31):
        states = (rng.random(t) < 0.2).cumsum() % 2
        if kind == "poisson":
            sequences.append(rng.poisson(np.array([2.0, 7.0])[states]).astype(float))
        else:
            sequences.append(rng.normal(size=(t, 2)) @ np.array([[1.0, 0.4], [0, 0.8]]) + 2.0 * states[:, None])
    emissions = {
        "poisson": PoissonParams(np.array([3.0, 5.0])),
        "full": MultivariateNormalParams(np.array([[0.0, 0.5], [1.5, 1.0]]), np.stack([np.eye(2), 2 * np.eye(2)])),
        "diag": MultivariateNormalParams(np.array([[0.0, 0.5], [1.5, 1.0]]), np.array([[1.0, 1.5], [2.0, 1.0]])),
    }[kind]
    return sequences, HMMParams(np.array([0.6, 0.4]), np.array([[0.7, 0.3], [0.4, 0.6]]), emissions)


def fitted_peer(kind: str) -> Any:
    """Five iterations of hmmlearn, its priors off."""
    sequences, start = simulated(kind)
    if kind == "poisson":
        peer = peers.PoissonHMM(2, init_params="", tol=0, n_iter=5)
        peer.lambdas_ = start.emissions.rates[:, None].copy()
    else:
        # At their weights of 0 and 1 the priors of means and covariances add nothing but covars_prior.
        peer = peers.GaussianHMM(2, kind, min_covar=0, covars_prior=0, init_params="", tol=0, n_iter=5)
        peer.means_, peer.covars_ = start.emissions.means, start.emissions.covariances
    peer.startprob_, peer.transmat_ = start.initial.copy(), start.transition.copy()
    return peer.fit(stacked(sequences), [len(x) for x in sequences])


def stacked(sequences: list[np.ndarray]) -> np.ndarray:
    x = np.concatenate(sequences)
    return x.astype(int)[:, None] if x.ndim == 1 else x


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")  # hmmlearn, with NumPy 2.5
@pytest.mark.parametrize("kind", ["full", "diag", "poisson"])
@pytest.mark.slow
def test_five_iterations_agree_with_hmmlearn(kind):
    sequences, start = simulated(kind)
    peer, data = fitted_peer(kind), jaxem.dataset(sequences)
    model = HMM(Poisson() if kind == "poisson" else MultivariateNormal(kind), 2)
    fit = jaxem.fit(model, start, data, stop=EXACT, max_steps=5)
    assert fit.steps == 5 and fit.status == Status.MAX_STEPS
    assert_within(fit.params.initial, peer.startprob_, 1e-8)
    assert_within(fit.params.transition, peer.transmat_, 1e-8)
    lengths = [len(x) for x in sequences]
    assert_within(fit.objective, peer.score(stacked(sequences), lengths), 1e-8)
    assert_within(fit.trace[:5], peer.monitor_.history, 1e-8)
    emissions = fit.params.emissions
    if kind == "poisson":
        assert_within(emissions.rates, peer.lambdas_[:, 0], 1e-8)
    else:
        covariances = peer.covars_ if kind == "full" else np.diagonal(peer.covars_, axis1=1, axis2=2)
        assert_within(emissions.means, peer.means_, 1e-8)
        assert_within(emissions.covariances, covariances, 1e-8)


# Padding and weights: always four sequences of at most twelve steps, two normal states

MODEL = HMM(Normal(), 2)
START = HMMParams(
    np.array([0.5, 0.5]),
    np.array([[0.8, 0.2], [0.3, 0.7]]),
    NormalParams(np.array([0.0, 2.0]), np.array([1.0, 1.0])),
)
LENGTHS = np.array([12, 7, 1, 9], np.int32)


def four_sequences() -> np.ndarray:
    rng = np.random.default_rng(3)
    states = (rng.random((4, 12)) < 0.3).cumsum(axis=1) % 2
    return rng.normal(size=(4, 12)) + 3.0 * states


def same(a: Any, b: Any) -> None:
    """To the bit; NaN is NaN."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def agree(a: Any, b: Any, tolerance: float) -> None:
    jax.tree.map(lambda x, y: assert_within(x, y, tolerance), a, b)


@pytest.mark.slow
def test_padding_is_never_looked_at():
    x, inside = four_sequences(), np.arange(12)[None] < LENGTHS[:, None]
    start = as_dtype(START, np.float64)
    results = []
    for padding in (0.0, 1e30, -np.inf, np.nan):
        data = Dataset(jnp.asarray(np.where(inside, x, padding)), lengths=jnp.asarray(LENGTHS))
        fit = jaxem.fit(MODEL, START, data, stop=EXACT, max_steps=10)
        results.append((fit, MODEL.init(jax.random.key(0), data), parts(MODEL, start, start, data)))
    assert np.isfinite(results[0][0].trace).all()
    for result in results[1:]:
        same(result, results[0])


@pytest.mark.slow
def test_more_padding_changes_nothing():
    x, start = four_sequences(), as_dtype(START, np.float64)
    short = Dataset(jnp.asarray(x), lengths=jnp.asarray(LENGTHS))
    long = Dataset(jnp.asarray(np.pad(x, ((0, 0), (0, 5)), constant_values=np.nan)), lengths=jnp.asarray(LENGTHS))
    a, b = (parts(MODEL, start, start, data) for data in (short, long))
    for name in ("smoothed", "predict_proba", "path"):
        b[name] = b[name][:, :12]
    agree(a, b, 64 * EPS * (1 + abs(float(a["log_likelihood"]))))


def test_weights_are_repetitions():
    times = np.array([2, 0, 1, 1])
    x = four_sequences()
    data = Dataset(x, lengths=LENGTHS, weights=times.astype(float))
    weighted = jaxem.fit(MODEL, START, data, stop=EXACT, max_steps=10)
    repeated = Dataset(np.repeat(x, times, axis=0), lengths=np.repeat(LENGTHS, times))
    again = jaxem.fit(MODEL, START, repeated, stop=EXACT, max_steps=10)
    # Ten steps of rounding errors of sums of some fifty terms of size x^2 <= 25.
    agree(weighted.params, again.params, 10 * np.sqrt(50) * EPS * 25)
    assert_within(weighted.objective, again.objective, 32 * EPS * 2 * abs(float(again.objective)))


def test_a_sequence_of_weight_zero_is_never_looked_at():
    """Neither its values nor its length."""
    x, weights = four_sequences(), np.array([2.0, 0, 1, 3])
    results = []
    for value, length in ((0.0, 7), (1e6, 7), (1.0, 12), (np.nan, 2)):
        data = Dataset(
            np.where(np.arange(4)[:, None] == 1, value, x),
            lengths=np.where(np.arange(4) == 1, length, LENGTHS),
            weights=weights,
        )
        results.append(jaxem.fit(MODEL, START, data, stop=EXACT, max_steps=10))
    assert np.isfinite(results[0].trace).all()
    for result in results[1:]:
        same(result, results[0])


# Structure

LEFT_RIGHT = np.array([[0.6, 0.4, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])


@functools.cache
def left_right_fit(last: float) -> tuple[HMMParams, Any]:
    """Poisson states of rates about 2, 6 and ``last``; where that is zero, the third state is only ever the last."""
    rng = np.random.default_rng(5)
    x = 1.0 + rng.poisson(np.repeat([1.0, 5.0, 11.0], 4), size=(4, 12))
    if last == 0:
        x[:, 8:] = 1.0 + rng.poisson(5.0, size=(4, 4))
        x[:, -1] = 0
    start = HMMParams(np.array([1.0, 0.0, 0.0]), LEFT_RIGHT, PoissonParams(np.array([2.0, 5.0, last])))
    return start, jaxem.fit(HMM(Poisson(), 3), start, x, max_steps=60)


@pytest.mark.parametrize("last", [10.0, 0.0])
@pytest.mark.slow
def test_a_zero_stays_a_zero(last):
    """In the first and the last row, in the initial probabilities; and a state that is never left keeps its row."""
    start, fit = left_right_fit(last)
    assert fit.converged and fit.steps > 1
    for a, b in ((fit.params.initial, start.initial), (fit.params.transition, start.transition)):
        np.testing.assert_array_equal(np.asarray(a)[b == 0], 0)
    assert_within(fit.params.transition.sum(axis=1), np.ones(3), 4 * EPS)
    assert np.isfinite(fit.params.emissions.rates).all() and np.isfinite(fit.objective)


def test_an_emptied_state_is_degenerate():
    """No observation is zero, so a state of rate zero explains none."""
    start = HMMParams(np.full(3, 1 / 3), np.full((3, 3), 1 / 3), PoissonParams(np.array([3.0, 0.0, 1.0])))
    x = 1.0 + np.random.default_rng(0).poisson(2.0, size=(4, 12))
    fit = jaxem.fit(HMM(Poisson(), 3), start, x, max_steps=60)
    assert fit.status == Status.DEGENERATE and fit.steps == 0
    same(fit.params, as_dtype(start, np.float64))
    assert np.isfinite(fit.objective)


# At the edges of the numbers


@pytest.mark.slow
def test_the_likeliest_state_may_be_out_of_reach(dtype):
    """The first observation fits the second state better by more than exp can say, but the chain starts in the first:
    densities scaled by the largest underflow, and the filter must notice."""
    far = 45.0 if dtype == jnp.float64 else 16.0
    assert np.exp(np.asarray(-(far**2) / 2, dtype)) == 0
    x = np.asarray(np.random.default_rng(0).normal(size=(4, 12)), dtype)
    x[:, 0] += far
    x[:, 3:] += far
    start = HMMParams(
        np.array([1.0, 0.0]), np.array([[0.5, 0.5], [0.0, 1.0]]), NormalParams(np.array([0.0, far]), np.ones(2))
    )
    lengths = np.full(4, 5, np.int32)
    params, data = as_dtype(start, dtype), Dataset(jnp.asarray(x), lengths=jnp.asarray(lengths))
    found = parts(MODEL, params, params, data)
    wanted = brute_force(MODEL, normal, start, start, np.asarray(x, np.float64), lengths)
    np.testing.assert_array_equal(found.pop("path"), wanted.pop("path"))
    for name, value in wanted.items():
        assert_within(found[name], value, 8 * lengths.sum() * eps(dtype) * (1 + abs(wanted["log_likelihood"])))
    fit = jaxem.fit(MODEL, start, data, stop=EXACT, max_steps=10)
    assert fit.status in (Status.CONVERGED, Status.MAX_STEPS) and fit.objective > fit.trace[0]


def test_states_that_are_not_connected(dtype):
    """Steps that favour the first state, then more that favour the second; no way leads from one to the other."""
    ahead = {"float32": 12.0, "float64": 90.0}[dtype.name]  # nats a step: ten steps are beyond exp
    log_b = np.zeros((1, 22, 2))
    log_b[0, :10, 1] = log_b[0, 10:, 0] = -ahead
    q = posterior(*as_dtype((np.full(2, 0.5), np.eye(2), log_b), dtype), jnp.full((1,), 22))
    assert_within(q.log_normalizer, [np.log(0.5) - 10 * ahead], 22 * eps(dtype) * 10 * ahead)
    # The filter's probability of the second state, exp(-10 ahead), is no number of this dtype. The smoother needs it:
    # the posterior says that it is not known, and never names the wrong state.
    assert np.isnan(q.smoothed[0, :10]).any()


posterior = jax.jit(lambda pi, A, log_b, lengths: chain.posterior(pi, A, log_b, lengths))


@jax.jit
def likelihoods(params, x):
    return jnp.stack([MODEL.log_likelihood(params, x), MODEL.log_normalizer(MODEL.e_step(params, x), x)])


@pytest.mark.slow
def test_long_sequences_in_float32():
    """The error is that of the terms of one step, and does not grow with the length of the sequence."""
    t = 20_000
    rng = np.random.default_rng(1)
    states = (rng.random(t) < 0.05).cumsum() % 2
    x = (rng.normal(size=t) + 2.0 * states).astype(np.float32)[None]
    start = as_dtype(START, np.float32)
    single = likelihoods(start, jnp.asarray(x))
    double = likelihoods(*as_dtype((start, x), np.float64))
    assert_within(double[0], double[1], np.sqrt(t) * EPS * abs(double[0]))
    assert_within(single, double, 4 * eps(np.float32) * (abs(double[0]) + t))


# Sampling and starts


def test_sample():
    n, length = 400, 50
    emissions = NormalParams(np.array([0.0, 10.0]), np.array([1.0, 0.25]))
    params = as_dtype(HMMParams(np.array([0.3, 0.7]), np.array([[0.9, 0.1], [0.4, 0.6]]), emissions), np.float64)
    draw = jax.jit(
        lambda key, params: (MODEL.sample_joint(key, params, n, length), MODEL.sample(key, params, n, length))
    )
    (states, x), alone = draw(jax.random.key(0), params)
    assert states.shape == x.shape == (n, length)
    states, x = np.asarray(states), np.asarray(x)
    assert_within(states[:, 0].mean(), 0.7, 5 * np.sqrt(0.21 / n))
    for k in range(2):
        left = states[:, 1:][states[:, :-1] == k]
        p = np.asarray(params.transition)[k, 1]
        assert_within(left.mean(), p, 5 * np.sqrt(p * (1 - p) / len(left)))
        y = x[states == k]
        assert_within(y.mean(), emissions.means[k], 5 * np.sqrt(emissions.variances[k] / len(y)))
        assert_within(y.var() / emissions.variances[k], 1, 5 * np.sqrt(2 / len(y)))
    np.testing.assert_array_equal(alone, x)


def test_starts_are_models(dtype):
    inside = np.arange(12)[None] < LENGTHS[:, None]
    data = Dataset(as_dtype(np.where(inside, four_sequences(), np.nan), dtype), lengths=jnp.asarray(LENGTHS))
    params = MODEL.init(jax.random.key(0), data)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    assert_within(params.initial.sum(), 1, 8 * eps(dtype))
    assert_within(params.transition.sum(axis=1), np.ones(2), 8 * eps(dtype))
    assert all(bool((leaf > 0).all()) for leaf in (params.initial, params.transition, params.emissions.variances))
    same(params, MODEL.init(jax.random.key(0), data))
    others = [MODEL.init(jax.random.key(i), data).emissions.means for i in range(1, 6)]
    assert any(not np.array_equal(params.emissions.means, other) for other in others)


# Errors


def test_errors_say_what_is_wrong():
    for k in (0, -1, 2.0):
        with pytest.raises(ValueError, match=r"HMM: k must be (a whole number of )?at least 1; it is"):
            HMM(Poisson(), k)
    x = four_sequences()
    nan = np.where(np.arange(48).reshape(4, 12) == 25, np.nan, x)
    poissons = START._replace(emissions=PoissonParams(np.array([1.0, 2.0])))
    normals = START._replace(
        emissions=MultivariateNormalParams(np.array([[0.0, 0.0], [1.0, 1.0]]), np.stack([np.eye(2)] * 2))
    )
    many, counts = HMM(MultivariateNormal(), 2), HMM(Poisson(), 2)
    for model, start, bad, says in [
        (MODEL, START, x[0], r"needs data of shape \(N, T\); got shape \(12,\). For one sequence x, pass x\[None\]"),
        (many, normals, x, r"needs data of shape \(N, T, D\); got shape \(4, 12\). For one sequence x, pass x\[None\]"),
        (
            MODEL,
            START,
            Dataset(x, lengths=np.array([12, 7, 0, 9])),
            "lengths of 4 sequences must be 4 whole numbers from 1 to",
        ),
        (MODEL, START, Dataset(x, lengths=np.array([12, 7, 13, 9])), "must be 4 whole numbers from 1 to 12"),
        (MODEL, START, Dataset(x, lengths=np.array([12, 7])), "must be 4 whole numbers from 1 to 12"),
        (MODEL, START, x[:1, :1], "1 observations cannot tell 2 classes apart; use k <= 1"),
        (MODEL, START, nan, "needs a finite number in every observation; 1 of 48 are not, the first is number 25: nan"),
        (counts, poissons, np.where(x > 3, -1.0, 2.0), "needs a non-negative whole number in every observation"),
        (counts, poissons, np.where(x > 3, 1.5, 2.0), "needs a non-negative whole number in every observation"),
        (
            MODEL,
            START,
            Dataset(x, weights=np.ones(48)),
            r"weights of 4 observations need shape \(4,\); got \(48,\)",
        ),
    ]:
        for function in (
            lambda model=model, bad=bad: model.init(jax.random.key(0), bad),
            lambda model=model, start=start, bad=bad: jaxem.fit(model, start, bad),
        ):
            with pytest.raises(ValueError, match=says):
                function()
    with pytest.raises(ValueError, match=r"HMM of .* with k = 3.* needs initial of shape \(3,\); got \(2,\)"):
        jaxem.fit(HMM(Normal(), 3), START, x)
    with pytest.raises(ValueError, match="start of transition must be non-negative with sum 1"):
        jaxem.fit(MODEL, START._replace(transition=np.ones((2, 2))), x)


@pytest.mark.parametrize("by_move", [False, True])
def test_the_log_probability_of_a_path(by_move):
    """With one transition matrix, and with one for each move; the second sequence ends early, the third is none."""
    rng = np.random.default_rng(0)
    pi, log_b = rng.dirichlet(np.ones(3)), rng.normal(size=(3, 4, 3))
    A = rng.dirichlet(np.ones(3), (3, 3, 3) if by_move else 3)  # (K, K), or (N, T - 1, K, K)
    path = np.array([[2, 0, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]])
    found = chain_paths.log_joint(*map(jnp.asarray, (pi, A, log_b, np.array([4, 2, 4]), path)))
    for n, states in enumerate((path[0], path[1, :2])):
        moves = [A[n, t] if by_move else A for t in range(3)]
        wanted = np.log(pi[states[0]]) + sum(log_b[n, t, state] for t, state in enumerate(states))
        wanted += sum(np.log(moves[t][states[t], states[t + 1]]) for t in range(len(states) - 1))
        assert_within(found[n], wanted, 16 * EPS * np.abs(log_b).sum())
    assert found[2] == -np.inf
