"""Who drives: ``fit``, the only loop of the library. It judges every step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.em import EM
from jaxem.algorithms.generalized import GEM
from jaxem.algorithms.protocol import Algorithm, State
from jaxem.core import bound, expectation, trees
from jaxem.core.checks import instance, number, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.data import Data, Sharded, size
from jaxem.core.model import Params, check_model, has, has_m_step, is_additive, require
from jaxem.fitting import closures, implicit, remaining
from jaxem.fitting.remaining import Remaining
from jaxem.fitting.result import Fit, Status
from jaxem.fitting.stopping import Progress, Rule, default_rule, noisy_rule, rounding
from jaxem.fitting.validation import check_start, check_step, is_valid

RUNNING = -1


def fit(
    model: Any,
    params: Params,
    data: Data,
    *,
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
    key: Array | None = None,
) -> Fit:
    r"""Climb from ``params`` until the stopping rule is met: theta <- M(theta), jitted, one ``while_loop``.

    ``params`` fixes the start and is cast to the floating dtype of the data. ``algorithm``: ``EM()``, or ``GEM()``
    for a model without an M-step. ``tol``: the default rule (see ``jaxem.fitting.stopping.default_rule``), unless
    ``stop`` is given. An algorithm whose objective is noisy (it draws random numbers, and is not monotone) stops by
    ``plateau()`` instead, and where there is no objective by ``max_steps`` only. ``max_steps`` is the length of the
    trace, so another one compiles anew; another tolerance, other data of equal shapes, or an equal model do not.
    ``key`` is for algorithms that draw random numbers.

    ``params`` and ``objective`` can be differentiated in the data, the observation weights and the model's own arrays
    (a prior's), by the implicit function theorem (see ``jaxem.fitting.implicit``): in any mode, in memory that the
    number of steps does not matter to. An undefined derivative is NaN in a trace, a ``FitError`` outside. The start,
    the rules and the record (``trace``, ``steps``) are constants.

    Returns a ``Fit``, whose ``status`` says how it ended; nothing but ``CONVERGED`` is convergence.

    Raises ``ValueError``, before anything is traced, where the start lies outside the model's parameter spaces,
    the data cannot be fitted, or the model lacks what the algorithm needs. Inside a trace (``jit``, ``vmap``) bad
    values become a ``Status``.
    """
    fitted, data = fit_alone(model, params, data, algorithm=algorithm, tol=tol, stop=stop, max_steps=max_steps, key=key)
    return implicit.attach(model, data, fitted)


def fit_alone(
    model: Any,
    params: Params,
    data: Data,
    *,
    algorithm: Algorithm | None,
    tol: Any = 1e-10,
    stop: Rule | None,
    max_steps: int,
    key: Array | None,
) -> tuple[Fit, Data]:
    """``fit`` without its derivative, by which a compiled program would keep hold of the model; and the data as met."""
    algorithm = choose(algorithm, model)
    max_steps = check_call("fit", algorithm, max_steps, key, tol, stop)
    params, data = convert(model, params, data)
    spread = isinstance(data, Sharded)
    if spread:
        check_spread(model, algorithm)
        params, key, tol = data.replicated((params, key, tol))
    arguments = implicit.constant((model, params, data, algorithm, stop, tol))
    check_start(*arguments[:3])
    closures.guard(model, algorithm, stop)
    traced = spread or trees.is_traced(arguments[:3])
    return _fit(*arguments, max_steps, key, traced), data


def check_spread(model: Any, algorithm: Any) -> None:
    """Raise ``ValueError`` where an algorithm meets the data in another way than by sums over blocks of rows."""
    name = type(algorithm).__name__
    while hasattr(algorithm, "inner"):
        algorithm = algorithm.inner
    if not getattr(algorithm, "by_sums", False):
        raise ValueError(
            f"{name} takes rows in an order of its own, or all at once, and these are spread over devices: use EM, "
            "HardEM, AnnealedEM, or an accelerator of one of them"
        )
    if not is_additive(model):
        require(model, f"{name} on data that are spread over devices", "statistics", "maximize")


def choose(algorithm: Algorithm | None, model: Any) -> Algorithm:
    """``algorithm``, or the default for this model, once the model is known to offer what it needs."""
    check_model(model)
    if algorithm is None:
        bounded = has(model, "q_function", "entropy")
        algorithm = GEM() if bounded and not has_m_step(model) else EM()
    instance("algorithm", algorithm, "an algorithm, such as jaxem.EM()", "init", "step", "requires")
    name = type(algorithm).__name__
    for needed in algorithm.requires():
        if needed == "objective":
            if not bound.has_objective(model):
                raise ValueError(f"{name} compares objectives, and the model has none: {bound.HOW_TO_HAVE_ONE}")
        elif not (needed == "m_step" and has_m_step(model)):
            require(model, name, needed)
    return algorithm


def check_call(name: str, algorithm: Algorithm, max_steps: int, key: Array | None, tol: Any, stop: Rule | None) -> int:
    """Raise ``ValueError`` for options that are none; ``max_steps`` as an int."""
    if algorithm.random() and key is None:
        raise ValueError(f"{type(algorithm).__name__} draws random numbers: give {name} a key, e.g. jax.random.key(0)")
    if key is not None:
        prng_key(name, key)
    number("tol", tol, 0, math.inf)
    if stop is not None:
        instance("stop", stop, "a stopping rule, such as jaxem.fitting.aitken(1e-8)", "met", "needs_objective")
    return whole_number("max_steps", max_steps, 0)


def choose_rule(stop: Rule | None, tol: Any, algorithm: Algorithm, has_objective: bool) -> Rule:
    """``stop``, or the algorithm's default rule, once there is known to be what it reads."""
    if stop is None:
        return noisy_rule(has_objective) if noisy(algorithm) else default_rule(tol)
    if stop.needs_objective and not has_objective:
        raise ValueError(
            "this stopping rule reads the objective, and the model has none. Use jaxem.fitting.parameter_change, or "
            f"{bound.HOW_TO_HAVE_ONE}"
        )
    return stop


class Climb(NamedTuple):
    """A fit on its way."""

    state: State
    trace: Array | None
    steps: Array
    status: Array  # a Status, or RUNNING
    noise: Array  # rounding error of the objective beyond ``rounding``
    remaining: Remaining
    left: Array  # what is left to climb, in units of the objective; NaN where nobody knows


@program(static_argnames=("max_steps", "unchecked"))
def _fit(
    model: Any,
    params: Params,
    data: Data,
    algorithm: Any,
    stop: Any,
    tol: Any,
    max_steps: int,
    key: Array | None,
    unchecked: bool,
) -> Fit:
    climb = start(model, params, data, algorithm, max_steps, key)
    if unchecked:  # outside a trace what is not valid was an error already
        status = jnp.where(is_valid(model, params, data), climb.status, Status.INVALID)
        climb = climb._replace(status=status.astype(jnp.int32))
    step = stepper(model, data, algorithm, stop, tol, max_steps)
    return result(model, advance(step, climb, jnp.int32(max_steps)))


def start(model: Any, params: Params, data: Data, algorithm: Any, max_steps: int, key: Array | None) -> Climb:
    """Before the first step."""
    state = algorithm.init(model, params, data, key)
    check_step(algorithm, model, state, data)
    trace = None
    if state.objective is not None:
        trace = jnp.full((max_steps + 1,), jnp.nan, state.objective.dtype).at[0].set(state.objective)
    noise = jnp.zeros((), trees.float_dtype(params))
    if state.objective is not None and not getattr(model, "accurate", False):
        seen = expectation.noise(lambda at: algorithm.init(model, at, data, key).objective, params)
        # Noise smaller than one unit in the last place of Q does not show where moving by some eps changes no digit.
        noise = 8 * seen + jnp.finfo(noise.dtype).eps * bound.terms(model, params, data)
    data_size = size(data, trees.float_dtype(params))
    failure = _failure(model, state, None, algorithm.monotone, data_size, noise)
    no_steps = jnp.where(max_steps == 0, Status.MAX_STEPS, RUNNING)
    status = jnp.where(failure == RUNNING, no_steps, failure).astype(jnp.int32)
    unknown = jnp.full_like(noise, jnp.nan)
    return Climb(state, trace, jnp.int32(0), status, noise, remaining.nothing_known(model, algorithm, params), unknown)


def stepper(model: Any, data: Data, algorithm: Any, stop: Any, tol: Any, max_steps: int) -> Callable[[Climb], Climb]:
    """One step and the verdict on it; a climb that has ended stays as it is."""

    def step(climb: Climb) -> Climb:
        old, running = climb.state, climb.status == RUNNING
        data_size = size(data, trees.float_dtype(old.params))
        rule = choose_rule(stop, tol, algorithm, old.objective is not None)
        new = algorithm.step(model, old, data)
        new = new._replace(params=trees.stored(new.params, climb.steps >> 31))
        failure = _failure(model, new, old, algorithm.monotone, data_size, climb.noise)
        good = running & (failure == RUNNING)
        # A bad step is paid for, and otherwise as if it had not been taken.
        state = trees.select(good, new, old)
        state = state._replace(evaluations=jnp.where(running, new.evaluations, old.evaluations))
        steps = climb.steps + good.astype(jnp.int32)
        trace = climb.trace
        if trace is not None:
            trace = trace.at[steps].set(state.objective)  # after a failure or the end: what stands there already
        known, left, more, blurred, relative, leaps = climb.remaining, climb.left, jnp.inf, False, False, False
        if hasattr(rule, "blocked"):  # it reads what is left
            blur = jnp.zeros_like(data_size)
            if old.objective is not None:
                blur = rounding(old.objective, data_size) + climb.noise
            by, measured, relative = remaining.measure(model, algorithm, old, new, data, known, blur)
            known, more, blurred = remaining.estimate(known, steps, by, measured, new.settled, relative)
            left = left if relative else jnp.where(good, known.last, left)
            leaps = hasattr(algorithm, "inner") and measured.rest is None
        progress = Progress(
            new.params, old.params, trace, steps, data_size, climb.noise, more, blurred, relative, leaps
        )
        stopped = rule.met(progress) & new.settled
        ended = jnp.where(steps == max_steps, Status.MAX_STEPS, RUNNING)
        if hasattr(rule, "blocked"):
            ended = jnp.where(rule.blocked(progress) & new.settled, Status.PRECISION, ended)  # pyright: ignore
        failed = jnp.where(running, failure, climb.status)
        status = jnp.where(good, jnp.where(stopped, Status.CONVERGED, ended), failed).astype(jnp.int32)
        return Climb(state, trace, steps, status, climb.noise, known, left)

    return step


def noisy(algorithm: Algorithm) -> bool:
    """Whether the objective of an algorithm is."""
    return algorithm.random() and not algorithm.monotone


def advance(step: Callable[[Climb], Climb], climb: Climb, steps: Array) -> Climb:
    """So many steps more, or fewer where the climb (or every lane of it) ends."""

    def running(carry: tuple[Array, Climb]) -> Array:
        taken, climb = carry
        return (climb.status == RUNNING).any() & (taken < steps)

    def again(carry: tuple[Array, Climb]) -> tuple[Array, Climb]:
        taken, climb = carry
        return taken + 1, step(climb)

    return jax.lax.while_loop(running, again, (jnp.int32(0), climb))[1]


def result(model: Any, climb: Climb) -> Fit:
    """The fit that a climb has become."""
    state = climb.state
    alike = model.coincide(state.params) if has(model, "coincide") else jnp.bool_(False)
    counts = climb.steps, state.evaluations, state.fallbacks
    return Fit(state.params, state.objective, climb.trace, *counts, climb.status, _or_nan(climb.left), alike)


def _or_nan(left: Array) -> Array:
    return jnp.where(jnp.isfinite(left), left, jnp.nan)


def _failure(
    model: Any, new: State, old: State | None, monotone: bool, data_size: Array, noise: Array | float
) -> Array:
    """The status of a step that failed, or ``RUNNING``: the cause nearest to the root of the trouble."""
    status = jnp.int32(RUNNING)
    if old is not None and old.objective is not None and new.objective is not None and monotone:
        fell = new.objective < old.objective - rounding(old.objective, data_size) - noise
        status = jnp.where(fell, Status.DECREASED, status)
    finite = trees.all_finite(new.params)
    if new.objective is not None:
        finite = finite & jnp.isfinite(new.objective)
    status = jnp.where(finite, status, Status.NON_FINITE)
    if has(model, "degenerate"):
        degenerate = model.degenerate(new.params)
        if jnp.shape(degenerate) != ():
            raise ValueError(f"degenerate must return one truth value; got shape {jnp.shape(degenerate)}")
        status = jnp.where(degenerate, Status.DEGENERATE, status)
    return status.astype(jnp.int32)
