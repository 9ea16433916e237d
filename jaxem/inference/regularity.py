"""Whether the information at a point is regular: an interior maximum at which no direction is flat.

All decisions are scale-free. Let I be the observed and C the complete information and g the gradient of the objective,
all in unconstrained coordinates. The generalised eigenvalues I w = lambda C w are invariant under a change of
coordinates. At a maximum they lie in [0, 1], and 1 - lambda is the share of information that is missing along w. The
distance to the maximum in standard errors is (g' I^-1 g)^(1/2), in the direction in which it is longest (the Newton
decrement).
"""

import enum
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.compilation import program
from jaxem.core.model import Params
from jaxem.inference.coordinates import name_direction, parameter_names

STATIONARY = 0.1  # largest distance from the maximum, in standard errors
LOG_STEP = 0.5  # a longer Newton step of a log, within 0.1 standard errors, means an edge (there the step is 1)


class InformationError(ValueError):
    """The information at these parameters is not regular, so there are no standard errors.

    The message gives the reason and the parameters concerned.
    """


class Regularity(enum.IntEnum):
    """The verdict on the information; with anything but ``REGULAR`` there is no covariance."""

    REGULAR = 0
    NON_FINITE = 1
    DEGENERATE = 2
    EDGE = 3
    SINGULAR = 4
    NOT_STATIONARY = 5
    NOT_MAXIMUM = 6
    FLAT = 7
    UNRESOLVED = 8
    INWARD = 9


class Verdict(NamedTuple):
    """The verdict on the information at a point."""

    code: Array  # a Regularity, int32
    direction: Array  # (P,), in coordinates: the direction concerned
    amount: Array  # the distance to the maximum in standard errors, or the eigenvalue
    newton: Array  # (P,), the Newton step to the maximum


def unmoved(gap: Array, dtype: Any) -> Array:
    """The value of lambda below which it cannot be distinguished from 0.

    It is at least eps^(1/2), half of the digits. An invariance (a rotation of factors) shows only up to the gradient
    that is left, so it is also at least ten times ``gap = (g' C^-1 g / size)^(1/2)``: about 1e-5 where a fit stopped at
    the default ``tol``.
    """
    return jnp.maximum(10 * gap, jnp.finfo(dtype).eps ** 0.5)


def rounding_of(p: int, dtype: Any) -> float:
    """The size below which a quantity of order one is rounding error, with P coordinates."""
    return 32 * p * float(jnp.finfo(dtype).eps)


class _Own(NamedTuple):
    """The observed information scaled by its own error bars: shows flat directions, however much is missing."""

    values: Array  # (P,), eigenvalues, ascending
    vectors: Array  # (P, P), in coordinates, in columns
    noise: Array  # the size of a zero eigenvalue under rounding error


def _in_own_units(observed: Array, complete: Array) -> _Own:
    rounding = rounding_of(observed.shape[0], observed.dtype)
    # Second derivatives sum terms as large as the complete information: their rounding error is the least unit.
    unit = jnp.maximum(jnp.diagonal(observed), rounding * jnp.diagonal(complete))
    scale = 1 / jnp.sqrt(jnp.where(unit > 0, unit, 1))
    values, vectors = matrices.eigh(observed * scale[:, None] * scale[None, :])
    return _Own(values, scale[:, None] * vectors, rounding * (jnp.diagonal(complete) * scale**2).max())


