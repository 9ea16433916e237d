"""Inference over K classes, one latent variable per observation, from a table log p(x_n, z_n = k)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Responsibilities(NamedTuple):
    """The posterior q(z_n = k) of each observation and its log-normaliser."""

    probabilities: Array  # (N, K)
    log_normalizer: Array  # (N,), log p(x_n | params)
    hidden: Any = ()  # leaves (N, K, ...), the posterior of the family's own hidden variables
    at: Any = None  # the parameters at which the E-step was taken


def infer(log_joint: Array) -> Responsibilities:
    """Bayes' rule: r_nk = p(x_n, z = k) / sum_j p(x_n, z = j), from ``log_joint (N, K)``."""
    probabilities, log_normalizer = normalized(log_joint.T)
    return Responsibilities(probabilities.T, log_normalizer)


def normalized(table: Array) -> tuple[Array, Array]:
    """exp(table) divided by its sum over classes, and the logarithm of that sum, from ``table (..., K, N)``.

    Observations are in columns: sums over classes are then sums of long rows.
    """
    # The result does not depend on the scale, so the scale has no derivative. It is 1 where no class is possible or a
    # value is NaN.
    largest = jax.lax.stop_gradient(table.max(axis=-2))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    joint = jnp.exp(table - jnp.expand_dims(largest, -2))
    c = joint.sum(axis=-2)
    return joint / jnp.expand_dims(c, -2), largest + jnp.log(c)


def mode(log_joint: Array) -> Responsibilities:
    """All probability on the most probable class of each observation."""
    return certain(log_joint.argmax(axis=-1), log_joint)


def draw(log_joint: Array, key: Array) -> Responsibilities:
    """All probability on one class per observation, drawn with probability r_nk."""
    return certain(jax.random.categorical(key, log_joint, axis=-1), log_joint)


def tempered(log_joint: Array, inverse_temperature: Array | float) -> Responsibilities:
    """r_nk proportional to exp(inverse_temperature p_nk), p = ``log_joint``; the log-normaliser stays log p(x_n)."""
    q = infer(inverse_temperature * log_joint)
    return q._replace(log_normalizer=jax.nn.logsumexp(log_joint, axis=-1))


def certain(labels: Array, log_joint: Array) -> Responsibilities:
    """All probability on one class per observation, ``labels (N,)``."""
    probabilities = jax.nn.one_hot(labels, log_joint.shape[-1], dtype=log_joint.dtype)
    return Responsibilities(probabilities, jax.nn.logsumexp(log_joint, axis=-1))


def expected(probabilities: Array, values: Array) -> Array:
    """sum_k p_k v_k on the last axis, where a class of probability zero adds nothing even at v = -inf."""
    possible = probabilities != 0  # true for NaN, which is passed on
    return jnp.where(possible, probabilities * jnp.where(possible, values, 0), 0).sum(axis=-1)


def log_times(counts: Array, probabilities: Array) -> Array:
    """n log p element by element, 0 where n is 0; the derivative stays finite where both n and p are zero."""
    return counts * jnp.log(jnp.where(counts > 0, probabilities, 1))


def log_probability(p: Array) -> Array:
    """log p; -inf with derivative 0 where p = 0, so that 0 log 0 and its derivative contribute nothing."""
    return jnp.where(p == 0, -jnp.inf, jnp.log(jnp.where(p == 0, 1, p)))


def entropy(probabilities: Array) -> Array:
    """-sum_k p_k log p_k on the last axis, with 0 log 0 = 0."""
    return -expected(probabilities, jnp.log(jnp.where(probabilities > 0, probabilities, 1)))


def divergence(q: Array, p: Array) -> Array:
    """KL(q || p) = sum_k q_k log(q_k / p_k) on the last axis; infinite where some q_k > 0 and p_k = 0."""
    ratio = jnp.log(jnp.where(q > 0, q, 1)) - jnp.log(jnp.where(q > 0, p, 1))
    return expected(q, ratio)
