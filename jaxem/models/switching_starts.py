"""Starts of a switching autoregression."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices
from jaxem.core.checks import prng_key
from jaxem.core.compilation import program
from jaxem.core.conversion import check_shapes
from jaxem.core.data import Data, counted
from jaxem.core.dataset import as_data
from jaxem.core.trees import float_dtype, is_traced
from jaxem.latent import chain_steps
from jaxem.models.starts import Start, start_components
from jaxem.models.switching_maximum import MOVES
from jaxem.models.switching_params import SwitchingParams, of_errors


class Starts:
    """The functions of a switching autoregression that find parameters to start from."""

    def init(self: Any, key: Array, data: Data, start: Start = "kmeans++") -> SwitchingParams:
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


@program(quick="few numbers", static_argnames=("start",))
def _init(model: Any, key: Array, data: Data, start: str) -> SwitchingParams:
    sequences, weights = counted(data)
    dtype = float_dtype(sequences)
    windows, lengths = model._windows(sequences, dtype)
    k, inside = model.k, chain_steps.within(lengths, windows.shape[1]).astype(dtype)
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
    a = of_errors(phi)
    variances = jnp.full((k,) if model.variance == "switching" else (), a @ gram @ a / w.sum(), dtype)
    transition = MOVES.start(share, None)
    return SwitchingParams(model.initial.start(share, None), transition, means, phi, variances)
