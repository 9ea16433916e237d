"""Squared extrapolation (Varadhan & Roland 2008, *Simple and globally convergent methods for accelerating EM*)."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms import extrapolation
from jaxem.algorithms.em import EM, climbed, proposed
from jaxem.algorithms.protocol import Climber, State
from jaxem.core import parameters, trees
from jaxem.core.checks import brief, number
from jaxem.core.coordinates import all_into, chart, into
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.core.records import register


class Memory(NamedTuple):
    """What SQUAREM carries from one iteration to the next."""

    inner: State  # state of the accelerated algorithm, at the same parameters
    length: Array  # step length of the last leap that was not refused
    longest: Array  # greatest step length s allowed
    steps: Array  # (p,), longest step of each coordinate so far


class _Leap(NamedTuple):
    """Where an iteration goes after two steps."""

    params: Params
    length: Array  # s
    bold: Array  # whether it goes further than the two steps
    steps: Array  # (p,), longest step of each coordinate so far


@register
@dataclasses.dataclass(frozen=True)
class SQUAREM:
    r"""Squared extrapolation: two steps of another algorithm, a leap along the parabola through them, and a third step.

    In unconstrained coordinates u, with M the map of the inner algorithm,

    .. math:: r = M(u) - u,\quad v = M(M(u)) - M(u) - r,\quad u' = M(u + (s + t)\, r + s\, t\, v) .

    The step length s is at least 1; at s = t = 1 the leap ends at M(M(u)). The greatest length allowed is 1 at first,
    grows by the factor ``growth`` whenever a leap of that length succeeds, and is halved when a leap fails.

    In the paper t = s. The leap then multiplies the distance to the optimum by (1 - s (1 - rate))^2, for each rate at
    which M shrinks it: a long leap cancels a slow direction and stretches a fast one, by so much that it often fails or
    the next leap must be a short one. Scheme 1 therefore takes for t the length of the leap before, so that two
    successive lengths meet in one leap: (1 - s (1 - rate)) (1 - t (1 - rate)) is small in both directions. Where s is
    the greatest length allowed, which says little about any rate, t = s.

    An iteration that ends with a lower objective than M(u), or outside the model, is replaced by M(u) and counted in
    ``fit.fallbacks``, so the objective never falls. An iteration costs three evaluations. Coordinates that have units,
    such as means, are measured by their own steps, so units change no decision. The model must have an objective.

    Arguments:
        inner: the algorithm to accelerate; default ``EM()``. It must be monotone, draw no random numbers, and have
            ``before``, ``propose`` and ``move``.
        scheme: the step length s = -r'v / v'v (1, the default), -r'r / r'v (2), or \|r\| / \|v\| (3); schemes 2 and 3
            always have t = s.
        growth: factor by which the greatest length grows, at least 1; default 4.

    Raises:
        ValueError: ``scheme`` is not 1, 2 or 3, ``growth`` is not a number of at least 1, or ``inner`` cannot be
            accelerated.

    Source: Varadhan & Roland (2008); a step length used again one iteration later: Friedlander, Martinez, Molina &
    Raydan (1999), *Gradient method with retards and generalizations*.
    """

    inner: Climber = dataclasses.field(default_factory=EM)
    scheme: int = dataclasses.field(default=1, metadata={"static": True})
    growth: float = 4.0

    monotone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.scheme, bool) or self.scheme not in (1, 2, 3):
            raise ValueError(f"SQUAREM: scheme must be 1, 2 or 3; it is {brief(self.scheme)}")
        number("SQUAREM: growth", self.growth, 1, math.inf)
        extrapolation.check_inner("SQUAREM", self.inner)

    def random(self) -> bool:
        return False

    @property
    def exact(self) -> bool:
        """Whether the objective of the inner algorithm is the log-likelihood (plus the log-prior) itself."""
        return getattr(self.inner, "exact", False)

    def requires(self) -> tuple[str, ...]:
        return (*self.inner.requires(), "objective")

    def sums(self, state: State) -> tuple[Params, Any] | None:
        return self.inner.sums(state.memory.inner) if hasattr(self.inner, "sums") else None  # pyright: ignore

    def before(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return _start(model, params, self.inner.before(model, params, data, key))

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return _start(model, params, self.inner.init(model, params, data, key))

    def step(self, model: Any, state: State, data: Data, begins: Array | bool = False) -> State:
        inner, before, longest, steps = state.memory

        def evaluate(number: Array, carry: tuple[State, State, _Leap]) -> tuple[State, State, _Leap]:
            """One of the three evaluations of an iteration; they share one compiled E-step."""
            at, middle, leap = carry
            params, found = proposed(self.inner, model, at, data, begins)
            leaps = number == 1
            leap = jax.lax.cond(leaps, lambda: self._leap(model, state, at.params, params), lambda: leap)
            new = climbed(self.inner, model, found, trees.select(leaps, leap.params, params), data, judged=~leaps)
            return new, trees.select(number == 0, new, middle), leap

        # At the start only the last evaluation is made; three equal ones beside lanes that do not begin.
        first = jnp.where(extrapolation.in_all_lanes(jnp.asarray(begins)), 2, 0)
        stay = _Leap(state.params, before, jnp.bool_(False), steps)
        end, middle, leap = jax.lax.fori_loop(first, 3, evaluate, (inner, inner, stay))
        end = end._replace(evaluations=jnp.where(begins, 1, end.evaluations))

        assert middle.objective is not None
        may_fall = leap.bold | (parameters.improving_of(model) is not None)
        refused = may_fall & ~extrapolation.passes(model, end, middle.objective, data) & ~jnp.asarray(begins)
        back = middle._replace(evaluations=end.evaluations, fallbacks=end.fallbacks + 1)
        grown = jnp.where(leap.length == longest, longest * jnp.asarray(self.growth, longest.dtype), longest)
        grown = jnp.where(refused, jnp.maximum(longest / 2, 1), grown)
        end = trees.select(refused, back, end)
        length = jnp.where(refused, before, leap.length)
        return end._replace(memory=Memory(end, length, jnp.where(begins, longest, grown), leap.steps))

    def _leap(self, model: Any, state: State, once: Params, twice: Params) -> _Leap:
        """The leap from ``state`` along the parabola through M(u) and M(M(u))."""
        _, before, longest, steps = state.memory
        # The chart is that of the second step, so that what an iteration has set to exactly zero stays zero.
        u0, u1, u2 = all_into(model, (state.params, once, twice), twice)
        r, v = u1 - u0, u2 - 2 * u1 + u0
        steps = extrapolation.longest_steps(r, steps)
        unit = extrapolation.units(model, u1, twice, steps)
        s = jnp.clip(self._length(r / unit, v / unit), 1, longest)
        t = jnp.where(s < longest, jnp.minimum(before, longest), s) if self.scheme == 1 else s
        bold = jnp.maximum(s, t) > 1
        end = chart(model, twice)(u0 + (s + t) * r + s * t * v)
        return _Leap(trees.select(bold, end, twice), s, bold, steps)

    def _length(self, r: Array, v: Array) -> Array:
        rr, rv, vv = r @ r, r @ v, v @ v
        above, below = {1: (-rv, vv), 2: (rr, -rv), 3: (jnp.sqrt(rr), jnp.sqrt(vv))}[self.scheme]
        length = above / jnp.where(below == 0, 1, below)
        return jnp.where((below > 0) & jnp.isfinite(length), length, 1)


def _start(model: Any, params: Params, inner: State) -> State:
    """The state at the start, from that of the accelerated algorithm."""
    u = into(model, params)
    one = jnp.ones((), u.dtype)
    return inner._replace(memory=Memory(inner, one, one, jnp.zeros_like(u)))
