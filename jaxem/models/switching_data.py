"""The data of a switching autoregression: their size, and checks of them."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data, check_counts, counted, lengths_of, observed_of, split_weights, total, values_of
from jaxem.core.dataset import as_data
from jaxem.core.trees import float_dtype, is_traced
from jaxem.models import observations
from jaxem.models.observations import real
from jaxem.models.sequences import unpack


class Observations:
    """The functions of a switching autoregression that look at data before any parameters do."""

    def sample_size(self: Any, data: Data) -> Array:
        """The number of single observations that are modelled, (): without the first p of each sequence."""
        sequences, weights = counted(as_data(data))
        x, lengths = unpack(sequences)
        return total((lengths - self.order).astype(float_dtype(x)), weights)

    def check_shapes(self: Any, params: Any | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        if data is not None and values_of(data).ndim > 1 and values_of(data).shape[1] <= self.order:
            raise ValueError(f"SwitchingAutoregression of order {self.order} needs more than {self.order} steps")
        if data is not None and observed_of(data) is not None:
            raise ValueError("SwitchingAutoregression cannot use missing steps, for later ones depend on them")
        observations.check(self, params, data, ("N", "T"), *self.takes, lengths={"P": self.order})

    def validate(self: Any, params: Any, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def check_values(self: Any, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, lengths = split_weights(data)[0], lengths_of(data)
        if lengths is not None and not is_traced(lengths) and bool((lengths <= self.order).any()):
            raise ValueError(
                f"SwitchingAutoregression of order {self.order}: a sequence has no more than that many steps"
            )
        steps, own = unpack(x)
        observations.check_enough(self, int((own - self.order).sum()))
        observations.check_support(self.family, real(steps, float_dtype(x)).reshape(-1), None)

    def allows(self: Any, params: Any, data: Data) -> Array:
        """Whether all values are finite, (); for traced values."""
        x, weights = split_weights(data)
        steps, lengths = unpack(x)
        good = jnp.isfinite(real(steps, jnp.result_type(float))).all(axis=1) & (lengths > self.order)
        return (good if weights is None else good | (weights == 0)).all()
