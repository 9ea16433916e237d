"""Mixtures: against brute force over all labelings, against scikit-learn, and the starts."""

import dataclasses
import functools
import itertools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from scipy import stats
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import jaxem
import jaxem.datasets
from jaxem import EM, Dataset
from jaxem.core import constraints
from jaxem.families import (
    Bernoulli,
    BernoulliParams,
    Categorical,
    CategoricalParams,
    Exponential,
    ExponentialParams,
    MultivariateNormal,
    MultivariateNormalParams,
    Normal,
    NormalInverseWishart,
    NormalParams,
    Poisson,
    PoissonParams,
)
from jaxem.models import Mixture, MixtureParams

FORMS = ("full", "tied", "diag", "spherical")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Never:
    """A stopping rule of one's own: a fixed number of steps, whatever the precision."""

    needs_objective = False

    def met(self, progress: Any) -> jax.Array:
        return jnp.bool_(False)


NEVER = Never()
EPS = eps(np.float64)

# Brute force


def poisson(params: Any, x: np.ndarray) -> np.ndarray:
    return stats.poisson.logpmf(x[:, None], params.rates)


def normal(params: Any, x: np.ndarray) -> np.ndarray:
    return stats.norm.logpdf(x[:, None], params.means, np.sqrt(params.variances))


def bernoulli(params: Any, x: np.ndarray) -> np.ndarray:
    return stats.bernoulli.logpmf(x[:, None, :], params.probabilities).sum(axis=2)


def categorical(params: Any, x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return sum(np.log(p.T[x[:, d]]) for d, p in enumerate(params.probabilities))


TINY = {  # four observations, a posterior comes from the first parameters, Q is taken at the second
    "poisson": (
        Mixture(Poisson(), 3),
        poisson,
        MixtureParams(np.array([0.2, 0.3, 0.5]), PoissonParams(np.array([0.0, 2.0, 5.0]))),
        MixtureParams(np.array([0.5, 0.1, 0.4]), PoissonParams(np.array([0.5, 1.0, 9.0]))),
        np.array([0.0, 1.0, 4.0, 12.0]),
    ),
    "normal": (
        Mixture(Normal(), 2),
        normal,
        MixtureParams(np.array([0.25, 0.75]), NormalParams(np.array([-1.0, 1.0]), np.array([1.0, 0.5]))),
        MixtureParams(np.array([0.5, 0.5]), NormalParams(np.array([0.0, 2.0]), np.array([2.0, 0.1]))),
        np.array([-2.0, 0.1, 0.2, 1.5]),
    ),
    "bernoulli": (
        Mixture(Bernoulli(), 2),
        bernoulli,
        MixtureParams(np.array([0.4, 0.6]), BernoulliParams(np.array([[0.1, 0.8], [0.5, 0.5]]))),
        MixtureParams(np.array([0.7, 0.3]), BernoulliParams(np.array([[0.2, 0.3], [0.9, 0.6]]))),
        np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]),
    ),
    "categorical": (
        Mixture(Categorical((3, 2)), 2),
        categorical,
        MixtureParams(
            np.array([0.4, 0.6]),
            CategoricalParams((np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([[0.5, 0.5], [0.9, 0.1]]))),
        ),
        MixtureParams(
            np.array([0.1, 0.9]),
            CategoricalParams((np.array([[0.4, 0.4, 0.2], [0.3, 0.3, 0.4]]), np.array([[0.1, 0.9], [0.7, 0.3]]))),
        ),
        np.array([[0, 1], [1, 0], [2, 0], [2, 1]]),
    ),
}


