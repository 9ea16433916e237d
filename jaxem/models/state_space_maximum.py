"""The M-step of a state-space model: three regressions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Data, given_of, observed_of, values_of
from jaxem.latent.gaussian_chain import Dynamics, States
from jaxem.models import state_space_equations as equations
from jaxem.models.state_space_params import Prepared, StateSpaceParams, StateSpaceSums
from jaxem.models.state_space_patterns import Spec, layout
from jaxem.models.state_space_specification import is_matrix


class Maximum:
    """The functions of a state-space model that maximise Q."""

    def sums(self: Any, c: Prepared | None, w: Array | None, q: States, x: Data) -> StateSpaceSums:
        """The expected sums of each equation, with sequence weights ``w (N,)``."""
        about: Prepared = self._about_zero(x, q) if c is None else c
        first, moves, outputs = self._moments(about, q, x)
        n, u = q.means.shape[0], given_of(x)
        counts = jnp.ones((n,), q.means.dtype) if w is None else w.astype(q.means.dtype)
        steps = jnp.where(q.inside, counts[:, None], 0)
        of_moves = equations.tally(moves, steps[:, 1:], None if self.state_inputs is None else u[:, 1:])
        of_first = None if first is None else equations.tally(first, counts, None)
        inputs = None if self.output_inputs is None else u
        if observed_of(x) is None:
            return StateSpaceSums(of_first, of_moves, equations.tally(outputs, steps, inputs, about.at.loadings))
        cells = jnp.where(self._parts(about, x)[1], counts[:, None, None], 0)
        return StateSpaceSums(of_first, of_moves, equations.tally_cells(outputs, cells, inputs, about.at.loadings))

    def _about_zero(self: Any, x: Data, q: States) -> Prepared:
        """A context in which all coefficients are zero."""
        (d, k), dtype, p = (values_of(x).shape[2], self.states), q.means.dtype, 0
        p = given_of(x).shape[2] if given_of(x) is not None else 0
        zero = lambda *shape: jnp.zeros(shape, dtype)
        first = self.initial_pair
        params = StateSpaceParams(
            None if first is None else zero(k),
            None,
            zero(k, k),
            None if self.state_inputs is None else zero(k, p),
            _identity(self.process, self.shocks, dtype),
            zero(d, k),
            None if self.output_inputs is None else zero(d, p),
            _identity(self.noise, d, dtype),
        )
        S = None if first is None else jnp.eye(k, dtype=dtype)
        return Prepared(params, Dynamics(params.transition, zero(k, self.shocks), zero(k), S))

    def _coefficients(self: Any, params: StateSpaceParams) -> tuple[Any, Array, Array]:
        """The coefficients of the three equations: m, (A, B) of the states with noise, and (C, D)."""
        beside = lambda a, b: a if b is None else jnp.concatenate([a, b], axis=1)
        r = self.shocks
        moves = beside(params.transition, params.state_inputs)[:r]
        m = None if params.initial_mean is None else params.initial_mean[:, None]
        return m, moves, beside(params.loadings, params.output_inputs)

    def maximum(self: Any, c: Prepared | None, sums: StateSpaceSums) -> StateSpaceParams:
        """The regressions of the first state on 1, of states on states and inputs, and of observations on these."""
        k, r = self.states, self.shocks
        d, p = sums.outputs.ez.shape[0], max(sums.moves.zz.shape[-1], sums.outputs.zz.shape[-1]) - k
        dtype = sums.moves.ez.dtype
        if c is None:
            at = (jnp.zeros((k, 1), dtype), jnp.zeros_like(sums.moves.ez), jnp.zeros_like(sums.outputs.ez))
            covariances = [_identity(self.process, r, dtype), _identity(self.noise, d, dtype)]
        else:
            at, covariances = self._coefficients(c.at), [c.at.process, c.at.noise]
        pattern = lambda spec, *shape: layout(spec, shape)
        rows = lambda found: (found[0][:r], found[1][:r])
        moves = pattern(self.transition, k, k)
        if self.state_inputs is not None:
            moves = _beside(moves, pattern(self.state_inputs, k, p))
        outputs = pattern(self.loadings, d, k)
        if self.output_inputs is not None:
            outputs = _beside(outputs, pattern(self.output_inputs, d, p))
        moved, process = equations.maximize(sums.moves, at[1], _numbered(*rows(moves)), covariances[0], self.process)
        seen, noise = equations.maximize(sums.outputs, at[2], outputs, covariances[1], self.noise)
        still = jnp.asarray(moves[1][r:], dtype)
        moved = jnp.concatenate([moved, still])
        m = covariance = None
        first = self.initial_pair
        if first is not None:
            assert sums.first is not None and at[0] is not None
            start = _identity(first[1], k, dtype) if c is None else c.at.initial_covariance
            m, covariance = equations.maximize(sums.first, at[0], pattern(first[0], k, 1), start, first[1])
            m = m[:, 0]
        return StateSpaceParams(
            m,
            covariance,
            moved[:, :k],
            None if self.state_inputs is None else moved[:, k:],
            process,
            seen[:, :k],
            None if self.output_inputs is None else seen[:, k:],
            noise,
        )

    def expected(self: Any, c: Prepared | None, params: StateSpaceParams, sums: StateSpaceSums) -> Array:
        """Q from the sums, up to a constant: that of each equation."""
        new = self._coefficients(params)
        zero = jax.tree.map(jnp.zeros_like, new)
        old = zero if c is None else self._coefficients(c.at)
        value = equations.expected(sums.moves, new[1] - old[1], params.process)
        value = value + equations.expected(sums.outputs, new[2] - old[2], params.noise)
        if sums.first is None:
            return value
        return value + equations.expected(sums.first, new[0] - old[0], params.initial_covariance)


def _identity(spec: Spec, size: int, dtype: Any) -> Array:
    """The identity, as a matrix or as variances."""
    return jnp.eye(size, dtype=dtype) if is_matrix(spec) else jnp.ones((size,), dtype)


def _beside(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The pattern of two matrices side by side."""
    further = np.where(b[0] < 0, -1, b[0] + a[0].max(initial=-1) + 1)
    return np.concatenate([a[0], further], axis=1), np.concatenate([a[1], b[1]], axis=1)


def _numbered(index: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pattern with its free values numbered from 0 on."""
    numbers = {old: new for new, old in enumerate(dict.fromkeys(index[index >= 0].tolist()))}
    return np.vectorize(lambda old: numbers.get(old, -1), otypes=[int])(index), values
