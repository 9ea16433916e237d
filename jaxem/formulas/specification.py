"""The specification of a formula: what makes a data set of a data frame, with knots, levels and means."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.core.data import Columns, Dataset
from jaxem.core.dataset import dataset
from jaxem.core.frames import Levels
from jaxem.formulas.matrices import matrix
from jaxem.formulas.table import How, Table


class Side(NamedTuple):
    """The covariates of the components or of the gate."""

    spec: Any  # formulaic's: a formula, then with knots, levels and means; None without covariates
    intercept: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns beside the intercept."""
        return () if self.spec is None else tuple(name for name in self.spec.column_names if name != "Intercept")


@dataclasses.dataclass(frozen=True, eq=False)
class Specification:
    """A formula that has been read; after its first data frame it also holds what is kept for later ones."""

    responses: dict[str, Any]  # the specification of each, by its text; None for a column as it is
    sides: dict[str, Side]
    offset: Any  # the specification of the sum of offsets; None without one
    names: tuple[set[str], set[str]]  # of the columns that covariates and responses use
    how: How
    columns: dict[str, Columns] | None = None  # of the first data frame; None before it

    def read(self, frame: Any, before: Dataset | None, levels: Levels) -> tuple[Dataset, "Specification"]:
        """The data set of a data frame, and the specification with what was learned from it.

        Arguments:
            frame: a data frame, or a dict of columns.
            before: the data of the first data frame; ``None`` where this is the first.
            levels: of columns of the first data frame.
        """
        import pandas as pd

        table = Table.of(self.names, self.how, frame, self.columns, levels)
        given, sides, offset, responses = {}, dict(self.sides), self.offset, self.responses
        for part, side in self.sides.items():
            if side.spec is not None:
                made = matrix(side.spec, table.data)
                sides[part] = side._replace(spec=made.model_spec)
                own = [name != "Intercept" for name in made.model_spec.column_names]
                given[part] = pd.DataFrame(np.asarray(made, float)[:, own], columns=list(sides[part].names))
        if offset is not None:
            made = matrix(offset, table.data)
            offset, given["offset"] = made.model_spec, np.asarray(made, float).sum(axis=1)
        options: dict[str, Any] = {"given": given or None, "weights": table.weights}
        if table.responses:
            values, responses = _values(self, table)
            data = dataset(values, missing="nan" if self.how.missing == "nan" else "refuse", **options)
        else:
            data = _without_responses(before, len(table.data), options)
        learned = Specification(responses, sides, offset, self.names, self.how, table.columns)
        return dataclasses.replace(data, origin=table.origin), learned


def _values(spec: "Specification", table: Table) -> tuple[Any, dict[str, Any]]:
    """The responses as they become values: one column, several side by side, or a dict; and their specifications."""
    import pandas as pd

    values, specs = {}, dict(spec.responses)
    for text, own in spec.responses.items():
        if own is None:
            values[text] = table.data[text]
            continue
        made = matrix(own, table.data)
        if made.shape[1] != 1:
            raise ValueError(f"formula: the response {text} has {made.shape[1]} columns; it must be one")
        specs[text], values[text] = made.model_spec, pd.Series(np.asarray(made, float)[:, 0], name=text)
    if spec.how.separate:
        return values, specs
    return (next(iter(values.values())) if len(values) == 1 else pd.DataFrame(values)), specs


def _without_responses(before: Dataset | None, n: int, options: dict[str, Any]) -> Dataset:
    """A data set of which no response is observed, in the form of the earlier one."""
    like = jnp.zeros((1,)) if before is None else before.values
    values = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], (n, *leaf.shape[1:])), like)
    made = dataset(values, **options)
    unseen = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), values)
    names = [pair for pair in (before.names if before else None) or () if pair[0].startswith("values")]
    return dataclasses.replace(made, observed=unseen, names=(*names, *(made.names or ())) or None)
