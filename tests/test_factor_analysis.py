"""Factor analysis: against the normal distribution that it is, against scikit-learn, and at the edges."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from scipy import stats
from sklearn.decomposition import FactorAnalysis as Peer

import jaxem
from jaxem import Dataset, Status
from jaxem.models import FactorAnalysis, FactorAnalysisParams

EPS = eps(np.float64)
EXACT = jaxem.fitting.parameter_change(0.0)
MODEL = FactorAnalysis(2)
N, D = 200, 5
TRUE = FactorAnalysisParams(
    np.array([1.0, -2.0, 0.0, 3.0, 0.5]),
    np.array([[1.0, 0.0], [0.8, 0.3], [0.2, 0.9], [0.0, 1.2], [-0.7, 0.5]]),
    np.array([0.3, 0.5, 0.4, 0.2, 0.6]),
)
START = FactorAnalysisParams(
    np.zeros(5), np.array([[1.0, 0.2], [0.5, 0.5], [0.5, 1.0], [0.1, 1.0], [-1.0, 0.0]]), np.ones(5)
)


@functools.cache
def simulated() -> np.ndarray:
    rng = np.random.default_rng(0)
    z, e = rng.normal(size=(N, 2)), rng.normal(size=(N, D))
    return TRUE.mean + z @ TRUE.loadings.T + np.sqrt(TRUE.noise) * e


def covariance(params: FactorAnalysisParams) -> np.ndarray:
    loadings = np.asarray(params.loadings, np.float64)
    return loadings @ loadings.T + np.diag(np.asarray(params.noise, np.float64))


def agree(a: Any, b: Any, tolerance: float) -> None:
    jax.tree.map(lambda x, y: assert_within(x, y, tolerance), a, b)


@jax.jit
def parts(model, params, other, data):
    q, p = model.e_step(params, data), model.e_step(other, data)
    return {
        "log_prob": model.log_prob(params, data),
        "means": model.predict(params, data),
        "covariance": model.factors(params, data).covariance,
        "log_normalizer": model.log_normalizer(q, data),
        "log_likelihood": model.log_likelihood(params, data),
        "q_function": model.q_function(other, q, data),
        "entropy": model.entropy(q, data),
        "divergence": model.divergence(q, p, data),
    }


def closed_forms(params: FactorAnalysisParams, other: FactorAnalysisParams, x: np.ndarray) -> dict[str, Any]:
    """All from the joint normal distribution of (z, x), by scipy."""

    def conditional(p):
        gain = np.linalg.solve(covariance(p), p.loadings).T  # Lambda' S^-1
        return (x - p.mean) @ gain.T, np.eye(2) - gain @ p.loadings

    means, v = conditional(params)
    other_means, other_v = conditional(other)
    log_prob = stats.multivariate_normal(params.mean, covariance(params)).logpdf(x)
    other_log_prob = stats.multivariate_normal(other.mean, covariance(other)).logpdf(x)
    shift = other_means - means
    inverse = np.linalg.inv(other_v)
    log_ratio = np.linalg.slogdet(other_v)[1] - np.linalg.slogdet(v)[1]
    divergence = 0.5 * (len(x) * (np.trace(inverse @ v) - 2 + log_ratio) + np.einsum("ni,ij,nj", shift, inverse, shift))
    entropy = len(x) * stats.multivariate_normal(cov=v).entropy()
    return {
        "log_prob": log_prob,
        "means": means,
        "covariance": v,
        "log_normalizer": log_prob.sum(),
        "log_likelihood": log_prob.sum(),
        "q_function": other_log_prob.sum() - divergence - entropy,  # L = Q + H + KL
        "entropy": entropy,
        "divergence": divergence,
    }


def test_agrees_with_the_joint_normal_distribution(dtype):
    params, other, x = as_dtype((TRUE, START, simulated()), dtype)
    found = parts(MODEL, params, other, x)
    wanted = closed_forms(*jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, other, x)))
    # Condition numbers are below 20; distances are sums of squares of at most 50.
    scale = 1 + abs(wanted["q_function"])
    for name, value in wanted.items():
        assert found[name].dtype == dtype
        size = {"log_prob": 50, "means": 50, "covariance": 1}.get(name, scale)
        assert_within(found[name], value, 16 * eps(dtype) * size)


def test_agrees_with_sklearn_at_convergence():
    x = simulated()
    peer = Peer(2, tol=1e-13, max_iter=100_000, svd_method="lapack").fit(x)
    fit = jaxem.check(jaxem.fit(MODEL, START, x, stop=jaxem.fitting.parameter_change(1e-10), max_steps=20_000))
    assert_within(fit.objective, peer.score(x) * N, 1e-7)
    assert_within(covariance(fit.params), peer.get_covariance(), 1e-5)
    assert_within(fit.params.noise, peer.noise_variance_, 1e-5)
    assert_within(fit.params.mean, x.mean(axis=0), 1e-12)
    assert not np.asarray(fit.params.loadings == peer.components_.T).all()  # known up to a rotation only


def test_a_rotation_changes_no_likelihood():
    x = jnp.asarray(simulated())
    angle = 0.7
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = TRUE._replace(loadings=TRUE.loadings @ rotation)
    params, turned = as_dtype((TRUE, turned), np.float64)
    one, other = (parts(MODEL, p, p, x) for p in (params, turned))
    for name in ("log_prob", "log_normalizer", "log_likelihood", "entropy", "q_function"):
        assert_within(other[name], one[name], 16 * EPS * (50 + np.abs(one[name])))
    assert_within(other["means"], one["means"] @ rotation, 64 * EPS * 10)


# Precision


@functools.cache
def ten_steps(dtype: str, far: float) -> tuple[np.ndarray, jaxem.Fit]:
    x = (simulated() + far).astype(np.float32).astype(dtype)
    start = START._replace(mean=START.mean + far)
    return x, jaxem.fit(MODEL, start, x, stop=EXACT, max_steps=10)


def test_far_from_zero_in_float32():
    """Means of 1e4 and spread 1: as good as the mean itself can be written in float32."""
    (x, single), (_, double) = ten_steps("float32", 1e4), ten_steps("float64", 1e4)
    assert single.objective.dtype == jnp.float32 and single.steps == 10
    # A mean is rounded by half a spacing of 1e4, h = eps 2^13; deviations from it are exact.
    h = eps(np.float32) * 2**13
    agree(single.params, double.params, 2 * h)
    # At a step from the optimum the likelihood feels it to first order, by less than a quarter of an observation's
    # own rounding; near it, to second order.
    assert_within(
        single.objective, double.objective, 32 * eps(np.float32) * (abs(double.objective) + x.size) + N * h**2
    )


def test_tiny_noise():
    """Noise of 1e-6 of the variance: two routes to log p(x), and neither cancels."""
    x = as_dtype(simulated(), np.float64)
    params = as_dtype(TRUE._replace(noise=1e-6 * np.ones(5)), np.float64)
    found = parts(MODEL, params, params, x)
    # The condition number of the covariance is some 4e6, and distances are of the same order.
    assert_within(found["log_normalizer"], found["log_likelihood"], 4e6 * EPS * abs(found["log_likelihood"]))
    assert np.isfinite(found["entropy"])


def test_little_noise_in_float32():
    """Noise of 1e-4 of the variance: sums of squares of x would leave three digits of it, those of residuals do."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 2)) @ TRUE.loadings.T + 0.01 * rng.normal(size=(N, D))
    start = START._replace(loadings=TRUE.loadings, noise=np.full(5, 3e-4))
    single = jaxem.fit(MODEL, start, x.astype(np.float32), stop=EXACT, max_steps=10)
    double = jaxem.fit(MODEL, start, x.astype(np.float32).astype(np.float64), stop=EXACT, max_steps=10)
    assert single.status == double.status == Status.MAX_STEPS
    # A residual of 0.01 is rounded with x of size 3: by eps 300 of itself, in each of ten steps.
    h = 10 * 300 * eps(np.float32)
    assert_within(single.params.noise / double.params.noise.astype(np.float32), np.ones(5), h)
    # The likelihood is all but stationary in the noise, and feels only the rounding of its own terms.
    assert_within(single.objective, double.objective, 32 * eps(np.float32) * (abs(double.objective) + x.size))


