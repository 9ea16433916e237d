"""The bound of EM and its parts, each by the name it has in the theory.

L(theta) = log p(x | theta) = ELBO(theta, q) + KL(q || p(z | x, theta)) for every q (Neal & Hinton 1998).
None of these includes the prior: it is the same on both sides. ``penalized`` adds it.
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
    """The evidence lower bound E_q log p(x, z | params) + H(q), a scalar.

    Raises ``ValueError`` where the model lacks ``q_function`` or ``entropy``.
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
    """KL(q || p(z | x, params)) = L(params) - ELBO(params, q), never negative.

    Raises ``ValueError`` where the model lacks ``log_likelihood``, ``q_function`` or ``entropy``.
    """
    params, data = convert(model, params, data)
    require(model, "the KL divergence", "log_likelihood")
    return scalar("log_likelihood", model.log_likelihood(params, data)) - elbo(model, params, q, data)


def surrogate(model: Any, params: Params, at: Params, data: Data) -> Array:
    """The minorant B(params, at) = ELBO(params, e_step(at)): touches L where ``params`` is ``at``."""
    require(model, "the surrogate", "e_step")
    at, data = admit(model, at, data)
    return elbo(model, params, model.e_step(at, data), data)


def scalar(name: str, value: Any) -> Any:
    """What a function of the model called ``name`` returned; ``ValueError`` where it is no real number.

    Seen while tracing, whatever the values are.
    """
    number = isinstance(value, float | int)
    if not number and (getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating)):
        shape = getattr(value, "shape", ())
        got = f"shape {shape}" if shape else f"{getattr(value, 'dtype', brief(value))}"
        raise ValueError(f"{name} must return one real number, the sum over all observations; got {got}")
    return value


def penalized(model: Any, value: Array, params: Params) -> Array:
    """``value`` and the log-prior, where the model has one."""
    return value + scalar("log_prior", model.log_prior(params)) if has(model, "log_prior") else value


def evidence(model: Any, params: Params, q: Posterior, data: Data) -> Array | None:
    """log p(x | params), given q = e_step(params, data).

    From the E-step's own normaliser where the model offers it, else its log-likelihood, else the bound at its
    maximum; ``None`` where it has none of the three.
    """
    if has(model, "log_normalizer"):
        return scalar("log_normalizer", model.log_normalizer(q, data))
    if has(model, "log_likelihood"):
        return scalar("log_likelihood", model.log_likelihood(params, data))
    if has(model, "q_function", "entropy"):
        return elbo(model, params, q, data)
    return None


def terms(model: Any, params: Params, data: Data) -> Array | float:
    """|Q| + |H| where ``evidence`` is their sum, which may be far smaller than either; else 0."""
    if has(model, "log_normalizer") or has(model, "log_likelihood") or not has(model, "q_function", "entropy"):
        return 0.0
    q = model.e_step(params, data)
    return jnp.abs(model.q_function(params, q, data)) + jnp.abs(model.entropy(q, data))


def objective(model: Any, params: Params, q: Posterior, data: Data) -> Array | None:
    """What EM climbs, log p(x | params) + log p(params), given q = e_step(params, data)."""
    value = evidence(model, params, q, data)
    return None if value is None else penalized(model, value, params)


HOW_TO_HAVE_ONE = "write log_likelihood(params, data), or q_function(params, q, data) and entropy(q, data)."


def has_objective(model: Any) -> bool:
    """Whether ``objective`` is a number."""
    return has(model, "log_normalizer") or has(model, "log_likelihood") or has(model, "q_function", "entropy")


def resolution(value: Array, size: Array) -> Array:
    """The smallest difference that one objective (or Q) over ``size`` observed values can show: eps (|value| + size).

    The per-value terms are of order one in magnitude and may cancel, hence ``size`` beside the value.
    """
    return jnp.finfo(value.dtype).eps * (jnp.abs(value) + size)
