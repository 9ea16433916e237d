"""What a hidden Markov model says step by step: the states so far, and states and observations to come."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.contexts import choose
from jaxem.core.conversion import admit, as_params, names_of
from jaxem.core.data import Data, Dataset, plain, split_weights, values_of
from jaxem.core.dataset import as_given, dataset, named
from jaxem.core.sizes import of_rows
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.gates.stationary import distribution
from jaxem.latent import chain, chain_paths, chain_steps
from jaxem.models.observations import real
from jaxem.models.sequences import at_moves, frames_of, is_sequence, shape, unpack


class FilteredStates(NamedTuple):
    """The states of each sequence as far as its steps so far tell."""

    probabilities: Array  # (N, T, K), p(z_t | x_1 ... x_t); zero after the end
    log_prob: Array  # (N, T), log p(x_t | x_1 ... x_{t-1}); zero after the end


class Forecast(NamedTuple):
    """The steps after the end of each sequence; h = 1, ..., H is the h-th of them."""

    probabilities: Array  # (N, H, K), p(z_{T + h} | x_1 ... x_T)
    means: Any  # (N, H, ...), E[x_{T + h} | x_1 ... x_T], in the form of the values


class Forecasting:
    """The functions of a hidden Markov model that look at each step from those before it."""

    def filter(self: Any, params: Any, data: Data) -> FilteredStates:
        r"""The states at each step given the observations up to it, and how well each one was foretold.

        .. math:: p(z_t = k \mid x_1, \dots, x_t), \qquad \log p(x_t \mid x_1, \dots, x_{t-1})

        Compare ``predict_proba``, which uses the whole sequence, and ``predict``, the most probable path (Viterbi).

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored. A step at which nothing is observed has log-density 0.

        Returns:
            ``FilteredStates(probabilities (N, T, K), log_prob (N, T))``: zero after the end of a sequence, NaN at every
            step of one that contains NaN or is impossible. The sum of ``log_prob`` over steps is that of the sequence.

        Raises:
            ValueError: parameters, data and model do not fit each other.

        Source: Rabiner (1989); Zucchini, MacDonald & Langrock (2016), section 5.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _filter(self, params, x), data)

    def forecast(self: Any, params: Any, data: Data, horizon: int, *, given: Any = None) -> Forecast:
        r"""States and means of the observations at the ``horizon`` steps after the end of each sequence.

        .. math:: p(z_{T+h} \mid x_1 \dots x_T) = p(z_T \mid x_1 \dots x_T)\, A_T A_{T+1} \cdots A_{T+h-1}, \qquad
                  E[x_{T+h} \mid x_1 \dots x_T] = \sum_k p(z_{T+h} = k \mid x_1 \dots x_T)\, E[x \mid k]

        The density of step T + h is the mixture of the states' densities with these probabilities: see
        ``forecast_log_prob`` for its values, ``sample_forecast`` for draws of whole futures.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences, each forecast from its own end. Weights are ignored.
            horizon: the number of steps H, at least 1.
            given: covariates of these steps, in the form of ``given`` of the data, with H steps each. The move from the
                last step T is driven by u_T, which is part of the data; u_{T+H} matters to observations only.

        Returns:
            ``Forecast(probabilities (N, H, K), means (N, H, ...))``; the means are ``None`` where the family has none.

        Raises:
            ValueError: parameters, data and model do not fit each other, ``horizon`` is not a whole number of at least
                1, or ``given`` is left out by a model that needs it, or has another shape.

        Source: Zucchini, MacDonald & Langrock (2016), sections 5.2 and 5.4.
        """
        given = as_given(given, names_of(params))
        params, data = admit(self, params, data)
        future = _future(self, data, whole_number("HMM.forecast: horizon", horizon, 1), given)
        return _forecast(self, params, split_weights(data)[0], future)

    def forecast_log_prob(self: Any, params: Any, data: Data, values: Any, *, given: Any = None) -> Array:
        r"""log p(x_{T+h} | x_1 ... x_T), the density of each later step without those between.

        .. math:: \log \sum_k p(z_{T+h} = k \mid x_1 \dots x_T)\, p(x_{T+h} \mid k)

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences.
            values: what came after, (N, H, ...), in the form of the values of the data.
            given: covariates of these steps; see ``forecast``.

        Returns:
            An array (N, H).

        Raises:
            ValueError: as for ``forecast``.
        """
        later, given = named(values, names_of(params), trust="nothing"), as_given(given, names_of(params))
        params, data = admit(self, params, data)
        future = _future(self, data, shape(later)[1], given)
        future = dataclasses.replace(future, values=later.values)
        families.check_shape(self.family, later.values, ("N", "T"), "HMM.forecast_log_prob")
        return _forecast_log_prob(self, params, split_weights(data)[0], future)

    def sample_forecast(
        self: Any, key: Array, params: Any, data: Data, horizon: int, *, given: Any = None
    ) -> tuple[Array, Any]:
        """One future of each sequence, drawn from p(z, x at T + 1 ... T + H | x_1 ... x_T).

        Arguments:
            key: a random key; ``jax.vmap`` over keys draws many futures.
            params: parameters of the model, or a ``Fit``.
            data: N sequences, each continued from its own end.
            horizon: the number of steps H, at least 1.
            given: covariates of these steps; see ``forecast``.

        Returns:
            States (N, H) and observations (N, H, ...).

        Raises:
            ValueError: ``key`` is not a random key; otherwise as for ``forecast``.
        """
        prng_key("HMM.sample_forecast", key)
        given = as_given(given, names_of(params))
        params, data = admit(self, params, data)
        future = _future(self, data, whole_number("HMM.sample_forecast: horizon", horizon, 1), given)
        return _sample_forecast(self, key, params, split_weights(data)[0], future)

    def durations(self: Any, params: Any) -> Array:
        """The expected number of steps that each state lasts, 1 / (1 - A_kk), (K,); infinite where it is never left.

        Arguments:
            params: parameters of the model, or a ``Fit``.

        Returns:
            An array (K,).

        Raises:
            ValueError: the parameters do not fit the model, or its moves depend on covariates.

        Source: Rabiner (1989), equation 5.
        """
        A = _one_matrix(self, params, "durations")
        others = jnp.where(jnp.eye(self.k, dtype=bool), 0, A).sum(axis=1)  # 1 - A_kk without cancellation
        return 1 / others

    def stationary(self: Any, params: Any) -> Array:
        """The stationary distribution of the states, pi = pi A, (K,); NaN where some states cannot be reached.

        Arguments:
            params: parameters of the model, or a ``Fit``.

        Returns:
            An array (K,).

        Raises:
            ValueError: the parameters do not fit the model, or its moves depend on covariates.

        Source: Grassmann, Taksar & Heyman (1985).
        """
        return distribution(_one_matrix(self, params, "stationary"))