def enumerate_labelings(log_joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every labeling (K^N, N), and log p(x, z) of it."""
    n, k = log_joint.shape
    labelings = np.array(list(itertools.product(range(k), repeat=n)))
    return labelings, log_joint[np.arange(n), labelings].sum(axis=1)


def expectation(q: np.ndarray, values: np.ndarray) -> float:
    """sum_z q(z) v(z), where what cannot be counts nothing."""
    return float((q[q > 0] * values[q > 0]).sum())


@jax.jit
def parts(model, params, other, data):
    q, p = model.e_step(params, data), model.e_step(other, data)
    return {
        "responsibilities": q.probabilities,
        "log_normalizer": model.log_normalizer(q, data),
        "log_likelihood": model.log_likelihood(params, data),
        "log_prob": model.log_prob(params, data),
        "q_function": model.q_function(other, q, data),
        "entropy": model.entropy(q, data),
        "divergence": model.divergence(q, p, data),
        "elbo": jaxem.core.elbo(model, other, q, data),
        "kl": jaxem.core.kl(model, other, q, data),
        "surrogate": jaxem.core.surrogate(model, other, params, data),
    }


@pytest.mark.parametrize("kind", TINY)
def test_agrees_with_enumeration(kind):
    model, density, params, other, x = TINY[kind]
    n = len(x)
    with np.errstate(divide="ignore"):
        tables = [np.log(p.weights) + density(p.components, x) for p in (params, other)]
    labelings, joint = enumerate_labelings(tables[0])
    _, other_joint = enumerate_labelings(tables[1])
    q = np.exp(joint - logsumexp(joint))
    p = np.exp(other_joint - logsumexp(other_joint))
    log_q, log_p = (np.log(np.where(values > 0, values, 1)) for values in (q, p))
    wanted = {
        "responsibilities": np.array([[q[labelings[:, i] == k].sum() for k in range(model.k)] for i in range(n)]),
        "log_normalizer": logsumexp(joint),
        "log_likelihood": logsumexp(joint),
        "log_prob": logsumexp(tables[0], axis=1),
        "q_function": expectation(q, other_joint),
        "entropy": -expectation(q, log_q),
        "divergence": expectation(q, log_q - log_p),
    }
    wanted["elbo"] = wanted["surrogate"] = wanted["q_function"] + wanted["entropy"]
    wanted["kl"] = logsumexp(other_joint) - wanted["elbo"]
    assert_within(wanted["kl"], wanted["divergence"], 1e-12)  # the theory
    found = parts(model, *as_dtype((params, other), np.float64), as_dtype(x, x.dtype))
    scale = 1 + np.abs(joint[np.isfinite(joint)]).max() + np.abs(other_joint).max()
    for name, value in wanted.items():
        assert_within(found[name], value, 8 * n * EPS * scale)


@pytest.mark.parametrize("kind", ["poisson", "bernoulli"])
@pytest.mark.slow
def test_weights_are_repetitions_in_every_part(kind):
    model, _, params, other, x = TINY[kind]
    params, other, x = as_dtype(params, np.float64), as_dtype(other, np.float64), jnp.asarray(x)
    weights = np.array([2, 0, 3, 1])
    weighted = parts(model, params, other, Dataset(x, weights=jnp.asarray(weights, jnp.float64)))
    repeated = parts(model, params, other, jnp.asarray(np.repeat(x, weights, axis=0)))
    for name in ("log_normalizer", "log_likelihood", "q_function", "entropy", "divergence", "elbo", "kl"):
        assert_within(weighted[name], repeated[name], 64 * EPS * (1 + abs(float(repeated["log_likelihood"]))))


# Against scikit-learn


def three_clusters(n: int = 120, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [3.0, 1.0], [-1.0, 4.0]])
    factors = np.array([[[1.0, 0.0], [0.5, 1.0]], [[0.5, 0.0], [0.0, 1.5]], [[1.0, 0.0], [-0.8, 0.6]]])
    labels = rng.integers(0, 3, size=n)
    return centres[labels] + np.einsum("nij,nj->ni", factors[labels], rng.normal(size=(n, 2)))


X = three_clusters()
STARTS = {
    "full": np.stack([np.eye(2)] * 3),
    "tied": np.eye(2),
    "diag": np.ones((3, 2)),
    "spherical": np.ones(3),
}


def start(form: str) -> MixtureParams:
    means = np.array([[-1.0, 0.0], [2.0, 2.0], [0.0, 3.0]])
    return MixtureParams(np.array([0.2, 0.3, 0.5]), MultivariateNormalParams(means, STARTS[form]))


@functools.cache
def sklearn_fit(form: str) -> GaussianMixture:
    """Ten iterations of scikit-learn from the same start."""
    peer = GaussianMixture(
        3,
        covariance_type=form,
        tol=0,
        reg_covar=0,
        max_iter=10,
        weights_init=start(form).weights,
        means_init=start(form).components.means,
        precisions_init=STARTS[form],  # ones and zeros are their own inverse
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return peer.fit(X)


@pytest.mark.parametrize("form", FORMS)
def test_ten_iterations_agree_with_sklearn(form):
    peer, model = sklearn_fit(form), Mixture(MultivariateNormal(form), 3)
    fit = jaxem.fit(model, start(form), X, stop=NEVER, max_steps=10)
    assert fit.steps == 10 and fit.status == jaxem.Status.MAX_STEPS
    assert_within(fit.params.weights, peer.weights_, 1e-8)
    assert_within(fit.params.components.means, peer.means_, 1e-8)
    assert_within(fit.params.components.covariances, peer.covariances_, 1e-8)
    assert_within(fit.objective, peer.score(X) * len(X), 1e-8)

    assert_within(model.predict_proba(fit.params, jnp.asarray(X)), peer.predict_proba(X), 1e-8)
    assert_within(model.log_prob(fit.params, jnp.asarray(X)), peer.score_samples(X), 1e-8)
    np.testing.assert_array_equal(model.predict(fit.params, jnp.asarray(X)), peer.predict(X))


@pytest.mark.parametrize("kind", ["poisson", "bernoulli", "exponential"])
def test_the_m_step_of_the_weights(kind):
    """w_k = n_k / N, under the posterior of the E-step."""
    model, params, x = {
        "poisson": (Mixture(Poisson(), 3), TINY["poisson"][3], TINY["poisson"][4]),
        "bernoulli": (Mixture(Bernoulli(), 2), TINY["bernoulli"][3], TINY["bernoulli"][4]),
        "exponential": (
            Mixture(Exponential(), 2),
            MixtureParams(np.array([0.5, 0.5]), ExponentialParams(np.array([1.0, 5.0]))),
            np.array([0.1, 0.5, 3.0]),
        ),
    }[kind]

    @jax.jit
    def iterate(params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        q = model.e_step(params, x)
        return q.probabilities, model.m_step(q, x).weights, jaxem.core.em_map(model, params, x).weights

    probabilities, weights, mapped = iterate(as_dtype(params, np.float64), as_dtype(x, np.float64))
    assert_within(weights, np.asarray(probabilities).mean(axis=0), 4 * EPS)
    assert_within(mapped, weights, 4 * EPS)


# Known optima


@pytest.mark.slow
def test_old_faithful():
    """R's mclust (Fraley & Raftery 2002): two ellipsoids of any shape, log-likelihood -1130.264."""
    x = jaxem.datasets.old_faithful()
    model = Mixture(MultivariateNormal("full"), 2)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x))
    assert_within(fit.objective, -1130.264, 5e-4)
    order = np.argsort(fit.params.weights)
    assert_within(fit.params.weights[order], [0.3559, 0.6441], 1e-4)
    assert_within(fit.params.components.means[order], [[2.0364, 54.4785], [4.2897, 79.9681]], 1e-3)


