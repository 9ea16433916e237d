r"""Inference in a hidden Markov chain of K states: filter, smoother, forward algorithm, Viterbi path.

Names: pi (K,) the initial distribution, A (K, K) the transition matrix (row: from), b_t(k) = p(x_t | z_t = k). All
sequences run side by side; arrays are ``(N, T, K)``, ``lengths (N,)`` says where each ends.

Rabiner (1989); the smoother in the backward-kernel form of Rauch, Tung & Striebel (1965).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.discrete import expected


class Chain(NamedTuple):
    """A distribution over state paths: z_T ~ filtered_T, z_t | z_{t+1} = j ~ filtered_t(i) A_ij / sum_i (same).

    Every posterior of a hidden Markov model has this form, and T K + K^2 numbers describe it; no (T, K, K) array of
    pairs is needed.
    """

    filtered: Array  # (N, T, K), p(z_t | x_1 ... x_t)
    transition: Array  # (K, K), A
    smoothed: Array  # (N, T, K), p(z_t | x); zero behind the end
    log_normalizer: Array  # (N,), log p(x)


def within(lengths: Array, t: int) -> Array:
    """(N, T), whether each step lies within its sequence."""
    return jnp.arange(t, dtype=lengths.dtype)[None, :] < lengths[:, None]


def posterior(pi: Array, A: Array, log_b: Array, lengths: Array) -> Chain:
    """Scaled forward-backward: p(z | x), from ``log_b (N, T, K)``."""
    filtered, log_normalizer = _filter(pi, A, log_b, lengths)
    return Chain(filtered, A, _smooth(filtered, A, lengths), log_normalizer)


def tempered(pi: Array, A: Array, log_b: Array, lengths: Array, inverse_temperature: Array | float) -> Chain:
    """The chain whose paths have probability proportional to p(x, z)^inverse_temperature; log p(x) as it is."""
    beta = jnp.asarray(inverse_temperature, log_b.dtype)
    # The powers of a row sum to at most K^(1 - beta). Kept below one, nothing grows behind the end.
    most = jnp.maximum(A.shape[0] ** (1 - beta), 1)
    chain = posterior(pi**beta, A**beta / most, beta * log_b, lengths)
    return chain._replace(log_normalizer=_filter(pi, A, log_b, lengths)[1])


def certain(path: Array, k: int, log_normalizer: Array) -> Chain:
    """All probability on one path a sequence, ``path (N, T)`` with -1 behind the end."""
    states = jax.nn.one_hot(path, k, dtype=log_normalizer.dtype)
    # What is filtered leaves one state to come from, whatever the transition.
    return Chain(states, jnp.ones((k, k), states.dtype), states, log_normalizer)


def draw(key: Array, pi: Array, A: Array, log_b: Array, lengths: Array) -> Chain:
    """One path a sequence from p(z | x): filter forward, sample z_t | z_{t+1} backward (Carter & Kohn 1994)."""
    filtered, log_normalizer = _filter(pi, A, log_b, lengths)
    log_A_to = jnp.log(A).T
    n, t, k = filtered.shape

    def step(after: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        log_alpha, continues_t, key_t = now
        kernel = log_alpha + jnp.where(continues_t[:, None], log_A_to[after], 0)
        state = jax.random.categorical(key_t, kernel, axis=-1).astype(after.dtype)
        return state, state

    inputs = (jnp.log(jnp.swapaxes(filtered, 0, 1)), within(lengths - 1, t).T, jax.random.split(key, t))
    _, path = jax.lax.scan(step, jnp.zeros((n,), jnp.int32), inputs, reverse=True)
    return certain(jnp.where(within(lengths, t), path.T, -1), k, log_normalizer)


def _filter(pi: Array, A: Array, log_b: Array, lengths: Array) -> tuple[Array, Array]:
    r"""alpha_t(j) = b_t(j) sum_i alpha_{t-1}(i) A_ij / c_t, and log p(x) = sum_t log c_t.

    Densities are divided by the largest of their step. Where the chain cannot be in the state of that largest one, the
    rest may underflow, and so may a state to which no way leads back; then everything is done again in log space.
    """
    inside = within(lengths, log_b.shape[1])
    # Any scale does, so it has no derivative; that of a maximum is 0 / 0 where XLA computes the maximised number twice,
    # rounded differently, and finds none that equals the maximum.
    largest = jax.lax.stop_gradient(log_b.max(axis=-1))
    b = jnp.exp(log_b - largest[:, :, None])

    def step(predicted: Array, now: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        b_t, inside_t = now
        joint = predicted * b_t
        c = joint.sum(axis=-1)
        alpha = jnp.where(inside_t[:, None], joint / c[:, None], predicted)
        return alpha @ A, (alpha, c)

    start = jnp.broadcast_to(pi[None, :], (log_b.shape[0], pi.shape[0]))
    _, (alpha, c) = jax.lax.scan(step, start, (jnp.swapaxes(b, 0, 1), inside.T))
    filtered, c = jnp.swapaxes(alpha, 0, 1), c.T
    safe = float(jnp.finfo(c.dtype).tiny) ** 0.5
    underflow = (inside & (c < safe)).any()
    # Where every state can follow every other, what underflows in one step is back in the next. Elsewhere it is lost.
    predicted = jnp.concatenate([start[:, None], filtered[:, :-1] @ A], axis=1)
    possible = inside[:, :, None] & (predicted > 0) & (log_b > -jnp.inf)
    lost = (A.min() < safe) & (possible & (filtered * c[:, :, None] < safe)).any()
    log_c = jnp.log(jnp.where(inside, c, 1)) + jnp.where(inside, largest, 0)
    return jax.lax.cond(
        underflow | lost,
        lambda: _filter_in_logs(pi, A, log_b, lengths),
        lambda: (filtered, log_c.sum(axis=1)),
    )


def _filter_in_logs(pi: Array, A: Array, log_b: Array, lengths: Array) -> tuple[Array, Array]:
    """The same, slower, without underflow."""
    log_alpha, log_c = _log_forward(pi, A, log_b, lengths)
    return jnp.exp(log_alpha), log_c.sum(axis=1)


def _log_forward(pi: Array, A: Array, log_b: Array, lengths: Array) -> tuple[Array, Array]:
    """log p(z_t = j | x_1 ... x_t), (N, T, K), and log p(x_t | x_1 ... x_{t-1}), (N, T); behind the end the value at
    the end, and zero.

    Normalised at each step: the logarithms stay small, and their sum is as accurate as a sum can be.
    """
    log_A = jnp.log(A)

    def normalize(log_joint: Array, before: Array, inside_t: Array) -> tuple[Array, tuple[Array, Array]]:
        log_c = jnp.where(inside_t, jax.nn.logsumexp(log_joint, axis=-1), 0)
        # What is impossible stays so: -inf less -inf would be NaN.
        log_alpha = log_joint - jnp.where(log_c == -jnp.inf, 0, log_c)[:, None]
        log_alpha = jnp.where(inside_t[:, None], log_alpha, before)
        return log_alpha, (log_alpha, log_c)

    def step(before: Array, now: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        log_b_t, inside_t = now
        log_joint = jax.nn.logsumexp(before[:, :, None] + log_A[None], axis=1) + log_b_t
        return normalize(log_joint, before, inside_t)

    inside = within(lengths, log_b.shape[1])
    first = jnp.log(pi)[None, :] + log_b[:, 0]
    start, (alpha_1, c_1) = normalize(first, first, inside[:, 0])
    _, (alpha, c) = jax.lax.scan(step, start, (jnp.swapaxes(log_b[:, 1:], 0, 1), inside[:, 1:].T))
    log_alpha = jnp.concatenate([alpha_1[:, None], jnp.swapaxes(alpha, 0, 1)], axis=1)
    return log_alpha, jnp.concatenate([c_1[:, None], c.T], axis=1)


def log_likelihood(pi: Array, A: Array, log_b: Array, lengths: Array) -> Array:
    """log p(x) of each sequence, (N,), by the forward algorithm in log space: no underflow, no smoother."""
    return _log_forward(pi, A, log_b, lengths)[1].sum(axis=1)


def _ratio(smoothed: Array, predicted: Array) -> Array:
    """p(z_t | x) / p(z_t | x_1 ... x_{t-1}); a state without probability has none."""
    none = smoothed == 0  # NaN is not none
    return jnp.where(none, 0, smoothed / jnp.where(none, 1, predicted))


def _smooth(filtered: Array, A: Array, lengths: Array) -> Array:
    """gamma_t(i) = alpha_t(i) sum_j A_ij gamma_{t+1}(j) / sum_i alpha_t(i) A_ij, backwards from the end."""
    t = filtered.shape[1]
    continues = within(lengths - 1, t)

    def step(after: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        alpha, predicted, continues_t = now
        gamma = alpha * (_ratio(after, predicted) @ A.T)
        gamma = jnp.where(continues_t[:, None], gamma, alpha)
        return gamma, gamma

    # What filtered_t predicts for t + 1, all steps in one product.
    inputs = (jnp.swapaxes(filtered, 0, 1), jnp.swapaxes(filtered @ A, 0, 1), continues.T)
    _, gamma = jax.lax.scan(step, filtered[:, -1], inputs, reverse=True)
    return jnp.where(within(lengths, t)[:, :, None], jnp.swapaxes(gamma, 0, 1), 0)


def _pair_factors(q: Chain) -> tuple[Array, Array]:
    """alpha_t(i) and gamma_{t+1}(j) / predicted_{t+1}(j), (N, T - 1, K) each: xi_t = alpha_t' ratio_{t+1} * A."""
    alpha = q.filtered[:, :-1]
    return alpha, _ratio(q.smoothed[:, 1:], alpha @ q.transition)


