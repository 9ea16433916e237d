"""The classes of a mixture: their sizes, their means, their numbers."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.compilation import program
from jaxem.core.conversion import names_of, of_fit
from jaxem.core.data import Data, counted
from jaxem.core.dataset import arrays_of
from jaxem.core.parameters import Param
from jaxem.families import protocol as families
from jaxem.models.mixture_params import MixtureParams


class Components:
    """The functions of a mixture that are about its components one by one."""

    def class_sizes(self: Any, params: MixtureParams, data: Data) -> Array:
        """The share of each component in the population of the data, (K,): the mean of its probabilities."""
        data, params = arrays_of(data, names_of(params)), of_fit(params)
        if self.gate.homogeneous:
            return self.gate.probability(self.gate.prepare(params.weights, None))
        x, w = counted(data)
        p = jnp.exp(log_gate(self, params, x))
        w = jnp.ones((p.shape[0],), p.dtype) if w is None else w.astype(p.dtype)
        return (w[:, None] * p).sum(axis=0) / w.sum()

    def class_means(self: Any, params: MixtureParams) -> list[tuple[Param, Array]]:
        """E x given each component: arrays with an axis of components, each with its declaration."""
        return families.means(self.family, params.components)

    def permute(self: Any, params: MixtureParams, order: Array) -> MixtureParams:
        """The same mixture with its components renumbered.

        Arguments:
            params: parameters of the mixture.
            order: a permutation (K,); component ``order[k]`` becomes component k.

        Returns:
            Parameters of the same shapes.
        """
        return parameters.permuted(self.declare(), params, order)

    def label_keys(self: Any, params: MixtureParams) -> Array:
        """The location of each component, (K, F), by which components are sorted."""
        return parameters.locations(self.declare(), params)


@program
def log_gate(model: Any, params: MixtureParams, x: Data) -> Array:
    """The log-probability of each component by the gate, (N, K)."""
    return model.gate.log_prob(model.gate.prepare(params.weights, x), model._parts(params, x)[0])