@pytest.mark.slow
def test_the_prior_is_in_the_objective():
    x = jnp.asarray(X)
    model = Mixture(MultivariateNormal("full", NormalInverseWishart.from_data(x, 3)), 3)
    fit = jaxem.check(jaxem.fit(model, start("full"), x))
    parts = model.log_likelihood(fit.params, x), model.log_prior(fit.params)
    assert_within(fit.objective, sum(parts), 32 * EPS * np.abs(parts).sum())
    assert abs(parts[1]) > 1
    assert np.diff(fit.trace[: int(fit.steps) + 1]).min() > -1e-9


# Weights, blocks, precision


def agree(a: Any, b: Any, tolerance: float) -> None:
    jax.tree.map(lambda x, y: assert_within(x, y, tolerance), a, b)


def same(a: Any, b: Any) -> None:
    """To the bit; NaN is NaN."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("form", ["full", "tied"])
def test_fits_with_weights_equal_fits_with_repetitions(form):
    times = np.random.default_rng(1).integers(0, 4, size=len(X))
    model = Mixture(MultivariateNormal(form), 3)
    weighted = jaxem.fit(model, start(form), Dataset(X, weights=times.astype(float)), stop=NEVER, max_steps=20)
    repeated = jaxem.fit(model, start(form), np.repeat(X, times, axis=0), stop=NEVER, max_steps=20)
    # Twenty steps of rounding errors of sums of N terms of size x^2 <= 50.
    agree(weighted.params, repeated.params, 20 * np.sqrt(times.sum()) * EPS * 50)
    assert_within(weighted.objective, repeated.objective, 32 * EPS * 2 * abs(float(repeated.objective)))


COUNTS = np.array([0.0, 1, 2, 5, 6, 7, 9, 1])
POISSONS = MixtureParams(np.array([0.5, 0.5]), PoissonParams(np.array([1.0, 6.0])))


def test_weights_may_be_whole_numbers():
    model, times = Mixture(Poisson(), 2), np.arange(8) % 3
    as_ints = jaxem.fit(model, POISSONS, Dataset(COUNTS, weights=times), max_steps=20, stop=NEVER)
    as_floats = jaxem.fit(model, POISSONS, Dataset(COUNTS, weights=times.astype(float)), max_steps=20, stop=NEVER)
    same(as_ints, as_floats)


@pytest.mark.parametrize("kind", ["multivariate", "poisson"])
def test_an_observation_of_weight_zero_is_never_looked_at(kind):
    """Not its value, be it impossible, far or NaN; neither by the fit nor by the start."""
    if kind == "multivariate":
        model, params, x, bad = Mixture(MultivariateNormal("full"), 3), start("full"), X, ([1e6, 0], [np.nan, 0])
    else:
        model, params, x, bad = Mixture(Poisson(), 2), POISSONS, COUNTS, (1e6, -1, np.nan)
    weights = np.ones(len(x))
    weights[3] = 0
    fits, starts = [], []
    for value in (x[3], *bad):
        data = Dataset(np.concatenate([x[:3], np.reshape(value, x[3:4].shape), x[4:]]), weights=weights)
        fits.append(jaxem.fit(model, params, data, max_steps=20, stop=NEVER))
        starts.append(model.init(jax.random.key(0), data))
    for fit, drawn in zip(fits[1:], starts[1:], strict=True):
        same(fit, fits[0])
        same(drawn, starts[0])


@pytest.mark.parametrize("block_size", [7, 112, 1000])
def test_blocked_equals_unblocked(block_size):
    x = X[:113]  # a prime number: whatever the blocks, something is left over
    model = Mixture(MultivariateNormal("full"), 3)
    whole = jaxem.fit(model, start("full"), x, stop=NEVER, max_steps=10)
    blocked = jaxem.fit(model, start("full"), x, algorithm=EM(block_size), stop=NEVER, max_steps=10)
    agree(blocked.params, whole.params, 10 * np.sqrt(len(x)) * EPS * 50)
    agree(blocked.trace, whole.trace, 32 * EPS * 2 * np.abs(whole.trace).max())


@pytest.mark.parametrize("form", ["full", "spherical"])
def test_far_from_zero_in_float32(form):
    """Means of 1e4 and spread 1: as good as the mean itself can be written in float32."""
    rng = np.random.default_rng(2)
    centres = np.repeat([[0, 0], [5, 0]], [150, 100], axis=0)
    x = (1e4 + centres + rng.normal(size=(250, 2))).astype(np.float32)
    covariances = {"full": STARTS["full"][:2], "spherical": np.ones(2)}
    means = 1e4 + np.array([[-1.0, 0], [4.0, 0]])
    params = MixtureParams(np.array([0.5, 0.5]), MultivariateNormalParams(means, covariances[form]))
    model = Mixture(MultivariateNormal(form), 2)
    single = jaxem.fit(model, params, x, stop=NEVER, max_steps=20)
    double = jaxem.fit(model, params, x.astype(np.float64), stop=NEVER, max_steps=20)
    assert single.objective.dtype == jnp.float32
    assert not np.isnan(single.trace).any()
    # A mean is rounded by half a spacing of 1e4, h = eps 2^13; deviations from it are exact, so each iteration moves
    # the parameters by some h (in units of the spread, 1, and of the other parameters, at most 2).
    h = eps(np.float32) * 2**13
    agree(single.params, double.params, 2 * h)
    # To first order the likelihood does not feel it at the optimum.
    allowed = 32 * eps(np.float32) * (abs(float(double.objective)) + x.size) + len(x) * h**2
    assert_within(single.objective, double.objective, allowed)


# Sampling


def test_sample():
    n = 20_000
    components = MultivariateNormalParams(np.array([[0.0, 0.0], [10.0, -5.0]]), np.array([[1.0, 4.0], [0.25, 1.0]]))
    params = as_dtype(MixtureParams(np.array([0.3, 0.7]), components), np.float64)
    model = Mixture(MultivariateNormal("diag"), 2)
    labels, x = model.sample_joint(jax.random.key(0), params, n)
    assert x.shape == (n, 2) and labels.shape == (n,)
    assert_within(np.mean(labels), 0.7, 5 * np.sqrt(0.21 / n))
    for k in range(2):
        y = np.asarray(x)[np.asarray(labels) == k]
        assert_within(y.mean(axis=0), components.means[k], 5 * np.sqrt(components.covariances[k] / len(y)))
        assert_within(y.var(axis=0) / components.covariances[k], np.ones(2), 5 * np.sqrt(2 / len(y)))
    np.testing.assert_array_equal(model.sample(jax.random.key(0), params, n), x)


def test_a_component_of_weight_zero_is_never_drawn():
    params = as_dtype(MixtureParams(np.array([0.0, 1.0]), PoissonParams(np.array([1.0, 2.0]))), np.float64)
    labels, _ = Mixture(Poisson(), 2).sample_joint(jax.random.key(0), params, 1000)
    assert (labels == 1).all()


# Starts

contains = jax.jit(constraints.contains)
KINDS = ("kmeans++", "points", "responsibilities")


@pytest.mark.parametrize("kind", KINDS)
def test_starts_are_models(kind, dtype):
    x = as_dtype(X, dtype)
    model = Mixture(MultivariateNormal("full"), 3)
    params = model.init(jax.random.key(0), x, kind)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    # XLA may sum all responsibilities anew for the divisor: the error of two sums of N terms.
    assert_within(params.weights.sum(), 1, 2 * np.sqrt(len(X)) * eps(dtype))
    assert all(jax.tree.leaves(contains(model.constraints, params)))
    again = model.init(jax.random.key(0), x, kind)
    same(params, again)
    other = model.init(jax.random.key(1), x, kind)
    assert not np.array_equal(params.weights, other.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_under_jit_and_vmap(kind):
    model, x = Mixture(MultivariateNormal("full"), 3), jnp.asarray(X)
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.jit(jax.vmap(lambda key: model.init(key, x, kind)))(keys)
    for i, key in enumerate(keys):
        one = model.init(key, X, kind)
        jax.tree.map(lambda a, b, i=i: assert_within(a[i], b, np.sqrt(len(X)) * EPS * 50), batch, one)


@pytest.mark.parametrize("kind", ["kmeans++", "points"])
def test_seeds_are_distinct(kind):
    """Four distinct observations, four classes: one class each, whatever the key."""
    x = jnp.asarray(np.repeat([0.0, 1.0, 2.0, 100.0], [50, 5, 1, 3]))
    model = Mixture(Normal(), 4)
    keys = jax.random.split(jax.random.key(0), 50)
    means = jax.vmap(lambda key: model.init(key, x, kind).components.means)(keys)
    gaps = np.diff(np.sort(means, axis=1), axis=1)
    assert gaps.min() > 1e-3


def test_kmeans_plus_plus_prefers_what_is_far():
    """Two tight far clusters: a second seed in the other one is all but certain; with even draws it is not."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.concatenate([rng.normal(size=90), 1000 + rng.normal(size=10)]))
    model = Mixture(Normal(), 2)
    keys = jax.random.split(jax.random.key(0), 100)
    weights = {kind: jax.vmap(lambda key, kind=kind: model.init(key, x, kind).weights)(keys) for kind in KINDS[:2]}
    apart = {kind: np.mean(np.abs(np.min(w, axis=1) - (0.9 * 0.1 + 0.05)) < 1e-6) for kind, w in weights.items()}
    assert apart["kmeans++"] == 1
    assert 0.05 < apart["points"] < 0.35  # 2 x 0.9 x 0.1 = 0.18


