"""Formulas: the data set, the model, and the same specification on new data."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
from closeness import assert_within

import jaxem
from jaxem import datasets
from jaxem.families import Categorical, Normal, Poisson, Product, Regression
from jaxem.gates import Constant, Softmax
from jaxem.gates.softmax import SoftmaxParams
from jaxem.models import Mixture
from jaxem.models.mixture_params import MixtureParams

LIBRARIES = {"pandas": pd.DataFrame, "polars": pl.DataFrame}
RNG = np.random.default_rng(0)
N = 40
TABLE = {
    "y": RNG.normal(size=N),
    "z": RNG.poisson(3.0, N),
    "x": RNG.normal(size=N),
    "age": RNG.uniform(20, 60, N),
    "t": RNG.uniform(1, 5, N),
    "party": RNG.choice(["left", "right", "other"], N).tolist(),
    "w": RNG.integers(1, 4, N).astype(float),
}
TEXT = "y ~ x + spline(age) + party + center(t) | poly(age, 2)"


def test_patents():
    """The published maximum of flexmix (Gruen & Leisch 2008), climbed from three digits of it."""
    patents = jaxem.formula("patents ~ lgrd | rds", pl.DataFrame(datasets.patents()))
    model = patents.mixture(Poisson(), 3)
    assert model == Mixture(Regression(Poisson(), on="components"), 3, gate=Softmax(on="gate"))
    gate = jnp.array([[-1.11, 13.9], [-0.9, 13.2], [2.01, -27.1]])
    lines = jnp.array([[1.96, 0.67], [-2.65, 1.59], [0.51, 0.88]])
    start = model.init(jax.random.key(0), patents.data)
    start = MixtureParams(SoftmaxParams(gate), start.components._replace(coefficients=lines))
    fit = jaxem.check(jaxem.fit(model, start, patents.data, tol=1e-12))
    assert_within(fit.objective, -197.67502, 5e-6)
    names = jaxem.inference.coordinates.labels_of(model, patents.data, patents.data).axes
    assert names == {"P.gate": ["intercept", "rds"], "own": ["intercept", "lgrd"], "shared": []}
    # Firms of which nothing but spending is known: the gate, and the mean of the regressions.
    new = patents.new(pd.DataFrame({"rds": [0.01, 0.5], "lgrd": [0.0, 1.0]}))
    b, c = np.asarray(fit.params.weights.coefficients), np.asarray(fit.params.components.coefficients)
    p = np.exp(np.array([[1, 0.01], [1, 0.5]]) @ b.T)
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(fit, new), p, rtol=1e-10)
    means = (p * np.exp(np.array([[1, 0.0], [1, 1.0]]) @ c.T)).sum(axis=1)
    np.testing.assert_allclose(jaxem.impute(model, fit, new), means, rtol=1e-10)
    with pytest.raises(ValueError, match="no value of the data is observed"):
        jaxem.fit(model, fit, new)


def election():
    """The rows without gaps, as poLCA uses them."""
    table = datasets.election()
    items = list(table)[:12]
    text = " + ".join(items) + " ~ 1 | party"
    found = jaxem.formula(text, table, missing="drop", levels=dict.fromkeys(items, (1, 2, 3, 4)))
    return table, items, found


def test_election_data():
    table, items, found = election()
    y, known = np.stack([table[item] for item in items], axis=1) - 1, pd.DataFrame(table)[[*items, "party"]].dropna()
    np.testing.assert_array_equal(found.data.values, y[known.index])
    np.testing.assert_array_equal(found.data.given["gate"][:, 0], known["party"])
    assert list(found.data.given) == ["gate"] and found.data.columns().levels == (("1", "2", "3", "4"),) * 12
    assert list(found.data.origin.index) == list(known.index)
    assert found.mixture(Categorical((4,) * 12), 3) == Mixture(Categorical((4,) * 12), 3, gate=Softmax(on="gate"))


@pytest.mark.everything
def test_election():
    """The log-likelihood of poLCA with party as covariate; the index of the rows comes back."""
    _, _, found = election()
    model = found.mixture(Categorical((4,) * 12), 3)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), found.data), found.data, tol=1e-12))
    assert_within(fit.objective, -16222.32335, 1e-5)
    classes = jaxem.classes(model, fit, found.data).to_frame("pandas")
    assert list(classes.index) == list(found.data.origin.index)
    profile = jaxem.inference.profile(model, fit, found.data)
    assert profile.columns[0] == "moralg" and profile.levels[:4] == ("1", "2", "3", "4")


@pytest.mark.parametrize("library", LIBRARIES)
def test_new_data_are_read_by_the_same_specification(library):
    make, whole = LIBRARIES[library], jaxem.formula(TEXT, LIBRARIES[library](TABLE))
    data = whole.data
    assert data.columns("given.components").names == (
        "x",
        *(f"spline(age)[{place}]" for place in (1, 2, 3, 4)),
        "party[T.other]",
        "party[T.right]",
        "center(t)",
    )
    assert data.columns("given.gate").names == ("poly(age, 2)[1]", "poly(age, 2)[2]")
    np.testing.assert_allclose(np.asarray(data.given["components"])[:, [1, 2, 3, 4, 7]].mean(axis=0), 0, atol=1e-12)
    rows = [n for n in range(N) if TABLE["party"][n] != "left"][:7]  # without the reference, in another order
    part = make({name: [column[n] for n in rows] for name, column in reversed(TABLE.items())})
    again = whole.new(part)
    for name in ("components", "gate"):
        np.testing.assert_allclose(again.given[name], data.given[name][np.array(rows)], rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(again.values, data.values[np.array(rows)])
    assert again.names == data.names
    other = make({**{name: column[:2] for name, column in TABLE.items()}, "party": ["left", "green"]})
    with pytest.raises(ValueError, match="column 'party' has 'green', first in row 1; its levels are 'left', 'other'"):
        whole.new(other)
    with pytest.raises(ValueError, match="the earlier data had the columns 'age', which are missing here"):
        whole.new(make({name: column for name, column in TABLE.items() if name != "age"}))
    absent = whole.new(make({name: column for name, column in TABLE.items() if name != "y"}))
    assert not absent.observed.any() and absent.values.shape == (N,)


def test_a_spline_is_cubic_and_linear_beyond_its_data():
    x = np.linspace(0, 1, 30)
    found = jaxem.formula("~ spline(x, df=3)", {"x": x})
    far = np.asarray(found.new({"x": np.array([-1.0, -0.5, 0.0, 1.0, 1.5, 2.0])}).given["components"])
    np.testing.assert_allclose(far[2] - far[1], far[1] - far[0], atol=1e-12)
    np.testing.assert_allclose(far[5] - far[4], far[4] - far[3], atol=1e-12)
    inside = np.asarray(found.new({"x": np.linspace(0.01, 0.05, 5)}).given["components"])  # within one piece
    np.testing.assert_allclose(np.diff(inside, 4, axis=0), 0, atol=1e-12)
    assert np.abs(np.diff(inside, 2, axis=0)).max() > 1e-5


def test_what_a_formula_can_say():
    frame = pd.DataFrame(TABLE, index=[f"r{n}" for n in range(N)])
    log_t = np.log(TABLE["t"])
    offset = jaxem.formula("z ~ x + offset(log(t)) - 1", frame, weights="w")
    assert offset.component(Poisson()) == Regression(Poisson(), on="components", intercept=False, offset="offset")
    assert offset.gate() == Constant() and jnp.issubdtype(offset.data.values.dtype, jnp.integer)
    np.testing.assert_allclose(offset.data.given["offset"], log_t)
    np.testing.assert_array_equal(offset.data.weights, TABLE["w"])
    np.testing.assert_array_equal(offset.data.given["components"][:, 0], TABLE["x"])
    assert offset.data.origin.library == "pandas" and offset.data.origin.index[3] == "r3"
    assert offset.new(frame.drop(columns="w")).weights is None
    several = jaxem.formula("y + log(t) ~ 1 | x - 1", frame)
    np.testing.assert_allclose(several.data.values, np.stack([TABLE["y"], log_t], axis=1))
    assert several.data.columns().names == ("y", "log(t)")
    assert several.gate() == Softmax(on="gate", intercept=False) and several.component(Normal()) == Normal()
    parts = jaxem.formula("y + z ~ x", frame, separate=True)
    model = Mixture(Product({"y": parts.component(Normal()), "z": parts.component(Poisson())}), 2)
    model.check_shapes(None, parts.data)
    coded = jaxem.formula("party ~ C(z > 3) + party:x", frame, levels={"party": ["right", "other", "left"]}).data
    assert coded.columns() == (("party",), (("right", "other", "left"),))
    assert coded.columns("given.components").names[0] == "C(z > 3)[T.True]"
    assert jaxem.formula("`the y` ~ `an x`", {"the y": [1.0, 2.0], "an x": [3.0, 4.0]}).data.columns().names == (
        "the y",
    )


def test_missing_cells():
    frame = pd.DataFrame({"y": [1.0, np.nan, 3.0, 4.0], "x": [1.0, 2.0, np.nan, 4.0], "g": ["a", "b", "c", "a"]})
    with pytest.raises(ValueError, match="1 cells are missing, the first in row 1 of column 'y'"):
        jaxem.formula("y ~ x", frame)
    with pytest.raises(ValueError, match="the first in row 2 of column 'x'"):
        jaxem.formula("y ~ x", frame, missing="nan")
    dropped = jaxem.formula("y ~ x + g", frame, missing="drop").data
    np.testing.assert_array_equal(dropped.values, [1, 4])
    assert list(dropped.origin.index) == [0, 3] and dropped.columns("given.components").names == ("x",)
    kept = jaxem.formula("y ~ g", frame, missing="nan").data
    np.testing.assert_array_equal(kept.observed, [True, False, True, True])


def test_what_a_formula_may_not_say(monkeypatch):
    frame = pd.DataFrame(TABLE)
    for text, says in [
        ("y ~ nothing", "the data frame has no column 'nothing'"),
        ("y ~ x | age | t", "has 3 parts"),
        ("y ~ x | offset(t)", "offset\\(\\) is a term by itself, of the components only"),
        ("y ~ x:offset(t)", "offset\\(\\) is a term by itself"),
        ("y ~ x +", "cannot be read"),
        ("C(party) ~ x", "the response C\\(party\\) has"),
        ("y ~ log(party)", "formula: "),
        (3, "the formula must be a text"),
    ]:
        with pytest.raises(ValueError, match=says):
            jaxem.formula(text, frame)
    with pytest.raises(ValueError, match="no column 'v'"):
        jaxem.formula("y ~ x", frame, weights="v")
    with pytest.raises(ValueError, match="missing must be"):
        jaxem.formula("y ~ x", frame, missing="omit")
    numbers = jaxem.formula("y ~ C(z)", frame)
    with pytest.raises(ValueError, match="categories outside of the nominated levels"):
        numbers.new(frame.assign(z=99))
    with pytest.raises(ValueError, match="has no covariates of the components"):
        jaxem.formula("y ~ 1", frame).component(Normal(), dispersion="tied")
    monkeypatch.setitem(sys.modules, "formulaic", None)
    with pytest.raises(ImportError, match=r"jaxem\[formula\]"):
        jaxem.formula("y ~ x", frame)
