"""Pictures of models of several kinds: what is drawn is what the model says, read back from the axes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import jaxem
from jaxem import inference, plot
from jaxem.families import (
    MultivariateNormal,
    MultivariateNormalParams,
    MultivariateStudentT,
    MultivariateStudentTParams,
    Normal,
    NormalParams,
    Poisson,
    PoissonParams,
)
from jaxem.fitting import Fit, Status
from jaxem.inference import Candidate, Selection, Separation
from jaxem.inference.residuals import Residuals
from jaxem.inference.uncertainty.class_profile import Profile
from jaxem.inference.uncertainty.summary import Summary
from jaxem.models import HMM, HMMParams, ItemResponse, Mixture, MixtureParams, local_level
from jaxem.plot.style import look

RANDOM = np.random.default_rng(0)
WEIGHTS = np.array([0.4, 0.6])
SOLID = RANDOM.normal(size=(60, 3)) + np.where(np.arange(60) < 25, 0.0, 4.0)[:, None]
MEANS = np.array([[0.0, 0, 0], [4, 4, 4]])
SPREADS = np.array([[[1.0, 0.3, 0], [0.3, 2, 0.1], [0, 0.1, 1]], np.eye(3)])
NAMES = ["height", "width", "depth"]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def curves(ax):
    return [line.get_xydata() for line in ax.get_lines() if len(line.get_xydata()) > 100]


# Mixtures


@pytest.mark.slow
def test_pairs():
    """Ellipses of each panel are those of the marginal, and densities those of the column."""
    holes = np.where(RANDOM.random(SOLID.shape) < 0.1, np.nan, SOLID)
    holes[np.isnan(holes).all(axis=1)] = SOLID[np.isnan(holes).all(axis=1)]
    data = jaxem.dataset(pd.DataFrame(holes, columns=NAMES), missing="nan", weights=np.arange(1.0, 61))
    model = Mixture(MultivariateNormal(), 2)
    params = MixtureParams(WEIGHTS, MultivariateNormalParams(MEANS, SPREADS))
    axes = plot.pairs(model, params, data, names=["small", "large"])
    labels = np.asarray(model.predict(jax.tree.map(jnp.asarray, params), data))
    assert axes.shape == (3, 3)
    for i in range(3):
        for j in set(range(3)) - {i}:
            drawn = curves(axes[i, j])
            assert len(drawn) == 4
            for place, line in enumerate(drawn):
                k, deviations = divmod(place, 2)
                y, S = line - MEANS[k, [j, i]], SPREADS[k][np.ix_([j, i], [j, i])]
                np.testing.assert_allclose(np.einsum("ni,ij,nj->n", y, np.linalg.inv(S), y), (deviations + 1) ** 2)
            seen = ~np.isnan(holes[:, [i, j]]).any(axis=1)
            for k, points in enumerate(axes[i, j].collections):
                found = np.asarray(points.get_offsets())
                np.testing.assert_array_equal(found[~np.isnan(found[:, 0])], holes[seen & (labels == k)][:, [j, i]])
        *parts, whole = curves(axes[i, i])
        x = whole[:, 0]
        wanted = [w * st.norm(m[i], S[i, i] ** 0.5).pdf(x) for w, m, S in zip(WEIGHTS, MEANS, SPREADS, strict=True)]
        for part, density in zip([*parts, whole], [*wanted, sum(wanted)], strict=True):
            np.testing.assert_allclose(part[:, 1], density, rtol=1e-9)
        assert axes[i, 0].get_ylabel() == NAMES[i] and axes[2, i].get_xlabel() == NAMES[i]
        assert len({axes[row, i].get_xlim() for row in range(3)}) == 1
    assert [text.get_text() for text in axes[0, 0].figure.legends[0].get_texts()] == ["small", "large"]
    few = plot.pairs(model, params, data, columns=["depth", 0])
    assert few.shape == (2, 2) and few[1, 1].get_xlabel() == "height" and few[0, 0].get_ylabel() == "depth"


def test_pairs_say_what_is_wrong():
    model, params = Mixture(MultivariateNormal(), 2), MixtureParams(WEIGHTS, MultivariateNormalParams(MEANS, SPREADS))
    with pytest.raises(ValueError, match="there is no column 'weight'; the columns are"):
        plot.pairs(model, params, SOLID, columns=["weight"])
    with pytest.raises(ValueError, match="ax must be an array of 3 x 3 axes"):
        plot.pairs(model, params, SOLID, ax=Figure().subplots(2, 2))
    with pytest.raises(ValueError, match="names must be 2 texts"):
        plot.pairs(model, params, SOLID, names=["one"])
    with pytest.raises(ValueError, match="draws MultivariateNormal or MultivariateStudentT; got Normal"):
        plot.pairs(Mixture(Normal(), 2), MixtureParams(WEIGHTS, NormalParams(WEIGHTS, WEIGHTS)), SOLID[:, 0])


@pytest.mark.everything
def test_densities_of_t():
    model = Mixture(MultivariateStudentT(freedom=4.0), 2)
    params = MixtureParams(WEIGHTS, MultivariateStudentTParams(MEANS, SPREADS))
    axes = plot.pairs(model, params, SOLID, columns=[1])
    whole = curves(axes[0, 0])[-1]
    parts = [
        w * st.t(4, m[1], S[1, 1] ** 0.5).pdf(whole[:, 0]) for w, m, S in zip(WEIGHTS, MEANS, SPREADS, strict=True)
    ]
    np.testing.assert_allclose(whole[:, 1], sum(parts), rtol=1e-9)


def test_many_points_are_thinned_and_lone_cells_stand_at_the_axis():
    x = RANDOM.normal(size=(6000, 2))
    x[:7, 0], x[7:9, 1] = np.nan, np.nan
    data = jaxem.dataset(x, missing="nan")
    params = MixtureParams(np.ones(1), MultivariateNormalParams(np.zeros((1, 2)), np.eye(2)[None]))
    model = Mixture(MultivariateNormal(), 1)
    first, again = (plot.mixture(model, params, data) for _ in range(2))
    for one, other in zip(first.collections, again.collections, strict=True):
        np.testing.assert_array_equal(one.get_offsets(), other.get_offsets())
    assert len(first.collections[0].get_offsets()) == 4000 and texts(first) == ["4,000 of 6,000 points"]
    rugs = {line.get_marker(): line.get_xydata() for line in first.get_lines() if line.get_marker() in "|_"}
    assert set(rugs["_"][:, 1]) <= set(x[:7, 1]) and set(rugs["|"][:, 0]) <= set(x[7:9, 0])


def test_ten_classes_differ_without_colour():
    looks = [look(k) for k in range(10)]
    for part in ("marker", "dashes", "hatch"):
        assert len({str(getattr(one, part)) for one in looks}) == 10
    means = 3.0 * np.arange(10)
    model = Mixture(Normal(), 10)
    ax = plot.mixture(model, MixtureParams(np.full(10, 0.1), NormalParams(means, np.ones(10))), means)
    assert len(ax.get_legend().get_texts()) == 12
    greys = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour in plot.COLOURS]
    assert max(greys) < 0.75  # none vanishes on white


def test_counts_of_a_wide_range_and_an_outlier_do_not_make_a_million_bars():
    model = Mixture(Poisson(), 2)
    x = np.r_[RANDOM.poisson(3, 300), 100_000.0]
    ax = plot.mixture(model, MixtureParams(WEIGHTS, PoissonParams(np.array([3.0, 1e5]))), x)
    assert len(ax.patches) <= 200 and sum(p.get_height() * p.get_width() for p in ax.patches) == pytest.approx(1)


# Class profiles and the classification


def a_profile():
    means, overall = np.array([[0.2, 0.9], [30.0, 50.0]]), np.array([0.55, 40.0])
    columns, levels, bounded = ("vote", "age"), ("Bush", None), np.array([True, False])
    errors, sizes = np.array([[0.05, 0.1], [2.0, np.nan]]), np.array([0.5, 0.5])
    return Profile(sizes, sizes / 9, columns, levels, means, errors, overall, overall, 0 * overall, bounded, 100.0)


def test_profiles():
    found = a_profile()
    bars = plot.profile(found, kind="bars", names=["old", "new"])
    widths = np.array([[bar.get_width() for bar in box] for box in bars.containers if hasattr(box, "patches")])
    # Age lies between 30 - 2 x 2 and 50.
    np.testing.assert_allclose(widths, [[0.2, 4 / 24], [0.9, 1.0]])
    assert [label.get_text() for label in bars.get_yticklabels()] == ["vote: Bush", "age, 26 to 50"]
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["old (50 %)", "new (50 %)"]
    cells = plot.profile(found, kind="map")
    np.testing.assert_allclose(cells.images[0].get_array(), [[0.2, 0.9], [0, 1]])
    assert texts(cells) == ["0.20", "0.90", "30", "50"]
    with pytest.raises(ValueError, match="kind must be 'points', 'bars' or 'map'"):
        plot.profile(found, kind="pie")


def test_responsibilities_and_separation():
    x, w = np.array([2.4, -1.0, 5.0, 0.2, 2.6]), np.array([1.0, 2, 1, 1, 3])
    model, params = Mixture(Normal(), 2), MixtureParams(WEIGHTS, NormalParams(np.array([0.0, 5]), np.array([1.0, 4])))
    data = jaxem.dataset(x, weights=w)
    r = np.asarray(model.predict_proba(params, data))
    image = plot.responsibilities(model, params, data).images[0].get_array()
    order = sorted(range(5), key=lambda n: (r[n].argmax(), -r[n].max()))
    np.testing.assert_array_equal(image, r[order].T)
    bars = plot.certainty(model, params, data).containers
    for k, box in enumerate(bars):
        share = sum(bar.get_height() for bar in box)
        assert share == pytest.approx(w[r.argmax(axis=1) == k].sum() / 8)
    assert bars[0][0].get_x() == 0.5
    ax = plot.separation(Separation(np.array([0.3, 0.7]), np.array([[0.9, 0.1], [np.nan, np.nan]]), 0.5))
    assert texts(ax) == ["0.90", "0.10", "–", "–"] and ax.get_title() == "relative entropy 0.50"


# States in time

PI, A = np.array([0.6, 0.4]), np.array([[0.9, 0.1], [0.3, 0.7]])
CHAIN, AT = HMM(Poisson(), 2), HMMParams(PI, A, PoissonParams(np.array([1.0, 9.0])))
STEPS = [np.array([0.0, 1, np.nan, 9, 8, 11, 1, 0]), np.array([9.0, 8, 0])]
SEQUENCES = jaxem.dataset(STEPS, missing="nan")


def test_path():
    years = 1900 + 2 * np.arange(8)
    ax = plot.path(CHAIN, AT, SEQUENCES, times=years, names=["calm", "busy"])
    path = np.asarray(CHAIN.predict(AT, SEQUENCES))[0]
    drawn = np.zeros(8, int) - 1
    for patch in ax.patches:
        inside = (years >= patch.get_x()) & (years <= patch.get_x() + patch.get_width())
        drawn[inside] = [to_rgb(look(k).colour) for k in range(2)].index(patch.get_facecolor()[:3])
    np.testing.assert_array_equal(drawn, path)
    heights = {segment[0, 1] for lines in ax.collections for segment in lines.get_segments()}
    assert heights == {1.0, 9.0}
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), STEPS[0])  # with its gap
    np.testing.assert_array_equal(line.get_xdata(), years)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"calm", "busy"}
    short = plot.path(CHAIN, AT, SEQUENCES, sequence=1)
    assert short.get_xlim() == (-0.5, 2.5)  # it ends where it ends


def test_states_fill_the_band():
    ax = plot.states(CHAIN, AT, SEQUENCES)
    p = np.asarray(CHAIN.predict_proba(AT, SEQUENCES))[0]
    for k, band in enumerate(ax.collections):
        corners = band.get_paths()[0].vertices
        for t in range(8):
            inside = corners[np.abs(corners[:, 0] - t) <= 0.5, 1]
            low, high = p[t, :k].sum(), p[t, : k + 1].sum()
            for end in (low, high):
                assert np.abs(inside - end).min() < 1e-12
    assert len(ax.collections) == 2 and ax.get_ylim() == (0, 1)


def test_transitions():
    from matplotlib.patches import Circle, FancyArrowPatch

    T = np.array([[0.9, 0.1, 0.0], [0.3, 0.697, 0.003], [0.25, 0.25, 0.5]])
    model, params = HMM(Poisson(), 3), HMMParams(np.full(3, 1 / 3), T, PoissonParams(np.arange(1.0, 4)))
    ax = plot.transitions(model, params)
    circles = [patch for patch in ax.patches if isinstance(patch, Circle)]
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(circles) == 3 and len(arrows) == 7
    assert sorted(texts(ax)) == sorted(["0", "1", "2", "0.90", "0.10", "0.30", "0.70", "0.25", "0.25", "0.50"])
    shares = np.asarray(model.stationary(params))
    assert np.argsort([circle.radius for circle in circles]).tolist() == np.argsort(shares).tolist()
    wide = {arrow.get_linewidth() for arrow in arrows}
    assert max(wide) == next(a.get_linewidth() for a in arrows if to_rgb(a.get_edgecolor()) == to_rgb(look(0).colour))
    assert len([1 for p in plot.transitions(model, params, least=0.002).patches if isinstance(p, FancyArrowPatch)]) == 8
    cells = plot.transitions(model, params, kind="map", names=["a", "b", "c"])
    np.testing.assert_array_equal(cells.images[0].get_array(), T)
    assert texts(cells)[5] == "3e-03" and [t.get_text() for t in cells.get_yticklabels()] == ["a", "b", "c"]


def test_chains_say_what_is_wrong():
    mixture = Mixture(Normal(), 2), MixtureParams(WEIGHTS, NormalParams(WEIGHTS, WEIGHTS))
    for picture in (plot.path, plot.states):
        with pytest.raises(ValueError, match="draws the states of sequences; got Mixture"):
            picture(*mixture, np.ones(4))
    with pytest.raises(ValueError, match="draws an HMM; got Mixture"):
        plot.transitions(*mixture)
    with pytest.raises(ValueError, match="sequence must be one of 0 to 1; got 2"):
        plot.path(CHAIN, AT, SEQUENCES, sequence=2)
    with pytest.raises(ValueError, match=r"column must be a place from 0 to 0 or one of \['\$x\$'\]"):
        plot.path(CHAIN, AT, SEQUENCES, column="y")
    with pytest.raises(ValueError, match="times must have a value for each of 8 steps"):
        plot.states(CHAIN, AT, SEQUENCES, times=[1, 2])


@pytest.mark.slow
def test_smoothed_bands_are_those_of_the_joint_normal_distribution():
    """Against conditioning in the joint distribution of level and observations, with a gap and a forecast."""
    t, horizon = 12, 3
    y = np.cumsum(RANDOM.normal(size=t)) + RANDOM.normal(size=t)
    y[4:7] = np.nan
    model = local_level(initial=([0.0], [[4.0]]))
    start = model.init(jax.random.key(0), jaxem.dataset(y[None, :, None], missing="nan"))
    params = start._replace(process=jnp.array([0.5]), noise=jnp.array([2.0]))
    years = 1950 + np.arange(t)
    frame = pd.DataFrame({"flow": y})
    data = jaxem.dataset([frame], missing="nan")
    ax = plot.smoothed(model, params, data, horizon=horizon, times=years, level=0.8)
    n = t + horizon
    level = 4.0 + 0.5 * np.minimum.outer(np.arange(n), np.arange(n))
    seen = np.flatnonzero(~np.isnan(y))
    gain = level[:, seen] @ np.linalg.inv(level[np.ix_(seen, seen)] + 2 * np.eye(len(seen)))
    means, spread = gain @ y[seen], np.diagonal(level - gain @ level[seen]).copy()
    spread[t:] += 2.0  # a forecast is one of observations
    past, ahead, dots = ax.get_lines()
    np.testing.assert_allclose(past.get_ydata(), means[:t], atol=1e-10)
    np.testing.assert_allclose(ahead.get_ydata(), means[t:], atol=1e-10)
    np.testing.assert_array_equal(ahead.get_xdata(), [1962, 1963, 1964])
    np.testing.assert_array_equal(dots.get_ydata(), y)
    half = st.norm.ppf(0.9) * np.sqrt(spread)
    for band, part in zip(ax.collections, (slice(0, t), slice(t, n)), strict=True):
        corners = band.get_paths()[0].vertices
        for place, x in enumerate(np.r_[years, 1962:1965][part]):
            ends = np.unique(corners[corners[:, 0] == x, 1])
            wanted = means[part][place] + half[part][place] * np.array([-1, 1])
            np.testing.assert_allclose([ends.min(), ends.max()], wanted, atol=1e-10)
    assert ax.get_ylabel() == "flow" and "forecast, 80 %" in ax.get_legend_handles_labels()[1]
    (state,) = plot.smoothed(model, params, data, state=0).get_lines()
    np.testing.assert_allclose(state.get_ydata(), means[:t], atol=1e-10)


# Fits


def candidate(model, bic, status=Status.CONVERGED):
    fit = Fit(None, jnp.array(0.0), None, jnp.array(1), jnp.array(1), jnp.array(0), jnp.int32(status))
    return Candidate(str(model), model, fit, 3, 0.0, {"aic": bic - 1, "bic": bic}, 1)


def test_selection():
    values = {("full", 1): 9.0, ("full", 2): 5.0, ("full", 3): 6.0, ("tied", 1): 9.0, ("tied", 2): 7.0}
    made = [candidate(Mixture(MultivariateNormal(form), k), bic) for (form, k), bic in values.items()]
    made.append(candidate(Mixture(MultivariateNormal("tied"), 3), 1.0, Status.DEGENERATE))  # it does not count
    ax = plot.selection(Selection(tuple(made), "bic", 5))
    full, _, tied, failed, best = ax.get_lines()
    np.testing.assert_array_equal(full.get_xydata(), [[1, 9], [2, 5], [3, 6]])
    np.testing.assert_array_equal(tied.get_ydata(), [9, 7, np.nan])
    assert failed.get_xdata().tolist() == [3] and best.get_xydata().tolist() == [[2, 5]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["full", "tied"]
    assert ax.get_ylabel() == "BIC (lower is better)"
    assert plot.selection(Selection(tuple(made), "bic", 5), criterion="aic").get_lines()[0].get_ydata()[0] == 8
    named = plot.selection(Selection((candidate(local_level(), 3.0), made[0]), "bic", 5))  # one has no K
    assert named.get_lines()[0].get_xdata().tolist() == [0, 1] and len(named.get_xticklabels()) == 2
    with pytest.raises(ValueError, match=r"criterion must be one of \['aic', 'bic'\]; got 'icl'"):
        plot.selection(Selection(tuple(made), "bic", 5), criterion="icl")


def a_fit(trace, steps, status, left):
    numbers = (jnp.asarray(part) for part in (steps, steps, steps))
    return Fit(None, jnp.asarray(trace)[..., 0], jnp.asarray(trace), *numbers, jnp.asarray(status), jnp.asarray(left))


def test_convergence():
    limit, trace = 10.0, 10 - 2.0 ** -np.arange(6.0)
    fit = a_fit(np.r_[trace, np.nan], 5, 0, limit - trace[-1])
    curve, level = plot.convergence(fit).get_lines()
    np.testing.assert_allclose(curve.get_ydata(), 2.0 ** -np.arange(6.0), rtol=1e-14)  # a straight line, to its end
    assert level.get_ydata()[0] == 2.0**-5
    assert [curve.get_label(), level.get_label()] == ["CONVERGED after 5 steps", "about 0.03 left"]
    unknown = plot.convergence(dataclasses.replace(fit, left=jnp.array(math.nan)))
    assert len(unknown.get_lines()) == 1 and len(unknown.get_lines()[0].get_xdata()) == 5  # the last point is at zero
    both = a_fit(np.stack([trace, trace]), np.array([5, 3]), np.array([0, 1]), np.array([1.0, 2.0]))
    ax = plot.convergence(both)
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [6, 4]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"CONVERGED (1)", "MAX_STEPS (1)"}
    with pytest.raises(ValueError, match="no objective"):
        plot.convergence(dataclasses.replace(fit, trace=None))


def test_intervals():
    values = np.array([1.0, 2.0, 3.0])
    names = ("weights[0]", "means[0]", "means[1]")
    found = Summary(names, values, values, values - [1, 3, np.nan], values + 1, 0.9, None, None, 3)
    ax = plot.intervals(found, only="means")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["means[0]", "means[1]"]
    (segment,) = ax.collections[0].get_segments()
    np.testing.assert_array_equal(segment, [[-1, 0], [3, 0]])
    known, held, _ = ax.get_lines()
    assert known.get_xdata() == [2] and held.get_xdata() == [3] and held.get_markerfacecolor() == "none"
    assert ax.get_xlabel() == "estimate, 90 % interval"
    with pytest.raises(ValueError, match="no name contains 'tails'"):
        plot.intervals(found, only="tails")


# Residuals


def some_residuals():
    z = np.array([[0.5, np.nan, -1.0], [2.0, 0.1, np.nan]])
    return Residuals(z, np.where(np.isnan(z), np.nan, st.norm.cdf(z)), np.array([1.0, 3.0]), "forecast")


def test_pp_and_qq():
    found = some_residuals()
    z, w = np.array([-1.0, 0.1, 0.5, 2.0]), np.array([1.0, 3, 1, 3])
    _, line = plot.pp(found).get_lines()
    np.testing.assert_allclose(line.get_xdata(), np.r_[0, st.norm.cdf(z), 1])
    np.testing.assert_allclose(line.get_ydata(), np.r_[0, np.cumsum(w) / 8, 1])
    _, dots = plot.qq(found).get_lines()
    np.testing.assert_allclose(dots.get_xdata(), st.norm.ppf((np.cumsum(w) - w / 2) / 8))
    np.testing.assert_array_equal(dots.get_ydata(), z)
    ax = plot.residuals(found)
    np.testing.assert_array_equal(ax.get_lines()[-1].get_ydata(), [0.5, -1, 2, 0.1])
    assert ax.get_ylabel() == "forecast residual"
    nothing = dataclasses.replace(found, values=np.full((2, 3), np.nan))
    for picture in (plot.pp, plot.qq, plot.residuals):
        with pytest.raises(ValueError, match="there is no residual"):
            picture(nothing)


# A test


def test_items():
    model = ItemResponse("graded", (3, 2))
    a, b = np.array([1.5, 0.8]), (np.array([1.0, -0.5]), np.array([0.3]))
    params = jax.tree.map(jnp.asarray, type(model.declare())(a, b))
    F = lambda u: 1 / (1 + np.exp(-u))
    t = plot.item_curves(model, params).get_lines()[0].get_xdata()
    above = F(a[0] * t[:, None] + b[0])
    levels = np.stack([1 - above[:, 0], above[:, 0] - above[:, 1], above[:, 1]])
    for line, p in zip(plot.item_curves(model, params, item=0).get_lines(), levels, strict=True):
        np.testing.assert_allclose(line.get_ydata(), p, atol=1e-13)
    first, second = plot.item_curves(model, params, names=["a", "b"]).get_lines()
    np.testing.assert_allclose(first.get_ydata(), above.sum(axis=1) / 2, atol=1e-13)
    p = F(a[1] * t + b[1][0])
    np.testing.assert_allclose(second.get_ydata(), p, atol=1e-13)
    one, two, test = plot.item_information(model, params).get_lines()
    np.testing.assert_allclose(two.get_ydata(), a[1] ** 2 * p * (1 - p), rtol=1e-12)  # of two levels: a^2 p (1 - p)
    slopes = a[0] * above * (1 - above)
    slopes = np.stack([-slopes[:, 0], slopes[:, 0] - slopes[:, 1], slopes[:, 1]])
    np.testing.assert_allclose(one.get_ydata(), (slopes**2 / levels).sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(test.get_ydata(), one.get_ydata() + two.get_ydata())
    with pytest.raises(ValueError, match="item must be one of 0 to 1; got 2"):
        plot.item_curves(model, params, item=2)


def test_abilities():
    model = ItemResponse()
    params = jax.tree.map(jnp.asarray, type(model.declare())(np.array([1.0, 2]), np.array([0.0, 0.5])))
    x, w = np.array([[1.0, 1], [0, 0], [1, 0]]), np.array([1.0, 2, 5])
    ax = plot.abilities(model, params, jaxem.dataset(x, weights=w), level=0.5)
    means, deviations = (np.asarray(part) for part in model.abilities(params, x))
    order = np.argsort(means)
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_ydata(), means[[*order, order[-1]]])
    np.testing.assert_allclose(line.get_xdata(), np.r_[0, np.cumsum(w[order]) / 8])
    corners = ax.collections[0].get_paths()[0].vertices
    ends = corners[np.abs(corners[:, 0] - 0.1) < 0.16, 1]  # of the first person in order
    half = st.norm.ppf(0.75) * deviations[order[0]]
    assert np.abs(ends - (means[order[0]] - half)).min() < 1e-9 > np.abs(ends - (means[order[0]] + half)).min()
    with pytest.raises(ValueError, match="draws an ItemResponse; got HMM"):
        plot.abilities(CHAIN, AT, SEQUENCES)


@pytest.mark.slow
def test_restricted_models_are_drawn_as_what_they_restrict():
    held = jaxem.restrict(CHAIN, fixed={"transition[1, 0]": 0.3})
    ax = plot.states(held, AT, SEQUENCES)
    wanted = plot.states(CHAIN, AT, SEQUENCES)
    for one, other in zip(ax.collections, wanted.collections, strict=True):
        np.testing.assert_array_equal(one.get_paths()[0].vertices, other.get_paths()[0].vertices)
    assert inference.residuals(held, AT, SEQUENCES).distance == inference.residuals(CHAIN, AT, SEQUENCES).distance
