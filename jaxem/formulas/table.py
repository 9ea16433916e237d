"""The columns of a data frame that a formula uses."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxem.core import frames
from jaxem.core.data import Columns, Origin
from jaxem.core.frames import Levels, Wanted

Missing = Literal["refuse", "drop", "nan"]


class How(NamedTuple):
    """The options of ``formula``."""

    weights: str | None
    missing: Missing
    separate: bool


class Table(NamedTuple):
    """The columns of a data frame that a formula uses."""

    data: Any  # as formulaic takes them: a pandas data frame, categories with their levels, NaN where missing
    columns: dict[str, Columns]
    weights: np.ndarray | None
    responses: bool  # whether the responses are there
    origin: Origin

    @classmethod
    def of(
        cls, names: tuple[set[str], set[str]], how: How, frame: Any, before: dict[str, Columns] | None, levels: Levels
    ) -> "Table":
        """Read a data frame.

        Arguments:
            names: the columns that covariates use, and those that responses use.
            how: the options.
            frame: the data frame, or a dict of columns.
            before: the columns of the earlier data frame; ``None`` for the first one.
            levels: of columns of the first one.
        """
        import narwhals.stable.v2 as nw
        import pandas as pd

        (weights, missing, _), library = how, frames.origin(frame)
        table = nw.from_native(pd.DataFrame(frame) if isinstance(frame, Mapping) else frame, eager_only=True)
        there = {str(column): column for column in table.columns}
        covariates, responses = names
        wanted = covariates | responses | ({weights} if weights is not None and before is None else set())
        if before is None and not wanted <= set(there):
            absent = ", ".join(map(repr, sorted(wanted - set(there))))
            raise ValueError(f"formula: the data frame has no column {absent}")
        has_responses = bool(responses) and responses <= set(there)
        used = [name for name in before or there if name in covariates | (responses if has_responses else set())]
        frames.refuse_absent(tuple(used), tuple(there), "formula")

        def read(table: Any) -> dict[str, tuple[np.ndarray, np.ndarray, Columns]]:
            coded = {name: Wanted(None if before is None else before[name], levels) for name in used}
            return {name: frames.read(table.select(there[name]).to_native(), "formula", coded[name]) for name in used}

        found = read(table)
        index = None if library is None else library.index
        if missing == "drop" and found:
            kept = np.all([seen[:, 0] for _, seen, _ in found.values()], axis=0)
            if not kept.all():
                table = table.filter(kept.tolist())
                found = read(table)
                index = np.flatnonzero(kept) if index is None else index[kept]
        for name, (_, seen, columns) in found.items():
            if missing != "nan" or name in covariates:
                frames.refuse_missing(seen, columns, "formula")
        data = pd.DataFrame({name: _series(*part) for name, part in found.items()}, index=range(len(table)))
        w = None if weights not in there else np.asarray(table[there[weights]].to_numpy(), float)
        origin = Origin(library.library if library else "", index)
        return cls(data, {name: part[2] for name, part in found.items()}, w, has_responses, origin)


def _series(array: np.ndarray, seen: np.ndarray, columns: Columns) -> Any:
    """A column as formulaic takes it."""
    import pandas as pd

    column, here, levels = array[:, 0], seen[:, 0], columns.levels[0]
    if levels is not None:
        return pd.Categorical.from_codes(np.where(here, column, -1), list(levels))
    return column if here.all() else np.where(here, column, np.nan)
