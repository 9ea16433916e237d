"""Many fits: each is what it would be alone, whoever else is still climbing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps

import jaxem
from jaxem import Dataset, Status
from jaxem.core.stacking import stack
from jaxem.families import Exponential, Normal, Poisson
from jaxem.models import HMM, Mixture

EPS = eps(np.float64)
STOP = jaxem.fitting.objective_change(1e-7)
STEPS = 40


def lane(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_same_fits(many: jaxem.Fit, others: jaxem.Fit, tolerance: float) -> None:
    """The same decisions, and every number to ``tolerance`` of the largest of its kind in its lane."""
    assert jax.tree.structure(many) == jax.tree.structure(others)
    for name in ("steps", "evaluations", "fallbacks", "status"):
        np.testing.assert_array_equal(getattr(many, name), getattr(others, name))
    # What is left is an estimate from differences of small numbers: whether there is one is what must be the same.
    np.testing.assert_array_equal(np.isnan(many.left), np.isnan(others.left))
    many, others = (dataclasses.replace(fit, left=jnp.zeros_like(fit.left)) for fit in (many, others))
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(others), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        size = np.nanmax(np.abs(np.asarray(b, np.float64)).reshape(len(b), -1), axis=1)
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        assert_within(np.nan_to_num(a), np.nan_to_num(b), tolerance * size.reshape(-1, *(1,) * (b.ndim - 1)))


# Rao's linkage data: a model of two functions, and the likelihood, whose noise has to be measured


def linkage_e_step(theta, counts):
    return counts[0] * theta / (2 + theta)


def linkage_m_step(z, counts):
    return (z + counts[3]) / (z + counts[1:].sum())


def linkage_log_likelihood(theta, counts):
    one = jnp.ones_like(theta)
    return counts @ jnp.log(jnp.stack([(2 + theta) / 4, (one - theta) / 4, (one - theta) / 4, theta / 4]))


LINKAGE = jaxem.Model(
    linkage_e_step, linkage_m_step, log_likelihood=linkage_log_likelihood, constraints=jaxem.UnitInterval()
)
COUNTS = np.random.default_rng(0).multinomial(200, [0.6, 0.1, 0.1, 0.2], size=7).astype(float)


@pytest.mark.slow
def test_equals_separate_fits_in_either_precision(dtype):
    starts, counts = as_dtype((np.linspace(0.01, 0.9, 7), COUNTS), dtype)
    rule = {"stop": jaxem.fitting.parameter_change(1e-5), "max_steps": 8}
    many = jaxem.fit_many(LINKAGE, starts, counts, batch_size=2, **rule)
    others = [jaxem.fit(LINKAGE, start, one, **rule) for start, one in zip(starts, counts, strict=True)]
    assert many.params.dtype == dtype
    # Eight sums of four counts and as many quotients.
    assert_same_fits(many, jax.tree.map(lambda *leaves: jnp.stack(leaves), *others), 64 * eps(dtype))
    assert len(set(np.asarray(many.steps))) > 1 and (many.status == Status.CONVERGED).any()


@pytest.mark.slow
def test_no_steps_and_one_data_set():
    none = jaxem.fit_many(LINKAGE, jnp.full(7, 0.5), COUNTS, max_steps=0)
    np.testing.assert_array_equal(none.status, Status.MAX_STEPS)
    np.testing.assert_array_equal(none.params, 0.5)
    one = jaxem.fit_many(LINKAGE, jnp.full(1, 0.5), COUNTS[:1], max_steps=30)
    assert_same_fits(
        one, jax.tree.map(lambda leaf: leaf[None], jaxem.fit(LINKAGE, 0.5, COUNTS[0], max_steps=30)), 64 * EPS
    )


def test_one_start_for_all():
    alike = jaxem.fit_many(LINKAGE, jnp.full(7, 0.3), COUNTS, max_steps=30)
    shared = jaxem.fit_many(LINKAGE, 0.3, COUNTS, params_axis=None, max_steps=30)
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(alike), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_derivatives_are_those_of_each_fit():
    starts, counts = jnp.full(7, 0.5), jnp.asarray(COUNTS)
    slope = lambda counts: jaxem.fit_many(LINKAGE, starts, counts).params
    jacobian = jax.jacobian(slope)(counts)
    theta, h = slope(counts), 1e-4
    for b in (0, 6):
        others = np.delete(np.arange(7), b)
        np.testing.assert_array_equal(jacobian[b][others], 0)
    ahead, behind = slope(counts.at[:, 0].add(h)), slope(counts.at[:, 0].add(-h))
    # The maximum is known to tol^(1/2) / 10 or better; the second difference is of relative size (h / 100)^2.
    assert_within(jacobian[np.arange(7), np.arange(7), 0], (ahead - behind) / (2 * h), 1e-6 * theta.max())


@pytest.mark.slow
def test_progress_counts_what_has_ended():
    seen = []
    jaxem.fit_many(LINKAGE, jnp.full(7, 0.5), COUNTS, batch_size=2, progress=lambda ended, of: seen.append((ended, of)))
    assert seen[-1] == (7, 7) and all(of == 7 for _, of in seen)
    assert [ended for ended, _ in seen] == sorted(ended for ended, _ in seen)


# Mixtures: lanes that converge, run out of steps, and collapse


def normal_data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    apart = np.array([6.0, 1.0, 5.0, 0.0, 2.0, 4.0, 0.5, 3.0, 8.0])
    x = rng.normal(size=(9, 30)) + apart[:, None] * (rng.random((9, 30)) < 0.4)
    x[3, :12] = 7.0  # a class of one value has no largest likelihood
    starts = jax.vmap(MIXTURE.init)(jax.random.split(jax.random.key(0), 9), jnp.asarray(x))
    return starts, jnp.asarray(x)


MIXTURE = Mixture(Normal(), 2)


@pytest.fixture(scope="module")
def normals():
    starts, x = normal_data()
    return starts, x, jaxem.fit_many(MIXTURE, starts, x, stop=STOP, max_steps=STEPS, batch_size=3)


@pytest.mark.slow
def test_equals_vmap_lane_by_lane(normals):
    starts, x, many = normals
    plain = jax.jit(jax.vmap(lambda p, x: jaxem.fit(MIXTURE, p, x, stop=STOP, max_steps=STEPS)))(starts, x)
    for status in (Status.CONVERGED, Status.MAX_STEPS, Status.DEGENERATE):
        assert (plain.status == status).any()
    # Sums of 30 terms in another order, carried through up to 40 iterations that forget at a rate below one.
    assert_same_fits(many, plain, 30 * STEPS * EPS)
    assert np.isfinite(many.params.components.means).all()  # of the lane that collapsed, the last good iterate


@pytest.mark.slow
def test_any_batch_size_is_the_same(normals):
    starts, x, many = normals
    for size in (None, 1):
        assert_same_fits(
            jaxem.fit_many(MIXTURE, starts, x, stop=STOP, max_steps=STEPS, batch_size=size), many, 30 * STEPS * EPS
        )


@pytest.mark.slow
def test_few_programs_whoever_ends_when(normals, count_compilations):
    starts, x, _ = normals
    start = jax.tree.map(lambda leaf: leaf[::-1] * 1, starts)
    x = x[::-1] * 1
    steps = STEPS + 1  # of no other test
    with count_compilations() as compiled:
        jaxem.fit_many(MIXTURE, start, x, stop=STOP, max_steps=steps, batch_size=3)
    assert 1 <= compiled.names.count("jit(_climb)") <= 2  # full groups, and small ones for the last lanes
    other = jaxem.fitting.objective_change(1e-4)
    with count_compilations() as compiled:
        jaxem.fit_many(Mixture(Normal(), 2), start, x * 2, stop=other, max_steps=steps, batch_size=3)
    assert compiled.count == 0


# Data sets of unequal length


@pytest.mark.slow
def test_a_list_of_unequal_lengths_equals_separate_fits():
    rng = np.random.default_rng(1)
    data = [rng.poisson(np.where(rng.random(n) < 0.4, 1.0, 8.0)).astype(float) for n in (18, 25)]
    model = Mixture(Poisson(), 2)
    start = model.init(jax.random.key(2), data[0])
    rule = {"stop": STOP, "max_steps": STEPS}
    many = jaxem.fit_many(model, start, data, params_axis=None, **rule)
    for b, x in enumerate(data):
        alone = jaxem.fit(model, start, x, **rule)
        assert many.steps[b] == alone.steps and many.status[b] == alone.status
        assert_within(many.objective[b], alone.objective, 25 * STEPS * EPS * abs(float(alone.objective)))
        assert_within(many.params.components.rates[b], alone.params.components.rates, 25 * STEPS * EPS * 10)


def test_stack_pads_with_weight_zero():
    a, b = np.arange(3.0), np.arange(5.0)
    both = stack([a, b])
    np.testing.assert_array_equal(both.weights, [[1, 1, 1, 0, 0], [1] * 5])
    np.testing.assert_array_equal(both.values, [[0, 1, 2, 0, 0], b])
    weighted = stack([Dataset(a, weights=np.array([2.0, 0, 3])), Dataset(b, weights=np.ones(5))])  # pyright: ignore
    np.testing.assert_array_equal(weighted.weights, [[2, 0, 3, 0, 0], [1] * 5])
    equal = stack([a, a + 1])
    np.testing.assert_array_equal(equal, [a, a + 1])


@pytest.mark.slow
def test_stack_pads_sequences_in_both_directions():
    a = jaxem.dataset([np.arange(1.0, 3.0), np.arange(1.0, 5.0)])
    b = jaxem.dataset([np.arange(1.0, 7.0)])
    both = stack([a, b])
    assert both.values.shape == (2, 2, 6)
    np.testing.assert_array_equal(both.weights, [[1, 1], [1, 0]])
    np.testing.assert_array_equal(both.lengths, [[2, 4], [6, 6]])
    model = HMM(Exponential(), 2)
    params = model.init(jax.random.key(0), a)
    alone = [float(model.log_likelihood(params, data)) for data in (a, b)]
    for data, wanted in zip([lane(both, 0), lane(both, 1)], alone, strict=True):
        assert_within(model.log_likelihood(params, data), wanted, 64 * EPS * abs(wanted))


# Restarts and keys


@pytest.mark.slow
def test_restarts_are_those_of_each_data_set():
    rng = np.random.default_rng(3)
    data = jnp.asarray(rng.poisson(np.repeat([1.0, 6.0, 14.0], 8), size=(2, 24)).astype(float))
    model, key = Mixture(Poisson(), 3), jax.random.key(5)
    rule = {"restarts": 3, "tol": 1e-6, "max_steps": 60}
    many = jaxem.fit_many_restarts(model, data, key=key, batch_size=3, **rule)
    assert many.objectives.shape == many.statuses.shape == (2, 3)
    for b, own in enumerate(jax.random.split(key, 2)):
        alone = jaxem.fit_restarts(model, data[b], key=own, **rule)
        allowed = 24 * 60 * EPS * abs(float(alone.best.objective))
        assert_within(many.objectives[b], alone.objectives, allowed)
        np.testing.assert_array_equal(many.statuses[b], alone.statuses)
        assert many.times_best_found[b] == alone.times_best_found
        assert_within(many.best.objective[b], alone.best.objective, allowed)
        assert many.best.trace.shape == (2, 61)


@pytest.mark.slow
def test_each_lane_has_a_key_of_its_own():
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.poisson(np.repeat([3.0, 6.0], 6), size=(2, 12)).astype(float))  # overlapping: draws matter
    model, key = Mixture(Poisson(), 2), jax.random.key(6)
    start = model.init(jax.random.key(2), x[0])
    how = {"algorithm": jaxem.SAEM(), "max_steps": 20, "stop": jaxem.fitting.parameter_change(0.0)}
    many = jaxem.fit_many(model, start, x, params_axis=None, key=key, **how)
    for b, own in enumerate(jax.random.split(key, 2)):
        alone = jaxem.fit(model, start, x[b], key=own, **how)
        assert_within(many.params.components.rates[b], alone.params.components.rates, 12 * 20 * EPS * 10)
    with pytest.raises(ValueError, match="SAEM draws random numbers: give fit_many a key"):
        jaxem.fit_many(model, start, x, params_axis=None, **how)


# Errors


def test_errors_name_the_data_set():
    starts, x = normal_data()
    bad = jax.tree.map(lambda leaf: leaf.at[4].set(-1.0), starts.weights)
    with pytest.raises(ValueError, match="data set 4: the start of weights must be non-negative with sum 1"):
        jaxem.fit_many(MIXTURE, starts._replace(weights=bad), x)
    with pytest.raises(ValueError, match=r"data set 5: Normal needs .*; 1 of 30 are not, the first is number 2"):
        jaxem.fit_many(MIXTURE, starts, x.at[5, 2].set(jnp.nan))
    with pytest.raises(ValueError, match=r"data set 5: .*one of them above zero"):
        jaxem.fit_many(MIXTURE, starts, Dataset(x, weights=jnp.ones((9, 30)).at[5].set(0.0)))
    with pytest.raises(ValueError, match=r"9 data sets need a start each, .* of weights; its shape is \(2,\)"):
        jaxem.fit_many(MIXTURE, lane(starts, 0), x)
    with pytest.raises(ValueError, match=r"data set 1: .* 1 of 30 are not, the first is number 3"):
        jaxem.fit_many_restarts(MIXTURE, x.at[1, 3].set(jnp.inf), key=jax.random.key(0), restarts=2)


def test_errors_say_what_is_wrong():
    starts, x = normal_data()
    for bad, says in [
        ([], "no data sets were given"),
        ([x[0], (x[0], x[0])], "data set 1 is of another form than the first"),
        ([x[0], x[1, :0]], "data set 1 is empty"),
        ([np.ones((4, 2)), np.ones((5, 3))], r"data set 1 has observations of shape \(3,\), the first has \(2,\)"),
        (1.0, "must share a leading axis of data sets"),
    ]:
        with pytest.raises(ValueError, match=says):
            jaxem.fit_many(MIXTURE, starts, bad)
    with pytest.raises(
        ValueError, match=r"fit_many decides outside the compiled programs .* use jax.vmap\(jaxem.fit\)"
    ):
        jax.jit(lambda x: jaxem.fit_many(MIXTURE, starts, x).steps)(x)
    with pytest.raises(ValueError, match="batch_size must be at least 1; it is 0"):
        jaxem.fit_many(MIXTURE, starts, x, batch_size=0)
    with pytest.raises(ValueError, match="restarts must be at least 1; it is 0"):
        jaxem.fit_many_restarts(MIXTURE, x, key=jax.random.key(0), restarts=0)
    with pytest.raises(ValueError, match="fit_many_restarts needs init"):
        jaxem.fit_many_restarts(LINKAGE, COUNTS, key=jax.random.key(0))
