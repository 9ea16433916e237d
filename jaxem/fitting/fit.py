"""The fitting loop: ``fit`` runs an algorithm and judges every step. No other file of the library has such a loop."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.em import EM
from jaxem.algorithms.generalized import GEM
from jaxem.algorithms.protocol import Algorithm, State
from jaxem.core import bound, trees
from jaxem.core.checks import instance, number, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.data import Data, Sharded, size
from jaxem.core.model import Params, check_model, has, has_m_step, is_additive, require
from jaxem.fitting import closures, implicit, remaining
from jaxem.fitting import noise as rounding_noise
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
    r"""The fit of a model to data from one start: theta <- M(theta) until the stopping rule is met.

    The iteration is one compiled ``while_loop``. A second call with another tolerance, other data of equal shapes or an
    equal model does not compile again.

    The ``params`` and ``objective`` of the result can be differentiated, in any mode, with respect to the data, the
    observation weights and the model's own arrays (those of a prior, for example). The derivative follows from the
    implicit function theorem (see ``jaxem.fitting.implicit``), in memory that does not depend on the number of steps.
    Where it is undefined it is NaN in a trace and a ``FitError`` outside. The start, the stopping rule, ``trace`` and
    ``steps`` are constants.

    Arguments:
        model: what is fitted: a ready-made model, a ``jaxem.Model``, or any object with the functions it needs.
        params: the start, a tree like the model's parameters; it is cast to the floating dtype of the data.
        data: the observations: an array, a tree of arrays, a data frame, a ``jaxem.dataset``, or data spread over
            devices by ``jaxem.shard``.
        algorithm: default ``None``: ``EM()``, or ``GEM()`` for a model with ``q_function`` and ``entropy`` but no
            M-step.
        tol: tolerance of the default rule, log-likelihood left per observed value (see
            ``jaxem.fitting.stopping.default_rule``); default 1e-10. It has no effect where ``stop`` is given.
        stop: a stopping rule in place of the default rule; default ``None``. An algorithm with a noisy objective (it
            draws random numbers and is not monotone) then stops by ``plateau()``, or, without an objective, by
            ``max_steps`` only.
        max_steps: greatest number of iterations; default 1000. It sets the length of ``trace``, so another value
            compiles anew.
        key: a random key, for an algorithm that draws random numbers; default ``None``.

    Returns:
        A ``Fit``. Its ``status`` says how the fit ended; nothing but ``CONVERGED`` is convergence.

    Raises:
        ValueError: before anything is traced: the start lies outside the model's parameter spaces, the data cannot be
            fitted, the model lacks what the algorithm needs, or an option is wrong. While tracing: the M-step returns
            another structure, shape or dtype than the start, or ``stop`` reads an objective that the model does not
            have. Inside a trace (``jit``, ``vmap``), and in sharded data, bad values become a ``Status`` instead.
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
    """``fit`` without its derivative, which would make a compiled program keep the model; and the converted data."""
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


def check_spread(model: Any, algorithm: Any, spread: str = "spread over devices") -> None:
    """Raise ``ValueError`` where ``algorithm`` reads the data in another way than by sums over blocks of rows."""
    name = type(algorithm).__name__
    while hasattr(algorithm, "inner"):
        algorithm = algorithm.inner
    if not getattr(algorithm, "by_sums", False):
        raise ValueError(
            f"{name} takes rows in an order of its own, or all at once, which it cannot do with data {spread}: use EM, "
            "HardEM, AnnealedEM, or an accelerator of one of them"
        )
    if not is_additive(model):
        require(model, f"{name} on data that are {spread}", "statistics", "maximize")


def choose(algorithm: Algorithm | None, model: Any) -> Algorithm:
    """``algorithm``, or the default for this model; ``ValueError`` where the model lacks what it needs."""
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
    """``max_steps`` as an int; ``ValueError`` where an option of ``fit`` is invalid."""
    if algorithm.random() and key is None:
        raise ValueError(f"{type(algorithm).__name__} draws random numbers: give {name} a key, e.g. jax.random.key(0)")
    if key is not None:
        prng_key(name, key)
    number("tol", tol, 0, math.inf)
    if stop is not None:
        instance("stop", stop, "a stopping rule, such as jaxem.fitting.aitken(1e-8)", "met", "needs_objective")
    return whole_number("max_steps", max_steps, 0)


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


class Climb(NamedTuple):
    """The state of a fit during its iteration."""

    state: State
    trace: Array | None
    steps: Array
    status: Array  # a Status, or RUNNING
    noise: Array  # rounding error of the objective beyond ``rounding``
    remaining: Remaining
    left: Array  # estimated rise of the objective still to come; not finite where unknown


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
    if unchecked:  # outside a trace, invalid input has already raised an error
        status = jnp.where(is_valid(model, params, data), climb.status, Status.INVALID)
        climb = climb._replace(status=status.astype(jnp.int32))
    step = stepper(model, data, algorithm, stop, tol, max_steps)
    return result(model, advance(step, climb, jnp.int32(max_steps)))


