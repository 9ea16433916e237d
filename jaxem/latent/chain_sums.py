"""Expected moves of a hidden Markov chain, and expected log-probabilities of its paths."""

import jax.numpy as jnp
from jax import Array

from jaxem.latent.chain import Chain
from jaxem.latent.classes import expected, log_probability


def pairs(q: Chain) -> Array:
    """p(z_t = i, z_{t+1} = j | x), (N, T - 1, K, K): xi_t = A_t * (filtered_t' ahead_t)."""
    return q.transition * (q.filtered[:, :-1, :, None] * q.ahead[:, :-1, None, :])


def pair_counts(q: Chain, weights: Array | None) -> Array:
    """sum_nt w_n p(z_t = i, z_{t+1} = j | x), (K, K), as one matrix product: xi_t = A * (filtered_t' ahead_t)."""
    if q.transition.ndim > 2:
        each = pair_counts_each(q)
        return (each if weights is None else each * weights[:, None, None]).sum(axis=0)
    ahead = q.ahead if weights is None else q.ahead * weights[:, None, None]
    k = ahead.shape[-1]
    return q.transition * (q.filtered.reshape(-1, k).T @ ahead.reshape(-1, k))


def pair_counts_each(q: Chain) -> Array:
    """sum_t p(z_t = i, z_{t+1} = j | x) of each sequence, (N, K, K)."""
    if q.transition.ndim > 2:
        return pairs(q).sum(axis=1)
    return q.transition[None] * jnp.matmul(jnp.swapaxes(q.filtered, 1, 2), q.ahead)


def expected_log(q: Chain, p: Chain) -> Array:
    r"""E_q log p(z) of each sequence, (N,), for two chains q and p; the negative entropy of q where p = q.

    .. math:: \sum_j \gamma^q_T \log \alpha^p_T
       + \sum_{t<T} [\gamma^q_t \log \alpha^p_t - \gamma^q_{t+1} \log(\alpha^p_t A^p)]
       + \sum_{ij} \Xi^q_{ij} \log A^p_{ij}
    """
    states = expected(q.smoothed, log_probability(p.filtered)).sum(axis=1)
    before = p.filtered[:, :-1]
    predicted = before @ p.transition if p.transition.ndim == 2 else (before[:, :, None] @ p.transition)[:, :, 0]
    kernels = expected(q.smoothed[:, 1:], log_probability(predicted)).sum(axis=1)
    return states - kernels + expected_log_moves(q, log_probability(p.transition))


def expected_log_moves(q: Chain, log_A: Array) -> Array:
    """E_q sum_t log A(z_t, z_{t+1}) of each sequence, (N,), from ``log_A (K, K)`` or (N, T - 1, K, K)."""
    if log_A.ndim == 2:
        return expected(pair_counts_each(q), log_A[None]).sum(axis=1)
    return expected(pairs(q), log_A).sum(axis=(1, 2))
