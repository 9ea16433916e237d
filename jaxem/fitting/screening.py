r"""Screening of many starts: short runs of all of them, and the best few to the end.

After each round the better half goes on (successive halving; short runs before long ones: Biernacki, Celeux & Govaert
2003). Better means heading higher, by the objective that Aitken's rule expects, because a slow start may be ahead in
the end. On the way to the end two kinds of lanes are dropped: those that can no longer catch up with the leader, and
those that have met it, so that the same digits are not computed twice.
"""

import math
from typing import Any

import numpy as np

from jaxem.fitting.climb import RUNNING
from jaxem.fitting.result import USABLE

SHORT = 32  # iterations of a round
FEWEST = 4  # lanes that are run to the end, or all where there are fewer
_SLOWEST = 0.98  # rate of convergence beyond which Aitken's rule is not believed

Plan = list[tuple[int, int]]


def rounds(lanes: int, finalists: int | None, max_steps: int) -> Plan:
    """How many of the lanes run in each round, and for how many iterations; the last round is to the end.

    ``finalists``: lanes that run to the end; default: a fifth of them, and at least four.
    """
    last = min(lanes, max(FEWEST, math.ceil(lanes / 5)) if finalists is None else finalists)
    found, left = [], lanes
    while left > last:
        found.append((left, SHORT))
        left = max(last, math.ceil(left / 2))
    return [*found, (last, max_steps)]


def to_the_end(plan: Plan) -> Plan:
    """The plan with its last round in short parts, between which lanes may be dropped; the last part is as long as it.

    No fit takes more than ``max_steps`` in all, so whoever is alone may take the last part at once.
    """
    *before, (count, steps) = plan
    return [*before, *[(count, SHORT)] * (max(steps - 1, 0) // SHORT), (count, steps)]


def scores(trace: Any, steps: Any, status: Any, xp: Any = np) -> Any:
    r"""Where each lane is heading, -inf where it has failed: the objective, and what is left by Aitken's rule.

    .. math:: L_t + \frac{a}{1 - a} (L_t - L_{t-1}), \qquad a = \frac{L_t - L_{t-1}}{L_{t-1} - L_{t-2}}

    Arguments:
        trace, steps, status: of each lane, (L, ...); traced or not.
        xp: the module that computes, ``numpy`` or ``jax.numpy``.
    """
    before = lambda back: xp.take_along_axis(trace, xp.maximum(steps - back, 0)[:, None], axis=1)[:, 0]
    objective = before(0)
    gain, older = objective - before(1), before(1) - before(2)
    rate = xp.where((older > 0) & (gain > 0), xp.minimum(gain / xp.where(older > 0, older, 1), _SLOWEST), 0)
    left = xp.where(status == RUNNING, rate / (1 - rate) * gain, 0)
    sound = xp.isin(status, np.array([*USABLE, RUNNING], np.int32))
    score = objective + xp.where(xp.isfinite(left), left, 0)
    return xp.where(sound & ~xp.isnan(score), score, -np.inf)


_FAR = 10  # times its expected rise by which a lane must be behind before it is given up
SAME = 1e-6  # log-likelihood per observed value within which two optima are the same


def over(
    scores: np.ndarray, objective: np.ndarray, left: np.ndarray, where: np.ndarray, same: np.ndarray
) -> np.ndarray:
    """Which lanes (L,) need not run to the end, because of the leader of their problem.

    A lane is over where it stays below what the leader has already, even if it rises ten times as far as expected; or
    where both are within ``same`` of their ends and of each other, so that they meet.

    Arguments:
        scores: where each lane is heading (see ``scores``); -inf for a lane that has failed.
        objective: what each lane has reached.
        left: the rise still to come, as ``fit`` estimates it; not finite where unknown.
        where: the problem of each lane.
        same: for each lane the log-likelihood within which two optima are the same.
    """
    found = np.zeros(len(where), bool)
    left = np.where(np.isfinite(left), np.maximum(left, 0), np.inf)
    for problem in np.unique(where):
        lanes = np.flatnonzero((where == problem) & (scores > -np.inf))
        if not len(lanes):
            continue
        leader = lanes[objective[lanes].argmax()]
        behind = objective[leader] - objective[lanes]
        hopeless = behind > _FAR * left[lanes] + same[lanes]
        met = (behind <= same[lanes]) & (left[lanes] <= same[lanes]) & (left[leader] <= same[leader])
        found[lanes] = (hopeless | met) & (lanes != leader)
    return found


def leaders(scores: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """Which lanes (L,) are among the best ``count`` of their problem; lane l works on problem ``where[l]``."""
    order = np.lexsort((-scores, where))  # by problem, the best first
    ranked = where[order]
    place = np.arange(len(where)) - np.searchsorted(ranked, ranked)
    kept = np.empty(len(where), bool)
    kept[order] = place < count
    return kept
