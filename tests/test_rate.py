"""The rate of EM: published, in agreement with the information and with the trace, and refused where there is none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from closeness import assert_within

import jaxem
from jaxem import Dataset, datasets
from jaxem.core.expectation import em_map
from jaxem.core.records import register
from jaxem.families import Normal, NormalParams, Poisson, PoissonParams
from jaxem.models import HMM, FactorAnalysis, HMMParams, Mixture, MixtureParams

COUNTS = np.array([125.0, 18.0, 20.0, 34.0])
LINKAGE = jaxem.Model(
    lambda theta, y: y[0] * theta / (2 + theta),
    lambda z, y: (z + y[3]) / (z + y[1:].sum()),
)


def test_linkage_with_two_functions():
    """Dempster, Laird & Rubin (1977): each iteration leaves 0.1328 of the distance."""
    fit = jaxem.fit(LINKAGE, 0.5, COUNTS)
    found = jaxem.inference.convergence_rate(LINKAGE, fit.params, COUNTS, fit=fit)
    assert_within(found.rate, 0.1328, 5e-5)
    assert found.names == ("params",) and not found.flat
    assert np.isnan(found.empirical)  # two functions have no trace
    assert int(found.iterations(1e-6)) == 7  # 0.1328^7 = 7e-7
    printed = str(found)
    assert "0.13277" in printed and "trace" not in printed and "flat" not in printed
    with pytest.raises(jaxem.inference.InformationError, match="not a fixed point"):
        jaxem.inference.convergence_rate(LINKAGE, 0.5, COUNTS)


@pytest.mark.parametrize("name", ["normal mixture", "log-joint"])
@pytest.mark.slow
def test_rate_is_that_of_the_information_and_of_the_trace(name):
    model, start, data = case(name, "float64")
    fit = jaxem.check(jaxem.fit(model, start, data, stop=jaxem.fitting.parameter_change(1e-12), max_steps=1000))
    found = jaxem.inference.convergence_rate(model, fit.params, data, fit=fit)
    information = jaxem.inference.information(model, fit.params, data)
    shares = np.linalg.eigvals(np.linalg.solve(information.complete, information.missing)).real
    assert_within(found.rate, shares.max(), 1e-7)
    assert_within(found.empirical, found.rate, 0.005)
    assert "seen in the trace" in str(found)
    # The direction is one that an iteration shortens by the rate, and nothing else.
    along = jax.jit(lambda p, d: jax.jvp(lambda p: em_map(model, p, data), (p,), (d,)))
    _, after = along(fit.params, found.direction)
    for a, d in zip(jax.tree.leaves(after), jax.tree.leaves(found.direction), strict=True):
        assert_within(a, found.rate * d, 1e-6 * np.abs(d).max())


@pytest.mark.slow
def test_no_missing_information_no_rate():
    """One class: EM is there at once."""
    x = np.array([1.0, 2.0, 0.0, 5.0])
    params = MixtureParams(jnp.ones(1), PoissonParams(jnp.asarray([2.0])))
    assert_within(jaxem.inference.convergence_rate(Mixture(Poisson(), 1), params, x).rate, 0, 1e-12)


@pytest.mark.slow
def test_flat_directions_are_named_and_left_out():
    """Two factors can be rotated: an eigenvalue one, which EM never sees; its trace shows the next."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(80, 2)) @ rng.normal(size=(2, 6)) + 0.7 * rng.normal(size=(80, 6)))
    model = FactorAnalysis(2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, tol=1e-14, max_steps=5000)
    assert int(fit.status) == jaxem.Status.CONVERGED
    found = jaxem.inference.convergence_rate(model, fit.params, x, fit=fit)
    assert bool(found.flat) and all(name.startswith("loadings") for name in found.flat_names)
    assert_within(found.empirical, found.rate, 0.005)
    assert found.rate < 0.999 and "EM does not move there" in str(found)
    # Along the flat direction the loadings rotate: dL = L A with A' = -A.
    A = np.linalg.lstsq(np.asarray(fit.params.loadings), np.asarray(found.flat_direction.loadings), rcond=None)[0]
    assert_within(A + A.T, np.zeros((2, 2)), 1e-4 * np.abs(A).max())


