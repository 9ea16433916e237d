"""Models as families: a copy of the model for each class."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hmmlearn.hmm import GMMHMM

import jaxem
from jaxem.core.records import register
from jaxem.families import MultivariateNormal, Normal, Poisson
from jaxem.gates import Constant
from jaxem.gates.rows import Rows
from jaxem.models import HMM, Component, FactorAnalysis, Mixture
from jaxem.models.copies import MergedMixtures, Vmapped

KEY = jax.random.key(0)
EVERYTHING = pytest.mark.everything  # run with --everything only


def with_gaps(x, share=0.15):
    x = np.array(x, float)
    x[np.random.default_rng(7).random(x.shape) < share] = np.nan
    return jaxem.dataset(x, missing="nan")


def factors(n=150):
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, n)
    loadings = rng.normal(size=(2, 2, 5))
    scores = np.einsum("nk,nkd->nd", rng.normal(size=(n, 2)), loadings[z])
    return scores + 0.5 * rng.normal(size=(n, 5)) + 3 * z[:, None]


def numbers(n=200):
    rng = np.random.default_rng(1)
    left = np.where(rng.random(n) < 0.5, rng.normal(-2, 0.5, n), rng.normal(0, 0.5, n))
    return np.where(rng.random(n) < 0.5, left, rng.normal(5, 1, n))


def sequences(n=6, t=60):
    rng = np.random.default_rng(2)
    states = (rng.random((n, t)) < 0.2).cumsum(axis=1) % 2
    left = np.where(rng.random((n, t)) < 0.5, rng.normal(-2, 0.5, (n, t)), rng.normal(1, 0.5, (n, t)))
    return np.where(states, rng.normal(6, 1, (n, t)), left)


def series():
    rng = np.random.default_rng(3)
    return jaxem.dataset([rng.poisson(np.repeat(rates, t)) for rates in ([1, 6], [4, 20]) for t in (6, 15, 9, 20)])


CASES = {
    "factor analysers": lambda: (Mixture(Component(FactorAnalysis(2)), 2), factors()),
    "factor analysers, gaps": lambda: (Mixture(Component(FactorAnalysis(2)), 2), with_gaps(factors())),
    "mixture of mixtures": lambda: (Mixture(Component(Mixture(Normal(), 2)), 2), numbers()),
    "chain of mixtures": lambda: (HMM(Component(Mixture(Normal(), 2)), 2), sequences()),
    "chain of tied mixtures, gaps": lambda: (
        HMM(Component(Mixture(MultivariateNormal("tied"), 2)), 2),
        with_gaps(sequences()[..., None] + np.random.default_rng(4).normal(size=(6, 60, 2))),
    ),
    "mixture of chains": lambda: (Mixture(Component(HMM(Poisson(), 2)), 2), series()),
}
FIRST = [("factor analysers, gaps", "float64"), ("chain of mixtures", "float64"), ("mixture of chains", "float64")]
LAWS = FIRST + [
    pytest.param(name, precision, marks=EVERYTHING)
    for name in CASES
    for precision in ("float64", "float32")
    if (name, precision) not in FIRST
]


def cast(data, precision):
    change = lambda leaf: jnp.asarray(leaf, precision if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else None)
    return jax.tree.map(change, data)


@pytest.mark.parametrize(("name", "precision"), LAWS)
def test_every_law_holds(name, precision):
    model, data = CASES[name]()
    data = cast(data, precision)
    certificate = jaxem.verify(model, model.init(KEY, data), data, strict=True)
    assert certificate.ok, certificate


@EVERYTHING
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_every_law_holds_at_the_end_of_a_climb(name, precision):
    model, data = CASES[name]()
    data = cast(data, precision)
    fit = jaxem.fit(model, model.init(KEY, data), data, max_steps=30)
    assert int(fit.status) in (jaxem.Status.CONVERGED, jaxem.Status.MAX_STEPS)
    certificate = jaxem.verify(model, fit.params, data, strict=True)
    assert certificate.ok, certificate


def one_copy(params):
    """Parameters of a mixture of one copy."""
    return jaxem.models.MixtureParams(jnp.ones(1), jax.tree.map(lambda leaf: leaf[None], params))


@pytest.mark.parametrize(
    ("inner", "data"),
    [
        (FactorAnalysis(2), factors),
        pytest.param(Mixture(MultivariateNormal("diag"), 2), factors, marks=EVERYTHING),
        (HMM(Poisson(), 2), series),
    ],
)
def test_one_copy_is_the_model(inner, data):
    data, outer = data(), Mixture(Component(inner), 1)
    start = inner.init(KEY, data)
    alone = jaxem.fit(inner, start, data, max_steps=20)
    nested = jaxem.fit(outer, one_copy(start), data, max_steps=20)
    np.testing.assert_allclose(nested.trace[:21], alone.trace[:21], rtol=1e-13)
    number = jaxem.inference.number_of_parameters
    assert number(outer, nested) == number(inner, alone)


@pytest.mark.slow
def test_merged_copies_are_copies():
    """A mixture of mixtures is the flat mixture, and one by one its copies give the same sums."""
    inner, x = Mixture(Normal(), 2), jnp.asarray(numbers())
    model = Mixture(Component(inner), 2)
    assert isinstance(inner.copies(), MergedMixtures)
    assert isinstance(Mixture(MultivariateNormal("tied"), 2).copies(), Vmapped)
    params = model.init(KEY, x)
    flat = Mixture(Normal(), 4)
    weights = (params.weights[:, None] * params.components.weights).reshape(-1)
    merged = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params.components.components)
    at = jaxem.models.MixtureParams(weights, merged)
    assert float(model.log_likelihood(params, x)) == pytest.approx(float(flat.log_likelihood(at, x)), rel=1e-14)

    @register
    @dataclasses.dataclass(frozen=True)
    class OneByOne(Mixture):
        def copies(self):
            return Vmapped(self)

    other = Mixture(Component(OneByOne(Normal(), 2)), 2)
    steps = [jaxem.fit(each, params, x, max_steps=5).params for each in (model, other)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), *steps)


def test_a_chain_of_mixtures_is_that_of_hmmlearn():
    """From one start, without priors, the same optimum; its variances are about the old means, so it climbs slower."""
    x = sequences()[..., None] + np.random.default_rng(4).normal(size=(6, 60, 2))
    model = HMM(Component(Mixture(MultivariateNormal("diag"), 2)), 2)
    start = model.init(KEY, x)
    inner = start.emissions
    peer = GMMHMM(2, 2, covariance_type="diag", n_iter=1500, tol=1e-10, init_params="", min_covar=0.0)
    peer.startprob_, peer.transmat_, peer.weights_, peer.means_, peer.covars_ = map(
        np.asarray,
        (start.initial, start.transition, inner.weights, inner.components.means, inner.components.covariances),
    )
    peer.covars_prior, peer.covars_weight = -1.5, 0.0  # no prior: these values cancel the terms they would add
    peer.fit(x.reshape(-1, 2), lengths=[60] * 6)
    ours = jaxem.fit(model, start, x, max_steps=2000, tol=1e-12)
    theirs = np.asarray(peer.monitor_.history)
    assert float(ours.trace[0]) == pytest.approx(theirs[0], rel=1e-12)
    assert float(ours.objective) == pytest.approx(theirs[-1], abs=1e-6)
    assert (np.asarray(ours.trace)[1:15] > theirs[1:15]).all()


@pytest.mark.slow
def test_samples_imputations_and_restarts():
    model, data = CASES["factor analysers, gaps"]()
    fit = jaxem.fit_restarts(model, data, key=KEY, restarts=2).best
    filled = jaxem.impute(model, fit, data)
    np.testing.assert_array_equal(np.where(data.observed, filled, 0), np.where(data.observed, data.values, 0))
    drawn = np.asarray(jaxem.impute(model, fit, data, key=KEY))
    assert np.isfinite(drawn).all()
    assert model.sample(KEY, fit, 7).shape == (7, 5)
    chains, data = CASES["mixture of chains"]()
    params = chains.init(KEY, data)
    like = chains.sample_like(KEY, params, data)
    np.testing.assert_array_equal(like.lengths, data.lengths)
    assert like.values.shape == data.values.shape


def test_what_component_refuses():
    with pytest.raises(ValueError, match=r"Component: Model lacks declare"):
        Component(jaxem.Model(e_step=lambda p, d: p))
    with pytest.raises(ValueError, match=r"needs data of shape \(N, D\)"):
        Mixture(Component(FactorAnalysis(2)), 2).init(KEY, np.zeros(10))


def test_emissions_that_are_mixtures_take_sequences_of_unequal_length():
    model = HMM(Component(Mixture(MultivariateNormal(), 2)), 2)
    data = jaxem.dataset([factors(4), factors(3)])
    model.check_shapes(None, data)
    with pytest.raises(ValueError, match="sequences of its own"):
        Mixture(Component(Mixture(MultivariateNormal(), 2)), 2).check_shapes(None, data)


def test_a_log_prior_has_the_precision_of_the_parameters():
    """A flat prior is the number 0, and must not become a float64 that turns the objective into one."""
    nested = Component(Mixture(Normal(), 2))
    params = Mixture(nested, 2).init(KEY, numbers(8).astype(np.float32)).components
    assert nested.log_prior(params).dtype == np.float32
    assert Rows(Constant()).log_prior(jnp.full((2, 2), 0.5, np.float32)).dtype == np.float32
