"""Mixed columns: each part by its own family, gaps in each, and the profile of the classes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from jax.flatten_util import ravel_pytree
from scipy import optimize

import jaxem
from jaxem import Dataset, datasets, plot
from jaxem.core.coordinates import chart, into
from jaxem.families import (
    Bernoulli,
    Binomial,
    Categorical,
    Gamma,
    MultivariateNormal,
    Normal,
    NormalParams,
    Poisson,
    Product,
)
from jaxem.models import HMM, Component, FactorAnalysis, Mixture, MixtureParams

PARTS = {
    "visits": Poisson(),
    "age": Normal(),
    "group": Categorical((3,)),
    "items": Bernoulli(),
    "body": MultivariateNormal(),
}
MODEL = Mixture(Product(PARTS), 2)
LEVELS = ["low", "middle", "high"]


@functools.cache
def survey(n=120):
    """Columns of a survey: 15 % of the cells are NaN, in every part, and weights."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, n)
    body = rng.normal((170, 70), (7, 9), (n, 2)) + 15 * z[:, None]
    x = {
        "age": rng.normal(40 + 12 * z, 6),
        "visits": rng.poisson(2 + 4 * z).astype(float),
        "group": np.where(rng.random(n) < 0.6, 2.0 * z, rng.integers(0, 3, n)),
        "items": (rng.random((n, 3)) < np.where(z, 0.8, 0.3)[:, None]).astype(float),
        "body": body + 0.5 * (body[:, ::-1] - body.mean(axis=0)[::-1]),
    }
    x = {name: np.where(rng.random(values.shape) < 0.15, np.nan, values) for name, values in x.items()}
    return x, rng.integers(0, 3, n).astype(float)


@functools.cache
def fitted(dtype="float64"):
    """The data with gaps and weights, a start, and the fit."""
    x, weights = survey()
    data = jaxem.dataset({name: values.astype(dtype) for name, values in x.items()}, weights=weights, missing="nan")
    start = MODEL.init(jax.random.key(0), data)
    tight = {"tol": 1e-12} if dtype == "float64" else {}
    return data, start, jaxem.check(jaxem.fit(MODEL, start, data, max_steps=2000, **tight))


def by_hand(params, x):
    """log p of each row, class by class and cell by cell; NaN is missing."""
    total = jnp.log(params.weights)[None, :]
    own = params.components
    cell = lambda values, density: jnp.where(jnp.isnan(values)[:, None], 0, density(jnp.nan_to_num(values)[:, None]))
    normal = lambda m, v: lambda y: -0.5 * (jnp.log(2 * jnp.pi * v)[None] + (y - m[None]) ** 2 / v[None])
    total = total + cell(x["age"], normal(*own["age"]))
    rates = own["visits"].rates[None]
    total = total + cell(x["visits"], lambda y: y * jnp.log(rates) - rates - jax.scipy.special.gammaln(y + 1))
    (levels,) = own["group"].probabilities
    total = total + cell(x["group"], lambda y: jnp.log(levels.T[y[:, 0].astype(int)]))
    for d, p in enumerate(own["items"].probabilities.T):
        total = total + cell(x["items"][:, d], lambda y, p=p[None]: jnp.where(y == 1, jnp.log(p), jnp.log1p(-p)))
    means, covariances = own["body"]
    seen, y = ~jnp.isnan(x["body"]), jnp.nan_to_num(x["body"])
    for d in range(2):  # the cell that is seen alone
        alone = normal(means[:, d], covariances[:, d, d])(y[:, d, None])
        total = total + jnp.where((seen[:, d] & ~seen[:, 1 - d])[:, None], alone, 0)
    deviation = y[:, None, :] - means[None]
    distance = jnp.einsum("nki,kij,nkj->nk", deviation, jnp.linalg.inv(covariances), deviation)
    both = -jnp.log(2 * jnp.pi) - 0.5 * (jnp.log(jnp.linalg.det(covariances))[None] + distance)
    total = total + jnp.where(seen.all(axis=1)[:, None], both, 0)
    return jax.nn.logsumexp(total, axis=1)


