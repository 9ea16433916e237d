"""Starts of a hidden Markov model."""

from typing import Any

from jax import Array

from jaxem.core.checks import prng_key
from jaxem.core.compilation import program
from jaxem.core.conversion import check_shapes
from jaxem.core.data import Data, counted
from jaxem.core.dataset import as_data
from jaxem.core.trees import float_dtype, is_traced
from jaxem.families import protocol as families
from jaxem.latent import chain_steps
from jaxem.models.hmm_params import HMMParams
from jaxem.models.observations import real
from jaxem.models.sequences import at_moves, at_starts, counted_steps, frames_of, shape, unpack
from jaxem.models.starts import Start, blame, check_sound, is_sound, read_start, start_components


class Starts:
    """The functions of a hidden Markov model that find parameters to start from."""

    def init(self: Any, key: Array, data: Data, start: Start = "kmeans++") -> HMMParams:
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
        name, given = read_start(start, self.k, shape(data), float_dtype(data))
        params, sound = _init(self, key, data, given, name)
        check_sound(sound, self, data)
        return params

    def first(
        self: Any, key: Array, data: Data, given: Array | None, start: str, active: Array | None = None
    ) -> tuple[HMMParams, Array]:
        """A start, and whether it is sound; ``active (K,)``: the states that take part."""
        sequences, weights = counted(data)
        x, lengths = unpack(sequences)
        dtype = float_dtype(x)
        x = real(x, dtype)
        counts = chain_steps.within(lengths, shape(x)[1]).astype(dtype)
        if weights is not None:
            counts = counts * weights.astype(dtype)[:, None]
        steps, x = x, families.own(self.family, x)
        if given is None and hasattr(self.transition, "segments"):  # states that follow an order of time
            start, given = "given", self.transition.segments(key, self.k, lengths, shape(x)[1], dtype)
        frames = frames_of(x)
        given = None if given is None else frames_of(given)
        of_frames = key, self.family, frames, counts.reshape(-1), self.k, start, given, dtype, active
        size, emissions = start_components(*of_frames)
        initial = self.initial.start(size, at_starts(steps))
        params = HMMParams(initial, self.moves.start(size, at_moves(steps)), emissions)
        return params, is_sound(self.family, emissions, frames)

    def diagnose(self: Any, data: Data) -> None:
        """Raise a ``ValueError`` that says why no start can be made from the data, and what to do."""
        x, within = counted_steps(data)
        blame(self.family, families.own(self.family, x), within)


@program(quick="few numbers", static_argnames=("start",))
def _init(model: Any, key: Array, data: Data, given: Array | None, start: str) -> tuple[HMMParams, Array]:
    return model.first(key, data, given, start)
