"""Conjugate priors of rates and probabilities, and floors under variances."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from jax.flatten_util import ravel_pytree
from scipy import optimize, special, stats
from sklearn.mixture import GaussianMixture

import jaxem
from jaxem import datasets
from jaxem.core import constraints, parameters
from jaxem.families import (
    Bernoulli,
    BetaPrior,
    Binomial,
    Categorical,
    Censored,
    DirichletPrior,
    Exponential,
    GammaPrior,
    Multinomial,
    MultivariateNormal,
    Normal,
    NormalInverseWishart,
    Poisson,
    PoissonVector,
    PriorObservations,
    Product,
    Truncated,
    ZeroInflated,
    protocol,
)
from jaxem.families.covariance import FORMS as BASES
from jaxem.inference.selection.floors import without_floors
from jaxem.models import HMM, Component, Mixture

N, K = 40, 2
RNG = np.random.default_rng(0)
WEIGHTS = RNG.uniform(size=(N, K))


def two_columns(draw: Any) -> np.ndarray:
    return np.stack([draw(), draw()], axis=1).astype(float)


SKEWED = DirichletPrior(np.array([4.0, 1.0, 1.5]))
# A family with its prior, data, and the numbers (of each column) that the prior adds to the two sums.
FAMILIES = {
    "poisson": (Poisson(GammaPrior(3.5, 2.0)), RNG.poisson(4.0, N).astype(float)),
    "poisson vector": (
        PoissonVector(GammaPrior(np.array([1.0, 9.0]), 0.5)),
        two_columns(lambda: RNG.poisson(4.0, N)),
    ),
    "exponential": (Exponential(GammaPrior(3.5, 20.0)), RNG.exponential(size=N)),
    "bernoulli": (Bernoulli(BetaPrior(np.array([1.0, 9.0]), 3.0)), two_columns(lambda: RNG.integers(0, 2, N))),
    "binomial": (Binomial(7, BetaPrior(4.0, 1.5)), RNG.binomial(7, 0.3, N).astype(float)),
    "multinomial": (Multinomial(prior=SKEWED), RNG.poisson(3.0, (N, 3)).astype(float)),
    "categorical": (
        Categorical((3, 2), (SKEWED, DirichletPrior(2.0))),
        np.stack([RNG.integers(0, 3, N), RNG.integers(0, 2, N)], 1).astype(float),
    ),
}


@jax.jit
def maximum(family: Any, weights: Any, x: Any) -> Any:
    """The maximiser, twice: from sums about zero, and from those about it."""
    first = family.maximize(None, family.statistics(None, weights, (), x))
    c = family.prepare(first, x)
    return first, family.maximize(c, family.statistics(c, weights, (), x))


@jax.jit
def slope(family: Any, params: Any, weights: Any, x: Any) -> Any:
    """The gradient of the weighted log-likelihood plus log-prior in unconstrained coordinates."""
    spaces = parameters.spaces(family.declare())

    def objective(free: Any) -> jax.Array:
        at = constraints.forward(spaces, free, params)
        return (weights * protocol.log_density(family, at, x)).sum() + protocol.log_prior(family, at)

    return jax.grad(objective)(constraints.inverse(spaces, params, params))


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_maximum_is_stationary_under_the_prior(kind):
    family, x = FAMILIES[kind]
    first, second = maximum(family, WEIGHTS, x)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), first, second)
    # Each row adds a term of at most 1 + x to the gradient.
    allowed = 16 * eps(np.float64) * N * (1 + x.max())
    jax.tree.map(lambda g: assert_within(g, 0 * g, allowed), slope(family, first, WEIGHTS, x))


def test_an_empty_class_gets_the_mode_of_the_prior(dtype):
    for kind, mode in {
        "poisson": [2.5 / 2.0],
        "exponential": [2.5 / 20.0],
        "poisson vector": [0.0, 8.0 / 0.5],
        "bernoulli": [0.0, 8.0 / 10.0],
        "binomial": [3.0 / 3.5],
        "multinomial": [3.0 / 3.5, 0.0, 0.5 / 3.5],
    }.items():
        weights, (family, x) = WEIGHTS * [1.0, 0.0], FAMILIES[kind]
        family, weights, x = as_dtype((family, weights, x), dtype)
        for (found,) in maximum(family, weights, x):
            assert found.dtype == dtype
            assert_within(found[1].reshape(-1), np.array(mode), 4 * eps(dtype) * max(mode))


@pytest.mark.parametrize("kind", ["poisson vector", "bernoulli", "categorical"])
def test_a_cell_that_no_row_shows_gets_the_mode_of_the_prior(kind):
    family, x = FAMILIES[kind]
    gaps = np.where(np.arange(2) == 1, np.nan, x)
    data = jaxem.dataset(gaps, missing="nan")
    first, second = maximum(family, WEIGHTS, data)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    modes = {"poisson vector": 16.0, "bernoulli": 0.8, "categorical": 0.5}
    second_column = jax.tree.leaves(first)[-1][:, -1]
    assert_within(second_column, np.full(K, modes[kind]), 4 * eps(np.float64) * modes[kind])


log_densities = jax.jit(lambda *pairs: tuple(prior.log_density(jnp.asarray(x)) for prior, x in pairs))
GAMMA, BETA = GammaPrior(np.array([1.0, 40.5]), 0.3), BetaPrior(np.array([1.0, 300.5]), 2.5)


@pytest.mark.slow
def test_log_densities_of_priors_agree_with_scipy(dtype):
    rates, p = as_dtype((RNG.gamma(5.0, 20.0, (3, 2)), RNG.uniform(0.01, 0.99, (3, 2))), dtype)
    simplex = as_dtype(RNG.dirichlet(np.ones(3), 4), dtype)
    found = log_densities((GAMMA, rates), (BETA, p), (SKEWED, simplex), (DirichletPrior(1.0), simplex))
    exact = [np.array(a, np.float64) for a in (rates, p, simplex)]
    exact[2] /= exact[2].sum(axis=1, keepdims=True)
    wanted = (
        stats.gamma.logpdf(exact[0], np.asarray(GAMMA.shape), scale=1 / 0.3),
        stats.beta.logpdf(exact[1], np.asarray(BETA.alpha), 2.5),
        np.array([stats.dirichlet.logpdf(row, np.asarray(SKEWED.concentration)) for row in exact[2]]),
        np.full(4, np.log(2.0)),
    )
    # scipy subtracts logarithms of the gamma function, of which 300.5 has 1,410: far more than what is left.
    largest = [0, special.gammaln(np.asarray(BETA.alpha) + 2.5).sum(), 0, 0]
    for a, b, of_gamma in zip(found, wanted, largest, strict=True):
        assert a.dtype == dtype and a.shape == ()
        assert_within(a, b.sum(), 16 * eps(dtype) * (np.abs(b).sum() + of_gamma))


def test_a_prior_of_a_million_observations_keeps_its_digits_in_32_bits():
    """Near its mode the log-density is of the size of log 1e6, though its terms are of the size of 1e7."""
    rate, p = np.array([3.001], np.float32), np.array([0.2501], np.float32)
    gamma, beta = GammaPrior(3e6, 1e6), BetaPrior(2.5e5, 7.5e5)
    found = log_densities((gamma, rate), (beta, p))
    wanted = stats.gamma.logpdf(np.float64(rate), 3e6, scale=1e-6), stats.beta.logpdf(np.float64(p), 2.5e5, 7.5e5)
    # a - 1 and b x rate are rounded to 32 bits, which moves the mode by eps, 1e3 eps standard deviations here.
    for a, b in zip(found, wanted, strict=True):
        assert_within(a, b[0], 1e3 * eps(np.float32) * 8)


MIXED = Product(
    {
        "counts": PoissonVector(GammaPrior(3.0, 0.8)),
        "wait": Exponential(GammaPrior(2.0, 3.0)),
        "items": Bernoulli(BetaPrior(2.0, 3.0)),
        "answer": Categorical((3,), DirichletPrior(1.5)),
    }
)


def mixed_rows() -> dict[str, np.ndarray]:
    z = RNG.integers(0, 2, N)
    return {
        "counts": RNG.poisson(np.where(z, 6.0, 1.0)[:, None] * [1.0, 0.5]).astype(float),
        "wait": RNG.exponential(np.where(z, 5.0, 1.0)),
        "items": (RNG.random((N, 2)) < np.where(z, 0.8, 0.3)[:, None]).astype(float),
        "answer": np.where(RNG.random((N, 1)) < 0.6, z[:, None], 2).astype(float),
    }


@pytest.mark.slow
def test_a_fit_ends_where_direct_maximisation_does():
    x, model = mixed_rows(), Mixture(MIXED, 2)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-13))
    start, back = ravel_pytree(constraints.inverse(model.constraints, fit.params))

    @jax.jit
    @jax.value_and_grad
    def negative(free: Any) -> Any:
        params = constraints.forward(model.constraints, back(free))
        return -(model.log_likelihood(params, x) + model.log_prior(params))

    away = start + 0.2 * RNG.normal(size=start.size)
    found = optimize.minimize(lambda w: [np.array(each) for each in negative(w)], away, jac=True, tol=1e-12)
    assert abs(found.fun + fit.objective) < 1e-8
    assert np.abs(found.x - start).max() < 1e-4  # half the digits: it ends where the objective no longer falls


@pytest.mark.slow
def test_chains_and_wrapped_families_pass_the_prior_on():
    prior = GammaPrior(5.0, 2.0)
    counts, rates = np.array([[3.0, 0.0, 2.0, 8.0, 9.0]]), np.array([1.0, 7.0])
    own = stats.gamma.logpdf(rates, 5.0, scale=0.5).sum()
    for family in (Poisson(prior), ZeroInflated(Poisson(prior)), Truncated(Poisson(prior), 0, 50)):
        model = HMM(family, 2)
        start = model.init(jax.random.key(0), counts)
        emissions = jax.tree.map(lambda leaf: jnp.asarray(rates), start.emissions)  # structural zeros have no prior
        assert_within(model.log_prior(start._replace(emissions=emissions)), own, 16 * eps(np.float64) * abs(own))
    assert not Mixture(Poisson(prior), 2).maskable and Mixture(Poisson(), 2).maskable


@pytest.mark.slow
def test_the_objective_has_a_gradient_in_the_prior():
    x = FAMILIES["poisson"][1]
    model = Mixture(Poisson(GammaPrior(4.0, 2.0)), 2)
    start = model.init(jax.random.key(1), x)

    def objective(b: Any) -> Any:
        return jaxem.fit(Mixture(Poisson(GammaPrior(4.0, b)), 2), start, x, tol=1e-13).objective

    end = jaxem.fit(model, start, x, tol=1e-13).params.components.rates
    wanted = float((4.0 / 2.0 - end).sum())  # d/db of a log b - b rate: the rest is stationary
    assert abs(jax.grad(objective)(2.0) - wanted) < 1e-7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GammaPrior(0.5, 1.0), "GammaPrior: shape must be a finite number of at least 1"),
        (lambda: GammaPrior(2.0, 0.0), "GammaPrior: rate must be a finite number above 0"),
        (lambda: BetaPrior(1.0, np.nan), "BetaPrior: beta must be a finite number"),
        (lambda: DirichletPrior(np.ones((2, 2))), "concentration must be .* an array of shape"),
        (lambda: DirichletPrior("flat"), "concentration must be .* 'flat'"),
        (lambda: Poisson(BetaPrior(1, 1)), "Poisson: prior must be a GammaPrior; got a BetaPrior"),
        (lambda: Binomial(3, BetaPrior(np.ones(2), 1)), "Binomial: .* must be single numbers"),
        (lambda: Categorical((2, 3), DirichletPrior(np.ones(2))), "column of 3 levels has 2 numbers"),
        (lambda: Categorical((2, 3), (None,)), "1 priors for 2 columns"),
        (lambda: Mixture(Bernoulli(BetaPrior(np.ones(3), 1)), 2).init(jax.random.key(0), np.ones((4, 2))), "D = 3"),
        (lambda: Normal(floor=-1.0), "Normal: floor must be"),
        (lambda: MultivariateNormal(floor=np.inf), "MultivariateNormal: floor must be"),
        (lambda: Censored(Normal(floor=0.1)), "Censored: a floor needs exact observations"),
        (lambda: Truncated(Normal(floor=0.1), low=0.0), "Truncated: a floor needs exact observations"),
        (lambda: PriorObservations(shrinkage=-1.0), "PriorObservations: shrinkage must be at least 0"),
        (lambda: PriorObservations(size=np.ones((2, 2))), "size must be finite numbers of at most 1 axes"),
        (lambda: MultivariateNormal("diag", PriorObservations(scatter=-1.0)), "'diag' covariances must be at least 0"),
        (lambda: MultivariateNormal("full", PriorObservations(scatter=[[1.0, 2.0]])), "scatter must be finite numbers"),
        (
            lambda: MultivariateNormal("full", PriorObservations(scatter=np.array([[1.0, 2.0], [2.0, 1.0]]))),
            "'full' covariances must be positive-semidefinite",
        ),
    ],
)
def test_what_is_wrong_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


RHO = 0.3
everything = lambda form: pytest.param(form, marks=pytest.mark.everything)
X = datasets.old_faithful()[:60]
ROWS = np.random.default_rng(3).uniform(size=(60, 2))

SCATTER = {
    "full": np.array([[[2.0, 1.0], [1.0, 9.0]], [[1.0, 1.0], [1.0, 1.0]]]),
    "tied": np.ones((2, 2)),
    "diag": np.array([[1.0, 2.0], [0.0, 4.0]]),
    "spherical": np.array([0.5, 3.0]),
}


@pytest.mark.parametrize("form", ["full", *map(everything, ("tied", "diag", "spherical"))])
def test_the_maximum_is_stationary_under_observations_seen_before(form):
    """Other ones for each class, beside a floor; where variances are free, also with gaps."""
    size: Any = 1.5 if form == "tied" else np.array([2.5, 0.0])
    prior = PriorObservations(X[:2] + 1, np.array([3.0, 0.5]), size, SCATTER[form])
    family = MultivariateNormal(form, prior, RHO)
    gaps = [jaxem.dataset(np.where(X > 85, np.nan, X), missing="nan")] * (form in ("diag", "spherical"))
    for data in (X, *gaps):
        first, second = maximum(family, ROWS, data)
        jax.tree.map(lambda a, b: assert_within(a, b, 1e-9 * np.abs(np.asarray(b)).max()), first, second)
        allowed = 64 * eps(np.float64) * 60 * np.abs(X).max() ** 2 * 100  # as for the floor below
        jax.tree.map(lambda g, a=allowed: assert_within(g, 0 * g, a), slope(family, second, ROWS, data))


# Floors under variances


@pytest.mark.parametrize("form", ["full", "spherical", "VEE", "EVE", *map(everything, ("tied", "diag", "EII"))])
@pytest.mark.slow
def test_the_maximum_is_stationary_under_the_floor(form):
    """With a prior beside the floor, where the form can have one."""
    family = MultivariateNormal(form, NormalInverseWishart.from_data(X, 2) if form in BASES else None, RHO)
    first, second = maximum(family, ROWS, X)
    jax.tree.map(lambda a, b: assert_within(a, b, 1e-9 * np.abs(np.asarray(b)).max()), first, second)
    allowed = 64 * eps(np.float64) * 60 * np.abs(X).max() ** 2 * 100  # squared distances, at condition number 100
    jax.tree.map(lambda g: assert_within(g, 0 * g, allowed), slope(family, second, ROWS, X))


@pytest.mark.parametrize("form", ["full", "tied", *map(everything, ("diag", "spherical"))])
def test_one_step_is_that_of_scikit_learn(form):
    """The M-step adds rho to each variance. A tied form has scikit-learn's E-step as well."""
    model = Mixture(MultivariateNormal(form, floor=RHO), 2)
    start = model.init(jax.random.key(0), X)
    plain = Mixture(MultivariateNormal(form), 2)
    found = jax.jit(lambda start, x: model.m_step(plain.e_step(start, x), x))(start, X)
    covariances = np.asarray(start.components.covariances)
    precisions = np.linalg.inv(covariances) if form in ("full", "tied") else 1 / covariances
    peer = GaussianMixture(
        2,
        covariance_type=form,
        reg_covar=RHO,
        max_iter=1,
        tol=0.0,
        weights_init=np.asarray(start.weights),
        means_init=np.asarray(start.components.means),
        precisions_init=precisions,
    )
    with pytest.warns(match="did not converge"):
        peer.fit(X)
    wanted = peer.weights_, peer.means_, peer.covariances_
    for a, b in zip(jax.tree.leaves(found), wanted, strict=True):
        assert_within(a, b, 1e4 * eps(np.float64) * np.abs(b).max())
    if form == "tied":
        assert_within(*(each.predict_proba(start, X) for each in (model, plain)), 64 * eps(np.float64))


