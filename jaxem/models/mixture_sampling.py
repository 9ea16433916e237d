"""Draws from a mixture, and missing cells replaced."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.contexts import choose
from jaxem.core.conversion import admit, as_params, check_shapes, names_of
from jaxem.core.data import Data, count, split_weights, values_of, with_values
from jaxem.core.dataset import as_data
from jaxem.families import observed
from jaxem.models.classes import ClassModel
from jaxem.models.mixture_classes import log_gate
from jaxem.models.mixture_params import MixtureParams


class Sampling:
    """The functions of a mixture that draw observations."""

    def sample(self: Any, key: Array, params: MixtureParams, n: int) -> Array:
        """Observations drawn from the mixture.

        Arguments:
            key: a random key.
            params: parameters of the mixture, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Observations (n, ...).

        Raises:
            ValueError: ``key`` is not a random key, ``n`` is not a whole number of at least 0, the parameters do not
                fit the model, or the components depend on covariates.
        """
        return self.sample_joint(key, params, n)[1]

    def sample_joint(self: Any, key: Array, params: MixtureParams, n: int) -> tuple[Array, Array]:
        """Classes and observations drawn from the mixture.

        Arguments:
            key: a random key.
            params: parameters of the mixture, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Classes (n,) and their observations (n, ...).

        Raises:
            ValueError: as for ``sample``.
        """
        prng_key("Mixture.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        if "given" in self.takes:
            raise ValueError("Mixture.sample: draws depend on covariates; use sample_like(key, params, data)")
        return _draw(self, key, params, whole_number("Mixture.sample: n", n, 0))

    def sample_like(self: Any, key: Array, params: MixtureParams, data: Data) -> Data:
        """As many observations as ``data`` hold, drawn from the mixture; covariates and missing cells stay as they are.

        Arguments:
            key: a random key.
            params: parameters of the mixture, or a ``Fit``.
            data: N observations, of which only shapes, covariates, lengths and missing cells are used.

        Returns:
            Observations (N, ...), or a ``Dataset`` where ``data`` have covariates, lengths or missing cells. Weights
            are left out.

        Raises:
            ValueError: as for ``sample``, or the data do not fit the model.
        """
        data = as_data(data, like=names_of(params), trust="nothing")
        check_shapes(self, None, data)
        x, n = split_weights(data)[0], count(data)
        params, family = as_params(self, params), self.family
        if self.gate.homogeneous and not hasattr(family, "sample_like"):
            return with_values(x, _draw(self, key, params, n)[1])
        return with_values(x, _draw_like(self, key, params, x, n))

    def impute(self: Any, params: MixtureParams, data: Data, key: Array | None = None) -> Any:
        """The values with missing cells replaced; see ``jaxem.impute``."""
        params, data = admit(self, params, data)
        return _impute(self, params, split_weights(data)[0], key)


@program
def _impute(model: Any, params: MixtureParams, x: Data, key: Array | None) -> Any:
    x, own = model._parts(params, x)
    q = choose(model.prepare(params, x), lambda c: ClassModel.infer(model, c, x))
    return observed.impute(model.family, params.components, q.probabilities, own, key)


@program(static_argnames=("n",))
def _draw(model: Any, key: Array, params: MixtureParams, n: int) -> tuple[Array, Array]:
    label_key, x_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, jnp.log(model.gate.probability(params.weights)), shape=(n,))
    return labels, model.family.sample(x_key, params.components, labels)


@program(static_argnames=("n",))
def _draw_like(model: Any, key: Array, params: MixtureParams, x: Data, n: int) -> Any:
    label_key, x_key = jax.random.split(key)
    if model.gate.homogeneous:
        log_w, shape = jnp.log(model.gate.probability(params.weights)), (n,)
    else:
        log_w, shape = log_gate(model, params, x), None
    labels = jax.random.categorical(label_key, log_w, shape=shape)
    family: Any = model.family
    if hasattr(family, "sample_like"):
        return values_of(family.sample_like(x_key, params.components, labels, model._own(x)))
    return family.sample(x_key, params.components, labels)
