r"""The derivative of a fit with respect to its data and its model, by the implicit function theorem.

At a fixed point theta = M(theta; x) of EM, with A = I - dM/dtheta,

.. math:: \dot\theta = A^{-1}\, \frac{\partial M}{\partial x}\, \dot x,

whatever path led there, so memory and time do not depend on the number of iterations. The system is solved by products
of A with vectors alone (see ``core/linear.py``). For a model without an M-step, theta - M(theta; x) is replaced by
F(u; x) = -gradient of the objective in unconstrained coordinates u.

The objective L needs no solve: dL/dtheta is zero at the optimum, so its derivative is the partial one at fixed theta.

Sources: Krantz & Parks (2002), *The Implicit Function Theorem*; Blondel et al. (2022), *Efficient and modular implicit
differentiation*.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from jaxem.core import constraints, expectation, linear
from jaxem.core.compilation import program
from jaxem.core.coordinates import living
from jaxem.core.data import Data, Dataset, size
from jaxem.core.model import Params, has_m_step, require, spaces_of
from jaxem.core.trees import largest
from jaxem.fitting.closures import REFUSAL
from jaxem.fitting.result import CAUSES, Fit, FitError, Status

_NEWTON_STEPS = 2  # each squares the distance to the fixed point, which is below 1e-2 in a converged fit
_NEAR = 1e-2  # greatest distance from the end of the fit to the fixed point, relative to each array of parameters


def constant(tree: Any) -> Any:
    """``tree`` as a constant to automatic differentiation."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf, tree)


def attach(model: Any, data: Data, fit: Fit) -> Fit:
    """``fit`` with the derivative of ``params`` and ``objective`` with respect to ``model`` and ``data``.

    Both derivatives are undefined where the fit did not converge. That of ``params`` is also undefined where A is
    singular (loadings that rotate), or where the fit is not near a fixed point of EM. An undefined derivative is NaN in
    a trace. Outside a trace it raises ``FitError``: at once where the fit did not converge, otherwise when a gradient
    flows back through ``params``.
    """
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((model, data, fit))):
        return fit
    params, objective = _attached(model, data, fit.params, fit.objective, fit.status)
    return dataclasses.replace(fit, params=params, objective=objective)


@jax.custom_jvp
def _attached(model: Any, data: Data, params: Params, objective: Array | None, status: Array) -> tuple[Params, Any]:
    return params, objective


@functools.partial(_attached.defjvp, symbolic_zeros=True)
def _rule(primals: Any, tangents: Any) -> Any:
    model, data, params, objective, status = primals
    if not all(_is_zero(leaf) for leaf in jax.tree.leaves(tangents[2:4], is_leaf=_is_symbolic)):
        raise ValueError(REFUSAL)
    require(model, "the derivative of a fit", "e_step")
    refined, quality = _refine(*constant((model, data, params, objective, status)))
    trouble = _trouble(constant(status), quality)
    # Attached again, so that the derivative can itself be differentiated.
    params, _ = _attached(model, data, params, objective, status)
    refined, _ = _attached(model, data, refined, objective, status)

    leaves = jax.tree.leaves(tangents[:2], is_leaf=_is_symbolic)
    moving = tuple(i for i, leaf in enumerate(leaves) if not _is_zero(leaf))
    dots = [leaves[i] for i in moving]
    params_dot = _params_tangent(model, data, refined, quality, dots, moving)
    if trouble:
        params_dot = jax.tree.map(lambda leaf: _refusal().bind(leaf, message=trouble), params_dot)
    objective_dot = (
        None if objective is None else _objective_tangent(model, data, params, objective, status, dots, moving)
    )
    return (primals[2], objective), (params_dot, objective_dot)


def _is_symbolic(leaf: Any) -> bool:
    return isinstance(leaf, SymbolicZero)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0


