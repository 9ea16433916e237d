"""Models that differ only in the number of classes, fitted by one set of compiled programs (see ``models/masked.py``).

The lanes of all these models run in one table. Each takes the arithmetic of the largest model, which is less than a
program of its own would take to compile where the data are few.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import constraints, trees
from jaxem.core.compilation import program
from jaxem.core.conversion import check_shapes
from jaxem.core.data import Data, count, size
from jaxem.core.model import Params
from jaxem.fitting.fit import check_call, choose
from jaxem.fitting.lanes import climb_all, compile_ahead
from jaxem.fitting.problems import Problems
from jaxem.fitting.restarts import Restarts, best_of
from jaxem.fitting.result import Fit
from jaxem.fitting.screening import rounds
from jaxem.inference.sample_size import sample_size
from jaxem.inference.selection.criteria import Measured
from jaxem.inference.selection.floors import without_floors

# Most numbers in a table of log-probabilities, of observations by classes: beyond it a larger model than necessary
# takes longer than a program of its own takes to compile.
_FEW = 2**15


class Found(NamedTuple):
    """The best fit of one model."""

    best: Fit
    times_best_found: int
    measured: Measured


def groups(models: dict[str, Any], data: Data) -> list[list[str]]:
    """The names of models that share programs; those that share with no other are left out."""
    found: dict[Any, list[str]] = {}
    for name, model in models.items():
        if getattr(model, "maskable", False) and count(data) * model.k <= _FEW and not trees.is_traced(model, data):
            found.setdefault(dataclasses.replace(model, k=1), []).append(name)
    return [names for names in found.values() if len({models[name].k for name in names}) > 1]


def start_together(
    models: list[Any],
    data: Data,
    keys: list[Array],
    restarts: int,
    algorithm: Algorithm | None,
    tol: float,
    stop: Any,
    max_steps: int,
) -> Callable[[], list[Found | None]]:
    """Begin to compile what the models share, and return the function that fits them.

    It returns for each model what ``fit_restarts`` with its key would find, and the measures of the criteria there;
    ``None`` for a model that refused the data or the start: fitted alone, it says why.
    """
    algorithm = choose(algorithm, models[0])
    max_steps = check_call("select", algorithm, max_steps, keys[0], tol, stop)
    largest = max(models, key=lambda model: model.k)
    active = np.arange(largest.k) < np.array([model.k for model in models])[:, None]
    masked = largest.masked(jnp.asarray(active))
    problems = Problems.of(masked, data, (dataclasses.replace(masked, model=False, active=True), False))
    where = np.repeat(np.arange(len(models)), restarts)
    init_keys, fit_keys = _split(keys, restarts)
    how, plan = (algorithm, stop, tol), rounds(restarts, None, max_steps)
    compile_ahead(_starts_and_keys, (problems, init_keys, where, fit_keys), (), problems, how, max_steps, len(where))

    def fit_all() -> list[Found | None]:
        starts, sound, inside = _starts(problems, init_keys, where)
        fits = climb_all(problems, where, starts, fit_keys, how, max_steps, plan, unchecked=True, drop=True)
        ends = _finish(problems, fits, sample_size(models[0], data), len(models)), sound, inside
        return _found(models, largest, data, *jax.device_get(ends))

    return fit_all


def _found(
    models: list[Any], largest: Any, data: Data, ends: tuple[Restarts, Measured], sound: Any, inside: Any
) -> list[Found | None]:
    (runs, measured), restarts = ends, len(sound) // len(models)
    found: list[Found | None] = []
    for p, model in enumerate(models):
        first = p * restarts
        if not (inside[first] and _accepts(model, data, bool(sound[first]))):
            found.append(None)
            continue
        best, own = jax.tree.map(lambda leaf, p=p: leaf[p], (runs.best, measured))
        best = dataclasses.replace(best, params=largest.fewer(best.params, model.k))
        found.append(Found(jax.device_put(best), int(runs.times_best_found[p]), own))
    return found


def _accepts(model: Any, data: Data, sound: bool) -> bool:
    """Whether ``model.init`` would accept the data, where it finds a start that is ``sound`` or not."""
    try:
        check_shapes(model, None, data)
        model.check_values(data)
        if not sound:
            model.diagnose(data)
    except ValueError:
        return False
    return True


@program(quick="always", static_argnames=("restarts",))
def _split(keys: list[Array], restarts: int) -> tuple[Array, Array]:
    """The keys of all starts and of all fits, as ``fit_restarts`` splits the key of each model."""
    both = jax.vmap(lambda key: jax.random.split(key, (2, restarts)))(jnp.stack(keys))
    return both[:, 0].reshape(-1), both[:, 1].reshape(-1)


def _starts_and_keys(problems: Problems, init_keys: Array, where: Array, fit_keys: Array) -> tuple[Params, Array]:
    return _starts(problems, init_keys, where)[0], fit_keys


@program(quick="always")
def _starts(problems: Problems, keys: Array, where: Array) -> tuple[Params, Array, Array]:
    """The start of each lane, and whether it is sound, and inside the parameter spaces."""

    def one(lane: tuple[Array, Array]) -> tuple[Params, Array, Array]:
        model, data = problems.at(lane[1])
        params, sound = model.first(lane[0], data, None, "kmeans++")
        inside = jax.tree.leaves(constraints.contains(model.constraints, params))
        return params, sound, jnp.stack(inside).all()

    return jax.lax.map(one, (keys, where))


@program(quick="always", static_argnames=("models",))
def _finish(problems: Problems, fits: Fit, n: Array, models: int) -> tuple[Restarts, Measured]:
    """The best fit of each model, and its measures."""
    fits = jax.tree.map(lambda leaf: leaf.reshape(models, -1, *leaf.shape[1:]), fits)
    data_size = size(problems.data, trees.float_dtype(fits.objective))
    runs = jax.vmap(lambda fits: best_of(fits, data_size))(fits)

    def measure(place: tuple[Array, Params]) -> Measured:
        model, data = problems.at(place[0])
        model = without_floors(model)
        entropy = model.entropy(model.e_step(place[1], data), data)
        return Measured(model.log_likelihood(place[1], data), entropy, n)

    return runs, jax.lax.map(measure, (jnp.arange(models), runs.best.params))
