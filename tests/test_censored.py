"""Observations seen in part: every law, the same maximum as direct searches, and survival's survreg."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from closeness import assert_within, eps
from scipy import optimize, stats

import jaxem
from jaxem import SQUAREM
from jaxem.families import (
    Bernoulli,
    Beta,
    BetaParams,
    Binomial,
    BinomialParams,
    Categorical,
    Censored,
    Exponential,
    ExponentialParams,
    Gamma,
    GammaParams,
    LogNormal,
    NegativeBinomial,
    NegativeBinomialParams,
    Normal,
    NormalParams,
    Poisson,
    PoissonParams,
    StudentT,
    StudentTParams,
    Truncated,
    VonMises,
    Weibull,
    WeibullParams,
    ZeroInflated,
    grouped,
    limited,
    protocol,
)
from jaxem.models import HMM, Mixture


def normals(n=120):
    rng = np.random.default_rng(0)
    return np.where(rng.random(n) < 0.5, rng.normal(0, 1, n), rng.normal(4, 1.5, n))


def mixed_intervals(x):
    """Exact, left-censored, right-censored and grouped observations, and one of which nothing is known."""
    found = np.stack([x, x], axis=1)
    found[::3] = np.stack([np.floor(x[::3]), np.floor(x[::3]) + 1], axis=1)
    found[1::7, 0] = -np.inf
    found[2::9, 1] = np.inf
    found[5] = -np.inf, np.inf
    return found


def counts(n=120):
    rng = np.random.default_rng(1)
    return rng.poisson(np.where(rng.random(n) < 0.5, 2.0, 9.0)).astype(float)


def waits(n=120):
    rng = np.random.default_rng(2)
    return rng.exponential(np.where(rng.random(n) < 0.5, 1.0, 9.0))


def positive(n=120):
    rng = np.random.default_rng(5)
    return np.where(rng.random(n) < 0.5, rng.gamma(2.0, 1.0, n), rng.gamma(20.0, 0.5, n))


def shares(n=120):
    rng = np.random.default_rng(6)
    return np.where(rng.random(n) < 0.5, rng.beta(2.0, 8.0, n), rng.beta(9.0, 3.0, n))


def shares_in_part():
    """Exact, left-censored, right-censored and grouped observations, and one of which nothing is known."""
    x = shares()
    found = np.stack([x, x], axis=1)
    found[::3] = np.floor(found[::3] * 10) / 10 + np.array([0, 0.1])
    found[1::7, 0], found[2::9, 1], found[5] = 0, 1, (0, 1)
    return found


def spread_counts(n=120):
    rng = np.random.default_rng(7)
    return rng.poisson(rng.gamma(2.0, np.where(rng.random(n) < 0.5, 1.0, 7.0))).astype(float)


def counts_in_part():
    """Exact and grouped counts; some of which only a bound is known."""
    x = spread_counts()
    found = np.stack([x, x], axis=1)
    found[::3] = grouped(x[::3], [0, 1, 2, 4, 8, 16, np.inf], whole=True)
    found[1::7, 0], found[2::9, 1], found[5] = 0, np.inf, (0, np.inf)
    return found


def heavy(n=120):
    rng = np.random.default_rng(8)
    return np.where(rng.random(n) < 0.5, rng.standard_t(2.5, n), 6 + 1.5 * rng.standard_t(4, n))


def angles(n=120):
    rng = np.random.default_rng(10)
    return np.where(rng.random(n) < 0.5, rng.vonmises(3.0, 4.0, n), rng.vonmises(0.5, 9.0, n))


def arcs_of_angles():
    """Exact angles, octants, arcs of up to nearly a turn, and two angles of which nothing is known; in many turns."""
    x = angles()
    found = np.array(limited(x, -0.5, 3.5, 2 * np.pi))
    found[::3] = np.asarray(grouped(x[::3], np.linspace(0, 2 * np.pi, 9), turn=2 * np.pi))
    found[1::7] = x[1::7, None] + np.array([-0.3, 4.0])
    found[4::11] = x[4::11, None] + np.array([-5.0, 1.0])
    found[5], found[6] = (-np.inf, np.inf), (1, 1 + 2 * np.pi)
    return found + 2 * np.pi * np.random.default_rng(11).integers(-2, 3, len(x))[:, None]


def arcs_between():
    """Angles between 0.5 and 5.5, exact and in sectors of a twelfth of a turn, which the limits cut."""
    x = angles(200)
    x = x[(x >= 0.5) | (x <= 5.5 - 2 * np.pi)]
    found = np.stack([x, x], axis=1)
    found[::2] = np.asarray(grouped(x[::2], np.linspace(0, 2 * np.pi, 13), turn=2 * np.pi))
    return found


def inside(x, low, high=np.inf):
    return x[(x >= low) & (x <= high)]


ROWS = {
    "normal": (Censored(Normal()), lambda: mixed_intervals(normals())),
    "exponential": (Censored(Exponential()), lambda: mixed_intervals(waits())),
    "poisson": (Censored(Poisson()), lambda: np.asarray(grouped(counts(), [0, 1, 2, 4, 5, 8, 11, np.inf], whole=True))),
    "truncated normal": (Truncated(Normal(), -1.0, 7.0), lambda: inside(normals(200), -1, 7)),
    "truncated exponential": (Truncated(Exponential(), 0.5, 40.0), lambda: inside(waits(), 0.5, 40)),
    "truncated poisson": (Truncated(Poisson(), low=1), lambda: inside(counts(), 1)),
    "gamma": (Censored(Gamma()), lambda: mixed_intervals(positive())),
    "log-normal": (Censored(LogNormal()), lambda: mixed_intervals(positive())),
    "weibull": (Censored(Weibull()), lambda: mixed_intervals(positive())),
    "weibull on the right": (Censored(Weibull()), lambda: np.asarray(limited(positive(), high=11.0))),
    "binomial": (Censored(Binomial(20)), lambda: np.asarray(grouped(counts(), [0, 1, 2, 4, 5, 8, 11, 21], whole=True))),
    "truncated gamma": (Truncated(Gamma(), 0.5, 14.0), lambda: inside(positive(), 0.5, 14)),
    "truncated log-normal": (Truncated(LogNormal(), 0.5, 14.0), lambda: inside(positive(), 0.5, 14)),
    "truncated weibull": (Truncated(Weibull(), 0.5, 14.0), lambda: inside(positive(), 0.5, 14)),
    "truncated binomial": (Truncated(Binomial(20), low=1), lambda: inside(counts(), 1)),
    "beta": (Censored(Beta()), lambda: shares_in_part()),
    "truncated beta": (Truncated(Beta(), 0.05, 0.9), lambda: inside(shares(), 0.05, 0.9)),
    "negative binomial": (Censored(NegativeBinomial()), lambda: counts_in_part()),
    "truncated negative binomial": (Truncated(NegativeBinomial(), low=1), lambda: inside(spread_counts(), 1)),
    "student t": (Censored(StudentT()), lambda: mixed_intervals(heavy())),
    "student t, tied": (Censored(StudentT("tied")), lambda: mixed_intervals(heavy())),
    "student t, given": (Censored(StudentT(3.0)), lambda: mixed_intervals(heavy())),
    "truncated student t": (Truncated(StudentT(), -3.0, 15.0), lambda: inside(heavy(), -3, 15)),
    "truncated student t, tied": (Truncated(StudentT("tied"), low=-3.0), lambda: inside(heavy(), -3)),
    "von mises": (Censored(VonMises()), lambda: arcs_of_angles()),
    "truncated von mises": (
        Truncated(VonMises(), -0.5, 4.0),
        lambda: angles(200)[(angles(200) >= -0.5) | (angles(200) <= 4 - 2 * np.pi)],
    ),
    "truncated arcs": (Truncated(Censored(VonMises()), 0.5, 5.5), lambda: arcs_between()),
    "truncated groups": (
        Truncated(Censored(Normal()), -2.0),
        lambda: np.asarray(grouped(inside(normals(), -2, 9), np.arange(-2.0, 10.0))),
    ),
}
EVERYTHING = pytest.mark.everything
DEAR = ("truncated beta", "truncated negative binomial")
CHEAP = ("normal", "truncated normal", "poisson")
PRECISIONS = ("float64", "float32")
TABLE = [
    pytest.param(name, precision, marks=() if name in CHEAP and precision == "float64" else pytest.mark.everything)
    for name in ROWS
    for precision in PRECISIONS
]


@pytest.mark.parametrize(("name", "precision"), TABLE)
def test_every_law_holds_in_a_mixture(name, precision):
    family, draw = ROWS[name]
    x = jnp.asarray(draw(), precision)
    model = Mixture(family, 2)
    start = model.init(jax.random.key(0), x)
    fit = jaxem.fit(model, start, x, max_steps=200)
    for point in (start, fit.params):
        certificate = jaxem.verify(model, point, x)
        assert certificate.ok, certificate


@pytest.mark.parametrize("name", ["normal", pytest.param("truncated normal", marks=pytest.mark.everything)])
def test_every_law_holds_in_a_chain(name):
    family, draw = ROWS[name]
    x = jnp.asarray(draw())[:100]
    x = x.reshape(5, 20, *x.shape[1:])
    model = HMM(family, 2)
    start = model.init(jax.random.key(0), x)
    fit = jaxem.fit(model, start, x, max_steps=200)
    for point in (start, fit.params):
        certificate = jaxem.verify(model, point, x)
        assert certificate.ok, certificate


def direct(minus, start):
    best = optimize.minimize(minus, start, method="BFGS", options={"gtol": 1e-9})
    return optimize.minimize(minus, best.x, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13})


@pytest.mark.slow
def test_the_maximum_of_censored_normals_is_that_of_a_direct_search():
    x = mixed_intervals(normals())
    model = Mixture(Censored(Normal()), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, max_steps=5000, tol=1e-14)
    exact = x[:, 0] == x[:, 1]

    def minus(u):
        m, s = u[0], np.exp(u[1])
        low, high = x[~exact].T
        return (
            -stats.norm.logpdf(x[exact, 0], m, s).sum()
            - np.log(stats.norm.cdf(high, m, s) - stats.norm.cdf(low, m, s)).sum()
        )

    best = direct(minus, [1.0, 0.5])
    assert float(fit.objective) == pytest.approx(-best.fun, rel=1e-10)
    np.testing.assert_allclose(fit.params.components.means, best.x[0], rtol=1e-5)


@pytest.mark.slow
def test_the_maximum_of_truncated_normals_is_that_of_a_direct_search():
    x = inside(normals(300)[::2], -1.5, 7)
    model = Mixture(Truncated(Normal(), -1.5, 7), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, max_steps=20000, tol=1e-14)

    def minus(u):
        m, s = u[0], np.exp(u[1])
        return -(stats.norm.logpdf(x, m, s) - np.log(stats.norm.cdf(7, m, s) - stats.norm.cdf(-1.5, m, s))).sum()

    assert float(fit.objective) == pytest.approx(-direct(minus, [2.0, 1.0]).fun, rel=1e-10)


@pytest.mark.slow
def test_closed_forms():
    """Right-censored waiting times: events over total time. Counts without zeros: rate / (1 - e^-rate) = mean."""
    x = limited(waits(), high=6.0)
    model = Mixture(Censored(Exponential()), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-14, max_steps=2000)
    events = float((x[:, 0] == x[:, 1]).sum())
    np.testing.assert_allclose(fit.params.components.rates[0], events / float(x[:, 0].sum()), rtol=1e-7)

    y = inside(np.random.default_rng(3).poisson(1.5, 200).astype(float), 1)
    model = Mixture(Truncated(Poisson(), low=1), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), y), y, tol=1e-14, max_steps=2000)
    rate = float(fit.params.components.rates[0])
    np.testing.assert_allclose(rate / -np.expm1(-rate), y.mean(), rtol=1e-7)


def test_points_are_the_plain_family():
    x = normals()
    model, plain = Mixture(Censored(Normal()), 2), Mixture(Normal(), 2)
    params = plain.init(jax.random.key(0), x)
    found = model.log_likelihood(params, np.stack([x, x], axis=1))
    np.testing.assert_allclose(found, plain.log_likelihood(params, x), rtol=1e-14)


def test_far_tails():
    """log P of a standard normal variable, to 16 digits (from 50 of mpmath)."""
    c = Normal().prepare(
        Mixture(Normal(), 1)
        .init(jax.random.key(0), normals())
        .components._replace(means=jnp.zeros(1), variances=jnp.ones(1)),
        None,
    )
    c = jax.tree.map(lambda leaf: leaf[None], c)
    low, high = jnp.array([[-40.0], [30.0], [5.0]]), jnp.array([[-39.0], [jnp.inf], [5.0078125]])
    wanted = np.array([[-765.0831565643775], [-454.3212439563432], [-18.290446542920602]])
    np.testing.assert_allclose(jax.jit(Normal().log_interval)(c, low, high), wanted, rtol=1e-15)


def test_impossible_data_are_refused():
    model = Mixture(Censored(Poisson()), 1)
    with pytest.raises(ValueError, match="low <= high"):
        model.init(jax.random.key(0), np.array([[3.0, 2.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="no value lies between"):
        Truncated(Poisson(), 1.2, 1.8)
    for family, why in ((Bernoulli(), "zeros and ones"), (Categorical((3,)), "order")):
        for seen in (Censored, lambda family: Truncated(family, 0, 1)):
            with pytest.raises(ValueError, match=f"cannot be seen in part: .*{why}"):
                seen(family)
    with pytest.raises(ValueError, match="has no bounds"):
        Censored(ZeroInflated(Poisson()))


@pytest.mark.parametrize("name", [pytest.param(name, marks=EVERYTHING if name in DEAR else ()) for name in ROWS])
@pytest.mark.slow
def test_samples_are_possible(name):
    family, draw = ROWS[name]
    model = Mixture(family, 2)
    params = model.init(jax.random.key(0), draw())
    x = model.sample(jax.random.key(1), params, 200)
    assert np.isfinite(
        model.log_prob(params, x) if hasattr(model, "log_prob") else model.log_likelihood(params, x)
    ).all()


LOW = np.array([1.2, 0.5, -np.inf, 2, 3.3, 1, 4.1, 2.5, 0.3, -np.inf, 2.2, 3.0])
HIGH = np.array([1.2, 1.5, 0.8, np.inf, 3.3, 2, np.inf, 3.5, 0.3, 1.1, 2.2, 3.0])


def test_the_fits_of_survreg():
    """survival 3.5-3 in R: survreg(Surv(low, high, type = "interval2") ~ 1), rel.tolerance = 1e-14."""
    x = np.stack([LOW, HIGH], axis=1)
    model = Mixture(Censored(Normal()), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-14, max_steps=5000)
    np.testing.assert_allclose(fit.objective, -18.573449710538426, rtol=1e-12)
    np.testing.assert_allclose(fit.params.components.means[0], 1.965194045391154, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(fit.params.components.variances[0]), 1.525063759362322, rtol=1e-6)
    errors = jaxem.inference.standard_errors(model, fit.params, x).components
    scale = 2 * float(fit.params.components.variances[0])  # of d variance / d log scale
    np.testing.assert_allclose(
        [errors.means[0], errors.variances[0] / scale], [0.462117820392815, 0.268288974468028], rtol=1e-5
    )

    model = Mixture(Censored(Exponential()), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-14, max_steps=5000)
    np.testing.assert_allclose(fit.objective, -18.219339466591716, rtol=1e-12)
    np.testing.assert_allclose(fit.params.components.rates[0], 0.447028714900047, rtol=1e-6)
    errors = jaxem.inference.standard_errors(model, fit.params, x).components
    np.testing.assert_allclose(errors.rates[0] / fit.params.components.rates[0], 0.317499712034416, rtol=1e-5)


def direct_in_part(density, of_interval, x, start):
    """The largest log-likelihood of intervals ``x``, and where: densities and probabilities of intervals by scipy."""
    exact = x[:, 0] == x[:, 1]

    def minus(u):
        total = density(u, x[exact, 0]).sum() + np.log(of_interval(u, *x[~exact].T)).sum()
        return -total if np.isfinite(total) else np.inf

    best = optimize.minimize(
        minus, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 9999}
    )
    return -best.fun, best.x


BY_SCIPY = {
    "weibull": (Weibull(), lambda u: stats.weibull_min(np.exp(u[0]), scale=np.exp(u[1]))),
    "gamma": (Gamma(), lambda u: stats.gamma(np.exp(u[0]), scale=np.exp(-u[1]))),
    "log-normal": (LogNormal(), lambda u: stats.lognorm(np.exp(u[1] / 2), scale=np.exp(u[0]))),
}


@pytest.mark.parametrize("name", ["weibull", "gamma", pytest.param("log-normal", marks=pytest.mark.everything)])
def test_the_maximum_is_that_of_a_direct_search(name):
    """Exact, left-censored, right-censored and grouped observations of one class."""
    family, dist = BY_SCIPY[name]
    x = np.stack([LOW, HIGH], axis=1)
    model = Mixture(Censored(family), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-14, max_steps=2000)
    part = lambda u, low, high: dist(u).cdf(high) - dist(u).cdf(low)
    value, at = direct_in_part(lambda u, x: dist(u).logpdf(x), part, x, np.zeros(2))
    assert float(fit.objective) == pytest.approx(value, rel=1e-10)
    first, second = (float(leaf[0]) for leaf in fit.params.components)
    found = [first if name == "log-normal" else np.log(first), np.log(second)]
    np.testing.assert_allclose(found, at, atol=2e-6)


@pytest.mark.everything
@pytest.mark.parametrize("name", list(BY_SCIPY))
def test_the_maximum_of_truncated_observations_is_that_of_a_direct_search(name):
    family, dist = BY_SCIPY[name]
    x = inside(dist(np.array([0.5, 0.3])).rvs(150, random_state=np.random.default_rng(4)), 0.4, 3.0)
    model = Mixture(Truncated(family, 0.4, 3.0), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-15, max_steps=20000)

    def density(u, x):
        return dist(u).logpdf(x) - np.log(dist(u).cdf(3.0) - dist(u).cdf(0.4))

    value, _ = direct_in_part(density, lambda u, *ends: np.ones(0), np.stack([x, x], axis=1), np.array([0.5, 0.3]))
    assert float(fit.objective) == pytest.approx(value, rel=1e-8)


SEEN_SHARES = np.stack([LOW, HIGH], axis=1).clip(0, 5) / 5
SEEN_COUNTS = np.array(
    [(0, 1), (2, 2), (0, 4), (5, np.inf), (7, 7), (3, 6), (0, 0), (1, 2), (12, np.inf), (4, 4), (0, 2), (9, 14)]
)
COUNTS_ABOVE_ZERO = np.array([2, 2, 7, 4, 9, 1, 1, 3])[:, None].repeat(2, axis=1)


def beta_of(u):
    return stats.beta(np.exp(u[0]), np.exp(u[1]))


def counts_of(u):
    """From log mean and log dispersion."""
    return stats.nbinom(np.exp(-u[1]), 1 / (1 + np.exp(u[0] + u[1])))


@pytest.mark.parametrize(
    ("family", "x", "dist"),
    [
        pytest.param(Censored(Beta()), SEEN_SHARES, beta_of, id="beta"),
        pytest.param(Censored(NegativeBinomial()), SEEN_COUNTS, counts_of, id="negative binomial"),
        pytest.param(Truncated(NegativeBinomial(), 1), COUNTS_ABOVE_ZERO, counts_of, marks=EVERYTHING, id="truncated"),
    ],
)
def test_the_maximum_of_shares_and_counts_is_that_of_a_direct_search(family, x, dist):
    """A negative binomial count hides its seating too."""
    whole, cut = dist is counts_of, isinstance(family, Truncated)
    model = Mixture(family, 1)
    data = x[:, 0] if cut else x
    fit = jaxem.fit(model, model.init(jax.random.key(0), data), data, tol=1e-15, max_steps=5000)

    def density(u, x):
        return (dist(u).logpmf(x) if whole else dist(u).logpdf(x)) - (np.log(dist(u).sf(0)) if cut else 0)

    value, at = direct_in_part(
        density, lambda u, low, high: dist(u).cdf(high) - dist(u).cdf(low - whole), x, np.zeros(2)
    )
    assert float(fit.objective) == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose([float(np.log(leaf[0])) for leaf in fit.params.components], at, atol=1e-5)


def log_of_shares(low, high):
    """log P of a beta variable, as a function of its shapes; from the nearer end."""
    ends = (low, high) if low + high < 1 else (1 - high, 1 - low)
    shapes = (lambda a, b: (a, b)) if low + high < 1 else (lambda a, b: (b, a))
    return lambda a, b: mpmath.log(mpmath.betainc(*shapes(a, b), *ends, regularized=True))


def log_of_counts(low, high):
    def of(m, phi):
        size, share = 1 / phi, phi * m / (1 + phi * m)
        first = mpmath.gamma(low + size) / mpmath.gamma(low + 1) / mpmath.gamma(size) * (1 - share) ** size
        term, total, x = first * share**low, mpmath.mpf(0), low
        while x <= high and term > total * mpmath.mpf(10) ** -36:
            total, term, x = total + term, term * (x + size) / (x + 1) * share, x + 1
        return mpmath.log(total)

    return of


SHAPES = (0.001, 0.002), (0.5, 0.25), (2.0, 5.0), (32.0, 3.0), (1e-6, 1.0)
SHARES = (0, 0.25), (0.25, 1), (0.25, 0.75), (1 - 2**-10, 1), (2**-20, 2**-17), (0.25, 0.25 + 2**-20)
SPREADS = (3.0, 0.5), (40.0, 0.125), (0.25, 3.0), (7.0, 2**-30)
COUNTS = (0, 2), (1, np.inf), (5, 9), (60, np.inf), (200, 210)
IN_PART = {
    "beta": (Beta(), BetaParams, log_of_shares, [(*p, *ends) for p in SHAPES for ends in SHARES]),
    "negative binomial": (
        *(NegativeBinomial(), NegativeBinomialParams, log_of_counts),
        [(*p, *ends) for p in SPREADS for ends in COUNTS],
    ),
}


@pytest.mark.parametrize("name", list(IN_PART))
@pytest.mark.slow
def test_probabilities_of_intervals_of_shares_and_counts(name, dtype):
    """log P and its derivatives in the parameters against 40 digits."""
    family, params, exact, rows = IN_PART[name]
    first, second, low, high = (jnp.asarray(np.array(column), dtype)[:, None] for column in zip(*rows, strict=True))
    of = lambda *p: family.log_interval(family.prepare(params(*p), None), low, high)

    def by_moments(*p):
        """Fisher's identity: the derivative of log P is that of E log p(x, hidden) at fixed moments."""
        u = family.between(family.prepare(params(*p), None), low, high)
        of = lambda *p: family.expected_log_density(family.prepare(params(*p), None), u).sum()
        return jax.grad(of, (0, 1))(*p)

    both = jax.jit(lambda *p: (of(*p), jax.grad(lambda *p: of(*p).sum(), (0, 1))(*p), by_moments(*p)))
    found, slopes, others = both(first, second)
    with mpmath.workdps(40):
        for i in range(len(rows)):
            *p, start, end = (mpmath.mpf(float(column[i, 0])) for column in (first, second, low, high))
            f = exact(start, end)
            value, step = f(*p), mpmath.mpf(10) ** -12
            ahead = [(f(p[0] * (1 + s), p[1]), f(p[0], p[1] * (1 + s))) for s in (step, -step)]
            wanted = [float((a - b) / (2 * step)) for a, b in zip(*ahead, strict=True)]  # in the logarithms
            moved = sum(map(abs, wanted))  # what errors of eps in the parameters change
            if name == "beta":  # and in the ends
                a, b = p
                log_f = lambda x, a=a, b=b: (
                    a * mpmath.log(x) + (b - 1) * mpmath.log(1 - x) - mpmath.log(mpmath.beta(a, b))
                )
                moved += sum(float(mpmath.exp(log_f(x) - value)) for x in (start, end) if 0 < x < 1)
            assert_within(found[i, 0], float(value), 16 * eps(dtype) * (abs(float(value)) + moved))
            added = 0 if name == "beta" else float(max(p[0], start))  # terms of the size of E x cancel
            for own, other, slope, at in zip(slopes, others, wanted, p, strict=True):
                assert_within(own[i, 0] * float(at), slope, 16 * eps(dtype) * (1 + moved))
                assert_within(other[i, 0] * float(at), slope, 16 * eps(dtype) * (1 + moved + added))


