r"""Log-densities and moments of K normal classes as products of matrices.

About one point c for all classes, with y = x - c, d_k = m_k - c and P_k = S_k^-1,

.. math:: (x - m_k)' P_k (x - m_k) = \langle P_k, y y' \rangle - 2\, d_k' P_k\, y + d_k' P_k d_k

is linear in phi(y) = [y, y y'], and so are the moments sum_n r_nk [y_n, y_n y_n']: all classes share phi, and each of
the two is one matrix product. Observations stand in columns, so that every row of phi is long and contiguous.

Terms of the size of <P_k, y y'> cancel to one of the size of D. ``_is_safe`` says where too little would be left; there
the deviations from each mean are formed first, as in ``covariance.py``.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.expectation import accumulate

# Of fewer rows the products are not the greater part of the work; of more dimensions whitening is as quick.
_FEWEST_ROWS = 512
_MOST_DIMENSIONS = 64
# Numbers in phi at a time: what a CPU keeps close, without making the rows of phi too short.
_NUMBERS = {"cpu": 2**19}
_NUMBERS_ELSEWHERE = 2**28


def pays(form: str, rows: int, d: int) -> bool:
    """Whether this is the quicker form."""
    return rows >= _FEWEST_ROWS and (form != "full" or d <= _MOST_DIMENSIONS)


class View(NamedTuple):
    """K classes as seen from the point that they are expanded about."""

    centre: Array  # (D,), c
    means: Array  # (K, D), d_k
    coefficients: Array  # (K, F), of the monomials phi in the log-density
    constant: Array  # (K,)
    whitener: Array | None  # tied (D, D), L^-1
    safe: Array  # ()


def view(form: str, means: Array, covariances: Array) -> View:
    """What of the log-densities and moments of these classes depends on no observation."""
    whitener = None
    if form in ("full", "tied"):
        covariances = covariances if form == "full" else covariances[None]
        lower = matrices.cholesky(covariances)
        inverse = matrices.inverse(lower)
        precisions = _product(jnp.swapaxes(inverse, -1, -2), inverse)
        log_determinants = matrices.log_determinant(lower)
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
    safe = _is_safe(d, variances, precisions)
    shift, p = d, precisions
    if whitener is not None:  # whitened, every class is a ball
        shift, p = _product(d, whitener.T), jnp.ones_like(d[:, :1])
    if form == "full":
        linear = _product(p, d[:, :, None])[:, :, 0]
        row, column = np.triu_indices(d.shape[1])
        p = p[:, row, column] * jnp.asarray(np.where(row == column, 1, 2), p.dtype)[None, :]
    else:
        linear = p * shift
    constant = -0.5 * ((linear * shift).sum(axis=1) + log_determinants + d.shape[1] * math.log(2 * math.pi))
    return View(centre, d, jnp.concatenate([linear, -0.5 * p], axis=1), constant, whitener, safe)


def _is_safe(d: Array, variances: Array, precisions: Array) -> Array:
    r"""Whether rounding error stays within what is allowed for an objective, 32 eps for each of D values of a row.

    The terms P_ij y_i y_j of class k are rounded by about eps of their size, each on its own, hence together by
    eps |(P_ij a_i a_j)|_F, with a_i^2 = d_i^2 + v_i the mean of y_i^2. The rounding of the coefficients is common to
    all rows of the class. The same number is the relative error that the M-step leaves in the class's covariance.
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


