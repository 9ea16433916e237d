"""Many data sets as one tree with a leading axis, padded where they have unequal lengths."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxem.core.data import Data, Dataset, count, lengths_of, split_weights, with_weights
from jaxem.core.dataset import as_data
from jaxem.core.trees import float_dtype, leaf_names


def lanes_of(datasets: Data) -> int:
    """The number of data sets: the length of the leading axis. ``ValueError`` where the leaves do not share it."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(datasets)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or min(lengths) < 1:
        raise ValueError(f"the arrays of the data must share a leading axis of data sets; their shapes are {shapes}")
    return lengths.pop()


def stack(datasets: Data | list[Data]) -> Data:
    """A list of data sets as one tree with a leading axis; anything but a list is returned unchanged.

    A data set with fewer observations than the largest is filled up with copies of its first observation, of weight 0.
    Sequences are padded to the longest of all data sets.

    Raises ``ValueError`` where the list is empty, a data set that must be padded is empty, or data sets differ in more
    than their lengths.
    """
    if not isinstance(datasets, list):
        return datasets
    if not datasets:
        raise ValueError("no data sets were given")
    datasets = _alike([jax.tree.map(np.asarray, as_data(data, trust="dtype")) for data in datasets])
    for b, data in enumerate(datasets):
        if jax.tree.structure(data) != jax.tree.structure(datasets[0]):
            raise ValueError(
                f"data set {b} is of another form than the first: {jax.tree.structure(data)}, not "
                f"{jax.tree.structure(datasets[0])}"
            )
    shapes = [[leaf.shape for leaf in jax.tree.leaves(data)] for data in datasets]
    if any(shape != shapes[0] for shape in shapes):
        datasets = _padded(datasets)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *datasets)


def _padded(datasets: list[Data]) -> list[Data]:
    if all(lengths_of(data) is not None for data in datasets):
        datasets = _equally_long(datasets)
    lengths = [count(data) for data in datasets]
    names = leaf_names(datasets[0])
    for b, data in enumerate(datasets):
        if lengths[b] == 0:
            raise ValueError(f"data set {b} is empty")
        for name, leaf, first in zip(names, jax.tree.leaves(data), jax.tree.leaves(datasets[0]), strict=True):
            if leaf.shape[1:] != first.shape[1:]:
                name = "" if name == "params" else f" of {name}"
                raise ValueError(
                    f"data set {b} has observations{name} of shape {leaf.shape[1:]}, the first has {first.shape[1:]}"
                )
    if len(set(lengths)) == 1:
        return datasets
    return [_filled(data, max(lengths)) for data in datasets]


def _filled(data: Data, length: int) -> Dataset:
    """The data filled up to ``length`` observations with copies of the first one, of weight 0."""
    n = count(data)
    observations, weights = split_weights(data)
    if weights is None:
        weights = np.ones(n, float_dtype(observations))
    place = np.where(np.arange(length) < n, np.arange(length), 0)
    padding = np.zeros(length - n, weights.dtype)
    return with_weights(jax.tree.map(lambda leaf: leaf[place], observations), np.concatenate([weights, padding]))


def _equally_long(datasets: list[Dataset]) -> list[Dataset]:
    """The data sets with all sequences padded to the longest one."""
    steps = [jax.tree.leaves(data.values)[0].shape[1] for data in datasets]

    def each(data: Dataset, t: int) -> Dataset:
        def pad(leaf: np.ndarray) -> np.ndarray:
            along = leaf.ndim > 1 and leaf.shape[1] == t
            return np.pad(leaf, [(0, 0), (0, max(steps) - t)] + [(0, 0)] * (leaf.ndim - 2)) if along else leaf

        values, given, observed = jax.tree.map(pad, (data.values, data.given, data.observed))
        return dataclasses.replace(data, values=values, given=given, observed=observed)

    return [each(*both) for both in zip(datasets, steps, strict=True)]


def _alike(datasets: list[Data]) -> list[Data]:
    """The data sets in one form: where one has weights, lengths or masks, all get them."""
    if not any(isinstance(data, Dataset) for data in datasets):
        return datasets
    # The patterns of missing cells are found again, for all data sets together.
    records = [
        dataclasses.replace(data, patterns=None) if isinstance(data, Dataset) else Dataset(data) for data in datasets
    ]
    some = {name for name in ("weights", "lengths", "observed") for data in records if getattr(data, name) is not None}

    def filled(data: Dataset) -> Dataset:
        n, leaves = count(data.values), jax.tree.leaves(data.values)
        defaults: dict[str, Any] = {
            "weights": lambda: np.ones(n, float_dtype(data.values)),
            "lengths": lambda: np.full(n, leaves[0].shape[1], np.int32),
            "observed": lambda: jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), data.values),
        }
        new = {name: defaults[name]() for name in some if getattr(data, name) is None}
        return dataclasses.replace(data, **new)

    return [filled(data) for data in records]
