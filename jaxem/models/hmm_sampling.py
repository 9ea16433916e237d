"""Draws from a hidden Markov model: sequences, and the missing cells of sequences."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import admit, as_params, check_shapes, names_of
from jaxem.core.data import Data, plain, split_weights, values_of, with_values
from jaxem.core.dataset import as_data
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.latent import chain_paths, chain_steps
from jaxem.models.observations import real
from jaxem.models.sequences import frames_of, is_sequence, shape, unpack


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
                parameters do not fit the model, or draws depend on covariates.
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
        if "given" in self.takes:
            raise ValueError("HMM.sample: draws depend on covariates; use sample_like(key, params, data)")
        return _draw(self, key, params, n, length)

    def observations_of(self: Any, key: Array, params: Any, states: Array, x: Data | None) -> Any:
        """One observation drawn for each of the states (N, T), by the covariates of ``x`` where the family has some."""
        labels = states.reshape(-1)
        if x is not None and hasattr(self.family, "sample_like"):
            found = values_of(self.family.sample_like(key, params.emissions, labels, frames_of(plain(x))))
        else:
            found = self.family.sample(key, params.emissions, labels)
        return jax.tree.map(lambda leaf: leaf.reshape(*states.shape, *leaf.shape[1:]), found)

    def sample_like(self: Any, key: Array, params: Any, data: Data) -> Data:
        """As many sequences as ``data`` hold, drawn from the model; lengths, covariates and missing cells stay.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            data: N sequences, of which only the shape, the covariates, the lengths and the missing cells are used.

        Returns:
            Observations (N, T, ...), or a ``Dataset`` where ``data`` have covariates, lengths or missing cells. Weights
            are left out.

        Raises:
            ValueError: as for ``sample``, or the data do not fit the model.
        """
        data = as_data(data, like=names_of(params), trust="nothing")
        check_shapes(self, None, data)
        x = split_weights(data)[0]
        if "given" not in self.takes and not hasattr(self.family, "sample_like"):
            return with_values(x, self.sample(key, params, *shape(data)))
        return with_values(x, _draw_like(self, key, as_params(self, params), x))

    def sample_paths(self: Any, key: Array, params: Any, data: Data, n: int = 1) -> Array:
        """State paths drawn from p(z | x), the whole path of each sequence at once.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.
            n: the number of paths of each sequence, at least 1 (default 1).

        Returns:
            States (n, N, T), whole numbers from 0 to K - 1; -1 after the end of a sequence, and at every step of a
            sequence that contains NaN or is impossible under ``params``.

        Raises:
            ValueError: ``key`` is not a random key, ``n`` is not a whole number of at least 1, or parameters, data and
                model do not fit each other.

        Source: Carter & Kohn (1994).
        """
        prng_key("HMM.sample_paths", key)
        keys = jax.random.split(key, whole_number("HMM.sample_paths: n", n, 1))
        params, data = admit(self, params, data)
        return _paths(self, params, split_weights(data)[0], keys)

    def impute(self: Any, params: Any, data: Data, key: Array | None = None) -> Any:
        """The values with missing cells replaced; see ``jaxem.impute``. Draws follow a path drawn for each sequence."""
        params, data = admit(self, params, data)
        return _impute(self, params, split_weights(data)[0], key)


@program(static_argnames=("n", "length"))
def _draw(model: Any, key: Array, params: Any, n: int, length: int) -> tuple[Array, Array]:
    first_key, path_key, x_key = jax.random.split(key, 3)
    c = model.prepare(params, None)
    first = jax.random.categorical(first_key, jnp.log(model.initial.probability(c.initial)), shape=(n,))
    rest = chain_paths.walk(jax.random.split(path_key, length)[1:], first, model.moves.probability(c.transition))
    states = jnp.concatenate([first[:, None], rest], axis=1)
    return states, model.observations_of(x_key, params, states, None)


@program
def _draw_like(model: Any, key: Array, params: Any, sequences: Data) -> Any:
    steps, (n, t) = unpack(sequences)[0], shape(sequences)
    first_key, path_key, x_key = jax.random.split(key, 3)
    pi, A = model.pi_A(model.prepare(params, None), steps)
    first = jax.random.categorical(first_key, jnp.log(pi), shape=(n,))
    rest = chain_paths.walk(jax.random.split(path_key, t)[1:], first, A)
    states = jnp.concatenate([first[:, None], rest], axis=1)
    return model.observations_of(x_key, params, states, steps)


@program
def _paths(model: Any, params: Any, sequences: Data, keys: Array) -> Array:
    x, lengths = unpack(sequences)
    known = is_sequence(lengths, x)

    def one(key: Array) -> Array:
        q = model.sample_posterior(key, params, sequences)
        inside = chain_steps.within(lengths, shape(x)[1]) & (known & jnp.isfinite(q.log_normalizer))[:, None]
        return jnp.where(inside, q.smoothed.argmax(axis=-1).astype(jnp.int32), -1)

    return jax.lax.map(one, keys)


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
