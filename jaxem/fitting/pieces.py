"""A fit in pieces: the same compiled loop, called for some steps at a time, with a look round in between."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.core import tables
from jaxem.core.interrupts import Interrupted
from jaxem.fitting.climb import RUNNING
from jaxem.fitting.result import Status
from jaxem.fitting.watch import Watch

_FASTER = 4  # greatest factor from one piece to the next: the first pieces, with compilation, tell little


class Report(NamedTuple):
    """How far a fit has come, for the function that is passed as ``progress``."""

    steps: int  # iterations so far
    objective: float | None  # at the present parameters; None for a model without one
    gain: float | None  # of the objective since the last report, or since the start or resumption of the run
    left: float  # estimated rise of the objective still to come; NaN while unknown
    evaluations: int  # E-steps so far
    seconds: float  # since the run began, compilation included; the time of interrupted parts counts, breaks do not

    def __str__(self) -> str:
        parts = [f"{self.steps} step{'s' * (self.steps != 1)}, {tables.fixed(self.seconds, 1)} s"]
        if self.objective is not None:
            parts.append(f"objective {tables.number(self.objective, 10)}")
        if self.left == self.left:
            parts.append(f"about {tables.number(self.left, 2)} left")
        return ", ".join(parts)


def in_pieces(climb: Any, more: Callable[[Any, int], Any], max_steps: int, watch: Watch) -> Any:
    """The climb at its end, or where Ctrl-C left it, still running.

    Arguments:
        climb: a ``Climb``, at the start or anywhere else.
        more: (climb, n) -> the climb after n more steps, or fewer where it ends. The argument stays valid, so that an
            interrupt in the middle of a piece costs no more than that piece.
    """
    steps, before = 1, _objective(climb)
    with watch:
        watch.save(climb)
        try:
            while int(climb.status) == RUNNING:
                began = time.monotonic()
                climb = jax.block_until_ready(more(climb, steps))
                steps = _next(steps, time.monotonic() - began, watch.piece)
                report = _report(climb, before, watch.seconds())
                before = report.objective
                watch.tell((report,), report.steps, max_steps, _text(report))
                watch.check()
                if watch.due():
                    watch.save(climb)
        except Interrupted:
            pass
        watch.save(climb)
    return climb


def interrupted(climb: Any) -> Any:
    """The climb, or lanes of them, with the status ``INTERRUPTED`` where it has not ended."""
    status = jnp.where(climb.status == RUNNING, Status.INTERRUPTED, climb.status)
    return climb._replace(status=status.astype(jnp.int32))


def with_max_steps(climb: Any, max_steps: int) -> Any:
    """The climb, or lanes of them, with another ``max_steps``; ``ValueError`` where it has made more already.

    It goes on where only the old ``max_steps`` had ended it.
    """
    steps, status = np.asarray(climb.steps), np.asarray(climb.status)
    if steps.max() > max_steps:
        raise ValueError(f"max_steps is {max_steps}, and the run has already made {steps.max()} steps")
    trace = climb.trace
    if trace is not None:
        none = jnp.full((*trace.shape[:-1], max(max_steps + 1 - trace.shape[-1], 0)), jnp.nan, trace.dtype)
        trace = jnp.concatenate([trace[..., : max_steps + 1], none], axis=-1)
    going = np.where((status == Status.MAX_STEPS) & (steps < max_steps), RUNNING, status)
    status = np.where((going == RUNNING) & (steps == max_steps), Status.MAX_STEPS, going)
    return climb._replace(trace=trace, status=jnp.asarray(status, jnp.int32))


def _next(steps: int, took: float, wanted: float) -> int:
    """How many steps take the wanted time, by the time that ``steps`` took."""
    fitting = steps * wanted / max(took, 1e-9)
    return int(np.clip(fitting, 1, _FASTER * steps))


def _objective(climb: Any) -> float | None:
    return None if climb.state.objective is None else float(climb.state.objective)


def _report(climb: Any, before: float | None, seconds: float) -> Report:
    objective = _objective(climb)
    if before != before:  # the run began with this piece
        before = float(climb.trace[0])
    gain = None if objective is None or before is None else objective - before
    left = float(climb.left) if np.isfinite(climb.left) else float("nan")
    return Report(int(climb.steps), objective, gain, left, int(climb.state.evaluations), seconds)


def _text(report: Report) -> str:
    parts = []
    if report.objective is not None:
        parts.append(f"objective {report.objective:.8g}, gain {report.gain:.2g}")
    if np.isfinite(report.left):
        parts.append(f"left about {report.left:.1g}")
    return ", ".join(parts)