# Weights


def test_weights_are_repetitions():
    x = simulated()
    times = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [50, 100, 50]))
    assert times.sum() == N  # one compiled program for all that is repeated
    weighted = jaxem.fit(MODEL, START, Dataset(x, weights=times.astype(float)), stop=EXACT, max_steps=10)
    repeated = jaxem.fit(MODEL, START, np.repeat(x, times, axis=0), stop=EXACT, max_steps=10)
    # Ten steps of rounding errors of sums of N terms of size x^2 <= 50.
    agree(weighted.params, repeated.params, 10 * np.sqrt(N) * EPS * 50)
    assert_within(weighted.objective, repeated.objective, 64 * EPS * abs(float(repeated.objective)))


def test_an_observation_of_weight_zero_is_never_looked_at():
    x, weights = simulated(), np.where(np.arange(N) == 3, 0.0, 1.0)
    results = []
    for value in (0.0, 1e6, np.inf, np.nan):
        data = Dataset(np.where(np.arange(N)[:, None] == 3, value, x), weights=weights)
        fit = jaxem.fit(MODEL, START, data, stop=EXACT, max_steps=10)
        results.append((fit, MODEL.init(jax.random.key(0), data)))
    assert np.isfinite(results[0][0].trace).all()
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, result, results[0])