@functools.cache
def direct():
    """The log-likelihood by hand as a function of coordinates, at the fit of EM, and its maximum from there."""
    fit = fitted()[2]
    x, weights = survey()
    at = chart(MODEL, fit.params)
    likelihood = lambda u: (weights * by_hand(at(u), x)).sum()
    return likelihood, at, into(MODEL, fit.params)


# Laws


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.everything)])
def test_every_law_holds_with_gaps_in_each_part_and_weights(dtype):
    data, start, fit = fitted(dtype)
    assert all(not bool(mask.all()) for mask in jax.tree.leaves(data.observed))
    for point in (start, fit.params):
        certificate = jaxem.verify(MODEL, point, data)
        assert certificate.ok, certificate


@pytest.mark.slow
def test_the_log_likelihood_is_that_of_the_cells_one_by_one():
    data, _, fit = fitted()
    x, _ = survey()
    rows = jaxem.core.data.rows(dataclasses.replace(data, names=None), slice(20))
    mine = by_hand(fit.params, {name: values[:20] for name, values in x.items()})
    np.testing.assert_allclose(MODEL.log_prob(fit, rows), mine, rtol=1e-13)


@pytest.mark.slow
def test_the_fit_is_the_maximum_and_the_errors_are_those_of_its_hessian():
    data, _, fit = fitted()
    likelihood, at, u = direct()
    assert float(likelihood(u)) == pytest.approx(float(fit.objective), rel=1e-13)
    away = optimize.minimize(
        jax.jit(jax.value_and_grad(lambda u: -likelihood(u))), u + 0.05, jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    assert float(fit.objective) == pytest.approx(-away.fun, rel=1e-10)
    hessian = -jax.jit(jax.hessian(likelihood))(u)
    jacobian = jax.jit(jax.jacobian(lambda u: ravel_pytree(at(u))[0]))(u)
    deviations = jnp.sqrt(jnp.diagonal(jacobian @ jnp.linalg.inv(hessian) @ jacobian.T))
    found = ravel_pytree(jaxem.inference.standard_errors(MODEL, fit, data))[0]
    np.testing.assert_allclose(found, deviations, rtol=1e-6)

    # the overall mean of the counts and the mean of a measure in one class
    def numbers(u):
        params = at(u)
        return jnp.stack([params.weights @ params.components["visits"].rates, params.components["body"].means[1, 0]])

    slopes = jax.jit(jax.jacobian(numbers))(u)
    errors = jnp.sqrt(jnp.diagonal(slopes @ jnp.linalg.inv(hessian) @ slopes.T))
    profile = jaxem.inference.profile(MODEL, fit, data)
    visits, body = profile.columns.index("visits"), profile.columns.index("body[0]")
    mine = [profile.overall_errors[visits], profile.errors[body, 1]]
    np.testing.assert_allclose(mine, errors, rtol=1e-6)
    np.testing.assert_allclose([profile.overall[visits], profile.means[body, 1]], numbers(u), rtol=1e-12)


# Products that are other families


@pytest.mark.slow
def test_a_product_of_one_part_is_that_part():
    x = survey()[0]["age"]
    x = x[~np.isnan(x)]
    alone, one = Mixture(Normal(), 2), Mixture(Product({"x": Normal()}), 2)
    a, b = alone.init(jax.random.key(1), x), one.init(jax.random.key(1), {"x": x})
    np.testing.assert_array_equal(a.components.means, b.components["x"].means)
    a, b = jaxem.fit(alone, a, x, max_steps=20), jaxem.fit(one, b, {"x": x}, max_steps=20)
    np.testing.assert_allclose(a.trace, b.trace, rtol=1e-13)


@pytest.mark.slow
def test_a_product_of_normals_is_a_diagonal_normal():
    x = datasets.iris()[0]
    diagonal, product = Mixture(MultivariateNormal("diag"), 3), Mixture(Product({c: Normal() for c in "abcd"}), 3)
    start = diagonal.init(jax.random.key(1), x)
    split = lambda params: MixtureParams(
        params.weights, {c: NormalParams(*(leaf[:, d] for leaf in params.components)) for d, c in enumerate("abcd")}
    )
    data = {c: x[:, d] for d, c in enumerate("abcd")}
    np.testing.assert_allclose(diagonal.log_prob(start, x), product.log_prob(split(start), data), rtol=1e-12)
    a = jaxem.fit(diagonal, start, x, max_steps=30)
    b = jaxem.fit(product, split(start), data, max_steps=30)
    np.testing.assert_allclose(a.trace, b.trace, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), split(a.params), b.params)
    ones = MixtureParams(np.ones(1), {c: NormalParams(np.zeros(1), np.ones(1)) for c in "abcd"})
    drawn = Mixture(product.family, 1).sample(jax.random.key(0), ones, 2000)
    between = np.corrcoef(np.stack([drawn[c] for c in "abcd"])) - np.eye(4)
    assert np.abs(between).max() < 4 / np.sqrt(2000)


