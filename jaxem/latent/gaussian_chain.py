r"""Inference over a Gaussian Markov chain, x_1 = m + S e_1 and x_{t+1} = A x_t + b_{t+1} + L e_{t+1} with e ~ N(0, I),
seen at each step as z_t = W_t x_t + v_t with v ~ N(0, I).

A pass from the end gathers, at each step, the information J_t (its root Y_t) and its vector eta_t about x_t in all that
is seen from there on. Given these the posterior is again a Markov chain from the start to the end,

.. math:: x_{t+1} \mid x_t, z \sim N(F_t x_t + b_{t+1} + G_t (\eta_{t+1} - J_{t+1} b_{t+1}),\; G_t), \qquad
          G = L (I + L' J L)^{-1} L', \quad F = (I - G J) A,

and a pass from the start finds its means and covariances. No covariance is inverted: noise in some directions only
(L with fewer columns than rows, or with zeros) and a first state of which nothing is known need no other formulas. All
covariances are sums of squares, so that they stay positive in any precision over any number of steps. The passes are
loops over the steps, or associative scans.

Source: Kailath, Sayed & Hassibi (2000), chapters 10 and 12; Mayne (1966); Fraser & Potter (1969).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.compilation import program
from jaxem.latent import gaussian_chain_roots as roots
from jaxem.latent.gaussian_chain_roots import apply, times, turned

_LOG_2_PI = math.log(2 * math.pi)


class Dynamics(NamedTuple):
    """The distribution of the states."""

    A: Array  # (k, k)
    L: Array  # (k, r), a root of the covariance of the noise, which enters the first r states only
    m: Array  # (k,), the mean of the first state
    S: Array | None  # (k, k), a root of its covariance; None: nothing is known about it, p(x_1) = 1


class States(NamedTuple):
    """The posterior of the states, a Gaussian Markov chain.

    Its covariances are common to all sequences (n = 1) unless these differ in their length or in what is missing
    (n = N).
    """

    means: Array  # (N, T, k)
    covariances: Array  # (n, T, k, k)
    moves: Array  # (n, T - 1, k, k), F
    noise: Array  # (n, T - 1, k, r), a root of G
    volumes: Array  # (n, T), log|covariance| / 2 of the first state, and of the noise of each move
    inside: Array  # (n, T), which steps lie within the sequence
    log_normalizer: Array  # (N,)
    at: Any = None  # the parameters at which the E-step was taken


class Moves(NamedTuple):
    """What does not depend on the data of the moves of the posterior."""

    F: Array  # (..., k, k)
    noise: Array  # (..., k, r), H, a root of G
    inward: Array  # (..., r, r), E = (I + L'JL)^-1/2, so that H = L E
    volume: Array  # (...), log|E|


class Information(NamedTuple):
    """The information in what is seen from each step on, and the moves that follow from it."""

    roots: Array  # (n, T, k, k), Y
    moves: Moves  # (n, T - 1, ...)


def information(d: Dynamics, W: Array, t: int, side_by_side: bool) -> Information:
    """The information at each step; ``W (p, k)`` where all steps of all sequences are seen alike, else (N, T, p, k)."""
    if not side_by_side:
        if W.ndim > 2:
            return Information(*roots.following(lambda Y, w: _step(d, Y, w), W))
        last = roots.compress(W)[None]
        return Information(*roots.settling(lambda Y: _step(d, Y, last), last, t))
    if W.ndim == 2:
        W = jnp.broadcast_to(W[None, None], (1, t, *W.shape))
    Y = roots.parallel(d.A, d.L, W)
    return Information(Y, _move(d, Y[:, 1:])[0])


@program  # traced once, for its shapes and for the loop
def _step(d: Dynamics, Y: Array, W: Array) -> tuple[Array, Moves]:
    r"""A root of the information one step before, and the move between. With U = (I + L'JL)^-1 L'J A,

    .. math:: J_t = W'W + A' (J_{t+1}^{-1} + L L')^{-1} A = W'W + F' J_{t+1} F + U'U
    """
    move, U = _move(d, Y)
    return roots.compress(roots.joined(times(Y, move.F), U, W)), move


@program  # the moves and the first state share it
def _within(noise: Array, root: Array) -> tuple[Array, Array, Array, Array]:
    """A root H of G = L (I + L'JL)^-1 L', the factor E with H = L E, log|E|, and E'L'Y', from L and Y."""
    seen, r = times(root, noise), noise.shape[-1]  # Y L
    upper = roots.one_more(seen)
    eye = jnp.broadcast_to(np.eye(r, dtype=noise.dtype), upper.shape)
    divided = roots.divide(upper, jnp.concatenate([eye, turned(seen)], axis=-1))
    inward, inner = turned(divided[..., :r]), divided[..., r:]
    volume = -0.5 * matrices.log_determinant(upper)
    return times(noise, inward), inward, volume, inner


def _move(d: Dynamics, Y: Array) -> tuple[Moves, Array]:
    """The move to a step at which the information has the root Y, F = A - H (E'L'Y') Y A; and U = E (E'L'Y') Y A."""
    H, E, volume, inner = _within(d.L, Y)
    drawn = times(inner, times(Y, d.A))
    return Moves(roots.lifted(d.A, Y.ndim) - times(H, drawn), H, E, volume), times(E, drawn)


def infer(
    d: Dynamics,
    known: Information,
    W: Array,
    z: Array,
    b: Array | None,
    volumes: Array,
    inside: Array,
    side_by_side: bool,
) -> States:
    """The posterior.

    Arguments:
        d: the dynamics.
        known: what ``information`` returns.
        W: (p, k) or (N, T, p, k).
        z: (N, T, p), zero where W is.
        b: (N, T, k), what drives the states; that of the first step is not used. None: nothing.
        volumes: (2,), log|noise| / 2 of the prior: of the first state and of each move.
        inside: (n, T), which steps lie within the sequence.
        side_by_side: whether passes are associative scans.

    Returns:
        The posterior, whose ``log_normalizer`` lacks the logarithm of the density of the observations at its means.
    """
    Y, (F, H, E, moves_volume) = known
    J = times(turned(Y), Y)
    h = jnp.matmul(z, W) if W.ndim == 2 else apply(turned(W), z)
    driven = jnp.zeros_like(h[:, 1:]) if b is None else b[:, 1:]
    against = jnp.zeros_like(driven) if b is None else apply(J[:, 1:], driven)
    # eta_T = h_T and eta_t = h_t + F_t' (eta_{t+1} - J_{t+1} b_{t+1})
    gathered = h[:, :-1] if b is None else h[:, :-1] - apply(turned(F), against)
    eta = roots.path(turned(F), gathered, h[:, -1], True, side_by_side)
    if d.S is None:
        eye = jnp.broadcast_to(np.eye(Y.shape[-1], dtype=Y.dtype), Y[:, 0].shape)
        first_root, first_inward = turned(roots.divide(Y[:, 0], eye)), None
        first_volume = -0.5 * matrices.log_determinant(Y[:, 0])
    else:
        first_root, first_inward, first_volume, _ = _within(d.S, Y[:, 0])
    first_shock = apply(turned(first_root), eta[:, 0] - apply(J[:, 0], d.m))
    first = d.m[None] + apply(first_root, first_shock)
    drift = driven + apply(H, apply(turned(H), eta[:, 1:] - against))
    means = roots.path(F, drift, first, False, side_by_side)
    covariances = roots.spread(F, H, times(first_root, turned(first_root)), side_by_side)
    score = eta[:, 1:] - apply(J[:, 1:], apply(d.A, means[:, :-1]) + driven)
    shocks = apply(E, apply(turned(H), score))  # E[e | z]
    found = jnp.concatenate([first_volume[:, None], moves_volume], axis=1)
    log_normalizer = found.sum(axis=1) - 0.5 * (shocks**2).sum(axis=(1, 2))
    if first_inward is None:
        log_normalizer = log_normalizer + 0.5 * d.m.size * _LOG_2_PI
    else:
        log_normalizer = log_normalizer - 0.5 * (apply(first_inward, first_shock) ** 2).sum(axis=1)
    of_prior = jnp.where(jnp.arange(Y.shape[1]) == 0, volumes[0], volumes[1])[None]
    return States(means, covariances, F, H, found + of_prior, inside, log_normalizer)


def tempered(q: States, inverse_temperature: Array | float, dimensions: Array) -> States:
    """The normalised power of the posterior: the same means, all covariances divided by ``inverse_temperature``."""
    share = jnp.asarray(inverse_temperature, q.means.dtype)
    volumes = q.volumes - 0.5 * dimensions[None] * jnp.log(share)
    return q._replace(covariances=q.covariances / share, noise=q.noise / jnp.sqrt(share), volumes=volumes)


def draw(q: States, key: Array) -> Array:
    """Paths of the states drawn from the posterior, (N, T, k)."""
    n, t, k = q.means.shape
    first_key, key = jax.random.split(key)
    root = _root(q.covariances[:, 0])
    first = apply(root, jax.random.normal(first_key, (n, k), q.means.dtype))
    shocks = apply(q.noise, jax.random.normal(key, (n, t - 1, q.noise.shape[-1]), q.means.dtype))
    return q.means + roots.path(q.moves, shocks, first, False, False)


def _root(covariance: Array) -> Array:
    """Roots of covariances (n, k, k) that may be singular."""
    values, vectors = jax.vmap(matrices.eigh)(covariance)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[..., None, :]


def entropy(q: States, dimensions: Array) -> Array:
    """The sum over steps of log|2 pi e G_t| / 2, (N,).

    ``dimensions (T,)``: the number of directions with noise of the first state and of each move.
    """
    each = 0.5 * (1 + _LOG_2_PI) * dimensions[None] + q.volumes
    return jnp.broadcast_to(jnp.where(q.inside, each, 0).sum(axis=1), q.means.shape[:1])


def divergence(q: States, p: States, live: Array, first_live: Array) -> Array:
    """KL(q || p) between two chains, (N,): of the first states, plus that of the moves, expected under q.

    ``live (r,)`` and ``first_live (k,)``: which directions have noise.
    """
    r = live.shape[0]
    first = _normal_divergence(
        q.means[:, 0] - p.means[:, 0],
        q.covariances[:, 0],
        p.covariances[:, 0],
        q.volumes[:, 0],
        p.volumes[:, 0],
        jnp.zeros((), q.means.dtype),
        first_live,
    )
    drift = lambda s: s.means[:, 1:] - apply(s.moves, s.means[:, :-1])
    change = (q.moves - p.moves)[..., :r, :]
    shift = (drift(q) - drift(p))[..., :r] + apply(change, q.means[:, :-1])
    extra = times(times(change, q.covariances[:, :-1]), turned(change))
    G = lambda s: times(s.noise, turned(s.noise))[..., :r, :r]
    moves = _normal_divergence(shift, G(q), G(p), q.volumes[:, 1:], p.volumes[:, 1:], extra, live)
    return first + jnp.where(q.inside[:, 1:], moves, 0).sum(axis=1)


def _normal_divergence(
    shift: Array, q: Array, p: Array, q_volume: Array, p_volume: Array, extra: Array, live: Array
) -> Array:
    """KL of N(shift, q) from N(0, p) in the live directions, with ``extra`` added to the second moment of the shift."""
    still = roots.lifted(jnp.diag(1 - live), p.ndim)
    half = matrices.inverse(matrices.cholesky(p + still))
    squares = (apply(half, shift * roots.lifted(live, shift.ndim)) ** 2).sum(axis=-1)
    spread = (times(half, q + extra) * half).sum(axis=(-2, -1))
    return 0.5 * (squares + spread - live.sum()) + p_volume - q_volume