def _one_matrix(model: Any, params: Any, what: str) -> Array:
    params = as_params(model, params)
    model.check_shapes(params, None)
    if not model.moves.homogeneous:
        raise ValueError(f"HMM.{what} needs the same moves at all steps; here they depend on covariates")
    return model.moves.probability(params.transition)


def _future(model: Any, data: Data, horizon: int, given: Any) -> Dataset:
    """The later steps as data: values of the right shape, nothing of which is observed, and covariates (N, H, ...)."""
    values, (n, _) = values_of(data), shape(data)
    empty = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, :1], (n, horizon, *leaf.shape[2:])), values)
    own = data.given if isinstance(data, Dataset) else None
    if own is None:
        if given is not None:
            raise ValueError("HMM: the data have no covariates, so the later steps have none: leave given out")
        return Dataset(empty)
    if given is None:
        raise ValueError(f"HMM: the {horizon} later steps need covariates, as the data have: pass given=...")
    given = dataset(empty, given=given).given
    wanted, found = (jax.tree.map(lambda leaf: (n, horizon, *leaf.shape[2:]), own), jax.tree.map(jnp.shape, given))
    if wanted != found:
        raise ValueError(f"HMM: the covariates of {horizon} later steps need shapes {wanted}; got {found}")
    return Dataset(empty, given)


def _sound(lengths: Array, x: Data, found: Array) -> Array:
    """(N,), whether a sequence is one and possible."""
    return jnp.isfinite(found.sum(axis=1)) & is_sequence(lengths, x)


