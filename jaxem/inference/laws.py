r"""The laws of EM, as residuals of what was measured.

Every residual is dimensionless. Differences of objectives are divided by |L| + |Q| + |H| + size(data): the magnitude
of what was added up. Gradients in unconstrained coordinates are multiplied by ``delta / size(data)`` (see
``measurements``): neither units nor the amount of data change a residual. Pure rounding error is a small multiple of
eps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxem.core import bound
from jaxem.core.model import has_m_step
from jaxem.inference.measurements import Measured


class Residual(NamedTuple):
    """How far a law is from holding, and the coordinate that is farthest (-1: none in particular)."""

    value: float
    coordinate: int


class Law(NamedTuple):
    """One law of EM."""

    statement: str
    factor: int  # times eps is the tolerance
    conditioned: str | None  # whether rounding of the parameters "here" or "after" the M-step moves the residual
    needs: Callable[[Any], tuple[str, ...]]  # of the model
    residual: Callable[[Any], Residual]  # of a Measured that has what it needs


def _worst(m: Measured, gradient: np.ndarray) -> Residual:
    scaled = np.abs(gradient) * m.delta / m.size
    return Residual(float(scaled.max()), int(scaled.argmax()))


def _excess(values: np.ndarray, *scale: np.ndarray) -> Residual:
    """The largest value above zero, relative to ``scale``.

    Probes at which a density over- or underflowed say nothing; NaN where that was all of them, or at the point itself.
    """
    with np.errstate(invalid="ignore"):
        relative = values / sum((np.abs(part) for part in scale), start=np.zeros_like(values))
    if relative.ndim and np.isfinite(relative).any():
        relative = relative[np.isfinite(relative)]
    return Residual(float(np.maximum(np.max(relative), 0)), -1)


def _plain(value: np.ndarray) -> Residual:
    return Residual(float(value), -1)


def _touch(m: Any) -> Residual:
    L, Q, H = m.log_likelihood.here, m.expected.here, m.entropy
    return _excess(np.abs(L - (Q + H)), L, Q, H, m.size)


def _tangent(m: Any) -> Residual:
    return _worst(m, m.log_likelihood.gradient_here - m.expected.gradient_here)


def _objective(m: Any) -> Residual:
    L = m.log_likelihood.here
    return _excess(np.abs(m.evidence[0] - L), L, m.size)


def _non_negative(m: Any) -> Residual:
    L = m.log_likelihood.here
    return _excess(m.other_elbos - L, m.other_elbos, L, m.size)


def _decomposition(m: Any) -> Residual:
    L = m.log_likelihood.here
    gap = np.abs(L - m.other_elbos - m.other_divergences)
    return _excess(gap, m.other_elbos, m.other_divergences, L, m.size)


def _posterior_is_best(m: Any) -> Residual:
    Q, H = m.expected.here, m.entropy
    return _excess(m.other_elbos - (Q + H), m.other_elbos, Q, H, m.size)


def _minorises(m: Any) -> Residual:
    L, Q, H = m.log_likelihood.near_here, m.expected.near_here, m.entropy
    return _excess(Q + H - L, L, Q, H, m.size)


def _curvature(m: Any) -> Residual:
    scaled = m.missing * m.delta[:, None] * m.delta[None, :] / m.size
    if not np.isfinite(scaled).all():
        return Residual(np.nan, int(np.isfinite(scaled).all(axis=0).argmin()))
    values, vectors = np.linalg.eigh((scaled + scaled.T) / 2)
    return Residual(max(float(-values[0]), 0.0), int(np.abs(vectors[:, 0]).argmax()))


def _stationary(m: Any) -> Residual:
    return _worst(m, m.expected.gradient_after + m.log_prior.gradient_after)


def _optimal(m: Any) -> Residual:
    best = m.expected.after + m.log_prior.after
    near = m.expected.near_after + m.log_prior.near_after
    return _excess(near - best, near, best, m.size)


def _ascent(m: Any) -> Residual:
    before, after = m.evidence if m.log_likelihood is None else (m.log_likelihood.here, m.log_likelihood.after)
    fall = (before + m.log_prior.here) - (after + m.log_prior.after)
    return _excess(fall, before, m.log_prior.here, m.size)


def _always(*names: str) -> Callable[[Any], tuple[str, ...]]:
    return lambda model: names


def _m_step(*names: str) -> Callable[[Any], tuple[str, ...]]:
    return lambda model: names if has_m_step(model) else ("m_step", *names)


def _climbs(model: Any) -> tuple[str, ...]:
    return _m_step(*(() if bound.has_objective(model) else ("log_likelihood",)))(model)


_BOUND = ("q_function", "entropy", "log_likelihood")

LAWS: dict[str, Law] = {
    "touch": Law("ELBO(θ, e_step(θ)) = L(θ)", 32, None, _always(*_BOUND), _touch),
    "tangent": Law("∇ELBO(θ, q) = ∇L(θ) at q = e_step(θ)", 64, "here", _always(*_BOUND), _tangent),
    "objective": Law(
        "the E-step's normaliser = L(θ)", 32, None, _always("log_normalizer", "log_likelihood"), _objective
    ),
    "KL ≥ 0": Law("L(θ) − ELBO(θ, q) ≥ 0 at other q", 32, None, _always(*_BOUND), _non_negative),
    "decomposition": Law(
        "L(θ) = ELBO(θ, q) + KL(q‖p) at other q", 32, None, _always(*_BOUND, "divergence"), _decomposition
    ),
    "E-step": Law(
        "ELBO(θ, q) ≤ ELBO(θ, e_step(θ)) at other q",
        32,
        None,
        _always("q_function", "entropy"),
        _posterior_is_best,
    ),
    "minorisation": Law("B(θ′, θ) ≤ L(θ′) at other θ′", 32, None, _always(*_BOUND), _minorises),
    "curvature": Law("∇²L − ∇²B ⪰ 0 at θ′ = θ", 64, "here", _always(*_BOUND), _curvature),
    "M-step stationary": Law("∇Q = 0 at m_step(q)", 64, "after", _m_step("q_function", "constraints"), _stationary),
    "M-step optimal": Law("Q(θ′) ≤ Q(m_step(q)) at other θ′", 32, None, _m_step("q_function", "constraints"), _optimal),
    "ascent": Law("L(M(θ)) ≥ L(θ)", 32, None, _climbs, _ascent),
    "additivity": Law(
        "statistics of two halves add up",
        32,
        None,
        _always("statistics", "maximize"),
        lambda m: _plain(m.halves),
    ),
    "maximize": Law(
        "maximize(statistics(q)) = m_step(q)",
        64,
        None,
        _always("statistics", "maximize", "m_step"),
        lambda m: _plain(m.maximized),
    ),
}
