"""Q about the parameters of the E-step: its slopes and curvatures, the metric by them, and whether all was gained."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.algorithms import blocks as parts
from jaxem.algorithms import metric as metrics
from jaxem.algorithms.metric import Metric
from jaxem.core import bound, constraints, expectation, passes
from jaxem.core.data import Data, size
from jaxem.core.model import Params, spaces_of

_HIDDEN = 5e-5  # of an objective; more than this (0.01 standard errors of one parameter) no rounding error excuses
_ROUNDS = 12  # of equilibration before the first climb


class Coordinates(NamedTuple):
    """The unconstrained coordinates of some of the parameters, the others standing still."""

    holds: Any  # a tree like the parameters, True at the leaves that may move
    u: Array  # (P,)
    unravel: Callable[[Array], Any]  # u -> a tree, ``None`` in place of the others
    forward: Callable[[Array], Params]  # u -> all parameters


class Measured(NamedTuple):
    """Derivatives per observed value, in the coordinates of all that may move."""

    gradient: Array  # (P,)
    hessian: Array | None  # (P, P), where there are few
    metric: Metric
    settled: Array  # whether a Newton step would gain no more than is asked, or than rounding error hides

    def restricted(self, index: np.ndarray) -> Metric:
        """The metric of these coordinates alone."""
        origin = self.metric.origin
        if index.size == origin.size:
            return self.metric
        if self.hessian is None:
            return Metric(origin[index], self.metric.forward[index], self.metric.inverse[index])
        part = metrics.spectrum(self.gradient[index], self.hessian[index][:, index])
        return metrics.whitened(part, origin[index])


def coordinates(model: Any, params: Params, holds: Any) -> Coordinates:
    """Those of the leaves that ``holds`` says, at ``params``."""
    spaces = spaces_of(model)
    free = constraints.inverse(spaces, params)
    u, unravel = ravel_pytree(parts.part(holds, free))
    return Coordinates(
        holds, u, unravel, lambda u: constraints.forward(spaces, parts.merge(holds, unravel(u), free), params)
    )


def places(inside: Any, outer: Coordinates) -> np.ndarray:
    """Where the coordinates of the leaves of ``inside`` lie among those of ``outer``."""
    held = parts.part(outer.holds, inside)
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(outer.unravel, outer.u))]
    return np.flatnonzero(np.repeat(jax.tree.leaves(held), sizes))


def few(p: int) -> bool:
    """Whether the Hessian of so many coordinates is formed."""
    return p <= metrics.LARGEST_MATRIX


def measure(
    model: Any, params: Params, q: Any, value: Array, data: Data, at: Coordinates, units: Array, first: Array, tol: Any
) -> Measured:
    """Q at ``params``, the parameters of the E-step ``q`` (``None``: it is taken again, block by block).

    ``value``: the objective there. ``units``: those of the last metric, for many coordinates; at the ``first`` call
    they are found from nothing. ``tol``: the gain per observed value that is small enough.
    """
    observed = size(data, value.dtype)
    share = 1 / jnp.where(observed > 0, observed, 1)
    enough = jnp.asarray(tol, value.dtype) * observed
    enough = jnp.maximum(enough, jnp.minimum(bound.resolution(value, observed), _HIDDEN))

    def derivative(slope: Callable[..., Any]) -> Any:
        """``slope(function)`` of Q, in one piece or as a sum over the data, and of the log-prior."""
        on = lambda q, data: slope(lambda u: model.q_function(at.forward(u), q, data))
        expected = over_blocks(model, params, data, on) if q is None else on(q, data)
        prior = slope(lambda u: bound.penalized(model, jnp.zeros_like(value), at.forward(u)))
        return jax.tree.map(lambda a, b: share * (a + b), expected, prior)

    if few(at.u.size):
        whole = jnp.eye(at.u.size, dtype=at.u.dtype)
        gradient, hessian = derivative(lambda function: metrics.derivatives(function, at.u, whole))
        spectrum = metrics.spectrum(gradient, hessian)
        gain = metrics.newton_gain(gradient, hessian, spectrum)
        return Measured(gradient, hessian, metrics.whitened(spectrum, at.u), gain / share <= enough)

    signs = metrics.signs(at.u.size, at.u.dtype)

    def corrected(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        units = carry[0]
        gradient, products = derivative(lambda function: metrics.derivatives(function, at.u, units[None, :] * signs))
        return metrics.equilibrated(units, gradient, products), gradient, jnp.isfinite(products).all()

    def product(v: Array) -> Array:
        return derivative(lambda function: jax.jvp(jax.grad(function), (at.u,), (v,))[1])

    rounds = jnp.where(first, _ROUNDS, 1)
    begin = (units, jnp.zeros_like(at.u), jnp.bool_(True))
    units, gradient, curved = jax.lax.fori_loop(0, rounds, corrected, begin)
    gain = metrics.conjugate_gain(product, gradient, units, share * enough)
    return Measured(gradient, None, Metric(at.u, units, 1 / units), curved & (gain / share <= enough))


def over_blocks(model: Any, params: Params, data: Data, function: Callable[..., Any]) -> Any:
    """The sum of ``function(q, data)`` over blocks of the data, q being the posterior at ``params``."""
    size = expectation.default_block_size(model, params, data)
    return passes.accumulate(lambda block: function(model.e_step(params, block), block), data, size)
