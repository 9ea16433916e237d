"""``fit``: checks of its input, and the climb as one compiled program, or in pieces where it is watched."""

import math
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem import algorithms
from jaxem.algorithms.em import EM
from jaxem.algorithms.protocol import Algorithm
from jaxem.algorithms.squarem import SQUAREM
from jaxem.core import bound, missing_cells, parameters, trees
from jaxem.core.checks import instance, number, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import convert, names_of
from jaxem.core.data import Data, Sharded
from jaxem.core.model import Params, check_model, has, has_m_step, is_additive, require
from jaxem.fitting import closures, implicit, runs, work
from jaxem.fitting.climb import Climb, advance, first, go_on, result, stepper
from jaxem.fitting.pieces import Report, in_pieces, interrupted
from jaxem.fitting.result import Fit, with_names
from jaxem.fitting.stopping import Rule
from jaxem.fitting.validation import check_start
from jaxem.fitting.watch import Watch, watching


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
    progress: bool | Callable[[Report], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
) -> Fit:
    r"""The fit of a model to data from one start: theta <- M(theta) until the stopping rule is met.

    The iteration is one compiled ``while_loop``. A second call with another tolerance, other data of equal shapes or an
    equal model does not compile again.

    The ``params`` and ``objective`` of the result can be differentiated, in any mode, with respect to the data, the
    observation weights and the model's own arrays (those of a prior, for example). The derivative follows from the
    implicit function theorem (see ``jaxem.fitting.implicit``), in memory that does not depend on the number of steps.
    Where it is undefined it is NaN in a trace and a ``FitError`` outside. The start, the stopping rule, ``trace`` and
    ``steps`` are constants.

    With ``progress`` or ``checkpoint`` the steps are taken in pieces of about 0.2 s, between which the run reports and
    saves. Ctrl-C then ends the run after the piece (a second one at once): the fit so far is returned, with the status
    ``INTERRUPTED``. ``jaxem.resume`` goes on from the checkpoint, also after the end of the process, and ends with the
    same bits.

    Arguments:
        model: what is fitted: a ready-made model, a ``jaxem.Model``, or any object with the functions it needs.
        params: the start, a tree like the model's parameters; it is cast to the floating dtype of the data.
        data: the observations: an array, a tree of arrays, a data frame, a ``jaxem.dataset``, or data spread over
            devices by ``jaxem.shard``.
        algorithm: default ``None``: ``EM()``; ``SQUAREM()`` for a model with an objective where 100 iterations of EM
            are estimated at a second or more (``jaxem.explain`` tells); ``GEM()`` for a model with ``q_function`` and
            ``entropy`` but no M-step.
        tol: tolerance of the default rule, log-likelihood left per observed value (see
            ``jaxem.fitting.stopping.default_rule``); default 1e-10. It has no effect where ``stop`` is given.
        stop: a stopping rule in place of the default rule; default ``None``. An algorithm with a noisy objective (it
            draws random numbers and is not monotone) then stops by ``plateau()``, or, without an objective, by
            ``max_steps`` only.
        max_steps: greatest number of iterations; default 1000. It sets the length of ``trace``, so another value
            compiles anew.
        key: a random key, for an algorithm that draws random numbers; default ``None``.
        progress: True: a bar (extra ``progress``). A function: it is called with a ``jaxem.fitting.Report`` after each
            piece; an exception that it raises ends the run. Default ``None``: neither.
        checkpoint: the path of a file that ``jaxem.resume`` can go on from; default ``None``. A file that is there is
            replaced at once.
        every: seconds from one checkpoint to the next, the last one apart; default 60. 0: after each piece.

    Returns:
        A ``Fit``. Its ``status`` says how the fit ended; nothing but ``CONVERGED`` is convergence.

    Raises:
        ValueError: before anything is traced: the start lies outside the model's parameter spaces, the data cannot be
            fitted, the model lacks what the algorithm needs, or an option is wrong. While tracing: the M-step returns
            another structure, shape or dtype than the start, or ``stop`` reads an objective that the model does not
            have. ``progress`` or ``checkpoint`` under ``jit`` or ``vmap``. Inside a trace, and in sharded data, bad
            values become a ``Status`` instead.
        ImportError: ``progress=True``, and tqdm is not installed.
    """
    watch = watching("fit", progress, checkpoint, every, "of a jaxem.fitting.Report", "step")
    options = {"algorithm": algorithm, "tol": tol, "stop": stop, "max_steps": max_steps, "key": key}
    fitted, converted = fit_alone(model, params, data, **options, watch=watch)
    return with_names(implicit.attach(model, converted, fitted), data, names_of(params))


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
    watch: Watch | None = None,
) -> tuple[Fit, Data]:
    """``fit`` without its derivative, which would make a compiled program keep the model; and the converted data."""
    chosen = choose(algorithm, model)
    max_steps = check_call("fit", chosen, max_steps, key, tol, stop)
    params, data = convert(model, params, data, trust="entries")
    closures.guard(model, chosen, stop)
    algorithm = default(chosen, model, params, data) if algorithm is None else chosen
    spread = isinstance(data, Sharded)
    if spread:
        check_spread(model, algorithm)
        params, key, tol = data.replicated((params, key, tol))
    arguments = implicit.constant((model, params, data, algorithm, stop, tol))
    check_start(*arguments[:3])
    arguments = (*arguments[:2], arranged(model, arguments[2], algorithm), *arguments[3:])
    traced = trees.is_traced(arguments[:3])
    if watch is None:
        return _fit(*arguments, max_steps, key, spread or traced), data
    if traced or trees.is_traced(arguments, key):
        raise ValueError("progress and checkpoint work between compiled programs: leave them out under jit and vmap")
    known, start, seen, *how = arguments
    if watch.path is not None:
        watch.header = runs.describe("fit", known, start, runs.seen(data), tuple(how), max_steps, key)
    climb = _begin(known, start, seen, how[0], max_steps, key, spread)
    return fit_watched(known, seen, tuple(how), max_steps, climb, watch), data