@pytest.mark.parametrize("kind", KINDS)
def test_starts_know_no_units(kind):
    model = Mixture(MultivariateNormal("full"), 3)
    units = np.array([1000.0, 1e-3])
    one, other = (model.init(jax.random.key(3), x, kind) for x in (X, X * units))
    assert_within(other.weights, one.weights, 64 * EPS)
    allowed = np.sqrt(len(X)) * EPS * 50
    assert_within(np.asarray(other.components.means) / units, one.components.means, allowed)
    covariances = np.asarray(other.components.covariances) / np.outer(units, units)
    assert_within(covariances, one.components.covariances, allowed)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_starts_heed_weights(kind):
    """What has no weight is no seed and gives no class anything."""
    x = np.concatenate([np.linspace(0, 1, 20), np.full(20, 50.0)])
    weights = np.repeat([1.0, 0.0], 20)
    model = Mixture(Normal(), 2)
    keys = jax.random.split(jax.random.key(0), 20)
    data = Dataset(jnp.asarray(x), weights=jnp.asarray(weights))
    means = jax.vmap(lambda key: model.init(key, data, kind).components.means)(keys)
    assert means.max() <= 1


@pytest.mark.parametrize(
    ("family", "x"),
    [
        (Poisson(), np.random.default_rng(0).poisson(5, size=30)),
        (Bernoulli(), np.random.default_rng(0).integers(0, 2, size=(30, 4))),
        (Categorical((2, 3)), np.random.default_rng(0).integers(0, 2, size=(30, 2))),
        (Exponential(), np.random.default_rng(0).exponential(size=30)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_starts_of_other_families(family, x):
    model = Mixture(family, 2)
    params = model.init(jax.random.key(0), x)
    fit = jaxem.fit(model, params, x, max_steps=200)
    assert fit.status in (jaxem.Status.CONVERGED, jaxem.Status.MAX_STEPS)
    assert fit.objective > fit.trace[0]


def test_one_component_is_the_closed_form():
    model = Mixture(MultivariateNormal("full"), 1)
    params = model.init(jax.random.key(0), X)
    allowed = np.sqrt(len(X)) * EPS * 50
    assert_within(params.weights, [1], EPS)
    assert_within(params.components.means[0], X.mean(axis=0), allowed)
    assert_within(params.components.covariances[0], np.cov(X.T, ddof=0), allowed)
    fit = jaxem.check(jaxem.fit(model, params, X))
    assert_within(fit.objective, stats.multivariate_normal(X.mean(axis=0), np.cov(X.T, ddof=0)).logpdf(X).sum(), 1e-9)


# Errors


def test_errors_say_what_is_wrong():
    for k in (0, -1, 2.0):
        with pytest.raises(ValueError, match=r"k must be (a whole number of )?at least 1; it is"):
            Mixture(Poisson(), k)
    model, key = Mixture(MultivariateNormal(), 3), jax.random.key(0)
    with pytest.raises(ValueError, match=r"start must be one of \['kmeans\+\+', .*\], .*; got 'foo'"):
        model.init(key, X, "foo")
    for bad, says in [
        (X[:, 0], r"Mixture of MultivariateNormal needs data of shape \(N, D\); got shape \(120,\)"),
        (X[:2], "2 observations cannot tell 3 classes apart; use k <= 2"),
        (np.where(np.arange(120)[:, None] == 7, np.nan, X), "1 of 120 are not, the first is number 7: "),
        (Dataset(X, weights=np.ones(5)), r"the weights of 120 observations need shape \(120,\); got \(5,\)"),
        (Dataset(X, weights=-np.ones(120)), "must be finite and not negative"),
        (Dataset(X, weights=np.zeros(120)), "must be finite and not negative, and one of them above zero"),
    ]:
        for function in (lambda bad=bad: model.init(key, bad), lambda bad=bad: jaxem.fit(model, start("full"), bad)):
            with pytest.raises(ValueError, match=says):
                function()
    two = MixtureParams(np.array([0.5, 0.5]), MultivariateNormalParams(np.zeros((2, 2)), np.stack([np.eye(2)] * 2)))
    with pytest.raises(
        ValueError,
        match=r"Mixture of MultivariateNormal with k = 3 on 2 columns needs weights of shape \(3,\); got \(2,\)",
    ):
        jaxem.fit(model, two, X)


def test_a_start_outside_its_space_is_named():
    model, good = Mixture(MultivariateNormal(), 3), start("full")
    for bad, says in [
        (good._replace(weights=np.array([0.5, 0.5, 0.5])), "start of weights must be non-negative with sum 1"),
        (
            good._replace(components=good.components._replace(covariances=-STARTS["full"])),
            "start of components.covariances must be symmetric and positive definite",
        ),
        (
            good._replace(components=good.components._replace(means=np.full((3, 2), np.nan))),
            "start of components.means must be finite",
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            jaxem.fit(model, bad, X)
