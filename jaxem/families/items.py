r"""Answers to the items of a test, given the ability of a person: logistic curves with slopes and thresholds.

With u_j = slope * ability + b_j for the thresholds b_1 > b_2 > ... of an item and F the logistic function, an answer of
level l or more has probability F(u_l). The probability of level l factors,

.. math:: F(u_l) - F(u_{l+1}) = F(u_l)\, F(-u_{l+1})\, (1 - e^{-(b_l - b_{l+1})}),

so that nothing cancels, and Q is a sum of binary logistic terms, one for each threshold, and of terms in the gaps
alone. It is concave in slopes and thresholds.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import newton
from jaxem.core.data import Data, values_of
from jaxem.core.matrices import product
from jaxem.core.parameters import Param
from jaxem.core.spaces import Decreasing, Real
from jaxem.families.categorical import Categorical, CategoricalStatistics
from jaxem.families.newton import settle

_SHARES = 12  # how often a step is halved at most


class ItemResponseParams(NamedTuple):
    """The parameters of items."""

    slopes: Array  # (D,); () where all items share one
    intercepts: Any  # (D,) of items with two levels; else for each item (levels_d - 1,), decreasing


class ItemContext(NamedTuple):
    at: ItemResponseParams
    log_probabilities: Array  # (Q, sum of levels), of each level of each item at each node


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Items:
    """D items at Q nodes of ability. The classes are the nodes; all nodes share the parameters.

    Arguments:
        positions: the abilities at the nodes, a tuple of Q numbers.
        levels: the number of levels of each item; ``None`` (default): items with two levels, as many as columns.
        common: whether all items share one slope; default False.

    Source: Samejima (1969); Bock & Aitkin (1981).
    """

    positions: tuple[float, ...]
    levels: tuple[int, ...] | None = None
    common: bool = False

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("observed",)
    support: ClassVar[str] = "codes from 0 to levels - 1 of each item"

    def declare(self) -> ItemResponseParams:
        slopes = Param.of(Real(), "" if self.common else "D")
        if self.levels is None:
            return ItemResponseParams(slopes, Param.of(Real(), "D"))  # pyright: ignore[reportArgumentType]
        each = (Param(Decreasing(), (levels - 1,), column=d) for d, levels in enumerate(self.levels))
        return ItemResponseParams(slopes, tuple(each))  # pyright: ignore[reportArgumentType]

    def codes(self, d: int) -> Categorical:
        """The same d columns as codes, whose probabilities are free at each node."""
        return Categorical((2,) * d if self.levels is None else self.levels)

    def _flat(self, params: ItemResponseParams) -> tuple[Array, Array]:
        """Slopes (D,) or (1,), and all thresholds one after the other, (J,)."""
        b = params.intercepts if self.levels is None else jnp.concatenate(params.intercepts)
        return params.slopes.reshape(-1), b

    def _shaped(self, a: Array, b: Array) -> ItemResponseParams:
        a = a.reshape(()) if self.common else a
        if self.levels is None:
            return ItemResponseParams(a, b)
        return ItemResponseParams(a, tuple(jnp.split(b, np.cumsum(np.array(self.levels) - 1)[:-1])))

    def _places(self, d: int) -> "_Places":
        return _places(self.codes(d).levels, self.common)

    def predictor(self, params: ItemResponseParams, ability: Array) -> Array:
        """slope * ability + threshold, (N, J), at abilities (N,)."""
        a, b = self._flat(params)
        return _predictor(self._places(_items(params)), a, b, ability)

    def prepare(self, params: ItemResponseParams, x: Data | None) -> ItemContext:
        return ItemContext(params, self._table(params))

    def _table(self, params: ItemResponseParams) -> Array:
        """log p of each level of each item at each node, (Q, sum of levels)."""
        return self.log_probabilities(params, jnp.asarray(self.positions, params.slopes.dtype))

    def log_probabilities(self, params: ItemResponseParams, ability: Array) -> Array:
        """log p of each level of each item, (N, sum of levels), at abilities (N,)."""
        a, b = self._flat(params)
        places = self._places(_items(params))
        u = _predictor(places, a, b, ability)
        above, below = (jnp.asarray(pick, b.dtype) for pick in (places.above, places.below))
        gaps = product(_log_gap(places, b)[None, :], above)
        return product(jax.nn.log_sigmoid(u), above) + product(jax.nn.log_sigmoid(-u), below) + gaps

    def log_density(self, c: ItemContext, x: Data) -> Array:
        """log p(answers of n | node q), (N, Q), of the items that were answered."""
        return self.codes(values_of(x).shape[1]).log_density(c.log_probabilities, x)

    def statistics(self, c: Any, r: Array, hidden: Any, x: Data) -> CategoricalStatistics:
        """How often each level of each item is expected at each node, (Q, sum of levels)."""
        return self.codes(values_of(x).shape[1]).statistics(None, r, (), x)

    def expected(self, c: Any, params: ItemResponseParams, sums: CategoricalStatistics) -> Array:
        return (sums.counts * self._table(params)).sum()

    def maximize(self, c: ItemContext, sums: CategoricalStatistics) -> ItemResponseParams:
        """The maximiser for the expected counts, by Newton's method from the parameters of the E-step."""
        places, t = self._places(_items(c.at)), jnp.asarray(self.positions, sums.counts.dtype)
        above, below = (product(sums.counts, jnp.asarray(pick.T, t.dtype)) for pick in (places.above, places.below))
        given = above, below, t
        return self._shaped(*settle(lambda y, given: _newton(places, y, given), self._flat(c.at), given))

    def start(self, shares: Array, slopes: Array) -> ItemResponseParams:
        """Parameters under which level l of item d has about the share that was observed.

        ``shares (sum of levels)`` are those of the levels of each item; ``slopes`` (D,) or (1,).
        """
        d = shares.shape[0] // 2 if self.levels is None else len(self.levels)
        places = self._places(d)
        most = jnp.asarray(places.reaches, shares.dtype) @ shares  # the share of level l or more
        b = jnp.log(most) - jnp.log1p(-most)
        # A normal ability with this slope flattens the curve: the logistic is close to a normal of variance 2.9.
        b = b * jnp.sqrt(1 + (jnp.asarray(places.item, b.dtype) @ slopes) ** 2 / 2.9)
        return self._shaped(slopes, b)

    def features(self, x: Data) -> Array:
        return self.codes(values_of(x).shape[1]).features(x)

    def supports(self, x: Data) -> Array:
        return self.codes(values_of(x).shape[1]).supports(x)

    def answers(self, key: Array, params: ItemResponseParams, ability: Array) -> Array:
        """One answer to each item, (N, D), of persons with abilities (N,): the number of thresholds passed."""
        places = self._places(_items(params))
        u = self.predictor(params, ability)
        noise = jax.random.logistic(key, (u.shape[0], places.owner.shape[1]), u.dtype)
        owner = jnp.asarray(places.owner, u.dtype)
        return product((u + product(noise, owner.T) > 0).astype(u.dtype), owner)

    def sample(self, key: Array, params: ItemResponseParams, labels: Array) -> Array:
        return self.answers(key, params, jnp.asarray(self.positions, jax.tree.leaves(params)[0].dtype)[labels])


