"""Fits from many starts in one program. EM finds local optima, so the number of starts that found the best counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.algorithms.protocol import Algorithm
from jaxem.core.bound import HOW_TO_HAVE_ONE, has_objective
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.data import Data, check_counts, size
from jaxem.core.dataset import as_data
from jaxem.core.model import check_model, require
from jaxem.fitting import implicit
from jaxem.fitting.fit import check_call, choose, fit_alone
from jaxem.fitting.result import Fit, Status, usable
from jaxem.fitting.stopping import Rule


class Restarts(NamedTuple):
    """The result of ``fit_restarts``: the best fit, and how every start ended."""

    best: Fit  # the fit with the highest objective among those that did not fail
    objectives: Array  # (restarts,), objective of each fit
    statuses: Array  # (restarts,), status of each fit
    times_best_found: Array  # number of fits within 1e-6 per observed value of the best objective

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
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
) -> Restarts:
    """The best fit from ``restarts`` random starts ``model.init(key_r, data)``, all run side by side by ``vmap``.

    A failed fit (``NON_FINITE``, ``DECREASED``, ``DEGENERATE`` or ``INVALID``) is never the best, however high its
    objective (an unbounded likelihood is no optimum), unless all fits failed; ``best.status`` tells. Only ``best`` of
    the result can be differentiated.

    Arguments:
        model: what is fitted; it must have ``init`` and an objective.
        data: as for ``fit``.
        key: a random key, for the starts and for an algorithm that draws random numbers.
        restarts: number of starts; default 20.
        algorithm: as for ``fit``.
        tol: as for ``fit``.
        stop: as for ``fit``.
        max_steps: as for ``fit``.

    Returns:
        A ``Restarts``: the best fit, the objective and status of every start, and how many starts found the best.

    Raises:
        ValueError: the model lacks ``init`` or what the algorithm needs, it has no objective to compare fits by, the
            data cannot be fitted, or an option is wrong.
    """
    check_model(model)
    require(model, "fit_restarts", "init")
    restarts = whole_number("restarts", restarts, 1)
    prng_key("fit_restarts", key)
    data = as_data(data)
    check_counts(data)
    algorithm = choose(algorithm, model)
    max_steps = check_call("fit_restarts", algorithm, max_steps, key, tol, stop)
    model.init(key, data)  # outside a trace, where data that cannot be fitted raise a ValueError
    if not has_objective(model):
        raise ValueError(f"fit_restarts compares objectives, and the model has none: {HOW_TO_HAVE_ONE}")
    # Only the best fit gets a derivative; that of a failed fit would be NaN.
    arguments = implicit.constant((model, key, data, algorithm, stop, tol))
    fits: Any = _fit_all(*arguments, restarts, max_steps)
    found = best_of(fits, size(implicit.constant(data), fits.objective.dtype))
    return found._replace(best=implicit.attach(model, data, found.best))


@program(static_argnames=("restarts", "max_steps"))
def _fit_all(
    model: Any, key: Array, data: Data, algorithm: Any, stop: Any, tol: Any, restarts: int, max_steps: int
) -> Fit:
    def one(init_key: Array, fit_key: Array) -> Fit:
        start = model.init(init_key, data)
        options = {"algorithm": algorithm, "stop": stop, "tol": tol, "max_steps": max_steps}
        return fit_alone(model, start, data, **options, key=fit_key)[0]

    keys = jax.random.split(key, (2, restarts))
    return jax.vmap(one)(keys[0], keys[1])


@program
def best_of(fits: Fit, data_size: Array) -> Restarts:
    """The best of many fits to one data set."""
    objectives = fits.objective
    assert objectives is not None
    sound = usable(fits.status)
    # Failed fits are compared only where all failed; NaN never wins.
    candidates = jnp.where(sound | ~sound.any(), objectives, -jnp.inf)
    candidates = jnp.where(jnp.isnan(candidates), -jnp.inf, candidates)
    index = candidates.argmax()
    found = (candidates >= candidates[index] - 1e-6 * data_size) & (candidates > -jnp.inf)
    best = jax.tree.map(lambda leaf: leaf[index], fits)
    return Restarts(best, objectives, fits.status, found.sum())
