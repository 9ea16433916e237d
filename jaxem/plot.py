"""Pictures of traces, of EM's lower bounds, of a mixture and its data, and of class profiles.

They need the extra ``plot`` (matplotlib).

Every function draws on ``ax``, or on a new figure by default, and returns the axes; save with
``ax.figure.savefig("name.png")``. No display is needed, and no global setting of matplotlib is changed.
"""

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound as bounds
from jaxem.core import constraints, tables
from jaxem.core.checks import instance
from jaxem.core.compilation import program
from jaxem.core.contexts import choose
from jaxem.core.conversion import convert
from jaxem.core.data import Data, split_weights
from jaxem.core.model import Params, has, require, spaces_of
from jaxem.core.spaces import Space, answers
from jaxem.core.trees import largest
from jaxem.families import MultivariateNormal
from jaxem.fitting.fit import fit as run_fit
from jaxem.fitting.result import Fit
from jaxem.fitting.validation import check_start
from jaxem.inference.uncertainty.class_profile import Profile
from jaxem.models.mixture import Mixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK = "#222222"
_SOFT = "#8a8a8a"

_POINTS = 400  # points of a drawn curve
_EDGE = 8.0  # longest move in a log or logit coordinate: a factor of 3000
_BATCH = 8  # points evaluated at a time, which limits memory to that many E-steps


def trace(fit: Fit, *, gap: bool = False, ax: "Axes | None" = None) -> "Axes":
    """Draw the objective against the iteration.

    Arguments:
        fit: a ``Fit`` with a trace, (max_steps + 1,), or (lanes, max_steps + 1) for a fit under ``vmap``: one curve for
            each lane.
        gap: whether to draw the distance to the final objective on a log scale instead; default False.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``fit`` is not a ``Fit``, or has no trace because its model has no bound.
        ImportError: matplotlib is not installed.
    """
    instance("plot.trace: the first argument", fit, "a Fit", "trace", "steps")
    if fit.trace is None:
        raise ValueError("plot.trace: the fit has no trace: its model has no bound. Write q_function and entropy.")
    traces = np.asarray(fit.trace).reshape(-1, fit.trace.shape[-1])
    steps = np.asarray(fit.steps).ravel()
    ax = _new_axes((6.0, 4.0)) if ax is None else ax
    for lane, (values, last) in enumerate(zip(traces, steps, strict=True)):
        iterations, values = np.arange(last + 1), values[: last + 1]
        if gap:
            distance = values[-1] - values[:-1]
            iterations, values = iterations[:-1][distance > 0], distance[distance > 0]
        ax.plot(iterations, values, marker="o", markersize=4, color=COLOURS[lane % len(COLOURS)])
    if gap:
        ax.set_yscale("log")
    ax.set_xlabel("iteration")
    ax.set_ylabel("distance to the final objective" if gap else "objective")
    _plain(ax)
    return ax


class _Curves(NamedTuple):
    positions: np.ndarray  # (P,)
    objective: np.ndarray  # (P,), L along the line
    iterates: np.ndarray  # (S + 1,), the positions of theta_0 ... theta_S
    heights: np.ndarray  # (S + 1,), L there
    surrogates: np.ndarray  # (S, P), B(., theta_i)
    reached: np.ndarray  # (S,), max over the line of B(., theta_i)


