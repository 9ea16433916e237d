"""Vectors whose entries decrease, such as the thresholds of ordered levels."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core.spaces import answers
from jaxem.core.spaces.elementwise import negligible
from jaxem.core.spaces.protocol import space


@space
class Decreasing:
    """Real vectors with x_0 > x_1 > ... on the last axis. The coordinates are x_0 and the logarithms of the gaps."""

    description = "finite, each entry of the last axis below the one before it"
    event_ndim = 1
    unit_free = False

    def forward(self, free: Array, like: Array | None = None) -> Array:
        gaps = jnp.exp(free[..., 1:])
        return jnp.concatenate([free[..., :1], free[..., :1] - jnp.cumsum(gaps, axis=-1)], axis=-1)

    def inverse(self, value: Array, like: Array | None = None) -> Array:
        gaps = value[..., :-1] - value[..., 1:]
        return jnp.concatenate([value[..., :1], jnp.log(jnp.maximum(gaps, negligible(value)))], axis=-1)

    def free(self, value: Array) -> Array:
        return jnp.ones(jnp.shape(value), bool)

    def contains(self, value: Any) -> Any:
        return value.__array_namespace__().isfinite(value).all() & (value[..., :-1] >= value[..., 1:]).all()

    def names(self, name: str, labels: answers.Labels) -> list[str]:
        found = answers.elements(name, labels)
        length = len(labels[-1])
        return [one if place % length == 0 else f"log gap {one}" for place, one in enumerate(found)]
