r"""Transition probabilities of a chain by name: the same for all moves, unless a kind has a gate (see ``rows.py``).

Each kind says which moves are allowed, and which Dirichlet prior the rows of the transition matrix have. The M-step is

.. math:: A_{ij} \propto \Xi_{ij} + a_{ij} - 1 \text{ where the move is allowed, else } 0, \qquad
          \Xi_{ij} = E[\text{number of moves from } i \text{ to } j \mid x], \quad
          a_{ij} = \text{prior}_{ij} + \text{stay} \cdot [i = j].

A move that is not allowed has probability zero, which no algorithm changes and which is not a free parameter.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.scipy.special import gammaln

from jaxem.core.arrays import as_array
from jaxem.core.checks import brief, whole_number
from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Simplex
from jaxem.gates.softmax import Softmax
from jaxem.latent.classes import log_probability, log_times


class Kind:
    """The functions that all kinds share; each has ``prior``, ``stay`` and ``mask(k)``."""

    homogeneous: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ()
    gate: Any = None  # what the probabilities of the moves that are allowed depend on
    exchangeable: ClassVar[bool] = True  # whether states can be renumbered
    may_return: ClassVar[bool] = True  # whether a state that was left may be entered again

    def mask(self: Any, k: int) -> np.ndarray | None:
        """Which moves are allowed.

        Arguments:
            k: K, the number of states.

        Returns:
            Booleans (K, K), or ``None``: all moves.

        Raises:
            ValueError: the kind was made for another number of states.
        """
        return None

    def declare(self) -> Param:
        return Param.of(Simplex(), "K K")

    def prepare(self, params: Array, x: Data | None) -> Array:
        return params

    def probability(self, c: Array) -> Array:
        """A, (K, K)."""
        return c

    def log_prob(self, c: Array, x: Data | None) -> Array:
        """log A, (K, K)."""
        return log_probability(c)

    def statistics(self, c: Any, moves: Array, x: Data | None) -> Array:
        """The expected number of moves, (K, K)."""
        return moves

    def extra(self: Any, k: int, dtype: Any) -> Array | None:
        """What the prior adds to the expected number of moves, a - 1.

        Arguments:
            k: K, the number of states.
            dtype: the dtype of the result.

        Returns:
            An array (K, K), or ``None`` where the prior is flat.
        """
        if self.prior is None and self.stay is None:
            return None
        a = jnp.zeros((k, k), dtype) if self.prior is None else jnp.broadcast_to(_float(self.prior, dtype), (k, k)) - 1
        return a if self.stay is None else a + _float(self.stay, dtype) * jnp.eye(k, dtype=dtype)

    def maximize(self, c: Array | None, sums: Array) -> Array:
        """The rows of expected moves, with the prior's, divided by their totals."""
        k = sums.shape[-1]
        extra, allowed = self.extra(k, sums.dtype), self.mask(k)
        n = sums if extra is None else sums + extra
        n = n if allowed is None else jnp.where(allowed, n, 0)
        left = n.sum(axis=1, keepdims=True)
        # A state that is only ever the last one is never left, so any row maximises Q: the old one is kept.
        old = self.even(k, sums.dtype) if c is None else c
        return jnp.where(left == 0, old, n / jnp.where(left == 0, 1, left))

    def even(self, k: int, dtype: Any) -> Array:
        """The same probability for each move that is allowed.

        Arguments:
            k: K, the number of states.
            dtype: the dtype of the result.

        Returns:
            A transition matrix (K, K).
        """
        allowed = self.mask(k)
        a = jnp.ones((k, k), dtype) if allowed is None else jnp.asarray(allowed, dtype)
        return a / a.sum(axis=1, keepdims=True)

    def expected(self, c: Any, params: Array, sums: Array) -> Array:
        return log_times(sums, params).sum()

    def start(self, sizes: Array, x: Data | None) -> Array:
        """The states tend to stay: A = I / 2 + sizes / 2, where the moves are allowed."""
        k = sizes.shape[0]
        stay, allowed = jnp.eye(k, dtype=sizes.dtype), self.mask(k)
        a = 0.5 * stay + 0.5 * sizes[None, :]
        if allowed is None:
            return a
        a = jnp.where(allowed, a + 0.5 * jnp.roll(stay, 1, axis=1), 0)  # preferably to the next state, where allowed
        total = a.sum(axis=1, keepdims=True)
        return jnp.where(total > 0, a / jnp.where(total > 0, total, 1), self.even(k, sizes.dtype))

    def log_prior(self, params: Array) -> Array | float:
        """The sum over rows of log Dirichlet(A_i | a_i), normalised, over the moves that are allowed."""
        k = params.shape[-1]
        extra, allowed = self.extra(k, params.dtype), self.mask(k)
        if extra is None:
            return 0.0
        allowed = np.ones((k, k), bool) if allowed is None else allowed
        a = jnp.where(allowed, extra + 1, 1)
        constant = gammaln(jnp.where(allowed, a, 0).sum(axis=1)).sum() - gammaln(a).sum()
        return constant + jnp.where(allowed, log_times(a - 1, params), 0).sum()

    def check_params(self, params: Array) -> None:
        """Raise an error where a move that is not allowed has a probability above zero.

        Arguments:
            params: a transition matrix (K, K); traced values pass.

        Raises:
            ValueError: there is such a move.
        """
        allowed = self.mask(params.shape[-1])
        if allowed is None or isinstance(params, Tracer):
            return
        wrong = np.argwhere(~np.asarray(allowed) & (np.asarray(params) != 0))
        if wrong.size:
            i, j = map(int, wrong[0])
            name = type(self).__name__
            raise ValueError(f"{name} allows no move from state {i} to {j}; its probability must be 0: start from init")


