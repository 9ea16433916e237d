"""The bound of EM and its parts, under the names that theory gives them.

L(theta) = log p(x | theta) = ELBO(theta, q) + KL(q || p(z | x, theta)) for every q (Neal & Hinton 1998). None of these
terms includes the prior, which would be the same on both sides; ``penalized`` adds it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import brief
from jaxem.core.conversion import admit, convert
from jaxem.core.data import Data
from jaxem.core.model import Params, Posterior, has, require


def elbo(model: Any, params: Params, q: Posterior, data: Data) -> Array:
    r"""The evidence lower bound of the log-likelihood, a scalar, without the log-prior.

    .. math:: \mathrm{ELBO}(\theta, q) = E_q \log p(x, z \mid \theta) + H(q) \le \log p(x \mid \theta)

    Arguments:
        model: a model with ``q_function`` and ``entropy``.
        params: the parameters, or a ``Fit``.
        q: any distribution over the latent variables, in the form that the model's ``e_step`` returns.
        data: the observations, in any form that ``fit`` takes.

    Returns:
        A scalar; it equals log p(x | params) where q is the posterior at ``params``.

    Raises:
        ValueError: the model lacks ``q_function`` or ``entropy``, q has another form than the E-step returns, or one of
            the two functions does not return one real number.

    Source: Neal & Hinton (1998).
    """
    params, data = convert(model, params, data)
    require(model, "the ELBO", "q_function", "entropy")
    try:
        parts = model.q_function(params, q, data), model.entropy(q, data)
    except (AttributeError, TypeError) as error:
        like = jax.eval_shape(model.e_step, params, data) if has(model, "e_step") else q
        if jax.tree.structure(like) == jax.tree.structure(q):
            raise
        raise ValueError(f"q must be what the E-step returns, {brief(like)}; it is {brief(q)}") from error
    return scalar("q_function", parts[0]) + scalar("entropy", parts[1])


def kl(model: Any, params: Params, q: Posterior, data: Data) -> Array:
    r"""The divergence of q from the posterior at ``params``, a scalar.

    .. math:: \mathrm{KL}(q \,\|\, p(z \mid x, \theta)) = \log p(x \mid \theta) - \mathrm{ELBO}(\theta, q) \ge 0

    Arguments:
        model: a model with ``log_likelihood``, ``q_function`` and ``entropy``.
        params: the parameters, or a ``Fit``.
        q: any distribution over the latent variables, in the form that the model's ``e_step`` returns.
        data: the observations, in any form that ``fit`` takes.

    Returns:
        A scalar, never negative but for rounding error; zero only where q is the posterior.

    Raises:
        ValueError: the model lacks ``log_likelihood``, ``q_function`` or ``entropy``, or as ``elbo``.

    Source: Neal & Hinton (1998).
    """
    params, data = convert(model, params, data)
    require(model, "the KL divergence", "log_likelihood")
    return scalar("log_likelihood", model.log_likelihood(params, data)) - elbo(model, params, q, data)


def surrogate(model: Any, params: Params, at: Params, data: Data) -> Array:
    r"""The lower bound of the log-likelihood that one EM iteration at ``at`` maximises, a scalar.

    .. math:: B(\theta, \theta_i) = \mathrm{ELBO}(\theta, p(z \mid x, \theta_i)) \le L(\theta), \qquad
              B(\theta_i, \theta_i) = L(\theta_i)

    Arguments:
        model: a model with ``e_step``, ``q_function`` and ``entropy``.
        params: the parameters at which the bound is evaluated.
        at: the parameters of the E-step; the bound touches the log-likelihood there.
        data: the observations, in any form that ``fit`` takes.

    Returns:
        A scalar, without the log-prior.

    Raises:
        ValueError: the model lacks one of the three functions, or parameters, data and model do not fit each other.
    """
    require(model, "the surrogate", "e_step")
    at, data = admit(model, at, data)
    return elbo(model, params, model.e_step(at, data), data)


def scalar(name: str, value: Any) -> Any:
    """``value``, which the model's function ``name`` returned; ``ValueError`` where it is not one real number.

    Only shape and dtype are checked, so that it works in a trace too.
    """
    number = isinstance(value, float | int)
    if not number and (getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating)):
        shape = getattr(value, "shape", ())
        got = f"shape {shape}" if shape else f"{getattr(value, 'dtype', brief(value))}"
        raise ValueError(f"{name} must return one real number, the sum over all observations; got {got}")
    return value


def penalized(model: Any, value: Array, params: Params) -> Array:
    """``value`` plus the log-prior, where the model has one."""
    return value + scalar("log_prior", model.log_prior(params)) if has(model, "log_prior") else value


def evidence(model: Any, params: Params, q: Posterior, data: Data) -> Array | None:
    """log p(x | params), given q = e_step(params, data).

    It is the first that the model has of: the normaliser from the E-step, the log-likelihood, and the bound, which
    equals it at this q. ``None`` where the model has none of the three.
    """
    if has(model, "log_normalizer"):
        return scalar("log_normalizer", model.log_normalizer(q, data))
    if has(model, "log_likelihood"):
        return scalar("log_likelihood", model.log_likelihood(params, data))
    if has(model, "q_function", "entropy"):
        return elbo(model, params, q, data)
    return None


def terms(model: Any, params: Params, data: Data) -> Array | float:
    """|Q| + |H| where ``evidence`` is Q + H, which may be far smaller than either term; else 0."""
    if has(model, "log_normalizer") or has(model, "log_likelihood") or not has(model, "q_function", "entropy"):
        return 0.0
    q = model.e_step(params, data)
    return jnp.abs(model.q_function(params, q, data)) + jnp.abs(model.entropy(q, data))


def objective(model: Any, params: Params, q: Posterior, data: Data) -> Array | None:
    """The objective of EM, log p(x | params) + log p(params), given q = e_step(params, data); ``None`` without one."""
    value = evidence(model, params, q, data)
    return None if value is None else penalized(model, value, params)


HOW_TO_HAVE_ONE = "write log_likelihood(params, data), or q_function(params, q, data) and entropy(q, data)."


def has_objective(model: Any) -> bool:
    """Whether the model has an ``objective``."""
    return has(model, "log_normalizer") or has(model, "log_likelihood") or has(model, "q_function", "entropy")


def resolution(value: Array, size: Array) -> Array:
    """The smallest difference that an objective (or Q) of ``size`` observed values resolves: eps (|value| + size).

    ``size`` is added because the terms of single values are of order one and may cancel in the sum.
    """
    return jnp.finfo(value.dtype).eps * (jnp.abs(value) + size)


def rounding(value: Array, size: Array) -> Array:
    """The rounding error to expect in an objective over ``size`` values: 32 times the smallest visible difference.

    The factor 32 covers the operations of one term and the error growth of compensated or square-root-blocked sums.
    """
    return 32 * resolution(value, size)
