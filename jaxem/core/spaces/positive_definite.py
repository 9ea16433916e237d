"""Symmetric positive-definite matrices."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.spaces import answers, held
from jaxem.core.spaces.edges import Singular
from jaxem.core.spaces.protocol import Space, space


@space
class PositiveDefinite:
    """Symmetric positive-definite matrices on the last two axes, with D (D + 1) / 2 coordinates each.

    x = L L', L = diag(exp u_ii) (I + strictly lower triangle of u_ij). A change of the units of one variable shifts one
    diagonal coordinate and leaves all others unchanged.

    Source: Pinheiro & Bates (1996), log-Cholesky; the coordinates off the diagonal are made free of units here.
    """

    description = "symmetric and positive definite"
    event_ndim = 2
    edge = Singular()
    unit_free = True

    def forward(self, free: Array, like: Array | None = None) -> Array:
        d = round(((8 * free.shape[-1] + 1) ** 0.5 - 1) / 2)
        limits = jnp.finfo(free.dtype)
        low, high = math.log(float(limits.tiny)) / 2 + 1e-3, math.log(float(limits.max)) / 2 - 4
        rows, columns = np.tril_indices(d, -1)
        unit = jnp.broadcast_to(jnp.eye(d, dtype=free.dtype), (*free.shape[:-1], d, d))
        unit = unit.at[..., rows, columns].set(free[..., d:])
        length = jnp.log((unit**2).sum(axis=-1)) / 2
        scale = jnp.exp(jnp.clip(free[..., :d], low, high - length))  # the square of a row must not overflow
        lower = scale[..., :, None] * unit
        return lower @ jnp.swapaxes(lower, -1, -2)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        d = value.shape[-1]
        lower = matrices.cholesky(value)
        scale = jnp.diagonal(lower, axis1=-2, axis2=-1)
        rows, columns = np.tril_indices(d, -1)
        return jnp.concatenate([jnp.log(scale), (lower / scale[..., None])[..., rows, columns]], axis=-1)

    def dimension(self, shape: answers.Shape) -> int:
        return math.prod(shape[:-2]) * (shape[-1] * (shape[-1] + 1) // 2)

    def free(self, value: Array) -> Array:
        d = value.shape[-1]
        return jnp.ones((*value.shape[:-2], d * (d + 1) // 2), bool)

    def contains(self, value: Any) -> Any:
        xp, slack = value.__array_namespace__(), float(jnp.finfo(value.dtype).eps) ** 0.5
        scale = xp.sqrt(value.diagonal(axis1=-2, axis2=-1))
        gap = abs(value - value.swapaxes(-1, -2))
        symmetric = (gap <= slack * scale[..., :, None] * scale[..., None, :]).all()
        return symmetric & xp.isfinite(matrices.cholesky(value)).all()

    def settle(self, value: Array, eps: float) -> Array:
        """The symmetric part of matrices that are symmetric to the precision ``eps`` of their source; others as is."""
        xp, turned = value.__array_namespace__(), value.swapaxes(-1, -2)
        diagonal = xp.sqrt(abs(xp.linalg.diagonal(value)))
        scale = diagonal[..., :, None] * diagonal[..., None, :]
        near = (abs(value - turned) <= eps**0.5 * scale).all(axis=(-2, -1), keepdims=True)
        return xp.where(near, (value + turned) / 2, value)

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        variables, named = labels[-1], []
        below = [(i, j) for i in range(len(variables)) for j in range(i)]
        for matrix in answers.elements(name, labels[:-2]):
            named += [f"log scale {matrix}[{variable}]" for variable in variables]
            named += [f"ratio {matrix}[{variables[i]}, {variables[j]}]" for i, j in below]
        return named

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        """Intervals on the log scale for the diagonal, and on the plain scale for other entries, of either sign."""
        diagonal = jnp.broadcast_to(jnp.eye(value.shape[-1], dtype=bool), value.shape)
        size = jnp.where(diagonal, value, 1)
        factor = jnp.exp(half / size)
        return jnp.where(diagonal, value / factor, value - half), jnp.where(diagonal, value * factor, value + half)

    def repeated(self, shape: answers.Shape) -> np.ndarray:
        again = np.zeros(shape, bool)
        again[..., *np.tril_indices(shape[-1], -1)] = True
        return again

    def hold(self, mask: Any, value: Any) -> Space:
        """The space with whole matrices held, or with covariances held at zero.

        Zeros must make a matrix block-diagonal after some reordering of the variables: the variables fall into sets,
        and variables of different sets have no covariance (one variable in each set: a diagonal matrix). The Cholesky
        factor then has the same zeros in any order of the variables, and their coordinates are dead.

        Arguments:
            mask: booleans of the shape of the parameter, True where an element, or its mirror image across the
                diagonal, is held.
            value: a number, or numbers of that shape; used only where an element is held.

        Returns:
            A space in which these elements are constants.

        Raises:
            ValueError: as ``Real.hold``, for any other pattern or value, and where a matrix that is held is not
                symmetric positive definite.
        """
        mask, value = held.checked(self, mask, value)
        if mask.shape[-1] != mask.shape[-2]:
            raise ValueError(f"PositiveDefinite.hold: the mask must be of square matrices; its shape is {mask.shape}")
        value = np.where(mask, value, np.swapaxes(value, -1, -2))
        mask = mask | np.swapaxes(mask, -1, -2)
        whole, eye = mask.all(axis=(-2, -1), keepdims=True), np.eye(mask.shape[-1], dtype=bool)
        _check_pattern(mask & ~whole, value, eye)
        _check_matrices(np.where(whole, value, eye))
        point = np.broadcast_to(eye, mask.shape)
        rows, columns = np.tril_indices(mask.shape[-1], -1)
        scales = np.broadcast_to(whole[..., 0], mask.shape[:-1])
        dead = np.concatenate([scales, mask[..., rows, columns]], axis=-1)
        return held.of(self, mask, value, point, dead)


def _check_pattern(mask: np.ndarray, value: np.ndarray, eye: np.ndarray) -> None:
    """Raise ``ValueError`` where the zeros in matrices that are not held whole do not make them block-diagonal."""
    apart = (~mask).astype(int)
    linked = apart @ apart > 0  # two variables that have a covariance with the same third one
    for wrong, what in (
        (mask & eye, "a variance is held and the rest of its matrix is not"),
        (mask & (value != 0), "a covariance is held at another value than zero"),
        (mask & linked, "a covariance is held at zero, and both its variables may covary with a third one"),
    ):
        if wrong.any():
            where = ", ".join(map(str, np.argwhere(wrong)[0]))
            raise ValueError(
                f"PositiveDefinite.hold: {what}, at [{where}]. What can be held: whole matrices, and zeros off the "
                "diagonal that leave blocks (sets of variables without any covariance between them)"
            )


def _check_matrices(value: np.ndarray) -> None:
    """Raise ``ValueError`` where a matrix (..., D, D) is not symmetric positive definite."""
    size = np.sqrt(np.abs(np.diagonal(value, axis1=-2, axis2=-1)))
    gap = np.abs(value - np.swapaxes(value, -1, -2)) / np.where(size > 0, size, 1)[..., :, None]
    symmetric = (gap <= np.finfo(np.float32).eps ** 0.5 * size[..., None, :]).all()
    if not (symmetric and (np.linalg.eigvalsh(value) > 0).all()):
        raise ValueError("PositiveDefinite.hold: a matrix that is held must be symmetric and positive definite")
