"""Linear Gaussian state-space models: a hidden state that follows a linear recursion, seen with noise."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.checks import whole_number
from jaxem.core.constraints import Positive, PositiveDefinite, Real
from jaxem.core.data import Data, Dataset, Spread, inside, lengths_of, observed_of, values_of
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows
from jaxem.latent import gaussian_chain, gaussian_chain_filter
from jaxem.latent.gaussian_chain import Dynamics, Information, States
from jaxem.latent.gaussian_chain_roots import apply, compress, lifted, times, turned
from jaxem.models import state_space_equations as equations
from jaxem.models.observations import real
from jaxem.models.state_space_equations import EquationSums, Moments
from jaxem.models.state_space_identity import redundant
from jaxem.models.state_space_input import Input
from jaxem.models.state_space_patterns import Pattern, Spec, frozen, is_fixed, layout, shape_of
from jaxem.models.state_space_prediction import Prediction

_LOG_2_PI = gaussian_chain._LOG_2_PI


class StateSpaceParams(NamedTuple):
    """The parameters of a state-space model; ``None`` where the model has no such part."""

    initial_mean: Any  # (k,), or None
    initial_covariance: Any  # (k, k), or (k,) where diagonal, or None
    transition: Array  # (k, k), A
    state_inputs: Array | None  # (k, P), B
    process: Array  # (r, r) or (r,), the covariance or variances of w
    loadings: Array  # (D, k), C
    output_inputs: Array | None  # (D, P), D
    noise: Array  # (D,) or (D, D), the variances or covariance of v


class StateSpaceSums(NamedTuple):
    """The sums of the three equations."""

    first: EquationSums | None
    moves: EquationSums
    outputs: EquationSums


class Prepared(NamedTuple):
    at: StateSpaceParams
    dynamics: Dynamics
    whitened: Array  # (D, k), R^-1/2 C
    information: Information | None  # where it is the same for all sequences


@register
@dataclasses.dataclass(frozen=True)
class StateSpace(FromRows, Input, Prediction):
    r"""A linear Gaussian state-space model with ``states`` hidden states.

    .. math:: x_1 \sim N(m, P), \quad x_t = A x_{t-1} + B u_t + w_t, \quad y_t = C x_t + D u_t + v_t, \quad
              w_t \sim N(0, Q), \quad v_t \sim N(0, R)

    One observation is one sequence. The data are an array (N, T, D), or a list of sequences (T_n, D), with or without
    weights, missing cells (``noise="diagonal"``) and inputs ``given (N, T, P)`` (see ``jaxem.dataset``). The posterior
    q is a ``States``; the parameters are a ``StateSpaceParams``.

    Every matrix is ``"free"`` or a pattern, a nested list in which a number is fixed (0: a structural zero), ``None``
    is free, and elements with the same name are equal. Fixed elements are not counted as free parameters.
    Covariances are ``"full"``, ``"diagonal"``, a list of variances (a pattern; 0: no noise), or a matrix of numbers.
    ``local_level()``, ``local_trend()``, ``seasonal()``, ``arma()`` and ``dynamic_factors()`` make such models.

    A model without any restriction is known up to an invertible map of its states, which changes no likelihood
    (``redundant`` directions).

    Arguments:
        states: k, the number of states, at least 1.
        transition: A (k, k).
        loadings: C (D, k).
        process: Q, the covariance of the noise of the first ``shocks`` states.
        noise: R, the covariance of the noise of the observations; ``"diagonal"`` by default.
        initial: ``"free"`` (default): m and P are estimated, P from two sequences or more. ``"diffuse"``: nothing is
            known about the first state, p(x_1) = 1; the likelihood is then that of the observations beyond those that
            determine it. Or a pair (mean, covariance) of patterns, such as ``([0.0], [[1.0]])``.
        state_inputs: B (k, P); ``None`` (default): inputs do not move the states.
        output_inputs: D (D, P); ``None`` (default): inputs do not enter the observations.
        shocks: the number of states that have noise, the first ones; default: all. The others move exactly, and their
            rows of A and B must be fixed, because the EM algorithm cannot move them.
        parallel: whether the passes over time are associative scans (about 2 log2(T) rounds, with more arithmetic).
            ``None`` (default): not on a CPU. The posterior is the same either way.

    Raises:
        ValueError: a pattern has the wrong shape; a free element cannot be estimated; or the first state is diffuse
            and the scale of the states is not fixed, so that the likelihood has no bound.

    Source: Shumway & Stoffer (1982); Holmes (2013) for fixed and equal elements; Durbin & Koopman (2012).
    """

    states: int = dataclasses.field(metadata={"static": True})
    transition: Spec = dataclasses.field(default="free", metadata={"static": True})
    loadings: Spec = dataclasses.field(default="free", metadata={"static": True})
    process: Spec = dataclasses.field(default="full", metadata={"static": True})
    noise: Spec = dataclasses.field(default="diagonal", metadata={"static": True})
    initial: Spec = dataclasses.field(default="free", metadata={"static": True})
    state_inputs: Spec = dataclasses.field(default=None, metadata={"static": True})
    output_inputs: Spec = dataclasses.field(default=None, metadata={"static": True})
    shocks: Any = dataclasses.field(default=None, metadata={"static": True})
    parallel: bool | None = dataclasses.field(default=None, metadata={"static": True})

    accurate = True

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        put("states", whole_number("StateSpace: states", self.states, 1))
        put("shocks", self.states if self.shocks is None else whole_number("StateSpace: shocks", self.shocks, 1))
        for name in ("transition", "loadings", "process", "noise", "initial", "state_inputs", "output_inputs"):
            put(name, frozen(getattr(self, name)))
        if self.parallel not in (None, True, False):
            raise ValueError(f"StateSpace: parallel must be None, True or False; got {self.parallel!r}")
        _check(self)

    _params = StateSpaceParams

    @property
    def initial_pair(self) -> tuple[Spec, Spec] | None:
        """The patterns of the mean and the covariance of the first state; ``None`` where it is diffuse."""
        if self.initial == "diffuse":
            return None
        return ("free", "full") if self.initial == "free" else self.initial

    def declare(self) -> StateSpaceParams:
        def matrix(spec: Spec, axes: str) -> Any:
            return None if spec is None else Param.of(_space(Real(), spec), axes)

        def covariance(spec: Spec, axis: str) -> Param:
            if spec == "diagonal" or not _is_matrix(spec):
                return Param.of(_space(Positive(), spec), axis)
            space = PositiveDefinite()
            if spec != "full":
                values = np.array(spec)
                space = space.hold(np.ones(values.shape, bool), values)
            return Param.of(space, f"{axis} {axis}")

        first = self.initial_pair
        return StateSpaceParams(
            None if first is None else matrix(first[0], "k"),
            None if first is None else covariance(first[1], "k"),  # pyright: ignore[reportArgumentType]
            matrix(self.transition, "k k"),
            matrix(self.state_inputs, "k P"),
            covariance(self.process, "r"),  # pyright: ignore[reportArgumentType]
            matrix(self.loadings, "D k"),
            matrix(self.output_inputs, "D P"),
            covariance(self.noise, "D"),  # pyright: ignore[reportArgumentType]
        )

    def prepare(self, params: StateSpaceParams, x: Data | None) -> Prepared:
        k, dtype = self.states, params.transition.dtype
        L = jnp.zeros((k, self.shocks), dtype).at[: self.shocks].set(_root(params.process))
        if params.initial_covariance is None:
            m, S = jnp.zeros((k,), dtype), None
        else:
            m, S = params.initial_mean, _root(params.initial_covariance)
        c = Prepared(params, Dynamics(params.transition, L, m, S), _whiten(params.noise, params.loadings), None)
        if x is None or observed_of(x) is not None or lengths_of(x) is not None:
            return c
        t = values_of(x).shape[1]
        return c._replace(information=gaussian_chain.information(c.dynamics, c.whitened, t, self._side_by_side(t)))

    def _side_by_side(self, t: int) -> bool:
        return bool(jax.default_backend() != "cpu" and t >= 64 if self.parallel is None else self.parallel)

    def _parts(self, c: Prepared, x: Data) -> tuple[Array, Any, Array | None]:
        """y - D u, zero where missing or after the end; the mask of what is seen (None: all); and B u."""
        y, u, seen, lengths = real(values_of(x), c.whitened.dtype), _given(x), observed_of(x), lengths_of(x)
        if c.at.output_inputs is not None:
            y = y - jnp.matmul(real(u, y.dtype), c.at.output_inputs.T)
        if seen is not None or lengths is not None:
            seen = inside(jnp.ones(y.shape, bool) if seen is None else seen, lengths)
            y = jnp.where(seen, y, 0)
        b = None if c.at.state_inputs is None else jnp.matmul(real(u, y.dtype), c.at.state_inputs.T)
        return y, seen, b

    def _whole(self, x: Data) -> Array:
        """(n, T), which steps lie within their sequence."""
        lengths, t = lengths_of(x), values_of(x).shape[1]
        if lengths is None:
            return jnp.ones((1, t), bool)
        return jnp.arange(t, dtype=lengths.dtype)[None, :] < lengths[:, None]

    def _white(self, c: Prepared, x: Data) -> tuple[Array, Array, Array | None, Array]:
        """The rows W and z of observations with noise of variance 1, B u, and the log-density without squares, (N,)."""
        y, seen, b = self._parts(c, x)
        z, W, noise = _whiten(c.at.noise, y, True), c.whitened, c.at.noise
        if seen is None:
            cells = y.shape[1] * _log_volume(noise, y.shape[2])
            return z, W, b, jnp.broadcast_to(-cells, y.shape[:1])
        if noise.ndim == 1:
            each = 0.5 * (_LOG_2_PI + jnp.log(noise))
            cells = jnp.where(seen, lifted(each, 3), 0).sum(axis=(1, 2))
        else:
            cells = seen[:, :, 0].sum(axis=1).astype(noise.dtype) * _log_volume(noise, y.shape[2])
        return z, jnp.where(seen[..., None], lifted(W, 4), 0), b, -cells

    def infer(self, c: Prepared, x: Data) -> States:
        """The posterior of the states, by a pass from the end and one from the start."""
        z, W, b, cells = self._white(c, x)
        t = z.shape[1]
        parallel, known = self._side_by_side(t), c.information
        if known is None:
            rows = W
            if W.shape[-2] > W.shape[-1] and observed_of(x) is None:  # all cells of a step are seen, or none
                rows = jnp.where(self._whole(x)[:, :, None, None], lifted(compress(c.whitened), 4), 0)
            known = gaussian_chain.information(c.dynamics, rows, t, parallel)
        q = gaussian_chain.infer(c.dynamics, known, W, z, b, _volumes(c.dynamics), self._whole(x), parallel)
        e = z - (jnp.matmul(q.means, W.T) if W.ndim == 2 else apply(W, q.means))
        return q._replace(log_normalizer=q.log_normalizer + cells - 0.5 * _over_time((e**2).sum(axis=2)))

    def tempered(self, c: Prepared, x: Data, inverse_temperature: Array | float) -> States:
        """The posterior with the same means and its covariances divided by ``inverse_temperature``."""
        return gaussian_chain.tempered(self.infer(c, x), inverse_temperature, self._dimensions(c, x))

    def draw(self, c: Prepared, x: Data, key: Array) -> States:
        """All probability on one path of the states of each sequence, drawn from the posterior."""
        q = self.infer(c, x)
        zero = jax.tree.map(jnp.zeros_like, (q.covariances, q.noise))
        return q._replace(means=gaussian_chain.draw(q, key), covariances=zero[0], noise=zero[1])

    def log_marginal(self, c: Prepared, x: Data) -> Array:
        """log p(y_n) of each sequence, (N,), by the Kalman filter.

        NaN for a sequence with a NaN within its length.
        """
        z, W, b, cells = self._white(c, x)
        return gaussian_chain_filter.run(c.dynamics, W, z, b).log_density + cells

    def _dimensions(self, c: Prepared, x: Data) -> Array:
        """The number of directions with noise of the first state and of each move, (T,)."""
        here = jnp.arange(values_of(x).shape[1]) == 0
        live = _live(c.at.initial_covariance, self.states), _live(c.at.process, self.shocks)
        return jnp.where(here, *live).astype(c.at.transition.dtype)

    def _moments(self, c: Prepared, q: States, x: Data) -> tuple[Moments | None, Moments, Moments]:
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

    def complete(self, c: Prepared, q: States, x: Data) -> Array:
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

    def entropy_rows(self, c: Prepared, q: States, x: Data) -> Array:
        """The sum over steps of the entropies of the first state and of the moves, (N,)."""
        return gaussian_chain.entropy(q, self._dimensions(c, x))

    def divergence_rows(self, q: States, p: States) -> Array:
        """KL(q || p) between two chains of states, (N,)."""
        live = lambda spec, size: jnp.asarray(_is_live(spec, size), q.means.dtype)
        first = live("full" if self.initial_pair is None else self.initial_pair[1], self.states)
        return gaussian_chain.divergence(q, p, live(self.process, self.shocks), first)

    def sums(self, c: Prepared | None, w: Array | None, q: States, x: Data) -> StateSpaceSums:
        """The expected sums of each equation, with sequence weights ``w (N,)``."""
        c = self._about_zero(x, q) if c is None else c
        first, moves, outputs = self._moments(c, q, x)
        n, u = q.means.shape[0], _given(x)
        counts = jnp.ones((n,), q.means.dtype) if w is None else w.astype(q.means.dtype)
        steps = jnp.where(q.inside, counts[:, None], 0)
        of_moves = equations.tally(moves, steps[:, 1:], None if self.state_inputs is None else u[:, 1:])
        of_first = None if first is None else equations.tally(first, counts, None)
        inputs = None if self.output_inputs is None else u
        if observed_of(x) is None:
            return StateSpaceSums(of_first, of_moves, equations.tally(outputs, steps, inputs, c.at.loadings))
        cells = jnp.where(self._parts(c, x)[1], counts[:, None, None], 0)
        return StateSpaceSums(of_first, of_moves, equations.tally_cells(outputs, cells, inputs, c.at.loadings))

    def _about_zero(self, x: Data, q: States) -> Prepared:
        """A context in which all coefficients are zero."""
        (d, k), dtype, p = (values_of(x).shape[2], self.states), q.means.dtype, 0
        p = _given(x).shape[2] if _given(x) is not None else 0
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
        return Prepared(params, Dynamics(params.transition, zero(k, self.shocks), zero(k), S), params.loadings, None)

    def _coefficients(self, params: StateSpaceParams) -> tuple[Any, Array, Array]:
        """The coefficients of the three equations: m, (A, B) of the states with noise, and (C, D)."""
        beside = lambda a, b: a if b is None else jnp.concatenate([a, b], axis=1)
        r = self.shocks
        moves = beside(params.transition, params.state_inputs)[:r]
        m = None if params.initial_mean is None else params.initial_mean[:, None]
        return m, moves, beside(params.loadings, params.output_inputs)

    def maximum(self, c: Prepared | None, sums: StateSpaceSums) -> StateSpaceParams:
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

    def expected(self, c: Prepared | None, params: StateSpaceParams, sums: StateSpaceSums) -> Array:
        """Q from the sums, up to a constant: that of each equation."""
        new = self._coefficients(params)
        zero = jax.tree.map(jnp.zeros_like, new)
        old = zero if c is None else self._coefficients(c.at)
        value = equations.expected(sums.moves, new[1] - old[1], params.process)
        value = value + equations.expected(sums.outputs, new[2] - old[2], params.noise)
        if sums.first is None:
            return value
        return value + equations.expected(sums.first, new[0] - old[0], params.initial_covariance)

    def degenerate(self, params: StateSpaceParams) -> Array:
        """Whether a covariance is no longer positive definite, or a variance of the observations is zero."""
        found = ~(params.noise > 0).all() if params.noise.ndim == 1 else jnp.asarray(False)
        for covariance in (params.noise, params.process, params.initial_covariance):
            if covariance is not None and covariance.ndim == 2:
                found = found | ~jnp.isfinite(matrices.cholesky(covariance)).all()
        return found

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood is constant: maps of the states that keep the pattern."""
        return redundant(self)[0]


