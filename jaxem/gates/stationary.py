r"""The stationary distribution of a chain, as its initial distribution.

pi solves pi = pi A, so that the transition matrix has two parts in Q,

.. math:: Q(A) = \sum_i n_i \log \pi_i(A) + \sum_{ij} (\Xi_{ij} + a_{ij} - 1) \log A_{ij},

and no closed form maximises it. Both n and Xi are finite sums: the M-step climbs Q by Newton's method to rounding.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices
from jaxem.core.data import Data
from jaxem.core.records import register
from jaxem.core.spaces import Simplex
from jaxem.latent.classes import log_probability, log_times

_MOST = 100  # steps tried; convergence is quadratic, and takes about five


def distribution(A: Array) -> Array:
    r"""The stationary distribution pi (K,) of A (K, K), each entry to a relative error of rounding.

    States are taken out one after the other; what is left is a chain watched while it is in the states that are left.
    Only positive numbers are added, so that nothing cancels however rarely a state is left. NaN where pi is not unique
    because a state cannot reach the states before it.

    Source: Grassmann, Taksar & Heyman (1985).
    """
    k = A.shape[0]
    columns = []
    for n in range(k - 1, 0, -1):
        entered = A[:n, n] / A[n, :n].sum()
        columns.append(entered)
        A = A[:n, :n] + entered[:, None] * A[n, :n][None, :]
    pi = jnp.ones((1,), A.dtype)
    for entered in reversed(columns):
        pi = jnp.concatenate([pi, (pi @ entered)[None]])
    return pi / pi.sum()


@register
@dataclasses.dataclass(frozen=True)
class Stationary:
    r"""The initial distribution is the stationary one of the transition matrix, pi = pi A.

    It has no parameters of its own: those of the model hold an empty tuple in its place. The transition matrix must be
    the same for all moves, and each state must be reached from all others.

    Source: Grassmann, Taksar & Heyman (1985) for the distribution.
    """

    homogeneous: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ()

    def declare(self) -> tuple[()]:
        return ()

    def prepare(self, params: Array, x: Data | None) -> Array:
        return params

    def probability(self, c: Array) -> Array:
        """pi, (K,)."""
        return c

    def log_prob(self, c: Array, x: Data | None) -> Array:
        """log pi, (1, K)."""
        return log_probability(c)[None, :]

    def statistics(self, c: Any, r: Array, x: Data | None) -> Array:
        return r.sum(axis=0)

    def expected(self, c: Any, params: Array, sums: Array) -> Array:
        return log_times(sums, params).sum()

    def start(self, sizes: Array, x: Data | None) -> tuple[()]:
        return ()

    def maximize_moves(self, kind: Any, c: Array | None, initial: Array, moves: Array) -> Array:
        """The transition matrix that maximises Q, from the expected starts (K,) and moves (K, K)."""
        k = moves.shape[0]
        extra, allowed = kind.extra(k, moves.dtype), kind.mask(k)
        n = moves if extra is None else moves + extra
        n = n if allowed is None else jnp.where(allowed, n, 0)

        def objective(A: Array) -> Array:
            return log_times(initial, distribution(A)).sum() + log_times(n, A).sum()

        free = kind.maximize(c, moves)
        if c is not None:  # a chain that falls apart without its starts begins where it was
            free = jnp.where(objective(free) > objective(c), free, c)
        size = moves.sum() + initial.sum()
        return _climbed(objective, jax.lax.stop_gradient(free), size) + 0 * size  # NaN in the sums stays NaN


class _Climb(NamedTuple):
    u: Array  # coordinates
    value: Array
    ridge: Array  # relative to the number of moves
    short: Array  # whether the last step was
    tried: Array


def _climbed(objective: Any, A: Array, size: Array) -> Array:
    """The maximiser of ``objective`` near A, by Newton steps in the coordinates of the rows; zeros stay zeros.

    A step that does not climb is tried again with a larger ridge. At last two plain steps are differentiated: they have
    the derivatives of the maximiser.
    """
    space, shape = Simplex(), A.shape
    u = jax.lax.stop_gradient(space.inverse(A))
    if u.size == 0:
        return A
    value_at = lambda u: objective(space.forward(u.reshape(shape[0], -1), A))
    eye, free = jnp.eye(u.size, dtype=u.dtype), space.free(A).reshape(-1)

    def step(u: Array, ridge: Array | float) -> Array:
        # A coordinate without effect has neither slope nor curvature.
        information = -jax.hessian(value_at)(u) + jnp.where(free, ridge * size, 1)[:, None] * eye
        return matrices.solve(matrices.cholesky(information), jax.grad(value_at)(u)[:, None])[:, 0]

    settled = jnp.finfo(u.dtype).eps ** 0.5

    def body(at: _Climb) -> _Climb:
        d = step(at.u, at.ridge)
        value = value_at(at.u + d)
        # Near the maximum the values are equal to rounding, while the steps still shorten.
        slack = 8 * jnp.finfo(u.dtype).eps * jnp.abs(at.value)
        climbs = jnp.isfinite(d).all() & (value >= at.value - jnp.where(jnp.abs(d).max() < settled, slack, 0))
        return _Climb(
            jnp.where(climbs, at.u + d, at.u),
            jnp.where(climbs, value, at.value),
            jnp.where(climbs, jnp.where(at.ridge > 1e-6, at.ridge / 10, 0), jnp.maximum(10 * at.ridge, 1e-4)),
            climbs & (jnp.abs(d).max() < settled) & (at.ridge == 0),
            at.tried + 1,
        )

    begin = _Climb(u.reshape(-1), value_at(u.reshape(-1)), jnp.zeros((), u.dtype), jnp.bool_(False), jnp.int32(0))
    begin = jax.lax.stop_gradient(begin)
    end = jax.lax.while_loop(lambda at: ~at.short & (at.tried < _MOST), body, begin)
    u = jax.lax.stop_gradient(end.u)
    polished = jax.lax.fori_loop(0, 2, lambda _, u: u + step(u, 0.0), u)
    # The last steps are taken only where the climb arrived, which their length shows; NaN fails.
    u = jnp.where(jnp.abs(polished - u).max() < 100 * settled, polished, u)
    return space.forward(u.reshape(shape[0], -1), A)
