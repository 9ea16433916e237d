"""Paths of a hidden Markov chain: drawn, the most probable one, and their probabilities."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.latent.chain_steps import rows, to_steps, within
from jaxem.latent.classes import log_probability


def walk(keys: Array, first: Array, A: Array) -> Array:
    """The states after each move, (N, M), drawn from ``first (N,)`` on; A is (K, K) or (N, M, K, K), ``keys (M,)``."""
    log_A = jnp.log(A)

    def step(state: Array, now: tuple[Array, Array | None]) -> tuple[Array, Array]:
        key, own = now
        state = jax.random.categorical(key, log_A[state] if own is None else own[jnp.arange(state.shape[0]), state])
        return state, state

    own = None if A.ndim == 2 else jnp.swapaxes(log_A, 0, 1)
    return jax.lax.scan(step, first, (keys, own))[1].T


def log_joint(pi: Array, A: Array, log_b: Array, lengths: Array, path: Array) -> Array:
    """log p(x, z) of each sequence, (N,), for one path each, ``path (N, T)``; -inf for a path of -1."""
    n, t, k = log_b.shape
    inside, z = within(lengths, t), jnp.maximum(path, 0)
    of_x = jnp.where(inside, jnp.take_along_axis(log_b, z[:, :, None], axis=2)[:, :, 0], 0).sum(axis=1)
    first = jnp.take_along_axis(jnp.broadcast_to(log_probability(rows(pi)), (n, k)), z[:, :1], axis=1)[:, 0]
    log_A = log_probability(A)
    moves = log_A[z[:, :-1], z[:, 1:]] if A.ndim == 2 else _picked(log_A, z)
    value = first + jnp.where(inside[:, 1:], moves, 0).sum(axis=1) + of_x
    return jnp.where(path[:, 0] < 0, jnp.where(jnp.isnan(log_b).any(axis=(1, 2)), jnp.nan, -jnp.inf), value)


def _picked(log_A: Array, z: Array) -> Array:
    """The entry of each move's own matrix (N, T - 1, K, K), (N, T - 1)."""
    rows = jnp.take_along_axis(log_A, z[:, :-1, None, None], axis=2)[:, :, 0]
    return jnp.take_along_axis(rows, z[:, 1:, None], axis=2)[:, :, 0]


def viterbi(pi: Array, A: Array, log_b: Array, lengths: Array) -> Array:
    """The most probable state path of each sequence, (N, T) (Viterbi 1967).

    It is -1 after the end, and at every step of a sequence without a possible path or with NaN.
    """
    t = log_b.shape[1]
    log_A = jnp.log(A[None] if A.ndim == 2 else to_steps(A, t - 1))
    inside = within(lengths, t)

    def forward(best: Array, now: tuple[Array, Array, Array | None]) -> tuple[Array, Array]:
        log_b_t, inside_t, log_A_t = now
        scores = best[:, :, None] + (log_A if log_A_t is None else log_A_t)
        after = jnp.where(inside_t[:, None], scores.max(axis=1) + log_b_t, best)
        # After the end the state does not change, so that tracing back from there reaches the best last state.
        stay = jnp.arange(best.shape[1])[None, :]
        return after, jnp.where(inside_t[:, None], scores.argmax(axis=1), stay)

    first = jnp.log(rows(pi)) + log_b[:, 0]
    own = log_A if A.ndim > 2 else None
    last, came_from = jax.lax.scan(forward, first, (jnp.swapaxes(log_b[:, 1:], 0, 1), inside[:, 1:].T, own))

    def backward(state: Array, origin: Array) -> tuple[Array, Array]:
        before = jnp.take_along_axis(origin, state[:, None], axis=1)[:, 0]
        return before, before

    end = last.argmax(axis=1)
    _, path = jax.lax.scan(backward, end, came_from, reverse=True)
    found = inside & jnp.isfinite(last.max(axis=1))[:, None]
    return jnp.where(found, jnp.concatenate([path, end[None]]).T, -1)
