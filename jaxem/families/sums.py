"""Weighted sums over many observations, whose rounding error does not grow with the number of observations.

Products of matrices, and of a matrix and a vector, may add one row after another to a single number; a million rows
then leave relative errors of 1e-4 in 32 bits. XLA's own sums, and sums of partial sums, do not.
"""

import jax.numpy as jnp
from jax import Array

from jaxem.core.matrices import product


def kept_where_unseen(new: Array, sizes: Array, old: Array | float) -> Array:
    """The ``new`` parameters of all cells, but the ``old`` ones where sizes (K, D) are zero: no cell of that column is
    seen in that class, so that any value maximises."""
    return new if sizes.ndim == 1 else jnp.where(sizes == 0, old, new)


def per_cell(sizes: Array) -> Array:
    """Class sizes to divide sums (K, D) by: (K, 1), or (K, D) where cells are missing and each column has its own."""
    return sizes[:, None] if sizes.ndim == 1 else sizes


_ROWS = 2**12  # rows per product, few enough for an error of some eps


def weighted_sum(weights: Array, x: Array) -> Array:
    """sum_n weights_nk x_n, (K,), from ``weights (N, K)``, ``x (N,)``."""
    return (weights * x.astype(weights.dtype)[:, None]).sum(axis=0)


def weighted_sums(weights: Array, x: Array) -> Array:
    """sum_n weights_nk x_nd, (K, D), from ``weights (N, K)``, ``x (N, D)``: one matrix product per ``_ROWS`` rows."""
    x = x.astype(weights.dtype)
    n = x.shape[0]
    if n <= _ROWS:
        return product(weights.T, x)
    pieces = n // _ROWS
    full = pieces * _ROWS
    parts = [a[:full].reshape(pieces, _ROWS, a.shape[1]) for a in (weights, x)]
    return product(jnp.swapaxes(parts[0], 1, 2), parts[1]).sum(axis=0) + product(weights[full:].T, x[full:])
