"""The columns of a table of numbers and categories as one array of numbers, by levels learned once.

Levels keep their type (``core/frames.py`` turns them into text), and arrays of objects are tables too, as for
scikit-learn.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxem.core import frames


class Column(NamedTuple):
    """One column of a table."""

    values: np.ndarray  # (N,), anything where it is missing
    observed: np.ndarray  # (N,), booleans
    levels: list[Any] | None  # those that its dtype declares; None where it declares none
    numeric: bool  # whether its dtype is one of floats


def columns(X: Any) -> list[Column]:
    """The columns of a data frame, or of an array (N, D) of any dtype."""
    if not frames.is_table(X):
        return [_of_array(np.asarray(X)[:, j], f"column {j}") for j in range(np.shape(X)[1])]
    import narwhals.stable.v2 as nw

    table = nw.from_native(X, eager_only=True)
    return [_of_series(series, f"column {series.name!r}") for series in table.iter_columns()]


def _of_series(series: Any, name: str) -> Column:
    import narwhals.stable.v2 as nw

    levels = None
    if series.dtype in (nw.Categorical, nw.Enum):
        levels = series.cat.get_categories().to_list()
    elif series.dtype.is_numeric() or series.dtype == nw.Boolean:
        observed = ~np.asarray(series.is_null().to_numpy(), bool)
        found = _of_array(frames.present(series, observed), name)
        return found._replace(observed=found.observed & observed)
    values = np.empty(len(series), object)
    values[:] = series.to_list()
    found = _of_array(values, name)
    # A category that is the name of a number stays one.
    return found._replace(values=values, levels=levels, numeric=found.numeric and levels is None)


def _of_array(values: np.ndarray, name: str) -> Column:
    if values.dtype.kind == "f":
        return Column(values, ~np.isnan(values), None, True)
    if values.dtype.kind != "O":
        return Column(values, np.ones(values.shape, bool), None, False)
    observed = np.array([value is not None and value == value for value in values])  # NaN is not equal to itself
    kinds = {type(value) for value in values[observed]}
    for kind in kinds:
        if not issubclass(kind, str | bool | int | float | np.generic):
            raise TypeError(f"{name}: an argument must be a string or a number, not {kind.__name__!r}")
    floats = bool(kinds) and all(issubclass(kind, float | int | np.number) and kind is not bool for kind in kinds)
    floats = floats and any(issubclass(kind, float | np.floating) for kind in kinds)
    if not floats:
        return Column(values, observed, None, False)
    numbers = np.full(values.shape, np.nan)
    numbers[observed] = values[observed].astype(float)
    return Column(numbers, observed, None, True)


def levels_of(column: Column) -> list[Any]:
    """The levels that a column declares, or else those that it holds, sorted."""
    if column.levels is not None:
        return list(column.levels)
    present = column.values[column.observed]
    if present.dtype.kind != "O":
        return np.unique(present).tolist()
    return sorted({value.item() if isinstance(value, np.generic) else value for value in present}, key=_order)


def _order(level: Any) -> tuple[bool, Any]:
    """Numbers before texts."""
    return (True, level) if isinstance(level, str) else (False, float(level))


def codes(column: Column, levels: list[Any], name: str) -> np.ndarray:
    """The place of each value among ``levels`` as floats, NaN where it is missing; see ``frames.codes``."""
    found = _places(column.values, levels)
    if found is not None and (found[column.observed] >= 0).all():
        return np.where(column.observed, found, np.nan)
    return np.where(column.observed, frames.codes(column.values.tolist(), column.observed, levels, name), np.nan)


def _places(values: np.ndarray, levels: list[Any]) -> np.ndarray | None:
    """The place of each number among levels that are numbers, -1 where it is not one of them; ``None`` for texts."""
    known = np.asarray(levels)
    if not levels or values.dtype.kind not in "iufb" or known.dtype.kind not in "iufb":
        return None
    if values.dtype.kind in "iu" and known.dtype.kind in "iu" and (np.diff(known) == 1).all():  # needs no search
        place = values.astype(np.int64) - int(known[0])
        return np.where((place >= 0) & (place < len(known)), place, -1)
    order = np.argsort(known, kind="stable")
    place = order[np.searchsorted(known, values, sorter=order).clip(max=len(levels) - 1)]
    return np.where(known[place] == values, place, -1)


def numbers(column: Column, name: str) -> np.ndarray:
    """The values as floats, NaN where they are missing; ``ValueError`` where they are texts."""
    try:
        found = np.where(column.observed, column.values, np.nan).astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} holds no numbers, as it did in the fit") from error
    return found


def library(X: Any) -> str | None:
    """The name of the library of a data frame; ``None`` for an array."""
    return type(X).__module__.split(".")[0] if frames.is_table(X) else None
