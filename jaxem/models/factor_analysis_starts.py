"""Starts of a factor analysis."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import prng_key
from jaxem.core.compilation import program
from jaxem.core.conversion import check_shapes
from jaxem.core.data import Data, counted, observed_of, split_weights, values_of
from jaxem.core.dataset import as_data
from jaxem.core.trees import all_finite, float_dtype, is_traced
from jaxem.families import unbounded
from jaxem.families.protocol import missing_as_nan
from jaxem.models.factor_analysis_params import FactorAnalysisParams
from jaxem.models.starts import check_sound, varies


class Starts:
    """The functions of a factor analysis that find parameters to start from."""

    def init(self: Any, key: Array, data: Data) -> FactorAnalysisParams:
        """Parameters to start a fit from: the variance of each variable is split evenly between loadings and noise.

        The mean is that of the data; the rows of the loadings have random directions.

        Arguments:
            key: a random key.
            data: N observations (N, D), with or without weights.

        Returns:
            A ``FactorAnalysisParams``.

        Raises:
            ValueError: ``key`` is not a random key; the data do not fit the model; or no start can be made from them
                (a constant column, or a spread whose square overflows or vanishes). Values that are traced are not
                checked.
        """
        prng_key("FactorAnalysis.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self._check_values(data)
        params, sound = _init(self, key, data)
        check_sound(sound, self, data)
        return params

    def first(self: Any, key: Array, data: Data, *_: Any) -> tuple[FactorAnalysisParams, Array]:
        """A start, and whether it is sound."""
        observations, weights = counted(data)
        dtype = float_dtype(observations)
        x, seen = values_of(observations).astype(dtype), observed_of(observations)
        counts = jnp.ones((x.shape[0],), dtype) if weights is None else weights.astype(dtype)
        counts = jnp.broadcast_to(counts[:, None], x.shape) if seen is None else jnp.where(seen, counts[:, None], 0)
        share = counts / counts.sum(axis=0)[None, :]
        x = jnp.where(share > 0, x, 0)
        mean = (share * x).sum(axis=0)
        y = x - mean[None, :]
        y = y - (share * y).sum(axis=0)[None, :]  # corrects for the rounding of the mean
        variance = (share * y**2).sum(axis=0)
        directions = jax.random.normal(key, (x.shape[1], self.k), dtype)
        directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
        params = FactorAnalysisParams(mean, jnp.sqrt(variance / 2)[:, None] * directions, variance / 2)
        sound = all_finite(params) & ~self.degenerate(params) & varies(missing_as_nan(observations).astype(dtype))
        return params, sound

    def diagnose(self: Any, data: Data) -> None:
        """Raise a ``ValueError`` that says why no start can be made from the data, and what to do."""
        x, weights = split_weights(data)
        dtype, rows = np.dtype(float_dtype(x)), np.asarray(values_of(x), np.float64)
        rows = rows if weights is None else rows[np.asarray(weights) > 0]
        found = unbounded.out_of_range(rows, dtype) or unbounded.constant(rows, dtype)
        if found is not None:
            raise ValueError(found)


@program(quick="few numbers")
def _init(model: Any, key: Array, data: Data) -> tuple[FactorAnalysisParams, Array]:
    return model.first(key, data)