@pytest.mark.slow
def test_a_class_on_one_point_stays_above_the_floor(dtype):
    """Without a floor the likelihood is unbounded; with it the fit converges, and rises all the way."""
    x = np.concatenate([np.zeros(5), np.random.default_rng(1).normal(5.0, 1.0, 30)])
    x, pair = as_dtype((x, np.stack([x, -2 * x], axis=1)), dtype)
    for plain, floored, data in (
        (Normal(), Normal(floor=1e-3), x),
        (MultivariateNormal(), MultivariateNormal(floor=1e-3), pair),
    ):
        assert not jaxem.fit(Mixture(plain, 2), start_of(floored, data), data).converged
        fit = jaxem.check(jaxem.fit(Mixture(floored, 2), start_of(floored, data), data, max_steps=200))
        trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
        assert (np.diff(trace) >= -16 * eps(dtype) * np.abs(trace).max()).all()
        variances = np.asarray(fit.params.components[1])[0]
        wanted = 1e-3 * np.eye(2) if data.ndim == 2 else 1e-3
        assert_within(variances, wanted, 1e3 * eps(dtype) * 1e-3)


def start_of(family: Any, x: Any) -> Any:
    labels = jnp.asarray([0] * 5 + [1] * 30)
    return Mixture(family, 2).init(jax.random.key(0), x, labels)