@pytest.mark.slow
def test_what_is_no_maximum_is_refused_or_nan():
    model, start, data = case("poisson mixture", "float64")
    with pytest.raises(jaxem.inference.InformationError, match=r"not a maximum.*standard errors away"):
        jaxem.inference.convergence_rate(model, start, data)
    empty = start._replace(weights=jnp.asarray([1e-17, 1.0]))
    with pytest.raises(jaxem.inference.InformationError, match=r"edge.*weights\[0\], or are still on their way"):
        jaxem.inference.convergence_rate(model, empty, data)
    with pytest.raises(
        jaxem.inference.InformationError, match="NaN or infinite"
    ):  # of a class with no weight nothing is known
        jaxem.inference.convergence_rate(model, start._replace(weights=jnp.asarray([0.0, 1.0])), data)
    good = jaxem.fit(model, start, data, tol=1e-13).params
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), good, start, empty)
    found = jax.jit(jax.vmap(lambda p: jaxem.inference.convergence_rate(model, p, data).rate))(lanes)
    assert_within(found[0], jaxem.inference.convergence_rate(model, good, data).rate, 1e-12)
    assert np.isnan(found[1:]).all()
    with pytest.raises(ValueError, match="m_step"):
        jaxem.inference.convergence_rate(jaxem.Model(LINKAGE.e_step), 0.6, COUNTS)


@register
@dataclasses.dataclass(frozen=True)
class Missing:
    """Means of normal numbers of variance 1, of which ``missing (D,)`` are not seen beside N that are.

    EM averages those seen and its last answer, so its rate is M / (N + M) exactly. An infinite number of missing ones
    leaves a mean where it is.
    """

    missing: jnp.ndarray
    redundant: int = dataclasses.field(default=0, metadata={"static": True})
    constraints = jaxem.Real()

    def e_step(self, params, data):
        return params

    def m_step(self, q, data):
        share = jnp.where(jnp.isinf(self.missing), 0, 1 / (data.shape[0] + self.missing))
        return q + share * (data - q[None]).sum(axis=0)

    def q_function(self, params, q, data):
        missing = jnp.where(jnp.isinf(self.missing), 1, self.missing)
        seen = jnp.where(jnp.isinf(self.missing)[None], 0, (data - params[None]) ** 2)
        return -(seen.sum() + (missing * (q - params) ** 2).sum()) / 2


@register
@dataclasses.dataclass(frozen=True)
class MissingWithoutQ:
    """The same, by two functions."""

    model: Missing
    constraints = jaxem.Real()

    def e_step(self, params, data):
        return params

    def m_step(self, q, data):
        return self.model.m_step(q, data)


SEEN = np.random.default_rng(0).normal(3.0, 1.0, (20, 4))


def missing(rates, dtype, **keywords):
    """The model in which each mean has its rate, the data, and the maximum."""
    rates = np.asarray(rates)
    with np.errstate(divide="ignore"):
        model = Missing(jnp.asarray(20 * rates / (1 - rates), dtype), **keywords)
    data = jnp.asarray(SEEN[:, np.arange(len(rates)) % 4], dtype)
    return model, data, jnp.asarray(data.mean(axis=0))


@pytest.mark.parametrize("apart", [0.0, 1e-3, 0.05])
@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 1 - 1e-7])
def test_slow_em_is_not_flat(rate, apart, dtype):
    """The exact rate, from the maximum and from a point some hundredths of a standard error away; or "not resolved"."""
    model, data, top = missing([rate, 0.5], dtype)
    params = top + jnp.asarray(apart / np.sqrt(20), dtype)
    resolution = 10 * float(np.finfo(dtype).eps) * 3 / (1 - rate) ** 0.5  # the means are 3, one step moves by eps of it
    try:
        found = jaxem.inference.convergence_rate(model, params, data)
    except ValueError as error:
        assert isinstance(error, jaxem.inference.InformationError) and "not resolved: along params[0]" in str(error)
        assert ("Use double precision" in str(error)) == (dtype == np.float32)
        assert 1 - rate <= 100 * resolution
        return
    assert_within(found.rate, rate, float(found.error))
    assert found.error <= 0.25 * (1 - rate) and not found.flat and found.names[0] == "params[0]"
    assert 1 - rate >= resolution / 100


