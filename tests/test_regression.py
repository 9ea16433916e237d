"""Regressions: densities, single regressions against R, mixtures against direct maximisation, difficult data."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps
from scipy import special, stats

import jaxem
from jaxem import datasets
from jaxem.core import coordinates
from jaxem.families import (
    Bernoulli,
    Binomial,
    Categorical,
    Censored,
    Gamma,
    NegativeBinomial,
    Normal,
    Poisson,
    Product,
    Regression,
    RegressionParams,
    StudentT,
)
from jaxem.gates import Softmax
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N = 120
X = RNG.normal(size=(N, 2))
CLASS = (RNG.random(N) < 0.4).astype(int)
ETA = (np.c_[np.ones(N), X] * np.array([[0.5, 1.0, -0.5], [1.5, -1.0, 0.3]])[CLASS]).sum(axis=1)
P = 1 / (1 + np.exp(-ETA))
LINE = 2 * ETA + 0.5 * RNG.normal(size=N)
LINE_DATA = jaxem.dataset(LINE, given=X)
# Each response, its data, and the accuracy of its log-density in units of eps.
RESPONSES: dict[str, tuple[Regression, np.ndarray]] = {
    "normal": (Regression(Normal()), LINE),
    "t": (Regression(StudentT("tied")), 2 * ETA + 0.4 * RNG.standard_t(3, size=N)),
    "tobit": (Regression(Censored(Normal())), np.where(LINE[:, None] < 0, [-np.inf, 0.0], LINE[:, None])),
    "poisson": (Regression(Poisson()), RNG.poisson(np.exp(ETA)).astype(float)),
    "negative binomial": (
        Regression(NegativeBinomial()),
        RNG.negative_binomial(2, 2 / (2 + 3 * np.exp(ETA))).astype(float),
    ),
    "gamma": (Regression(Gamma()), RNG.gamma(3, np.exp(ETA) / 3)),
    "logit": (Regression(Binomial(12)), RNG.binomial(12, P).astype(float)),
    "probit": (Regression(Binomial(12), "probit"), RNG.binomial(12, P).astype(float)),
    "cloglog": (Regression(Binomial(12), "cloglog"), RNG.binomial(12, P).astype(float)),
}
TIED = {
    "normal, tied": dataclasses.replace(RESPONSES["normal"][0], tied=(1,)),
    "normal, all tied": dataclasses.replace(RESPONSES["normal"][0], tied=("intercept", "all")),
    "poisson, tied": dataclasses.replace(RESPONSES["poisson"][0], tied=(0,)),
    "negative binomial, tied": dataclasses.replace(RESPONSES["negative binomial"][0], tied="all", dispersion="tied"),
}
QUICK = ("poisson", "normal, tied")


def data_of(name: str) -> tuple[Regression, jaxem.Dataset]:
    base = name.split(",")[0]
    return TIED.get(name, RESPONSES[base][0]), jaxem.dataset(RESPONSES[base][1], given=X)


def scipy_density(name: str, y: np.ndarray, eta: np.ndarray, phi: float, tail: float) -> np.ndarray:
    mean = np.exp(eta)
    logs = {
        "logit": lambda: (-np.logaddexp(0, -eta), -np.logaddexp(0, eta)),
        "probit": lambda: (stats.norm.logcdf(eta), stats.norm.logcdf(-eta)),
        "cloglog": lambda: (np.log(-np.expm1(-mean)), -mean),
    }
    if name in logs:
        log_p, log_rest = logs[name]()
        return np.log(special.comb(12, y)) + y * log_p + (12 - y) * log_rest
    if name == "tobit":
        exact = stats.norm.logpdf(y[:, 1], eta, phi**0.5)
        return np.where(y[:, 0] == y[:, 1], exact, stats.norm.logcdf(y[:, 1], eta, phi**0.5))
    return {
        "normal": lambda: stats.norm.logpdf(y, eta, phi**0.5),
        "t": lambda: stats.t.logpdf(y, 1 / tail, eta, phi**0.5),
        "poisson": lambda: stats.poisson.logpmf(y, mean),
        "negative binomial": lambda: stats.nbinom.logpmf(y, 1 / phi, 1 / (1 + phi * mean)),
        "gamma": lambda: stats.gamma.logpdf(y, 1 / phi, scale=mean * phi),
    }[name]()


@pytest.mark.parametrize("name", RESPONSES)
def test_densities_are_those_of_scipy(name):
    family, data = data_of(name)
    beta = np.array([[0.3, 0.8, -0.4], [1.2, -0.9, 0.2]])
    declared = family.declare()
    params = RegressionParams(
        jnp.asarray(beta),
        dispersions=None if declared.dispersions is None else jnp.array([0.5, 1.4]),
        tails=None if declared.tails is None else jnp.asarray(0.2),
    )
    found = jax.jit(lambda params: family.log_density(family.prepare(params, data), data))(params)
    for k, phi in enumerate((0.5, 1.4)):
        wanted = scipy_density(name, RESPONSES[name][1], np.c_[np.ones(N), X] @ beta[k], phi, 0.2)
        assert_within(found[:, k], wanted, 4096 * eps("float64") * (1 + np.abs(wanted)))


D = datasets.patents()
BIG = (D["patents"] > 10).astype(float)
# lm, glm and glm.nb of R 4.3 on the patent data: coefficients and log-likelihood
BY_R = {
    "poisson": (Regression(Poisson(), on="lgrd"), D["patents"], (0.539236216529, 0.927870751086), -316.691462978),
    "counts": (Regression(NegativeBinomial(), on="lgrd"), D["patents"], (0.653063873, 0.883952757), -207.791623781),
    "logit": (Regression(Bernoulli(), on="lgrd"), BIG, (-7.04653377196, 3.03457383148), -10.7583912184),
    "probit": (Regression(Bernoulli(), "probit", on="lgrd"), BIG, (-3.87844823927, 1.68797435605), -10.6601477862),
    "cloglog": (Regression(Bernoulli(), "cloglog", on="lgrd"), BIG, (-5.852312913, 2.268957625), -10.3406959755),
    "normal": (Regression(Normal(), on="rds"), D["lgrd"], (1.288759652696, 0.238399669589), -150.909670908),
    "gamma": (Regression(Gamma(), on="lgrd"), D["rds"], (-2.58046598691, 0.16526445392), None),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.everything if name not in ("probit", "gamma") else ()) for name in BY_R],
)
def test_one_class_is_the_regression_of_R(name):
    family, y, wanted, objective = BY_R[name]
    model, data = Mixture(family, 1), jaxem.dataset(y, given=D)
    fit = jaxem.check(jaxem.fit(model, model.init(KEY, data), data, tol=1e-15, max_steps=500))
    components = fit.params.components
    # R stops where the deviance changes by 1e-14: the coefficients have half as many digits.
    assert_within(components.coefficients[0], wanted, 1e-7)
    if objective is None:
        assert_within(1 / components.dispersions[0], 0.598167244831, 1e-7)  # gamma.shape of MASS
    else:
        assert_within(fit.objective, objective, 1e-8)


def beaten(model: Any, fit: jaxem.Fit, data: Any) -> float:
    """How much higher a Newton step from the fit leads, by the Hessian of the log-likelihood in all coordinates; an
    error where that is not negative definite."""
    u, back = coordinates.into(model, fit.params), coordinates.chart(model, fit.params)
    value = lambda u: model.log_likelihood(back(u), data)
    slope, hessian = jax.jit(lambda u: (jax.grad(value)(u), jax.hessian(value)(u)))(u)
    live = np.asarray(coordinates.living(model, fit.params))
    half = np.linalg.solve(np.linalg.cholesky(-np.asarray(hessian)[live][:, live]), np.asarray(slope)[live])
    return float(half @ half / 2)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.everything) for name in (*RESPONSES, *TIED)]
)
@pytest.mark.slow
def test_mixtures_end_at_a_maximum(name):
    """By the Hessian of the log-likelihood itself; starts are not told the classes."""
    family, data = data_of(name)
    model = Mixture(family, 2)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(1), data), data, tol=1e-13, max_steps=3000))
    assert float(fit.objective) > float(fit.trace[0])
    assert beaten(model, fit, data) < 1e-8


def test_patents():
    """flexmix prints -197.6750 (Gruen & Leisch 2008, section 5.3), with a gate of slope -40."""
    d = datasets.patents()
    data = jaxem.dataset(d["patents"], given={"lgrd": d["lgrd"], "rds": d["rds"]})
    model = Mixture(Regression(Poisson(), on="lgrd"), 3, gate=Softmax(on="rds"))
    found = jaxem.fit_restarts(model, data, key=KEY, restarts=5, max_steps=2000)
    assert_within(found.best.objective, -197.67502, 1e-4)
    slopes = np.asarray(found.best.params.weights.coefficients)[:, 1]
    assert_within(slopes.min() - np.sort(slopes)[1], -40.3, 0.1)


@pytest.mark.slow
def test_crossing_lines_are_found_from_every_start():
    rng = np.random.default_rng(1)
    x, up = rng.normal(size=200), rng.random(200) < 0.5
    data = jaxem.dataset(np.where(up, x, -x) + 0.2 * rng.normal(size=200), given=x[:, None])
    model = Mixture(Regression(Normal()), 2)
    found = jaxem.fit_restarts(model, data, key=KEY, restarts=20, finalists=20, max_steps=300)
    assert int(found.times_best_found) >= 19  # of random classes
    slopes = np.sort(np.asarray(found.best.params.components.coefficients)[:, 1])
    assert_within(slopes, [-1.0, 1.0], 0.1)


@pytest.mark.parametrize("name", ["normal", pytest.param("poisson", marks=pytest.mark.everything)])
def test_units_of_covariates_do_not_matter(name):
    """A covariate 1e6 spreads from zero, and others in other units: only the intercept moves."""
    family, data = data_of(name)
    model = Mixture(family, 2)
    fit = lambda given: jaxem.check(
        jaxem.fit(model, model.init(jax.random.key(1), (d := jaxem.dataset(data.values, given=given))), d, tol=1e-13)
    )
    plain, far, scaled = fit(X), fit(X + np.array([1e6, 0.0])), fit(X * np.array([1e-9, 1e6]))
    beta = plain.params.components.coefficients
    for other, slopes in ((far, [1.0, 1.0]), (scaled, [1e-9, 1e6])):
        # The second moments of a column so far from zero have 4 digits of its spread.
        assert_within(other.objective, plain.objective, 1e-7)
        assert_within(other.params.components.coefficients[:, 1:] * jnp.asarray([slopes]), beta[:, 1:], 1e-4)
    assert_within(far.params.components.coefficients[:, 0], beta[:, 0] - 1e6 * beta[:, 1], 100)
    single = jaxem.dataset(jnp.asarray(data.values, jnp.float32), given=jnp.asarray(X, jnp.float32))
    narrow = jaxem.fit(model, model.init(jax.random.key(1), single), single)
    assert narrow.objective.dtype == jnp.float32
    assert_within(narrow.objective, plain.objective, 3e-3)
    assert_within(narrow.params.components.coefficients, beta, 0.02)


@pytest.mark.parametrize(
    "link", ["logit", *(pytest.param(n, marks=pytest.mark.everything) for n in ("probit", "cloglog"))]
)
@pytest.mark.slow
def test_separated_classes_end_with_finite_parameters(link):
    x = np.linspace(-1, 1, 40)
    model, data = Mixture(Regression(Bernoulli(), link), 1), jaxem.dataset((x > 0).astype(float), given=x[:, None])
    fit = jaxem.fit(model, model.init(KEY, data), data, max_steps=500)
    assert int(fit.status) in (jaxem.Status.CONVERGED, jaxem.Status.MAX_STEPS)
    assert bool(jnp.isfinite(fit.params.components.coefficients).all()) and float(fit.objective) > -1e-3


@pytest.mark.slow
def test_what_adds_nothing_changes_nothing():
    """An offset is a move of the intercept; missing responses are rows left out; all exact is not censored; a normal
    distribution is a t; an intercept may be a column."""
    counts, shift = RESPONSES["poisson"][1], np.full(N, 0.7)
    seen = np.where(np.arange(N) < 100, LINE, np.nan)
    nan = jaxem.dataset(seen, given=X, missing="nan")
    cases = {
        "plain": (Regression(Normal()), LINE_DATA),
        "t": (Regression(StudentT(np.inf)), LINE_DATA),
        "named": (Regression(Normal(), on="x"), jaxem.dataset(LINE, given={"x": X, "y": X})),
        "two": (Regression(Normal(), on=("a", "b")), jaxem.dataset(LINE, given={"b": X[:, 1:], "a": X[:, 0]})),
        "own intercept": (Regression(Normal(), intercept=False), jaxem.dataset(LINE, given=np.c_[np.ones(N), X])),
        "exact": (Regression(Censored(Normal())), jaxem.dataset(np.c_[LINE, LINE], given=X)),
        "seen": (Regression(Normal()), jaxem.dataset(LINE[:100], given=X[:100])),
        "missing": (Regression(Normal()), nan),
        "moved": (Regression(Poisson(), on="x", offset="e"), jaxem.dataset(counts, given={"x": X, "e": shift})),
        "still": (Regression(Poisson()), jaxem.dataset(counts, given=X)),
    }
    counts_at = RegressionParams(jnp.array([[0.3, 0.8, -0.4], [1.2, -0.9, 0.2]]))
    normal_at = counts_at._replace(dispersions=jnp.array([0.5, 1.4]))

    @jax.jit
    def steps() -> dict[str, Any]:
        """The parameters after two iterations, and the log-likelihood there."""
        found = {}
        for name, (family, data) in cases.items():
            model = Mixture(family, 2)
            at = counts_at if name in ("moved", "still") else normal_at
            shifted = 0.7 if name == "moved" else 0.0
            at = at._replace(coefficients=at.coefficients - jnp.array([[shifted, 0, 0]]))
            params = MixtureParams(jnp.array([0.5, 0.5]), at)
            params = model.m_step(model.e_step(params, data), data)
            params = model.m_step(model.e_step(params, data), data)
            found[name] = params, model.log_likelihood(params, data)
        return found

    found = steps()
    for name, like, move in (
        *((name, "plain", 0.0) for name in ("t", "named", "two", "own intercept", "exact")),
        ("missing", "seen", 0.0),
        ("moved", "still", 0.7),
    ):
        (one, value), (other, wanted) = found[name], found[like]
        assert_within(value, wanted, 1e-11 * N)
        coefficients = one.components.coefficients + jnp.array([[move, 0, 0]])
        assert_within(coefficients, other.components.coefficients, 1e-11)
    filled = jaxem.impute(Mixture(Regression(Normal()), 2), found["seen"][0], nan)
    w, (beta, *_) = found["seen"][0]
    assert_within(filled[100:], np.c_[np.ones(20), X[100:]] @ np.asarray(beta).T @ np.asarray(w), 1e-12)


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.slow
def test_samples_follow_the_covariates(name):
    family, data = data_of(name)
    many = jax.tree.map(lambda leaf: jnp.tile(leaf, (200,) + (1,) * (leaf.ndim - 1)), data)
    declared = family.declare()
    params = RegressionParams(
        jnp.array([[0.3, 0.5, -0.2], [1.0, -0.4, 0.1]]),
        dispersions=None if declared.dispersions is None else jnp.array([0.5, 0.3]),
        tails=None if declared.tails is None else jnp.asarray(0.2),
    )
    labels = jnp.arange(200 * N) // N % 2
    drawn = jax.jit(lambda: family.sample_like(KEY, params, labels, many))().values
    drawn = np.asarray(drawn if drawn.ndim == 1 else drawn[:, 0]).reshape(100, 2, N)
    means = np.asarray(family.impute(params, jax.nn.one_hot(labels, 2), many)).reshape(100, 2, N)[0]
    assert_within(drawn.mean(axis=0), means, 5 * drawn.std(axis=0) / 10 + 0.05)


@pytest.mark.slow
def test_in_a_product_and_in_a_chain():
    """Beside items in latent classes; and an autoregression in a chain, against a filter written out."""
    items = np.where(RNG.random((N, 4)) < np.where(CLASS[:, None] == 1, 0.8, 0.2), 1, 0)
    data = jaxem.dataset({"y": LINE, "items": items}, given=X)
    model = Mixture(Product({"y": Regression(Normal()), "items": Categorical((2, 2, 2, 2))}), 2)
    fit = jaxem.check(jaxem.fit(model, model.init(KEY, data), data))
    right = (np.asarray(model.predict(fit, data)) == CLASS).mean()
    assert max(right, 1 - right) >= 0.94  # in either order of the classes
    drawn = model.sample_like(KEY, fit.params, data)
    assert drawn.values["y"].shape == (N,) and not np.allclose(drawn.values["y"], LINE)

    rng = np.random.default_rng(5)
    states = (rng.random(300) < 0.1).cumsum() % 2
    y = np.zeros(300)
    for t in range(1, 300):
        y[t] = np.where(states[t], 2.0 + 0.5 * y[t - 1], -0.5 * y[t - 1]) + rng.normal() * 0.5
    lags = jaxem.lagged(y, 1)
    series = jaxem.dataset(lags[0], given=lags[1])
    chain = HMM(Regression(Normal()), 2)
    fit = jaxem.check(jaxem.fit(chain, chain.init(KEY, series), series, tol=1e-12))
    pi, a, (beta, _, v, _) = fit.params.initial, fit.params.transition, fit.params.emissions
    density = stats.norm.pdf(y[1:, None], np.c_[np.ones(299), y[:-1]] @ np.asarray(beta).T, np.sqrt(np.asarray(v)))
    p, total = np.asarray(pi), 0.0
    for row in density:
        total += np.log((p * row).sum())
        p = (p * row / (p * row).sum()) @ np.asarray(a)
    assert_within(fit.objective, total, 1e-9 * 300)
    assert_within(np.sort(np.asarray(beta)[:, 1]), [-0.5, 0.5], 0.15)
    assert beaten(chain, fit, series) < 1e-8


class Switching(NamedTuple):
    """Hamilton's autoregression of order 4, whose mean switches between two regimes."""

    means: Any  # (2,)
    lags: Any  # (4,)
    variance: Any  # ()
    stay: Any  # (2,), the probability that a regime goes on


