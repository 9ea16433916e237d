"""Fits from many starts. EM finds local optima, so the number of starts that found the best counts."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import frame_output, trees
from jaxem.core.bound import HOW_TO_HAVE_ONE, has_objective
from jaxem.core.checks import brief, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import check_shapes, convert
from jaxem.core.data import Data, Sharded, check_counts, rows, size
from jaxem.core.dataset import as_data
from jaxem.core.model import Params, check_model, has, require
from jaxem.fitting import closures, implicit
from jaxem.fitting.fit import arranged, check_call, check_spread, choose
from jaxem.fitting.lanes import climb_all, compile_ahead
from jaxem.fitting.problems import Problems
from jaxem.fitting.result import Fit, Status, usable, with_names
from jaxem.fitting.runs import describe, seen
from jaxem.fitting.screening import SAME, rounds
from jaxem.fitting.stopping import Rule
from jaxem.fitting.validation import check_start
from jaxem.fitting.watch import watching


class Restarts(NamedTuple):
    """The result of ``fit_restarts``: the best fit, and how every start ended."""

    best: Fit  # the fit with the highest objective among those that did not fail
    objectives: Array  # (restarts,), objective of each fit
    statuses: Array  # (restarts,), status of each fit
    times_best_found: Array  # starts that came within 1e-6 per observed value of the best objective

    to_frame = frame_output.to_frame

    @property
    def library(self) -> str | None:
        """The library of the data frame that the data came as."""
        return self.best.library

    def as_dict(self) -> dict[str, Any]:
        """The starts by columns.

        Returns:
            A dict: ``start``, ``objective``, ``status``.
        """
        statuses = [Status(int(code)).name for code in np.ravel(self.statuses)]
        objectives = np.ravel(self.objectives)
        return {"start": np.arange(objectives.size), "objective": objectives, "status": statuses}

    def __str__(self) -> str:
        statuses, n = self.statuses, self.statuses.shape[-1]
        if isinstance(statuses, Tracer) or statuses.ndim > 1:
            return f"Restarts of {statuses.size // n} data sets, {n} starts each\n{self.best}"
        codes, times = np.unique(np.asarray(statuses), return_counts=True)
        ends = ", ".join(f"{count} {Status(code).name}" for code, count in zip(codes, times, strict=True))
        if not usable(self.best.status):  # every fit failed
            return f"{n} starts, all of which failed ({ends}); below is the highest of them\n{self.best}"
        ends = f" ({ends})" if (np.asarray(statuses) != Status.CONVERGED).any() else ""
        return f"{n} starts{ends}; best objective found {int(self.times_best_found)} times\n{self.best}"

    __repr__ = __str__


def fit_restarts(
    model: Any,
    data: Data,
    *,
    key: Array,
    restarts: int = 20,
    starts: Any = None,
    finalists: int | None = None,
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
) -> Restarts:
    """The best fit from many starts: short runs from all of them, and the best few to the end.

    After 32 iterations the better half of the starts goes on, after 32 more the better half of those, and so on; the
    others end ``SCREENED`` (see ``fitting/screening.py``). A failed fit (``NON_FINITE``, ``DECREASED``, ``DEGENERATE``
    or ``INVALID``) is never the best, however high its objective (an unbounded likelihood is no optimum), unless all
    fits failed; ``best.status`` tells. Only ``best`` of the result can be differentiated.

    Arguments:
        model: what is fitted; it must have ``init`` (unless all starts are parameters) and an objective.
        data: as for ``fit``.
        key: a random key, for the starts and for an algorithm that draws random numbers.
        restarts: number of starts; default 20. Ignored where ``starts`` is a list.
        starts: where to start; default: ``model.init(key_r, data)``. A list, one entry for each start: parameters or a
            ``Fit``, or, for ready-made models, what ``init`` takes as ``start``: a kind, classes (N,), probabilities of
            classes (N, K). Or a tuple of kinds of start, such as ``("kmeans++", "points")``, which take turns.
        finalists: how many starts run to the end, all where it is ``restarts`` or more. Default: a fifth, and at least
            four, less those that meet the best one or can no longer catch up with it (inside a
            trace: no less).
        algorithm: as for ``fit``.
        tol: as for ``fit``.
        stop: as for ``fit``.
        max_steps: as for ``fit``.
        batch_size: how many starts run side by side; default: as many as fit the cache, or one after another where
            a single one fills it.
        progress: True: a bar of the starts that have ended (extra ``progress``). A function: it is called with
            (ended, starts) between two pieces of the run. Default ``None``: neither.
        checkpoint: as for ``fit``.
        every: as for ``fit``.

    Returns:
        A ``Restarts``: the best fit, the objective and status of every start, and how many starts found the best.

    Raises:
        ValueError: the model lacks ``init`` or what the algorithm needs, it has no objective to compare fits by, the
            data cannot be fitted, or an option is wrong.

    Source: Biernacki, Celeux & Govaert (2003), for short runs before long ones.
    """
    watch = watching("fit_restarts", progress, checkpoint, every, "(ended, starts)", "fit")
    check_model(model)
    prng_key("fit_restarts", key)
    told, data = data, as_data(data)
    check_counts(data)
    algorithm = choose(algorithm, model)
    max_steps = check_call("fit_restarts", algorithm, max_steps, key, tol, stop)
    if not has_objective(model):
        raise ValueError(f"fit_restarts compares objectives, and the model has none: {HOW_TO_HAVE_ONE}")
    if isinstance(data, Sharded):
        check_spread(model, algorithm)
        key, tol = data.replicated((key, tol))
    lanes = len(starts) if isinstance(starts, list) and starts else whole_number("restarts", restarts, 1)
    if finalists is not None:
        finalists = whole_number("finalists", finalists, 1)
    # Only the best fit gets a derivative; that of a failed fit would be NaN.
    known, key, fixed, how = implicit.constant((model, key, data, (algorithm, stop, tol)))
    closures.guard(known, algorithm, stop)
    problems = Problems.one(known, arranged(known, fixed, algorithm))
    if not isinstance(starts, list):
        of_starts = (known, key, fixed), (_kinds(model, starts), lanes)
        compile_ahead(_starts_and_keys, *of_starts, problems, how, max_steps, lanes)
    first, fit_keys = _starts(known, key, fixed, starts, lanes)
    if watch is not None:
        if trees.is_traced(known, key, fixed, how, first):
            raise ValueError(
                "progress and checkpoint work between compiled programs: leave them out under jit and vmap"
            )
        if watch.path is not None:
            numbers = {"restarts": lanes, "finalists": finalists}
            watch.header = describe("fit_restarts", known, first, seen(fixed), how, max_steps, key) | numbers
    plan, where = rounds(lanes, finalists, max_steps), np.zeros(lanes, int)
    options = {"batch_size": batch_size, "watch": watch, "unchecked": True, "drop": finalists is None}
    fits = climb_all(problems, where, first, fit_keys, how, max_steps, plan, **options)
    found = best(model, data, fits, fixed)
    return found._replace(best=with_names(found.best, told))


def best(model: Any, data: Data, fits: Fit, fixed: Data) -> Restarts:
    """The best of many fits, with its derivatives; ``fixed`` are the data without theirs."""
    assert fits.objective is not None
    found = best_of(fits, size(fixed, fits.objective.dtype))
    return found._replace(best=implicit.attach(model, data, found.best))


def _starts(model: Any, key: Array, data: Data, starts: Any, lanes: int) -> tuple[Params, Array]:
    """The parameters of each start, each leaf (lanes, ...), and the keys of the fits."""
    if isinstance(starts, list) and starts:
        init_keys, fit_keys = _split(key, lanes)
        made = [_one_start(model, one, data, given) for one, given in zip(init_keys, starts, strict=True)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made), fit_keys
    made, fit_keys, first, sound = _random(model, key, data, _kinds(model, starts), lanes)
    check_shapes(model, first, data)
    if not trees.is_traced(model, first, data):
        if has(model, "validate"):
            model.validate(first, data)
        if has(model, "diagnose") and not sound:
            model.diagnose(data)
    return made, fit_keys


def _kinds(model: Any, starts: Any) -> tuple[str, ...]:
    """The kinds of start that take turns; () for the one kind that the model has."""
    require(model, "fit_restarts", "init")
    kinds = () if starts is None else starts
    if not (isinstance(kinds, tuple) and all(isinstance(kind, str) for kind in kinds)) or starts == ():
        raise ValueError(f"starts must be a list of starts, or a tuple of kinds of start; got {brief(starts)}")
    return kinds


def _starts_and_keys(*arguments: Any) -> tuple[Params, Array]:
    return _random(*arguments)[:2]


@program(quick="always", static_argnames=("lanes",))
def _split(key: Array, lanes: int) -> tuple[Array, Array]:
    """The keys of the starts and of the fits."""
    init_keys, fit_keys = jax.random.split(key, (2, lanes))
    return init_keys, fit_keys


def _one_start(model: Any, key: Array, data: Data, given: Any) -> Params:
    """Parameters as they are, or those that ``init`` makes of a kind of start, of classes or their probabilities.

    No ready-made model has one array for its parameters; a user's may have, and its ``init`` takes no start.
    """
    is_start = isinstance(given, str) or (
        hasattr(model, "declare") and (isinstance(given, list) or hasattr(given, "dtype"))
    )
    if is_start:
        require(model, "fit_restarts with starts that are no parameters", "init")
        return model.init(key, data, given)
    params, _ = convert(model, given, data)
    check_start(model, params, data)
    return params


@program(quick="few numbers", static_argnames=("kinds", "lanes"))
def _random(
    model: Any, key: Array, data: Data, kinds: tuple[str, ...], lanes: int
) -> tuple[Params, Array, Params, Array]:
    """Random starts, the keys of their fits, the first start, and whether it is sound."""
    keys, fit_keys = _split(key, lanes)
    if kinds:
        turns = [np.arange(turn, lanes, len(kinds)) for turn in range(min(len(kinds), lanes))]
        parts = [
            jax.lax.map(lambda key, kind=kind: model.init(key, data, kind), keys[turn])
            for kind, turn in zip(kinds, turns, strict=False)
        ]
        place = np.argsort(np.concatenate(turns), kind="stable")
        made = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[place], *parts)
    else:
        made = jax.lax.map(lambda key: model.init(key, data), keys)
    first = rows(made, 0)
    sound = trees.all_finite(first)
    if has(model, "degenerate"):
        sound = sound & ~model.degenerate(first)
    return made, fit_keys, first, sound


@program(quick="always")
def best_of(fits: Fit, data_size: Array) -> Restarts:
    """The best of many fits to one data set."""
    objectives = fits.objective
    assert objectives is not None
    sound = usable(fits.status)
    # Failed fits are compared only where all failed; NaN never wins.
    candidates = jnp.where(sound | ~sound.any(), objectives, -jnp.inf)
    candidates = jnp.where(jnp.isnan(candidates), -jnp.inf, candidates)
    index = candidates.argmax()
    # A start that was dropped where it met the best one has found it too.
    reached = jnp.where(fits.status == Status.SCREENED, objectives, candidates)
    found = (reached >= candidates[index] - SAME * data_size) & (reached > -jnp.inf)
    best = jax.tree.map(lambda leaf: leaf[index], fits)
    return Restarts(best, objectives, fits.status, found.sum())
