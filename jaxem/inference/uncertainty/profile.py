r"""Profile-likelihood intervals.

The profile likelihood of f at a value is the largest objective among parameters for which f has that value. Its
interval at a level ends where

.. math:: f(\theta) \to \max, \min \quad\text{under}\quad L(\theta) = L(\hat\theta) - z^2 / 2

(z: the normal quantile at (1 + level) / 2). This is a system of equations in theta and one multiplier. Newton's method
solves it in steps from the estimate outwards, the first from the Wald interval (Venzon & Moolgavkar 1988). The result
does not depend on the scale on which f is measured.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound, trees
from jaxem.core.checks import brief
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data
from jaxem.core.model import Params, has, require
from jaxem.inference.coordinates import along_all
from jaxem.inference.uncertainty.information import choose_route, log_likelihood_at, regular
from jaxem.inference.uncertainty.intervals import check_level

_LEVELS = 8  # steps outwards from the estimate
_NEWTON = 30  # Newton iterations for each step, at most


class Interval(NamedTuple):
    """The ends of the interval of one number."""

    lower: float  # the lower end
    upper: float  # the upper end


def profile_interval(
    model: Any, params: Params, data: Data, function: Callable[[Params], Array], *, level: float = 0.95
) -> Interval:
    r"""The profile-likelihood interval of a scalar function of the parameters, at a maximum ``params``.

    .. math:: \left[\min f(\theta),\; \max f(\theta)\right] \quad\text{over}\quad
              L(\theta) \ge L(\hat\theta) - z^2 / 2, \qquad z = \Phi^{-1}\left((1 + level) / 2\right)

    with L the log-likelihood plus the log-prior, where there is one. Unlike a Wald interval it is the same for f as for
    any monotone function of f, and it need not be symmetric. A parameter at an edge of its space is held there.

    Arguments:
        model: the model.
        params: the maximum, or its ``Fit``.
        data: the data of the fit.
        function: from parameters to a scalar, e.g. ``lambda p: p.components.means[0, 1]``. A new lambda is compiled
            anew.
        level: the coverage, a probability strictly between 0 and 1; default 0.95.

    Returns:
        An ``Interval`` of two floats, (lower, upper).

    Raises:
        InformationError: ``params`` are not a maximum (see ``jaxem.inference.information``).
        ValueError: the function is not a scalar or does not depend on the parameters; the model has neither
            ``log_likelihood`` nor a bound; the call is inside a trace; or an end was not found, because the profile may
            never fall so far.

    Source: Venzon & Moolgavkar (1988).
    """
    check_level(level)
    params, data = convert(model, params, data)
    if trees.is_traced(params, data):
        raise ValueError("jaxem.inference.profile_interval needs concrete values: not inside jit, vmap or grad")
    if not has(model, "log_likelihood"):
        require(model, "the profile likelihood (without log_likelihood)", "q_function", "entropy")
    if not callable(function):
        raise ValueError(f"profile_interval needs a function of the parameters to one number; got {brief(function)}")
    shape = jax.eval_shape(function, params)
    if not isinstance(shape, jax.ShapeDtypeStruct) or shape.shape != ():
        raise ValueError(f"profile_interval needs a function of the parameters to one number; got {shape}")
    found = regular(model, params, data, choose_route(model, None))
    params, free = found.params, np.flatnonzero(found.lives)  # parameters at an edge are held
    observed = np.asarray(found.observed, np.float64)[np.ix_(free, free)]
    whole = np.asarray(_coordinates(model, params))

    def at(u: Any) -> _Local:
        moved = whole.copy()
        moved[free] = u
        local = _Local(*_local(model, params, data, function, jnp.asarray(moved)))
        return _Local(
            *(np.asarray(part)[np.ix_(*(free,) * np.ndim(part))] if np.ndim(part) else part for part in local)
        )

    u = whole[free]
    here = at(u)
    z = NormalDist().inv_cdf((1 + level) / 2)
    ahead = np.linalg.solve(observed, here.f_slope)
    deviation = float(np.sqrt(here.f_slope @ ahead))  # the standard error of f
    if not deviation > 0:
        raise ValueError("profile_interval: the function does not depend on the parameters")
    ends = [_end(at, u, here, sign * ahead / deviation, deviation, z, sign) for sign in (-1, 1)]
    return Interval(*ends)


@program(quick="always")
def _coordinates(model: Any, params: Params) -> Array:
    return into(model, params)


class _Local(NamedTuple):
    L: Any
    L_slope: Any  # (P,)
    L_curve: Any  # (P, P)
    f: Any
    f_slope: Any
    f_curve: Any


@program(static_argnames=("function",), quick="very few numbers")
def _local(model: Any, params: Params, data: Data, function: Callable[[Params], Array], u: Array) -> tuple[Array, ...]:
    """The objective and f, each with its gradient and Hessian, at ``u``."""
    here = chart(model, params)
    if has(model, "log_likelihood"):
        likelihood = log_likelihood_at(model, params, data)
    else:
        likelihood = lambda u: bound.penalized(
            model, bound.elbo(model, here(u), model.e_step(here(u), data), data), here(u)
        )

    def expand(g: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
        value, slope = jax.value_and_grad(g)(u)
        return value, slope, along_all(lambda v: jax.jvp(jax.grad(g), (u,), (v,))[1], u)

    return *expand(likelihood), *expand(lambda u: function(here(u)))


def _end(
    at: Callable[[Any], _Local], u: np.ndarray, here: _Local, ahead: np.ndarray, deviation: float, z: float, sign: int
) -> float:
    """Newton's method on  sign f' + mu L' = 0,  L = L(u) - t^2 / 2,  for t = z / 8, ..., z."""
    dtype = u.dtype
    scale = 1 / np.sqrt(np.abs(np.diagonal(np.asarray(here.L_curve, np.float64))))  # removes the units
    tolerance = float(np.finfo(dtype).eps) ** 0.5
    top, now, x, mu, solved = float(here.L), here, u, np.inf, False
    for i in range(1, _LEVELS + 1):
        t = z * i / _LEVELS
        x = u + t * ahead if i == 1 else u + (x - u) * i / (i - 1)
        mu = deviation / t
        solved = False
        for _ in range(_NEWTON):
            now = _Local(*(np.asarray(part, np.float64) for part in at(x)))
            slope = scale * (sign * now.f_slope + mu * now.L_slope)
            short = float(now.L) - (top - t**2 / 2)
            if not np.isfinite(slope).all() or not np.isfinite(short):
                break
            if np.abs(slope).max() <= tolerance * deviation and abs(short) <= tolerance * (1 + abs(top) * tolerance):
                solved = True
                break
            curve = scale[:, None] * (sign * now.f_curve + mu * now.L_curve) * scale[None, :]
            L_slope = scale * now.L_slope
            system = np.block([[curve, L_slope[:, None]], [L_slope[None, :], np.zeros((1, 1))]])
            try:
                step = np.linalg.solve(system, -np.append(slope, short))
            except np.linalg.LinAlgError:
                break
            shorter = min(1.0, 2.0 / max(np.abs(step[:-1]).max(), 1e-300))  # at most about 2 standard errors
            x, mu = x + shorter * scale * step[:-1], mu + shorter * step[-1]
        if not solved or not mu > 0:
            side = "lower" if sign < 0 else "upper"
            raise ValueError(
                f"profile_interval: the {side} end was not found: the profile likelihood could not be followed beyond "
                f"a fall of {((t - z / _LEVELS) ** 2) / 2:.3g} ({z**2 / 2:.3g} is needed). It may be flat or reach an "
                "edge there, so that the interval is unbounded on that side; or use a lower level"
            )
    return float(now.f)
