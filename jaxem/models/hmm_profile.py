"""The profile of the states of a hidden Markov model: the share of the steps in each, and its means."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core.conversion import names_of, of_fit
from jaxem.core.data import Data, counted, split_weights
from jaxem.core.dataset import arrays_of
from jaxem.core.parameters import Param
from jaxem.families import protocol as families
from jaxem.latent import chain
from jaxem.models.hmm_forecast import states_ahead
from jaxem.models.sequences import frames_of, shape, unpack, without_lengths


class Profiled:
    """What ``profile`` asks of a hidden Markov model."""

    class_noun = "state"

    def class_sizes(self: Any, params: Any, data: Data) -> Array:
        """The share of all steps that each state is expected to take before x is seen, (K,): the mean of p(z_t = k)."""
        data, params = arrays_of(data, names_of(params)), of_fit(params)
        sequences, weights = counted(data)
        x, lengths = unpack(sequences)
        (n, t), (pi, A) = shape(x), self.pi_A(self.prepare(params, x), x)
        first = jnp.broadcast_to(pi, (n, self.k))
        p = jnp.concatenate([first[:, None], states_ahead(first, A, t - 1)], axis=1)
        w = jnp.where(chain.within(lengths, t), 1 if weights is None else weights[:, None], 0).astype(p.dtype)
        return (w[:, :, None] * p).sum(axis=(0, 1)) / w.sum()

    def class_means(self: Any, params: Any) -> list[tuple[Param, Array]]:
        """E x given each state: arrays with an axis of states, each with its declaration."""
        return families.means(self.family, params.emissions)

    def single_observations(self: Any, data: Data) -> tuple[Data, Array]:
        """The steps of all sequences, one after the other, and their weights, 0 after the end of a sequence."""
        sequences, weights = split_weights(data)
        (n, t), lengths = shape(sequences), unpack(sequences)[1]
        w = jnp.where(chain.within(lengths, t), 1.0 if weights is None else weights[:, None], 0.0)
        return frames_of(without_lengths(sequences)), w.reshape(n * t)