def log_density(form: str, classes: View, x: Array, textbook: Callable[[Array], Array] | None = None) -> Array:
    """log N(x_n; m_k, S_k), (K, N), from ``x (N, D)``; ``textbook(x)`` is the same where this form is not safe (without
    it, it is known to be)."""

    def table(x: Array) -> Array:
        y = _columns(form, x, classes.centre, classes.whitener)
        phi = _monomials("spherical" if form == "tied" else form, y)
        fast = lambda: _product(classes.coefficients, phi) + classes.constant[:, None]
        return fast() if textbook is None else jax.lax.cond(classes.safe, fast, functools.partial(textbook, x))

    n, most = x.shape[0], _rows(form, x.shape[1])
    if n <= most:
        return table(x)
    pieces = -(-n // most)
    size = -(-n // pieces)
    padded = jnp.concatenate([x, jnp.broadcast_to(x[:1], (pieces * size - n, x.shape[1]))])
    tables = jax.lax.map(table, padded.reshape(pieces, size, -1))
    return jnp.moveaxis(tables, 0, 1).reshape(-1, pieces * size)[:, :n]


def moments(
    form: str,
    classes: View | None,
    weights: Array,
    x: Array,
    textbook: Callable[[Array, Array], tuple[Array, Array]] | None = None,
) -> tuple[Array, Array]:
    """sum_n r_nk (x_n - o_k), (K, D), and sum_n r_nk (x_n - o_k)(x_n - o_k)', in the form of the covariances.

    ``weights (N, K)``, ``x (N, D)``, o_k the means of ``classes``; ``textbook(weights, x)`` is the same where this form
    is not safe (without it, it is known to be). Without ``classes`` they are about zero, and nothing cancels.
    """
    most = _rows(form, x.shape[1])
    if classes is None:
        zero = jnp.zeros_like(x[0])
        return _unpacked(
            form, accumulate(lambda rows: _sums(form, rows[0].T, _columns(form, rows[1], zero)), (weights, x), most)
        )
    wanted = True if textbook is None else classes.safe

    def sums(rows: tuple[Array, Array]) -> Any:
        return _sums(form, rows[0].T, _columns(form, rows[1], classes.centre), wanted)

    packed = accumulate(sums, (weights, x), most)
    about = lambda: _about(form, classes.means, weights.sum(axis=0), *_unpacked(form, packed))
    if textbook is None:
        return about()
    return jax.lax.cond(classes.safe, about, lambda: accumulate(lambda rows: textbook(*rows), (weights, x), most))


def _rows(form: str, d: int) -> int:
    """How many observations at a time."""
    numbers = _NUMBERS.get(jax.default_backend(), _NUMBERS_ELSEWHERE)
    return max(numbers // {"full": d * (d + 3) // 2, "diag": 2 * d}.get(form, d + 1), 1)


def _sums(form: str, r: Array, y: Array, wanted: Array | bool = True) -> tuple[Array, ...]:
    """sum_n r_nk y_n and sum_n r_nk y_n y_n', each product of coordinates once."""
    if form == "tied":
        return _product(r, y.T), _product(r.sum(axis=0)[None, :] * y, y.T)
    phi = _monomials(form, y)
    if wanted is True:
        return (_product(phi, r.T),)
    none = jnp.zeros((phi.shape[0], r.shape[0]), y.dtype)
    return (jax.lax.cond(wanted, lambda: _product(phi, r.T), lambda: none),)


def _unpacked(form: str, sums: tuple[Array, ...]) -> tuple[Array, Array]:
    """The same, (K, D) and in the form of the covariances."""
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
    i, j = np.triu_indices(d)
    place[i, j] = place[j, i] = d + np.arange(i.size)
    return moments[:, :d], moments[:, place]


def _about(form: str, o: Array, n: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """The same about o_k: f_k - n_k o_k, and sum_n r_nk y_n y_n' - f_k o_k' - o_k f_k' + n_k o_k o_k'."""
    n = n[:, None]
    half = first - n / 2 * o
    if form == "full":
        product = half[:, :, None] * o[:, None, :]
        shift = product + jnp.swapaxes(product, 1, 2)
    elif form == "tied":
        product = _product(half.T, o)
        shift = product + product.T
    else:
        shift = 2 * half * o if form == "diag" else 2 * (half * o).sum(axis=1)
    return first - n * o, second - shift


def _columns(form: str, x: Array, centre: Array, whitener: Array | None = None) -> Array:
    """y = x - c with observations in columns, (D, N), whitened where there is something to whiten with.

    Where there are many monomials of each coordinate the product is with the identity: XLA would not store a mere
    transpose, but walk across ``x`` anew for each of them.
    """
    y = x - centre[None, :]
    if whitener is None and form == "full":
        whitener = jnp.eye(x.shape[1], dtype=y.dtype)
    return y.T if whitener is None else _product(whitener, y.T)


def _product(a: Array, b: Array) -> Array:
    """Never in the reduced precision that an accelerator may prefer: what cancels needs all of it."""
    return jnp.matmul(a, b, precision=None if jax.default_backend() == "cpu" else "highest")
