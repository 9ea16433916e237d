"""Distribution functions, residuals and separation, against SciPy and enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

import jaxem
from jaxem import families, inference
from jaxem.families.tails import of_family
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

N = families.NormalParams
COUNTS = np.r_[0:8.0, 30.0, 100.0]
REALS = np.r_[np.linspace(-9, 9, 7), 0.0]
POSITIVE = np.r_[1e-3, 0.5, 1, 2, 5, 20]


def pair(a, b):
    return np.array([a, b])


def negative_binomial(phi):
    dists = [st.nbinom(1 / phi, 1 / (1 + phi * m)) for m in (2.5, 30)]
    return families.NegativeBinomial(), families.NegativeBinomialParams(pair(2.5, 30), pair(phi, phi)), COUNTS, dists


def student_t(nu):
    family = families.StudentT(freedom=nu)
    return family, families.StudentTParams(pair(0.0, 2), pair(1.0, 4)), REALS, [st.t(nu), st.t(nu, 2, 2)]


# name: (family, parameters of two classes, observations, SciPy's distributions, relative tolerance beside 1e-12)
QUICK = {
    "normal": lambda: (families.Normal(), N(pair(0.0, 2), pair(1.0, 4)), REALS, [st.norm(), st.norm(2, 2)]),
    "t": lambda: student_t(3.5),
    "negative binomial": lambda: negative_binomial(0.3),
    "poisson": lambda: (
        families.Poisson(), families.PoissonParams(pair(2.5, 30)), COUNTS, [st.poisson(2.5), st.poisson(30)],
    ),
}  # fmt: skip
SLOW = {
    "t, nearly normal": lambda: student_t(2e5),
    "t, cauchy": lambda: student_t(1.0),
    "negative binomial, nearly poisson": lambda: negative_binomial(1e-7),
    "beta": lambda: (
        families.Beta(), families.BetaParams(pair(0.5, 20), pair(2.0, 30)), np.linspace(0.01, 0.99, 9),
        [st.beta(0.5, 2), st.beta(20, 30)],
    ),
    "binomial": lambda: (
        families.Binomial(12), families.BinomialParams(pair(0.1, 0.7)), np.arange(13.0),
        [st.binom(12, 0.1), st.binom(12, 0.7)],
    ),
    "gamma": lambda: (
        families.Gamma(), families.GammaParams(pair(0.5, 20), pair(2.0, 3)), POSITIVE,
        [st.gamma(0.5, scale=0.5), st.gamma(20, scale=1 / 3)],
    ),
    "exponential": lambda: (
        families.Exponential(), families.ExponentialParams(pair(0.5, 2)), POSITIVE,
        [st.expon(scale=2), st.expon(scale=0.5)],
    ),
    "log-normal": lambda: (
        families.LogNormal(), N(pair(0.0, 1), pair(1.0, 0.25)), POSITIVE,
        [st.lognorm(1), st.lognorm(0.5, scale=math.e)],
    ),
    "weibull": lambda: (
        families.Weibull(), families.WeibullParams(pair(1.5, 3), pair(2.0, 5)), POSITIVE,
        [st.weibull_min(1.5, scale=2), st.weibull_min(3, scale=5)],
    ),
}  # fmt: skip
TOLERANCES = {"t, nearly normal": 1e-8, "negative binomial, nearly poisson": 1e-7}  # of an expansion, and of SciPy


def tails(family, c, x):
    x = jax.tree.map(jnp.asarray, x)
    return jax.tree.map(np.asarray, jax.jit(lambda x: of_family(family, c, x))(x))


def agree(case, tolerance=1e-12):
    family, params, x, dists = case
    c = family.prepare(jax.tree.map(jnp.asarray, params), None)
    found = tails(family, c, x)
    discrete = hasattr(dists[0].dist, "pmf")
    wanted = [[d.cdf(x - 1) if discrete else d.cdf(x), d.pmf(x) if discrete else 0 * x, d.sf(x)] for d in dists]
    wanted = np.moveaxis(np.array(wanted), 0, 2)
    for ours, theirs in zip(found, wanted, strict=True):
        # Relative: both tails are right far out, where residuals need them.
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-200)


@pytest.mark.parametrize("name", QUICK)
def test_tails(name):
    agree(QUICK[name]())


@pytest.mark.everything
@pytest.mark.parametrize("name", SLOW)
def test_more_tails(name):
    agree(SLOW[name](), TOLERANCES.get(name, 1e-12))


@pytest.mark.slow
def test_tails_of_zeros_and_of_truncated_counts():
    rates, x = jnp.array([0.3, 5.0]), np.arange(1, 7.0)
    inner, poisson = families.Poisson(), [st.poisson(0.3), st.poisson(5)]
    cut = families.Truncated(inner, low=1)
    found = tails(cut, families.PoissonParams(rates), x)
    for k, d in enumerate(poisson):
        np.testing.assert_allclose(found.below[:, k], (d.cdf(x - 1) - d.pmf(0)) / d.sf(0), atol=1e-14)
        np.testing.assert_allclose(found.above[:, k], d.sf(x) / d.sf(0), rtol=1e-12)
    zeros = families.ZeroInflated(inner)
    c = zeros.prepare(families.ZeroInflatedParams(jnp.array([0.4, 0.1]), families.PoissonParams(rates)), None)
    found = tails(zeros, c, np.arange(3.0))
    np.testing.assert_allclose(found.at[:, 0], 0.4 * np.array([1, 0, 0]) + 0.6 * poisson[0].pmf(range(3)), rtol=1e-12)
    np.testing.assert_allclose(found.below[:, 0], [0, found.at[0, 0], found.at[:2, 0].sum()], rtol=1e-12)
    np.testing.assert_allclose(sum(found), 1, rtol=1e-14)


REGRESSIONS = [
    (families.Normal(), lambda m, s: st.norm(m, s**0.5), np.array([0.5, -1.0, 2.0])),
    (families.Poisson(), lambda m, s: st.poisson(np.exp(m)), np.array([0.0, 2.0, 5.0])),
    (families.Gamma(), lambda m, s: st.gamma(1 / s, scale=np.exp(m) * s), np.array([0.5, 1.0, 4.0])),
    (families.NegativeBinomial(), lambda m, s: st.nbinom(1 / s, 1 / (1 + s * np.exp(m))), np.array([0.0, 2.0, 5.0])),
    (families.Bernoulli(), lambda m, s: st.binom(1, 1 / (1 + np.exp(-m))), np.array([0.0, 1.0, 1.0])),
]


def row(case):
    """The first two run always."""
    name, slow = type(case[0]).__name__, not isinstance(case[0], families.Normal | families.Poisson)
    return pytest.param(case, id=name, marks=pytest.mark.everything if slow else ())


@pytest.mark.parametrize("case", [row(case) for case in REGRESSIONS])
def test_tails_of_regressions(case):
    inner, dist, y = case
    family, u = families.Regression(inner), np.array([[0.3], [-0.2], [1.0]])
    spread = None if isinstance(inner, families.Poisson | families.Bernoulli) else jnp.array([0.5, 2.0])
    beta = jnp.array([[0.1, 0.7], [-0.3, 0.4]])
    data = jaxem.dataset(y, given=u)
    c = family.prepare(families.RegressionParams(beta, None, spread), None)
    found = tails(family, c, data)
    for k in range(2):
        d = dist(beta[k, 0] + u[:, 0] * beta[k, 1], 1 if spread is None else spread[k])
        discrete = hasattr(d.dist, "pmf")
        np.testing.assert_allclose(found.below[:, k], d.cdf(y - 1) if discrete else d.cdf(y), atol=1e-13)
        np.testing.assert_allclose(found.above[:, k], d.sf(y), atol=1e-13)


@pytest.mark.parametrize(
    "family", [families.VonMises(), families.Bernoulli(), families.MultivariateNormal(), families.Categorical((3,))]
)
def test_others_are_refused_by_name(family):
    with pytest.raises(ValueError, match=f"{type(family).__name__} has no distribution function"):
        of_family(family, None, jnp.zeros(3))


def test_residuals_of_a_mixture():
    x = np.array([-1.0, 0.5, 45.0, -50.0, np.nan])
    data = jaxem.dataset(x, missing="nan")
    model, params = Mixture(families.Normal(), 2), MixtureParams(pair(0.3, 0.7), N(pair(0.0, 5), pair(1.0, 4)))
    found = inference.residuals(model, params, data)
    below = 0.3 * st.norm.cdf(x) + 0.7 * st.norm.cdf(x, 5, 2)
    above = 0.3 * st.norm.sf(x) + 0.7 * st.norm.sf(x, 5, 2)
    np.testing.assert_allclose(found.probabilities, below, rtol=1e-12)
    np.testing.assert_allclose(found.values, np.where(below < above, st.norm.ppf(below), st.norm.isf(above)), rtol=1e-9)
    # (45 - 5) / 2 = 20: u = 1 says nothing, its other side does. The weight 0.7 moves it by 0.018 = -log 0.7 / 20, to
    # first order; what follows is 0.018 / 20^2.
    assert found.values[2] == pytest.approx(20 - np.log(0.7) / 20, abs=1e-4)
    assert np.isnan(found.values[4]) and len(found.known[0]) == 4 and found.kind == "quantile"


@pytest.mark.slow
def test_residuals_of_counts_are_drawn_between_the_ends():
    model, params = Mixture(families.Poisson(), 1), MixtureParams(np.ones(1), families.PoissonParams(np.array([3.0])))
    x = np.asarray(model.sample(jax.random.key(1), params, 400))
    found, again = (inference.residuals(model, params, x, key=key) for key in (None, jax.random.key(0)))
    np.testing.assert_array_equal(found.values, again.values)
    ends = st.poisson(3).cdf(x - 1), st.poisson(3).cdf(x)
    assert ((found.probabilities >= ends[0]) & (found.probabilities <= ends[1])).all()
    assert st.kstest(found.probabilities, "uniform").pvalue > 0.01
    assert found.distance == pytest.approx(st.kstest(found.probabilities, "uniform").statistic)
    wrong = inference.residuals(model, params._replace(components=families.PoissonParams(np.array([5.0]))), x)
    assert wrong.distance > 1.628 / 20  # the 99 % point
    assert "of a right model below 0.068" in str(found)


PI, A, RATES = pair(0.6, 0.4), np.array([[0.8, 0.2], [0.3, 0.7]]), pair(1.0, 6)
CHAIN, AT = HMM(families.Poisson(), 2), HMMParams(PI, A, families.PoissonParams(RATES))
SEQUENCES = jaxem.dataset([np.array([2.0, 7, np.nan, 0, 4]), np.array([5.0, 1, 3])], missing="nan")


def by_enumeration(x, t, kind):
    """P(X_t < x_t | others) and P(X_t > x_t | others), from all paths."""
    others = [s for s in range(len(x)) if (s < t if kind == "forecast" else s != t) and not np.isnan(x[s])]
    weight = np.zeros(2)
    for z in itertools.product(range(2), repeat=len(x)):
        p = PI[z[0]] * np.prod([A[z[s], z[s + 1]] for s in range(len(x) - 1)])
        weight[z[t]] += p * np.prod([st.poisson(RATES[z[s]]).pmf(x[s]) for s in others])
    weight /= weight.sum()
    return weight @ st.poisson(RATES).cdf(x[t] - 1), weight @ st.poisson(RATES).sf(x[t])


@pytest.mark.parametrize("kind", ["forecast", "ordinary"])
@pytest.mark.slow
def test_a_chain_foretells_each_step(kind):
    below, at, above = (np.asarray(part) for part in CHAIN.distribution(AT, SEQUENCES, kind))
    for n, x in enumerate(([2.0, 7, np.nan, 0, 4], [5.0, 1, 3])):
        for t, value in enumerate(x):
            if np.isnan(value):
                assert np.isnan(below[n, t])
                continue
            wanted = by_enumeration(np.array(x), t, kind)
            np.testing.assert_allclose((below[n, t], above[n, t]), wanted, rtol=1e-11)
    np.testing.assert_allclose((below + at + above)[~np.isnan(below)], 1, rtol=1e-12)
    assert np.isnan(below[1, 3:]).all()  # after the end
    found = inference.residuals(CHAIN, AT, SEQUENCES, kind=kind)
    assert found.values.shape == (2, 5) and found.kind == kind and len(found.known[0]) == 7


def test_residuals_say_what_is_wrong():
    with pytest.raises(ValueError, match="kind must be 'forecast' or 'ordinary'"):
        inference.residuals(CHAIN, AT, SEQUENCES, kind="smooth")
    with pytest.raises(ValueError, match="residuals needs distribution"):
        inference.residuals(jaxem.Model(lambda p, x: p, lambda q, x: q), 1.0, np.ones(3))
    bits, model = np.eye(3), Mixture(families.Bernoulli(), 2)
    with pytest.raises(ValueError, match="Bernoulli has no distribution function"):
        inference.residuals(model, MixtureParams(PI, families.BernoulliParams(np.full((2, 3), 0.5))), bits)


@pytest.mark.slow
def test_separation():
    x, w = np.array([-1.0, 0.2, 2.4, 2.6, 5.0]), np.array([1.0, 2, 1, 1, 3])
    model, params = Mixture(families.Normal(), 2), MixtureParams(PI, N(pair(0.0, 5), pair(1.0, 4)))
    found = inference.separation(model, params, jaxem.dataset(x, weights=w))
    r = np.asarray(model.predict_proba(params, x))
    for j in range(2):
        mine = r.argmax(axis=1) == j
        np.testing.assert_allclose(found.shares[j], w[mine].sum() / 8)
        np.testing.assert_allclose(found.table[j], np.average(r[mine], axis=0, weights=w[mine]))
    entropy = 1 - sum(w[n] * st.entropy(r[n]) for n in range(5)) / (8 * math.log(2))
    assert found.entropy == pytest.approx(entropy, rel=1e-12)
    assert f"relative entropy {entropy:.3g}" in str(found)
    steps = inference.separation(CHAIN, AT, SEQUENCES)  # each step of a sequence counts
    r = np.asarray(CHAIN.predict_proba(AT, SEQUENCES)).reshape(-1, 2)[:8]
    assert steps.shares[0] == pytest.approx((r.argmax(axis=1) == 0).mean())
