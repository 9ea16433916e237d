"""The profile of the classes: the mean of each column, or the probability of each level, in each class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxem.core import tables
from jaxem.core.checks import instance
from jaxem.inference.uncertainty.class_profile import Profile
from jaxem.plot.style import INK, SOFT, class_names, heat, legend_above, look, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["points", "bars", "map"]


def profile(
    found: Profile, *, kind: Kind = "points", names: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw a class profile: a line of the picture for each column or level, with points, bars or cells for the classes.

    Probabilities are drawn as they are. The means of any other column are drawn between the ends of a range of its own,
    which stand beside its name. A tick marks the value over all classes.

    Arguments:
        found: a ``Profile``, from ``jaxem.inference.profile``.
        kind: ``"points"`` (default): a point with its standard error for each class. ``"bars"``: bars with standard
            errors. ``"map"``: a heat map with the numbers in its cells, without errors.
        names: a name for each class; default: class 0, class 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``found`` is not a ``Profile``, ``kind`` is none of these, or there are not as many names as
            classes.
        ImportError: matplotlib is not installed.
    """
    instance("plot.profile: the first argument", found, "a Profile", "sizes", "means", "errors", "bounded")
    if kind not in ("points", "bars", "map"):
        raise ValueError(f"plot.profile: kind must be 'points', 'bars' or 'map'; got {kind!r}")
    k, lines = len(found.sizes), np.arange(len(found.columns))
    called = class_names(k, names, "profile")
    between = "\n" if kind == "map" else " "
    called = [f"{name}{between}({100 * size:.0f} %)" for name, size in zip(called, found.sizes, strict=True)]
    high_line = 0.3 if kind != "bars" else max(0.3, 0.12 * k + 0.1)
    ax = new_axes(ax, (7.0, 1.2 + high_line * len(lines)))
    errors = np.where(np.isfinite(found.errors) & (kind != "map"), found.errors, 0)
    low, high = (found.means - 2 * errors).min(axis=1), (found.means + 2 * errors).max(axis=1)
    low, high = np.where(found.bounded, 0, low), np.where(found.bounded, 1, high)
    width = np.where(high > low, high - low, 1)
    shares = (found.means - low[:, None]) / width[:, None]
    if kind == "map":
        rows = zip(found.means, found.bounded, strict=True)
        texts = [[f"{p:.2f}" for p in row] if bounded else tables.numbers(row, 3) for row, bounded in rows]
        heat(ax, shares, 1.0, texts)
        ax.set_xticks(range(k), called, rotation=30 if k > 4 else 0, ha="right" if k > 4 else "center")
        ax.set(ylim=(len(lines) - 0.5, -0.5), xlabel="")
    else:
        _draw(ax, found, shares, errors / width[:, None], called, kind)
        tick: Any = {"color": SOFT, "zorder": 0} if kind == "points" else {"color": INK, "zorder": 3}
        ax.plot((found.overall - low) / width, lines, "|", markersize=12, **tick)
        ax.set(xlim=(-0.02, 1.02), ylim=(len(lines) - 0.5, -0.5))
        ax.set_xlabel("probability, or place in the range of the column")
        legend_above(ax, min(k, 3))
    ax.set_yticks(lines, _rows(found, low, high, kind))
    starts = [i for i in lines[1:] if found.columns[i] != found.columns[i - 1]]
    ends = ax.get_xlim()
    ax.hlines(np.array(starts) - 0.5, *ends, color="#e5e5e5", linewidth=0.8, zorder=3 if kind == "map" else 0)
    ax.set_xlim(ends)
    return plain(ax)


def _draw(ax: "Axes", found: Profile, shares: np.ndarray, errors: np.ndarray, called: list[str], kind: Kind) -> None:
    lines, k = np.arange(len(shares)), len(called)
    for j, name in enumerate(called):
        own = look(j)
        if kind == "points":
            place = lines + 0.5 * ((j + 0.5) / k - 0.5)
            style: Any = {"color": own.colour, "markersize": 5, "linewidth": 1.4, "label": name}
            ax.errorbar(shares[:, j], place, xerr=errors[:, j], fmt=own.marker, **style)
        else:
            place, high = lines + 0.8 * ((j + 0.5) / k - 0.5), 0.8 / k
            style = {"color": own.colour, "hatch": own.hatch, "edgecolor": "white", "linewidth": 0, "label": name}
            bars = {"ecolor": INK, "error_kw": {"linewidth": 1}}
            ax.barh(place, shares[:, j], high, xerr=errors[:, j], **style, **bars)


def _rows(found: Profile, low: np.ndarray, high: np.ndarray, kind: Kind) -> list[str]:
    """The name of each line: the column with its level, or with the ends of its range."""
    ends = lambda low, high: " to ".join(tables.numbers((low, high), 3))
    return [
        f"{column}: {level}"
        if level is not None
        else column
        if bounded or kind == "map"
        else f"{column}, {ends(low, high)}"
        for column, level, bounded, low, high in zip(found.columns, found.levels, found.bounded, low, high, strict=True)
    ]
