"""Missing cells: the likelihood is that of what is seen, whatever stands in the place of what is not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

import jaxem
from jaxem import Dataset, datasets
from jaxem.core import coordinates, expectation, missing_cells
from jaxem.core.dataset import as_data
from jaxem.families import (
    Bernoulli,
    Categorical,
    Exponential,
    MultivariateNormal,
    MultivariateStudentT,
    Normal,
    NormalInverseWishart,
    Poisson,
    by_cell,
    incomplete,
    multivariate_student_t,
    seen_cells,
    tiles,
)
from jaxem.families.protocol import log_density
from jaxem.fitting.fit import arranged
from jaxem.models import HMM, FactorAnalysis, Mixture

KEY = jax.random.key(0)
SLOW = pytest.mark.everything  # run with --everything only


def with_gaps(x, seed=0, share=0.2):
    x = np.array(x, float)
    x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    return x


@functools.cache
def raw(name):
    """Data with gaps: NaN where a cell is missing."""
    rng = np.random.default_rng(1)
    z = rng.integers(0, 2, 120)
    if name == "old faithful":
        return with_gaps(datasets.old_faithful())
    if name == "iris":
        return with_gaps(datasets.iris())
    if name == "one column":
        return with_gaps(np.where(z, rng.normal(3, 0.5, 120), rng.normal(0, 1, 120)))
    if name == "counts":
        return with_gaps(rng.poisson(np.where(z, 8.0, 2.0)))
    if name == "times":
        return with_gaps(rng.exponential(np.where(z, 8.0, 0.5)))
    if name == "items":
        return with_gaps(rng.random((120, 4)) < np.array([[0.9, 0.8, 0.2, 0.5], [0.2, 0.1, 0.7, 0.5]])[z])
    if name == "codes":
        return with_gaps(np.stack([(z + (rng.random(120) < 0.2)) % 2, rng.integers(0, 3, 120), 3 * z], axis=1))
    if name == "heavy tails":
        chi = rng.chisquare(5, 120)
        centres = np.array([[0.0, 0.0, 0.0], [5.0, -4.0, 3.0]])[z]
        shape = np.array([[1.0, 0.8, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 0.7]])
        return with_gaps(centres + rng.normal(size=(120, 3)) @ shape / np.sqrt(chi / 5)[:, None])
    if name == "sequences":
        states = (rng.random((6, 25)) < 0.4).cumsum(axis=1) % 2
        x = with_gaps(rng.normal(size=(6, 25, 2)) + 3.0 * states[..., None])
        x[2, 5:9] = np.nan  # frames without any cell
        return x
    loadings = np.array([[1.8, 1.6, 1.4, 0.0, 0.4, -0.6], [0.0, 0.6, -0.8, 1.8, 1.6, 1.4]])
    return with_gaps(rng.normal(size=(120, 2)) @ loadings + rng.normal(size=(120, 6)) + 2)


def assert_close(actual, wanted, rtol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), actual, wanted)


CASES = {
    "normal": (Mixture(Normal(), 2), "one column"),
    "full": (Mixture(MultivariateNormal(), 2), "old faithful"),
    "tied": (Mixture(MultivariateNormal("tied"), 2), "old faithful"),
    "diag": (Mixture(MultivariateNormal("diag"), 2), "old faithful"),
    "spherical": (Mixture(MultivariateNormal("spherical"), 2), "old faithful"),
    "t": (Mixture(MultivariateStudentT(), 2), "heavy tails"),
    "t, tied": (Mixture(MultivariateStudentT("tied", "tied"), 2), "heavy tails"),
    "t, diag": (Mixture(MultivariateStudentT("diag", "tied"), 2), "heavy tails"),
    "t, spherical": (Mixture(MultivariateStudentT("spherical", 4), 2), "heavy tails"),
    "poisson": (Mixture(Poisson(), 2), "counts"),
    "exponential": (Mixture(Exponential(), 2), "times"),
    "bernoulli": (Mixture(Bernoulli(), 2), "items"),
    "categorical": (Mixture(Categorical((2, 3, 4)), 2), "codes"),
    "factor analysis": (FactorAnalysis(2), "factors"),
    "chain": (HMM(MultivariateNormal(), 2), "sequences"),
    "chain, diag": (HMM(MultivariateNormal("diag"), 2), "sequences"),
    "chain, t": (HMM(MultivariateStudentT(freedom=5), 2), "sequences"),
}


@functools.cache
def fitted(name, precision="float64"):
    model, source = CASES[name]
    data = jaxem.dataset(raw(source).astype(precision), missing="nan")
    start = model.init(KEY, data)
    return model, data, start, jaxem.fit(model, start, data, max_steps=3000, tol=1e-12)


# One form of each kind in the first tier; every form and both precisions in the second.
LAWS = [(name, "float64") for name in ("full", "t", "factor analysis", "chain")]
LAWS += [
    pytest.param(name, precision, marks=pytest.mark.everything)
    for name in CASES
    for precision in ("float64", "float32")
    if (name, precision) not in LAWS
]


@pytest.mark.parametrize(("name", "precision"), LAWS)
def test_every_law_holds(name, precision):
    model, data, start, fit = fitted(name, precision)
    for point in (start, fit.params):
        certificate = jaxem.verify(model, point, data, strict=True)
        assert certificate.ok, certificate


@pytest.mark.everything
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_every_law_holds_with_a_prior(form, precision):
    x = datasets.old_faithful().astype(precision)
    model = Mixture(MultivariateNormal(form, NormalInverseWishart.from_data(x, 2)), 2)
    data = jaxem.dataset(with_gaps(x).astype(precision), missing="nan")
    fit = jaxem.fit(model, model.init(KEY, data), data, max_steps=3000)
    certificate = jaxem.verify(model, fit.params, data, strict=True)
    assert certificate.ok, certificate


def of_columns(family, components, seen):
    """The family and its parameters for the seen columns alone."""
    if isinstance(family, Categorical):
        smaller = Categorical(tuple(family.levels[d] for d in seen))
        return smaller, type(components)(tuple(components.probabilities[d] for d in seen))
    if isinstance(family, Bernoulli):
        return family, type(components)(components.probabilities[:, seen])
    means, covariances = components
    pick = {
        "full": lambda: covariances[:, seen][:, :, seen],
        "tied": lambda: covariances[seen][:, seen],
        "diag": lambda: covariances[:, seen],
        "spherical": lambda: covariances,
    }[family.covariance]
    return family, type(components)(means[:, seen], pick())


def of_t(family, components, x):
    """The density of the t distribution by its formula, (N, K), whatever the form of the scatters."""
    m, s, tails = components
    k, d = m.shape
    if family.covariance in ("diag", "spherical"):
        s = jnp.broadcast_to(s.reshape(k, -1), (k, d))[:, :, None] * jnp.eye(d)[None]
    s = jnp.broadcast_to(s, (k, d, d))
    nu = jnp.broadcast_to(family.freedom if tails is None else 1 / tails, (k,))
    gamma, tables = jax.scipy.special.gammaln, []
    for seen in np.unique(~np.isnan(x), axis=0):
        o = np.flatnonzero(seen)
        inverse = jnp.linalg.inv(s[:, o][:, :, o])
        constant = gamma((nu + len(o)) / 2) - gamma(nu / 2) - len(o) / 2 * jnp.log(jnp.pi * nu)
        constant = constant + 0.5 * jnp.linalg.slogdet(inverse)[1]
        y = x[(~np.isnan(x) == seen).all(axis=1)][:, None, o] - m[None, :, o]
        squares = jnp.einsum("nki,kij,nkj->nk", y, inverse, y)
        tables.append(constant[None] - ((nu + len(o)) / 2)[None] * jnp.log1p(squares / nu[None]))
    return jnp.concatenate(tables)


def of_what_is_seen(model, params, x):
    """log p of what is seen: complete data of fewer columns, pattern by pattern, and single numbers without gaps."""
    if isinstance(model, FactorAnalysis):
        covariance = params.loadings @ params.loadings.T + jnp.diag(params.noise)
        normal = jax.vmap(jax.scipy.stats.multivariate_normal.logpdf, (0, None, None))
        of_rows = lambda rows, seen: normal(rows[:, seen], params.mean[seen], covariance[seen][:, seen])[:, None]
        join = lambda table: table[:, 0]
    else:
        of_rows = lambda rows, seen: log_density(*of_columns(model.family, params.components, seen), rows[:, seen])
        join = lambda table: jax.nn.logsumexp(table + jnp.log(params.weights)[None, :], axis=1)
    if isinstance(getattr(model, "family", None), MultivariateStudentT):
        return join(of_t(model.family, params.components, x)).sum()
    if x.ndim == 1:
        return join(log_density(model.family, params.components, x[~np.isnan(x)])).sum()
    total = 0.0
    masks = ~np.isnan(x)
    for mask in np.unique(masks, axis=0):
        rows = x[(masks == mask).all(axis=1)]
        if mask.any():
            total = total + join(of_rows(rows, np.flatnonzero(mask))).sum()
    return total


MIXED = [name for name in CASES if not name.startswith("chain")]


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.slow
def test_the_likelihood_is_that_of_what_is_seen(name):
    model, data, start, _ = fitted(name)
    expected = jax.jit(lambda params: of_what_is_seen(model, params, raw(CASES[name][1])))(start)
    assert float(model.log_likelihood(start, data)) == pytest.approx(float(expected), rel=1e-13)


DIRECT = [pytest.param(name, marks=[] if name in ("full", "diag", "t") else SLOW) for name in MIXED]


@pytest.mark.parametrize("name", DIRECT)
def test_the_optimum_and_its_errors_are_those_of_a_direct_search(name):
    """EM ends where a search on the likelihood of what is seen ends; errors are those of its Hessian."""
    model, data, _, fit = fitted(name)
    x = raw(CASES[name][1])
    chart, u = coordinates.chart(model, fit.params), np.asarray(coordinates.into(model, fit.params))
    climbed = jax.jit(lambda u: of_what_is_seen(model, chart(u), x))
    slope = jax.jit(jax.grad(climbed))
    away = u + 0.02 * np.random.default_rng(0).normal(size=u.shape)
    found = optimize.minimize(lambda u: -float(climbed(u)), away, jac=lambda u: -np.asarray(slope(u)), tol=1e-12)
    assert float(fit.objective) == pytest.approx(-found.fun, abs=1e-8)
    if name != "factor analysis":  # its loadings are known up to a rotation
        hessian = np.asarray(jax.jit(jax.hessian(climbed))(u))
        information = jaxem.inference.information(model, fit, data)
        np.testing.assert_allclose(information.observed, -hessian, rtol=1e-6, atol=1e-6 * np.abs(hessian).max())


def test_air_quality_as_in_lavaan():
    """R's lavaan 0.6-14, missing = "fiml": log-likelihood and standard errors of the means."""
    x = datasets.airquality()
    x[:, 0] = np.log(x[:, 0])
    model, data = Mixture(MultivariateNormal(), 1), jaxem.dataset(x, missing="nan")
    fit = jaxem.fit(model, model.init(KEY, data), data, tol=1e-12)
    assert float(fit.objective) == pytest.approx(-1896.17150733, abs=1e-8)
    errors = jaxem.inference.standard_errors(model, fit, data).components.means[0]
    np.testing.assert_allclose(errors, [0.07251556, 7.435367, 0.28388554, 0.76271677], rtol=1e-6)


