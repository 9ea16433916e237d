"""How clearly observations belong to their classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxem.core.checks import instance
from jaxem.core.data import Data, split_weights
from jaxem.core.model import Params, require
from jaxem.inference.separation import Separation, rows_and_weights
from jaxem.plot.data import read, subsample
from jaxem.plot.style import class_names, heat, legend_above, look, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def responsibilities(
    model: Any, params: Params, data: Data, *, names: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw the class probabilities of all observations as a map: a line for each class, sorted by class.

    Within a class observations stand from the most to the least certain, so that a sharp staircase is a clear
    separation. Of more than 4000 observations a subsample is drawn, without weights.

    Arguments:
        model: a model with ``predict_proba``, such as a ``Mixture`` or an ``HMM``, of which each step is drawn.
        params: its parameters, or a ``Fit``.
        data: the data.
        names: a name for each class; default: class 0, class 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model lacks ``predict_proba``, or parameters, data and names do not fit it.
        ImportError: matplotlib is not installed.
    """
    r, _ = _rows("responsibilities", model, params, data)
    k = r.shape[1]
    called = class_names(k, names, "responsibilities")
    r = r[subsample(len(r))]
    r = r[np.lexsort((-r.max(axis=1), r.argmax(axis=1)))]
    ax = new_axes(ax, (7.0, 1.2 + 0.4 * k))
    image = heat(ax, r.T, 1.0, extent=(0, len(r), k - 0.5, -0.5))
    ax.set_yticks(range(k), called)
    ax.set_xlabel("observations, sorted by their most probable class")
    ax.hlines(np.arange(1, k) - 0.5, 0, len(r), color="white", linewidth=1.5)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    bar.set_label("probability")
    bar.outline.set_visible(False)
    return ax


def certainty(
    model: Any, params: Params, data: Data, *, names: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw a histogram of the largest class probability of each observation, stacked by its class.

    Observations near one are certain; K equal probabilities stand at 1 / K.

    Arguments:
        model: a model with ``predict_proba``, such as a ``Mixture`` or an ``HMM``, of which each step counts.
        params: its parameters, or a ``Fit``.
        data: the data, with or without weights.
        names: a name for each class; default: class 0, class 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model lacks ``predict_proba``, or parameters, data and names do not fit it.
        ImportError: matplotlib is not installed.
    """
    r, w = _rows("certainty", model, params, data)
    k = r.shape[1]
    called = class_names(k, names, "certainty")
    label, largest, edges = r.argmax(axis=1), r.max(axis=1), np.linspace(1 / k if k > 1 else 0, 1, 26)
    # Rounding may leave a probability just outside.
    counts = [
        np.histogram(np.clip(largest[label == j], edges[0], 1), edges, weights=w[label == j])[0] for j in range(k)
    ]
    ax = new_axes(ax, (6.0, 3.6))
    below = np.zeros(len(edges) - 1)
    for j, (name, each) in enumerate(zip(called, counts, strict=True)):
        own = look(j)
        style: Any = {"color": own.colour, "hatch": own.hatch, "edgecolor": "white", "linewidth": 0.5, "label": name}
        ax.bar(edges[:-1], each / w.sum(), np.diff(edges), below, align="edge", **style)
        below = below + each / w.sum()
    ax.set(xlim=(edges[0], 1), xlabel="largest class probability", ylabel="share of observations")
    legend_above(ax, min(k, 5))
    return plain(ax)


def separation(found: Separation, *, names: Sequence[str] | None = None, ax: "Axes | None" = None) -> "Axes":
    """Draw the mean class probabilities of the observations assigned to each class, as a map with its numbers.

    A clear classification has a dark diagonal; a dark cell beside it names two classes that are confused.

    Arguments:
        found: a ``Separation``, from ``jaxem.inference.separation``.
        names: a name for each class; default: class 0, class 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``found`` is not a ``Separation``, or there are not as many names as classes.
        ImportError: matplotlib is not installed.
    """
    instance("plot.separation: the argument", found, "a Separation", "shares", "table", "entropy")
    k = len(found.shares)
    called = class_names(k, names, "separation")
    ax = new_axes(ax, (2.2 + 0.8 * k, 1.4 + 0.55 * k))
    texts = [["–" if np.isnan(p) else f"{p:.2f}" for p in row] for row in found.table]
    heat(ax, np.nan_to_num(found.table), 1.0, texts)
    ax.set_xticks(range(k), called, rotation=30 if k > 4 else 0, ha="right" if k > 4 else "center")
    ax.set_yticks(range(k), [f"{name} ({100 * share:.0f} %)" for name, share in zip(called, found.shares, strict=True)])
    ax.set(xlabel="mean probability of", ylabel="assigned to")
    ax.set_title(f"relative entropy {found.entropy:.2f}", fontsize="medium")
    return ax


def _rows(function: str, model: Any, params: Params, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities (M, K) and weights (M,) of what counts."""
    require(model, f"plot.{function}", "predict_proba")
    given = read(function, model, params, data)
    found = np.asarray(given.model.predict_proba(given.params, given.data))
    r, w = rows_and_weights(found, split_weights(given.data)[1])
    if not len(r):
        raise ValueError(f"plot.{function}: every observation is impossible under these parameters")
    return r, w
