"""Information: three routes to one matrix, published figures, closed forms, and every reason to refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from closeness import as_dtype, assert_within

import jaxem
from jaxem import Dataset
from jaxem.families import Normal, NormalParams, Poisson
from jaxem.models import HMM, FactorAnalysis, FactorAnalysisParams, Mixture, MixtureParams

COUNTS = np.array([125.0, 18.0, 20.0, 34.0])


def linkage(**parts):
    """Rao's data; Q up to what depends on neither theta nor z."""
    logs = lambda theta: jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])
    return jaxem.Model(
        lambda theta, y: y[0] * theta / (2 + theta),
        lambda z, y: (z + y[3]) / (z + y[1:].sum()),
        q_function=lambda theta, z, y: (z + y[3]) * jnp.log(theta) + (y[1] + y[2]) * jnp.log1p(-theta),
        log_likelihood=lambda theta, y: (y * jnp.log(logs(theta))).sum(),
        **parts,
    )


def chains():
    """Sequences of which some start in each state, so that no probability is on the edge."""
    rng = np.random.default_rng(7)
    states = (rng.random((20, 1)) < 0.5) ^ ((rng.random((20, 8)) < 0.3).cumsum(axis=1) % 2 == 1)
    data = Dataset(jnp.asarray(rng.normal(size=(20, 8)) + 2.5 * states), lengths=jnp.asarray(rng.integers(3, 9, 20)))
    return HMM(Normal(), 2), HMM(Normal(), 2).init(jax.random.key(1), data), data


def one_factor():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 1)) @ np.array([[1.0, -0.8, 0.9, 1.2]]) + 0.7 * rng.normal(size=(60, 4)) + 2.0
    return FactorAnalysis(1), FactorAnalysis(1).init(jax.random.key(1), x), jnp.asarray(x)


OTHERS = {"hmm": chains, "factor analysis, one": one_factor}


@functools.cache
def fitted(name):
    """A case at its maximum, fitted so far that only rounding is left."""
    model, start, data = OTHERS[name]() if name in OTHERS else case(name, "float64")
    stop = jaxem.fitting.parameter_change(1e-11)
    return model, jaxem.check(jaxem.fit(model, start, data, stop=stop, max_steps=2000)), data


@functools.cache
def information(name, route):
    model, fit, data = fitted(name)
    return jaxem.inference.information(model, fit.params, data, route=route)


ROWS = ["normal mixture", "spherical, prior", "hmm", "factor analysis, one", "log-joint"]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.slow
def test_three_routes_agree_and_missing_information_is_not_negative(name):
    hessian, oakes, sem = (information(name, route) for route in ("hessian", "oakes", "sem"))
    size = 1 / np.sqrt(np.diagonal(hessian.complete))
    scaled = lambda matrix: np.asarray(matrix) * size[:, None] * size[None, :]  # free of units; at most 1
    for other in (oakes, sem):
        assert_within(scaled(other.observed), scaled(hessian.observed), 1e-6 * np.abs(scaled(hessian.observed)).max())
        np.testing.assert_array_equal(other.complete, hessian.complete)
    missing = np.linalg.eigvalsh(scaled(hessian.missing))
    assert missing[0] >= -64 * np.finfo(float).eps * len(missing) and missing[-1] > 1e-4
    assert len(hessian.names) == len(missing)


@pytest.mark.parametrize("spaces", [None, jaxem.UnitInterval()])
def test_linkage_is_as_published(spaces):
    """Dempster, Laird & Rubin (1977); Louis (1982): 377.5 = 435.3 - 57.8, standard error 0.0515."""
    model = linkage(constraints=spaces)
    theta = jaxem.check(jaxem.fit(model, 0.5, COUNTS, stop=jaxem.fitting.parameter_change(1e-13))).params
    assert_within(theta, 0.6268215, 5e-8)
    for route in ("hessian", "oakes", "sem"):
        found = jaxem.inference.information(model, theta, COUNTS, route=route)
        slope = 1.0 if spaces is None else float(theta * (1 - theta))  # d theta / d logit
        assert_within(found.observed[0, 0] / slope**2, 377.5, 0.05)
        assert_within(found.complete[0, 0] / slope**2, 435.3, 0.05)
        assert_within(found.missing[0, 0] / slope**2, 57.8, 0.05)
        assert_within(jaxem.inference.standard_errors(model, theta, COUNTS, route=route), 0.0515, 5e-5)
    assert "0.133" in str(found) and found.names == ("params" if spaces is None else "logit params",)


