r"""What ``verify`` measures, in one compiled program: values and derivatives of L, Q and the ELBO.

Everything is a function of unconstrained coordinates u. Each of the few expensive functions (value and gradient of L,
of Q, their Hessian-vector products, the E-step) is traced once and mapped over all points at which it is needed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.core import bound, constraints, expectation, trees
from jaxem.core.data import Data, count, size, take
from jaxem.core.model import Params, has, has_m_step, is_additive, spaces_of

LARGEST_HESSIAN = 256  # coordinates; beyond it curvature is not checked


class Curve(NamedTuple):
    """One function at the point, after the M-step, and at the probes of either."""

    here: Array
    after: Array
    near_here: Array  # (probes,)
    near_after: Array  # (probes,)
    gradient_here: Array  # (P,)
    gradient_after: Array  # (P,)


class Measured(NamedTuple):
    """The raw numbers; ``None`` where the model lacks what they are made of."""

    size: Array  # observed values
    delta: Array  # (P,), the natural step of each coordinate
    log_likelihood: Curve | None
    expected: Curve | None  # Q, without the prior
    log_prior: Curve
    entropy: Array | None
    evidence: tuple[Array, Array] | None  # log p(x) as the E-step knows it, here and after the M-step
    other_elbos: Array | None  # (probes,), ELBO(theta, q) for the posteriors q of the probes
    other_divergences: Array | None  # (probes,), KL(q || p(z | x)) by its own formula
    missing: Array | None  # (P, P), the Hessian of L - Q
    conditioning_here: Array  # how many eps a scaled gradient moves when the parameters are rounded
    conditioning_after: Array
    halves: Array | None  # by how much the statistics of two halves miss the whole, relative
    maximized: Array | None  # by how much maximize(statistics) misses m_step, relative


def measure(model: Any, params: Params, data: Data, key: Array, probes: int) -> Measured:
    """Measure ``model`` at ``params``, with ``probes`` random points around."""
    spaces = spaces_of(model)
    u, unravel = ravel_pytree(constraints.inverse(spaces, params))
    into = lambda p: ravel_pytree(constraints.inverse(spaces, p))[0]
    at = lambda v: constraints.forward(spaces, unravel(v))
    q = model.e_step(params, data)
    data_size = size(data, u.dtype)
    new = trees.cast(expectation.em_map(model, params, data), u.dtype) if has_m_step(model) else params
    u_new = into(new)

    expected = (lambda v: model.q_function(at(v), q, data)) if has(model, "q_function") else None
    likelihood = (lambda v: model.log_likelihood(at(v), data)) if has(model, "log_likelihood") else None
    prior = (lambda v: model.log_prior(at(v))) if has(model, "log_prior") else (lambda v: 0 * v.sum())

    delta, hessian, conditioning = _scales(expected, prior, u, u_new, into, params, new, data_size)
    # Directions of three sizes, from well inside an error bar to outside it.
    factors = jnp.asarray([0.1, 1.0, 3.0], u.dtype)[jnp.arange(probes) % 3]
    steps = jax.random.normal(key, (probes, u.shape[0]), u.dtype) * delta[None, :] / u.shape[0] ** 0.5
    steps = factors[:, None] * steps
    points = jnp.concatenate([u[None], u_new[None], u[None] + steps, u_new[None] + steps])

    others = evidence = None
    if has(model, "q_function", "entropy"):
        others = _other_posteriors(model, params, q, data, at, u[None] + steps)
    if bound.has_objective(model):
        q_new = model.e_step(new, data)
        evidence = bound.evidence(model, params, q, data), bound.evidence(model, new, q_new, data)
    missing = None
    if hessian is not None and likelihood is not None:
        missing = _hessian(likelihood, u) - hessian
    return Measured(
        data_size,
        delta,
        None if likelihood is None else _curve(likelihood, points, probes),
        None if expected is None else _curve(expected, points, probes),
        _curve(prior, points, probes),
        model.entropy(q, data) if has(model, "entropy") else None,
        evidence,
        None if others is None else others[0],
        others[1] if others is not None and has(model, "divergence") else None,
        missing,
        *conditioning,
        _halves(model, params, q, data) if is_additive(model) and count(data) > 1 else None,
        _maximized(model, params, q, data) if has(model, "statistics", "maximize", "m_step") else None,
    )


def _curve(function: Any, points: Array, probes: int) -> Curve:
    values, gradients = jax.lax.map(jax.value_and_grad(function), points)
    near = values[2:]
    return Curve(values[0], values[1], near[:probes], near[probes:], gradients[0], gradients[1])


def _products(function: Any, points: Array, directions: Array) -> Array:
    """Hessian-vector products, row by row."""
    gradient = jax.grad(function)
    return jax.lax.map(lambda pair: jax.jvp(gradient, (pair[0],), (pair[1],))[1], (points, directions))


def _hessian(function: Any, u: Array) -> Array:
    identity = jnp.eye(u.shape[0], dtype=u.dtype)
    return _products(function, jnp.broadcast_to(u[None], identity.shape), identity)


def _scales(
    expected: Any, prior: Any, u: Array, u_new: Array, into: Any, params: Params, new: Params, data_size: Array
) -> tuple[Array, Array | None, tuple[Array, Array]]:
    """The natural step of each coordinate, the Hessian of Q (where it is not too large), and the conditioning.

    delta_i = (size / -d^2 Q / du_i^2)^(1/2) is about the error bar of u_i from a single value, so that a gradient
    times ``delta / size`` has neither units nor the size of the data in it.
    """
    largest = jnp.maximum(jnp.abs(u), 1)
    if expected is None:
        return largest, None, (jnp.ones((), u.dtype), jnp.ones((), u.dtype))
    n = u.shape[0]
    small = n <= LARGEST_HESSIAN
    # Without a Hessian its diagonal is E[v * Hv] over random signs (Hutchinson 1990).
    signs = jax.random.rademacher(jax.random.key(0), (16, n), u.dtype)
    directions = jnp.eye(n, dtype=u.dtype) if small else signs
    rounded = [_roundings(into, p) for p in (params, new)]
    products = _products(
        lambda v: expected(v) + prior(v),
        jnp.concatenate([jnp.broadcast_to(u[None], directions.shape), *_repeat(u, u_new, rounded)]),
        jnp.concatenate([directions, *rounded]),
    )
    rows = products[: directions.shape[0]]
    second = jnp.abs(jnp.diagonal(rows) if small else (rows * signs).mean(axis=0))
    steep = second > data_size / largest**2
    delta = jnp.where(steep, jnp.sqrt(data_size / jnp.where(steep, second, 1)), largest)

    def conditioning(change: Array) -> Array:
        worst = jnp.abs(change * delta[None] / data_size).max()
        # Where rounding takes the parameters out of the space, half of the digits are all that can be asked.
        lost = float(jnp.finfo(u.dtype).eps) ** -0.5
        return jnp.where(jnp.isfinite(worst), jnp.maximum(worst, 1), lost)

    moved = products[directions.shape[0] :]
    half = moved.shape[0] // 2
    hessian = rows - _hessian(prior, u) if small else None
    return delta, hessian, (conditioning(moved[:half]), conditioning(moved[half:]))


def _repeat(u: Array, u_new: Array, rounded: list[Array]) -> list[Array]:
    return [jnp.broadcast_to(v[None], r.shape) for v, r in zip((u, u_new), rounded, strict=True)]


def _roundings(into: Any, params: Params) -> Array:
    """Where the coordinates go when every parameter changes by its own size times a random sign, (4, P)."""
    leaves, treedef = jax.tree.flatten(params)

    def one(key: Array) -> Array:
        keys = jax.random.split(key, len(leaves))
        signs = [jax.random.rademacher(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        rounding = jax.tree.map(jnp.multiply, jax.tree.unflatten(treedef, signs), params)
        return jax.jvp(into, (params,), (rounding,))[1]

    return jax.vmap(one)(jax.random.split(jax.random.key(1), 4))


def _other_posteriors(model: Any, params: Params, q: Any, data: Data, at: Any, points: Array) -> tuple[Array, Array]:
    """ELBO(theta, q') and KL(q' || q) for the posteriors q' at other points."""

    def one(v: Array) -> tuple[Array, Array]:
        other = model.e_step(at(v), data)
        elbo = bound.elbo(model, params, other, data)
        return elbo, model.divergence(other, q, data) if has(model, "divergence") else elbo

    return jax.lax.map(one, points)


def _halves(model: Any, params: Params, q: Any, data: Data) -> Array:
    model = expectation.anchored(model, params)
    rows = count(data)
    parts = [take(data, 0, rows // 2), take(data, rows // 2, rows - rows // 2)]
    first, second = (model.statistics(model.e_step(params, part), part) for part in parts)
    whole = model.statistics(q, data)

    def gap(a: Array, b: Array, c: Array) -> Array:
        scale = jnp.maximum(trees.largest(a) + trees.largest(b), jnp.finfo(c.dtype).tiny)
        return trees.largest(a + b - c) / scale

    return jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(gap, first, second, whole))))


def _maximized(model: Any, params: Params, q: Any, data: Data) -> Array:
    model = expectation.anchored(model, params)
    return trees.relative_change(model.maximize(model.statistics(q, data)), model.m_step(q, data))
