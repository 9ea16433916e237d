"""Data frames as input: columns of numbers and categories, with their names.

Any library that narwhals supports works (pandas, polars, pyarrow, ...). Without narwhals, so does any object with
``columns`` and ``to_numpy`` whose columns are all numbers.
"""

import importlib.util
from typing import Any

import numpy as np

from jaxem.core.data import Columns
from jaxem.core.missing_cells import fill

_HOW = "make it a category (pandas: .astype('category'), polars: .cast(pl.Enum([...]))), or leave it out"


def is_table(value: Any) -> bool:
    """Whether this is a data frame: it has named columns and no single dtype."""
    kind = type(value)
    columns = getattr(kind, "column_names", getattr(kind, "columns", None))  # asked of the type: the object may be slow
    return columns is not None and not callable(columns) and not isinstance(value, tuple) and not hasattr(kind, "dtype")


def is_series(value: Any) -> bool:
    """Whether this is a column of a data frame: it has one dtype, and a name or chunks."""
    kind = type(value)
    return hasattr(kind, "to_numpy") and (hasattr(kind, "chunks") or (hasattr(kind, "dtype") and hasattr(kind, "name")))


def read_series(series: Any, name: str) -> tuple[np.ndarray, np.ndarray, Columns] | None:
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
    array, observed, levels = _column(column, name)
    return array, observed, Columns((str(column.name or ""),), (levels,))


def read(frame: Any, name: str) -> tuple[np.ndarray, np.ndarray, Columns]:
    """A data frame as an array (N, D), the mask of its observed cells, and its columns.

    A category becomes its code, which is its index among the levels that its dtype declares. A missing cell gets
    another value of its column. Raises ``ValueError`` for columns of text, dates or anything else that is not a number.
    """
    try:
        import narwhals.stable.v2 as nw
    except ImportError:
        return _by_protocol(frame, name)
    try:
        table = nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise ValueError(f"{name}: a data frame in memory is needed; got {type(frame).__name__}") from error
    if len(table.columns) == 0:
        raise ValueError(f"{name}: the data frame has no columns")
    parts = [_column(table[column], f"{name}: column {column!r}") for column in table.columns]
    arrays, masks, levels = zip(*parts, strict=True)
    names = tuple(str(column) for column in table.columns)
    return np.stack(arrays, axis=1), np.stack(masks, axis=1), Columns(names, levels)


def _column(series: Any, name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]:
    import narwhals.stable.v2 as nw

    observed, levels = ~np.asarray(series.is_null().to_numpy(), bool), None
    if series.dtype == nw.Categorical and series.implementation.is_polars():
        raise ValueError(
            f"{name} is Categorical, whose codes may differ between data frames: cast it to pl.Enum([...])"
        )
    if series.dtype in (nw.Categorical, nw.Enum):
        found = series.cat.get_categories().to_list()
        levels, codes = tuple(map(str, found)), {level: code for code, level in enumerate(found)}
        array = np.array([codes.get(entry, 0) for entry in series.to_list()], np.int64)
    elif series.dtype.is_numeric() or series.dtype == nw.Boolean:
        present = series.drop_nulls().to_numpy()
        array = np.zeros(observed.shape, present.dtype)
        array[observed] = present
        if array.dtype.kind == "f":
            observed = observed & ~np.isnan(array)
    else:
        raise ValueError(f"{name} holds no numbers but {str(series.dtype).lower()}: {_HOW}")
    if array.dtype.kind == "O":
        raise ValueError(f"{name} has dtype {series.dtype}, which JAX does not have: convert it to floats")
    return fill(array, observed, name) if array.size else array, observed, levels


def _by_protocol(frame: Any, name: str) -> tuple[np.ndarray, np.ndarray, Columns]:
    if not hasattr(frame, "to_numpy"):
        raise ValueError(f"{name}: install narwhals to use a {type(frame).__module__.split('.')[0]} table as data")
    array = np.asarray(frame.to_numpy())
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: install narwhals to use columns that are not all numbers")
    observed = ~np.isnan(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    names = tuple(str(column) for column in frame.columns)
    return fill(array, observed, name), observed, Columns(names, (None,) * len(names))


LIBRARIES = ("pandas", "polars", "pyarrow")


def make(columns: dict[str, Any], library: str | None) -> Any:
    """A data frame of these columns, in ``library`` or else in the first library that is installed."""
    if library is not None and library not in LIBRARIES:
        raise ValueError(f"library must be one of {', '.join(LIBRARIES)}; got {library!r}")
    try:
        import narwhals.stable.v2 as nw
    except ImportError as error:
        raise ImportError('data frames need narwhals: pip install "jaxem[frames]"') from error
    installed = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    if not installed and library is None:
        raise ImportError(f"a data frame needs one of {', '.join(LIBRARIES)}; none is installed")
    backend: Any = library or installed[0]
    return nw.from_dict(columns, backend=backend).to_native()


def refuse_missing(observed: np.ndarray, columns: Columns, name: str) -> None:
    """Raise ``ValueError`` where a cell is missing, and name the column."""
    if not observed.all():
        row, column = np.argwhere(~observed.reshape(len(observed), -1))[0]
        raise ValueError(
            f"{name}: {int((~observed).sum())} cells are missing, the first in row {row} of column "
            f'{columns.names[column]!r}; leave those rows out, or allow them: jaxem.dataset(..., missing="nan")'
        )
