r"""Log-densities and moments of K normal classes as products of matrices.

About one point c for all classes, with y = x - c, d_k = m_k - c and P_k = S_k^-1,

.. math:: (x - m_k)' P_k (x - m_k) = \langle P_k, y y' \rangle - 2\, d_k' P_k\, y + d_k' P_k d_k

is linear in phi(y) = [y, y y'], and so are the moments sum_n r_nk [y_n, y_n y_n']: all classes share phi, and each of
the two is one matrix product. Observations stand in columns, so that every row of phi is long and contiguous.

Terms of the size of <P_k, y y'> cancel to one of the size of D: ``View.safe`` says whether enough is left.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.compilation import program
from jaxem.core.matrices import product


class View(NamedTuple):
    """K classes as seen from the point that they are expanded about."""

    centre: Array  # (D,), c
    means: Array  # (K, D), d_k
    coefficients: Array  # (K, F), of the monomials phi in the log-density
    constant: Array  # (K,)
    whitener: Array | None  # tied (D, D), L^-1
    safe: Array  # ()


def numbers(form: str, k: int, d: int) -> int:
    """F, how many numbers phi holds for one observation."""
    return {"full": d * (d + 3) // 2, "diag": 2 * d}.get(form, d + 1)


def view(form: str, means: Array, covariances: Array) -> View:
    """What of the log-densities and moments of these classes depends on no observation."""
    whitener = None
    if form in ("full", "tied"):
        covariances = covariances if form == "full" else covariances[None]
        lower = matrices.cholesky(covariances)
        inverse = matrices.inverse(lower)
        precisions = product(jnp.swapaxes(inverse, -1, -2), inverse)
        log_determinants = matrices.log_determinant(lower)
        variances = jnp.diagonal(covariances, axis1=-2, axis2=-1)
        whitener = inverse[0] if form == "tied" else None
    else:
        variances = covariances if form == "diag" else covariances[:, None]
        precisions = 1 / variances
        log_determinants = jnp.log(jnp.broadcast_to(variances, means.shape)).sum(axis=-1)
    variances = jnp.broadcast_to(variances, means.shape)
    centre = centre_of(means, variances)
    d = means - centre[None, :]
    safe = _is_safe(d, variances, precisions)
    shift, p = d, precisions
    if whitener is not None:  # whitened, every class is a ball
        shift, p = product(d, whitener.T), jnp.ones_like(d[:, :1])
    if form == "full":
        linear = product(p, d[:, :, None])[:, :, 0]
        row, column = _pairs(d.shape[1])
        p = p[:, row, column] * jnp.asarray(np.where(row == column, 1, 2), p.dtype)[None, :]
    else:
        linear = p * shift
    constant = -0.5 * ((linear * shift).sum(axis=1) + log_determinants + d.shape[1] * math.log(2 * math.pi))
    return View(centre, d, jnp.concatenate([linear, -0.5 * p], axis=1), constant, whitener, safe)


def centre_of(means: Array, variances: Array) -> Array:
    """Of all points, the one that sum_k (m_k - c)^2 / v_k is least for: close to the means that are known best."""
    return jax.lax.stop_gradient((means / variances).sum(axis=0) / (1 / variances).sum(axis=0))


def is_accurate(terms: Array, others: Array | None = None) -> Array:
    """Whether terms of these sizes, ``(K, D, ...)``, add up within what is allowed for an objective, 32 eps for each of
    D values of a row, or as well as ``others`` would: each is rounded by about eps of its size on its own, hence
    together by eps |terms|_F."""
    loss = lambda terms: jnp.sqrt((terms**2).reshape(terms.shape[0], -1).sum(axis=1))
    allowed = 32 * terms.shape[1]
    return jax.lax.stop_gradient(
        (loss(terms) <= (allowed if others is None else jnp.maximum(allowed, loss(others)))).all()
    )


def _is_safe(d: Array, variances: Array, precisions: Array) -> Array:
    r"""Whether rounding error stays within what is allowed for an objective.

    The terms are P_ij y_i y_j, with a_i^2 = d_i^2 + v_i the mean of y_i^2. The rounding of the coefficients is common
    to all rows of the class. The same number is the relative error that the M-step leaves in the class's covariance.
    """
    a = jnp.sqrt(d**2 + variances)
    return is_accurate(a[:, :, None] * precisions * a[:, None, :] if precisions.ndim == 3 else precisions * a**2)


@functools.cache
def _pairs(d: int) -> tuple[np.ndarray, np.ndarray]:
    """i <= j of all pairs of coordinates: the same arrays in E-step and moments, whose phi is then seen to be one."""
    i, j = np.triu_indices(d)
    return i.astype(np.int32), j.astype(np.int32)


def _rows_of(y: Array, i: np.ndarray) -> Array:
    return y.at[i].get(mode="promise_in_bounds", wrap_negative_indices=False)


@program(static_argnames=("form",))
def _monomials(form: str, y: Array) -> Array:
    """phi (F, N), from ``y (D, N)``: y itself, then y_i y_j with i <= j, y_i^2, or |y|^2.

    Jitted, it has its indices within itself; as what a loop closes over they would hide that two phi are one.
    """
    if form == "full":
        i, j = _pairs(y.shape[0])
        return jnp.concatenate([y, _rows_of(y, i) * _rows_of(y, j)])
    return jnp.concatenate([y, y**2 if form == "diag" else (y**2).sum(axis=0, keepdims=True)])


def table(form: str, classes: View, x: Array) -> Array:
    """log N(x_n; m_k, S_k), (K, N), from ``x (N, D)``."""
    y = _columns(form, x, classes.centre, classes.whitener)
    phi = _monomials("spherical" if form == "tied" else form, y)
    return product(classes.coefficients, phi) + classes.constant[:, None]


def sums(form: str, classes: View | None, r: Array, x: Array) -> tuple[Array, ...]:
    """sum_n r_nk y_n and sum_n r_nk y_n y_n', each product of coordinates once, from ``r (K, N)``, ``x (N, D)``; about
    zero without ``classes``."""
    y = _columns(form, x, jnp.zeros_like(x[0]) if classes is None else classes.centre)
    if form == "tied":
        return product(r, y.T), product(r.sum(axis=0)[None, :] * y, y.T)
    return (product(_monomials(form, y), r.T),)


def moments(form: str, classes: View | None, n: Array, sums: tuple[Array, ...]) -> tuple[Array, Array]:
    """sum_n r_nk (x_n - m_k), (K, D), and sum_n r_nk (x_n - m_k)(x_n - m_k)', in the form of the covariances, from
    ``sums``, ``n (K,)`` the sums of r."""
    first, second = _unpacked(form, sums)
    return (first, second) if classes is None else _about(form, classes.means, n, first, second)


def _unpacked(form: str, sums: tuple[Array, ...]) -> tuple[Array, Array]:
    """The same about c, (K, D) and in the form of the covariances."""
    if form == "tied":
        first, second = sums
        return first, second
    moments = sums[0].T
    if form == "spherical":
        return moments[:, :-1], moments[:, -1]
    if form == "diag":
        first, second = jnp.split(moments, 2, axis=1)
        return first, second
    d = math.isqrt(2 * moments.shape[1] + 2) - 1  # F = D (D + 3) / 2
    place = np.zeros((d, d), np.int32)
    i, j = _pairs(d)
    place[i, j] = place[j, i] = d + np.arange(i.size)
    return moments[:, :d], moments[:, place]


def _about(form: str, o: Array, n: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """The same about o_k: f_k - n_k o_k, and sum_n r_nk y_n y_n' - f_k o_k' - o_k f_k' + n_k o_k o_k'."""
    n = n[:, None]
    half = first - n / 2 * o
    if form == "full":
        squares = half[:, :, None] * o[:, None, :]
        shift = squares + jnp.swapaxes(squares, 1, 2)
    elif form == "tied":
        squares = product(half.T, o)
        shift = squares + squares.T
    else:
        shift = 2 * half * o if form == "diag" else 2 * (half * o).sum(axis=1)
    return first - n * o, second - shift


def _columns(form: str, x: Array, centre: Array, whitener: Array | None = None) -> Array:
    """y = x - c with observations in columns, (D, N), whitened where there is something to whiten with.

    Where there are many monomials of each coordinate the product is with the identity: XLA would not store a mere
    transpose, but walk across ``x`` anew for each of them.
    """
    if whitener is None and form == "full":
        return product(jnp.eye(x.shape[1], dtype=x.dtype), x.T) - centre[:, None]
    y = x - centre[None, :]
    return y.T if whitener is None else product(whitener, y.T)
