r"""What ``verify`` measures: values and derivatives of L, Q and the ELBO at a point and around it.

Everything is a function of unconstrained coordinates u. Each expensive function is one small program, compiled once
and called at all points at which it is needed; what joins them is NumPy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound, expectation, trees
from jaxem.core.compilation import program
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data, count, size, take
from jaxem.core.model import Params, has, has_m_step, is_additive

LARGEST_HESSIAN = 256  # coordinates; beyond it curvature is not checked


class Curve(NamedTuple):
    """One function at the point, after the M-step, and at the probes of either."""

    here: np.ndarray
    after: np.ndarray
    near_here: np.ndarray  # (probes,)
    near_after: np.ndarray  # (probes,)
    gradient_here: np.ndarray  # (P,)
    gradient_after: np.ndarray  # (P,)


class Measured(NamedTuple):
    """The raw numbers; ``None`` where the model lacks what they are made of."""

    size: np.ndarray  # observed values
    delta: np.ndarray  # (P,), the natural step of each coordinate
    log_likelihood: Curve | None
    expected: Curve | None  # Q, without the prior
    log_prior: Curve
    entropy: np.ndarray | None
    evidence: tuple[np.ndarray, np.ndarray] | None  # log p(x) as the E-step knows it, here and after the M-step
    other_elbos: np.ndarray | None  # (probes,), ELBO(theta, q) for the posteriors q of the probes
    other_divergences: np.ndarray | None  # (probes,), KL(q || p(z | x)) by its own formula
    missing: np.ndarray | None  # (P, P), the Hessian of L - Q
    conditioning_here: float  # how many eps a scaled gradient moves when the parameters are rounded
    conditioning_after: float
    halves: np.ndarray | None  # by how much the statistics of two halves miss the whole, relative
    maximized: np.ndarray | None  # by how much maximize(statistics) misses m_step, relative


def measure(model: Any, params: Params, data: Data, key: Array, probes: int) -> Measured:
    """Measure ``model`` at ``params``, with ``probes`` random points around."""
    q = _e_step(model, params, data)
    em = jax.tree.map(np.asarray, _take_step(model, params, q, data))
    u, n = em.u, em.u.shape[0]
    small = n <= LARGEST_HESSIAN
    # The diagonal of a large Hessian is E[v * Hv] over random signs (Hutchinson 1990).
    basis = np.eye(n) if small else np.random.default_rng(0).choice([-1.0, 1.0], (16, n))
    basis = basis.astype(u.dtype)
    along = np.concatenate([basis, em.rounded, em.rounded_new])
    first = np.concatenate([_rows(u, basis), _rows(u, em.rounded), _rows(em.u_new, em.rounded_new)])

    likelihood = expected = others = missing = None
    prior = _each(_of_prior, model, params)
    products, prior_products = np.zeros_like(along), prior(first, along).products
    if has(model, "q_function"):
        expected = _each(_of_expected, model, params, q, data)
        products = expected(first, along).products
    penalized = products + prior_products
    delta = _natural_step(u, penalized[: basis.shape[0]], basis, small, em.size)
    moved = np.abs(penalized[basis.shape[0] :] * delta / em.size).max(axis=1)
    half = em.rounded.shape[0]

    # Directions of three sizes, from well inside an error bar to outside it.
    factors = np.array([0.1, 1.0, 3.0])[np.arange(probes) % 3, None]
    normal = np.random.default_rng(np.asarray(jax.random.key_data(key))).normal(size=(probes, n))
    around = (normal * delta * factors / n**0.5).astype(u.dtype)
    points = np.concatenate([u[None], em.u_new[None], u + around, em.u_new + around])
    if has(model, "log_likelihood"):
        likelihood = _each(_of_likelihood, model, params, data)
        if expected is not None and small:
            missing = likelihood(_rows(u, basis), basis).products - products[:n]
    if has(model, "q_function", "entropy"):
        others = _each(_other_posterior, model, params, data, u)(u + around)
    return Measured(
        em.size,
        delta,
        None if likelihood is None else _curve(likelihood, points, probes),
        None if expected is None else _curve(expected, points, probes),
        _curve(prior, points, probes),
        em.entropy,
        em.evidence,
        None if others is None else others[0],
        others[1] if others is not None and has(model, "divergence") else None,
        missing,
        _conditioning(moved[:half]),
        _conditioning(moved[half:]),
        em.halves,
        em.maximized,
    )


@program(quick="always")  # it runs a few times
def _e_step(model: Any, params: Params, data: Data) -> Any:
    return model.e_step(params, data)


class _Step(NamedTuple):
    u: Any
    u_new: Any  # after one EM iteration
    rounded: Any  # (4, P), where u goes when the parameters are rounded
    rounded_new: Any
    size: Any
    entropy: Any
    evidence: Any
    halves: Any
    maximized: Any


@program(quick="always")  # it runs a few times
def _take_step(model: Any, params: Params, q: Any, data: Data) -> _Step:
    """One EM iteration, and all that needs no derivative."""
    coordinates = lambda p: into(model, p, params)  # of one chart, so that they can be compared
    u = coordinates(params)
    new = trees.cast(expectation.iterate(model, params, data), u.dtype) if has_m_step(model) else params
    evidence = None
    if bound.has_objective(model):
        after = bound.evidence(model, new, model.e_step(new, data), data)
        evidence = bound.evidence(model, params, q, data), after
    return _Step(
        u,
        coordinates(new),
        _roundings(coordinates, params),
        _roundings(coordinates, new),
        size(data, u.dtype),
        model.entropy(q, data) if has(model, "entropy") else None,
        evidence,
        _halves(model, params, q, data) if is_additive(model) and count(data) > 1 else None,
        _maximized(model, params, q, data) if has(model, "statistics", "maximize", "m_step") else None,
    )


class _Derivatives(NamedTuple):
    values: Any
    gradients: Any  # (P,)
    products: Any  # (P,), Hessian times direction


def _derivatives(function: Callable[..., Any], point: Array, direction: Array) -> _Derivatives:
    (value, gradient), (_, product) = jax.jvp(jax.value_and_grad(function), (point,), (direction,))
    return _Derivatives(value, gradient, product)


def _each(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """``function`` called for one row of its last arguments after the other: of one shape, so compiled once."""

    def call(*rows: np.ndarray) -> Any:
        results = [function(*arguments, *row) for row in zip(*rows, strict=True)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *results)

    return call


@program(quick="always")  # it runs a few times
def _of_expected(model: Any, params: Params, q: Any, data: Data, point: Array, direction: Array) -> _Derivatives:
    at = chart(model, params)
    return _derivatives(lambda u: model.q_function(at(u), q, data), point, direction)


@program(quick="always")  # it runs a few times
def _of_likelihood(model: Any, params: Params, data: Data, point: Array, direction: Array) -> _Derivatives:
    at = chart(model, params)
    return _derivatives(lambda u: model.log_likelihood(at(u), data), point, direction)


@program(quick="always")  # it runs a few times
def _of_prior(model: Any, params: Params, point: Array, direction: Array) -> _Derivatives:
    at = chart(model, params)
    return _derivatives(lambda u: bound.penalized(model, 0 * u.sum(), at(u)), point, direction)


@program(quick="always")  # it runs a few times
def _other_posterior(model: Any, params: Params, data: Data, here: Array, point: Array) -> tuple[Array, Array]:
    """ELBO(theta, q') and KL(q' || q) for the posterior q' at another point.

    theta is taken just inside its spaces: on their edge, what q' holds possible can be impossible.
    """
    at = chart(model, params)
    other = model.e_step(at(point), data)
    elbo = bound.elbo(model, at(here), other, data)
    if not has(model, "divergence"):
        return elbo, elbo
    return elbo, model.divergence(other, model.e_step(at(here), data), data)


def _rows(u: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.broadcast_to(u, like.shape)


def _curve(function: Callable[..., _Derivatives], points: np.ndarray, probes: int) -> Curve:
    values, gradients, _ = function(points, np.zeros_like(points))
    near = values[2:]
    return Curve(values[0], values[1], near[:probes], near[probes:], gradients[0], gradients[1])


def _natural_step(
    u: np.ndarray, products: np.ndarray, basis: np.ndarray, small: bool, data_size: np.ndarray
) -> np.ndarray:
    """delta_i = (size / -d^2 Q / du_i^2)^(1/2), (P,): about the error bar of u_i from a single value.

    A gradient times ``delta / size`` then has neither units nor the size of the data in it.
    """
    largest = np.maximum(np.abs(u), 1)
    second = np.abs(np.diagonal(products) if small else (products * basis).mean(axis=0))
    steep = second > data_size / largest**2
    return np.where(steep, np.sqrt(data_size / np.where(steep, second, 1)), largest)


def _conditioning(moved: np.ndarray) -> float:
    worst = float(moved.max())
    # Where rounding takes the parameters out of the space, half of the digits are all that can be asked.
    return max(worst, 1.0) if np.isfinite(worst) else float(np.finfo(moved.dtype).eps) ** -0.5


def _roundings(coordinates: Callable[[Params], Array], params: Params) -> Array:
    """Where the coordinates go when every parameter changes by its own size times a random sign, (4, P)."""
    leaves, treedef = jax.tree.flatten(params)

    def one(key: Array) -> Array:
        keys = jax.random.split(key, len(leaves))
        signs = [jax.random.rademacher(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        rounding = jax.tree.map(jnp.multiply, jax.tree.unflatten(treedef, signs), params)
        return jax.jvp(coordinates, (params,), (rounding,))[1]

    return jax.vmap(one)(jax.random.split(jax.random.key(1), 4))


def _halves(model: Any, params: Params, q: Any, data: Data) -> Array:
    # Not about these parameters: where sums about them vanish, as first moments do at the optimum, there is no scale.
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
