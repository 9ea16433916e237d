"""The programs that ``verify`` runs: each is compiled once for a model and a shape, and called at every point.

A point is given by parameters and by coordinates in the chart made at those parameters; every program takes both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.em import EM
from jaxem.core import bound, expectation, parameters, trees
from jaxem.core.compilation import ahead, program
from jaxem.core.constraints import contains
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data, size
from jaxem.core.model import Params, Posterior, has, has_m_step, is_additive, spaces_of
from jaxem.inference.coordinates import coordinates_like


class Start(NamedTuple):
    """Parameters in their own chart."""

    u: Any  # (P,)
    rounded: Any  # (P,), the change of u when every parameter changes by its own size, times a random sign
    outside: Any  # (leaves,), the error of each leaf after a round trip through its chart, relative to its size
    inside: Any  # (leaves,), whether each leaf lies in its space


@program(quick="always")
def start(model: Any, params: Params, signs: Params) -> Start:
    """The coordinates of the parameters, and whether the parameters lie in their spaces."""
    rounding = jax.tree.map(jnp.multiply, signs, params)
    u, rounded = jax.jvp(lambda p: into(model, p, params), (params,), (rounding,))
    back, leaves = jax.tree.leaves(chart(model, params)(u)), jax.tree.leaves(params)
    return Start(
        u,
        rounded,
        jnp.stack([_apart(a, b) for a, b in zip(back, leaves, strict=True)]),
        jnp.stack(jax.tree.leaves(contains(spaces_of(model), params))),
    )


def _apart(a: Array, b: Array) -> Array:
    """The largest difference, relative to the larger of the two; NaN stays NaN."""
    scale = jnp.maximum(trees.largest(a), trees.largest(b))
    return trees.largest(a - b) / jnp.where(scale == 0, 1, scale)


class Derivatives(NamedTuple):
    value: Any
    gradient: Any  # (P,)
    product: Any  # (P,), the Hessian times a direction


def _derivatives(function: Callable[[Array], Array], u: Array, direction: Array) -> Derivatives:
    (value, gradient), (_, product) = jax.jvp(jax.value_and_grad(function), (u,), (direction,))
    return Derivatives(value, gradient, product)


@program(quick="always")
def log_likelihood(model: Any, params: Params, data: Data, u: Array, direction: Array) -> Derivatives:
    """L, its gradient, and its Hessian times a direction."""
    at = chart(model, params)
    return _derivatives(lambda w: model.log_likelihood(at(w), data), u, direction)


@program(quick="always")
def q_function(model: Any, params: Params, data: Data, q: Posterior, u: Array, direction: Array) -> Derivatives:
    """Q(. | q) without the prior, its gradient, and its Hessian times a direction."""
    at = chart(model, params)
    return _derivatives(lambda w: model.q_function(at(w), q, data), u, direction)


def has_prior(model: Any, params: Params) -> bool:
    """Whether the log-prior depends on the parameters: ready-made models without one return the number 0."""
    if not has(model, "log_prior"):
        return False
    found: list[Any] = []
    leaves, structure = jax.tree.flatten(model)  # its arrays are traced, as in a program
    look = lambda leaves, at: found.append(jax.tree.unflatten(structure, leaves).log_prior(at))
    jax.eval_shape(look, leaves, params)
    return not (isinstance(found[0], float) and found[0] == 0)


@program(quick="always")
def log_prior(model: Any, params: Params, u: Array, direction: Array) -> Derivatives:
    """The log-prior, its gradient, and its Hessian times a direction."""
    at = chart(model, params)
    return _derivatives(lambda w: jnp.asarray(model.log_prior(at(w)), w.dtype), u, direction)


class Expected(NamedTuple):
    q: Any
    entropy: Any  # H(q)
    size: Any  # the number of observed values
    evidence: Any  # log p(x): the normaliser of q, or the bound where the model has no log_likelihood either


@program(quick="always")
def posterior(model: Any, params: Params, data: Data, u: Array) -> Expected:
    """The E-step, with entropy, size and evidence."""
    at = chart(model, params)(u)
    q = model.e_step(at, data)
    entropy = model.entropy(q, data) if has(model, "entropy") else None
    evidence = None
    if has(model, "log_normalizer") or not has(model, "log_likelihood"):
        evidence = bound.evidence(model, at, q, data)
    return Expected(q, entropy, size(data, u.dtype), evidence)


@program(quick="always")
def divergence(model: Any, data: Data, q: Posterior, p: Posterior) -> Array:
    """KL(q || p) by the model's own formula."""
    return model.divergence(q, p, data)


