r"""What ``verify`` measures: values and derivatives of L, Q, H and the M-step at several points.

Laws are measured at the given point, at the point after one EM iteration, and at random points nearby, each with its
own posterior. An E-step that is correct only at the point it was tuned for fails at the others.

Rounding error is measured too. A *cloud* of points lies a few units in the last place from the given one. A wrong
formula shifts the residual of a law by about the same amount at all of them. Rounding error makes the residual deviate
from a straight line between them, whatever its origin: cancellation, long sums, an ill-conditioned matrix.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.coordinates import living
from jaxem.core.data import Data
from jaxem.core.model import Params, has, has_m_step
from jaxem.core.parameters import improving_of
from jaxem.inference.coordinates import edged, improving
from jaxem.inference.verify import programs
from jaxem.inference.verify.parts import Parts, Portions, in_other_order, looks_behind, relabelled
from jaxem.inference.verify.point import Surroundings

LARGEST_HESSIAN = 256  # coordinates; with more, curvature is not checked
# How far the two pairs of the cloud lie from the point: in units in the last place, plus so many eps^(1/2) error bars.
# The first pair is within the precision of the point itself. The second is far enough to round anew even sums of large
# terms of which few digits are left.
_CLOUD = ((2.0, 0.0), (5.0, 1.0))
_TRIES = 30  # EM iterations from each start beside a point at which all classes coincide
_NEAR = 3  # probes that are measured again from each point of the cloud: one at each distance
_ROUGH = 1e-3  # of the information: with more rounding error than this, differences of gradients may be more accurate
_HESSIANS = 32  # coordinates; with more, the rounding error of curvature is not measured at a second point


class Value(NamedTuple):
    """A function and its gradient at one point."""

    value: float
    gradient: np.ndarray  # (P,)


class After(NamedTuple):
    """Measurements at the point after one EM iteration; q is the posterior at the point before it."""

    log_likelihood: Value | None
    expected: Value | None
    log_prior: Value
    evidence: float | None
    best: float  # Q + log-prior; for a point of the cloud, a few units beside the point after the iteration
    outside: np.ndarray  # (leaves,), how far each leaf lies outside its space, relative to its size
    maximized: np.ndarray | None  # (T,), the difference between maximize(statistics) and m_step
    near: np.ndarray | None  # (probes,), Q + log-prior at probes around the point after the iteration
    proposed: np.ndarray  # (P,), the whole step of the M-step from the point before, in the chart made there


class Near(NamedTuple):
    """Measurements at the probes around one point theta.

    theta' is a probe, q = e_step(theta) and q' = e_step(theta').
    """

    log_likelihoods: np.ndarray | None  # (probes,), L(theta')
    expected: np.ndarray | None  # (probes,), Q(theta' | q)
    other_elbos: np.ndarray | None  # (probes,), Q(theta | q') + H(q')
    other_divergences: np.ndarray | None  # (probes,), KL(q' || q)
    from_sums: np.ndarray | None  # (probes,), Q(theta' | q) - Q(theta | q) from the statistics alone


class Look(NamedTuple):
    """Everything that is measured at one point; ``None`` where the model lacks the functions for it."""

    log_likelihood: Value | None
    expected: Value | None  # Q(. | q) at q = e_step of this point, without the prior
    log_prior: Value
    entropy: float | None
    evidence: float | None  # log p(x), computed during the E-step
    after: After | None
    near: Near | None
    parts: Parts | None
    slope_from_sums: np.ndarray | None  # (P,), the gradient of Q from the statistics; None where the M-step maximises


class Measured(NamedTuple):
    """All measurements of one call of ``verify``."""

    size: float  # the number of observed values
    delta: np.ndarray  # (P,), the natural step of each coordinate at the given point
    delta_after: np.ndarray  # (P,), the same after one EM iteration
    conditioning: float  # by how many eps a scaled gradient changes when the parameters after an iteration are rounded
    reach: float  # the largest |log coordinate| after an iteration, at least 1: the chart rounds by that many eps
    here: Look
    cloud: tuple[Look, ...]  # in pairs, symmetric about the given point
    elsewhere: tuple[tuple[Look, Look], ...]  # after one EM iteration, then probes; each with a look beside it
    missing: tuple[np.ndarray, ...]  # (P, P), the Hessian of L - Q in natural steps: at the point and beside it
    surroundings: Surroundings | None  # the objective near the point; None where ``missing`` is empty
    differences: Callable[[], np.ndarray]  # computes ``missing[0]`` from differences of gradients
    relabelled: float | None  # the change in L when classes are permuted
    lengths: tuple[float, float] | None  # see ``looks_behind``
    no_parts: str  # why there are no ``parts``; empty where there are
    improving: np.ndarray  # (P,), which coordinates the M-step only improves


class _Place(NamedTuple):
    params: Params  # the parameters at which the chart is made
    u: np.ndarray  # (P,), the coordinates in that chart

    def moved(self, by: np.ndarray) -> "_Place":
        return self._replace(u=(self.u + by).astype(self.u.dtype))


class _Instrument:
    """Runs the compiled programs of one model and its data at a place, and returns double precision."""

    def __init__(self, model: Any, params: Params, data: Data) -> None:
        self.model, self.data = model, data
        self._has_prior = programs.has_prior(model, params)

    def _derivatives(self, function: Any, place: _Place, direction: np.ndarray | None, *more: Any) -> Any:
        direction = np.zeros_like(place.u) if direction is None else direction.astype(place.u.dtype)
        found = function(self.model, place.params, *more, place.u, direction)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)

    def log_likelihood(self, place: _Place, direction: np.ndarray | None = None) -> Any:
        if has(self.model, "log_likelihood"):
            return self._derivatives(programs.log_likelihood, place, direction, self.data)
        return None

    def expected(self, place: _Place, q: Any, direction: np.ndarray | None = None) -> Any:
        if has(self.model, "q_function"):
            return self._derivatives(programs.q_function, place, direction, self.data, q)
        return None

    def log_prior(self, place: _Place, direction: np.ndarray | None = None) -> programs.Derivatives:
        if self._has_prior:
            return self._derivatives(programs.log_prior, place, direction)
        return programs.Derivatives(np.float64(0), *[np.zeros(place.u.shape)] * 2)

    def penalized(self, place: _Place, q: Any, direction: np.ndarray | None = None) -> programs.Derivatives:
        """Q + log-prior; only the log-prior where the model has no Q."""
        prior = self.log_prior(place, direction)
        q_and_so_on = self.expected(place, q, direction)
        return prior if q_and_so_on is None else jax.tree.map(np.add, q_and_so_on, prior)

    def start(self, params: Params) -> programs.Start:
        random = np.random.default_rng(1)
        signs = jax.tree.map(lambda leaf: random.choice([-1.0, 1.0], leaf.shape).astype(leaf.dtype), params)
        return programs.start(self.model, params, signs)

    def posterior(self, place: _Place) -> Any:
        return programs.posterior(self.model, place.params, self.data, place.u).q

    def missing_information(self, place: _Place, size: float, exact: bool = True) -> np.ndarray:
        """The Hessian of L - Q, (P, P)."""
        q = self.posterior(place)
        expected = lambda at, direction=None: self.expected(at, q, direction)
        if exact:
            return self.hessian(self.log_likelihood, place, size) - self.hessian(expected, place, size)
        steps = [_step(expected, place, i, size) for i in range(place.u.shape[0])]
        return np.stack([_difference(self.log_likelihood, place, h) - _difference(expected, place, h) for h in steps])

    def hessian(self, function: Any, place: _Place, size: float) -> np.ndarray:
        """The Hessian (P, P), or with many coordinates its diagonal (P,), estimated by random signs (Hutchinson 1990).

        A row in which an intermediate result over- or underflows (1 / sigma^6 in float32) is replaced by a difference
        of gradients.
        """
        p = place.u.shape[0]
        if p > LARGEST_HESSIAN:
            signs = np.random.default_rng(0).choice([-1.0, 1.0], (16, p))
            return np.mean([row * function(place, row).product for row in signs], axis=0)
        rows = [function(place, row).product for row in np.eye(p)]
        for i in np.flatnonzero([not np.isfinite(row).all() for row in rows]):
            rows[i] = _difference(function, place, _step(function, place, int(i), size))
        return np.array(rows).reshape(p, p)


def _step(function: Any, place: _Place, i: int, size: float) -> np.ndarray:
    """The step along coordinate i for a difference of gradients: a small share of its error bar from a single value."""
    share = float(np.finfo(place.u.dtype).eps) ** 0.25
    h = share * max(abs(float(place.u[i])), 1.0)
    unit = np.eye(place.u.shape[0])[i]
    for _ in range(64):
        bend = abs(_difference(function, place, h * unit)[i])
        longest = share * np.sqrt(size / bend) if bend > 0 else np.inf
        if h <= 2 * longest:  # False for NaN
            break
        h = longest if longest > 0 else h / 8
    return h * unit


def _difference(function: Any, place: _Place, step: np.ndarray) -> np.ndarray:
    """The row of a Hessian along a step: the central difference of gradients."""
    ahead, behind = place.moved(step), place.moved(-step)
    apart = np.abs(ahead.u.astype(np.float64) - behind.u).max()
    return (function(ahead).gradient - function(behind).gradient) / apart


class _Looker:
    """Measures everything at a place, with the same probes around each place."""

    def __init__(self, run: _Instrument, portions: Portions, around: np.ndarray) -> None:
        self.run, self.portions, self.around = run, portions, around

    def at(
        self, place: _Place, near: int = 0, step: bool = True, parts: bool = False, beside: Any = 0.0
    ) -> tuple[Look, "_There | None"]:
        """The measurements at a place, and the place after one EM iteration (``None`` without one).

        ``near``: the number of probes; ``step``, ``parts``: whether to measure the EM iteration and the parts of the
        data; ``beside``: a shift of the values after the iteration. EM leads from all places of a cloud to nearly the
        same place, so without the shift their rounding error would not show.
        """
        run, model = self.run, self.run.model
        found = programs.posterior(model, place.params, run.data, place.u)
        entropy = _number(found.entropy)
        after = there = statistics = None
        if step and has_m_step(model):
            new = programs.step(model, place.params, run.data, found.q, place.u)
            statistics = new.statistics
            start = run.start(new.params)
            there = _There(_Place(new.params, np.asarray(start.u)), np.asarray(start.rounded, np.float64), found.q)
            after = self._after(there, start, new, near, beside)
        likelihood, expected = run.log_likelihood(place), run.expected(place, found.q)
        look = Look(
            _value(likelihood),
            _value(expected),
            _value(run.log_prior(place)),
            entropy,
            _number(found.evidence),
            after,
            self._near(place, found.q, near) if near and expected is not None else None,
            None,
            self._slope_from_sums(place, found.q),
        )
        if parts:
            whole = {"L": likelihood, "Q": expected, "H": look.entropy, "normaliser": look.evidence}
            sums = {name: getattr(value, "value", value) for name, value in whole.items() if value is not None}
            look = look._replace(parts=self.portions.at(place.params, place.u, sums, statistics))
        return look, there

    def _after(self, there: "_There", start: Any, new: Any, near: int, beside: Any) -> After:
        run, place = self.run, there.place
        shifted = place.moved(np.broadcast_to(beside, place.u.shape))
        evidence = None
        if not has(run.model, "log_likelihood"):
            evidence = _number(programs.posterior(run.model, place.params, run.data, place.u).evidence)
        outside = np.asarray(start.outside, np.float64)
        least = float(np.finfo(place.u.dtype).eps) ** 0.5  # the tolerance of the test for membership
        outside = np.where(np.asarray(start.inside), outside, np.maximum(outside, least))
        scores = [run.penalized(shifted.moved(by), there.q).value for by in self.around[:near]]
        return After(
            _value(run.log_likelihood(shifted)),
            _value(run.expected(place, there.q)),
            _value(run.log_prior(place)),
            evidence,
            float(run.penalized(shifted, there.q).value),
            outside,
            None if new.maximized is None else np.asarray(new.maximized, np.float64),
            np.array(scores) if scores else None,
            np.asarray(new.proposed, np.float64),
        )

    def _slope_from_sums(self, place: _Place, q: Any) -> np.ndarray | None:
        run, model = self.run, self.run.model
        if improving_of(model) is None or not has(model, "statistics", "expected_log_joint"):
            return None
        return np.asarray(programs.slope_from_sums(model, place.params, run.data, q, place.u), np.float64)

    def _near(self, place: _Place, q: Any, near: int) -> Near:
        run, model = self.run, self.run.model
        points = [place.moved(by) for by in self.around[:near]]
        likelihoods = divergences = elbos = None
        if has(model, "log_likelihood"):
            likelihoods = np.array([run.log_likelihood(point).value for point in points])
        others: list[Any] = []
        if has(model, "entropy"):
            others = [programs.posterior(model, point.params, run.data, point.u) for point in points]
            elbos = np.array([run.expected(place, o.q).value + float(o.entropy) for o in others])
            if has(model, "divergence"):
                divergences = np.array([float(programs.divergence(model, run.data, o.q, q)) for o in others])
        expected = np.array([run.expected(point, q).value for point in points])
        sums = None
        if has(model, "statistics", "maximize", "expected_log_joint"):
            by_sums = lambda u: float(programs.from_sums(model, place.params, run.data, q, u))
            sums = np.array([by_sums(point.u) for point in points]) - by_sums(place.u)
        return Near(likelihoods, expected, elbos, divergences, sums)


class _There(NamedTuple):
    """The place after one EM iteration."""

    place: _Place
    rounded: np.ndarray  # (P,), as in ``programs.Start``
    q: Any  # the posterior at the place before the iteration


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _value(found: Any) -> Any:
    return None if found is None else Value(float(found.value), found.gradient)


def measure(model: Any, params: Params, data: Data, key: Array, probes: int) -> Measured:
    """Measure ``model`` at ``params``, with ``probes`` random points around it."""
    run = _Instrument(model, params, data)
    programs.begin(model, params, data)
    first = run.start(params)
    place = _Place(params, np.asarray(first.u))
    p, eps = place.u.shape[0], float(np.finfo(place.u.dtype).eps)
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    known = programs.posterior(model, params, data, place.u)
    q, values = known.q, float(known.size)
    portions = Portions(model, data, values)
    programs.begin_rest(model, params, data, place.u, q, portions.data[0][0] if portions.data else None)
    complete = run.hessian(lambda at, row=None: run.penalized(at, q, row), place, values)
    delta = _natural_step(place.u, complete, values)
    # Probes at three distances, from well inside an error bar to outside it.
    factors = np.array([0.1, 1.0, 3.0])[np.arange(probes) % 3, None]
    around = random.normal(size=(probes, p)) * delta * factors / max(p, 1) ** 0.5

    looker = _Looker(run, portions, around)
    here, there = looker.at(place, near=probes, parts=True)
    rounding = eps * (np.abs(np.asarray(first.rounded, np.float64)) + np.abs(place.u) + delta)
    steps = [(k * rounding + share * eps**0.5 * delta) * random.choice([-1.0, 1.0], p) for k, share in _CLOUD]
    steps = [sign * np.where(np.isfinite(step), step, 0) for step in steps for sign in (1, -1)]
    cloud = tuple(
        looker.at(place.moved(by), near=_NEAR, parts=k < 2, beside=steps[k - 2])[0] for k, by in enumerate(steps)
    )

    delta_after, conditioning, reach, elsewhere = delta, 1.0, 1.0, []
    if there is not None:
        after = run.hessian(lambda at, row=None: run.penalized(at, there.q, row), there.place, values)
        delta_after = _natural_step(there.place.u, after, values)
        bent = run.penalized(there.place, there.q, there.rounded).product
        conditioning = _conditioning(np.abs(bent) * delta_after / values, eps)
        logs = edged(model, params)  # only log coordinates are rounded by the chart
        reach = max(1.0, float(np.abs(there.place.u[logs]).max(initial=0)))
        elsewhere.append((there.place, True))
    # Only at probes well inside an error bar is the M-step measured: further out a class may be empty.
    elsewhere += [(place.moved(by), k % 3 == 0) for k, by in enumerate(around[: _NEAR + 1])]
    look = lambda at, step: looker.at(at, step=step)[0]
    pairs = [(look(at, step), look(at.moved(steps[1]), step)) for at, step in elsewhere]

    missing: list[np.ndarray] = []
    if has(model, "log_likelihood", "q_function") and p <= LARGEST_HESSIAN:
        places = [place, *[place.moved(steps[0])] * (p <= _HESSIANS)]
        missing = _missing(run, places, delta, values)
    surroundings = None
    if missing:
        scale = delta[:, None] * delta[None, :] / values
        assert here.log_likelihood is not None
        slope = (here.log_likelihood.gradient + here.log_prior.gradient) * delta / values
        same = _posteriors_differ(run, place, q, here.entropy, values)
        surroundings = Surroundings(
            slope,
            -complete * scale,
            missing[0],
            ~np.asarray(living(model, params)),
            edged(model, params),
            values,
            max(eps, rounding_of(missing)),
            same,
            lambda: _gain(run, place, around, here),
        )
    return Measured(
        values,
        delta,
        delta_after,
        conditioning,
        reach,
        here,
        cloud,
        tuple(pairs),
        tuple(missing),
        surroundings,
        lambda: run.missing_information(place, values, exact=False) * delta[:, None] * delta[None, :] / values,
        relabelled(run, place),
        looks_behind(run, place, around),
        portions.why_not,
        improving(model, params),
    )


def _missing(run: _Instrument, places: list[_Place], delta: np.ndarray, size: float) -> list[np.ndarray]:
    """The Hessian of L - Q at each place, in natural steps.

    It is taken from differences of gradients where these have less rounding error, or where it is not finite.
    """
    scale = delta[:, None] * delta[None, :] / size
    found = [run.missing_information(place, size) * scale for place in places]
    if not rounding_of(found) <= _ROUGH:
        other = [run.missing_information(place, size, exact=False) * scale for place in places]
        if rounding_of(other) < rounding_of(found) or not np.isfinite(found[0]).all():
            return other
    return found


def rounding_of(matrices: Sequence[np.ndarray]) -> float:
    """The rounding error of the first matrix: its asymmetry, and its difference from the others, measured beside it."""
    first = matrices[0]
    apart = [first - first.T, *[other - first for other in matrices[1:]]]
    return float(np.max([np.abs(part).max(initial=0) for part in apart]))


def _posteriors_differ(run: _Instrument, place: _Place, q: Any, entropy: float | None, size: float) -> float:
    """KL per value between the posterior and that of the same observations in another order.

    NaN where it is unknown, and where the hidden variables do not belong to rows (such as the count of a cell that is
    observed in part), because the order of rows then has no meaning.
    """
    rows = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(run.data)}
    of_rows = any(jnp.ndim(leaf) > 1 and jnp.shape(leaf)[:1] in rows for leaf in jax.tree.leaves(q))
    if not of_rows or not has(run.model, "divergence") or entropy is None or not entropy > 0:
        return float("nan")
    other = programs.posterior(run.model, place.params, in_other_order(run.data), place.u).q
    return float(programs.divergence(run.model, run.data, q, other)) / size


def _gain(run: _Instrument, place: _Place, around: np.ndarray, here: Look) -> float:
    """The largest gain over the objective at a place that EM makes from probes beside it; 0 without an M-step."""
    best = 0.0
    if not has_m_step(run.model):
        return best
    before = run.log_likelihood(place).value + here.log_prior.value
    for by in around[:_NEAR]:
        at = place.moved(by)
        for _ in range(_TRIES):
            new = programs.step(run.model, at.params, run.data, run.posterior(at), at.u).params
            at = _Place(new, np.asarray(run.start(new).u))
        best = max(best, float(run.log_likelihood(at).value + run.log_prior(at).value - before))  # NaN: no gain
    return best


def _natural_step(u: np.ndarray, hessian: np.ndarray, data_size: float) -> np.ndarray:
    """delta_i = (size / -d^2 Q / du_i^2)^(1/2), (P,): about the error bar of u_i from a single value.

    A gradient times ``delta / size`` is then free of units and of the size of the data. Where Q is too flat to give a
    step, the step is max(|u_i|, 1).
    """
    largest = np.maximum(np.abs(u), 1).astype(np.float64)
    second = np.abs(np.diagonal(hessian) if hessian.ndim == 2 else hessian)
    steep = second > data_size / largest**2
    return np.where(steep, np.sqrt(data_size / np.where(steep, second, 1)), largest)


def _conditioning(moved: np.ndarray, eps: float) -> float:
    """The largest change, at least 1.

    It is eps^(-1/2) where it is not finite: rounding then takes the parameters out of their space, and only half of the
    digits can be asked for.
    """
    worst = float(moved.max(initial=0))
    return max(worst, 1.0) if np.isfinite(worst) else eps**-0.5
