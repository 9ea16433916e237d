"""Estimates with their intervals."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxem.core import tables
from jaxem.core.checks import instance
from jaxem.inference.uncertainty.bootstrap import Bootstrap
from jaxem.inference.uncertainty.summary import Summary
from jaxem.plot.style import COLOURS, SOFT, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def intervals(found: Summary | Bootstrap, *, only: str = "", ax: "Axes | None" = None) -> "Axes":
    """Draw estimates with their intervals, one line for each parameter.

    Parameters of different size need pictures of their own: choose by ``only``. A parameter without an interval, held
    at an edge of its space, is drawn as an open circle.

    Arguments:
        found: a ``Summary``, from ``jaxem.summary``, or a ``Bootstrap``, whose 95 % percentile intervals are drawn.
        only: a text that the names of the drawn parameters contain, such as ``"means"``; default: all are drawn.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``found`` is neither, or no name contains the text.
        ImportError: matplotlib is not installed.
    """
    if isinstance(found, Bootstrap):
        flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        level, (estimates, lower, upper) = 0.95, map(flat, (found.estimate, *found.intervals()))
    else:
        instance("plot.intervals: the first argument", found, "a Summary or a Bootstrap", "estimates", "lower", "upper")
        level, estimates, lower, upper = found.level, found.estimates, found.lower, found.upper
    kept = [i for i, name in enumerate(found.names) if only in str(name)]
    if not kept:
        raise ValueError(f"plot.intervals: no name contains {only!r}; the names are {', '.join(map(str, found.names))}")
    estimates, lower, upper = (np.asarray(part)[kept] for part in (estimates, lower, upper))
    lines, known = np.arange(len(kept)), np.isfinite(lower) & np.isfinite(upper)
    ax = new_axes(ax, (6.5, 0.9 + 0.28 * len(kept)))
    ax.hlines(lines[known], lower[known], upper[known], color=COLOURS[0], linewidth=2)
    dots: Any = {"color": COLOURS[0], "markersize": 6}
    ax.plot(estimates[known], lines[known], "o", **dots)
    ax.plot(estimates[~known], lines[~known], "o", markerfacecolor="none", **dots)
    if (lower[known] < 0).any() and (upper[known] > 0).any():
        ax.axvline(0, color=SOFT, linewidth=0.8, zorder=0)
    ax.set_yticks(lines, tables.names(found.names[i] for i in kept))
    ax.set(ylim=(len(kept) - 0.5, -0.5), xlabel=f"estimate, {100 * level:g} % interval")
    return plain(ax)
