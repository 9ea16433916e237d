"""Earlier values of a series as covariates of later ones: data of autoregressions."""

from typing import Any

import numpy as np

from jaxem.core.arrays import to_numpy
from jaxem.core.checks import whole_number


def lagged(series: Any, order: int) -> tuple[Any, Any]:
    """The values of series from step ``order`` on, and the ``order`` values before each.

    ``y, before = jaxem.lagged(x, 2)`` and ``jaxem.dataset(y, given=before)`` are the data of an autoregression of order
    2, given the first two values; a ``Regression`` in an ``HMM`` is then a Markov-switching autoregression.

    Arguments:
        series: one series (T,), N of them (N, T), or a list of N arrays (T_n,).
        order: the number of earlier values, at least 1 and less than the number of steps.

    Returns:
        Values (1, T - order) or (N, T - order), and earlier values, one more axis: column j is j + 1 steps before. Of
        a list, lists of these. Both as ``jaxem.dataset`` takes them for values and covariates.

    Raises:
        ValueError: a series is not (T,), or not longer than ``order``.

    Source: Hamilton (1994), section 22.4.
    """
    order = whole_number("lagged: order", order, 1)
    if isinstance(series, list) and len({np.shape(part) for part in series}) > 1:
        found = [_lagged(to_numpy(part, f"lagged: series {n}"), order) for n, part in enumerate(series)]
        if any(values.ndim != 1 for values, _ in found):
            raise ValueError("lagged: each series of a list must be one array (T,)")
        return [values for values, _ in found], [columns for _, columns in found]
    whole = to_numpy(series, "lagged: series")
    return _lagged(whole[None] if whole.ndim == 1 else whole, order)


def _lagged(series: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    if series.ndim not in (1, 2) or series.shape[-1] <= order:
        raise ValueError(f"lagged: series must be (T,) or (N, T) with more than {order} steps; got {series.shape}")
    t = series.shape[-1]
    columns = np.stack([series[..., order - j : t - j] for j in range(1, order + 1)], axis=-1)
    return series[..., order:], columns