def test_a_chain_with_gaps_by_enumeration():
    """Frames and cells missing: the sum over all paths, each with what is seen of each frame."""
    model = HMM(MultivariateNormal(), 2)
    x = raw("sequences")[2:3, 3:10]
    data = jaxem.dataset(x, missing="nan")
    params = fitted("chain")[2]
    paths = np.stack(np.meshgrid(*[[0, 1]] * 7), axis=-1).reshape(-1, 7)
    means, covariances = params.emissions
    total = []
    for path in paths:
        value = np.log(params.initial[path[0]]) + np.log(np.asarray(params.transition)[path[:-1], path[1:]]).sum()
        for k, row in zip(path, x[0], strict=True):
            seen = ~np.isnan(row)
            if seen.any():
                block = np.asarray(covariances[k])[np.ix_(seen, seen)]
                value += stats.multivariate_normal.logpdf(row[seen], np.asarray(means[k])[seen], block)
        total.append(value)
    assert float(model.log_likelihood(params, data)) == pytest.approx(np.logaddexp.reduce(total), rel=1e-12)


@pytest.mark.parametrize(
    "name", ["full", "bernoulli", *(pytest.param(n, marks=SLOW) for n in ("factor analysis", "poisson"))]
)
@pytest.mark.slow
def test_a_wholly_missing_row_changes_nothing(name):
    model, data, start, fit = fitted(name)
    x = raw(CASES[name][1])
    nothing = np.full((3, *x.shape[1:]), np.nan)
    more = jaxem.dataset(np.concatenate([x[:50], nothing, x[50:]]), missing="nan")
    other = jaxem.fit(model, start, more, max_steps=3000, tol=1e-12)
    assert_close(other.params, fit.params, 1e-9)
    assert float(model.log_likelihood(start, more)) == pytest.approx(
        float(model.log_likelihood(start, data)), rel=1e-14
    )
    bic = lambda data: float(jaxem.inference.bic(model, fit, data))
    assert bic(more) == pytest.approx(bic(data), rel=1e-12)