def judge(
    observed: Array, complete: Array, gradient: Array, edged: Array, lives: Array, size: Array, degenerate: Array
) -> Verdict:
    """The verdict on the information at a point.

    ``edged (P,)``: which coordinates are logs or ratios; ``lives (P,)``: which coordinates are not held; ``size``: the
    number of observed values.

    A direction is flat where the observed information is small relative to the complete information *and* relative to
    the error bars of the coordinates involved. The first alone is no sign of flatness: slow EM, or a noise variance
    near zero, causes it too.
    """
    dtype, p = observed.dtype, observed.shape[0]
    rounding = rounding_of(p, dtype)
    observed, complete = without(observed, lives, 1), without(complete, lives, 1)
    gradient, edged = jnp.where(lives, gradient, 0), edged & lives
    # At an edge a coordinate has diverged: even complete data carry no information about it.
    block = jnp.where(edged[:, None] & edged[None, :], complete, 0)
    block = block + jnp.diag(jnp.where(edged, 0, jnp.maximum(jnp.trace(block), size)))
    edge_values, edge_vectors = matrices.eigh(block / size)

    diagonal = jnp.diagonal(complete)
    scale = 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    whole_values, whole_vectors = matrices.eigh(complete * scale[:, None] * scale[None, :])
    whole = (diagonal > 0).all() & (whole_values[0] > rounding)
    lengths = jnp.sqrt(jnp.maximum(whole_values, rounding))
    roots = scale[:, None] * whole_vectors / lengths[None, :]  # roots' C roots = 1
    shares, vectors = matrices.eigh(roots.T @ observed @ roots)
    vectors = roots @ vectors  # w, with w' C w = 1
    slopes = vectors.T @ gradient

    gap = jnp.sqrt((slopes**2).sum() / size)
    least = unmoved(gap, dtype)
    steps = slopes / jnp.maximum(jnp.abs(shares), least)
    own = _in_own_units(observed, complete)
    resolved = jnp.maximum(least, own.noise)
    own_slopes = own.vectors.T @ gradient
    own_steps = own_slopes / jnp.maximum(own.values, resolved)
    solid = own.values[0] > resolved  # then the Newton step is accurate, however slow EM is
    newton = jnp.where(solid, own.vectors @ own_steps, vectors @ steps)
    distance = jnp.sqrt(jnp.where(solid, own_slopes @ own_steps, slopes @ steps))
    edge_step = jnp.where(edged, jnp.abs(newton), 0).max(initial=0) > LOG_STEP
    finite = jnp.isfinite(observed).all() & jnp.isfinite(complete).all() & jnp.isfinite(gradient).all()
    flat = jnp.maximum(gap, least / 10)
    falls = shares[0] < -least
    weakest = own.vectors[:, 0]

    zero = jnp.zeros((), dtype)
    nowhere = jnp.zeros_like(gradient)
    findings = [  # the first that holds is the verdict
        (Regularity.DEGENERATE, degenerate, nowhere, zero),
        (Regularity.EDGE, edge_values[0] <= rounding, edge_vectors[:, 0], edge_values[0]),
        (Regularity.NON_FINITE, ~finite, jnp.where(jnp.isfinite(gradient), 0, 1).astype(dtype), zero),
        (Regularity.SINGULAR, ~whole, scale * whole_vectors[:, 0], whole_values[0]),
        (Regularity.NOT_STATIONARY, ~(distance <= STATIONARY), newton, distance),
        (Regularity.EDGE, edge_step, newton, distance),
        (Regularity.NOT_MAXIMUM, falls, vectors[:, 0], shares[0]),
        (Regularity.NOT_MAXIMUM, own.values[0] < -resolved, weakest, shares[0]),
        (Regularity.FLAT, (shares[0] <= flat) & (own.values[0] <= jnp.maximum(flat, own.noise)), weakest, shares[0]),
        (Regularity.UNRESOLVED, (shares[0] <= least) & (own.values[0] <= resolved), weakest, shares[0]),
    ]
    code, direction, amount = jnp.int32(Regularity.REGULAR), nowhere, distance
    for found, holds, where, number in reversed(findings):
        code = jnp.where(holds, jnp.int32(found), code)
        direction = jnp.where(holds, where, direction)
        amount = jnp.where(holds, number, amount)
    return Verdict(code, direction, amount, newton)


@program(quick="few numbers")
def without(matrix: Array, lives: Array, diagonal: float) -> Array:
    """A matrix (P, P) with the rows and columns of held coordinates zero, but for ``diagonal`` on the diagonal."""
    rest = jnp.diag(jnp.full_like(jnp.diagonal(matrix), diagonal))
    return jnp.where(lives[:, None] & lives[None, :], matrix, rest)


REASONS = {
    Regularity.NON_FINITE: "a derivative is NaN or infinite, at {names}. Check the parameters and the data",
    Regularity.DEGENERATE: (
        "a component is empty or has collapsed, so the likelihood may have no maximum here. Use fewer components, "
        "another start, or a prior"
    ),
    Regularity.EDGE: (
        "the parameters lie at the edge of their space, at {names}: there the estimate is not normally distributed and "
        "has no standard error. Fit a model without these parameters, or give them a prior that keeps them inside"
    ),
    Regularity.INWARD: (
        "the parameters lie at the edge of their space, at {names}, and the objective rises from there into the space, "
        "so this is not a maximum. Start well inside the space, and fit until it converges"
    ),
    Regularity.SINGULAR: (
        "even the complete information is singular, along {names}: these parameters would not be identified even if "
        "the latent variables were known"
    ),
    Regularity.NOT_STATIONARY: (
        "this is not a maximum: the gradient is not zero. The maximum is {amount:.3g} standard errors away (at most "
        "0.1 is allowed), along {names}. Continue the fit, with a smaller tol or a larger max_steps"
    ),
    Regularity.NOT_MAXIMUM: (
        "this is a saddle, not a maximum: the objective rises along {names} (eigenvalue {amount:.3g} of the observed "
        "information relative to the complete information). Start elsewhere or move along that direction, and fit again"
    ),
    Regularity.FLAT: (
        "the information is singular along {names}: the objective does not change there (factors can be rotated, "
        "equal components can exchange weight), so these parameters are not identified"
    ),
    Regularity.UNRESOLVED: (
        "the information along {names} is a share of {amount:.1e} of the complete information, which cannot be "
        "distinguished from zero where the fit stopped: these parameters may not be identified. Fit again with a "
        "smaller tol, such as 1e-14"
    ),
}


def refuse(verdict: Verdict, model: Any, params: Params, diagonal: np.ndarray, rising: np.ndarray) -> None:
    """Raise ``InformationError`` unless the verdict is ``REGULAR``.

    ``diagonal (P,)``: of the complete information; ``rising (T,)``: the parameters at an edge from which the objective
    rises.
    """
    code = Regularity(int(verdict.code))
    if code is Regularity.REGULAR:
        return
    if code is Regularity.INWARD:
        named = np.array(parameter_names(model, params))[np.flatnonzero(rising)[:4]]
        raise InformationError(REASONS[code].format(names=", ".join(named)))
    names = ", ".join(name_direction(model, params, verdict.direction, diagonal))
    raise InformationError(REASONS[code].format(names=names, amount=float(verdict.amount)))
