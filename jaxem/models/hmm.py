"""Hidden Markov models: a class that moves along a Markov chain, one observation at each step."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.constraints import Simplex
from jaxem.core.contexts import Apart, choose
from jaxem.core.conversion import admit, as_params, check_shapes
from jaxem.core.data import Data, Dataset, check_counts, counted, lengths_of, split_weights, total, values_of
from jaxem.core.dataset import as_data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows, weighted
from jaxem.core.trees import float_dtype, is_traced
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.latent import chain, scaled
from jaxem.latent.chain import Chain
from jaxem.latent.classes import expected, log_probability, log_times
from jaxem.models import observations
from jaxem.models.observations import real
from jaxem.models.starts import Start, blame, check_sound, is_sound, read_start, start_components


class HMMParams(NamedTuple):
    initial: Array  # (K,), sums to one
    transition: Array  # (K, K), from row to column; rows sum to one
    emissions: Any  # the family's own, for K states


class HMMSums(NamedTuple):
    initial: Array  # (K,), expected sequences that start in each state
    transition: Array  # (K, K), expected moves
    emissions: Any  # the family's own


@register
@dataclasses.dataclass(frozen=True)
class HMM(FromRows):
    r"""A hidden Markov model of ``k`` states with emissions of one family.

    .. math:: \text{E: } \gamma_t(i) = p(z_t = i \mid x),\;
              \xi_t(i, j) = p(z_t = i, z_{t+1} = j \mid x) \qquad
              \text{M: } \pi \propto \textstyle\sum_n \gamma_1,\;
              A_{ij} \propto \sum_{nt} \xi_t(i, j),\;
              \text{emissions under weights } \gamma_t(k)

    Data: one observation is one sequence. An array ``(N, T)`` or ``(N, T, D)``, or a list of sequences where lengths
    differ, with weights or without (see ``jaxem.dataset``); for one sequence x, ``x[None]``. q: a ``Chain``.
    An initial or transition probability that starts at exactly zero stays there, under every algorithm, and is not
    counted as free. ``parallel``: whether each sequence is cut into blocks that run side by side, at ``k`` times the
    arithmetic; ``None`` chooses by device and shape, the posterior is the same.

    Source: Baum, Petrie, Soules & Weiss (1970); Rabiner (1989); Särkkä & García-Fernández (2021).
    """

    family: Family
    k: int = dataclasses.field(metadata={"static": True})
    parallel: bool | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        observations.check_definition(self)
        if self.parallel not in (None, True, False):
            raise ValueError(f"HMM: parallel must be None, True or False; got {self.parallel!r}")

    @property
    def accurate(self) -> bool:
        """Whether log-densities are known to a few units in the last place: as the family says of its own."""
        return getattr(self.family, "accurate", False)

    def declare(self) -> HMMParams:
        initial, transition = Param.of(Simplex(), "K"), Param.of(Simplex(), "K K")
        return HMMParams(initial, transition, self.family.declare())  # pyright: ignore[reportArgumentType]

    def prepare(self, params: HMMParams, x: Data | None) -> HMMParams:
        """Initial and transition probabilities, and the family's context."""
        rows = 0 if x is None else math.prod(values_of(x).shape[:2])
        return params._replace(emissions=Apart(self.family.prepare(params.emissions, rows)))

    def _by_frames(self, of: Callable[..., Any], c: HMMParams, x: Array) -> Any:
        """What the family says, given its context, of all steps of all sequences ``x (N, T, ...)``, (N, T, ...)."""
        n, t = x.shape[:2]
        frames = _frames(real(x, c.initial.dtype))
        found = choose(c.emissions.context, lambda e: of(e, frames))
        return jax.tree.map(lambda leaf: leaf.reshape(n, t, *leaf.shape[1:]), found)

    def _log_b(self, c: HMMParams, x: Array) -> Array:
        """log p(x_t | z_t = k), (N, T, K)."""
        return self._by_frames(lambda e, x: self.family.log_density(e, x), c, x)

    def _inferred(self, of: Callable[..., Chain], c: HMMParams, x: Data, *more: Any) -> Chain:
        """A posterior of states, and of the family's own hidden variables."""
        values, lengths = _unpack(x)
        q = of(c.initial, c.transition, self._log_b(c, values), lengths, *more)
        return q._replace(hidden=self._hidden(c, values))

    def _hidden(self, c: HMMParams, x: Array) -> Any:
        return self._by_frames(lambda e, x: families.hidden(self.family, e, x), c, x)

    def infer(self, c: HMMParams, x: Data) -> Chain:
        """Forward-backward on each sequence."""
        values, lengths = _unpack(x)
        n, t = values.shape[:2]
        blocks = scaled.blocks(self.parallel, n, t, self.k)
        q = chain.posterior(c.initial, c.transition, lambda: self._log_b(c, values), lengths, blocks)
        return q._replace(hidden=self._hidden(c, values))

    def mode(self, c: HMMParams, x: Data) -> Chain:
        """The most probable path of each sequence (Viterbi)."""
        return self._inferred(chain.mode, c, x)

    def tempered(self, c: HMMParams, x: Data, inverse_temperature: Array | float) -> Chain:
        """Forward-backward on the powers of pi, A and b."""
        return self._inferred(chain.tempered, c, x, inverse_temperature)

    def draw(self, c: HMMParams, x: Data, key: Array) -> Chain:
        """One path of each sequence, drawn from p(z | x)."""
        return self._inferred(chain.draw, c, x, key)

    def log_marginal(self, c: HMMParams, x: Data) -> Array:
        """log p(x_n) of each sequence, (N,): the forward algorithm, written apart from the E-step.

        NaN for a sequence with a NaN within its length, -inf for one that is impossible.
        """
        values, lengths = _unpack(x)
        value = chain.log_likelihood(c.initial, c.transition, self._log_b(c, values), lengths)
        return jnp.where(_is_sequence(lengths, values), value, jnp.nan)

    def complete(self, c: HMMParams, q: Chain, x: Data) -> Array:
        """sum_k gamma_1 log pi + sum_ij xi_ij log A_ij + sum_tk gamma_tk E log p(x_t, u_t | k), (N,)."""
        values, _ = _unpack(x)
        u = jax.tree.map(_frames, q.hidden)
        log_b = self._by_frames(lambda e, x: families.complete(self.family, e, u, x), c, values)
        initial = expected(q.smoothed[:, 0], log_probability(c.initial)[None, :])
        transition = expected(chain.pair_counts_each(q), log_probability(c.transition)[None]).sum(axis=1)
        return initial + transition + expected(q.smoothed, log_b).sum(axis=1)

    def entropy_rows(self, c: HMMParams, q: Chain, x: Data) -> Array:
        """The entropy of the paths, and of the family's own hidden variables, (N,)."""
        paths = -chain.expected_log(q, q)
        if not families.has_hidden(self.family):
            return paths
        values, u = _unpack(x)[0], jax.tree.map(_frames, q.hidden)
        own = self._by_frames(lambda e, x: families.hidden_entropy(self.family, e, u, x), c, values)
        return paths + expected(q.smoothed, own).sum(axis=1)

    def divergence_rows(self, q: Chain, p: Chain) -> Array:
        """KL(q || p) between two chains, and of the family's own hidden variables given the states, (N,)."""
        of_paths = chain.expected_log(q, q) - chain.expected_log(q, p)
        if not families.has_hidden(self.family):
            return of_paths
        u, v = (jax.tree.map(_frames, each.hidden) for each in (q, p))
        own = families.hidden_divergence(self.family, u, v).reshape(q.smoothed.shape)
        return of_paths + expected(q.smoothed, own).sum(axis=1)

    def sums(self, c: HMMParams | None, w: Array | None, q: Chain, x: Data) -> HMMSums:
        """Expected starts, moves, and the family's sums."""
        values, _ = _unpack(x)
        gamma = weighted(q.smoothed, w)
        u, frames, r = jax.tree.map(_frames, q.hidden), _frames(real(values, gamma.dtype)), _frames(gamma)
        of_family = lambda e: self.family.statistics(e, r, u, frames)
        return HMMSums(
            gamma[:, 0].sum(axis=0),
            chain.pair_counts(q, None if w is None else w.astype(gamma.dtype)),
            of_family(None) if c is None else choose(c.emissions.context, of_family),
        )

    def maximum(self, c: HMMParams | None, sums: HMMSums) -> HMMParams:
        """Starts and moves as shares of their expected numbers, and the family's maximiser."""
        initial, moves, emissions = sums
        left = moves.sum(axis=1, keepdims=True)
        # From a state that is only ever the last one no move is seen: any row is as good, the old one the best.
        old = 1 / self.k if c is None else c.transition
        transition = jnp.where(left == 0, old, moves / jnp.where(left == 0, 1, left))
        return HMMParams(
            initial / initial.sum(), transition, self.family.maximize(c and c.emissions.context, emissions)
        )

    def expected(self, c: HMMParams, params: HMMParams, sums: HMMSums) -> Array:
        """Q from the sums: expected starts and moves times their logs, and the family's; up to a constant."""
        starts = log_times(sums.initial, params.initial).sum()
        moves = log_times(sums.transition, params.transition).sum()
        return starts + moves + self.family.expected(c.emissions.context, params.emissions, sums.emissions)

    def log_prior(self, params: HMMParams) -> Array | float:
        """The family's; flat on the initial and transition probabilities."""
        return families.log_prior(self.family, params.emissions)

    def degenerate(self, params: HMMParams) -> Array:
        """Whether a state can no longer be entered, or its emissions have collapsed."""
        others = params.transition * (1 - jnp.eye(self.k, dtype=params.transition.dtype))
        entered = jnp.maximum(others.max(axis=0), params.initial)
        empty = (entered < jnp.finfo(entered.dtype).eps ** 2).any()
        return empty | families.degenerate(self.family, params.emissions)

    def coincide(self, params: HMMParams) -> Array:
        """Whether every class is the same as another: then EM cannot part them."""
        return families.coincide(self.family, params.emissions)

    def permute(self, params: HMMParams, order: Array) -> HMMParams:
        """The same model, in which state ``order[k]`` is called k."""
        return parameters.permuted(self.declare(), params, order)

    def label_keys(self, params: HMMParams) -> Array:
        """What states are sorted by, (K, F): where the emissions of each lie."""
        return parameters.locations(self.declare(), params)

    def init(self, key: Array, data: Data, start: Start = "kmeans++") -> HMMParams:
        """A start: emissions as in a mixture of the single observations (``Mixture.init``), states that rather stay.

        ``start``: as there, or given states (N, T), or their probabilities (N, T, K).
        """
        prng_key("HMM.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self._check_values(data)
        name, given = read_start(start, self.k, values_of(data).shape[:2], float_dtype(data))
        params, sound = _init(self, key, data, given, name)
        check_sound(sound, self, data)
        return params

    def diagnose(self, data: Data) -> None:
        """Raise ``ValueError`` where no start can be made from the data, with what to do."""
        blame(self.family, *_observed(data))

    def predict(self, params: HMMParams, data: Data) -> Array:
        """The most probable path of each sequence (Viterbi), (N, T).

        -1 behind its end, and all along a sequence that has no path: one with a NaN, or that is impossible.
        """
        params, data = admit(self, params, data)
        return _predict(self, params, split_weights(data)[0])

    def predict_proba(self, params: HMMParams, data: Data) -> Array:
        """p(z_t = k | x) at each step, (N, T, K).

        Zero behind a sequence's end; NaN all along a sequence with a NaN, or that is impossible.
        """
        params, data = admit(self, params, data)
        return _predict_proba(self, params, split_weights(data)[0])

    def sample(self, key: Array, params: HMMParams, n: int, length: int = 100) -> Array:
        """``n`` sequences of ``length`` observations."""
        return self.sample_joint(key, params, n, length)[1]

    def sample_joint(self, key: Array, params: HMMParams, n: int, length: int = 100) -> tuple[Array, Array]:
        """The state paths (n, length) and their observations (n, length, ...)."""
        prng_key("HMM.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        n, length = whole_number("HMM.sample: n", n, 0), whole_number("HMM.sample: length", length, 1)
        first_key, path_key, x_key = jax.random.split(key, 3)
        first = jax.random.categorical(first_key, jnp.log(params.initial), shape=(n,))
        log_A = jnp.log(params.transition)

        def step(state: Array, key: Array) -> tuple[Array, Array]:
            state = jax.random.categorical(key, log_A[state])
            return state, state

        _, rest = jax.lax.scan(step, first, jax.random.split(path_key, length)[1:])
        states = jnp.concatenate([first[None], rest]).T
        x = self.family.sample(x_key, params.emissions, states.reshape(-1))
        return states, x.reshape(n, length, *x.shape[1:])

    def sample_like(self, key: Array, params: HMMParams, data: Data) -> Data:
        """As many sequences as in ``data``, of their lengths; weights are left out."""
        data = as_data(data)
        check_shapes(self, None, data)
        x, lengths = values_of(data), lengths_of(data)
        drawn = self.sample(key, params, *x.shape[:2])
        return drawn if lengths is None else Dataset(drawn, lengths=lengths)

    def sample_size(self, data: Data) -> Array:
        """The number of single observations (all steps of all sequences), weights counted."""
        data = as_data(data)
        sequences, weights = counted(data)
        x, lengths = _unpack(sequences)
        return total(lengths.astype(float_dtype(x)), weights)

    def check_shapes(self, params: HMMParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters and data (or of one alone) do not fit the model."""
        x = None if data is None else observations.values_of(self, data, "lengths")
        if x is not None:
            observations.check_shape(self, x, ("N", "T"))
        if params is not None:
            observations.check_params(self, params, x, 2)

    def validate(self, params: HMMParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self._check_values(data)

    def _check_values(self, data: Data) -> None:
        check_counts(data)
        x, observed = _observed(data)
        observations.check_enough(self, int(observed.sum()))
        observations.check_support(self.family, x, observed)

    def allows(self, params: HMMParams, data: Data) -> Array:
        """Whether every observation that counts is possible, for values that are traced."""
        return observations.supported(self.family, *_observed(data)).all()


def _observed(data: Data) -> tuple[Array, Array]:
    """All steps of all sequences (N T, ...), and which of them lie within a sequence that counts, (N T,)."""
    x, lengths, weights = values_of(data), lengths_of(data), split_weights(data)[1]
    n, t = x.shape[:2]
    observed = jnp.ones((n, t), bool) if lengths is None else chain.within(lengths, t)
    if weights is not None:
        observed = observed & (weights != 0)[:, None]
    return x.reshape(n * t, *x.shape[2:]), observed.reshape(-1)


@program
def _predict(model: HMM, params: HMMParams, sequences: Data) -> Array:
    x, lengths = _unpack(sequences)

    def of(c: HMMParams) -> Array:
        return chain.viterbi(c.initial, c.transition, model._log_b(c, x), lengths)

    path = choose(model.prepare(params, x), of)
    return jnp.where(_is_sequence(lengths, x)[:, None], path, -1)


@program
def _predict_proba(model: HMM, params: HMMParams, sequences: Data) -> Array:
    x, lengths = _unpack(sequences)
    q = model.e_step(params, sequences)
    known = jnp.isfinite(q.log_normalizer) & _is_sequence(lengths, x)
    unknown = chain.within(lengths, x.shape[1]) & ~known[:, None]
    return jnp.where(unknown[:, :, None], jnp.nan, q.smoothed)


def _is_sequence(lengths: Array, x: Array) -> Array:
    """(N,), whether lengths that were traced are any."""
    return (lengths >= 1) & (lengths <= x.shape[1])


def _unpack(sequences: Data) -> tuple[Array, Array]:
    """Values (N, T, ...) and lengths (N,). Padding is replaced by the sequence's first observation, so that it can do
    no harm: whatever it holds, its density is finite, and it has no weight."""
    x, lengths = values_of(sequences), lengths_of(sequences)
    if lengths is None:
        return x, jnp.full((x.shape[0],), x.shape[1])
    inside = chain.within(lengths, x.shape[1])
    return jnp.where(inside.reshape(*inside.shape, *(1,) * (x.ndim - 2)), x, x[:, :1]), lengths


def _frames(x: Array) -> Array:
    """The steps of all sequences (N, T, ...) one after the other, (N T, ...)."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


@program(quick="few numbers", static_argnames=("start",))
def _init(model: HMM, key: Array, data: Data, given: Array | None, start: str) -> tuple[HMMParams, Array]:
    sequences, weights = counted(data)
    x, lengths = _unpack(sequences)
    dtype = float_dtype(x)
    x = real(x, dtype)
    counts = chain.within(lengths, x.shape[1]).astype(dtype)
    if weights is not None:
        counts = counts * weights.astype(dtype)[:, None]
    frames = _frames(x)
    given = None if given is None else _frames(given)
    of_frames = start_components(key, model.family, frames, counts.reshape(-1), model.k, start, given, dtype)
    size, emissions = of_frames
    stay = jnp.eye(model.k, dtype=dtype)
    return HMMParams(size, 0.5 * stay + 0.5 * size[None, :], emissions), is_sound(model.family, emissions, frames)
