"""Residuals against their order, and against the distribution that they have where the model is right."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jax.scipy.special import ndtri

from jaxem.core.checks import instance
from jaxem.inference.residuals import Residuals
from jaxem.plot.data import subsample
from jaxem.plot.style import COLOURS, SOFT, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KOLMOGOROV = 1.358  # the distance of n uniform numbers is below this over sqrt(n) with probability 0.95


def residuals(found: Residuals, *, ax: "Axes | None" = None) -> "Axes":
    """Draw residuals in the order of the observations, or of the steps; of sequences, one after the other.

    Where the model is right they are a standard normal sample without a pattern: 95 % lie between the dashed lines, and
    one beyond the dotted ones comes once in 1,000. Of more than 4000 a subsample is drawn.

    Arguments:
        found: a ``Residuals``, from ``jaxem.inference.residuals``.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``found`` is not a ``Residuals``, or no observation is known.
        ImportError: matplotlib is not installed.
    """
    z = _known(found, "residuals")[0]
    shown = subsample(len(z))
    ax = new_axes(ax, (7.0, 3.2))
    for end, style in ((1.960, "--"), (3.291, ":")):
        ax.axhline(end, color=SOFT, linestyle=style, linewidth=1)
        ax.axhline(-end, color=SOFT, linestyle=style, linewidth=1)
    ax.axhline(0, color=SOFT, linewidth=0.8)
    dots: Any = {"color": COLOURS[0], "markersize": 4, "alpha": 0.8, "rasterized": len(shown) > 1000}
    ax.plot(shown, np.clip(z[shown], -1e3, 1e3), ".", **dots)
    what = "observation" if found.kind == "quantile" else "step"
    ax.set(xlabel=what, ylabel=f"{found.kind} residual")
    return plain(ax)


def pp(found: Residuals, *, ax: "Axes | None" = None) -> "Axes":
    r"""Draw a PP plot: the share of observations with u below each value, against that value.

    .. math:: \hat F(u) = \frac1N \#\{n : u_n \le u\}, \qquad \text{band: } u \pm 1.358 / \sqrt N

    Where the model is right the curve stays inside the band in 95 % of samples (Kolmogorov); estimated parameters keep
    it nearer to the line still. Weights count observations. Ordinary residuals of a sequence are not independent, so
    that the band is a rough guide for them.

    Arguments:
        found: a ``Residuals``, from ``jaxem.inference.residuals``.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``found`` is not a ``Residuals``, or no observation is known.
        ImportError: matplotlib is not installed.
    """
    _, u, w = _known(found, "pp")
    order = np.argsort(u)
    share, half = np.cumsum(w[order]) / w.sum(), _KOLMOGOROV / w.sum() ** 0.5
    ax = _diagonal(ax, np.array([0.0, 1.0]), half, "95 %")
    steps = np.r_[0, u[order], 1], np.r_[0, share, 1]
    ax.plot(*steps, color=COLOURS[0], drawstyle="steps-post", linewidth=1.6, rasterized=len(u) > 10_000, label="data")
    ax.set(
        xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="probability by the model, u", ylabel="share of observations"
    )
    ax.legend(frameon=False, loc="upper left")
    return plain(ax)


def qq(found: Residuals, *, ax: "Axes | None" = None) -> "Axes":
    r"""Draw a QQ plot: sorted residuals against the quantiles of the standard normal distribution.

    .. math:: \left(\Phi^{-1}\left(\tfrac{i - 1/2}{N}\right),\; z_{(i)}\right), \qquad
              \text{band: } \Phi^{-1}(p_i) \pm 1.96 \sqrt{p_i (1 - p_i) / N} / \varphi(\Phi^{-1}(p_i))

    It shows the tails, where the PP plot shows the middle. The band holds each single point with probability 0.95. Of
    more than 4000 points a subsample is drawn.

    Arguments:
        found: a ``Residuals``, from ``jaxem.inference.residuals``.
        ax: the axes to draw on; default: those of a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: ``found`` is not a ``Residuals``, or no observation is known.
        ImportError: matplotlib is not installed.
    """
    z, _, w = _known(found, "qq")
    order = np.argsort(z)
    total = w.sum()
    p = (np.cumsum(w[order]) - w[order] / 2) / total
    normal = np.asarray(ndtri(p))
    half = 1.96 * np.sqrt(p * (1 - p) / total) * np.sqrt(2 * np.pi) * np.exp(normal**2 / 2)
    shown = subsample(len(z))
    ax = _diagonal(ax, normal, half, "95 % of each")
    dots: Any = {"color": COLOURS[0], "markersize": 5, "rasterized": len(shown) > 1000}
    ax.plot(normal[shown], z[order][shown], ".", label="data", **dots)
    ax.set(xlabel="standard normal quantile", ylabel=f"{found.kind} residual")
    ax.legend(frameon=False, loc="upper left")
    return plain(ax)


def _diagonal(ax: "Axes | None", x: np.ndarray, half: Any, label: str) -> "Axes":
    """Square axes with the line y = x, on which the data lie where the model is right, and a band about it."""
    ax = new_axes(ax, (4.4, 4.4))
    ax.fill_between(x, x - half, x + half, color=SOFT, alpha=0.2, linewidth=0, label=label)
    ax.plot(x[[0, -1]], x[[0, -1]], color=SOFT, linewidth=1)
    return ax


def _known(found: Residuals, function: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    instance(f"plot.{function}: the argument", found, "a Residuals", "values", "probabilities", "known")
    known = found.known
    if not len(known[0]):
        raise ValueError(f"plot.{function}: there is no residual: every observation is missing or impossible")
    return known