@pytest.mark.slow
def test_the_order_of_the_parts_changes_nothing():
    other = Product(tuple(reversed(PARTS.items())))
    assert other == Product(PARTS) and hash(other) == hash(Product(PARTS)) and list(other.parts) == sorted(PARTS)
    data, start, _ = fitted()
    again = dataclasses.replace(data, values=dict(reversed(data.values.items())))
    assert float(Mixture(other, 2).log_likelihood(start, again)) == float(MODEL.log_likelihood(start, data))


@pytest.mark.slow
def test_a_product_says_what_its_parts_say():
    family = Product({"a": Normal(), "b": Poisson()})
    assert family.centred and family.accurate and family.separate and family.prior is None
    assert not Product({"b": Poisson(), "c": Bernoulli()}).centred
    data = fitted()[0]
    assert jaxem.core.data.part(data, "body", "observed").patterns is not None  # rows that miss the same cells
    assert jaxem.core.data.part(data, "body") is data.values["body"]


@pytest.mark.slow
def test_chunks_of_a_stream_may_be_columns_of_frames():
    model, data = small()
    table = pd.DataFrame({"age": data.values["age"], **{f"q{d}": data.values["items"][:, d] for d in range(3)}})
    chunk = lambda rows: {"age": rows["age"], "items": rows[["q0", "q1", "q2"]]}
    start = model.init(jax.random.key(0), data.values)
    stream = jaxem.fit_stream(model, start, lambda: (chunk(table[i : i + 50]) for i in range(0, 120, 50)), max_steps=5)
    whole = jaxem.fit(model, start, data.values, max_steps=5)
    np.testing.assert_allclose(float(stream.objective), float(whole.objective), rtol=1e-12)


def test_a_column_may_have_an_axis_of_its_own_or_not():
    data, start, _ = fitted()
    wide = lambda tree: {**tree, "age": tree["age"][:, None], "group": tree["group"][:, None]}
    again = dataclasses.replace(data, values=wide(data.values), observed=wide(data.observed))
    np.testing.assert_array_equal(MODEL.log_prob(start, data), MODEL.log_prob(start, again))


def test_products_nest():
    data, start, _ = fitted()
    inner = {name: PARTS[name] for name in ("age", "items")}
    rest = {name: family for name, family in PARTS.items() if name not in inner}
    nested = Mixture(Product({**rest, "person": Product(inner)}), 2)
    fold = lambda tree: {**{name: tree[name] for name in rest}, "person": {name: tree[name] for name in inner}}
    again = dataclasses.replace(data, values=fold(data.values), observed=fold(data.observed))
    params = start._replace(components=fold(start.components))
    np.testing.assert_allclose(nested.log_prob(params, again), MODEL.log_prob(start, data), rtol=1e-13)
    assert nested.declare().components["person"]["items"].probabilities.axes == ("K", "person.items.D")


# Refusals


@dataclasses.dataclass(frozen=True)
class Whole:
    """A family of several columns that does not know of missing cells."""

    inner = Bernoulli()
    event_ndim, support = 1, "zeros and ones"

    def __getattr__(self, name):
        if name in ("declare", "prepare", "log_density", "statistics", "maximize", "expected", "features", "supports"):
            return getattr(Bernoulli(), name)
        raise AttributeError(name)