# A state is the regime now and in the four quarters before.
REGIMES = np.array(list(itertools.product((0, 1), repeat=5)))
GNP_CHAIN = HMM(Regression(Normal(), tied="all", dispersion="tied"), 32)


def expanded(p: Switching) -> HMMParams:
    moves = jnp.stack([jnp.stack([p.stay[0], 1 - p.stay[0]]), jnp.stack([1 - p.stay[1], p.stay[1]])])
    first = (1 - p.stay[::-1]) / (2 - p.stay.sum())
    old, new = REGIMES[:, None, :], REGIMES[None, :, :]
    follows = (old[..., :4] == new[..., 1:]).all(axis=-1)
    transition = jnp.where(follows, moves[old[..., 0], new[..., 0]], 0)
    initial = first[REGIMES[:, 4]] * moves[REGIMES[:, 1:], REGIMES[:, :4]].prod(axis=1)
    levels = p.means[REGIMES]
    intercepts = levels[:, :1] - levels[:, 1:] @ p.lags[:, None]
    return HMMParams(initial, transition, RegressionParams(intercepts, p.lags, p.variance))


@pytest.mark.slow
def test_growth_of_gnp():
    """The maximum that Hamilton (1989) prints, -181.263394: stationary, by the likelihood of a chain of 32 states."""
    y, before = jaxem.lagged(datasets.gnp(), 4)
    data = jaxem.dataset(y, given=before)
    lags = jnp.array([0.01348726, -0.05752082, -0.24698315, -0.21292128])
    found = Switching(
        jnp.array([-0.3588118, 1.16351661]), lags, jnp.asarray(0.59136861), jnp.array([0.75467114, 0.90408465])
    )
    value, slope = jax.jit(jax.value_and_grad(lambda p: GNP_CHAIN.log_likelihood(expanded(p), data)))(found)
    assert_within(value, -181.263394, 1e-6)
    # Estimates are given to 1e-8, and the curvature is below 1e3.
    assert_within(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(slope)]), np.zeros(9), 1e-4)


