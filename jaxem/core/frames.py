"""Data frames as input: columns of numbers and categories, with their names.

Any library that narwhals supports works (pandas, polars, pyarrow, ...). Without narwhals, so does any object with
``columns`` and ``to_numpy`` whose columns are all numbers.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxem.core.data import Columns, Origin
from jaxem.core.missing_cells import fill
from jaxem.core.tables import number

Levels = Mapping[str, Sequence[Any]]  # for some columns, by name, the categories in the order of their codes

_HOW = "convert it to numbers or text, or leave it out"


# Where the levels of a column come from that are not given: text from its entries, sorted; a category from its dtype
# (only if the dtype declares them); or nowhere, so that it is refused.
Trust = Literal["entries", "dtype", "nothing"]


LIBRARIES = ("pandas", "polars", "pyarrow")


class Wanted(NamedTuple):
    """How the columns of a data frame shall be coded."""

    columns: Columns | None = None  # these columns, in this order, with these levels; None: those of the frame
    levels: Levels = MappingProxyType({})  # of single columns, where ``columns`` does not say
    trust: Trust = "entries"  # where the levels of other columns come from


OWN = Wanted()


def is_table(value: Any) -> bool:
    """Whether this is a data frame: it has named columns and no single dtype."""
    kind = type(value)
    columns = getattr(kind, "column_names", getattr(kind, "columns", None))  # asked of the type: the object may be slow
    return columns is not None and not callable(columns) and not isinstance(value, tuple) and not hasattr(kind, "dtype")


def is_series(value: Any) -> bool:
    """Whether this is a column of a data frame: it has one dtype, and a name or chunks."""
    kind = type(value)
    return hasattr(kind, "to_numpy") and (hasattr(kind, "chunks") or (hasattr(kind, "dtype") and hasattr(kind, "name")))


def origin(value: Any) -> Origin | None:
    """The library of a data frame or series, and its index; ``None`` for anything else."""
    if not (is_table(value) or is_series(value)):
        return None
    library = type(value).__module__.split(".")[0]
    index = value.index if library == "pandas" and hasattr(value, "index") else None
    return Origin(library if library in LIBRARIES else "", index)


def read_series(series: Any, name: str, wanted: Wanted = OWN) -> tuple[np.ndarray, np.ndarray, Columns] | None:
    """A column of a data frame as an array (N,), the mask of its observed cells, and its name (``""`` without one).

    ``None`` for anything else, and where narwhals is not installed: it is then converted as an array.
    """
    if not is_series(series):
        return None
    try:
        import narwhals.stable.v2 as nw

        column = nw.from_native(series, series_only=True)
    except (ImportError, TypeError):
        return None
    if column.dtype == nw.Object:
        return None
    own = str(column.name or "")
    levels = wanted.columns.levels[0] if wanted.columns else wanted.levels.get(own)
    array, observed, found = _column(column, name, levels, wanted.columns is not None, wanted.trust)
    return array, observed, Columns((own,), (found,))


def read(frame: Any, name: str, wanted: Wanted = OWN) -> tuple[np.ndarray, np.ndarray, Columns]:
    """A data frame as an array (N, D), the mask of its observed cells, and its columns.

    A category becomes its code, which is its index among the levels that are wanted, that its dtype declares, or that
    its column has, sorted. A missing cell gets another value of its column.

    Raises ``ValueError`` for columns of dates or anything else that is neither a number nor a category, for a column
    that is wanted and not there, and for a category that is not among the levels.
    """
    try:
        import narwhals.stable.v2 as nw
    except ImportError:
        return _by_protocol(frame, name, wanted)
    try:
        table = nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise ValueError(f"{name}: a data frame in memory is needed; got {type(frame).__name__}") from error
    if len(table.columns) == 0:
        raise ValueError(f"{name}: the data frame has no columns")
    by_name = {str(column): column for column in table.columns}
    names = tuple(by_name) if wanted.columns is None else wanted.columns.names
    refuse_absent(names, tuple(by_name), name)
    levels = [wanted.levels.get(column) for column in names] if wanted.columns is None else wanted.columns.levels
    parts = [
        _column(table[by_name[column]], f"{name}: column {column!r}", own, wanted.columns is not None, wanted.trust)
        for column, own in zip(names, levels, strict=True)
    ]
    arrays, masks, found = zip(*parts, strict=True)
    return np.stack(arrays, axis=1), np.stack(masks, axis=1), Columns(names, found)


def refuse_absent(names: tuple[str, ...], there: tuple[str, ...], name: str) -> None:
    """Raise ``ValueError`` where a column is not there, and name it."""
    absent = [column for column in names if column not in there]
    if absent:
        missing = ", ".join(map(repr, absent))
        raise ValueError(f"{name}: the earlier data had the columns {missing}, which are missing here")


def _column(
    series: Any, name: str, levels: Sequence[Any] | None, as_before: bool, trust: Trust
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]:
    """A column as numbers or codes, its mask, and its levels.

    ``as_before``: without ``levels`` the column must hold numbers.
    """
    import narwhals.stable.v2 as nw

    observed, kind = ~np.asarray(series.is_null().to_numpy(), bool), series.dtype
    declared = kind == nw.Enum or (kind == nw.Categorical and not series.implementation.is_polars())
    texts, numeric = kind in (nw.String, nw.Categorical, nw.Enum), kind.is_numeric() or kind == nw.Boolean
    if not texts and not numeric:
        raise ValueError(f"{name} holds neither numbers nor text but {str(kind).lower()}: {_HOW}")
    if levels is None and numeric:
        array = present(series, observed)
        if array.dtype.kind == "O":
            raise ValueError(f"{name} has dtype {kind}, which JAX does not have: convert it to floats")
        if array.dtype.kind == "f":
            observed = observed & ~np.isnan(array)
        return fill(array, observed, name) if array.size else array, observed, None
    if levels is None and as_before:
        raise ValueError(f"{name} holds text; that of the earlier data held numbers")
    if levels is None and trust == "dtype" and not declared:
        raise ValueError(
            f"{name} holds text, whose codes depend on the rows: make it a category with the same levels everywhere "
            "(pandas: pd.CategoricalDtype([...]), polars: pl.Enum([...]))"
        )
    if levels is None and trust == "nothing":
        raise ValueError(
            f"{name} holds categories, and parameters alone do not say what their codes are: pass the Fit itself, or "
            "data coded like those of the fit, by jaxem.dataset(frame, like=data)"
        )
    if numeric:
        entries = present(series, observed)
        observed = observed & ~np.isnan(entries.astype(float))
        entries = [_label(entry) if seen else "" for entry, seen in zip(entries.tolist(), observed, strict=True)]
    else:
        entries = [str(entry) if seen else "" for entry, seen in zip(series.to_list(), observed, strict=True)]
    if levels is not None:
        order = tuple(map(_label, levels))
    elif declared:
        order = tuple(map(str, series.cat.get_categories().to_list()))
    else:
        order = tuple(sorted({entry for entry, seen in zip(entries, observed, strict=True) if seen}))
    array = codes(entries, observed, order, name)
    return fill(array, observed, name) if array.size else array, observed, order


def present(series: Any, observed: np.ndarray) -> np.ndarray:
    """A column of numbers in its own dtype, which gaps do not widen; zero where a cell is missing."""
    values = series.drop_nulls().to_numpy()
    array = np.zeros(observed.shape, values.dtype)
    array[observed] = values
    return array


def _label(level: Any) -> str:
    """A level as text; a number as it is printed, whatever its dtype: ``3`` for 3.0."""
    return (
        number(level, 17) if isinstance(level, int | float | np.number) and not isinstance(level, bool) else str(level)
    )


def codes(entries: Sequence[Any], observed: np.ndarray, levels: Sequence[Any], name: str) -> np.ndarray:
    """The index of each entry among the levels; ``ValueError`` for one that is not among them."""
    places = {level: code for code, level in enumerate(levels)}
    found = np.array([places.get(entry, -1) if seen else 0 for entry, seen in zip(entries, observed, strict=True)], int)
    if (found < 0).any():
        unseen = sorted({entries[int(row)] for row in np.flatnonzero(found < 0)}, key=str)
        raise ValueError(
            f"{name} has {', '.join(map(repr, unseen[:5]))}{', ...' * (len(unseen) > 5)}, first in row "
            f"{int(np.flatnonzero(found < 0)[0])}; its levels are {', '.join(map(repr, levels))}"
        )
    return found


def texts_of(tables: Sequence[Any]) -> dict[str, list[str]]:
    """The entries of the columns of text of several data frames, sorted: their levels where all share a coding."""
    try:
        import narwhals.stable.v2 as nw
    except ImportError:
        return {}
    found: dict[str, set[str]] = {}
    for table in (nw.from_native(table, eager_only=True, pass_through=True) for table in tables):
        for column in getattr(table, "columns", ()):
            kind = table[column].dtype
            if kind == nw.String or (kind == nw.Categorical and table.implementation.is_polars()):
                entries = table[column].drop_nulls().unique().to_list()
                found.setdefault(str(column), set()).update(map(str, entries))
    return {column: sorted(entries) for column, entries in found.items()}


def _by_protocol(frame: Any, name: str, wanted: Wanted) -> tuple[np.ndarray, np.ndarray, Columns]:
    if not hasattr(frame, "to_numpy"):
        raise ValueError(f"{name}: install narwhals to use a {type(frame).__module__.split('.')[0]} table as data")
    array, names = np.asarray(frame.to_numpy()), tuple(str(column) for column in frame.columns)
    levels = any(wanted.columns.levels) if wanted.columns else set(names) & set(wanted.levels)
    if array.dtype.kind not in "biuf" or levels:
        raise ValueError(f"{name}: install narwhals to use columns that are not all numbers")
    if wanted.columns is not None:
        refuse_absent(wanted.columns.names, names, name)
        array, names = array[:, [names.index(column) for column in wanted.columns.names]], wanted.columns.names
    observed = ~np.isnan(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    return fill(array, observed, name), observed, Columns(names, (None,) * len(names))


def refuse_missing(observed: np.ndarray, columns: Columns, name: str) -> None:
    """Raise ``ValueError`` where a cell is missing, and name the column."""
    if not observed.all():
        row, column = np.argwhere(~observed.reshape(len(observed), -1))[0]
        raise ValueError(
            f"{name}: {int((~observed).sum())} cells are missing, the first in row {row} of column "
            f'{columns.names[column]!r}; leave those rows out, or allow them: jaxem.dataset(..., missing="nan")'
        )
