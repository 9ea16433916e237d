"""Data that leave no start: what is wrong with them is said of the data, and the advised prior makes a fit of them."""

import jax
import numpy as np
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem import Dataset
from jaxem.core import trees
from jaxem.families import (
    Bernoulli,
    Categorical,
    Exponential,
    MultivariateNormal,
    Normal,
    NormalInverseWishart,
    Poisson,
)
from jaxem.families.covariance import singular
from jaxem.models import HMM, FactorAnalysis, Mixture

ENDED_WELL = (jaxem.Status.CONVERGED, jaxem.Status.MAX_STEPS, jaxem.Status.PRECISION)
FORMS = ("full", "tied", "diag", "spherical")
rng = np.random.default_rng(0)
BASE = rng.normal(size=(40, 2))
COUNTED = np.r_[np.ones(30), np.zeros(10)]
# Three columns each: one compiled program for all of them.
DATA = {
    "collinear": np.c_[BASE, BASE.sum(axis=1)],
    "collinear, far and in other units": np.c_[BASE, 1e3 + 50 * BASE[:, 0]],
    "collinear but for rounding": np.c_[BASE, BASE[:, 0] * (1 + 1e-9 * BASE[:, 1])],
    "constant": np.c_[BASE, np.full(40, 7.3)],
    "constant zero": np.c_[BASE, np.zeros(40)],
    "one value": np.full((40, 3), -2.7),
    "few distinct rows": np.tile(rng.normal(size=(3, 3)), (14, 1))[:40],
}
FULL_ONLY = {"collinear", "collinear, far and in other units", "collinear but for rounding", "few distinct rows"}


def model(kind: str, family) -> Mixture | HMM:
    return (Mixture if kind == "mixture" else HMM)(family, 2)


def arranged(kind: str, x: np.ndarray) -> np.ndarray:
    return x if kind == "mixture" else x[None]


def blamed(form: str, name: str) -> str | None:
    if name in FULL_ONLY:
        return "3 columns are linearly dependent" if form in ("full", "tied") else None
    if form == "spherical" and name != "one value":
        return None
    return "columns 0, 1 and 2 are constant" if name == "one value" else r"column 2 is constant \((7.3|0) in every"