def pair_counts(q: Chain, weights: Array | None) -> Array:
    """sum_nt w_n p(z_t = i, z_{t+1} = j | x), (K, K), as one product."""
    alpha, ratio = _pair_factors(q)
    if weights is not None:
        ratio = ratio * weights[:, None, None]
    k = alpha.shape[-1]
    return q.transition * (alpha.reshape(-1, k).T @ ratio.reshape(-1, k))


def pair_counts_each(q: Chain) -> Array:
    """sum_t p(z_t = i, z_{t+1} = j | x) of each sequence, (N, K, K)."""
    alpha, ratio = _pair_factors(q)
    return q.transition[None] * jnp.matmul(jnp.swapaxes(alpha, 1, 2), ratio)


def expected_log(q: Chain, p: Chain) -> Array:
    r"""E_q log p(z) of each sequence, (N,), for two chains: the negative entropy of q where p is q.

    .. math:: \sum_j \gamma^q_T \log \alpha^p_T
       + \sum_{t<T} [\gamma^q_t \log \alpha^p_t - \gamma^q_{t+1} \log(\alpha^p_t A^p)]
       + \sum_{ij} \Xi^q_{ij} \log A^p_{ij}
    """
    states = expected(q.smoothed, jnp.log(p.filtered)).sum(axis=1)
    kernels = expected(q.smoothed[:, 1:], jnp.log(p.filtered[:, :-1] @ p.transition)).sum(axis=1)
    transitions = expected(pair_counts_each(q), jnp.log(p.transition)[None]).sum(axis=1)
    return states - kernels + transitions