def start(model: Any, params: Params, data: Data, algorithm: Any, max_steps: int, key: Array | None) -> Climb:
    """The climb before its first step, with the status of the start."""
    state = algorithm.init(model, params, data, key)
    check_step(algorithm, model, state, data)
    trace = None
    if state.objective is not None:
        trace = jnp.full((max_steps + 1,), jnp.nan, state.objective.dtype).at[0].set(state.objective)
    noise = jnp.zeros((), trees.float_dtype(params))
    if state.objective is not None and not getattr(model, "accurate", False):
        noise = rounding_noise.of_objective(model, params, data, algorithm, key, state.objective)
    data_size = size(data, trees.float_dtype(params))
    failure = _failure(model, state, None, algorithm.monotone, data_size, noise)
    no_steps = jnp.where(max_steps == 0, Status.MAX_STEPS, RUNNING)
    status = jnp.where(failure == RUNNING, no_steps, failure).astype(jnp.int32)
    unknown = jnp.full_like(noise, jnp.nan)
    return Climb(state, trace, jnp.int32(0), status, noise, remaining.nothing_known(model, algorithm, params), unknown)


def stepper(model: Any, data: Data, algorithm: Any, stop: Any, tol: Any, max_steps: int) -> Callable[[Climb], Climb]:
    """The function that makes one step and judges it; a climb that has ended is returned unchanged."""

    def step(climb: Climb) -> Climb:
        old, running = climb.state, climb.status == RUNNING
        data_size = size(data, trees.float_dtype(old.params))
        rule = choose_rule(stop, tol, algorithm, old.objective is not None)
        new = algorithm.step(model, old, data)
        new = new._replace(params=trees.stored(new.params, climb.steps >> 31))
        failure = _failure(model, new, old, algorithm.monotone, data_size, climb.noise)
        good = running & (failure == RUNNING)
        # A bad step counts as evaluations; everything else stays as before it.
        state = trees.select(good, new, old)
        state = state._replace(evaluations=jnp.where(running, new.evaluations, old.evaluations))
        steps = climb.steps + good.astype(jnp.int32)
        trace = climb.trace
        if trace is not None:
            trace = trace.at[steps].set(state.objective)  # after a failure or the end this changes nothing
        known, left, more, blurred, relative, leaps = climb.remaining, climb.left, jnp.inf, False, False, False
        if hasattr(rule, "blocked"):  # only such a rule reads ``left``
            blur = jnp.zeros_like(data_size)
            if old.objective is not None:
                blur = rounding(old.objective, data_size) + climb.noise
            by, measured, relative = remaining.measure(model, algorithm, old, new, data, known, blur)
            finite = getattr(algorithm, "finite", False)
            known, more, blurred = remaining.estimate(known, steps, by, measured, new.settled, relative, finite)
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
    """Whether the objective of ``algorithm`` is noisy: it draws random numbers, and is not monotone."""
    return algorithm.random() and not algorithm.monotone


def advance(step: Callable[[Climb], Climb], climb: Climb, steps: Array) -> Climb:
    """The climb after at most ``steps`` more steps; fewer where it (every lane of it) ends sooner."""

    def running(carry: tuple[Array, Climb]) -> Array:
        taken, climb = carry
        return (climb.status == RUNNING).any() & (taken < steps)

    def again(carry: tuple[Array, Climb]) -> tuple[Array, Climb]:
        taken, climb = carry
        return taken + 1, step(climb)

    return jax.lax.while_loop(running, again, (jnp.int32(0), climb))[1]


def result(model: Any, climb: Climb) -> Fit:
    """The climb as a ``Fit``."""
    state = climb.state
    alike = model.coincide(state.params) if has(model, "coincide") else jnp.bool_(False)
    counts = climb.steps, state.evaluations, state.fallbacks
    return Fit(state.params, state.objective, climb.trace, *counts, climb.status, _or_nan(climb.left), alike)


def _or_nan(left: Array) -> Array:
    return jnp.where(jnp.isfinite(left), left, jnp.nan)


def _failure(
    model: Any, new: State, old: State | None, monotone: bool, data_size: Array, noise: Array | float
) -> Array:
    """The status of a failed step, or ``RUNNING``. Of several causes the last one tested counts, as the root cause."""
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
            raise ValueError(f"the model's degenerate must return one truth value; got shape {jnp.shape(degenerate)}")
        status = jnp.where(degenerate, Status.DEGENERATE, status)
    return status.astype(jnp.int32)