jax.tree_util.register_static(Whole)


def test_bad_parts_and_bad_data_are_refused_by_name():
    for parts, why in (
        ({}, "parts must be a dict"),
        ({"a": 3}, "part 'a'"),
        ({1: Normal()}, "the name of a part"),
        ((("a", Normal()), ("a", Normal())), "two parts have one name"),
    ):
        with pytest.raises(ValueError, match=why):
            Product(parts)
    data, _, _ = fitted()
    of = lambda **changes: {**data.values, **changes}
    without = {name: values for name, values in data.values.items() if name != "age"}
    for bad, why in (
        (data.values["age"], "needs a dict of data with the keys 'age', 'body', 'group', 'items', 'visits'"),
        (without, "needs data for 'age'"),
        (of(height=data.values["age"]), "needs no data for 'height'"),
        (of(age=data.values["body"]), r"part 'age' needs data of shape \(N\)"),
        (of(visits=-1 - data.values["visits"]), "visits: a non-negative whole number"),
    ):
        with pytest.raises(ValueError, match=why):
            MODEL.init(jax.random.key(0), bad)
    with pytest.raises(ValueError, match="part 'age': the likelihood of these data has no maximum"):
        MODEL.init(jax.random.key(0), of(age=np.ones(120)))
    with pytest.raises(ValueError, match="share the axes N, T"):
        ragged = {"a": np.ones((2, 5)), "b": np.ones((2, 6))}
        HMM(Product({"a": Normal(), "b": Normal()}), 2).init(jax.random.key(0), ragged)


@pytest.mark.slow
def test_a_part_that_cannot_use_missing_cells_is_refused_only_for_its_own():
    data, _, _ = fitted()
    model = Mixture(Product({"age": Normal(), "items": Whole()}), 2)
    pick = lambda tree: {name: tree[name] for name in ("age", "items")}
    gaps = Dataset(pick(data.values), observed=pick(data.observed), weights=data.weights)
    with pytest.raises(ValueError, match="Whole of part 'items' cannot use missing cells"):
        model.init(jax.random.key(0), gaps)
    seen = {**gaps.observed, "items": jnp.ones((120, 3), bool)}
    params = model.init(jax.random.key(0), dataclasses.replace(gaps, observed=seen))
    run = jax.jit(lambda observed: jaxem.fit(model, params, dataclasses.replace(gaps, observed=observed)).status)
    assert jaxem.Status(int(run(gaps.observed))) == jaxem.Status.INVALID
    assert jaxem.Status(int(run(seen))) == jaxem.Status.CONVERGED


# Data frames, names and profiles


def frame():
    x, weights = survey()
    return pd.DataFrame(
        {
            "age": x["age"],
            "visits": pd.array([None if np.isnan(v) else int(v) for v in x["visits"]], dtype="Int64"),
            "group": pd.Categorical.from_codes(np.nan_to_num(x["group"], nan=-1).astype(int), LEVELS),
            **{f"q{d}": x["items"][:, d] for d in range(3)},
            "height": x["body"][:, 0],
            "weight": x["body"][:, 1],
            "times": weights,
        }
    )


def parts_of(table, select):
    column = lambda name: table[name]
    several = {"items": ["q0", "q1", "q2"], "body": ["height", "weight"]}
    return {**{name: column(name) for name in ("age", "visits", "group")}, **{k: select(v) for k, v in several.items()}}


