"""A mixture of one or two dimensions, and its data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.core import data as core
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.families import MultivariateNormal, MultivariateNormalParams, MultivariateStudentT
from jaxem.families import protocol as families
from jaxem.models.mixture import Mixture
from jaxem.plot.data import Given, column_names, read, subsample, weights_of, with_nan
from jaxem.plot.style import INK, PALE, POINTS, SOFT, class_names, legend_above, look, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 200  # most bars of a histogram
_BY_ONE = 400  # a range of counts up to which each has a bar of its own
_AREA = 18.0  # of a point of weight one, in points^2


def mixture(
    model: Any, params: Params, data: Data, *, names: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw a mixture and its data: coloured classes with ellipses in 2-D, a histogram with densities in 1-D.

    In 2-D each point has the colour and the marker of its most probable class, and ellipses mark 1 and 2 standard
    deviations (for a t distribution, of its scatter matrix); a row with one missing cell is a tick at the axis of the
    other. In 1-D the curves are the density of the mixture and the weighted density of each class. Of more than 4000
    points in 2-D a subsample is drawn, always the same.

    Arguments:
        model: a ``Mixture``: of ``MultivariateNormal`` or ``MultivariateStudentT``, in any covariance form, for 2-D
            data; of any family without covariates for 1-D data.
        params: its parameters, or a ``Fit``.
        data: (N, 2), or (N,) or (N, 1); they may have weights and missing cells. Columns of a data frame name the axes.
        names: a name for each class; default: class 0, class 1, ...
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: the model is not a ``Mixture``; the data have more than two dimensions, or two with another family;
            or parameters, data and names do not fit the model.
        ImportError: matplotlib is not installed.
    """
    given = read_mixture("mixture", model, params, data)
    x = core.values_of(given.data)
    if not hasattr(x, "ndim"):
        raise ValueError("plot.mixture draws one array of data; jaxem.plot.profile draws mixed columns")
    dimensions = 1 if x.ndim == 1 else x.shape[1]
    plane = dimensions == 2 and is_gaussian(given.model.family)
    if (dimensions != 1 and not plane) or "given" in families.takes(given.model.family):
        raise ValueError(
            f"plot.mixture draws one dimension, or two of MultivariateNormal; got {type(given.model.family).__name__} "
            f"data of shape {tuple(x.shape)}"
        )
    called = class_names(given.model.k, names, "mixture")
    ax = new_axes(ax, (6.0, 5.0))
    (_plane if plane else _row)(ax, given, called)
    return plain(ax)


def read_mixture(function: str, model: Any, params: Params, data: Data) -> Given:
    """What a picture of a ``Mixture`` was given."""
    given = read(function, model, params, data)
    if not isinstance(given.model, Mixture):
        raise ValueError(f"plot.{function} draws a Mixture; got {type(model).__name__}")
    given.model.validate(given.params, given.data)
    return given


def is_gaussian(family: Any) -> bool:
    """Whether the classes of a family of several columns have ellipses."""
    return isinstance(family, MultivariateNormal | MultivariateStudentT)


def ellipses(family: Any, components: Any) -> tuple[np.ndarray, np.ndarray]:
    """The centres (K, D) and the covariance or scatter matrices (K, D, D) of all classes."""
    if isinstance(family, MultivariateStudentT):
        components = MultivariateNormalParams(components.locations, components.scatters)
        family = MultivariateNormal(family.covariance)
    return np.asarray(components.means), np.asarray(family.covariances(components))


def draw_ellipse(ax: "Axes", k: int, mean: np.ndarray, matrix: np.ndarray, width: float = 1.6) -> None:
    """The ellipses of class k at 1 and 2 standard deviations, and its centre."""
    from matplotlib.patheffects import withStroke

    own, angle = look(k), np.linspace(0, 2 * np.pi, 181)
    beside = [withStroke(linewidth=width + 1.6, foreground="white", alpha=0.8)]  # seen among points of its colour
    circle = np.stack([np.cos(angle), np.sin(angle)])
    factor = np.linalg.cholesky(matrix)
    for deviations, style in ((1, "-"), (2, "--")):
        at, line = mean[:, None] + deviations * factor @ circle, {"color": own.colour, "linewidth": width}
        ax.plot(*at, linestyle=style, path_effects=beside, **line)
    ax.plot(*mean, "+", color=INK, markersize=10, markeredgewidth=1.6)


