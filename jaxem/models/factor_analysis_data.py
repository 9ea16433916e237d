"""The data of a factor analysis: their shapes, and checks of them."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.arrays import check_precision
from jaxem.core.data import Data, check_counts, split_weights, values_of
from jaxem.families.protocol import missing_as_nan
from jaxem.models import observations
from jaxem.models.factor_analysis_params import FactorAnalysisParams


class Observations:
    """The functions of a factor analysis that look at data before any parameters do."""

    event_ndim: ClassVar[int] = 1
    takes: ClassVar[tuple[str, ...]] = ("observed",)

    def features(self: Any, x: Data) -> Array:
        """The values, NaN where missing."""
        return missing_as_nan(x)

    def supports(self: Any, x: Data) -> Array:
        """(N,), whether each observation is finite."""
        return jnp.isfinite(values_of(x)).all(axis=1)

    def check_shapes(self: Any, params: FactorAnalysisParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        x = None
        if data is not None:
            observations.check_parts(self, data, *self.takes)
            x = values_of(data)
            if not hasattr(x, "ndim"):
                raise ValueError(f"FactorAnalysis needs one array of data; got a {type(x).__name__}")
            if x.ndim != 2 or 0 in x.shape:
                raise ValueError(f"FactorAnalysis needs data of shape (N, D); got {tuple(x.shape)}")
            d = x.shape[1]
            if self.k >= d:
                raise ValueError(f"{self.k} factors cannot be told from the noise of {d} variables; use k < {d}")
        if params is not None:
            d = params.mean.size if x is None else x.shape[1]
            title = f"FactorAnalysis with k = {self.k} of {d} variables"
            parameters.check_shapes(title, self.declare(), params, {"D": d, "k": self.k})

    def validate(self: Any, params: FactorAnalysisParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self._check_values(data)

    def allows(self: Any, params: FactorAnalysisParams, data: Data) -> Array:
        """Whether every observation of nonzero weight is finite, (); for traced values."""
        return _finite(data).all()

    def _check_values(self: Any, data: Data) -> None:
        check_counts(data)
        x = values_of(data)
        if x.shape[0] < 2:
            raise ValueError(f"FactorAnalysis needs at least 2 observations; got {x.shape[0]}")
        good = _finite(data)
        if not good.all():
            raise ValueError(
                f"the data must be finite; observation {int(jnp.argmin(good))} is not ({int((~good).sum())} in all)"
            )
        if jnp.issubdtype(x.dtype, jnp.integer):
            check_precision(x, jnp.result_type(float), "the data")


def _finite(data: Data) -> Array:
    """(N,), whether each observation is finite or has weight zero; missing cells are."""
    x, weights = split_weights(data)
    good = jnp.isfinite(values_of(x)).all(axis=1)
    return good if weights is None else good | (weights == 0)
