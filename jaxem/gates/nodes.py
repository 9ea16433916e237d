"""Fixed weights at the nodes of a quadrature rule: a continuous latent variable as classes."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import whole_number
from jaxem.core.data import Data
from jaxem.core.records import register
from jaxem.core.trees import float_dtype
from jaxem.latent import nodes


@register
@dataclasses.dataclass(frozen=True)
class Nodes:
    r"""A standard normal latent variable as Q classes, the nodes t_q of Gauss-Hermite quadrature.

    .. math:: \int p(x \mid t)\, N(t; 0, 1)\, dt \approx \sum_q w_q\, p(x \mid t_q)

    The weights are fixed: the gate has no parameters.

    Arguments:
        points: Q, the number of nodes, at least 1; default 61.

    Raises:
        ValueError: ``points`` is not a whole number of at least 1.

    Source: Bock & Aitkin (1981).
    """

    points: int = dataclasses.field(default=61, metadata={"static": True})

    homogeneous: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", whole_number("Nodes: points", self.points, 1))

    @property
    def positions(self) -> np.ndarray:
        """t, (Q,), in standard deviations of the latent variable."""
        return nodes.standard_normal(self.points)[0]

    def declare(self) -> tuple[()]:
        return ()

    def prepare(self, params: tuple[()], x: Data | None) -> tuple[()]:
        return ()

    def log_prob(self, c: Any, x: Data) -> Array:
        """log w_q, (1, Q)."""
        return jnp.asarray(nodes.standard_normal(self.points)[1], float_dtype(x))[None, :]

    def probability(self, c: Any) -> Array:
        """w, (Q,)."""
        return jnp.exp(self.log_prob(c, ())[0])

    def statistics(self, c: Any, r: Array, x: Data) -> tuple[()]:
        return ()

    def maximize(self, c: Any, sums: tuple[()]) -> tuple[()]:
        return ()

    def expected(self, c: Any, params: tuple[()], sums: tuple[()]) -> float:
        return 0.0

    def start(self, sizes: Array, x: Data) -> tuple[()]:
        return ()
