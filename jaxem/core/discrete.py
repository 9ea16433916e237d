"""The posterior over K classes, one latent variable an observation: what mixtures of every kind share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.compilation import program
from jaxem.core.conversion import admit
from jaxem.core.data import Data, counted, split_weights, total
from jaxem.core.model import require


class Responsibilities(NamedTuple):
    """q(z_n = k), and the normaliser that made it sum to one."""

    probabilities: Array  # (N, K)
    log_normalizer: Array  # (N,), log p(x_n | params)


def posterior(log_joint: Array) -> Responsibilities:
    """Bayes' rule: r_nk = p(x_n, z = k) / sum_j p(x_n, z = j), from ``log_joint (N, K)``."""
    table = log_joint.T  # along the observations the sums over classes are sums of long rows
    # Any scale does, so it has no derivative; where nothing is possible, or all is NaN, none is needed.
    largest = jax.lax.stop_gradient(table.max(axis=0))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    joint = jnp.exp(table - largest[None, :])
    c = joint.sum(axis=0)
    return Responsibilities((joint / c[None, :]).T, largest + jnp.log(c))


def certain(labels: Array, log_joint: Array) -> Responsibilities:
    """All probability on one class an observation, ``labels (N,)``."""
    probabilities = jax.nn.one_hot(labels, log_joint.shape[-1], dtype=log_joint.dtype)
    return Responsibilities(probabilities, jax.nn.logsumexp(log_joint, axis=-1))


def expected(probabilities: Array, values: Array) -> Array:
    """sum_k p_k v_k on the last axis, where a class without probability counts nothing even at v = -inf."""
    possible = probabilities != 0  # NaN is no zero
    return jnp.where(possible, probabilities * jnp.where(possible, values, 0), 0).sum(axis=-1)


def log_times(counts: Array, probabilities: Array) -> Array:
    """n log p element by element, 0 where n is 0: its derivative stays finite where a p that nothing counts is zero."""
    return counts * jnp.log(jnp.where(counts > 0, probabilities, 1))


def log_probability(p: Array) -> Array:
    """log p, -inf at zero, where it has derivative 0: what counts nothing there, 0 log 0, does so nearby."""
    return jnp.where(p == 0, -jnp.inf, jnp.log(jnp.where(p == 0, 1, p)))


def entropy(probabilities: Array) -> Array:
    """-sum_k p_k log p_k on the last axis, with 0 log 0 = 0."""
    return -expected(probabilities, jnp.log(jnp.where(probabilities > 0, probabilities, 1)))


def divergence(q: Array, p: Array) -> Array:
    """KL(q || p) = sum_k q_k log(q_k / p_k) on the last axis; infinite where q is possible and p is not."""
    ratio = jnp.log(jnp.where(q > 0, q, 1)) - jnp.log(jnp.where(q > 0, p, 1))
    return expected(q, ratio)


def require_classes(model: Any, feature: str, params: Any, data: Data) -> None:
    """Raise ``ValueError`` where the model's latent variables are not classes."""
    require(model, feature, "predict_proba")
    if not hasattr(jax.eval_shape(model.predict_proba, params, data), "shape"):
        raise ValueError(
            f"{feature} needs latent classes; the latent variable of {type(model).__name__} is not discrete"
        )


