"""A table of estimates, standard errors and intervals."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.core import bound, frame_output, tables, trees
from jaxem.core.conversion import convert_named
from jaxem.core.data import Data
from jaxem.core.model import Params, has
from jaxem.fitting.result import Fit
from jaxem.inference.coordinates import labels_of, parameter_names, repeated
from jaxem.inference.sample_size import sample_size
from jaxem.inference.uncertainty.information import Route
from jaxem.inference.uncertainty.intervals import check_level, wald_of

_NAMED = 8  # held parameters that the note lists, at most


class Summary(NamedTuple):
    """One row for each parameter, duplicates in symmetric matrices left out; prints as a table."""

    names: tuple[str, ...]  # the name of each parameter
    estimates: np.ndarray  # the value of each
    standard_errors: np.ndarray  # the standard error of each; NaN where it has none
    lower: np.ndarray  # the lower end of each confidence interval
    upper: np.ndarray  # the upper end of each confidence interval
    level: float  # the coverage of the intervals
    objective: float | None  # log-likelihood (+ log-prior)
    observations: float | None  # n, as BIC counts it
    free: int  # degrees of freedom: the unconstrained coordinates that are not held
    held: tuple[str, ...] = ()  # parameters held at an edge of their space; the rest is conditional on them
    library: str | None = None  # of the data frame that the data came as

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The table by columns.

        Returns:
            A dict: ``parameter``, ``estimate``, ``std_error``, ``lower``, ``upper``, ``held``.
        """
        return {
            "parameter": list(self.names),
            "estimate": self.estimates,
            "std_error": self.standard_errors,
            "lower": self.lower,
            "upper": self.upper,
            "held": [name in self.held for name in self.names],
        }

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
            lines.append(f"At an edge of their space and held there; the other standard errors are given that: {named}")
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
    """A table of the estimate, standard error and confidence interval of every parameter, by name; ``print`` it.

    Columns of a data frame and the levels of its categories appear by their names.

    Arguments:
        model: the model.
        params: the maximum, or its ``Fit``.
        data: the data of the fit.
        level: the coverage of the intervals, a probability strictly between 0 and 1; default 0.95.
        route, robust, clusters: as in ``jaxem.inference.covariance``.

    Returns:
        A ``Summary``, with the standard errors of ``jaxem.inference.covariance`` and the intervals of
        ``jaxem.inference.confidence_intervals``. Parameters at an edge of their space have neither, and a note below
        the table names them.

    Raises:
        InformationError: as in ``jaxem.inference.covariance``.
        ValueError: the level is not in (0, 1); the call is inside ``jit``, ``vmap`` or ``grad``; or as in
            ``jaxem.inference.covariance``.
    """
    check_level(level)
    if trees.is_traced(params, data):
        raise ValueError("jaxem.summary needs concrete values: it cannot run inside jit, vmap or grad")
    fitted = params
    params, data, names = convert_named(model, params, data)
    labels = labels_of(model, data, names)
    spread, deviations, ends = wald_of(model, params, data, level, route, robust, clusters)
    shown = ~repeated(model, params)
    columns = _flat(params), deviations, *map(_flat, ends)
    estimates, deviations, lower, upper = (np.asarray(column)[shown] for column in columns)
    every = parameter_names(model, params, labels)
    named = tuple(name for name, show in zip(every, shown, strict=True) if show)
    try:
        observations = float(sample_size(model, data))
    except ValueError:
        observations = None
    objective = fitted.objective if hasattr(fitted, "objective") else _objective(model, params, data)
    free, at_edge = int(np.asarray(spread.lives).sum()), np.asarray(spread.held)[shown]
    held = tuple(name for name, one in zip(named, at_edge, strict=True) if one)
    climbed = None if objective is None else float(objective)
    numbers = estimates, deviations, lower, upper, float(level), climbed, observations, free
    return Summary(named, *numbers, held, labels.library)


def _objective(model: Any, params: Params, data: Data) -> Array | None:
    if not has(model, "log_likelihood"):
        return None
    return bound.penalized(model, model.log_likelihood(params, data), params)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