@pytest.mark.slow
def test_the_weibull_fit_of_survreg():
    """In R: survival 3.5-3, survreg(Surv(low, high, type = "interval2") ~ 1, dist = "weibull")."""
    x = np.stack([LOW, HIGH], axis=1)
    model = Mixture(Censored(Weibull()), 1)
    params = model.init(jax.random.key(0), x)
    at = WeibullParams(jnp.array([1 / 0.773330225545396]), jnp.array([np.exp(0.832640528673379)]))
    found = model.log_likelihood(params._replace(components=at), x)
    np.testing.assert_allclose(found, -17.8876631866033, rtol=1e-12)
    errors = jaxem.inference.standard_errors(model, params._replace(components=at), x).components
    relative = [errors.scales[0] / at.scales[0], errors.shapes[0] / at.shapes[0]]  # of log scale, log shape
    np.testing.assert_allclose(relative, [0.248437038778, 0.299054953492], rtol=1e-6)


# The family, its parameters for one class, and the same distribution of scipy.
ONE = {
    "student t": (
        *(StudentT(), StudentTParams(jnp.array([0.5]), jnp.array([0.6]), jnp.array([0.25]))),
        stats.t(4, 0.5, 0.6**0.5),
    ),
    "beta": (Beta(), BetaParams(jnp.array([2.5]), jnp.array([0.75])), stats.beta(2.5, 0.75)),
    "normal": (Normal(), NormalParams(jnp.array([0.5]), jnp.array([0.6])), stats.norm(0.5, 0.6**0.5)),
    "exponential": (Exponential(), ExponentialParams(jnp.array([0.5])), stats.expon(scale=2)),
    "gamma": (Gamma(), GammaParams(jnp.array([2.5]), jnp.array([0.7])), stats.gamma(2.5, scale=1 / 0.7)),
    "weibull": (Weibull(), WeibullParams(jnp.array([1.7]), jnp.array([3.0])), stats.weibull_min(1.7, scale=3)),
    "log-normal": (
        LogNormal(),
        NormalParams(jnp.array([0.5]), jnp.array([0.6])),
        stats.lognorm(0.6**0.5, scale=np.exp(0.5)),
    ),
}


