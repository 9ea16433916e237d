r"""Integrals of a log-concave density over an interval, however narrow, wide or far from the mean.

With p the point of the interval where the density is largest, only the part of the interval counts where the density is
at least e^-``DROP`` times that of p. One Gauss-Legendre rule is exact to rounding on that part: all its terms are
positive, and moments about p are sums of the same terms, so that nothing cancels.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

_POINTS = {32: 24, 64: 48}


def drop(dtype: jnp.dtype) -> float:
    """What is left out of a density lies more than this below the logarithm of its largest value."""
    return -1.1 * float(np.log(float(jnp.finfo(dtype).eps)))


def rule(dtype: jnp.dtype, points: int | None = None) -> tuple[Array, Array]:
    """The nodes in (0, 1) and their weights, which sum to one, both (1, 1, points)."""
    found = _gauss_legendre(points or _POINTS[jnp.finfo(dtype).bits])
    nodes, weights = (jnp.asarray(a, dtype)[None, None, :] for a in found)
    return nodes, weights


@functools.cache
def _gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule on (0, 1). Densities may fall by e^-40 over the interval, so that errors of eps in the nodes would be
    errors of 40 eps in the density: they are refined in extended precision by a step of Newton's method."""
    x = np.polynomial.legendre.leggauss(n)[0].astype(np.longdouble)
    value, slope = _legendre(n, x)
    x = x - value / slope
    _, slope = _legendre(n, x)
    return ((1 + x) / 2).astype(np.float64), (1 / ((1 - x**2) * slope**2)).astype(np.float64)


def _legendre(n: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P_n(x) and its derivative."""
    before, value = np.ones_like(x), x
    for k in range(2, n + 1):
        before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
    return value, n * (x * value - before) / (x**2 - 1)
