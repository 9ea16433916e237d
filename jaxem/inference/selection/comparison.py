"""Model selection: fit several models and compare them by all criteria in one table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import frame_output, tables
from jaxem.core.checks import brief, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.data import Data
from jaxem.core.dataset import as_data
from jaxem.core.labels import library_of
from jaxem.core.model import check_model, require
from jaxem.fitting.restarts import fit_restarts
from jaxem.fitting.result import Fit, FitError, Status, with_names
from jaxem.fitting.stopping import Rule
from jaxem.fitting.validation import check_start
from jaxem.inference.selection.criteria import CRITERIA, all_criteria, measure, number_of_parameters
from jaxem.inference.selection.together import Found, groups, start_together
from jaxem.inference.simulation import sound


class Candidate(NamedTuple):
    """One model of a ``Selection``, with its best fit."""

    name: Any  # its key among the models given, or its place
    model: Any  # the model
    fit: Fit | None  # None where the model refused the data
    parameters: int  # p; 0 where the model refused the data
    log_likelihood: float  # without the prior
    criteria: dict[str, float]  # aic, aicc, bic, icl and a custom criterion; NaN where undefined for the model
    times_best_found: int  # how many of the restarts found the best fit
    refusal: str = ""  # why the model refused the data; empty where it did not

    @property
    def sound(self) -> bool:
        """Whether the fit did not fail; a fit that stopped at ``max_steps`` counts as sound."""
        return self.fit is not None and bool(sound(self.fit.status))


class Selection(NamedTuple):
    """The result of ``select``; prints as a table."""

    candidates: tuple[Candidate, ...]  # in the order given
    criterion: str  # the name of the criterion by which the models are ranked
    restarts: int  # the number of starts of each model
    library: str | None = None  # of the data frame that the data came as

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The table by columns.

        Returns:
            A dict: ``model``, ``parameters``, ``log_likelihood``, each criterion, ``times_best_found``,
            ``status`` (``REFUSED`` where the model refused the data) and ``best``.
        """
        ended = lambda one: "REFUSED" if one.fit is None else Status(int(one.fit.status)).name
        best = next(iter(self.ranked), None)
        return {
            "model": tables.names(one.name for one in self.candidates),
            "parameters": [one.parameters for one in self.candidates],
            "log_likelihood": [one.log_likelihood for one in self.candidates],
            **{name: [float(one.criteria[name]) for one in self.candidates] for name in self.candidates[0].criteria},
            "times_best_found": [one.times_best_found for one in self.candidates],
            "status": [ended(one) for one in self.candidates],
            "best": [one is best for one in self.candidates],
        }

    @property
    def best(self) -> Candidate:
        """The first of ``ranked``; ``FitError`` where no model could be ranked."""
        ranked = self.ranked
        if not ranked:
            raise FitError(
                f"no model of the selection has both a fit that succeeded and a finite {self.criterion}; print the "
                "selection to see how each fit ended"
            )
        return ranked[0]

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """The sound candidates whose criterion is finite, best first; among equals the one with the fewest parameters.

        Criteria that are not finite are left out: they rank nothing.
        """
        value = lambda one: one.criteria[self.criterion]
        left = sorted((one for one in self.candidates if one.sound and np.isfinite(value(one))), key=value)
        ranked: list[Candidate] = []
        while left:
            equal = [one for one in left if _equal(value(one), value(left[0]))]
            ranked.append(min(equal, key=lambda one: one.parameters))
            left = [one for one in left if one is not ranked[-1]]
        return tuple(ranked)

    def __str__(self) -> str:
        criteria = list(self.candidates[0].criteria)
        names = tables.names(one.name for one in self.candidates)
        rows = [["model", "p", "log-likelihood", *tables.names(criteria), "found", "status"]]
        columns = [[_shown(one.criteria[name], name) for one in self.candidates] for name in criteria]
        best = next(iter(self.ranked), None)
        for one, name, *values in zip(self.candidates, names, *columns, strict=True):
            if one.fit is None:
                refused = f"refused: {tables.one_line(one.refusal)}"
                rows.append([name, *[""] * (len(rows[0]) - 2), refused])
                continue
            found = f"{one.times_best_found}/{self.restarts}" if one.sound else ""
            likelihood, status = tables.fixed(one.log_likelihood, 3), Status(int(one.fit.status)).name
            if one is best:
                status += " <- best"
            elif best and one.sound and _equal(*(each.criteria[self.criterion] for each in (one, best))):
                status += " <- equal to the best"
            rows.append([name, str(one.parameters), likelihood, *values, found, status])
        title = f"Selection by {tables.one_line(self.criterion)} (lower is better), {self.restarts} starts each"
        lines = tables.columns(rows, "<" + ">" * (len(rows[0]) - 2) + "<")
        return "\n".join([title, *lines, *self._notes(names)])

    __repr__ = __str__

    def _notes(self, names: list[str]) -> list[str]:
        """Warnings about the table."""
        named = {id(one): name for one, name in zip(self.candidates, names, strict=True)}
        fitted = [one for one in self.candidates if one.sound]
        endless = [named[id(one)] for one in fitted if not np.isfinite(one.criteria[self.criterion])]
        once = [named[id(one)] for one in fitted if one.times_best_found == 1 and self.restarts > 1]
        notes = []
        if endless:
            notes.append(f"not ranked, because {self.criterion} is not finite: {', '.join(endless)}")
        if once:
            notes.append(f"found by one start only, so more restarts may find a better fit: {', '.join(once)}")
        for one in fitted:
            above = [other for other in fitted if _may_hold(one, other)]
            if above:
                other = max(above, key=lambda each: each.log_likelihood)
                notes.append(
                    f"{named[id(one)]} has more parameters than {named[id(other)]} and a lower log-likelihood: if "
                    "the smaller model is a special case of the larger one, the larger one missed its maximum; use "
                    "more restarts"
                )
        return notes


