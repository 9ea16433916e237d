"""Families: densities against scipy, maximisers against closed forms, far from zero, with and without a prior."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from scipy import stats

from jaxem.core import constraints, parameters, trees
from jaxem.core.contexts import choose
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
    VonMises,
    protocol,
)
from jaxem.families.covariance import collapsed, singular
from jaxem.families.protocol import degenerate, log_prior

K, D, N = 3, 2, 64
FORMS = ("full", "tied", "diag", "spherical")

log_density = jax.jit(protocol.log_density)


@jax.jit
def statistics(family, weights, x, about=None):
    """Sums about these parameters, or about zero."""
    sums = lambda c: family.statistics(c, weights, (), x)
    return sums(None) if about is None else choose(family.prepare(about, x), sums)


@jax.jit
def maximize(family, sums, about=None):
    return family.maximize(None if about is None else family.prepare(about, None), sums)


supports = jax.jit(lambda family, x: family.supports(x))
features = jax.jit(lambda family, x: family.features(x))
is_degenerate = jax.jit(degenerate)
sample = jax.jit(lambda family, key, params, labels: family.sample(key, params, labels))

rng = np.random.default_rng(0)
MEANS = np.array([[-1.0, 0.5], [0.0, 0.0], [2.0, -3.0]])
FACTORS = np.array([[[1.0, 0.0], [0.5, 2.0]], [[0.3, 0.0], [-0.1, 0.4]], [[2.0, 0.0], [1.0, 1.0]]])
FULL = FACTORS @ FACTORS.swapaxes(1, 2)
COVARIANCES = {
    "full": FULL,
    "tied": FULL[0],
    "diag": np.array([[1.0, 4.0], [0.1, 0.2], [4.0, 2.0]]),
    "spherical": np.array([1.0, 0.1, 4.0]),
}


def matrices(form: str, covariances: np.ndarray, k: int = K, d: int = D) -> np.ndarray:
    """Covariances of any form as (K, D, D)."""
    if form == "diag":
        return covariances[:, :, None] * np.eye(d)
    if form == "spherical":
        return covariances[:, None, None] * np.eye(d)
    return np.broadcast_to(covariances, (k, d, d))


class Case(NamedTuple):
    family: Any
    params: Any
    x: np.ndarray  # possible values
    impossible: list  # values that no parameters allow
    # (params, x) -> the log-density (N, K), and the size of the terms it is a sum of
    reference: Callable[..., tuple[np.ndarray, np.ndarray]]


def by_class(density: Callable[..., Any], size: Callable[..., Any]) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A reference from functions of the parameters of one class."""

    def reference(params: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        classes = [jax.tree.map(operator.itemgetter(k), params) for k in range(K)]
        return tuple(np.stack([f(one, x) for one in classes], axis=1) for f in (density, size))

    return reference


def multivariate(form: str) -> Case:
    def reference(params: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        covariances = matrices(form, params.covariances)
        normals = [stats.multivariate_normal(m, c) for m, c in zip(params.means, covariances, strict=True)]
        density = np.stack([normal.logpdf(x) for normal in normals], axis=1)
        constant = D * np.log(2 * np.pi) + np.log(np.linalg.det(covariances))
        quadratic = -2 * density - constant
        # Squared distances are known to eps times the condition number (Higham 2002, 10.1).
        return density, np.linalg.cond(covariances) * (quadratic + D) + np.abs(constant)

    params = MultivariateNormalParams(MEANS, COVARIANCES[form])
    return Case(MultivariateNormal(form), params, rng.normal(size=(N, D)) * 2, [], reference)


CASES = {
    "normal": Case(
        Normal(),
        NormalParams(np.array([-1.0, 0.0, 2.0]), np.array([1.0, 0.01, 9.0])),
        rng.normal(size=N) * 2,
        [],
        by_class(
            lambda p, x: stats.norm.logpdf(x, p.means, np.sqrt(p.variances)),
            lambda p, x: (x - p.means) ** 2 / p.variances + np.abs(np.log(p.variances)) + 2,
        ),
    ),
    "poisson": Case(
        Poisson(),
        PoissonParams(np.array([0.0, 0.7, 30.0])),
        np.concatenate([[0, 0, 1, 2], rng.poisson(10, size=N - 5), [100]]).astype(float),
        [-1.0, 0.5, -0.5, np.inf],
        by_class(
            lambda p, x: stats.poisson.logpmf(x, p.rates),
            lambda p, x: x * np.abs(np.log(p.rates + 1e-9)) + p.rates + x * np.log(x + 1) + 1,
        ),
    ),
    "exponential": Case(
        Exponential(),
        ExponentialParams(np.array([0.01, 1.0, 30.0])),
        np.concatenate([[0.0], rng.exponential(size=N - 1)]),
        [-1.0, -1e-9, np.inf],
        by_class(
            lambda p, x: stats.expon.logpdf(x, scale=1 / p.rates),
            lambda p, x: x * p.rates + np.abs(np.log(p.rates)),
        ),
    ),
    "bernoulli": Case(
        Bernoulli(),
        BernoulliParams(np.array([[0.0, 0.3], [1.0, 0.999], [0.5, 0.2]])),
        rng.integers(0, 2, size=(N, D)).astype(float),
        [[0.5, 1.0], [2.0, 0.0], [0.0, -1.0]],
        by_class(
            lambda p, x: stats.bernoulli.logpmf(x, p.probabilities).sum(axis=1),
            # One minus p is known to eps; its logarithm to eps / (1 - p).
            lambda p, x: np.full(len(x), 2 + 1 / (1 - np.minimum(p.probabilities, 0.999)).min()),
        ),
    ),
    "categorical": Case(
        Categorical((2, 3)),
        CategoricalParams(
            (np.array([[0.5, 0.5], [0.0, 1.0], [0.9, 0.1]]), np.array([[0.2, 0.3, 0.5], [0, 0.25, 0.75], [1, 0, 0]]))
        ),
        np.stack([rng.integers(0, 2, size=N), rng.integers(0, 3, size=N)], axis=1).astype(float),
        [[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.5, 0.0]],
        by_class(
            lambda p, x: sum(log(q[x[:, d].astype(int)]) for d, q in enumerate(p.probabilities)),
            lambda p, x: sum(1 - log(np.maximum(q, 0.1)[x[:, d].astype(int)]) for d, q in enumerate(p.probabilities)),
        ),
    ),
    **{form: multivariate(form) for form in FORMS},
}


def log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p)


@pytest.fixture(params=CASES, scope="session")
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def in_64_bits(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def test_log_density_agrees_with_scipy(case, dtype):
    params, x = as_dtype((case.params, case.x), dtype)
    wanted, size = case.reference(in_64_bits(params), in_64_bits(x))
    found = log_density(case.family, params, x)
    assert found.shape == (N, K) and found.dtype == dtype
    assert_within(found, wanted, 8 * eps(dtype) * size)


@pytest.mark.parametrize("kind", ["poisson", "exponential", "bernoulli", "categorical"])
def test_impossible_values_have_density_zero(kind, dtype):
    case = CASES[kind]
    params, x = as_dtype((case.params, np.array(case.impossible)), dtype)
    assert (log_density(case.family, params, x) == -jnp.inf).all()
    assert not np.any(supports(case.family, x))
    assert np.all(supports(case.family, as_dtype(case.x, dtype)))


def test_nan_is_not_supported(case, dtype):
    x = as_dtype(np.full(case.x.shape, np.nan), dtype)
    assert not np.any(supports(case.family, x))
    assert not np.isfinite(log_density(case.family, as_dtype(case.params, dtype), x)).any()


@pytest.mark.parametrize("kind", ["poisson", "bernoulli", "categorical"])
def test_whole_number_data_of_any_dtype(kind, dtype):
    family, params, x, *_ = CASES[kind]
    params = as_dtype(params, dtype)
    weights = as_dtype(np.ones((N, K)), dtype)
    floats, ints = (
        (log_density(family, params, data), statistics(family, weights, data))
        for data in (as_dtype(x, dtype), as_dtype(x, jnp.int32))
    )
    for a, b in zip(jax.tree.leaves(floats), jax.tree.leaves(ints), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype == dtype


def whole_numbers(case: Case, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Data and weights whose sums are exact in float32."""
    rng = np.random.default_rng(seed)
    return np.round(case.x), rng.integers(0, 4, size=(N, K)).astype(float)


def test_statistics_add_up(case, dtype):
    x, weights = as_dtype(whole_numbers(case, 0), dtype)
    whole = statistics(case.family, weights, x)
    parts = (slice(None, N // 2), slice(N // 2, None))
    halves = [statistics(case.family, np.asarray(weights)[part], np.asarray(x)[part]) for part in parts]
    jax.tree.map(lambda w, a, b: np.testing.assert_array_equal(w, np.asarray(a) + np.asarray(b)), whole, *halves)


def test_statistics_count_weights_as_repetitions(case, dtype):
    x, weights = whole_numbers(case, 1)
    weights[:, :] = weights[:, :1]
    times = weights[:, 0].astype(int)
    repeated = np.repeat(x, times, axis=0)
    a = statistics(case.family, *as_dtype((weights, x), dtype))
    b = statistics(case.family, *as_dtype((np.ones((len(repeated), K)), repeated), dtype))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def closed_form(family: Any, w: np.ndarray, x: np.ndarray) -> Any:
    """The weighted maximum-likelihood estimate, class by class, from the definition."""
    n = w.sum(axis=0)
    if isinstance(family, Poisson):
        return PoissonParams(np.array([np.average(x, weights=w[:, k]) for k in range(K)]))
    if isinstance(family, Exponential):
        return ExponentialParams(np.array([1 / np.average(x, weights=w[:, k]) for k in range(K)]))
    if isinstance(family, Bernoulli):
        return BernoulliParams(np.array([np.average(x, axis=0, weights=w[:, k]) for k in range(K)]))
    if isinstance(family, Categorical):
        shares = [
            np.array([[np.average(x[:, d] == level, weights=w[:, k]) for level in range(levels)] for k in range(K)])
            for d, levels in enumerate(family.levels)
        ]
        return CategoricalParams(tuple(shares))
    if isinstance(family, Normal):
        means = np.array([np.average(x, weights=w[:, k]) for k in range(K)])
        return NormalParams(means, np.array([np.average((x - means[k]) ** 2, weights=w[:, k]) for k in range(K)]))
    means = np.array([np.average(x, axis=0, weights=w[:, k]) for k in range(K)])
    full = np.array([np.cov(x.T, aweights=w[:, k], ddof=0) for k in range(K)])
    if family.covariance == "full":
        return MultivariateNormalParams(means, full)
    if family.covariance == "tied":
        return MultivariateNormalParams(means, np.average(full, axis=0, weights=n))
    variances = np.diagonal(full, axis1=1, axis2=2)
    return MultivariateNormalParams(means, variances if family.covariance == "diag" else variances.mean(axis=1))


# The error of a sum of N rounded products, beside the sum of their sizes; errors of either sign partly cancel.
SUM_ERROR = 4 * np.sqrt(N)


def test_maximize_agrees_with_the_closed_form(case, dtype):
    weights, x = as_dtype((np.random.default_rng(2).uniform(size=(N, K)), case.x), dtype)
    found = maximize(case.family, statistics(case.family, weights, x))
    wanted = closed_form(case.family, in_64_bits(weights), in_64_bits(x))
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    size = max(1, np.abs(case.x).max()) ** (2 if "ormal" in type(case.family).__name__ else 1)
    jax.tree.map(lambda a, b: assert_within(a, b, SUM_ERROR * eps(dtype) * size), found, wanted)


def test_the_maximiser_is_stationary(case):
    """The gradient of the weighted log-likelihood vanishes, in coordinates that know the space."""
    weights, x = jnp.asarray(np.random.default_rng(3).uniform(size=(N, K))), jnp.asarray(case.x)
    best = maximize(case.family, statistics(case.family, weights, x))
    assert_stationary(case.family, best, weights, x)


def assert_stationary(family: Any, params: Any, weights: jax.Array, x: jax.Array) -> None:
    spaces = parameters.spaces(family.declare())

    def objective(free: Any) -> jax.Array:
        params = constraints.forward(spaces, free)
        return (weights * protocol.log_density(family, params, x)).sum() + log_prior(family, params)

    gradient = jax.jit(jax.grad(objective))(constraints.inverse(spaces, params))
    # Each row adds a term of at most (1 + |y|^2) cond to the gradient, |y| its distance in standard deviations.
    allowed = 64 * eps(x.dtype) * N * (1 + float(jnp.max(jnp.abs(x))) ** 2)
    jax.tree.map(lambda g: assert_within(g, np.zeros(g.shape), allowed), gradient)


NORMALS = ("normal", *FORMS)


@pytest.mark.parametrize("kind", NORMALS)
def test_the_origin_does_not_matter(kind):
    family, params, x, *_ = CASES[kind]
    weights, x = jnp.asarray(np.random.default_rng(4).uniform(size=(N, K))), jnp.asarray(x)
    about_zero = maximize(family, statistics(family, weights, x))
    params = as_dtype(params, x.dtype)
    about_means = maximize(family, statistics(family, weights, x, params), params)
    allowed = SUM_ERROR * eps(x.dtype) * (np.abs(x).max() + np.abs(MEANS).max()) ** 2
    jax.tree.map(lambda a, b: assert_within(a, b, allowed), about_zero, about_means)


@pytest.mark.parametrize("kind", NORMALS)
def test_far_from_zero_in_float32(kind):
    """Mean 1e4, spread 1: about the origin the variance is lost; anchored it is as good as the data."""
    family, params, x, *_ = CASES[kind]
    x = jnp.asarray(1e4 + np.random.default_rng(5).normal(size=x.shape), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(6).uniform(size=(N, K)), jnp.float32)
    wanted = closed_form(family, in_64_bits(weights), in_64_bits(x))
    start = as_dtype(params._replace(means=1e4 + np.clip(params.means, -1, 1)), jnp.float32)
    found = maximize(family, statistics(family, weights, x, start), start)
    # x - origin is exact; moments of size 1 + |mean - origin|^2 <= 5, and the mean rounded to its own eps.
    assert_within(found.means, wanted.means, eps(jnp.float32) * 1e4)
    assert_within(found[1], wanted[1], SUM_ERROR * eps(jnp.float32) * 5)
    plain = maximize(family, statistics(family, weights, x))
    assert np.abs(np.asarray(plain[1]) - wanted[1]).max() > 0.1


@pytest.mark.parametrize("kind", NORMALS)
@pytest.mark.parametrize("seed", range(5))
def test_a_far_origin_costs_accuracy_but_no_definiteness(kind, seed):
    """A mean that moves 1e4 spreads in one iteration: float32 has lost the variance, the next iteration finds it."""
    family, params, x, *_ = CASES[kind]
    rng = np.random.default_rng(seed)
    x = as_dtype(rng.normal(size=x.shape), np.float32)
    weights = as_dtype(rng.uniform(size=(N, K)), np.float32)
    far = params._replace(means=params.means + 1e4 * rng.uniform(1, 2, size=params.means.shape))
    far = as_dtype(far, np.float32)
    rough = maximize(family, statistics(family, weights, x, far), far)
    assert not is_degenerate(family, rough)
    # Some eps of the square of the distance are left: more than rounding hides, and no more than d times that.
    assert_within(rough[1], closed_form(family, in_64_bits(weights), in_64_bits(x))[1], 32 * eps(np.float32) * 2 * 4e8)
    fine = maximize(family, statistics(family, weights, x, rough), rough)
    assert_within(fine[1], closed_form(family, in_64_bits(weights), in_64_bits(x))[1], SUM_ERROR * eps(np.float32) * 5)


def test_what_a_family_need_not_say():
    assert degenerate(Poisson(), None) == False  # noqa: E712
    assert log_prior(VonMises(), None) == 0.0


def test_sample_has_the_moments(case):
    n = 30_000
    params = as_dtype(case.params, jnp.float64)
    labels = jnp.asarray(np.arange(n) % K)
    x = np.asarray(sample(case.family, jax.random.key(0), params, labels), np.float64)
    assert x.shape == (n, *case.x.shape[1:])
    assert np.all(supports(case.family, x))
    for k in range(K):
        mean, covariance = moments(case.family, case.params, k)
        y = x[k::K].reshape(n // K, -1)
        spread = np.sqrt(np.diag(covariance))
        assert_within(y.mean(axis=0), mean, 5 * spread / np.sqrt(len(y)))
        products = (y - mean)[:, :, None] * (y - mean)[:, None, :]
        error = products.std(axis=0) / np.sqrt(len(y))
        assert_within(products.mean(axis=0), covariance, 5 * error + 1e-12)


def moments(family: Any, params: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of class k."""
    if isinstance(family, MultivariateNormal):
        return params.means[k], matrices(family.covariance, params.covariances)[k]
    if isinstance(family, Normal):
        return params.means[k : k + 1], params.variances[k : k + 1, None]
    if isinstance(family, Poisson):
        return params.rates[k : k + 1], params.rates[k : k + 1, None]
    if isinstance(family, Exponential):
        return 1 / params.rates[k : k + 1], 1 / params.rates[k : k + 1, None] ** 2
    if isinstance(family, Bernoulli):
        p = params.probabilities[k]
        return p, np.diag(p * (1 - p))
    levels = [(p[k], np.arange(p.shape[1])) for p in params.probabilities]
    mean = np.array([p @ level for p, level in levels])
    return mean, np.diag([p @ level**2 - (p @ level) ** 2 for p, level in levels])


def test_features_are_real_numbers(case, dtype):
    found = features(case.family, as_dtype(case.x, dtype))
    assert found.ndim == 2 and found.shape[0] == N
    assert np.isfinite(found).all()


# The conjugate prior


PRIOR = NormalInverseWishart(
    jnp.array([0.5, -1.0]), jnp.array(0.7), jnp.array(5.5), jnp.array([[2.0, 0.3], [0.3, 1.0]])
)


@pytest.mark.parametrize("form", FORMS)
def test_log_prior_agrees_with_scipy(form, dtype):
    prior = as_dtype(PRIOR, dtype)
    params = as_dtype(MultivariateNormalParams(MEANS, COVARIANCES[form]), dtype)
    found = jax.jit(log_prior)(MultivariateNormal(form, prior), params)
    prior, params = in_64_bits(prior), in_64_bits(params)
    if form in ("full", "tied"):
        wishart = stats.invwishart(float(prior.dof), prior.scale)
        terms = [wishart.logpdf(c) for c in np.atleast_3d(params.covariances.T).T]
    else:
        gamma = stats.invgamma(prior.dof / 2, scale=np.trace(prior.scale) / D / 2)
        terms = list(gamma.logpdf(params.covariances).ravel())
    for mean, covariance in zip(params.means, matrices(form, params.covariances), strict=True):
        terms.append(stats.multivariate_normal(prior.mean, covariance / prior.shrinkage).logpdf(mean))
    condition = np.linalg.cond(matrices(form, params.covariances)).max()
    assert found.dtype == dtype and found.shape == ()
    assert_within(found, sum(terms), 8 * eps(dtype) * condition * np.abs(terms).sum())


@pytest.mark.parametrize("form", FORMS)
def test_the_posterior_mode_is_stationary(form):
    family = MultivariateNormal(form, PRIOR)
    weights, x = jnp.asarray(np.random.default_rng(7).uniform(size=(N, K))), jnp.asarray(CASES[form].x)
    best = maximize(family, statistics(family, weights, x))
    assert_stationary(family, best, weights, x)
    # The prior does pull: the maximum-likelihood estimate is elsewhere.
    plain = maximize(MultivariateNormal(form), statistics(family, weights, x))
    assert trees.relative_change(best, plain) > 1e-3
    # And so it does from any origin.
    again = maximize(family, statistics(family, weights, x, best), best)
    jax.tree.map(lambda a, b: assert_within(a, b, SUM_ERROR * eps(x.dtype) * np.abs(x).max() ** 2), again, best)


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_class_gets_the_mode_of_the_prior(form, dtype):
    family = MultivariateNormal(form, as_dtype(PRIOR, dtype))
    x = as_dtype(CASES[form].x, dtype)
    weights = as_dtype(np.ones((N, K)) * [1, 0, 1], dtype)
    found = maximize(family, statistics(family, weights, x))
    assert trees.all_finite(found)
    assert_within(found.means[1], PRIOR.mean, eps(dtype))
    mean_scale, nu = np.trace(PRIOR.scale) / D, PRIOR.dof
    if form == "full":
        assert_within(found.covariances[1], PRIOR.scale / (nu + D + 2), 4 * eps(dtype))
    elif form == "diag":
        assert_within(found.covariances[1], np.full(D, mean_scale / (nu + 3)), 4 * eps(dtype))
    elif form == "spherical":
        assert_within(found.covariances[1], mean_scale / (nu + D + 2), 4 * eps(dtype))


@pytest.mark.parametrize("form", FORMS)
def test_classes_of_nothing_but_the_prior(form):
    """Without any data the mode is stationary under the prior alone."""
    family = MultivariateNormal(form, PRIOR)
    weights, x = jnp.zeros((N, K)), jnp.asarray(CASES[form].x)
    best = maximize(family, statistics(family, weights, x))
    assert_stationary(family, best, weights, x)


def test_prior_from_data(dtype):
    far = 1 / (8 * eps(dtype))
    x = np.asarray(far + np.random.default_rng(8).normal(size=(50, 3)) @ np.diag([1, 2, 0.5]), dtype)
    prior = NormalInverseWishart.from_data(x, k=4)
    exact = x.astype(np.float64)
    assert all(leaf.dtype == dtype for leaf in prior)
    assert_within(prior.mean, exact.mean(axis=0), 4 * eps(dtype) * far)
    assert_within(prior.shrinkage, 0.01, eps(dtype))
    assert_within(prior.dof, 5, 0)
    # Centred twice: the covariance owes nothing to the distance from zero.
    covariance = np.cov((exact - exact[0]).T)  # of exact differences: numpy centres once
    assert_within(prior.scale, covariance / 4 ** (2 / 3), 4 * np.sqrt(50) * eps(dtype) * 4)


@pytest.mark.parametrize("shape", [(5,), (1, 2), (0, 2), (2, 3, 4)])
def test_prior_from_data_needs_a_table(shape):
    with pytest.raises(ValueError, match=r"needs data \(N, D\) with N >= 2; got"):
        NormalInverseWishart.from_data(np.ones(shape), 2)


# Collapse


def test_collapsed_knows_no_units(dtype):
    means = np.array([[0, 0], [1, 5]])

    def is_collapsed(variances: Any, units: float = 1.0) -> jax.Array:
        return jax.jit(collapsed)(*as_dtype((units * means, units**2 * np.array(variances)), dtype))

    for relative, wanted in [(2.0, True), (8.0, False)]:  # standard deviation in eps of the distance between means
        for units in (2.0**-20, 1.0, 2.0**20):
            assert is_collapsed([[1, 1], [1, (relative * eps(dtype) * 5) ** 2]], units) == wanted
    assert is_collapsed([[1, 1], [0, 1]])
    assert not is_collapsed([[1, 1], [np.nan, 1]])  # NaN is another failure


def test_singular_knows_no_units(dtype):
    units = np.array([2.0**-20, 1, 2.0**20])
    x = np.random.default_rng(9).normal(size=(20, 3))
    regular, line = x.T @ x, x[:1].T @ x[:1]

    def is_singular(*matrices: np.ndarray) -> jax.Array:
        return jax.jit(singular)(as_dtype(np.stack(matrices), dtype))

    for matrix, wanted in [(regular, False), (line, True), (np.zeros((3, 3)), True)]:
        assert is_singular(matrix) == wanted
        assert is_singular(np.outer(units, units) * matrix) == wanted
        assert is_singular(regular, matrix) == wanted
    assert not is_singular(np.full((3, 3), np.nan))


def test_degenerate_classes():
    assert is_degenerate(Exponential(), ExponentialParams(jnp.array([1.0, jnp.inf])))
    assert not is_degenerate(Exponential(), ExponentialParams(jnp.array([1.0, 1e300])))
    assert is_degenerate(Normal(), NormalParams(jnp.array([0.0, 1.0]), jnp.array([1.0, 1e-40])))
    for form in FORMS:
        params = as_dtype(MultivariateNormalParams(MEANS, COVARIANCES[form]), jnp.float64)
        assert not is_degenerate(MultivariateNormal(form), params)
        line = np.ones((D, D)) if form == "tied" else COVARIANCES[form] * (COVARIANCES[form] < 1)
        assert is_degenerate(MultivariateNormal(form), params._replace(covariances=jnp.asarray(line)))


# Constructors


def test_constructors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"covariance must be one of \['full', .*\]; got 'fu'"):
        MultivariateNormal("fu")
    for levels in ((), (2, 0)):
        with pytest.raises(ValueError, match=r"levels must (name|be)"):
            Categorical(levels)


def test_equal_families_share_a_program():
    for a, b in [
        (Poisson(), Poisson()),
        (Categorical((2, 3)), Categorical((2, 3))),
        (MultivariateNormal("tied"), MultivariateNormal("tied")),
        (MultivariateNormal("full", PRIOR), MultivariateNormal("full", PRIOR._replace(dof=jnp.array(9.0)))),
    ]:
        assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.structure(MultivariateNormal("tied")) != jax.tree.structure(MultivariateNormal("full"))