def test_a_missing_frame_is_not_an_observation():
    model, data, *_ = fitted("chain")
    assert int(model.sample_size(data)) == int((~np.isnan(raw("sequences"))).any(axis=-1).sum())


@pytest.mark.parametrize("name", ["full", "diag", "categorical", "factor analysis", "chain"])
@pytest.mark.slow
def test_what_stands_in_a_missing_cell_does_not_matter(name):
    model, data, start, _ = fitted(name)
    other = 1.0 if name == "categorical" else -7.25e3
    changed = dataclasses.replace(data, values=jnp.where(data.observed, data.values, other))
    steps = lambda data: jaxem.fit(model, start, data, max_steps=4).params
    jax.tree.map(np.testing.assert_array_equal, steps(changed), steps(data))
    nan = Dataset(jnp.where(data.observed, data.values, jnp.nan), observed=data.observed)
    assert np.isfinite(model.log_likelihood(start, nan))


@pytest.mark.parametrize("name", ["full", pytest.param("factor analysis", marks=SLOW)])
@pytest.mark.slow
def test_patterns_only_save_time(name):
    """Row by row, as where patterns are not known (in a trace), the result is the same."""
    model, data, start, _ = fitted(name)
    assert data.patterns is not None
    by_rows = jax.jit(lambda x: model.e_step(start, jaxem.dataset(x, missing="nan")).log_normalizer)(
        raw(CASES[name][1])
    )
    np.testing.assert_allclose(by_rows, model.e_step(start, data).log_normalizer, rtol=1e-12)