@pytest.mark.slow
def test_frames_of_three_libraries_are_the_same_data_with_the_same_names():
    whole = frame()
    polars = pl.from_pandas(whole.drop(columns="group")).with_columns(
        group=pl.Series([level if isinstance(level, str) else None for level in whole["group"]], dtype=pl.Enum(LEVELS))
    )
    arrow = pa.Table.from_pandas(whole)
    tables = [
        (parts_of(whole, lambda names: whole[names]), whole["times"]),
        (parts_of(polars, polars.select), polars["times"]),
        (parts_of(arrow, arrow.select), arrow["times"]),
    ]
    found = [jaxem.dataset(values, weights=weights, missing="nan") for values, weights in tables]
    data, _, fit = fitted()
    for one in found:
        assert one.columns("values.group").levels == (tuple(LEVELS),)
        assert one.columns("values.items").names == ("q0", "q1", "q2") and one.names == found[0].names
        assert float(MODEL.log_likelihood(fit, one)) == pytest.approx(float(fit.objective), rel=1e-13)
    with pytest.raises(ValueError, match=r"the data \(age\): .* in row \d+ of column 'age'"):
        jaxem.dataset(tables[0][0])
    names = jaxem.summary(MODEL, fit, found[0]).names
    assert "components.items.probabilities[1, q2]" in names and "components.body.means[0, height]" in names
    assert "components.group.probabilities.group[0, middle]" in names and "components.age.means[0]" in names

    profile = jaxem.inference.profile(MODEL, fit, found[0])
    assert profile.columns == ("age", "height", "weight", *3 * ("group",), "q0", "q1", "q2", "visits")
    assert profile.levels[3:6] == tuple(LEVELS) and profile.levels[0] is None
    counts = np.asarray(data.weights)
    shares = 1 - counts @ np.asarray(data.observed["items"]) / counts.sum()
    np.testing.assert_allclose(profile.missing[6:9], shares, atol=1e-15)
    np.testing.assert_allclose(profile.overall[6:9], fit.params.weights @ fit.params.components["items"].probabilities)
    assert "group   low" in str(profile) and "missing" in str(profile) and f"{100 * shares[0]:.1f} %" in str(profile)
    for library, kind in (("pandas", pd.DataFrame), ("polars", pl.DataFrame), ("pyarrow", pa.Table)):
        table = profile.to_frame(library)
        assert isinstance(table, kind) and len(table) == 11
        np.testing.assert_array_equal(np.asarray(table["class_1"])[1:], profile.means[:, 1])
    with pytest.raises(ValueError, match="library must be one of"):
        profile.to_frame("excel")
    with pytest.raises(ValueError, match=r"jaxem\.plot\.profile draws mixed columns"):
        plot.mixture(MODEL, fit, found[0])
    ax = plot.profile(profile)
    assert [text.get_text() for text in ax.get_yticklabels()][3:6] == [f"group: {level}" for level in LEVELS]


def test_profiles_of_other_families():
    x = datasets.old_faithful()
    model = Mixture(MultivariateNormal(), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x)
    profile = jaxem.inference.profile(model, fit, x)
    errors = jaxem.inference.standard_errors(model, fit, x)
    assert profile.columns == ("x[0]", "x[1]") and profile.levels == (None, None)
    np.testing.assert_allclose(profile.means, fit.params.components.means.T)
    np.testing.assert_allclose(profile.errors, errors.components.means.T, rtol=1e-10)
    np.testing.assert_allclose(profile.size_errors, errors.weights, rtol=1e-10)
    np.testing.assert_allclose(profile.overall, x.mean(axis=0), rtol=1e-6)  # at a maximum
    single = Mixture(MultivariateNormal(), 1)
    one = jaxem.fit(single, single.init(jax.random.key(0), x), x)
    profile = jaxem.inference.profile(single, one, x)
    np.testing.assert_allclose(profile.errors[:, 0], x.std(axis=0) / np.sqrt(len(x)), rtol=1e-10)
    np.testing.assert_allclose(profile.overall_errors, profile.errors[:, 0], rtol=1e-12)
    assert profile.size_errors == 0
    waits = {"a": np.random.default_rng(0).gamma(3.0, 2.0, 60), "b": np.random.default_rng(1).binomial(5, 0.4, 60)}
    single = Mixture(Product({"a": Gamma(), "b": Binomial(5)}), 1)  # means that are not the parameters
    one = jaxem.fit(single, single.init(jax.random.key(0), waits), waits)
    profile = jaxem.inference.profile(single, one, waits)
    np.testing.assert_allclose(profile.means[:, 0], [waits["a"].mean(), waits["b"].mean()], rtol=1e-7)
    assert profile.columns == ("a", "b") and not profile.bounded.any()
    with pytest.raises(ValueError, match="needs a Mixture"):
        jaxem.inference.profile(FactorAnalysis(1), fit, x)


