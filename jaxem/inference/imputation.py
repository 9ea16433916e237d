"""Missing cells replaced by what the model says about them."""

from typing import Any

from jax import Array

from jaxem.core.checks import prng_key
from jaxem.core.conversion import admit
from jaxem.core.data import Data, observed_of, values_of
from jaxem.core.model import Params, require


def impute(model: Any, params: Params, data: Data, *, key: Array | None = None) -> Any:
    r"""The values of the data with each missing cell replaced by its mean, or by a draw, given what is seen.

    .. math:: E[x_{mis} \mid x_{obs}, \theta] = \sum_k p(z = k \mid x_{obs})\, E[x_{mis} \mid x_{obs}, z = k]

    A missing code of a ``Categorical`` becomes the most probable one, for a mean of codes means nothing. Means are best
    guesses of single cells; they vary less than data do. For analyses of completed data use several draws.

    Arguments:
        model: the model; it needs ``impute``, which mixtures, hidden Markov models and ``FactorAnalysis`` have.
        params: parameters of the model, or a ``Fit``.
        data: N observations, made by ``jaxem.dataset(..., missing="nan")``. Or intervals of ``Censored``, each of which
            becomes (x, x) with x its conditional mean or a draw.
        key: a random key for draws; default: none, which gives means.

    Returns:
        The values, shaped as in the data; observed cells are unchanged.

    Raises:
        ValueError: the model lacks ``impute``; ``key`` is not a random key; or the parameters, the data and the model
            do not fit each other.

    Source: Little & Rubin (2019), chapters 4 and 10.
    """
    if key is not None:
        prng_key("impute", key)
    params, data = admit(model, params, data)
    require(model, "impute", "impute")
    whole = observed_of(data) is None and not getattr(getattr(model, "family", None), "partial", False)
    return values_of(data) if whole else model.impute(params, data, key)
