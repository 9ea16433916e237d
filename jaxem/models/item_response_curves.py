"""What the items of a test say at each ability: their characteristic curves and their information."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxem.core.compilation import program
from jaxem.core.conversion import as_params
from jaxem.core.trees import float_dtype


class Curves:
    """The functions of an item response model that need no data."""

    def curves(self: Any, params: Any, abilities: ArrayLike) -> tuple[Array, ...]:
        r"""Item characteristic curves: the probability of each level of each item at given abilities.

        .. math:: P(x_d = l \mid t) = F(a_d t + b_{dl}) - F(a_d t + b_{d,l+1})

        Arguments:
            params: parameters of the model, or a ``Fit``.
            abilities: t, (Q,), in standard deviations of the population.

        Returns:
            For each item an array (Q, levels).

        Raises:
            ValueError: the parameters do not fit the model, or ``abilities`` are no list of numbers.
        """
        params, t, levels = _read(self, params, abilities, "curves")
        return tuple(jnp.split(jnp.exp(_log_probabilities(self, params, t)), np.cumsum(levels)[:-1], axis=1))

    def item_information(self: Any, params: Any, abilities: ArrayLike) -> Array:
        r"""The Fisher information of each item about ability; their sum over items is that of the test.

        .. math:: I_d(t) = \sum_l P_{dl}(t) \left(\frac{\partial \log P_{dl}(t)}{\partial t}\right)^2

        One over the root of the sum is the standard error of an ability that is estimated by maximum likelihood.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            abilities: t, (Q,), in standard deviations of the population.

        Returns:
            An array (Q, D).

        Raises:
            ValueError: as for ``curves``.

        Source: Samejima (1969), chapter 6; Baker & Kim (2004).
        """
        params, t, levels = _read(self, params, abilities, "item_information")
        item = np.repeat(np.arange(len(levels)), levels)
        terms = _information(self, params, t)
        return jnp.zeros((t.shape[0], len(levels)), t.dtype).at[:, item].add(terms)


def _read(model: Any, params: Any, abilities: Any, name: str) -> tuple[Any, Array, tuple[int, ...]]:
    params = as_params(model, params)
    model.check_shapes(params, None)
    t = jnp.asarray(abilities, float_dtype(params))
    if t.ndim != 1 or not t.size:
        raise ValueError(f"ItemResponse.{name}: abilities must be a list of numbers; got shape {t.shape}")
    levels = model.levels or (2,) * int(params.intercepts.shape[0])
    return params, t, levels


@program(quick="always")
def _log_probabilities(model: Any, params: Any, t: Array) -> Array:
    return model.family.log_probabilities(params, t)


@program(quick="always")
def _information(model: Any, params: Any, t: Array) -> Array:
    """P (d log P / dt)^2 of each level, (Q, sum of levels)."""
    log_p, slope = jax.jvp(lambda t: model.family.log_probabilities(params, t), (t,), (jnp.ones_like(t),))
    return jnp.exp(log_p) * slope**2