def _space(base: Any, spec: Spec) -> Any:
    """The space of elements of ``base`` with a pattern."""
    return base if isinstance(spec, str) else Pattern(base, spec)


def _is_matrix(spec: Spec) -> bool:
    """Whether a covariance is a whole matrix, free or given."""
    return spec == "full" or (isinstance(spec, tuple) and isinstance(spec[0], tuple))


def _is_live(spec: Spec, size: int) -> np.ndarray:
    """Which directions have noise: those whose variance is not fixed at zero."""
    if isinstance(spec, str) or _is_matrix(spec):
        return np.ones(size, bool)
    return np.array([entry != 0 for entry in spec])


def _given(x: Data) -> Any:
    x = x.data if isinstance(x, Spread) else x
    return x.given if isinstance(x, Dataset) else None


def _root(covariance: Array) -> Array:
    """A root of a covariance, or the matrix of one of variances, which may be zero."""
    if covariance.ndim == 2:
        return matrices.cholesky(covariance)
    live = covariance > 0
    return jnp.diag(jnp.where(live, jnp.sqrt(jnp.where(live, covariance, 1)), covariance))


def _whiten(noise: Array, rows: Array, along_last: bool = False) -> Array:
    """R^-1/2 rows, for rows (D, k), or for (N, T, D) along the last axis."""
    if noise.ndim == 1:
        return rows / (lifted(jnp.sqrt(noise), rows.ndim) if along_last else jnp.sqrt(noise)[:, None])
    lower = matrices.cholesky(noise)
    return jnp.matmul(rows, matrices.inverse(lower).T) if along_last else matrices.solve_lower(lower, rows)