@pytest.mark.slow
def test_products_are_those_of_the_matrices_and_need_no_maximum():
    model, fit, data = fitted("normal mixture")
    whole = information("normal mixture", "hessian")
    direction = np.random.default_rng(0).normal(size=len(whole.names))
    for route in ("hessian", "oakes", "sem"):
        products = jaxem.inference.information_product(model, fit.params, data, direction, route=route)
        for product, matrix in zip(products, (whole.observed, whole.complete, whole.missing), strict=True):
            assert_within(product, matrix @ direction, 1e-6 * np.abs(matrix).max())
    with pytest.raises(ValueError, match=r"shape \(2,\).*\(5,\)"):
        jaxem.inference.information_product(model, fit.params, data, direction[:2])


def test_a_model_without_its_own_likelihood_has_oakes():
    full = linkage()
    bare = jaxem.Model(full.e_step, full.m_step, q_function=full.q_function)
    assert_within(jaxem.inference.information(bare, 0.6268214978, COUNTS).observed[0, 0], 377.52, 0.01)
    with pytest.raises(ValueError, match="log_likelihood"):
        jaxem.inference.information(bare, 0.6268214978, COUNTS, route="hessian")
    with pytest.raises(ValueError, match="q_function"):
        jaxem.inference.information(jaxem.Model(full.e_step, full.m_step), 0.6268214978, COUNTS)
    alone = jaxem.Model(full.e_step, full.m_step, log_likelihood=full.log_likelihood)
    found = jaxem.inference.information(alone, 0.6268214978, COUNTS)
    assert found.complete is None and found.missing is None
    assert_within(found.observed[0, 0], 377.52, 0.01)
    with pytest.raises(ValueError, match="route must be"):
        jaxem.inference.information(full, 0.6268214978, COUNTS, route="louis")


POISSON = Mixture(Poisson(), 2)


def poisson_case():
    return case("poisson mixture", "float64")


def components(weights, rates):
    start = poisson_case().params
    leaves = jax.tree.leaves(start.components)
    structure = jax.tree.structure(start.components)
    assert len(leaves) == 1
    return MixtureParams(jnp.asarray(weights), jax.tree.unflatten(structure, [jnp.asarray(rates)]))


# What is wrong, and what the message says of it: the reason, and a parameter. The mean of all counts is 3.6.
REFUSALS = {
    "not converged": ([0.5, 0.5], [2.0, 4.0], r"not a maximum.* standard errors away"),
    "empty component": ([0.0, 1.0], [1.0, None], r"empty"),
    "equal components": ([0.3, 0.7], [None, None], r"(saddle|singular).*(weights|rates)\["),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.slow
def test_what_is_no_maximum_is_refused(name):
    weights, rates, words = REFUSALS[name]
    data = poisson_case().data
    params = components(weights, [float(data.mean()) if rate is None else rate for rate in rates])
    for call in (
        jaxem.inference.information,
        jaxem.inference.standard_errors,
        jaxem.inference.covariance,
        jaxem.inference.confidence_intervals,
    ):
        with pytest.raises(jaxem.inference.InformationError, match=words):
            call(POISSON, params, data)


@pytest.mark.slow
def test_all_that_there_is_may_be_at_an_edge():
    """A Bernoulli probability whose estimate is 0, exactly, and on the way there: nothing else is left to tell of."""
    model = jaxem.from_log_joint(
        lambda p, y: (jnp.log(0.5) + y * jnp.log(p["a"]) + (1 - y) * jnp.log1p(-p["a"]))[None] * jnp.ones(2),
        constraints=jaxem.UnitInterval(),
    )
    for p in (0.0, 1e-40, 1e-9):
        params = {"a": jnp.asarray(p)}
        assert jaxem.inference.information(model, params, jnp.zeros(20)).observed.shape == (0, 0)
        assert np.isnan(jaxem.inference.standard_errors(model, params, jnp.zeros(20))["a"])


@pytest.mark.slow
def test_rotations_of_factors_are_refused():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(80, 2)) @ rng.normal(size=(2, 6)) + 0.7 * rng.normal(size=(80, 6)))
    model = FactorAnalysis(2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-13, max_steps=5000)
    assert int(fit.status) == jaxem.Status.CONVERGED
    for route in ("hessian", "oakes"):
        with pytest.raises(jaxem.inference.InformationError, match=r"singular along loadings"):
            jaxem.inference.information(model, fit.params, x, route=route)
    # In other units, and at the default tolerance, the same.
    units = jnp.asarray([1e-3, 1.0, 1e4, 1.0, 1.0, 1.0])
    other = FactorAnalysisParams(
        fit.params.mean * units, fit.params.loadings * units[:, None], fit.params.noise * units**2
    )
    with pytest.raises(jaxem.inference.InformationError, match=r"singular along loadings"):
        jaxem.inference.information(model, other, x * units[None, :])