@pytest.mark.everything
def test_growth_of_gnp_by_em():
    """A model of two functions: the E-step of the chain, and a few Newton steps on Q from its sums."""
    y, before = jaxem.lagged(datasets.gnp(), 4)
    data = jaxem.dataset(y, given=before)
    spaces = Switching(jaxem.Real(), jaxem.Real(), jaxem.Positive(), jaxem.UnitInterval())
    start = Switching(jnp.array([-0.5, 1.0]), jnp.zeros(4), jnp.asarray(1.0), jnp.array([0.7, 0.9]))
    record = jaxem.Model(lambda p, data: None, lambda q, data: None, constraints=spaces)
    back = coordinates.chart(record, start)

    def m_step(q: Any, data: Any) -> Switching:
        sums = GNP_CHAIN.statistics(q, data)
        a, (levels, lags, variance, _) = q.at.transition, q.at.emissions
        means = jnp.stack([levels[0, 0], levels[31, 0]]) / (1 - lags.sum())
        u = coordinates.into(record, Switching(means, lags, variance, jnp.stack([a[0, 0], a[31, 31]])))
        value = lambda u: GNP_CHAIN.expected_log_joint(expanded(back(u)), sums)

        def step(_: Any, u: jax.Array) -> jax.Array:
            slope = jax.grad(value)(u)
            d = -jnp.linalg.solve(jax.hessian(value)(u), slope)
            d = jnp.where(slope @ d > 0, d, slope / 100)
            tries = u[None] + 0.5 ** jnp.arange(6.0)[:, None] * d[None]
            values = jax.vmap(value)(tries)
            best = jnp.nanargmax(values)
            return jnp.where(values[best] > value(u), tries[best], u)

        return back(jax.lax.fori_loop(0, 3, step, u))

    model = jaxem.Model(
        lambda p, data: GNP_CHAIN.e_step(expanded(p), data),
        m_step,
        log_likelihood=lambda p, data: GNP_CHAIN.log_likelihood(expanded(p), data),
        constraints=spaces,
    )
    fit = jaxem.check(jaxem.fit(model, start, data, tol=1e-13, max_steps=500))
    assert_within(fit.objective, -181.263394, 1e-6)


