"""A mixture of several dimensions, by pairs of columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxem.core.checks import brief
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.families import MultivariateStudentT, Normal, NormalParams, StudentT, StudentTParams, freedom
from jaxem.families import protocol as families
from jaxem.plot.data import column_names, weights_of, with_nan
from jaxem.plot.mixtures import Points, draw_ellipse, ellipses, histogram, is_gaussian, read_mixture
from jaxem.plot.style import INK, POINTS, class_names, look, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 10  # columns


def pairs(
    model: Any,
    params: Params,
    data: Data,
    *,
    columns: Sequence[str | int] | None = None,
    names: Sequence[str] | None = None,
    ax: "np.ndarray | None" = None,
) -> "np.ndarray":
    r"""Draw a mixture of several dimensions as a matrix of panels, one for each pair of columns.

    A panel off the diagonal shows the data as ``jaxem.plot.mixture`` does, with the ellipses of the marginal
    distribution of the two columns at 1 and 2 standard deviations; one on the diagonal, the histogram of a column, the
    weighted density of each class and that of the mixture,

    .. math:: p(x_i, x_j \mid k) = N((x_i, x_j);\, m_{k,ij}, S_{k,ij}), \qquad w_k\, p(x_i \mid k) .

    Each panel uses the rows in which its columns are seen. Of more than 4000 rows a subsample is drawn as points.

    Arguments:
        model: a ``Mixture`` of ``MultivariateNormal`` or ``MultivariateStudentT``, in any covariance form.
        params: its parameters, or a ``Fit``.
        data: (N, D), with or without weights and missing cells. Columns of a data frame name the axes.
        columns: the columns that are drawn, names or places; default: all, of which there may be 10.
        names: a name for each class; default: class 0, class 1, ...
        ax: an array of axes, one for each pair of columns, to draw on; default: those of a new figure.

    Returns:
        The array of matplotlib axes, (columns, columns).

    Raises:
        ValueError: the model is not such a mixture; a column is unknown, or there are more than 10; ``ax`` has another
            shape; or parameters, data and names do not fit the model.
        ImportError: matplotlib is not installed.
    """
    given = read_mixture("pairs", model, params, data)
    family = given.model.family
    if not is_gaussian(family):
        raise ValueError(f"plot.pairs draws MultivariateNormal or MultivariateStudentT; got {type(family).__name__}")
    means, matrices = ellipses(family, given.params.components)
    titles = column_names(given.columns, means.shape[1])
    at = _places(columns, titles)
    called = class_names(given.model.k, names, "pairs")
    d = len(at)
    axes = new_figure((2.0 * d + 0.6, 2.0 * d)).subplots(d, d, squeeze=False) if ax is None else np.asarray(ax)
    if axes.shape != (d, d):
        raise ValueError(f"plot.pairs: ax must be an array of {d} x {d} axes; got shape {axes.shape}")
    points, weights = Points(given), weights_of(given.data)
    sizes = np.asarray(given.model.class_sizes(given.params, given.data))
    values = np.asarray(points.values)
    for i, row in enumerate(at):
        for j, column in enumerate(at):
            panel = axes[i, j]
            if i == j:
                _diagonal(panel, given, row, sizes, weights)
            else:
                seen = ~np.isnan(values[:, [row, column]]).any(axis=1)
                x, y = (np.where(seen, values[:, place], np.nan) for place in (column, row))
                both = np.ix_(range(given.model.k), [column, row], [column, row])
                for k, matrix in enumerate(matrices[both]):
                    points.draw(panel, k, x, y, 0.4, label=called[k])
                    draw_ellipse(panel, k, means[k, [column, row]], matrix, 1.2)
            panel.set(xlabel=titles[column] if i == d - 1 else "", ylabel=titles[row] if j == 0 else "")
            panel.tick_params(labelsize="small", labelbottom=i == d - 1, labelleft=j == 0 and i > 0)
            plain(panel)
    _share(axes)
    _legend(axes, called, points.note)
    return axes


def _places(columns: Any, titles: list[str]) -> list[int]:
    wanted = range(len(titles)) if columns is None else columns
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise ValueError(f"plot.pairs: columns must be a list of names or places; got {brief(columns)}")
    found = [titles.index(one) if one in titles else one for one in wanted]
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int | np.integer) or not 0 <= one < len(titles):
            raise ValueError(f"plot.pairs: there is no column {one!r}; the columns are {', '.join(titles)}")
    if not 1 <= len(found) <= _MOST:
        raise ValueError(f"plot.pairs draws 1 to {_MOST} columns; got {len(found)}: choose some by columns=[...]")
    return [int(one) for one in found]


def _diagonal(ax: "Axes", given: Any, d: int, sizes: np.ndarray, weights: np.ndarray | None) -> None:
    x = with_nan(given.data)[:, d]
    histogram(ax, x, weights)
    grid = np.linspace(np.nanmin(x), np.nanmax(x), POINTS)
    parts = sizes[:, None] * np.exp(np.asarray(marginal(given.model.family, given.params.components, d, grid))).T
    for k, part in enumerate(parts):
        ax.plot(grid, part, color=look(k).colour, linestyle=look(k).dashes, linewidth=1.4)
    ax.plot(grid, parts.sum(axis=0), color=INK, linewidth=1.6)
    ax.set_yticks([])


def marginal(family: Any, components: Any, d: int, x: np.ndarray) -> Any:
    """log p(x_d | k), (points, K)."""
    means, matrices = (jnp.asarray(part) for part in ellipses(family, components))
    m, v, points = means[:, d], matrices[:, d, d], jnp.asarray(x, means.dtype)
    if isinstance(family, MultivariateStudentT):
        tails = freedom.of_classes(family.freedom, components.tails, m)
        return families.log_density(StudentT(), StudentTParams(m, v, tails), points)
    return families.log_density(Normal(), NormalParams(m, v), points)


def _share(axes: "np.ndarray") -> None:
    """The same range of a column in each panel that shows it."""
    for j in range(len(axes)):
        limits = [axes[i, j].get_xlim() for i in range(len(axes))]
        limits += [axes[j, i].get_ylim() for i in range(len(axes)) if i != j]
        low, high = min(a for a, _ in limits), max(b for _, b in limits)
        for i in range(len(axes)):
            axes[i, j].set_xlim(low, high)
            if i != j:
                axes[j, i].set_ylim(low, high)


def _legend(axes: "np.ndarray", called: list[str], note: str | None) -> None:
    figure = axes[0, 0].figure
    if len(axes) > 1 and len(called) > 1:
        handles, labels = axes[0, 1].get_legend_handles_labels()
        style = {"ncols": min(len(called), 5), "frameon": False, "title": note, "markerscale": 2.0}
        figure.legend(handles, labels, loc="outside upper center", **style)
