"""Derivatives of Q at the parameters of the E-step, the metric they define, and whether a Newton step would gain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.algorithms import groups as parts
from jaxem.algorithms import metric as metrics
from jaxem.algorithms.metric import Metric
from jaxem.core import bound, constraints, expectation, passes
from jaxem.core.data import Data, size
from jaxem.core.model import Params, spaces_of

_HIDDEN = 5e-5  # greatest gain that rounding error may hide; it is 0.01 standard errors of one parameter
_ROUNDS = 12  # rounds of equilibration before the first ascent


class Coordinates(NamedTuple):
    """The unconstrained coordinates of some of the parameters; the others are fixed."""

    holds: Any  # a tree like the parameters, True at the leaves that may move
    u: Array  # (P,)
    unravel: Callable[[Array], Any]  # u -> a tree, ``None`` at the fixed leaves
    forward: Callable[[Array], Params]  # u -> all parameters


class Measured(NamedTuple):
    """Derivatives of Q per observed value, in all free coordinates."""

    gradient: Array  # (P,)
    hessian: Array | None  # (P, P); None where P is large
    metric: Metric
    settled: Array  # whether a Newton step would gain no more than the tolerance, or than rounding error hides

    def restricted(self, index: np.ndarray) -> Metric:
        """The metric of the coordinates at ``index`` alone."""
        origin = self.metric.origin
        if index.size == origin.size:
            return self.metric
        if self.hessian is None:
            return Metric(origin[index], self.metric.forward[index], self.metric.inverse[index])
        part = metrics.spectrum(self.gradient[index], self.hessian[index][:, index])
        return metrics.whitened(part, origin[index])


def coordinates(model: Any, params: Params, holds: Any) -> Coordinates:
    """The coordinates at ``params`` of the leaves where ``holds`` is True."""
    spaces = spaces_of(model)
    free = constraints.inverse(spaces, params)
    u, unravel = ravel_pytree(parts.part(holds, free))
    return Coordinates(
        holds, u, unravel, lambda u: constraints.forward(spaces, parts.merge(holds, unravel(u), free), params)
    )


def places(inside: Any, outer: Coordinates) -> np.ndarray:
    """The indices, among the coordinates of ``outer``, of those whose leaf is True in ``inside``."""
    held = parts.part(outer.holds, inside)
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(outer.unravel, outer.u))]
    return np.flatnonzero(np.repeat(jax.tree.leaves(held), sizes))


def few(p: int) -> bool:
    """Whether the Hessian of ``p`` coordinates is formed."""
    return p <= metrics.LARGEST_MATRIX


def measure(
    model: Any, params: Params, q: Any, value: Array, data: Data, at: Coordinates, units: Array, first: Array, tol: Any
) -> Measured:
    """Derivatives and metric of Q at ``params``, the parameters of the E-step ``q``.

    Arguments:
        q: the posterior; ``None``: the E-step is repeated, block by block.
        value: the objective at ``params``.
        units: (P,), units of the last metric, used where P is large.
        first: whether this is the first call, which corrects the units in more rounds.
        tol: the gain per observed value that is small enough.
    """
    observed = size(data, value.dtype)
    share = 1 / jnp.where(observed > 0, observed, 1)
    enough = jnp.asarray(tol, value.dtype) * observed
    enough = jnp.maximum(enough, jnp.minimum(bound.resolution(value, observed), _HIDDEN))

    def derivative(slope: Callable[..., Any]) -> Any:
        """``slope(function)`` of Q plus the log-prior; Q whole, or as a sum over blocks."""
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
    """The sum of ``function(q, block)`` over blocks of the data; q is the posterior of the block at ``params``."""
    size = expectation.default_block_size(model, params, data)
    return passes.accumulate(lambda block: function(model.e_step(params, block), block), data, size)
