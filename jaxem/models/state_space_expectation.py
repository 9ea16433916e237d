"""The E-step of a state-space model, and the parts of its bound."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.data import Data, given_of, inside, lengths_of, observed_of, values_of
from jaxem.latent import gaussian_chain, gaussian_chain_filter
from jaxem.latent.gaussian_chain import Dynamics, States
from jaxem.latent.gaussian_chain_roots import apply, compress, lifted, times, turned
from jaxem.models import state_space_equations as equations
from jaxem.models.observations import real
from jaxem.models.state_space_equations import Moments
from jaxem.models.state_space_params import Noise, Prepared, StateSpaceParams
from jaxem.models.state_space_specification import is_live

_LOG_2_PI = gaussian_chain._LOG_2_PI


class Expectation:
    """The functions of a state-space model about the posterior of its states."""

    def prepare(self: Any, params: StateSpaceParams, x: Data | None) -> Prepared:
        if x is None:
            return Prepared(params)
        dynamics, noise = self._dynamics(params), _noise(params)
        if observed_of(x) is not None or lengths_of(x) is not None:
            return Prepared(params, dynamics, noise)
        t = values_of(x).shape[1]
        known = gaussian_chain.information(dynamics, noise.whitened, t, self._side_by_side(t))
        return Prepared(params, dynamics, noise, known)

    def _dynamics(self: Any, params: StateSpaceParams) -> Dynamics:
        k, dtype = self.states, params.transition.dtype
        L = jnp.pad(_root(params.process), ((0, k - self.shocks), (0, 0)))
        if params.initial_covariance is None:
            return Dynamics(params.transition, L, jnp.zeros((k,), dtype), None)
        return Dynamics(params.transition, L, params.initial_mean, _root(params.initial_covariance))

    def _side_by_side(self: Any, t: int) -> bool:
        return bool(jax.default_backend() != "cpu" and t >= 64 if self.parallel is None else self.parallel)

    def _parts(self: Any, c: Prepared, x: Data) -> tuple[Array, Any, Array | None]:
        """y - D u, zero where missing or after the end; the mask of what is seen (None: all); and B u."""
        y, u, seen, lengths = real(values_of(x), c.noise.whitened.dtype), given_of(x), observed_of(x), lengths_of(x)
        if c.at.output_inputs is not None:
            y = y - jnp.matmul(real(u, y.dtype), c.at.output_inputs.T)
        if seen is not None or lengths is not None:
            seen = inside(jnp.ones(y.shape, bool) if seen is None else seen, lengths)
            y = jnp.where(seen, y, 0)
        b = None if c.at.state_inputs is None else jnp.matmul(real(u, y.dtype), c.at.state_inputs.T)
        return y, seen, b

    def _whole(self: Any, x: Data) -> Array:
        """(n, T), which steps lie within their sequence."""
        lengths, t = lengths_of(x), values_of(x).shape[1]
        if lengths is None:
            return jnp.ones((1, t), bool)
        return jnp.arange(t, dtype=lengths.dtype)[None, :] < lengths[:, None]

    def _white(self: Any, c: Prepared, x: Data) -> tuple[Array, Array, Array | None, Array]:
        """The rows W and z of observations with noise of variance 1, B u, and the log-density without squares, (N,)."""
        y, seen, b = self._parts(c, x)
        (whitener, W, volume), noise = c.noise, c.at.noise
        z = y / lifted(whitener, y.ndim) if noise.ndim == 1 else jnp.matmul(y, whitener.T)
        if seen is None:
            return z, W, b, jnp.broadcast_to(-y.shape[1] * volume, y.shape[:1])
        if noise.ndim == 1:
            each = 0.5 * (_LOG_2_PI + jnp.log(noise))
            cells = jnp.where(seen, lifted(each, 3), 0).sum(axis=(1, 2))
        else:
            cells = seen[:, :, 0].sum(axis=1).astype(noise.dtype) * volume
        return z, jnp.where(seen[..., None], lifted(W, 4), 0), b, -cells

    def infer(self: Any, c: Prepared, x: Data) -> States:
        """The posterior of the states, by a pass from the end and one from the start."""
        z, W, b, cells = self._white(c, x)
        t = z.shape[1]
        parallel, known = self._side_by_side(t), c.information
        if known is None:
            rows = W
            if W.shape[-2] > W.shape[-1] and observed_of(x) is None:  # all cells of a step are seen, or none
                rows = jnp.where(self._whole(x)[:, :, None, None], lifted(compress(c.noise.whitened), 4), 0)
            known = gaussian_chain.information(c.dynamics, rows, t, parallel)
        q = gaussian_chain.infer(c.dynamics, known, W, z, b, _volumes(c.dynamics), self._whole(x), parallel)
        e = z - (jnp.matmul(q.means, W.T) if W.ndim == 2 else apply(W, q.means))
        return q._replace(log_normalizer=q.log_normalizer + cells - 0.5 * _over_time((e**2).sum(axis=2)))

    def tempered(self: Any, c: Prepared, x: Data, inverse_temperature: Array | float) -> States:
        """The posterior with the same means and its covariances divided by ``inverse_temperature``."""
        return gaussian_chain.tempered(self.infer(c, x), inverse_temperature, self._dimensions(c, x))

    def draw(self: Any, c: Prepared, x: Data, key: Array) -> States:
        """All probability on one path of the states of each sequence, drawn from the posterior."""
        q = self.infer(c, x)
        zero = jax.tree.map(jnp.zeros_like, (q.covariances, q.noise))
        return q._replace(means=gaussian_chain.draw(q, key), covariances=zero[0], noise=zero[1])

    def log_marginal(self: Any, c: Prepared, x: Data) -> Array:
        """log p(y_n) of each sequence, (N,), by the Kalman filter.

        NaN for a sequence with a NaN within its length.
        """
        z, W, b, cells = self._white(c, x)
        return gaussian_chain_filter.run(c.dynamics, W, z, b).log_density + cells

    def _dimensions(self: Any, c: Prepared, x: Data) -> Array:
        """The number of directions with noise of the first state and of each move, (T,)."""
        here = jnp.arange(values_of(x).shape[1]) == 0
        live = _live(c.at.initial_covariance, self.states), _live(c.at.process, self.shocks)
        return jnp.where(here, *live).astype(c.at.transition.dtype)

    def _moments(self: Any, c: Prepared, q: States, x: Data) -> tuple[Moments | None, Moments, Moments]:
        """The residuals of the three equations at each step, and the states on which they are regressed."""
        V, r = q.covariances, self.shocks
        y, _, b = self._parts(c, x)
        CV = times(c.at.loadings, V)
        e = y - jnp.matmul(q.means, c.at.loadings.T)
        outputs = Moments(e, q.means, times(CV, turned(c.at.loadings)), -CV, V)
        d = q.means[:, 1:] - apply(c.at.transition, q.means[:, :-1]) - (0 if b is None else b[:, 1:])
        F = (q.moves - lifted(c.at.transition, 4))[..., :r, :]
        FV, H = times(F, V[:, :-1]), q.noise[..., :r, :]
        moves = Moments(d[..., :r], q.means[:, :-1], times(FV, turned(F)) + times(H, turned(H)), FV, V[:, :-1])
        if c.dynamics.S is None:
            return None, moves, outputs
        one, zero = jnp.ones((q.means.shape[0], 1), V.dtype), jnp.zeros((V.shape[0], self.states, 1), V.dtype)
        return Moments(q.means[:, 0] - c.dynamics.m[None], one, V[:, 0], zero, zero[:, :1]), moves, outputs

    def complete(self: Any, c: Prepared, q: States, x: Data) -> Array:
        """E_q of the log-densities of the first state, the moves and the observations, (N,)."""
        first, moves, outputs = self._moments(c, q, x)
        seen = self._parts(c, x)[1]
        of_moves = jnp.where(q.inside[:, 1:], equations.log_density(moves, c.at.process), 0)
        if c.at.noise.ndim == 1:
            each = equations.log_density_of_cells(outputs, c.at.noise)
            of_outputs = (each if seen is None else jnp.where(seen, each, 0)).sum(axis=2)
        else:
            of_outputs = jnp.where(q.inside, equations.log_density(outputs, c.at.noise), 0)
        value = _over_time(of_outputs) + _over_time(of_moves)
        return value if first is None else value + equations.log_density(first, c.at.initial_covariance)

    def entropy_rows(self: Any, c: Prepared, q: States, x: Data) -> Array:
        """The sum over steps of the entropies of the first state and of the moves, (N,)."""
        return gaussian_chain.entropy(q, self._dimensions(c, x))

    def divergence_rows(self: Any, q: States, p: States) -> Array:
        """KL(q || p) between two chains of states, (N,)."""
        live = lambda spec, size: jnp.asarray(is_live(spec, size), q.means.dtype)
        first = live("full" if self.initial_pair is None else self.initial_pair[1], self.states)
        return gaussian_chain.divergence(q, p, live(self.process, self.shocks), first)


def _root(covariance: Array) -> Array:
    """A root of a covariance, or the matrix of one of variances, which may be zero."""
    if covariance.ndim == 2:
        return matrices.cholesky(covariance)
    live = covariance > 0
    return jnp.diag(jnp.where(live, jnp.sqrt(jnp.where(live, covariance, 1)), covariance))


def _noise(params: StateSpaceParams) -> Noise:
    R, C = params.noise, params.loadings
    d, k = C.shape
    if R.ndim == 1:
        root = jnp.sqrt(R)
        return Noise(root, C / root[:, None], 0.5 * (d * _LOG_2_PI + jnp.log(R).sum()))
    lower = matrices.cholesky(R)
    divided = matrices.solve_lower(lower, jnp.concatenate([C, np.eye(d, dtype=C.dtype)], axis=1))
    return Noise(divided[:, k:], divided[:, :k], 0.5 * (d * _LOG_2_PI + matrices.log_determinant(lower)))


def _live(covariance: Any, k: int) -> Array:
    """The number of directions with noise."""
    if covariance is None or covariance.ndim == 2:
        return jnp.asarray(k if covariance is None else covariance.shape[0])
    return (covariance > 0).sum()


def _volumes(d: Dynamics) -> Array:
    """log|covariance| / 2 of the first state and of each move, (2,); directions without noise are left out."""

    def volume(root: Array | None) -> Array:  # triangular, so that the product of its diagonal is the determinant
        if root is None:
            return jnp.zeros((), d.L.dtype)
        along = matrices.diagonal(root)
        return jnp.log(jnp.where(along == 0, 1, along)).sum()

    return jnp.stack([volume(d.S), volume(d.L)])


def _over_time(each: Array) -> Array:
    """The sum over steps, (N,), of (N, T): in pieces of about sqrt(T), so that rounding errors do not grow like T."""
    n, t = each.shape
    width = max(int(t**0.5), 1)
    each = jnp.pad(each, ((0, 0), (0, -t % width)))
    return each.reshape(n, -1, width).sum(axis=2).sum(axis=1)