class _Places(NamedTuple):
    """How thresholds, items and levels belong together: 0/1 matrices."""

    item: np.ndarray  # (J, number of slopes), the slope of each threshold
    owner: np.ndarray  # (J, D), the item of each threshold
    above: np.ndarray  # (J, sum of levels), the level just above each threshold
    below: np.ndarray  # (J, sum of levels), the level just below it
    reaches: np.ndarray  # (J, sum of levels), all levels above it
    followed: np.ndarray  # (J,), whether the next threshold is of the same item


@functools.cache
def _places(levels: tuple[int, ...], common: bool) -> _Places:
    first = np.cumsum([0, *levels])
    thresholds = [(d, level) for d, number in enumerate(levels) for level in range(1, number)]
    items, own = (np.array(numbers) for numbers in zip(*thresholds, strict=True))
    place, everywhere = first[items] + own, np.arange(first[-1])
    at = lambda place: (everywhere[None, :] == place[:, None]).astype(float)
    owner = (np.arange(len(levels))[None, :] == items[:, None]).astype(float)
    ends = first[items + 1]
    reaches = (everywhere[None, :] >= place[:, None]) & (everywhere[None, :] < ends[:, None])
    item = np.ones((len(items), 1)) if common else owner
    return _Places(item, owner, at(place), at(place - 1), reaches.astype(float), place + 1 < ends)


