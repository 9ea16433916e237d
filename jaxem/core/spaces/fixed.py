"""Arrays of numbers that are a part of a space, and so are static to JAX."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A NumPy array that is compared and hashed by value."""

    shape: tuple[int, ...]
    dtype: str
    content: bytes

    @classmethod
    def of(cls, array: Any) -> "Fixed":
        array = np.ascontiguousarray(array)
        return cls(array.shape, array.dtype.str, array.tobytes())

    @property
    def array(self) -> np.ndarray:
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype)

    def beside(self, x: Any) -> np.ndarray:
        """The array with as many axes as ``x``, which may have an axis of copies before the others."""
        own = self.array
        own = own.astype(x.dtype) if own.dtype.kind == "f" else own
        return own.reshape((1,) * (x.ndim - own.ndim) + own.shape)
