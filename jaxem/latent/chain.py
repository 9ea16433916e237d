r"""Inference in a hidden Markov chain of K states: filter, smoother, and other distributions over its paths.

Names: pi (K,) is the initial distribution, A (K, K) the transition matrix (from row to column), and
b_t(k) = p(x_t | z_t = k). All sequences run side by side: arrays are ``(N, T, K)``, and ``lengths (N,)`` says where
each sequence ends. Where pi and A depend on covariates, pi is (N, K) and A is (N, T - 1, K, K), a matrix for the move
from each step to the next. The recursions in scaled numbers, and their parallel version, are in ``scaled``.

Source: Rabiner (1989).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.arrays import anywhere
from jaxem.latent import scaled
from jaxem.latent.chain_forward import forward_in_parts, log_likelihood
from jaxem.latent.chain_paths import viterbi
from jaxem.latent.chain_steps import to_steps, within
from jaxem.latent.scaled import Filtered


class Chain(NamedTuple):
    """A distribution over state paths: z_T ~ filtered_T, p(z_t = i | z_{t+1} = j) proportional to filtered_t(i) A_ij.

    Every posterior of a hidden Markov model has this form. T K + K^2 numbers describe it, so that no (T, K, K) array
    of pairs is needed where all moves have one A.
    """

    filtered: Array  # (N, T, K), p(z_t | x_1 ... x_t)
    transition: Array  # (K, K), A; or (N, T - 1, K, K), of each move
    smoothed: Array  # (N, T, K), p(z_t | x); zero after the end
    ahead: Array  # (N, T, K), p(z_{t+1} | x) / p(z_{t+1} | x_1 ... x_t); zero from the end on
    log_normalizer: Array  # (N,), log p(x)
    hidden: Any = ()  # leaves (N T, K, ...), the posterior of the family's own hidden variables, step by step
    at: Any = None  # the parameters at which the E-step was taken


def posterior(
    pi: Array, A: Array, log_b: Array, lengths: Array, segments: int = 1, again: Callable[[], Array] | None = None
) -> Chain:
    """p(z | x) by scaled forward-backward, from ``log_b (N, T, K)``.

    Each sequence is cut into ``segments`` that run side by side; with more than one, the rows of A must sum to one.
    ``again`` computes the densities anew in the rare case that they are needed again: an array that enters a condition
    would be stored.
    """
    steps = scaled.Steps.of(log_b, lengths, segments)
    densities = (lambda: log_b) if again is None else again
    if segments == 1:
        predicted, after = _broadcast(pi, steps), jnp.zeros_like(steps.b[0])
    else:
        parted = steps.b.reshape(*steps.b.shape[:2], -1, segments)
        entries = scaled.entries(pi, steps.moves(A), parted)
        predicted, after = (entry.reshape(steps.b.shape[1:]) for entry in entries)
        after = jnp.where(steps.goes_on[None], after, 0)
    found = scaled.forward(predicted, steps.moves(A), steps)

    def in_logs() -> Chain:
        log_b = densities()
        whole = scaled.Steps.of(log_b, lengths, 1)
        return _smooth(*_filter_in_logs(pi, A, log_b, lengths, whole), jnp.zeros_like(whole.b[0]), A, whole)

    return jax.lax.cond(
        _is_lost(predicted, A, found, densities, steps),
        in_logs,
        lambda: _smooth(found, scaled.log_scale(found.c, steps), after, A, steps),
    )


def tempered(pi: Array, A: Array, log_b: Array, lengths: Array, inverse_temperature: Array | float) -> Chain:
    """The chain of paths with probability proportional to p(x, z)^inverse_temperature.

    Its log-normaliser stays log p(x).
    """
    beta = jnp.asarray(inverse_temperature, log_b.dtype)
    # The powers of a row of A sum to at most K^(1 - beta). They are scaled to at most one, so that nothing grows after
    # the end of a sequence.
    most = jnp.maximum(A.shape[-1] ** (1 - beta), 1)
    chain = posterior(pi**beta, A**beta / most, beta * log_b, lengths)
    return chain._replace(log_normalizer=_filtered(pi, A, log_b, lengths)[2])


def certain(path: Array, k: int, log_normalizer: Array) -> Chain:
    """All probability on one path per sequence, ``path (N, T)`` with -1 after the end."""
    states = jax.nn.one_hot(path, k, dtype=log_normalizer.dtype)
    # The filtered probabilities leave one possible previous state, so that any positive transition matrix will do.
    ahead = jnp.pad(states[:, 1:], ((0, 0), (0, 1), (0, 0)))
    return Chain(states, jnp.ones((k, k), states.dtype), states, ahead, log_normalizer)


def mode(pi: Array, A: Array, log_b: Array, lengths: Array) -> Chain:
    """All probability on the most probable path of each sequence."""
    path = viterbi(pi, A, log_b, lengths)
    return certain(path, pi.shape[-1], log_likelihood(pi, A, log_b, lengths))


def draw(pi: Array, A: Array, log_b: Array, lengths: Array, key: Array) -> Chain:
    """All probability on one path per sequence, drawn from p(z | x).

    The filter runs forward, then z_t given z_{t+1} is drawn backward (Carter & Kohn 1994).
    """
    filtered, _, log_normalizer = _filtered(pi, A, log_b, lengths)
    n, t, k = filtered.shape
    log_A_to = jnp.swapaxes(jnp.log(to_steps(A, t)), -1, -2)

    def step(after: Array, now: tuple[Array, Array, Array, Array | None]) -> tuple[Array, Array]:
        log_alpha, continues_t, key_t, to_t = now
        to = log_A_to[after] if to_t is None else to_t[jnp.arange(n), after]
        kernel = log_alpha + jnp.where(continues_t[:, None], to, 0)
        state = jax.random.categorical(key_t, kernel, axis=-1).astype(after.dtype)
        return state, state

    inputs = (jnp.log(jnp.swapaxes(filtered, 0, 1)), within(lengths - 1, t).T, jax.random.split(key, t))
    inputs = (*inputs, scaled.each_move(log_A_to))
    _, path = jax.lax.scan(step, jnp.zeros((n,), jnp.int32), inputs, reverse=True)
    return certain(jnp.where(within(lengths, t), path.T, -1), k, log_normalizer)


def _broadcast(pi: Array, steps: scaled.Steps) -> Array:
    """pi for each sequence, (K, N)."""
    if pi.ndim == 2:
        return pi.T if steps.b.ndim > 2 else pi[0]
    return jnp.broadcast_to(pi.reshape(-1, *(1,) * (steps.b.ndim - 2)), steps.b.shape[1:])


def _is_lost(predicted: Array, A: Array, found: Filtered, log_b: Callable[[], Array], steps: scaled.Steps) -> Array:
    """Whether a whole step, or a possible state, has underflowed in the scaled filter.

    Densities are divided by the largest of their step. If the chain cannot be in the state with the largest density,
    the others may all underflow; so may a state that cannot be reached again later. Where every state can follow every
    other one, a state that underflows at one step recovers at the next, so that single states need not be checked.
    """
    safe = float(jnp.finfo(found.c.dtype).tiny) ** 0.5
    step = anywhere(steps.inside & ~(found.c >= safe))

    moves = steps.moves(A)

    def any_state() -> Array:
        At = scaled.transposed(moves)
        before, own = found.filtered[:-1], scaled.each_move(At)
        of_one = jax.vmap(lambda alpha: scaled.times(At, alpha))
        later = of_one(before) if own is None else jax.vmap(scaled.times)(own[:-1], before)
        possible = (jnp.concatenate([predicted[None], later]) > 0) & (scaled.cut(log_b(), steps.whole[2]) > -jnp.inf)
        joint = found.filtered * found.c[:, None]
        return anywhere(steps.inside[:, None] & possible & (joint < safe))

    return jax.lax.cond(step | (moves.min() >= safe), lambda: step, any_state)


def _filter_in_logs(pi: Array, A: Array, log_b: Array, lengths: Array, steps: scaled.Steps) -> tuple[Filtered, Array]:
    """The filter and log c (T, N) where scaled numbers underflow; each sequence is one segment."""
    alpha, log_c, _ = forward_in_parts(pi, A, log_b, lengths)
    total = alpha.sum(axis=2)
    before = jnp.pad(total[:, :-1], ((0, 0), (1, 0)), constant_values=1)
    log_c = log_c + jnp.log(total / jnp.where(before == 0, 1, before))
    filtered = alpha / jnp.where(total == 0, 1, total)[:, :, None]
    log_b, filtered, log_c = (scaled.cut(x, 1) for x in (log_b, filtered, log_c))
    possible = steps.inside[:, None] & (filtered > 0)
    b_c = jnp.where(possible, jnp.exp(log_b - log_c[:, None]), 0)
    return Filtered(filtered, b_c, jnp.exp(log_c)), log_c


def filtered_probabilities(pi: Array, A: Array, log_b: Array, lengths: Array) -> tuple[Array, Array]:
    """p(z_t | x_1 ... x_t), (N, T, K), and log p(x_t | x_1 ... x_{t-1}), (N, T), which is zero after the end."""
    return _filtered(pi, A, log_b, lengths)[:2]


def _filtered(pi: Array, A: Array, log_b: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """``filtered_probabilities``, and log p(x), (N,), to the bit as the posterior has it."""
    steps = scaled.Steps.of(log_b, lengths, 1)
    predicted = _broadcast(pi, steps)
    found = scaled.forward(predicted, steps.moves(A), steps)

    def each(found: Filtered, log_c: Array) -> tuple[Array, Array, Array]:
        log_c = steps.join(log_c)
        return steps.join(found.filtered), log_c, log_c.sum(axis=1)

    return jax.lax.cond(
        _is_lost(predicted, A, found, lambda: log_b, steps),
        lambda: each(*_filter_in_logs(pi, A, log_b, lengths, steps)),
        lambda: each(found, scaled.log_scale(found.c, steps)),
    )


def _smooth(found: Filtered, log_c: Array, after: Array, A: Array, steps: scaled.Steps) -> Chain:
    gamma, ahead = scaled.backward(after, steps.moves(A), found, steps)
    return Chain(steps.join(found.filtered), A, steps.join(gamma), steps.join(ahead), steps.join(log_c).sum(axis=1))
