r"""One equation of a state-space model, y = Gamma z + e with e ~ N(0, Sigma): its sums, its M-step, and its part of Q.

The first state (z = 1), the moves (z = previous state and inputs) and the observations (z = state and inputs) are three
such equations. Sums are about the coefficients of the context, of residuals e = y - Gamma z, so that nothing cancels.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.latent.gaussian_chain_roots import apply, lifted, times
from jaxem.models.state_space_patterns import Spec, is_fixed, layout


class EquationSums(NamedTuple):
    """Expected sums over all steps. With missing cells n is (d,), ee (d,), zz (d, m, m): of the steps in which y_d is
    seen."""

    n: Array  # the number of terms
    ee: Array  # (d, d), sum E[e e']
    ez: Array  # (d, m), sum E[e z']
    zz: Array  # (m, m), sum E[z z']


class Moments(NamedTuple):
    """The moments of each step under the posterior, which has one covariance for all sequences or one for each."""

    e: Array  # (N, ..., d), E[e], the residual
    z: Array  # (N, ..., k), E[z], of the states alone
    ee: Array  # (n, ..., d, d), the covariance of e; n = 1 or N
    ez: Array  # (n, ..., d, k), the covariance of e and z
    zz: Array  # (n, ..., k, k), the covariance of z


def tally(moments: Moments, weights: Array, inputs: Array | None, loadings: Array | None = None) -> EquationSums:
    """The sums, with ``weights (N, ...)`` of each step and ``inputs (N, ..., P)`` as further entries of z.

    ``loadings``: C, where e = y - C z with y known, so that the covariances follow from that of z.
    """
    e, z, ee, ez, zz = _flat(moments, weights != 0, inputs)
    w = weights.reshape(-1)
    times_w = z * w[:, None]
    sums = EquationSums(w.sum(), (e * w[:, None]).T @ e, e.T @ times_w, z.T @ times_w)
    if loadings is None:
        return _with_spread(sums, *_spread(weights, ee, ez, zz))
    (spread,) = _spread(weights, zz)
    CV = loadings @ spread
    return _with_spread(sums, CV @ loadings.T, -CV, spread)


def tally_cells(moments: Moments, weights: Array, inputs: Array | None, loadings: Array) -> EquationSums:
    """The sums of each row of the equation, with ``weights (N, T, d)`` of each cell."""
    e, z, _, _, zz = _flat(moments, (weights != 0).any(axis=-1), inputs)
    w = weights.reshape(-1, weights.shape[-1])
    m, k = z.shape[1], zz.shape[-1]
    squares = matrices.product(w.T, (z[:, :, None] * z[:, None, :]).reshape(-1, m * m)).reshape(-1, m, m)
    sums = EquationSums(w.sum(axis=0), (w * e**2).sum(axis=0), (w * e).T @ z, squares)
    each = jnp.broadcast_to(zz, (*weights.shape[:-1], k, k)).reshape(w.shape[0], -1)
    spread = matrices.product(w.T, jnp.where((w != 0).any(axis=1)[:, None], each, 0)).reshape(-1, k, k)
    CV = jnp.matmul(loadings[:, None, :], spread)[:, 0]
    return _with_spread(sums, (CV * loadings).sum(axis=1), -CV, spread)


def _flat(moments: Moments, counts: Array, inputs: Array | None) -> Moments:
    """One row for each step, with inputs; zero where the weight is, whatever it held."""
    counts = counts.reshape(-1, 1)
    flat = lambda a: jnp.where(counts, a.reshape(-1, a.shape[-1]), 0)
    z = moments.z if inputs is None else jnp.concatenate([moments.z, inputs.astype(moments.z.dtype)], axis=-1)
    return moments._replace(e=flat(moments.e), z=flat(z))


def _spread(weights: Array, *covariances: Array) -> list[Array]:
    """sum_nt w_nt V_nt, where V may be the same for all n."""
    w = (weights.sum(axis=0, keepdims=True) if covariances[0].shape[0] == 1 else weights).reshape(1, -1)
    counts = (w != 0).T
    return [(w @ jnp.where(counts, V.reshape(w.size, -1), 0)).reshape(V.shape[-2:]) for V in covariances]


def _with_spread(sums: EquationSums, ee: Array, ez: Array, zz: Array) -> EquationSums:
    """The sums with those of the covariances added; inputs have none."""
    k = zz.shape[-1]
    return EquationSums(sums.n, sums.ee + ee, sums.ez.at[..., :k].add(ez), sums.zz.at[..., :k, :k].add(zz))


def log_density(moments: Moments, covariance: Array) -> Array:
    """E log N(e; 0, Sigma) of each step, (N, ...); elements without noise add nothing."""
    if covariance.ndim == 2:
        lower = matrices.cholesky(covariance)
        half = matrices.inverse(lower)
        squares = (apply(half, moments.e) ** 2).sum(axis=-1) + (
            times(half, moments.ee) * lifted(half, moments.ee.ndim)
        ).sum(axis=(-2, -1))
        return -0.5 * (lower.shape[0] * math.log(2 * math.pi) + matrices.log_determinant(lower) + squares)
    live = covariance > 0
    each = log_density_of_cells(moments, jnp.where(live, covariance, 1))
    return jnp.where(lifted(live, each.ndim), each, 0).sum(axis=-1)


def log_density_of_cells(moments: Moments, variances: Array) -> Array:
    """E log N(e_d; 0, variance_d) of each step and row, (N, ..., d)."""
    squares = moments.e**2 + jnp.diagonal(moments.ee, axis1=-2, axis2=-1)
    variances = lifted(variances, squares.ndim)
    return -0.5 * (math.log(2 * math.pi) + jnp.log(variances) + squares / variances)


def residual(sums: EquationSums, change: Array, full: bool) -> Array:
    """sum E[e e'] after a change of the coefficients, (d, d), or its diagonal (d,)."""
    _, ee, ez, zz = sums
    moved = change @ zz if zz.ndim == 2 else jnp.matmul(zz, change[:, :, None])[:, :, 0]
    if full:
        cross = change @ ez.T
        return ee - cross - cross.T + moved @ change.T
    squares = ee if ee.ndim == 1 else jnp.diagonal(ee)
    return squares - 2 * (change * ez).sum(axis=1) + (moved * change).sum(axis=1)


def expected(sums: EquationSums, change: Array, covariance: Array) -> Array:
    """sum E log N(y; Gamma z, Sigma) up to a constant; elements without noise add nothing."""
    if covariance.ndim == 2:
        lower = matrices.cholesky(covariance)
        squares = jnp.trace(matrices.solve(lower, residual(sums, change, True)))
        return -0.5 * (sums.n * matrices.log_determinant(lower) + squares)
    live = covariance > 0
    safe = jnp.where(live, covariance, 1)
    return -0.5 * jnp.where(live, sums.n * jnp.log(safe) + residual(sums, change, False) / safe, 0).sum()


def _covariance(spec: Spec, sums: EquationSums, change: Array, full: bool) -> Array:
    """The covariance that maximises Q: the mean square of the residuals, where it is not fixed."""
    if full:
        if is_fixed(spec):
            return jnp.asarray(spec, change.dtype)
        found = residual(sums, change, True) / sums.n
        return (found + found.T) / 2
    squares = residual(sums, change, False)
    index, values = layout(spec, squares.shape)
    counts = jnp.broadcast_to(sums.n, squares.shape)
    groups = [(index == g) for g in range(index.max(initial=-1) + 1)]
    if not groups:
        return jnp.asarray(values, change.dtype)
    means = jnp.stack([jnp.where(g, squares, 0).sum() / jnp.where(g, counts, 0).sum() for g in groups])
    return jnp.where(index < 0, jnp.asarray(values, change.dtype), means[np.maximum(index, 0)])


_ROUNDS = 500  # the limit of rounds between coefficients and covariance; they end at rounding error, mostly below 30


def maximize(
    sums: EquationSums, at: Array, coefficients: tuple[np.ndarray, np.ndarray], covariance: Array, spec: Spec
) -> tuple[Array, Array]:
    """The coefficients and the covariance that maximise Q.

    Coefficients without restrictions, and restricted row by row with a diagonal covariance, do not depend on the
    covariance. Otherwise each is found given the other, by generalised least squares, until neither changes.

    Arguments:
        sums: the sums.
        at: the coefficients (d, m) of the context.
        coefficients: ``layout`` of their pattern.
        covariance: that of the context, (d,) or (d, d); its ndim says whether it is diagonal.
        spec: the pattern of the covariance.
    """
    index, values = coefficients
    full, count = covariance.ndim == 2, int(index.max(initial=-1)) + 1
    update = lambda change: _covariance(spec, sums, change, full)
    if count == index.size and len(np.unique(index)) == index.size:
        change = _least_squares(sums)
        return at + change, update(change)
    fixed = jnp.where(index < 0, jnp.asarray(values, at.dtype) - at, 0)  # zero where the context obeys the pattern
    if count == 0:
        return at + fixed, update(fixed)
    groups = np.stack([index == g for g in range(count)]).astype(at.dtype)  # (G, d, m)
    by_row = all((group.sum(axis=1) > 0).sum() == 1 for group in groups)
    given = lambda covariance: _given(sums, fixed, groups, covariance)
    if not full and by_row:
        change = given(jnp.ones_like(covariance))
    elif is_fixed(spec):
        change = given(update(fixed))
    else:
        change = _in_turns(given, update, update(given(covariance)))
    placed = jnp.where(index < 0, jnp.asarray(values, at.dtype), at + change)
    return placed, update(change)


def _least_squares(sums: EquationSums) -> Array:
    _, _, ez, zz = sums
    lower = matrices.cholesky(zz)
    return matrices.solve(lower, ez.T).T if zz.ndim == 2 else matrices.solve(lower, ez[:, :, None])[:, :, 0]


def _given(sums: EquationSums, fixed: Array, groups: np.ndarray, covariance: Array) -> Array:
    """The change of the coefficients by generalised least squares, given the covariance."""
    _, _, ez, zz = sums
    ez = ez - (fixed @ zz if zz.ndim == 2 else jnp.matmul(zz, fixed[:, :, None])[:, :, 0])
    if covariance.ndim == 1:
        weights = jnp.where(covariance > 0, 1 / jnp.where(covariance > 0, covariance, 1), 0)
        each = jnp.broadcast_to(lifted(zz, 3), (covariance.size, *zz.shape[-2:]))
        H = jnp.einsum("gdi,d,dij,hdj->gh", groups, weights, each, groups)
        s = jnp.einsum("gdi,d,di->g", groups, weights, ez)
    else:
        precision = matrices.solve(matrices.cholesky(covariance), jnp.eye(covariance.shape[0], dtype=covariance.dtype))
        H = jnp.einsum("gai,ab,ij,hbj->gh", groups, precision, zz, groups)
        s = jnp.einsum("gai,ab,bi->g", groups, precision, ez)
    step = matrices.solve(matrices.cholesky((H + H.T) / 2), s[:, None])[:, 0]
    return fixed + jnp.tensordot(step, jnp.asarray(groups), axes=1)


def _in_turns(given: Any, update: Any, covariance: Array) -> Array:
    """The coefficients at which those and the covariance maximise Q together."""
    eps = jnp.finfo(covariance.dtype).eps

    def moving(state: Any) -> Array:
        i, covariance, before = state
        return (i < _ROUNDS) & (jnp.abs(covariance - before) > 2 * eps * jnp.abs(covariance).max()).any()

    def turn(state: Any) -> Any:
        i, covariance, _ = state
        return i + 1, update(given(covariance)), covariance

    start = (jnp.asarray(0), covariance, jnp.full_like(covariance, jnp.inf))
    return given(jax.lax.while_loop(moving, turn, start)[1])
