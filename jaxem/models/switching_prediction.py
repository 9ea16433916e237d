"""Regimes and draws of a switching autoregression."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.compilation import program
from jaxem.core.conversion import admit, as_params, check_shapes, names_of
from jaxem.core.data import Data, split_weights, values_of, with_values
from jaxem.core.dataset import as_data
from jaxem.core.sizes import of_rows
from jaxem.latent import chain_steps
from jaxem.models.sequences import is_sequence, shape, unpack
from jaxem.models.switching_params import SwitchingParams


class Prediction:
    """The functions of a switching autoregression that answer questions about data, given parameters."""

    def predict_proba(self: Any, params: Any, data: Data) -> Array:
        """The posterior probability of each regime at each step, p(z_t = k | x), given the whole sequence.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences (N, T). Weights are ignored.

        Returns:
            Probabilities (N, T, K), the first p steps included; zero after the end of a sequence.

        Raises:
            ValueError: parameters, data and model do not fit each other.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _predict_proba(self, params, x), data)

    def sample_like(self: Any, key: Array, params: Any, data: Data) -> Data:
        """As many sequences as ``data`` hold, with the same lengths and the same first p values.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            data: N sequences, of which the shape, the lengths and the first p values are used.

        Returns:
            Values (N, T), or a ``Dataset`` where ``data`` have lengths. Weights are left out.

        Raises:
            ValueError: the data or the parameters do not fit the model.
        """
        data = as_data(data, like=names_of(params), trust="nothing")
        check_shapes(self, None, data)
        params, x = as_params(self, params), split_weights(data)[0]
        return with_values(x, _sample(self, key, params, values_of(x)))


@program
def _predict_proba(model: Any, params: SwitchingParams, x: Data) -> Array:
    q, z = model.e_step(params, x), model.tuples
    t = shape(x)[1]
    latest = jnp.asarray(np.eye(model.k)[z], q.smoothed.dtype)  # (k^(p+1), p + 1, K)
    first = jnp.einsum("nc,cjk->njk", q.smoothed[:, 0], latest[:, :0:-1])
    found = jnp.concatenate([first, q.smoothed @ latest[:, 0]], axis=1)
    values, lengths = unpack(x)
    known = jnp.isfinite(q.log_normalizer) & is_sequence(lengths, values)
    unknown = chain_steps.within(lengths, t) & ~known[:, None]
    return jnp.where(unknown[:, :, None], jnp.nan, found)


@program
def _sample(model: Any, key: Array, params: SwitchingParams, values: Array) -> Array:
    first_key, path_key, noise_key = jax.random.split(key, 3)
    n, t = values.shape
    p, dtype = model.order, params.means.dtype
    z0 = jax.random.categorical(first_key, jnp.log(model._first(params)), shape=(n,))
    log_A = jnp.log(params.transition)

    def move(z: Array, key: Array) -> tuple[Array, Array]:
        z = jax.random.categorical(key, log_A[z])
        return z, z

    rest = jax.lax.scan(move, z0, jax.random.split(path_key, t - 1))[1]
    z = jnp.concatenate([z0[None], rest])  # (T, N)
    variances = jnp.broadcast_to(params.variances, (model.k,))
    noise = jnp.sqrt(variances[z]) * jax.random.normal(noise_key, (t, n), dtype)
    means = params.means[z]
    start = values[:, :p].T.astype(dtype) - means[:p]

    def step(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        m, e = now
        deviation = params.coefficients @ before[::-1] + e
        return jnp.concatenate([before[1:], deviation[None]]), m + deviation

    _, x = jax.lax.scan(step, start, (means[p:], noise[p:]))
    return jnp.concatenate([values[:, :p].astype(dtype), x.T], axis=1)
