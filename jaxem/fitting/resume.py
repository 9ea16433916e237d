"""``resume``: a run goes on from its checkpoint."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import trees
from jaxem.core.conversion import of_fit
from jaxem.core.data import Data, Sharded
from jaxem.core.dataset import as_data
from jaxem.core.model import Params, check_model
from jaxem.core.stacking import lanes_of, stack
from jaxem.fitting import implicit, many, restarts, runs, stream
from jaxem.fitting.climb import RUNNING, start
from jaxem.fitting.fit import arranged, check_call, choose, finish, fit_watched
from jaxem.fitting.lanes import climb_all
from jaxem.fitting.pieces import Report, with_max_steps
from jaxem.fitting.problems import Problems
from jaxem.fitting.result import Fit, with_names
from jaxem.fitting.runs import How, Saved
from jaxem.fitting.screening import rounds
from jaxem.fitting.stopping import Rule
from jaxem.fitting.watch import Watch, watching


def resume(
    path: str | os.PathLike[str],
    model: Any,
    data: Data | list[Data],
    *,
    params: Params = None,
    algorithm: Algorithm | None = None,
    stop: Rule | None = None,
    max_steps: int | None = None,
    progress: bool | Callable[[Report], Any] | Callable[[int, int], Any] | None = None,
    every: float = 60.0,
    mesh: Mesh | None = None,
) -> Any:
    """The result that a run with ``checkpoint=path`` would have returned, had it not been interrupted.

    The run goes on from its last checkpoint, and keeps writing to ``path``. The result has the same bits as that of a
    run without interruption, on the same machine and the same version of JAX. A run that has ended is returned at once.

    Model and data are recognised by fingerprints of all that they contain. Start, tolerance, random key and (as far as
    they are jaxem's own, without functions and optimisers) algorithm and stopping rule come from the file. Nothing in
    the file is run.

    Arguments:
        path: the checkpoint of a run of ``fit``, ``fit_many``, ``fit_restarts``, ``fit_many_restarts`` or
            ``fit_stream``.
        model: as for that call, and equal to its model.
        data: as for that call, and equal to its data; for ``fit_stream`` the source.
        params: any parameters with the structure of the start; default ``None``. Needed where the parameters are
            records of your own (a named tuple) and the constraints of the model do not show it. Values do not count.
        algorithm: default ``None``: that of the run. To be passed again where it holds a function or an optimiser, or
            is a class of your own; it must then be of the same type.
        stop: default ``None``: that of the run. To be passed again where it is a class of your own.
        max_steps: default ``None``: that of the run. A larger one lets a run go on that ended by ``MAX_STEPS``.
        progress: as for that call; default ``None``.
        every: as for that call; default 60.
        mesh: as for that call, where it was ``fit_stream``; default ``None``.

    Returns:
        What that call returns, a ``Fit`` or a ``Restarts``; it can be differentiated likewise.

    Raises:
        ValueError: the file is not a checkpoint, or is damaged; or it is of another model, other data, another dtype,
            another version of jaxem or another setting of ``jax_enable_x64``; or something has to be passed again; or
            an argument is traced by ``jit`` or ``vmap``.
    """
    saved = runs.read(path)
    kind = saved.header["kind"]
    if kind == "fit_stream":
        more = {"params": params, "algorithm": algorithm, "stop": stop, "max_steps": max_steps}
        return stream.go_on_from(saved, model, data, **more, progress=progress, every=every, mesh=mesh)
    if mesh is not None:
        raise ValueError(f"mesh is for streams, and {saved.path} is a checkpoint of {kind}")
    if kind not in _ENGINES:
        raise ValueError(f"{saved.path} is a checkpoint of {kind}, which this version of jaxem cannot resume")
    what, unit, convert, run = _ENGINES[kind]
    watch = watching("resume", progress, path, every, what, unit)
    assert watch is not None
    check_model(model)
    told, data = data, convert(data)
    known, seen = implicit.constant((model, data))
    if trees.is_traced(known, seen):
        raise ValueError("resume works between compiled programs, so it cannot be traced by jit or vmap")
    saved.check(known, runs.seen(seen))
    found, stop, tol = saved.how(algorithm, stop)
    how = choose(found, known), stop, tol
    max_steps = saved.header["max_steps"] if max_steps is None else max_steps
    max_steps = check_call("resume", how[0], max_steps, saved.key(), tol, stop)  # pyright: ignore[reportArgumentType]
    like = saved.params(known, of_fit(params))
    watch.continues(saved.header | runs.options(how, max_steps))
    found = run(saved, model, data, known, seen, like, how, max_steps, watch)
    if kind == "fit":
        return with_names(found, told)
    return found._replace(best=with_names(found.best, told)) if kind == "fit_restarts" else found


def _one(
    saved: Saved, model: Any, data: Data, known: Any, seen: Data, params: Any, how: How, max_steps: int, watch: Watch
) -> Fit:
    before, key = saved.header["max_steps"], saved.key()
    seen = arranged(known, seen, how[0])
    begin = lambda params: start(known, params, seen, how[0], before, key)
    climb = with_max_steps(saved.tree(jax.eval_shape(begin, params)), max_steps)
    if isinstance(seen, Sharded):
        climb, key = seen.replicated((climb, key))
        how = (*how[:2], seen.replicated(jnp.asarray(how[2])))
    if int(climb.status) == RUNNING:
        fit = fit_watched(known, seen, how, max_steps, climb, watch)
    else:
        fit = finish(known, climb)
    return implicit.attach(model, data, fit)


def _many(
    saved: Saved, model: Any, data: Data, known: Any, seen: Data, params: Any, how: How, max_steps: int, watch: Watch
) -> Fit:
    problems, where = Problems.of(known, seen, (False, True)), np.arange(lanes_of(seen))
    fits = climb_all(problems, where, *_shapes(saved, params), how, max_steps, [(1, max_steps)], **_on(saved, watch))
    return many.attach(model, data, fits)


def _restarts(
    saved: Saved, model: Any, data: Data, known: Any, seen: Data, params: Any, how: How, max_steps: int, watch: Watch
) -> restarts.Restarts:
    lanes = saved.header["restarts"]
    problems, plan = (
        Problems.one(known, arranged(known, seen, how[0])),
        rounds(lanes, saved.header["finalists"], max_steps),
    )
    of_lanes = np.zeros(lanes, int), *_shapes(saved, params)
    fits = climb_all(problems, *of_lanes, how, max_steps, plan, **_on(saved, watch), drop=_drops(saved))
    return restarts.best(model, data, fits, seen)


def _many_restarts(
    saved: Saved, model: Any, data: Data, known: Any, seen: Data, params: Any, how: How, max_steps: int, watch: Watch
) -> restarts.Restarts:
    each, sets = saved.header["restarts"], lanes_of(seen)
    problems, plan = Problems.of(known, seen, (False, True)), rounds(each, saved.header["finalists"], max_steps)
    of_lanes = np.repeat(np.arange(sets), each), *_shapes(saved, params)
    fits = climb_all(problems, *of_lanes, how, max_steps, plan, **_on(saved, watch), drop=_drops(saved))
    return many.best_of_each(model, data, fits, seen, sets)


def _shapes(saved: Saved, params: Any) -> tuple[Any, Any]:
    """The starts and the keys of all lanes, of which only shapes count."""
    key, lanes = saved.key(), jax.tree.leaves(params)[0].shape[0]
    return params, None if key is None else jax.random.split(key, lanes)


def _drops(saved: Saved) -> bool:
    return saved.header["finalists"] is None


def _on(saved: Saved, watch: Watch) -> dict[str, Any]:
    return {"watch": watch, "saved": saved}


# Of each kind of run: the arguments of the function that watches it, the unit of its bar, how its data are converted,
# and how it goes on.
_ENGINES: dict[str, tuple[str, str, Callable[[Any], Data], Callable[..., Any]]] = {
    "fit": ("of a jaxem.fitting.Report", "step", as_data, _one),
    "fit_many": ("(ended, lanes)", "fit", lambda data: as_data(stack(data), lanes=True), _many),
    "fit_restarts": ("(ended, starts)", "fit", as_data, _restarts),
    "fit_many_restarts": ("(ended, lanes)", "fit", lambda data: as_data(stack(data), lanes=True), _many_restarts),
}
