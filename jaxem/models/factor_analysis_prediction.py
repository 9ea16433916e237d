"""Factors, draws and imputed values of a factor analysis."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import admit, as_params
from jaxem.core.data import Data, Dataset, observed_of, split_weights, values_of
from jaxem.core.sizes import of_rows
from jaxem.latent.gaussian import Factors
from jaxem.models.factor_analysis_params import FactorAnalysisParams
from jaxem.models.observations import real


class Prediction:
    """The functions of a factor analysis that answer questions about data, given parameters."""

    def predict(self: Any, params: FactorAnalysisParams, data: Data) -> Array:
        """The posterior mean of the factors of each observation.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations (N, D). Weights are ignored.

        Returns:
            Means (N, k); NaN where the observation is not finite.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        return self.factors(params, data).means

    def factors(self: Any, params: FactorAnalysisParams, data: Data) -> Factors:
        """The posterior of the factors of each observation, a normal distribution.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations (N, D). Weights are ignored.

        Returns:
            A ``Factors``: means (N, k), NaN where the observation is not finite, and the covariance (k, k), which is
            common to all observations, or (N, k, k) where cells are missing.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        params, data = admit(self, params, data)
        found: list[Factors] = []

        def by_rows(x: Data) -> dict[str, Any]:
            found.append(_posterior(self, params, x))
            rows = {"means": found[0].means, "log_normalizer": found[0].log_normalizer}
            if found[0].covariance.ndim == 3:  # else it is common to all rows
                rows["covariance"] = found[0].covariance
            return rows

        rows = of_rows(by_rows, data)
        return found[0]._replace(**rows)

    def latent_scores(self: Any, params: FactorAnalysisParams, data: Data) -> tuple[str, Array, Array]:
        """Posterior means and standard deviations of the factors; see ``jaxem.scores``.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations, in any form that ``fit`` takes.

        Returns:
            ``"factor"``, the means (N, k) and the standard deviations (N, k).
        """
        q = self.factors(params, data)
        deviations = jnp.sqrt(jnp.diagonal(q.covariance, axis1=-2, axis2=-1))
        return "factor", q.means, jnp.broadcast_to(deviations, q.means.shape)

    def sample(self: Any, key: Array, params: FactorAnalysisParams, n: int) -> Array:
        """Observations drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Observations (n, D).

        Raises:
            ValueError: ``key`` is not a random key, ``n`` is not a whole number of at least 0, or the parameters do
                not fit the model.
        """
        return self.sample_joint(key, params, n)[1]

    def sample_joint(self: Any, key: Array, params: FactorAnalysisParams, n: int) -> tuple[Array, Array]:
        """Factors and observations drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Factors (n, k) and their observations (n, D).

        Raises:
            ValueError: as for ``sample``.
        """
        prng_key("FactorAnalysis.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        return _draw(self, key, params, whole_number("FactorAnalysis.sample: n", n, 0))

    def impute(self: Any, params: FactorAnalysisParams, data: Data, key: Array | None = None) -> Array:
        """The values with missing cells replaced; see ``jaxem.impute``."""
        params, data = admit(self, params, data)
        if observed_of(data) is None:
            return values_of(data)
        return _impute(self, params, split_weights(data)[0], key)


@program
def _posterior(model: Any, params: FactorAnalysisParams, x: Array) -> Factors:
    q = model.e_step(params, x)
    return q._replace(means=jnp.where(jnp.isfinite(q.log_normalizer)[:, None], q.means, jnp.nan))


@program(static_argnames=("n",))
def _draw(model: Any, key: Array, params: FactorAnalysisParams, n: int) -> tuple[Array, Array]:
    z_key, e_key = jax.random.split(key)
    z = jax.random.normal(z_key, (n, model.k), params.mean.dtype)
    e = jax.random.normal(e_key, (n, params.mean.shape[0]), params.mean.dtype)
    return z, params.mean[None, :] + z @ params.loadings.T + jnp.sqrt(params.noise)[None, :] * e


@program
def _impute(model: Any, params: FactorAnalysisParams, x: Dataset, key: Array | None) -> Array:
    if key is None:
        found = params.mean[None, :] + model.e_step(params, x).means @ params.loadings.T
    else:
        z_key, e_key = jax.random.split(key)
        found = params.mean[None, :] + model.sample_posterior(z_key, params, x).means @ params.loadings.T
        found = found + jnp.sqrt(params.noise)[None, :] * jax.random.normal(e_key, found.shape, found.dtype)
    return jnp.where(x.observed, real(x.values, found.dtype), found)
