"""Negative binomial and zero-inflated counts: densities, hidden variables, laws, direct maximisation, edges."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from scipy import optimize, stats

import jaxem
from jaxem import Dataset
from jaxem.core.records import register
from jaxem.families import (
    MultivariateNormal,
    NegativeBinomial,
    NegativeBinomialParams,
    Poisson,
    PoissonParams,
    ZeroInflated,
    ZeroInflatedParams,
    restaurant,
)
from jaxem.families.protocol import log_density
from jaxem.models import Mixture

PHI = np.array([0.5, 0.2])
RNG = np.random.default_rng(0)
Z = np.where(RNG.random(300) < 0.4, 0, 1)
X = RNG.poisson(np.array([2.0, 15.0])[Z] * RNG.gamma(1 / PHI[Z], PHI[Z])).astype(float)
INFLATED = np.where(RNG.random(300) < 0.25, 0, X)


def test_the_distribution_is_that_of_all_seatings():
    """Of 5 guests: each permutation is a seating, its cycles are the tables."""
    phi, x = 0.7, 5
    tables = []
    for order in itertools.permutations(range(x)):
        seen: set[int] = set()
        tables.append(0)
        for guest in range(x):
            tables[-1] += guest not in seen
            while guest not in seen:
                seen.add(guest)
                guest = order[guest]
    p = phi ** (x - np.array(tables, float))
    p = p / p.sum()
    joined, entropy = (p * (x - np.array(tables))).sum(), -(p * np.log(p)).sum()
    other = phi * 3
    q = other ** (x - np.array(tables, float))
    q = q / q.sum()

    @jax.jit
    def by_tables(phi, other):
        u, v = (restaurant.posterior(jnp.array([5.0]), phi[None]) for phi in (phi, other))
        return u.joined[0, 0], restaurant.entropy(u)[0, 0], restaurant.divergence(u, v)[0, 0]

    found = by_tables(phi, other)
    np.testing.assert_allclose(found[:2], [joined, entropy], rtol=1e-14)
    np.testing.assert_allclose(found[2], (p * np.log(p / q)).sum(), rtol=1e-13)


def test_densities_are_those_of_scipy_and_poisson_at_the_edge(dtype):
    x = np.r_[np.arange(14), 40, 1e3, 1e5].astype(float)
    params = as_dtype(NegativeBinomialParams(np.array([3.0, 3.0, 900.0]), np.array([0.5, 0.0, 1e-3])), dtype)
    density = jax.jit(log_density)
    found = np.asarray(density(NegativeBinomial(), params, as_dtype(x, dtype)))
    for k, (m, phi) in enumerate(np.asarray(params, np.float64).T):
        wanted = stats.nbinom.logpmf(x, 1 / phi, 1 / (1 + phi * m)) if phi else stats.poisson.logpmf(x, m)
        # The reference cancels: it is right to eps times x log x.
        assert_within(
            found[:, k], wanted, 8 * eps(dtype) * np.abs(wanted) + 64 * 2.2e-16 * x * np.log1p(x) + eps(dtype)
        )
    none = as_dtype(NegativeBinomialParams(np.zeros(1), np.ones(1)), dtype)
    value = density(NegativeBinomial(), none, as_dtype(np.array([0.0, 1.0, 0.5, -1.0, np.nan]), dtype))[:, 0]
    np.testing.assert_array_equal(value, [0, -np.inf, -np.inf, -np.inf, np.nan])


@pytest.mark.slow
def test_the_derivative_at_the_edge():
    """In phi at 0, ((x - m)^2 - x) / 2: it says whether the objective rises into the space."""
    x = jnp.arange(15.0)
    params = NegativeBinomialParams(jnp.full(1, 4.0), jnp.zeros(1))
    slope = jax.jit(jax.jacfwd(lambda p: log_density(NegativeBinomial(), p, x)))(params).dispersions[:, 0, 0]
    np.testing.assert_allclose(slope, ((x - 4) ** 2 - x) / 2, atol=1e-13)


def test_zeros_of_both_kinds(dtype):
    """Right where zeros of the family are too rare for the dtype, and linear in the probability at its edge."""
    family, x = ZeroInflated(Poisson()), as_dtype(np.array([0.0, 2.0]), dtype)
    params = ZeroInflatedParams(np.array([0.0, 0.3, 1e-30, 1.0]), PoissonParams(np.array([200.0, 200.0, 2.0, 2.0])))
    params = as_dtype(params, dtype)
    found = jax.jit(log_density)(family, params, x)
    poisson = stats.poisson.logpmf([[0], [2]], np.asarray(params.counts.rates, float))
    wanted = [[-200, np.log(0.3), -2, 0], poisson[1] + np.r_[0, np.log(0.7), 0, -np.inf]]
    assert_within(found, np.array(wanted), 8 * eps(dtype) * np.abs(poisson))
    of = lambda p: log_density(family, ZeroInflatedParams(p, PoissonParams(jnp.full_like(p, 2.0))), x)[0, 0]
    slope = jax.jit(jax.grad(of))(as_dtype(np.zeros(1), dtype))
    assert_within(slope, np.exp([2.0]) - 1, 32 * eps(dtype))


@register
@dataclasses.dataclass(frozen=True)
class Wrong:
    """A family that is wrong in one place, by the amounts: zeros where it is right."""

    family: Any = dataclasses.field(metadata={"static": True})
    amounts: Any

    def __getattr__(self, name):
        return getattr(self.family, name)

    def hidden(self, c, x):
        u = self.family.hidden(c, x)
        counts = u.counts._replace(joined=u.counts.joined * (1 + self.amounts["guests in the E-step"]))
        tau = u.probabilities * (1 - self.amounts["zeros in the E-step"])
        return u._replace(probabilities=tau, counts=counts)

    def hidden_entropy(self, c, u, x):
        own = self.family.hidden_entropy(c, u, x)
        of_guests = (1 - u.probabilities) * self.family.family.hidden_entropy(c.counts, u.counts, x)
        return own - self.amounts["entropy of the guests left out"] * of_guests

    def maximize(self, c, sums):
        p = self.family.maximize(c, sums)
        phi = p.counts.dispersions
        if c is None:
            return p
        phi = phi * (c.counts.dispersions / phi) ** (2 * self.amounts["dispersion the other way"])
        return p._replace(counts=p.counts._replace(dispersions=phi))


MUTANTS = {
    "": 0.0,
    "guests in the E-step": 0.01,
    "zeros in the E-step": 0.01,
    "entropy of the guests left out": 1.0,
    "dispersion the other way": 1.0,
}


@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.everything)])
def test_the_laws_hold_and_catch_what_is_wrong(precision):
    """Of hidden variables within hidden variables, with weights."""
    weights = np.random.default_rng(1).integers(0, 3, 300).astype(float)
    data = as_dtype(Dataset(INFLATED, weights=weights), jnp.dtype(precision))
    family = ZeroInflated(NegativeBinomial())
    params = Mixture(family, 2).init(jax.random.key(0), data)
    for name, amount in MUTANTS.items():
        amounts = {one: as_dtype(amount if one == name else 0.0, jnp.dtype(precision)) for one in MUTANTS if one}
        certificate = jaxem.verify(Mixture(Wrong(family, amounts), 2), params, data)
        assert certificate.ok == (name == ""), (name, certificate)


def _search(minus, link, start):
    direct = jax.jit(jax.value_and_grad(lambda u: minus(link(u))))
    search = optimize.minimize(
        lambda u: tuple(map(np.asarray, direct(u))), start, jac=True, method="BFGS", options={"gtol": 1e-8}
    )
    return -search.fun, link(jnp.asarray(search.x))


def _scipy_nb(x, m, phi):
    return jax.scipy.stats.nbinom.logpmf(x, 1 / phi, 1 / (1 + phi * m))


@pytest.mark.slow
def test_the_optimum_of_a_mixture_is_that_of_a_direct_search_and_errors_are_those_of_its_hessian():
    x = jnp.asarray(X)
    model = Mixture(NegativeBinomial(), 2)
    start = model.init(jax.random.key(0), x)
    fit = jaxem.check(jaxem.fit(model, start, x, algorithm=jaxem.SQUAREM(), tol=1e-13, max_steps=3000))
    best = model.permute(fit.params, jnp.argsort(fit.params.components.means))

    def minus(v):  # w, m, phi
        of = lambda k: _scipy_nb(x, v[1 + k], v[3 + k])
        return -jnp.logaddexp(jnp.log(v[0]) + of(0), jnp.log1p(-v[0]) + of(1)).sum()

    link = lambda u: jnp.concatenate([jax.nn.sigmoid(u[:1]), jnp.exp(u[1:])])
    top, wanted = _search(minus, link, [0.0, 1.0, 3.0, -1.0, -1.0])
    assert float(fit.objective) == pytest.approx(top, rel=1e-11)
    found = jnp.concatenate([best.weights[:1], *best.components])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    errors = jaxem.inference.standard_errors(model, best, x)
    wanted = np.sqrt(np.diag(np.linalg.inv(jax.jit(jax.hessian(minus))(found))))
    np.testing.assert_allclose(jnp.concatenate([errors.weights[:1], *errors.components]), wanted, rtol=1e-6)


@pytest.mark.everything
def test_zero_inflation_of_a_negative_binomial_is_that_of_a_direct_search():
    x = jnp.asarray(INFLATED[Z == 1])
    model = Mixture(ZeroInflated(NegativeBinomial()), 1)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-13, max_steps=3000))

    def minus(v):  # pi, m, phi
        density = v[0] * jnp.where(x == 0, 1.0, 0.0) + (1 - v[0]) * jnp.exp(_scipy_nb(x, v[1], v[2]))
        return -jnp.log(density).sum()

    link = lambda u: jnp.concatenate([jax.nn.sigmoid(u[:1]), jnp.exp(u[1:])])
    top, wanted = _search(minus, link, [-1.0, 2.0, -1.0])
    assert float(fit.objective) == pytest.approx(top, rel=1e-11)
    c = fit.params.components
    found = jnp.concatenate([c.zeros, *c.counts])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    e = jaxem.inference.standard_errors(model, fit.params, x).components
    wanted = np.sqrt(np.diag(np.linalg.inv(jax.jit(jax.hessian(minus))(found))))
    np.testing.assert_allclose(jnp.concatenate([e.zeros, *e.counts]), wanted, rtol=1e-6)


@pytest.mark.slow
def test_counts_that_vary_less_than_poisson_end_at_the_edge(dtype):
    x = as_dtype(np.random.default_rng(2).binomial(10, 0.5, 300), dtype)
    model = Mixture(NegativeBinomial(), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, max_steps=500)
    assert fit.status in (jaxem.Status.CONVERGED, jaxem.Status.PRECISION)
    assert float(fit.params.components.dispersions[0]) <= 1e-8
    poisson = log_density(Poisson(), PoissonParams(fit.params.components.means), x).sum()
    assert_within(fit.objective, poisson, 300 * 1e-8 + 32 * eps(dtype) * 600)
    edge = jax.tree.map(lambda leaf: leaf, fit.params)
    edge = edge._replace(components=edge.components._replace(dispersions=jnp.zeros_like(edge.components.dispersions)))
    errors = jaxem.inference.standard_errors(model, edge, x)
    assert np.isnan(errors.components.dispersions[0])
    assert_within(errors.components.means[0], np.sqrt(x.mean() / 300), 1e-3)


@pytest.mark.slow
def test_samples():
    labels = jnp.repeat(jnp.arange(2), 20_000)
    counts = NegativeBinomialParams(jnp.array([3.0, 3.0]), jnp.array([0.5, 0.0]))
    family = ZeroInflated(NegativeBinomial())
    x = np.asarray(family.sample(jax.random.key(0), ZeroInflatedParams(jnp.array([0.2, 0.0]), counts), labels))
    x = x.reshape(2, -1)
    for k, exact in enumerate([stats.nbinom(2, 1 / 2.5), stats.poisson(3)]):
        p = exact.pmf(np.arange(12)) * [0.8, 1][k] + np.r_[[0.2, 0][k], np.zeros(11)]
        seen = np.bincount(x[k].astype(int), minlength=12)[:12]
        rest = 20_000 - seen.sum()
        assert stats.chisquare(np.r_[seen, rest], 20_000 * np.r_[p, 1 - p.sum()]).pvalue > 1e-3


def test_what_is_refused():
    with pytest.raises(ValueError, match="single numbers"):
        ZeroInflated(MultivariateNormal())
    with pytest.raises(ValueError, match="a family"):
        ZeroInflated(3)
    with pytest.raises(ValueError, match="non-negative whole number"):
        Mixture(ZeroInflated(Poisson()), 1).init(jax.random.key(0), jnp.array([0.0, 1.5]))


@pytest.mark.parametrize(
    "algorithm",
    [
        jaxem.HardEM(),
        *(
            pytest.param(algorithm, marks=pytest.mark.everything)
            for algorithm in (
                jaxem.AnnealedEM(),
                jaxem.SAEM(),
                jaxem.MonteCarloEM(),
                jaxem.IncrementalEM(),
                jaxem.OnlineEM(),
                jaxem.Anderson(),
            )
        ),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_algorithms_take_hidden_variables_of_a_family(algorithm):
    """Hard, stochastic and partial E-steps change the classes; the guests and the zeros given a class are averaged."""
    x = jnp.asarray(INFLATED)
    model = Mixture(ZeroInflated(NegativeBinomial()), 2)
    start = model.init(jax.random.key(0), x)
    best = jaxem.fit(model, start, x, algorithm=jaxem.SQUAREM()).objective
    fit = jaxem.fit(model, start, x, algorithm=algorithm, max_steps=60, key=jax.random.key(1))
    assert fit.status not in (jaxem.Status.NON_FINITE, jaxem.Status.DECREASED)
    at_end = model.log_likelihood(fit.params, x)
    assert float(best) - 30 < float(at_end) < float(best) + 1e-6