@pytest.mark.parametrize("kind", ["mixture", "hmm"])
@pytest.mark.parametrize("form", FORMS)
def test_the_data_are_blamed(kind, form, dtype):
    for name, x in DATA.items():
        x, wrong = arranged(kind, x.astype(dtype)), blamed(form, name)
        own = model(kind, MultivariateNormal(form))
        if wrong is None:
            assert trees.all_finite(own.init(jax.random.key(0), x))
        else:
            with pytest.raises(ValueError, match=f"{wrong}.*(drop|give a prior)"):
                own.init(jax.random.key(0), x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow
def test_the_advised_prior_makes_a_fit_of_them(form, dtype):
    for name, x in DATA.items():
        x = x.astype(dtype)
        prior = NormalInverseWishart.from_data(x, 2)
        assert trees.all_finite(prior) and not singular(prior.scale[None]), name
        own = Mixture(MultivariateNormal(form, prior), 2)
        fit = jaxem.fit(own, own.init(jax.random.key(0), x), x)
        assert fit.status in ENDED_WELL, (name, fit.status)


def test_the_advised_prior_knows_no_units(dtype):
    units = np.array([2.0**-10, 1, 2.0**10])
    for name, x in DATA.items():
        if not name.startswith("constant"):  # whose scale is borrowed from the others
            plain, scaled = (
                np.asarray(NormalInverseWishart.from_data((u * x).astype(dtype), 3).scale, float) for u in (1.0, units)
            )
            outer = np.outer(units, units) * np.sqrt(np.outer(np.diag(plain), np.diag(plain)))
            assert (np.abs(scaled - np.outer(units, units) * plain) <= 64 * eps(dtype) * outer).all(), name


@pytest.mark.slow
def test_more_columns_than_rows(dtype):
    x = np.random.default_rng(1).normal(size=(6, 10)).astype(dtype)
    for form in ("full", "tied"):
        with pytest.raises(ValueError, match=r"10 columns are linearly dependent .*6 rows span at most 5 dim.*'diag'"):
            Mixture(MultivariateNormal(form), 2).init(jax.random.key(0), x)
    prior = NormalInverseWishart.from_data(x, 2)
    own = Mixture(MultivariateNormal("full", prior), 2)
    assert jaxem.fit(own, own.init(jax.random.key(0), x), x).status == jaxem.Status.CONVERGED


def test_rows_that_do_not_count_are_not_looked_at(dtype):
    x = np.where(COUNTED[:, None] > 0, DATA["constant"], rng.normal(size=(40, 3))).astype(dtype)
    with pytest.raises(ValueError, match="column 2 is constant"):
        Mixture(MultivariateNormal("diag"), 2).init(jax.random.key(0), Dataset(x, weights=COUNTED.astype(dtype)))
    assert trees.all_finite(Mixture(MultivariateNormal("diag"), 2).init(jax.random.key(0), x))
    lengths = np.array([30], np.int32)
    with pytest.raises(ValueError, match="column 2 is constant"):
        HMM(MultivariateNormal("diag"), 2).init(jax.random.key(0), Dataset(x[None], lengths=lengths))


@pytest.mark.slow
def test_many_data_sets_and_restarts_name_them():
    x = np.stack([rng.normal(size=(40, 3)), DATA["collinear"]])
    own = Mixture(MultivariateNormal("full"), 2)
    with pytest.raises(ValueError, match="columns are linearly dependent"):
        jaxem.fit_restarts(own, x[1], key=jax.random.key(0), restarts=2)
    with pytest.raises(ValueError, match="data set 1: the likelihood of these data has no maximum"):
        jaxem.fit_many_restarts(own, x.astype(np.float32), key=jax.random.key(0), restarts=2)


def test_factor_analysis(dtype):
    for name in ("constant", "constant zero"):
        with pytest.raises(ValueError, match=r"column 2 is constant .*drop what is constant$"):
            FactorAnalysis(1).init(jax.random.key(0), DATA[name].astype(dtype))
    wide = np.random.default_rng(1).normal(size=(6, 10)).astype(dtype)
    for x in (DATA["collinear"].astype(dtype), wide):
        assert trees.all_finite(FactorAnalysis(1).init(jax.random.key(0), x))


@pytest.mark.slow
def test_numbers_that_cannot_be_squared():
    for unit, what in ((1e25, "overflow"), (1e-25, "vanish in")):
        x = (unit * BASE).astype(np.float32)
        for data, own in [(x, Mixture(MultivariateNormal("diag"), 2)), (x[:, 0], Mixture(Normal(), 2))]:
            with pytest.raises(ValueError, match=f"would {what} float32: divide the data"):
                own.init(jax.random.key(0), data)
        with pytest.raises(ValueError, match=f"from_data: column 0 .*would {what} float32"):
            NormalInverseWishart.from_data(x, 2)
        assert trees.all_finite(Mixture(Normal(), 2).init(jax.random.key(0), x[:, 0].astype(np.float64)))


def test_families_of_one_number(dtype):
    with pytest.raises(ValueError, match=r"all observations are one value \(7.3 in every row\).*Normal\(floor"):
        Mixture(Normal(), 2).init(jax.random.key(0), np.full(20, 7.3, dtype))
    for own, shape in ((Mixture(Exponential(), 2), (20,)), (HMM(Exponential(), 2), (1, 20))):
        with pytest.raises(ValueError, match="all observations are zero"):
            own.init(jax.random.key(0), np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("family", "x"),
    [
        (Poisson(), np.zeros(20)),
        (Poisson(), np.full(20, 3.0)),
        (Exponential(), np.full(20, 3.0)),
        (Bernoulli(), np.ones((20, 2))),
        (Categorical((2, 3)), np.zeros((20, 2))),
    ],
)
def test_one_value_is_no_harm_to_others(family, x, dtype):
    own = Mixture(family, 2)
    start = own.init(jax.random.key(0), x.astype(dtype))
    fit = jaxem.fit(own, start, x.astype(dtype))
    assert np.isfinite(fit.objective) and fit.status in ENDED_WELL


def test_the_prior_of_whole_numbers_is_not_whole():
    prior = NormalInverseWishart.from_data(np.arange(12).reshape(6, 2) ** 2, 2)
    assert all(leaf.dtype == jax.numpy.result_type(float) for leaf in prior) and prior.shrinkage == 0.01


def test_under_vmap_a_start_is_a_start():
    x = DATA["few distinct rows"]
    starts = jax.vmap(lambda key: Mixture(MultivariateNormal("diag"), 2).init(key, x))(
        jax.random.split(jax.random.key(0))
    )
    assert trees.all_finite(starts)


def test_given_classes_and_probabilities_are_a_start():
    """One M-step on them, for any structure; hard classes are probabilities of zero and one."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(30, 2)), np.arange(30) % 3
    r = rng.dirichlet(np.ones(3), 30)
    key, model = jax.random.key(0), Mixture(MultivariateNormal("diag"), 3)
    for start, p in ((labels, np.eye(3)[labels]), (r, r), (r.tolist(), r)):
        found = model.init(key, x, start)
        n = p.sum(axis=0)
        means = p.T @ x / n[:, None]
        squares = (p[:, :, None] * (x[:, None] - means[None]) ** 2).sum(axis=0) / n[:, None]
        assert_within(found.weights, n / 30, 8 * eps("float64"))
        assert_within(found.components.means, means, 64 * eps("float64"))
        assert_within(found.components.covariances, squares, 64 * eps("float64"))
    chain = HMM(MultivariateNormal("diag"), 3)
    states = labels.reshape(3, 10)
    frames = model.init(key, x, labels).components
    jax.tree.map(np.testing.assert_array_equal, chain.init(key, x.reshape(3, 10, 2), states).emissions, frames)
    inside = jax.jit(lambda labels: model.init(key, x, labels))(labels)
    jax.tree.map(lambda a, b: assert_within(a, b, 64 * eps("float64")), inside, model.init(key, x, labels))
    for bad, says in [
        (labels + 1, "whole numbers from 0 to 2"),
        (np.zeros(30, int), "each of the 3 classes needs an observation"),
        (r[:, :2], r"shape \(30,\), .* or probabilities of shape \(30, 3\); got float64 of shape \(30, 2\)"),
        (2 * r, "non-negative and sum to 1"),
        (3, "start must be one of"),
    ]:
        with pytest.raises(ValueError, match=says):
            model.init(key, x, bad)