def _float(a: Any, dtype: Any) -> Array:
    return jnp.asarray(a).astype(dtype)


def _checked(kind: Any) -> None:
    """Check the prior and ``stay`` of a kind."""
    for name, least in (("prior", 1.0), ("stay", 0.0)):
        value = getattr(kind, name)
        if value is None or isinstance(value, Tracer):
            continue
        title = f"{type(kind).__name__}: {name}"
        value = as_array(value, title, False)
        value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))
        if not (isinstance(value, Tracer) or bool(((value >= least) & (value < math.inf)).all())):
            raise ValueError(f"{title} must be finite numbers of at least {least:g}; got {np.asarray(value)}")
        object.__setattr__(kind, name, value)
    title = f"{type(kind).__name__}: gate"
    if kind.gate is not None and not isinstance(kind.gate, Softmax):
        raise ValueError(f"{title} must be a Softmax() of the inputs, or None; got {brief(kind.gate)}")
    if kind.gate is not None and not (kind.prior is None and kind.stay is None):
        raise ValueError(
            f"{title} and prior or stay exclude each other: those are priors of one transition matrix, and with inputs "
            "there is one for each move. Leave prior and stay out, or see jaxem.with_prior"
        )


@register
@dataclasses.dataclass(frozen=True)
class Sticky(Kind):
    r"""All moves are allowed, and states tend to stay by a prior.

    .. math:: A_{ij} \propto \Xi_{ij} + a_{ij} - 1 + \kappa\, [i = j]

    Arguments:
        stay: kappa, added to the concentration of each move from a state to itself, at least 0: as many moves as the
            prior is worth.
        prior: the concentration a of the Dirichlet prior of each row, a number of at least 1, or an array (K,) or
            (K, K) of such; default ``None``: 1.

    Raises:
        ValueError: ``stay`` or ``prior`` is not finite or too small.

    Source: Fox, Sudderth, Jordan & Willsky (2011), for a finite number of states.
    """

    stay: Any
    prior: Any = None

    def __post_init__(self) -> None:
        _checked(self)


