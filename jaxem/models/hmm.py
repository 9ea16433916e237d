"""Hidden Markov models: a class that follows a Markov chain, with one observation at each step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.constraints import Simplex
from jaxem.core.contexts import Apart, careful, choose
from jaxem.core.data import (
    Data,
)
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows, weighted
from jaxem.core.streams import Streamed
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.latent import chain, scaled
from jaxem.latent.chain import Chain
from jaxem.latent.classes import expected, log_probability, log_times
from jaxem.models import observations
from jaxem.models.hmm_data import Sequences
from jaxem.models.hmm_params import HMMParams as HMMParams
from jaxem.models.hmm_params import HMMSums
from jaxem.models.hmm_prediction import Prediction
from jaxem.models.hmm_sampling import Sampling
from jaxem.models.hmm_starts import Starts
from jaxem.models.masked import Maskable
from jaxem.models.observations import real
from jaxem.models.sequences import frames_of, is_sequence, shape, unpack, without_lengths


@register
@dataclasses.dataclass(frozen=True)
class HMM(FromRows, Maskable, Starts, Prediction, Sampling, Sequences):
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
            steps = without_lengths(x)
            frames = jax.eval_shape(frames_of, steps) if isinstance(x, Streamed) else frames_of(steps)
        return params._replace(emissions=Apart(self.family.prepare(params.emissions, frames)))

    def _of_frames(self, of: Callable[..., Any], c: HMMParams, x: Data) -> Any:
        """``of(context, frames)`` for all steps of all sequences ``x``, one after the other."""
        frames = frames_of(real(x, c.initial.dtype))
        return choose(c.emissions.context, lambda e: of(e, frames))

    def _by_steps(self, of: Callable[..., Array], c: HMMParams, x: Data) -> Array:
        """``of(context, frames) (N T, K)`` as an array (N, T, K)."""
        n, t = shape(x)
        return self._of_frames(of, c, x).reshape(n, t, self.k)

    def log_b(self, c: HMMParams, x: Data) -> Array:
        """log p(x_t | z_t = k), (N, T, K)."""
        return self._by_steps(lambda e, x: observed.log_density(self.family, e, x), c, x)

    def _inferred(self, of: Callable[..., Chain], c: HMMParams, x: Data, *more: Any) -> Chain:
        """The posterior that ``of`` returns, with the posterior of the family's own hidden variables added."""
        values, lengths = unpack(x)
        log_b, hidden = self._joint(c, values)
        return of(c.initial, c.transition, log_b, lengths, *more)._replace(hidden=hidden)

    def _joint(self, c: HMMParams, x: Data) -> tuple[Array, Any]:
        """log p(x_t | z_t = k), (N, T, K), and the posterior of the family's own hidden variables."""
        density, hidden = self._of_frames(lambda e, x: observed.infer(self.family, e, x), c, x)
        return density.reshape(*shape(x), self.k), hidden

    def infer(self, c: HMMParams, x: Data) -> Chain:
        """Forward-backward on each sequence."""
        values, lengths = unpack(x)
        segments = scaled.segments(self.parallel, *shape(values), self.k)
        again = lambda: self.log_b(c._replace(emissions=Apart(careful(c.emissions.context))), values)
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
        values, lengths = unpack(x)
        value = chain.log_likelihood(c.initial, c.transition, self.log_b(c, values), lengths)
        return jnp.where(is_sequence(lengths, values), value, jnp.nan)

    def complete(self, c: HMMParams, q: Chain, x: Data) -> Array:
        """sum_k gamma_1 log pi + sum_ij xi_ij log A_ij + sum_tk gamma_tk E log p(x_t, u_t | k), (N,)."""
        values, _ = unpack(x)
        log_b = self._by_steps(lambda e, x: observed.complete(self.family, e, q.hidden, x), c, values)
        initial = expected(q.smoothed[:, 0], log_probability(c.initial)[None, :])
        transition = expected(chain.pair_counts_each(q), log_probability(c.transition)[None]).sum(axis=1)
        return initial + transition + expected(q.smoothed, log_b).sum(axis=1)

    def entropy_rows(self, c: HMMParams, q: Chain, x: Data) -> Array:
        """The entropy of the paths plus that of the family's own hidden variables given the states, (N,)."""
        paths = -chain.expected_log(q, q)
        if not jax.tree.leaves(q.hidden):
            return paths
        values, _ = unpack(x)
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
        values, _ = unpack(x)
        gamma = weighted(q.smoothed, w)
        frames, r = frames_of(real(values, gamma.dtype)), frames_of(gamma)
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

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood is constant whatever the data."""
        return self.k * getattr(self.family, "redundant", 0)
