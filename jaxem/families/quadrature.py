r"""Integrals of a log-concave density over an interval, however narrow, wide or far from the mean.

With p the point of the interval where the density is largest, only the part of the interval counts where the density is
at least e^-``DROP`` times that of p. One Gauss-Legendre rule is exact to rounding on that part: all its terms are
positive, and moments about p are sums of the same terms, so that nothing cancels.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

_POINTS = {32: 24, 64: 48}


def drop(dtype: jnp.dtype) -> float:
    """What is left out of a density lies more than this below the logarithm of its largest value."""
    return -1.1 * float(np.log(float(jnp.finfo(dtype).eps)))


def rule(dtype: jnp.dtype) -> tuple[Array, Array]:
    """The nodes in (0, 1) and their weights, which sum to one, both (1, 1, points)."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS[jnp.finfo(dtype).bits])
    return tuple(jnp.asarray(a, dtype)[None, None, :] for a in ((1 + nodes) / 2, weights / 2))  # pyright: ignore
