"""Regressions: densities, single regressions against R, mixtures against direct maximisation, difficult data."""

import dataclasses
from typing import Any

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
from jaxem.models import HMM, Mixture

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N = 120
X = RNG.normal(size=(N, 2))
CLASS = (RNG.random(N) < 0.4).astype(int)
ETA = (np.c_[np.ones(N), X] * np.array([[0.5, 1.0, -0.5], [1.5, -1.0, 0.3]])[CLASS]).sum(axis=1)
P = 1 / (1 + np.exp(-ETA))
LINE = 2 * ETA + 0.5 * RNG.normal(size=N)
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
SLOW = ("probit", "cloglog", "normal, all tied", "poisson, tied", "logit", "normal")


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


def test_one_class_is_the_regression_of_R():
    """lm, glm and glm.nb of R 4.3 on the patent data, with their tolerances at 1e-14."""
    d = datasets.patents()
    big = (d["patents"] > 10).astype(float)
    table = [
        (Poisson(), None, "lgrd", d["patents"], (0.539236216529, 0.927870751086), -316.691462978, 1e-9),
        (NegativeBinomial(), None, "lgrd", d["patents"], (0.653063873052, 0.883952756624), -207.791623781, 1e-6),
        (Bernoulli(), "logit", "lgrd", big, (-7.04653377196, 3.03457383148), -10.7583912184, 1e-9),
        (Bernoulli(), "probit", "lgrd", big, (-3.87844823927, 1.68797435605), -10.6601477862, 1e-9),
        (Bernoulli(), "cloglog", "lgrd", big, (-5.85231291273, 2.26895762539), -10.3406959755, 1e-9),
        (Normal(), None, "rds", d["lgrd"], (1.288759652696, 0.238399669589), -150.909670908, 1e-9),
        (Gamma(), None, "lgrd", d["rds"], (-2.58046598691, 0.16526445392), None, 1e-8),
    ]
    for family, link, on, y, wanted, objective, tolerance in table:
        model = Mixture(Regression(family, link, on=on), 1)
        data = jaxem.dataset(y, given=d)
        fit = jaxem.check(jaxem.fit(model, model.init(KEY, data), data, tol=1e-15, max_steps=500))
        assert_within(fit.params.components.coefficients[0], wanted, tolerance * 10), family
        if objective is not None:
            assert_within(fit.objective, objective, 1e-8)
    assert_within(1 / fit.params.components.dispersions[0], 0.598167244831, 1e-8)  # gamma.shape of MASS


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
    "name", [pytest.param(name, marks=pytest.mark.everything if name in SLOW else ()) for name in (*RESPONSES, *TIED)]
)
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
    assert_within(found.objective, -197.67502, 1e-4)
    slopes = np.asarray(found.params.weights.coefficients)[:, 1]
    assert_within(slopes.min() - np.sort(slopes)[1], -40.3, 0.1)
    constant = Mixture(Regression(Poisson(), on="lgrd"), 3)
    assert_within(jaxem.fit_restarts(constant, data, key=KEY, restarts=10).objective, -203.53321, 1e-4)


def test_crossing_lines_are_found_from_every_start():
    rng = np.random.default_rng(1)
    x, up = rng.normal(size=200), rng.random(200) < 0.5
    data = jaxem.dataset(np.where(up, x, -x) + 0.2 * rng.normal(size=200), given=x[:, None])
    model = Mixture(Regression(Normal()), 2)
    starts = jax.tree.map(lambda *a: jnp.stack(a), *(model.init(jax.random.key(i), data) for i in range(20)))
    slopes = np.asarray(jaxem.fit_many(model, starts, data, max_steps=300).params.components.coefficients)[:, :, 1]
    assert_within(np.sort(slopes), np.tile([-1.0, 1.0], (20, 1)), 0.1)


