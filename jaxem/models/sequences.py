"""Sequences as a structure of chains sees them: steps, lengths, and all steps one after the other."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data, Dataset, Patterns, Spread, lengths_of, plain, split_weights, values_of
from jaxem.latent import chain_steps


def counted_steps(data: Data) -> tuple[Data, Array]:
    """All steps of all sequences (N T, ...), and which of them lie within a sequence of nonzero weight, (N T,)."""
    (x, weights), lengths = split_weights(data), lengths_of(data)
    n, t = shape(x)
    xp = jax.tree.leaves(values_of(x))[0].__array_namespace__()
    within = xp.ones((n, t), bool) if lengths is None else chain_steps.within(lengths, t)
    if weights is not None:
        within = within & (weights != 0)[:, None]
    return frames_of(without_lengths(x)), within.reshape(-1)


def shape(x: Data) -> tuple[int, int]:
    """N and T, the number of sequences and of steps."""
    return jax.tree.leaves(values_of(x))[0].shape[:2]


def without_lengths(x: Data) -> Data:
    """The sequences as full ones: without lengths and weights."""
    x = x.data if isinstance(x, Spread) else x
    if not isinstance(x, Dataset):
        return x
    of_steps = lambda found: found if found.index.ndim == 2 else None  # else patterns of whole sequences
    patterns = jax.tree.map(of_steps, x.patterns, is_leaf=lambda node: isinstance(node, Patterns))
    return plain(dataclasses.replace(x, lengths=None, weights=None, patterns=patterns))


def is_sequence(lengths: Array, x: Data) -> Array:
    """(N,), whether each length lies between 1 and T, which could not be checked where lengths were traced."""
    return (lengths >= 1) & (lengths <= shape(x)[1])


def unpack(sequences: Data) -> tuple[Data, Array]:
    """The steps (N, T, ...), values alone or with masks, and lengths (N,).

    Padding is replaced by the first observation of its sequence: whatever it held, its density is then as finite as
    that observation's, and it has no weight.
    """
    x, lengths, (n, t) = without_lengths(sequences), lengths_of(sequences), shape(sequences)
    if lengths is None:
        return x, jnp.full((n,), t)
    inside = chain_steps.within(lengths, t)
    first = lambda leaf: jnp.where(inside.reshape(n, t, *(1,) * (leaf.ndim - 2)), leaf, leaf[:, :1])
    return jax.tree.map(first, x), lengths


def at_starts(x: Data) -> Dataset:
    """The covariates of the first step of each sequence, N rows."""
    given = x.given if isinstance(x, Dataset) else None
    return Dataset((), jax.tree.map(lambda leaf: leaf[:, 0], given))


def at_moves(x: Data) -> Dataset:
    """The covariates of the moves, N (T - 1) rows: those at the step that is left."""
    given = x.given if isinstance(x, Dataset) else None
    return frames_of(Dataset((), jax.tree.map(lambda leaf: leaf[:, :-1], given)))


def frames_of(x: Data) -> Data:
    """The steps of all sequences (N, T, ...) one after the other, (N T, ...)."""
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), x)
