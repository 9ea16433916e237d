"""Real numbers that are an affine map of fewer: x = f + D beta."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.spaces import answers
from jaxem.core.spaces.fixed import Fixed


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Affine:
    r"""Real numbers that are an affine map of P free ones, the coordinates.

    .. math:: x = f + D \beta

    Arguments:
        offset: f, numbers of the shape of the parameter, or one number for all.
        design: D, of the shape of the parameter with a last axis (P,), of rank P.

    Raises:
        ValueError: the numbers are not finite, the shapes do not fit, or the design has a rank below P.

    Source: Holmes, Ward & Wills (2012), MARSS: linear constraints of parameters by vec(x) = f + D beta.
    """

    offset: Any
    design: Any

    unit_free = False
    description = "finite and of the form f + D beta"

    def __post_init__(self) -> None:
        try:
            design = np.asarray(self.design, np.float64)
            offset = np.array(np.broadcast_to(np.asarray(self.offset, np.float64), design.shape[:-1]))
        except (TypeError, ValueError) as error:
            raise ValueError(
                "Affine: design must be numbers of the shape of the parameter with a last axis (P,), and offset "
                "numbers of the shape of the parameter, or one number"
            ) from error
        if design.ndim < 1 or not (np.isfinite(design).all() and np.isfinite(offset).all()):
            raise ValueError("Affine: offset and design must be finite numbers")
        p = design.shape[-1]
        rank = np.linalg.matrix_rank(design.reshape(-1, p)) if p else 0
        if rank < p:
            raise ValueError(f"Affine: the {p} columns of the design must be independent; its rank is {rank}")
        object.__setattr__(self, "offset", Fixed.of(offset))
        object.__setattr__(self, "design", Fixed.of(design))

    def __repr__(self) -> str:
        return f"Affine({self.shape} of {self.design.shape[-1]} numbers)"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        return self.offset.shape

    def _matrix(self, dtype: Any) -> Array:
        design = self.design.array
        return jnp.asarray(design.reshape(-1, design.shape[-1]), dtype)

    def _inverse(self, dtype: Any) -> Array:
        design = self.design.array
        return jnp.asarray(np.linalg.pinv(design.reshape(-1, design.shape[-1])), dtype)

    def _times(self, matrix: Array, vector: Array) -> Array:
        return jnp.matmul(vector, matrix.T, precision="highest")

    def forward(self, free: Array, like: Array | None = None) -> Array:
        moved = self._times(self._matrix(free.dtype), free)
        moved = moved.reshape(*free.shape[:-1], *self.shape)
        return self.offset.beside(moved) + moved

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        lead = value.shape[: value.ndim - len(self.shape)]
        moved = value - self.offset.beside(value)
        return self._times(self._inverse(value.dtype), moved.reshape(*lead, -1))

    def free(self, value: Array) -> Array:
        lead = value.shape[: value.ndim - len(self.shape)]
        return jnp.ones((*lead, self.design.shape[-1]), bool)

    def project(self, value: Array) -> Array:
        """The nearest point, by least squares."""
        return self.forward(self.inverse(value))

    def contains(self, value: Any) -> Any:
        return value.__array_namespace__().isfinite(value).all() & self._near(value, float(jnp.finfo(value.dtype).eps))

    def _near(self, value: Array, eps: float) -> Array:
        size = jnp.maximum(jnp.abs(value).max(initial=0.0), float(np.abs(self.offset.array).max(initial=0.0)))
        return (jnp.abs(value - self.project(value)) <= eps**0.5 * size).all()

    def settle(self, value: Any, eps: float) -> Any:
        array = jnp.asarray(value)
        settled = jnp.where(self._near(array, eps), self.project(array), array)
        return np.asarray(settled) if isinstance(value, np.ndarray) else settled

    def needs(self, shape: answers.Shape) -> str | None:
        own = self.shape
        return None if shape[len(shape) - len(own) :] == own else f"the shape {own}"

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        lead = list(labels[: len(labels) - len(self.shape)])
        return answers.elements(f"beta {name}", [*lead, *answers.numbered(self.design.shape[-1:])])

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return np.broadcast_to((self.design.array == 0).all(axis=-1), shape)

    def tangential(self, value: Array, slope: Array) -> Array:
        matrix, inverse = self._matrix(slope.dtype), self._inverse(slope.dtype)
        lead = slope.shape[: slope.ndim - len(self.shape)]
        return self._times(matrix, self._times(inverse, slope.reshape(*lead, -1))).reshape(slope.shape)
