"""Hidden Markov models: a class that moves along a Markov chain, one observation at each step."""

import dataclasses
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.constraints import Simplex
from jaxem.core.conversion import admit, as_data, as_params, check_shapes
from jaxem.core.data import Data, Sequences, check_counts, counted, split_lengths, split_weights, total
from jaxem.core.discrete import expected, log_probability, log_times
from jaxem.core.records import register
from jaxem.core.trees import float_dtype, is_traced
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.models import chain, observations, scaled
from jaxem.models.chain import Chain
from jaxem.models.observations import real
from jaxem.models.starts import Start, blame, check_sound, check_start, is_sound, start_components


class HMMParams(NamedTuple):
    initial: Array  # (K,), sums to one
    transition: Array  # (K, K), from row to column; rows sum to one
    emissions: Any  # the family's own, for K states


class HMMStatistics(NamedTuple):
    initial: Array  # (K,), expected sequences that start in each state
    transition: Array  # (K, K), expected moves
    emissions: Any  # the family's own


@register
@dataclasses.dataclass(frozen=True)
class HMM:
    r"""A hidden Markov model of ``k`` states with emissions of one family.

    .. math:: \text{E: } \gamma_t(i) = p(z_t = i \mid x),\;
              \xi_t(i, j) = p(z_t = i, z_{t+1} = j \mid x) \qquad
              \text{M: } \pi \propto \textstyle\sum_n \gamma_1,\;
              A_{ij} \propto \sum_{nt} \xi_t(i, j),\;
              \text{emissions under weights } \gamma_t(k)

    Data: one observation is one sequence. An array ``(N, T)`` or ``(N, T, D)``, ``Sequences`` where lengths differ
    (see ``jaxem.pad_sequences``), or ``Weighted`` of either; for one sequence x, ``x[None]``. q: a ``Chain``.
    An initial or transition probability that starts at exactly zero stays there, under every algorithm, and is not
    counted as free. ``unmoved (K, K)``: the transitions of a state that no sequence
    leaves, for which any are as good; set by ``anchor`` to what they were. ``parallel``: whether each sequence is cut
    into blocks that run side by side, at ``k`` times the arithmetic; ``None`` chooses by device and shape, the
    posterior is the same. Baum, Petrie, Soules & Weiss (1970); Rabiner (1989); Särkkä & García-Fernández (2021).
    """

    family: Family
    k: int = dataclasses.field(metadata={"static": True})
    unmoved: Array | None = None
    parallel: bool | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        observations.check_definition(self)
        if self.parallel not in (None, True, False):
            raise ValueError(f"HMM: parallel must be None, True or False; got {self.parallel!r}")

    @property
    def accurate(self) -> bool:
        """Whether log-densities are known to a few units in the last place: as the family says of its own."""
        return getattr(self.family, "accurate", False)

    @property
    def constraints(self) -> HMMParams:
        return HMMParams(Simplex(), Simplex(), self.family.constraints)  # pyright: ignore[reportArgumentType]

    def _log_b(self, params: HMMParams, x: Array) -> Array:
        """log p(x_t | z_t = k), (N, T, K)."""
        n, t = x.shape[:2]
        frames = real(x.reshape(n * t, *x.shape[2:]), params.initial.dtype)
        return self.family.log_density(params.emissions, frames).reshape(n, t, -1)

    def e_step(self, params: HMMParams, data: Data) -> Chain:
        """Forward-backward on each sequence."""
        x, lengths, _ = _unpack(data)
        n, t = x.shape[:2]
        blocks = scaled.blocks(self.parallel, n, t, self.k)
        return chain.posterior(params.initial, params.transition, lambda: self._log_b(params, x), lengths, blocks)

    def c_step(self, params: HMMParams, data: Data) -> Chain:
        """The most probable path of each sequence (Viterbi)."""
        x, lengths, _ = _unpack(data)
        given = params.initial, params.transition, self._log_b(params, x), lengths
        return chain.certain(chain.viterbi(*given), self.k, chain.log_likelihood(*given))

    def tempered_e_step(self, params: HMMParams, data: Data, inverse_temperature: Array | float) -> Chain:
        """Forward-backward on the powers of pi, A and b."""
        x, lengths, _ = _unpack(data)
        return chain.tempered(params.initial, params.transition, self._log_b(params, x), lengths, inverse_temperature)

    def sample_posterior(self, key: Array, params: HMMParams, data: Data) -> Chain:
        """One path of each sequence, drawn from p(z | x)."""
        x, lengths, _ = _unpack(data)
        return chain.draw(key, params.initial, params.transition, self._log_b(params, x), lengths)

    def q_function(self, params: HMMParams, q: Chain, data: Data) -> Array:
        """sum gamma_1 log pi + sum xi log A + sum gamma log b."""
        x, _, weights = _unpack(data)
        initial = expected(q.smoothed[:, 0], log_probability(params.initial)[None, :])
        transition = expected(chain.pair_counts_each(q), log_probability(params.transition)[None]).sum(axis=1)
        emissions = expected(q.smoothed, self._log_b(params, x)).sum(axis=1)
        return total(initial + transition + emissions, weights)

    def entropy(self, q: Chain, data: Data) -> Array:
        """-E_q log q of the paths of all sequences."""
        _, _, weights = _unpack(data)
        return -total(chain.expected_log(q, q), weights)

    def divergence(self, q: Chain, p: Chain, data: Data) -> Array:
        """KL(q || p) between two distributions over paths."""
        _, _, weights = _unpack(data)
        return total(chain.expected_log(q, q) - chain.expected_log(q, p), weights)

    def log_normalizer(self, q: Chain, data: Data) -> Array:
        """log p(x | params) as the scaled filter met it."""
        return total(q.log_normalizer, _unpack(data)[2])

    def log_prob(self, params: HMMParams, data: Data) -> Array:
        """log p(x_n | params) of each sequence, (N,): the forward algorithm, written apart from the E-step.

        NaN for a sequence with a NaN within its length, -inf for one that is impossible.
        """
        params, data = admit(self, params, data)
        return _log_prob(self, params, split_weights(data)[0])

    def log_likelihood(self, params: HMMParams, data: Data) -> Array:
        """log p(x | params), the (weighted) sum of ``log_prob``."""
        params, data = admit(self, params, data)
        sequences, weights = counted(data)
        return total(_log_prob(self, params, sequences), weights)

    def statistics(self, q: Chain, data: Data) -> HMMStatistics:
        """Expected starts, moves, and the family's sums."""
        x, _, weights = _unpack(data)
        gamma = q.smoothed
        if weights is not None:
            weights = weights.astype(gamma.dtype)
            gamma = gamma * weights[:, None, None]
        n, t = x.shape[:2]
        frames = real(x.reshape(n * t, *x.shape[2:]), gamma.dtype)
        return HMMStatistics(
            gamma[:, 0].sum(axis=0),
            chain.pair_counts(q, weights),
            self.family.statistics(gamma.reshape(n * t, -1), frames),
        )

    def expected_log_joint(self, params: HMMParams, statistics: HMMStatistics) -> Array:
        """Q from the sums: expected starts and moves times their logs, and the family's; up to a constant."""
        starts = log_times(statistics.initial, params.initial).sum()
        moves = log_times(statistics.transition, params.transition).sum()
        return starts + moves + self.family.expected(params.emissions, statistics.emissions)

    def maximize(self, statistics: HMMStatistics) -> HMMParams:
        initial, moves, emissions = statistics
        left = moves.sum(axis=1, keepdims=True)
        # From a state that is only ever the last one no move is seen: any row is as good, the old one the best.
        unmoved = 1 / self.k if self.unmoved is None else self.unmoved
        transition = jnp.where(left == 0, unmoved, moves / jnp.where(left == 0, 1, left))
        return HMMParams(initial / initial.sum(), transition, self.family.maximize(emissions))

    def m_step(self, q: Chain, data: Data) -> HMMParams:
        """Starts and moves as shares of their expected numbers, and the family's maximiser."""
        return self.maximize(self.statistics(q, data))

    def log_prior(self, params: HMMParams) -> Array | float:
        """The family's; flat on the initial and transition probabilities."""
        return families.log_prior(self.family, params.emissions)

    def anchor(self, params: HMMParams) -> Self:
        """The same model, its statistics taken about ``params``."""
        family = families.anchor(self.family, params.emissions)
        return dataclasses.replace(self, family=family, unmoved=params.transition)

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
        transition = params.transition[order][:, order]
        return HMMParams(params.initial[order], transition, families.permute(self.family, params.emissions, order))

    def label_keys(self, params: HMMParams) -> Array:
        """What states are sorted by, (K, F): where the emissions of each lie."""
        return families.label_keys(self.family, params.emissions, self.k)

    def init(self, key: Array, data: Data, start: Start = "kmeans++") -> HMMParams:
        """A random start: emissions as in a mixture of the single observations, states that rather stay."""
        prng_key("HMM.init", key)
        check_start(start)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self._check_values(data)
        params, sound = _init(self, key, data, start)
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
        x, lengths = split_lengths(split_weights(data)[0])
        drawn = self.sample(key, params, *x.shape[:2])
        return drawn if lengths is None else Sequences(drawn, lengths)

    def sample_size(self, data: Data) -> Array:
        """The number of single observations (all steps of all sequences), weights counted."""
        data = as_data(data)
        x, lengths, weights = _unpack(data)
        return total(lengths.astype(float_dtype(x)), weights)

    def check_shapes(self, params: HMMParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters and data (or of one alone) do not fit the model."""
        x = None if data is None else observations.values_of(self, data)
        if x is not None:
            observations.check_shape(self, x, ("N", "T"))
        if params is not None:
            title = f"HMM with k = {self.k}"
            observations.check_leaf(title, "initial", params.initial, (self.k,))
            observations.check_leaf(title, "transition", params.transition, (self.k, self.k))
            observations.check_classes(self, "emissions", params.emissions, x, 2)

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
    sequences, weights = split_weights(data)
    x, lengths = split_lengths(sequences)
    n, t = x.shape[:2]
    observed = jnp.ones((n, t), bool) if lengths is None else chain.within(lengths, t)
    if weights is not None:
        observed = observed & (weights != 0)[:, None]
    return x.reshape(n * t, *x.shape[2:]), observed.reshape(-1)


@program
def _log_prob(model: HMM, params: HMMParams, sequences: Data) -> Array:
    x, lengths, _ = _unpack(sequences)
    value = chain.log_likelihood(params.initial, params.transition, model._log_b(params, x), lengths)
    return jnp.where(_is_sequence(lengths, x), value, jnp.nan)


@program
def _predict(model: HMM, params: HMMParams, sequences: Data) -> Array:
    x, lengths, _ = _unpack(sequences)
    path = chain.viterbi(params.initial, params.transition, model._log_b(params, x), lengths)
    return jnp.where(_is_sequence(lengths, x)[:, None], path, -1)


@program
def _predict_proba(model: HMM, params: HMMParams, sequences: Data) -> Array:
    x, lengths, _ = _unpack(sequences)
    q = model.e_step(params, sequences)
    known = jnp.isfinite(q.log_normalizer) & _is_sequence(lengths, x)
    unknown = chain.within(lengths, x.shape[1]) & ~known[:, None]
    return jnp.where(unknown[:, :, None], jnp.nan, q.smoothed)


def _is_sequence(lengths: Array, x: Array) -> Array:
    """(N,), whether lengths that were traced are any."""
    return (lengths >= 1) & (lengths <= x.shape[1])


def _unpack(data: Data) -> tuple[Array, Array, Array | None]:
    """Values (N, T, ...), lengths (N,), weights. Padding is replaced by the sequence's first observation, so that it
    can do no harm: whatever it holds, its density is finite, and it has no weight."""
    sequences, weights = counted(data)
    x, lengths = split_lengths(sequences)
    if lengths is None:
        return x, jnp.full((x.shape[0],), x.shape[1]), weights
    inside = chain.within(lengths, x.shape[1])
    return jnp.where(inside.reshape(*inside.shape, *(1,) * (x.ndim - 2)), x, x[:, :1]), lengths, weights


@program(quick="few numbers", static_argnames=("start",))
def _init(model: HMM, key: Array, data: Data, start: Start) -> tuple[HMMParams, Array]:
    x, lengths, weights = _unpack(data)
    dtype = float_dtype(x)
    x = real(x, dtype)
    n, t = x.shape[:2]
    counts = chain.within(lengths, t).astype(dtype)
    if weights is not None:
        counts = counts * weights.astype(dtype)[:, None]
    frames = x.reshape(n * t, *x.shape[2:])
    size, emissions = start_components(key, model.family, frames, counts.reshape(-1), model.k, start, dtype)
    stay = jnp.eye(model.k, dtype=dtype)
    return HMMParams(size, 0.5 * stay + 0.5 * size[None, :], emissions), is_sound(model.family, emissions, frames)
