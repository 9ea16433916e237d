"""Inference over k latent variables z ~ N(0, I), observed as y = loadings z + e with e ~ N(0, diag(noise)).

Where all entries of y are seen, the posterior of z has one covariance for all rows; where entries are missing, each row
has its own. Given z the entries of y are independent, so that missing ones are left out of every sum.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices


class Factors(NamedTuple):
    """The posterior q(z_n) = N(means_n, covariance), with one covariance for all rows unless entries are missing."""

    means: Array  # (N, k)
    covariance: Array  # (k, k), or (N, k, k) where entries are missing
    log_normalizer: Array  # (N,), log p(y_n)
    at: Any = None  # the parameters at which the E-step was taken


class Seen(NamedTuple):
    """The observation model y = loadings z + e, prepared for inference."""

    loadings: Array  # (D, k), Lambda
    noise: Array  # (D,), Psi, variances
    scaled: Array  # (D, k), Psi^-1 Lambda
    lower: Array  # (k, k), the Cholesky factor of the posterior's precision I + Lambda' Psi^-1 Lambda

    @classmethod
    def through(cls, loadings: Array, noise: Array) -> "Seen":
        """From loadings (D, k) and noise variances (D,)."""
        scaled = loadings / noise[:, None]
        identity = jnp.eye(loadings.shape[1], dtype=loadings.dtype)
        return cls(loadings, noise, scaled, matrices.cholesky(identity + loadings.T @ scaled))


def infer(c: Seen, y: Array, seen: Array | None = None) -> Factors:
    """p(z | y) from ``y (N, D)``, by the (k, k) precision matrix (Woodbury's identity).

    ``seen (N, D)`` says which entries of y are seen, and the others are zero; ``None`` means all.
    """
    k = c.loadings.shape[1]
    identity = jnp.eye(k, dtype=y.dtype)
    if seen is None:
        means, covariance = matrices.solve(c.lower, (y @ c.scaled).T).T, matrices.solve(c.lower, identity)
        log_determinant = jnp.log(c.noise).sum() + matrices.log_determinant(c.lower)
        constant: Any = y.shape[1] * math.log(2 * math.pi)
    else:
        counts = seen.astype(y.dtype)
        products = (c.scaled[:, :, None] * c.loadings[:, None, :]).reshape(-1, k * k)
        lower = matrices.cholesky(identity[None] + matrices.product(counts, products).reshape(-1, k, k))
        means = matrices.solve(lower, (y @ c.scaled)[:, :, None])[:, :, 0]
        covariance = matrices.solve(lower, jnp.broadcast_to(identity, lower.shape))
        log_determinant = counts @ jnp.log(c.noise) + matrices.log_determinant(lower)
        constant = counts.sum(axis=1) * math.log(2 * math.pi)
    # y' (Lambda Lambda' + Psi)^-1 y, written as a sum of squares so that nothing cancels
    residual = y - means @ c.loadings.T
    if seen is not None:
        residual = jnp.where(seen, residual, 0)
    distance = (residual**2 / c.noise[None, :]).sum(axis=1) + (means**2).sum(axis=1)
    return Factors(means, covariance, -0.5 * (constant + log_determinant + distance))


def tempered(c: Seen, y: Array, inverse_temperature: Array | float, seen: Array | None = None) -> Factors:
    """The normalised power of the posterior: the same means, the covariance divided by ``inverse_temperature``."""
    q = infer(c, y, seen)
    return q._replace(covariance=q.covariance / inverse_temperature)


def draw(c: Seen, y: Array, key: Array, seen: Array | None = None) -> Factors:
    """All probability on one draw of z for each row: the drawn means, and a covariance of zero."""
    q = infer(c, y, seen)
    noise = jax.random.normal(key, q.means.shape, q.means.dtype)
    lower = matrices.cholesky(q.covariance)
    scaled = noise @ lower.T if lower.ndim == 2 else jnp.matmul(lower, noise[:, :, None])[:, :, 0]
    return Factors(q.means + scaled, jnp.zeros_like(q.covariance), q.log_normalizer)


def expected_log_prior(q: Factors) -> Array:
    """E_q log N(z_n; 0, I), (N,)."""
    k = q.means.shape[1]
    spread = jnp.trace(q.covariance, axis1=-2, axis2=-1)
    return -0.5 * (math.log(2 * math.pi) * k + (q.means**2).sum(axis=1) + spread)


def entropy(q: Factors) -> Array:
    """log|2 pi e V| / 2 of each row, (N,)."""
    _, log_determinant = jnp.linalg.slogdet(q.covariance)
    each = 0.5 * (q.means.shape[1] * (1 + math.log(2 * math.pi)) + log_determinant)
    return jnp.broadcast_to(each, q.means.shape[:1])


def divergence(q: Factors, p: Factors) -> Array:
    """KL(q || p) between normal distributions, (N,)."""
    lower_p, lower_q = matrices.cholesky(p.covariance), matrices.cholesky(q.covariance)
    half = matrices.inverse(lower_p)
    shift = jnp.matmul(half, (q.means - p.means)[:, :, None]) if half.ndim == 3 else (q.means - p.means) @ half.T
    ratio = jnp.matmul(half, lower_q)
    determinants = matrices.log_determinant(lower_q) - matrices.log_determinant(lower_p)
    squares = (ratio**2).sum(axis=(-2, -1)) + (shift.reshape(q.means.shape) ** 2).sum(axis=1)
    return 0.5 * (squares - q.means.shape[1] - determinants)
