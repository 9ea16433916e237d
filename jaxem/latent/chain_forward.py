"""The forward algorithm of a hidden Markov chain for densities of any range, with all derivatives."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.arrays import anywhere
from jaxem.latent import scaled
from jaxem.latent.chain_steps import rows, to_steps, within


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


def forward_in_parts(pi: Array, A: Array, log_b: Array, lengths: Array) -> tuple[Array, Array, Array]:
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
    A = to_steps(A, log_b.shape[1] - 1) if A.ndim > 2 else A[None]
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
    first = _Part.of(rows(pi))
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
    start = jnp.where(largest[:, 0] > -jnp.inf, rows(pi) * jnp.exp(log_b[:, 0] - largest[:, 0]), 0).sum(axis=1)
    impossible = anywhere(inside & ~(jnp.abs(largest[:, :, 0]) < jnp.inf))
    plain = jax.lax.stop_gradient((A.min() >= safe) & (start.min() >= safe) & ~impossible)

    def in_plain_numbers() -> Array:
        b = jnp.where(inside[:, :, None], jnp.exp(log_b - largest), 1)
        return jnp.where(inside, jnp.log(_scaled_forward(pi, A, b)) + largest[:, :, 0], 0).sum(axis=1)

    def in_parts() -> Array:
        _, log_c, end = forward_in_parts(pi, A, log_b, lengths)
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
    own = scaled.each_move(to_steps(A, b.shape[1]))
    return jax.lax.scan(step, first, (jnp.swapaxes(b, 0, 1), own))[1].T
