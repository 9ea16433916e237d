"""Draws from a hidden Markov model: sequences, and the missing cells of sequences."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import as_params, check_shapes
from jaxem.core.data import Data, split_weights, values_of, with_values
from jaxem.core.dataset import as_data
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.models.observations import real
from jaxem.models.sequences import frames_of, shape, unpack


class Sampling:
    """The functions of a hidden Markov model that draw from it."""

    def sample(self: Any, key: Array, params: Any, n: int, length: int = 100) -> Array:
        """Sequences drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of sequences, at least 0.
            length: the number of steps of each sequence, at least 1 (default 100).

        Returns:
            Observations (n, length, ...).

        Raises:
            ValueError: ``key`` is not a random key, ``n`` or ``length`` is not a whole number or is too small, or the
                parameters do not fit the model.
        """
        return self.sample_joint(key, params, n, length)[1]

    def sample_joint(self: Any, key: Array, params: Any, n: int, length: int = 100) -> tuple[Array, Array]:
        """State paths and sequences drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of sequences, at least 0.
            length: the number of steps of each sequence, at least 1 (default 100).

        Returns:
            States (n, length) and their observations (n, length, ...).

        Raises:
            ValueError: as for ``sample``.
        """
        prng_key("HMM.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        n, length = whole_number("HMM.sample: n", n, 0), whole_number("HMM.sample: length", length, 1)
        first_key, path_key, x_key = jax.random.split(key, 3)
        first = jax.random.categorical(first_key, jnp.log(params.initial), shape=(n,))
        log_A = jnp.log(params.transition)

        def step(state: Array, key: Array) -> tuple[Array, Array]:
            state = jax.random.categorical(key, log_A[state])
            return state, state

        _, rest = jax.lax.scan(step, first, jax.random.split(path_key, length)[1:])
        states = jnp.concatenate([first[None], rest]).T
        x = self.family.sample(x_key, params.emissions, states.reshape(-1))
        return states, jax.tree.map(lambda leaf: leaf.reshape(n, length, *leaf.shape[1:]), x)

    def sample_like(self: Any, key: Array, params: Any, data: Data) -> Data:
        """As many sequences as ``data`` hold, drawn from the model, with the same lengths and missing cells.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            data: N sequences, of which only the shape, the lengths and the missing cells are used.

        Returns:
            Observations (N, T, ...), or a ``Dataset`` where ``data`` have lengths or missing cells. Weights are left
            out.

        Raises:
            ValueError: as for ``sample``, or the data do not fit the model.
        """
        data = as_data(data)
        check_shapes(self, None, data)
        return with_values(split_weights(data)[0], self.sample(key, params, *shape(data)))

    def impute(self: Any, params: Any, data: Data, key: Array | None = None) -> Any:
        """The values with missing cells replaced; see ``jaxem.impute``. Draws follow a path drawn for each sequence."""
        return _impute(self, params, split_weights(data)[0], key)


@program
def _impute(model: Any, params: Any, sequences: Data, key: Array | None) -> Any:
    if key is None:
        q = model.e_step(params, sequences)
    else:
        path_key, key = jax.random.split(key)
        q = model.sample_posterior(path_key, params, sequences)
    x, _ = unpack(real(families.own(model.family, sequences), q.smoothed.dtype))
    found = observed.impute(model.family, params.emissions, frames_of(q.smoothed), frames_of(x), key)
    return jax.tree.map(lambda leaf, old: leaf.reshape(old.shape), found, values_of(x))