def bound(
    model: Any,
    params: Params,
    data: Data,
    *,
    along: Params | None = None,
    steps: int = 3,
    span: tuple[float, float] = (-0.3, 1.3),
    ax: "Axes | None" = None,
) -> "Axes":
    r"""Draw EM along a line of parameters: the log-likelihood L and the surrogate B(., theta_i) of each iterate.

    The line is straight in unconstrained coordinates, from ``params`` (position 0) to ``along`` (position 1). EM's own
    iterates do not stay on such a line, so the picture shows generalised EM *restricted to the line*:

    .. math:: \theta_{i+1} = \arg\max_{\theta \text{ on the line}} B(\theta, \theta_i), \qquad
              B(\theta, \theta_i) \le L(\theta), \quad B(\theta_i, \theta_i) = L(\theta_i) .

    A dot marks theta_i, where B(., theta_i) touches L. A ring marks the maximum of B(., theta_i); the next iterate is
    straight above the ring. With a log-prior, both L and B include it.

    The edge of a space (a probability of zero) is at infinity in these coordinates; a line towards it stops short of
    it.

    Arguments:
        model: the model; it needs ``log_likelihood``, ``q_function`` and ``entropy``.
        params: the start of the line, or a ``Fit``.
        data: the data.
        along: the parameters at position 1, or a ``Fit``; default: the end of an EM fit from ``params``.
        steps: the number of iterations to draw, at least 1; default 3.
        span: the first and last position drawn; default (-0.3, 1.3).
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model lacks ``log_likelihood``, ``q_function`` or ``entropy``; ``params`` or ``along`` lie
            outside the model; ``steps`` is less than 1; or the line has no length.
        ImportError: matplotlib is not installed.

    Source: Minka (1998), *Expectation-maximization as lower bound maximization*.
    """
    require(model, "a picture of the bound", "log_likelihood", "q_function", "entropy")
    if steps < 1:
        raise ValueError(f"plot.bound: steps must be at least 1; got {steps}")
    params, data = convert(model, params, data)
    head = run_fit(model, params, data).params if along is None else convert(model, along, data)[0]
    for point in (params, head):
        check_start(model, point, data)
    start, direction = _line(spaces_of(model), params, head)
    if not largest(direction) > 0:
        raise ValueError("plot.bound: the line has no length: both ends are equal. Give other params or along.")
    curves = _Curves(*(np.asarray(part) for part in _curves(model, params, start, direction, data, span, steps)))

    ax = _new_axes((8.0, 5.4)) if ax is None else ax
    low, high = _window(curves)
    name = "log-posterior" if _has_prior(model, params, head) else "log-likelihood"
    ax.plot(curves.positions, curves.objective, color=_INK, linewidth=3.0, zorder=2, label=rf"{name} $L(\theta)$")
    for i, curve in enumerate(curves.surrogates):
        colour, here = COLOURS[i % len(COLOURS)], float(curves.iterates[i])
        ax.plot(curves.positions, curve, color=colour, linewidth=1.6, label=rf"$B(\theta,\,\theta_{i})$", zorder=3)
        ax.plot([here, here], [low, float(curves.heights[i])], color=colour, linewidth=1.0, linestyle=":", zorder=1)
        ax.plot(here, curves.heights[i], "o", color=colour, markersize=8, markeredgecolor="white", zorder=5)
        there, top, above = float(curves.iterates[i + 1]), float(curves.reached[i]), float(curves.heights[i + 1])
        ax.plot([there, there], [top, above], color=colour, linewidth=1.0, zorder=1)
        ax.plot(there, top, "o", color=colour, markersize=7, markerfacecolor="white", markeredgewidth=1.6, zorder=4)
    ax.set_xlim(float(curves.positions[0]), float(curves.positions[-1]))
    ax.set_ylim(low, high)
    _name_iterates(ax, curves.iterates, curves.heights)
    target = "where EM ends" if along is None else "the given parameters"
    ax.set_xlabel(f"position on the line from the start (0) to {target} (1);\ngeneralised EM restricted to this line")
    ax.set_ylabel(name)
    _plain(ax)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(steps + 1, 5), frameon=False)
    return ax


def _line(spaces: Any, params: Params, head: Params) -> tuple[Any, Any]:
    """The coordinates of ``params``, and the direction from there to ``head``, clipped towards an edge."""

    def towards(space: Space, here: Array, there: Array) -> Array:
        far = _EDGE if answers.unit_free(space) else jnp.inf
        return jnp.clip(there - here, -far, far)

    start, end = constraints.inverse(spaces, params), constraints.inverse(spaces, head, params)
    return start, constraints.each(towards, spaces, start, end)


