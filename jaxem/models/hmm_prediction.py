"""The states of a hidden Markov model, given data: the most probable paths, and probabilities at each step."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core.compilation import program
from jaxem.core.contexts import choose
from jaxem.core.conversion import admit
from jaxem.core.data import Data
from jaxem.core.sizes import of_rows
from jaxem.latent import chain_paths, chain_steps
from jaxem.models.sequences import is_sequence, shape, unpack


class Prediction:
    """The functions of a hidden Markov model that tell where its sequences are."""

    def predict(self: Any, params: Any, data: Data) -> Array:
        """The most probable path of each sequence.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            States (N, T), whole numbers from 0 to K - 1; -1 after the end of a sequence, and at every step of a
            sequence that contains NaN or is impossible under ``params``.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.

        Source: Viterbi (1967).
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _predict(self, params, x), data)

    def decode(self: Any, params: Any, data: Data) -> tuple[Array, Array]:
        r"""The most probable path of each sequence, and its log-probability together with the observations.

        .. math:: \log p(x, z) = \log \pi_{z_1} + \sum_t \log A_{z_t z_{t+1}} + \sum_t \log p(x_t \mid z_t)

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            States (N, T), as ``predict`` returns them, and log p(x, z), (N,): -inf for a sequence that is impossible
            under ``params``, NaN for one that contains NaN.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.

        Source: Viterbi (1967).
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _decode(self, params, x), data)

    def predict_proba(self: Any, params: Any, data: Data) -> Array:
        """The posterior probability of each state at each step, p(z_t = k | x), given the whole sequence.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            Probabilities (N, T, K); zero after the end of a sequence, and NaN at every step of a sequence that
            contains NaN or is impossible under ``params``.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _predict_proba(self, params, x), data)


@program
def _predict(model: Any, params: Any, sequences: Data) -> Array:
    x, lengths = unpack(sequences)

    def of(c: Any) -> Array:
        pi, A = model.pi_A(c, x)
        return chain_paths.viterbi(pi, A, model.log_b(c, x), lengths)

    path = choose(model.prepare(params, x), of)
    return jnp.where(is_sequence(lengths, x)[:, None], path, -1)


@program
def _decode(model: Any, params: Any, sequences: Data) -> tuple[Array, Array]:
    x, lengths = unpack(sequences)

    def of(c: Any) -> tuple[Array, Array]:
        (pi, A), log_b = model.pi_A(c, x), model.log_b(c, x)
        path = chain_paths.viterbi(pi, A, log_b, lengths)
        return path, chain_paths.log_joint(pi, A, log_b, lengths, path)

    path, value = choose(model.prepare(params, x), of)
    known = is_sequence(lengths, x)
    return jnp.where(known[:, None], path, -1), jnp.where(known, value, jnp.nan)


@program
def _predict_proba(model: Any, params: Any, sequences: Data) -> Array:
    x, lengths = unpack(sequences)
    q = model.e_step(params, sequences)
    known = jnp.isfinite(q.log_normalizer) & is_sequence(lengths, x)
    unknown = chain_steps.within(lengths, shape(x)[1]) & ~known[:, None]
    return jnp.where(unknown[:, :, None], jnp.nan, q.smoothed)
