"""The climb of a fit: its state, one judged step, and the loop. No other file of the library has such a loop.

The E-step at the start is the first thing that the loop does, where the algorithm allows it: it is then compiled once
for the start and all steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.protocol import Algorithm, State
from jaxem.core import bound, trees
from jaxem.core.compilation import program
from jaxem.core.data import Data, size
from jaxem.core.model import Params, has
from jaxem.fitting import noise as rounding_noise
from jaxem.fitting import remaining, work
from jaxem.fitting.remaining import Remaining
from jaxem.fitting.result import Fit, Status
from jaxem.fitting.stopping import Progress, Rule, default_rule, noisy_rule
from jaxem.fitting.validation import check_step, is_valid

RUNNING = -1  # the status of a fit that has not ended


class Climb(NamedTuple):
    """The state of a fit during its iteration."""

    state: State
    trace: Array | None
    steps: Array  # -1 before the E-step at the start
    status: Array  # a Status, or RUNNING
    noise: Array  # rounding error of the objective beyond ``rounding``
    remaining: Remaining
    left: Array  # estimated rise of the objective still to come; not finite where unknown


def first(
    model: Any, params: Params, data: Data, algorithm: Any, max_steps: int, key: Array | None, unchecked: bool
) -> Climb:
    """The climb before it begins; ``INVALID`` where it is ``unchecked`` and data or start turn out to be so."""
    climb = start(model, params, data, algorithm, max_steps, key)
    if not unchecked:
        return climb
    status = jnp.where(is_valid(model, params, data), climb.status, Status.INVALID)
    return climb._replace(status=status.astype(jnp.int32))


@program(
    static_argnames=("max_steps",), seconds=lambda climb, model, data, *more: work.fit(model, climb.state.params, data)
)
def go_on(
    climb: Climb, model: Any, data: Data, algorithm: Any, stop: Any, tol: Any, steps: Array, max_steps: int
) -> Climb:
    """The climb after at most ``steps`` more steps."""
    return advance(stepper(model, data, algorithm, stop, tol, max_steps), climb, steps)


def choose_rule(stop: Rule | None, tol: Any, algorithm: Algorithm, has_objective: bool) -> Rule:
    """``stop``, or the algorithm's default rule; ``ValueError`` where ``stop`` reads an objective and there is none."""
    if stop is None:
        return noisy_rule(has_objective) if noisy(algorithm) else default_rule(tol)
    if stop.needs_objective and not has_objective:
        raise ValueError(
            "this stopping rule reads the objective, and the model has none. Use jaxem.fitting.parameter_change, or "
            f"{bound.HOW_TO_HAVE_ONE}"
        )
    return stop


def start(model: Any, params: Params, data: Data, algorithm: Any, max_steps: int, key: Array | None) -> Climb:
    """The climb before it begins: the E-step at the start is still to come where the algorithm has ``before``."""
    state = getattr(algorithm, "before", algorithm.init)(model, params, data, key)
    check_step(algorithm, model, state, data)
    trace = None if state.objective is None else jnp.full((max_steps + 1,), jnp.nan, state.objective.dtype)
    noise = jnp.zeros((), trees.float_dtype(params))
    if state.objective is not None and not getattr(model, "accurate", False):
        noise = rounding_noise.of_objective(model, params, data, algorithm, key, state.objective)
    unknown = remaining.nothing_known(model, algorithm, params), jnp.full_like(noise, jnp.nan)
    return Climb(state, trace, jnp.int32(-1), jnp.int32(RUNNING), noise, *unknown)


