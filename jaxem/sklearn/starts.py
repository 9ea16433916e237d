"""Starts by scikit-learn's names: ``init_params``."""

from typing import Any, ClassVar

import numpy as np
from sklearn.cluster import KMeans
from sklearn.utils._param_validation import StrOptions

# What each is for ``model.init``; "kmeans" is an array of class probabilities instead.
KINDS = {"k-means++": "kmeans++", "random_from_data": "points", "random": "responsibilities"}


class Starting:
    """The parameter ``init_params``: ``"kmeans"``, classes by k-means; ``"k-means++"``, seeds far from each other;
    ``"random_from_data"``, seeds drawn evenly; ``"random"``, class probabilities drawn evenly."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {"init_params": [StrOptions({"kmeans", *KINDS})]}

    def _starts(
        self: Any, model: Any, data: Any, X: np.ndarray, sample_weight: Any, random: np.random.RandomState
    ) -> list[Any] | tuple[str]:
        """The starts of ``n_init`` fits of ``model`` to ``data``, as ``_climb`` takes them."""
        if self.init_params in KINDS:
            return (KINDS[self.init_params],)
        if self._warm():
            return []
        return [by_kmeans(X, self.n_components, sample_weight, random) for _ in range(self.n_init)]


def in_order(X: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, Any]:
    """X and its weights with equal rows side by side, in an order that does not depend on the one given.

    A start that draws rows then draws the same whether rows are repeated or weighted, and in whichever order they come.
    """
    key = np.nan_to_num(X, nan=-np.pi) @ np.random.RandomState(0).standard_normal(X.shape[1])
    order = np.argsort(key, kind="stable")
    counts = None if sample_weight is None else np.asarray(sample_weight)
    if counts is not None and counts.shape != X.shape[:1]:  # an error that is found later
        return X, sample_weight
    return X[order], None if counts is None else counts[order]


def by_kmeans(X: np.ndarray, k: int, sample_weight: Any, random: np.random.RandomState) -> np.ndarray:
    """Class probabilities (N, K) of a start: one for the cluster of each row, whose missing cells lie at the mean."""
    if np.isnan(X).any():
        X = np.where(np.isnan(X), np.nanmean(X, axis=0), X)
    kmeans: Any = KMeans(n_clusters=k, n_init=1, random_state=random)  # pyright: ignore[reportArgumentType]
    labels = kmeans.fit(X, sample_weight=sample_weight).labels_
    counts = np.flatnonzero(np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight) > 0)
    for empty in set(range(k)) - set(labels[counts]):  # takes every other row of the largest cluster
        largest = counts[labels[counts] == np.bincount(labels[counts]).argmax()]
        labels[largest[::2]] = empty
    return np.eye(k, dtype=X.dtype)[labels]