def _equal(a: float, b: float) -> bool:
    """Whether two criteria agree to 1e-6 of their size: less than fits resolve and than matters."""
    return bool(np.isfinite([a, b]).all()) and abs(a - b) <= 1e-6 * max(abs(a), abs(b))


def _may_hold(larger: Candidate, smaller: Candidate) -> bool:
    """Whether a model of the same type with fewer parameters reached a higher likelihood.

    False where either has a prior: its fit does not end at the largest likelihood.
    """
    if _has_prior(larger) or _has_prior(smaller) or _make(larger.model) != _make(smaller.model):
        return False
    if not _holds(larger.model, smaller.model):
        return False
    above = smaller.log_likelihood > larger.log_likelihood
    return (
        larger.parameters > smaller.parameters and above and not _equal(larger.log_likelihood, smaller.log_likelihood)
    )


def _holds(larger: Any, smaller: Any) -> bool:
    """False where a part of the models says by ``holds(other)`` that the smaller one is no special case of it."""
    if hasattr(larger, "holds") and not larger.holds(smaller):
        return False
    parts = [field.name for field in dataclasses.fields(larger)] if dataclasses.is_dataclass(larger) else []
    return all(_holds(getattr(larger, name), getattr(smaller, name)) for name in parts)


def _has_prior(one: Candidate) -> bool:
    """Whether the objective of the fit differs from the log-likelihood."""
    objective = None if one.fit is None else one.fit.objective
    return objective is not None and not _equal(float(objective), one.log_likelihood)


def _make(model: Any) -> tuple[Any, ...]:
    """The type of a model and of its parts."""
    parts = dataclasses.fields(model) if dataclasses.is_dataclass(model) else ()
    values = (getattr(model, part.name) for part in parts)
    return type(model), *(_make(value) for value in values if dataclasses.is_dataclass(value))


def _shown(value: float, name: str) -> str:
    if np.isnan(value):
        return ""
    return tables.fixed(value, 3) if name in CRITERIA else tables.number(value, 9)


def select(
    models: Sequence[Any] | Mapping[str, Any],
    data: Data,
    *,
    key: Array,
    restarts: int = 20,
    criterion: str | Callable[..., Any] = "bic",
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
) -> Selection:
    """Fit every model from random starts and rank them by a criterion.

    The table names each model, its number of parameters, its log-likelihood and all criteria. It also warns where a
    result is doubtful: a best fit that only one start found, or a model that ended below a smaller one. A model whose
    fits all failed is listed with the status of the best of them; a model that refused the data is listed with the
    reason. Neither is ever ranked.

    Mixtures and hidden Markov models that differ only in the number of classes share compiled programs, where the data
    are so few that the arithmetic of the largest takes less time than compiling each: the classes that a model lacks
    have probability zero there (``models/masked.py``). The fits are those of ``fit_restarts``, up to rounding.

    Arguments:
        models: a sequence of models, or a dict from names to models. Each needs ``init`` and ``constraints``.
        data: the data, the same for all.
        key: the key of the random starts.
        restarts: the number of random starts of each model; default 20.
        criterion: ``"aic"``, ``"aicc"``, ``"bic"`` (default) or ``"icl"``, or a function of (model, params, data);
            lower is better.
        algorithm, tol, stop, max_steps: as in ``jaxem.fit``.

    Returns:
        A ``Selection``: ``best``, ``ranked`` and ``candidates``.

    Raises:
        ValueError: there are no models; a model lacks ``init``, ``constraints`` or what the criterion needs; or the
            criterion is unknown.
    """
    if not isinstance(models, Mapping | Sequence) or isinstance(models, str):
        raise ValueError(f"select: models must be a list of models, or a dict from names; got {brief(models)}")
    for model in models.values() if isinstance(models, Mapping) else models:
        check_model(model)
    named = dict(models) if isinstance(models, Mapping) else _named(models)
    if not named:
        raise ValueError("select: no models were given")
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise ValueError(f"select: criterion must be one of {list(CRITERIA)} or a function; got {criterion!r}")
    asked = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "criterion")
    functions = CRITERIA if isinstance(criterion, str) else {**CRITERIA, asked: criterion}
    if not isinstance(criterion, str) and not callable(criterion):
        raise ValueError(f"select: criterion must be a name or a function; got {brief(criterion)}")
    prng_key("select", key)
    told, data = data, as_data(data)
    keys = dict(zip(named, _split(key, len(named)), strict=True))
    for name, model in named.items():
        require(model, f"select, of {name}:", "init", "constraints")
    how = {"algorithm": algorithm, "tol": tol, "stop": stop, "max_steps": max_steps}
    shared = _together(named, keys, data, whole_number("restarts", restarts, 1), functions, how)
    candidates = []
    for name, model in named.items():
        if name in shared:
            candidates.append(shared[name])
            continue
        model_key = keys[name]
        refusal = _refusal(model, model_key, data)
        if refusal:
            nothing = {each: float("nan") for each in functions}
            candidates.append(Candidate(name, model, None, 0, float("nan"), nothing, 0, refusal))
            continue
        run = fit_restarts(model, data, key=model_key, restarts=restarts, **how)
        params = run.best.params
        values = {each: _value(f, model, params, data, each == asked) for each, f in functions.items()}
        found, p = int(run.times_best_found), number_of_parameters(model, params)
        likelihood = float(measure(model, params, data).log_likelihood)
        candidates.append(Candidate(name, model, run.best, p, likelihood, values, found))
    named_fits = (one if one.fit is None else one._replace(fit=with_names(one.fit, told)) for one in candidates)
    return Selection(tuple(named_fits), asked, restarts, library_of(told))


