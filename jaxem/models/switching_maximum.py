"""The M-step of a switching autoregression: means, coefficients and variances in turn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.data import Data
from jaxem.core.rows import weighted
from jaxem.core.trees import relative_change
from jaxem.gates import Stationary
from jaxem.gates.transitions import Free
from jaxem.latent import chain_sums
from jaxem.latent.chain import Chain
from jaxem.models.switching_params import Prepared, SwitchingParams, SwitchingSums, of_errors

MOVES = Free(None)
_MOST = 1000  # rounds of the M-step; each shrinks the error by a factor


class Maximum:
    """The functions of a switching autoregression that maximise Q."""

    def sums(self: Any, c: Prepared | None, w: Array | None, q: Chain, x: Data) -> SwitchingSums:
        """Expected numbers of starts and moves, and moments of the windows about the mean of the regimes' means."""
        gamma, z, k = weighted(q.smoothed, w), self.tuples, self.k
        windows, _ = self._windows(x, gamma.dtype)
        u = (windows - (0 if c is None else c.at.means.mean())).reshape(-1, self.order + 1)
        r = gamma.reshape(-1, len(z))
        latest = jnp.asarray(np.eye(k)[z[:, 0]], r.dtype)  # (k^(p+1), K)
        groups = r @ latest if self.variance == "switching" else r.sum(axis=1, keepdims=True)
        first = gamma[:, 0].sum(axis=0)
        pairs = chain_sums.pair_counts(q, None if w is None else w.astype(gamma.dtype))
        moves = latest.T @ pairs @ latest
        for j in range(self.order, 0, -1):
            moves = moves.at[z[:, j], z[:, j - 1]].add(first)
        starts = jnp.zeros((k,), r.dtype).at[z[:, -1]].add(first)
        second = jnp.einsum("ng,na,nb->gab", groups, u, u, optimize="optimal")
        return SwitchingSums(starts, moves, r.sum(axis=0), r.T @ u, second)

    def maximum(self: Any, c: Prepared | None, sums: SwitchingSums) -> SwitchingParams:
        """The maximiser of the moves, and in turn those of coefficients, means and variances until nothing moves."""
        A = None if c is None else c.at.transition
        if isinstance(self.initial, Stationary):
            initial, transition = (), self.initial.maximize_moves(MOVES, A, sums.initial, sums.transition)
        else:
            initial = self.initial.maximize(None, sums.initial)
            transition = MOVES.maximize(A, sums.transition)
        centre = 0.0 if c is None else c.at.means.mean()
        if c is None:
            raise ValueError("SwitchingAutoregression: sums without parameters; start from init")
        begin = c.at.means - centre, c.at.coefficients, c.at.variances

        def again(carry: Any) -> Any:
            now, _, tried = carry
            new = self._round(sums, *now)
            return new, relative_change(new, now), tried + 1

        def moving(carry: Any) -> Array:
            _, change, tried = carry
            return (change > 4 * float(jnp.finfo(sums.second.dtype).eps)) & (tried < _MOST)  # NaN ends it

        far = jnp.full((), jnp.inf, sums.second.dtype)
        means, coefficients, variances = jax.lax.while_loop(moving, again, (begin, far, jnp.int32(0)))[0]
        return SwitchingParams(initial, transition, means + centre, coefficients, variances)

    def _round(
        self: Any, sums: SwitchingSums, means: Array, coefficients: Array, variances: Array
    ) -> tuple[Array, ...]:
        """Each of the three maximised given the others, with means less the centre."""
        z, n = self.tuples, sums.sizes
        v = jnp.broadcast_to(variances, (sums.second.shape[0],))
        scatter = self._scatter(sums, means)
        whole = (scatter / v[:, None, None]).sum(axis=0)
        factor = matrices.cholesky(whole[1:, 1:])
        a = of_errors(matrices.solve(factor, whole[1:, :1])[:, 0])
        # The filtered mean of tuple c is B_c . means.
        B = jnp.einsum("cjk,j->ck", jnp.asarray(np.eye(self.k)[z], a.dtype), a)
        weight = n / jnp.broadcast_to(variances, (self.k,))[z[:, 0]]
        filtered = (sums.first @ a) / jnp.where(n > 0, n, 1)
        factor = matrices.cholesky(jnp.matmul(B.T * weight[None, :], B))
        means = matrices.solve(factor, (B.T @ (weight * filtered))[:, None])[:, 0]
        squares = jnp.einsum("gab,a,b->g", self._scatter(sums, means), a, a)
        sizes = self._sizes(n)
        variances = (squares / sizes).reshape(variances.shape)
        return means, -a[1:], variances

    def _sizes(self: Any, n: Array) -> Array:
        """The expected number of steps of each variance, (1 or K,)."""
        return n.reshape(self.k, -1).sum(axis=1) if self.variance == "switching" else n.sum()[None]

    def _scatter(self: Any, sums: SwitchingSums, means: Array) -> Array:
        """sum_c sum_n r_nc (u_n - m_c)(u_n - m_c)', by the variance of the latest step, (1 or K, P + 1, P + 1)."""
        m = means[self.tuples]
        cross = sums.first[:, :, None] * m[:, None, :]
        each = sums.sizes[:, None, None] * m[:, :, None] * m[:, None, :] - cross - jnp.swapaxes(cross, 1, 2)
        groups = sums.second.shape[0]
        return sums.second + each.reshape(groups, -1, *each.shape[1:]).sum(axis=1)

    def expected(self: Any, c: Prepared, params: SwitchingParams, sums: SwitchingSums) -> Array:
        """Q from the sums, up to a constant."""
        gate = self.initial.prepare(self._first(params), None)
        starts = self.initial.expected(gate, self._first(params), sums.initial)
        moves = MOVES.expected(params.transition, params.transition, sums.transition)
        a = of_errors(params.coefficients)
        scatter = self._scatter(sums, params.means - c.at.means.mean())
        squares = jnp.einsum("gab,a,b->g", scatter, a, a)
        v = jnp.broadcast_to(params.variances, squares.shape)
        return starts + moves - 0.5 * (self._sizes(sums.sizes) * jnp.log(v) + squares / v).sum()
