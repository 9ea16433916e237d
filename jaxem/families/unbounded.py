"""Explanations for data with which the likelihood of normal classes has no maximum, or which a dtype cannot square.

They are computed in 64 bits, outside a trace, and only after a start made from the data was found not to be sound.
"""

import numpy as np


def out_of_range(x: np.ndarray, dtype: np.dtype) -> str | None:
    """A message where ``x (N, D)`` is not finite or the square of a column's spread overflows or vanishes in ``dtype``.

    ``None`` otherwise.
    """
    if not np.isfinite(x).all():
        return "the data must be finite"
    limits = np.finfo(dtype)
    spread = (x.max(axis=0) - x.min(axis=0)).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        squares = spread**2
    large, small = ~(squares < float(limits.max) / 64), (spread > 0) & (squares < 64 * float(limits.tiny))
    for bad, what in ((large, "overflow"), (small, "vanish in")):
        if bad.any():
            column = int(np.flatnonzero(bad)[0])
            return (
                f"column {column} of the data spans {spread[column]:.3g}, whose square would {what} {dtype}: divide "
                "the data by a typical value"
            )
    return None


def constant_columns(x: np.ndarray, dtype: np.dtype) -> list[int]:
    """Columns of ``x (N, D)`` that are constant to the precision of ``dtype``."""
    spread, size = x.max(axis=0) - x.min(axis=0), np.abs(x).max(axis=0)
    return [int(column) for column in np.flatnonzero(spread <= 8 * float(np.finfo(dtype).eps) * size)]


def constant(x: np.ndarray, dtype: np.dtype, remedy: str = "") -> str | None:
    """A message where a column of ``x (N, D)`` is constant; ``None`` otherwise."""
    columns = constant_columns(x, dtype)
    if not columns:
        return None
    first, last = ", ".join(map(str, columns[:-1])), str(columns[-1])
    named = f"columns {first} and {last} are" if first else f"column {last} is"
    what = f"{named} constant" if x.shape[1] > 1 else "all observations are one value"
    ways = (["drop what is constant"] if x.shape[1] > 1 else []) + ([remedy] if remedy else [])
    return (
        f"the likelihood of these data has no maximum, for {what} ({x[0, columns[0]]:.6g} in every row"
        f"{', the first of them' if first else ''}): {', or '.join(ways)}"
    )


def dependent(x: np.ndarray, dtype: np.dtype, remedy: str) -> str | None:
    """A message where the columns of ``x (N, D)`` are linearly dependent in the precision of ``dtype``, or ``None``."""
    n, d = x.shape
    y = x - x.mean(axis=0)
    y = y - y.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        y = y / np.sqrt((y**2).mean(axis=0))
    eigenvalues = np.linalg.eigvalsh(y.T @ y / n)
    rank = int((eigenvalues > 16 * d * float(np.finfo(dtype).eps)).sum())
    if rank == d:
        return None
    few = f"{n} rows span at most {n - 1} dimensions" if n <= d else f"the rows span {rank} dimensions"
    return (
        f"the likelihood of these data has no maximum, for their {d} columns are linearly dependent to the precision "
        f"of {dtype} ({few}): drop columns, or {remedy}"
    )