@pytest.mark.slow
def test_a_profile_says_where_errors_are_missing():
    x = {"group": np.array([0, 0, 1, 1, 1, 2, 0, 1] * 9, float), "age": np.r_[np.zeros(36), np.ones(36) * 5.0]}
    x["age"] = x["age"] + np.tile([0.1, -0.3, 0.2, 0.0], 18)
    x["group"][:36] = np.where(x["group"][:36] == 2, 1, x["group"][:36])  # level 2 is never seen in one class
    model = Mixture(Product({"group": Categorical((3,)), "age": Normal()}), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x)
    profile = jaxem.inference.profile(model, fit, x)
    zero = (profile.means < 1e-6) & np.array([level is not None for level in profile.levels])[:, None]
    assert zero.any() and np.isnan(profile.errors[zero]).all() and np.isfinite(profile.errors[~zero]).all()
    assert "± –" in str(profile) and np.isfinite(profile.overall_errors).all()
    start = jaxem.inference.profile(model, model.init(jax.random.key(0), x), x)
    assert np.isnan(start.errors).all() and "Without standard errors: " in str(start)


# The rest of the library


def small():
    """Two cheap parts, with gaps."""
    x, _ = survey()
    data = jaxem.dataset({"age": x["age"], "items": x["items"]}, missing="nan")
    return Mixture(Product({"age": Normal(), "items": Bernoulli()}), 2), data


@pytest.mark.everything
def test_selection_restarts_bootstrap_and_many_fits():
    model, data = small()
    family = model.family
    table = jaxem.select([Mixture(family, k) for k in (1, 2)], data, key=jax.random.key(0), restarts=2)
    assert table.best.model.k == 2
    found = jaxem.fit_restarts(model, data, key=jax.random.key(1), restarts=3)
    fit = jaxem.check(found.best)
    assert float(fit.objective) == pytest.approx(float(table.best.fit.objective), rel=1e-9)
    boot = jaxem.inference.bootstrap(model, fit, data, key=jax.random.key(2), replicates=4, kind="parametric")
    assert "components.items.probabilities[0, 1]" in boot.names and (boot.statuses == 0).all()
    many = jaxem.fit_many(model, fit, [data, data], params_axis=None)
    np.testing.assert_allclose(many.objective, float(fit.objective), rtol=1e-9)


@pytest.mark.slow
def test_missing_cells_are_imputed_part_by_part():
    data, _, fit = fitted()
    means = jaxem.impute(MODEL, fit, data)
    drawn = jaxem.impute(MODEL, fit, data, key=jax.random.key(0))
    r = MODEL.predict_proba(fit, data)
    for name, mask in data.observed.items():
        for found in (means, drawn):
            assert found[name].shape == data.values[name].shape
            np.testing.assert_array_equal(found[name][mask], data.values[name][mask])
    gaps = ~data.observed["age"]
    np.testing.assert_allclose(means["age"][gaps], (r @ fit.params.components["age"].means)[gaps])
    assert set(np.unique(drawn["items"])) == {0, 1}


@pytest.mark.slow
def test_chains_of_mixed_columns(request):
    x, _ = survey()
    shaped = {name: x[name].reshape(8, 15, *x[name].shape[1:]) for name in ("age", "items")}
    data = jaxem.dataset(shaped, lengths=[15, 15, 4, 15, 15, 9, 15, 15], missing="nan")
    model = HMM(Product({"age": Normal(), "items": Bernoulli()}), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), data), data, max_steps=1000)
    assert jaxem.check(fit) is fit
    if request.config.getoption("--everything"):
        certificate = jaxem.verify(model, fit, data)
        assert certificate.ok, certificate
    drawn = model.sample(jax.random.key(1), fit, 3, 5)
    assert drawn["age"].shape == (3, 5) and drawn["items"].shape == (3, 5, 3)