def arranged(model: Any, data: Data, algorithm: Any) -> Data:
    """The data in the order in which sums over them are fastest, where the algorithm sees nothing but such sums."""
    if "patterns" not in getattr(model, "takes", ()) or not reads_by_sums(algorithm):
        return data
    return missing_cells.in_tiles(data)


def reads_by_sums(algorithm: Any) -> bool:
    """Whether ``algorithm`` reads the data by sums over blocks of rows only."""
    while hasattr(algorithm, "inner"):
        algorithm = algorithm.inner
    return getattr(algorithm, "by_sums", False)


def check_spread(model: Any, algorithm: Any, spread: str = "spread over devices") -> None:
    """Raise ``ValueError`` where ``algorithm`` reads the data in another way than by sums over blocks of rows."""
    name = type(algorithm).__name__
    if not reads_by_sums(algorithm):
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
        algorithm = algorithms.GEM() if bounded and not has_m_step(model) else EM()
    instance("algorithm", algorithm, "an algorithm, such as jaxem.EM()", "init", "step", "requires")
    name = type(algorithm).__name__
    for needed in algorithm.requires():
        if needed == "objective":
            if not bound.has_objective(model):
                raise ValueError(f"{name} compares objectives, and the model has none: {bound.HOW_TO_HAVE_ONE}")
        elif not (needed == "m_step" and has_m_step(model)):
            require(model, name, needed)
    _check_maximal(algorithm, model)
    return algorithm


def default(algorithm: Algorithm, model: Any, params: Params, data: Data) -> Algorithm:
    """The default algorithm of ``fit``: that of ``choose``, accelerated where it is EM and the fit takes long."""
    pays = algorithm == EM() and bound.has_objective(model) and work.fit(model, params, data) >= work.LONG
    return SQUAREM() if pays else algorithm


def _check_maximal(algorithm: Any, model: Any) -> None:
    """Raise ``ValueError`` where the algorithm needs an M-step that maximises, and that of the model only improves."""
    if not getattr(algorithm, "needs_maximum", False) or parameters.improving_of(model) is None:
        return
    declared = model.declare()
    names = trees.leaf_names(parameters.improving(declared))
    which = [name for name, param in zip(names, parameters.leaves(declared), strict=True) if param.improves]
    raise ValueError(
        f"{type(algorithm).__name__} needs an M-step that maximises Q, and that of this model only improves it, by one "
        f"Newton step about the parameters of the E-step, in {', '.join(which)}: use EM, HardEM, GEM, or an accelerator"
    )


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


@program(
    static_argnames=("max_steps", "unchecked"), seconds=lambda model, params, data, *more: work.fit(model, params, data)
)
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
    climb = first(model, params, data, algorithm, max_steps, key, unchecked)
    step = stepper(model, data, algorithm, stop, tol, max_steps)
    return result(model, advance(step, climb, jnp.int32(max_steps)))


# The parts of ``_fit`` for a run in pieces, this one and ``go_on``, are compiled as hard: they give the same bits.


@program(
    static_argnames=("max_steps", "unchecked"), seconds=lambda model, params, data, *more: work.fit(model, params, data)
)
def _begin(
    model: Any, params: Params, data: Data, algorithm: Any, max_steps: int, key: Array | None, unchecked: bool
) -> Climb:
    return first(model, params, data, algorithm, max_steps, key, unchecked)


@program
def finish(model: Any, climb: Climb) -> Fit:
    """The climb as a ``Fit``, ``INTERRUPTED`` where it has not ended."""
    return result(model, interrupted(climb))


def fit_watched(model: Any, data: Data, how: Any, max_steps: int, climb: Climb, watch: Watch) -> Fit:
    """The fit from ``climb`` on, in pieces."""
    if trees.holds_tracers(climb):
        raise ValueError(closures.REFUSAL)

    def more(climb: Climb, steps: int) -> Climb:
        return go_on(climb, model, data, *how, np.int32(steps), max_steps)

    return finish(model, in_pieces(climb, more, max_steps, watch))
