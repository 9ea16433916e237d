r"""The laws of EM, measured.

Every residual is dimensionless. Differences of objectives are divided by |L| + |Q| + |H| + size(data): the magnitude
of what was added up. Gradients are taken in unconstrained coordinates u and multiplied by ``delta / size(data)``,
where delta_i = (size / -d^2 Q / du_i^2)^(1/2) is about the error bar of u_i from a single value: neither units nor
the amount of data change a residual.

A residual that is pure rounding error is a small multiple of eps. Gradients also feel the rounding of the parameters
themselves; ``conditioning`` measures by how much.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.core import bound, constraints, expectation, trees
from jaxem.core.data import Data, count, size, take
from jaxem.core.model import Params, has, has_m_step, spaces_of


class Residual(NamedTuple):
    """How far a law is from holding, and the index of the coordinate that is farthest (-1: none in particular)."""

    value: Array
    coordinate: Array


class Point(NamedTuple):
    """The point at which the laws are measured, in coordinates, with its own scales."""

    u: Array  # (P,), coordinates of the parameters
    delta: Array  # (P,), the natural step of each coordinate
    q: Any  # e_step there
    size: Array


LARGEST_HESSIAN = 256  # coordinates; beyond it curvature is not checked


def _worst(values: Array) -> Residual:
    return Residual(values.max(), values.argmax())


def _whole(value: Array) -> Residual:
    return Residual(jnp.maximum(value, 0), jnp.int32(-1))


class Laws:
    """The laws of one model at one point; every method returns a ``Residual``."""

    def __init__(self, model: Any, params: Params, data: Data, key: Array, probes: int):
        self.model, self.params, self.data = model, params, data
        self.spaces = spaces_of(model)
        u, self.unravel = ravel_pytree(constraints.inverse(self.spaces, params))
        q = model.e_step(params, data)
        n = size(data, u.dtype)
        self.point = Point(u, self._natural_step(u, q, n), q, n)
        # Directions of three sizes, from well inside an error bar to far outside.
        self.factors = jnp.asarray([0.1, 1.0, 3.0], u.dtype)[jnp.arange(probes) % 3]
        self.directions = jax.random.normal(key, (probes, u.shape[0]), u.dtype) / u.shape[0] ** 0.5

    # -- coordinates ------------------------------------------------------------------------------------------

    def at(self, u: Array) -> Params:
        """The parameters with these coordinates."""
        return constraints.forward(self.spaces, self.unravel(u))

    def _q_at(self, u: Array, q: Any) -> Array:
        """Q and the log-prior: what the M-step maximises."""
        params = self.at(u)
        return bound.penalized(self.model, self.model.q_function(params, q, self.data), params)

    def _natural_step(self, u: Array, q: Any, n: Array) -> Array:
        largest = jnp.maximum(jnp.abs(u), 1)
        if not has(self.model, "q_function"):
            return largest
        gradient = jax.grad(lambda v: self._q_at(v, q))
        if u.shape[0] <= LARGEST_HESSIAN:
            second = jnp.diagonal(jax.jacfwd(gradient)(u))
        else:  # E[v * Hv] over random signs is the diagonal (Hutchinson 1990)
            signs = jax.random.rademacher(jax.random.key(0), (16, u.shape[0]), u.dtype)
            second = jax.lax.map(lambda v: v * jax.jvp(gradient, (u,), (v,))[1], signs).mean(axis=0)
        steep = jnp.abs(second) > n / largest**2
        return jnp.where(steep, jnp.sqrt(n / jnp.where(steep, jnp.abs(second), 1)), largest)

    def probe_points(self, u: Array) -> Array:
        """(probes, P) coordinates around ``u``."""
        return u[None, :] + self.factors[:, None] * self.point.delta[None, :] * self.directions

    def conditioning(self, u: Array) -> Array:
        """By how many eps a gradient residual moves when the parameters at ``u`` are rounded."""
        params = self.at(u)
        eps = jnp.finfo(u.dtype).eps
        gradient = jax.grad(lambda v: self._q_at(v, self.point.q))

        def moved(key: Array) -> Array:
            keys = jax.random.split(key, len(jax.tree.leaves(params)))
            leaves, treedef = jax.tree.flatten(params)
            signs = [jax.random.rademacher(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
            # A symmetric matrix is rounded symmetrically.
            rounding = jax.tree.map(jnp.multiply, jax.tree.unflatten(treedef, signs), params)
            into = lambda p: ravel_pytree(constraints.inverse(self.spaces, p))[0]
            _, du = jax.jvp(into, (params,), (rounding,))
            _, change = jax.jvp(gradient, (u,), (du,))
            return self._scaled(jnp.abs(change)).max()

        worst = jax.vmap(moved)(jax.random.split(jax.random.key(1), 4)).max()
        return jnp.where(jnp.isfinite(worst), jnp.maximum(worst, 1), 1 / eps**0.5)

    def _scaled(self, gradient: Array) -> Array:
        return gradient * self.point.delta / self.point.size

    def _scale(self, *values: Array) -> Array:
        return sum((jnp.abs(value) for value in values), start=self.point.size)

    # -- the laws ---------------------------------------------------------------------------------------------

    def touch(self) -> Residual:
        """ELBO(theta, e_step(theta)) = L(theta)."""
        model, data, q = self.model, self.data, self.point.q
        log_likelihood = model.log_likelihood(self.params, data)
        expected, entropy = model.q_function(self.params, q, data), model.entropy(q, data)
        gap = jnp.abs(log_likelihood - (expected + entropy))
        return _whole(gap / self._scale(log_likelihood, expected, entropy))

    def tangent(self) -> Residual:
        """grad ELBO(theta, q) at q = e_step(theta) is grad L(theta)."""
        model, data = self.model, self.data
        of_likelihood = jax.grad(lambda u: model.log_likelihood(self.at(u), data))(self.point.u)
        of_bound = jax.grad(lambda u: model.q_function(self.at(u), self.point.q, data))(self.point.u)
        return _worst(self._scaled(jnp.abs(of_likelihood - of_bound)))

    def objective(self) -> Residual:
        """The normaliser that the E-step met is L(theta)."""
        own = self.model.log_normalizer(self.point.q, self.data)
        log_likelihood = self.model.log_likelihood(self.params, self.data)
        return _whole(jnp.abs(own - log_likelihood) / self._scale(log_likelihood))

    def _other_posteriors(self, measure: Any) -> Array:
        """``measure(q)`` for the posteriors of the probes."""
        points = self.probe_points(self.point.u)
        return jax.lax.map(lambda u: measure(self.model.e_step(self.at(u), self.data)), points)

    def non_negative(self) -> Residual:
        """KL(q || p(z | x)) = L - ELBO(theta, q) >= 0 for q that are not the posterior."""
        log_likelihood = self.model.log_likelihood(self.params, self.data)

        def below_zero(q: Any) -> Array:
            elbo = bound.elbo(self.model, self.params, q, self.data)
            return (elbo - log_likelihood) / self._scale(log_likelihood, elbo)

        return _whole(_largest_finite(self._other_posteriors(below_zero)))

    def decomposition(self) -> Residual:
        """L = ELBO(theta, q) + KL(q || p(z | x)), the divergence by a formula of its own."""
        log_likelihood = self.model.log_likelihood(self.params, self.data)

        def gap(q: Any) -> Array:
            elbo = bound.elbo(self.model, self.params, q, self.data)
            divergence = self.model.divergence(q, self.point.q, self.data)
            return jnp.abs(log_likelihood - elbo - divergence) / self._scale(log_likelihood, elbo, divergence)

        return _whole(_largest_finite(self._other_posteriors(gap)))

    def posterior_is_best(self) -> Residual:
        """ELBO(theta, e_step(theta)) >= ELBO(theta, q) for other q."""
        best = bound.elbo(self.model, self.params, self.point.q, self.data)

        def above(q: Any) -> Array:
            elbo = bound.elbo(self.model, self.params, q, self.data)
            return (elbo - best) / self._scale(best, elbo)

        return _whole(_largest_finite(self._other_posteriors(above)))

    def minorises(self) -> Residual:
        """B(theta', theta) <= L(theta') at other theta'."""
        q, data, model = self.point.q, self.data, self.model

        def above(u: Array) -> Array:
            params = self.at(u)
            log_likelihood = model.log_likelihood(params, data)
            surrogate = bound.elbo(model, params, q, data)
            return (surrogate - log_likelihood) / self._scale(log_likelihood, surrogate)

        return _whole(_largest_finite(jax.lax.map(above, self.probe_points(self.point.u))))

    def curvature(self) -> Residual:
        """Missing information: the Hessian of L - B at the tangent point has no negative eigenvalue."""
        model, data = self.model, self.data

        def gap(u: Array) -> Array:
            params = self.at(u)
            return model.log_likelihood(params, data) - model.q_function(params, self.point.q, data)

        delta = self.point.delta
        hessian = jax.hessian(gap)(self.point.u) * delta[:, None] * delta[None, :] / self.point.size
        values, vectors = jnp.linalg.eigh((hessian + hessian.T) / 2)
        return Residual(jnp.maximum(-values[0], 0), jnp.abs(vectors[:, 0]).argmax())

    def _after_m_step(self) -> tuple[Params, Array]:
        new = expectation.em_map(self.model, self.params, self.data)
        new = trees.cast(new, self.point.u.dtype)
        return new, ravel_pytree(constraints.inverse(self.spaces, new))[0]

    def m_step_stationary(self) -> Residual:
        """grad Q (and prior) = 0 at the new parameters, in unconstrained coordinates."""
        _, u = self._after_m_step()
        return _worst(self._scaled(jnp.abs(jax.grad(lambda v: self._q_at(v, self.point.q))(u))))

    def m_step_conditioning(self) -> Array:
        """``conditioning`` at the new parameters."""
        return self.conditioning(self._after_m_step()[1])

    def m_step_optimal(self) -> Residual:
        """Q (and prior) is nowhere higher than at the new parameters."""
        q = self.point.q
        new, u = self._after_m_step()
        best = bound.penalized(self.model, self.model.q_function(new, q, self.data), new)
        values = jax.lax.map(lambda v: self._q_at(v, q), self.probe_points(u))
        return _whole(_largest_finite((values - best) / self._scale(best)))

    def ascent(self) -> Residual:
        """The objective does not fall from theta to M(theta)."""
        new, _ = self._after_m_step()
        before = self._objective(self.params, self.point.q)
        after = self._objective(new, None)
        return _whole((before - after) / self._scale(before))

    def _objective(self, params: Params, q: Any) -> Array:
        if has(self.model, "log_likelihood"):
            return bound.penalized(self.model, self.model.log_likelihood(params, self.data), params)
        q = self.model.e_step(params, self.data) if q is None else q
        value = bound.objective(self.model, params, q, self.data)
        assert value is not None
        return value

    def additive(self) -> Residual:
        """The statistics of two halves add up to those of the whole."""
        model = expectation.anchored(self.model, self.params)
        rows = count(self.data)
        parts = [take(self.data, 0, rows // 2), take(self.data, rows // 2, rows - rows // 2), self.data]
        first, second, whole = (model.statistics(model.e_step(self.params, d), d) for d in parts)

        def gap(a: Array, b: Array, c: Array) -> Array:
            scale = jnp.maximum(trees.largest(a) + trees.largest(b), jnp.finfo(c.dtype).tiny)
            return trees.largest(a + b - c) / scale

        return _whole(jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(gap, first, second, whole)))))

    def maximize_is_m_step(self) -> Residual:
        """maximize(statistics(q, data)) = m_step(q, data)."""
        model = expectation.anchored(self.model, self.params)
        left = model.maximize(model.statistics(self.point.q, self.data))
        right = model.m_step(self.point.q, self.data)
        return _whole(trees.relative_change(left, right))


def needs(model: Any) -> dict[str, tuple[str, ...]]:
    """What each law needs of the model, by the name of its method."""
    elbo = ("q_function", "entropy")
    m_step = () if has_m_step(model) else ("m_step",)
    some_objective = () if bound.has_objective(model) else ("log_likelihood",)
    return {
        "touch": (*elbo, "log_likelihood"),
        "tangent": ("q_function", "log_likelihood"),
        "objective": ("log_normalizer", "log_likelihood"),
        "non_negative": (*elbo, "log_likelihood"),
        "decomposition": (*elbo, "log_likelihood", "divergence"),
        "posterior_is_best": elbo,
        "minorises": (*elbo, "log_likelihood"),
        "curvature": ("q_function", "log_likelihood"),
        "m_step_stationary": (*m_step, "q_function", "constraints"),
        "m_step_optimal": (*m_step, "q_function", "constraints"),
        "ascent": (*m_step, *some_objective),
        "additive": ("statistics", "maximize"),
        "maximize_is_m_step": ("statistics", "maximize", "m_step"),
    }


def _largest_finite(values: Array) -> Array:
    """The largest value; probes at which a density over- or underflowed say nothing."""
    return jnp.where(jnp.isfinite(values), values, -jnp.inf).max()