def test_lagged():
    values, columns = jaxem.lagged(np.arange(5.0), 2)
    assert values.tolist() == [[2, 3, 4]] and columns.tolist() == [[[1, 0], [2, 1], [3, 2]]]
    values, columns = jaxem.lagged([np.arange(4.0), np.arange(3.0)], 1)
    data = jaxem.dataset(values, given=columns)
    assert data.values.tolist() == [[1, 2, 3], [1, 2, 0]] and data.given[1, :2, 0].tolist() == [0, 1]
    for wrong in (np.arange(2.0), np.zeros((2, 2, 2)), [np.zeros((3, 2)), np.zeros(3)]):
        with pytest.raises(ValueError, match="lagged: "):
            jaxem.lagged(wrong, 2)


REFUSED = {
    "family must be": lambda: Regression(Categorical((2, 2, 2, 2))),
    "family must be.*a Censored": lambda: Regression(Censored(Poisson())),
    r"link must be one of \['identity'\]; got 'log'": lambda: Regression(Normal(), "log"),
    "on must be the name": lambda: Regression(Normal(), on=3),
    "say which parts": lambda: Regression(Normal(), offset="a"),
    "tied names the intercept": lambda: Regression(Normal(), intercept=False, tied="intercept"),
    "tied must be": lambda: Regression(Normal(), tied=(-1,)),
    "dispersion must be": lambda: Regression(Normal(), dispersion="one"),
    "needs covariates": lambda: Mixture(Regression(Normal()), 2).init(KEY, LINE),
    "say which parts are covariates by on=": lambda: Mixture(Regression(Normal()), 2).init(
        KEY, jaxem.dataset(LINE, given={"a": X})
    ),
    "needs 'b' in given; its keys are 'a'": lambda: Mixture(Regression(Normal(), on="b"), 2).init(
        KEY, jaxem.dataset(LINE, given={"a": X})
    ),
    r"given\['e'\] of shape \(N\)": lambda: Mixture(Regression(Normal(), on="a", offset="e"), 2).init(
        KEY, jaxem.dataset(LINE, given={"a": X, "e": X})
    ),
    "tied names column 2, and there are 2": lambda: Mixture(Regression(Normal(), tied=2), 2).init(KEY, LINE_DATA),
    "tied names 'c'": lambda: Mixture(Regression(Normal(), tied="c"), 2).init(KEY, LINE_DATA),
    "every column is tied": lambda: Mixture(Regression(Normal(), tied=(0, 1, "intercept")), 2).init(KEY, LINE_DATA),
    r"coefficients of shape \(2, 2\); got \(2, 3\)": lambda: Mixture(Regression(Normal()), 2).log_prob(
        Mixture(Regression(Normal()), 2).init(KEY, LINE_DATA), jaxem.dataset(LINE, given=X[:, :1])
    ),
    "draws depend on covariates": lambda: Mixture(Regression(Normal()), 2).sample(
        KEY, Mixture(Regression(Normal()), 2).init(KEY, LINE_DATA), 5
    ),
    "covariate 2 is a sum of multiples": lambda: Mixture(Regression(Normal()), 2).init(
        KEY, jaxem.dataset(LINE, given=np.c_[X, X.sum(axis=1) + 3])
    ),
    "covariate 0 is a sum of multiples.*subtract its mean": lambda: Mixture(Regression(Poisson()), 2).init(
        KEY, jaxem.dataset(RESPONSES["poisson"][1], given=X + 1e9)
    ),
    "covariates must be known": lambda: jaxem.dataset(LINE, given=np.where(X > 2, np.nan, X), missing="nan"),
    "a non-negative whole number in every": lambda: Mixture(Regression(Poisson()), 2).init(KEY, LINE_DATA),
}