class Points:
    """The rows that a picture shows, with the class of each."""

    def __init__(self, given: Given) -> None:
        values = with_nan(given.data)
        self.total = len(values)
        index = subsample(self.total)
        shown = core.rows(core.split_weights(given.data)[0], index)
        self.values = values[index]
        self.labels = np.asarray(given.model.predict(given.params, shown))
        weights = weights_of(given.data)
        area = _AREA * float(np.clip(800 / len(index), 0.35, 1))
        self.sizes = np.full(len(index), area) if weights is None else (area * weights / weights.mean())[index]

    @property
    def note(self) -> str | None:
        """How many of the points are shown, where these are not all."""
        return None if len(self.values) == self.total else f"{len(self.values):,} of {self.total:,} points"

    def draw(self, ax: "Axes", k: int, x: np.ndarray, y: np.ndarray, share: float = 1.0, **options: Any) -> None:
        """The points of class k at (x, y)."""
        own, mine = look(k), self.labels == k
        style: dict[str, Any] = {"marker": own.marker, "color": own.colour, "alpha": 0.55, "linewidths": 0}
        style["rasterized"] = len(x) > 1000
        ax.scatter(x[mine], y[mine], s=share * self.sizes[mine], **style, **options)


def _plane(ax: "Axes", given: Given, called: list[str]) -> None:
    points = Points(given)
    whole = ~np.isnan(points.values).any(axis=1)
    x, y = np.where(whole[:, None], points.values, np.nan).T
    means, matrices = ellipses(given.model.family, given.params.components)
    for k, (mean, matrix) in enumerate(zip(means, matrices, strict=True)):
        points.draw(ax, k, x, y, label=called[k])
        draw_ellipse(ax, k, mean, matrix)
    for side, (axis, other) in enumerate(((0, 1), (1, 0))):
        alone = points.values[np.isnan(points.values[:, other]), axis]
        low = np.zeros_like(alone)
        place = (alone, low) if side == 0 else (low, alone)
        transform = ax.get_xaxis_transform() if side == 0 else ax.get_yaxis_transform()
        if len(alone):
            ax.plot(*place, "|" if side == 0 else "_", color=SOFT, markersize=10, transform=transform, label="_alone")
    first, second = column_names(given.columns, 2)
    ax.set(xlabel=first, ylabel=second)
    if points.note:
        ax.annotate(points.note, (0.99, 0.05), xycoords="axes fraction", ha="right", va="bottom", fontsize="small")
    if given.model.k > 3:
        legend_above(ax, 5)
    elif given.model.k > 1:
        ax.legend(frameon=False, fontsize="small")


def histogram(ax: "Axes", x: np.ndarray, weights: np.ndarray | None, counts: bool = False, **options: Any) -> None:
    """The distribution of x, NaN left out, as bars whose area is one."""
    seen = ~np.isnan(x)
    x, weights = x[seen], None if weights is None else weights[seen]
    low, high = x.min(), x.max()
    if counts and high - low <= _BY_ONE:
        bins: Any = np.arange(low, high + 2) - 0.5
    else:
        bins = np.linspace(low, high, (30 if weights is not None else _bars(x)) + 1) if high > low else 1
    style = {"color": PALE, "edgecolor": "white", "density": True, **options}
    ax.hist(x, bins=bins, weights=weights, **style)


def _bars(x: np.ndarray) -> int:
    """The number of bars, by the rule of Freedman & Diaconis (1981); more where classes lie apart, for it sees one."""
    width = 2 * float(np.subtract(*np.percentile(x, [75, 25]))) / len(x) ** (1 / 3)
    by_rule = np.ptp(x) / width if width > 0 else _BINS
    return int(np.clip(np.ceil(by_rule), min(np.sqrt(len(x)), 30), _BINS))


def _row(ax: "Axes", given: Given, called: list[str]) -> None:
    model, x = given.model, core.values_of(given.data)
    values = with_nan(given.data).ravel()
    low, high = np.nanmin(values), np.nanmax(values)
    counts = not bool(model.family.supports(jnp.reshape(jnp.asarray(low + 0.5), (1,) * x.ndim)).all())
    by_one = counts and high - low <= _BY_ONE
    grid = np.arange(low, high + 1) if by_one else np.linspace(low, high, POINTS)
    grid = np.round(grid) if counts else grid
    parts = class_densities(model, given.params, given.data, grid.reshape(-1, *x.shape[1:]))
    histogram(ax, values, weights_of(given.data), counts, label="data")
    for k, part in enumerate(parts):
        own = look(k)
        style: Any = {"marker": own.marker, "markersize": 4} if by_one else {}
        ax.plot(grid, part, color=own.colour, linestyle=own.dashes, linewidth=1.6, label=called[k], **style)
    style = {"marker": "o", "markersize": 4} if by_one else {}
    ax.plot(grid, parts.sum(axis=0), color=INK, linewidth=2.2, label="mixture", **style)
    ax.set(xlabel=column_names(given.columns, 1)[0], ylabel="probability" if counts else "density")
    if model.k > 3:
        legend_above(ax, 6)
    else:
        ax.legend(frameon=False)


def class_densities(model: Mixture, params: Any, data: Data, points: np.ndarray) -> np.ndarray:
    """w_k p(x | k) at each point, (K, points); with a gate on covariates w_k is the mean over the data."""
    at = jnp.asarray(points, jax.tree.leaves(params)[0].dtype)
    sizes = np.asarray(model.class_sizes(params, data))
    density = families.log_density(model.family, params.components, at)
    return sizes[:, None] * np.exp(np.asarray(density)).T
