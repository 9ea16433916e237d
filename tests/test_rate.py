"""The rate of EM: published, in agreement with the information and with the trace, and refused where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from closeness import assert_within

import jaxem
from jaxem.core.expectation import em_map
from jaxem.models import FactorAnalysis, MixtureParams

COUNTS = np.array([125.0, 18.0, 20.0, 34.0])
LINKAGE = jaxem.Model(
    lambda theta, y: y[0] * theta / (2 + theta),
    lambda z, y: (z + y[3]) / (z + y[1:].sum()),
)


def test_linkage_with_two_functions():
    """Dempster, Laird & Rubin (1977): each iteration leaves 0.1328 of the distance."""
    fit = jaxem.fit(LINKAGE, 0.5, COUNTS)
    found = jaxem.convergence_rate(LINKAGE, fit.params, COUNTS, fit=fit)
    assert_within(found.rate, 0.1328, 5e-5)
    assert found.names == ("params",) and not found.flat
    assert np.isnan(found.empirical)  # two functions have no trace
    assert int(found.iterations(1e-6)) == 7  # 0.1328^7 = 7e-7
    printed = str(found)
    assert "0.13277" in printed and "trace" not in printed and "flat" not in printed
    with pytest.raises(jaxem.InformationError, match="not a fixed point"):
        jaxem.convergence_rate(LINKAGE, 0.5, COUNTS)


@pytest.mark.parametrize("name", ["normal mixture", "log-joint"])
def test_rate_is_that_of_the_information_and_of_the_trace(name):
    model, start, data = case(name, "float64")
    fit = jaxem.check(jaxem.fit(model, start, data, stop=jaxem.parameter_change(1e-12), max_steps=1000))
    found = jaxem.convergence_rate(model, fit.params, data, fit=fit)
    information = jaxem.information(model, fit.params, data)
    shares = np.linalg.eigvals(np.linalg.solve(information.complete, information.missing)).real
    assert_within(found.rate, shares.max(), 1e-7)
    assert_within(found.empirical, found.rate, 0.005)
    assert "seen in the trace" in str(found)
    # The direction is one that an iteration shortens by the rate, and nothing else.
    _, after = jax.jvp(lambda p: em_map(model, p, data), (fit.params,), (found.direction,))
    for a, d in zip(jax.tree.leaves(after), jax.tree.leaves(found.direction), strict=True):
        assert_within(a, found.rate * d, 1e-6 * np.abs(d).max())


def test_no_missing_information_no_rate():
    """One class: EM is there at once."""
    from jaxem.families import Poisson, PoissonParams
    from jaxem.models import Mixture

    x = np.array([1.0, 2.0, 0.0, 5.0])
    params = MixtureParams(jnp.ones(1), PoissonParams(jnp.asarray([2.0])))
    assert_within(jaxem.convergence_rate(Mixture(Poisson(), 1), params, x).rate, 0, 1e-12)


def test_flat_directions_are_named_and_left_out():
    """Two factors can be rotated: an eigenvalue one, which EM never sees; its trace shows the next."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(80, 2)) @ rng.normal(size=(2, 6)) + 0.7 * rng.normal(size=(80, 6)))
    model = FactorAnalysis(2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-14, max_steps=5000)
    assert int(fit.status) == jaxem.Status.CONVERGED
    found = jaxem.convergence_rate(model, fit.params, x, fit=fit)
    assert bool(found.flat) and all(name.startswith("loadings") for name in found.flat_names)
    assert_within(found.empirical, found.rate, 0.005)
    assert found.rate < 0.999 and "EM does not move there" in str(found)
    # Along the flat direction the loadings rotate: dL = L A with A' = -A.
    A = np.linalg.lstsq(np.asarray(fit.params.loadings), np.asarray(found.flat_direction.loadings), rcond=None)[0]
    assert_within(A + A.T, np.zeros((2, 2)), 1e-4 * np.abs(A).max())


def test_what_is_no_maximum_is_refused_or_nan():
    model, start, data = case("poisson mixture", "float64")
    with pytest.raises(jaxem.InformationError, match=r"not a maximum.*standard errors away"):
        jaxem.convergence_rate(model, start, data)
    empty = start._replace(weights=jnp.asarray([0.0, 1.0]))
    with pytest.raises(jaxem.InformationError, match=r"edge.*weights\[0\]"):
        jaxem.convergence_rate(model, empty, data)
    good = jaxem.fit(model, start, data, tol=1e-13).params
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), good, start, empty)
    found = jax.jit(jax.vmap(lambda p: jaxem.convergence_rate(model, p, data).rate))(lanes)
    assert_within(found[0], jaxem.convergence_rate(model, good, data).rate, 1e-12)
    assert np.isnan(found[1:]).all()
    with pytest.raises(ValueError, match="m_step"):
        jaxem.convergence_rate(jaxem.Model(LINKAGE.e_step), 0.6, COUNTS)
