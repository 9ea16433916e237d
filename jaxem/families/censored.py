"""Observations that are intervals: censored and grouped data."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.contexts import Context, choose
from jaxem.core.data import Data
from jaxem.core.records import register
from jaxem.families import arcs, coarse, observed, parts, protocol
from jaxem.families.protocol import impossible


class Read(NamedTuple):
    """Intervals (N, 2), with ends within the bounds of the family."""

    low: Array  # (N,); the whole support where the interval is a point or impossible
    high: Array  # (N,)
    point: Array  # (N,), the observation where it is exact, else some point of the interval that the family supports
    exact: Array  # (N,), whether low = high
    possible: Array  # (N,)
    partly: Array  # (N,), whether the interval is neither a point, nor the whole support, nor impossible


@register
@dataclasses.dataclass(frozen=True)
class Censored(parts.SeenInPart):
    r"""Another family, of whose observations only intervals are known.

    .. math:: \log p(l, h \mid k) = \begin{cases} \log f(l \mid k) & l = h \\
              \log P(l \le x \le h \mid k) & l < h \end{cases}, \qquad
              \text{E: } E[T(x) \mid l \le x \le h, k]

    The data are (N, 2), the two ends of each interval. ``low = high``: x is seen exactly; ``low = -inf``: x is censored
    on the left; ``high = inf``: on the right; both finite: x is known up to an interval, or grouped; neither: nothing
    is known, as if the observation were missing. Both ends belong to the interval, which matters for counts: (2, 4) is
    x = 2, 3 or 4, and a count above 7 is (8, inf). Ends beyond the support are the same as its ends. The intervals must
    not depend on x other than by containing it (censoring carries no information). An interval of angles is an arc,
    from low counter-clockwise to high, at most one turn above low; it has two ends or none.

    The hidden variable is x. The M-step is the family's own, on sums of expectations given the intervals.

    Arguments:
        family: ``Normal()``, ``LogNormal()``, ``Exponential()``, ``Gamma()``, ``Weibull()``, ``Poisson()``,
            ``NegativeBinomial()``, ``Binomial(n)``, ``Beta()``, ``StudentT()``, ``VonMises()``, or another family with
            the functions named in ``families/protocol.py`` for observations seen in part.
        edges: increasing cut points, if that is how the intervals arise: edges[i] <= x < edges[i + 1], or x lies
            below the first, or from the last on (for angles: between the last and the first). Simulations use it, the
            likelihood does not. Default: not known.
        limits: (low, high), if x is seen exactly between them and censored outside, as by ``limited``. Default: not
            known. Without either, ``sample`` draws exact observations, and a bootstrap by simulation is refused, since
            data do not say how exact observations would have been censored.

    Raises:
        ValueError: the family lacks these functions, or has a floor; ``edges`` do not increase, or span more than a
            turn; or ``limits`` too are given.

    Source: Dempster, Laird & Rubin (1977), section 4.2; Turnbull (1976) for the kinds of intervals.
    """

    family: Any
    edges: tuple[float, ...] | None = None
    limits: tuple[float, float] | None = None

    event_ndim: ClassVar[int] = 1
    dimensions: ClassVar[int] = 2
    partial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        parts.check("Censored", self.family)
        for name, ends in coarse.scheme(self.family, self.edges, self.limits).items():
            object.__setattr__(self, name, ends)

    @property
    def support(self) -> str:
        whole = ", with ends that are whole numbers or infinite" if self.whole else ""
        ends = "low <= high" if self.turn is None else f"low <= high <= low + {self.turn:.6g}, finite or both infinite"
        return f"two ends {ends}, between which there is {self.family.support}{whole},"

    @property
    def accurate(self) -> bool:
        return getattr(self.family, "accurate", False) and not self.whole

    @property
    def centred(self) -> bool:
        return getattr(self.family, "centred", False)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.family.bounds

    @property
    def whole(self) -> bool:
        return getattr(self.family, "whole", False)

    @property
    def turn(self) -> float | None:
        """2 pi of angles, else ``None``."""
        return getattr(self.family, "turn", None)

    @property
    def _some(self) -> float:
        """Some value that the family supports."""
        bottom, top = self.bounds
        return (bottom + top) / 2 if math.isfinite(top - bottom) and not self.whole else 1.0

    def declare(self) -> Any:
        return self.family.declare()

    def prepare(self, params: Any, x: Data | None) -> Context:
        return self.family.prepare(params, None)

    def _ends(self, x: Array) -> tuple[Array, Array]:
        """The ends of the intervals within the bounds of the family."""
        low, high = jnp.maximum(x[:, 0], self.bounds[0]), jnp.minimum(x[:, 1], self.bounds[1])
        return (low, high) if self.turn is None else arcs.ends(low, high, self.turn)

    def read(self, x: Array, dtype: Any) -> Read:
        x = x.astype(dtype)
        bottom, top = self.bounds
        low, high = self._ends(x)
        exact = x[:, 0] == x[:, 1]
        possible = self.supports(x)
        middle = self._middle(x)
        point = jnp.where(exact & possible, low, jnp.where(jnp.isnan(middle), self._some, middle))
        partly = possible & ~exact & ((low > bottom) | (high < top))
        return Read(jnp.where(partly, low, bottom), jnp.where(partly, high, top), point, exact, possible, partly)

    def log_density(self, c: Context, x: Array) -> Array:
        seen = self.read(x, jax.tree.leaves(c)[0].dtype)
        density = self._by_kind(seen, self.family.log_density(c, seen.point), self._log_mass(c, seen))
        return jnp.where(seen.possible[:, None], density, impossible(x, density.dtype)[:, None])

    def _log_mass(self, c: Context, seen: Read) -> Array:
        return self.log_interval(parts.by_rows(c), seen.low[:, None], seen.high[:, None])

    def _by_kind(self, seen: Read, exact: Array | float, partly: Array) -> Array:
        """(N, K), 0 where nothing is known."""
        return jnp.where(seen.partly[:, None], partly, jnp.where(seen.exact[:, None], exact, 0))

    def hidden(self, c: Context, x: Array) -> tuple[Any, parts.Part]:
        """What the family hides behind exact observations, and the posterior of x in its interval.

        All ones where they do not apply, so that divergences are zero.
        """
        seen = self.read(x, jax.tree.leaves(c)[0].dtype)
        where = lambda kind, tree: jax.tree.map(lambda leaf: jnp.where(kind[:, None], leaf, 1), tree)
        own = observed.hidden(self.family, c, seen.point)
        return where(seen.exact, own), where(seen.partly, parts.infer(self.family, c, seen.low, seen.high))

    def complete(self, c: Context, hidden: tuple[Any, parts.Part], x: Array) -> Array:
        own, part = hidden
        seen = self.read(x, jax.tree.leaves(c)[0].dtype)
        expected = self.expected_log_density(parts.by_rows(c), part.moments)
        density = self._by_kind(seen, observed.complete(self.family, c, own, seen.point), expected)
        return jnp.where(seen.possible[:, None], density, impossible(x, density.dtype)[:, None])

    def hidden_entropy(self, c: Context, hidden: tuple[Any, parts.Part], x: Array) -> Array:
        own, part = hidden
        seen = self.read(x, part.log_mass.dtype)
        exact = observed.hidden_entropy(self.family, c, own, seen.point) if jax.tree.leaves(own) else 0
        return self._by_kind(seen, exact, parts.entropy(self.family, part))

    def hidden_divergence(self, hidden: tuple[Any, parts.Part], other: tuple[Any, parts.Part]) -> Array:
        (own, part), (other_own, other_part) = hidden, other
        between = parts.divergence(self.family, part, other_part)
        return between + self.family.hidden_divergence(own, other_own) if jax.tree.leaves(own) else between

    def statistics(self, c: Context | None, r: Array, hidden: Any, x: Array) -> Any:
        """The family's sums; at a start, with some point of each interval in place of x."""
        if c is None:
            r, middle = self.stand_in(r, x)
            return self.family.statistics(None, r, (), middle)
        own, part = hidden
        seen = self.read(x, r.dtype)
        exact = self.family.statistics(c, jnp.where(seen.exact[:, None], r, 0), own, seen.point)
        partly = jnp.where(seen.partly[:, None], r, 0)
        return jax.tree.map(jnp.add, exact, self.expected_statistics(parts.by_rows(c), partly, part.moments))

    def stand_in(self, r: Array, x: Array) -> tuple[Array, Array]:
        """The middles of the intervals in place of observations; no weight where nothing is known."""
        middle = self._middle(x)
        known = ~jnp.isnan(middle)
        return jnp.where(known[:, None], r, 0), jnp.where(known, middle, self._some).astype(r.dtype)

    def features(self, x: Array) -> Array:
        middle = self._middle(x)
        return middle[:, None] if self.turn is None else self.family.features(middle)

    def _middle(self, x: Array) -> Array:
        """The middle of an interval, its finite end where there is one only, NaN where nothing is known; (N,)."""
        low, high = self._ends(x)
        nothing = (low <= self.bounds[0]) & (high >= self.bounds[1])
        both = jnp.isfinite(low) & jnp.isfinite(high)
        middle = jnp.where(both, low + (jnp.where(both, high, 0) - jnp.where(both, low, 0)) / 2, low)
        return jnp.where(nothing, jnp.nan, jnp.where(jnp.isfinite(low), middle, high))

    def supports(self, x: Array) -> Array:
        low, high = self._ends(x)
        exact = x[:, 0] == x[:, 1]
        if self.whole:
            ends = ((x == jnp.round(x)) | jnp.isinf(x)).all(axis=1)
            interval = ends & (low <= high) & jnp.isfinite(low)
        else:
            interval = low < high
        return jnp.where(exact, self.family.supports(x[:, 0]), interval)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the intervals ``x (N, 2)``; ``None`` where no reason is found."""
        middle = np.asarray(self._middle(jnp.asarray(x)))
        if np.isnan(middle).all():
            return "the likelihood of these data has no maximum, for no interval has an end"
        return protocol.diagnose(self.family, middle[~np.isnan(middle)], dtype)

    def sample(self, key: Array, params: Any, labels: Array) -> Array:
        """Intervals as ``edges`` or ``limits`` say; without these, exact observations (x, x)."""
        return self._coarse(self.family.sample(key, params, labels))

    def sample_like(self, key: Array, params: Any, labels: Array, x: Data) -> Array:
        """Intervals for ``labels``; refused where it is not known how intervals arise."""
        self.needs_scheme()
        return self.sample(key, params, labels)

    def needs_scheme(self) -> None:
        """Raise an error where it is not known how exact observations become intervals.

        Raises:
            ValueError: neither ``edges`` nor ``limits`` is given.
        """
        if self.edges is None and self.limits is None:
            raise ValueError(
                "Censored: data do not say how exact observations would have been censored; for simulated data like "
                "them give Censored(family, edges=...) or Censored(family, limits=...)"
            )

    def _coarse(self, x: Array) -> Array:
        return coarse.seen(self.family, x, self.edges, self.limits)

    def mean(self, params: Any) -> Array:
        """E x, (K,), of the observations whose intervals are known."""
        return self.family.mean(params)

    def filled(self, params: Any, r: Array, x: Array, key: Array | None) -> Array:
        """Each interval replaced by its mean, or with ``key`` by a draw, as (x, x).

        The mean is E[x | interval] under the class probabilities r (N, K).
        """
        c = self.family.prepare(params, None)
        seen = choose(c, lambda c: self.read(x, jax.tree.leaves(c)[0].dtype))
        if key is None:
            ends = seen.low[:, None], seen.high[:, None]
            found = choose(c, lambda c: self._mean(parts.by_rows(c), r, *ends))
        else:
            label_key, x_key = jax.random.split(key)
            labels = jax.random.categorical(label_key, jnp.log(r))
            found = self.family.sample_between(x_key, params, labels, seen.low, seen.high)
        return coarse.twice(jnp.where(seen.exact, seen.point, found).astype(x.dtype))

    def _mean(self, c: Any, r: Array, low: Array, high: Array) -> Array:
        if hasattr(self.family, "impute_between"):
            return self.family.impute_between(c, r, low, high)
        return (r * self.family.mean_between(c, low, high)).sum(axis=1)

    # What is asked of a family that is seen in part is answered by the family itself.

    def log_interval(self, c: Any, low: Array, high: Array) -> Array:
        return self.family.log_interval(c, low, high)

    def between(self, c: Any, low: Array, high: Array) -> Any:
        return self.family.between(c, low, high)

    def mean_between(self, c: Any, low: Array, high: Array) -> Array:
        return self.family.mean_between(c, low, high)

    def expected_log_density(self, c: Any, moments: Any) -> Array:
        return self.family.expected_log_density(c, moments)

    def expected_statistics(self, c: Any, r: Array, moments: Any) -> Any:
        return self.family.expected_statistics(c, r, moments)

    def sample_between(self, key: Array, params: Any, labels: Array, low: Array, high: Array) -> Array:
        return self._coarse(self.family.sample_between(key, params, labels, low, high))
