"""Autoregressions about a mean that switches with a Markov chain."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import parameters
from jaxem.core.checks import instance, whole_field
from jaxem.core.data import Data, values_of
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows
from jaxem.core.spaces import Positive, Real
from jaxem.families.normal import Normal
from jaxem.gates import Constant, Stationary
from jaxem.gates.stationary import distribution
from jaxem.latent import chain, chain_forward, chain_sums, scaled
from jaxem.latent.chain import Chain
from jaxem.latent.classes import expected, log_probability
from jaxem.models.observations import real
from jaxem.models.sequences import is_sequence, unpack
from jaxem.models.switching_data import Observations
from jaxem.models.switching_maximum import MOVES, Maximum
from jaxem.models.switching_params import Prepared, SwitchingParams, of_errors
from jaxem.models.switching_prediction import Prediction
from jaxem.models.switching_starts import Starts


@register
@dataclasses.dataclass(frozen=True)
class SwitchingAutoregression(FromRows, Maximum, Starts, Prediction, Observations):
    r"""A normal autoregression whose mean switches between ``k`` regimes of a Markov chain z.

    .. math:: x_t - m_{z_t} = \sum_{j=1}^p \varphi_j (x_{t-j} - m_{z_{t-j}}) + e_t, \qquad
              e_t \sim N(0, \sigma^2_{z_t})

    The density of a step depends on the regimes of the last p + 1 steps, so that inference runs over the k^(p+1) tuples
    of these. The first p values of a sequence are conditioned on; their regimes are hidden all the same. The M-step
    maximises in turn over the means, the coefficients and the variances until nothing moves: each of these is a
    weighted least-squares problem given the others.

    The data are (N, T), or a list of sequences; the posterior q is a ``Chain`` over tuples, from step p on; the
    parameters are a ``SwitchingParams``. Where the dynamics switch instead of the mean, use an ``HMM`` of
    ``Regression(Normal())`` on lagged values.

    Arguments:
        k: the number of regimes, at least 1.
        order: p, the number of lags, at least 1.
        variance: ``"shared"`` (default): one variance; ``"switching"``: one for each regime.
        initial: the distribution of the first regime: ``Stationary()`` (default), that of the transition matrix; or
            ``Constant()``, probabilities of its own.

    Raises:
        ValueError: ``k`` or ``order`` is not a whole number of at least 1, ``variance`` is neither of these, or
            ``initial`` is another gate.

    Source: Hamilton (1989); Hamilton (1990) for EM.
    """

    k: int = dataclasses.field(metadata={"static": True})
    order: int = dataclasses.field(metadata={"static": True})
    variance: str = dataclasses.field(default="shared", metadata={"static": True})
    initial: Any = Stationary()

    def __post_init__(self) -> None:
        whole_field(self, "k", 1)
        whole_field(self, "order", 1)
        if self.variance not in ("shared", "switching"):
            raise ValueError(
                f'SwitchingAutoregression: variance must be "shared" or "switching"; got {self.variance!r}'
            )
        instance(
            "SwitchingAutoregression: initial", self.initial, "Stationary() or Constant()", "declare", "probability"
        )
        if not isinstance(self.initial, Stationary | Constant):
            raise ValueError("SwitchingAutoregression: initial must be Stationary() or Constant()")

    # What the checks of data ask of a model: its values are those of normal observations.
    family = Normal()
    event_ndim = 1
    takes = ("lengths",)

    @property
    def tuples(self) -> np.ndarray:
        """The regimes of the last p + 1 steps, the latest first, of each hidden state, (k^(p+1), p + 1)."""
        digits = np.indices((self.k,) * (self.order + 1))
        return digits.reshape(self.order + 1, -1).T

    def declare(self) -> SwitchingParams:
        variances = Param.of(Positive(), "K" if self.variance == "switching" else "")
        means, coefficients = Param.of(Real(), "K", location=True), Param.of(Real(), "P")
        return SwitchingParams(self.initial.declare(), MOVES.declare(), means, coefficients, variances)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: SwitchingParams, x: Data | None) -> Prepared:
        z, A = self.tuples, params.transition
        pi = self._first(params)[z[:, -1]]
        for j in range(self.order, 0, -1):  # the regimes of the first p + 1 steps are a chain themselves
            pi = pi * A[z[:, j], z[:, j - 1]]
        moves = A[z[:, 0]][:, z[:, 0]]
        follows = (z[:, None, :-1] == z[None, :, 1:]).all(axis=2)  # the last p of one are the first p of the next
        return Prepared(params, pi, jnp.where(follows, moves, 0), params.means[z])

    def _first(self, params: SwitchingParams) -> Array:
        """The distribution of the first regime, (K,)."""
        return distribution(params.transition) if isinstance(self.initial, Stationary) else params.initial

    def _windows(self, x: Data, dtype: Any) -> tuple[Array, Array]:
        """The last p + 1 values at each step from p on, (N, T - p, p + 1), the latest first; their number (N,)."""
        values, lengths = unpack(x)
        values, p = real(values, dtype), self.order
        t = values.shape[1]
        lags = [values[:, p - j : t - j] for j in range(p + 1)]
        return jnp.stack(lags, axis=2), lengths - p

    def _log_b(self, c: Prepared, windows: Array) -> Array:
        """log N(x_t | x_{t-1}, ..., and the regimes), (N, T - p, k^(p+1))."""
        a = of_errors(c.at.coefficients)
        errors = (windows @ a)[:, :, None] - (c.means @ a)[None, None, :]
        variances = jnp.broadcast_to(c.at.variances, (self.k,))[self.tuples[:, 0]]
        return -0.5 * (jnp.log(2 * math.pi * variances)[None, None, :] + errors**2 / variances[None, None, :])

    def infer(self, c: Prepared, x: Data) -> Chain:
        """Forward-backward over the tuples of regimes."""
        windows, lengths = self._windows(x, c.means.dtype)
        segments = scaled.segments(None, windows.shape[0], windows.shape[1], len(c.pi))
        log_b = self._log_b(c, windows)
        return chain.posterior(c.pi, c.A, log_b, lengths, segments)

    def mode(self, c: Prepared, x: Data) -> Chain:
        """All probability on the most probable path."""
        windows, lengths = self._windows(x, c.means.dtype)
        return chain.mode(c.pi, c.A, self._log_b(c, windows), lengths)

    def draw(self, c: Prepared, x: Data, key: Array) -> Chain:
        """All probability on one path drawn from p(z | x)."""
        windows, lengths = self._windows(x, c.means.dtype)
        return chain.draw(c.pi, c.A, self._log_b(c, windows), lengths, key)

    def log_marginal(self, c: Prepared, x: Data) -> Array:
        """log p(x_{p+1}, ..., x_T | x_1, ..., x_p) of each sequence, (N,), by a forward algorithm of its own."""
        windows, lengths = self._windows(x, c.means.dtype)
        value = chain_forward.log_likelihood(c.pi, c.A, self._log_b(c, windows), lengths)
        return jnp.where(is_sequence(lengths + self.order, values_of(x)), value, jnp.nan)

    def complete(self, c: Prepared, q: Chain, x: Data) -> Array:
        """sum_c gamma_1 log pi + sum_cd xi_cd log A_cd + sum_tc gamma_tc log p(x_t | c), (N,)."""
        windows, _ = self._windows(x, c.means.dtype)
        starts = expected(q.smoothed[:, 0], log_probability(c.pi)[None, :])
        moves = chain_sums.expected_log_moves(q, log_probability(c.A))
        return starts + moves + expected(q.smoothed, self._log_b(c, windows)).sum(axis=1)

    def entropy_rows(self, c: Prepared, q: Chain, x: Data) -> Array:
        """The entropy of the paths, (N,)."""
        return -chain_sums.expected_log(q, q)

    def divergence_rows(self, q: Chain, p: Chain) -> Array:
        """KL(q || p) between two chains, (N,)."""
        return chain_sums.expected_log(q, q) - chain_sums.expected_log(q, p)

    def log_prior(self, params: SwitchingParams) -> Array | float:
        """The log-prior of the first regime, where there is one."""
        return self.initial.log_prior(params.initial) if isinstance(self.initial, Constant) else 0.0

    def degenerate(self, params: SwitchingParams) -> Array:
        """Whether a regime can no longer be entered, or a variance has vanished beside the spread of the means."""
        others = params.transition * (1 - jnp.eye(self.k, dtype=params.transition.dtype))
        entered = jnp.maximum(others.max(axis=0), self._first(params))
        eps = float(jnp.finfo(entered.dtype).eps)
        spread = jnp.abs(params.means).max()
        return (entered < eps**2).any() | (params.variances <= (4 * eps * spread) ** 2).any()

    def permute(self, params: SwitchingParams, order: Array) -> SwitchingParams:
        """The same model with its regimes renumbered: regime ``order[k]`` becomes regime k."""
        return parameters.permuted(self.declare(), params, order)

    def label_keys(self, params: SwitchingParams) -> Array:
        """The mean of each regime, (K, 1), by which regimes are sorted."""
        return parameters.locations(self.declare(), params)
