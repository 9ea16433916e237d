"""Hidden Markov models with covariates, named chains, priors, and forecasts: against enumeration of all paths and
against direct maximisation of the penalised likelihood."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps
from scipy import optimize, stats
from scipy.special import logsumexp

import jaxem
from jaxem import Dataset, datasets
from jaxem.core import coordinates
from jaxem.families import Bernoulli, Normal, NormalParams, PerClass, Poisson, Product, StudentT
from jaxem.gates import Allowed, Constant, Cyclic, LeftToRight, Softmax, SoftmaxParams, Stationary, Sticky
from jaxem.latent import chain
from jaxem.models import HMM, HMMParams, Mixture

EPS = eps(np.float64)


def zero_sum(a: np.ndarray) -> np.ndarray:
    return a - a.mean(axis=-2, keepdims=True)


# Two ragged sequences of three states, with a missing step, driven by one covariate for starts and two for moves.

RNG = np.random.default_rng(2)
X = np.array([[0.3, -1.2, 2.1, 0.4, 1.9], [1.5, 0.2, -0.7, 9.0, 9.0]])
LENGTHS = np.array([5, 3])
SEEN = np.array([[True, False, True, True, True], [True, True, True, True, True]])
GIVEN = {"age": RNG.normal(size=(2, 5)), "drive": RNG.normal(size=(2, 5, 2))}
MODEL = HMM(Normal(), 3, initial=Softmax(on="age"), transition=Softmax(on="drive"))
PARAMS = HMMParams(
    SoftmaxParams(zero_sum(RNG.normal(size=(3, 2)))),
    SoftmaxParams(zero_sum(RNG.normal(size=(3, 3, 3)))),
    NormalParams(np.array([-1.0, 0.5, 2.0]), np.array([0.5, 1.0, 0.7])),
)
OTHER = jax.tree.map(lambda leaf: leaf * 0.8, PARAMS)
LATER = {"age": RNG.normal(size=(2, 4)), "drive": RNG.normal(size=(2, 4, 2))}


def data_set() -> Dataset:
    x = np.where(SEEN, X, np.nan)
    return jaxem.dataset(x, given=GIVEN, lengths=LENGTHS, missing="nan")


def design(u: np.ndarray) -> np.ndarray:
    u = u.reshape(*u.shape[:2], -1)
    return np.concatenate([np.ones((*u.shape[:2], 1)), u], axis=2)


def chain_of(params: HMMParams, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """log pi (N, K) and log A (N, T, K, K)."""
    start = design(given["age"])[:, 0] @ np.asarray(params.initial.coefficients).T
    moves = np.einsum("ntp,ijp->ntij", design(given["drive"]), np.asarray(params.transition.coefficients))
    return tuple(a - logsumexp(a, axis=-1, keepdims=True) for a in (start, moves))


def enumerated(params: HMMParams, horizon: int = 0) -> dict[str, Any]:
    """For each sequence every path, also over later steps, and log p(x, z)."""
    joined = {name: [np.r_[GIVEN[name][n, :t], LATER[name][n]] for n, t in enumerate(LENGTHS)] for name in GIVEN}
    found = []
    for n, t in enumerate(LENGTHS):
        log_pi, log_a = chain_of(params, {name: part[n][None] for name, part in joined.items()})
        log_b = stats.norm.logpdf(X[n, :t, None], params.emissions.means, np.sqrt(params.emissions.variances))
        log_b = np.where(SEEN[n, :t, None], log_b, 0)
        paths = np.array(list(itertools.product(range(3), repeat=t + horizon)))
        moves = log_a[0][np.arange(t + horizon - 1)[None], paths[:, :-1], paths[:, 1:]].sum(axis=1)
        joint = log_pi[0][paths[:, 0]] + moves + log_b[np.arange(t)[None], paths[:, :t]].sum(axis=1)
        found.append((paths, joint))
    return found


def probabilities(paths: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.stack([q @ (paths == k) for k in range(3)], axis=1)


@functools.cache
def answers() -> dict[str, Any]:
    data, key = data_set(), jax.random.key(0)
    q, p = MODEL.e_step(PARAMS, data), MODEL.e_step(OTHER, data)
    return {
        "smoothed": q.smoothed,
        "log_prob": MODEL.log_prob(PARAMS, data),
        "normalizer": q.log_normalizer,
        "pairs": chain.pairs(q),
        "q": MODEL.q_function(OTHER, q, data),
        "entropy": MODEL.entropy(q, data),
        "divergence": MODEL.divergence(q, p, data),
        "path": MODEL.predict(PARAMS, data),
        "filter": MODEL.filter(PARAMS, data),
        "forecast": MODEL.forecast(PARAMS, data, 4, given=LATER),
        "density": MODEL.forecast_log_prob(PARAMS, data, np.ones((2, 4)), given=LATER),
        "tempered": MODEL.tempered_e_step(PARAMS, data, 0.5).smoothed,
        "draws": MODEL.sample_paths(key, PARAMS, data, 4000),
        "futures": MODEL.sample_forecast(
            key,
            PARAMS,
            jax.tree.map(lambda a: jnp.repeat(a, 4000, 0), data),
            4,
            given={name: np.repeat(part, 4000, axis=0) for name, part in LATER.items()},
        ),
    }


def test_inputs_agree_with_enumeration():
    found = answers()
    paths, others = enumerated(PARAMS), enumerated(OTHER)
    total = {"q": 0.0, "entropy": 0.0, "divergence": 0.0}
    tolerance = 200 * EPS * 20  # some hundred operations on terms of a log-likelihood of this size
    for n, t in enumerate(LENGTHS):
        (all_paths, joint), other = paths[n], others[n][1]
        log_p = logsumexp(joint)
        q, log_q, log_r = np.exp(joint - log_p), joint - log_p, other - logsumexp(other)
        assert_within(found["log_prob"][n], log_p, tolerance)
        assert_within(found["normalizer"][n], log_p, tolerance)
        assert_within(found["smoothed"][n, :t], probabilities(all_paths, q), tolerance)
        pairs = [
            [[q @ ((all_paths[:, s] == i) & (all_paths[:, s + 1] == j)) for j in range(3)] for i in range(3)]
            for s in range(t - 1)
        ]
        assert_within(found["pairs"][n, : t - 1], np.array(pairs), tolerance)
        assert_within(found["pairs"][n, t - 1 :], np.zeros((5 - t, 3, 3)), 0)
        np.testing.assert_array_equal(found["path"][n, :t], all_paths[joint.argmax()])
        hot = np.exp(0.5 * joint - logsumexp(0.5 * joint))
        assert_within(found["tempered"][n, :t], probabilities(all_paths, hot), tolerance)
        total["q"] += q @ other
        total["entropy"] -= q @ log_q
        total["divergence"] += q @ (log_q - log_r)
        draws = np.asarray(found["draws"][:, n])
        assert (draws[:, t:] == -1).all()
        share = np.stack([(draws[:, :t] == k).mean(axis=0) for k in range(3)], axis=1)
        assert_within(share, probabilities(all_paths, q), 5 * np.sqrt(0.25 / 4000))
    for name, value in total.items():
        assert_within(found[name], value, tolerance)


def test_filter_and_forecast_agree_with_enumeration():
    found, emissions = answers(), PARAMS.emissions
    tolerance = 200 * EPS * 20
    for n, t in enumerate(LENGTHS):
        filtered, log_prob = found["filter"].probabilities[n], found["filter"].log_prob[n]
        before = 0.0
        for s in range(1, t + 1):
            part = _cut(n, s)
            assert_within(filtered[s - 1], part[0], tolerance)
            assert_within(log_prob[s - 1], part[1] - before, tolerance)
            before = part[1]
        assert_within(filtered[t:], np.zeros((5 - t, 3)), 0)
        assert_within(log_prob[t:], np.zeros(5 - t), 0)
        paths, joint = enumerated(PARAMS, 4)[n]
        ahead = probabilities(paths, np.exp(joint - logsumexp(joint)))[t:]
        assert_within(found["forecast"].probabilities[n], ahead, tolerance)
        assert_within(found["forecast"].means[n], ahead @ emissions.means, tolerance)
        log_b = stats.norm.logpdf(1.0, emissions.means, np.sqrt(emissions.variances))
        assert_within(found["density"][n], logsumexp(np.log(ahead) + log_b, axis=1), tolerance)
        states, x = (np.asarray(part)[4000 * n : 4000 * (n + 1)] for part in found["futures"])
        share = np.stack([(states == k).mean(axis=0) for k in range(3)], axis=1)
        assert_within(share, ahead, 5 * np.sqrt(0.25 / 4000))
        assert_within(x.mean(axis=0), ahead @ emissions.means, 5 * 1.8 / np.sqrt(4000))


def _cut(n: int, s: int) -> tuple[np.ndarray, float]:
    """p(z_s | x_1 ... x_s) and log p(x_1 ... x_s) of sequence n."""
    log_pi, log_a = chain_of(PARAMS, GIVEN)
    log_b = stats.norm.logpdf(X[n, :s, None], PARAMS.emissions.means, np.sqrt(PARAMS.emissions.variances))
    log_b = np.where(SEEN[n, :s, None], log_b, 0)
    paths = np.array(list(itertools.product(range(3), repeat=s)))
    moves = log_a[n][np.arange(s - 1)[None], paths[:, :-1], paths[:, 1:]].sum(axis=1)
    joint = log_pi[n][paths[:, 0]] + moves + log_b[np.arange(s)[None], paths].sum(axis=1)
    return probabilities(paths, np.exp(joint - logsumexp(joint)))[-1], logsumexp(joint)