def _together(
    named: dict[Any, Any],
    keys: dict[Any, Array],
    data: Data,
    restarts: int,
    functions: dict[str, Callable[..., Any]],
    how: dict[str, Any],
) -> dict[Any, Candidate]:
    """The candidates whose models share programs with others; those that refused the data are left out."""

    def start(names: list[Any]) -> Callable[[], list[Found | None]]:
        return start_together([named[name] for name in names], data, [keys[name] for name in names], restarts, **how)

    together = groups(named, data)
    # All are started before any is run, so that the first ones run while the last are compiled.
    fits = [start(names) for names in together]
    candidates = {}
    for names, fit_all in zip(together, fits, strict=True):
        kept = [(name, one) for name, one in zip(names, fit_all(), strict=True) if one is not None]
        if not kept:
            continue
        parameters = [_parameters(named[name], one.best.params) for name, one in kept]
        measured = jax.tree.map(lambda *leaves: np.stack(leaves), *(one.measured for _, one in kept))
        table = jax.tree.map(np.asarray, all_criteria(np.asarray(parameters, measured.n.dtype), measured))
        for row, (name, one) in enumerate(kept):
            model, likelihood = named[name], float(one.measured.log_likelihood)
            values = {each: float(table[each][row]) for each in CRITERIA}
            more = {each: f for each, f in functions.items() if each not in CRITERIA}
            values |= {each: float(f(model, one.best.params, data)) for each, f in more.items()}
            of_fit = one.best, parameters[row], likelihood, values, one.times_best_found
            candidates[name] = Candidate(name, model, *of_fit)
    return candidates


def _parameters(model: Any, params: Any) -> int:
    """``number_of_parameters``, from the shapes alone where no element is exactly on an edge."""
    leaves = jax.tree.leaves(jax.device_get(params))
    if all((leaf != 0).all() and np.isfinite(leaf).all() for leaf in leaves):
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    return number_of_parameters(model, params)


@program(quick="always", static_argnames=("number",))
def _split(key: Array, number: int) -> list[Array]:
    """A key for each model."""
    return list(jax.random.split(key, number))


def _refusal(model: Any, key: Array, data: Data) -> str:
    """Why the model cannot be started on these data; empty where it can."""
    try:
        check_start(model, model.init(key, data), data)
    except ValueError as error:
        return str(error)
    return ""


def _value(criterion: Callable[..., Any], model: Any, params: Any, data: Data, needed: bool) -> float:
    try:
        return float(criterion(model, params, data))
    except ValueError:  # e.g. ICL of a model without latent classes
        if needed:
            raise
        return float("nan")


def describe(model: Any, *without: str) -> str:
    """A model in one line: its type and distinguishing options, e.g. ``Mixture(MultivariateNormal(tied), 3)``; fields
    named in ``without`` are left out."""
    if not dataclasses.is_dataclass(model):
        return type(model).__name__
    fields = [
        (field, getattr(model, field.name))
        for field in dataclasses.fields(model)
        if field.repr and field.name not in without
    ]
    # An option that is a record and was left as it is, such as the gate of a mixture, tells nothing.
    values = [v for field, v in fields if not (dataclasses.is_dataclass(v) and v is field.default)]
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
