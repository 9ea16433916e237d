"""Autoregressions about a mean that switches with a Markov chain."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices, parameters
from jaxem.core.checks import instance, prng_key, whole_field
from jaxem.core.compilation import program
from jaxem.core.conversion import admit, as_params, check_shapes, names_of
from jaxem.core.data import (
    Data,
    check_counts,
    counted,
    lengths_of,
    observed_of,
    split_weights,
    total,
    values_of,
    with_values,
)
from jaxem.core.dataset import as_data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows, weighted
from jaxem.core.sizes import of_rows
from jaxem.core.spaces import Positive, Real
from jaxem.core.trees import float_dtype, is_traced, relative_change
from jaxem.families.normal import Normal
from jaxem.gates import Constant, Stationary
from jaxem.gates.stationary import distribution
from jaxem.gates.transitions import Free
from jaxem.latent import chain, scaled
from jaxem.latent.chain import Chain
from jaxem.latent.classes import expected, log_probability
from jaxem.models import observations
from jaxem.models.observations import real
from jaxem.models.sequences import is_sequence, shape, unpack
from jaxem.models.starts import Start, start_components

_MOVES = Free(None)
_MOST = 1000  # rounds of the M-step; each shrinks the error by a factor


class SwitchingParams(NamedTuple):
    """The parameters of ``SwitchingAutoregression``."""

    initial: Any  # (K,), or () where the first regime follows the stationary distribution
    transition: Array  # (K, K), from row to column; rows sum to one
    means: Array  # (K,)
    coefficients: Array  # (P,), of the deviations 1, ..., P steps before
    variances: Array  # (), or (K,) where the variance switches too


class Prepared(NamedTuple):
    at: SwitchingParams
    pi: Array  # (K^(P+1),), of the regimes of the first P + 1 steps
    A: Array  # (K^(P+1), K^(P+1))
    means: Array  # (K^(P+1), P + 1), the mean of each of the last P + 1 steps, the latest first


class SwitchingSums(NamedTuple):
    initial: Array  # (K,), expected number of sequences that start in each regime
    transition: Array  # (K, K), expected number of moves
    sizes: Array  # (K^(P+1),), expected number of windows with these regimes
    first: Array  # (K^(P+1), P + 1), sums of windows less the centre
    second: Array  # (1 or K, P + 1, P + 1), of their products, by the variance of the latest step


@register
@dataclasses.dataclass(frozen=True)
class SwitchingAutoregression(FromRows):
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
        return SwitchingParams(self.initial.declare(), _MOVES.declare(), means, coefficients, variances)  # pyright: ignore[reportArgumentType]

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
        a = _filter(c.at.coefficients)
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
        value = chain.log_likelihood(c.pi, c.A, self._log_b(c, windows), lengths)
        return jnp.where(is_sequence(lengths + self.order, values_of(x)), value, jnp.nan)

    def complete(self, c: Prepared, q: Chain, x: Data) -> Array:
        """sum_c gamma_1 log pi + sum_cd xi_cd log A_cd + sum_tc gamma_tc log p(x_t | c), (N,)."""
        windows, _ = self._windows(x, c.means.dtype)
        starts = expected(q.smoothed[:, 0], log_probability(c.pi)[None, :])
        moves = chain.expected_log_moves(q, log_probability(c.A))
        return starts + moves + expected(q.smoothed, self._log_b(c, windows)).sum(axis=1)

    def entropy_rows(self, c: Prepared, q: Chain, x: Data) -> Array:
        """The entropy of the paths, (N,)."""
        return -chain.expected_log(q, q)

    def divergence_rows(self, q: Chain, p: Chain) -> Array:
        """KL(q || p) between two chains, (N,)."""
        return chain.expected_log(q, q) - chain.expected_log(q, p)

    def sums(self, c: Prepared | None, w: Array | None, q: Chain, x: Data) -> SwitchingSums:
        """Expected numbers of starts and moves, and moments of the windows about the mean of the regimes' means."""
        gamma, z, k = weighted(q.smoothed, w), self.tuples, self.k
        windows, _ = self._windows(x, gamma.dtype)
        u = (windows - (0 if c is None else c.at.means.mean())).reshape(-1, self.order + 1)
        r = gamma.reshape(-1, len(z))
        latest = jnp.asarray(np.eye(k)[z[:, 0]], r.dtype)  # (k^(p+1), K)
        groups = r @ latest if self.variance == "switching" else r.sum(axis=1, keepdims=True)
        first = gamma[:, 0].sum(axis=0)
        pairs = chain.pair_counts(q, None if w is None else w.astype(gamma.dtype))
        moves = latest.T @ pairs @ latest
        for j in range(self.order, 0, -1):
            moves = moves.at[z[:, j], z[:, j - 1]].add(first)
        starts = jnp.zeros((k,), r.dtype).at[z[:, -1]].add(first)
        second = jnp.einsum("ng,na,nb->gab", groups, u, u, optimize="optimal")
        return SwitchingSums(starts, moves, r.sum(axis=0), r.T @ u, second)

    def maximum(self, c: Prepared | None, sums: SwitchingSums) -> SwitchingParams:
        """The maximiser of the moves, and in turn those of coefficients, means and variances until nothing moves."""
        A = None if c is None else c.at.transition
        if isinstance(self.initial, Stationary):
            initial, transition = (), self.initial.maximize_moves(_MOVES, A, sums.initial, sums.transition)
        else:
            initial = self.initial.maximize(None, sums.initial)
            transition = _MOVES.maximize(A, sums.transition)
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

    def _round(self, sums: SwitchingSums, means: Array, coefficients: Array, variances: Array) -> tuple[Array, ...]:
        """Each of the three maximised given the others, with means less the centre."""
        z, n = self.tuples, sums.sizes
        v = jnp.broadcast_to(variances, (sums.second.shape[0],))
        scatter = self._scatter(sums, means)
        whole = (scatter / v[:, None, None]).sum(axis=0)
        factor = matrices.cholesky(whole[1:, 1:])
        a = _filter(matrices.solve(factor, whole[1:, :1])[:, 0])
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

    def _sizes(self, n: Array) -> Array:
        """The expected number of steps of each variance, (1 or K,)."""
        return n.reshape(self.k, -1).sum(axis=1) if self.variance == "switching" else n.sum()[None]

    def _scatter(self, sums: SwitchingSums, means: Array) -> Array:
        """sum_c sum_n r_nc (u_n - m_c)(u_n - m_c)', by the variance of the latest step, (1 or K, P + 1, P + 1)."""
        m = means[self.tuples]
        cross = sums.first[:, :, None] * m[:, None, :]
        each = sums.sizes[:, None, None] * m[:, :, None] * m[:, None, :] - cross - jnp.swapaxes(cross, 1, 2)
        groups = sums.second.shape[0]
        return sums.second + each.reshape(groups, -1, *each.shape[1:]).sum(axis=1)

    def expected(self, c: Prepared, params: SwitchingParams, sums: SwitchingSums) -> Array:
        """Q from the sums, up to a constant."""
        gate = self.initial.prepare(self._first(params), None)
        starts = self.initial.expected(gate, self._first(params), sums.initial)
        moves = _MOVES.expected(params.transition, params.transition, sums.transition)
        a = _filter(params.coefficients)
        scatter = self._scatter(sums, params.means - c.at.means.mean())
        squares = jnp.einsum("gab,a,b->g", scatter, a, a)
        v = jnp.broadcast_to(params.variances, squares.shape)
        return starts + moves - 0.5 * (self._sizes(sums.sizes) * jnp.log(v) + squares / v).sum()

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

    def init(self, key: Array, data: Data, start: Start = "kmeans++") -> SwitchingParams:
        """Parameters to start a fit from: means of a mixture's start, and a least-squares autoregression about them.

        Arguments:
            key: a random key.
            data: N sequences (N, T), with or without weights.
            start: as for ``Mixture.init``, for the single values.

        Returns:
            A ``SwitchingParams``; regimes tend to stay, with probability (1 + 1 / K) / 2.

        Raises:
            ValueError: as for ``HMM.init``.
        """
        prng_key("SwitchingAutoregression.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self.check_values(data)
        return _init(self, key, data, start)

    def predict_proba(self, params: Any, data: Data) -> Array:
        """The posterior probability of each regime at each step, p(z_t = k | x), given the whole sequence.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences (N, T). Weights are ignored.

        Returns:
            Probabilities (N, T, K), the first p steps included; zero after the end of a sequence.

        Raises:
            ValueError: parameters, data and model do not fit each other.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _predict_proba(self, params, x), data)

    def sample_like(self, key: Array, params: Any, data: Data) -> Data:
        """As many sequences as ``data`` hold, with the same lengths and the same first p values.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            data: N sequences, of which the shape, the lengths and the first p values are used.

        Returns:
            Values (N, T), or a ``Dataset`` where ``data`` have lengths. Weights are left out.

        Raises:
            ValueError: the data or the parameters do not fit the model.
        """
        data = as_data(data, like=names_of(params), trust="nothing")
        check_shapes(self, None, data)
        params, x = as_params(self, params), split_weights(data)[0]
        return with_values(x, _sample(self, key, params, values_of(x)))

    def sample_size(self, data: Data) -> Array:
        """The number of single observations that are modelled, (): without the first p of each sequence."""
        sequences, weights = counted(as_data(data))
        x, lengths = unpack(sequences)
        return total((lengths - self.order).astype(float_dtype(x)), weights)

    def check_shapes(self, params: Any | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        if data is not None and values_of(data).ndim > 1 and values_of(data).shape[1] <= self.order:
            raise ValueError(f"SwitchingAutoregression of order {self.order} needs more than {self.order} steps")
        if data is not None and observed_of(data) is not None:
            raise ValueError("SwitchingAutoregression cannot use missing steps, for later ones depend on them")
        observations.check(self, params, data, ("N", "T"), *self.takes, lengths={"P": self.order})

    def validate(self, params: Any, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def check_values(self, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, lengths = split_weights(data)[0], lengths_of(data)
        if lengths is not None and not is_traced(lengths) and bool((lengths <= self.order).any()):
            raise ValueError(
                f"SwitchingAutoregression of order {self.order}: a sequence has no more than that many steps"
            )
        steps, own = unpack(x)
        observations.check_enough(self, int((own - self.order).sum()))
        observations.check_support(self.family, real(steps, float_dtype(x)).reshape(-1), None)

    def allows(self, params: Any, data: Data) -> Array:
        """Whether all values are finite, (); for traced values."""
        x, weights = split_weights(data)
        steps, lengths = unpack(x)
        good = jnp.isfinite(real(steps, jnp.result_type(float))).all(axis=1) & (lengths > self.order)
        return (good if weights is None else good | (weights == 0)).all()


def _filter(coefficients: Array) -> Array:
    """(1, -phi_1, ..., -phi_p): what the deviations of a window are multiplied by to give the error."""
    return jnp.concatenate([jnp.ones((1,), coefficients.dtype), -coefficients])


@program(quick="few numbers", static_argnames=("start",))
def _init(model: SwitchingAutoregression, key: Array, data: Data, start: str) -> SwitchingParams:
    sequences, weights = counted(data)
    dtype = float_dtype(sequences)
    windows, lengths = model._windows(sequences, dtype)
    k, inside = model.k, chain.within(lengths, windows.shape[1]).astype(dtype)
    w = inside if weights is None else inside * weights.astype(dtype)[:, None]
    y, w = windows.reshape(-1, model.order + 1), w.reshape(-1)
    centre = (w @ y).sum() / (w.sum() * y.shape[1])
    share, of_values = start_components(key, model.family, y[:, 0], w, k, start, None, dtype, None)
    means = of_values.means
    # About the overall mean: with regimes that are far apart, this is a start and no more.
    u = y - centre
    gram = jnp.matmul(u.T * w[None, :], u)
    ridge = float(jnp.finfo(dtype).eps) ** 0.5 * jnp.trace(gram) * jnp.eye(model.order, dtype=dtype)
    phi = matrices.solve(matrices.cholesky(gram[1:, 1:] + ridge), gram[1:, :1])[:, 0] / 2
    a = _filter(phi)
    variances = jnp.full((k,) if model.variance == "switching" else (), a @ gram @ a / w.sum(), dtype)
    transition = _MOVES.start(share, None)
    return SwitchingParams(model.initial.start(share, None), transition, means, phi, variances)


@program
def _predict_proba(model: SwitchingAutoregression, params: SwitchingParams, x: Data) -> Array:
    q, z = model.e_step(params, x), model.tuples
    t = shape(x)[1]
    latest = jnp.asarray(np.eye(model.k)[z], q.smoothed.dtype)  # (k^(p+1), p + 1, K)
    first = jnp.einsum("nc,cjk->njk", q.smoothed[:, 0], latest[:, :0:-1])
    found = jnp.concatenate([first, q.smoothed @ latest[:, 0]], axis=1)
    values, lengths = unpack(x)
    known = jnp.isfinite(q.log_normalizer) & is_sequence(lengths, values)
    unknown = chain.within(lengths, t) & ~known[:, None]
    return jnp.where(unknown[:, :, None], jnp.nan, found)


@program
def _sample(model: SwitchingAutoregression, key: Array, params: SwitchingParams, values: Array) -> Array:
    first_key, path_key, noise_key = jax.random.split(key, 3)
    n, t = values.shape
    p, dtype = model.order, params.means.dtype
    z0 = jax.random.categorical(first_key, jnp.log(model._first(params)), shape=(n,))
    log_A = jnp.log(params.transition)

    def move(z: Array, key: Array) -> tuple[Array, Array]:
        z = jax.random.categorical(key, log_A[z])
        return z, z

    rest = jax.lax.scan(move, z0, jax.random.split(path_key, t - 1))[1]
    z = jnp.concatenate([z0[None], rest])  # (T, N)
    variances = jnp.broadcast_to(params.variances, (model.k,))
    noise = jnp.sqrt(variances[z]) * jax.random.normal(noise_key, (t, n), dtype)
    means = params.means[z]
    start = values[:, :p].T.astype(dtype) - means[:p]

    def step(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        m, e = now
        deviation = params.coefficients @ before[::-1] + e
        return jnp.concatenate([before[1:], deviation[None]]), m + deviation

    _, x = jax.lax.scan(step, start, (means[p:], noise[p:]))
    return jnp.concatenate([values[:, :p].astype(dtype), x.T], axis=1)