# Where the likelihood has no maximum


@functools.cache
def heywood(seed: int) -> jaxem.Fit:
    """Two variables are equal: one factor explains both without noise, and the likelihood has no bound."""
    x = np.random.default_rng(seed).normal(size=(N, D))
    x[:, 1] = x[:, 0]
    return jaxem.fit(MODEL, START, x, max_steps=3000)


@pytest.mark.parametrize("seed", [0, 1, 2, 40, 56])  # the last three: once called DECREASED, by rounding error
def test_a_heywood_case_is_never_nan(seed):
    fit = heywood(seed)
    assert fit.status in (Status.DEGENERATE, Status.CONVERGED, Status.MAX_STEPS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.params)) and np.isfinite(fit.objective)
    assert (fit.params.noise > 0).all()
    assert np.asarray(fit.params.noise)[:2].max() < 1e-12


def test_a_constant_variable_is_degenerate():
    x = simulated().copy()
    x[:, 2] = 1.0
    fit = jaxem.fit(MODEL, START, x, max_steps=3000)
    assert fit.status == Status.DEGENERATE
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.params)) and np.isfinite(fit.objective)


# Sampling and starts


def test_sample():
    n = 20_000
    params = as_dtype(TRUE, np.float64)
    z, x = MODEL.sample_joint(jax.random.key(0), params, n)
    assert z.shape == (n, 2) and x.shape == (n, D)
    s = covariance(TRUE)
    variances = np.diagonal(s)
    assert_within(x.mean(axis=0), TRUE.mean, 5 * np.sqrt(variances / n))
    # The variance of an element of a sample covariance is (s_ij^2 + s_ii s_jj) / n.
    assert_within(np.cov(x.T), s, 5 * np.sqrt((s**2 + np.outer(variances, variances)) / n))
    assert_within(np.cov(z.T), np.eye(2), 5 * np.sqrt((1 + np.eye(2)) / n))
    residual = np.asarray(x) - TRUE.mean - np.asarray(z) @ TRUE.loadings.T
    assert_within(residual.var(axis=0) / TRUE.noise, np.ones(D), 5 * np.sqrt(2 / n))
    np.testing.assert_array_equal(MODEL.sample(jax.random.key(0), params, n), x)


def test_starts_share_the_variance_in_halves(dtype):
    x = simulated()
    params = MODEL.init(jax.random.key(0), as_dtype(x, dtype))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    allowed = np.sqrt(N) * eps(dtype) * 10
    assert_within(params.mean, x.mean(axis=0), allowed)
    assert_within(params.noise, x.var(axis=0) / 2, allowed)
    assert_within(np.diagonal(covariance(params)), x.var(axis=0), allowed)
    assert not np.array_equal(params.loadings, MODEL.init(jax.random.key(1), as_dtype(x, dtype)).loadings)


# Errors


def test_errors_say_what_is_wrong():
    for k in (0, -1, 2.0):
        with pytest.raises(ValueError, match=r"FactorAnalysis: k must be (a whole number of )?at least 1; it is"):
            FactorAnalysis(k)
    x = simulated()
    five = FactorAnalysisParams(np.zeros(5), np.ones((5, 5)), np.ones(5))
    for model, start, bad, says in [
        (FactorAnalysis(5), five, x, "5 factors cannot be told from the noise of 5 variables; use k < 5"),
        (MODEL, START, x[:, 0], r"FactorAnalysis needs data of shape \(N, D\); got \(200,\)"),
        (MODEL, START, x[:1], "needs at least 2 observations; got 1"),
        (
            MODEL,
            START,
            np.where(np.arange(N)[:, None] == 7, np.nan, x),
            r"must be finite; observation 7 is not \(1 in all\)",
        ),
        (
            MODEL,
            START,
            Dataset(x, weights=np.ones(3)),
            r"weights of 200 observations need shape \(200,\); got \(3,\)",
        ),
    ]:
        for function in (
            lambda model=model, bad=bad: model.init(jax.random.key(0), bad),
            lambda model=model, start=start, bad=bad: jaxem.fit(model, start, bad),
        ):
            with pytest.raises(ValueError, match=says):
                function()
    with pytest.raises(ValueError, match=r"FactorAnalysis with k = 2 of 5 variables needs"):
        jaxem.fit(MODEL, five, x)
    with pytest.raises(ValueError, match="start of noise must be"):
        jaxem.fit(MODEL, START._replace(noise=-np.ones(5)), x)
