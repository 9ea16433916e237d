r"""Log-densities and moments of K normal classes with full covariances, by whitening with all classes at once.

With one point c common to all classes, y = x - c, d_k = m_k - c and L_k L_k' = S_k,

.. math:: (x - m_k)' S_k^{-1} (x - m_k) = |L_k^{-1} y - L_k^{-1} d_k|^2

is linear in [1, y] before it is squared. The rows of all L_k^-1 make one matrix product, and the moments
sum_n r_nk [1, y_n] (y_n - d_k)' of all classes make another. The triangles are cut into bands of rows, so that few of
the entries that are zero, or known by symmetry, are computed.

Less cancels than in ``quadratic.py``, where terms are squared first. There are K D numbers per observation instead of
D (D + 3) / 2, for up to twice the arithmetic, which pays where classes are few relative to the dimension.
"""

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices
from jaxem.core.matrices import product
from jaxem.families.covariance import lower_of, matrices_of
from jaxem.families.quadratic import centre_of, is_accurate

_BAND = 16  # rows of a triangle at a time


class View(NamedTuple):
    """K classes relative to the point c, prepared for matrix products."""

    centre: Array  # (D,), c
    means: Array  # (K, D), d_k
    whiteners: Array  # (K, D, 1 + D), [-L_k^-1 d_k, L_k^-1]
    constant: Array  # (K,)
    safe: Array  # (), whether rounding error is small enough


def numbers(form: str, k: int, d: int) -> int:
    """The number of entries of one band for one observation."""
    return k * min(d, _BAND)


def view(form: str, means: Array, covariances: Any) -> View:
    """The part of the log-densities and moments that does not depend on observations."""
    lower = lower_of(covariances)
    inverse = matrices.inverse(lower)
    variances = jnp.diagonal(matrices_of(covariances), axis1=-2, axis2=-1)
    centre = centre_of(means, variances)
    d = means - centre[None, :]
    constant = -0.5 * (matrices.log_determinant(lower) + d.shape[1] * math.log(2 * math.pi))
    whiteners = jnp.concatenate([-product(inverse, d[:, :, None]), inverse], axis=2)
    return View(centre, d, whiteners, constant, _is_safe(inverse, d, variances))


def _is_safe(inverse: Array, d: Array, variances: Array) -> Array:
    r"""Whether rounding error is small enough for an objective, or little more than deviations from each mean leave.

    The mean of y_i^2 is a_i^2 = d_i^2 + v_i. The terms L^-1_ij y_j are rounded by about eps of their size, and a
    squared distance by 2 eps |(L^-1_ij a_j)|_F. The moments give the covariance a relative error of
    eps |(P_ij sqrt(v_i) a_j)|_F, where deviations give eps |(P_ij sqrt(v_i v_j))|_F.
    """
    a, s = jnp.sqrt(d**2 + variances), jnp.sqrt(variances)
    precisions = product(jnp.swapaxes(inverse, -1, -2), inverse) * s[:, :, None]
    distances, moments = 2 * inverse * a[:, None, :], precisions * a[:, None, :]
    return is_accurate(distances) & is_accurate(moments, 8 * precisions * s[:, None, :])


def table(form: str, classes: View, x: Array) -> Array:
    """log N(x_n; m_k, S_k), (K, N), from ``x (N, D)``."""
    k, d = classes.means.shape
    y = _homogeneous(x, classes.centre)
    squares: list[Array] = []
    for i, end in _bands(d):
        rows = classes.whiteners[:, i:end, : 1 + end].reshape(-1, 1 + end)
        z = product(rows, y[: 1 + end]).reshape(k, end - i, -1)
        squares += [
            z[:, row] ** 2 for row in range(end - i)
        ]  # row by row: a sum over an inner axis takes twice as long
    distance = functools.reduce(jnp.add, squares)
    return classes.constant[:, None] - 0.5 * distance


def sums(form: str, classes: View | None, r: Array, x: Array) -> tuple[Array, ...]:
    """sum_n r_nk (y_n - d_k) [1, y_n]', one array (K rows, 1 + i) for each band that ends at row i.

    From ``r (K, N)`` and ``x (N, D)``. Without ``classes``, c and d_k are zero.
    """
    k, d = r.shape[0], x.shape[1]
    y = _homogeneous(x, jnp.zeros_like(x[0]) if classes is None else classes.centre)

    def band(i: int, end: int) -> Array:
        deviations = jnp.broadcast_to(y[None, 1 + i : 1 + end], (k, end - i, x.shape[0]))
        if classes is not None:
            deviations -= classes.means[:, i:end, None]
        weighted = (r[:, None, :] * deviations).reshape(k * (end - i), -1)
        return product(weighted, y[: 1 + end].T)

    return tuple(band(i, end) for i, end in _bands(d))


def moments(form: str, classes: View | None, n: Array, sums: tuple[Array, ...]) -> tuple[Array, Array]:
    """sum_n r_nk (x_n - m_k), (K, D), and sum_n r_nk (x_n - m_k)(x_n - m_k)', (K, D, D), from ``sums``.

    Without ``classes``, m_k = 0.
    """
    k, d = n.shape[0], sums[-1].shape[1] - 1
    padded = [jnp.pad(band, ((0, 0), (0, 1 + d - band.shape[1]))).reshape(k, -1, 1 + d) for band in sums]
    whole = jnp.concatenate(padded, axis=1)
    first, second = whole[:, :, 0], whole[:, :, 1:]
    if classes is not None:
        second -= first[:, :, None] * classes.means[:, None, :]
    known = jnp.tril(jnp.ones((d, d), bool))
    return first, jnp.where(known[None], second, jnp.swapaxes(second, 1, 2))


def _bands(d: int) -> list[tuple[int, int]]:
    """The first row of each band of a triangle with ``d`` rows, and the row after its last."""
    return [(i, min(i + _BAND, d)) for i in range(0, d, _BAND)]


def _homogeneous(x: Array, centre: Array) -> Array:
    """[1, x - c] with observations in columns, (1 + D, N).

    The product with the identity makes XLA store the transpose, see ``quadratic.py``.
    """
    y = product(jnp.eye(x.shape[1], dtype=x.dtype), x.T) - centre[:, None]
    return jnp.concatenate([jnp.ones_like(y[:1]), y])