def test_patterns_of_other_data_are_not_believed():
    model, data, start, _ = fitted("full")
    wrong = jax.jit(lambda data: model.e_step(start, data).log_normalizer)(
        dataclasses.replace(data, observed=jnp.roll(data.observed, 1, axis=0))
    )
    assert np.isnan(wrong).all()


@pytest.mark.parametrize("form", ["full", "diag"])
@pytest.mark.slow
def test_complete_data_with_masks_are_complete_data(form):
    x = jnp.asarray(datasets.old_faithful())
    model = Mixture(MultivariateNormal(form), 2)
    masked = Dataset(x, observed=jnp.ones(x.shape, bool))
    start = model.init(KEY, x)
    run = lambda data: jaxem.fit(model, start, data, max_steps=5).params
    assert_close(run(masked), run(x), 1e-12)


# Rows in tiles, the order in which ``fit`` adds them up


def tiled(form="full", precision="float64"):
    """Iris with gaps and weights, some of them zero: as given, and in tiles."""
    x = with_gaps(datasets.iris()[0]).astype(precision)
    data = jaxem.dataset(x, weights=np.random.default_rng(2).integers(0, 4, len(x)), missing="nan")
    model = Mixture(MultivariateStudentT() if form == "t" else MultivariateNormal(form), 3)
    start = model.init(KEY, data, start=np.repeat([0, 1, 2], 50))
    return model, start, as_data(data), missing_cells.in_tiles(as_data(data))