@pytest.mark.parametrize(("k", "published"), [(1, -18647.31), (2, -17344.92), (3, -16714.66)])
def test_the_published_classes_of_the_election_survey(k, published):
    """Source: Linzer & Lewis (2011), the examples of poLCA's ``election``: rows without a missing answer, 12 items."""
    items = np.stack(list(datasets.election().values())[:12], axis=1)
    items = items[~np.isnan(items).any(axis=1)] - 1
    model = Mixture(Product({"gore": Categorical((4,) * 6), "bush": Categorical((4,) * 6)}), k)
    data = {"gore": items[:, :6], "bush": items[:, 6:]}
    found = jaxem.fit_restarts(model, data, key=jax.random.key(0), restarts=3)
    # Published to a hundredth; 1e-10 for each of 15,000 answers may be left.
    assert float(found.best.objective) == pytest.approx(published, abs=0.005 + 2e-6)


@pytest.mark.slow
def test_the_profile_of_the_states_of_a_chain():
    """Sizes are the shares of the steps that each state is expected to take; padding counts nowhere."""
    rng = np.random.default_rng(0)
    z = (rng.random((4, 30)) < 0.2).cumsum(axis=1) % 2
    age, item = rng.normal(4.0 * z), (rng.random((4, 30, 2)) < np.where(z, 0.8, 0.3)[..., None]).astype(float)
    age[0, :4] = np.nan
    lengths, weights = np.array([30, 20, 12, 30]), np.array([1.0, 2.0, 1.0, 0.5])
    data = jaxem.dataset({"age": age, "item": item}, lengths=lengths, weights=weights, missing="nan")
    model = HMM(Product({"age": Normal(), "item": Bernoulli()}), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), data), data, max_steps=2000, tol=1e-12)
    found = jaxem.inference.profile(model, fit, data)
    (pi, A), share = (np.asarray(leaf) for leaf in (fit.params.initial, fit.params.transition)), np.zeros(2)
    for length, weight in zip(lengths, weights, strict=True):
        share += weight * sum(pi @ np.linalg.matrix_power(A, t) for t in range(length))
    np.testing.assert_allclose(found.sizes, share / 97, rtol=1e-12)
    np.testing.assert_array_equal(found.means[0], fit.params.emissions["age"].means)
    errors = jaxem.inference.standard_errors(model, fit, data).emissions["age"].means
    np.testing.assert_allclose(found.errors[0], errors, rtol=1e-9)
    assert found.observations == 97 and str(found).startswith("2 states, 97 observations") and "state 1" in str(found)
    np.testing.assert_allclose(found.missing, [4 / 97, 0, 0], atol=1e-15)
    assert {"state_0", "error_1"} <= set(found.as_dict())


@pytest.mark.slow
def test_a_part_may_be_a_model_of_its_own():
    """Factors behind one part, beside a part in closed form; some cells are missing. Every law holds at a start."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, 50)
    block = rng.normal(size=(50, 1)) @ np.ones((1, 3)) + 0.5 * rng.normal(size=(50, 3)) + 2 * z[:, None]
    block[rng.random(block.shape) < 0.1] = np.nan
    data = jaxem.dataset({"age": rng.normal(4.0 * z), "block": block}, missing="nan")
    model = Mixture(Product({"age": Normal(), "block": Component(FactorAnalysis(1))}), 2)
    start = model.init(jax.random.key(0), data)
    assert start.components["block"].loadings.shape == (2, 3, 1)
    certificate = jaxem.verify(model, start, data)
    assert certificate.ok, certificate
    # With a single class the two parts are two models.
    one = Mixture(Product({"age": Normal(), "block": Component(FactorAnalysis(1))}), 1)
    params = one.init(jax.random.key(0), data)
    factors = jax.tree.map(lambda leaf: leaf[0], params.components["block"])
    alone = FactorAnalysis(1).log_likelihood(factors, jaxem.dataset(block, missing="nan"))
    ages = Mixture(Normal(), 1)
    of_ages = ages.log_likelihood(ages.init(jax.random.key(0), data.values["age"]), data.values["age"])
    np.testing.assert_allclose(one.log_likelihood(params, data), alone + of_ages, rtol=1e-12)
