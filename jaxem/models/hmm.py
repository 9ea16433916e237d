"""Hidden Markov models: a class that follows a Markov chain, with one observation at each step."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.constraints import Simplex
from jaxem.core.contexts import Apart, careful, choose
from jaxem.core.conversion import admit, as_params, check_shapes
from jaxem.core.data import (
    Data,
    Dataset,
    Patterns,
    Spread,
    check_counts,
    counted,
    lengths_of,
    observed_of,
    plain,
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
from jaxem.core.streams import Streamed
from jaxem.core.trees import float_dtype, is_traced
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.latent import chain, scaled
from jaxem.latent.chain import Chain
from jaxem.latent.classes import expected, log_probability, log_times
from jaxem.models import observations
from jaxem.models.masked import Maskable
from jaxem.models.observations import real
from jaxem.models.starts import Start, blame, check_sound, is_sound, read_start, start_components


class HMMParams(NamedTuple):
    """The parameters of a hidden Markov model."""

    initial: Array  # (K,), sums to one
    transition: Array  # (K, K), from row to column; rows sum to one
    emissions: Any  # the parameters of the family, for K states


class HMMSums(NamedTuple):
    """The sums over sequences and steps that the M-step needs."""

    initial: Array  # (K,), expected number of sequences that start in each state
    transition: Array  # (K, K), expected number of transitions
    emissions: Any  # the sums of the family


@register
@dataclasses.dataclass(frozen=True)
class HMM(FromRows, Maskable):
    r"""A hidden Markov model of ``k`` states with emissions of one family.

    .. math:: \text{E: } \gamma_t(i) = p(z_t = i \mid x),\;
              \xi_t(i, j) = p(z_t = i, z_{t+1} = j \mid x) \qquad
              \text{M: } \pi \propto \textstyle\sum_n \gamma_1,\;
              A_{ij} \propto \sum_{nt} \xi_t(i, j),\;
              \text{emissions under weights } \gamma_t(k)

    One observation is one sequence. The data are an array (N, T) or (N, T, D), or a list of sequences where lengths
    differ, with or without weights (see ``jaxem.dataset``). For one sequence x, pass ``x[None]``. The posterior q is a
    ``Chain``; the parameters are an ``HMMParams``. An initial or transition probability that starts at exactly zero
    stays zero under every algorithm, and is not counted as a free parameter.

    Arguments:
        family: the distribution of the observation at one step given its state, such as ``Poisson()``.
        k: the number of states, at least 1.
        parallel: whether each sequence is cut into segments of time that run side by side, at ``k`` times the
            arithmetic. ``None`` (default) chooses by device and shape. The posterior is the same either way.

    Raises:
        ValueError: ``family`` is not a family, ``k`` is not a whole number of at least 1, or ``parallel`` is not
            ``None``, ``True`` or ``False``.

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
        """Whether log-densities are right to a few units in the last place, as declared by the family."""
        return getattr(self.family, "accurate", False)

    def declare(self) -> HMMParams:
        initial, transition = Param.of(Simplex(), "K"), Param.of(Simplex(), "K K")
        return HMMParams(initial, transition, self.family.declare())  # pyright: ignore[reportArgumentType]

    def prepare(self, params: HMMParams, x: Data | None) -> HMMParams:
        """Initial and transition probabilities, and the context of the family."""
        frames = None
        if x is not None:  # of a stream only shapes are known
            steps = _without_lengths(x)
            frames = jax.eval_shape(_frames, steps) if isinstance(x, Streamed) else _frames(steps)
        return params._replace(emissions=Apart(self.family.prepare(params.emissions, frames)))

    def _of_frames(self, of: Callable[..., Any], c: HMMParams, x: Data) -> Any:
        """``of(context, frames)`` for all steps of all sequences ``x``, one after the other."""
        frames = _frames(real(x, c.initial.dtype))
        return choose(c.emissions.context, lambda e: of(e, frames))

    def _by_steps(self, of: Callable[..., Array], c: HMMParams, x: Data) -> Array:
        """``of(context, frames) (N T, K)`` as an array (N, T, K)."""
        n, t = _shape(x)
        return self._of_frames(of, c, x).reshape(n, t, self.k)

    def _log_b(self, c: HMMParams, x: Data) -> Array:
        """log p(x_t | z_t = k), (N, T, K)."""
        return self._by_steps(lambda e, x: observed.log_density(self.family, e, x), c, x)

    def _inferred(self, of: Callable[..., Chain], c: HMMParams, x: Data, *more: Any) -> Chain:
        """The posterior that ``of`` returns, with the posterior of the family's own hidden variables added."""
        values, lengths = _unpack(x)
        log_b, hidden = self._joint(c, values)
        return of(c.initial, c.transition, log_b, lengths, *more)._replace(hidden=hidden)

    def _joint(self, c: HMMParams, x: Data) -> tuple[Array, Any]:
        """log p(x_t | z_t = k), (N, T, K), and the posterior of the family's own hidden variables."""
        density, hidden = self._of_frames(lambda e, x: observed.infer(self.family, e, x), c, x)
        return density.reshape(*_shape(x), self.k), hidden

    def infer(self, c: HMMParams, x: Data) -> Chain:
        """Forward-backward on each sequence."""
        values, lengths = _unpack(x)
        segments = scaled.segments(self.parallel, *_shape(values), self.k)
        again = lambda: self._log_b(c._replace(emissions=Apart(careful(c.emissions.context))), values)
        log_b, hidden = self._joint(c, values)
        q = chain.posterior(c.initial, c.transition, log_b, lengths, segments, again)
        return q._replace(hidden=hidden)

    def mode(self, c: HMMParams, x: Data) -> Chain:
        """All probability on the most probable path of each sequence (Viterbi)."""
        return self._inferred(chain.mode, c, x)

    def tempered(self, c: HMMParams, x: Data, inverse_temperature: Array | float) -> Chain:
        """Forward-backward on pi, A and b raised to the power ``inverse_temperature``."""
        return self._inferred(chain.tempered, c, x, inverse_temperature)

    def draw(self, c: HMMParams, x: Data, key: Array) -> Chain:
        """All probability on one path of each sequence, drawn from p(z | x)."""
        return self._inferred(chain.draw, c, x, key)

    def log_marginal(self, c: HMMParams, x: Data) -> Array:
        """log p(x_n) of each sequence, (N,), by a forward algorithm that is independent of the E-step.

        NaN for a sequence with a NaN within its length, -inf for an impossible sequence.
        """
        values, lengths = _unpack(x)
        value = chain.log_likelihood(c.initial, c.transition, self._log_b(c, values), lengths)
        return jnp.where(_is_sequence(lengths, values), value, jnp.nan)

    def complete(self, c: HMMParams, q: Chain, x: Data) -> Array:
        """sum_k gamma_1 log pi + sum_ij xi_ij log A_ij + sum_tk gamma_tk E log p(x_t, u_t | k), (N,)."""
        values, _ = _unpack(x)
        log_b = self._by_steps(lambda e, x: observed.complete(self.family, e, q.hidden, x), c, values)
        initial = expected(q.smoothed[:, 0], log_probability(c.initial)[None, :])
        transition = expected(chain.pair_counts_each(q), log_probability(c.transition)[None]).sum(axis=1)
        return initial + transition + expected(q.smoothed, log_b).sum(axis=1)

    def entropy_rows(self, c: HMMParams, q: Chain, x: Data) -> Array:
        """The entropy of the paths plus that of the family's own hidden variables given the states, (N,)."""
        paths = -chain.expected_log(q, q)
        if not jax.tree.leaves(q.hidden):
            return paths
        values, _ = _unpack(x)
        own = self._by_steps(lambda e, x: observed.hidden_entropy(self.family, e, q.hidden, x), c, values)
        return paths + expected(q.smoothed, own).sum(axis=1)

    def divergence_rows(self, q: Chain, p: Chain) -> Array:
        """KL(q || p) between two chains, including the family's own hidden variables given the states, (N,)."""
        of_paths = chain.expected_log(q, q) - chain.expected_log(q, p)
        if not jax.tree.leaves(q.hidden):
            return of_paths
        own = families.hidden_divergence(self.family, q.hidden, p.hidden).reshape(q.smoothed.shape)
        return of_paths + expected(q.smoothed, own).sum(axis=1)

    def sums(self, c: HMMParams | None, w: Array | None, q: Chain, x: Data) -> HMMSums:
        """Expected numbers of starts and transitions, and the family's sums, with sequence weights ``w (N,)``."""
        values, _ = _unpack(x)
        gamma = weighted(q.smoothed, w)
        frames, r = _frames(real(values, gamma.dtype)), _frames(gamma)
        of_family = lambda e: observed.statistics(self.family, e, r, q.hidden, frames)
        return HMMSums(
            gamma[:, 0].sum(axis=0),
            chain.pair_counts(q, None if w is None else w.astype(gamma.dtype)),
            of_family(None) if c is None else choose(c.emissions.context, of_family),
        )

    def maximum(self, c: HMMParams | None, sums: HMMSums) -> HMMParams:
        """Expected numbers of starts and transitions, divided by their totals, and the family's maximiser."""
        initial, moves, emissions = sums
        left = moves.sum(axis=1, keepdims=True)
        # A state that is only ever the last one is never left, so any row maximises Q: the old one is kept.
        old = 1 / self.k if c is None else c.transition
        transition = jnp.where(left == 0, old, moves / jnp.where(left == 0, 1, left))
        return HMMParams(
            initial / initial.sum(), transition, self.family.maximize(c and c.emissions.context, emissions)
        )

    def expected(self, c: HMMParams, params: HMMParams, sums: HMMSums) -> Array:
        """Q from the sums: expected starts and transitions times their log-probabilities plus the family's part, up to
        a constant."""
        starts = log_times(sums.initial, params.initial).sum()
        moves = log_times(sums.transition, params.transition).sum()
        return starts + moves + self.family.expected(c.emissions.context, params.emissions, sums.emissions)

    def log_prior(self, params: HMMParams) -> Array | float:
        """The log-prior of the family; the prior of the initial and transition probabilities is flat."""
        return families.log_prior(self.family, params.emissions)

    def degenerate(self, params: HMMParams) -> Array:
        """Whether a state can no longer be entered, or its emissions have collapsed."""
        others = params.transition * (1 - jnp.eye(self.k, dtype=params.transition.dtype))
        entered = jnp.maximum(others.max(axis=0), params.initial)
        empty = (entered < jnp.finfo(entered.dtype).eps ** 2).any()
        return empty | families.degenerate(self.family, params.emissions)

    def coincide(self, params: HMMParams) -> Array:
        """Whether the emissions of every state equal those of another one, so that EM cannot separate them."""
        return families.coincide(self.family, params.emissions)

    def permute(self, params: HMMParams, order: Array) -> HMMParams:
        """The same model with its states renumbered.

        Arguments:
            params: parameters of the model.
            order: a permutation (K,); state ``order[k]`` becomes state k.

        Returns:
            Parameters of the same shapes.
        """
        return parameters.permuted(self.declare(), params, order)

    def label_keys(self, params: HMMParams) -> Array:
        """The location of the emissions of each state, (K, F), by which states are sorted."""
        return parameters.locations(self.declare(), params)

    def init(self, key: Array, data: Data, start: Start = "kmeans++") -> HMMParams:
        r"""Parameters to start a fit from.

        Emissions are those of a mixture of the single observations (see ``Mixture.init``). With s_k the weights of
        that mixture, the initial probabilities are s, and the states tend to stay:

        .. math:: A_{ij} = \tfrac12 [i = j] + \tfrac12 s_j

        Arguments:
            key: a random key.
            data: N sequences, with or without weights.
            start: ``"kmeans++"`` (default), ``"points"`` or ``"responsibilities"``, as for ``Mixture.init``; or given
                states (N, T), whole numbers from 0 to K - 1; or given state probabilities (N, T, K).

        Returns:
            An ``HMMParams``.

        Raises:
            ValueError: ``key`` is not a random key; the data do not fit the model, or no start can be made from them;
                ``start`` is none of the above, has the wrong shape, or leaves a state without observations. Values
                that are traced are not checked.
        """
        prng_key("HMM.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self.check_values(data)
        name, given = read_start(start, self.k, _shape(data), float_dtype(data))
        params, sound = _init(self, key, data, given, name)
        check_sound(sound, self, data)
        return params

    def first(
        self, key: Array, data: Data, given: Array | None, start: str, active: Array | None = None
    ) -> tuple[HMMParams, Array]:
        """A start, and whether it is sound; ``active (K,)``: the states that take part."""
        sequences, weights = counted(data)
        x, lengths = _unpack(sequences)
        dtype = float_dtype(x)
        x = real(x, dtype)
        counts = chain.within(lengths, _shape(x)[1]).astype(dtype)
        if weights is not None:
            counts = counts * weights.astype(dtype)[:, None]
        frames = _frames(x)
        given = None if given is None else _frames(given)
        of_frames = key, self.family, frames, counts.reshape(-1), self.k, start, given, dtype, active
        size, emissions = start_components(*of_frames)
        stay = jnp.eye(self.k, dtype=dtype)
        return HMMParams(size, 0.5 * stay + 0.5 * size[None, :], emissions), is_sound(self.family, emissions, frames)

    def diagnose(self, data: Data) -> None:
        """Raise a ``ValueError`` that says why no start can be made from the data, and what to do."""
        blame(self.family, *_steps(data))

    def predict(self, params: HMMParams, data: Data) -> Array:
        """The most probable path of each sequence.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            States (N, T), whole numbers from 0 to K - 1; -1 after the end of a sequence, and at every step of a
            sequence that contains NaN or is impossible under ``params``.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.

        Source: Viterbi (1967).
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _predict(self, params, x), data)

    def predict_proba(self, params: HMMParams, data: Data) -> Array:
        """The posterior probability of each state at each step, p(z_t = k | x), given the whole sequence.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.

        Returns:
            Probabilities (N, T, K); zero after the end of a sequence, and NaN at every step of a sequence that
            contains NaN or is impossible under ``params``.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _predict_proba(self, params, x), data)

    def sample(self, key: Array, params: HMMParams, n: int, length: int = 100) -> Array:
        """Sequences drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of sequences, at least 0.
            length: the number of steps of each sequence, at least 1 (default 100).

        Returns:
            Observations (n, length, ...).

        Raises:
            ValueError: ``key`` is not a random key, ``n`` or ``length`` is not a whole number or is too small, or the
                parameters do not fit the model.
        """
        return self.sample_joint(key, params, n, length)[1]

    def sample_joint(self, key: Array, params: HMMParams, n: int, length: int = 100) -> tuple[Array, Array]:
        """State paths and sequences drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of sequences, at least 0.
            length: the number of steps of each sequence, at least 1 (default 100).

        Returns:
            States (n, length) and their observations (n, length, ...).

        Raises:
            ValueError: as for ``sample``.
        """
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
        return states, jax.tree.map(lambda leaf: leaf.reshape(n, length, *leaf.shape[1:]), x)

    def sample_like(self, key: Array, params: HMMParams, data: Data) -> Data:
        """As many sequences as ``data`` hold, drawn from the model, with the same lengths and missing cells.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            data: N sequences, of which only the shape, the lengths and the missing cells are used.

        Returns:
            Observations (N, T, ...), or a ``Dataset`` where ``data`` have lengths or missing cells. Weights are left
            out.

        Raises:
            ValueError: as for ``sample``, or the data do not fit the model.
        """
        data = as_data(data)
        check_shapes(self, None, data)
        return with_values(split_weights(data)[0], self.sample(key, params, *_shape(data)))

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood is constant whatever the data."""
        return self.k * getattr(self.family, "redundant", 0)

    @property
    def event_ndim(self) -> int:
        """The number of axes of one observation."""
        return 1 + self.family.event_ndim

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data, beside values, that the model can use."""
        return ("lengths", *families.takes(self.family))

    def features(self, x: Data) -> Array:
        """The mean and the logarithm of the standard deviation of each feature over the steps, (N, 2 F); for starts."""
        steps, lengths = _unpack(x)
        n, t = _shape(steps)
        each = observed.features(self.family, _frames(steps)).reshape(n, t, -1)
        seen = chain.within(lengths, t)[:, :, None] & ~jnp.isnan(each)
        number = seen.sum(axis=1).astype(each.dtype)
        mean = jnp.where(seen, each, 0).sum(axis=1) / number
        square = jnp.where(seen, (each - mean[:, None, :]) ** 2, 0).sum(axis=1) / number
        return jnp.concatenate([mean, 0.5 * jnp.log(square + jnp.finfo(each.dtype).tiny)], axis=1)

    def supports(self, x: Data) -> Array:
        """(N,), whether each sequence lies in the support, up to its end."""
        steps, _ = _unpack(x)
        return observed.supports(self.family, _frames(steps)).reshape(_shape(steps)).all(axis=1)

    def impute(self, params: HMMParams, data: Data, key: Array | None = None) -> Any:
        """The values with missing cells replaced; see ``jaxem.impute``. Draws follow a path drawn for each sequence."""
        return _impute(self, params, split_weights(data)[0], key)

    def sample_size(self, data: Data) -> Array:
        """The number of single observations, (): the sum over sequences of weight times length, without steps at which
        every cell is missing."""
        sequences, weights = counted(as_data(data))
        x, lengths = _unpack(sequences)
        seen = chain.within(lengths, _shape(x)[1])
        for mask in jax.tree.leaves(observed_of(x)):
            seen = seen & mask.reshape(*seen.shape, -1).any(axis=-1)
        return total(seen.sum(axis=1).astype(float_dtype(x)), weights)

    def check_shapes(self, params: HMMParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        observations.check(self, params, data, ("N", "T"), "lengths")

    def validate(self, params: HMMParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def check_values(self, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, within = _steps(data)
        observations.check_enough(self, int(within.sum()))
        observations.check_support(self.family, x, within)

    def allows(self, params: HMMParams, data: Data) -> Array:
        """Whether every observation within a sequence of nonzero weight lies in the support, (); for traced values."""
        return observations.supported(self.family, *_steps(data)).all()


def _steps(data: Data) -> tuple[Data, Array]:
    """All steps of all sequences (N T, ...), and which of them lie within a sequence of nonzero weight, (N T,)."""
    (x, weights), lengths = split_weights(data), lengths_of(data)
    n, t = _shape(x)
    within = jnp.ones((n, t), bool) if lengths is None else chain.within(lengths, t)
    if weights is not None:
        within = within & (weights != 0)[:, None]
    return _frames(_without_lengths(x)), within.reshape(-1)


def _shape(x: Data) -> tuple[int, int]:
    """N and T, the number of sequences and of steps."""
    return jax.tree.leaves(values_of(x))[0].shape[:2]


def _without_lengths(x: Data) -> Data:
    x = x.data if isinstance(x, Spread) else x
    if not isinstance(x, Dataset):
        return x
    of_steps = lambda found: found if found.index.ndim == 2 else None  # else patterns of whole sequences
    patterns = jax.tree.map(of_steps, x.patterns, is_leaf=lambda node: isinstance(node, Patterns))
    return plain(dataclasses.replace(x, lengths=None, weights=None, patterns=patterns))


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
    unknown = chain.within(lengths, _shape(x)[1]) & ~known[:, None]
    return jnp.where(unknown[:, :, None], jnp.nan, q.smoothed)


def _is_sequence(lengths: Array, x: Data) -> Array:
    """(N,), whether each length lies between 1 and T, which could not be checked where lengths were traced."""
    return (lengths >= 1) & (lengths <= _shape(x)[1])


def _unpack(sequences: Data) -> tuple[Data, Array]:
    """The steps (N, T, ...), values alone or with masks, and lengths (N,).

    Padding is replaced by the first observation of its sequence: whatever it held, its density is then as finite as
    that observation's, and it has no weight.
    """
    x, lengths, (n, t) = _without_lengths(sequences), lengths_of(sequences), _shape(sequences)
    if lengths is None:
        return x, jnp.full((n,), t)
    inside = chain.within(lengths, t)
    first = lambda leaf: jnp.where(inside.reshape(n, t, *(1,) * (leaf.ndim - 2)), leaf, leaf[:, :1])
    return jax.tree.map(first, x), lengths


def _frames(x: Data) -> Data:
    """The steps of all sequences (N, T, ...) one after the other, (N T, ...)."""
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), x)


@program(quick="few numbers", static_argnames=("start",))
def _init(model: HMM, key: Array, data: Data, given: Array | None, start: str) -> tuple[HMMParams, Array]:
    return model.first(key, data, given, start)


@program
def _impute(model: HMM, params: HMMParams, sequences: Data, key: Array | None) -> Any:
    if key is None:
        q = model.e_step(params, sequences)
    else:
        path_key, key = jax.random.split(key)
        q = model.sample_posterior(path_key, params, sequences)
    x, _ = _unpack(real(sequences, params.initial.dtype))
    found = observed.impute(model.family, params.emissions, _frames(q.smoothed), _frames(x), key)
    return jax.tree.map(lambda leaf, old: leaf.reshape(old.shape), found, values_of(x))
