"""Matching the class labels of two fits, and a canonical order of classes.

The likelihood of a mixture is invariant under permutation of its classes, and that of factor analysis under rotation of
its factors. Two fits can be compared once their labels, or rotations, are matched.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.conversion import admit, as_params
from jaxem.core.data import Data, split_weights
from jaxem.core.model import Params, check_model, has, require, require_classes

MOST_CLASSES = 12  # the search visits 2^K sets of classes


def align(model: Any, params: Params, reference: Params, data: Data) -> Params:
    r"""``params`` with their classes permuted to match ``reference``: matched classes claim the same observations.

    .. math:: \max_\sigma \sum_k \sum_n w_n\, r_{n \sigma(k)}\, r'_{nk}, \qquad
              r = p(z \mid x, \text{params}),\; r' = p(z \mid x, \text{reference})

    The maximum over all K! permutations is exact. It compares responsibilities, not parameters, so units do not matter.
    A model with ``rotate(params, reference)`` (factor analysis) has its factors rotated instead. Works under ``jit``
    and ``vmap``.

    Arguments:
        model: the model; it needs ``rotate``, or ``permute`` and ``predict_proba``.
        params: the parameters to permute, or a ``Fit``.
        reference: the parameters whose class labels to use, or a ``Fit``.
        data: the observations on which the responsibilities are compared.

    Returns:
        Parameters like ``params``, with the same likelihood.

    Raises:
        ValueError: the model lacks ``permute`` or ``predict_proba``, its latent variable is not discrete, or it has
            more than 12 classes.

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
    r, other = (jnp.where(jnp.isnan(each), 0, each) for each in (r, other))  # such a row counts for no class
    if weights is not None:
        weights = weights.reshape(-1, *(1,) * (r.ndim - 1)).astype(r.dtype)
        r, other = jnp.where(weights > 0, r * weights, 0), jnp.where(weights > 0, other, 0)
    k = r.shape[-1]
    return r.reshape(-1, k).T @ other.reshape(-1, k)


def assignment(gain: Array) -> Array:
    r"""The order (K,) that maximises sum_k gain[order[k], k], for ``gain (K, K)``, exactly.

    .. math:: f(S) = \max_{j \in S} f(S \setminus j) + gain_{j,\, |S| - 1}

    over the sets S of classes (Held & Karp 1962): 2^K K numbers. A gain that is not finite counts as zero. Raises
    ``ValueError`` where K > 12.
    """
    k = gain.shape[0]
    gain = jnp.where(jnp.isfinite(gain), gain, 0)  # argmax would choose NaN
    if k > MOST_CLASSES:
        raise ValueError(
            f"align compares all orders of {k} classes; it can do so for at most {MOST_CLASSES}. Find the order with "
            "scipy.optimize.linear_sum_assignment of jaxem.inference.alignment.agreement and pass it to model.permute"
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
    """The same parameters with their classes in a documented order, independent of the labels that EM gave them.

    Classes are sorted by ``model.label_keys(params)``, (K, F), in ascending order of the first column, with ties broken
    by the next. For mixtures and hidden Markov models the columns are the location of each class (means, rates or
    probabilities), one dimension after the other. A model with ``canonical(params)`` of its own (factor analysis) has
    its own canonical form.

    Arguments:
        model: the model; it needs ``canonical``, or ``permute`` and ``label_keys``.
        params: the parameters, or a ``Fit``.

    Returns:
        Parameters like ``params``, with the same likelihood.

    Raises:
        ValueError: the model lacks ``permute`` or ``label_keys``.
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