@program(static_argnames=("steps",))
def _curves(
    model: Any, params: Params, start: Any, direction: Any, data: Data, span: Any, steps: int
) -> tuple[Array, ...]:
    """The fields of ``_Curves`` on the line ``start + t direction``, in the chart made at ``params``."""
    spaces = spaces_of(model)

    def at(t: Array) -> Params:
        return constraints.forward(spaces, jax.tree.map(lambda u, d: u + t * d, start, direction), params)

    def height(t: Array) -> Array:
        return bounds.penalized(model, model.log_likelihood(at(t), data), at(t))

    def lower(q: Any, positions: Array) -> Array:
        def one(t: Array) -> Array:
            return bounds.penalized(model, bounds.elbo(model, at(t), q, data), at(t))

        return jax.lax.map(one, positions, batch_size=_BATCH)

    dtype = largest(direction).dtype
    positions = jnp.linspace(jnp.asarray(span[0], dtype), jnp.asarray(span[1], dtype), _POINTS)

    def step(t: Array, _: None) -> tuple[Array, Any]:
        q = model.e_step(at(t), data)
        curve = lower(q, positions)

        def closer(_: Any, best: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            around = jnp.clip(best[0] + best[1] * jnp.linspace(-1, 1, 15, dtype=dtype), positions[0], positions[-1])
            candidates = jnp.append(around, t)  # with theta_i among them B never falls
            values = lower(q, candidates)
            top = _top(values)
            return candidates[top], best[1] / 7, values[top]

        top = _top(curve)
        found = jax.lax.fori_loop(0, 7, closer, (positions[top], positions[1] - positions[0], curve[top]))
        return found[0], (found[0], curve, found[2])

    first = jnp.zeros((), dtype)
    _, (later, surrogates, reached) = jax.lax.scan(step, first, length=steps)
    iterates = jnp.concatenate([first[None], later])
    objective, heights = (jax.lax.map(height, where, batch_size=_BATCH) for where in (positions, iterates))
    return (positions, objective, iterates, heights, surrogates, reached)


def _has_prior(model: Any, *points: Params) -> bool:
    return has(model, "log_prior") and any(bool(model.log_prior(point) != 0) for point in points)


def _top(values: Array) -> Array:
    return jnp.where(jnp.isnan(values), -jnp.inf, values).argmax()


def _window(curves: _Curves) -> tuple[float, float]:
    """Limits of the y axis that show where the curves touch and cut them off far below."""
    top, bottom = np.nanmax(curves.objective), curves.heights.min()
    rise = top - bottom
    return float(bottom - 0.35 * rise), float(top + 0.12 * rise)


def _name_iterates(ax: "Axes", iterates: np.ndarray, heights: np.ndarray) -> None:
    """Write theta_0, theta_1, ... above their dots, except where the labels would overlap."""
    room = 0.04 * float(ax.get_xlim()[1] - ax.get_xlim()[0])
    named: list[float] = []
    for i, (here, there) in enumerate(itertools.pairwise(iterates)):
        if all(abs(here - other) > room for other in named):
            named.append(float(here))
            side = -1 if there >= here else 1  # L is higher on the side of the next iterate
            style: Any = {"color": COLOURS[i % len(COLOURS)], "fontsize": "x-large"}
            place: Any = {"textcoords": "offset points", "ha": "right" if side < 0 else "left", "va": "bottom"}
            ax.annotate(rf"$\theta_{i}$", (here, heights[i]), (3 * side, 5), **place, **style)


def mixture(model: Any, params: Params, data: Data, *, ax: "Axes | None" = None) -> "Axes":
    """Draw a mixture and its data: coloured classes with ellipses in 2-D, a histogram with densities in 1-D.

    In 2-D each point has the colour of its most probable class, and ellipses mark 1 and 2 standard deviations. In 1-D
    the curves are the density of the mixture and the weighted density of each class.

    Arguments:
        model: a ``Mixture``: of ``MultivariateNormal``, in any covariance form, for 2-D data; of any family for 1-D
            data.
        params: its parameters, or a ``Fit``.
        data: (N, 2), or (N,) or (N, 1); they may have weights.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model is not a ``Mixture``, or the data have more than two dimensions, or two with another
            family.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(model, Mixture):
        raise ValueError(f"plot.mixture draws a Mixture; got {type(model).__name__}")
    params, data = convert(model, params, data)
    model.validate(params, data)
    x, weights = split_weights(data)
    if not hasattr(x, "ndim"):
        raise ValueError("plot.mixture draws an array without missing cells; jaxem.plot.profile draws mixed columns")
    dimensions = 1 if x.ndim == 1 else x.shape[1]
    plane = dimensions == 2 and isinstance(model.family, MultivariateNormal)
    if dimensions != 1 and not plane:
        raise ValueError(
            f"plot.mixture draws one dimension, or two of MultivariateNormal; got {type(model.family).__name__} data "
            f"of shape {tuple(x.shape)}"
        )
    draw = _plane if plane else _row
    ax = _new_axes((6.0, 5.0)) if ax is None else ax
    draw(ax, model, params, x, weights)
    _plain(ax)
    return ax


def _plane(ax: "Axes", model: Mixture, params: Any, x: Array, weights: Array | None) -> None:
    labels = np.asarray(model.predict(params, x))
    points = np.asarray(x)
    sizes = np.full(len(points), 18.0) if weights is None else np.asarray(18.0 * weights / weights.mean())
    factors = np.linalg.cholesky(np.asarray(model.family.covariances(params.components)))  # pyright: ignore
    angle = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for k, (mean, factor) in enumerate(zip(np.asarray(params.components.means), factors, strict=True)):
        colour, mine = COLOURS[k % len(COLOURS)], labels == k
        ax.scatter(*points[mine].T, s=sizes[mine], color=colour, alpha=0.55, linewidths=0)
        for deviations, style in ((1, "-"), (2, "--")):
            ax.plot(*(mean[:, None] + deviations * factor @ circle), color=colour, linestyle=style, linewidth=1.6)
        ax.plot(*mean, "+", color=_INK, markersize=10, markeredgewidth=1.6)
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")


def _row(ax: "Axes", model: Mixture, params: Any, x: Array, weights: Array | None) -> None:
    values = np.asarray(x).ravel()
    low, high = values.min(), values.max()
    counts = not bool(model.family.supports(jnp.reshape(jnp.asarray(low + 0.5), (1,) * x.ndim)).all())
    if counts:
        grid = np.arange(low, high + 1)
        bins: Any = np.arange(low, high + 2) - 0.5
    else:
        grid, bins = np.linspace(low, high, _POINTS), "fd" if weights is None else 30
    points = jnp.asarray(grid, x.dtype).reshape(-1, *x.shape[1:])
    table = choose(model.prepare(params, points), lambda c: model.table(c, points))
    parts = np.exp(np.asarray(table)).T  # (K, grid)
    style: Any = {"marker": "o", "markersize": 4} if counts else {}
    ax.hist(values, bins=bins, density=True, weights=weights, color="#d9d9d9", edgecolor="white", label="data")
    for k, part in enumerate(parts):
        ax.plot(grid, part, color=COLOURS[k % len(COLOURS)], linewidth=1.6, label=f"class {k}", **style)
    ax.plot(grid, parts.sum(axis=0), color=_INK, linewidth=2.2, label="mixture", **style)
    ax.set_xlabel("$x$")
    ax.set_ylabel("probability" if counts else "density")
    ax.legend(frameon=False)


def profile(found: Profile, *, ax: "Axes | None" = None) -> "Axes":
    """Draw a class profile: one line for each column or level, one dot with its standard error for each class.

    Probabilities are drawn as they are. The means of any other column are drawn between the ends of a range of its own,
    which stand beside its name. A grey tick marks the value over all classes.

    Arguments:
        found: a ``Profile``, from ``jaxem.inference.profile``.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``found`` is not a ``Profile``.
        ImportError: matplotlib is not installed.
    """
    instance("plot.profile: the first argument", found, "a Profile", "sizes", "means", "errors", "bounded")
    k, lines = len(found.sizes), np.arange(len(found.columns))
    ax = _new_axes((7.0, 1.2 + 0.3 * len(lines))) if ax is None else ax
    errors = np.where(np.isfinite(found.errors), found.errors, 0)
    low, high = (found.means - 2 * errors).min(axis=1), (found.means + 2 * errors).max(axis=1)
    low, high = np.where(found.bounded, 0, low), np.where(found.bounded, 1, high)
    width = np.where(high > low, high - low, 1)
    for j in range(k):
        place = lines + 0.5 * ((j + 0.5) / k - 0.5)
        colour, name = COLOURS[j % len(COLOURS)], f"class {j} ({100 * found.sizes[j]:.0f} %)"
        style: Any = {"color": colour, "markersize": 5, "linewidth": 1.4, "label": name}
        ax.errorbar((found.means[:, j] - low) / width, place, xerr=errors[:, j] / width, fmt="o", **style)
    ax.plot((found.overall - low) / width, lines, "|", color=_SOFT, markersize=12, zorder=0)
    ranges = zip(found.columns, found.levels, found.bounded, low, high, strict=True)
    ends = lambda low, high: " to ".join(tables.numbers((low, high), 3))
    names = [
        f"{column}: {level}" if level is not None else column if bounded else f"{column}, {ends(low, high)}"
        for column, level, bounded, low, high in ranges
    ]
    ax.set_yticks(lines, names)
    ax.set(xlim=(-0.02, 1.02), ylim=(len(lines) - 0.5, -0.5), xlabel="probability, or place in the range of the column")
    starts = [i for i in lines[1:] if found.columns[i] != found.columns[i - 1]]
    ax.hlines(np.array(starts) - 0.5, -0.02, 1.02, color="#e5e5e5", linewidth=0.8, zorder=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(k, 3), frameon=False)
    _plain(ax)
    return ax


def _new_axes(size: tuple[float, float]) -> "Axes":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('jaxem.plot needs matplotlib: pip install "jaxem[plot]"') from error
    return Figure(figsize=size, dpi=150, layout="constrained").add_subplot()


def _plain(ax: "Axes") -> None:
    ax.spines[["top", "right"]].set_visible(False)