class DiscreteLatent:
    r"""The parts of a model whose observations each have a latent class of their own.

    Final models supply ``log_joint_table(params, observations) -> (N, K)``, p_nk = log p(x_n, z_n = k | params), and
    get, with data that may be ``Weighted``,

    .. math:: r_{nk} = e^{p_{nk}} / \sum_j e^{p_{nj}}, \quad Q = \sum_{nk} r_{nk}\, p_{nk}, \quad
              H = -\sum_{nk} r_{nk} \log r_{nk}, \quad L = \sum_n \log \sum_k e^{p_{nk}} .

    Data and parameters are converted and checked where they are met (see ``core/conversion.py``). Nothing here is
    overridden.
    """

    def log_joint_table(self, params: Any, observations: Data) -> Array:
        """log p(x_n, z_n = k | params), (N, K)."""
        raise TypeError(f"{type(self).__name__} must define log_joint_table(params, observations)")

    def log_marginal(self, params: Any, observations: Data) -> Array:
        """log p(x_n) = log sum_k exp(p_nk), (N,), for observations that have been checked."""
        return jax.nn.logsumexp(self.log_joint_table(params, observations), axis=-1)

    def e_step(self, params: Any, data: Data) -> Responsibilities:
        """Bayes' rule for each observation."""
        return posterior(self.log_joint_table(params, counted(data)[0]))

    def c_step(self, params: Any, data: Data) -> Responsibilities:
        """The most probable class of each observation, argmax_k p_nk."""
        log_joint = self.log_joint_table(params, counted(data)[0])
        return certain(log_joint.argmax(axis=-1), log_joint)

    def tempered_e_step(self, params: Any, data: Data, inverse_temperature: Array | float) -> Responsibilities:
        """r_nk proportional to exp(p_nk)^inverse_temperature."""
        log_joint = self.log_joint_table(params, counted(data)[0])
        tempered = posterior(inverse_temperature * log_joint)
        return tempered._replace(log_normalizer=jax.nn.logsumexp(log_joint, axis=-1))

    def sample_posterior(self, key: Array, params: Any, data: Data) -> Responsibilities:
        """One class an observation, drawn with probability r_nk."""
        log_joint = self.log_joint_table(params, counted(data)[0])
        return certain(jax.random.categorical(key, log_joint, axis=-1), log_joint)

    def q_function(self, params: Any, q: Responsibilities, data: Data) -> Array:
        """E_q log p(x, z | params) = sum_nk r_nk p_nk."""
        observations, weights = counted(data)
        return total(expected(q.probabilities, self.log_joint_table(params, observations)), weights)

    def entropy(self, q: Responsibilities, data: Data) -> Array:
        """H(q) = -sum_nk r_nk log r_nk."""
        return total(entropy(q.probabilities), split_weights(data)[1])

    def divergence(self, q: Responsibilities, p: Responsibilities, data: Data) -> Array:
        """KL(q || p), summed over the observations."""
        return total(divergence(q.probabilities, p.probabilities), split_weights(data)[1])

    def log_normalizer(self, q: Responsibilities, data: Data) -> Array:
        """log p(x | params) as the E-step met it."""
        return total(q.log_normalizer, split_weights(data)[1])

    def log_prob(self, params: Any, data: Data) -> Array:
        """log p(x_n | params) of each observation, (N,); NaN where it is NaN, -inf where it is impossible."""
        params, data = admit(self, params, data)
        return _log_prob(self, params, split_weights(data)[0])

    def log_likelihood(self, params: Any, data: Data) -> Array:
        """log p(x | params), the (weighted) sum of ``log_prob``."""
        params, data = admit(self, params, data)
        observations, weights = counted(data)
        return total(_log_prob(self, params, observations), weights)

    def predict_proba(self, params: Any, data: Data) -> Array:
        """The posterior probability of each class, (N, K); NaN for an observation that is NaN or impossible."""
        params, data = admit(self, params, data)
        return _predict_proba(self, params, split_weights(data)[0])

    def predict(self, params: Any, data: Data) -> Array:
        """The most probable class of each observation, (N,); -1 for one that is NaN or impossible."""
        params, data = admit(self, params, data)
        return _predict(self, params, split_weights(data)[0])


@program
def _log_prob(model: Any, params: Any, observations: Data) -> Array:
    return model.log_marginal(params, observations)


@program
def _predict_proba(model: Any, params: Any, observations: Data) -> Array:
    q = posterior(model.log_joint_table(params, observations))
    return jnp.where(jnp.isfinite(q.log_normalizer)[:, None], q.probabilities, jnp.nan)


@program
def _predict(model: Any, params: Any, observations: Data) -> Array:
    found = _predict_proba(model, params, observations)
    return jnp.where(jnp.isnan(found).any(axis=1), -1, found.argmax(axis=1))