@pytest.mark.parametrize("name", ["normal", "poisson"])
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
        assert_within(other.params.components.coefficients[:, 1:] * jnp.asarray(slopes), beta[:, 1:], 1e-4)
    assert_within(far.params.components.coefficients[:, 0], beta[:, 0] - 1e6 * beta[:, 1], 100)
    single = jaxem.dataset(jnp.asarray(data.values, jnp.float32), given=jnp.asarray(X, jnp.float32))
    narrow = jaxem.fit(model, model.init(jax.random.key(1), single), single)
    assert narrow.objective.dtype == jnp.float32
    assert_within(narrow.objective, plain.objective, 3e-3)
    assert_within(narrow.params.components.coefficients, beta, 0.02)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_separated_classes_end_with_finite_parameters(link):
    x = np.linspace(-1, 1, 40)
    model, data = Mixture(Regression(Bernoulli(), link), 1), jaxem.dataset((x > 0).astype(float), given=x[:, None])
    fit = jaxem.fit(model, model.init(KEY, data), data, max_steps=500)
    assert int(fit.status) in (jaxem.Status.CONVERGED, jaxem.Status.MAX_STEPS)
    assert bool(jnp.isfinite(fit.params.components.coefficients).all()) and float(fit.objective) > -1e-3


def test_what_adds_nothing_changes_nothing():
    """An offset is a move of the intercept; missing responses are rows left out; all exact is not censored; a normal
    distribution is a t; an intercept may be a column."""
    family, data = data_of("normal")
    start = lambda model, data: model.init(KEY, data, start=CLASS[: len(jax.tree.leaves(data)[0])])

    def fit(family: Any, data: Any) -> jaxem.Fit:
        model = Mixture(family, 2)
        return jaxem.fit(model, start(model, data), data, max_steps=4)

    plain = fit(family, data)
    same = [
        (Regression(StudentT(np.inf)), data),
        (Regression(Normal(), on="x"), jaxem.dataset(LINE, given={"x": X, "y": X})),
        (Regression(Normal(), on=("a", "b")), jaxem.dataset(LINE, given={"b": X[:, 1:], "a": X[:, 0]})),
        (Regression(Normal(), intercept=False), jaxem.dataset(LINE, given=np.c_[np.ones(N), X])),
        (Regression(Censored(Normal())), jaxem.dataset(np.c_[LINE, LINE], given=X)),
    ]
    for other, given in same:
        found = fit(other, given)
        assert_within(found.objective, plain.objective, 1e-10 * N)
        assert_within(found.params.components.coefficients, plain.params.components.coefficients, 1e-10)
    seen = np.where(np.arange(N) < 100, LINE, np.nan)
    for some, rows in ((jaxem.dataset(seen, given=X, missing="nan"), 100), (jaxem.dataset(LINE, given=X), N)):
        model = Mixture(family, 2)
        alone = jaxem.dataset(LINE[:rows], given=X[:rows])
        both = (model.log_likelihood(plain.params, d) for d in (some, alone))
        assert_within(*both, 1e-10 * N)
    filled = jaxem.impute(Mixture(family, 2), plain.params, jaxem.dataset(seen, given=X, missing="nan"))
    beta, w = plain.params.components.coefficients, plain.params.weights
    assert_within(filled[100:], np.c_[np.ones(20), X[100:]] @ np.asarray(beta).T @ np.asarray(w), 1e-12)
    counts, shift = RESPONSES["poisson"][1], np.full(N, 0.7)
    moved = fit(Regression(Poisson(), on="x", offset="e"), jaxem.dataset(counts, given={"x": X, "e": shift}))
    still = fit(Regression(Poisson(), on="x"), jaxem.dataset(counts, given={"x": X}))
    assert_within(moved.params.components.coefficients[:, 0] + 0.7, still.params.components.coefficients[:, 0], 1e-9)
    assert_within(moved.params.components.coefficients[:, 1:], still.params.components.coefficients[:, 1:], 1e-9)


