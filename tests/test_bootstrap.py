"""The bootstrap beside closed forms and published figures; the likelihood-ratio test under the null and against it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import Dataset
from jaxem.core.data import with_weights
from jaxem.families import Exponential, Normal, NormalParams
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

COUNTS = np.array([125.0, 18.0, 20.0, 34.0])
THETA = 0.6268214980


def probabilities(theta):
    return jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])


def draw_counts(key, theta, data):
    animals = jax.random.categorical(key, jnp.log(probabilities(theta)), shape=(197,))
    return jnp.bincount(animals, length=4).astype(COUNTS.dtype)


def counts_of(data):
    return data.weights if isinstance(data, jaxem.Dataset) else data


linkage = jaxem.Model(
    lambda theta, data: counts_of(data)[0] * theta / (2.0 + theta),
    lambda z, data: (z + counts_of(data)[3]) / (z + counts_of(data)[1:].sum()),
    log_likelihood=lambda theta, data: (counts_of(data) * jnp.log(probabilities(theta))).sum(),
    sample_like=draw_counts,
    constraints=jaxem.UnitInterval(),
)


@pytest.mark.parametrize(("kind", "information"), [("nonparametric", 377.5), ("parametric", None)])
@pytest.mark.slow
def test_linkage_standard_error(kind, information):
    """Rows drawn anew: the observed information, 377.5 (Louis 1982), for each log-probability is linear in theta.
    Drawn from the model: the expected one."""
    if information is None:
        score = np.array([1, -1, -1, 1]) / 4 / np.asarray(probabilities(jnp.asarray(THETA)))
        information = 197 * (np.asarray(probabilities(jnp.asarray(THETA))) * score**2).sum()
    data = Dataset(jnp.arange(4.0), weights=jnp.asarray(COUNTS)) if kind == "nonparametric" else jnp.asarray(COUNTS)
    found = jaxem.inference.bootstrap(linkage, THETA, data, key=jax.random.key(1), replicates=4000, kind=kind)
    error = information**-0.5
    # Monte-Carlo error of a standard deviation, and what first-order theory leaves out: a relative 1 / sqrt(n) of it
    assert abs(float(found.standard_errors) - error) <= error * (3 / np.sqrt(2 * 4000) + 1 / np.sqrt(197) ** 1.5)
    low, high = found.intervals()
    # Three Monte-Carlo errors of a quantile, and (z^2 - 1) / 6 of a skewness of 1 / sqrt(n) (Cornish & Fisher).
    z, share = 1.96, 0.025
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    allowed = 3 * np.sqrt(share * (1 - share) / 4000) / density + (z**2 - 1) / 6 / np.sqrt(197)
    assert abs(float(low) - (THETA - z * error)) <= allowed * error
    assert abs(float(high) - (THETA + z * error)) <= allowed * error
    narrow = found.intervals(0.5)
    assert float(low) < float(narrow[0]) < float(narrow[1]) < float(high)
    assert found.failed == 0 and not found.aligned
    assert str(found).splitlines()[0] == f"Bootstrap, {kind}: 4000 replicates, 0 failed and left out"


@pytest.fixture(scope="module")
def two():
    """Two classes, far apart, whose EM changes their names at every step."""
    mixture = Mixture(Normal(), 2)
    params = MixtureParams(jnp.array([0.5, 0.5]), NormalParams(jnp.array([0.0, 50.0]), jnp.array([1.0, 4.0])))
    x = mixture.sample(jax.random.key(3), params, 40)
    restless = jaxem.Model(
        mixture.e_step,
        lambda q, data: mixture.permute(mixture.m_step(q, data), jnp.array([1, 0])),
        log_likelihood=mixture.log_likelihood,
        predict_proba=mixture.predict_proba,
        permute=mixture.permute,
        constraints=mixture.constraints,
    )
    return mixture, restless, jaxem.fit(mixture, params, x).params, x


@pytest.mark.slow
def test_labels_are_matched_and_means_vary_as_they_should(two):
    _, restless, params, x = two
    # One step from the fit is all it takes where classes lie far apart, and it changes their names.
    found = jaxem.inference.bootstrap(restless, params, x, key=jax.random.key(0), replicates=400, max_steps=1)
    assert found.aligned and found.failed == 0 and "400 stopped by max_steps; labels matched" in str(found)
    assert bool((jnp.diff(found.replicates.components.means, axis=1) > 0).all())
    # Each class is a sample of its own.
    wanted = np.sqrt(np.asarray(params.components.variances) / (40 * np.asarray(params.weights)))
    np.testing.assert_allclose(found.standard_errors.components.means, wanted, rtol=4 / np.sqrt(800) + 1 / 20)


@pytest.mark.slow
def test_batches_change_nothing_and_failures_are_counted():
    def model(limit):
        return jaxem.Model(
            lambda p, d: (d.values * d.weights).sum() / d.weights.sum(),
            lambda q, d: q,
            log_likelihood=lambda p, d: -(d.weights * (d.values - p) ** 2).sum(),
            degenerate=lambda p: p > limit,
        )

    x = Dataset(jnp.arange(10.0), weights=jnp.full((10,), 3.0))
    key = jax.random.key(0)
    whole = jaxem.inference.bootstrap(model(99.0), 4.5, x, key=key, replicates=50)
    parts = jaxem.inference.bootstrap(model(99.0), 4.5, x, key=key, replicates=50, batch_size=7)
    np.testing.assert_allclose(whole.replicates, parts.replicates, rtol=1e-14)
    # 30 draws of ten numbers, for so many rows the weights stand
    expected = np.sqrt(8.25 / 30)
    assert abs(float(whole.standard_errors) - expected) < 4 * expected / np.sqrt(100)
    means = np.asarray(whole.replicates)
    limit = float(np.sort(means)[-10:-8].mean())  # above it lie nine
    failing = model(limit)
    cut = jaxem.inference.bootstrap(failing, 4.5, x, key=key, replicates=50)
    assert cut.failed == 9 and cut.replicates.shape == (41,)
    np.testing.assert_allclose(np.sort(cut.replicates), np.sort(means)[:-9], rtol=1e-14)
    assert "9 failed and left out" in str(cut)
    with pytest.raises(ValueError, match=r"50 of 50 fits failed \(DEGENERATE\)"):
        jaxem.inference.bootstrap(failing, 1e3, x, key=key, replicates=50)


def test_bad_input_is_named():
    run = lambda *arguments, **keywords: jaxem.inference.bootstrap(
        linkage, THETA, jnp.asarray(COUNTS), *arguments, **keywords
    )
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="kind must be"):
        run(key=key, replicates=10, kind="jackknife")
    with pytest.raises(ValueError, match="replicates must be at least 2"):
        run(key=key, replicates=1)
    lone = jaxem.Model(lambda p, d: p, lambda q, d: q)
    with pytest.raises(ValueError, match="a parametric bootstrap needs sample"):
        jaxem.inference.bootstrap(lone, 1.0, jnp.ones(3), key=key, replicates=10, kind="parametric")
    with pytest.raises(ValueError, match="whole numbers"):
        jaxem.inference.bootstrap(
            linkage,
            THETA,
            Dataset(jnp.ones(4), weights=jnp.full((4,), 0.5)),
            key=key,
            replicates=10,
            kind="parametric",
        )
    with pytest.raises(ValueError, match="needs init"):
        jaxem.inference.likelihood_ratio_test(lone, lone, jnp.ones(3), key=key)
    two = jaxem.inference.bootstrap(linkage, THETA, jnp.asarray(COUNTS), key=key, replicates=4000, kind="parametric")
    with pytest.raises(ValueError, match="between 0 and 1"):
        two.intervals(95)


def test_sequences_like_those_seen():
    model = HMM(Normal(), 2)
    x = Dataset(jnp.zeros((3, 5)), lengths=jnp.array([5, 2, 4], jnp.int32))
    stay = jnp.full((2, 2), 0.5)
    params = HMMParams(stay[0], stay, NormalParams(jnp.array([0.0, 9.0]), jnp.ones(2)))
    again = model.sample_like(jax.random.key(1), params, with_weights(x, jnp.ones(3)))
    assert again.values.shape == (3, 5) and float(again.values.std()) > 0
    np.testing.assert_array_equal(again.lengths, x.lengths)
    np.testing.assert_array_equal(model.sample_like(jax.random.key(1), params, x.values), again.values)


@pytest.mark.slow
def test_size_and_power_of_the_likelihood_ratio_test():
    """One exponential class against two."""
    models = Mixture(Exponential(), 1), Mixture(Exponential(), 2)
    run = {"replicates": 19, "restarts": 2, "stop": jaxem.fitting.aitken(1e-4), "max_steps": 100}
    rng = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(0), 41)
    tests = [
        jaxem.inference.likelihood_ratio_test(*models, rng.exponential(2.0, 30), key=key, **run) for key in keys[1:]
    ]
    p_values = np.array([float(test.p_value) for test in tests])
    # Under the null p is uniform on its 20 values: how many lie below a level is binomial, held to three deviations.
    for level in (0.1, 0.25, 0.5, 0.75):
        assert abs((p_values <= level + 1e-9).mean() - level) <= 3 * np.sqrt(level * (1 - level) / 40), level
    apart = np.r_[rng.exponential(1.0, 15), rng.exponential(100.0, 15)]
    test = jaxem.inference.likelihood_ratio_test(*models, apart, key=keys[0], **run)
    assert float(test.p_value) == pytest.approx(1 / 20) and test.failed == 0
    assert test.null_distribution.shape == (19,) and float(test.null_distribution.max()) < float(test.statistic)
    null = -30 * (np.log(apart.mean()) + 1)
    assert float(test.statistic) == pytest.approx(2 * (float(test.alternative.objective) - null), rel=1e-9)
    assert "p = 0.05 (19 replicates, 0 failed and left out)" in str(test)


ALIKE = {
    "one row": jnp.ones(1),
    "one row of many columns": jnp.arange(3.0)[None],
    "all weight on one row": Dataset(jnp.arange(3.0), weights=jnp.asarray([0.0, 5.0, 0.0])),
    "equal rows": jnp.full((7, 2), 3.0),
    "equal rows where there is weight": Dataset(jnp.asarray([2.0, 9.0, 2.0]), weights=jnp.asarray([1.0, 0.0, 1.0])),
    "one sequence": Dataset(jnp.arange(6.0).reshape(1, 6), lengths=jnp.asarray([4], jnp.int32)),
    "sequences that differ in the padding": Dataset(
        jnp.asarray([[1.0, 2.0, 5.0], [1.0, 2.0, 7.0]]), lengths=jnp.asarray([2, 2], jnp.int32)
    ),
    "rows of records": {"a": jnp.ones(3), "b": jnp.zeros((3, 2), jnp.int32)},
    "weights that count as no rows": Dataset(jnp.arange(3.0), weights=jnp.full((3,), 0.1)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_rows_that_are_always_the_same_are_refused(name):
    """Their errors would be zero; the other kind has an answer."""
    mean = jaxem.Model(lambda p, d: p, lambda q, d: q)
    with pytest.raises(ValueError, match=r"bootstrap.*kind='parametric'"):
        jaxem.inference.bootstrap(mean, 1.0, ALIKE[name], key=jax.random.key(0), replicates=10)


@pytest.mark.slow
def test_one_sequence_has_errors_by_the_parametric_kind_only():
    model = HMM(Normal(), 2)
    params = HMMParams(
        jnp.asarray([0.9, 0.1]), jnp.asarray([[0.8, 0.2], [0.3, 0.7]]), NormalParams(jnp.array([0.0, 9.0]), jnp.ones(2))
    )
    x = model.sample_like(jax.random.key(1), params, jnp.zeros((1, 30)))
    with pytest.raises(ValueError, match="one sequence is one"):
        jaxem.inference.bootstrap(model, params, x, key=jax.random.key(0), replicates=10)
    found = jaxem.inference.bootstrap(
        model, params, x, key=jax.random.key(0), replicates=20, kind="parametric", max_steps=3
    )
    assert bool((found.standard_errors.emissions.means > 0.01).all())


@pytest.mark.slow
def test_what_no_replicate_moves_has_no_error():
    """A share of one that every row has: neither kind moves it. Beside it stands a mean that moves."""
    x = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=1)
    model = jaxem.Model(
        lambda p, d: (d.values * d.weights[:, None]).sum(axis=0) / d.weights.sum(),
        lambda q, d: q,
        log_likelihood=lambda p, d: -(d.weights[:, None] * (d.values - p[None]) ** 2).sum(),
    )
    found = jaxem.inference.bootstrap(model, x.mean(axis=0), x, key=jax.random.key(0), replicates=30)
    assert np.isnan(found.standard_errors[0]) and float(found.standard_errors[1]) > 0.1
    lower, upper = found.intervals()
    assert np.isnan(lower[0]) and np.isnan(upper[0]) and float(lower[1]) < float(upper[1])
    np.testing.assert_array_equal(found.still, [True, False])
    assert "no replicate moved these parameters: params[0]" in str(found)
    with pytest.raises(ValueError, match="none of 30 fits moved"):
        jaxem.inference.bootstrap(model, x.mean(axis=0), x, key=jax.random.key(0), replicates=30, max_steps=0)
    with pytest.raises(ValueError, match="inside jit"):
        jax.jit(
            lambda x: (
                jaxem.inference.bootstrap(model, jnp.ones(2), x, key=jax.random.key(0), replicates=30).standard_errors
            )
        )(x)


def test_the_table_shows_the_interval():
    """Years: the estimate and the ends of the interval differ in the fifth digit."""
    years = Dataset(1986 + jnp.arange(8.0) / 1000, weights=jnp.ones(8))
    model = jaxem.Model(lambda p, d: (d.values * d.weights).sum() / d.weights.sum(), lambda q, d: q)
    text = str(jaxem.inference.bootstrap(model, 1986.0035, years, key=jax.random.key(0), replicates=50))
    estimate, error, low, high = text.splitlines()[3].split()[1:]
    assert estimate.startswith("1986.0035") and low < estimate < high and error.startswith("0.000")


def climber(height, caught=0.0):
    """A model of one number that every fit finds, with a likelihood of this height, or at a share of the starts less.

    ``caught``: below this share of the random numbers a start ends ten lower.
    """

    def init(key, data):
        return jnp.where(jax.random.uniform(key) < caught, -1.0, 1.0)

    return jaxem.Model(
        lambda p, d: p,
        lambda q, d: q,
        log_likelihood=lambda p, d: height + jnp.where(p < 0, -10.0, 0.0) + 0 * d.sum(),
        init=init,
        sample=lambda key, p, n: jax.random.normal(key, (n,)),
    )


def ratio(null, alternative, **keywords):
    run = {"replicates": 20, "restarts": 4, "max_steps": 3} | keywords
    return jaxem.inference.likelihood_ratio_test(null, alternative, jnp.arange(5.0), key=jax.random.key(0), **run)


@pytest.mark.slow
def test_a_larger_model_that_ended_below_has_no_p_value():
    found = ratio(climber(0.0), climber(-3.0))
    assert float(found.statistic) == -6.0 and np.isnan(found.p_value) and found.below == 20
    text = str(found)
    assert "no p-value" in text and "ended below the null on the data" in text and "p = " not in text
    # Equal but for what fits are known to is no failure, and as large as what is equal.
    equal = ratio(climber(0.0), climber(-1e-7))
    assert float(equal.p_value) == 1.0 and equal.below == 0
    # A model with a prior does not end at its largest likelihood.
    prior = dataclasses.replace(climber(-3.0), log_prior=lambda p: jnp.float64(1.0))
    assert not np.isnan(ratio(climber(0.0), prior).p_value)


@pytest.mark.slow
def test_how_often_the_best_fit_was_found_is_said():
    found = ratio(climber(0.0), climber(1.0, caught=0.7), restarts=3)
    assert found.restarts == 3 and found.times_best_found[0] == 3 and 1 <= found.times_best_found[1] <= 3
    assert 0 < found.found_once < 20  # of three starts, of which 7 in 10 miss it
    missed = int((found.null_distribution < 0).sum())  # all three did
    assert found.below == missed > 0
    text = str(found)
    assert f"{found.times_best_found[1]} (alternative)" in text
    assert f"in {found.found_once} of 20 replicates by one start only" in text
    assert f"below the null in {missed} of 20 replicates" in text and "may be too small" in text
    assert "one start each" in str(ratio(climber(0.0), climber(1.0), restarts=1))
    sure = ratio(climber(0.0), climber(1.0))
    assert sure.times_best_found == (4, 4) and sure.found_once == sure.below == 0 and "Raise" not in str(sure)


@pytest.mark.parametrize(
    ("small", "dtype"), [(1e-100, "float64"), (1e-16, "float64"), (0.0, "float64"), (1e-9, "float32")]
)
def test_a_probability_of_nothing_has_no_error(small, dtype):
    """EM multiplies it, so that it moves by its own size and never comes back: no error of 1e-101."""

    def m_step(q, d):
        first = jnp.where(q[0] < 1e-3, q[0] * d.weights[0], (d.weights * d.values).sum() / d.weights.sum())
        return jnp.stack([first, 1 - first])

    model = jaxem.Model(lambda p, d: p, m_step, constraints=jaxem.Simplex())
    x = Dataset(jnp.asarray([0.0, 1.0, 1.0, 0.0], dtype), weights=jnp.ones(4, dtype))
    inside = jaxem.inference.bootstrap(
        model, jnp.asarray([0.5, 0.5], dtype), x, key=jax.random.key(0), replicates=20, max_steps=1
    )
    assert bool((inside.standard_errors > 0.1).all())
    with pytest.raises(ValueError, match="none of 20 fits moved"):
        jaxem.inference.bootstrap(
            model, jnp.asarray([small, 1.0], dtype), x, key=jax.random.key(0), replicates=20, max_steps=1
        )
