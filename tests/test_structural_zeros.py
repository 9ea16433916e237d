"""What is exactly impossible at the start stays so: under every algorithm, in every family and structure; and all that
is differentiated there has the derivative of the formula."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import ALGORITHMS, offered
from closeness import assert_within, eps

import jaxem
from jaxem.core import coordinates
from jaxem.families import Bernoulli, Categorical, Normal, Poisson
from jaxem.families.protocol import log_density
from jaxem.latent import chain_forward
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
@pytest.mark.slow
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


@pytest.mark.slow
def test_a_class_of_weight_zero_is_no_class():
    model, start, x = case("weights")
    fit = jaxem.fit(model, start, x, algorithm=jaxem.SQUAREM())
    assert fit.status == jaxem.Status.DEGENERATE and fit.params.weights[2] == 0


@pytest.mark.parametrize("name", ["weights", *NAMES])
@pytest.mark.slow
def test_no_direction_of_the_chart_leaves_them(name):
    model, start, _ = case(name)
    u, lives = coordinates.into(model, start), coordinates.living(model, start)
    assert not lives.all()
    far = coordinates.chart(model, start)(u + jnp.asarray(np.random.default_rng(0).normal(size=u.shape)))
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(far), strict=True):
        np.testing.assert_array_equal(np.asarray(before == 0), np.asarray(after == 0))


K, T = 3, 4
PATHS = np.array(list(itertools.product(range(K), repeat=T)))
CHAINS = {  # initial distribution, transition matrix
    "left to right": ([1.0, 0.0, 0.0], [[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]]),
    "cycle": ([0.0, 0.5, 0.5], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
    "a state that nobody enters": ([0.4, 0.6, 0.0], [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]),
    "inside": ([0.2, 0.3, 0.5], [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]),
}


def _flat(f, impossible):
    """f(pi, A, log_b) as a function of one vector; where ``impossible``, log_b is -inf."""

    def of(v):
        pi, A, log_b = v[:K], v[K : K + K * K].reshape(K, K), v[K + K * K :].reshape(T, K)
        return f(pi, A, jnp.where(impossible, -jnp.inf, log_b))

    return of


@jax.jit
def _recursion(v, impossible, length):
    f = _flat(lambda pi, A, log_b: chain_forward.log_likelihood(pi, A, log_b[None], length[None])[0], impossible)
    return f(v), jax.grad(f)(v), jax.hessian(f)(v)


@jax.jit
def _enumeration(v, impossible, length):
    def over_paths(pi, A, log_b):
        b = jnp.where(impossible, 0, jnp.exp(jnp.where(impossible, 0, log_b)))
        p = pi[PATHS[:, 0]] * b[0, PATHS[:, 0]]
        for t in range(1, T):
            p = p * jnp.where(t < length, A[PATHS[:, t - 1], PATHS[:, t]] * b[t, PATHS[:, t]], 1 / K)
        return jnp.log(p.sum())

    f = _flat(over_paths, impossible)
    return f(v), jax.grad(f)(v), jax.hessian(f)(v)


@pytest.mark.parametrize("length", [1, 2, T])
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.slow
def test_derivatives_of_a_chain_are_those_of_all_paths(name, length):
    pi, A = (np.array(part) for part in CHAINS[name])
    rng = np.random.default_rng(length)
    impossible = np.zeros((T, K), bool)
    impossible[1:, 0] = name in ("left to right", "inside")
    v = jnp.asarray(np.concatenate([pi, A.ravel(), rng.normal(0, 3, T * K)]))
    found, wanted = (f(v, impossible, jnp.int32(length)) for f in (_recursion, _enumeration))
    assert np.isfinite(wanted[0])
    for a, b in zip(found, wanted, strict=True):
        assert_within(a, b, 1e4 * eps("float64") * (1 + np.abs(b).max()))


@pytest.mark.slow
def test_derivatives_of_a_chain_over_the_range_of_both_dtypes():
    """States whose densities are e^200 apart, some out of reach: the derivatives of float32 are those of float64."""
    rng = np.random.default_rng(0)
    log_b = rng.normal(0, 1, (1, 12, K)) + 200.0 * rng.integers(-1, 2, (1, 12, K))
    for pi, A in CHAINS.values():

        def both(dtype, pi=pi, A=A):
            given = jnp.asarray(pi, dtype), jnp.asarray(A, dtype), jnp.asarray(log_b, dtype), jnp.array([12])
            return _value_and_slopes(*given)

        single, double = both("float32"), both("float64")
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
            b = np.asarray(b)
            inside = np.abs(b) < 1e10  # the others are beyond float32, in which a derivative ends at 1e19
            assert_within(np.asarray(a)[inside], b[inside], 1e3 * eps("float32") * (200 + np.abs(b[inside])))
            assert np.isfinite(a).all()


@jax.jit
def _value_and_slopes(pi, A, log_b, lengths):
    return jax.value_and_grad(lambda *given: chain_forward.log_likelihood(*given, lengths).sum(), (0, 1, 2))(
        pi, A, log_b
    )


@jax.jit
def _slopes(model, params, x):
    """Gradients in coordinates of log p(x), Q, the entropy and the divergence; Hessians of the first two."""
    u, at = coordinates.into(model, params), coordinates.chart(model, params)
    q = model.e_step(params, x)
    likelihood = lambda u: model.log_likelihood(at(u), x)
    expected = lambda u: model.q_function(at(u), q, x)
    entropy = lambda u: model.entropy(model.e_step(at(u), x), x)
    divergence = lambda u: model.divergence(q, model.e_step(at(u), x), x)
    slopes = [jax.grad(f)(u) for f in (likelihood, expected, entropy, divergence)]
    return slopes, jax.hessian(likelihood)(u), jax.jacobian(lambda u: jax.grad(expected)(u))(u)


@pytest.mark.parametrize("name", ["weights", *NAMES])
@pytest.mark.slow
def test_derivatives_of_the_bound_at_exact_zeros(name):
    model, start, x = case(name)
    (likelihood, expected, entropy, divergence), curvature, complete = _slopes(model, start, x)
    size = 1 + np.abs(likelihood).max()
    assert_within(expected, likelihood, 1e5 * eps("float64") * size)  # Fisher's identity
    assert_within(divergence, 0 * divergence, 1e5 * eps("float64") * size)
    assert np.isfinite(entropy).all() and np.isfinite(complete).all()
    assert_within(curvature, curvature.T, 1e6 * eps("float64") * (1 + np.abs(curvature).max()))
    # More is known of complete data.
    assert np.linalg.eigvalsh(curvature - complete).min() >= -1e-8 * (1 + np.abs(complete).max())


def test_the_derivative_in_a_weight_of_zero():
    model, start, x = case("weights")

    def plain(weights):
        return jnp.log((weights[None, :] * jnp.exp(log_density(model.family, start.components, x))).sum(axis=1)).sum()

    found = jax.jit(jax.grad(lambda w: model.log_likelihood(start._replace(weights=w), x)))(start.weights)
    assert_within(found, jax.jit(jax.grad(plain))(start.weights), 1e4 * eps("float64") * 80)
