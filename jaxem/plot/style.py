"""What all pictures share: colours, axes, the names of classes, and how classes differ without colour."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#222222"
SOFT = "#8a8a8a"
PALE = "#d9d9d9"

POINTS = 400  # points of a drawn curve
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_DASHES: tuple[Any, ...] = (
    "-", "--", "-.", ":", (0, (6, 1)),
    (0, (3, 1, 1, 1)), (0, (1, 0.8)), (0, (9, 3)), (0, (5, 1, 1, 1, 1, 1)), (0, (2, 3)),
)  # fmt: skip
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "++", "oo", "--", "||", "**")


class Look(NamedTuple):
    """How one class is drawn; two classes of ten differ in grey too."""

    colour: str
    marker: str
    dashes: Any
    hatch: str


def look(k: int) -> Look:
    """The look of class k."""
    return Look(*(cycle[k % len(cycle)] for cycle in (COLOURS, _MARKERS, _DASHES, _HATCHES)))


def class_names(k: int, names: Sequence[str] | None, function: str, word: str = "class") -> list[str]:
    """The names of k classes: those that were given, or ``class 0``, ``class 1``, ..."""
    if names is None:
        return [f"{word} {j}" for j in range(k)]
    if isinstance(names, str) or len(names) != k:
        raise ValueError(f"plot.{function}: names must be {k} texts, one for each {word}; got {names!r}")
    return [str(name) for name in names]


def new_figure(size: tuple[float, float]) -> Any:
    """A figure of its own, without a display or any global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('jaxem.plot needs matplotlib: pip install "jaxem[plot]"') from error
    return Figure(figsize=size, dpi=150, layout="constrained")


def new_axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    """The axes that were given, or those of a new figure of this size in inches."""
    return new_figure(size).add_subplot() if ax is None else ax


def plain(ax: "Axes") -> "Axes":
    """The axes without a frame above and on the right."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend_above(ax: "Axes", columns: int, **options: Any) -> None:
    """A legend between the title and the axes, where it hides no data."""
    near = {"columnspacing": 1.2, "handletextpad": 0.5, "fontsize": "small"}
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, **near, **options)


def heat(
    ax: "Axes", table: np.ndarray, top: float, texts: Sequence[Sequence[str]] | None = None, **options: Any
) -> Any:
    """A map of numbers from 0 to ``top``: white to dark blue, with the numbers written in the cells."""
    image = ax.imshow(table, vmin=0, vmax=top, cmap="Blues", aspect="auto", interpolation="nearest", **options)
    for i, row in enumerate(texts or ()):
        for j, text in enumerate(row):
            colour = "white" if table[i, j] > 0.55 * top else INK
            ax.text(j, i, text, ha="center", va="center", fontsize="small", color=colour)
    return image
