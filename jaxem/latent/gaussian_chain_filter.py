r"""The Kalman filter, from the start to the end, for the same chain as in ``gaussian_chain.py``.

The entries of z_t are seen one after the other, so that nothing is inverted: with w a row of W and v = z - w'm,

.. math:: F = w'Pw + 1, \quad K = P w / F, \quad m \leftarrow m + K v, \quad
          P \leftarrow (I - K w') P (I - K w')' + K K'

If nothing is known about the first state, the filter runs from x_1 = d and the coefficients of d are estimated by
regression of the innovations on their own dependence on it (de Jong 1991).

Source: Koopman & Durbin (2000); de Jong (1991).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices
from jaxem.latent.gaussian_chain import Dynamics
from jaxem.latent.gaussian_chain_roots import apply, times, turned

_LOG_2_PI = math.log(2 * math.pi)


class Filtered(NamedTuple):
    """The distributions of the states given the observations up to the same step, and the state that comes next."""

    means: Array  # (N, T, k)
    covariances: Array  # (N, T, k, k)
    log_density: Array  # (N,), of z


class _State(NamedTuple):
    m: Array  # (N, k)
    P: Array  # (N, k, k)
    M: Array  # (N, k, k), dm / dd
    information: Array  # (N, k, k), about d
    score: Array  # (N, k)


def run(d: Dynamics, W: Array, z: Array, b: Array | None) -> Filtered:
    """The filter; arguments are those of ``gaussian_chain.infer``."""
    if d.S is not None:
        return _from(d, W, z, b, d.m[None])
    start = jnp.zeros((z.shape[0], d.m.size), z.dtype)
    for _ in range(2):  # about a first state near the estimated one nothing cancels
        end = _states(d, W, z, b, start)[0]
        start = jax.lax.stop_gradient(start + _solve(end.information, end.score))
    return _from(d, W, z, b, start)


def _solve(information: Array, score: Array) -> Array:
    return matrices.solve(matrices.cholesky(information), score[..., None])[..., 0]


def _states(d: Dynamics, W: Array, z: Array, b: Array | None, start: Array) -> tuple[_State, tuple[_State, Array]]:
    """The last state of the filter; and its states after, and the log-densities of, each step."""
    n, t, p = z.shape
    k = d.m.size
    eye, vague = jnp.eye(k, dtype=z.dtype)[None], d.S is None
    Q = times(d.L, turned(d.L))[None]
    zero = jnp.zeros((n, k, k), z.dtype)
    P = zero if d.S is None else zero + times(d.S, turned(d.S))[None]
    state = _State(jnp.broadcast_to(start, (n, k)), P, zero + eye, zero, zero[:, 0])

    def see(state: _State, w: Array, z: Array) -> tuple[_State, Array]:
        m, P, M, information, score = state
        w = jnp.broadcast_to(w, m.shape)
        Pw = apply(P, w)
        F = 1 + (Pw * w).sum(axis=-1)
        v = z - (m * w).sum(axis=-1)
        K = Pw / F[:, None]
        kept = eye - K[:, :, None] * w[:, None, :]
        P = times(times(kept, P), turned(kept)) + K[:, :, None] * K[:, None, :]
        if vague:
            a = apply(turned(M), w)
            information = information + a[:, :, None] * a[:, None, :] / F[:, None, None]
            score = score + a * (v / F)[:, None]
            M = M - K[:, :, None] * a[:, None, :]
        return _State(m + K * v[:, None], P, M, information, score), -0.5 * (jnp.log(F) + v**2 / F)

    def step(carry: _State, now: tuple[Array, ...]) -> tuple[_State, tuple[_State, Array]]:
        z_t, w_t, b_t = now
        state, total = carry, jnp.zeros((n,), z.dtype)
        for i in range(p):
            state, value = see(state, w_t[..., i, :], z_t[:, i])
            total = total + value
        M = times(d.A, state.M) if vague else state.M
        ahead = state._replace(m=apply(d.A, state.m) + b_t, P=times(times(d.A, state.P), d.A.T) + Q, M=M)
        return ahead, (state, total)

    drive = jnp.zeros((n, t, k), z.dtype) if b is None else jnp.concatenate([b[:, 1:], jnp.zeros_like(b[:, :1])], 1)
    rows = jnp.broadcast_to(W[None, None], (t, 1, *W.shape)) if W.ndim == 2 else jnp.moveaxis(W, 1, 0)
    over = (jnp.moveaxis(z, 1, 0), rows, jnp.moveaxis(drive, 1, 0))
    return jax.lax.scan(step, state, over)


def _from(d: Dynamics, W: Array, z: Array, b: Array | None, start: Array) -> Filtered:
    end, (states, each) = _states(d, W, z, b, start)
    states = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), states)
    log_density, means, covariances = each.sum(axis=0), states.m, states.P
    if d.S is None:
        lower = matrices.cholesky(end.information)
        half = matrices.solve_lower(lower, end.score[..., None])[..., 0]
        log_density = log_density + 0.5 * ((half**2).sum(axis=-1) - matrices.log_determinant(lower))
        log_density = log_density + 0.5 * d.m.size * _LOG_2_PI
        lower = matrices.cholesky(states.information)
        known = jnp.isfinite(lower).all(axis=(-2, -1))[..., None]
        safe = jnp.where(known[..., None], lower, jnp.eye(d.m.size, dtype=z.dtype)[None, None])
        means = jnp.where(
            known, means + apply(states.M, matrices.solve(safe, states.score[..., None])[..., 0]), jnp.nan
        )
        half = matrices.solve_lower(safe, turned(states.M))
        covariances = jnp.where(known[..., None], covariances + times(turned(half), half), jnp.inf)
    return Filtered(means, covariances, log_density)
