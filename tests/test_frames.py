"""Data frames: every function takes one, names and index come back, and codes are those of the fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest

import jaxem
from jaxem import dataset
from jaxem.core.capabilities import capabilities
from jaxem.core.data import Columns
from jaxem.core.dataset import as_data
from jaxem.core.parameters import Param
from jaxem.core.spaces import answers
from jaxem.families import Categorical, MultivariateNormal, Normal, Poisson, Product, Regression
from jaxem.fitting import Status
from jaxem.gates import Softmax
from jaxem.inference.selection.cross_validation import CrossValidation
from jaxem.inference.selection.likelihood_ratio import LikelihoodRatio
from jaxem.inference.uncertainty.bootstrap import Bootstrap
from jaxem.inference.uncertainty.rate import ConvergenceRate
from jaxem.inference.verify.certificate import Certificate, Check, Verdict
from jaxem.models import HMM, FactorAnalysis, ItemResponse, Mixture, StateSpace, SwitchingAutoregression

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
LIBRARIES = {"pandas": pd.DataFrame, "polars": pl.DataFrame}
N = 48
X = RNG.normal(size=(N, 3)) + 4 * (np.arange(N) % 2)[:, None]
NAMES = ["height", "weight", "age"]
SERIES = RNG.normal(size=(3, 16, 1)).cumsum(axis=1)
INPUTS = RNG.normal(size=(3, 16, 2))
ITEMS = (RNG.random((N, 3)) < 0.5).astype(int)


def frame_of(make, array, names, reverse=False):
    order = list(names)[::-1] if reverse else list(names)
    return make({name: array[:, list(names).index(name)] for name in order})


def close(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


# Each function that takes data, on a frame whose columns are in another order than those of the fit

GAPS = np.where((np.arange(N) % 7 == 0)[:, None] & (np.arange(3) == 1), np.nan, X)
ROWS = {
    "predict": lambda m, fit, x: m.predict(fit, x),
    "predict_proba": lambda m, fit, x: m.predict_proba(fit, x),
    "log_prob": lambda m, fit, x: m.log_prob(fit, x),
    "log_likelihood": lambda m, fit, x: m.log_likelihood(fit, x),
    "e_step": lambda m, fit, x: m.e_step(fit, x),
    "q_function": lambda m, fit, x: m.q_function(fit, m.e_step(fit, x), x),
    "class_sizes": lambda m, fit, x: m.class_sizes(fit, x),
    "sample_like": lambda m, fit, x: m.sample_like(KEY, fit, x),
    "impute": lambda m, fit, x: m.impute(fit, x),
    "jaxem.impute": lambda m, fit, x: jaxem.impute(m, fit, x),
    "classes": lambda m, fit, x: jaxem.classes(m, fit, x).probabilities,
    "bic": lambda m, fit, x: jaxem.inference.bic(m, fit, x),
    "standard_errors": lambda m, fit, x: jaxem.inference.standard_errors(m, fit, x),
    "profile": lambda m, fit, x: jaxem.inference.profile(m, fit, x).means,
}


@pytest.fixture(scope="module")
def mixture():
    model = Mixture(MultivariateNormal("diag"), 2)
    frame = frame_of(pd.DataFrame, X, NAMES)
    return model, jaxem.check(jaxem.fit(model, model.init(KEY, frame), frame, tol=1e-13))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.slow
def test_every_function_of_a_mixture_takes_a_frame(mixture, name):
    model, fit = mixture
    wanted = ROWS[name](model, fit, X)
    for make in LIBRARIES.values():
        assert close(ROWS[name](model, fit, frame_of(make, X, NAMES, reverse=True)), wanted)


def test_cells_of_frames_are_imputed(mixture):
    model, fit = mixture
    wanted = jaxem.impute(model, fit, dataset(GAPS, missing="nan"))
    for make in LIBRARIES.values():
        frame = frame_of(make, GAPS, NAMES, reverse=True)
        assert close(jaxem.impute(model, fit, dataset(frame, missing="nan", like=fit)), wanted)
        assert close(jaxem.impute(model, fit, dataset(frame, missing="nan")), wanted)  # put right by the fit


# Models of sequences and of continuous hidden variables; their fits are starts with the names of their data


def params_of(model, **sizes):
    """Some parameters of a model, from its declaration."""

    def one(param):
        shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in param.axes)
        free = answers.coordinates_shape(param.space, shape)
        return param.space.forward(jnp.asarray(0.4 * np.sin(1 + np.arange(np.prod(free, dtype=int))).reshape(free)))

    return jax.tree.map(one, model.declare(), is_leaf=lambda node: isinstance(node, Param))


def as_fit(params, data):
    """A fit to data with names."""
    one = jnp.zeros(())
    return jaxem.Fit(params, one, one, one, one, one, one.astype(int), names=data.names, library="pandas")


def parts(make, array, names, reverse=False):
    return [frame_of(make, part, names, reverse) for part in array]


HIDDEN = HMM(Regression(Normal()), 2, transition=Softmax())
STATES = StateSpace(1, output_inputs="free")
SIZES = {"K": 2, "P": 3, "own": 3}
STEPS = {
    "hmm filter": (HIDDEN, lambda m, fit, x, u: m.filter(fit, x)),
    "hmm forecast": (HIDDEN, lambda m, fit, x, u: m.forecast(fit, x, 4, given=u)),
    "hmm classes": (HIDDEN, lambda m, fit, x, u: jaxem.classes(m, fit, x).probabilities),
    "states scores": (STATES, lambda m, fit, x, u: jaxem.scores(m, fit, x).means),
    "states forecast": (STATES, lambda m, fit, x, u: m.forecast(fit, x, 4, given=u)),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.slow
def test_chains_take_frames(name):
    """The inputs of the frames are in another order than those of the fit."""
    model, function = STEPS[name]
    shaped = (lambda array: array[..., 0]) if model is HIDDEN else (lambda array: array)
    values = lambda make: [part["y"] if model is HIDDEN else part for part in parts(make, SERIES, ["y"])]
    first = parts(pd.DataFrame, INPUTS, ["cue", "reward"])
    sizes = SIZES if model is HIDDEN else {"k": 1, "r": 1, "D": 1, "P": 2}
    fit = as_fit(params_of(model, **sizes), dataset(values(pd.DataFrame), given=first))
    full = dict.fromkeys(["lengths"], np.full(3, 16))
    wanted = function(model, fit, dataset(shaped(SERIES), given=INPUTS, **full), INPUTS[:, :4])
    for make in LIBRARIES.values():
        inputs = lambda array, make=make: parts(make, array, ["cue", "reward"], reverse=True)
        data = dataset(values(make), given=inputs(INPUTS))
        assert close(function(model, fit, data, inputs(INPUTS[:, :4])), wanted)


OTHERS = {
    "factors": (FactorAnalysis(1), X, lambda m, fit, x: jaxem.scores(m, fit, x).means),
    "factors imputed": (FactorAnalysis(1), X, lambda m, fit, x: m.impute(fit, x)),
    "abilities": (ItemResponse(), ITEMS, lambda m, fit, x: jaxem.scores(m, fit, x).deviations),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_take_frames(name):
    model, array, function = OTHERS[name]
    fit = as_fit(params_of(model, D=3, k=1, F=1), dataset(frame_of(pd.DataFrame, array, NAMES)))
    wanted = function(model, fit, array)
    for make in LIBRARIES.values():
        assert close(function(model, fit, frame_of(make, array, NAMES, reverse=True)), wanted)
    if name == "abilities":
        drawn = jaxem.plot.item_curves(model, fit).get_legend().get_texts()
        assert [text.get_text() for text in drawn] == NAMES


@pytest.mark.slow
def test_regimes_by_step_with_the_index_of_the_frames():
    model = SwitchingAutoregression(2, 1)
    series = [pd.Series(SERIES[n, : 10 + n, 0], index=[f"{n}-{t}" for t in range(10 + n)], name="y") for n in range(2)]
    fit = as_fit(params_of(model, K=2, P=1), dataset(series))
    found = jaxem.classes(model, fit, series, names=("calm", "wild"))
    table = found.to_frame()
    assert isinstance(table, pd.DataFrame) and list(table.columns) == ["sequence", "step", "class", "calm", "wild"]
    assert list(table.index) == [*series[0].index, *series[1].index]
    assert table.loc["1-10", ["sequence", "step"]].tolist() == [1, 10]
    np.testing.assert_allclose(table["calm"] + table["wild"], 1, rtol=1e-12)
    assert "1-10" not in str(found) and "... and 11 more rows" in str(found)
    assert list(found.to_frame("polars").columns)[:3] == ["index", "sequence", "step"]


# The table of classes


def test_classes_come_back_with_the_index(mixture):
    model, fit = mixture
    frame = frame_of(pd.DataFrame, X, NAMES).set_axis([f"id{n}" for n in range(N)])[10:20]
    found = jaxem.classes(model, fit, frame)
    table = found.to_frame()
    assert list(table.index) == list(frame.index) and list(table.columns) == ["class", "class 0", "class 1"]
    np.testing.assert_array_equal(table[["class 0", "class 1"]], model.predict_proba(fit, X)[10:20])
    assert [int(name[-1]) for name in table["class"]] == np.asarray(model.predict(fit, X))[10:20].tolist()
    assert frame.join(table).shape == (10, 6)
    assert isinstance(jaxem.classes(model, fit, frame_of(pl.DataFrame, X, NAMES)).to_frame(), pl.DataFrame)
    assert isinstance(jaxem.classes(model, fit, X).to_frame(), pd.DataFrame)  # the library of the fit
    impossible = jaxem.classes(model, fit, dataset(np.where(np.arange(N)[:, None] == 3, np.inf, X)))
    assert impossible.to_frame("polars")["class"][3] is None
    with pytest.raises(ValueError, match="names must be 2 different texts, one for each class"):
        jaxem.classes(model, fit, X, names=["a", "a"])
    with pytest.raises(ValueError, match="needs predict_proba"):
        jaxem.classes(FactorAnalysis(1), fit, X)


def test_a_frame_of_one_column_is_no_column():
    frame = pd.DataFrame({"y": X[:, 0]})
    with pytest.raises(ValueError, match=r"got shape \(48, 1\). Of a data frame pass one column: frame\['name'\]"):
        Mixture(Normal(), 2).init(KEY, frame)


# Every table as a data frame


@pytest.mark.slow
def test_every_table_becomes_a_frame(mixture):
    model, fit = mixture
    frame = frame_of(pl.DataFrame, X, NAMES)
    select = jaxem.select([model, Mixture(MultivariateNormal("diag"), 1)], frame, key=KEY, restarts=2)
    assert select.candidates[0].fit.names == fit.names
    restarts = jaxem.fit_restarts(model, frame, key=KEY, restarts=2)
    for table, columns in [
        (jaxem.summary(model, fit, frame), ["parameter", "estimate", "std_error", "lower", "upper", "held"]),
        (jaxem.inference.information(model, fit, frame), ["coordinate", "observed", "complete", "missing", "share"]),
        (jaxem.inference.profile(model, fit, frame, names=("a", "b")), ["column", "level", "missing", "a", "a_error"]),
        (select, ["model", "parameters", "log_likelihood", "aic"]),
        (restarts, ["start", "objective", "status"]),
        (jaxem.classes(model, fit, frame), ["row", "class", "class 0", "class 1"]),
    ]:
        found = table.to_frame()
        assert isinstance(found, pl.DataFrame) and found.columns[: len(columns)] == columns
        assert isinstance(table.to_frame("pandas"), pd.DataFrame)
    named = jaxem.summary(model, fit, X).to_frame()
    assert isinstance(named, pd.DataFrame) and "components.means[0, weight]" in set(named["parameter"])
    assert capabilities(model).to_frame().shape[1] == 4
    with pytest.raises(ValueError, match="library must be one of"):
        select.to_frame("excel")


# Categories


COLOURS = RNG.choice(["red", "blue", "green"], N, p=[0.5, 0.3, 0.2])
SHAPES = RNG.choice(["round", "square"], N)
CATEGORIES = Mixture(Categorical((3, 2)), 1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_text_is_coded_by_sorted_levels_or_by_those_given(library):
    frame = LIBRARIES[library]({"colour": COLOURS.tolist(), "size": X[:, 0]})
    data = dataset(frame)
    assert data.columns() == Columns(("colour", "size"), (("blue", "green", "red"), None))
    np.testing.assert_array_equal(data.values[:, 0], np.searchsorted(["blue", "green", "red"], COLOURS))
    order = ["red", "green", "blue"]
    data = dataset(frame, levels={"colour": order})
    np.testing.assert_array_equal(data.values[:, 0], [order.index(colour) for colour in COLOURS])
    with pytest.raises(
        ValueError, match=r"column 'colour' has 'blue', first in row \d+; its levels are 'red', 'green'"
    ):
        dataset(frame, levels={"colour": ["red", "green"]})
    with pytest.raises(ValueError, match="levels names 'color', which is no column"):
        dataset(frame, levels={"color": order})
    codes = dataset(LIBRARIES[library]({"vote": [1.0, 3.0, 2.0]}), levels={"vote": [1, 2, 3]})
    np.testing.assert_array_equal(codes.values[:, 0], [0, 2, 1])
    gap = LIBRARIES[library]({"colour": ["red", None, "blue"]})
    with pytest.raises(ValueError, match="1 cells are missing, the first in row 1 of column 'colour'"):
        dataset(gap)
    assert dataset(gap, missing="nan").columns().levels == (("blue", "red"),)


def test_polars_categoricals_and_lists_of_frames_share_levels():
    text = pl.DataFrame({"colour": pl.Series(COLOURS.tolist(), dtype=pl.Categorical)})
    assert dataset(text).columns().levels == (("blue", "green", "red"),)
    data = dataset([pd.DataFrame({"a": ["x", "z"]}), pd.DataFrame({"a": ["y"]})])
    assert data.columns().levels == (("x", "y", "z"),)
    np.testing.assert_array_equal(data.values[..., 0], [[0, 2], [1, 0]])


@pytest.fixture(scope="module")
def coded():
    frame = pd.DataFrame({"colour": COLOURS, "shape": SHAPES})
    return frame, jaxem.check(jaxem.fit(CATEGORIES, CATEGORIES.init(KEY, frame), frame))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.slow
def test_new_data_get_the_codes_of_the_fit(coded, library):
    frame, fit = coded
    wanted = np.asarray(CATEGORIES.log_prob(fit, dataset(frame)))
    few = frame[frame["colour"] != "blue"][["shape", "colour"]]  # another order, and one level does not occur
    few = LIBRARIES[library]({name: few[name].tolist() for name in few.columns})
    kept = wanted[(frame["colour"] != "blue").to_numpy()]
    np.testing.assert_array_equal(CATEGORIES.log_prob(fit, few), kept)
    np.testing.assert_array_equal(CATEGORIES.log_prob(fit, dataset(few)), kept)  # coded otherwise, and put right
    np.testing.assert_array_equal(CATEGORIES.log_prob(fit.params, dataset(few, like=fit)), kept)
    like = dataset(few, like=dataset(frame))
    np.testing.assert_array_equal(CATEGORIES.log_prob(fit.params, like), kept)
    assert like.columns() == dataset(frame).columns()


def test_new_data_of_another_kind_are_refused_by_name(coded):
    frame, fit = coded
    more = frame.assign(colour=["violet", *COLOURS[1:]])
    for data, says in [
        (more, "column 'colour' has 'violet', first in row 0; its levels are 'blue', 'green', 'red'"),
        (dataset(more), "column 'colour' has 'violet'"),
        (frame[["shape"]], "the earlier data had the columns 'colour', which are missing here"),
        (frame.assign(colour=0.5), "column 'colour' has '0.5'"),
        (dataset(frame.assign(colour=0.5)), "column 'colour' holds numbers; that of the earlier data held text"),
    ]:
        with pytest.raises(ValueError, match=says):
            CATEGORIES.predict(fit, data)
    with pytest.raises(ValueError, match="column 'colour' holds categories, and parameters alone do not say"):
        CATEGORIES.predict(fit.params, frame)
    with pytest.raises(ValueError, match="column 'colour' holds categories, and parameters alone"):
        CATEGORIES.predict(fit.params, frame.astype("category"))
    two = dataset(frame[frame["colour"] != "blue"])
    with pytest.raises(ValueError, match=r"column 'colour' has 2 levels \(green, red\), and the model has 3"):
        CATEGORIES.predict(fit.params, two)
    with pytest.raises(ValueError, match="violet"):
        dataset(more, like=fit)
    with pytest.raises(ValueError, match="like= needs a Dataset that came from a data frame"):
        dataset(frame, like=dataset(X))
    with pytest.raises(ValueError, match="column 'height' holds text; that of the earlier data held numbers"):
        dataset(pd.DataFrame({"height": ["a"]}), like=dataset(pd.DataFrame({"height": [1.0]})))


# Names of coefficients


def test_coefficients_have_the_names_of_covariates():
    y = {"a": X[:, 0], "b": np.abs(X[:, 1]).round()}
    given = {"who": pd.DataFrame({"age": X[:, 2], "income": X[:, 1]}), "dose": X[:, 0], "z": X[:, :2]}
    family = Product({"a": Regression(Normal(), on=("who", "dose"), tied="dose"), "b": Regression(Poisson(), on="z")})
    model = Mixture(family, 2, gate=Softmax(on="who"))
    data = dataset(y, given=given)
    names = jaxem.inference.coordinates.parameter_names
    labels = jaxem.inference.coordinates.labels_of(model, data, data)
    sizes = {"K": 2, "P.who": 3, "a.own": 3, "a.shared": 1, "b.own": 3}
    found = names(model, params_of(model, **sizes), labels)
    for name in [
        "weights.coefficients[1, income]",
        "components.a.coefficients[0, intercept]",
        "components.a.coefficients[1, age]",
        "components.a.shared[dose]",
        "components.b.coefficients[0, intercept]",
        "components.b.coefficients[1, z[1]]",
    ]:
        assert name in found, found
    unnamed = dataset(X[:, 0], given=X[:, 1:])
    model = Mixture(Regression(Normal()), 2)
    labels = jaxem.inference.coordinates.labels_of(model, unnamed, unnamed)
    assert "components.coefficients[0, 2]" in names(model, params_of(model, K=2, own=3), labels)


# Names stay outside of compiled programs


def test_names_are_in_no_program(mixture, count_compilations):
    model, fit = mixture
    frame = frame_of(pd.DataFrame, X, NAMES)
    jaxem.fit(model, fit.params, frame, tol=1e-13)  # again: a crowded process may have dropped its program
    model.predict_proba(fit, frame)
    named = dataset(frame)
    assert jax.tree.structure(fit) == jax.tree.structure(dataclasses.replace(fit, names=None, library=None))
    assert jax.tree.map(lambda leaf: leaf, fit).names is None and jax.tree.map(lambda leaf: leaf, named).origin is None
    with count_compilations() as compiled:
        other = frame_of(pl.DataFrame, X, ["p", "q", "r"])
        renamed = jaxem.fit(model, fit.params, other, tol=1e-13)
        model.predict_proba(renamed, other)
        model.predict_proba(renamed, dataset(other))
    assert compiled.count == 0
    weighted = [as_data(dataset(x, weights=np.ones(N), given=x)) for x in (X, frame, other)]
    assert len(set(map(jax.tree.structure, weighted))) == 1
    assert renamed.names[0][1].names == ("p", "q", "r")
    with pytest.raises(ValueError, match="the earlier data had the columns 'p', 'q', 'r', which are missing"):
        model.predict(renamed, frame)
    both = jax.jit(lambda a, b: a.objective - b.objective)(fit, renamed)
    assert float(both) == float(fit.objective - renamed.objective)
    assert jax.vmap(lambda fit: fit.objective)(jax.tree.map(lambda *leaves: jnp.stack(leaves), fit, renamed)).shape == (
        2,
    )


def test_streams_know_their_columns():
    frame, model = frame_of(pd.DataFrame, X, NAMES), Mixture(MultivariateNormal("diag"), 2)
    fit = jaxem.fit_stream(model, model.init(KEY, frame), lambda: iter([frame[:30], frame[30:]]), max_steps=2)
    assert fit.names == (("values", Columns(tuple(NAMES), (None,) * 3)),)
    with pytest.raises(ValueError, match="holds text, whose codes depend on the rows"):
        jaxem.fit_stream(CATEGORIES, fit, lambda: iter([pd.DataFrame({"a": ["x"], "b": ["y"]})]), max_steps=2)


def test_the_other_tables_become_frames_too(mixture):
    model, fit = mixture
    one = np.ones(2)
    names = ("a", "b")
    bootstrap = Bootstrap(one, np.ones((3, 2)), one, np.zeros(3, int), "parametric", True, one < 0, names, "polars")
    check = Check("touch", "L = ELBO", 0.1, 1.0, "", None, Verdict.HOLDS)
    tables = [
        (bootstrap, 2, "parameter", list(names)),
        (CrossValidation(-one, one, np.array([Status.CONVERGED] * 2), "polars"), 2, "held_out", [-1.0, -1.0]),
        (LikelihoodRatio(one[0], one, 0.5 * one[1], 0, fit, fit, 1, (1, 1), 0, 0, "polars"), 1, "p_value", [0.5]),
        (ConvergenceRate(one[0], one, one[1], one < 0, one, one[0], names), 1, "along", ["a, b"]),
        (Certificate((check,), "float64", 3.0), 1, "ratio", [0.1]),
        (jaxem.explain(model, fit, X), 1, "rows", [len(X)]),
    ]
    for table, rows, column, values in tables:
        found = table.to_frame("polars")
        assert isinstance(found, pl.DataFrame) and found.shape == (rows, len(table.as_dict()))
        assert found[column].to_list() == values
    assert isinstance(bootstrap.to_frame(), pl.DataFrame)  # the library of the data
