"""Laws about data: sums over observations add up over parts, and weights, lengths and labels act as they should."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.core import trees
from jaxem.core.data import Data, Dataset, count, lengths_of, split_weights, values_of, with_weights
from jaxem.core.model import has, is_additive
from jaxem.inference.verify import programs


class Parts(NamedTuple):
    """The difference between each sum and the total of its parts, relative to the terms added."""

    names: tuple[str, ...]
    halves: np.ndarray
    means: np.ndarray  # the difference from the mean of the parts instead
    weights: np.ndarray | None  # the same for a split of the weights into two parts; None without weights
    ignored: bool  # whether two parts with different rows have equal sums


def adds_up(model: Any) -> bool:
    """Whether the model declares that rows of the data are independent observations."""
    return is_additive(model) or has(model, "log_prob")


class Portions:
    """The sums of a model over parts of its data, all of one shape, so that one compiled program serves them.

    With h = ceil(N / 2) rows in a part, f(first h) + f(last h) = f(all) + f(middle row) where N is odd, and f(middle
    row) = f(h copies of it) / h. For a single observation, f(x, x) = 2 f(x).
    """

    def __init__(self, model: Any, data: Data, size: float) -> None:
        self.model, self.size = model, size
        data = jax.tree.map(np.asarray, data)  # slicing NumPy arrays compiles nothing
        self.data: list[tuple[Data, float, float]] = []  # a part, its coefficient in the sum and in the mean
        self.weights: list[Data] = []
        self.why_not, self.differ = "", False
        try:
            n = count(data)
        except ValueError as error:
            self.why_not = str(error)
            return
        h = -(-n // 2)
        if n == 1:
            self.data = [(_rows(data, np.zeros(2, int)), 0.5, 1.0)]
            return
        halves = [np.arange(h), np.arange(n - h, n)]
        self.data = [(_rows(data, index), 1.0, h / n) for index in halves]
        if n % 2:
            self.data.append((_rows(data, np.full(h, n // 2)), -1 / h, -1 / n))
        first, second = self.data[0][0], self.data[1][0]
        same = jax.tree.map(np.array_equal, first, second)
        self.differ = not all(jax.tree.leaves(same))
        observations, weights = split_weights(first)
        if weights is not None:
            self.weights = [with_weights(observations, part) for part in _split(weights)]

    def at(self, params: Any, u: np.ndarray, whole: dict[str, Any], statistics: Any) -> Parts | None:
        """The gaps at one point; ``whole`` and ``statistics`` are the sums over all data."""
        if not self.data:
            return None
        run = lambda part: programs.portion(self.model, params, part, u)
        try:
            found = [(run(part), share, weight) for part, share, weight in self.data]
            split = [run(part) for part in self.weights]
        except Exception as error:  # a user's functions may raise anything on a part
            self.data, self.why_not = [], f"they do not take a part of the data: {type(error).__name__}: {error}"
            return None
        whole = dict(whole)
        if statistics is not None:
            whole["statistics"] = statistics
        names, everything = _named(whole)
        parts = [_named(sums)[1] for sums, _, _ in found]
        halves = self._gaps(names, everything, parts, [share for _, share, _ in found])
        means = self._gaps(names, everything, parts, [weight for _, _, weight in found])
        weights = None
        if split:
            weights = self._gaps(names, parts[0], [_named(sums)[1] for sums in split], [1.0, 1.0])
        (first, *_), (second, *_) = found[0], found[1] if len(found) > 1 else found[0]
        equal = [float(first[name]) == float(second[name]) for name in ("L", "normaliser") if name in first]
        return Parts(names, halves, means, weights, bool(equal and equal[0] and self.differ))

    def _gaps(self, names: Any, whole: list[np.ndarray], parts: list[Any], shares: list[float]) -> np.ndarray:
        return np.array(
            [self._gap(name, whole[i], [p[i] for p in parts], shares) for i, name in enumerate(names)], np.float64
        )

    def _gap(self, name: str, whole: np.ndarray, parts: list[np.ndarray], shares: list[float]) -> float:
        added = sum(share * part for share, part in zip(shares, parts, strict=True))
        largest = lambda a: float(np.abs(a).max(initial=0))
        scale = sum(abs(share) * largest(part) for share, part in zip(shares, parts, strict=True))
        floor = np.finfo(np.float64).tiny if name.startswith("statistics") else self.size + largest(whole)
        return largest(added - whole) / max(scale, floor) if np.isfinite(scale) else np.nan


def _split(weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the weights, unequal and varying from row to row, of the same dtype."""
    share = np.where(np.arange(len(weights)) % 2, 0.25, 0.75)
    part = np.asarray(weights * share).astype(weights.dtype)
    return part, weights - part