def _along(model: Any, data: Data, moving: tuple[int, ...]) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The leaves of (model, data) at the indices ``moving``, and the function that replaces them."""
    leaves, treedef = jax.tree.flatten((model, data))
    if isinstance(data, Dataset) and data.weights is not None and len(leaves) - 1 in moving:
        # A row of weight zero is skipped, but the derivative in its weight is what the row would add.
        weights = leaves[-1]
        leaves[-1] = jnp.where(weights > 0, weights, jnp.finfo(weights.dtype).eps ** 2 * weights.max())

    def put(values: list[Array]) -> Any:
        new = dict(zip(moving, values, strict=True))
        return jax.tree.unflatten(treedef, [new.get(i, leaf) for i, leaf in enumerate(leaves)])

    return [leaves[i] for i in moving], put


@program(static_argnames=("moving",))
def _objective_tangent(
    model: Any, data: Data, params: Params, ended: Array, status: Array, dots: list[Array], moving: tuple[int, ...]
) -> Array:
    """The tangent of the objective at fixed parameters."""
    values, put = _along(model, data, moving)

    def objective(values: list[Array]) -> Array:
        model, data = put(values)
        return expectation.expect(model, params, data).objective  # pyright: ignore[reportReturnType]

    sound = (status == Status.CONVERGED) & _same(*constant((ended, objective(values), data)))
    return _guard(sound, jax.jvp(objective, (values,), (_guard(sound, dots),))[1])


def _same(ended: Array, objective: Array, data: Data) -> Array:
    """Whether the algorithm's objective is that of the model, to half of the digits of the sum.

    (Classification EM has another objective.)
    """
    scale = jnp.abs(objective) + size(data, objective.dtype)
    return jnp.abs(ended - objective) <= jnp.finfo(objective.dtype).eps ** 0.5 * scale


def _guard(sound: Array, tangents: Any) -> Any:
    """The identity where ``sound``, else NaN. Placed on both sides of a linear map, it makes both directions NaN.

    Zero tangents stay zero, so that a lane without a derivative does not spoil a result that it does not enter.
    """

    def keep(_: Any, t: Any) -> Any:
        still = ravel_pytree(t)[0] == 0
        return jax.tree.map(lambda leaf: jnp.where(sound | still.all(), leaf, jnp.nan), t)

    return jax.lax.custom_linear_solve(lambda t: t, tangents, keep, keep)


class _Equation(NamedTuple):
    """The equation of the fixed point, F(z) = 0, scaled so that z is of order one."""

    z: Array  # (P,), where the fit ended
    residual: Callable[[Any, Data, Array], Array]  # model, data, z -> F(z), (P,)
    params: Callable[[Array], Params]  # z -> theta
    inside: Callable[[Array], Array]  # z -> z, put back into its space where rounding error has left it


def _equation(model: Any, params: Params) -> _Equation:
    spaces = spaces_of(model)
    closed_form = has_m_step(model)
    start = params if closed_form else constraints.inverse(spaces, params)
    flat, unravel = ravel_pytree(start)
    scale = jax.lax.stop_gradient(ravel_pytree(_scale(start))[0])

    lives = jnp.bool_(True) if closed_form else living(model, params)

    def at(z: Array) -> Params:
        return unravel(z * scale) if closed_form else constraints.forward(spaces, unravel(z * scale), params)

    def step_left(model: Any, data: Data, z: Array) -> Array:
        return z - ravel_pytree(expectation.iterate(model, at(z), data))[0] / scale

    def slope(model: Any, data: Data, z: Array) -> Array:
        left = -jax.grad(lambda z: expectation.expect(model, at(z), data).objective)(z)
        return jnp.where(lives, left, z)  # coordinates that the chart holds stay at zero

    def inside(z: Array) -> Array:
        if not closed_form:
            return z
        return ravel_pytree(constraints.forward(spaces, constraints.inverse(spaces, at(z), params), params))[0] / scale

    return _Equation(flat / scale, step_left if closed_form else slope, at, inside)


def _scale(tree: Any) -> Any:
    """The size of each array, like ``tree``, and at least eps^(1/2) times that of the largest array."""
    overall = largest(tree)
    least = jnp.finfo(overall.dtype).eps ** 0.5 * jnp.where(overall > 0, overall, 1)
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.maximum(largest(leaf), least)), tree)


class _Quality(NamedTuple):
    """How well the fixed point and A^-1 are determined."""

    distance: Array  # from the end of the fit to the fixed point, relative to each array
    gain: Array  # |A^-1|
    error: Array  # |A^-1| times the residual F or rounding error: the relative error of the derivative
    allowed: Array  # greatest error allowed
    same: Array  # whether the algorithm's objective is that of the model
    sound: Array  # whether the derivative is defined


@program
def _refine(model: Any, data: Data, params: Params, objective: Array | None, status: Array) -> tuple[Params, _Quality]:
    """The fixed point by Newton's method, and how well it and the inverse of A are determined.

    The distance to a fixed point is at most about |A^-1| |F|. Where A is singular at the fixed point, its smallest
    singular value nearby is no more than about |F| (a rotation of theta rotates F), so the product is of order one
    however small F is. At a regular fixed point the product is the error left. So one test serves both: whether it is
    small.
    """
    equation = _equation(model, params)
    eps = jnp.finfo(equation.z.dtype).eps
    allowed = jnp.asarray(eps ** (1 / 3), equation.z.dtype)
    residual = functools.partial(equation.residual, model, data)

    # Two Newton steps, a solve for a probe, and one step of inverse iteration from it: one program, run four times.
    def stage(carry: tuple[Array, Array], newton: Array) -> tuple[tuple[Array, Array], linear.Solution]:
        z, probe = carry
        f, a = jax.linearize(residual, z)
        solution = linear.solve(a, jnp.where(newton, f, probe))
        new = equation.inside(z - solution.x)
        nearer = newton & (linear.norm(residual(new)) < linear.norm(f))  # False for NaN
        probe = jnp.where(newton, probe, solution.x / linear.norm(solution.x))
        return (jnp.where(nearer, new, z), probe), solution

    # The same probe each time, so that a derivative is reproducible.
    probe = jnp.asarray(np.random.default_rng(0).normal(size=equation.z.shape), equation.z.dtype)
    stages = jnp.asarray([True] * _NEWTON_STEPS + [False] * 2)
    (z, _), solutions = jax.lax.scan(stage, (equation.z, probe / linear.norm(probe)), stages)
    probes = jax.tree.map(lambda leaf: leaf[_NEWTON_STEPS:], solutions)
    gain = jnp.sqrt((probes.x**2).sum(axis=1)).max()
    error = gain * jnp.maximum(linear.norm(residual(z)), 8 * eps * probes.size.max()) + probes.left.max()
    distance = jnp.abs(z - equation.z).max()
    same = jnp.bool_(True)
    if objective is not None:
        same = _same(objective, expectation.expect(model, params, data).objective, data)  # pyright: ignore
    sound = (status == Status.CONVERGED) & same & (error <= allowed) & (distance <= _NEAR)
    return equation.params(z), _Quality(distance, gain, error, allowed, same, sound)


@program(static_argnames=("moving",))
def _params_tangent(
    model: Any, data: Data, params: Params, quality: _Quality, dots: list[Array], moving: tuple[int, ...]
) -> Params:
    """The tangent of the fixed point, A^-1 dM."""
    equation = _equation(model, params)
    values, put = _along(model, data, moving)

    def moved(values: list[Array]) -> Array:
        model, data = put(values)
        return -equation.residual(model, data, equation.z)

    b = jax.jvp(moved, (values,), (_guard(quality.sound, dots),))[1]
    _, product = jax.linearize(functools.partial(equation.residual, model, data), equation.z)

    def solve(a: Callable[[Array], Array], b: Array) -> Array:
        solution = linear.solve(a, b)
        solved = quality.gain * solution.left <= quality.allowed * linear.norm(solution.x)
        return jnp.where((b == 0).all(), 0, jnp.where(solved, solution.x, jnp.nan))

    x = jax.lax.custom_linear_solve(product, b, solve, solve)
    return jax.jvp(equation.params, (equation.z,), (_guard(quality.sound, x),))[1]


def _trouble(status: Array, quality: _Quality) -> str | None:
    """Why the derivative of ``params`` is undefined, or ``None`` where it is defined or values are traced.

    Raises ``FitError`` where that of the objective is undefined too.
    """
    if isinstance(status, Tracer) or isinstance(quality.sound, Tracer):
        return None
    ended = Status(int(status))
    if ended != Status.CONVERGED:
        raise FitError(
            f"the fit did not converge ({ended.name}), so it has no derivative: {CAUSES[ended]}. If you need no "
            "derivative, wrap the arguments of fit in jax.lax.stop_gradient."
        )
    if not quality.same:
        raise FitError(
            "the algorithm climbed another objective than the model's (as classification EM does), so the derivative "
            "of this fit does not follow from a fixed point of EM. Fit with EM, GEM or an accelerator."
        )
    if quality.sound:
        return None
    if quality.error <= quality.allowed:
        return (
            f"the fit stopped a relative distance of {float(quality.distance):.1e} from the nearest fixed point of EM, "
            f"more than {_NEAR}, so its params have no derivative to be trusted. Ask for a smaller tol, or check that "
            "the algorithm maximises what the model's M-step does."
        )
    return (
        f"I - dM is singular, or not told from it (its inverse is {float(quality.gain):.1e}, the error "
        f"{float(quality.error):.1e}, allowed {float(quality.allowed):.1e}), so the params have no derivative: a "
        "direction of the parameters is not determined. Likely: loadings that rotate, classes that coincide, a "
        "probability on its way to zero, or a fit far from its fixed point (ask for a smaller tol, or 64 bits). The "
        "objective can be differentiated all the same; of the params, use a function that the rotation leaves alone "
        "in a model that determines it, or add a prior."
    )


def _raise(cotangent: Any, tangent: Any, *, message: str) -> Any:
    raise FitError(message)


@functools.cache
def _refusal() -> Any:
    """The identity on tangents that raises when a gradient flows back: only then is it known that one is wanted."""
    from jax.extend.core import Primitive  # imported here: it takes as long as this whole package, and is seldom needed
    from jax.interpreters import ad, batching, mlir

    refuse = Primitive("undefined_derivative")
    refuse.def_impl(lambda tangent, *, message: tangent)
    refuse.def_abstract_eval(lambda tangent, *, message: tangent)
    ad.deflinear2(refuse, _raise)
    batching.defvectorized(refuse)
    mlir.register_lowering(refuse, lambda context, tangent, *, message: [tangent])
    return refuse
