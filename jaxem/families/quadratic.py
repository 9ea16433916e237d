r"""Log-densities and moments of K normal classes as products of matrices.

About one point c for all classes, with y = x - c, d_k = m_k - c and P_k = S_k^-1,

.. math:: (x - m_k)' P_k (x - m_k) = \langle P_k, y y' \rangle - 2\, d_k' P_k\, y + d_k' P_k d_k

is linear in phi(y) = [y, y y'], and so are the moments sum_n r_nk [y_n, y_n y_n']: all classes share phi, and each of
the two is one matrix product. Observations stand in columns, so that every row of phi is long and contiguous.

Terms of the size of <P_k, y y'> cancel to one of the size of D. ``_is_safe`` says where too little would be left; there
the deviations from each mean are formed first, as in ``covariance.py``.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

# Of fewer rows the products are not the greater part of the work.
_FEWEST_ROWS = 512


def pays(rows: int) -> bool:
    """Whether so many observations are worth the preparation."""
    return rows >= _FEWEST_ROWS


class _View(NamedTuple):
    """K classes as seen from the point that they are expanded about."""

    centre: Array  # (D,), c
    means: Array  # (K, D), d_k
    precisions: Array  # full (K, D, D), tied (1, D, D), diag (K, D), spherical (K, 1)
    log_determinants: Array  # (K or 1,), of the covariances
    whitener: Array | None  # tied (D, D), L^-1
    safe: Array  # ()


def _view(form: str, means: Array, covariances: Array) -> _View:
    whitener = None
    if form in ("full", "tied"):
        covariances = covariances if form == "full" else covariances[None]
        lower = jnp.linalg.cholesky(covariances)
        identity = jnp.broadcast_to(jnp.eye(means.shape[1], dtype=lower.dtype), lower.shape)
        inverse = solve_triangular(lower, identity, lower=True)
        precisions = _product(jnp.swapaxes(inverse, -1, -2), inverse)
        log_determinants = 2 * jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)).sum(axis=-1)
        variances = jnp.diagonal(covariances, axis1=-2, axis2=-1)
        whitener = inverse[0] if form == "tied" else None
    else:
        variances = covariances if form == "diag" else covariances[:, None]
        precisions = 1 / variances
        log_determinants = jnp.log(jnp.broadcast_to(variances, means.shape)).sum(axis=-1)
    variances = jnp.broadcast_to(variances, means.shape)
    # Of all points, the one that sum_k (m_k - c)^2 / v_k is least for: close to the means that are known best.
    centre = jax.lax.stop_gradient((means / variances).sum(axis=0) / (1 / variances).sum(axis=0))
    d = means - centre[None, :]
    return _View(centre, d, precisions, log_determinants, whitener, _is_safe(d, variances, precisions))


def _is_safe(d: Array, variances: Array, precisions: Array) -> Array:
    r"""Whether rounding error stays within what is allowed for an objective, 32 eps for each of D values of a row.

    The terms P_ij y_i y_j of class k are rounded by about eps of their size, each on its own, hence together by
    eps |(P_ij a_i a_j)|_F, with a_i^2 = d_i^2 + v_i the mean of y_i^2. The part of the coefficients is common to all rows
    of the class. The same number is the relative error that the M-step leaves in the class's covariance.
    """
    a = jnp.sqrt(d**2 + variances)
    terms = a[:, :, None] * precisions * a[:, None, :] if precisions.ndim == 3 else precisions * a**2
    loss = jnp.sqrt((terms**2).reshape(d.shape[0], -1).sum(axis=1))
    return jax.lax.stop_gradient((loss <= 32 * d.shape[1]).all())


def _monomials(form: str, y: Array) -> Array:
    """phi (F, N), from ``y (D, N)``: y itself, then y_i y_j with i <= j, y_i^2, or |y|^2."""
    if form == "full":
        return jnp.concatenate([y, *(y[i : i + 1] * y[i:] for i in range(y.shape[0]))])
    return jnp.concatenate([y, y**2 if form == "diag" else (y**2).sum(axis=0, keepdims=True)])


def log_density(form: str, means: Array, covariances: Array, x: Array, textbook: Callable[[], Array]) -> Array:
    """log N(x_n; m_k, S_k), (K, N), from ``x (N, D)``; ``textbook()`` is the same where this form is not safe."""
    view = _view(form, means, covariances)
    y, d, p = _columns(x, view.centre), view.means, view.precisions
    if form == "tied":  # whitened, every class is a ball
        assert view.whitener is not None
        y, d, p = _product(view.whitener, y), _product(d, view.whitener.T), jnp.ones_like(d[:, :1])
    if form == "full":
        linear = _product(p, d[:, :, None])[:, :, 0]
        i, j = np.triu_indices(d.shape[1])
        twice = jnp.asarray(np.where(i == j, 1, 2), p.dtype)
        squares = twice[None, :] * p[:, i, j]
    else:
        linear, squares = p * d, p
    constant = -0.5 * ((linear * d).sum(axis=1) + view.log_determinants + d.shape[1] * math.log(2 * math.pi))
    coefficients = jnp.concatenate([linear, -0.5 * squares], axis=1)
    phi = _monomials("spherical" if form == "tied" else form, y)
    return jax.lax.cond(view.safe, lambda: _product(coefficients, phi) + constant[:, None], textbook)


def moments(
    form: str, origin: Any, weights: Array, x: Array, textbook: Callable[[], tuple[Array, Array]]
) -> tuple[Array, Array]:
    """sum_n r_nk (x_n - o_k), (K, D), and sum_n r_nk (x_n - o_k)(x_n - o_k)', in the form of the covariances.

    ``weights (K, N)``, ``x (N, D)``, o_k the means of ``origin``; ``textbook()`` is the same where this form is not
    safe. Without an origin they are about zero, and nothing cancels.
    """
    if origin is None:
        y = _columns(x, jnp.zeros_like(x[0]))
        return _sums(form, weights, y, _monomials(form, y))
    view = _view(form, *origin)
    y, o, n = _columns(x, view.centre), view.means, weights.sum(axis=1)
    phi = _monomials(form, y)

    def shifted() -> tuple[Array, Array]:
        first, second = _sums(form, weights, y, phi)
        return first - n[:, None] * o, second - _shift(form, first, o, n)

    return jax.lax.cond(view.safe, shifted, textbook)


def _sums(form: str, weights: Array, y: Array, phi: Array) -> tuple[Array, Array]:
    """sum_n r_nk y_n and sum_n r_nk y_n y_n'."""
    d = y.shape[0]
    if form == "tied":
        return _product(weights, y.T), _product(weights.sum(axis=0)[None, :] * y, y.T)
    sums = _product(phi, weights.T).T
    if form == "full":
        place = np.zeros((d, d), np.int32)
        i, j = np.triu_indices(d)
        place[i, j] = place[j, i] = d + np.arange(i.size)
        return sums[:, :d], sums[:, place]
    return sums[:, :d], sums[:, d:] if form == "diag" else sums[:, d]


def _shift(form: str, first: Array, o: Array, n: Array) -> Array:
    """sum_n r_nk [y_n y_n' - (y_n - o_k)(y_n - o_k)'] = f_k o_k' + o_k f_k' - n_k o_k o_k', with f_k = sum_n r_nk y_n."""
    half = first - n[:, None] / 2 * o
    if form == "full":
        product = half[:, :, None] * o[:, None, :]
        return product + jnp.swapaxes(product, 1, 2)
    if form == "tied":
        product = _product(half.T, o)
        return product + product.T
    return 2 * half * o if form == "diag" else 2 * (half * o).sum(axis=1)


def _columns(x: Array, centre: Array) -> Array:
    """y = x - c with observations in columns, (D, N).

    As a product with the identity, because XLA would not store a mere transpose, but walk across ``x`` anew for each
    monomial.
    """
    return _product(jnp.eye(x.shape[1], dtype=x.dtype), (x - centre[None, :]).T)


def _product(a: Array, b: Array) -> Array:
    """Never in the reduced precision that an accelerator may prefer: what cancels needs all of it."""
    return jnp.matmul(a, b, precision=None if jax.default_backend() == "cpu" else "highest")
