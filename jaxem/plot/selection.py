"""A criterion against the number of classes, a curve for each form of the model."""

import itertools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxem.core.checks import instance
from jaxem.inference.selection.comparison import Selection, describe
from jaxem.plot.style import INK, SOFT, look, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def selection(found: Selection, *, criterion: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Draw a criterion against the number of classes K, a curve for each form of the model; lower is better.

    A ring marks the best model. A cross on the axis marks a K whose fits failed or whose criterion is not finite. Where
    a model has no number ``k``, candidates stand side by side under their names.

    Arguments:
        found: a ``Selection``, from ``jaxem.select``.
        criterion: which criterion of its table; default: the one it was ranked by.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``found`` is not a ``Selection``, or has no such criterion.
        ImportError: matplotlib is not installed.
    """
    instance("plot.selection: the argument", found, "a Selection", "candidates", "criterion", "ranked")
    known = list(found.candidates[0].criteria)
    name = found.criterion if criterion is None else criterion
    if name not in known:
        raise ValueError(f"plot.selection: criterion must be one of {known}; got {name!r}")
    value = lambda one: one.criteria[name] if one.sound and np.isfinite(one.criteria[name]) else np.nan
    counted = all(isinstance(getattr(one.model, "k", None), int) for one in found.candidates)
    curves: dict[str, list[tuple[float, float]]] = {}
    for place, one in enumerate(found.candidates):
        form = describe(one.model, "k") if counted else ""
        curves.setdefault(form, []).append((one.model.k if counted else place, value(one)))
    ax = new_axes(ax, (6.0, 4.2))
    for i, (label, points) in enumerate(zip(_short(list(curves)), curves.values(), strict=True)):
        own, (x, y) = look(i), np.array(sorted(points)).T
        style: Any = {"marker": own.marker, "color": own.colour, "linewidth": 1.6, "markersize": 5}
        ax.plot(x, y, label=label, linestyle=own.dashes if counted else "none", **style)
        failed = x[np.isnan(y)]
        ax.plot(failed, np.zeros_like(failed), "x", color=own.colour, transform=ax.get_xaxis_transform(), clip_on=False)
    sound = [one for one in found.candidates if np.isfinite(value(one))]
    if sound:
        best = found.ranked[0] if name == found.criterion and found.ranked else min(sound, key=value)
        x = best.model.k if counted else found.candidates.index(best)
        ax.plot(x, value(best), "o", color=INK, markersize=14, markerfacecolor="none", markeredgewidth=1.6)
        ax.annotate("best", (x, value(best)), (0, -16), textcoords="offset points", ha="center", color=INK)
    if counted:
        ax.set_xticks(sorted({one.model.k for one in found.candidates}))
        ax.set_xlabel("number of classes, K")
        if len(curves) > 1:
            ax.legend(frameon=False)
    else:
        ax.set_xticks(
            range(len(found.candidates)), [str(one.name) for one in found.candidates], rotation=20, ha="right"
        )
        ax.grid(axis="x", color=SOFT, alpha=0.3)
    ax.margins(y=0.15)
    ax.set_ylabel(f"{name.upper() if len(name) <= 4 else name} (lower is better)")
    return plain(ax)


def _short(names: list[str]) -> list[str]:
    """The parts in which names differ: ``full`` and ``tied`` of two mixtures that differ in nothing else."""
    words = [re.findall(r"\w+|\W", name) for name in names]
    if len(words) < 2:
        return names
    start = _common(words)
    end = _common([word[start:][::-1] for word in words])
    found = ["".join(word[start : len(word) - end]).strip(" ,()") for word in words]
    return found if all(found) and len(set(found)) == len(found) else names


def _common(words: list[list[str]]) -> int:
    """How many entries all lists share at their beginning."""
    same = (len(set(entries)) == 1 for entries in zip(*words, strict=False))
    return len(list(itertools.takewhile(bool, same)))
