"""Identifiability: which class of one fit is which of another, and an order to name them by.

The likelihood of a mixture does not change when its classes change names, nor that of factor analysis when its factors
are turned. Two fits are comparable once the names are matched.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.conversion import admit, as_params
from jaxem.core.data import Data, split_weights
from jaxem.core.model import Params, check_model, has, require, require_classes

MOST_CLASSES = 12  # 2^K sets of classes are looked at


def align(model: Any, params: Params, reference: Params, data: Data) -> Params:
    r"""``params`` with their classes named as in ``reference``: those that claim the same observations.

    .. math:: \max_\sigma \sum_k \sum_n w_n\, r_{n \sigma(k)}\, r'_{nk}, \qquad
              r = p(z \mid x, \text{params}),\; r' = p(z \mid x, \text{reference})

    The maximum is exact, over all K! namings, and asks for no metric of the parameters: units do not matter. Works
    under ``jit`` and ``vmap``. A model with ``rotate(params, reference)`` (factor analysis) is turned instead.

    Raises ``ValueError`` where the model lacks ``permute`` or ``predict_proba``, or has more than 12 classes.

    Source: Stephens (2000), *Dealing with label switching in mixture models*.
    """
    params, data = admit(model, params, data)
    reference, _ = admit(model, reference, data)
    if has(model, "rotate"):
        return model.rotate(params, reference)
    require(model, "align", "permute", "predict_proba")
    require_classes(model, "align", params, data)
    return model.permute(params, assignment(agreement(model, params, reference, data)))


def agreement(model: Any, params: Params, reference: Params, data: Data) -> Array:
    """sum_n w_n r_nj r'_nk, (K, K): how many observations class j of ``params`` and k of ``reference`` share."""
    observations, weights = split_weights(data)
    r, other = model.predict_proba(params, observations), model.predict_proba(reference, observations)
    r, other = (jnp.where(jnp.isnan(each), 0, each) for each in (r, other))  # a row without an answer agrees with none
    if weights is not None:
        weights = weights.reshape(-1, *(1,) * (r.ndim - 1)).astype(r.dtype)
        r, other = jnp.where(weights > 0, r * weights, 0), jnp.where(weights > 0, other, 0)
    k = r.shape[-1]
    return r.reshape(-1, k).T @ other.reshape(-1, k)


def assignment(gain: Array) -> Array:
    r"""The order that maximises sum_k gain[order[k], k], ``gain (K, K)``, exactly.

    .. math:: f(S) = \max_{j \in S} f(S \setminus j) + gain_{j,\, |S| - 1}

    over the sets S of classes (Held & Karp 1962): 2^K K numbers. A gain that is not finite counts as none. Raises
    ``ValueError`` where K > 12.
    """
    k = gain.shape[0]
    gain = jnp.where(jnp.isfinite(gain), gain, 0)  # NaN would be the largest of its column
    if k > MOST_CLASSES:
        raise ValueError(
            f"align compares all namings of {k} classes; it can for at most {MOST_CLASSES}. Find the order yourself "
            "(scipy.optimize.linear_sum_assignment of jaxem.inference.alignment.agreement) and pass it to model.permute"
        )
    sets, members = np.arange(2**k)[:, None], np.arange(k)[None, :]
    without = jnp.asarray(sets & ~(1 << members))
    inside = jnp.asarray((sets >> members) & 1 == 1)

    def place(f: Array, column: Array) -> tuple[Array, Array]:
        totals = jnp.where(inside, f[without] + column[None, :], -jnp.inf)
        return totals.max(axis=1), totals.argmax(axis=1)

    nothing = jnp.where(jnp.arange(2**k) == 0, 0, -jnp.inf).astype(gain.dtype)
    _, last = jax.lax.scan(place, nothing, gain.T)

    def take_back(rest: Array, last_of: Array) -> tuple[Array, Array]:
        j = last_of[rest]
        return without[rest, j], j

    _, order = jax.lax.scan(take_back, jnp.asarray(2**k - 1), last, reverse=True)
    return order


def canonical(model: Any, params: Params) -> Params:
    """The same parameters with their classes in a documented order, whatever the names EM gave them.

    Classes are sorted by ``model.label_keys(params) (K, F)``, ascending, ties by the next column: for mixtures and
    hidden Markov models where each class lies (the means, rates or probabilities of its first dimension, then those of
    the next). A model with ``canonical(params)`` of its own (factor analysis) has its own form.

    Raises ``ValueError`` where the model lacks ``permute`` or ``label_keys``.
    """
    check_model(model)
    params = as_params(model, params)
    if has(model, "check_shapes"):
        model.check_shapes(params, None)
    if has(model, "canonical"):
        return model.canonical(params)
    require(model, "canonical", "permute", "label_keys")
    keys = model.label_keys(params)
    return model.permute(params, jnp.lexsort(keys.T[::-1]))