def test_samples_follow_the_covariates():
    model = Mixture(Regression(NegativeBinomial()), 1)
    x = jnp.linspace(0, 2, 4000)
    data = jaxem.dataset(jnp.zeros(4000), given=x[:, None])
    params = model.init(KEY, jaxem.dataset(jnp.arange(20.0), given=jnp.arange(20.0)[:, None] ** 2))
    params = params._replace(components=RegressionParams(jnp.array([[0.5, 1.0]]), dispersions=jnp.array([0.3])))
    drawn = model.sample_like(jax.random.key(3), params, data)
    fit = jaxem.check(jaxem.fit(model, model.init(KEY, drawn), drawn))
    errors = jaxem.inference.standard_errors(model, fit, drawn).components
    assert_within(fit.params.components.coefficients[0], [0.5, 1.0], 4 * np.asarray(errors.coefficients[0]))
    assert_within(fit.params.components.dispersions, [0.3], 4 * np.asarray(errors.dispersions))


def test_in_a_product_and_in_a_chain():
    """Beside items in latent classes; and an autoregression in a chain, against a filter written out."""
    items = np.where(RNG.random((N, 4)) < np.where(CLASS[:, None] == 1, 0.8, 0.2), 1, 0)
    data = jaxem.dataset({"y": LINE, "items": items}, given=X)
    model = Mixture(Product({"y": Regression(Normal()), "items": Categorical((2, 2, 2, 2))}), 2)
    fit = jaxem.check(jaxem.fit(model, model.init(KEY, data), data))
    assert (np.asarray(model.predict(fit, data)) == CLASS).mean() % 1 in (0, pytest.approx(0.97, abs=0.03))
    drawn = model.sample_like(KEY, fit.params, data)
    assert drawn.values["y"].shape == (N,) and not np.allclose(drawn.values["y"], LINE)

    rng = np.random.default_rng(5)
    states = (rng.random(300) < 0.1).cumsum() % 2
    y = np.zeros(300)
    for t in range(1, 300):
        y[t] = np.where(states[t], 2.0 + 0.5 * y[t - 1], -0.5 * y[t - 1]) + rng.normal() * 0.5
    series = jaxem.dataset(*jaxem.lagged(y, 1))
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


def test_lagged():
    values, columns = jaxem.lagged(np.arange(5.0), 2)
    assert values.tolist() == [[2, 3, 4]] and columns.tolist() == [[[1, 0], [2, 1], [3, 2]]]
    values, columns = jaxem.lagged([np.arange(4.0), np.arange(3.0)], 1)
    data = jaxem.dataset(values, given=columns)
    assert data.values.tolist() == [[1, 2, 3], [1, 2, 0]] and data.given[1, :2, 0].tolist() == [0, 1]
    for wrong in (np.arange(2.0), np.zeros((2, 2, 2)), [np.zeros((3, 2)), np.zeros(3)]):
        with pytest.raises(ValueError, match="lagged: "):
            jaxem.lagged(wrong, 2)


LINE_DATA = jaxem.dataset(LINE, given=X)
REFUSED = {
    "family must be": lambda: Regression(Categorical((2, 2, 2, 2))),
    "family must be.*a Censored": lambda: Regression(Censored(Poisson())),
    r"link must be one of \['identity'\]; got 'log'": lambda: Regression(Normal(), "log"),
    "on must be the name": lambda: Regression(Normal(), on=3),
    "say which parts": lambda: Regression(Normal(), offset="a"),
    "no intercept to be tied": lambda: Regression(Normal(), intercept=False, tied="intercept"),
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
    "there are 2 covariates": lambda: Mixture(Regression(Normal(), tied=2), 2).init(KEY, LINE_DATA),
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


@pytest.mark.parametrize("name, fault", FAULTS)
def test_the_laws_see_a_fault(name, fault):
    family, data = data_of(name)
    model = Mixture(Changed(family.family, fault=fault), 2)
    certificate = jaxem.verify(model, model.init(KEY, data), data)
    assert FAULTS[name, fault] in certificate.violated
