"""Criteria by their definitions, selection beside mclust, cross-validation beside a closed form."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from closeness import assert_within, eps

import jaxem
from jaxem import Dataset, datasets
from jaxem.families import Categorical, MultivariateNormal, Normal
from jaxem.inference.sample_size import sample_size
from jaxem.inference.selection.comparison import Candidate, Selection, describe
from jaxem.inference.selection.cross_validation import CrossValidation
from jaxem.models import HMM, FactorAnalysis, Mixture

TABLE = np.zeros((9, 2))
# What is fitted to which data, and its free parameters, counted by hand.
PARAMETERS = [
    (Mixture(Normal(), 2), np.zeros(9), 1 + 2 + 2),
    (Mixture(MultivariateNormal("full"), 3), TABLE, 2 + 6 + 9),
    (Mixture(MultivariateNormal("tied"), 3), TABLE, 2 + 6 + 3),
    (Mixture(MultivariateNormal("diag"), 3), TABLE, 2 + 6 + 6),
    (Mixture(MultivariateNormal("spherical"), 3), TABLE, 2 + 6 + 3),
    (Mixture(Categorical((2, 4)), 2), TABLE, 1 + 2 * (1 + 3)),
    (HMM(Normal(), 3), TABLE, 2 + 3 * 2 + 3 + 3),
    (FactorAnalysis(2), np.zeros((9, 5)), 5 + (10 - 1) + 5),  # two factors have one rotation
]


@pytest.mark.parametrize(("model", "data", "count"), PARAMETERS, ids=lambda one: describe(one)[:30])
def test_number_of_parameters(model, data, count):
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(data.shape, data.dtype))
    assert jaxem.inference.number_of_parameters(model, params) == count


@pytest.mark.parametrize(
    "criterion", [jaxem.inference.aic, jaxem.inference.aicc, jaxem.inference.bic, jaxem.inference.icl]
)
def test_a_fit_stands_for_its_parameters(criterion):
    model, params, x = case("normal mixture", "float64")
    fit = jaxem.fit(model, params, x, max_steps=1)
    assert criterion(model, fit, x) == criterion(model, fit.params, x)


def test_criteria_are_what_they_say():
    model, params, x = case("normal mixture", "float64")
    L, n, p = float(model.log_likelihood(params, x)), 70, 5
    r = np.asarray(model.predict_proba(params, x))
    entropy = -np.where(r > 0, r * np.log(np.where(r > 0, r, 1)), 0).sum()
    assert entropy > 1
    wanted = {
        "aic": 2 * p - 2 * L,
        "aicc": 2 * p * n / (n - p - 1) - 2 * L,
        "bic": p * math.log(n) - 2 * L,
        "icl": p * math.log(n) - 2 * L + 2 * entropy,
    }
    for name, value in wanted.items():
        assert_within(getattr(jaxem.inference, name)(model, params, x), value, 256 * eps("float64") * abs(L))
    # A weight of 2 is the same as seeing the observation twice.
    twice, weighted = jnp.concatenate([x, x]), Dataset(x, weights=jnp.full((70,), 2.0))
    for name in wanted:
        value = getattr(jaxem.inference, name)
        assert_within(value(model, params, weighted), value(model, params, twice), 256 * eps("float64") * abs(L))
    assert float(jaxem.inference.aicc(model, params, Dataset(x, weights=jnp.full((70,), 0.08)))) == math.inf  # n = 5.6


def test_sample_sizes():
    ragged = Dataset(jnp.zeros((3, 5)), lengths=jnp.array([5, 1, 3], jnp.int32))
    hmm = HMM(Normal(), 2)
    assert float(sample_size(hmm, ragged)) == 9
    assert float(sample_size(hmm, dataclasses.replace(ragged, weights=jnp.array([1.0, 0.0, 2.5])))) == 12.5
    assert float(sample_size(hmm, jnp.zeros((3, 5)))) == 15
    assert float(sample_size(Mixture(Normal(), 2), Dataset(jnp.zeros(3), weights=jnp.array([1.0, 0.0, 2.5])))) == 3.5


def test_a_prior_is_no_part_of_the_likelihood():
    model = dataclasses.replace(constant(3.0), log_prior=lambda p: 100.0)
    assert float(jaxem.inference.bic(model, 1.0, jnp.ones(4))) == pytest.approx(math.log(4) - 6, rel=1e-14)


def test_what_a_model_lacks_is_named():
    model, params, x = case("factor analysis", "float64")
    with pytest.raises(ValueError, match="icl needs predict_proba, which FactorAnalysis lacks"):
        jaxem.inference.icl(model, params, x)
    lone = jaxem.Model(lambda p, d: p, lambda q, d: q)
    with pytest.raises(ValueError, match="needs constraints"):
        jaxem.inference.bic(lone, 1.0, jnp.ones(3))
    with pytest.raises(ValueError, match="needs log_likelihood"):
        jaxem.inference.aic(jaxem.Model(lone.e_step, lone.m_step, constraints=jaxem.Real()), 1.0, jnp.ones(3))
    with pytest.raises(ValueError, match="needs entropy"):
        jaxem.inference.icl(lone, 1.0, jnp.ones(3))
    with pytest.raises(ValueError, match="lone: needs init"):
        jaxem.select({"lone": lone}, jnp.ones(3), key=jax.random.key(0))
    with pytest.raises(ValueError, match="criterion must be one of"):
        jaxem.select([model], x, key=jax.random.key(0), criterion="dic")
    with pytest.raises(ValueError, match="no models"):
        jaxem.select([], x, key=jax.random.key(0))
    with pytest.raises(ValueError, match="folds must be between 2 and the 80"):
        jaxem.inference.cross_validate(model, x, key=jax.random.key(0), folds=81)


def constant(height, degenerate=False):
    """A model of one number whose likelihood is what it is."""
    return jaxem.Model(
        lambda p, d: d.mean(),
        lambda q, d: q,
        log_likelihood=lambda p, d: height - ((d - p) ** 2).sum(),
        init=lambda key, d: d[0],
        constraints=jaxem.Real(),
        degenerate=lambda p: jnp.bool_(degenerate),
    )


@pytest.mark.slow
def test_a_failed_model_is_in_the_table_and_never_wins():
    x = jnp.array([1.0, 2.0, 4.0])
    models = {"low": constant(1.0), "high": constant(2.0), "failed": constant(1e9, degenerate=True)}
    found = jaxem.select(models, x, key=jax.random.key(0), restarts=2, max_steps=5)
    assert found.best.name == "high"
    assert [one.name for one in found.ranked] == ["high", "low"]
    assert [one.times_best_found for one in found.candidates[:2]] == [2, 2]
    assert math.isnan(found.best.criteria["icl"])  # no classes
    lines = str(found).splitlines()
    assert lines[4].endswith("CONVERGED <- best") and lines[5].endswith("DEGENERATE")
    only = jaxem.select({"failed": models["failed"]}, x, key=jax.random.key(0), restarts=2, max_steps=5)
    with pytest.raises(jaxem.FitError, match="no model"):
        only.best  # noqa: B018

    def smallest(model, params, data):
        return model.log_likelihood(params, data)

    own = jaxem.select(models, x, key=jax.random.key(0), restarts=2, max_steps=5, criterion=smallest)
    assert own.best.name == "low" and "smallest" in str(own)
    with pytest.raises(ValueError, match="icl needs entropy"):
        jaxem.select(models, x, key=jax.random.key(0), restarts=2, max_steps=5, criterion="icl")


def candidate(name, criterion, parameters=2, likelihood=-10.0, status=0, found=3, model=None):
    fit = jaxem.fit(jaxem.Model(lambda p, d: p, lambda q, d: q), 1.0, jnp.ones(2), max_steps=1)
    fit = dataclasses.replace(fit, status=jnp.int32(status))
    criteria = {"bic": criterion, "own": criterion}
    return Candidate(name, model or Mixture(Normal(), 2), fit, parameters, likelihood, criteria, found)


@pytest.mark.parametrize(
    ("criteria", "best"),
    [
        ([3.0, 2.0, 5.0], 1),
        ([-math.inf, 2.0, -math.inf], 1),  # an infinite likelihood is no optimum
        ([math.inf, math.inf, 9.0], 2),  # AICc of few observations
        ([math.nan, math.inf, 9.0], 2),
        ([-math.inf, -math.inf, -math.inf], None),
        ([math.inf, math.inf, math.nan], None),
        ([-1e300, -2e300, 1e300], 1),
    ],
)
@pytest.mark.slow
def test_the_first_of_a_column_of_infinities_does_not_win(criteria, best):
    selection = Selection(tuple(candidate(f"m{i}", value) for i, value in enumerate(criteria)), "bic", 3)
    text = str(selection)
    assert text.count("<-") == (best is not None)
    assert len(selection.ranked) == sum(map(math.isfinite, criteria))
    endless = [f"m{i}" for i, value in enumerate(criteria) if not math.isfinite(value)]
    assert ("not ranked" in text) == bool(endless) and all(name in text.splitlines()[-1] for name in endless)
    if best is None:
        with pytest.raises(jaxem.FitError, match="finite bic"):
            selection.best  # noqa: B018
    else:
        assert selection.best.name == f"m{best}"


def test_of_equal_models_the_one_with_fewest_parameters_is_best():
    rows = [candidate("large", 5.0, 4), candidate("small", 5.0 + 1e-9, 2), candidate("far", 5.1, 1)]
    selection = Selection(tuple(rows), "bic", 3)
    assert [one.name for one in selection.ranked] == ["small", "large", "far"]
    lines = str(selection).splitlines()
    assert lines[3].endswith("<- equal to the best") and lines[4].endswith("<- best") and "<-" not in lines[5]


@pytest.mark.slow
def test_names_of_models_do_not_break_the_table():
    names = ["{", "}", "%s", "a\nb", 3, "", "漢字", "x" * 300]
    selection = Selection(tuple(candidate(name, float(i)) for i, name in enumerate(names)), "bic", 3)
    lines = str(selection).splitlines()
    assert len(lines) == 3 + len(names) and selection.best.name == "{"
    assert "1e-08" in str(Selection((candidate("a", 1e-8),), "own", 3))  # a criterion of one's own, of any size


def test_what_makes_a_selection_doubtful_is_said():
    """A larger model below a smaller one of the same make, and a best fit that one start alone found."""
    small, large = candidate("two", 20.0, 3, -10.0), candidate("three", 30.0, 5, -10.5, found=1)
    text = str(Selection((small, large), "bic", 3))
    assert "three has more parameters than two and a lower log-likelihood" in text
    assert "found by one start only, so more restarts may find a better fit: three" in text
    for other in (
        large._replace(log_likelihood=-10.0 - 1e-9),  # equal
        large._replace(log_likelihood=-9.0),
        large._replace(model=Mixture(Categorical((2,)), 3)),  # of another make
        large._replace(model=normal("full", 3)),
        large._replace(parameters=2),
        candidate("three", 30.0, 5, -10.5, status=4),
    ):
        assert "more parameters" not in str(Selection((small, other), "bic", 3))
    assert "found by one" not in str(Selection((small, large), "bic", 1))


def test_a_model_that_refuses_the_data_is_a_row():
    """One column cannot be three; the other models are compared all the same."""

    def refuse(key, data):
        raise ValueError("no start for\nthese data")

    models = {"refused": dataclasses.replace(constant(1.0), init=refuse), "fitted": constant(2.0)}
    found = jaxem.select(models, jnp.array([1.0, 2.0, 4.0]), key=jax.random.key(0), restarts=2, max_steps=5)
    assert found.best.name == "fitted" and not found.candidates[0].sound and found.candidates[0].fit is None
    assert str(found).splitlines()[3].endswith(r"refused: 'no start for\nthese data'")
    with pytest.raises(jaxem.FitError):
        found._replace(candidates=found.candidates[:1]).best  # noqa: B018


def normal(form, k):
    return Mixture(MultivariateNormal(form), k)


# mclust 5.4 and 6 on the same forms, with the other sign; its EM stops at a relative change of 1e-5, a little short.
OLD_FAITHFUL = {("tied", 3): -2314.386, ("full", 2): -2322.192}
IRIS = {("full", 2): -574.0178, ("full", 3): -580.8396}


@pytest.mark.parametrize(
    ("x", "published", "winner"),
    [(datasets.old_faithful(), OLD_FAITHFUL, ("tied", 3)), (datasets.iris()[0], IRIS, ("full", 2))],
    ids=["old faithful", "iris"],
)
def test_select_finds_what_mclust_finds(x, published, winner):
    found = jaxem.select([normal(*form) for form in published], x, key=jax.random.key(0), restarts=8)
    for one, bic in zip(found.candidates, published.values(), strict=True):
        assert -0.002 <= -one.criteria["bic"] - bic <= 0.1, one.name
        L = float(one.model.log_likelihood(one.fit.params, x))
        assert_within(one.criteria["bic"], one.parameters * math.log(len(x)) - 2 * L, 1e-9 * abs(L))
    assert found.best.name == describe(normal(*winner)) == f"Mixture(MultivariateNormal({winner[0]}), {winner[1]})"


@pytest.mark.parametrize("folds", [4, 3])
@pytest.mark.slow
def test_cross_validation_of_one_normal_class_in_closed_form(folds):
    x = np.random.default_rng(0).normal(3.0, 2.0, 16)
    key = jax.random.key(2)
    found = jaxem.inference.cross_validate(Mixture(Normal(), 1), x, key=key, folds=folds, restarts=1, max_steps=20)
    dealt = np.asarray(jax.random.permutation(jax.random.split(key)[0], 16))
    held = np.split(dealt, folds) if 16 % folds == 0 else [dealt[np.arange(16) % folds == f] for f in range(folds)]
    for fold, value in zip(held, found.held_out, strict=True):
        seen, unseen = np.delete(x, fold), x[fold]
        wanted = -0.5 * (np.log(2 * np.pi * seen.var()) + (unseen - seen.mean()) ** 2 / seen.var()).sum()
        assert_within(value, wanted, 1e3 * eps("float64") * abs(wanted))
    np.testing.assert_array_equal(found.sizes, [len(fold) for fold in held])
    assert found.log_likelihood == pytest.approx(float(found.held_out.sum()))
    assert f"{folds} folds" in str(found)


def test_a_fold_whose_fit_failed_has_no_value():
    found = jaxem.inference.cross_validate(
        constant(0.0, degenerate=True), jnp.arange(4.0), key=jax.random.key(0), folds=2, restarts=1
    )
    assert np.isnan(found.held_out).all() and math.isnan(found.log_likelihood) and "DEGENERATE" in str(found)


def test_every_observation_counts_the_same_in_cross_validation():
    """Folds of 5, 1 and 2: the mean is over observations, not over folds, and so is its error."""
    held_out, sizes = jnp.asarray([-5.0, -9.0, -3.0]), jnp.asarray([5.0, 1.0, 2.0])
    found = CrossValidation(held_out, sizes, jnp.zeros(3, jnp.int32))
    assert found.mean == pytest.approx(-17 / 8)
    apart = np.asarray(held_out) + 17 / 8 * np.asarray(sizes)
    assert found.standard_error == pytest.approx(np.sqrt(3 / 2 * (apart**2).sum()) / 8)
    assert "-2.1" in str(found) and "3 CONVERGED" in str(found)
    # Folds of one size: the ordinary standard error of a mean.
    equal = CrossValidation(held_out, jnp.full((3,), 4.0), jnp.zeros(3, jnp.int32))
    assert equal.standard_error == pytest.approx((np.asarray(held_out) / 4).std(ddof=1) / np.sqrt(3))
    # A fold that failed leaves the sum unknown, and an impossible observation makes it minus infinity.
    failed = CrossValidation(held_out.at[1].set(jnp.nan), sizes, jnp.asarray([0, 4, 0], jnp.int32))
    assert math.isnan(failed.mean) and math.isnan(failed.standard_error)
    assert "nan an observation" in str(failed) and "1 of them failed" in str(failed) and "1 DEGENERATE" in str(failed)
    impossible = CrossValidation(held_out.at[1].set(-jnp.inf), sizes, jnp.zeros(3, jnp.int32))
    assert impossible.mean == -math.inf and math.isnan(impossible.standard_error) and "-inf" in str(impossible)


@pytest.mark.parametrize("folds", [3, 4])
@pytest.mark.slow
def test_weights_in_cross_validation(folds):
    """Rows of weight zero are dealt last: every fold holds some that count. A weight of 2 is two observations."""
    x = np.random.default_rng(0).normal(3.0, 2.0, 8)
    weights = np.array([1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 3.0, 0.0])
    data = Dataset(jnp.asarray(np.where(weights > 0, x, np.nan)), weights=jnp.asarray(weights))
    for key in jax.random.split(jax.random.key(0), 4):
        found = jaxem.inference.cross_validate(
            Mixture(Normal(), 1), data, key=key, folds=folds, restarts=1, max_steps=20
        )
        assert (np.asarray(found.sizes) > 0).all() and float(found.sizes.sum()) == 7
    if folds == 4:  # one row each: leave one out
        wanted = {}
        for row in np.flatnonzero(weights):
            rest = np.where(np.arange(8) == row, 0, weights)
            mean = np.average(x, weights=rest)
            variance = np.average((x - mean) ** 2, weights=rest)
            value = -0.5 * (np.log(2 * np.pi * variance) + (x[row] - mean) ** 2 / variance)
            wanted[row] = weights[row] * value
        np.testing.assert_allclose(np.sort(found.held_out), np.sort(list(wanted.values())), rtol=1e-9)
        assert found.mean == pytest.approx(sum(wanted.values()) / 7)
    with pytest.raises(ValueError, match="between 2 and the 4 observations"):
        jaxem.inference.cross_validate(Mixture(Normal(), 1), data, key=jax.random.key(0), folds=5)


@pytest.mark.slow
def test_sequences_of_different_lengths_in_cross_validation():
    """The mean is over steps."""
    model = HMM(Normal(), 1)
    values = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)))
    data = Dataset(values, lengths=jnp.asarray([6, 1, 2, 6], jnp.int32))
    found = jaxem.inference.cross_validate(model, data, key=jax.random.key(0), folds=4, restarts=1, max_steps=20)
    assert sorted(np.asarray(found.sizes).tolist()) == [1, 2, 6, 6]
    assert found.mean == pytest.approx(float(found.held_out.sum()) / 15)


def test_data():
    velocities, (flowers, species) = datasets.galaxies(), datasets.iris()
    assert velocities.shape == (82,) and (np.diff(velocities) > 0).all()
    assert flowers.shape == (150, 4) and (np.bincount(species) == 50).all()
    np.testing.assert_allclose(flowers.mean(axis=0), [5.8433, 3.0573, 3.7580, 1.1993], atol=5e-5)
