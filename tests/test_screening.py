"""Many starts: short runs of all, the best to the end, and every start says how it ended."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within

import jaxem
from jaxem import Status, datasets
from jaxem.families import MultivariateNormal, Poisson
from jaxem.fitting import lanes, screening
from jaxem.models import HMM, Mixture

X = datasets.old_faithful()
MODEL = Mixture(MultivariateNormal(), k=3)
KEY = jax.random.key(5)


def test_the_plan_halves_until_few_are_left():
    assert screening.rounds(20, None, 1000) == [(20, 32), (10, 32), (5, 32), (4, 1000)]
    assert screening.rounds(4, None, 1000) == [(4, 1000)] == screening.rounds(4, 9, 1000)
    assert screening.rounds(100, None, 7) == [(100, 32), (50, 32), (25, 32), (20, 7)]
    assert screening.rounds(6, 1, 50) == [(6, 32), (3, 32), (2, 32), (1, 50)]


def test_the_last_round_is_made_in_parts():
    assert screening.to_the_end([(5, 32), (4, 100)]) == [(5, 32), (4, 32), (4, 32), (4, 32), (4, 100)]
    assert screening.to_the_end([(4, 64)]) == [(4, 32), (4, 64)]
    assert screening.to_the_end([(4, 20)]) == [(4, 20)] and screening.to_the_end([(4, 0)]) == [(4, 0)]


def test_who_need_not_run_to_the_end():
    """Of two problems: a lane without hope, one with, one that has met the leader, one that failed high up."""
    where = np.array([0, 0, 0, 0, 0, 1, 1])
    objective = np.array([-100.0, -108.0, -104.0, -100.001, 50.0, -900.0, -900.0])
    left = np.array([0.001, 0.5, 0.5, 0.001, 0.0, np.nan, 0.0])
    scores = np.where(objective > 0, -np.inf, objective + np.nan_to_num(left))
    same = np.full(7, 0.01)
    over = screening.over(scores, objective, left, where, same)
    np.testing.assert_array_equal(over, [False, True, False, True, False, False, False])
    left[0] = 1.0  # the leader may still leave the other behind
    assert not screening.over(scores, objective, left, where, same)[3]


@pytest.mark.parametrize(
    ("of_leader", "behind", "left", "over"),
    [
        (0.005, 0.005, 0.005, True),  # they meet
        (0.005, 0.02, 0.005, False),  # too far behind to have met, near enough to catch up
        (0.005, 0.005, 0.02, False),  # may still rise by more than the least difference
        (1.0, 0.005, 0.0, False),  # no further behind than the least difference
        (1.0, 0.005, -1.0, False),  # an estimate below zero is none
        (1.0, 0.02, 0.0, True),
    ],
)
def test_who_is_over_near_the_leader(of_leader, behind, left, over):
    objective, left = np.array([-100.0, -100.0 - behind]), np.array([of_leader, left])
    found = screening.over(objective, objective, left, np.zeros(2, int), np.full(2, 0.01))
    np.testing.assert_array_equal(found, [False, over])


@pytest.mark.parametrize("status", [screening.RUNNING, Status.CONVERGED])
def test_nobody_is_dropped_for_a_lane_that_is_left_behind(status, monkeypatch):
    """The lane with the highest objective heads lower than another that it has met: one goes on, or has ended."""
    trace = np.array([[-9.0, -5.0, -3.0001, -3.0], [-9.0, -4.0, -3.002, -3.001], [-9.0, -9.0, -9.0, -9.0]])

    class Lanes:
        where, kept, problems = np.zeros(3, int), np.ones(3, bool), None

        def watched(self):
            left = np.array([1e-9, 1e-9, 1e-9])
            return trace, np.full(3, 3), np.array([status, screening.RUNNING, screening.RUNNING]), left

    monkeypatch.setattr(lanes, "scores", lambda *_: np.array([-3.0, -2.9, -9.0]))
    monkeypatch.setattr(lanes, "_sizes", lambda *_: np.full(3, 1e4))
    kept = lanes._race(Lanes(), 1, True)  # pyright: ignore
    np.testing.assert_array_equal(kept, [False, status == screening.RUNNING, False])


@pytest.mark.slow
def test_starts_that_meet_the_best_are_dropped_and_counted():
    some, every = (jaxem.fit_restarts(MODEL, X, key=KEY, restarts=4, finalists=last) for last in (None, 4))
    assert_within(some.best.objective, every.best.objective, 2e-10 * X.size)
    dropped = np.asarray(some.statuses) == Status.SCREENED
    near = np.asarray(some.objectives) >= float(some.best.objective) - 1e-6 * X.size
    assert (dropped & near).any() and some.times_best_found == near.sum()


@pytest.mark.slow
def test_every_start_says_how_it_ended():
    found = jaxem.fit_restarts(MODEL, X, key=KEY, restarts=20, finalists=4)
    statuses, objectives = np.asarray(found.statuses), np.asarray(found.objectives)
    finished = statuses != Status.SCREENED
    assert finished.sum() >= 4 and (statuses == Status.SCREENED).any()
    assert np.isfinite(objectives).all()
    assert found.best.status == Status.CONVERGED and found.best.objective == objectives[finished].max()
    assert objectives[~finished].max() < found.best.objective
    assert "SCREENED" in str(found) and 1 <= found.times_best_found <= finished.sum()


@pytest.mark.slow
def test_all_to_the_end_is_each_alone():
    found = jaxem.fit_restarts(MODEL, X, key=KEY, restarts=7, finalists=7)
    init_keys, fit_keys = jax.random.split(KEY, (2, 7))
    alone = [jaxem.fit(MODEL, MODEL.init(one, X), X, key=two) for one, two in zip(init_keys, fit_keys, strict=True)]
    np.testing.assert_array_equal(found.statuses, [fit.status for fit in alone])
    assert_within(found.objectives, [fit.objective for fit in alone], 2e-10 * X.size)


PAIRS = {
    "two kinds of eruption": (Mixture(MultivariateNormal(), 2), X),
    "three": (MODEL, X),
    "tied": (Mixture(MultivariateNormal("tied"), 4), X),
    "iris": (Mixture(MultivariateNormal("diag"), 3), datasets.iris()[0]),
    "earthquakes": (HMM(Poisson(), 3), datasets.earthquakes()[1][None].astype(float)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_screening_does_not_lose_the_best(name):
    model, data = PAIRS[name]
    some = jaxem.fit_restarts(model, data, key=KEY, restarts=12)
    every = jaxem.fit_restarts(model, data, key=KEY, restarts=12, finalists=12)
    assert_within(some.best.objective, every.best.objective, 1e-6 * np.size(data))


@pytest.mark.slow
def test_side_by_side_and_one_after_another_agree():
    abreast, alone = (jaxem.fit_restarts(MODEL, X, key=KEY, restarts=9, batch_size=size) for size in (9, 1))
    np.testing.assert_array_equal(abreast.statuses, alone.statuses)
    assert_within(abreast.objectives, alone.objectives, 2e-10 * X.size)


@pytest.mark.slow
def test_in_a_trace():
    plain = jaxem.fit_restarts(MODEL, X, key=KEY, restarts=6, finalists=4)
    inside = jax.jit(lambda key, x: jaxem.fit_restarts(MODEL, x, key=key, restarts=6, finalists=4))(KEY, jnp.asarray(X))
    np.testing.assert_array_equal(plain.statuses, inside.statuses)
    assert_within(inside.objectives, plain.objectives, 2e-10 * X.size)


@pytest.mark.slow
def test_a_start_that_was_left_behind_stays_behind():
    """Two starts rise for 32 steps, seem to go on, and end below a third, which has been left behind by then."""

    class Place(NamedTuple):
        start: Any
        steps: Any

    def height(place, data):
        rises = (3.2 - place.start) * jnp.minimum(place.steps, 32) / 32
        return jnp.where(place.start < 2, rises, jnp.where(place.start < 3, 5.0, 0.0)) - 0 * data.sum()

    model = jaxem.Model(
        lambda place, data: place,
        lambda place, data: place._replace(steps=place.steps + 1),
        log_likelihood=height,
    )
    starts = [Place(jnp.asarray(float(start)), jnp.asarray(0.0)) for start in range(4)]
    options = {"starts": starts, "finalists": 1, "max_steps": 80, "stop": jaxem.fitting.parameter_change(0.0)}
    call = lambda x: jaxem.fit_restarts(model, x, key=KEY, **options)
    plain, inside = call(jnp.ones(3)), jax.jit(call)(jnp.ones(3))
    for found in (plain, inside):
        np.testing.assert_array_equal(found.statuses, [Status.MAX_STEPS, *[Status.SCREENED] * 3])
        assert found.best.steps == 80 and found.best.objective == 3.2


@pytest.mark.slow
def test_a_failed_start_does_not_go_on():
    """A class that has collapsed has the highest objective after any short run."""
    x = np.random.default_rng(1).normal(size=(20, 2))
    x[1], x[2] = x[0] + 1e-3, x[0] - 1e-3
    found = jaxem.fit_restarts(Mixture(MultivariateNormal(), 2), x, key=jax.random.key(0), restarts=16, max_steps=500)
    statuses = np.asarray(found.statuses)
    assert (statuses == Status.DEGENERATE).any()
    assert found.best.status in (Status.CONVERGED, Status.MAX_STEPS)


# Given starts


@pytest.mark.slow
def test_starts_of_every_kind():
    labels = (X[:, 0] > 3).astype(int)
    model = Mixture(MultivariateNormal(), 2)
    shares = np.eye(2)[labels] * 0.8 + 0.1
    given = model.init(KEY, X, labels)
    fitted = jaxem.fit(model, given, X)
    found = jaxem.fit_restarts(
        model, X, key=KEY, starts=[given, fitted, labels, shares, "points"], finalists=5, max_steps=400
    )
    assert found.statuses.shape == (5,) and (found.statuses == Status.CONVERGED).all()
    assert_within(found.objectives, np.full(5, float(fitted.objective)), 1e-6)
    assert found.best.objective >= fitted.objective - 1e-9
    kinds = jaxem.fit_restarts(model, X, key=KEY, restarts=4, starts=("kmeans++", "responsibilities"))
    assert kinds.best.converged
    init_keys, _ = jax.random.split(KEY, (2, 4))
    second = jaxem.fit(model, model.init(init_keys[1], X, "responsibilities"), X)
    assert_within(kinds.objectives[1], second.objective, 2e-10 * X.size)


def test_one_array_may_be_the_parameters_of_a_start():
    counts = jnp.array([125.0, 18.0, 20.0, 34.0])
    model = jaxem.Model(
        lambda p, x: x[0] * p / (2 + p),
        lambda z, x: (z + x[3]) / (z + x[1:].sum()),
        log_likelihood=lambda p, x: x[0] * jnp.log(2 + p) + (x[1] + x[2]) * jnp.log1p(-p) + x[3] * jnp.log(p),
    )
    found = jaxem.fit_restarts(model, counts, key=KEY, starts=[jnp.array(0.1), np.array(0.9), 0.5])
    assert (found.statuses == Status.CONVERGED).all() and found.times_best_found == 3
    assert_within(found.best.params, 0.626821498, 1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"starts": "kmeans++"}, "starts must be a list of starts, or a tuple of kinds"),
        ({"starts": ("nonsense",)}, "start must be one of"),
        ({"starts": []}, "starts must be a list of starts"),
        ({"starts": [3.0]}, "parameters"),
        ({"finalists": 0}, "finalists must be at least 1"),
    ],
)
def test_what_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        jaxem.fit_restarts(Mixture(MultivariateNormal(), 2), X, key=KEY, **options)


def test_a_second_call_compiles_nothing(count_compilations):
    jaxem.fit_restarts(MODEL, X, key=KEY, restarts=9)
    with count_compilations() as compiled:
        jaxem.fit_restarts(Mixture(MultivariateNormal(), 3), X[::-1], key=jax.random.key(9), restarts=9, tol=1e-9)
    assert compiled.count == 0
