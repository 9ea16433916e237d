"""Simulated data for the parametric bootstrap, and how many fits to them run side by side."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.compilation import cores, on_all_cores, program
from jaxem.core.data import Data, Dataset, count, split_weights
from jaxem.core.model import Params, has, require
from jaxem.fitting.result import usable

_SIDE_BY_SIDE = 2**26  # numbers in the data and posteriors of all fits that run at a time, at most


def prepare(model: Any, data: Data) -> Data:
    """The data with each row repeated as often as its weight says.

    Raises ``ValueError`` where weights are not whole numbers or the model cannot sample.
    """
    observations, weights = split_weights(data)
    if isinstance(observations, Dataset) and observations.given is not None:
        require(model, "a parametric bootstrap of data with covariates", "sample_like")
    if not has(model, "sample_like"):
        require(model, "a parametric bootstrap", "sample")
    if weights is None:
        return data
    times = np.asarray(weights)
    if not (times == np.round(times)).all():
        raise ValueError("a parametric bootstrap of weighted data needs weights that are whole numbers: counts of rows")
    rows = np.repeat(np.arange(times.size), times.astype(int))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], observations)


def draw(model: Any, params: Params, data: Data, key: Array) -> Data:
    """Data from the model at ``params``, with the shape, dtype, covariates, lengths and missing cells of ``data``."""
    if has(model, "sample_like"):
        drawn = model.sample_like(key, params, data)
    else:
        drawn = model.sample(key, params, count(data))
    if isinstance(data, Dataset) and not isinstance(drawn, Dataset):
        drawn = dataclasses.replace(data, values=drawn)
    return jax.tree.map(lambda new, old: new.reshape(old.shape).astype(old.dtype), drawn, data)


def in_batches(function: Any, keys: Array, batch_size: int) -> Any:
    """``function`` of each key, ``batch_size`` keys at a time under ``vmap``."""
    if batch_size >= keys.shape[0]:
        return jax.vmap(function)(keys)
    return jax.lax.map(function, keys, batch_size=None if batch_size == 1 else batch_size)


def replicated(program: Callable[..., Any], given: Callable[[Any], tuple[Any, ...]], key: Array, number: int) -> Any:
    """``program(*given(keys))`` for a key of each replicate: a part of them on each core at a time."""
    return in_parts(program, given, _keys(key, number))


def in_parts(program: Callable[..., Any], given: Callable[[Any], tuple[Any, ...]], lanes: Any) -> Any:
    """``program(*given(lanes))``, a tree of arrays with a row for each lane: a part of them on each core at a time."""
    number = len(lanes)
    streams = min(cores(), number)
    # As many on any machine; some are used twice where the parts would differ in length.
    places = np.resize(np.arange(number), streams * -(-number // streams))
    parts = on_all_cores(program, list(map(given, lanes[places].reshape(streams, -1))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:number], *jax.device_get(parts))


@program(quick="always", static_argnames=("number",))
def _keys(key: Array, number: int) -> Array:
    return jax.random.split(key, number)


def batches(model: Any, params: Params, data: Data, lanes: int, fits: int = 1) -> int:
    """How many of ``lanes`` replicates, of ``fits`` fits each, run side by side.

    On a CPU one, because under ``vmap`` finished fits wait for the slowest. On an accelerator, enough to fill it.
    """
    if jax.default_backend() == "cpu":
        return 1
    q = jax.eval_shape(model.e_step, params, data)
    numbers = fits * sum(leaf.size for leaf in jax.tree.leaves((q, data)))
    return int(np.clip(_SIDE_BY_SIDE // max(numbers, 1), 1, lanes))


sound = usable  # a replicate that stopped at max_steps, or for lack of digits, has not failed