def test_a_saddle_is_refused():
    """Two components at the same place, of data in two heaps: stationary, and not a maximum."""
    x = jnp.asarray(np.r_[np.linspace(-3, -2, 20), np.linspace(2, 3, 20)])
    model = jaxem.from_log_joint(
        lambda m, y: jnp.log(jnp.array([0.3, 0.7])) - 0.5 * (y - m) ** 2 - 0.5 * jnp.log(2 * jnp.pi),
    )
    with pytest.raises(jaxem.inference.InformationError, match=r"saddle.*params\[0\]"):
        jaxem.inference.information(model, jnp.zeros(2), x)


@pytest.mark.slow
def test_under_jit_and_vmap_bad_lanes_are_nan():
    good = fitted("poisson mixture")[1].params
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), good, components([0.5, 0.5], [2.0, 4.0]))
    run = jax.jit(jax.vmap(lambda p: jaxem.inference.information(POISSON, p, poisson_case().data)))
    found = run(lanes)
    np.testing.assert_allclose(found.observed[0], information("poisson mixture", None).observed, rtol=1e-12)
    assert np.isnan(found.observed[1]).all() and np.isnan(found.missing[1]).all()


def test_a_second_call_compiles_nothing(count_compilations):
    model, fit, data = fitted("normal mixture")
    jaxem.inference.information(model, fit.params, data)
    params = jax.tree.map(lambda leaf: leaf * 1, fit.params)
    with count_compilations() as compiled:
        jaxem.inference.information(model, params, data)
    assert compiled.count == 0


@pytest.mark.slow
def test_single_precision():
    model, fit, data = fitted("normal mixture")
    params, data = as_dtype((fit.params, data), np.float32)
    found = jaxem.inference.information(model, params, data)
    assert found.observed.dtype == np.float32
    wanted = np.asarray(information("normal mixture", "hessian").observed)
    size = np.sqrt(np.diagonal(wanted))
    gap = (np.asarray(found.observed) - wanted) / size[:, None] / size[None, :]
    # 70 terms of each sum, each the end of some thirty operations, and the parameters rounded
    assert np.abs(gap).max() <= 256 * np.finfo(np.float32).eps


def test_one_normal_in_closed_form():
    """N(m, v), no latent variable to speak of: I = diag(N / v, N / 2) in (m, log v), and nothing is missing."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3, 2, 50))
    params = MixtureParams(jnp.ones(1), NormalParams(x.mean()[None], x.var()[None]))
    found = jaxem.inference.information(Mixture(Normal(), 1), params, x)
    assert found.names == ("components.means[0]", "log components.variances[0]")
    np.testing.assert_allclose(found.observed, np.diag([50 / x.var(), 25.0]), atol=1e-12)
    np.testing.assert_allclose(found.missing, 0, atol=1e-12)
