"""What lies at an edge of its space is named and held there, and the errors of all else are those given that."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within

import jaxem
from jaxem import datasets
from jaxem.families import (
    Bernoulli,
    Categorical,
    MultivariateNormal,
    Normal,
    Poisson,
    PoissonParams,
    StudentT,
)
from jaxem.families.protocol import log_density
from jaxem.latent import chain_forward
from jaxem.models import HMM, FactorAnalysis, Mixture


def _fit(model, start, x):
    return jaxem.fit(model, start, x, tol=1e-13, max_steps=20_000)


@functools.cache
def earthquakes():
    """One sequence: the fitted initial distribution is at a corner."""
    x = jnp.asarray(datasets.earthquakes()[1].astype(float))[None]
    model = HMM(Poisson(), 2)
    return model, _fit(model, model.init(jax.random.key(0), x), x), x


@functools.cache
def left_right():
    """Four states, each of which stays or goes on to the next."""
    rng = np.random.default_rng(0)
    states = np.minimum((rng.random((20, 16)) < 0.25).cumsum(axis=1), 3)
    x = jnp.asarray(rng.normal(size=states.shape) + 4.0 * states)
    model = HMM(Normal(), 4)
    start = model.init(jax.random.key(1), x)
    transition = (0.5 * jnp.eye(4) + 0.5 * jnp.eye(4, k=1)).at[3, 3].set(1.0)
    means = 4.0 * jnp.arange(4, dtype=float)
    start = start._replace(
        initial=jnp.eye(4)[0], transition=transition, emissions=start.emissions._replace(means=means)
    )
    return model, _fit(model, start, x), x


def _log_likelihood_by_hand(theta, start, x):
    """Of a Poisson chain that begins in a known state, theta = (logit A_01, logit A_10, log rates)."""
    a, b = jax.nn.sigmoid(theta[0]), jax.nn.sigmoid(theta[1])
    A = jnp.stack([jnp.stack([1 - a, a]), jnp.stack([b, 1 - b])])
    log_b = log_density(Poisson(), PoissonParams(jnp.exp(theta[2:])), x[0])
    return chain_forward.log_likelihood(start, A, log_b[None], jnp.array([x.shape[1]]))[0]


def test_a_corner_of_the_initial_distribution_is_held_and_the_rest_is_given_it():
    model, fit, x = earthquakes()
    p = fit.params
    theta = jnp.stack([p.transition[0, 1], p.transition[1, 0]])
    theta = jnp.concatenate([jnp.log(theta) - jnp.log1p(-theta), jnp.log(p.emissions.rates)])
    hessian = jax.jit(jax.hessian(_log_likelihood_by_hand))(theta, jnp.round(p.initial), x)
    cov = np.linalg.inv(-np.asarray(hessian))
    slope = np.array([*(p.transition[0, 1] * p.transition[0, 0], p.transition[1, 0] * p.transition[1, 1])])
    wanted = np.sqrt(np.diag(cov)) * np.r_[slope, p.emissions.rates]

    errors = jaxem.inference.standard_errors(model, p, x)
    found = np.r_[errors.transition[0, 1], errors.transition[1, 0], errors.emissions.rates]
    assert_within(found, wanted, 1e-5 * wanted)
    assert np.isnan(errors.initial).all()
    info = jaxem.inference.information(model, p, x)
    assert info.observed.shape == (4, 4) and len(info.names) == 4 and "initial" not in str(info.names)
    covariance = np.asarray(jaxem.inference.covariance(model, p, x))
    assert np.isnan(covariance[:2]).all() and np.isfinite(covariance[2:, 2:]).all()
    ends = jaxem.inference.confidence_intervals(model, p, x)
    assert np.isnan(ends.lower.initial).all() and np.isfinite(ends.upper.transition).all()
    low, high = jaxem.inference.profile_interval(model, p, x, lambda p: p.emissions.rates[0])
    assert low < p.emissions.rates[0] < high and 0.5 < (high - low) / (2 * 1.96 * wanted[2]) < 2
    table = str(jaxem.summary(model, fit, x))
    assert "held there" in table.splitlines()[-1] and "initial[0]" in table.splitlines()[-1]
    assert "4 free parameters" in table


@pytest.mark.slow
def test_in_a_trace_only_what_is_held_is_nan():
    model, fit, x = earthquakes()
    p = fit.params
    inward = p._replace(initial=p.initial[::-1])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), p, inward)
    found = jax.jit(jax.vmap(lambda p: jaxem.inference.standard_errors(model, p, x)))(stacked)
    alone = jaxem.inference.standard_errors(model, p, x)
    assert_within(found.emissions.rates[0], alone.emissions.rates, 1e-6 * alone.emissions.rates)
    assert_within(found.transition[0], alone.transition, 1e-6)
    assert np.isnan(found.initial).all() and np.isnan(found.emissions.rates[1]).all()


@pytest.mark.slow
def test_an_edge_from_which_the_objective_rises_is_no_maximum():
    model, fit, x = earthquakes()
    inward = fit.params._replace(initial=fit.params.initial[::-1])  # EM would leave this corner
    for edge in (1e-18, 1e-30):
        start = jnp.where(inward.initial < 0.5, edge, 1 - edge)
        with pytest.raises(jaxem.inference.InformationError, match=r"edge.*initial\[\d\].*rises"):
            jaxem.inference.standard_errors(model, inward._replace(initial=start), x)


@pytest.mark.slow
def test_structural_zeros_are_not_free():
    model, fit, x = left_right()
    assert fit.status == jaxem.Status.CONVERGED
    assert jaxem.inference.number_of_parameters(model, fit.params) == 11
    assert jax.jit(lambda p: jaxem.inference.number_of_parameters(model, p))(fit.params) == 11
    info = jaxem.inference.information(model, fit.params, x)
    assert info.observed.shape == (11, 11) and np.linalg.eigvalsh(info.observed).min() > 0
    errors = jaxem.inference.standard_errors(model, fit.params, x)
    held = np.isnan(errors.transition)
    np.testing.assert_array_equal(held, (fit.params.transition == 0) | (fit.params.transition == 1))
    assert np.isnan(errors.initial).all()
    assert np.isfinite(errors.emissions.means).all() and np.isfinite(errors.emissions.variances).all()
    robust = jaxem.inference.standard_errors(model, fit.params, x, robust=True)
    np.testing.assert_array_equal(np.isnan(robust.transition), held)
    assert ((robust.transition > 0) | held).all()
    table = jaxem.summary(model, fit, x)
    assert table.free == 11 and len(table.held) == 4 + 9 + 1


@pytest.mark.parametrize("name", ["a level never seen", "an item that all have", "a rate of zero"])
@pytest.mark.slow
def test_emissions_at_an_edge(name):
    rng = np.random.default_rng(2)
    z = np.repeat([0, 1], 60)
    if name == "a level never seen":
        first = np.where(z, rng.integers(0, 2, 120), rng.integers(1, 3, 120))  # level 2 not in class 1, 0 not in 0
        x = np.stack([first, *((z + (rng.random((4, 120)) < 0.15)) % 2)], axis=1)
        model = Mixture(Categorical((3, 2, 2, 2, 2)), 2)
    elif name == "an item that all have":
        x = np.concatenate(
            [z[:, None] | (rng.random((120, 1)) < 0.4), (z + (rng.random((4, 120)) < 0.2)).T % 2], axis=1
        )
        model = Mixture(Bernoulli(), 2)
    else:
        x = np.where(z, 4 + rng.poisson(6.0, 120), 0)
        model = Mixture(Poisson(), 2)
    x = jnp.asarray(x, jnp.float64)
    fit = _fit(model, model.init(jax.random.key(3), x), x)
    errors = jaxem.inference.standard_errors(model, fit.params, x)
    assert np.isfinite(errors.weights).all()
    held = 0
    for value, error in zip(*map(jax.tree.leaves, (fit.params.components, errors.components)), strict=True):
        edge = np.isnan(error)
        held += edge.sum()
        assert (np.minimum(value, 1 - value if model.family != Poisson() else value)[edge] < 1e-4).all()
        assert (np.asarray(error)[~edge] > 0).all()
    assert 0 < held < 6


@pytest.mark.slow
def test_a_noise_variance_on_its_way_to_zero_is_the_culprit_and_no_mean():
    x = jnp.asarray(datasets.iris()[0])
    model = FactorAnalysis(1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, max_steps=20_000, tol=1e-12)
    table = jaxem.summary(model, fit, x)
    assert table.held == ("noise[2]",)
    errors = jaxem.inference.standard_errors(model, fit.params, x)
    # The mean of a normal distribution, whatever its covariance: sqrt(variance / n).
    assert_within(errors.mean, np.sqrt(np.var(np.asarray(x), axis=0) / len(x)), 2e-3 * np.ptp(x))
    assert np.isnan(errors.noise[2]) and np.isfinite(errors.loadings).all()


@pytest.mark.parametrize(("d", "k"), [(3, 1), (3, 2), (4, 1), (4, 2), (4, 3), (5, 2), (5, 3), (6, 3), (7, 4)])
@pytest.mark.slow
def test_factors_are_counted_up_to_what_a_covariance_holds(d, k):
    rng = np.random.default_rng(d + 10 * k)
    model = FactorAnalysis(k)
    params = model.init(jax.random.key(0), jnp.asarray(rng.normal(size=(50, d))))
    loadings, noise = jnp.asarray(rng.normal(size=(d, k))), jnp.asarray(rng.uniform(0.5, 2, d))

    def covariance(loadings, noise):
        return (loadings @ loadings.T + jnp.diag(noise))[np.tril_indices(d)]

    slopes = jax.jit(jax.jacobian(covariance, (0, 1)))(loadings, noise)
    rank = np.linalg.matrix_rank(np.concatenate([np.asarray(s).reshape(len(s), -1) for s in slopes], axis=1))
    assert jaxem.inference.number_of_parameters(model, params._replace(loadings=loadings, noise=noise)) == d + rank


@pytest.mark.slow
def test_factors_beyond_the_bound_are_flat_along_loadings_and_noise():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(200, 2)) @ rng.normal(size=(2, 4)) + rng.normal(size=(200, 4)))
    model = FactorAnalysis(2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-13, max_steps=5000)
    with pytest.raises(jaxem.inference.InformationError, match=r"(singular|share).*(loadings|noise)") as caught:
        jaxem.inference.information(model, fit.params, x)
    assert "mean" not in str(caught.value)


@pytest.mark.parametrize(
    "family",
    [Normal(), Normal(floor=0.0), StudentT(5.0), *(MultivariateNormal(form) for form in ("diag", "spherical", "full"))],
    ids=lambda family: f"{type(family).__name__} {getattr(family, 'covariance', '')}",
)
@pytest.mark.slow
def test_a_class_without_weight_adds_nothing_however_far_its_mean_has_moved(family):
    """In 32 bits the square of the move overflows, and zero times infinity is no number."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)), "float32")
    x = x if family.event_ndim else x[:, 0]
    r = jnp.ones((20, 2), "float32").at[:, 1].set(0)
    params = Mixture(family, 2).init(jax.random.key(0), x).components
    c = family.prepare(params, x)
    u = family.hidden(c, x) if hasattr(family, "hidden") else ()
    moved = params._replace(**{params._fields[0]: params[0].at[1].set(1e25)})
    assert np.isfinite(float(family.expected(c, moved, family.statistics(c, r, u, x))))
