"""Fits to many data sets: one fit for each, or the best of many starts for each."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import trees
from jaxem.core.bound import HOW_TO_HAVE_ONE, has_objective
from jaxem.core.checks import brief, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.data import Data, rows, size
from jaxem.core.dataset import as_data
from jaxem.core.model import Params, check_model, require
from jaxem.core.stacking import lanes_of, stack
from jaxem.fitting import implicit
from jaxem.fitting.fit import check_call, choose
from jaxem.fitting.lanes import climb_all
from jaxem.fitting.problems import Problems
from jaxem.fitting.restarts import Restarts, best_of
from jaxem.fitting.result import Fit
from jaxem.fitting.runs import describe, seen
from jaxem.fitting.screening import rounds
from jaxem.fitting.stopping import Rule
from jaxem.fitting.validation import check_starts
from jaxem.fitting.watch import watching


def fit_many(
    model: Any,
    params: Params,
    datasets: Data | list[Data],
    *,
    params_axis: int | None = 0,
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
    key: Array | None = None,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
) -> Fit:
    """One fit for each of B data sets: the result of ``vmap(fit)`` up to rounding, without waiting for the slowest.

    The result can be differentiated like that of ``fit``; in a lane where the derivative is undefined it is NaN. Which
    lanes go on is decided between compiled programs, so ``fit_many`` itself cannot be traced by ``jit`` or ``vmap``.
    Lanes run in batches of two sizes, with one program for each, in whatever order they end; with equal shapes a second
    call compiles nothing.

    Arguments:
        model: what is fitted, as for ``fit``.
        params: the starts, a tree with a leading axis of B data sets, or one start where ``params_axis`` is None.
        datasets: data with a leading axis of B data sets, or a list of B data sets. Data sets of unequal lengths are
            padded to the longest with observations of weight 0; the model must support weights.
        params_axis: 0 (default): one start for each data set, on a leading axis. None: one start for all.
        algorithm: as for ``fit``.
        tol: as for ``fit``.
        stop: as for ``fit``.
        max_steps: as for ``fit``.
        key: a random key, for an algorithm that draws random numbers; lane b uses ``jax.random.split(key, B)[b]``.
        batch_size: lanes that run side by side; default ``None``: as many as fit the cache, or fill the device.
        progress: a function ``progress(ended, B)``, called whenever a batch of lanes has made some steps. True: a bar
            of the lanes that have ended (extra ``progress``). Default ``None``: neither. With ``progress`` or
            ``checkpoint`` Ctrl-C ends the run as it ends ``fit``; lanes that had not ended are ``INTERRUPTED``.
        checkpoint: as for ``fit``.
        every: as for ``fit``.

    Returns:
        A ``Fit`` of B lanes: every field has a leading axis of data sets.

    Raises:
        ValueError: as for ``fit``, with the number of the data set; or ``params`` has no leading axis of B; or an
            argument is traced by ``jit`` or ``vmap``.
    """
    watch = watching("fit_many", progress, checkpoint, every, "(ended, lanes)", "fit")
    algorithm = choose(algorithm, model)
    max_steps = check_call("fit_many", algorithm, max_steps, key, tol, stop)
    if params_axis not in (0, None) or isinstance(params_axis, bool):
        raise ValueError(f"params_axis must be 0 (a start for each data set) or None; it is {brief(params_axis)}")
    datasets = stack(datasets)
    lanes = lanes_of(datasets)
    params, datasets = convert(model, params, datasets, lanes=True)
    if params_axis is None:
        params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (lanes, *leaf.shape)), params)
    _check_axis(params, lanes)
    known, params, data, how = implicit.constant((model, params, datasets, (algorithm, stop, tol)))
    _refuse_traces("fit_many", (known, params, data, how, key))
    check_starts(known, params, data)
    keys = None if key is None else jax.random.split(key, lanes)
    if watch is not None and watch.path is not None:
        watch.header = describe("fit_many", known, params, seen(data), how, max_steps, key)
    problems, plan = Problems.of(known, data, (False, True)), [(1, max_steps)]
    options = {"batch_size": batch_size, "watch": watch}
    return attach(model, datasets, climb_all(problems, np.arange(lanes), params, keys, how, max_steps, plan, **options))


def fit_many_restarts(
    model: Any,
    datasets: Data | list[Data],
    *,
    key: Array,
    restarts: int = 20,
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
    """The best of many starts for each of B data sets: all B x ``restarts`` fits run like the lanes of ``fit_many``.

    Data set b is fitted as by ``fit_restarts(model, datasets[b], key=jax.random.split(key, B)[b])``: short runs from
    all of its starts, and the best few to the end. Only ``best`` of the result can be differentiated.

    Arguments:
        model: what is fitted; it must have ``init`` and an objective.
        datasets: as for ``fit_many``.
        key: a random key.
        restarts: number of starts for each data set; default 20.
        finalists: how many starts of each data set run to the end; default: a fifth, and at least four. ``restarts`` or
            more: all.
        algorithm: as for ``fit``.
        tol: as for ``fit``.
        stop: as for ``fit``.
        max_steps: as for ``fit``.
        batch_size: as for ``fit_many``.
        progress: True, or a function ``progress(ended, B * restarts)``, as for ``fit_many``.
        checkpoint: as for ``fit``.
        every: as for ``fit``.

    Returns:
        A ``Restarts``; every field has a leading axis of data sets.

    Raises:
        ValueError: as for ``fit_restarts``, with the number of the data set; or an argument is traced by ``jit`` or
            ``vmap``.
    """
    watch = watching("fit_many_restarts", progress, checkpoint, every, "(ended, lanes)", "fit")
    check_model(model)
    require(model, "fit_many_restarts", "init")
    restarts = whole_number("restarts", restarts, 1)
    if finalists is not None:
        finalists = whole_number("finalists", finalists, 1)
    prng_key("fit_many_restarts", key)
    algorithm = choose(algorithm, model)
    max_steps = check_call("fit_many_restarts", algorithm, max_steps, key, tol, stop)
    if not has_objective(model):
        raise ValueError(f"fit_many_restarts compares objectives, and the model has none: {HOW_TO_HAVE_ONE}")
    datasets = as_data(stack(datasets), lanes=True)
    lanes = lanes_of(datasets)
    known, data, how = implicit.constant((model, datasets, (algorithm, stop, tol)))
    _refuse_traces("fit_many_restarts", (known, data, how, key))
    known.init(key, rows(data, 0))  # outside a trace, where data that cannot be fitted raise an error
    starts, keys = _starts(known, key, data, lanes, restarts)
    check_starts(known, jax.tree.map(lambda leaf: leaf[::restarts], starts), data)
    where = np.repeat(np.arange(lanes), restarts)
    if watch is not None and watch.path is not None:
        numbers = {"restarts": restarts, "finalists": finalists}
        watch.header = describe("fit_many_restarts", known, starts, seen(data), how, max_steps, key) | numbers
    problems, plan = Problems.of(known, data, (False, True)), rounds(restarts, finalists, max_steps)
    fits = climb_all(
        problems, where, starts, keys, how, max_steps, plan, batch_size=batch_size, watch=watch, drop=finalists is None
    )
    return best_of_each(model, datasets, fits, data, lanes)


def _check_axis(params: Params, lanes: int) -> None:
    for name, leaf in zip(trees.leaf_names(params), jax.tree.leaves(params), strict=True):
        if leaf.ndim == 0 or leaf.shape[0] != lanes:
            raise ValueError(
                f"{lanes} data sets need a start each, on a leading axis of {name}; its shape is {leaf.shape}. "
                "To use one start for all data sets, pass params_axis=None"
            )


def _refuse_traces(name: str, values: Any) -> None:
    if trees.is_traced(values):
        raise ValueError(
            f"{name} decides outside the compiled programs which fits go on, so it cannot be traced by jit or vmap; "
            "use jax.vmap(jaxem.fit) there"
        )


def attach(model: Any, datasets: Data, fits: Fit) -> Fit:
    """The fits with their derivatives, where model or data are traced."""
    if not trees.is_traced(model, datasets):
        return fits
    return jax.vmap(implicit.attach, in_axes=(None, 0, 0))(model, datasets, fits)


@program(static_argnames=("lanes", "restarts"))
def _starts(model: Any, key: Array, datasets: Data, lanes: int, restarts: int) -> tuple[Params, Array]:
    """The starts and keys that ``fit_restarts`` would use, (B * R, ...)."""

    def one(key: Array, data: Data) -> tuple[Params, Array]:
        init_keys, fit_keys = jax.random.split(key, (2, restarts))
        return jax.vmap(lambda key: model.init(key, data))(init_keys), fit_keys

    starts = jax.lax.map(lambda both: one(*both), (jax.random.split(key, lanes), datasets))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), starts)


def best_of_each(model: Any, datasets: Data, fits: Fit, data: Data, lanes: int) -> Restarts:
    """The best fit of each data set, with its derivatives; ``data`` are the data sets without theirs."""
    found = _best_of_each(fits, data, lanes)
    return found._replace(best=attach(model, datasets, found.best))


@program(quick="few numbers", static_argnames=("lanes",))
def _best_of_each(fits: Fit, datasets: Data, lanes: int) -> Restarts:
    """The best fit of each data set, from all fits in the order of data sets."""
    fits = jax.tree.map(lambda leaf: leaf.reshape(lanes, -1, *leaf.shape[1:]), fits)
    sizes = jax.vmap(lambda data: size(data, trees.float_dtype(fits.objective)))(datasets)
    return jax.vmap(best_of)(fits, sizes)
