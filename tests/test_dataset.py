"""The door: data frames, missing cells, covariates and trees become one checked record, for every public entry."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from closeness import assert_within

import jaxem
from jaxem import Dataset, dataset
from jaxem.core.data import Columns, size
from jaxem.core.dataset import as_data
from jaxem.families import Categorical, Multinomial, MultivariateNormal, Normal
from jaxem.models import HMM, Mixture

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(0, 1, (60, 2)), RNG.normal(5, 1, (60, 2))])
COLOURS = np.array(["red", "blue", "green"])[RNG.integers(0, 3, 120)]
FRAMES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# Data frames


@pytest.mark.parametrize("library", FRAMES)
def test_a_frame_is_its_array(library):
    frame = FRAMES[library]({"height": X[:, 0], "weight": X[:, 1]})
    data = dataset(frame)
    np.testing.assert_array_equal(data.values, X)
    assert data.columns() == Columns(("height", "weight"), (None, None))
    np.testing.assert_array_equal(as_data(frame), X)  # what models meet
    assert same(as_data(data), as_data(X))


LEVELS = ["blue", "green", "red"]
CATEGORIES = {
    "pandas": lambda: pd.DataFrame(
        {"colour": pd.Categorical(COLOURS, ["blue", "green", "red"]), "size": np.arange(120)}
    ),
    "polars": lambda: pl.DataFrame(
        {"colour": pl.Series(COLOURS, dtype=pl.Enum(["blue", "green", "red"])), "size": np.arange(120)}
    ),
    "pyarrow": lambda: pa.table(
        {
            "colour": pa.DictionaryArray.from_arrays(np.searchsorted(LEVELS, COLOURS).astype(np.int32), LEVELS),
            "size": np.arange(120),
        }
    ),
}


@pytest.mark.parametrize("library", CATEGORIES)
def test_categories_become_codes_and_keep_their_levels(library):
    data = dataset(CATEGORIES[library]())
    assert data.columns() == Columns(("colour", "size"), (("blue", "green", "red"), None))
    np.testing.assert_array_equal(data.values[:, 0], np.searchsorted(["blue", "green", "red"], COLOURS))
    assert jnp.issubdtype(data.values.dtype, jnp.integer)


def test_every_entry_takes_a_frame_and_tables_name_its_columns():
    frame, model = pd.DataFrame(X, columns=["height", "weight"]), Mixture(MultivariateNormal(), k=2)
    start = model.init(jax.random.key(0), frame)
    fit = jaxem.check(jaxem.fit(model, start, frame))
    plain = jaxem.fit(model, start, X)
    assert same(fit.params, plain.params)
    np.testing.assert_array_equal(model.predict(fit, frame), model.predict(plain, X))
    table = str(jaxem.summary(model, fit, frame))
    assert "components.means[0, height]" in table and "components.covariances[1, height, weight]" in table
    assert "components.means[0, 0]" in str(jaxem.summary(model, plain, X))
    information = str(jaxem.inference.information(model, fit, frame))
    assert "components.means[0, height]" in information and "components.covariances[0][weight, height]" in information
    resampled = jaxem.inference.bootstrap(model, fit, frame, key=jax.random.key(1), replicates=3)
    assert "components.means[1, weight]" in str(resampled)
    assert float(jaxem.inference.bic(model, fit, frame)) == float(jaxem.inference.bic(model, plain, X))
    assert jaxem.verify(model, fit, frame).ok
    assert same(jaxem.fit_many(model, start, [frame, frame], params_axis=None).params.weights[0], fit.params.weights)
    assert jaxem.fit(model, start, jaxem.shard(frame)).converged


@pytest.mark.slow
def test_levels_come_back_in_the_table():
    frame = pd.DataFrame({"colour": pd.Categorical(COLOURS), "shape": pd.Categorical(["a", "b"] * 60)})
    model = Mixture(Categorical((3, 2)), k=1)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), frame), frame))
    table = str(jaxem.summary(model, fit, frame))
    assert "components.probabilities.colour[0, green]" in table and "components.probabilities.shape[0, b]" in table
    share = float(fit.params.components.probabilities[0][0, 2])
    assert_within(share, (COLOURS == "red").mean(), 1e-12)


def test_what_a_frame_may_not_hold():
    for frame, says in [
        (pd.DataFrame({"when": pd.to_datetime(["2020-01-01", "2020-01-02"])}), "column 'when' holds neither numbers"),
        (pd.DataFrame({"x": [1.0, np.nan, 3.0]}), "1 cells are missing, the first in row 1 of column 'x'"),
        (pl.DataFrame({"x": [1, None, 3]}), "1 cells are missing, the first in row 1 of column 'x'"),
        (pl.DataFrame({"x": [1.0, 2.0]}).lazy(), "a data frame in memory is needed"),
        (pd.DataFrame({"x": []}), "got shape"),
    ]:
        with pytest.raises(ValueError, match=says):
            jaxem.fit(Mixture(Normal(), 1), Mixture(Normal(), 1).init(jax.random.key(0), X[:, 0]), dataset(frame))


def test_without_narwhals_numbers_still_go_through(monkeypatch):
    monkeypatch.setitem(sys.modules, "narwhals", None)
    frame = pd.DataFrame(X, columns=["height", "weight"])
    assert dataset(frame).columns() == Columns(("height", "weight"), (None, None))
    with pytest.raises(ValueError, match="install narwhals"):
        dataset(pd.DataFrame({"colour": pd.Categorical(COLOURS)}))


def test_names_cause_no_compilation():
    model = Mixture(MultivariateNormal(), k=2)
    start = model.init(jax.random.key(0), X)
    jaxem.fit(model, start, pd.DataFrame(X, columns=["a", "b"]))
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr("jax._src.interpreters.pxla.logger.log", lambda *record, **_: compiled.append(record))
        jaxem.fit(model, start, pd.DataFrame(X, columns=["c", "d"]))
        jaxem.fit(model, start, X)
        jaxem.fit(model, start, dataset(X))
    assert not compiled


def test_sequences_may_be_frames():
    parts = [pd.DataFrame({"x": X[:7, 0]}), pd.DataFrame({"x": X[7:12, 0]})]
    data = dataset(parts)
    assert data.values.shape == (2, 7, 1) and data.columns().names == ("x",)
    np.testing.assert_array_equal(data.lengths, [7, 5])
    with pytest.raises(ValueError, match="sequence 1 has other columns"):
        dataset([parts[0], parts[1].rename(columns={"x": "y"})])


# Missing cells


def holes(kind):
    """Three cells of X missing, as each library says it."""
    mask = np.zeros(X.shape, bool)
    mask[[3, 3, 50], [0, 1, 1]] = True
    if kind == "nan":
        return np.where(mask, np.nan, X), mask
    if kind == "masked":
        return np.ma.masked_array(X, mask), mask
    if kind == "objects":
        return np.where(mask, None, X.astype(object)), mask
    if kind == "jax":
        return jnp.asarray(np.where(mask, np.nan, X)), mask
    columns = {name: np.where(mask[:, i], np.nan, X[:, i]) for i, name in enumerate("ab")}
    if kind == "pandas":
        return pd.DataFrame(columns), mask
    return pl.DataFrame(columns).with_columns(pl.all().fill_nan(None)), mask


@pytest.mark.parametrize("kind", ["nan", "masked", "objects", "jax", "pandas", "polars"])
def test_missing_cells_become_a_mask(kind):
    values, mask = holes(kind)
    with pytest.raises(ValueError, match=r"missing|NaN|masked|None"):
        dataset(values)
    data = dataset(values, missing="nan")
    np.testing.assert_array_equal(data.observed, ~mask)
    np.testing.assert_array_equal(np.where(mask, 0, data.values), np.where(mask, 0, X))
    np.testing.assert_array_equal(data.values[3], X[0])  # the first value that was seen in the column
    assert float(size(data, jnp.dtype(float))) == X.size - 3
    doubled = dataclasses.replace(data, weights=jnp.full(120, 2.0))
    assert float(size(doubled, jnp.dtype(float))) == 2 * (X.size - 3)


def test_where_nothing_is_missing_nothing_changes():
    assert dataset(X, missing="nan").observed is None
    assert same(as_data(dataset(X, missing="nan")), as_data(X))
    counts = np.arange(4)
    assert dataset(counts, missing="nan").values.dtype == dataset(counts).values.dtype


def test_missing_cells_in_a_trace():
    values, mask = holes("nan")
    data = jax.jit(lambda x: dataset(x, missing="nan"))(values)
    np.testing.assert_array_equal(data.observed, ~mask)
    assert np.isfinite(data.values).all()
    np.testing.assert_array_equal(data.values, dataset(values, missing="nan").values)
    nothing = jax.jit(lambda x: dataset(x, missing="nan").values)(np.full(3, np.nan))
    np.testing.assert_array_equal(nothing, 0)
    slope = jax.grad(lambda x: (dataset(x, missing="nan").values ** 2).sum())(jnp.asarray(values))
    assert np.isfinite(slope).all()


def test_missing_cells_of_sequences_and_trees():
    data = dataset([np.array([1.0, np.nan, 3.0]), np.array([4.0])], missing="nan")
    np.testing.assert_array_equal(data.observed, [[True, False, True], [True, False, False]])
    assert float(size(data, jnp.dtype(float))) == 3
    tree = dataset({"a": np.array([1.0, np.nan]), "b": np.array([1, 2])}, missing="nan")
    np.testing.assert_array_equal(tree.observed["a"], [True, False])
    assert tree.observed["b"].all()
    with pytest.raises(ValueError, match="no value is observed"):
        dataset(np.full(3, np.nan), missing="nan")


def test_models_that_cannot_use_a_part_refuse_it_by_name():
    gaps, full = dataset(holes("nan")[0], missing="nan"), dataset(X, given=np.ones(120))
    ragged = dataset([X[:50, 0], X[50:, 0]])
    for model, data, says in [
        (Mixture(Multinomial(), 2), gaps, "Mixture cannot use missing cells.*Multinomial: the total of a row"),
        (Mixture(MultivariateNormal(), 2), full, "Mixture has no covariates"),
        (HMM(Normal(), 2), dataclasses.replace(ragged, given=jnp.ones(2)), "HMM has no covariates"),
        (Mixture(Normal(), 2), ragged, "Mixture has no sequences of its own"),
    ]:
        with pytest.raises(ValueError, match=says):
            model.init(jax.random.key(0), data)


def test_nan_is_refused_only_where_it_counts():
    x = np.where(np.arange(6) == 2, np.nan, np.arange(6.0))
    with pytest.raises(ValueError, match=r"1 entries are NaN, the first in row 2; if cells are missing: missing="):
        dataset(x)
    dataset(x, weights=np.arange(6) != 2)
    dataset(x[None], lengths=[2])
    with pytest.raises(ValueError, match=r"given: 1 entries are NaN.*covariates must be known"):
        dataset(np.arange(6.0), given=x, missing="nan")


# Covariates


def slopes(params, row):
    """Two lines through y given x."""
    y, x = row.values, row.given
    return jax.scipy.stats.norm.logpdf(y, params["line"] @ jnp.stack([jnp.ones_like(x), x]), 0.3) + jnp.log(0.5)


LINES = jaxem.from_log_joint(slopes)
COVARIATE = RNG.uniform(-1, 1, 200)
RESPONSE = np.where(RNG.random(200) < 0.5, 1 + COVARIATE, -1 - 2 * COVARIATE) + 0.3 * RNG.normal(size=200)
START = {"line": jnp.array([[0.5, 0.0], [-0.5, 0.0]])}


@pytest.mark.slow
def test_covariates_reach_the_model_and_are_not_counted():
    data = dataset(RESPONSE, given=COVARIATE)
    assert float(size(data, jnp.dtype(float))) == 200
    fit = jaxem.check(jaxem.fit(LINES, START, data, tol=1e-12))
    # Five standard errors of about 0.3 / sqrt(100) for the levels, 1.7 times that for the slopes.
    np.testing.assert_allclose(fit.params["line"], [[1, 1], [-1, -2]], atol=0.2)
    assert jaxem.verify(LINES, fit, data).ok
    as_values = jaxem.from_log_joint(lambda p, row: slopes(p, Dataset(row[0], row[1])))
    other = jaxem.fit(as_values, START, (RESPONSE, COVARIATE), tol=1e-12)
    # An objective that 4e-10 (1e-12 for each of 400 values) is missing from is 3e-5 standard errors of 0.05 away.
    np.testing.assert_allclose(other.params["line"], fit.params["line"], rtol=0, atol=3e-6)
    assert float(size((RESPONSE, COVARIATE), jnp.dtype(float))) == 400  # as if x were modelled
    sampled = jaxem.inference.bootstrap(LINES, fit, data, key=jax.random.key(0), replicates=4, tol=1e-6)
    assert sampled.failed == 0
    with pytest.raises(ValueError, match="with covariates needs sample"):
        jaxem.inference.bootstrap(LINES, fit, data, key=jax.random.key(0), replicates=4, kind="parametric")


def test_what_dataset_refuses():
    for call, says in [
        (lambda: dataset(X, given=np.ones(3)), "120 observations need as many rows of covariates; got 3"),
        (lambda: dataset(X, missing="drop"), "missing must be 'refuse' or 'nan'"),
        (lambda: dataset(dataset(X)), "a data set already"),
        (lambda: dataset(X, weights=np.ones(3)), r"need shape \(120,\)"),
        (lambda: dataset([X[:3], X[3:]], lengths=[3, 117]), "has its own lengths"),
        (lambda: dataset([X[:3], X[3:]], given=[X[:4], X[4:]]), "as long as its sequence of values"),
        (lambda: dataset((X, X[:5])), "share a leading axis"),
        (
            lambda: jaxem.fit(LINES, START, Dataset(RESPONSE, observed=np.ones(3, bool), given=COVARIATE)),
            "observed must be",
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            call()


def test_a_dataset_says_what_it_holds():
    data = dataset(pd.DataFrame(X, columns=["a", "b"]), given=pd.DataFrame({"z": X[:, 0]}), weights=np.ones(120))
    assert repr(data) == "Dataset(values (120, 2) (a, b); given (120, 1) (z); weights (120,))"
    assert data.columns("given").names == ("z",)


# A tree of arrays through every entry


def couple(params, row):
    """Two independent measurements of one hidden class."""
    parts = [jax.scipy.stats.norm.logpdf(row[name], params[name], 1.0) for name in ("a", "b")]
    return jnp.log(params["share"]) + parts[0] + parts[1].sum(axis=0)


def couple_start(key, data):
    values = data.values if isinstance(data, Dataset) else data
    rows = jax.random.choice(key, values["a"].shape[0], (2,), replace=False)
    return {"a": values["a"][rows], "b": values["b"][rows].T, "share": jnp.full(2, 0.5, values["a"].dtype)}


def couple_m_step(q, data):
    values, w = (data.values, data.weights) if isinstance(data, Dataset) else (data, 1.0)
    r = q.probabilities * jnp.reshape(w, (-1, 1))
    n = r.sum(axis=0)
    return {"a": r.T @ values["a"] / n, "b": (r.T @ values["b"] / n[:, None]).T, "share": n / n.sum()}


def couple_sample(key, params, n):
    label, one, two = jax.random.split(key, 3)
    z = jax.random.categorical(label, jnp.log(params["share"]), shape=(n,))
    a = params["a"][z] + jax.random.normal(one, (n,))
    return {"a": a, "b": params["b"].T[z] + jax.random.normal(two, (n, 3))}


COUPLE = jaxem.from_log_joint(
    lambda p, row: couple(p, {"a": row["a"], "b": row["b"][:, None]}),
    constraints={"a": jaxem.Real(), "b": jaxem.Real(), "share": jaxem.Simplex()},
    m_step=couple_m_step,
    init=couple_start,
    sample=couple_sample,
    permute=lambda p, order: {"a": p["a"][order], "b": p["b"][:, order], "share": p["share"][order]},
    label_keys=lambda p: p["a"][:, None],
)


@pytest.mark.slow
def test_a_tree_of_arrays_goes_through_every_entry():
    tree = {"a": X[:, 0], "b": np.concatenate([X, X[:, :1]], axis=1)}
    key = jax.random.key(0)
    start = {"a": jnp.array([0.0, 4.0]), "b": jnp.array([[0.0, 4.0]] * 3), "share": jnp.array([0.5, 0.5])}
    fit = jaxem.check(jaxem.fit(COUPLE, start, tree))
    weighted = dataset(tree, weights=np.ones(120))
    for data in (tree, dataset(tree), weighted):
        again = jaxem.fit(COUPLE, start, data)
        np.testing.assert_allclose(again.params["a"], fit.params["a"], rtol=1e-10)
    assert jaxem.verify(COUPLE, fit, tree).ok and jaxem.verify(COUPLE, fit, weighted).ok
    assert (COUPLE.predict(fit, tree) == np.repeat([0, 1], 60)).mean() > 0.98
    assert COUPLE.log_prob(fit, tree).shape == (120,)
    assert_within(COUPLE.log_prob(fit, tree).sum(), COUPLE.log_likelihood(fit.params, tree), 1e-9)
    assert jaxem.inference.standard_errors(COUPLE, fit, tree)["b"].shape == (3, 2)
    assert "share[1]" in str(jaxem.summary(COUPLE, fit, tree))
    assert float(jaxem.inference.bic(COUPLE, fit, tree)) == float(jaxem.inference.bic(COUPLE, fit, weighted))
    assert jaxem.inference.convergence_rate(COUPLE, fit, tree).rate < 1
    assert same(jaxem.inference.align(COUPLE, fit, fit, tree), fit.params)
    best = jaxem.fit_restarts(COUPLE, tree, key=key, restarts=2).best
    assert_within(best.objective, fit.objective, 1e-6)
    many = jaxem.fit_many(COUPLE, start, [tree, jax.tree.map(lambda leaf: leaf[:100], tree)], params_axis=None)
    np.testing.assert_allclose(many.params["a"][0], fit.params["a"], rtol=1e-8)
    for kind in ("parametric", "nonparametric"):
        found = jaxem.inference.bootstrap(COUPLE, fit, tree, key=key, replicates=3, kind=kind)
        assert found.failed == 0
    assert jaxem.select([COUPLE, COUPLE], tree, key=key, restarts=1).best is not None
    folds = jaxem.inference.cross_validate(COUPLE, tree, key=key, folds=3, restarts=1)
    assert np.isfinite(folds.log_likelihood)
    gradient = jax.grad(lambda a: jaxem.fit(COUPLE, start, {**tree, "a": a}).objective)(jnp.asarray(tree["a"]))
    assert np.isfinite(gradient).all()
    stochastic = jaxem.fit(COUPLE, start, tree, algorithm=jaxem.GEM(batch_size=40), key=key, max_steps=30)
    assert stochastic.status != jaxem.Status.NON_FINITE
