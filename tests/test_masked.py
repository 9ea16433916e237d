"""Models with fewer classes in the shapes of a larger one: the same likelihood, the same steps, one program."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within

import jaxem
from jaxem import datasets
from jaxem.core import parameters
from jaxem.families import Bernoulli, MultivariateNormal, Normal, NormalInverseWishart, Poisson
from jaxem.fitting.problems import Problems
from jaxem.inference import select
from jaxem.inference.selection import together
from jaxem.models import HMM, Mixture

X = datasets.old_faithful()
KEY = jax.random.key(3)
COUNTS = datasets.earthquakes()[1].astype(float)
BITS = (np.random.default_rng(0).random((60, 4)) < 0.5).astype(float)
CASES = {
    "full": (Mixture(MultivariateNormal(), 2), X),
    "tied": (Mixture(MultivariateNormal("tied"), 2), X),
    "diag, many rows": (Mixture(MultivariateNormal("diag"), 3), np.random.default_rng(1).normal(size=(600, 3)) ** 3),
    "spherical": (Mixture(MultivariateNormal("spherical"), 2), X),
    "VVE": (Mixture(MultivariateNormal("VVE"), 2), X),
    "VEV": (Mixture(MultivariateNormal("VEV"), 2), X),
    "normal": (Mixture(Normal(), 3), X[:, 0]),
    "poisson": (Mixture(Poisson(), 2), COUNTS),
    "bernoulli": (Mixture(Bernoulli(), 2), BITS),
    "chain": (HMM(Poisson(), 2), COUNTS[None]),
    "chain of vectors": (HMM(MultivariateNormal(), 2), X[None]),
}


def masked(model, k):
    """The model in the shapes of one with ``k`` classes."""
    return dataclasses.replace(model, k=k).masked(jnp.arange(k) < model.k)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_the_smaller_model_is_the_same_in_larger_shapes(name):
    model, x = CASES[name]
    larger = masked(model, model.k + 2)
    small = model.init(KEY, x)
    padded, sound = jax.jit(lambda x: larger.first(KEY, x, None, "kmeans++"))(jnp.asarray(x))
    assert sound
    for a, b in zip(jax.tree.leaves(larger.model.fewer(padded, model.k)), jax.tree.leaves(small), strict=True):
        assert_within(a, b, 1e-12 * (1 + np.abs(b).max()))
    plain, within = (jaxem.fit(m, p, x, max_steps=40) for m, p in ((model, small), (larger, padded)))
    assert within.steps == plain.steps and within.status == plain.status
    made = slice(int(plain.steps) + 1)
    assert_within(within.trace[made], plain.trace[made], 1e-11 * np.abs(plain.objective))
    ends = larger.model.fewer(within.params, model.k), plain.params
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        assert_within(a, b, 1e-9 * (1 + np.abs(b).max()))
    assert_within(larger.log_likelihood(within.params, x), plain.objective, 1e-11 * np.abs(plain.objective))
    entropy = jax.jit(lambda model, params, x: model.entropy(model.e_step(params, x), x))
    assert_within(entropy(larger, within.params, x), entropy(model, plain.params, x), 1e-9 * np.size(x))


@pytest.mark.slow
def test_copies_are_neither_empty_nor_alike():
    model, x = CASES["full"]
    larger = masked(model, 4)
    padded, _ = larger.first(KEY, jnp.asarray(x), None, "kmeans++")
    assert not larger.degenerate(padded) and not larger.coincide(padded)
    empty = padded._replace(weights=jnp.array([1.0, 0, 0, 0]))
    assert larger.degenerate(empty)
    same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), padded.components)
    assert larger.coincide(padded._replace(components=same))


def test_a_prior_would_count_the_copies():
    prior = NormalInverseWishart.from_data(X, 2)
    assert Mixture(MultivariateNormal(), 2).maskable
    assert not Mixture(MultivariateNormal(prior=prior), 2).maskable


@pytest.mark.slow
def test_select_finds_what_restarts_find():
    models = {k: Mixture(MultivariateNormal("diag"), k) for k in (1, 2, 4)}
    found = select(models, X, key=KEY, restarts=3)
    for one, key in zip(found.candidates, jax.random.split(KEY, 3), strict=True):
        alone = jaxem.fit_restarts(one.model, X, key=key, restarts=3)
        assert_within(one.fit.objective, alone.best.objective, 1e-9 * np.abs(alone.best.objective))
        assert one.fit.status == alone.best.status and one.times_best_found == alone.times_best_found
        assert jax.tree.map(jnp.shape, one.fit.params) == jax.tree.map(jnp.shape, alone.best.params)
        for name in ("aic", "aicc", "bic", "icl"):
            expected = getattr(jaxem.inference, name)(one.model, one.fit.params, X)
            assert_within(one.criteria[name], expected, 1e-9 * np.abs(expected))


@pytest.mark.slow
def test_models_that_cannot_share_are_fitted_alone():
    prior = NormalInverseWishart.from_data(X, 2)
    models = {
        "prior 1": Mixture(MultivariateNormal(prior=prior), 1),
        "prior 2": Mixture(MultivariateNormal(prior=prior), 2),
        "tied": Mixture(MultivariateNormal("tied"), 2),
        "full 1": Mixture(MultivariateNormal(), 1),
        "full 2": Mixture(MultivariateNormal(), 2),
        "too many": Mixture(MultivariateNormal(), 300),
    }
    x = jnp.asarray(X)
    assert together.groups(models, x) == [["full 1", "full 2"]]
    assert together.groups({k: Mixture(MultivariateNormal(), k) for k in (1, 2)}, jnp.ones((2**15, 2))) == []
    found = select({name: models[name] for name in ("full 1", "full 2", "too many")}, X, key=KEY, restarts=2)
    assert "272 observations cannot tell 300 classes apart" in found.candidates[2].refusal


@pytest.mark.slow
def test_equal_forms_compile_once_whatever_k(count_compilations):
    with count_compilations() as compiled:
        select([Mixture(Normal(), k) for k in (1, 2, 3)], X[:, 0], key=KEY, restarts=2)
        select([Mixture(Normal(), k) for k in (2, 3)], X[:, 0] + 1, key=KEY, restarts=3)
    names = [re.sub(r"jit\((.*)\)", r"\1", name) for name in compiled.names]
    assert names.count("go_on") == 1 and names.count("_begin") == 1


def test_problems_share_what_is_not_their_own():
    model = masked(Mixture(Normal(), 2), 3)
    both = dataclasses.replace(model, active=jnp.array([[True, False, False], [True, True, False]]))
    problems = Problems.of(both, jnp.asarray(X[:, 0]), (dataclasses.replace(model, model=False, active=True), False))
    one, data = problems.at(1)
    assert one.active.tolist() == [True, True, False] and data.shape == (272,)
    assert problems.axes[0].active == 0 and problems.axes[1] is None


def test_a_class_does_not_coincide_with_its_copies():
    model = Mixture(Normal(), 3)
    params = model.init(KEY, X[:, 0])
    for k, found in ((1, False), (2, False), (2, True)):
        active = jnp.arange(3) < k
        alike = jax.tree.map(lambda leaf, found=found: leaf.at[1].set(leaf[0]) if found else leaf, params)
        assert model.masked(active).coincide(parameters.masked(model.declare(), alike, active)) == found
