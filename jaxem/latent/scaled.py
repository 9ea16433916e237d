r"""The recursions of a hidden Markov chain in scaled numbers, arranged for speed.

Arrays are ``(T, K, N)``, so that one step of all N sequences is one contiguous slice with sequences along the vector
units. For a single sequence they are ``(T, K)``. Each step is scaled by the sum of the step before:

.. math:: \mathrm{joint}_t = b_t \, \mathrm{predicted}_t, \quad c_t = \textstyle\sum \mathrm{joint}_t, \quad
          \mathrm{predicted}_{t+1} = A' \mathrm{joint}_t / c_t,
          \qquad \beta_t = A \, \mathrm{ratio}_{t+1}, \quad \mathrm{ratio}_t = \beta_t \, b_t / c_t,

with ratio_t = p(z_t | x) / p(z_t | x_1 ... x_{t-1}). After the end of a sequence, b = 1 and b / c = 0.

One long sequence is a chain of short steps, which leaves a device mostly idle. ``entries`` lets segments of it run
side by side: a segment acts on the state before it as a K x K matrix, found by running the filter from each of the K
states, and these matrices are joined in log2 of their number of rounds (Särkkä & García-Fernández 2021). That is K
times the arithmetic; the function ``segments`` decides where it pays.

A transition matrix A is (K, K), or one for each move: (T, K, K, N), where the last one of each sequence has no effect.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.scans import running
from jaxem.core.sizes import is_symbol

_FEW_STATES = 12  # the limit in sums_of_rows
_ON_A_CPU = 64  # segments side by side
# Elsewhere: steps of a segment (and segments that are worth it), and numbers in the matrices of all segments.
_SHORTEST, _MOST_NUMBERS = 8, 2**20


class Steps(NamedTuple):
    """The densities of each step in the layout of the recursions, with each segment as a sequence of its own."""

    b: Array  # (T, K, N), densities divided by the largest of their step; one after the end
    largest: Array  # (T, N), the log of the density that b is divided by
    inside: Array  # (T, N), whether the step lies within the sequence
    ends: Array  # (T, N), one at the last step of the sequence
    goes_on: Array  # (N,), whether the sequence continues after this segment
    whole: tuple[int, int, int]  # the original sizes: N, T and segments per sequence

    @classmethod
    def of(cls, log_b: Array, lengths: Array, segments: int) -> "Steps":
        n, t = log_b.shape[:2]
        width = -(-t // segments)
        log_b = cut(log_b, segments)
        # The results do not depend on the scale, so it has no derivative. The derivative of a maximum would be 0 / 0
        # where XLA computes the maximised number twice, rounded differently, and finds none equal to the maximum.
        logs = jax.lax.stop_gradient(log_b)
        # For few states, a maximum of slices would make XLA compute the densities again for each slice.
        largest = logs.max(axis=1) if sums_of_rows(logs) else over_slices(jnp.maximum, logs)
        left = (lengths[:, None] - width * jnp.arange(segments, dtype=lengths.dtype)[None, :]).reshape(-1)
        left = left if _many(n, segments) else left[0]
        at = jnp.arange(width, dtype=lengths.dtype).reshape(-1, *(1,) * left.ndim)
        inside, ends = at < left[None], (at == left[None] - 1).astype(log_b.dtype)
        b = jnp.where(inside[:, None], jnp.exp(log_b - largest[:, None]), 1)
        return cls(b, largest, inside, ends, left > width, (n, t, segments))

    def moves(self, A: Array) -> Array:
        """A as the recursions take it: (K, K) as it is, ``A (N, T - 1, K, K)`` as (T, K, K, N)."""
        if A.ndim == 2:
            return A
        _, t, segments = self.whole
        more = -(-t // segments) * segments - A.shape[1]  # rows that sum to one keep c = 1 after the end
        return cut(jnp.pad(A, ((0, 0), (0, more), (0, 0), (0, 0)), constant_values=1 / A.shape[-1]), segments)

    def join(self, x: Array) -> Array:
        """An array (T, ..., N) of the recursions as (N, T, ...)."""
        n, t, segments = self.whole
        x = jnp.moveaxis(x, -1, 0) if _many(n, segments) else x[None]
        return x.reshape(n, -1, *x.shape[2:])[:, :t]


def cut(x: Array, segments: int) -> Array:
    """An array (N, T, ...) as (T / segments, ..., N segments), padded with zeros; a last axis of length 1 goes."""
    n, t = x.shape[:2]
    width = -(-t // segments)
    if width * segments > t:
        x = jnp.pad(x, ((0, 0), (0, width * segments - t), *((0, 0),) * (x.ndim - 2)))
    x = x.reshape(n * segments, width, *x.shape[2:])
    return jnp.moveaxis(x, 0, -1) if _many(n, segments) else x[0]


def _many(n: int, segments: int) -> bool:
    """Whether there is an axis of sequences: for more than one, or a number that is not known."""
    return is_symbol(n) or n * segments > 1


def over_states(x: Array) -> Array:
    """The sum over states, (T, N), of ``x (T, K, N)``; for ``x (T, K)``, where states are contiguous, by a product."""
    if x.ndim == 1:
        return x.sum()
    if x.ndim == 2:
        return jnp.matmul(x, jnp.ones(x.shape[1], x.dtype), precision="highest")
    return over_slices(jnp.add, x)


def over_slices(of: Any, x: Array) -> Array:
    """The reduction of ``x (T, K, N)`` by ``of`` over states, (T, N); up to 16 states slice by slice."""
    return functools.reduce(of, (x[:, k] for k in range(x.shape[1]))) if x.shape[1] <= 16 else of.reduce(x, axis=1)


class Filtered(NamedTuple):
    """The results of the filter that the smoother needs."""

    filtered: Array  # (T, K, N), p(z_t | x_1 ... x_t)
    b_c: Array  # (T, K, N), b / c; zero where a state is impossible, and after the end
    c: Array  # (T, N)

    @classmethod
    def of(cls, joint: Array, b: Array, inside: Array) -> "Filtered":
        """The results from ``joint (T, K, N)``, or from (K,) for one step."""
        c = over_states(joint)
        inverse = jnp.expand_dims(1 / c, joint.ndim > 1)
        possible = jnp.expand_dims(inside, joint.ndim > 1) & (joint > 0)
        return cls(joint * inverse, jnp.where(possible, b * inverse, 0), c)


def segments(parallel: bool | None, n: int, t: int, k: int) -> int:
    """The number of segments that each of n sequences is cut into; 1 means the sequential recursion.

    By timings on a CPU, the loop over the steps of one sequence takes no longer than K times the arithmetic in fewer,
    longer steps (4 to 16 states; in float32 it takes up to a fifth longer with 4, 5 and 12). On other devices each step
    costs several kernel launches, however little it computes (an H200: 10 to 20 microseconds a step), so that segments
    are as short as memory allows.
    """
    if is_symbol(n) or parallel is False:
        return 1
    if jax.default_backend() == "cpu":
        return max(min(-(-_ON_A_CPU // n), t // 2), 1) if parallel else 1
    many = min(t // _SHORTEST, _MOST_NUMBERS // (n * k * k))
    return max(many, 1) if parallel or many >= _SHORTEST else 1


def sums_of_rows(x: Array) -> bool:
    """Whether ``x (T, K, N)`` has so few states that sums over them are faster as sums of rows than as products."""
    return x.ndim > 2 and x.shape[1] <= _FEW_STATES


def times(A: Array, v: Array) -> Array:
    """A v for each sequence, from ``v (K, ...)``: a sum over K long rows where there are few states, else a product.

    ``A (K, K)`` is common to all, ``A (K, K, ...)`` has a matrix for each.
    """
    if A.ndim > 2:
        return (A * v[None]).sum(axis=1)
    k = A.shape[1]
    if v.size == k or not sums_of_rows(v[None]):
        return jnp.tensordot(A, v, axes=1)
    sides = (1,) * (v.ndim - 1)
    total = A[:, 0].reshape(-1, *sides) * v[0][None]
    for i in range(1, k):
        total = total + A[:, i].reshape(-1, *sides) * v[i][None]
    return total


def transposed(A: Array) -> Array:
    """Each matrix of A (K, K) or (T, K, K, ...) transposed."""
    return A.T if A.ndim == 2 else jnp.swapaxes(A, 1, 2)


def each_move(A: Array) -> Array | None:
    """The matrices (T, K, K, ...) that a loop over steps reads; ``None`` where all moves share one."""
    return None if A.ndim == 2 else A


def in_the_loop(x: Array) -> bool:
    """Whether all computations on a step of ``x (T, K, N)`` are best done inside the loop over steps.

    For one sequence of few states XLA compiles the loop to one kernel in which each step waits for the one before, so
    that computations outside the recursion cost nothing. Otherwise each operation of a step is a separate call.
    """
    return x.ndim == 2 and x.shape[1] <= 4


def forward(predicted: Array, A: Array, steps: Steps) -> Filtered:
    """The filter, from the predicted probabilities of the first step, ``(K, N)``."""
    At, b = transposed(A), steps.b
    of_moves = each_move(At)

    def step(predicted: Array, now: tuple[Array, Array | None]) -> tuple[Array, Array]:
        b_t, At_t = now
        joint = predicted * b_t
        return times(At if At_t is None else At_t, joint) * (1 / joint.sum(axis=0))[None], joint

    def step_and_all(predicted: Array, now: tuple[Array, Array, Array | None]) -> tuple[Array, Filtered]:
        b_t, inside_t, At_t = now
        after, joint = step(predicted, (b_t, At_t))
        return after, Filtered.of(joint, b_t, inside_t)

    def step_of_joint(joint: Array, now: tuple[Array, Array | None]) -> tuple[Array, Array]:
        b_next, At_t = now
        return times(At if At_t is None else At_t, joint) * (b_next * (1 / joint.sum(axis=0))[None]), joint

    if in_the_loop(b):
        return jax.lax.scan(step_and_all, predicted, (b, steps.inside, of_moves))[1]
    if b.ndim > 2 and not sums_of_rows(b):
        return Filtered.of(jax.lax.scan(step, predicted, (b, of_moves))[1], b, steps.inside)
    # The joint is carried, and so stored: otherwise XLA would compute it again for each of its K products.
    b_next = jnp.concatenate([b[1:], b[:1]])  # the entry of the last step is not used
    return Filtered.of(jax.lax.scan(step_of_joint, predicted * b[0], (b_next, of_moves))[1], b, steps.inside)


def log_scale(c: Array, steps: Steps) -> Array:
    """log p(x_t | x_1 ... x_{t-1}), (T, N); zero after the end."""
    return jnp.where(steps.inside, jnp.log(jnp.where(steps.inside, c, 1)) + steps.largest, 0)


def backward(after: Array, A: Array, found: Filtered, steps: Steps) -> tuple[Array, Array]:
    """p(z_t | x) = filtered_t beta_t, and ratio_{t+1}, both (T, K, N).

    ``after (K, N)`` is the ratio of the step after the last.
    """
    moving, still = (found.b_c, steps.ends, each_move(A)), (found.filtered, steps.inside)

    def step(ratio: Array, now: tuple[Array, Array, Array | None]) -> tuple[Array, Array]:
        b_c_t, ends_t, A_t = now
        beta = times(A if A_t is None else A_t, ratio) + ends_t[None]
        return b_c_t * beta, beta

    def step_and_all(ratio: Array, now: Any) -> Any:
        before, beta = step(ratio, now[0])
        return before, smoothed(beta, ratio, *now[1])

    if in_the_loop(found.b_c):
        return jax.lax.scan(step_and_all, after, (moving, still), reverse=True)[1]
    # The loop computes and stores little. XLA runs up to eight operations of a step one after another, but more than
    # that on threads that wait for each other.
    beta = jax.lax.scan(step, after, moving, reverse=True)[1]
    return smoothed(beta, jnp.concatenate([found.b_c[1:] * beta[1:], after[None]]), *still)


def smoothed(beta: Array, ratio: Array, filtered: Array, inside: Array) -> tuple[Array, Array]:
    """filtered_t beta_t and ratio_{t+1}, (T, K, N) or (K,) for one step, both divided by the sum of filtered_t beta_t.

    That sum is one but for rounding error. Where it is not, a state that was needed has underflowed, and the result is
    NaN.
    """
    # beta is arbitrary where a state is impossible.
    gamma = jnp.where(filtered > 0, filtered * beta, 0)
    total = over_states(gamma)
    known = jnp.abs(total - 1) < 0.5
    scale = jnp.where(inside, jnp.where(known, 1 / jnp.where(known, total, 1), jnp.nan), 0)
    scale = jnp.expand_dims(scale, gamma.ndim > 1)
    return gamma * scale, ratio * scale


class _Stretch(NamedTuple):
    """Several steps at once, as the filter runs over them from each state i at their first step.

    exp(log_scale_i) move_ij is in proportion to p(x of these steps, next state = j | first state = i). How a number is
    split between the two is arbitrary, so that scales have no derivative.
    """

    log_scale: Array  # (B, K, N), 0 in the largest row, so that long stretches lose no digits; -inf in a row of zeros
    move: Array  # (B, K, K, N), each row of which sums to about one, or is zero


def _scaled(log_scale: Array, move: Array) -> _Stretch:
    """A stretch with rows that sum to one."""
    total = jax.lax.stop_gradient(move.sum(axis=2))
    scale = jnp.where(total > 0, total, 1)
    log_scale = jnp.where(total > 0, log_scale + jnp.log(scale), -jnp.inf)
    return _Stretch(log_scale - _finite(log_scale.max(axis=1))[:, None], move / scale[:, :, None])


def _follow(earlier: _Stretch, later: _Stretch) -> _Stretch:
    """One stretch after the other: row i is relative to the most likely of the states that i can lead to."""
    ahead = jnp.where(earlier.move > 0, later.log_scale[:, None], -jnp.inf)
    most = _finite(ahead.max(axis=2))
    weights = earlier.move * jnp.exp(ahead - most[:, :, None])
    move = (weights[:, :, :, None] * later.move[:, None]).sum(axis=2)
    return _scaled(earlier.log_scale + most, move)


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _relative(log_scale: Array, possible: Array) -> Array:
    """The scales of the rows relative to the largest one of a possible state, which avoids underflow that matters."""
    log_scale = jnp.where(possible, log_scale, -jnp.inf)
    return jnp.exp(log_scale - _finite(log_scale.max(axis=1))[:, None])


def entries(pi: Array, A: Array, b: Array) -> tuple[Array, Array]:
    """Predicted probabilities of the first step of each segment, and the ratio of the first step of the next one.

    Both are (K, N, B), from ``b (T, K, N, B)`` with the B segments of a sequence in order on the last axis.
    """
    k, n, count = b.shape[1:]
    own = None if A.ndim == 2 else jnp.swapaxes(A.reshape(-1, k, k, n, count), 1, 2)[:, :, :, None]

    def step(carry: tuple[Array, Array], now: tuple[Array, Array | None]) -> tuple[tuple[Array, Array], None]:
        (joint, log_scale), (b_t, At_t) = carry, now
        c = jax.lax.stop_gradient(joint.sum(axis=0))
        c = jnp.where(c > 0, c, 1)
        return (times(A.T if At_t is None else At_t, joint) * (b_t[:, None] / c[None]), log_scale + jnp.log(c)), None

    # One filter for each state i at the first step of the segment (axis 1); state j at its last step is axis 0.
    from_each = jnp.eye(k, dtype=b.dtype)[:, :, None, None] * b[0][:, None]
    none = jnp.zeros((k, n, count), b.dtype)
    (joint, log_scale), _ = jax.lax.scan(step, (from_each, none), (b[1:], None if own is None else own[:-1]))
    to_next = functools.partial(times, A.T if own is None else own[-1])
    in_order = lambda x: jnp.transpose(x, (3, 1, 0, 2))  # segment, first state, last or next state, sequence
    log_scale = jnp.moveaxis(log_scale, -1, 0)
    segments = _scaled(log_scale, in_order(to_next(joint)))
    since = running(_follow, segments, axis=0)
    until = running(lambda later, earlier: _follow(earlier, later), segments, axis=0, reverse=True)

    def arrive(first: Array, log_scale: Array, move: Array) -> Array:
        """The probabilities after each stretch from those of its first state, (B, K, N)."""
        found = (first * _relative(log_scale, first > 0))[:, :, None] * move
        return found.sum(axis=1) / found.sum(axis=(1, 2))[:, None]

    start = jnp.broadcast_to(pi.T if pi.ndim == 2 else pi[:, None], (k, n))[None]
    first = jnp.concatenate([start, arrive(start, since.log_scale[:-1], since.move[:-1])])
    # The last move of each segment is made again: log p is to have its derivative with regard to every entry of A.
    last = jnp.moveaxis(arrive(first, log_scale, in_order(joint)), 0, -1)
    own_next = to_next if own is None else functools.partial(times, own[-1, :, :, 0])
    predicted = jnp.concatenate([start, jnp.moveaxis(own_next(last), -1, 0)[:-1]])
    seen = _relative(until.log_scale, predicted > 0) * until.move.sum(axis=2)
    ratio = seen / (predicted * seen).sum(axis=1)[:, None]
    after = jnp.concatenate([ratio[1:], jnp.ones_like(start)])
    return jnp.moveaxis(predicted, 0, -1), jnp.moveaxis(after, 0, -1)
