"""Inference over k latent variables z ~ N(0, I), observed as y = loadings z + e with e ~ N(0, diag(noise))."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices


class Factors(NamedTuple):
    """The posterior q(z_n) = N(means_n, covariance), with one covariance for all observations."""

    means: Array  # (N, k)
    covariance: Array  # (k, k)
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


def infer(c: Seen, y: Array) -> Factors:
    """p(z | y) from ``y (N, D)``, by the (k, k) precision matrix (Woodbury's identity)."""
    identity = jnp.eye(c.loadings.shape[1], dtype=y.dtype)
    means = matrices.solve(c.lower, (y @ c.scaled).T).T
    # y' (Lambda Lambda' + Psi)^-1 y, written as a sum of squares so that nothing cancels
    residual = y - means @ c.loadings.T
    distance = (residual**2 / c.noise[None, :]).sum(axis=1) + (means**2).sum(axis=1)
    log_determinant = jnp.log(c.noise).sum() + matrices.log_determinant(c.lower)
    constant = y.shape[1] * math.log(2 * math.pi)
    return Factors(means, matrices.solve(c.lower, identity), -0.5 * (constant + log_determinant + distance))


def tempered(c: Seen, y: Array, inverse_temperature: Array | float) -> Factors:
    """The normalised power of the posterior: the same means, the covariance divided by ``inverse_temperature``."""
    q = infer(c, y)
    return q._replace(covariance=q.covariance / inverse_temperature)


def draw(c: Seen, y: Array, key: Array) -> Factors:
    """All probability on one draw of z for each row: the drawn means, and a covariance of zero."""
    q = infer(c, y)
    noise = jax.random.normal(key, q.means.shape, q.means.dtype)
    means = q.means + noise @ matrices.cholesky(q.covariance).T
    return Factors(means, jnp.zeros_like(q.covariance), q.log_normalizer)


def expected_log_prior(q: Factors) -> Array:
    """E_q log N(z_n; 0, I), (N,)."""
    k = q.means.shape[1]
    return -0.5 * (math.log(2 * math.pi) * k + (q.means**2).sum(axis=1) + jnp.trace(q.covariance))


def entropy(q: Factors) -> Array:
    """log|2 pi e V| / 2 of each row, (N,)."""
    _, log_determinant = jnp.linalg.slogdet(q.covariance)
    each = 0.5 * (q.means.shape[1] * (1 + math.log(2 * math.pi)) + log_determinant)
    return jnp.full((q.means.shape[0],), each)


def divergence(q: Factors, p: Factors) -> Array:
    """KL(q || p) between normal distributions, (N,)."""
    lower_p, lower_q = matrices.cholesky(p.covariance), matrices.cholesky(q.covariance)
    shift = matrices.solve_lower(lower_p, (q.means - p.means).T)
    ratio = matrices.solve_lower(lower_p, lower_q)
    log_ratio = jnp.log(jnp.diagonal(lower_p)).sum() - jnp.log(jnp.diagonal(lower_q)).sum()
    return 0.5 * ((ratio**2).sum() + (shift**2).sum(axis=0) - q.means.shape[1]) + log_ratio
