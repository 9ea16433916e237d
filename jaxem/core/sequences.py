"""Sequences of unequal length, made one record."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxem.core.checks import brief
from jaxem.core.conversion import as_array, to_numpy
from jaxem.core.data import Sequences


def pad_sequences(sequences: Sequence[ArrayLike]) -> Sequences:
    """Sequences of unequal length, each ``(T_n, ...)``, as one padded record.

    Raises ``ValueError`` where there are none, one is empty, their trailing shapes differ, or they are not numbers
    that JAX can hold (as for all data, see ``core/conversion.py``).
    """
    if isinstance(sequences, str | bytes) or not hasattr(sequences, "__iter__"):
        raise ValueError(f"pad_sequences needs a list of arrays (T_n, ...); got {brief(sequences)}")
    arrays = [to_numpy(sequence, f"pad_sequences: sequence {n}") for n, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("pad_sequences: no sequences were given")
    for n, array in enumerate(arrays):
        if array.ndim == 0 or array.shape[0] == 0:
            raise ValueError(f"pad_sequences: sequence {n} is empty (shape {array.shape})")
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"pad_sequences: sequence {n} has observations of shape {array.shape[1:]}, "
                f"the first has {arrays[0].shape[1:]}"
            )
    joined = np.asarray(as_array(np.concatenate(arrays), "pad_sequences"))
    lengths = np.array([len(array) for array in arrays])
    values = np.zeros((len(arrays), lengths.max(), *joined.shape[1:]), joined.dtype)
    for n, part in enumerate(np.split(joined, np.cumsum(lengths)[:-1])):
        values[n, : len(part)] = part
    return Sequences(jnp.asarray(values), jnp.asarray(lengths, jnp.int32))