def test_variances_of_gaps_are_raised_cell_by_cell():
    """Each cell that is seen adds one rho, whether or not the other one of its row is seen."""
    gaps = jaxem.dataset(np.where(np.random.default_rng(2).random((60, 2)) < 0.3, np.nan, X), missing="nan")
    for form in ("diag", "spherical"):
        family = MultivariateNormal(form, floor=RHO)
        second = maximum(family, ROWS, gaps)[1]
        allowed = 64 * eps(np.float64) * 60 * np.abs(X).max() ** 2
        jax.tree.map(lambda g, a=allowed: assert_within(g, 0 * g, a), slope(family, second, ROWS, gaps))
        plain = maximum(MultivariateNormal(form), ROWS, gaps)[1].covariances
        assert_within(second.covariances, np.asarray(plain) + RHO, 64 * eps(np.float64) * np.asarray(plain).max())
    with pytest.raises(ValueError, match="missing"):
        model = Mixture(MultivariateNormal(floor=RHO), 2)
        model.init(jax.random.key(0), gaps)


@pytest.mark.slow
def test_criteria_and_cross_validation_leave_the_floor_out():
    floored = Product({"a": Normal(floor=RHO), "b": Normal()})
    model, plain = Mixture(floored, 2), Mixture(Product({"a": Normal(), "b": Normal()}), 2)
    data = {"a": X[:, 0], "b": X[:, 1]}
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data), data))
    assert jaxem.inference.bic(model, fit, data) == jaxem.inference.bic(plain, fit, data)
    likelihood = float(plain.log_likelihood(fit.params, data))
    assert fit.objective < likelihood - 0.1
    chosen = jaxem.select([model, Mixture(floored, 1)], data, key=jax.random.key(0), restarts=2)
    assert abs(max(one.log_likelihood for one in chosen.candidates) - likelihood) < 1e-4
    # A floor so high that all folds but for rounding share their fit, a normal distribution of variance rho.
    high = Mixture(Normal(floor=1e12), 1)
    held_out = jaxem.inference.cross_validate(high, X[:, 1], key=jax.random.key(1), folds=2, restarts=1).mean
    assert_within(held_out, -0.5 * np.log(2 * np.pi * 1e12), 1e-6)
    assert without_floors(plain) is plain
    nested = HMM(Component(Mixture(Normal(floor=RHO), 2)), 2)
    assert without_floors(nested) == HMM(Component(Mixture(Normal(), 2)), 2)