def _items(params: ItemResponseParams) -> int:
    """D, the number of items."""
    return len(params.intercepts) if isinstance(params.intercepts, tuple) else params.intercepts.shape[0]


def _predictor(places: _Places, a: Array, b: Array, t: Array) -> Array:
    return t[:, None] * product(jnp.asarray(places.item, a.dtype), a)[None, :] + b[None, :]


def _gap(places: _Places, b: Array) -> Array:
    """b_j - b_{j+1}, (J,); 1 for the last threshold of an item."""
    return jnp.where(places.followed, b - jnp.roll(b, -1), 1)


def _log_gap(places: _Places, b: Array) -> Array:
    """log(1 - exp(b_{j+1} - b_j)), (J,); 0 for the last threshold of an item."""
    return jnp.where(places.followed, jnp.log(-jnp.expm1(-_gap(places, b))), 0)


def _newton(places: _Places, y: tuple[Array, Array], given: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """One Newton step in slopes a and thresholds b; shorter where Q would fall or thresholds would cross.

    ``given``: the expected counts just above and below each threshold at each node, (Q, J), and the abilities (Q,).
    """
    (a, b), (above, below, t) = y, given
    item = jnp.asarray(places.item, b.dtype)
    # A level between two thresholds counts once in the gap.
    middle = jnp.where(places.followed, above.sum(axis=0), 0)

    def objective(a: Array, b: Array) -> Array:
        u = _predictor(places, a, b, t)
        logistic = (above * jax.nn.log_sigmoid(u) + below * jax.nn.log_sigmoid(-u)).sum()
        return logistic + (middle * _log_gap(places, b)).sum()

    u = _predictor(places, a, b, t)
    f, rest = jax.nn.sigmoid(u), jax.nn.sigmoid(-u)
    e, m = above * rest - below * f, above + below
    w = m * f * rest
    gap = _gap(places, b)
    slope, curvature = middle / jnp.expm1(gap), middle / (2 * jnp.sinh(gap / 2)) ** 2
    score_b = e.sum(axis=0) + slope - jnp.roll(slope, 1)  # the last entry of slope is zero
    within = jnp.diag(w.sum(axis=0) + curvature + jnp.roll(curvature, 1))
    off = jnp.roll(jnp.diag(curvature), 1, axis=1)
    of_slopes = product(item.T, t @ e)
    crossed = item.T * (t @ w)[None, :]
    information = jnp.block(
        [[jnp.diag(product(item.T, t**2 @ w)), crossed], [crossed.T, within - off - off.T]],
    )
    n = m.sum(axis=0)
    most = jnp.concatenate([product(item.T, t**2 @ m), n + curvature + jnp.roll(curvature, 1)])
    step = newton.step(jnp.concatenate([of_slopes, score_b]), information, most, n.max())
    da, db = step[: a.size], step[a.size :]

    with_gap = jnp.where(places.followed, db - jnp.roll(db, -1), 0)
    room = jnp.where(with_gap < 0, 0.9 * gap / jnp.where(with_gap < 0, -with_gap, 1), 1).min()
    shares = jnp.minimum(room, 1) * 0.5 ** jnp.arange(_SHARES, dtype=b.dtype)
    now = objective(a, b)
    found = jax.vmap(lambda share: objective(a + share * da, b + share * db))(shares)
    slack = 16 * jnp.finfo(b.dtype).eps * jnp.abs(now)
    share = jax.lax.stop_gradient(shares[(found >= now - slack).argmax()])
    return a + share * da, b + share * db
