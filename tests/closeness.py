"""Comparisons in which the tolerance is derived where it is used, in units of eps, and NaN is never close."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def eps(dtype: Any) -> float:
    """The spacing of the numbers of this dtype at one."""
    return float(np.finfo(np.dtype(dtype)).eps)


def as_dtype(tree: Any, dtype: Any) -> Any:
    """Every leaf as a device array of this dtype; cast by numpy, which compiles nothing."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, dtype)), tree)


def assert_within(actual: Any, wanted: Any, tolerance: Any) -> None:
    """Assert |actual - wanted| <= tolerance, element by element (infinities of one sign agree)."""
    actual, wanted = np.asarray(actual, np.float64), np.asarray(wanted, np.float64)
    assert actual.shape == wanted.shape, f"shapes differ: {actual.shape} and {wanted.shape}"
    with np.errstate(invalid="ignore"):
        good = (np.abs(actual - wanted) <= tolerance) | (actual == wanted)
    if not good.all():
        index = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(~good)))[: good.ndim]
        allowed = float(np.broadcast_to(tolerance, good.shape)[index])
        raise AssertionError(
            f"{int((~good).sum())} of {good.size} differ by more than allowed; the first at {index}: "
            f"{actual[index]!r} instead of {wanted[index]!r}, apart by {abs(actual[index] - wanted[index]):.3g}, "
            f"allowed {allowed:.3g}"
        )