@program
def _filter(model: Any, params: Any, sequences: Data) -> FilteredStates:
    x, lengths = unpack(sequences)

    def of(c: Any) -> tuple[Array, Array]:
        pi, A = model.pi_A(c, x)
        return chain.filtered_probabilities(pi, A, model.log_b(c, x), lengths)

    probabilities, log_prob = choose(model.prepare(params, x), of)
    inside, sound = chain_steps.within(lengths, shape(x)[1]), _sound(lengths, x, log_prob)[:, None]
    probabilities = jnp.where(inside[:, :, None], jnp.where(sound[:, :, None], probabilities, jnp.nan), 0)
    return FilteredStates(probabilities, jnp.where(inside, jnp.where(sound, log_prob, jnp.nan), 0))


def _joined(sequences: Data, future: Dataset, lengths: Array) -> Dataset:
    """The covariates of the last step of each sequence and of all later ones, (N, 1 + H)."""
    if future.given is None:
        return future
    last = lambda leaf: jnp.take_along_axis(leaf, (lengths - 1).reshape(-1, *(1,) * (leaf.ndim - 1)), axis=1)
    given = jax.tree.map(lambda old, new: jnp.concatenate([last(old), new], axis=1), sequences.given, future.given)
    return Dataset(jnp.zeros((*shape(future), 0))[:, :1], given)


def _of_futures(model: Any, c: Any, sequences: Data, future: Dataset) -> tuple[Array, Array]:
    """p(z_T | x), (N, K), and the moves after it: A (K, K), or (N, H, K, K)."""
    x, lengths = unpack(sequences)
    pi, A = model.pi_A(c, x)
    filtered, log_c = chain.filtered_probabilities(pi, A, model.log_b(c, x), lengths)
    last = jnp.take_along_axis(filtered, (lengths - 1)[:, None, None], axis=1)[:, 0]
    last = jnp.where(_sound(lengths, x, log_c)[:, None], last, jnp.nan)
    if model.moves.homogeneous:
        return last, A
    (n, h), k = shape(future), model.k
    log_A = model.moves.log_prob(c.transition, at_moves(_joined(x, future, lengths)))
    return last, jnp.exp(log_A).reshape(n, h, k, k)


def states_ahead(last: Array, A: Array, horizon: int) -> Array:
    """p(z_{T + h}), (N, H, K)."""

    def step(p: Array, A_t: Array | None) -> tuple[Array, Array]:
        p = p @ A if A_t is None else (p[:, :, None] * A_t).sum(axis=1)
        p = p / p.sum(axis=1, keepdims=True)  # so that rounding does not grow with the horizon
        return p, p

    own = None if A.ndim == 2 else jnp.swapaxes(A, 0, 1)
    return jnp.swapaxes(jax.lax.scan(step, last, own, length=horizon)[1], 0, 1)


@program
def _forecast(model: Any, params: Any, sequences: Data, future: Dataset) -> Forecast:
    n, h = shape(future)

    def of(c: Any) -> Array:
        return states_ahead(*_of_futures(model, c, sequences, future), h)

    p = choose(model.prepare(params, sequences), of)
    unseen = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), future.values)
    frames = frames_of(real(families.own(model.family, dataclasses.replace(future, observed=unseen)), p.dtype))
    try:
        means = observed.impute(model.family, params.emissions, frames_of(p), frames)
    except ValueError:  # a family without means
        return Forecast(p, None)
    return Forecast(p, jax.tree.map(lambda leaf: leaf.reshape(n, h, *leaf.shape[1:]), means))


@program
def _forecast_log_prob(model: Any, params: Any, sequences: Data, future: Dataset) -> Array:
    of = lambda c: states_ahead(*_of_futures(model, c, sequences, future), shape(future)[1])
    p, later = choose(model.prepare(params, sequences), of), plain(future)
    log_b = choose(model.prepare(params, later), lambda c: model.log_b(c, later))
    return jax.nn.logsumexp(jnp.log(p) + log_b, axis=-1)


@program
def _sample_forecast(model: Any, key: Array, params: Any, sequences: Data, future: Dataset) -> tuple[Array, Any]:
    h, (state_key, path_key, x_key) = shape(future)[1], jax.random.split(key, 3)
    last, A = choose(model.prepare(params, sequences), lambda c: _of_futures(model, c, sequences, future))
    path = chain_paths.walk(jax.random.split(path_key, h), jax.random.categorical(state_key, jnp.log(last)), A)
    return path, model.observations_of(x_key, params, path, future)
