"""How a fit climbed, and what is left to climb."""

from typing import TYPE_CHECKING

import numpy as np

from jaxem.core import tables
from jaxem.core.checks import instance
from jaxem.fitting.result import Fit, Status
from jaxem.plot.style import COLOURS, SOFT, look, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        raise ValueError(
            "plot.trace: the fit has no trace, as its model has no objective: write q_function and entropy"
        )
    traces = np.asarray(fit.trace).reshape(-1, fit.trace.shape[-1])
    steps = np.asarray(fit.steps).ravel()
    ax = new_axes(ax, (6.0, 4.0))
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
    return plain(ax)


def convergence(fit: Fit, *, ax: "Axes | None" = None) -> "Axes":
    r"""Draw how far each iterate lies below the objective that the fit is estimated to reach, and how the fit ended.

    .. math:: d_i = L(\theta_S) + left - L(\theta_i)

    with ``left`` the estimated rise still to come after the last step S (``fit.left``, a dashed line). EM converges at
    a constant rate, so the points fall on a straight line on the log scale; the flatter it is, the slower the fit.
    Where ``left`` is unknown or zero, d is the distance to the final objective. Distances of zero are not drawn.

    Arguments:
        fit: a ``Fit`` with a trace; for a fit under ``vmap``, one curve for each lane, named by its status.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``fit`` is not a ``Fit``, or has no trace because its model has no bound.
        ImportError: matplotlib is not installed.
    """
    instance("plot.convergence: the argument", fit, "a Fit", "trace", "steps", "status", "left")
    if fit.trace is None:
        raise ValueError(
            "plot.convergence: the fit has no trace, as its model has no objective: write q_function and entropy"
        )
    traces = np.asarray(fit.trace).reshape(-1, fit.trace.shape[-1])
    of_lanes = (np.broadcast_to(part, fit.steps.shape).ravel() for part in (fit.steps, fit.status, fit.left))
    ax = new_axes(ax, (6.0, 4.0))
    statuses = np.ravel(fit.status)
    for values, last, code, left in zip(traces, *of_lanes, strict=True):
        own, name = look(int(code)), Status(int(code)).name
        rest = left if np.isfinite(left) and left > 0 else 0.0
        distance = values[last] + rest - values[: last + 1]
        shown = distance > 0
        label = f"{name} after {last} steps" if len(traces) == 1 else f"{name} ({(statuses == code).sum()})"
        known = label in ax.get_legend_handles_labels()[1]
        style = {"color": own.colour, "linestyle": own.dashes, "linewidth": 1.4}
        marks = {"marker": own.marker, "markersize": 4, "markevery": max(1, int(last) // 60)}
        ax.plot(np.arange(last + 1)[shown], distance[shown], label=None if known else label, **style, **marks)
        if rest and len(traces) == 1:
            ax.axhline(rest, color=SOFT, linestyle="--", linewidth=1, label=f"about {tables.number(rest, 1)} left")
    ax.set_yscale("log")
    ax.set(xlabel="iteration", ylabel="below the estimated limit of the objective")
    ax.legend(frameon=False)
    return plain(ax)
