"""A gate for each row of the transition matrix of a chain: where a state goes, given covariates of the move."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Columns, Data
from jaxem.core.parameters import Declared, Param
from jaxem.core.records import register
from jaxem.core.spaces import ZeroSumWhere
from jaxem.core.spaces.zero_sum import basis_where
from jaxem.core.trees import float_dtype
from jaxem.gates import protocol
from jaxem.gates.constant import Constant
from jaxem.gates.transitions import Free, Kind


@register
@dataclasses.dataclass(frozen=True)
class Rows:
    r"""p(z_{t+1} = j | z_t = i, u_t), one copy of ``gate`` for each state i that is left.

    .. math:: \log A_t(i, j) = \log p_i(j \mid u_t)

    Each array of the parameters has a new first axis (K,) of the state that is left. Rows of data are moves. A
    ``kind`` whose mask is not ``None`` leaves some moves out: the gate is then a ``Softmax``, whose probabilities and
    coefficients are those of the moves that are left.
    """

    gate: Any
    kind: Any = None
    k: int | None = dataclasses.field(default=None, metadata={"static": True})

    homogeneous: ClassVar[bool] = False

    @property
    def exchangeable(self) -> bool:
        """Whether states can be renumbered."""
        return self.kind is None

    @property
    def _allowed(self) -> np.ndarray | None:
        """Which moves are possible, (K, K); ``None``: all."""
        return None if self.kind is None else self.kind.mask(self.k)

    def _of_rows(self, of: Callable[..., Any], more: Any, axes: Any, out: int = 0) -> Callable[..., Any]:
        """``of`` mapped over the states that are left, with what belongs to each row in ``more``, if anything, last."""
        if more is None:
            return jax.vmap(of, axes, out)
        return lambda *args: jax.vmap(of, (*axes, 0), out)(*args, jnp.asarray(more))

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data that the gate uses."""
        return self.gate.takes

    def declare(self) -> Declared:
        allowed = self._allowed
        own = {} if allowed is None else {"space": ZeroSumWhere(tuple(map(tuple, allowed.tolist())))}
        of = lambda param: dataclasses.replace(param, axes=("K", *param.axes), **own)
        return jax.tree.map(of, self.gate.declare(), is_leaf=lambda node: isinstance(node, Param))

    def prepare(self, params: Any, x: Data | None) -> Any:
        return jax.vmap(lambda params: self.gate.prepare(params, None))(params)

    def log_prob(self, c: Any, x: Data) -> Array:
        """log A of each move, (rows, K, K)."""
        return self._of_rows(self.gate.log_prob, self._allowed, (0, None), 1)(c, x)

    def statistics(self, c: Any, moves: Array, x: Data) -> Any:
        """The sums of each gate, from the expected moves (rows, K, K)."""
        return self._of_rows(self.gate.statistics, self._allowed, (0, 1, None))(c, moves, x)

    def maximize(self, c: Any, sums: Any) -> Any:
        allowed = self._allowed
        return self._of_rows(self.gate.maximize, None if allowed is None else basis_where(allowed), (0, 0))(c, sums)

    def expected(self, c: Any, params: Any, sums: Any) -> Array:
        return jax.vmap(self.gate.expected)(c, params, sums).sum()

    def start(self, sizes: Array, x: Data) -> Any:
        """The states tend to stay: row i has the sizes I / 2 + sizes / 2, or those of the kind."""
        if self.kind is not None:
            start = self._of_rows(self.gate.start, self._allowed, (0, None))
            return start(self.kind.start(sizes, None), x)
        of_rows = 0.5 * jnp.eye(sizes.shape[0], dtype=sizes.dtype) + 0.5 * sizes[None, :]
        return jax.vmap(lambda sizes: self.gate.start(sizes, x))(of_rows)

    def log_prior(self, params: Any) -> Array | float:
        if not hasattr(self.gate, "log_prior"):
            return 0.0
        dtype = float_dtype(params)
        return jax.vmap(lambda params: jnp.asarray(self.gate.log_prior(params), dtype))(params).sum()

    def check(self, x: Data, title: str) -> None:
        protocol.check(self.gate, x, title)

    def sizes(self, x: Data) -> dict[str, int]:
        return protocol.sizes(self.gate, x)

    def axis_labels(self, given: Any, columns: Mapping[str, Columns], leading: int) -> dict[str, list[str]]:
        return protocol.axis_labels(self.gate, given, columns, leading)


def of_moves(transition: Any, k: int) -> Any:
    """What decides the moves of a chain of k states: a kind of ``transitions.py``, or a gate for each row."""
    if isinstance(transition, Constant):
        return Free(transition.prior)
    if isinstance(transition, Kind):
        return transition if transition.gate is None else Rows(transition.gate, transition, k)
    return transition if isinstance(transition, Rows) else Rows(transition)
