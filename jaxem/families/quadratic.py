r"""Log-densities and moments of K normal classes by matrix products with monomials of the data.

With one point c common to all classes, y = x - c, d_k = m_k - c and P_k = S_k^-1,

.. math:: (x - m_k)' P_k (x - m_k) = \langle P_k, y y' \rangle - 2\, d_k' P_k\, y + d_k' P_k d_k

is linear in phi(y) = [y, y y'], and so are the moments sum_n r_nk [y_n, y_n y_n']. All classes share phi, so that the
log-densities are one matrix product and the moments another. Observations are in columns, so that every row of phi is
long and contiguous.

Terms of the size of <P_k, y y'> cancel to a number of the size of D. ``View.safe`` says whether enough digits remain.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.compilation import program
from jaxem.core.matrices import product
from jaxem.families.covariance import lower_of, matrices_of


class View(NamedTuple):
    """K classes relative to the point c, prepared for matrix products."""

    centre: Array  # (D,), c
    means: Array  # (K, D), d_k
    coefficients: Array  # (K, F), of the monomials phi in the log-density
    constant: Array  # (K,)
    whitener: Array | None  # (D, D), L^-1 of a tied covariance
    safe: Array  # (), whether rounding error is small enough


def numbers(form: str, k: int, d: int) -> int:
    """F, the number of monomials phi of one observation."""
    return {"full": d * (d + 3) // 2, "diag": 2 * d}.get(form, d + 1)


def view(form: str, means: Array, covariances: Any) -> View:
    """The part of the log-densities and moments that does not depend on observations."""
    whitener = None
    if form in ("full", "tied"):
        covariances = covariances if form == "full" else covariances[None]
        lower = lower_of(covariances)
        inverse = matrices.inverse(lower)
        precisions = product(jnp.swapaxes(inverse, -1, -2), inverse)
        log_determinants = matrices.log_determinant(lower)
        variances = jnp.diagonal(matrices_of(covariances), axis1=-2, axis2=-1)
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
    if whitener is not None:  # after whitening every class has the identity as its covariance
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
    """The point c that minimises sum_k (m_k - c)^2 / v_k, (D,), close to the means of the narrowest classes."""
    return jax.lax.stop_gradient((means / variances).sum(axis=0) / (1 / variances).sum(axis=0))


def is_accurate(terms: Array, others: Array | None = None) -> Array:
    """Whether the rounding error of sums of terms of these sizes, ``(K, D, ...)``, is small enough.

    Each term is rounded independently by about eps of its size, hence the sum by eps |terms|_F. That may be 32 eps for
    each of the D values of a row, which is what an objective allows, or as much as ``others`` would leave.
    """
    loss = lambda terms: jnp.sqrt((terms**2).reshape(terms.shape[0], -1).sum(axis=1))
    allowed = 32 * terms.shape[1]
    return jax.lax.stop_gradient(
        (loss(terms) <= (allowed if others is None else jnp.maximum(allowed, loss(others)))).all()
    )


def _is_safe(d: Array, variances: Array, precisions: Array) -> Array:
    r"""Whether rounding error is small enough for an objective.

    The terms are P_ij y_i y_j, where the mean of y_i^2 is a_i^2 = d_i^2 + v_i. The rounding errors of the coefficients
    are common to all rows of a class. The same number is the relative error of the class's covariance in the M-step.
    """
    a = jnp.sqrt(d**2 + variances)
    return is_accurate(a[:, :, None] * precisions * a[:, None, :] if precisions.ndim == 3 else precisions * a**2)


@functools.cache
def _pairs(d: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices i <= j of all pairs of coordinates.

    They are cached so that E-step and moments use the same arrays, and XLA recognises their phi as one.
    """
    i, j = np.triu_indices(d)
    return i.astype(np.int32), j.astype(np.int32)


def _rows_of(y: Array, i: np.ndarray) -> Array:
    return y.at[i].get(mode="promise_in_bounds", wrap_negative_indices=False)


@program(static_argnames=("form",))
def _monomials(form: str, y: Array) -> Array:
    """phi (F, N) from ``y (D, N)``: y itself, then y_i y_j with i <= j (full), y_i^2 (diag) or |y|^2 (spherical).

    It is jitted so that the indices are constants inside it. If a loop closed over them, XLA would not recognise two
    equal phi as one.
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
    """sum_n r_nk y_n and sum_n r_nk y_n y_n', each product of coordinates once, from ``r (K, N)`` and ``x (N, D)``.

    Without ``classes``, y = x.
    """
    y = _columns(form, x, jnp.zeros_like(x[0]) if classes is None else classes.centre)
    if form == "tied":
        return product(r, y.T), product(r.sum(axis=0)[None, :] * y, y.T)
    return (product(_monomials(form, y), r.T),)


def moments(form: str, classes: View | None, n: Array, sums: tuple[Array, ...]) -> tuple[Array, Array]:
    """sum_n r_nk (x_n - m_k), (K, D), and sum_n r_nk (x_n - m_k)(x_n - m_k)', shaped like the covariances.

    From ``sums`` and the sums of r, ``n (K,)``. Without ``classes``, m_k = 0.
    """
    first, second = _unpacked(form, sums)
    return (first, second) if classes is None else _about(form, classes.means, n, first, second)


def _unpacked(form: str, sums: tuple[Array, ...]) -> tuple[Array, Array]:
    """The moments about c, from ``sums``: (K, D), and shaped like the covariances."""
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
    """The moments about o_k (K, D): f_k - n_k o_k, and sum_n r_nk y_n y_n' - f_k o_k' - o_k f_k' + n_k o_k o_k'."""
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
    """y = x - c with observations in columns, (D, N), multiplied by ``whitener`` where there is one.

    For full covariances x is transposed by a product with the identity. XLA does not store a plain transpose, but
    reads ``x`` column by column again for each monomial.
    """
    if whitener is None and form == "full":
        return product(jnp.eye(x.shape[1], dtype=x.dtype), x.T) - centre[:, None]
    y = x - centre[None, :]
    return y.T if whitener is None else product(whitener, y.T)
