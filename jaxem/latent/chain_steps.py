"""The steps of sequences of different lengths, and what belongs to each, in the layout of a chain."""

import jax.numpy as jnp
from jax import Array


def within(lengths: Array, t: int) -> Array:
    """(N, T), whether each step lies within its sequence."""
    return lengths.__array_namespace__().arange(t, dtype=lengths.dtype)[None, :] < lengths[:, None]


def to_steps(A: Array, t: int) -> Array:
    """A (K, K) as it is, A (N, T - 1, K, K) as (T, N, K, K) with an entry of no effect at the end."""
    if A.ndim == 2:
        return A
    return jnp.pad(jnp.swapaxes(A, 0, 1), ((0, t - A.shape[1]), (0, 0), (0, 0), (0, 0)), constant_values=1)


def rows(pi: Array) -> Array:
    """pi as (1, K) or (N, K)."""
    return pi if pi.ndim == 2 else pi[None]