def test_slow_em_by_two_functions():
    for rate in (0.9, 0.9999, 0.999999):
        model, data, top = missing([0.5, rate], "float64")
        found = jaxem.inference.convergence_rate(MissingWithoutQ(model), top * (1 + 1e-5), data)
        assert_within(found.rate, rate, 1e-12)
        assert found.names == ("params[1]",)


@pytest.mark.slow
def test_slow_em_among_many_parameters():
    """More than one round of Lanczos' method holds."""
    rates = np.r_[np.linspace(0.0, 0.9, 69), 0.99999]
    model, data, top = missing(rates, "float64")
    found = jaxem.inference.convergence_rate(model, top + 0.01 / np.sqrt(20), data)
    assert_within(found.rate, 0.99999, 1e-9)
    assert found.error <= 1e-7 and found.names == ("params[69]",)


@pytest.mark.parametrize(
    ("rates", "redundant", "wanted"),
    [
        ([1.0, 0.5, 0.3], 0, None),  # flat, but nothing says so beforehand
        ([1.0, 0.5, 0.3], 1, 0.5),
        ([1.0, 0.99999, 0.3], 1, 0.99999),
        ([1.0, 1.0, 0.3], 1, None),  # one more than the structure asks for
        ([1.0, 1.0, 0.3], 2, 0.3),
        ([1 - 1e-15, 0.5, 0.3], 0, None),
        ([0.7, 0.5, 0.3], 1, 0.7),
    ],
)
@pytest.mark.slow
def test_only_structure_makes_a_direction_flat(rates, redundant, wanted):
    model, data, top = missing(rates, "float64", redundant=redundant)
    lane = jax.jit(jaxem.inference.convergence_rate)(model, top, data)
    if wanted is None:
        with pytest.raises(jaxem.inference.InformationError, match=r"not resolved: along params.*is not the rate"):
            jaxem.inference.convergence_rate(model, top, data)
        assert np.isnan(lane.rate)
        return
    found = jaxem.inference.convergence_rate(model, top, data)
    assert_within(found.rate, wanted, 1e-12)
    assert bool(found.flat) == (1.0 in rates)
    assert_within(lane.rate, found.rate, 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.slow
def test_the_rate_does_not_depend_on_where_the_fit_stopped(dtype):
    """The London deaths (Titterington 1984), where EM is slow: each answer holds the one of a fit to the end."""
    deaths, days = datasets.london_times_deaths()
    data = Dataset(jnp.asarray(deaths, dtype), weights=jnp.asarray(days, dtype))
    model = Mixture(Poisson(), k=2)
    end = jnp.asarray([1.256095, 2.663404], dtype)
    start = MixtureParams(jnp.asarray([0.3599, 0.6401], dtype), PoissonParams(end))
    for tol in (2e-5, 2e-7):
        fit = jaxem.fit(model, start, data, stop=jaxem.fitting.parameter_change(tol), max_steps=2000)
        found = jaxem.inference.convergence_rate(model, fit.params, data)
        assert_within(found.rate, 0.9956662232, float(found.error) + 1e-10)
        assert found.error <= {"float32": 2e-4, "float64": 1e-10}[str(dtype)]


@pytest.mark.slow
def test_structural_zeros_are_held():
    """A chain that never goes back: its zeros are no directions of EM, and the rate is that of the trace."""
    values = np.random.default_rng(0).normal(size=(5, 16)) + 2.5 * (np.arange(16) >= 8)
    model, data = HMM(Normal(), 2), jnp.asarray(values)
    transition = jnp.asarray([[0.8, 0.2], [0.0, 1.0]])
    emissions = NormalParams(jnp.asarray([0.0, 2.5]), jnp.ones(2))
    fit = jaxem.fit(model, HMMParams(jnp.asarray([1.0, 0.0]), transition, emissions), data, tol=1e-13)
    found = jaxem.inference.convergence_rate(model, fit.params, data, fit=fit)
    assert_within(found.rate, found.empirical, 0.01)
    assert_within(found.direction.transition[1], np.zeros(2), 0)