@pytest.mark.slow
def test_a_tile_holds_rows_of_one_pattern():
    _, _, data, ordered = tiled()
    size = ordered.patterns.tile
    masks, rows = (np.asarray(leaf).reshape(-1, size, 4) for leaf in (ordered.observed, ordered.values))
    assert size >= 8 and (masks == masks[:, :1]).all()
    weights = np.asarray(ordered.weights).reshape(-1, size)
    assert (weights[weights.sum(axis=1) > 0][:, 0] > 0).all()  # so that a tile's first row tells its pattern
    counts = weights.reshape(-1) > 0
    table = lambda values, seen, w: np.sort(np.column_stack([np.where(seen, values, np.nan), w]).view("V40"), axis=0)
    whole = np.asarray(data.weights) > 0
    np.testing.assert_array_equal(
        table(rows.reshape(-1, 4)[counts], masks.reshape(-1, 4)[counts], weights.reshape(-1)[counts]),
        table(data.values[whole], data.observed[whole], data.weights[whole]),
    )


def test_patterns_of_few_rows_are_left_in_order():
    data = as_data(jaxem.dataset(with_gaps(np.random.default_rng(0).normal(size=(200, 6)), share=0.4), missing="nan"))
    assert missing_cells.in_tiles(data) is data


@pytest.mark.parametrize("form", ["full", "t", *(pytest.param(form, marks=SLOW) for form in ("tied", "VVE"))])
@pytest.mark.slow
def test_sums_over_tiles_are_sums_over_rows(form):
    """Of the E-step and of the mode, about the point of the E-step and about another, in blocks."""
    model, start, data, ordered = tiled(form)
    other = model.init(jax.random.key(3), data)

    @jax.jit
    def everything(data):
        found = [expectation.expect(model, start, data, block, by) for block in (None, 37) for by in ("infer", "mode")]
        return found, expectation.sums(model, start, data, about=other), jax.grad(model.log_likelihood)(start, data)

    assert_close(everything(ordered), everything(data), 1e-11)


@pytest.mark.slow
def test_sums_over_tiles_in_single_precision():
    """Far from the origin, as near to those in double precision as sums over rows are."""
    model, start, data, ordered = tiled(precision="float32")
    away = lambda data: dataclasses.replace(data, values=data.values + jnp.asarray(1000, data.values.dtype))
    moved = start._replace(components=start.components._replace(means=start.components.means + 1000))
    pairs = [(away(data), moved), (away(ordered), moved), jax.tree.map(widened, (away(data), moved))]
    sums = jax.jit(lambda x, params: jax.tree.leaves(expectation.expect(model, params, x)))
    for found in zip(*(sums(*pair) for pair in pairs), strict=True):
        by_rows, by_tiles, exact = (np.asarray(leaf, float) for leaf in found)
        unit = 32 * float(jnp.finfo(jnp.float32).eps) * np.abs(exact).max()
        assert np.abs(by_tiles - exact).max() <= max(2 * np.abs(by_rows - exact).max(), unit)