@pytest.mark.parametrize("match", REFUSED)
@pytest.mark.slow
def test_what_cannot_be_meant_is_refused_by_name(match):
    with pytest.raises(ValueError, match=match):
        REFUSED[match]()


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Changed(Regression):
    """A regression with a fault."""

    fault: str = ""

    def statistics(self, c, r, u, x):
        sums = super().statistics(c, r, u, x)
        if self.fault == "score" and c is not None:
            return sums._replace(score=jax.tree.map(jnp.negative, sums.score))
        if self.fault == "information" and c is not None:  # without a row
            return sums._replace(information=sums.information - super().statistics(c, r[:1], u, _first(x)).information)
        if self.fault == "squares" and c is not None:
            return sums._replace(second=sums.second - super().statistics(c, r[:1], u, _first(x)).second)
        return sums

    def maximize(self, c, sums):
        new = super().maximize(c, sums)
        return new if self.fault != "variance" or c is None else new._replace(dispersions=1.01 * new.dispersions)


def _first(x):
    return jax.tree.map(lambda leaf: leaf[:1], x)


FAULTS = {
    ("poisson", "score"): "slope from sums",
    ("poisson", "information"): "additivity",
    ("normal", "squares"): "additivity",
    ("normal", "variance"): "M-step stationary",
}


