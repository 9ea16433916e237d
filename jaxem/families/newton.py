"""M-steps without a closed form: the root of an equation in the sums, by Newton's method, to rounding.

The steps are taken without derivatives until they are short; two more steps are then differentiated. A Newton step
forgets where it starts to first order, and two of them to third order, so that the result has the derivatives of the
root in the sums.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

_MOST = 50  # steps; convergence is quadratic, and from the starts used here takes three to eight


def settle(step: Callable[..., Any], start: Any, given: Any) -> Any:
    """The fixed point of ``step(y, given)`` near ``start``, a tree of arrays; NaN where ``given`` is NaN.

    ``step`` must converge quadratically. All entries move until the relative change of each is below the root of eps,
    after which an error is below eps.
    """
    start, fixed = jax.lax.stop_gradient((start, given))

    def apart(new: Array, old: Array) -> Array:
        short = float(jnp.finfo(new.dtype).eps) ** 0.5 / 8
        return (jnp.abs(new - old) > short * jnp.abs(new)).any()

    def body(state: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        y, _, i = state
        new = step(y, fixed)
        far = jnp.stack([apart(*both) for both in zip(jax.tree.leaves(new), jax.tree.leaves(y), strict=True)])
        return new, far.any(), i + 1

    y, _, _ = jax.lax.while_loop(lambda s: s[1] & (s[2] < _MOST), body, (start, jnp.bool_(True), jnp.int32(0)))
    y = jax.lax.stop_gradient(y)
    return jax.lax.fori_loop(0, 2, lambda _, y: step(y, given), y)


def root(function: Callable[[Array, Array], Array], start: Array, given: Array) -> Array:
    """The positive y with ``function(y, given) = 0``, element by element, where Newton's steps from ``start`` lead.

    A step changes y by a factor of at most four, so that it stays positive.
    """

    def step(y: Array, given: Array) -> Array:
        value, slope = jax.jvp(lambda y: function(y, given), (y,), (jnp.ones_like(y),))
        return jnp.clip(y - value / slope, y / 4, 4 * y)

    return settle(step, start, given)