def viterbi(pi: Array, A: Array, log_b: Array, lengths: Array) -> Array:
    """The most probable state path of each sequence, (N, T); -1 behind the end (Viterbi 1967)."""
    log_A = jnp.log(A)
    t = log_b.shape[1]
    inside = within(lengths, t)

    def forward(best: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        log_b_t, inside_t = now
        scores = best[:, :, None] + log_A[None]
        after = jnp.where(inside_t[:, None], scores.max(axis=1) + log_b_t, best)
        # Behind the end a state stays what it is, so that the path found from there enters the end unchanged.
        stay = jnp.arange(best.shape[1])[None, :]
        return after, jnp.where(inside_t[:, None], scores.argmax(axis=1), stay)

    first = jnp.log(pi)[None, :] + log_b[:, 0]
    last, came_from = jax.lax.scan(forward, first, (jnp.swapaxes(log_b[:, 1:], 0, 1), inside[:, 1:].T))

    def backward(state: Array, origin: Array) -> tuple[Array, Array]:
        before = jnp.take_along_axis(origin, state[:, None], axis=1)[:, 0]
        return before, before

    end = last.argmax(axis=1)
    _, path = jax.lax.scan(backward, end, came_from, reverse=True)
    return jnp.where(inside, jnp.concatenate([path, end[None]]).T, -1)
