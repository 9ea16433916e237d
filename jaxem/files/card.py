"""The card of a saved model: what it is, how it was fitted, and on which data, in words and numbers."""

import dataclasses
import datetime
import importlib.metadata
import platform
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import jax
import numpy as np

from jaxem.core import constraints, tables, trees
from jaxem.core.data import Columns, Data
from jaxem.core.dataset import as_data, named
from jaxem.core.model import has
from jaxem.files.spread import is_spread
from jaxem.fitting import recipes, runs
from jaxem.fitting.result import Fit, Status
from jaxem.inference.selection.criteria import number_of_parameters
from jaxem.models.restricted.model import Restricted

Names = tuple[tuple[str, Columns], ...]  # as in ``Dataset.names``


@dataclasses.dataclass(frozen=True)
class DataCard:
    """By what the data of a fit can be recognised; no value of the data is in it."""

    shapes: tuple[str, ...]  # of each array
    fingerprint: str  # of all values
    names: Names | None  # the columns and levels of each part that came as a data frame

    def __str__(self) -> str:
        lines = [", ".join(self.shapes), f"fingerprint {self.fingerprint}"]
        for part, columns in self.names or ():
            for name, levels in zip(*columns, strict=True):
                known = "" if levels is None else f": {', '.join(tables.names(levels))}"
                lines.append(f"{part} {tables.one_line(name)}{known}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Card:
    """What a file says of its model and its fit; ``print`` shows it, and ``python -m jaxem show FILE`` too."""

    model: str  # as one would write it
    held: bool  # whether the file holds the model; else it has functions or classes of the user's
    parameters: int  # free ones; all numbers, where the model declares no constraints
    shapes: dict[str, str]  # of each array of parameters, with its dtype
    data: DataCard | None  # None where ``save`` was given no data
    status: str  # as in ``Fit``; of lanes how many have which
    objective: float | None  # of lanes the largest
    steps: int  # of lanes the most
    algorithm: str | None  # None where ``save`` was given none
    versions: dict[str, str]  # of jaxem, JAX, NumPy and Python
    saved: str  # when, in UTC
    notes: str  # of the user

    def __str__(self) -> str:
        held = "" if self.held else " (not in the file, because it holds functions or classes of the user)"
        rows = [("model", self.model + held), ("free parameters", f"{self.parameters}")]
        rows += [(name, shape) for name, shape in self.shapes.items()]
        rows += [("data", "not recorded" if self.data is None else str(self.data))]
        rows += [("status", self.status), ("steps", f"{self.steps}")]
        rows += [("objective", "none" if self.objective is None else f"{self.objective:.10g}")]
        rows += [("algorithm", self.algorithm or "not recorded")]
        rows += [("versions", ", ".join(f"{name} {version}" for name, version in self.versions.items()))]
        rows += [("saved", self.saved)] + [("notes", self.notes)] * bool(self.notes)
        return tables.fields("jaxem, saved model", rows)


def from_json(path: Path, found: Any) -> Card:
    """The card of a file, which is ``dataclasses.asdict`` of it; ``ValueError`` where it has other fields."""
    known = {field.name for field in dataclasses.fields(Card)}
    if not isinstance(found, dict) or set(found) != known:
        raise ValueError(f"{path} has a card that this version of jaxem does not know")
    data = found["data"]
    if data is not None:
        data = DataCard(tuple(data["shapes"]), data["fingerprint"], _names(data["names"]))
    return Card(**{**found, "data": data})


def _names(found: Any) -> Names | None:
    if found is None:
        return None
    of = lambda columns: Columns(tuple(columns[0]), tuple(None if each is None else tuple(each) for each in columns[1]))
    return tuple((part, of(columns)) for part, columns in found)


def card_of(model: Any, fit: Fit, data: Data | None, algorithm: Any, notes: str, held: bool) -> Card:
    """The card of a fit."""
    lanes = np.asarray(fit.status).ndim > 0
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[lanes:], leaf.dtype), fit.params)
    if has(model, "constraints"):
        only_shapes = lanes or any(map(is_spread, jax.tree.leaves(fit.params)))
        free = int(number_of_parameters(model, shapes if only_shapes else fit.params))
    else:
        free = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    objective = None if fit.objective is None else float(np.max(np.asarray(fit.objective)))
    named_leaves = zip(trees.leaf_names(fit.params), jax.tree.leaves(fit.params), strict=True)
    return Card(
        describe(model),
        held,
        free,
        {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named_leaves},
        None if data is None else data_card(data),
        _status(np.asarray(fit.status)),
        objective,
        int(np.max(np.asarray(fit.steps))),
        None if algorithm is None else recipes.kind_of(algorithm),
        versions(),
        datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        notes,
    )


def data_card(data: Data) -> DataCard:
    """By what data can be recognised: the same data in another process have the same card."""
    names, data = named(data).names, as_data(data)
    leaves = jax.tree.leaves(data)
    if any(map(is_spread, leaves)):
        shapes = tuple(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
        return DataCard(shapes, "not taken, because the data are spread over processes", names)
    seen = runs.seen(data)
    return DataCard(tuple(seen.shapes), seen.digest, names)


def versions() -> dict[str, str]:
    """The versions of what a fit depends on."""
    own = sys.modules["jaxem"].__version__
    python = platform.python_version()
    return {
        "jaxem": own,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": np.__version__,
        "python": python,
    }


def _status(status: np.ndarray) -> str:
    if status.ndim == 0:
        return Status(int(status)).name
    counts = [(int((status == code).sum()), code.name) for code in Status]
    return ", ".join(f"{count} {name}" for count, name in counts if count)


def describe(model: Any) -> str:
    """A model as one would write it, without what is at its default: ``Mixture(Normal(), k=2)``."""
    if isinstance(model, Restricted):
        names = trees.leaf_names(jax.tree.map(lambda _: 0, model.constraints, is_leaf=constraints.is_space))
        parts = [names[i] for i in model.touched]
        more = [f"restrictions on {', '.join(parts)}"] * bool(parts)
        more += [f"{len(model.priors)} log-prior(s)"] * bool(model.priors)
        return f"{describe(model.model)} with {' and '.join(more)}"
    if isinstance(model, dict):
        return f"{{{', '.join(f'{key!r}: {describe(part)}' for key, part in model.items())}}}"
    if isinstance(model, jax.Array | np.ndarray):
        return tables.array(model) if model.ndim < 2 and model.size <= 4 else f"array {model.shape}"
    if isinstance(model, FunctionType):
        return model.__qualname__
    if dataclasses.is_dataclass(model) or hasattr(model, "_fields"):
        return f"{type(model).__qualname__}({', '.join(_arguments(model))})"
    if isinstance(model, tuple | list):
        return f"({', '.join(map(describe, model))}{',' * (len(model) == 1)})"
    return repr(model) if isinstance(model, str | float | int | bool | None) else type(model).__qualname__


def _arguments(record: Any) -> list[str]:
    if hasattr(record, "_fields"):
        return [f"{name}={describe(getattr(record, name))}" for name in record._fields]
    found, first = [], True
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        default = value is field.default or (isinstance(value, str | int | tuple) and value == field.default)
        if default or value is None:
            first = False
            continue
        by_place = first and not isinstance(value, int | float | bool)
        found.append(describe(value) if by_place else f"{field.name}={describe(value)}")
        first = first and by_place
    return found
