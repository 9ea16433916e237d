"""Hidden Markov models: a class that follows a Markov chain, with one observation at each step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.checks import instance
from jaxem.core.contexts import Apart, careful, choose
from jaxem.core.data import (
    Data,
)
from jaxem.core.records import register
from jaxem.core.rows import FromRows, weighted
from jaxem.core.streams import Streamed
from jaxem.core.trees import float_dtype
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.gates import protocol as gates
from jaxem.gates.constant import Constant
from jaxem.gates.rows import of_moves
from jaxem.gates.stationary import Stationary, distribution
from jaxem.latent import chain, chain_forward, chain_sums, scaled
from jaxem.latent.chain import Chain
from jaxem.latent.classes import expected
from jaxem.models import observations
from jaxem.models.hmm_data import Sequences
from jaxem.models.hmm_distribution import Distribution
from jaxem.models.hmm_forecast import Forecasting
from jaxem.models.hmm_params import HMMParams as HMMParams
from jaxem.models.hmm_params import HMMSums
from jaxem.models.hmm_prediction import Prediction
from jaxem.models.hmm_profile import Profiled
from jaxem.models.hmm_sampling import Sampling
from jaxem.models.hmm_starts import Starts
from jaxem.models.masked import Maskable
from jaxem.models.observations import real
from jaxem.models.sequences import (
    at_moves,
    at_starts,
    frames_of,
    is_sequence,
    shape,
    unpack,
    without_lengths,
)


@register
@dataclasses.dataclass(frozen=True)
class HMM(FromRows, Maskable, Starts, Prediction, Profiled, Forecasting, Distribution, Sampling, Sequences):
    r"""A hidden Markov model of ``k`` states with emissions of one family.

    .. math:: \text{E: } \gamma_t(i) = p(z_t = i \mid x),\;
              \xi_t(i, j) = p(z_t = i, z_{t+1} = j \mid x) \qquad
              \text{M: } \pi \propto \textstyle\sum_n \gamma_1,\;
              A_{ij} \propto \sum_{nt} \xi_t(i, j),\;
              \text{emissions under weights } \gamma_t(k)

    One observation is one sequence. The data are an array (N, T) or (N, T, D), or a list of sequences where lengths
    differ, with or without weights (see ``jaxem.dataset``). Covariates
    ``given`` are (N, T) or (N, T, P). For one sequence x, pass ``x[None]``. The posterior q is a
    ``Chain``; the parameters are an ``HMMParams``. An initial or transition probability that starts at exactly zero
    stays zero under every algorithm, and is not counted as a free parameter.

    Arguments:
        family: the distribution of the observation at one step given its state, such as ``Poisson()``.
        k: the number of states, at least 1.
        initial: the distribution of the first state: ``Constant()`` (default), which may have a prior;
            ``Stationary()``; or ``Softmax(on=...)`` of the covariates of the first step.
        transition: where the states go: ``Constant()`` (default), ``Sticky(stay)``, ``LeftToRight()``, ``Cyclic()`` or
            ``Allowed(moves)``, which may have priors; or ``Softmax(on=...)`` of the covariates u, where u_t drives the
            move from step t to t + 1. Both: ``Allowed(moves, gate=Softmax(on=...))``.
        parallel: whether each sequence is cut into segments of time that run side by side, at ``k`` times the
            arithmetic. ``None`` (default) chooses by device and shape. The posterior is the same either way.

    Raises:
        ValueError: ``family`` is not a family, ``k`` is not a whole number of at least 1, ``parallel`` is not
            ``None``, ``True`` or ``False``, or ``initial`` or ``transition`` is not a gate that a chain can have.

    Source: Baum, Petrie, Soules & Weiss (1970); Rabiner (1989); Särkkä & García-Fernández (2021).
    """

    family: Family
    k: int = dataclasses.field(metadata={"static": True})
    parallel: bool | None = dataclasses.field(default=None, metadata={"static": True})
    initial: Any = Constant()
    transition: Any = Constant()

    def __post_init__(self) -> None:
        observations.check_definition(self)
        instance("HMM: initial", self.initial, "a gate, such as Softmax()", "declare", "log_prob", "statistics")
        what = "a gate, or a kind such as Sticky() or LeftToRight()"
        instance("HMM: transition", self.transition, what, "declare", "log_prob", "statistics")
        kind = self.moves if self.moves.homogeneous else self.moves.kind
        if kind is not None:
            kind.mask(self.k)
        if isinstance(self.initial, Stationary):
            if not self.moves.homogeneous:
                raise ValueError(
                    "HMM: Stationary() needs moves that are the same at all steps: where they depend on covariates, "
                    "each step has a transition matrix of its own, and no distribution of the states stays the same "
                    "from step to step. Use Constant() or Softmax() for the first state"
                )
            if kind is not None and not kind.may_return:
                raise ValueError("HMM: Stationary() needs moves that lead back to each state")
        if self.parallel not in (None, True, False):
            raise ValueError(f"HMM: parallel must be None, True or False; got {self.parallel!r}")

    @property
    def accurate(self) -> bool:
        """Whether log-densities are right to a few units in the last place, as declared by the family."""
        return getattr(self.family, "accurate", False)

    @property
    def moves(self) -> Any:
        """The gate of the moves: the rows of the transition matrix, all at once."""
        return of_moves(self.transition, self.k)

    def declare(self) -> HMMParams:
        return HMMParams(self.initial.declare(), self.moves.declare(), self.family.declare())

    def prepare(self, params: HMMParams, x: Data | None) -> HMMParams:
        """The contexts of both gates and of the family."""
        frames = None
        if x is not None:  # of a stream only shapes are known
            steps = families.own(self.family, without_lengths(x))
            frames = jax.eval_shape(frames_of, steps) if isinstance(x, Streamed) else frames_of(steps)
        emissions = Apart(self.family.prepare(params.emissions, frames))
        return HMMParams(
            self.initial.prepare(self._start_params(params), None),
            self.moves.prepare(params.transition, None),
            emissions,  # pyright: ignore[reportArgumentType]
        )

    def _start_params(self, params: HMMParams) -> Any:
        """The parameters of the initial gate; pi where it follows from the transition matrix."""
        return distribution(params.transition) if isinstance(self.initial, Stationary) else params.initial

    def pi_A(self, c: HMMParams, x: Data) -> tuple[Array, Array]:
        """pi (K,) and A (K, K); with covariates (N, K) and (N, T - 1, K, K)."""
        if self.initial.homogeneous:
            pi = self.initial.probability(c.initial)
        else:
            pi = jnp.exp(self.initial.log_prob(c.initial, at_starts(x)))
        return pi, self.moves.probability(c.transition) if self.moves.homogeneous else jnp.exp(self._log_A(c, x))

    def _log_A(self, c: HMMParams, x: Data) -> Array:
        """log A, (K, K) or (N, T - 1, K, K)."""
        found = self.moves.log_prob(c.transition, at_moves(x))
        n, t = shape(x)
        return found if self.moves.homogeneous else found.reshape(n, t - 1, self.k, self.k)

    def _of_frames(self, of: Callable[..., Any], c: HMMParams, x: Data) -> Any:
        """``of(context, frames)`` for all steps of all sequences ``x``, one after the other."""
        frames = frames_of(real(families.own(self.family, x), float_dtype((c.initial, c.transition))))
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
        return of(*self.pi_A(c, values), log_b, lengths, *more)._replace(hidden=hidden)

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
        q = chain.posterior(*self.pi_A(c, values), log_b, lengths, segments, again)
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
        value = chain_forward.log_likelihood(*self.pi_A(c, values), self.log_b(c, values), lengths)
        return jnp.where(is_sequence(lengths, values), value, jnp.nan)

    def complete(self, c: HMMParams, q: Chain, x: Data) -> Array:
        """sum_k gamma_1 log pi + sum_ij xi_ij log A_ij + sum_tk gamma_tk E log p(x_t, u_t | k), (N,)."""
        values, _ = unpack(x)
        log_b = self._by_steps(lambda e, x: observed.complete(self.family, e, q.hidden, x), c, values)
        initial = expected(q.smoothed[:, 0], self.initial.log_prob(c.initial, at_starts(values)))
        transition = chain_sums.expected_log_moves(q, self._log_A(c, values))
        return initial + transition + expected(q.smoothed, log_b).sum(axis=1)

    def entropy_rows(self, c: HMMParams, q: Chain, x: Data) -> Array:
        """The entropy of the paths plus that of the family's own hidden variables given the states, (N,)."""
        paths = -chain_sums.expected_log(q, q)
        if not jax.tree.leaves(q.hidden):
            return paths
        values, _ = unpack(x)
        own = self._by_steps(lambda e, x: observed.hidden_entropy(self.family, e, q.hidden, x), c, values)
        return paths + expected(q.smoothed, own).sum(axis=1)

    def divergence_rows(self, q: Chain, p: Chain) -> Array:
        """KL(q || p) between two chains, including the family's own hidden variables given the states, (N,)."""
        of_paths = chain_sums.expected_log(q, q) - chain_sums.expected_log(q, p)
        if not jax.tree.leaves(q.hidden):
            return of_paths
        own = families.hidden_divergence(self.family, q.hidden, p.hidden).reshape(q.smoothed.shape)
        return of_paths + expected(q.smoothed, own).sum(axis=1)

    def sums(self, c: HMMParams | None, w: Array | None, q: Chain, x: Data) -> HMMSums:
        """Expected numbers of starts and transitions, and the family's sums, with sequence weights ``w (N,)``."""
        values, _ = unpack(x)
        gamma = weighted(q.smoothed, w)
        frames, r = frames_of(real(families.own(self.family, values), gamma.dtype)), frames_of(gamma)
        of_family = lambda e: observed.statistics(self.family, e, r, q.hidden, frames)
        if self.moves.homogeneous:
            moves = chain_sums.pair_counts(q, None if w is None else w.astype(gamma.dtype))
        else:
            moves = frames_of(weighted(chain_sums.pairs(q), w))
        return HMMSums(
            self.initial.statistics(c and c.initial, gamma[:, 0], at_starts(values)),
            self.moves.statistics(c and c.transition, moves, at_moves(values)),
            of_family(None) if c is None else choose(c.emissions.context, of_family),
        )

    def maximum(self, c: HMMParams | None, sums: HMMSums) -> HMMParams:
        """Expected numbers of starts and transitions, divided by their totals, and the family's maximiser.

        A gate that has no maximiser in closed form takes one step.
        """
        emissions = self.family.maximize(c and c.emissions.context, sums.emissions)
        of_moves = self.moves, c and c.transition
        if isinstance(self.initial, Stationary):
            return HMMParams((), self.initial.maximize_moves(*of_moves, sums.initial, sums.transition), emissions)
        initial = self.initial.maximize(c and c.initial, sums.initial)
        return HMMParams(initial, self.moves.maximize(c and c.transition, sums.transition), emissions)

    def expected(self, c: HMMParams, params: HMMParams, sums: HMMSums) -> Array:
        """Q from the sums, up to a constant.

        It is the expected starts and transitions times their log-probabilities, plus the family's part.
        """
        starts = self.initial.expected(c.initial, self._start_params(params), sums.initial)
        moves = self.moves.expected(c.transition, params.transition, sums.transition)
        return starts + moves + self.family.expected(c.emissions.context, params.emissions, sums.emissions)

    def log_prior(self, params: HMMParams) -> Array | float:
        """The log-priors of both gates and of the family; without one a prior is flat."""
        of_gates = gates.log_prior(self.initial, params.initial) + gates.log_prior(self.moves, params.transition)
        return of_gates + families.log_prior(self.family, params.emissions)

    def degenerate(self, params: HMMParams) -> Array:
        """Whether a state can no longer be entered, or its emissions have collapsed."""
        collapsed = families.degenerate(self.family, params.emissions)
        if not (self.moves.homogeneous and self.initial.homogeneous):  # probabilities by covariates are positive
            return collapsed
        others = params.transition * (1 - jnp.eye(self.k, dtype=params.transition.dtype))
        entered = jnp.maximum(others.max(axis=0), self._start_params(params))
        return (entered < jnp.finfo(entered.dtype).eps ** 2).any() | collapsed

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

        Raises:
            ValueError: the states cannot be renumbered: their moves follow an order, or each has a family of its own.
        """
        if not self.moves.exchangeable:
            raise ValueError(f"HMM: states that follow {type(self.transition).__name__}() cannot be renumbered")
        return parameters.permuted(self.declare(), params, order)

    def label_keys(self, params: HMMParams) -> Array:
        """The location of the emissions of each state, (K, F), by which states are sorted."""
        return parameters.locations(self.declare(), params)

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood is constant whatever the data."""
        return self.k * getattr(self.family, "redundant", 0)
