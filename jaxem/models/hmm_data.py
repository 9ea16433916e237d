"""The data of a hidden Markov model: their shapes, their size, and checks of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data, check_counts, counted, observed_of, total
from jaxem.core.dataset import as_data
from jaxem.core.trees import float_dtype
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.latent import chain
from jaxem.models import observations
from jaxem.models.sequences import counted_steps, frames_of, shape, unpack


class Sequences:
    """The functions of a hidden Markov model that look at data before any parameters do."""

    @property
    def event_ndim(self: Any) -> int:
        """The number of axes of one observation."""
        return 1 + self.family.event_ndim

    @property
    def takes(self: Any) -> tuple[str, ...]:
        """The parts of the data, beside values, that the model can use."""
        return ("lengths", *families.takes(self.family))

    def features(self: Any, x: Data) -> Array:
        """The mean and the logarithm of the standard deviation of each feature over the steps, (N, 2 F); for starts."""
        steps, lengths = unpack(x)
        n, t = shape(steps)
        each = observed.features(self.family, frames_of(steps)).reshape(n, t, -1)
        seen = chain.within(lengths, t)[:, :, None] & ~jnp.isnan(each)
        number = seen.sum(axis=1).astype(each.dtype)
        mean = jnp.where(seen, each, 0).sum(axis=1) / number
        square = jnp.where(seen, (each - mean[:, None, :]) ** 2, 0).sum(axis=1) / number
        return jnp.concatenate([mean, 0.5 * jnp.log(square + jnp.finfo(each.dtype).tiny)], axis=1)

    def supports(self: Any, x: Data) -> Array:
        """(N,), whether each sequence lies in the support, up to its end."""
        steps, _ = unpack(x)
        return observed.supports(self.family, frames_of(steps)).reshape(shape(steps)).all(axis=1)

    def sample_size(self: Any, data: Data) -> Array:
        """The number of single observations, (): the sum over sequences of weight times length, without steps at which
        every cell is missing."""
        sequences, weights = counted(as_data(data))
        x, lengths = unpack(sequences)
        seen = chain.within(lengths, shape(x)[1])
        for mask in jax.tree.leaves(observed_of(x)):
            seen = seen & mask.reshape(*seen.shape, -1).any(axis=-1)
        return total(seen.sum(axis=1).astype(float_dtype(x)), weights)

    def check_shapes(self: Any, params: Any | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        observations.check(self, params, data, ("N", "T"), "lengths")

    def validate(self: Any, params: Any, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def check_values(self: Any, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, within = counted_steps(data)
        observations.check_enough(self, int(within.sum()))
        observations.check_support(self.family, x, within)

    def allows(self: Any, params: Any, data: Data) -> Array:
        """Whether every observation within a sequence of nonzero weight lies in the support, (); for traced values."""
        return observations.supported(self.family, *counted_steps(data)).all()
