"""The table a statistician expects: estimate, standard error, interval."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.core import bound, tables, trees
from jaxem.core.conversion import convert
from jaxem.core.data import Data
from jaxem.core.dataset import columns_of
from jaxem.core.model import Params, has
from jaxem.fitting.result import Fit
from jaxem.inference.coordinates import parameter_names, repeated
from jaxem.inference.sample_size import sample_size
from jaxem.inference.uncertainty.information import Route
from jaxem.inference.uncertainty.intervals import check_level, wald
from jaxem.inference.uncertainty.standard_errors import errors, spread_of

_NAMED = 8  # parameters in the note


class Summary(NamedTuple):
    """One row a parameter, what a symmetric matrix says twice left out; prints as a table."""

    names: tuple[str, ...]
    estimates: np.ndarray
    standard_errors: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    level: float
    objective: float | None  # log-likelihood (+ log-prior)
    observations: float | None  # n, as BIC counts it
    free: int  # parameters, less what the constraints take and what is held
    held: tuple[str, ...] = ()  # parameters at an edge of their space: all the rest is given that they lie there

    def __str__(self) -> str:
        head = f"{tables.number(100 * self.level)} %"
        rows = [["parameter", "estimate", "std. error", f"{head} from", "to"]]
        columns = (self.estimates, self.standard_errors, self.lower, self.upper)
        for name, *values in zip(tables.names(self.names), *columns, strict=True):
            rows.append([name, *tables.with_error(*values)])
        lines = tables.columns(rows, "<>>>>")
        title = f"{self.free} free parameters"
        if self.observations is not None:
            title = f"{tables.number(self.observations)} observations, " + title
        if self.objective is not None:
            title += f", objective {self.objective:.10g}"
        if self.held:
            named = ", ".join(tables.names(self.held[:_NAMED])) + ", …" * (len(self.held) > _NAMED)
            lines.append(f"At an edge of their space, and held there (errors are given that): {named}")
        return "\n".join([title, *lines])

    __repr__ = __str__


def summary(
    model: Any,
    params: Fit | Params,
    data: Data,
    *,
    level: float = 0.95,
    route: Route | None = None,
    robust: bool = False,
    clusters: ArrayLike | None = None,
) -> Summary:
    """Estimate, standard error and interval of every parameter, by name; ``print`` it.

    Columns of a data frame and the levels of its categories are called by their names.

    Intervals are those of ``jaxem.inference.confidence_intervals``, standard errors those of
    ``jaxem.inference.covariance``, whose options these are, and which say what is raised. Parameters at an edge of
    their space have none, and a note below the table says so. Looks at values: not inside ``jit`` or ``vmap``.
    """
    check_level(level)
    if trees.is_traced(params, data):
        raise ValueError("jaxem.summary makes a table of values, so it cannot run inside jit, vmap or grad")
    fitted, columns = params, columns_of(data)
    params, data = convert(model, params, data)
    spread = spread_of(model, params, data, route, robust, clusters)
    ends = wald(model, params, spread, level)
    shown = ~repeated(model, params)
    estimates, deviations, lower, upper = (
        np.asarray(column)[shown] for column in (_flat(params), errors(spread), *map(_flat, ends))
    )
    names = parameter_names(model, params, columns)
    names = tuple(name for name, show in zip(names, shown, strict=True) if show)
    try:
        observations = float(sample_size(model, data))
    except ValueError:
        observations = None
    objective = fitted.objective if hasattr(fitted, "objective") else _objective(model, params, data)
    free, at_edge = int(np.asarray(spread.lives).sum()), np.asarray(spread.held)[shown]
    held = tuple(name for name, one in zip(names, at_edge, strict=True) if one)
    climbed = None if objective is None else float(objective)
    return Summary(names, estimates, deviations, lower, upper, float(level), climbed, observations, free, held)


def _objective(model: Any, params: Params, data: Data) -> Array | None:
    if not has(model, "log_likelihood"):
        return None
    return bound.penalized(model, model.log_likelihood(params, data), params)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
