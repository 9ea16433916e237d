"""Starts of a mixture."""

from typing import Any

from jax import Array

from jaxem.core.checks import prng_key
from jaxem.core.compilation import program
from jaxem.core.conversion import check_shapes
from jaxem.core.data import Data, count, counted, split_weights
from jaxem.core.dataset import as_data
from jaxem.core.trees import float_dtype, is_traced
from jaxem.models.mixture_params import MixtureParams
from jaxem.models.observations import real
from jaxem.models.starts import Start, blame, check_sound, is_sound, read_start, start_components


class Starts:
    """The functions of a mixture that find parameters to start from."""

    def init(self: Any, key: Array, data: Data, start: Start = "kmeans++") -> MixtureParams:
        """Parameters to start a fit from: one M-step on random or given class probabilities.

        Arguments:
            key: a random key.
            data: N observations, with or without weights.
            start: ``"kmeans++"`` (default): seeds among the observations, far from each other; each observation goes
                mostly to the nearest seed. ``"points"``: seeds drawn evenly among the observations.
                ``"responsibilities"``: class probabilities drawn evenly from the simplex. Or given classes (N,), whole
                numbers from 0 to K - 1, or given class probabilities (N, K).

        Returns:
            A ``MixtureParams``.

        Raises:
            ValueError: ``key`` is not a random key; the data do not fit the model, or no start can be made from them
                (a constant column, for example); ``start`` is none of the above, has the wrong shape, or leaves a
                class without observations. Values that are traced are not checked.

        Source: Arthur & Vassilvitskii (2007) for k-means++.
        """
        prng_key("Mixture.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self.check_values(data)
        name, given = read_start(start, self.k, (count(data),), float_dtype(data))
        params, sound = _init(self, key, data, given, name)
        check_sound(sound, self, data)
        return params

    def first(
        self: Any, key: Array, data: Data, given: Array | None, start: str, active: Array | None = None
    ) -> tuple[MixtureParams, Array]:
        """A start, and whether it is sound; ``active (K,)``: the classes that take part."""
        x, weights = counted(data)
        dtype = float_dtype(x)
        x = real(x, dtype)
        own = self._own(x)
        of_data = key, self.family, own, weights, self.k, start, given, dtype, active
        sizes, components = start_components(*of_data)
        params = MixtureParams(self.gate.start(sizes, x), components)
        return params, is_sound(self.family, components, own)

    def diagnose(self: Any, data: Data) -> None:
        """Raise a ``ValueError`` that says why no start can be made from the data, and what to do."""
        x, weights = split_weights(data)
        blame(self.family, self._own(x), None if weights is None else weights > 0)


@program(quick="few numbers", static_argnames=("start",))
def _init(model: Any, key: Array, data: Data, given: Array | None, start: str) -> tuple[MixtureParams, Array]:
    return model.first(key, data, given, start)
