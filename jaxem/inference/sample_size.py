"""The number of observations, as the information criteria count them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.data import Data, count, split_weights
from jaxem.core.dataset import as_data
from jaxem.core.model import has


def sample_size(model: Any, data: Data) -> Array:
    """n, the number of observations: the number of rows, or the sum of their weights.

    A model with ``sample_size(data)`` counts for itself: a hidden Markov model counts all steps of all sequences.
    """
    data = as_data(data)
    if has(model, "sample_size"):
        return model.sample_size(data)
    observations, weights = split_weights(data)
    dtype = trees.float_dtype(data)
    if weights is not None:
        return weights.astype(dtype).sum()
    return jnp.asarray(np.asarray(count(observations), dtype))  # NumPy converts without a program to compile
