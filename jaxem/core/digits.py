"""Whether data keep the digits that matter in a narrower dtype."""

import numpy as np

_ROWS = 4096  # looked at of each column
_FEWEST = 8  # rows of which a column can be judged by itself, and neighbours that make a window
_WINDOWS = 20  # parts of the data that a window is one of
_ERROR = 0.03  # of the width of a window: about a hundredth of the spread of a cluster
_SHARE = 0.1  # of the windows in which so much is lost


def loses_digits(array: np.ndarray, dtype: np.dtype) -> int | None:
    r"""The first column (last axis) that rounding to ``dtype`` changes too much; -1 for an array judged as one.

    Where data lie far from zero, rounding may swallow what is small beside them: 1.7e9 seconds in 32 bits are known to
    64 seconds. What has to survive is the spread of each cluster. It is seen without knowing the clusters: in the
    sorted column, m = max(N / 20, 8) neighbours span a width w; among those of a normal cluster with 3/10 of the data
    w is about 0.4 standard deviations or more. An error e counts as a loss where

    .. math:: e > 0.03\, w

    in more than a tenth of the windows: then a value moves by more than about a hundredth of a standard deviation, and
    the estimates by as much of theirs. Neighbours that differ by rounding of the wider dtype only are ties; ties stay
    ties, and lose nothing. Columns are looked at by themselves where they have 8 rows, else all values together.

    Returns ``None`` where nothing is lost, or no value is rounded at all.
    """
    if array.size < 2:
        return None
    columns = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
    together = array.ndim < 2 or columns.shape[0] < _FEWEST
    if together:
        columns = array.reshape(-1, 1)
    columns = columns[:: -(-columns.shape[0] // _ROWS)]
    x = np.sort(np.where(np.isfinite(columns.astype(float)), columns, 0), axis=0)
    with np.errstate(over="ignore", under="ignore"):
        error = _distance(x, x.astype(dtype))
        m = min(max(x.shape[0] // _WINDOWS, _FEWEST), x.shape[0] - 1)
        width = _distance(x[m:], x[:-m])
    if not error.any():
        return None
    same = 0 if x.dtype.kind in "iu" else 64 * np.finfo(float).eps * np.abs(x[m:].astype(float))
    apart = width > same
    lost = np.maximum(error[m:], error[:-m]) > _ERROR * width
    bad = (lost & apart).sum(axis=0) > _SHARE * np.maximum(apart.sum(axis=0), 1)
    if not bad.any():
        return None
    return -1 if together else int(bad.argmax())


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| in floats, exact for whole numbers too large for them."""
    if a.dtype.kind in "iu" and np.abs(a.astype(float)).max(initial=0) < 2.0**62:
        a, b = a.astype(np.int64), b.astype(np.int64)
    else:
        a, b = a.astype(float), b.astype(float)
    return np.abs(a - b).astype(float)
