"""What is exactly impossible at the start stays so: under every algorithm, in every family and structure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import ALGORITHMS, offered

import jaxem
from jaxem.core import coordinates
from jaxem.families import Bernoulli, Categorical, Normal, Poisson
from jaxem.models import HMM, Mixture


def _left_right(k):
    """Four states, each of which stays or goes on to the next; the first is where all sequences start."""
    rng = np.random.default_rng(0)
    states = np.minimum((rng.random((8, 24)) < 0.2).cumsum(axis=1), k - 1)
    x = jnp.asarray(rng.normal(size=states.shape) + 3.0 * states)
    model = HMM(Normal(), k)
    start = model.init(jax.random.key(1), x)
    emissions = start.emissions._replace(means=3.0 * jnp.arange(k, dtype=float) + 0.3)
    stay = 0.5 * jnp.eye(k) + 0.5 * jnp.eye(k, k=1)
    transition = stay.at[k - 1, k - 1].set(1.0)
    return model, start._replace(initial=jnp.eye(k)[0], transition=transition, emissions=emissions), x


def _mixture(family, x, edit):
    model = Mixture(family, 3)
    return model, edit(model.init(jax.random.key(1), x)), x


def _no_third_class(params):
    return params._replace(weights=jnp.asarray([0.4, 0.6, 0.0]))


@functools.cache
def case(name):
    """(model, start with exact zeros, data)."""
    rng = np.random.default_rng(3)
    if name == "left-right chain":
        return _left_right(4)
    if name == "weights":
        return _mixture(Normal(), jnp.asarray(np.r_[rng.normal(size=40), rng.normal(4, 1, 40)]), _no_third_class)
    if name == "levels":
        x = jnp.asarray(np.stack([rng.integers(0, 3, 60), rng.integers(0, 2, 60)], axis=1), jnp.float64)

        def no_level(params):
            first, second = params.components.probabilities
            first = first.at[0].set(jnp.asarray([0.0, 0.3, 0.7])).at[1].set(jnp.asarray([0.5, 0.5, 0.0]))
            return params._replace(components=params.components._replace(probabilities=(first, second)))

        return _mixture(Categorical((3, 2)), x, no_level)
    if name == "items":
        x = jnp.asarray(rng.integers(0, 2, (60, 3)), jnp.float64)

        def sure(params):
            p = params.components.probabilities.at[0, 0].set(0.0).at[1, 1].set(1.0)
            return params._replace(components=params.components._replace(probabilities=p))

        return _mixture(Bernoulli(), x, sure)
    x = jnp.asarray(np.r_[np.zeros(25), rng.poisson(4.0, 40)].astype(float))
    no_rate = lambda p: p._replace(components=p.components._replace(rates=p.components.rates.at[1].set(0.0)))
    return _mixture(Poisson(), x, no_rate)


NAMES = ["left-right chain", "levels", "items", "rate"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("algorithm_name", ALGORITHMS)
def test_every_algorithm_keeps_them(algorithm_name, name):
    model, start, x = case(name)
    algorithm = ALGORITHMS[algorithm_name](x.shape[0])
    assert offered(algorithm, model)
    fit = jaxem.fit(model, start, x, algorithm=algorithm, max_steps=8, key=jax.random.key(0))
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(fit.params), strict=True):
        edge = np.asarray(before == 0)
        np.testing.assert_array_equal(np.asarray(after)[edge], 0)
    assert np.isfinite(np.asarray(fit.trace)[: int(fit.steps) + 1]).all()
    moved = [np.abs(np.asarray(a - b)).max() for a, b in zip(*map(jax.tree.leaves, (start, fit.params)), strict=True)]
    assert max(moved) > 1e-3


def test_a_class_of_weight_zero_is_no_class():
    model, start, x = case("weights")
    fit = jaxem.fit(model, start, x, algorithm=jaxem.SQUAREM())
    assert fit.status == jaxem.Status.DEGENERATE and fit.params.weights[2] == 0


@pytest.mark.parametrize("name", ["weights", *NAMES])
def test_no_direction_of_the_chart_leaves_them(name):
    model, start, _ = case(name)
    u, lives = coordinates.into(model, start), coordinates.living(model, start)
    assert not lives.all()
    far = coordinates.chart(model, start)(u + jnp.asarray(np.random.default_rng(0).normal(size=u.shape)))
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(far), strict=True):
        np.testing.assert_array_equal(np.asarray(before == 0), np.asarray(after == 0))