@pytest.mark.parametrize(
    "name, fault",
    [pytest.param(*row, marks=() if row == ("poisson", "information") else pytest.mark.everything) for row in FAULTS],
)
def test_the_laws_see_a_fault(name, fault):
    family, data = data_of(name)
    model = Mixture(Changed(family.family, fault=fault), 2)
    certificate = jaxem.verify(model, model.init(KEY, data), data)
    assert FAULTS[name, fault] in certificate.violated


@pytest.mark.slow
def test_a_floor_keeps_a_perfect_fit_from_its_pole() -> None:
    """Half of the responses lie on a line: without a floor the likelihood has no maximum."""
    y = jnp.where(jnp.arange(N) % 2 == 0, 1 + jnp.asarray(X) @ jnp.array([1.0, -2.0]), jnp.asarray(ETA))
    data = jaxem.dataset(y, given=X)
    model = Mixture(Regression(Normal(floor=0.05)), 2)
    fit = jaxem.check(jaxem.fit(model, model.init(KEY, data), data, tol=1e-13))
    w, (beta, _, v, _) = jax.tree.map(np.asarray, fit.params)
    eta = np.c_[np.ones(N), X] @ beta.T
    # each density times exp(-floor / (2 v)), by hand, and the M-step that adds the floor to the variances
    terms = w * np.exp(stats.norm(eta, np.sqrt(v)).logpdf(np.asarray(y)[:, None]) - 0.05 / (2 * v))
    np.testing.assert_allclose(fit.objective, np.log(terms.sum(axis=1)).sum(), rtol=1e-12)
    r = terms / terms.sum(axis=1, keepdims=True)
    squares = (r * (np.asarray(y)[:, None] - eta) ** 2).sum(axis=0) / r.sum(axis=0)
    np.testing.assert_allclose(v, squares + 0.05, rtol=1e-5)  # the root of the tolerance
    plain = Mixture(Regression(Normal()), 2)
    assert float(jaxem.inference.bic(model, fit, data)) == pytest.approx(
        float(jaxem.inference.bic(plain, fit, data)), rel=1e-13
    )
