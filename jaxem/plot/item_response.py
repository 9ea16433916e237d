"""A test and those who took it: curves and information of its items, and the abilities of persons."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxem.core.checks import number, whole_number
from jaxem.core.conversion import names_of
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.plot.data import bare, read, weights_of
from jaxem.plot.style import COLOURS, INK, class_names, look, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRID = np.linspace(-3.5, 3.5, 141)  # abilities, in standard deviations of the population


def item_curves(
    model: Any,
    params: Params,
    *,
    item: int | None = None,
    names: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""Draw item characteristic curves: what is answered at each ability.

    Without ``item`` there is a curve for each item: the expected answer as a share of the highest level, which is the
    probability of a right answer where items have two levels. With ``item`` there is one for each of its levels,

    .. math:: P(x_d = l \mid t), \quad l = 0, 1, \dots

    Arguments:
        model: an ``ItemResponse``.
        params: its parameters, or a ``Fit``.
        item: the place of one item, from 0 on; default: all.
        names: a name for each item, or with ``item`` for each of its levels; default: the columns of the data frame of
            a ``Fit``, else item 0, item 1, ...; level 0, level 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model is no ``ItemResponse``, there is no such item, or parameters and names do not fit it.
        ImportError: matplotlib is not installed.
    """
    model = _model("item_curves", model)
    curves = [np.asarray(one) for one in model.curves(params, _GRID)]
    if item is not None and whole_number("plot.item_curves: item", item, 0) >= len(curves):
        raise ValueError(f"plot.item_curves: item must be one of 0 to {len(curves) - 1}; got {item}")
    if item is None:
        lines = [one @ np.arange(one.shape[1]) / (one.shape[1] - 1) for one in curves]
        called = _items(params, len(lines), names, "item_curves")
        label = "probability of a right answer" if model.levels is None else "expected share of the highest level"
    else:
        lines = list(curves[item].T)
        called, label = class_names(len(lines), names, "item_curves", "level"), "probability of the level"
    ax = new_axes(ax, (6.0, 4.0))
    for k, (line, name) in enumerate(zip(lines, called, strict=True)):
        own = look(k)
        marks: Any = {"marker": own.marker, "markersize": 4, "markevery": (5 + 2 * k, 20)}
        ax.plot(_GRID, line, color=own.colour, linestyle=own.dashes, linewidth=1.6, label=name, **marks)
    ax.set(xlim=(_GRID[0], _GRID[-1]), ylim=(0, 1), xlabel="ability, in standard deviations", ylabel=label)
    ax.legend(frameon=False, fontsize="small")
    return plain(ax)


def item_information(
    model: Any, params: Params, *, names: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Axes":
    r"""Draw the information of the test about ability, and that of each item.

    .. math:: I(t) = \sum_d I_d(t), \qquad \text{standard error of an ability} = I(t)^{-1/2}

    An axis on the right says which standard error each height stands for.

    Arguments:
        model: an ``ItemResponse``.
        params: its parameters, or a ``Fit``.
        names: a name for each item; default: the columns of the data frame of a ``Fit``, else item 0, item 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model is no ``ItemResponse``, or parameters and names do not fit it.
        ImportError: matplotlib is not installed.
    """
    model = _model("item_information", model)
    each = np.asarray(model.item_information(params, _GRID))
    called = _items(params, each.shape[1], names, "item_information")
    ax = new_axes(ax, (6.4, 4.0))
    for k, name in enumerate(called):
        own = look(k)
        ax.plot(_GRID, each[:, k], color=own.colour, linestyle=own.dashes, linewidth=1.3, label=name)
    whole = each.sum(axis=1)
    ax.plot(_GRID, whole, color=INK, linewidth=2.4, label="test")
    top = 1.1 * whole.max()
    ax.set(xlim=(_GRID[0], _GRID[-1]), ylim=(0, top), xlabel="ability, in standard deviations", ylabel="information")
    errors = np.array([0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0])
    errors = errors[(errors**-2 <= top) & (errors**-2 >= 0.04 * top)]
    right = ax.secondary_yaxis("right")
    right.set_yticks(errors**-2.0, [f"{error:g}" for error in errors])
    right.set_ylabel("standard error of the ability")
    right.spines["right"].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    return plain(ax)


def abilities(model: Any, params: Params, data: Data, *, level: float = 0.95, ax: "Axes | None" = None) -> "Axes":
    """Draw the abilities of all persons in order, each with the band of its posterior.

    Arguments:
        model: an ``ItemResponse``.
        params: its parameters, or a ``Fit``.
        data: codes (N, D), with or without weights and missing cells. Weights count persons.
        level: the probability of the bands, strictly between 0 and 1; default 0.95.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model is no ``ItemResponse``, ``level`` is not a probability, or parameters and data do not fit
            the model.
        ImportError: matplotlib is not installed.
    """
    _model("abilities", model)
    number("plot.abilities: level", level, 0, 1, open_ends=True)
    given = read("abilities", model, params, data)
    means, deviations = (np.asarray(part) for part in given.model.abilities(given.params, given.data))
    weights = weights_of(given.data)
    w = np.ones(len(means)) if weights is None else weights
    kept = np.flatnonzero(np.isfinite(means) & (w > 0))
    order = kept[np.argsort(means[kept], kind="stable")]
    means, half, w = means[order], NormalDist().inv_cdf((1 + level) / 2) * deviations[order], w[order]
    share = np.r_[0, np.cumsum(w) / w.sum()]
    again = lambda part: np.r_[part, part[-1:]]  # the last person has a width too
    ax = new_axes(ax, (6.0, 4.0))
    style: Any = {"color": COLOURS[0], "alpha": 0.25, "linewidth": 0, "label": f"{100 * level:g} %"}
    ax.fill_between(share, again(means - half), again(means + half), step="post", **style)
    ax.plot(share, again(means), color=COLOURS[0], drawstyle="steps-post", linewidth=1.8, label="posterior mean")
    ax.set(xlim=(0, 1), xlabel="share of persons, by ability", ylabel="ability, in standard deviations")
    ax.legend(frameon=False, loc="upper left")
    return plain(ax)


def _model(function: str, model: Any) -> Any:
    found = bare(model)
    if not hasattr(found, "item_information"):
        raise ValueError(f"plot.{function} draws an ItemResponse; got {type(found).__name__}")
    return found


def _items(params: Params, d: int, names: Sequence[str] | None, function: str) -> list[str]:
    """The names of d items: those that were given, those of the columns that a ``Fit`` knows, or numbers."""
    columns = dict(names_of(params) or ()).get("values")
    if names is None and columns is not None and len(columns.names) == d:
        names = columns.names
    return class_names(d, names, function, "item")
