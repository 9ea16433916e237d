"""Whether a point is a maximum, a saddle or at an edge: what ``verify`` reports beside the laws.

Let C be the complete and I the observed information in natural steps, and g the gradient of the objective. The
generalised eigenvalues I w = lambda C w are shares of the complete information, and (g' I^-1 g)^(1/2) is the distance
to the maximum in standard errors. The criteria are those of ``regularity``, applied to what ``verify`` measured.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxem.inference.regularity import STATIONARY, rounding_of

_SAME = 1e-6  # KL between the posteriors of two observations, per value, below which they count as equal
_GAIN = 0.05  # of log-likelihood: ten times what a fit 0.1 standard errors from its maximum can still gain


class Surroundings(NamedTuple):
    """What is known about the objective near a point, in natural steps."""

    gradient: np.ndarray  # (P,), divided by size
    complete: np.ndarray  # (P, P), divided by size
    missing: np.ndarray  # (P, P), divided by size
    held: np.ndarray  # (P,), True for coordinates that are held at an edge
    logs: np.ndarray  # (P,), True for coordinates that diverge at an edge
    size: float
    rounding: float  # rounding error of the information, at least eps
    same: float  # how far the posteriors of different observations differ, per value; NaN where unknown
    pushed: Callable[[], float]  # the log-likelihood that EM gains from a start beside the point


def describe(around: Surroundings, names: Sequence[str]) -> str:
    """One line: maximum, saddle, edge, flat, not stationary, or unknown, and why."""
    at_edge = ""
    if around.held.any():
        at_edge = f", where what lies on the edge of its space stays there: {_list(names, around.held)}"
    gain = around.pushed() if around.same <= _SAME else 0.0
    if gain > _GAIN:
        return (
            "saddle: the posterior is the same for every observation, as where classes coincide; EM that starts beside "
            f"the point gains {gain:.3g} in log-likelihood, or more"
        )
    live = ~around.held
    gradient, complete, missing = (
        around.gradient[live],
        *(part[np.ix_(live, live)] for part in (around.complete, around.missing)),
    )
    left = [name for name, lives in zip(names, live, strict=True) if lives]
    if not all(np.isfinite(part).all() for part in (gradient, complete, missing)):
        return "unknown: a derivative is not finite"
    if not left:
        return "maximum" + at_edge
    nothing = max(rounding_of(len(left), np.float64), around.rounding)
    values, vectors = np.linalg.eigh((complete + complete.T) / 2)
    if values[0] <= nothing:
        where = np.abs(vectors[:, 0]) > 0.3
        if (where & ~around.logs[live]).any():
            return f"flat: even complete data do not determine {_list(left, where)}"
        return f"edge: {_list(left, where)} runs off to the edge of its space"
    roots = vectors / np.sqrt(values)[None, :]
    observed = complete - (missing + missing.T) / 2
    shares, turns = np.linalg.eigh(roots.T @ observed @ roots)
    slopes = turns.T @ (roots.T @ gradient)
    least = max(10 * float(np.sqrt((slopes**2).sum())), nothing**0.5)
    distance = float(np.sqrt(around.size * (slopes**2 / np.maximum(np.abs(shares), least)).sum()))
    if not distance <= STATIONARY:
        return f"not stationary: a maximum is about {distance:.2g} standard errors away" + at_edge
    worst = roots @ turns[:, 0]
    where = np.abs(worst) > 0.3 * np.abs(worst).max()
    if shares[0] < -least:
        return f"saddle: the objective rises along {_list(left, where)} (share of the information {shares[0]:.2g})"
    if shares[0] <= least:
        return f"flat or not resolved along {_list(left, where)} (share of the information {shares[0]:.1e})" + at_edge
    return "maximum" + at_edge


def _list(names: Sequence[str], where: np.ndarray) -> str:
    """The names of these coordinates' parameters, each once."""
    return ", ".join(dict.fromkeys(name for name, there in zip(names, where, strict=True) if there))
