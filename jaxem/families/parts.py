r"""Observations of which only an interval is known: what a family tells about its distribution inside it.

For an exponential family, log p(x) = log h(x) + eta . T(x) - A(eta), the posterior of an x in the interval I is that
density divided by P(I), and one identity gives its expectations,

.. math:: E[T(x) \mid x \in I] = \nabla_\eta \left( \log P(I; \eta) + A(\eta) \right) .

Here c holds the arrays of the context as (1, K) or (N, K), ends of intervals are (N, 1), and results are (N, K).

Source: Dempster, Laird & Rubin (1977), section 4.2; Sundberg (1974) for the identity.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from jaxem.core.checks import instance
from jaxem.core.contexts import Context
from jaxem.families import protocol

NEEDED = "bounds", "log_interval", "between", "mean_between", "expected_log_density", "expected_statistics"


def check(name: str, family: Any) -> None:
    """Raise ``ValueError`` where the family cannot be seen in part; ``name`` says by what."""
    reason = getattr(family, "never_in_part", None)
    if reason is not None and not isinstance(family, type):
        raise ValueError(f"{name}: {type(family).__name__}() cannot be seen in part: {reason}")
    instance(f"{name}: family", family, "a family that can be seen in part", "log_density", *NEEDED)
    if getattr(family, "floor", None) is not None:
        raise ValueError(f"{name}: a floor needs exact observations; use {type(family).__name__}() without it")


class Part(NamedTuple):
    """The posterior of an x that lies in an interval."""

    log_mass: Array  # (N, K), log P(I)
    moments: Any  # leaves (N, K), what the family's sums need of E[T(x) | x in I]
    c: Any  # leaves (N, K), the context of the E-step


def by_rows(c: Context) -> Context:
    """The arrays (K, ...) of a context as (1, K, ...)."""
    return jax.tree.map(lambda leaf: leaf[None], c)


def infer(family: Any, c: Context, low: Array, high: Array) -> Part:
    """The posterior given ``low (N,)`` <= x <= ``high (N,)``."""
    c, ends = by_rows(c), (low[:, None], high[:, None])
    log_mass = family.log_interval(c, *ends)
    moments = family.between(c, *ends)
    return Part(log_mass, moments, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, log_mass.shape), c))


def near_one(log_p: Array, outside: Array) -> Array:
    """log P(I), with the derivatives of ``log_p``, where the probability ``outside`` of I says how far it is from zero.

    From a quarter on, ``log_p`` is exact enough, while XLA's log1p in 64 bits loses two digits near -0.4.
    """
    few = outside < 0.25
    exact = jnp.where(few, jnp.log1p(-jnp.where(few, outside, 0)), stop_gradient(log_p))
    return exact + (log_p - stop_gradient(log_p))


def log_below(w: Array) -> Array:
    """log(1 - e^-w) for w > 0, accurate for small and for large w."""
    return jnp.where(w < math.log(4), jnp.log(-jnp.expm1(-w)), jnp.log1p(-jnp.exp(-jnp.maximum(w, math.log(4)))))


def entropy(family: Any, q: Part) -> Array:
    """-E log(p(x) / P(I)), (N, K)."""
    return q.log_mass - family.expected_log_density(q.c, q.moments)


def divergence(family: Any, q: Part, p: Part) -> Array:
    """KL(q || p) between two posteriors on the same intervals, (N, K)."""
    own, other = (family.expected_log_density(c, q.moments) for c in (q.c, p.c))
    return difference(own, other) - (q.log_mass - p.log_mass)


def difference(a: Array, b: Array) -> Array:
    """a - b, zero where both are the same infinity."""
    return jnp.where(a == b, 0, a - b)


class SeenInPart:
    """What a family seen in part shares with the family itself: parameters, and the M-step on their sums."""

    family: Any

    def maximize(self, c: Context | None, sums: Any) -> Any:
        return self.family.maximize(c, sums)

    def expected(self, c: Context, params: Any, sums: Any) -> Array:
        return self.family.expected(c, params, sums)

    def contrasts(self, params: Any) -> Array:
        return self.family.contrasts(params)

    def log_prior(self, params: Any) -> Array | float:
        return protocol.log_prior(self.family, params)

    def degenerate(self, params: Any) -> Array:
        return protocol.degenerate(self.family, params)

    @property
    def start(self) -> Callable[[Array, Array, Array], Any]:
        """The family's own start, where it has one: the attribute is missing where the family's is."""
        of_family = self.family.start
        return lambda key, r, x: of_family(key, *self.stand_in(r, x))

    def stand_in(self, r: Array, x: Array) -> tuple[Array, Array]:
        """Weights and observations of the family for a start."""
        return r, x
