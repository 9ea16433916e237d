r"""Inference in a hidden Markov chain of K states: filter, smoother, forward algorithm, Viterbi path.

Names: pi (K,) is the initial distribution, A (K, K) the transition matrix (from row to column), and
b_t(k) = p(x_t | z_t = k). All sequences run side by side: arrays are ``(N, T, K)``, and ``lengths (N,)`` says where
each sequence ends. Where pi and A depend on covariates, pi is (N, K) and A is (N, T - 1, K, K), a matrix for the move
from each step to the next. The recursions in scaled numbers, and their parallel version, are in ``scaled``.

Source: Rabiner (1989).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.latent import scaled
from jaxem.latent.classes import expected, log_probability
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


def within(lengths: Array, t: int) -> Array:
    """(N, T), whether each step lies within its sequence."""
    return lengths.__array_namespace__().arange(t, dtype=lengths.dtype)[None, :] < lengths[:, None]


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
    log_A_to = jnp.swapaxes(jnp.log(_to_steps(A, t)), -1, -2)

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


def _to_steps(A: Array, t: int) -> Array:
    """A (K, K) as it is, A (N, T - 1, K, K) as (T, N, K, K) with an entry of no effect at the end."""
    if A.ndim == 2:
        return A
    return jnp.pad(jnp.swapaxes(A, 0, 1), ((0, t - A.shape[1]), (0, 0), (0, 0), (0, 0)), constant_values=1)


def walk(keys: Array, first: Array, A: Array) -> Array:
    """The states after each move, (N, M), drawn from ``first (N,)`` on; A is (K, K) or (N, M, K, K), ``keys (M,)``."""
    log_A = jnp.log(A)

    def step(state: Array, now: tuple[Array, Array | None]) -> tuple[Array, Array]:
        key, own = now
        state = jax.random.categorical(key, log_A[state] if own is None else own[jnp.arange(state.shape[0]), state])
        return state, state

    own = None if A.ndim == 2 else jnp.swapaxes(log_A, 0, 1)
    return jax.lax.scan(step, first, (keys, own))[1].T


def _rows(pi: Array) -> Array:
    """pi as (1, K) or (N, K)."""
    return pi if pi.ndim == 2 else pi[None]


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
    step = (steps.inside & ~(found.c >= safe)).any()

    moves = steps.moves(A)

    def any_state() -> Array:
        At = scaled.transposed(moves)
        before, own = found.filtered[:-1], scaled.each_move(At)
        of_one = jax.vmap(lambda alpha: scaled.times(At, alpha))
        later = of_one(before) if own is None else jax.vmap(scaled.times)(own[:-1], before)
        possible = (jnp.concatenate([predicted[None], later]) > 0) & (scaled.cut(log_b(), steps.whole[2]) > -jnp.inf)
        joint = found.filtered * found.c[:, None]
        return (steps.inside[:, None] & possible & (joint < safe)).any()

    return jax.lax.cond(step | (moves.min() >= safe), lambda: step, any_state)


def _filter_in_logs(pi: Array, A: Array, log_b: Array, lengths: Array, steps: scaled.Steps) -> tuple[Filtered, Array]:
    """The filter and log c (T, N) where scaled numbers underflow; each sequence is one segment."""
    alpha, log_c, _ = _forward_in_parts(pi, A, log_b, lengths)
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


class _Part(NamedTuple):
    """Numbers m exp(e) of any size, each with its own exponent.

    m is one where the number is positive and zero where it is zero; it carries the derivative, while e is a constant to
    autodiff. So derivatives of every order are those of the plain recursion, sums of positive terms. A number that is
    zero has a finite derivative relative to exp(e): for example the probability of a state that cannot be reached, but
    could be if an entry of pi or A were not zero.
    """

    m: Array  # (N, K)
    e: Array  # (N, K), finite

    @classmethod
    def of(cls, x: Array, e: Array | float = 0.0) -> "_Part":
        """The numbers x exp(e)."""
        size = jax.lax.stop_gradient(jnp.where(x == 0, 1, x))  # NaN stays NaN
        return cls(x / size, e + jnp.log(size))

    def relative_to(self, e: Array, limit: Array | float) -> Array:
        """The numbers divided by exp(e).

        A zero may have an exponent far above e; the factor of its derivative is capped at exp(limit).
        """
        return self.m * jnp.exp(jnp.minimum(self.e - e, limit))


@jax.custom_jvp
def _moved(alpha: _Part, A: Array, e: Array, limit: Array, value: Array) -> Array:
    """sum_i alpha_i A_ij / exp(e_j), (N, K), with its ``value`` computed elsewhere and its derivative computed here.

    A zero may have an exponent far above e; the factor of its derivative is capped at exp(limit).
    ``A`` and ``limit`` are (1, K, K) or (N, K, K).
    """
    return value


@_moved.defjvp
def _moved_along(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (m, before), A, e, limit, value = primals
    ratio = jax.lax.stop_gradient(jnp.exp(jnp.minimum(before[:, :, None] - e[:, None], limit)))
    product = lambda m, A: ((m[:, :, None] * ratio) * A).sum(axis=1)
    here, along = jax.jvp(product, (m, A), (tangents[0].m, tangents[1]))
    # The known value, with the derivatives of the product only.
    return jax.lax.stop_gradient(value) + (here - jax.lax.stop_gradient(here)), along


def _forward_in_parts(pi: Array, A: Array, log_b: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """The forward algorithm for densities of any range and zeros anywhere in pi, A and b, with all derivatives.

    Returns alpha_t(j) / prod c, (N, T, K), log c, (N, T), and the alpha / prod c of the last step, (N, K). After the
    end of a sequence alpha keeps its last value and log c is zero.

    c_t has the value p(x_t | x_1 ... x_{t-1}), so that logarithms stay small and their sum is as accurate as a sum can
    be. It is a constant to autodiff: the whole derivative is in sum_j alpha_t(j) / prod c, which has the value one.
    """
    known = log_b != -jnp.inf
    log_b = jnp.where(known, log_b, 0)
    exponents = jax.lax.stop_gradient(log_b)
    b = jnp.where(known, jnp.exp(log_b - exponents), 0)  # one or zero, with the derivative of b / exp(exponent)
    A = _to_steps(A, log_b.shape[1] - 1) if A.ndim > 2 else A[None]
    log_A = jax.lax.stop_gradient(jnp.log(A))
    # Half the range of exponents: a derivative capped here can be summed and squared without overflow, so that its
    # product with zero is zero.
    far = math.log(float(jnp.finfo(A.dtype).max)) / 2
    limit = jnp.where(A > 0, jnp.maximum(-log_A, far), far)

    def normalize(joint: _Part) -> tuple[_Part, Array]:
        top = jnp.where(joint.m != 0, joint.e, -jnp.inf).max(axis=-1)
        top = jnp.where(top == -jnp.inf, 0, top)
        log_c = jax.lax.stop_gradient(top + jnp.log(joint.relative_to(top[:, None], far).sum(axis=-1)))
        # An impossible step keeps its zeros: 0 / 0 would be NaN.
        return _Part.of(joint.m, joint.e - jnp.where(log_c == -jnp.inf, 0, log_c)[:, None]), log_c

    def step(alpha: _Part, now: Any) -> tuple[_Part, tuple[Array, Array]]:
        b_t, e_t, inside_t, own = now
        A_t, log_A_t, limit_t = (A, log_A, limit) if own is None else own
        likely = jnp.where(alpha.m != 0, alpha.e, -jnp.inf)[:, :, None] + log_A_t
        top = likely.max(axis=1)
        # A state that cannot be reached may have any exponent. It gets the largest exponent of the states before it, so
        # that no derivative overflows, and at least 0, which is about the largest exponent of the reachable states.
        elsewhere = jnp.maximum(alpha.e.max(axis=1, keepdims=True), 0)
        e = jnp.where(top == -jnp.inf, elsewhere, top)
        value = jax.lax.stop_gradient(jnp.exp(likely - e[:, None]).sum(axis=1))
        # The barrier keeps XLA from computing the sum again wherever it is used.
        m = jax.lax.optimization_barrier(_moved(alpha, A_t, e, limit_t, value))
        after, log_c = normalize(_Part(m * b_t, e + e_t))
        after = jax.tree.map(lambda new, old: jnp.where(inside_t[:, None], new, old), after, alpha)
        return after, (after, jnp.where(inside_t, log_c, 0))

    inside = within(lengths, log_b.shape[1])
    first = _Part.of(_rows(pi))
    start, log_c = normalize(_Part(first.m * b[:, 0], first.e + exponents[:, 0]))
    own = (A, log_A, limit) if A.ndim > 3 else None
    later = (jnp.swapaxes(b[:, 1:], 0, 1), jnp.swapaxes(exponents[:, 1:], 0, 1), inside[:, 1:].T, own)
    end, (rest, log_cs) = jax.lax.scan(step, start, later)
    alpha = jax.tree.map(lambda first, rest: jnp.swapaxes(jnp.concatenate([first[None], rest]), 0, 1), start, rest)
    alpha, end = (part.relative_to(jnp.zeros_like(part.e), far) for part in (alpha, end))
    return alpha, jnp.concatenate([log_c[None], log_cs]).T, end


def log_likelihood(pi: Array, A: Array, log_b: Array, lengths: Array) -> Array:
    """log p(x) of each sequence, (N,), by a forward algorithm that does not use the filter or smoother of the E-step.

    It uses plain numbers where none can underflow, else numbers that each have their own exponent.
    """
    largest = jax.lax.stop_gradient(log_b.max(axis=2, keepdims=True))
    inside = within(lengths, log_b.shape[1])
    # The most likely state of a step has b = 1 below and is entered with probability min A at least: c >= min A.
    safe = float(jnp.finfo(log_b.dtype).tiny) ** 0.5
    start = jnp.where(largest[:, 0] > -jnp.inf, _rows(pi) * jnp.exp(log_b[:, 0] - largest[:, 0]), 0).sum(axis=1)
    possible = (jnp.abs(largest[:, :, 0]) < jnp.inf) | ~inside
    plain = jax.lax.stop_gradient((A.min() >= safe) & (start.min() >= safe) & possible.all())

    def in_plain_numbers() -> Array:
        b = jnp.where(inside[:, :, None], jnp.exp(log_b - largest), 1)
        return jnp.where(inside, jnp.log(_scaled_forward(pi, A, b)) + largest[:, :, 0], 0).sum(axis=1)

    def in_parts() -> Array:
        _, log_c, end = _forward_in_parts(pi, A, log_b, lengths)
        return log_c.sum(axis=1) + jnp.log(end.sum(axis=1))

    return jax.lax.cond(plain, in_plain_numbers, in_parts)


def _scaled_forward(pi: Array, A: Array, b: Array) -> Array:
    """c_t = p(x_t | x_1 ... x_{t-1}), (N, T), in plain numbers, for densities ``b (N, T, K)``."""

    def step(predicted: Array, now: tuple[Array, Array | None]) -> tuple[Array, Array]:
        b_t, A_t = now
        joint = predicted * b_t
        c = joint.sum(axis=1)
        if A_t is not None:
            return ((joint / c[:, None])[:, :, None] * A_t).sum(axis=1), c
        return jnp.matmul(joint / c[:, None], A, precision="highest"), c

    first = jnp.broadcast_to(pi, (b.shape[0], pi.shape[-1]))
    own = scaled.each_move(_to_steps(A, b.shape[1]))
    return jax.lax.scan(step, first, (jnp.swapaxes(b, 0, 1), own))[1].T


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


def log_joint(pi: Array, A: Array, log_b: Array, lengths: Array, path: Array) -> Array:
    """log p(x, z) of each sequence, (N,), for one path each, ``path (N, T)``; -inf for a path of -1."""
    n, t, k = log_b.shape
    inside, z = within(lengths, t), jnp.maximum(path, 0)
    of_x = jnp.where(inside, jnp.take_along_axis(log_b, z[:, :, None], axis=2)[:, :, 0], 0).sum(axis=1)
    first = jnp.take_along_axis(jnp.broadcast_to(log_probability(_rows(pi)), (n, k)), z[:, :1], axis=1)[:, 0]
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
    log_A = jnp.log(A[None] if A.ndim == 2 else _to_steps(A, t - 1))
    inside = within(lengths, t)

    def forward(best: Array, now: tuple[Array, Array, Array | None]) -> tuple[Array, Array]:
        log_b_t, inside_t, log_A_t = now
        scores = best[:, :, None] + (log_A if log_A_t is None else log_A_t)
        after = jnp.where(inside_t[:, None], scores.max(axis=1) + log_b_t, best)
        # After the end the state does not change, so that tracing back from there reaches the best last state.
        stay = jnp.arange(best.shape[1])[None, :]
        return after, jnp.where(inside_t[:, None], scores.argmax(axis=1), stay)

    first = jnp.log(_rows(pi)) + log_b[:, 0]
    own = log_A if A.ndim > 2 else None
    last, came_from = jax.lax.scan(forward, first, (jnp.swapaxes(log_b[:, 1:], 0, 1), inside[:, 1:].T, own))

    def backward(state: Array, origin: Array) -> tuple[Array, Array]:
        before = jnp.take_along_axis(origin, state[:, None], axis=1)[:, 0]
        return before, before

    end = last.argmax(axis=1)
    _, path = jax.lax.scan(backward, end, came_from, reverse=True)
    found = inside & jnp.isfinite(last.max(axis=1))[:, None]
    return jnp.where(found, jnp.concatenate([path, end[None]]).T, -1)
