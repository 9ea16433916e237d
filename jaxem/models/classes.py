"""The base of models in which each observation has its own latent class."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.compilation import program
from jaxem.core.contexts import Context, choose
from jaxem.core.conversion import admit
from jaxem.core.data import Data
from jaxem.core.rows import FromRows
from jaxem.core.sizes import of_rows
from jaxem.latent import classes
from jaxem.latent.classes import Responsibilities


class ClassModel(FromRows):
    r"""The row functions that follow from ``table(c, x) -> (N, K)``, p_nk = log p(x_n, z_n = k).

    A final model defines ``table``.

    .. math:: r_{nk} = e^{p_{nk}} / \sum_j e^{p_{nj}}, \quad Q = \sum_{nk} r_{nk}\, p_{nk}, \quad
              H = -\sum_{nk} r_{nk} \log r_{nk}, \quad L = \sum_n \log \sum_k e^{p_{nk}} .
    """

    def table(self, c: Context, x: Data) -> Array:
        """log p(x_n, z_n = k), (N, K)."""
        raise TypeError(f"{type(self).__name__} must define table(c, x)")

    def joint(self, c: Context, x: Data) -> tuple[Array, Any]:
        """The table, and the posterior of further hidden variables given each class, leaves (N, K, ...), () if none."""
        return self.table(c, x), ()

    def infer(self, c: Context, x: Data) -> Responsibilities:
        """The responsibilities r_nk of each observation, by Bayes' rule."""
        table, hidden = self.joint(c, x)
        return classes.infer(table)._replace(hidden=hidden)

    def mode(self, c: Context, x: Data) -> Responsibilities:
        """All probability on the most probable class of each observation."""
        table, hidden = self.joint(c, x)
        return classes.mode(table)._replace(hidden=hidden)

    def tempered(self, c: Context, x: Data, inverse_temperature: Array | float) -> Responsibilities:
        """Responsibilities proportional to exp(inverse_temperature p_nk)."""
        table, hidden = self.joint(c, x)
        return classes.tempered(table, inverse_temperature)._replace(hidden=hidden)

    def draw(self, c: Context, x: Data, key: Array) -> Responsibilities:
        """All probability on one class per observation, drawn with probability r_nk."""
        table, hidden = self.joint(c, x)
        return classes.draw(table, key)._replace(hidden=hidden)

    def log_marginal(self, c: Context, x: Data) -> Array:
        """log sum_k exp(p_nk), (N,)."""
        return jax.nn.logsumexp(self.table(c, x), axis=-1)

    def complete(self, c: Context, q: Responsibilities, x: Data) -> Array:
        """sum_k r_nk p_nk, (N,)."""
        return classes.expected(q.probabilities, self.table(c, x))

    def entropy_rows(self, c: Context, q: Responsibilities, x: Data) -> Array:
        """-sum_k r_nk log r_nk, (N,)."""
        return classes.entropy(q.probabilities)

    def divergence_rows(self, q: Responsibilities, p: Responsibilities) -> Array:
        """KL(q || p) of each observation, (N,)."""
        return classes.divergence(q.probabilities, p.probabilities)

    def predict_proba(self, params: Any, data: Data) -> Array:
        """The posterior probability of each class, r_nk = p(z_n = k | x_n).

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations. Weights are ignored.

        Returns:
            Probabilities (N, K). A row is NaN where the observation is NaN, or impossible under ``params``.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _predict_proba(self, params, x), data)

    def predict(self, params: Any, data: Data) -> Array:
        """The most probable class of each observation.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations. Weights are ignored.

        Returns:
            Classes (N,), whole numbers from 0 to K - 1; -1 where the observation is NaN, or impossible under
            ``params``.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _predict(self, params, x), data)


@program
def _predict_proba(model: Any, params: Any, x: Data) -> Array:
    q = choose(model.prepare(params, x), lambda c: model.infer(c, x))
    return jnp.where(jnp.isfinite(q.log_normalizer)[:, None], q.probabilities, jnp.nan)


@program
def _predict(model: Any, params: Any, x: Data) -> Array:
    found = _predict_proba(model, params, x)
    return jnp.where(jnp.isnan(found).any(axis=1), -1, found.argmax(axis=1))
