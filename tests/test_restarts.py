"""Restarts: the best sound fit wins, each fit is what it would be alone, and failures stay visible."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem import Status
from jaxem.families import MultivariateNormal, Poisson
from jaxem.models import Mixture

EPS = eps(np.float64)

# A model of a user's own, whose fits end in one step, where they started, in a way that the start says.


class Landed(NamedTuple):
    height: Any  # the objective
    sound: Any  # below zero: degenerate


def stay_e_step(params: Landed, data: Any) -> Landed:
    return params


def stay_m_step(q: Landed, data: Any) -> Landed:
    return q


def height(params: Landed, data: Any) -> Any:
    return params.height


def unsound(params: Landed) -> Any:
    return params.sound < 0


def lands(heights: Any, sounds: Any) -> Any:
    """A model whose i-th start has ``heights[i]`` and ``sounds[i]``, i the lane that the key belongs to."""
    heights, sounds = jnp.asarray(heights), jnp.asarray(sounds)
    keys = jax.random.key_data(jax.random.split(KEY, (2, len(heights)))[0])

    def init(key: Any, data: Any) -> Landed:
        lane = (keys == jax.random.key_data(key)[None]).all(axis=1).argmax()
        return Landed(heights[lane], sounds[lane])

    return jaxem.Model(stay_e_step, stay_m_step, log_likelihood=height, init=init, degenerate=unsound)


KEY = jax.random.key(3)
X = jnp.arange(10.0)


def test_the_best_is_the_highest_that_is_sound():
    """Lane 1 is degenerate and lane 3 not a number; both would be higher."""
    result = jaxem.fit_restarts(lands([1.0, 9.0, 4.0, np.nan, 2.0], [1.0, -1, 1, 1, 1]), X, key=KEY, restarts=5)
    np.testing.assert_array_equal(result.statuses, [0, Status.DEGENERATE, 0, Status.INVALID, 0])
    np.testing.assert_array_equal(result.objectives, [1.0, 9.0, 4.0, np.nan, 2.0])
    assert result.best.objective == 4.0 and result.best.status == Status.CONVERGED
    assert result.best.params.height == 4.0
    assert result.times_best_found == 1


def test_times_best_found_counts_what_is_sound_and_near():
    """Near: within 1e-6 an observed value, here 1e-5 in all. A failed fit of the same height is not found."""
    heights = [4.0, 4.0 - 0.9e-5, 4.0 - 1.1e-5, 4.0, 3.0]
    result = jaxem.fit_restarts(lands(heights, [1.0, 1, 1, -1, 1]), X, key=KEY, restarts=5)
    assert result.best.objective == 4.0
    assert result.times_best_found == 2


@pytest.mark.slow
def test_where_all_fail_the_failure_is_told():
    result = jaxem.fit_restarts(lands([1.0, 9.0, np.nan], [-1.0, -1, 1]), X, key=KEY, restarts=3)
    assert result.best.status == Status.DEGENERATE and result.best.objective == 9.0
    with pytest.raises(jaxem.FitError, match="DEGENERATE"):
        jaxem.check(result.best)
    result = jaxem.fit_restarts(lands([np.nan, np.nan, np.nan], [1.0, 1, 1]), X, key=KEY, restarts=3)
    assert result.best.status == Status.INVALID
    assert result.times_best_found == 0


# Mixtures

COUNTS = np.random.default_rng(0).poisson(np.repeat([1.0, 5.0, 15.0], 20)).astype(float)
MODEL = Mixture(Poisson(), 3)


def restarted() -> jaxem.fitting.Restarts:
    return jaxem.fit_restarts(MODEL, COUNTS, key=KEY, restarts=4, finalists=4, max_steps=300)


@pytest.mark.slow
def test_each_fit_is_what_it_would_be_alone():
    result = restarted()
    init_keys, fit_keys = jax.random.split(KEY, (2, 4))
    alone = [
        jaxem.fit(MODEL, MODEL.init(init_key, COUNTS), COUNTS, key=fit_key, max_steps=300)
        for init_key, fit_key in zip(init_keys, fit_keys, strict=True)
    ]
    # The stopping rule may take a step more or less where rounding differs: tol is 1e-10 an observed value.
    allowed = 2e-10 * len(COUNTS)
    assert_within(result.objectives, [fit.objective for fit in alone], allowed)
    np.testing.assert_array_equal(result.statuses, [fit.status for fit in alone])
    index = int(np.argmax(result.objectives))
    assert result.best.objective == result.objectives[index]
    assert_within(result.best.trace[0], alone[index].trace[0], 32 * EPS * abs(float(alone[index].trace[0])))
    order, other = np.argsort(result.best.params.weights), np.argsort(alone[index].params.weights)
    assert_within(result.best.params.components.rates[order], alone[index].params.components.rates[other], 1e-4)


def test_a_second_call_compiles_nothing(count_compilations):
    restarted()
    key, data = jax.random.key(8), jnp.asarray(COUNTS[::-1].copy())
    with count_compilations() as compiled:
        again = jaxem.fit_restarts(
            Mixture(Poisson(), 3), data, key=key, restarts=4, finalists=4, max_steps=300, tol=1e-9
        )
    assert compiled.count == 0
    assert again.objectives.shape == (4,)


def test_prints_readably():
    result = restarted()
    text = str(result)
    assert text.startswith(f"4 starts; best objective found {int(result.times_best_found)} times\nFit\n")
    assert "CONVERGED" in text and "components.rates" in text


@pytest.mark.slow
def test_under_jit():
    result = restarted()
    inside = jax.jit(lambda key, x: jaxem.fit_restarts(MODEL, x, key=key, restarts=4, finalists=4, max_steps=300))(
        KEY, COUNTS
    )
    assert_within(inside.objectives, result.objectives, 2e-10 * len(COUNTS))
    assert inside.times_best_found == result.times_best_found


@pytest.mark.slow
def test_classes_that_collapse_never_win():
    """Three points all but coincide: some starts climb to where the likelihood of a normal class has no bound."""
    x = np.random.default_rng(1).normal(size=(20, 2))
    x[1], x[2] = x[0] + 1e-3, x[0] - 1e-3
    model = Mixture(MultivariateNormal("full"), 2)
    result = jaxem.fit_restarts(model, x, key=jax.random.key(0), restarts=16, max_steps=500)
    statuses, objectives = np.asarray(result.statuses), np.asarray(result.objectives)
    sound = statuses <= Status.MAX_STEPS
    assert sound.any() and (statuses == Status.DEGENERATE).any()
    assert result.best.status <= Status.MAX_STEPS
    assert result.best.objective == objectives[sound].max() < objectives[~sound].max()


# Errors


@pytest.mark.slow
def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"fit_restarts needs init, which Model lacks. Write: init\(key, data\)"):
        jaxem.fit_restarts(jaxem.Model(stay_e_step, stay_m_step, log_likelihood=height), X, key=KEY)
    no_objective = jaxem.Model(stay_e_step, stay_m_step, init=lambda key, data: Landed(1.0, 1.0))
    with pytest.raises(ValueError, match="the model has none: write log_likelihood"):
        jaxem.fit_restarts(no_objective, X, key=KEY)
    for restarts in (0, -1):
        with pytest.raises(ValueError, match=f"restarts must be at least 1; it is {restarts}"):
            jaxem.fit_restarts(MODEL, COUNTS, key=KEY, restarts=restarts)
    for bad, says in [(COUNTS - 1, "non-negative whole number"), (COUNTS[:2], "2 observations cannot tell 3 classes")]:
        with pytest.raises(ValueError, match=says):
            jaxem.fit_restarts(MODEL, bad, key=KEY, restarts=4)


@pytest.mark.slow
def test_restarts_say_how_their_starts_ended():
    """Failures are not "found", and many data sets have no one number of times."""

    def model(fails):
        return jaxem.Model(
            lambda p, d: p,
            lambda q, d: q,
            log_likelihood=lambda p, d: -((d - p) ** 2).sum(),
            init=lambda key, d: jnp.where(jax.random.uniform(key) < 0.5, 0.0, 1.0),
            degenerate=lambda p: p < fails,
        )

    x = jnp.arange(3.0)
    some = jaxem.fit_restarts(model(0.5), x, key=jax.random.key(0), restarts=8, max_steps=4)
    failed = int((some.statuses == jaxem.Status.DEGENERATE).sum())
    assert 0 < failed < 8 and str(some).startswith(f"8 starts ({8 - failed} ")
    assert f"{failed} DEGENERATE); best objective found {8 - failed} times" in str(some)
    none = jaxem.fit_restarts(model(2.0), x, key=jax.random.key(0), restarts=8, max_steps=4)
    assert str(none).startswith("8 starts, all of which failed (8 DEGENERATE)") and "found" not in str(none)
    many = jaxem.fit_many_restarts(
        model(0.5), x[None] + jnp.zeros((2, 1)), key=jax.random.key(0), restarts=3, max_steps=4
    )
    assert str(many).startswith("Restarts of 2 data sets, 3 starts each\nFit of 2 lanes")