class Step(NamedTuple):
    params: Any  # after one EM iteration
    maximized: Any  # (T,), the maximiser of the sums minus that of the posterior, each leaf relative to its size
    statistics: Any  # the sums over all data
    proposed: Any  # (P,), the whole step of the M-step, in the chart made at ``params``


@program(quick="always")
def step(model: Any, params: Params, data: Data, q: Posterior, u: Array) -> Step:
    """One EM iteration as ``fit`` takes it, and the parts of the M-step."""
    at = chart(model, params)(u)
    whole = trees.cast(expectation.iterate(model, at, data), u.dtype)
    new = whole
    if parameters.improving_of(model) is not None:  # what EM accepts
        em = EM()
        new = trees.cast(em.step(model, em.init(model, at, data, None), data).params, u.dtype)
    statistics = expectation.sums_of(model.statistics(q, data)) if is_additive(model) else None
    maximized = None
    if is_additive(model) and has(model, "m_step"):  # ``whole`` is the maximiser of the sums
        maximized = _relative(whole, trees.cast(model.m_step(q, data), u.dtype))
    return Step(new, maximized, statistics, into(model, whole, params) - u)


def _relative(a: Params, b: Params) -> Array:
    """a - b, (T,), each leaf relative to its size, at least the rounding error of the largest leaf."""
    floor = jnp.finfo(trees.float_dtype(a)).eps * trees.largest((a, b))

    def each(a: Array, b: Array) -> Array:
        size = jnp.maximum(trees.largest((a, b)), floor)
        return (a - b) / jnp.where(size == 0, 1, size)

    return trees.concatenate(jax.tree.map(each, a, b))


@program(quick="always")
def portion(model: Any, params: Params, data: Data, u: Array) -> dict[str, Any]:
    """Every sum over observations that the model has, by name, on a part of the data."""
    at = chart(model, params)(u)
    q = model.e_step(at, data)
    found: dict[str, Any] = {}
    if has(model, "log_likelihood"):
        found["L"] = model.log_likelihood(at, data)
    if has(model, "q_function"):
        found["Q"] = model.q_function(at, q, data)
    if has(model, "entropy"):
        found["H"] = model.entropy(q, data)
    if has(model, "log_normalizer"):
        found["normaliser"] = model.log_normalizer(q, data)
    if is_additive(model):
        found["statistics"] = expectation.sums_of(model.statistics(q, data))
    return found


@program(quick="always")
def from_sums(model: Any, params: Params, data: Data, q: Posterior, u: Array) -> Array:
    """Q(u | q) computed from the statistics alone, up to a constant."""
    at = chart(model, params)
    return model.expected_log_joint(at(u), model.statistics(q, data))


@program(quick="always")
def slope_from_sums(model: Any, params: Params, data: Data, q: Posterior, u: Array) -> Array:
    """The gradient, at ``u``, of Q from the statistics."""
    at, found = chart(model, params), model.statistics(q, data)
    return jax.grad(lambda w: model.expected_log_joint(at(w), found))(u)


def begin(model: Any, params: Params, data: Data) -> None:
    """Begin to compile what needs no posterior: while one program is traced, another core compiles those before it."""
    u = coordinates_like(model, params)
    ahead(start, model, params, params)
    ahead(posterior, model, params, data, u)
    if has(model, "log_likelihood"):
        ahead(log_likelihood, model, params, data, u, u)


def begin_rest(model: Any, params: Params, data: Data, u: Any, q: Posterior, part: Data | None) -> None:
    """Begin to compile the rest, given a posterior and a part of the data; first what is called first."""
    if has_prior(model, params):
        ahead(log_prior, model, params, u, u)
    if has(model, "q_function"):
        ahead(q_function, model, params, data, q, u, u)
    if has_m_step(model):
        ahead(step, model, params, data, q, u)
    if has(model, "statistics", "maximize", "expected_log_joint"):
        ahead(from_sums, model, params, data, q, u)
    if part is not None:
        ahead(portion, model, params, part, u)


@program(quick="always")
def permuted(model: Any, params: Params) -> Params:
    """The same model with its classes permuted cyclically."""
    k = model.label_keys(params).shape[0]
    return model.permute(params, jnp.roll(jnp.arange(k), 1))
