"""Observations seen in part: every law, the same maximum as direct searches, and survival's survreg."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

import jaxem
from jaxem.families import Censored, Exponential, Normal, NormalParams, Poisson, Truncated, grouped, limited, protocol
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


def inside(x, low, high=np.inf):
    return x[(x >= low) & (x <= high)]


ROWS = {
    "normal": (Censored(Normal()), lambda: mixed_intervals(normals())),
    "exponential": (Censored(Exponential()), lambda: mixed_intervals(waits())),
    "poisson": (Censored(Poisson()), lambda: np.asarray(grouped(counts(), [0, 1, 2, 4, 5, 8, 11, np.inf], whole=True))),
    "truncated normal": (Truncated(Normal(), -1.0, 7.0), lambda: inside(normals(200), -1, 7)),
    "truncated exponential": (Truncated(Exponential(), 0.5, 40.0), lambda: inside(waits(), 0.5, 40)),
    "truncated poisson": (Truncated(Poisson(), low=1), lambda: inside(counts(), 1)),
    "truncated groups": (
        Truncated(Censored(Normal()), -2.0),
        lambda: np.asarray(grouped(inside(normals(), -2, 9), np.arange(-2.0, 10.0))),
    ),
}
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


def test_the_maximum_of_truncated_normals_is_that_of_a_direct_search():
    x = inside(normals(300)[::2], -1.5, 7)
    model = Mixture(Truncated(Normal(), -1.5, 7), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, max_steps=20000, tol=1e-14)

    def minus(u):
        m, s = u[0], np.exp(u[1])
        return -(stats.norm.logpdf(x, m, s) - np.log(stats.norm.cdf(7, m, s) - stats.norm.cdf(-1.5, m, s))).sum()

    assert float(fit.objective) == pytest.approx(-direct(minus, [2.0, 1.0]).fun, rel=1e-10)


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
    np.testing.assert_allclose(Normal().log_interval(c, low, high), wanted, rtol=1e-15)


def test_impossible_data_are_refused():
    model = Mixture(Censored(Poisson()), 1)
    with pytest.raises(ValueError, match="low <= high"):
        model.init(jax.random.key(0), np.array([[3.0, 2.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="no value lies between"):
        Truncated(Poisson(), 1.2, 1.8)
    with pytest.raises(ValueError, match="seen in part"):
        Censored(jaxem.families.Bernoulli())


@pytest.mark.parametrize("name", list(ROWS))
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


@pytest.mark.parametrize("family", [Censored(Normal()), Truncated(Normal(), 0.0)], ids=str)
def test_no_means_are_made_up(family):
    with pytest.raises(ValueError, match="has no means to print"):
        protocol.means(family, NormalParams(jnp.zeros(2), jnp.ones(2)))