def stepper(model: Any, data: Data, algorithm: Any, stop: Any, tol: Any, max_steps: int) -> Callable[[Climb], Climb]:
    """The function that makes one step and judges it; a climb that has ended is returned unchanged.

    Where the climb begins, the new state is that of the start: it may fail, but there is no step to measure.
    """

    def step(climb: Climb) -> Climb:
        running = climb.status == RUNNING
        begins = running & (climb.steps < 0)
        data_size = size(data, trees.float_dtype(climb.state.params))
        rule = choose_rule(stop, tol, algorithm, climb.state.objective is not None)
        old, new = climb.state, _next(model, algorithm, climb.state, data, begins)
        failure = _failure(model, new, old, algorithm.monotone, data_size, climb.noise)
        good = running & (failure == RUNNING)
        # A bad step counts as evaluations; everything else stays as before it.
        state = trees.select(good | begins, new, old)
        state = state._replace(evaluations=jnp.where(running, new.evaluations, old.evaluations))
        steps = jnp.where(begins, 0, climb.steps + good.astype(jnp.int32))
        trace = climb.trace
        if trace is not None:
            trace = trace.at[steps].set(state.objective)  # after a failure or the end this changes nothing
        known, left, more, blurred, relative, leaps = climb.remaining, climb.left, jnp.inf, False, False, False
        if hasattr(rule, "blocked"):  # only such a rule reads ``left``
            blur = jnp.zeros_like(data_size)
            if old.objective is not None:
                blur = bound.rounding(old.objective, data_size) + climb.noise
            by, measured, relative = remaining.measure(model, algorithm, old, new, data, known, blur)
            finite = getattr(algorithm, "finite", False)
            seen, more, blurred = remaining.estimate(known, steps, by, measured, new.settled, relative, finite)
            known = trees.select(begins, known, seen)
            left = left if relative else jnp.where(good & ~begins, known.last, left)
            leaps = hasattr(algorithm, "inner") and measured.rest is None
        progress = Progress(
            new.params, old.params, trace, steps, data_size, climb.noise, more, blurred, relative, leaps
        )
        settled = new.settled & ~begins
        stopped = rule.met(progress) & settled
        ended = jnp.where(steps == max_steps, Status.MAX_STEPS, RUNNING)
        if hasattr(rule, "blocked"):
            ended = jnp.where(rule.blocked(progress) & settled, Status.PRECISION, ended)  # pyright: ignore
        failed = jnp.where(running, failure, climb.status)
        status = jnp.where(good, jnp.where(stopped, Status.CONVERGED, ended), failed).astype(jnp.int32)
        return Climb(state, trace, steps, status, climb.noise, known, left)

    return step


def _next(model: Any, algorithm: Any, state: State, data: Data, begins: Array) -> State:
    """The state after one more step; that of the start where the climb ``begins``."""
    if hasattr(algorithm, "before"):
        return algorithm.step(model, state, data, begins)  # pyright: ignore[reportCallIssue]
    new = jax.lax.cond(begins, lambda: state, lambda: algorithm.step(model, state, data))
    return new._replace(params=trees.stored(new.params, new.evaluations >> 31))


def noisy(algorithm: Algorithm) -> bool:
    """Whether the objective of ``algorithm`` is noisy: it draws random numbers, and is not monotone."""
    return algorithm.random() and not algorithm.monotone


def advance(step: Callable[[Climb], Climb], climb: Climb, steps: Array) -> Climb:
    """The climb after at most ``steps`` more steps; fewer where it (every lane of it) ends sooner.

    Where it has not begun, the E-step at the start comes first.
    """

    def running(carry: tuple[Array, Climb]) -> Array:
        taken, climb = carry
        return (climb.status == RUNNING).any() & (taken < steps)

    def again(carry: tuple[Array, Climb]) -> tuple[Array, Climb]:
        taken, climb = carry
        return taken + 1, step(climb)

    begun = jnp.minimum(climb.steps, 0).min()
    return jax.lax.while_loop(running, again, (begun, climb))[1]


def result(model: Any, climb: Climb) -> Fit:
    """The climb as a ``Fit``."""
    state = climb.state
    alike = model.coincide(state.params) if has(model, "coincide") else jnp.bool_(False)
    counts = jnp.maximum(climb.steps, 0), state.evaluations, state.fallbacks
    return Fit(state.params, state.objective, climb.trace, *counts, climb.status, _or_nan(climb.left), alike)


def _or_nan(left: Array) -> Array:
    return jnp.where(jnp.isfinite(left), left, jnp.nan)


def _failure(model: Any, new: State, old: State, monotone: bool, data_size: Array, noise: Array) -> Array:
    """The status of a failed step, or ``RUNNING``. Of several causes the last one tested counts, as the root cause."""
    status = jnp.int32(RUNNING)
    if old.objective is not None and new.objective is not None and monotone:
        fell = new.objective < old.objective - bound.rounding(old.objective, data_size) - noise
        status = jnp.where(fell, Status.DECREASED, status)
    finite = trees.all_finite(new.params)
    if new.objective is not None:
        finite = finite & jnp.isfinite(new.objective)
    status = jnp.where(finite, status, Status.NON_FINITE)
    if has(model, "degenerate"):
        degenerate = model.degenerate(new.params)
        if jnp.shape(degenerate) != ():
            raise ValueError(f"the model's degenerate must return one truth value; got shape {jnp.shape(degenerate)}")
        status = jnp.where(degenerate, Status.DEGENERATE, status)
    return status.astype(jnp.int32)
