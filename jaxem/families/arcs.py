r"""Intervals of angles: arcs, from their low end counter-clockwise to their high one.

An arc is two numbers, low < high <= low + one turn, of any number of turns. One through the cut of the circle has a
high end beyond it: from 350 to 370 degrees, never from 350 to 10. A whole turn says nothing, like two infinite ends;
an arc has two ends or none. So does what is a whole turn but for the rounding of its ends to 32 bits.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def slack(low: Any, high: Any, turn: float) -> Any:
    """What the width of an arc may be off where its ends were rounded to 32 bits."""
    return 1e-7 * (turn + abs(low) + abs(high))


def check(title: str, low: float, high: float, turn: float) -> None:
    """Raise ``ValueError`` where the numbers ``low`` and ``high`` are not the ends of an arc."""
    if not (math.isfinite(high - low) and 0 < high - low <= turn + slack(low, high, turn)):
        text = "an arc goes from low to a higher number, at most one turn from it"
        raise ValueError(f"{title}: {text} ({turn:.6g}); got {low} and {high}")


def closes(low: Any, high: Any, turn: float) -> Any:
    """Whether the arc from ``low`` to ``high`` is the whole circle."""
    return high - low >= turn - slack(low, high, turn)


def wrapped(angle: Array) -> Array:
    """The angle between -pi and pi; one that lies there is left as it is."""
    return angle - 2 * math.pi * jax.lax.stop_gradient(jnp.round(angle / (2 * math.pi)))


def turned(x: Array, high: Any, turn: float) -> Array:
    """The angles ``x`` moved by whole turns so that they lie above ``high - turn``, at most at ``high``."""
    return jnp.where(jnp.isfinite(x), x - turn * jnp.ceil((x - high) / turn), x)


def ends(low: Array, high: Array, turn: float) -> tuple[Array, Array]:
    """The ends of arcs: infinite ones of a whole turn; low above high where there is no such arc."""
    arc, none = jnp.isfinite(low) & jnp.isfinite(high), jnp.isneginf(low) & jnp.isposinf(high)
    a, b = jnp.where(arc, low, 0), jnp.where(arc, high, 0)
    over = (b - a - turn) / slack(a, b, turn)
    whole, wrong = none | (arc & (jnp.abs(over) <= 1)), ~none & (~arc | (over > 1)) & ~jnp.isnan(low + high)
    return (
        jnp.where(whole, -jnp.inf, jnp.where(wrong, jnp.inf, low)),
        jnp.where(whole, jnp.inf, jnp.where(wrong, -jnp.inf, high)),
    )


def cut(low: Array, high: Array, first: float, last: float, turn: float) -> tuple[Array, Array]:
    """What of the arcs lies between ``first`` and ``last``; low above high where that is nothing, or two arcs."""
    low, high = ends(low, high, turn)
    back = low - turned(low, last, turn)
    back = jnp.where(jnp.isfinite(low), back, 0)
    low, high = low - back, high - back
    once = ~jnp.isfinite(high) | (high <= first + turn)
    return jnp.where(once, jnp.maximum(low, first), last), jnp.where(once, jnp.minimum(high, last), first)
