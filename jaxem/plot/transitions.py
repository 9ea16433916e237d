"""The moves between the states of a Markov chain, as a graph or as a map."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxem.core.checks import number
from jaxem.core.conversion import as_params
from jaxem.core.model import Params
from jaxem.plot.data import bare
from jaxem.plot.style import INK, class_names, heat, look, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RADIUS = 0.3  # of a state, where states stand on a circle of radius one


def transitions(
    model: Any,
    params: Params,
    *,
    kind: Literal["graph", "map"] = "graph",
    least: float = 0.005,
    names: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the transition matrix: states as circles with arrows between them, or a heat map.

    In the graph the area of a circle grows with the stationary probability of its state, and the width of an arrow with
    its probability, which is written beside it. Above six states the map is easier to read.

    Arguments:
        model: an ``HMM`` whose moves are the same at all steps.
        params: its parameters, or a ``Fit``.
        kind: ``"graph"`` (default) or ``"map"``, with a row for each state that is left.
        least: the graph leaves out arrows of a lower probability; default 0.005.
        names: a name for each state; default: state 0, state 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model has no transition matrix, or one for each step; ``kind`` or ``least`` is not valid; or
            parameters and names do not fit the model.
        ImportError: matplotlib is not installed.
    """
    if kind not in ("graph", "map"):
        raise ValueError(f"plot.transitions: kind must be 'graph' or 'map'; got {kind!r}")
    number("plot.transitions: least", least, 0, 1)
    params, model = as_params(model, params), bare(model)
    if not hasattr(model, "moves"):
        raise ValueError(f"plot.transitions draws an HMM; got {type(model).__name__}")
    model.check_shapes(params, None)
    if not model.moves.homogeneous:
        raise ValueError("plot.transitions needs the same moves at all steps; here they depend on covariates")
    A = np.asarray(model.moves.probability(params.transition))
    called = class_names(model.k, names, "transitions", "state")
    if kind == "map":
        ax = new_axes(ax, (1.6 + 0.8 * model.k, 1.2 + 0.6 * model.k))
        heat(ax, A, 1.0, [[f"{p:.2f}" if p >= 0.005 else f"{p:.0e}" if p > 0 else "0" for p in row] for row in A])
        ax.set_xticks(range(model.k), called, rotation=30 if model.k > 4 else 0)
        ax.set_yticks(range(model.k), called)
        ax.set(xlabel="to", ylabel="from")
        return ax
    ax = new_axes(ax, (5.0, 5.0))
    _graph(ax, A, np.asarray(model.stationary(params)), called, least)
    return ax


def _graph(ax: "Axes", A: np.ndarray, shares: np.ndarray, called: list[str], least: float) -> None:
    from matplotlib.patches import Circle

    k = len(A)
    angle = np.pi / 2 - 2 * np.pi * np.arange(k) / k if k > 2 else np.pi - np.pi * np.arange(k)
    places = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1.0 if k > 1 else 0.0)
    shares = np.where(np.isfinite(shares), shares, 1 / k)
    scale = min(1.0, 2.2 / k)  # circles of many states are smaller, so that arrows have room
    radii = _RADIUS * scale * (0.6 + 0.6 * np.sqrt(shares / shares.max()))
    for i, (place, radius, name) in enumerate(zip(places, radii, called, strict=True)):
        own = look(i)
        style: Any = {"facecolor": "white", "edgecolor": own.colour, "linestyle": own.dashes, "linewidth": 2.4}
        ax.add_patch(Circle(tuple(place), radius, zorder=3, **style))
        text = name.removeprefix("state ")
        ax.text(
            place[0],
            place[1],
            text,
            ha="center",
            va="center",
            zorder=4,
            fontsize="large" if len(text) < 4 else "small" if len(text) < 8 else "xx-small",
        )
        if A[i, i] >= least:
            _loop(ax, i, place, angle[i] if k > 1 else np.pi / 2, radius, A[i, i])
    for i, j in itertools.permutations(range(k), 2):
        if A[i, j] >= least:
            _arrow(ax, i, places[i], places[j], radii[i], radii[j], A[i, j])
    room = 2.4 * radii.max()
    low, high = places.min(axis=0) - room, places.max(axis=0) + room
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    ax.set_axis_off()


def _width(p: float) -> float:
    return 0.8 + 2.0 * p


def _says(p: float) -> str:
    return f"{p:.2f}" if p < 0.995 or p == 1 else f"{p:.4f}"


def _write(ax: "Axes", place: np.ndarray, p: float) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9}
    ax.text(place[0], place[1], _says(p), ha="center", va="center", fontsize="small", color=INK, bbox=box, zorder=5)


def _arrow(ax: "Axes", i: int, a: np.ndarray, b: np.ndarray, ra: float, rb: float, p: float) -> None:
    """An arc from the circle around a to that around b, to the left of the line between them."""
    from matplotlib.patches import FancyArrowPatch

    ahead = (b - a) / np.linalg.norm(b - a)
    side, turn = np.array([-ahead[1], ahead[0]]), 0.4
    leave, enter = (np.cos(turn) * ahead + np.sin(turn) * side, -np.cos(turn) * ahead + np.sin(turn) * side)
    start, end = a + ra * leave, b + rb * enter
    bend = 0.16  # share of the length by which the control point lies off the line
    middle = (start + end) / 2 + bend * np.linalg.norm(end - start) * side
    own, width = look(i), _width(p)
    style: Any = {"color": own.colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12}
    ax.add_patch(
        FancyArrowPatch(
            tuple(start), tuple(end), arrowstyle="-|>", connectionstyle=f"arc3,rad={-bend}", zorder=2, **style
        )
    )
    t = 0.36  # nearer to where the arrow begins, so that texts of crossing arrows lie apart
    _write(ax, (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end, p)


def _loop(ax: "Axes", i: int, place: np.ndarray, angle: float, radius: float, p: float) -> None:
    """An arrow from a state to itself, on its outer side."""
    from matplotlib.patches import FancyArrowPatch

    on = lambda turn: place + radius * np.array([np.cos(angle + turn), np.sin(angle + turn)])
    own, width = look(i), _width(p)
    style: Any = {"color": own.colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12}
    ax.add_patch(
        FancyArrowPatch(
            tuple(on(0.55)), tuple(on(-0.55)), arrowstyle="-|>", connectionstyle="arc3,rad=-1.5", zorder=2, **style
        )
    )
    _write(ax, place + 1.95 * radius * np.array([np.cos(angle), np.sin(angle)]), p)
