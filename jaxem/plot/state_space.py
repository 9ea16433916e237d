"""A state-space model along its data: what is smoothed, and what is forecast."""

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxem.core.checks import number, whole_number
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.plot.data import one_sequence, read, series, times_of
from jaxem.plot.style import COLOURS, INK, legend_above, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def smoothed(
    model: Any,
    params: Params,
    data: Data,
    *,
    horizon: int = 0,
    state: int | None = None,
    level: float = 0.9,
    sequence: int = 0,
    column: str | int | None = None,
    times: ArrayLike | None = None,
    given: Any = None,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""Draw one sequence with its smoothed signal, and a forecast, each with bands.

    .. math:: E[C x_t + D u_t \mid y_1 \dots y_T] \pm z \sqrt{C\, V_t\, C'}, \qquad
              E[y_{T+h} \mid y_1 \dots y_T] \pm z \sqrt{C\, V_{T+h}\, C' + R}

    The band of the signal leaves out the noise of the observations, that of the forecast holds it: new observations lie
    in it with probability ``level``. Bands do not contain the error of the parameters.

    Arguments:
        model: a ``StateSpace``.
        params: its parameters, or a ``Fit``.
        data: N sequences.
        horizon: the number of steps that are forecast; default 0.
        state: the state to draw instead of the signal and the data, from 0 on; default: the signal.
        level: the probability of the bands, strictly between 0 and 1; default 0.9.
        sequence: which sequence is drawn; default 0, the first.
        column: which column is drawn, by name or place; default: the first.
        times: the position of each step, (T,), such as years, or of those to come too, (T + horizon,); default
            0, 1, 2, ...
        given: the inputs of the steps to come, (1, horizon, P), where the model has inputs.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model is no ``StateSpace``; there is no such sequence, column or state; another argument is not
            valid; or parameters and data do not fit the model.
        ImportError: matplotlib is not installed.
    """
    found = read("smoothed", model, params, data)
    model = found.model
    if not hasattr(model, "signal"):
        raise ValueError(f"plot.smoothed draws a StateSpace; got {type(model).__name__}")
    number("plot.smoothed: level", level, 0, 1, open_ends=True)
    whole_number("plot.smoothed: horizon", horizon, 0)
    if state is not None and whole_number("plot.smoothed: state", state, 0) >= model.states:
        raise ValueError(f"plot.smoothed: state must be one of 0 to {model.states - 1}; got {state}")
    one, length = one_sequence("smoothed", found.data, sequence)
    drawn = series("smoothed", one, length, found.columns, column)
    at = _later(times_of("smoothed", times, length), times, length, horizon)
    z, place = NormalDist().inv_cdf((1 + level) / 2), drawn.place if state is None else state
    q = model.signal(found.params, one) if state is None else model.smooth(found.params, one)
    ax, share = new_axes(ax, (8.0, 3.6)), f"{100 * level:g} %"
    name = "signal" if state is None else f"state {state}"
    _band(ax, at[:length], q, place, z, COLOURS[0], "-", "", f"{name}, {share}")
    if horizon:
        ahead: Any = model.forecast(found.params, one, horizon, given)
        ahead = ahead[:2] if state is None else ahead[2:]
        _band(ax, at[length:], ahead, place, z, COLOURS[1], "--", "////", f"forecast, {share}")
    if state is None:
        style = {"color": INK, "marker": ".", "markersize": 4, "linestyle": "none", "zorder": 3, "label": "data"}
        ax.plot(at[:length], drawn.values, rasterized=length > 1000, **style)
    ax.set(xlabel="time" if times is not None else "step", ylabel=drawn.name if state is None else name)
    legend_above(ax, 3)
    return plain(ax)


def _later(at: np.ndarray, times: Any, length: int, horizon: int) -> np.ndarray:
    """The positions of all steps, those to come too: given, or as far apart as the last two."""
    if horizon and times is not None and len(np.asarray(times)) >= length + horizon:
        return np.asarray(times)[: length + horizon]
    step = at[-1] - at[-2] if length > 1 else 1
    return np.concatenate([at, at[-1] + step * np.arange(1, horizon + 1)])


def _band(
    ax: "Axes", at: np.ndarray, q: Any, place: int, z: float, colour: str, dashes: str, hatch: str, name: str
) -> None:
    mean, variances = (np.asarray(part) for part in jax.device_get((q[0], q[1])))
    mean, half = mean[0, : len(at), place], z * np.sqrt(np.maximum(variances[0, : len(at), place, place], 0))
    style: Any = {"facecolor": colour, "alpha": 0.25, "linewidth": 0, "hatch": hatch, "edgecolor": colour}
    ax.fill_between(at, mean - half, mean + half, label=name, **style)
    ax.plot(at, mean, color=colour, linestyle=dashes, linewidth=1.6)
