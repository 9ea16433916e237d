"""Answers for each observation are those of the rows themselves, and a new number of rows seldom compiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within

import jaxem
from jaxem.core.sizes import of_rows, padded_size
from jaxem.families import MultivariateNormal, Normal
from jaxem.models import HMM, FactorAnalysis, Mixture

RNG = np.random.default_rng(0)
X = RNG.normal(size=(700, 3)) + 4.0 * RNG.integers(0, 2, 700)[:, None]
MODELS = {
    "mixture": (Mixture(MultivariateNormal(), 2), X, ("predict", "predict_proba", "log_prob")),
    "factors": (FactorAnalysis(1), X, ("predict", "log_prob", "factors")),
    "chain": (HMM(Normal(), 2), X[:, 0].reshape(100, 7), ("predict", "predict_proba", "log_prob")),
}


def test_sizes():
    assert [padded_size(n) for n in (0, 1, 16, 17, 24, 25, 32, 33, 48, 49, 65, 96, 97, 1000)] == [
        *(16, 16, 16, 24, 24, 32, 32, 48, 48, 64, 96, 96, 128, 1024)
    ]
    assert [padded_size(n, 1) for n in (1, 2, 3, 4, 5, 7, 13)] == [1, 2, 3, 4, 6, 8, 16]
    for n in range(1, 5000):
        assert n <= padded_size(n) <= max(16, 1.5 * n)
        assert n <= padded_size(n, 1) <= 1.5 * n


@functools.cache
def of_all_rows(name, answer):
    """In a trace, where nothing is padded."""
    model, x, _ = MODELS[name]
    params = model.init(jax.random.key(0), x)
    return jax.jit(lambda x: getattr(model, answer)(params, x))(x)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", [1, 5, 33, 64, 100])
@pytest.mark.slow
def test_answers_are_those_of_the_rows(name, n):
    model, x, answers = MODELS[name]
    params = model.init(jax.random.key(0), x)
    for answer in answers:
        whole = of_all_rows(name, answer)
        part = getattr(model, answer)(params, x[:n])
        for few, all_of_them in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            rows = all_of_them[:n] if np.shape(all_of_them)[0] == len(x) else all_of_them
            assert np.shape(few) == np.shape(rows)
            assert_within(few, rows, 1e-9 * (1 + np.abs(np.asarray(rows)).max()))


def test_a_new_number_of_rows_compiles_nothing(count_compilations):
    model, x, answers = MODELS["mixture"]
    params = model.init(jax.random.key(0), x)
    for answer in answers:
        getattr(model, answer)(params, x[:97])
        with count_compilations() as compiled:
            for n in (98, 111, 127, 128):
                assert getattr(model, answer)(params, x[:n]).shape[0] == n
        # Only what JAX itself compiles to take a NumPy array of another shape in.
        assert set(compiled.names) <= {"jit(stage)"}, answer


@pytest.mark.slow
def test_ragged_sequences_and_traced_parameters():
    data = jaxem.dataset([X[:50, 0], X[50:57, 0], X[57:100, 0]])
    model = HMM(Normal(), 2)
    params = model.init(jax.random.key(0), data)
    assert model.predict(params, data).shape == (3, 50)
    assert (np.asarray(model.predict(params, data))[1, 7:] == -1).all()
    slope = jax.grad(lambda p: model.log_prob(p, data).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    inside = jax.vmap(lambda row: of_rows(lambda x: x + 1, row))(jnp.zeros((2, 5)))
    np.testing.assert_array_equal(inside, np.ones((2, 5)))