def _rows(data: Data, index: np.ndarray) -> Data:
    return jax.tree.map(lambda leaf: leaf[index], data)


def _named(sums: dict[str, Any]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(sums)]
    return tuple(trees.leaf_names(sums)), leaves


def relabelled(run: Any, place: Any) -> float | None:
    """The change in L when classes are permuted; ``None`` where the model cannot do that."""
    if not has(run.model, "permute", "label_keys", "log_likelihood"):
        return None
    other = programs.permuted(run.model, place.params)
    there = place._replace(params=other, u=np.asarray(run.start(other).u))
    before, after = run.log_likelihood(place).value, run.log_likelihood(there).value
    return float(after - before)


def looks_behind(run: Any, place: Any, around: np.ndarray) -> tuple[float, float] | None:
    """The change in L with the values beyond a length; and 0 if L changes with the last step, else 1.

    Each length is first reduced by one, so that there is a value beyond each. ``None`` where there are no lengths, or
    no length exceeds one.
    """
    observations, weights = split_weights(jax.tree.map(np.asarray, run.data))
    lengths = lengths_of(observations)
    values = values_of(observations)
    if lengths is None or not isinstance(values, np.ndarray) or not has(run.model, "log_likelihood"):
        return None
    lengths = np.asarray(lengths)
    counts = (lengths > 1) if weights is None else (lengths > 1) & (weights > 0)
    if not counts.any():
        return None
    seen = np.arange(values.shape[1])[None, :] < lengths[:, None]
    first = values.reshape(*seen.shape, -1)[..., 0]
    ends = np.unravel_index(
        [np.where(seen, first, np.inf).argmin(), np.where(seen, first, -np.inf).argmax()], seen.shape
    )
    changed = values.copy()
    for n in np.flatnonzero(counts):
        t = lengths[n] - 1
        far = np.abs(first[ends] - first[n, t]).argmax()
        changed[n, t:] = values[ends[0][far], ends[1][far]]

    def at(by: Any, values: Any, lengths: Any) -> float:
        data = dataclasses.replace(observations, values=values, lengths=lengths, weights=weights)
        return float(type(run)(run.model, place.params, data).log_likelihood(place.moved(by)).value)

    shorter = np.where(counts, lengths - 1, lengths).astype(lengths.dtype)
    behind = at(0 * around[0], changed, shorter) - at(0 * around[0], values, shorter)
    before = [at(by, changed, lengths) != at(by, values, lengths) for by in around[:3]]
    return behind, 0.0 if any(before) else 1.0


def in_other_order(data: Data) -> Data:
    """The same observations, shifted cyclically by one place; for sequences, the steps shifted."""
    observations, weights = split_weights(jax.tree.map(np.asarray, data))
    if isinstance(observations, Dataset) and observations.lengths is not None:
        seen: Any = np.arange(jax.tree.leaves(observations.values)[0].shape[1])[None, :] < observations.lengths[:, None]

        def turned(leaf: np.ndarray) -> np.ndarray:
            if leaf.shape[:2] != seen.shape:
                return leaf
            leaf = np.array(leaf)
            leaf[seen] = np.roll(leaf[seen], 1, axis=0)
            return leaf

        parts = observations.values, observations.given, observations.observed, observations.patterns
        values, given, observed, patterns = jax.tree.map(turned, parts)
        other: Any = dataclasses.replace(observations, values=values, given=given, observed=observed, patterns=patterns)
    else:
        axis = lambda leaf: int(leaf.shape[0] == 1 and leaf.ndim > 1)
        other = jax.tree.map(lambda leaf: np.roll(leaf, 1, axis=axis(leaf)) if leaf.ndim else leaf, observations)
    return other if weights is None else with_weights(other, weights)
