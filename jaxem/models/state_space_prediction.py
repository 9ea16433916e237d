"""What a fitted state-space model is used for: filtering, smoothing, forecasts, samples and the filling of gaps."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import admit, as_params, check_shapes, names_of
from jaxem.core.data import Data, Dataset, lengths_of, observed_of, split_weights, values_of, with_values
from jaxem.core.dataset import as_data, as_given
from jaxem.core.sizes import of_rows
from jaxem.latent import gaussian_chain, gaussian_chain_filter
from jaxem.latent.gaussian_chain import States
from jaxem.latent.gaussian_chain_filter import Filtered
from jaxem.latent.gaussian_chain_roots import apply, times, turned
from jaxem.models.observations import real


class Forecast(NamedTuple):
    """Distributions of what comes after the end of each sequence."""

    means: Array  # (N, H, D), of the observations
    covariances: Array  # (N, H, D, D)
    state_means: Array  # (N, H, k)
    state_covariances: Array  # (N, H, k, k)


class Signal(NamedTuple):
    """Distributions of the observations without their own noise."""

    means: Array  # (N, T, D)
    covariances: Array  # (n, T, D, D), n = 1 where they are common to all sequences


class Prediction:
    """The functions of ``StateSpace`` that use parameters and do not change them."""

    event_ndim: ClassVar[int] = 2

    def filter(self, params: Any, data: Data) -> Filtered:
        """The distribution of the state at each step given the observations up to it, by the Kalman filter.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            A ``Filtered``: means (N, T, k), covariances (N, T, k, k) and the log-likelihood of each sequence (N,).
            With a diffuse first state means are NaN, and covariances infinite, until the observations determine it.
            After the end of a sequence these are predictions.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _filter(self, params, x), data)

    def smooth(self, params: Any, data: Data) -> States:
        """The posterior of the states given whole sequences.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            A ``States``: means (N, T, k), covariances (n, T, k, k), with n = 1 where they are common to all sequences,
            and the moves of the posterior chain. The covariance of x_{t+1} and x_t is ``moves[:, t] @
            covariances[:, t]``. After the end of a sequence these are predictions.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model.
        """
        params, data = admit(self, params, data)
        return _smooth(self, params, split_weights(data)[0])

    def predict(self, params: Any, data: Data) -> Array:
        """The smoothed means of the states; see ``smooth``.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            An array (N, T, k).
        """
        return self.smooth(params, data).means

    def signal(self: Any, params: Any, data: Data) -> Signal:
        r"""The posterior of the observations without their own noise, given whole sequences.

        .. math:: E[C x_t + D u_t \mid y_1 \dots y_T], \qquad
                  \operatorname{Cov}(C x_t \mid y_1 \dots y_T) = C\, V_t\, C'

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            ``Signal(means (N, T, D), covariances (n, T, D, D))``, n = 1 where they are common to all sequences. After
            the end of a sequence these are predictions.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model.
        """
        params, data = admit(self, params, data)
        return _signal(self, params, split_weights(data)[0])

    def latent_scores(self, params: Any, data: Data) -> tuple[str, Array, Array]:
        """Posterior means and standard deviations of the states, smoothed; see ``jaxem.scores``.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations, in any form that ``fit`` takes.

        Returns:
            ``"state"``, the means (N, T, k) and the standard deviations (N, T, k).
        """
        q = self.smooth(params, data)
        deviations = jnp.sqrt(jnp.maximum(jnp.diagonal(q.covariances, axis1=-2, axis2=-1), 0))
        return "state", q.means, jnp.broadcast_to(deviations, q.means.shape)

    def forecast(self: Any, params: Any, data: Data, horizon: int, given: Any = None) -> Forecast:
        """The distributions of the observations and states after the end of each sequence.

        Arguments:
            params: parameters of the model, or a ``Fit``; their uncertainty is not part of the forecast.
            data: N sequences. Weights are ignored.
            horizon: H, the number of steps, at least 1.
            given: the inputs of these steps, (N, H, P); needed where the model has inputs.

        Returns:
            A ``Forecast`` with means (N, H, D) and covariances (N, H, D, D) of each step.

        Raises:
            ValueError: shapes do not fit the model, or inputs are missing.
        """
        horizon = whole_number("StateSpace.forecast: horizon", horizon, 1)
        given = as_given(given, names_of(params))
        params, data = admit(self, params, data)
        x = split_weights(data)[0]
        takes = "given" in self.takes
        if takes != (given is not None):
            raise ValueError(f"StateSpace.forecast: the model {'needs' if takes else 'takes no'} inputs: given")
        if given is not None:
            wanted = (values_of(x).shape[0], horizon, x.given.shape[2])
            if given.shape != wanted:
                raise ValueError(f"StateSpace.forecast: given must have shape {wanted}; got {given.shape}")
        return _forecast(self, params, x, given, horizon)

    def sample(self, key: Array, params: Any, n: int, length: int = 100, given: Any = None) -> Array:
        """Sequences drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of sequences, at least 0.
            length: the number of steps of each sequence, at least 1 (default 100).
            given: inputs (n, length, P), where the model has inputs.

        Returns:
            Observations (n, length, D). With a diffuse first state sequences start at the state 0.

        Raises:
            ValueError: an argument is not what is described here, or the parameters do not fit the model.
        """
        return self.sample_joint(key, params, n, length, given)[1]

    def sample_joint(
        self: Any, key: Array, params: Any, n: int, length: int = 100, given: Any = None
    ) -> tuple[Array, Array]:
        """States and observations of sequences drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of sequences, at least 0.
            length: the number of steps of each sequence, at least 1 (default 100).
            given: inputs (n, length, P), where the model has inputs.

        Returns:
            States (n, length, k) and observations (n, length, D). With a diffuse first state sequences start at the
            state 0.

        Raises:
            ValueError: an argument is not what is described here, or the parameters do not fit the model.
        """
        prng_key("StateSpace.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        n = whole_number("StateSpace.sample: n", n, 0)
        length = whole_number("StateSpace.sample: length", length, 1)
        if ("given" in self.takes) != (given is not None):
            raise ValueError("StateSpace.sample: the model has inputs if and only if given is passed")
        u = None if given is None else real(as_data(given), params.transition.dtype)
        return _draw(self, key, params, u, n, length)

    def sample_like(self: Any, key: Array, params: Any, data: Data) -> Data:
        """As many sequences as ``data`` hold, with the same lengths, inputs and missing cells.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            data: N sequences, of which only the shape, lengths, inputs and missing cells are used.

        Returns:
            Observations (N, T, D), or a ``Dataset`` where ``data`` are one. Weights are left out.

        Raises:
            ValueError: as for ``sample``, or the data do not fit the model.
        """
        data = as_data(data, like=names_of(params), trust="nothing")
        check_shapes(self, None, data)
        x = split_weights(data)[0]
        given = x.given if isinstance(x, Dataset) else None
        return with_values(x, self.sample(key, params, *values_of(x).shape[:2], given))

    def impute(self, params: Any, data: Data, key: Array | None = None) -> Array:
        """The values with missing cells replaced by their means, or by draws; see ``jaxem.impute``."""
        params, data = admit(self, params, data)
        if observed_of(data) is None:
            return values_of(data)
        return _impute(self, params, split_weights(data)[0], key)


@program(static_argnames=("n", "length"))
def _draw(model: Any, key: Array, params: Any, u: Any, n: int, length: int) -> tuple[Array, Array]:
    first_key, state_key, key = jax.random.split(key, 3)
    dtype, d = params.transition.dtype, model._dynamics(params)
    normal = lambda key, *shape: jax.random.normal(key, shape, dtype)
    first = jnp.broadcast_to(d.m[None], (n, model.states))
    if d.S is not None:
        first = first + normal(first_key, n, model.states) @ d.S.T
    moves = normal(state_key, n, length - 1, model.shocks) @ d.L.T
    if params.state_inputs is not None:
        moves = moves + u[:, 1:] @ params.state_inputs.T
    A = jnp.broadcast_to(d.A[None, None], (1, length - 1, *d.A.shape))
    states = gaussian_chain.roots.path(A, moves, first, False, False)
    y = states @ params.loadings.T + normal(key, n, length, params.noise.shape[0]) @ _noise_root(params.noise).T
    if params.output_inputs is not None:
        y = y + u @ params.output_inputs.T
    return states, y


def _noise_root(noise: Array) -> Array:
    return jnp.diag(jnp.sqrt(noise)) if noise.ndim == 1 else jnp.linalg.cholesky(noise)


@program
def _filter(model: Any, params: Any, x: Data) -> Filtered:
    c = model.prepare(params, x)
    z, W, b, cells = model._white(c, x)
    found = gaussian_chain_filter.run(c.dynamics, W, z, b)
    return found._replace(log_density=found.log_density + cells)


@program
def _smooth(model: Any, params: Any, x: Data) -> States:
    return model.infer(model.prepare(params, x), x)


@program
def _signal(model: Any, params: Any, x: Data) -> Signal:
    q, C = _smooth(model, params, x), params.loadings
    means = q.means @ C.T
    if params.output_inputs is not None:
        means = means + real(x.given, means.dtype) @ params.output_inputs.T
    return Signal(means, times(times(C, q.covariances), C.T))


@program(static_argnames=("horizon",))
def _forecast(model: Any, params: Any, x: Data, given: Array | None, horizon: int) -> Forecast:
    found, d = _filter(model, params, x), model._dynamics(params)
    n, t = found.means.shape[:2]
    lengths = lengths_of(x)
    last = jnp.full((n,), t - 1) if lengths is None else lengths - 1
    m = jnp.take_along_axis(found.means, last[:, None, None], axis=1)[:, 0]
    P = jnp.take_along_axis(found.covariances, last[:, None, None, None], axis=1)[:, 0]
    Q, A, C = times(d.L, turned(d.L)), d.A, params.loadings
    given = None if given is None else real(given, m.dtype)
    moved = jnp.zeros((n, horizon, model.states), m.dtype)
    if params.state_inputs is not None:
        moved = moved + given @ params.state_inputs.T

    def step(state: tuple[Array, Array], b: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        state = apply(A, state[0]) + b, times(times(A, state[1]), A.T) + Q[None]
        return state, state

    _, (means, covariances) = jax.lax.scan(step, (m, P), jnp.moveaxis(moved, 1, 0))
    means, covariances = jnp.moveaxis(means, 0, 1), jnp.moveaxis(covariances, 0, 1)
    R = jnp.diag(params.noise) if params.noise.ndim == 1 else params.noise
    y = means @ C.T if params.output_inputs is None else means @ C.T + given @ params.output_inputs.T
    return Forecast(y, times(times(C, covariances), C.T) + R[None, None], means, covariances)


@program
def _impute(model: Any, params: Any, x: Data, key: Array | None) -> Array:
    q = model.e_step(params, x)
    if key is not None:
        state_key, key = jax.random.split(key)
        q = q._replace(means=gaussian_chain.draw(q, state_key))
    y = q.means @ params.loadings.T
    if params.output_inputs is not None:
        y = y + real(x.given, y.dtype) @ params.output_inputs.T
    if key is not None:
        y = y + jax.random.normal(key, y.shape, y.dtype) @ _noise_root(params.noise).T
    seen = observed_of(x)
    return jnp.asarray(values_of(x), y.dtype) if seen is None else jnp.where(seen, values_of(x), y)