def widened(leaf):
    return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf


@pytest.mark.parametrize("algorithm", ["EM", pytest.param("HardEM", marks=SLOW), pytest.param("SQUAREM", marks=SLOW)])
@pytest.mark.slow
def test_a_fit_in_tiles_is_that_by_rows(algorithm):
    model, start, data, ordered = tiled()
    how = getattr(jaxem.algorithms, algorithm)()
    assert arranged(model, data, how).patterns.tile == ordered.patterns.tile
    run = lambda data: jaxem.fit(model, start, data, algorithm=how, max_steps=20)
    a, b = run(data), jax.jit(run)(data)  # in a trace patterns are those that were found, in the order of the rows
    assert_close((a.params, a.objective), (b.params, b.objective), 1e-9)


@pytest.mark.parametrize("mistake", ["padding", "regression", "shift"])
def test_mistakes_in_tiles_are_caught(mistake, monkeypatch):
    model, start, data, wrong = tiled()
    if mistake == "padding":
        wrong = dataclasses.replace(wrong, weights=jnp.maximum(wrong.weights, 0.1))
    if mistake == "regression":
        right = incomplete.conditional
        without = lambda s, m: right(s, m)._replace(
            regressions=jnp.eye(4)[None, None] * m[:, None, None, :].astype(s.dtype)
        )
        monkeypatch.setattr(incomplete, "conditional", without)
    about = model.init(jax.random.key(3), data) if mistake == "shift" else None
    if mistake == "shift":
        right = tiles.moments
        monkeypatch.setattr(tiles, "moments", lambda means, w, r, q, x: right(q.means, w, r, q, x))
    of = lambda data: expectation.sums(model, start, data, about=about)
    with pytest.raises(AssertionError):
        assert_close(of(wrong), of(data), 1e-6)


# Imputation


def test_means_of_missing_cells_by_hand():
    model, data, start, _ = fitted("full")
    filled = np.asarray(jaxem.impute(model, start, data))
    x = raw("old faithful")
    r = np.asarray(model.predict_proba(start, data))
    means, covariances = map(np.asarray, start.components)
    for n in range(40):
        seen = ~np.isnan(x[n])
        np.testing.assert_array_equal(filled[n][seen], x[n][seen])
        if seen.sum() != 1:
            continue
        o, m = int(np.flatnonzero(seen)[0]), int(np.flatnonzero(~seen)[0])
        each = means[:, m] + covariances[:, m, o] / covariances[:, o, o] * (x[n, o] - means[:, o])
        assert filled[n, m] == pytest.approx(r[n] @ each, rel=1e-12)


@pytest.mark.parametrize("name", ["full", "diag", "t", "t, diag", "poisson", "categorical", "factor analysis", "chain"])
@pytest.mark.slow
def test_draws_have_the_means_and_keep_what_is_seen(name):
    model, data, _, fit = fitted(name)
    keys = jax.random.split(jax.random.key(3), 400)
    draws = np.asarray(jax.vmap(lambda key: model.impute(fit.params, data, key))(keys))
    assert (np.where(data.observed, draws, 0) == np.where(data.observed, data.values, 0)[None]).all()
    missing = ~np.asarray(data.observed)
    if name == "categorical":
        assert set(np.unique(draws)) <= {0.0, 1.0, 2.0, 3.0}
        return
    middle, mean = draws.mean(axis=0), np.asarray(jaxem.impute(model, fit, data))
    error = draws.std(axis=0) / np.sqrt(len(draws))
    z = (middle - mean)[missing] / np.where(error[missing] > 0, error[missing], 1)
    assert np.abs(z).max() < 5
    assert np.sqrt((z**2).mean()) < 1.3


