r"""Volumes of classes whose covariances are proportional, S_k = v_k C with |C| = 1, from the scatter of each class.

Given the volumes, C is proportional to the sum of W_k / v_k. What is left depends on t_k = -log v_k alone,

.. math:: h(t) = n \log \Bigl| \sum_k e^{t_k} W_k \Bigr| - D \sum_k n_k t_k

up to constants, with n the sum of n_k. It is convex, so the maximum of Q is unique. The textbook's iteration between C
and v_k converges linearly, and slowly where the classes differ in shape; this is Newton's method for t.

Source: Celeux & Govaert (1995), models [lambda_k C], [lambda_k B] and [lambda_k D_k A D_k'].
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices

_MOST = 60  # steps; a start a factor of 1e6 off takes about ten


@jax.custom_jvp
def log_precisions(n: Array, w: Array) -> Array:
    """t (K,) at the maximum, from sizes ``n (K,)`` and scatters ``w``: matrices (K, D, D), or variances (K, D) where
    all matrices are diagonal. It is 0 for classes without scatter."""

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        _, longest, steps = carry
        return (longest > float(jnp.finfo(n.dtype).eps) ** (2 / 3)) & (steps < _MOST)  # False for NaN

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, _, steps = carry
        move = _solved(t, w, -_gradient(t, n, w))
        # The third derivative along a move is at most its range times the second: h falls at every step so damped.
        longest = move.max() - move.min()
        return t + move * jnp.where(longest > 0, jnp.log1p(longest) / longest, 1), longest, steps + 1

    first, d = _shares(jnp.zeros_like(n), w)[0], w.shape[-1]
    alive = (first > 0) & (n > 0)
    start = jnp.where(alive, jnp.log(jnp.where(alive, d * n / n.sum(), 1) / jnp.where(alive, first, 1)), 0)
    return jax.lax.while_loop(unfinished, step, (start, jnp.full_like(n[0], jnp.inf), jnp.int32(0)))[0]


@log_precisions.defjvp
def _log_precisions_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """H dt + dg = 0, where dg is the change of the gradient at the same t."""
    t = log_precisions(*primals)
    change = jax.jvp(lambda n, w: _gradient(t, n, w), primals, tangents)[1]
    return t, _solved(t, primals[1], -change)


def _gradient(t: Array, n: Array, w: Array) -> Array:
    """The gradient of h / n (K,); 0 for classes without scatter, of which t is arbitrary."""
    shares = _shares(t, w)[0]
    return jnp.where(shares > 0, shares - w.shape[-1] * n / n.sum(), 0)


def _solved(t: Array, w: Array, right: Array) -> Array:
    """H^-1 times ``right (K,)``, without the change that all t share, which moves nothing."""
    (shares, products), k, d = _shares(t, w), t.shape[0], w.shape[-1]
    least = jnp.where(shares > 0, 8 * k * float(jnp.finfo(t.dtype).eps), 1) * d
    hessian = jnp.diag(shares + least) - products + jnp.full((k, k), d / k, t.dtype)
    return matrices.solve(matrices.cholesky(hessian), right[:, None])[:, 0]


def _shares(t: Array, w: Array) -> tuple[Array, Array]:
    """tr P_k (K,) and tr P_j P_k (K, K), where P_k = M^-1/2 e^t_k W_k M^-1/2 and M is the sum of e^t_k W_k."""
    scaled = jnp.exp(t).reshape(-1, *(1,) * (w.ndim - 1)) * w
    pooled = scaled.sum(axis=0)
    if w.ndim == 2:
        parts = scaled / pooled[None]
        return parts.sum(axis=1), matrices.product(parts, parts.T)
    whitener = matrices.inverse(matrices.cholesky(pooled))
    parts = matrices.product(matrices.product(whitener, scaled), whitener.T)
    flat = parts.reshape(w.shape[0], -1)
    return jnp.trace(parts, axis1=1, axis2=2), matrices.product(flat, flat.T)
