"""Chains by name, their prediction, and a family for each class: closed forms, agreement with what they contain, and
refusals by name."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem.core import coordinates
from jaxem.families import Normal, NormalParams, PerClass, StudentT
from jaxem.gates import Allowed, Cyclic, LeftToRight, Softmax, SoftmaxParams, Stationary, Sticky
from jaxem.gates.stationary import distribution
from jaxem.models import HMM, HMMParams, Mixture

EPS = eps(np.float64)


def sequences(n=4, t=30, seed=3):
    rng = np.random.default_rng(seed)
    states = (rng.random((n, t)) < 0.2).cumsum(axis=1) % 2
    return rng.normal(size=(n, t)) + 3.0 * states


def normals(k):
    return NormalParams(3.0 * jnp.arange(float(k)), jnp.ones(k))


def test_the_stationary_distribution_keeps_its_digits_where_states_are_hardly_ever_left():
    """By hand: pi of two states is (b, a) / (a + b). 1 - A_kk has no digit left at a, b below eps."""
    a, b = 1e-17, 3e-20
    pi = distribution(jnp.array([[1.0, a], [b, 1.0]]))
    assert_within(pi / jnp.array([b / (a + b), a / (a + b)]), np.ones(2), 8 * EPS)
    A = np.random.default_rng(0).dirichlet(np.ones(5), size=5)
    values, vectors = np.linalg.eig(A.T)
    exact = np.real(vectors[:, np.argmax(np.real(values))])
    assert_within(distribution(jnp.asarray(A)), exact / exact.sum(), 100 * EPS)


@pytest.mark.slow
def test_durations_and_forecasts_of_a_chain_without_covariates():
    model = HMM(Normal(), 2)
    A = jnp.array([[0.9, 0.1], [0.25, 0.75]])
    params = HMMParams(jnp.array([0.5, 0.5]), A, normals(2))
    assert_within(model.durations(params), [10.0, 4.0], 8 * 10 * EPS)
    assert_within(model.stationary(params), [2.5 / 3.5, 1 / 3.5], 8 * EPS)
    x = sequences()
    last = model.filter(params, x).probabilities[:, -1]
    found = model.forecast(params, x, 7)
    wanted = jnp.stack([last @ jnp.linalg.matrix_power(A, h) for h in range(1, 8)], axis=1)
    assert_within(found.probabilities, wanted, 100 * EPS)
    assert_within(found.means, 3 * wanted[..., 1], 300 * EPS)
    far = model.forecast(params, x, 200).probabilities[:, -1]
    assert_within(far, jnp.broadcast_to(model.stationary(params), far.shape), 100 * EPS)
    absorbing = params._replace(transition=jnp.array([[0.5, 0.5], [0.0, 1.0]]))
    assert math.isinf(model.durations(absorbing)[1])


@pytest.mark.parametrize("chain", ["left to right", "allowed"])
@pytest.mark.slow
def test_a_move_that_is_not_allowed_never_happens(chain):
    """Neither from the start on nor by the prior; and it is not counted as a free parameter."""
    mask = np.array([[True, True, False], [False, True, True], [False, False, True]])
    kind = LeftToRight(prior=2.0) if chain == "left to right" else Allowed(mask, prior=2.0)
    x = sequences() + np.linspace(0, 4, 30)[None]
    model = HMM(Normal(), 3, transition=kind)
    start = model.init(jax.random.key(0), x)
    fit = jaxem.fit(model, start, x)
    for params in (start, fit.params):
        np.testing.assert_array_equal(np.asarray(params.transition)[~mask], 0)
    assert fit.converged
    assert int(coordinates.living(model, fit.params).sum()) == 2 + 2 + 6  # starts, moves and emissions
    full = start._replace(transition=jnp.full((3, 3), 1 / 3))
    with pytest.raises(ValueError, match="allows no move from state 0 to 2; its probability must be 0"):
        jaxem.fit(model, full, x)
    with pytest.raises(ValueError, match="cannot be renumbered"):
        model.permute(fit.params, jnp.array([1, 0, 2]))
    with pytest.raises(ValueError, match="align needs permute"):
        jaxem.inference.align(model, fit.params, start, x)


@pytest.mark.slow
def test_segments_side_by_side_agree_with_covariates_too():
    rng = np.random.default_rng(5)
    x, drive = sequences(2, 300), rng.normal(size=(2, 300))
    data = jaxem.dataset(x, given=drive, lengths=[300, 170])
    zero_sum = lambda a: a - a.mean(axis=-2, keepdims=True)
    params = HMMParams(
        SoftmaxParams(jnp.asarray(zero_sum(rng.normal(size=(2, 2))))),
        SoftmaxParams(jnp.asarray(zero_sum(2 * rng.normal(size=(2, 2, 2))))),
        normals(2),
    )
    model = HMM(Normal(), 2, initial=Softmax(), transition=Softmax())
    one, side = model.e_step(params, data), dataclasses.replace(model, parallel=True).e_step(params, data)
    for a, b in ((one.smoothed, side.smoothed), (one.filtered, side.filtered)):
        assert_within(a, b, 300 * 8 * EPS)
    assert_within(one.log_normalizer, side.log_normalizer, 300 * 8 * EPS)


@pytest.mark.slow
def test_a_chain_of_nearly_certain_moves_is_counted_in_logarithms(dtype):
    """Logits of 300 underflow in float32; a run through a state that can hardly be entered still has its density."""
    x = jnp.asarray([[0.0, 90.0, 90.0, 0.0]], dtype)
    drive = jnp.asarray([[-1.0, -1.0, 1.0, 1.0]], dtype)
    slope = 40.0
    coefficients = jnp.asarray([[[0.0, -slope], [0.0, slope]]] * 2, dtype)
    params = HMMParams(
        jnp.asarray([0.5, 0.5], dtype),
        SoftmaxParams(coefficients),
        jax.tree.map(lambda a: a.astype(dtype), NormalParams(jnp.array([0.0, 90.0]), jnp.ones(2))),
    )
    model = HMM(Normal(), 2, transition=Softmax())
    data = jaxem.dataset(x, given=drive)
    # The only path of any weight: 0, 1, 1, 0, against the drive at its first and its last move.
    wanted = math.log(0.5) - 2 * math.log(2 * math.pi) - 80 + 2 * 0
    wanted += -80 - 80  # moves 1 -> 1 at drive -1, and 1 -> 0 at drive 1
    for found in (model.log_prob(params, data)[0], jax.jit(model.e_step)(params, data).log_normalizer[0]):
        assert_within(found, wanted, 64 * eps(dtype) * abs(wanted))
    np.testing.assert_array_equal(model.predict(params, data), [[0, 1, 1, 0]])


@pytest.mark.slow
def test_a_family_for_each_class():
    """Normal twice is the mixture and the chain of normals, step by step."""
    x = sequences().reshape(-1)
    same, plain = Mixture(PerClass((Normal(), Normal())), 2), Mixture(Normal(), 2)
    start = plain.init(jax.random.key(0), x)
    split = lambda p: tuple(NormalParams(p.means[k : k + 1], p.variances[k : k + 1]) for k in range(2))
    a = jaxem.fit(plain, start, x, stop=jaxem.fitting.parameter_change(0.0), max_steps=5)
    b = jaxem.fit(
        same,
        start._replace(components=split(start.components)),
        x,
        stop=jaxem.fitting.parameter_change(0.0),
        max_steps=5,
    )
    jax.tree.map(lambda p, q: assert_within(p, q, 1e3 * EPS), split(a.params.components), b.params.components)
    mixed = HMM(PerClass((Normal(), StudentT())), 2)
    params = mixed.init(jax.random.key(1), sequences())
    forecast = mixed.forecast(params, sequences(), 3)
    means = jnp.concatenate([params.emissions[0].means, params.emissions[1].locations])
    assert_within(forecast.means, forecast.probabilities @ means, 100 * EPS)
    with pytest.raises(ValueError, match="cannot be renumbered where each has a family of its own"):
        mixed.permute(params, jnp.array([1, 0]))
    with pytest.raises(ValueError, match="PerClass has 2 classes; k is 3"):
        HMM(PerClass((Normal(), StudentT())), 3)
    with pytest.raises(ValueError, match="families of one observation share its axes"):
        PerClass((Normal(), jaxem.families.MultivariateNormal()))


def test_errors_say_what_is_wrong():
    x = sequences()
    data = jaxem.dataset(x, given=np.ones((4, 30)))
    driven = HMM(Normal(), 2, transition=Softmax())
    params = driven.init(jax.random.key(0), data)
    for make, says in [
        (
            lambda: HMM(Normal(), 2, initial=Stationary(), transition=LeftToRight()),
            "moves that lead back to each state",
        ),
        (lambda: HMM(Normal(), 2, initial=Stationary(), transition=Softmax()), "moves that are the same at all steps"),
        (lambda: HMM(Normal(), 3, transition=Allowed(np.eye(2, dtype=bool))), "those of 2 states; the chain has 3"),
        (lambda: Allowed(np.zeros((2, 2), bool)), "one True in each row"),
        (lambda: Sticky(-1.0), "Sticky: stay must be finite numbers of at least 0"),
        (lambda: Cyclic(prior=0.5), "Cyclic: prior must be finite numbers of at least 1"),
        (lambda: LeftToRight(skips=-1), "LeftToRight: skips"),
        (lambda: HMM(Normal(), 2, transition="sticky"), "HMM: transition"),
        (lambda: driven.init(jax.random.key(0), x), "needs covariates"),
        (lambda: HMM(Normal(), 2).init(jax.random.key(0), data), "no covariates: leave given out"),
        (lambda: driven.init(jax.random.key(0), jaxem.dataset(x, given=np.ones((4, 3)))), "a row for each step"),
        (lambda: driven.durations(params), "they depend on covariates"),
        (lambda: driven.sample(jax.random.key(0), params, 3), "use sample_like"),
        (lambda: driven.forecast(params, data, 3), "3 later steps need covariates"),
        (lambda: driven.forecast(params, data, 3, given=np.ones((4, 2))), "need shapes"),
        (lambda: driven.forecast(params, data, 0, given=np.ones((4, 2))), "horizon"),
        (lambda: HMM(Normal(), 2).forecast(HMM(Normal(), 2).init(jax.random.key(0), x), x, 3, given=1), "leave given"),
    ]:
        with pytest.raises(ValueError, match=says):
            make()


def test_draws_by_covariates_have_the_probabilities_of_the_model():
    n = 4000
    drive = np.tile([1.0, -1.0, 2.0], (n, 1))
    coefficients = jnp.array([[[0.0, 0.5], [0.0, -0.5]], [[0.3, 1.0], [-0.3, -1.0]]])
    params = HMMParams(jnp.array([0.3, 0.7]), SoftmaxParams(coefficients), normals(2))
    model = HMM(Normal(), 2, transition=Softmax())
    data = jaxem.dataset(np.zeros((n, 3)), given=drive)
    x = np.asarray(model.sample_like(jax.random.key(0), params, data).values)
    p = np.array([0.3, 0.7])
    for t in range(3):
        assert_within(x[:, t].mean(), 3 * p[1], 5 * np.sqrt(3.25 / n))
        logits = np.asarray(coefficients[..., 0] + coefficients[..., 1] * drive[0, t])
        p = p @ (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
