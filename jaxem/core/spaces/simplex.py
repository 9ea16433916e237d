"""Probabilities that sum to one."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.spaces import answers, held
from jaxem.core.spaces.edges import Face
from jaxem.core.spaces.elementwise import negligible
from jaxem.core.spaces.protocol import Space, space


@space
class Simplex:
    r"""Probabilities that sum to one on the last axis: x = softmax(V u), u = V' log x. Zeros are held.

    V (K, K - 1) is Helmert's orthonormal basis of the vectors that sum to zero; u are the isometric log-ratio
    coordinates, in which no component is singled out. With entries numbered from 0, coordinate j compares entry j with
    the mean of the entries before it,

    .. math:: u_j = \Big(\sum_{i < j} \log x_i - c_j \log x_j\Big) \Big/ \sqrt{c_j (c_j + 1)}, \qquad j = 1 \dots K - 1.

    Zeros of the point at which the chart is made are left out: c_j counts the positive entries before j. The coordinate
    of a zero entry, or of an entry without a positive one before it, is dead.

    Source: Egozcue et al. (2003).
    """

    description = "non-negative with sum 1 on the last axis"
    event_ndim = 1
    edge = Face()
    unit = 1.0
    unit_free = True

    def forward(self, free: Array, like: Array | None = None) -> Array:
        k = free.shape[-1] + 1
        like = jnp.ones((*free.shape[:-1], k), free.dtype) if like is None else like
        positive, count, weight = self._basis(like, free.dtype)
        part = weight * jnp.concatenate([jnp.zeros((*free.shape[:-1], 1), free.dtype), free], axis=-1)
        log_x = jnp.matmul(part, self._before(k, part.dtype).T, precision="highest") - count * part
        return jax.nn.softmax(log_x, axis=-1, where=positive)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        positive, count, weight = self._basis(value if like is None else like, value.dtype)
        log_x = jnp.log(jnp.where(positive, jnp.maximum(value, negligible(value)), 1))
        before = self._before(value.shape[-1], value.dtype)
        return (weight * (jnp.matmul(log_x, before, precision="highest") - count * log_x))[..., 1:]

    def dimension(self, shape: answers.Shape) -> int:
        return math.prod(shape[:-1]) * (shape[-1] - 1)

    def free(self, value: Array) -> Array:
        return self._basis(value, value.dtype)[2][..., 1:] > 0

    @staticmethod
    def _before(k: int, dtype: Any) -> Array:
        """The matrix (K, K) for which x @ matrix sums the entries before each entry."""
        return jnp.asarray(np.triu(np.ones((k, k)), 1), dtype)

    def _basis(self, like: Array, dtype: Any) -> tuple[Array, Array, Array]:
        """Which entries are positive, how many of them come before each (c), and 1 / sqrt(c (c + 1)), 0 where dead."""
        positive = like != 0  # NaN is free: it must not look like an edge
        ones = positive.astype(dtype)
        count = jnp.matmul(ones, self._before(like.shape[-1], dtype), precision="highest")
        live = positive & (count > 0)
        return positive, count, jnp.where(live, jax.lax.rsqrt(jnp.where(live, count * (count + 1), 1)), 0)

    def contains(self, value: Any) -> Any:
        slack = float(jnp.finfo(value.dtype).eps) ** 0.5
        return (value >= 0).all() & (abs(value.sum(axis=-1) - 1) <= slack).all()

    def settle(self, value: Array, eps: float) -> Array:
        """The values divided by their sum, where that is one to the precision ``eps`` of their source only."""
        xp, total = value.__array_namespace__(), value.sum(axis=-1, keepdims=True)
        off = abs(total - 1)
        rounding = 4 * value.shape[-1] * float(jnp.finfo(value.dtype).eps)
        return xp.where((off > rounding) & (off <= eps**0.5), value / xp.where(total > 0, total, 1), value)

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        ratios = [str(j) for j in range(len(labels[-1]) - 1)]  # each is a ratio of several entries
        return answers.elements(f"ilr {name}", [*labels[:-1], ratios])

    def interval(self, value: Array, half: Array, free: Array, free_half: Array) -> tuple[Array, Array]:
        """Intervals on the logit scale of each entry."""
        slope = value * (1 - value)
        width = jnp.where(slope > 0, half / jnp.where(slope > 0, slope, 1), 0)
        logit = jnp.log(value) - jnp.log1p(-value)
        return jax.nn.sigmoid(logit - width), jax.nn.sigmoid(logit + width)

    def constant(self, shape: answers.Shape) -> np.ndarray:
        return np.full(shape, shape[-1] == 1)  # a single entry is always 1

    def tangential(self, value: Array, slope: Array) -> Array:
        """The slope without its part along the sum, where the values are probabilities."""
        if value.shape[-1] < 2:
            return slope
        return slope - jnp.where(self.contains(value), (slope * value).sum(axis=-1, keepdims=True), 0)

    def hold(self, mask: Any, value: Any) -> Space:
        r"""The space with some entries held; the others share what is left of each row.

        .. math:: x_k = v_k \text{ where held}, \qquad x_k = \Big(1 - \sum_{j \text{ held}} v_j\Big) y_k \text{ else},
                  \qquad \sum_k y_k = 1

        A held zero is exactly zero. Where only one entry of a row is left, or the held ones sum to one, the whole row
        is constant.

        Arguments:
            mask: booleans of the shape of the parameter, True where an entry is held.
            value: a number, or numbers of that shape; used only where an entry is held.

        Returns:
            A space in which these entries are constants.

        Raises:
            ValueError: as ``Real.hold``; and where held entries are negative, those of a row sum to more than one, or
                all entries of a row are held and sum to less than one.
        """
        rounding = held.precision(value)
        mask, value = held.checked(self, mask, value)
        held.check_each(self, value >= 0, value, "non-negative")
        total, rounding = value.sum(axis=-1, keepdims=True), 4 * mask.shape[-1] * rounding
        short = mask.all(axis=-1, keepdims=True) & (total < 1 - rounding)
        for wrong, what in ((total > 1 + rounding, "more than one"), (short, "less than one, and nothing is left")):
            if wrong.any():
                row = tuple(map(int, np.argwhere(wrong[..., 0])[0]))
                where = f"those of row {list(row)}" if row else "they"
                raise ValueError(f"Simplex.hold: the entries held sum to {what}; {where} sum to {total[row][0]:.6g}")
        rest = np.where(total < 1 - rounding, 1 - total, 0)
        settled = (rest == 0) | ((~mask).sum(axis=-1, keepdims=True) == 1)
        value = np.where(settled & ~mask, rest, value)
        mask = mask | settled
        # The others are a simplex of their own, scaled to what is left. A constant row counts as one of a single entry.
        first = np.arange(mask.shape[-1]) == 0
        point = np.where(settled, first, ~mask).astype(float)
        ahead = np.cumsum(~mask, axis=-1) - ~mask  # for each entry, how many free ones come before it
        dead = (mask | (ahead == 0))[..., 1:]
        return held.of(self, mask, value, point, dead, scale=np.where(settled, 1, rest))