@pytest.mark.parametrize("form", ["full", "diag"])
@pytest.mark.slow
def test_draws_of_a_t_have_its_conditional_distribution(form):
    """The missing cells given the seen ones: t with nu + d_o degrees of freedom and scatter C (nu + z) / (nu + d_o)."""
    nu, n, m = 5, 4000, np.array([1.0, -1.0, 2.0])
    s = np.array([[2.0, 0.8, 0.5], [0.8, 1.0, -0.3], [0.5, -0.3, 1.5]])
    s = s if form == "full" else np.diag(np.diag(s))
    x = np.broadcast_to([4.5, np.nan, np.nan], (n, 3))
    scatters = s[None] if form == "full" else np.diag(s)[None]
    family = MultivariateStudentT(form, nu)
    params = type(family.declare())(jnp.array(m[None]), jnp.array(scatters), None)
    data = as_data(jaxem.dataset(x, missing="nan"))
    found = np.asarray(family.redraw(KEY, params, jnp.zeros(n, int), data))[:, 1:]
    gain = s[1:, 0] / s[0, 0]
    scale = (s[1:, 1:] - np.outer(gain, s[0, 1:])) * (nu + 3.5**2 / s[0, 0]) / (nu + 1)
    along = np.array([0.6, 0.8])
    z = (found - m[1:] - 3.5 * gain) @ along / np.sqrt(along @ scale @ along)
    assert stats.kstest(z, stats.t(nu + 1).cdf).pvalue > 1e-3
    # Both cells share u: their squares are correlated even where they themselves are not.
    squares = np.sum((found - m[1:] - 3.5 * gain) * np.linalg.solve(scale, (found - m[1:] - 3.5 * gain).T).T, axis=1)
    assert stats.kstest(squares / 2, stats.f(2, nu + 1).cdf).pvalue > 1e-3


def test_missing_codes_become_the_most_probable_ones():
    model, data, _, fit = fitted("categorical")
    filled, r = np.asarray(jaxem.impute(model, fit, data)), np.asarray(model.predict_proba(fit, data))
    for d, p in enumerate(fit.params.components.probabilities):
        expected = (r @ np.asarray(p)).argmax(axis=1)
        missing = ~np.asarray(data.observed)[:, d]
        np.testing.assert_array_equal(filled[missing, d], expected[missing])


def test_what_impute_refuses():
    model, data, _, fit = fitted("full")
    with pytest.raises(ValueError, match="random key"):
        jaxem.impute(model, fit, data, key=3)
    complete = datasets.old_faithful()
    np.testing.assert_array_equal(jaxem.impute(model, fit, complete), complete)


# Everything else that meets data


@pytest.mark.slow
def test_jobs_with_gaps():
    model, data, start, fit = fitted("full")
    best = jaxem.fit_restarts(model, data, key=KEY, restarts=4).best
    assert float(best.objective) == pytest.approx(float(fit.objective), abs=1e-4)
    two = [data, jaxem.dataset(with_gaps(datasets.old_faithful(), seed=5), missing="nan")]
    many = jaxem.fit_many(model, start, two, params_axis=None)
    assert float(many.objective[0]) == pytest.approx(float(fit.objective), abs=1e-4)
    spread = jaxem.fit(model, start, jaxem.shard(data))
    assert float(spread.objective) == pytest.approx(float(fit.objective), abs=1e-6)


@pytest.mark.everything
def test_more_jobs_with_gaps():
    model, data, start, fit = fitted("full")
    inference = jaxem.inference
    assert "263 observations" in str(jaxem.summary(model, fit, data))
    for kind in ("nonparametric", "parametric"):
        errors = inference.bootstrap(model, fit, data, key=KEY, replicates=8, kind=kind)
        assert np.isfinite(jax.tree.leaves(errors.standard_errors)[0]).all()
    assert np.isfinite(inference.cross_validate(model, data, key=KEY, folds=3, restarts=1).mean)
    streamed = jaxem.fit_stream(model, start, data)
    assert float(streamed.objective) == pytest.approx(float(fit.objective), abs=1e-6)


