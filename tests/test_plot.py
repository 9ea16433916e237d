"""The pictures show what they say: read back from the axes, not from the pixels."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import Dataset, plot
from jaxem.families import (
    Bernoulli,
    Exponential,
    ExponentialParams,
    MultivariateNormal,
    MultivariateNormalParams,
    Normal,
    NormalInverseWishart,
    NormalParams,
    Poisson,
    PoissonParams,
)
from jaxem.families.covariance import FORMS
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

RANDOM = np.random.default_rng(0)
COUNTS = np.array([1.0, 0.0, 2.0, 7.0, 9.0, 1.0, 6.0, 3.0])
PLANE = np.concatenate([RANDOM.normal((0, 0), (1, 0.5), (40, 2)), RANDOM.normal((3, 2), (0.5, 1), (30, 2))])
WEIGHTS = np.array([0.5, 0.5])


def log_coin(heads, y):
    return jnp.stack(
        [jnp.log(0.5) + y * jnp.log(heads) + (1 - y) * jnp.log1p(-heads), jnp.log(0.5) + jnp.log(0.5) + 0 * y]
    )


def plane_start():
    return MixtureParams(
        WEIGHTS, MultivariateNormalParams(np.array([[0.5, 0.5], [2.0, 1.0]]), np.stack([np.eye(2)] * 2))
    )


# name: (model, start, data)
CASES = {
    "poisson mixture": lambda: (
        Mixture(Poisson(), 2),
        MixtureParams(WEIGHTS, PoissonParams(np.array([2.0, 5.0]))),
        COUNTS,
    ),
    "normal mixture with a prior": lambda: (
        Mixture(MultivariateNormal(prior=NormalInverseWishart.from_data(PLANE, 2)), 2),
        plane_start(),
        PLANE,
    ),
    "weighted": lambda: (
        Mixture(Normal(), 2),
        MixtureParams(WEIGHTS, NormalParams(np.array([1.0, 6.0]), np.array([4.0, 4.0]))),
        Dataset(COUNTS, weights=np.arange(1.0, 9.0)),
    ),
    "hidden Markov model": lambda: (
        HMM(Poisson(), 2),
        HMMParams(WEIGHTS, np.array([[0.8, 0.2], [0.3, 0.7]]), PoissonParams(np.array([1.0, 4.0]))),
        COUNTS[None],
    ),
    "log-joint": lambda: (
        jaxem.from_log_joint(log_coin, constraints=jaxem.UnitInterval()),
        0.6,
        np.array([1.0, 1.0, 1.0, 0.0, 1.0]),
    ),
}


@functools.cache
def case(name):
    """The case, and its picture of the bound."""
    model, params, data = CASES[name]()
    return model, params, data, plot.bound(model, params, data)


def curves(ax, prefix):
    """The labelled curves whose label begins so."""
    return [line for line in ax.get_lines() if str(line.get_label()).startswith(prefix)]


def slack(values):
    """What rounding may do to sums of this size."""
    return 64 * np.finfo(np.float64).eps * (np.abs(values) + 100)


def dots(ax, filled):
    found = [line for line in ax.get_lines() if line.get_marker() == "o"]
    return [line.get_xydata()[0] for line in found if (line.get_markerfacecolor() != "white") == filled]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_surrogates_lie_below(name):
    _, _, _, ax = case(name)
    (objective,), surrogates = curves(ax, "log-"), curves(ax, "$B")
    assert len(surrogates) == 3
    heights = objective.get_ydata()
    assert np.isfinite(heights).all()
    for line in surrogates:
        np.testing.assert_array_equal(line.get_xdata(), objective.get_xdata())
        gap = heights - line.get_ydata()
        assert (gap >= -slack(heights)).all()
        assert gap.max() > 1e-3  # a bound, not the same curve again


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_surrogates_touch_at_the_dots(name):
    model, params, data, ax = case(name)
    (objective,), surrogates, touching = curves(ax, "log-"), curves(ax, "$B"), dots(ax, filled=True)
    x, heights = objective.get_xdata(), objective.get_ydata()
    assert len(touching) == len(surrogates)
    start = jaxem.fit(model, params, data, max_steps=0).objective
    assert touching[0][0] == 0 and abs(touching[0][1] - float(start)) <= slack(start)
    for (where, height), line in zip(touching, surrogates, strict=True):
        gap = heights - line.get_ydata()
        # On a grid of spacing h the gap next to a tangent point is of order h^2, and nowhere smaller.
        assert abs(x[gap.argmin()] - where) <= 1.01 * (x[1] - x[0])
        assert gap.min() <= 0.01 * (height - line.get_ydata().min())
        assert abs(np.interp(where, x, heights) - height) <= 1e-3 * (heights.max() - heights.min())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_iterates_climb_to_the_tops(name):
    _, _, _, ax = case(name)
    touching, tops, surrogates = dots(ax, filled=True), dots(ax, filled=False), curves(ax, "$B")
    (objective,) = curves(ax, "log-")
    assert len(tops) == len(surrogates)
    for i, ((where, height), line) in enumerate(zip(tops, surrogates, strict=True)):
        assert height >= line.get_ydata().max() - slack(height)  # no point of the curve is higher
        assert abs(line.get_xdata()[line.get_ydata().argmax()] - where) <= np.diff(line.get_xdata()).max()
        assert height >= touching[i][1] - slack(height)
        assert height <= np.interp(where, objective.get_xdata(), objective.get_ydata()) + 1e-3 * np.ptp(
            objective.get_ydata()
        )
        if i + 1 < len(touching):
            assert touching[i + 1][0] == where and touching[i + 1][1] >= height - slack(height)


@pytest.mark.slow
def test_the_window_shows_the_iterates():
    _, _, _, ax = case("poisson mixture")
    low, high = ax.get_ylim()
    for _, height in [*dots(ax, filled=True), *dots(ax, filled=False)]:
        assert low < height < high
    lowest = min(line.get_ydata().min() for line in curves(ax, "$B"))
    assert lowest < low  # the plunge is cut off


def test_the_line_ends_where_em_ends():
    model, params, data, ax = case("poisson mixture")
    (objective,) = curves(ax, "log-")
    end = float(jaxem.fit(model, params, data).objective)
    x, heights = objective.get_xdata(), objective.get_ydata()
    assert abs(np.interp(1.0, x, heights) - end) < 1e-4
    assert abs(heights.max() - end) < 1e-4
    assert "where EM ends" in ax.get_xlabel() and "restricted to this line" in ax.get_xlabel()


@pytest.mark.slow
def test_a_line_that_heads_for_the_edge_of_a_space():
    """EM ends at a start of probability one, at infinity in coordinates; L is still drawn as a smooth curve."""
    model, params, data, ax = case("hidden Markov model")
    fit = jaxem.fit(model, params, data)
    assert float(fit.params.initial.min()) < 1e-50
    (objective,) = curves(ax, "log-")
    steps = np.abs(np.diff(objective.get_ydata()))
    assert steps.max() < 0.03 * np.ptp(objective.get_ydata())
    assert abs(objective.get_ydata().max() - float(fit.objective)) < 0.1


@pytest.mark.slow
def test_the_name_of_the_curve_says_whether_there_is_a_prior():
    names = {name: case(name)[3].get_ylabel() for name in ("weighted", "normal mixture with a prior")}
    assert names == {"weighted": "log-likelihood", "normal mixture with a prior": "log-posterior"}


@pytest.mark.slow
def test_a_line_of_ones_own():
    model, params, data, _ = case("poisson mixture")
    head = params._replace(components=PoissonParams(np.array([2.0, 8.0])))
    ax = plot.bound(model, params, data, along=head, steps=2, span=(0.0, 1.0))
    (objective,) = curves(ax, "log-")
    assert len(curves(ax, "$B")) == 2 and ax.get_xlim() == (0.0, 1.0)
    for where, there in ((0, params), (-1, head)):
        wanted = float(model.log_likelihood(jax.tree.map(jnp.asarray, there), data))
        assert abs(objective.get_ydata()[where] - wanted) <= slack(wanted)
    middle = params._replace(components=PoissonParams(np.array([2.0, 40.0**0.5])))  # geometric: rates are positive
    near = np.interp(0.5, objective.get_xdata(), objective.get_ydata())
    assert abs(near - float(model.log_likelihood(jax.tree.map(jnp.asarray, middle), data))) < 1e-4


def test_float32():
    model, params, data = CASES["poisson mixture"]()
    ax = plot.bound(model, params, data.astype(np.float32))
    (objective,) = curves(ax, "log-")
    assert objective.get_ydata().dtype == np.float32
    for line in curves(ax, "$B"):
        assert (line.get_ydata() <= objective.get_ydata() + 1e-4).all()


def test_bound_says_what_is_missing():
    model = jaxem.Model(lambda theta, x: theta, lambda q, x: q)
    with pytest.raises(ValueError, match="a picture of the bound needs log_likelihood and q_function and entropy"):
        plot.bound(model, 1.0, COUNTS)
    model, params, data, _ = case("poisson mixture")
    with pytest.raises(ValueError, match="the line has no length"):
        plot.bound(model, params, data, along=params)
    outside = params._replace(components=PoissonParams(np.array([-1.0, 2.0])))
    with pytest.raises(ValueError, match=r"components\.rates must be positive"):
        plot.bound(model, params, data, along=outside)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        plot.bound(model, params, data, steps=0)


def test_trace():
    model, params, data, _ = case("poisson mixture")
    fit = jaxem.fit(model, params, data)
    steps = int(fit.steps)
    (line,) = plot.trace(fit).get_lines()
    np.testing.assert_array_equal(line.get_xdata(), np.arange(steps + 1))
    np.testing.assert_array_equal(line.get_ydata(), fit.trace[: steps + 1])


def test_trace_gap():
    model, params, data, _ = case("poisson mixture")
    fit = jaxem.fit(model, params, data)
    ax = plot.trace(fit, gap=True)
    (line,) = ax.get_lines()
    assert ax.get_yscale() == "log"
    values = np.asarray(fit.trace)[: int(fit.steps) + 1]
    np.testing.assert_array_equal(line.get_ydata(), values[-1] - values[line.get_xdata()])
    assert (line.get_ydata() > 0).all() and len(line.get_ydata()) >= int(fit.steps) - 1


@pytest.mark.slow
def test_trace_of_lanes():
    model, params, data, _ = case("poisson mixture")
    starts = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), jax.tree.map(jnp.asarray, params.components))
    fits = jax.vmap(lambda c: jaxem.fit(model, MixtureParams(jnp.asarray(WEIGHTS), c), data))(starts)
    lines = plot.trace(fits).get_lines()
    assert [len(line.get_xdata()) for line in lines] == [int(steps) + 1 for steps in fits.steps]


def test_trace_needs_a_bound():
    fit = jaxem.fit(jaxem.Model(lambda theta, x: theta, lambda q, x: q), 1.0, COUNTS)
    with pytest.raises(ValueError, match="no objective"):
        plot.trace(fit)


@pytest.mark.parametrize("form", FORMS)
def test_ellipses(form):
    covariances = {
        "full": np.array([[[2.0, 0.6], [0.6, 1.0]], [[1.0, -0.3], [-0.3, 0.5]]]),
        "tied": np.array([[2.0, 0.6], [0.6, 1.0]]),
        "diag": np.array([[2.0, 1.0], [1.0, 0.5]]),
        "spherical": np.array([2.0, 0.5]),
    }[form]
    full = {
        "full": covariances,
        "tied": np.stack([covariances] * 2),
        "diag": np.stack([np.diag(row) for row in covariances.reshape(2, -1)]),
        "spherical": np.stack([np.eye(2) * row for row in covariances.reshape(2, -1)[:, 0]]),
    }[form]
    means = np.array([[0.0, 0.0], [3.0, 2.0]])
    model = Mixture(MultivariateNormal(form), 2)
    params = MixtureParams(WEIGHTS, MultivariateNormalParams(means, covariances))
    ax = plot.mixture(model, params, PLANE)
    ellipses = [line.get_xydata() for line in ax.get_lines() if len(line.get_xydata()) > 1]
    assert len(ellipses) == 4
    for i, ellipse in enumerate(ellipses):
        k, deviations = divmod(i, 2)
        y = ellipse - means[k]
        distance = np.sqrt(np.einsum("ni,ij,nj->n", y, np.linalg.inv(full[k]), y))
        np.testing.assert_allclose(distance, deviations + 1, rtol=1e-12)
    drawn = [np.asarray(collection.get_offsets()) for collection in ax.collections]
    labels = np.asarray(model.predict(jax.tree.map(jnp.asarray, params), PLANE))
    for k in range(2):
        np.testing.assert_array_equal(drawn[k], PLANE[labels == k])


def area(patches):
    return sum(patch.get_height() * patch.get_width() for patch in patches)


def test_density_of_numbers():
    x = np.concatenate([RANDOM.normal(0, 1, 60), RANDOM.normal(5, 1, 40)])
    params = MixtureParams(np.array([0.6, 0.4]), NormalParams(np.array([0.0, 5.0]), np.array([1.0, 1.0])))
    ax = plot.mixture(Mixture(Normal(), 2), params, x)
    assert abs(area(ax.patches) - 1) < 1e-12 and ax.get_ylabel() == "density"
    *parts, whole = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    np.testing.assert_allclose(sum(part.get_ydata() for part in parts), whole.get_ydata())
    wanted = [0.6, 0.4] @ np.exp(-0.5 * (whole.get_xdata()[None] - np.array([[0.0], [5.0]])) ** 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(whole.get_ydata(), wanted, rtol=1e-9)


def test_probabilities_of_counts():
    model, params, data, _ = case("poisson mixture")
    ax = plot.mixture(model, params, data)
    whole = ax.get_lines()[-1]
    assert ax.get_ylabel() == "probability" and abs(area(ax.patches) - 1) < 1e-12
    np.testing.assert_array_equal(whole.get_xdata(), np.arange(10))
    np.testing.assert_array_equal([patch.get_height() for patch in ax.patches][1], 2 / 8)


def test_weights_in_the_histogram():
    model, params, data, _ = case("weighted")
    ax = plot.mixture(model, params, data)
    assert abs(area(ax.patches) - 1) < 1e-12
    centre = sum(p.get_height() * p.get_width() * (p.get_x() + p.get_width() / 2) for p in ax.patches)
    assert abs(centre - np.average(data.values, weights=data.weights)) < 0.2


def test_one_dimension_of_other_families():
    exponential = MixtureParams(WEIGHTS, ExponentialParams(np.array([1.0, 3.0])))
    assert len(plot.mixture(Mixture(Exponential(), 2), exponential, COUNTS + 0.5).get_lines()) == 3
    column = MixtureParams(WEIGHTS, MultivariateNormalParams(np.array([[1.0], [6.0]]), np.array([[2.0], [2.0]])))
    ax = plot.mixture(Mixture(MultivariateNormal("diag"), 2), column, COUNTS[:, None])
    assert len(ax.get_lines()) == 3


def test_mixture_says_what_it_cannot_draw():
    _, params, data, _ = case("hidden Markov model")
    with pytest.raises(ValueError, match="draws a Mixture; got HMM"):
        plot.mixture(HMM(Poisson(), 2), params, data)
    solid = RANDOM.normal(size=(20, 3))
    params = MixtureParams(WEIGHTS, MultivariateNormalParams(np.zeros((2, 3)), np.ones((2, 3))))
    with pytest.raises(ValueError, match="one dimension, or two of MultivariateNormal; got MultivariateNormal"):
        plot.mixture(Mixture(MultivariateNormal("diag"), 2), params, solid)
    with pytest.raises(ValueError, match="got Bernoulli"):
        bits = (PLANE > 0).astype(float)
        model = Mixture(Bernoulli(), 2)
        plot.mixture(model, model.init(jax.random.key(0), bits), bits)


def test_axes_of_ones_own(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.add_subplot()
    model, params, data, _ = case("poisson mixture")
    assert plot.mixture(model, params, data, ax=ax) is ax
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_no_global_state():
    """Matplotlib's interface with global state is never imported."""
    files = list(Path(plot.__file__).parent.glob("*.py"))
    assert len(files) > 10 and not any("pyplot" in file.read_text() for file in files)


def test_without_matplotlib(monkeypatch):
    model, params, data = CASES["poisson mixture"]()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "jaxem\[plot\]"'):
        plot.mixture(model, params, data)
