"""EM's lower bounds on the log-likelihood, along a line of parameters."""

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound as bounds
from jaxem.core import constraints
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.data import Data
from jaxem.core.model import Params, has, require, spaces_of
from jaxem.core.spaces import Space, answers
from jaxem.core.trees import largest
from jaxem.fitting.fit import fit as run_fit
from jaxem.fitting.validation import check_start
from jaxem.plot.style import COLOURS, INK, POINTS, legend_above, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EDGE = 8.0  # longest move in a log or logit coordinate: a factor of 3000
_BATCH = 8  # points evaluated at a time, which limits memory to that many E-steps


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

    ax = new_axes(ax, (8.0, 5.4))
    low, high = _window(curves)
    name = "log-posterior" if _has_prior(model, params, head) else "log-likelihood"
    ax.plot(curves.positions, curves.objective, color=INK, linewidth=3.0, zorder=2, label=rf"{name} $L(\theta)$")
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
    legend_above(ax, min(steps + 1, 5))
    return plain(ax)


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
    positions = jnp.linspace(jnp.asarray(span[0], dtype), jnp.asarray(span[1], dtype), POINTS)

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
