"""Data like these: what the parametric bootstrap draws, and how many fits to it run side by side."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Data, Dataset, count, split_weights
from jaxem.core.model import Params, has, require
from jaxem.fitting.result import usable

_SIDE_BY_SIDE = 2**26  # numbers, of the data and posteriors of the fits that run at a time


def prepare(model: Any, data: Data) -> Data:
    """The data as rows that count once each; ``ValueError`` where weights are no whole numbers or nothing is drawn."""
    observations, weights = split_weights(data)
    if isinstance(observations, Dataset) and observations.given is not None:
        require(model, "a parametric bootstrap of data with covariates", "sample_like")
    if not has(model, "sample_like"):
        require(model, "a parametric bootstrap", "sample")
    if weights is None:
        return data
    times = np.asarray(weights)
    if not (times == np.round(times)).all():
        raise ValueError("a parametric bootstrap of weighted data needs weights that are whole numbers: rows to draw")
    rows = np.repeat(np.arange(times.size), times.astype(int))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], observations)


def draw(model: Any, params: Params, data: Data, key: Array) -> Data:
    """Data like ``data`` (of their shape and dtype, with their covariates, lengths and missing cells) from the model
    at ``params``."""
    if has(model, "sample_like"):
        drawn = model.sample_like(key, params, data)
    else:
        drawn = model.sample(key, params, count(data))
    if isinstance(data, Dataset) and not isinstance(drawn, Dataset):
        drawn = dataclasses.replace(data, values=drawn)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), drawn, data)


def in_batches(function: Any, keys: Array, batch_size: int) -> Any:
    """``function`` of each key, ``batch_size`` of them side by side."""
    if batch_size >= keys.shape[0]:
        return jax.vmap(function)(keys)
    return jax.lax.map(function, keys, batch_size=None if batch_size == 1 else batch_size)


def batches(model: Any, params: Params, data: Data, lanes: int, fits: int = 1) -> int:
    """How many of ``lanes`` replicates, of ``fits`` fits each, run side by side.

    On a CPU one: side by side, finished fits wait for the slowest. An accelerator wants work enough to fill it.
    """
    if jax.default_backend() == "cpu":
        return 1
    q = jax.eval_shape(model.e_step, params, data)
    numbers = fits * sum(leaf.size for leaf in jax.tree.leaves((q, data)))
    return int(np.clip(_SIDE_BY_SIDE // max(numbers, 1), 1, lanes))


sound = usable  # a replicate that ran out of steps or of digits has not failed