def _log_volume(noise: Array, d: int) -> Array:
    """log|2 pi R| / 2."""
    log = jnp.log(noise).sum() if noise.ndim == 1 else matrices.log_determinant(matrices.cholesky(noise))
    return 0.5 * (d * _LOG_2_PI + log)


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
        along = jnp.diagonal(root)
        return jnp.log(jnp.where(along == 0, 1, along)).sum()

    return jnp.stack([volume(d.S), volume(d.L)])


def _over_time(each: Array) -> Array:
    """The sum over steps, (N,), of (N, T): in pieces of about sqrt(T), so that rounding errors do not grow like T."""
    n, t = each.shape
    width = max(int(t**0.5), 1)
    each = jnp.pad(each, ((0, 0), (0, -t % width)))
    return each.reshape(n, -1, width).sum(axis=2).sum(axis=1)


def _identity(spec: Spec, size: int, dtype: Any) -> Array:
    """The identity, as a matrix or as variances."""
    return jnp.eye(size, dtype=dtype) if _is_matrix(spec) else jnp.ones((size,), dtype)


def _beside(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The pattern of two matrices side by side."""
    further = np.where(b[0] < 0, -1, b[0] + a[0].max(initial=-1) + 1)
    return np.concatenate([a[0], further], axis=1), np.concatenate([a[1], b[1]], axis=1)


def _numbered(index: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pattern with its free values numbered from 0 on."""
    numbers = {old: new for new, old in enumerate(dict.fromkeys(index[index >= 0].tolist()))}
    return np.vectorize(lambda old: numbers.get(old, -1), otypes=[int])(index), values


def _check(model: StateSpace) -> None:
    """Raise ``ValueError`` where the patterns do not fit each other."""
    k, r = model.states, model.shocks
    if r > k:
        raise ValueError(f"StateSpace: shocks must be at most the number of states, {k}; it is {r}")
    title = lambda name: f"StateSpace: {name}"

    def check_matrix(name: str, spec: Spec, *wanted: int | None) -> tuple[int, ...] | None:
        if spec is None or spec == "free":
            return None
        if isinstance(spec, str):
            raise ValueError(f"{title(name)} must be 'free' or a pattern; got {spec!r}")
        return shape_of(title(name), spec, wanted)

    def check_covariance(name: str, spec: Spec, size: int | None) -> None:
        if spec in ("full", "diagonal"):
            return
        if not isinstance(spec, tuple):
            raise ValueError(f"{title(name)} must be 'full', 'diagonal', variances or a matrix; got {spec!r}")
        if isinstance(spec[0], tuple):
            shape_of(title(name), spec, (size, size))
            if not is_fixed(spec):
                raise ValueError(f"{title(name)}: a matrix must be numbers; a list is a pattern of variances")
            return
        shape_of(title(name), spec, (size,))
        if any(isinstance(entry, float) and entry < 0 for entry in spec):
            raise ValueError(f"{title(name)}: variances must not be negative")

    for name in ("transition", "loadings"):
        if getattr(model, name) is None:
            raise ValueError(f"{title(name)} must be 'free' or a pattern; got None")
    check_matrix("transition", model.transition, k, k)
    outputs = check_matrix("loadings", model.loadings, None, k)
    d = None if outputs is None else outputs[0]
    check_matrix("state_inputs", model.state_inputs, k, None)
    check_matrix("output_inputs", model.output_inputs, d, None)
    check_covariance("process", model.process, r)
    check_covariance("noise", model.noise, d)
    if isinstance(model.noise, tuple) and not isinstance(model.noise[0], tuple) and 0.0 in model.noise:
        raise ValueError(
            "StateSpace: noise must have positive variances; give the state that is seen exactly a small one"
        )
    still = list(range(r, k)) + [i for i in range(r) if not _is_live(model.process, r)[i]]
    for name, spec in (("transition", model.transition), ("state_inputs", model.state_inputs)):
        if spec is not None and still and (spec == "free" or not all(is_fixed(spec[i]) for i in still)):
            raise ValueError(
                f"StateSpace: row {still[0]} of {name} must be numbers, because that state has no noise: the EM "
                "algorithm cannot estimate how it moves"
            )
    if model.initial not in ("free", "diffuse"):
        if not (isinstance(model.initial, tuple) and len(model.initial) == 2):
            raise ValueError("StateSpace: initial must be 'free', 'diffuse' or a pair (mean, covariance)")
        check_matrix("initial mean", model.initial[0], k)
        check_covariance("initial covariance", model.initial[1], k)
    if model.initial == "diffuse" and redundant(model)[1]:
        raise ValueError(
            "StateSpace: with a diffuse first state the scale of the states must be fixed, by loadings or by the "
            "covariance of their noise: otherwise the likelihood has no bound"
        )
