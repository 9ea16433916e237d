r"""The recursions of a hidden Markov chain in scaled numbers, where they are fast.

Arrays are ``(T, K, N)``: a step of all N sequences is one slice, and the sequences lie where the vector units want
them; where there is but one, ``(T, K)``. Each step is scaled by the sum of the step before:

.. math:: \mathrm{joint}_t = b_t \, \mathrm{predicted}_t, \quad c_t = \textstyle\sum \mathrm{joint}_t, \quad
          \mathrm{predicted}_{t+1} = A' \mathrm{joint}_t / c_t,
          \qquad \beta_t = A \, \mathrm{ratio}_{t+1}, \quad \mathrm{ratio}_t = \beta_t \, b_t / c_t,

with ratio_t = p(z_t | x) / p(z_t | x_1 ... x_{t-1}). Behind its end a sequence has b = 1, and b / c = 0.

One long sequence is a chain of short steps, which keeps no device busy. ``entries`` lets blocks of it run side by side:
what a block does to the state before it is a K x K matrix, found by running the filter from each of the K states
(Särkkä & García-Fernández 2021). That is K times the arithmetic; ``blocks`` says where it pays.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_FEW_STATES = 12  # see sums_of_rows


class Steps(NamedTuple):
    """The densities of each step as the recursions want them; each block a sequence of its own."""

    b: Array  # (T, K, N), divided by the largest of the step; one behind the end
    largest: Array  # (T, N), log of what b is divided by
    inside: Array  # (T, N), whether the step lies within the sequence
    ends: Array  # (T, N), one at the last step of the sequence
    goes_on: Array  # (N,), whether the sequence goes on behind this block
    whole: tuple[int, int, int]  # what it was made of: N, T and blocks

    @classmethod
    def of(cls, log_b: Array, lengths: Array, blocks: int) -> "Steps":
        n, t = log_b.shape[:2]
        width = -(-t // blocks)
        log_b = cut(log_b, blocks)
        # Any scale does, so it has no derivative; that of a maximum is 0 / 0 where XLA computes the maximised number
        # twice, rounded differently, and finds none that equals the maximum.
        logs = jax.lax.stop_gradient(log_b)
        # Slices of few states side by side would each find the densities anew.
        largest = logs.max(axis=1) if sums_of_rows(logs) else over_slices(jnp.maximum, logs)
        left = (lengths[:, None] - width * jnp.arange(blocks, dtype=lengths.dtype)[None, :]).reshape(-1)
        left = left if n * blocks > 1 else left[0]
        at = jnp.arange(width, dtype=lengths.dtype).reshape(-1, *(1,) * left.ndim)
        inside, ends = at < left[None], (at == left[None] - 1).astype(log_b.dtype)
        b = jnp.where(inside[:, None], jnp.exp(log_b - largest[:, None]), 1)
        return cls(b, largest, inside, ends, left > width, (n, t, blocks))

    def join(self, x: Array) -> Array:
        """(T, ..., N) of the recursions as (N, T, ...) of all else."""
        n, t, blocks = self.whole
        x = jnp.moveaxis(x, -1, 0) if n * blocks > 1 else x[None]
        return x.reshape(n, -1, *x.shape[2:])[:, :t]


def cut(x: Array, blocks: int) -> Array:
    """(N, T, ...) as (T / blocks, ..., N blocks); the last axis is left out where it is one."""
    n, t = x.shape[:2]
    width = -(-t // blocks)
    if width * blocks > t:
        x = jnp.pad(x, ((0, 0), (0, width * blocks - t), *((0, 0),) * (x.ndim - 2)))
    x = x.reshape(n * blocks, width, *x.shape[2:])
    return jnp.moveaxis(x, 0, -1) if n * blocks > 1 else x[0]


def over_states(x: Array) -> Array:
    """The sum over states, (T, N), of ``x (T, K, N)``: a product where states lie side by side, else sums of slices."""
    if x.ndim == 1:
        return x.sum()
    if x.ndim == 2:
        return jnp.matmul(x, jnp.ones(x.shape[1], x.dtype), precision="highest")
    return over_slices(jnp.add, x)


def over_slices(of: Any, x: Array) -> Array:
    """``of`` all states, (T, N), of ``x (T, K, N)``: of few of them slice by slice, with no reduction to wait for."""
    return functools.reduce(of, (x[:, k] for k in range(x.shape[1]))) if x.shape[1] <= 16 else of.reduce(x, axis=1)


class Filtered(NamedTuple):
    """What the scaled filter leaves; or, written out by other means, what the smoother needs."""

    filtered: Array  # (T, K, N), p(z_t | x_1 ... x_t)
    b_c: Array  # (T, K, N), b / c; zero where a state is impossible, and behind the end
    c: Array  # (T, N)

    @classmethod
    def of(cls, joint: Array, b: Array, inside: Array) -> "Filtered":
        """From joint (T, K, N), or (K,) of one step."""
        c = over_states(joint)
        inverse = jnp.expand_dims(1 / c, joint.ndim > 1)
        possible = jnp.expand_dims(inside, joint.ndim > 1) & (joint > 0)
        return cls(joint * inverse, jnp.where(possible, b * inverse, 0), c)


def blocks(parallel: bool | None, n: int, t: int, k: int) -> int:
    """How many blocks each of n sequences is cut into; one is the sequential form.

    From timings: on a CPU the loop over the steps of one sequence takes no longer than K times the arithmetic in few of
    them (4 to 16 states; in float32 it takes up to a fifth longer with 4, 5 and 12). Elsewhere (not measured) a step
    costs a launch, however little it does.
    """
    wide = 64
    if parallel is None:
        parallel = jax.default_backend() != "cpu" and t >= 64 * wide and n * k <= 256
    if not parallel:
        return 1
    if jax.default_backend() != "cpu":
        wide = int(t**0.5)  # as many steps within a block as there are blocks
    return max(min(-(-wide // n), t // 2), 1)


def sums_of_rows(x: Array) -> bool:
    """Whether sums over states of ``x (T, K, N)`` are sums of a few long rows, so that no product is worth its call."""
    return x.ndim > 2 and x.shape[1] <= _FEW_STATES


def times(A: Array, v: Array) -> Array:
    """A v of each sequence, ``v (K, ...)``: a sum of K products of long vectors, or a product of matrices."""
    k = A.shape[1]
    if v.size == k or not sums_of_rows(v[None]):
        return jnp.tensordot(A, v, axes=1)
    sides = (1,) * (v.ndim - 1)
    total = A[:, 0].reshape(-1, *sides) * v[0][None]
    for i in range(1, k):
        total = total + A[:, i].reshape(-1, *sides) * v[i][None]
    return total


def in_the_loop(x: Array) -> bool:
    """Whether all that is done with a step of ``x (T, K, N)`` is best done within the loop over steps.

    Of one sequence of few states XLA makes the loop one kernel, whose next step waits for the one before: what does not
    belong to the recursion is free. Else each operation of a step is a call of its own.
    """
    return x.ndim == 2 and x.shape[1] <= 4


def forward(predicted: Array, A: Array, steps: Steps) -> Filtered:
    """The filter, from what is predicted for the first step, ``(K, N)``."""
    At, b = A.T, steps.b

    def step(predicted: Array, b_t: Array) -> tuple[Array, Array]:
        joint = predicted * b_t
        return times(At, joint) * (1 / joint.sum(axis=0))[None], joint

    def step_and_all(predicted: Array, now: tuple[Array, Array]) -> tuple[Array, Filtered]:
        after, joint = step(predicted, now[0])
        return after, Filtered.of(joint, *now)

    def step_of_joint(joint: Array, b_next: Array) -> tuple[Array, Array]:
        return times(At, joint) * (b_next * (1 / joint.sum(axis=0))[None]), joint

    if in_the_loop(b):
        return jax.lax.scan(step_and_all, predicted, (b, steps.inside))[1]
    if b.ndim > 2 and not sums_of_rows(b):
        return Filtered.of(jax.lax.scan(step, predicted, b)[1], b, steps.inside)
    # What is multiplied is carried, and so stored: else each of its K products finds it anew.
    b_next = jnp.concatenate([b[1:], b[:1]])  # of the last step's nothing comes
    return Filtered.of(jax.lax.scan(step_of_joint, predicted * b[0], b_next)[1], b, steps.inside)


def log_scale(c: Array, steps: Steps) -> Array:
    """log p(x_t | x_1 ... x_{t-1}), (T, N); zero behind the end."""
    return jnp.where(steps.inside, jnp.log(jnp.where(steps.inside, c, 1)) + steps.largest, 0)


def backward(after: Array, A: Array, found: Filtered, steps: Steps) -> tuple[Array, Array]:
    """p(z_t | x) = filtered_t beta_t, and ratio_{t+1}, both (T, K, N), from that of the step after the last."""
    moving, still = (found.b_c, steps.ends), (found.filtered, steps.inside)

    def step(ratio: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        b_c_t, ends_t = now
        beta = times(A, ratio) + ends_t[None]
        return b_c_t * beta, beta

    def step_and_all(ratio: Array, now: tuple[tuple[Array, Array], tuple[Array, Array]]) -> Any:
        before, beta = step(ratio, now[0])
        return before, smoothed(beta, ratio, *now[1])

    if in_the_loop(found.b_c):
        return jax.lax.scan(step_and_all, after, (moving, still), reverse=True)[1]
    # Little is done and stored in the loop: XLA runs the parts of a step in a row where they are eight at most, more of
    # them by threads that wait for each other.
    beta = jax.lax.scan(step, after, moving, reverse=True)[1]
    return smoothed(beta, jnp.concatenate([found.b_c[1:] * beta[1:], after[None]]), *still)


def smoothed(beta: Array, ratio: Array, filtered: Array, inside: Array) -> tuple[Array, Array]:
    """filtered_t beta_t and ratio_{t+1}, (T, K, N) or (K,) of one step, both without what rounding left.

    Each step sums to one but for rounding. Where it does not, a state has underflowed that was needed after all: what
    is smoothed is not known, and says so.
    """
    # A state that is impossible now may have any beta.
    gamma = jnp.where(filtered > 0, filtered * beta, 0)
    total = over_states(gamma)
    known = jnp.abs(total - 1) < 0.5
    scale = jnp.where(inside, jnp.where(known, 1 / jnp.where(known, total, 1), jnp.nan), 0)
    scale = jnp.expand_dims(scale, gamma.ndim > 1)
    return gamma * scale, ratio * scale


def entries(pi: Array, A: Array, b: Array) -> tuple[Array, Array]:
    """What is predicted for the first step of each block, and ratio of the first step of the block after it, (K, N, B),
    from ``b (T, K, N, B)``, blocks in order on the last axis."""
    k, n, count = b.shape[1:]
    At = A.T

    def step(carry: tuple[Array, Array], b_t: Array) -> tuple[tuple[Array, Array], None]:
        joint, log_scale = carry
        c = joint.sum(axis=0)
        c = jnp.where(c > 0, c, 1)
        return (times(At, joint) * (b_t[:, None] / c[None]), log_scale + jnp.log(c)), None

    # From state i at the block's first step (axis 1) to state j at its last (axis 0): a filter of its own.
    from_each = jnp.eye(k, dtype=b.dtype)[:, :, None, None] * b[0][:, None]
    (joint, log_scale), _ = jax.lax.scan(step, (from_each, jnp.zeros((k, n, count), b.dtype)), b[1:])
    joint, log_scale = jnp.moveaxis(joint, -1, 0), jnp.moveaxis(log_scale, -1, 0)

    def enter(predicted: Array, now: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        joint, log_scale = now
        # Any common scale does. The largest of those of possible states keeps all that matters.
        log_scale = jnp.where(predicted > 0, log_scale, -jnp.inf)
        move = joint * jnp.exp(log_scale - jax.lax.stop_gradient(log_scale.max(axis=0))[None])[None]
        alpha = (move * predicted[None]).sum(axis=1)
        return times(At, alpha / alpha.sum(axis=0)[None]), (predicted, move)

    start = jnp.broadcast_to(pi[:, None], (k, n))
    _, (predicted, move) = jax.lax.scan(enter, start, (joint, log_scale))

    def leave(ratio: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        predicted, move = now
        before = (move * times(A, ratio)[:, None]).sum(axis=0)
        return before / (predicted * before).sum(axis=0)[None], ratio

    _, ratio = jax.lax.scan(leave, jnp.ones((k, n), b.dtype), (predicted, move), reverse=True)
    return jnp.moveaxis(predicted, 0, -1), jnp.moveaxis(ratio, 0, -1)