@pytest.mark.parametrize(
    "algorithm", ["HardEM", "SAEM", *(pytest.param(a, marks=SLOW) for a in ("IncrementalEM", "AnnealedEM"))]
)
@pytest.mark.slow
def test_algorithms_with_gaps(algorithm):
    """The family's own posterior travels with every kind of q."""
    model, data, start, fit = fitted("full")
    how = getattr(jaxem.algorithms, algorithm)()
    found = jaxem.fit(model, start, data, algorithm=how, key=KEY)
    gap = float(fit.objective - model.log_likelihood(found.params, data))
    assert -1e-6 < gap < (3.0 if algorithm in ("HardEM", "SAEM") else 1e-4)


def test_models_that_cannot_use_gaps_say_so():
    class Plain(MultivariateNormal):
        takes = ()

    with pytest.raises(ValueError, match="cannot use missing cells"):
        Mixture(Plain(), 2).init(KEY, fitted("full")[1])


# A law that no mistake breaks asserts nothing.

WHOLE_ROWS = lambda right: lambda x: x.values.shape[1]
MISTAKES = {
    "t: D in the place of the number of seen cells": ("t", multivariate_student_t, "_dimensions", WHOLE_ROWS),
    "t: the covariance of the missing cells weighted by u": (
        "t",
        seen_cells,
        "moments",
        lambda right: lambda form, m, w, r, q, x: right(form, m, w, w, q, x),
    ),
    "t: the covariance of the missing cells left out": (
        "t",
        seen_cells,
        "moments",
        lambda right: lambda form, m, w, r, q, x: right(form, m, w, 0 * r, q, x),
    ),
    "t: u left out of the entropy of the missing cells": (
        "t",
        incomplete,
        "entropy",
        lambda right: lambda q, log_scales: right(q),
    ),
    "the covariance of the missing cells left out": (
        "full",
        incomplete,
        "summed_covariances",
        lambda right: lambda r, q: 0 * right(r, q),
    ),
    "a constant too much": (
        "full",
        incomplete,
        "distance",
        lambda right: lambda m, s, p, x: with_constant(right(m, s, p, x), 0.2 * (~x.observed[:, :1]).astype(m.dtype)),
    ),
    "the entropy of the missing cells left out": ("full", incomplete, "entropy", lambda right: lambda q: 0 * right(q)),
}


def with_constant(found, more):
    return found._replace(constants=found.constants + more)


# Those that take long and resemble another one; with --everything only.
RARE = ("t: the covariance of the missing cells left out", "t: u left out of the entropy of the missing cells")


@pytest.mark.parametrize("mistake", [pytest.param(m, marks=SLOW if m in RARE else []) for m in MISTAKES])
def test_mistakes_are_caught(mistake, monkeypatch):
    case, where, name, change = MISTAKES[mistake]
    model, data, start, _ = fitted(case)
    monkeypatch.setattr(where, name, change(getattr(where, name)))
    # Sizes, and sizes of halves, of its own: no program of the right functions or of another mistake is met again.
    rows = len(data.values) - 10 * (1 + list(MISTAKES).index(mistake))
    part = jax.tree.map(lambda leaf: leaf[:rows], data)
    certificate = jaxem.verify(model, start, part)
    assert not certificate.ok


def test_a_mistake_by_cells_is_caught(monkeypatch):
    model, data, start, _ = fitted("diag")
    wrong = lambda form, means, r, x: (jnp.broadcast_to(r.sum(axis=0)[:, None], (2, 2)), *right(form, means, r, x)[1:])
    right = by_cell.moments
    monkeypatch.setattr(by_cell, "moments", wrong)
    certificate = jaxem.verify(model, start, jax.tree.map(lambda leaf: leaf[:171], data))
    assert not certificate.ok
