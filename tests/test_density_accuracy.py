"""Every log-density against 50-digit arithmetic over the range of each dtype, and its derivatives at the ends of it."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps

import jaxem
from jaxem.families import (
    Bernoulli,
    BernoulliParams,
    Exponential,
    ExponentialParams,
    MultivariateNormal,
    MultivariateNormalParams,
    Normal,
    NormalInverseWishart,
    NormalParams,
    Poisson,
    PoissonParams,
    indicators,
)
from jaxem.families.normal_prior import log_prior
from jaxem.families.protocol import log_density
from jaxem.families.stirling import deviance, gamma_at_saddle, remainder
from jaxem.families.sums import weighted_sum, weighted_sums
from jaxem.models import HMM, Mixture, MixtureParams

_PATH = Path(__file__).parents[1] / "benchmarks/density_accuracy.py"
_SPEC = importlib.util.spec_from_file_location("density_accuracy", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
accuracy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(accuracy)

# Units in the last place. Of the result, where all terms are of one sign; else of the largest term: a sum of up to 30
# terms may lose one for each, a quadratic form some.
OF_THE_RESULT = {"Poisson": 5, "Bernoulli": 5, "Categorical": 5, "PoissonVector": 5, "NegativeBinomial": 16}
OF_ITS_TERMS = {"Exponential": 2, "Normal": 5, "NormalInverseWishart, diag": 16}


@pytest.mark.parametrize("density", accuracy.DENSITIES, ids=lambda density: density.name)
def test_log_densities_are_right_to_a_few_units_in_the_last_place(density, dtype):
    of_result, of_terms = accuracy.largest_errors(density, dtype, rounds=1)
    if density.name in OF_THE_RESULT:
        assert of_result <= OF_THE_RESULT[density.name]
    else:
        assert of_terms <= OF_ITS_TERMS.get(density.name, 8)


def digits(function: Any, *arrays: Any) -> np.ndarray:
    """``function`` of numbers of 50 digits, element by element."""
    with mpmath.mp.workdps(50):
        wide = [np.vectorize(lambda a: mpmath.mpf(float(a)), otypes=[object])(np.asarray(a)) for a in arrays]
        return np.vectorize(lambda *a: float(function(*a)))(*wide)


def test_derivatives_of_poisson(dtype):
    """Right to rounding, the first near its zero too, where x / rate - 1 would lose all of it."""
    x = as_dtype(np.array([0, 0, 1, 7, 1e6, 1e6 + 1, 1e12]), dtype)
    rates = as_dtype(np.array([1e-30, 3, 1e-12, 7.5, 1e6, 1e6 + 0.5, 1e12 * (1 + 1e-5)]), dtype)
    f = lambda rate, x: log_density(Poisson(), PoissonParams(rate[None]), x[None])[0, 0]
    first = jax.jit(jax.vmap(jax.grad(f)))(rates, x)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(f))))(rates, x)
    wanted = digits(lambda r, x: x / r - 1, rates, x)
    assert_within(first, wanted, 4 * eps(dtype) * np.abs(wanted))
    wanted = digits(lambda r, x: -x / r**2, rates, x)
    assert_within(second, wanted, 4 * eps(dtype) * np.abs(wanted))
    in_data = jax.jit(jax.vmap(jax.grad(f, argnums=1)))(rates[1:4], x[1:4])
    wanted = digits(lambda r, x: mpmath.log(r) - mpmath.digamma(x + 1), rates[1:4], x[1:4])
    assert_within(in_data, wanted, 16 * eps(dtype) * (1 + np.abs(wanted)))


def test_a_rate_of_zero_has_derivatives(dtype):
    params = MixtureParams(*as_dtype((np.array([0.4, 0.6]), PoissonParams(np.array([0.0, 3.0]))), dtype))
    x = as_dtype(np.array([0, 0, 2, 5]), dtype)
    model = Mixture(Poisson(), 2)
    gradient = jax.jit(jax.grad(lambda p: model.log_likelihood(p, x)))(params)
    zero = np.exp(-3.0)
    assert_within(gradient.components.rates[0], -2 * 0.4 / (0.4 + 0.6 * zero), 8 * eps(dtype))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_curvature_in_logs_of_scales_in_any_units(scale, dtype):
    """Of what is divided by the scale before it is squared, nothing overflows or vanishes, at any order."""
    x = as_dtype(np.array([0.5 * scale, -2 * scale]), dtype)
    densities = {
        "normal": lambda u: log_density(Normal(), NormalParams(jnp.zeros_like(u), jnp.exp(u)), x),
        "diag": lambda u: log_density(
            MultivariateNormal("diag"),
            MultivariateNormalParams(jnp.zeros((1, 2), dtype), jnp.exp(u)[None].repeat(2, 1)),
            x[None],
        ),
        "spherical": lambda u: log_density(
            MultivariateNormal("spherical"), MultivariateNormalParams(jnp.zeros((1, 2), dtype), jnp.exp(u)), x[None]
        ),
    }
    for name, density in densities.items():
        u = as_dtype(np.array([2 * np.log(scale)]), dtype)
        curvature = jax.jit(jax.hessian(lambda u, density=density: density(u).sum()))(u)
        # exp(u) is known to the rounding of u, 55 eps.
        assert np.abs(np.asarray(curvature) + 0.5 * (0.25 + 4)) <= 256 * eps(dtype), name
    rates = as_dtype(np.array([-np.log(scale)]), dtype)
    curvature = jax.jit(jax.hessian(lambda u: log_density(Exponential(), ExponentialParams(jnp.exp(u)), x[:1]).sum()))
    assert_within(curvature(rates), [[-0.5]], 64 * eps(dtype))


def test_small_probabilities_are_not_rounded_to_none(dtype):
    p = as_dtype(np.array([[1e-3 * eps(dtype), eps(dtype) / 3]]), dtype)
    found = log_density(Bernoulli(), BernoulliParams(p), as_dtype(np.zeros((1, 2)), dtype))
    wanted = digits(lambda a, b: mpmath.log(1 - a) + mpmath.log(1 - b), p[:, 0], p[:, 1])
    assert_within(found, wanted[:, None], 2 * eps(dtype) * np.abs(wanted[:, None]))


def test_parts_of_factorials(dtype):
    a = as_dtype(np.array([0.6, 2.5, 4.5, 9.9, 10.1, 300.5, 1e6, 1e12 if dtype == np.float64 else 1e10]), dtype)
    half = as_dtype(0.5, dtype)
    unit = eps(dtype)
    saddle = lambda a, b: a * mpmath.log(a) - a - mpmath.loggamma(a - b)
    # Below 10 from the logarithm of the gamma function itself, of numbers up to 23.
    assert_within(
        jax.jit(remainder)(a), digits(lambda b: saddle(b, 0) * -1 - mpmath.log(2 * mpmath.pi / b) / 2, a), 32 * unit
    )
    assert_within(jax.jit(gamma_at_saddle)(a, half), digits(lambda a: saddle(a, mpmath.mpf(1) / 2), a), 64 * unit)
    assert_within(
        jax.jit(jax.vmap(jax.grad(deviance)))(a, a * 1.25),
        digits(lambda a, b: mpmath.log(a / b), a, a * 1.25),
        4 * unit,
    )


def test_log_prior_of_many_degrees_of_freedom_has_its_derivative(dtype):
    """Tuned by its gradient: in the degrees of freedom, where gamma functions and determinants cancel."""
    dof, variance = 1e5, 1.01
    prior = as_dtype(NormalInverseWishart(np.zeros(1), np.ones(()), np.array(dof), np.full((1, 1), dof)), dtype)
    params = as_dtype((np.zeros((1, 1)), np.full((1, 1), variance)), dtype)
    slope = jax.jit(jax.grad(lambda nu: log_prior(prior._replace(dof=nu), "diag", *params)))(prior.dof)
    v = float(params[1][0, 0])
    wanted = digits(lambda nu: (mpmath.log(mpmath.mpf(dof) / 2 / v) - mpmath.digamma(nu / 2)) / 2, dof)
    assert_within(slope, wanted, 8 * eps(dtype))


def exact_log_likelihood(weights: Any, rates: Any, x: Any) -> float:
    def one(x: Any) -> Any:
        log_p = lambda rate: x * mpmath.log(rate) - rate - mpmath.loggamma(x + 1)
        return mpmath.log(sum(mpmath.mpf(float(w)) * mpmath.exp(log_p(mpmath.mpf(float(r)))) for w, r in pairs))

    pairs = list(zip(np.asarray(weights), np.asarray(rates), strict=True))
    return float(digits(one, x).sum())


@pytest.mark.parametrize("size", [300.0, 1e4, 1e6, 1e10])
@pytest.mark.slow
def test_fits_of_large_counts(size, dtype):
    """Seven of eight of these fits fell at once, or were off by up to 158 and said to have converged."""
    rng = np.random.default_rng(0)
    x = np.round(np.r_[rng.normal(size, size**0.5, 25), rng.normal(1.5 * size, size**0.5, 15)]).astype(dtype)
    model = Mixture(Poisson(), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x)
    assert fit.status == jaxem.Status.CONVERGED
    wanted = exact_log_likelihood(fit.params.weights, fit.params.components.rates, x)
    assert_within(fit.objective, wanted, 8 * eps(dtype) * (abs(wanted) + len(x)))


@pytest.mark.slow
def test_a_chain_of_large_counts(dtype):
    rng = np.random.default_rng(1)
    x = np.where(np.arange(60) // 10 % 2, rng.poisson(2e5, 60), rng.poisson(2.1e5, 60)).astype(dtype)[None]
    model = HMM(Poisson(), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x)
    assert fit.status == jaxem.Status.CONVERGED
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), fit.params)
    assert_within(fit.objective, model.log_likelihood(wide, x.astype(np.float64)), 32 * eps(dtype) * 60 * 10)


def test_sums_do_not_lose_with_the_number_of_rows():
    """A million rows in 32 bits: added one after the other they lose 1e-4 of the sum."""
    rng = np.random.default_rng(2)
    x, weights = rng.exponential(size=1_000_003).astype(np.float32), rng.random((1_000_003, 2)).astype(np.float32)
    wide = weights.astype(np.float64)
    for found, wanted in [
        (jax.jit(weighted_sum)(weights, x), x.astype(np.float64) @ wide),
        (jax.jit(weighted_sums)(weights, x[:, None]), wide.T @ x.astype(np.float64)[:, None]),
    ]:
        assert_within(found, wanted, 16 * eps(np.float32) * np.abs(wanted))


def test_the_logarithm_of_a_complement_near_two_fifths():
    """XLA's log1p is off by 120 units in the last place there."""
    p = np.linspace(0.2, 0.6, 201)
    with mpmath.workdps(50):
        wanted = [float(mpmath.log(1 - mpmath.mpf(float(each)))) for each in p]
    np.testing.assert_allclose(indicators.log_of_rest(jnp.asarray(p)), wanted, rtol=3 * np.finfo(float).eps)
