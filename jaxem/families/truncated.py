"""Observations that are recorded only where they lie between fixed limits: truncated data."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.contexts import Context, choose
from jaxem.core.data import Data
from jaxem.core.records import register
from jaxem.families import arcs, observed, parts, protocol
from jaxem.families.protocol import impossible
from jaxem.families.tails import Tails, by_intervals, refuse


class Tail(NamedTuple):
    """The draws beyond one limit that went unrecorded, for each recorded one."""

    odds: Array  # (N, K), their expected number, P(tail) / P(inside)
    moments: Any  # leaves (N, K), given that x lies in the tail


class Unseen(NamedTuple):
    """The posterior of the unrecorded draws: their number is geometric, and each lies outside the limits."""

    tails: tuple[Tail, ...]
    log_mass: Array  # (N, K), log P(inside)
    c: Any  # leaves (N, K), the context of the E-step


@register
@dataclasses.dataclass(frozen=True)
class Truncated(parts.SeenInPart):
    r"""Another family, whose observations are recorded only where they lie between two limits.

    .. math:: \log p(x \mid k) = \log f(x \mid k) - \log P_k, \qquad P_k = P(low \le x \le high \mid k)

    The hidden variables are the draws that went unrecorded before x was: a geometric number M, each with the density of
    the family outside the limits. Summed over both, f(x) (1 - P)^M is f(x) / P. So

    .. math:: E M = \frac{1 - P_k}{P_k}, \qquad
              \text{M: } \textstyle\sum_n r_{nk} \left( T(x_n) + E M\; E[T(y) \mid y \text{ outside}, k] \right)

    in place of the family's sums. In a mixture each component is truncated, and weights are those among recorded
    observations. (The weights before truncation are proportional to w_k / P_k: a mixture of truncated components is the
    same set of distributions as a truncated mixture.)

    Both limits are recorded values. For counts: ``Truncated(Poisson(), low=1)`` has no zeros. Data that are grouped as
    well are ``Truncated(Censored(family), ...)``; intervals are then cut at the limits. The likelihood has no maximum
    where the data look no more like the middle of a distribution than like its far tail; a fit then diverges slowly.

    Arguments:
        family: ``Normal()``, ``LogNormal()``, ``Exponential()``, ``Gamma()``, ``Weibull()``, ``Poisson()``,
            ``NegativeBinomial()``, ``Binomial(n)``, ``Beta()``, ``StudentT()``, ``VonMises()``, ``Censored(...)`` of
            one of them, or another family with the functions named in ``families/protocol.py`` for observations seen
            in part.
        low: the lowest value that is recorded; default: none.
        high: the highest value that is recorded; default: none. Angles are recorded on the arc from low
            counter-clockwise to high, at most one turn above it.

    Raises:
        ValueError: the family lacks these functions or has a floor, or no value lies between the limits, or they are
            no arc.

    Source: Dempster, Laird & Rubin (1977), section 4.2; McLachlan & Jones (1988) for mixtures.
    """

    family: Any
    low: float = dataclasses.field(default=-math.inf, metadata={"static": True})
    high: float = dataclasses.field(default=math.inf, metadata={"static": True})

    def __post_init__(self) -> None:
        parts.check("Truncated", self.family)
        for name in ("low", "high"):
            object.__setattr__(self, name, float(getattr(self, name)))
        low, high = max(self.low, self._bounds[0]), min(self.high, self._bounds[1])
        if self._turn is not None and low < high and (low, high) != self._bounds:
            arcs.check("Truncated", low, high, self._turn)
            low, high = self._bounds if arcs.closes(low, high, self._turn) else (low, high)
        if self._whole:
            low = low if math.isinf(low) else math.ceil(low)
            high = high if math.isinf(high) else math.floor(high)
        if not (low <= high if self._whole else low < high):
            raise ValueError(f"Truncated: no value lies between low = {self.low} and high = {self.high}")
        object.__setattr__(self, "low", float(low))
        object.__setattr__(self, "high", float(high))

    @property
    def _bounds(self) -> tuple[float, float]:
        return self.family.bounds

    @property
    def _whole(self) -> bool:
        return getattr(self.family, "whole", False)

    @property
    def _turn(self) -> float | None:
        return getattr(self.family, "turn", None)

    @property
    def event_ndim(self) -> int:
        return self.family.event_ndim

    @property
    def dimensions(self) -> int | None:
        """The number of columns that the family needs; ``None``: any."""
        return getattr(self.family, "dimensions", None)

    @property
    def support(self) -> str:
        return f"{self.family.support.rstrip(',')} from {self.low:g} to {self.high:g}"

    @property
    def accurate(self) -> bool:
        return getattr(self.family, "accurate", False) and not self._whole

    @property
    def centred(self) -> bool:
        return getattr(self.family, "centred", False)

    def declare(self) -> Any:
        return self.family.declare()

    def prepare(self, params: Any, x: Data | None) -> Context:
        return self.family.prepare(params, None)

    def _inside(self, x: Array) -> Array:
        """Intervals cut at the limits; single numbers as they are."""
        if self.event_ndim == 0:
            return x
        if self._turn is not None and math.isfinite(self.low):
            return jnp.stack(arcs.cut(x[:, 0], x[:, 1], self.low, self.high, self._turn), axis=1)
        return jnp.stack([jnp.maximum(x[:, 0], self.low), jnp.minimum(x[:, 1], self.high)], axis=1)

    def _log_mass(self, c: Context, low: float, high: float) -> Array:
        """log P(low <= x <= high), (1, K)."""
        return self.family.log_interval(parts.by_rows(c), *_ends(c, low, high))

    def _tails(self) -> list[tuple[float, float]]:
        """The intervals outside the limits."""
        if self._turn is not None:
            return [(self.high, self.low + self._turn)] if math.isfinite(self.low) else []
        (bottom, top), gap = self._bounds, 1.0 if self._whole else 0.0
        below = [(bottom, self.low - gap)] if self.low > bottom else []
        above = [(self.high + gap, top)] if self.high < top else []
        return below + above

    def log_density(self, c: Context, x: Array) -> Array:
        return self._cut(x, self.family.log_density(c, self._inside(x)) - self._log_mass(c, self.low, self.high))

    def _cut(self, x: Array, density: Array) -> Array:
        return jnp.where(self.supports(x)[:, None], density, impossible(x, density.dtype)[:, None])

    def hidden(self, c: Context, x: Array) -> tuple[Any, Unseen]:
        """What the inner family hides, and the unrecorded draws, which do not depend on x."""
        inner = observed.hidden(self.family, c, self._inside(x))
        inside = self._log_mass(c, self.low, self.high)
        tails = []
        for low, high in self._tails():
            moments = self.family.between(parts.by_rows(c), *_ends(c, low, high))
            tails.append(Tail(jnp.exp(self._log_mass(c, low, high) - inside), moments))
        unseen = Unseen(tuple(tails), inside, parts.by_rows(c))
        return inner, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (x.shape[0], *leaf.shape[1:])), unseen)

    def _unseen(self, c: Any, unseen: Unseen) -> Array:
        """E sum_i log f(y_i), (N, K), over the unrecorded draws y."""
        of = self.family.expected_log_density
        return sum((tail.odds * of(c, tail.moments) for tail in unseen.tails), start=jnp.zeros_like(unseen.log_mass))

    def complete(self, c: Context, hidden: tuple[Any, Unseen], x: Array) -> Array:
        inner, unseen = hidden
        x_in = self._inside(x)
        seen = (
            self.family.complete(c, inner, x_in)
            if hasattr(self.family, "complete")
            else self.family.log_density(c, x_in)
        )
        return self._cut(x, seen + self._unseen(parts.by_rows(c), unseen))

    def hidden_entropy(self, c: Context, hidden: tuple[Any, Unseen], x: Array) -> Array:
        inner, unseen = hidden
        own = -unseen.log_mass - self._unseen(unseen.c, unseen)
        if not hasattr(self.family, "hidden_entropy"):
            return own
        return own + self.family.hidden_entropy(c, inner, self._inside(x))

    def hidden_divergence(self, hidden: tuple[Any, Unseen], other: tuple[Any, Unseen]) -> Array:
        (inner, unseen), (other_inner, other_unseen) = hidden, other
        draws = parts.difference(self._unseen(unseen.c, unseen), self._unseen(other_unseen.c, unseen))
        own = draws + (unseen.log_mass - other_unseen.log_mass)
        if not hasattr(self.family, "hidden_divergence"):
            return own
        return own + self.family.hidden_divergence(inner, other_inner)

    def statistics(self, c: Context | None, r: Array, hidden: Any, x: Array) -> Any:
        """The family's sums over recorded and unrecorded draws; at a start over the recorded ones alone."""
        inner, unseen = hidden if c is not None else ((), None)
        found = self.family.statistics(c, r, inner, self._inside(x))
        for tail in unseen.tails if unseen is not None else ():
            more = self.family.expected_statistics(parts.by_rows(c), r * tail.odds, tail.moments)
            found = jax.tree.map(jnp.add, found, more)
        return found

    def tails(self, c: Context, x: Array) -> Tails:
        if self.event_ndim or (self._turn is not None and math.isinf(self.low)):
            refuse(self)
        mass = self._log_mass(c, self.low, self.high)
        x = self._turned(x.astype(mass.dtype))[:, None]
        return by_intervals(self.family, parts.by_rows(c), x, self.low, self.high, mass)

    def features(self, x: Array) -> Array:
        return self.family.features(self._inside(x))

    def supports(self, x: Array) -> Array:
        inside = self._inside(x)
        possible = self.family.supports(inside)
        if self.event_ndim:
            return possible
        x = self._turned(x)
        return possible & (x >= self.low) & (x <= self.high)

    def _turned(self, x: Array) -> Array:
        """Angles near the recorded arc; other numbers as they are."""
        return x if self._turn is None or math.isinf(self.high) else arcs.turned(x, self.high, self._turn)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x``; ``None`` where no reason is found."""
        return protocol.diagnose(self.family, np.asarray(self._inside(jnp.asarray(x))), dtype)

    def sample(self, key: Array, params: Any, labels: Array) -> Array:
        return self.family.sample_between(key, params, labels, self.low, self.high)

    def sample_like(self, key: Array, params: Any, labels: Array, x: Data) -> Array:
        """Recorded values; intervals where it is known how they arise (see ``Censored``)."""
        if self.event_ndim:
            self.family.needs_scheme()
        return self.sample(key, params, labels)

    def mean(self, params: Any) -> Array:
        """E[x | low <= x <= high], (K,): of recorded observations."""
        return choose(self.prepare(params, None), self._mean)

    def _mean(self, c: Context) -> Array:
        return self.family.mean_between(parts.by_rows(c), *_ends(c, self.low, self.high))[0]

    @property
    def partial(self) -> bool:
        return getattr(self.family, "partial", False)

    def filled(self, params: Any, r: Array, x: Array, key: Array | None) -> Array:
        """The intervals replaced by means or draws; see ``Censored``."""
        return self.family.filled(params, r, self._inside(x), key)


def _ends(c: Context, low: float, high: float) -> tuple[Array, Array]:
    dtype = jax.tree.leaves(c)[0].dtype
    return jnp.full((1, 1), low, dtype), jnp.full((1, 1), high, dtype)
