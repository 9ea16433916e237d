"""Which model? All of them fitted, and every criterion in one table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core.checks import brief, prng_key
from jaxem.core.conversion import as_data
from jaxem.core.data import Data
from jaxem.core.model import check_model, require
from jaxem.fitting.restarts import fit_restarts
from jaxem.fitting.result import Fit, FitError, Status
from jaxem.fitting.stopping import Rule
from jaxem.inference.criteria import CRITERIA, measure, number_of_parameters
from jaxem.inference.simulation import sound


class Candidate(NamedTuple):
    """One model of a ``Selection``, at the best of its fits."""

    name: str
    model: Any
    fit: Fit
    parameters: int  # p
    log_likelihood: float  # without the prior
    criteria: dict[str, float]  # aic, aicc, bic, icl, and the one asked for; NaN where the model has no such criterion
    times_best_found: int  # of the restarts

    @property
    def sound(self) -> bool:
        """Whether the fit did not fail; one that ran out of steps has not reached its maximum, but counts."""
        return bool(sound(self.fit.status))


class Selection(NamedTuple):
    """What ``select`` found; prints as a table."""

    candidates: tuple[Candidate, ...]  # in the order they were given
    criterion: str
    restarts: int

    @property
    def best(self) -> Candidate:
        """The sound candidate with the largest criterion; raises ``FitError`` where there is none."""
        ranked = self.ranked
        if not ranked:
            raise FitError("no model of the selection was fitted without failing; print it to see how each fit ended")
        return ranked[0]

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """The sound candidates, the best first."""
        fitted = [one for one in self.candidates if one.sound and not np.isnan(one.criteria[self.criterion])]
        return tuple(sorted(fitted, key=lambda one: -one.criteria[self.criterion]))

    def __str__(self) -> str:
        names = list(self.candidates[0].criteria)
        rows = [["model", "p", "log-likelihood", *names, "found", "status"]]
        ranked = self.ranked
        for one in self.candidates:
            values = ["" if np.isnan(one.criteria[name]) else f"{one.criteria[name]:.3f}" for name in names]
            found = f"{one.times_best_found}/{self.restarts}"
            status = Status(int(one.fit.status)).name + (" <- best" if ranked and one is ranked[0] else "")
            rows.append([one.name, str(one.parameters), f"{one.log_likelihood:.3f}", *values, found, status])
        title = f"Selection by {self.criterion} (larger is better), {self.restarts} starts each"
        return "\n".join([title, *_columns(rows)])

    __repr__ = __str__


def select(
    models: Sequence[Any] | Mapping[str, Any],
    key: Array,
    data: Data,
    *,
    restarts: int = 20,
    criterion: str | Callable[..., Any] = "bic",
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
) -> Selection:
    """Fit every model from ``restarts`` random starts, and rank them by ``criterion``.

    ``models``: a sequence, or a mapping from names. ``criterion``: ``"aic"``, ``"aicc"``, ``"bic"`` or ``"icl"`` (see
    ``jaxem.inference.criteria``; larger is better), or a function of (model, params, data) for which larger is better.
    The other arguments are those of ``fit_restarts``, which runs the starts of one model in one program. A model
    whose fits all failed is in the table, with the status of the best of them, and never wins.

    Raises ``ValueError`` where there are no models, one of them lacks ``init``, ``constraints`` or what the criterion
    needs, or the criterion is not known.
    """
    if not isinstance(models, Mapping | Sequence) or isinstance(models, str):
        raise ValueError(f"select: models must be a list of models, or a dict from names; got {brief(models)}")
    named = dict(models) if isinstance(models, Mapping) else _named(models)
    if not named:
        raise ValueError("select: no models were given")
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise ValueError(f"select: criterion must be one of {list(CRITERIA)} or a function; got {criterion!r}")
    asked = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "criterion")
    functions = CRITERIA if isinstance(criterion, str) else {**CRITERIA, asked: criterion}
    if not isinstance(criterion, str) and not callable(criterion):
        raise ValueError(f"select: criterion must be a name or a function; got {brief(criterion)}")
    for model in named.values():
        check_model(model)
    prng_key("select", key)
    data = as_data(data)
    candidates = []
    for (name, model), model_key in zip(named.items(), jax.random.split(key, len(named)), strict=True):
        require(model, f"select, of {name}:", "init", "constraints")
        run = fit_restarts(
            model, model_key, data, restarts=restarts, algorithm=algorithm, tol=tol, stop=stop, max_steps=max_steps
        )
        params = run.best.params
        values = {each: _value(f, model, params, data, each == asked) for each, f in functions.items()}
        found, p = int(run.times_best_found), number_of_parameters(model, params)
        likelihood = float(measure(model, params, data).log_likelihood)
        candidates.append(Candidate(name, model, run.best, p, likelihood, values, found))
    return Selection(tuple(candidates), asked, restarts)


def _value(criterion: Callable[..., Any], model: Any, params: Any, data: Data, needed: bool) -> float:
    try:
        return float(criterion(model, params, data))
    except ValueError:  # a model without latent classes has no ICL
        if needed:
            raise
        return float("nan")


def describe(model: Any) -> str:
    """A model in one line: its type and what sets it apart, e.g. ``Mixture(MultivariateNormal(tied), 3)``."""
    if not dataclasses.is_dataclass(model):
        return type(model).__name__
    values = [getattr(model, field.name) for field in dataclasses.fields(model) if field.repr]
    parts = [describe(v) if dataclasses.is_dataclass(v) else str(v) for v in values if _telling(v)]
    parts += [type(v).__name__ for v in values if isinstance(v, tuple) and hasattr(v, "_fields")]
    return f"{type(model).__name__}({', '.join(parts)})" if parts else type(model).__name__


def _telling(value: Any) -> bool:
    plain = isinstance(value, bool | int | float | str) or (isinstance(value, tuple) and not hasattr(value, "_fields"))
    return plain or dataclasses.is_dataclass(value)


def _named(models: Sequence[Any]) -> dict[str, Any]:
    names = [describe(model) for model in models]
    repeated = {name for name in names if names.count(name) > 1}
    return {f"{n} #{i}" if n in repeated else n: m for i, (n, m) in enumerate(zip(names, models, strict=True))}


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [t.ljust(w) if i in (0, last) else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
