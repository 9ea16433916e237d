"""What hidden Markov models read: X with the lengths of its sequences, attributes that were set, and priors."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from jaxem.core.checks import brief
from jaxem.core.data import Dataset
from jaxem.core.dataset import dataset
from jaxem.core.sizes import padded_size

_LONGEST = 2**14  # steps; shorter sequences are filled up to a few lengths, so that a new one seldom compiles


class Reading:
    """The functions of a hidden Markov model that read and check."""

    def as_data(self: Any, X: Any, lengths: Any = None) -> Dataset:
        """X as the functions of jaxem take it, for example ``jaxem.summary(self.model_, self.fit_, self.as_data(X))``.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; their sum is N. Default: one sequence.

        Returns:
            A ``jaxem.Dataset`` of sequences.
        """
        data, _ = self._sequences(self._checked_matrix(X, False), lengths)
        return dataset(data.values, lengths=data.lengths) if data.observed is None else data

    def _checked_matrix(self: Any, X: Any, reset: bool) -> np.ndarray:
        X = self._matrix(X, reset, **({"ensure_all_finite": "allow-nan", "ensure_min_samples": 1} | self._read))
        if not reset:
            self._known_model()
        self._check_and_set_n_features(X)
        return X

    def _sequences(self: Any, X: np.ndarray, lengths: Any) -> tuple[Dataset, np.ndarray]:
        """The sequences as one record (N, T, D), and which of its steps lie within a sequence, (N, T).

        Where nothing is missing its arrays are NumPy's, and the function that takes it converts them, once.
        """
        lengths = checked_lengths(lengths, len(X))
        longest = int(lengths.max())
        inside = np.arange(padded_size(longest, 1) if longest <= _LONGEST else longest)[None, :] < lengths[:, None]
        values = np.zeros((*inside.shape, *X.shape[1:]), X.dtype)
        values[_places(inside)] = X
        ends: Any = None if inside.all() else lengths
        if X.dtype.kind == "f" and bool(np.isnan(X).any()):
            return dataset(values, lengths=ends, missing="nan"), inside
        return Dataset(values, lengths=ends), inside

    def _check(self: Any) -> None:
        """Raise ``ValueError`` where the attributes are no parameters of this model."""
        k = self.n_components
        check_is_fitted(self, "startprob_")
        self._probabilities("startprob_", (k,), "(n_components,)")
        self._probabilities("transmat_", (k, k), "(n_components, n_components)")
        self._check_emissions()

    def _probabilities(self: Any, name: str, shape: tuple[int, ...], said: str) -> None:
        value = self._floats(name)
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {said} = {shape}; it has {value.shape}")
        if not ((value >= 0).all() and np.allclose(value.sum(axis=-1), 1)):
            raise ValueError(f"{name} must be probabilities that sum to 1; the sums are {value.sum(axis=-1)}")
        setattr(self, name, value)

    def _floats(self: Any, name: str) -> np.ndarray:
        value = np.asarray(getattr(self, name, None))
        if value.dtype.kind not in "iuf":
            raise ValueError(f"{name} must be set to numbers, or fitted")
        return value if value.dtype.kind == "f" else value.astype(float)


def of_rows(found: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What belongs to each row of X, of ``found (N, T, ...)``; a copy, because arrays of JAX cannot be written to."""
    return found[_places(inside)].copy()


def _places(inside: np.ndarray) -> Any:
    """Where the rows of X lie in (N, T); a slice where it can be one: a mask takes a hundred times as long."""
    return (0, slice(np.count_nonzero(inside))) if len(inside) == 1 else inside


def checked_lengths(lengths: Any, n: int) -> np.ndarray:
    """The lengths of the sequences in ``n`` rows."""
    if lengths is None:
        return np.array([n])
    found = np.atleast_1d(np.asarray(lengths))
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found < 1).any():
        raise ValueError(
            "lengths (the second argument, as in hmmlearn; there is no y) must be whole numbers of at least 1, one for "
            f"each sequence; got {brief(lengths)}"
        )
    if found.sum() != n:
        raise ValueError(f"lengths must sum to the number of rows of X, {n}; their sum is {found.sum()}")
    return found


def broadcast(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of an argument, in this shape."""
    try:
        found = np.broadcast_to(np.asarray(value, float), shape)
    except (ValueError, TypeError):
        found = np.array(np.nan)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite numbers that broadcast to the shape {shape}; it is {value}")
    return found


def concentration(estimator: Any, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The Dirichlet prior of an argument, in this shape; ``None`` where it is flat."""
    value = getattr(estimator, name)
    found = broadcast(name, value, shape)
    if (found < 1).any():
        raise ValueError(
            f"{name} must be at least 1: below 1 the posterior density is unbounded where a probability is zero, so "
            f"that it has no maximum to find; it is {value}"
        )
    return None if (found == 1).all() else found
