"""Inference over classes: K of them, one latent variable an observation, from a table log p(x_n, z_n = k)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Responsibilities(NamedTuple):
    """q(z_n = k), and the normaliser that made it sum to one."""

    probabilities: Array  # (N, K)
    log_normalizer: Array  # (N,), log p(x_n | params)
    hidden: Any = ()  # leaves (N, K, ...), the posterior of the family's own hidden variables
    at: Any = None  # the parameters of the E-step


def infer(log_joint: Array) -> Responsibilities:
    """Bayes' rule: r_nk = p(x_n, z = k) / sum_j p(x_n, z = j), from ``log_joint (N, K)``."""
    table = log_joint.T  # along the observations the sums over classes are sums of long rows
    # Any scale does, so it has no derivative; where nothing is possible, or all is NaN, none is needed.
    largest = jax.lax.stop_gradient(table.max(axis=0))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    joint = jnp.exp(table - largest[None, :])
    c = joint.sum(axis=0)
    return Responsibilities((joint / c[None, :]).T, largest + jnp.log(c))


def mode(log_joint: Array) -> Responsibilities:
    """All probability on the most probable class of each observation."""
    return certain(log_joint.argmax(axis=-1), log_joint)


def draw(log_joint: Array, key: Array) -> Responsibilities:
    """One class an observation, drawn with probability r_nk."""
    return certain(jax.random.categorical(key, log_joint, axis=-1), log_joint)


def tempered(log_joint: Array, inverse_temperature: Array | float) -> Responsibilities:
    """r_nk proportional to exp(p_nk)^inverse_temperature; log p(x_n) as it is."""
    q = infer(inverse_temperature * log_joint)
    return q._replace(log_normalizer=jax.nn.logsumexp(log_joint, axis=-1))


def certain(labels: Array, log_joint: Array) -> Responsibilities:
    """All probability on one class an observation, ``labels (N,)``."""
    probabilities = jax.nn.one_hot(labels, log_joint.shape[-1], dtype=log_joint.dtype)
    return Responsibilities(probabilities, jax.nn.logsumexp(log_joint, axis=-1))


def expected(probabilities: Array, values: Array) -> Array:
    """sum_k p_k v_k on the last axis, where a class without probability counts nothing even at v = -inf."""
    possible = probabilities != 0  # NaN is no zero
    return jnp.where(possible, probabilities * jnp.where(possible, values, 0), 0).sum(axis=-1)


def log_times(counts: Array, probabilities: Array) -> Array:
    """n log p element by element, 0 where n is 0: its derivative stays finite where a p that nothing counts is zero."""
    return counts * jnp.log(jnp.where(counts > 0, probabilities, 1))


def log_probability(p: Array) -> Array:
    """log p, -inf at zero, where it has derivative 0: what counts nothing there, 0 log 0, does so nearby."""
    return jnp.where(p == 0, -jnp.inf, jnp.log(jnp.where(p == 0, 1, p)))


def entropy(probabilities: Array) -> Array:
    """-sum_k p_k log p_k on the last axis, with 0 log 0 = 0."""
    return -expected(probabilities, jnp.log(jnp.where(probabilities > 0, probabilities, 1)))


def divergence(q: Array, p: Array) -> Array:
    """KL(q || p) = sum_k q_k log(q_k / p_k) on the last axis; infinite where q is possible and p is not."""
    ratio = jnp.log(jnp.where(q > 0, q, 1)) - jnp.log(jnp.where(q > 0, p, 1))
    return expected(q, ratio)
