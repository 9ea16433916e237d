"""The distribution function of a mixture at its observations."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.core.compilation import program
from jaxem.core.contexts import choose
from jaxem.core.conversion import admit
from jaxem.core.data import Data
from jaxem.core.sizes import of_rows
from jaxem.families import observed
from jaxem.families.tails import Tails


class Distribution:
    """The function of a mixture that residuals are made of."""

    def distribution(self: Any, params: Any, data: Data) -> Tails:
        r"""The probabilities on both sides of each observation, for residuals (``jaxem.inference.residuals``).

        .. math:: P(X < x_n) = \sum_k w_k(u_n)\, P(X < x_n \mid k)

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations. Weights are ignored.

        Returns:
            ``Tails(below, at, above)``, each (N,): P(X < x_n), P(X = x_n), which is zero for continuous values, and
            P(X > x_n). NaN where the observation is missing.

        Raises:
            ValueError: the family has no distribution function, for its observations are several numbers, categories or
                angles; or parameters, data and model do not fit each other.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _distribution(self, params, x), data)


@program
def _distribution(model: Any, params: Any, x: Data) -> Tails:
    def of(c: Any) -> Tails:
        rows, own = model._parts(c, x)
        w = jnp.exp(model.gate.log_prob(c.weights, rows))
        found = observed.tails(model.family, c.components, own)
        # A class of weight zero may be NaN where its parameters are.
        return jax.tree.map(lambda part: jnp.where(w > 0, w * part, 0).sum(axis=1), found)

    return choose(model.prepare(params, x), of)