@pytest.mark.parametrize("name", list(ONE))
@pytest.mark.slow
def test_draws_and_means_within_limits(name):
    """Draws by their distribution function, means by quadrature."""
    family, params, dist = ONE[name]
    unit = 0.1 if name == "beta" else 1.0
    low, high = unit * np.array([1.0, 0.0, 3.0])[:, None], unit * np.array([4.0, 2.0, 8.0])[:, None]
    c = jax.tree.map(lambda leaf: leaf[None], family.prepare(params, None))
    means = np.asarray(jax.jit(family.mean_between)(c, jnp.asarray(low), jnp.asarray(high)))[:, 0]
    draws = jax.jit(lambda a, b: family.sample_between(jax.random.key(1), params, jnp.zeros(800, int), a, b))
    for a, b, mean in zip(low[:, 0], high[:, 0], means, strict=True):
        wanted = dist.expect(lambda x: x, lb=a, ub=b, conditional=True, epsabs=1e-13, epsrel=1e-12)
        assert mean == pytest.approx(wanted, rel=1e-9)
        x = np.asarray(draws(a, b))
        u = (dist.sf(a) - dist.sf(x)) / (dist.sf(a) - dist.sf(b))
        assert stats.kstest(u, "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_draws_and_means_of_counts_within_limits():
    params, dist = NegativeBinomialParams(jnp.array([6.0]), jnp.array([0.5])), stats.nbinom(2, 0.25)
    low, high = jnp.array([[2.0], [0.0]]), jnp.array([[7.0], [jnp.inf]])
    means = jax.jit(NegativeBinomial().mean_between)(jax.tree.map(lambda leaf: leaf[None], params), low, high)[:, 0]
    draws = jax.jit(
        lambda a, b: NegativeBinomial().sample_between(jax.random.key(1), params, jnp.zeros(800, int), a, b)
    )
    for a, b, mean in zip(low[:, 0], high[:, 0], means, strict=True):
        x = np.arange(float(a), min(float(b), 400) + 1)
        p = dist.pmf(x) / dist.pmf(x).sum()
        np.testing.assert_allclose(mean, p @ x, rtol=1e-13)
        found = np.asarray(draws(a, b))
        wanted = np.r_[p[:8], 1 - p[:8].sum()].clip(1e-300) * len(found)
        seen = np.r_[[(found == i).sum() for i in x[:8]], 0][: len(wanted)]
        seen[-1] = len(found) - seen[:-1].sum()
        assert (((seen - wanted) ** 2 / wanted)[wanted > 1]).sum() < stats.chi2(8).ppf(0.999)


@pytest.mark.slow
def test_probabilities_of_intervals_of_a_gamma_variable(dtype):
    """log P, its derivative in the shape, E x and E log x against 40 digits, for shapes from 1e-3 to 25."""
    rows = [
        (a, low * a / 1.7, high * a / 1.7)
        for a in (1e-3, 0.3, 1.0, 25.0)
        for low, high in ((0, 1), (1, np.inf), (0.5, 2), (0.999, 1), (1.01, 1.02), (1e-6, 0.9), (0, 1 + 9 / a**0.5))
    ]
    a, low, high = (jnp.asarray(column, dtype)[:, None] for column in zip(*rows, strict=True))
    family, rate = Gamma(), jnp.full_like(a, 1.7)
    of = lambda a: family.log_interval(family.prepare(GammaParams(a, rate), None), low, high)
    both = jax.jit(lambda a: (of(a), jax.grad(lambda a: of(a).sum())(a)))
    found, slope = (np.asarray(v, float)[:, 0] for v in both(a))
    u = jax.jit(lambda a: family.between(family.prepare(GammaParams(a, rate), None), low, high))(a)
    growth, excess = (np.asarray(v, float)[:, 0] for v in (u.growth, u.excess))
    exact = lambda v: mpmath.mpf(float(v)) if np.isfinite(float(v)) else mpmath.inf
    with mpmath.workdps(40):
        for i in range(len(rows)):
            s, b, start, end = (exact(column[i, 0]) for column in (a, rate, low, high))
            log_p = lambda s, b=b, start=start, end=end: mpmath.log(
                mpmath.gammainc(s, start * b, end * b, regularized=True)
            )
            value, step = log_p(s), s * mpmath.mpf(10) ** -12
            wanted = (log_p(s + step) - log_p(s - step)) / (2 * step)
            # What errors of eps in the ends and in the parameters change.
            ends = [
                float(x * mpmath.exp((s - 1) * mpmath.log(x) - b * x + s * mpmath.log(b) - mpmath.loggamma(s) - value))
                for x in (start, end)
                if 0 < x < mpmath.inf
            ]
            moved = sum(ends) + abs(float(s * wanted))
            bend = (float(s) ** 0.5 + 1) * (sum(ends) + 1)
            assert_within(found[i], float(value), 16 * eps(dtype) * (abs(float(value)) + moved))
            assert_within(slope[i] * float(s), float(s * wanted), 16 * eps(dtype) * (1 + moved) * bend)
            mean = mpmath.gammainc(s + 1, start * b, end * b) / mpmath.gammainc(s, start * b, end * b) / s
            log_mean = wanted + mpmath.digamma(s) - mpmath.log(s)
            assert_within(growth[i], float(mean - 1), 16 * eps(dtype) * (1 + abs(float(mean - 1))))
            gap = float(mean - 1 - log_mean)
            assert_within(excess[i], gap, 64 * eps(dtype) * gap * (1 + (ends and max(ends)) / max(gap, 1e-6) ** 0.5))


def heavy_in_part():
    found = mixed_intervals(1 + 1.5 * np.random.default_rng(9).standard_t(2.5, 60))
    return found[np.arange(60) != 5]


def t_of(u):
    """From the location and the logarithms of the squared scale and of 1 / nu."""
    return stats.t(np.exp(-u[2]), u[0], np.exp(u[1] / 2))


@pytest.mark.everything
@pytest.mark.parametrize("given", [False, True])
def test_the_maximum_of_t_variables_seen_in_part_is_that_of_a_direct_search(given):
    """The scale of each observation is hidden beside the observation."""
    x = heavy_in_part()
    model = Mixture(Censored(StudentT(3.0 if given else "free")), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, algorithm=SQUAREM(), tol=1e-14, max_steps=500)
    of = lambda u: t_of(np.r_[u, -np.log(3)] if given else u)
    part = lambda u, low, high: of(u).cdf(high) - of(u).cdf(low)
    value, at = direct_in_part(lambda u, x: of(u).logpdf(x), part, x, np.array([1.0, 1.0, -1.0])[: 2 if given else 3])
    assert float(fit.objective) == pytest.approx(value, rel=1e-10)
    location, scale, *tails = (float(leaf[0]) for leaf in jax.tree.leaves(fit.params.components))
    np.testing.assert_allclose([location, *np.log([scale, *tails])], at, atol=1e-5)


@pytest.mark.everything
def test_the_maximum_of_truncated_t_variables_is_that_of_a_direct_search():
    x = inside(stats.t(3, 1, 1.5).rvs(300, random_state=np.random.default_rng(2)), -1)
    model = Mixture(Truncated(StudentT(), -1.0), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, algorithm=SQUAREM(), tol=1e-14, max_steps=2000)
    density = lambda u, x: t_of(u).logpdf(x) - np.log(t_of(u).sf(-1))
    start = np.array([1.0, 0.8, -1.0])
    value, _ = direct_in_part(density, lambda u, *ends: np.ones(0), np.stack([x, x], axis=1), start)
    assert float(fit.objective) == pytest.approx(value, rel=1e-9)


def log_of_t(low, high):
    """log P of a t variable, as a function of its location, its squared scale and 1 / nu; from the nearer tail."""

    def of(location, square, tail):
        nu = 1 / tail if tail else mpmath.inf

        def beyond(z):
            if z == mpmath.inf:
                return mpmath.mpf(0)
            if nu == mpmath.inf:
                return mpmath.ncdf(-z)
            return mpmath.betainc(nu / 2, mpmath.mpf(1) / 2, 0, nu / (nu + z * z), regularized=True) / 2

        a, b = ((end - location) / mpmath.sqrt(square) for end in (low, high))
        if a >= 0 or b <= 0:
            a, b = sorted((abs(a), abs(b)))
            return mpmath.log(beyond(a) - beyond(b))
        return mpmath.log1p(-beyond(-a) - beyond(b))

    return of


FREEDOMS = 0.05, 0.3, 1.0, 3.0, 30.0, 1e4, np.inf
SEEN_T = (-1, 2), (0.5, np.inf), (-np.inf, -3), (20, np.inf), (100, 101), (4, 4.0078125), (-np.inf, 6), (-6, np.inf)


@pytest.mark.slow
def test_probabilities_of_intervals_of_a_t_variable(dtype):
    """log P and its derivatives, also by Fisher's identity, to 40 digits: where z^2 overflows, to the normal edge."""
    rows = [(1 / nu, *ends) for nu in FREEDOMS for ends in SEEN_T]
    tail, low, high = (jnp.asarray(np.array(column), dtype)[:, None] for column in zip(*rows, strict=True))
    family, at = StudentT(), (jnp.full_like(tail, 0.25), jnp.full_like(tail, 1.75), tail)
    # A class for each row: the context of its own parameters.
    context = lambda *p: jax.tree.map(
        lambda leaf: leaf[:, None], family.prepare(StudentTParams(*(a[:, 0] for a in p)), None)
    )
    of = lambda *p: family.log_interval(context(*p), low, high)

    def by_moments(*p):
        u = family.between(context(*p), low, high)
        return jax.grad(lambda *p: family.expected_log_density(context(*p), u).sum(), (0, 1, 2))(*p)

    both = jax.jit(lambda *p: (of(*p), jax.grad(lambda *p: of(*p).sum(), (0, 1, 2))(*p), by_moments(*p)))
    found, slopes, others = both(*at)
    with mpmath.workdps(40):
        for i in range(len(rows)):
            *p, start, end = (mpmath.mpf(float(column[i, 0])) for column in (*at, low, high))
            f, step = log_of_t(start, end), mpmath.mpf(10) ** -15
            value, wanted = f(*p), []
            for j in range(3):
                ahead, behind = ([q * (1 + s) if k == j else q for k, q in enumerate(p)] for s in (step, -step))
                wanted.append(float((f(*ahead) - f(*behind)) / (2 * step)) if p[j] else 0.0)
            moved = sum(map(abs, wanted))
            reach = max([abs(float(x)) for x in (start, end) if abs(x) < mpmath.inf])  # errors of eps in the ends
            moved += abs(wanted[0]) / float(p[0]) * reach
            assert_within(found[i, 0], float(value), 16 * eps(dtype) * (abs(float(value)) + moved))
            for own, other, slope, q in zip(slopes, others, wanted, p, strict=True):
                assert_within(own[i, 0] * float(q), slope, 16 * eps(dtype) * (1 + moved))
                assert_within(other[i, 0] * float(q), slope, 16 * eps(dtype) * (1 + moved))


@pytest.mark.slow
def test_means_of_t_variables_beyond_a_limit():
    """E[x | x > a] of nu degrees of freedom: (nu + a^2) / (nu - 1) f(a) / P(x > a), infinite from nu = 1 down."""
    nu, a = np.array([0.5, 1.0, 1.0 + 1e-7, 1.5, 4.0, 1e7]), np.array([[-30.0], [0.0], [2.0], [50.0]])
    params = StudentTParams(jnp.zeros(6), jnp.ones(6), jnp.asarray(1 / nu))
    c = jax.tree.map(lambda leaf: leaf[None], StudentT().prepare(params, None))
    mean = jax.jit(StudentT().mean_between)
    found = np.asarray(mean(c, jnp.asarray(a), jnp.full_like(a, np.inf)))
    assert np.isposinf(found[:, :2]).all()
    for row, end in zip(found, a[:, 0], strict=True):
        some = nu[2:] if end < 40 else nu[2:-1]  # beyond, the tail of 1e7 degrees of freedom underflows
        dist = stats.t(some)
        wanted = (some + end**2) / (some - 1) * np.exp(dist.logpdf(end) - dist.logsf(end))
        np.testing.assert_allclose(row[2:][: len(some)], wanted, rtol=1e-8)
    np.testing.assert_array_equal(mean(c, jnp.full((1, 1), -np.inf), jnp.full((1, 1), np.inf)), np.zeros((1, 6)))
    mirrored = np.asarray(mean(c, jnp.full_like(a, -np.inf), jnp.asarray(-a)))
    np.testing.assert_allclose(mirrored, -found, rtol=1e-14)


def test_probabilities_near_one():
    """log P of nearly all counts is minus what is outside, to its own precision."""
    rate, none = jnp.array([[7.3]]), jnp.array([[0.0]])
    poisson = jax.jit(Poisson().log_interval)
    for high in (20.0, 30.0, 60.0):
        found = float(poisson(PoissonParams(rate), none, jnp.array([[high]]))[0, 0])
        wanted = np.log1p(-stats.poisson(7.3).sf(high))
        assert found == pytest.approx(wanted, rel=1e-12)
    found = float(poisson(PoissonParams(rate), none + 1, jnp.array([[20.0]]))[0, 0])  # both ends leave something out
    assert found == pytest.approx(np.log1p(-np.exp(-7.3) - stats.poisson(7.3).sf(20)), rel=1e-14)
    found = float(poisson(PoissonParams(rate), none + 1, jnp.array([[jnp.inf]]))[0, 0])
    assert found == pytest.approx(np.log1p(-np.exp(-7.3)), rel=1e-14)
    binomial = jax.jit(Binomial(40).log_interval)(BinomialParams(jnp.array([[0.2]])), none, jnp.array([[30.0]]))
    assert float(binomial[0, 0]) == pytest.approx(np.log1p(-stats.binom(40, 0.2).sf(30)), rel=1e-12)


@pytest.mark.slow
def test_means_and_imputation():
    """Of waiting times censored at c: c + 1 / rate. Truncated: the mean of what is recorded."""
    x = limited(waits(40), high=6.0)
    model = Mixture(Censored(Exponential()), 1)
    params = model.init(jax.random.key(0), x)
    rate = float(params.components.rates[0])
    found = np.asarray(jaxem.impute(model, params, x))
    censored = np.isinf(np.asarray(x[:, 1]))
    assert censored.any()
    np.testing.assert_allclose(found[censored], 6 + 1 / rate, rtol=1e-13)
    np.testing.assert_array_equal(found[~censored], x[~censored])
    drawn = np.asarray(jaxem.impute(model, params, x, key=jax.random.key(1)))
    assert (drawn[censored] > 6).all() and (drawn[~censored] == np.asarray(x)[~censored]).all()
    [(_, mean)] = protocol.means(Censored(Exponential()), params.components)
    np.testing.assert_allclose(mean, 1 / rate, rtol=1e-15)

    family, params, dist = ONE["normal"]
    wanted = dist.expect(lambda x: x, lb=0, ub=2, conditional=True)
    for truncated in (Truncated(family, 0, 2), Truncated(Censored(family), 0, 2)):
        [(_, mean)] = protocol.means(truncated, params)
        np.testing.assert_allclose(mean, wanted, rtol=1e-9)


@pytest.mark.slow
def test_simulated_data_are_censored_in_a_known_way_or_not_at_all():
    key, y = jax.random.key(0), normals(60)
    x = limited(y, -1, 4)
    for model, data in ((Mixture(Censored(Normal()), 2), x), (HMM(Censored(Normal()), 2), x.reshape(4, 15, 2))):
        params = model.init(key, data)
        with pytest.raises(ValueError, match="how exact observations would have been censored"):
            model.sample_like(key, params, data)
        known = type(model)(Censored(Normal(), limits=(-1, 4)), 2)
        drawn = np.asarray(known.sample_like(key, params, data))
        assert drawn.shape == data.shape
        exact = drawn[..., 0] == drawn[..., 1]
        assert (drawn[exact] >= -1).all() and (drawn[exact] <= 4).all()
        assert set(drawn[~exact].ravel()) == {-np.inf, -1, 4, np.inf}
    grouped_model = Mixture(Censored(Poisson(), edges=(1, 3, 6)), 1)
    start = grouped_model.init(key, grouped(counts(), [0, 1, 3, 6, np.inf], whole=True))
    drawn = {tuple(row) for row in np.asarray(grouped_model.sample(key, start, 200)).tolist()}
    assert drawn == {(0, 0), (1, 2), (3, 5), (6, np.inf)}
    for wrong in ({"edges": (1, 1)}, {"limits": (2, 1)}, {"edges": (0, 1), "limits": (0, 1)}):
        with pytest.raises(ValueError, match=r"increase|not both"):
            Censored(Normal(), **wrong)
