"""A gate for each row of the transition matrix of a chain: where a state goes, given covariates of the move."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Columns, Data
from jaxem.core.parameters import Declared, Param
from jaxem.core.records import register
from jaxem.gates import protocol
from jaxem.gates.constant import Constant
from jaxem.gates.transitions import Free, Kind


@register
@dataclasses.dataclass(frozen=True)
class Rows:
    r"""p(z_{t+1} = j | z_t = i, u_t), one copy of ``gate`` for each state i that is left.

    .. math:: \log A_t(i, j) = \log p_i(j \mid u_t)

    Each array of the parameters has a new first axis (K,) of the state that is left. Rows of data are moves.
    """

    gate: Any

    homogeneous: ClassVar[bool] = False
    exchangeable: ClassVar[bool] = True

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data that the gate uses."""
        return self.gate.takes

    def declare(self) -> Declared:
        of = lambda param: dataclasses.replace(param, axes=("K", *param.axes))
        return jax.tree.map(of, self.gate.declare(), is_leaf=lambda node: isinstance(node, Param))

    def prepare(self, params: Any, x: Data | None) -> Any:
        return jax.vmap(lambda params: self.gate.prepare(params, None))(params)

    def log_prob(self, c: Any, x: Data) -> Array:
        """log A of each move, (rows, K, K)."""
        return jax.vmap(self.gate.log_prob, (0, None), 1)(c, x)

    def statistics(self, c: Any, moves: Array, x: Data) -> Any:
        """The sums of each gate, from the expected moves (rows, K, K)."""
        return jax.vmap(self.gate.statistics, (0, 1, None))(c, moves, x)

    def maximize(self, c: Any, sums: Any) -> Any:
        return jax.vmap(self.gate.maximize)(c, sums)

    def expected(self, c: Any, params: Any, sums: Any) -> Array:
        return jax.vmap(self.gate.expected)(c, params, sums).sum()

    def start(self, sizes: Array, x: Data) -> Any:
        """The states tend to stay: row i has the sizes I / 2 + sizes / 2."""
        of_rows = 0.5 * jnp.eye(sizes.shape[0], dtype=sizes.dtype) + 0.5 * sizes[None, :]
        return jax.vmap(lambda sizes: self.gate.start(sizes, x))(of_rows)

    def log_prior(self, params: Any) -> Array | float:
        if not hasattr(self.gate, "log_prior"):
            return 0.0
        return jax.vmap(lambda params: jnp.asarray(self.gate.log_prior(params)))(params).sum()

    def check(self, x: Data, title: str) -> None:
        protocol.check(self.gate, x, title)

    def sizes(self, x: Data) -> dict[str, int]:
        return protocol.sizes(self.gate, x)

    def axis_labels(self, given: Any, columns: Mapping[str, Columns], leading: int) -> dict[str, list[str]]:
        return protocol.axis_labels(self.gate, given, columns, leading)


def of_moves(transition: Any) -> Any:
    """What decides the moves of a chain: a kind of ``transitions.py``, or a gate for each row."""
    if isinstance(transition, Constant):
        return Free(transition.prior)
    return transition if isinstance(transition, Kind | Rows) else Rows(transition)
