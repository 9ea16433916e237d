"""Whether data keep the digits that matter when they are rounded to a narrower dtype."""

import numpy as np

_ROWS = 4096  # largest number of rows that are looked at in each column
_FEWEST = 8  # rows that a column needs to be judged by itself, and least neighbours in a window
_WINDOWS = 20  # a window is this part of the data: N / 20 neighbours
_ERROR = 0.03  # error that counts as a loss, over the width of a window: about 0.01 of the spread of a cluster
_SHARE = 0.1  # share of the windows with a loss beyond which a column is refused


def loses_digits(array: np.ndarray, dtype: np.dtype) -> int | None:
    r"""The first column (last axis) that loses too much when rounded to ``dtype``; -1 for an array judged as a whole.

    Rounding may destroy small differences between values far from zero: 32 bits hold 1.7e9 seconds to within 64
    seconds. The spread of each cluster has to survive. It is estimated without knowing the clusters: in the sorted
    column m = max(N / 20, 8) neighbours span a width w. Within a normal cluster that holds 3/10 of the data, w is about
    0.4 standard deviations or more. Too much is lost where an error e exceeds its bound,

    .. math:: e > 0.03\, w,

    in more than a tenth of the windows. A value then moves by more than about a hundredth of a standard deviation, and
    an estimate by about a hundredth of its own. Neighbours that differ only by rounding error of the wider dtype are
    ties; ties stay ties and lose nothing. The columns of a matrix of at least 8 rows are judged one by one; otherwise
    all values are judged together.

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
    """|a - b| as floats, from an exact difference for whole numbers below 2^62."""
    if a.dtype.kind in "iu" and np.abs(a.astype(float)).max(initial=0) < 2.0**62:
        a, b = a.astype(np.int64), b.astype(np.int64)
    else:
        a, b = a.astype(float), b.astype(float)
    return np.abs(a - b).astype(float)