@register
@dataclasses.dataclass(frozen=True)
class LeftToRight(Kind):
    """Each state is left only for later ones.

    States keep the order in which they follow each other, so that they cannot be renumbered. The first state of a
    sequence is that of the initial probabilities.

    Arguments:
        skips: how many states a move may skip: 0 (default) allows the next state only, ``None`` all later ones.
        prior: the concentration of the Dirichlet prior of each row; see ``Sticky``. Default ``None``: 1.
        stay: the amount that is added to the concentration of staying; default ``None``: 0.
        gate: ``Softmax(on=...)``: the probabilities of the moves that are allowed depend on the covariates of the step
            that is left; default ``None``: they are the same at all steps.

    Raises:
        ValueError: ``skips`` is not a whole number of at least 0 or ``None``, ``prior`` or ``stay`` is too small or
            given beside ``gate``, or ``gate`` is not a ``Softmax``.

    Source: Rabiner (1989), section IV.B (Bakis model).
    """

    skips: int | None = dataclasses.field(default=0, metadata={"static": True})
    prior: Any = None
    stay: Any = None
    gate: Any = None

    exchangeable: ClassVar[bool] = False
    may_return: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.skips is not None:
            whole_number("LeftToRight: skips", self.skips, 0)
        _checked(self)

    def mask(self, k: int) -> np.ndarray:
        ahead = np.arange(k)[None, :] - np.arange(k)[:, None]
        return (ahead >= 0) & (ahead <= (k if self.skips is None else 1 + self.skips))

    def segments(self, key: Array, k: int, lengths: Array, t: int, dtype: Any) -> Array:
        """State probabilities of a start: each sequence is cut into K segments of random length, in order.

        Arguments:
            key: a random key.
            k: K, the number of states.
            lengths: the length of each sequence, (N,).
            t: T, the number of steps of the arrays.
            dtype: the dtype of the result.

        Returns:
            An array (N, T, K).
        """
        shares = jax.random.dirichlet(key, jnp.full((k,), 4.0, dtype), dtype=dtype)
        place = (jnp.arange(t, dtype=dtype)[None, :] + 0.5) / lengths[:, None].astype(dtype)
        state = (place[:, :, None] > jnp.cumsum(shares)[None, None, :-1]).sum(axis=2)
        mixed = 0.1 / k  # so that no state is without observations
        return (1 - 0.1) * jax.nn.one_hot(state, k, dtype=dtype) + mixed


@register
@dataclasses.dataclass(frozen=True)
class Cyclic(Kind):
    """Each state stays or moves to the next one; the last moves to the first.

    Arguments:
        prior: the concentration of the Dirichlet prior of each row; see ``Sticky``. Default ``None``: 1.
        stay: the amount that is added to the concentration of staying; default ``None``: 0.
        gate: ``Softmax(on=...)``: the probabilities of the moves that are allowed depend on the covariates of the step
            that is left; default ``None``: they are the same at all steps.

    Raises:
        ValueError: ``prior`` or ``stay`` is not finite, too small, or given beside ``gate``; or ``gate`` is not a
            ``Softmax``.
    """

    prior: Any = None
    stay: Any = None
    gate: Any = None

    exchangeable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _checked(self)

    def mask(self, k: int) -> np.ndarray:
        return np.eye(k, dtype=bool) | np.roll(np.eye(k, dtype=bool), 1, axis=1)


@register
@dataclasses.dataclass(frozen=True)
class Allowed(Kind):
    """Only the moves that a mask names are allowed; states cannot be renumbered.

    Arguments:
        moves: booleans (K, K), True at [i, j] where a move from state i to state j is allowed; one in each row.
        prior: the concentration of the Dirichlet prior of each row; see ``Sticky``. Default ``None``: 1.
        stay: the amount that is added to the concentration of staying; default ``None``: 0.
        gate: ``Softmax(on=...)``: the probabilities of the moves that are allowed depend on the covariates of the step
            that is left; default ``None``: they are the same at all steps.

    Raises:
        ValueError: ``moves`` is not a square array of booleans with one True in each row; ``prior`` or ``stay`` is not
            finite, too small, or given beside ``gate``; or ``gate`` is not a ``Softmax``.
    """

    moves: Any = dataclasses.field(metadata={"static": True})
    prior: Any = None
    stay: Any = None
    gate: Any = None

    exchangeable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        moves = np.asarray(self.moves)
        if moves.dtype != bool or moves.ndim != 2 or moves.shape[0] != moves.shape[1] or not moves.any(axis=1).all():
            raise ValueError(
                f"Allowed: moves must be booleans (K, K) with one True in each row; got {moves.dtype} {moves.shape}"
            )
        object.__setattr__(self, "moves", tuple(map(tuple, moves.tolist())))
        _checked(self)

    def mask(self, k: int) -> np.ndarray:
        if len(self.moves) != k:
            raise ValueError(f"Allowed: moves are those of {len(self.moves)} states; the chain has {k}")
        return np.array(self.moves)


@register
@dataclasses.dataclass(frozen=True)
class Free(Kind):
    """All moves are allowed; what ``Constant`` means for the moves of a chain."""

    prior: Any = None
    stay: Any = None
