r"""The laws of EM, each turned into a dimensionless residual of what was measured.

A difference of objectives is divided by |L| + |Q| + |H| + size(data), the magnitude of the terms added. A gradient in
unconstrained coordinates is multiplied by ``delta / size(data)`` (see ``measurements``). Residuals therefore depend
neither on units nor on the amount of data. A gradient residual of r means that the maximum is r size^(1/2) standard
errors away.

The tolerance is a multiple of eps plus a multiple of the measured rounding error: the scatter of the residual among
points a few units in the last place apart. Above ``Law.limit`` a tolerance would hide real faults. A residual below
such a tolerance proves nothing, so the law is then reported as not checked; a larger residual still violates the law.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxem.core import bound, parameters
from jaxem.core.data import Data, lengths_of, split_weights
from jaxem.core.model import has, has_m_step
from jaxem.inference.verify.measurements import Look, Measured, rounding_of
from jaxem.inference.verify.parts import adds_up

SEEN = 32  # the multiple of the measured rounding error that is allowed: it is measured on few samples

# The faults that a law must be able to see: a log-likelihood off by a thousandth of the terms added; a maximiser off by
# a standard error, or by a tenth of the error bar of a single value; a tenth of the information.
_VALUE, _SLOPE, _CURVATURE = 1e-3, 0.1, 0.1


class Law(NamedTuple):
    """One law of EM."""

    statement: str
    factor: int  # the tolerance is this multiple of eps, before rounding error
    needs: Callable[[Any], tuple[str, ...]]  # the functions that the model must have
    gap: Callable[[Measured, Look], Any]  # (...), signed and dimensionless; None where a look lacks the parts
    places: str = ""  # what an entry of the gap belongs to: "coordinates", "leaves", "entries", "parts" or "probes"
    one_sided: bool = False  # only a positive gap violates the law
    everywhere: bool = True  # measured at the other points too, not only at the given one
    limit: Callable[[Measured], float] = lambda m: _VALUE  # the largest tolerance that gives a verdict
    conditioning: Callable[[Measured], float] = lambda m: 0.0  # added to ``factor``
    noise: Callable[[Measured], float] = lambda m: 0.0  # rounding error that the cloud does not show
    applies: Callable[[Any, Data], bool] = lambda model, data: True
    # Why a law that seems violated is not checked instead; None where it is violated:
    excuse: Callable[[Any, Measured, float], str | None] = lambda model, m, tolerance: None
    statistics: bool | None = None  # for a law about parts: True for the statistics alone, False for the others


class Finding(NamedTuple):
    """The residual of a law, its tolerance, and the rounding error in that tolerance."""

    residual: float
    place: int  # the entry of the gap with the largest residual; -1 for none in particular
    tolerance: float
    rounding: float  # as measured


def find(law: Law, m: Measured, eps: float) -> Finding:
    """The finding of one law at the point where its residual is largest relative to its tolerance.

    NaN at the given point or after one iteration counts as the largest; at the other points it is ignored.
    """
    here = _flat(law.gap(m, m.here))
    cloud = [_flat(gap) for gap in (law.gap(m, look) for look in m.cloud) if gap is not None]
    findings = [_held(law, m, eps, here, cloud, True)]
    for i, (look, beside) in enumerate(m.elsewhere if law.everywhere else ()):
        if law.gap(m, look) is None:
            continue
        gap, other = _flat(law.gap(m, look)), _flat(law.gap(m, beside))
        found = _held(law, m, eps, gap, [other], i == 0 and m.here.after is not None, findings[0].rounding)
        blind = found.tolerance > max(law.limit(m), findings[0].tolerance)
        if not (blind and found.residual <= found.tolerance):
            findings.append(found)
    return max(findings, key=lambda found: (np.isnan(found.residual), found.residual / found.tolerance))


def _held(
    law: Law, m: Measured, eps: float, gap: np.ndarray, cloud: list[np.ndarray], must: bool, least: float = 0.0
) -> Finding:
    """The finding at one look.

    An inequality that holds by more than its rounding error holds, however large that error is. ``must``: whether NaN
    violates the law; ``least``: the smallest rounding error that is assumed.
    """
    pure = eps * (law.factor + law.conditioning(m))
    # The scatter is known for the first few probes; resize repeats it, as every third probe is equally far away.
    scatter = np.maximum(np.resize(_scatter(gap, cloud), gap.shape), law.noise(m))
    if law.one_sided:
        sure = gap <= -(pure + SEEN * scatter)
        scatter = np.where(sure, 0, scatter)
    rounding = max(float(scatter.max(initial=0)), 0.0 if law.one_sided else least)
    residual, place = _broken(law, gap, must)
    return Finding(residual, place if law.places != "probes" else -1, pure + SEEN * rounding, rounding)


def _flat(gap: Any) -> np.ndarray:
    return np.ravel(np.asarray(gap, np.float64))


def _broken(law: Law, gap: np.ndarray, must: bool) -> tuple[float, int]:
    """The largest violation among the entries, and its index.

    Probes at which a density over- or underflowed are ignored, unless all of them did.
    """
    size = gap if law.one_sided else np.abs(gap)
    known = np.isfinite(size) | (law.one_sided & (size == -np.inf))
    if not (known.any() if law.places == "probes" else known.all()):
        return (np.nan, int(known.argmin())) if must else (0.0, -1)
    size = np.where(known, size, 0)
    return max(float(size.max(initial=0)), 0.0), int(size.argmax())


def _scatter(here: np.ndarray, cloud: list[np.ndarray]) -> np.ndarray:
    """How far each entry of the gap lies from the mean of each pair of the cloud, or from a single look; the largest.

    A pair lies symmetrically about the point, so what is linear between its two points cancels.
    """
    pairs = [(a + b) / 2 for a, b in zip(cloud[::2], cloud[1::2], strict=True)] if len(cloud) > 1 else cloud
    here = here[: min(len(pair) for pair in pairs)] if pairs else np.zeros(1)
    apart = np.abs(np.array([pair - here for pair in pairs] or [here]))
    return np.where(np.isfinite(apart), apart, 0).max(axis=0)  # values that are not finite are ignored


def _value(m: Measured, gap: Any, *scale: Any) -> Any:
    """A difference of objectives, relative to the magnitude of the terms added."""
    with np.errstate(invalid="ignore"):
        return gap / sum((np.abs(part) for part in scale), start=m.size)


def _touch(m: Any, look: Any) -> Any:
    L, Q, H = look.log_likelihood.value, look.expected.value, look.entropy
    return _value(m, L - (Q + H), L, Q, H)


def _tangent(m: Any, look: Any) -> Any:
    L, Q = (part.gradient * m.delta / m.size for part in (look.log_likelihood, look.expected))
    return (L - Q) / (1 + np.abs(L).max(initial=0) + np.abs(Q).max(initial=0))


def _objective(m: Any, look: Any) -> Any:
    L = look.log_likelihood.value
    return _value(m, look.evidence - L, L)


def _non_negative(m: Any, look: Any) -> Any:
    if look.near is None:
        return None
    L, elbos = look.log_likelihood.value, look.near.other_elbos
    return _value(m, elbos - L, elbos, L)


def _decomposition(m: Any, look: Any) -> Any:
    if look.near is None:
        return None
    L, elbos, kl = look.log_likelihood.value, look.near.other_elbos, look.near.other_divergences
    return _value(m, L - elbos - kl, elbos, kl, L)


def _posterior_is_best(m: Any, look: Any) -> Any:
    if look.near is None:
        return None
    Q, H, elbos = look.expected.value, look.entropy, look.near.other_elbos
    return _value(m, elbos - (Q + H), elbos, Q, H)


def _minorises(m: Any, look: Any) -> Any:
    if look.near is None:
        return None
    L, Q, H = look.near.log_likelihoods, look.near.expected, look.entropy
    return _value(m, Q + H - L, L, Q, H)


def _from_sums(m: Any, look: Any) -> Any:
    if look.near is None:
        return None
    by_rows = look.near.expected - look.expected.value
    return _value(m, look.near.from_sums - by_rows, look.near.expected, look.expected.value)


def _slope_from_sums(m: Any, look: Any) -> Any:
    if look.slope_from_sums is None:
        return None
    by_sums, by_rows = (slope * m.delta / m.size for slope in (look.slope_from_sums, look.expected.gradient))
    return (by_sums - by_rows) / (1 + np.abs(by_rows).max(initial=0))


def _stationary(m: Any, look: Any) -> Any:
    if look.after is None:
        return None
    slope = (look.after.expected.gradient + look.after.log_prior.gradient) * m.delta_after / m.size
    return np.where(m.improving, 0, slope)


# The least gain to first order, as a share of that of Newton's method coordinate by coordinate: that of Newton's
# method for all of them is at least 1 / P of it, and a step that was shortened for its length is shortened by less.
_UPHILL = 1e-3


def _uphill(m: Any, look: Any) -> Any:
    if look.after is None:
        return None
    slope = np.where(m.improving, look.expected.gradient + look.log_prior.gradient, 0)
    least = ((slope * m.delta) ** 2).sum() / m.size * _UPHILL / max(m.improving.sum(), 1)
    return _value(m, least - slope @ look.after.proposed, look.expected.value)


def _optimal(m: Any, look: Any) -> Any:
    if look.after is None or look.after.near is None:
        return None
    near, best = look.after.near, look.after.best
    return _value(m, near - best, near, best)


def _ascent(m: Any, look: Any) -> Any:
    if look.after is None:
        return None
    before, after = (
        part.evidence if part.log_likelihood is None else part.log_likelihood.value for part in (look, look.after)
    )
    here, there = look.log_prior.value, look.after.log_prior.value
    return _value(m, (before + here) - (after + there), before, here)


def _bends(m: Any, look: Any) -> Any:
    missing = m.missing[0]
    if not np.isfinite(missing).all():
        return np.where(np.isfinite(missing).all(axis=0), 0.0, np.nan)
    values, vectors = np.linalg.eigh((missing + missing.T) / 2)
    return -values[0] * np.abs(vectors[:, 0]) / np.abs(vectors[:, 0]).max()


def _overflow(model: Any, m: Measured, tolerance: float) -> str | None:
    """Why a violated curvature law is excused, else ``None``.

    It is excused where second derivatives over- or underflowed and differences of gradients satisfy the law.
    """
    missing, exact = m.differences(), m.missing[0]
    if not np.isfinite(missing).all() or np.linalg.eigvalsh((missing + missing.T) / 2)[0] < -_CURVATURE:
        return None
    if np.isfinite(exact).all() and np.abs(exact - missing).max() <= tolerance:
        return None
    return "second derivatives over- or underflow; differences of gradients show no fault"


def _always(*names: str) -> Callable[[Any], tuple[str, ...]]:
    return lambda model: names


def _m_step(*names: str) -> Callable[[Any], tuple[str, ...]]:
    return lambda model: names if has_m_step(model) else ("m_step", *names)


def _improves(model: Any) -> bool:
    return parameters.improving_of(model) is not None


def _climbs(model: Any) -> tuple[str, ...]:
    return _m_step(*(() if bound.has_objective(model) else ("log_likelihood",)))(model)


def parts_named(names: Sequence[str], statistics: bool | None) -> list[int]:
    """The indices of the statistics (``True``), of everything else (``False``), or of all (``None``)."""
    return [i for i, name in enumerate(names) if statistics in (None, name.startswith("statistics"))]


def _parts(which: str, statistics: bool | None = None) -> Callable[[Measured, Look], Any]:
    """The gaps of sums over parts of the data or of the weights; ``statistics`` selects as in ``parts_named``."""

    def gap(m: Measured, look: Look) -> Any:
        gaps = None if look.parts is None else getattr(look.parts, which)
        return None if look.parts is None or gaps is None else gaps[parts_named(look.parts.names, statistics)]

    return gap


def _no_sum(model: Any, m: Measured, tolerance: float) -> str | None:
    """Why sums that do not add up over halves of the data are excused; ``None`` where they are wrong.

    They are excused where the model does not declare that its rows are independent, the sums are not means over the
    rows either, and they do depend on the rows.
    """
    if adds_up(model):
        return None
    assert m.here.parts is not None
    # L decides if there is one: hidden variables need not belong to rows, so Q and H need not add up where L does.
    means = dict(zip(m.here.parts.names, m.here.parts.means, strict=True))
    first = next(name for name in ("L", "normaliser", "Q", "H") if name in means)
    if means[first] <= tolerance or m.here.parts.ignored:
        return None
    return "L is no sum over rows of the data: right where these are not independent observations, else wrong"


def _behind(m: Any, look: Any) -> Any:
    return None if m.lengths is None else [_value(m, m.lengths[0], look.log_likelihood.value), m.lengths[1]]


def _has_lengths(model: Any, data: Data) -> bool:
    return lengths_of(data) is not None


_BOUND = ("q_function", "entropy", "log_likelihood")
_SLOPES: dict[str, Any] = {"places": "coordinates", "limit": lambda m: min(_SLOPE, m.size**-0.5)}
_PROBES: dict[str, Any] = {"places": "probes", "everywhere": False}

LAWS: dict[str, Law] = {
    "touch": Law("ELBO(θ, e_step(θ)) = L(θ)", 32, _always(*_BOUND), _touch),
    "tangent": Law("∇ELBO(θ, q) = ∇L(θ) at q = e_step(θ)", 64, _always(*_BOUND), _tangent, **_SLOPES),
    "objective": Law("the E-step's normaliser = L(θ)", 32, _always("log_normalizer", "log_likelihood"), _objective),
    "KL ≥ 0": Law("L(θ) − ELBO(θ, q) ≥ 0 at other q", 32, _always(*_BOUND), _non_negative, one_sided=True, **_PROBES),
    "decomposition": Law(
        "L(θ) = ELBO(θ, q) + KL(q‖p) at other q", 32, _always(*_BOUND, "divergence"), _decomposition, **_PROBES
    ),
    "E-step": Law(
        "ELBO(θ, q) ≤ ELBO(θ, e_step(θ)) at other q",
        32,
        _always("q_function", "entropy"),
        _posterior_is_best,
        one_sided=True,
        **_PROBES,
    ),
    "minorisation": Law("B(θ′, θ) ≤ L(θ′) at other θ′", 32, _always(*_BOUND), _minorises, one_sided=True, **_PROBES),
    "curvature": Law(
        "∇²L − ∇²B ⪰ 0 at θ′ = θ",
        64,
        _always(*_BOUND),
        _bends,
        "coordinates",
        one_sided=True,
        everywhere=False,
        limit=lambda m: _CURVATURE,
        noise=lambda m: rounding_of(m.missing),
        excuse=_overflow,
    ),
    "M-step stationary": Law(
        "∇Q = 0 at m_step(q)",
        64,
        _m_step("q_function", "constraints"),
        _stationary,
        conditioning=lambda m: 16 * m.conditioning,
        **_SLOPES,
    ),
    "M-step uphill": Law(
        "the step of leaves that only improve goes uphill on Q, and is zero only where ∇Q = 0",
        32,
        _m_step("q_function", "constraints"),
        _uphill,
        one_sided=True,
        applies=lambda model, data: _improves(model),
    ),
    "slope from sums": Law(
        "∇Q from the statistics = ∇Q, at the parameters of the E-step",
        64,
        _always("statistics", "maximize", "expected_log_joint", "q_function"),
        _slope_from_sums,
        applies=lambda model, data: _improves(model),
        **_SLOPES,
    ),
    "M-step optimal": Law(
        "Q(θ′) ≤ Q(m_step(q)) at other θ′",
        32,
        _m_step("q_function", "constraints"),
        _optimal,
        one_sided=True,
        applies=lambda model, data: not _improves(model),
        **_PROBES,
    ),
    "M-step inside": Law(
        "m_step(q) lies in the parameter spaces",
        32,
        _m_step(),
        lambda m, look: look.after and look.after.outside,
        "leaves",
        conditioning=lambda m: 32 * m.reach,
    ),
    "ascent": Law("L(M(θ)) ≥ L(θ)", 32, _climbs, _ascent, one_sided=True),
    "additivity": Law(
        "statistics of two halves add up",
        32,
        _always("statistics", "maximize"),
        _parts("halves", True),
        "parts",
        everywhere=False,
        statistics=True,
    ),
    "Q from sums": Law(
        "Q from the statistics = Q, up to a constant",
        32,
        _always("statistics", "maximize", "expected_log_joint", "q_function"),
        _from_sums,
        applies=lambda model, data: has(model, "expected_log_joint") and not _improves(model),
        **_PROBES,
    ),
    "halves": Law(
        "L, Q, H of two halves add up",
        32,
        _always(),
        _parts("halves", False),
        "parts",
        everywhere=False,
        statistics=False,
        excuse=_no_sum,
    ),
    "weights": Law(
        "L, Q, H, statistics add up over weights",
        32,
        _always(),
        _parts("weights"),
        "parts",
        everywhere=False,
        applies=lambda model, data: split_weights(data)[1] is not None,
    ),
    "lengths": Law(
        "L(θ) depends on all steps up to a length, on none beyond",
        32,
        _always("log_likelihood"),
        _behind,
        everywhere=False,
        applies=_has_lengths,
    ),
    "labels": Law(
        "L(θ) is the same when classes are permuted",
        32,
        _always("log_likelihood"),
        lambda m, look: _value(m, m.relabelled, look.log_likelihood.value),
        everywhere=False,
        applies=lambda model, data: has(model, "permute", "label_keys"),
    ),
    "maximize": Law(
        "maximize(statistics(q)) = m_step(q)",
        64,
        _always("statistics", "maximize", "m_step"),
        lambda m, look: look.after and look.after.maximized,
        "entries",
    ),
}
