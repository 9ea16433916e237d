"""The hidden states of sequences: the most probable path, and the probability of each state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.families import protocol as families
from jaxem.plot.data import edges, one_sequence, read, runs, series, times_of
from jaxem.plot.style import INK, class_names, legend_above, look, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def path(
    model: Any,
    params: Params,
    data: Data,
    *,
    sequence: int = 0,
    column: str | int | None = None,
    times: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw one sequence over its most probable path: a band for each run of a state, with the mean of the state.

    Missing observations leave gaps in the data; the path goes on.

    Arguments:
        model: an ``HMM``, or another model of sequences whose ``predict`` returns states.
        params: its parameters, or a ``Fit``.
        data: N sequences.
        sequence: which of them is drawn; default 0, the first.
        column: which column is drawn, by name or place; default: the first.
        times: the position of each step, (T,), such as years; default 0, 1, 2, ...
        names: a name for each state; default: state 0, state 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model has no states in time, there is no such sequence or column, or parameters, data, times and
            names do not fit the model.
        ImportError: matplotlib is not installed.
    """
    given = read("path", model, params, data)
    called = _states("path", given.model, given.params, names, "predict")
    one, length = one_sequence("path", given.data, sequence)
    drawn = series("path", one, length, given.columns, column)
    at = times_of("path", times, length)
    states = np.asarray(given.model.predict(given.params, one))[0, :length]
    means = _means(given.model, given.params, drawn.part, drawn.place)
    ax = new_axes(ax, (8.0, 3.6))
    ends, seen = edges(at), set()
    for state, first, last in runs(states):
        if state < 0:  # the sequence is impossible under these parameters
            continue
        own, span = look(state), (ends[first], ends[last])
        name = None if state in seen else called[state]
        seen.add(state)
        style: Any = {"facecolor": own.colour, "alpha": 0.22, "hatch": own.hatch, "edgecolor": own.colour}
        ax.axvspan(*span, linewidth=0, zorder=0, label=name, **style)
        if means is not None:
            ax.hlines(means[state], *span, color=own.colour, linestyle=own.dashes, linewidth=2.2, zorder=3)
    dots = {"color": INK, "linewidth": 0.6, "marker": ".", "markersize": 4, "zorder": 2}
    ax.plot(at, drawn.values, rasterized=length > 1000, **dots)
    ax.set(xlim=(ends[0], ends[-1]), xlabel="time" if times is not None else "step", ylabel=drawn.name)
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: called.index(labels[i]))
    legend_above(ax, min(len(order), 5), handles=[handles[i] for i in order])
    return plain(ax)


def states(
    model: Any,
    params: Params,
    data: Data,
    *,
    sequence: int = 0,
    times: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the probability of each state at each step of one sequence, given all of it, as bands that fill 0 to 1.

    Arguments:
        model: an ``HMM``, a ``SwitchingAutoregression``, or another model of sequences with ``predict_proba``.
        params: its parameters, or a ``Fit``.
        data: N sequences.
        sequence: which of them is drawn; default 0, the first.
        times: the position of each step, (T,), such as years; default 0, 1, 2, ...
        names: a name for each state; default: state 0, state 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model has no states in time, there is no such sequence, or parameters, data, times and names do
            not fit the model.
        ImportError: matplotlib is not installed.
    """
    given = read("states", model, params, data)
    called = _states("states", given.model, given.params, names, "predict_proba")
    one, length = one_sequence("states", given.data, sequence)
    at = times_of("states", times, length)
    p = np.asarray(given.model.predict_proba(given.params, one))[0, :length]
    ax = new_axes(ax, (8.0, 2.4))
    ends = edges(at)
    upto = np.concatenate([np.zeros((length, 1)), np.cumsum(p, axis=1)], axis=1)
    upto = np.concatenate([upto, upto[-1:]])  # the last step has a width too
    for k, name in enumerate(called):
        own = look(k)
        style: Any = {"facecolor": own.colour, "edgecolor": "white", "hatch": own.hatch, "linewidth": 0}
        ax.fill_between(ends, upto[:, k], upto[:, k + 1], step="post", label=name, rasterized=length > 1000, **style)
    ax.set(xlim=(ends[0], ends[-1]), ylim=(0, 1), ylabel="probability")
    ax.set_xlabel("time" if times is not None else "step")
    legend_above(ax, min(len(called), 5))
    return plain(ax)


def _states(function: str, model: Any, params: Any, names: Sequence[str] | None, needed: str) -> list[str]:
    """The names of the states of a model of sequences."""
    if not (hasattr(model, needed) and hasattr(model, "k") and hasattr(params, "transition")):
        raise ValueError(f"plot.{function} draws the states of sequences; got {type(model).__name__}")
    return class_names(model.k, names, function, "state")


def _means(model: Any, params: Any, part: str, place: int) -> np.ndarray | None:
    """The mean of a column in each state, (K,); ``None`` where the family has none, or covariates move it."""
    family = getattr(model, "family", None)
    if family is None or not hasattr(params, "emissions"):
        return None
    for param, leaf in families.means(family, params.emissions):
        table = np.asarray(leaf)
        if param.part == part and table.ndim <= 2 and table.shape[0] == model.k and param.column is None:
            columns = table.reshape(model.k, -1)
            if "given" not in families.takes(family) and place < columns.shape[1]:
                return columns[:, place]
    return None
