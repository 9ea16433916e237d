"""Information criteria: -2 log-likelihood plus a penalty, lower is better.

Sign and scale are those of R and of most other software; mclust reports the negative.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound, constraints, trees
from jaxem.core.compilation import program
from jaxem.core.conversion import admit, as_params, of_fit
from jaxem.core.coordinates import living
from jaxem.core.data import Data
from jaxem.core.model import Params, check_model, has, require, require_classes
from jaxem.core.spaces import answers
from jaxem.inference.sample_size import sample_size
from jaxem.inference.selection.floors import without_floors


def number_of_parameters(model: Any, params: Params) -> int:
    """p, the number of free parameters: K weights that sum to one count K - 1, a covariance matrix D (D + 1) / 2.

    It is the number of unconstrained coordinates, minus the directions in which the likelihood is constant
    (``model.redundant``: rotations of factors), and at most the number that the data identify (``model.identified``: D
    means and D (D + 1) / 2 covariances, the Ledermann bound on factors). Parameters exactly on the edge of their space,
    such as a transition probability of zero, are held there and not counted, and neither are elements that their space
    holds.

    Arguments:
        model: the model; it needs ``constraints``.
        params: the parameters, or a ``Fit``; or their shapes (``jax.ShapeDtypeStruct``), in which case nothing counts
            as lying on an edge.

    Returns:
        An int; a scalar array where ``params`` are traced.

    Raises:
        ValueError: the model has no ``constraints``, or the parameters do not belong to it.
    """
    check_model(model)
    require(model, "a number of parameters", "constraints")
    params = of_fit(params)
    only_shapes = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))
    params = params if only_shapes else as_params(model, params)
    constraints.check_structure(model.constraints, params)
    if only_shapes:
        leaves = zip(constraints.leaves(model.constraints, params), jax.tree.leaves(params), strict=True)
        p = sum(answers.dimension(space, leaf.shape) for space, leaf in leaves)
    else:
        lives = living(model, params)
        p = lives.sum() if trees.is_traced(lives) else int(np.asarray(lives).sum())
    p = p - getattr(model, "redundant", 0)
    most = model.identified(params) if has(model, "identified") else p
    return min(p, most) if isinstance(p, int) else jnp.minimum(p, most)  # pyright: ignore[reportReturnType]


class Measured(NamedTuple):
    """The quantities from which the criteria are computed, at ``params``."""

    log_likelihood: Array  # log p(x | params), without the prior
    entropy: Array | None  # of the posterior; None where the model has no ``entropy``
    n: Array


def measure(model: Any, params: Params, data: Data) -> Measured:
    """Log-likelihood, posterior entropy and sample size; ``ValueError`` for a model without a likelihood or a bound.

    The likelihood is that of the model without floors (see ``floors.py``).
    """
    params, data = admit(model, params, data)
    require(model, "a criterion", "e_step")
    return _measure(without_floors(model), params, data)


@program(quick="few numbers")
def _measure(model: Any, params: Params, data: Data) -> Measured:
    q = model.e_step(params, data)
    entropy = model.entropy(q, data) if has(model, "entropy") else None
    if has(model, "log_likelihood"):
        value = model.log_likelihood(params, data)
    else:
        value = bound.evidence(model, params, q, data)
    if value is None:
        require(model, "a criterion", "log_likelihood")
    return Measured(jnp.asarray(value), entropy, sample_size(model, data))


def aic(model: Any, params: Params, data: Data) -> Array:
    """Akaike's information criterion at a maximum of the likelihood; lower is better.

    .. math:: AIC = -2 L + 2 p

    with p from ``jaxem.inference.number_of_parameters``.

    Arguments:
        model: the model; it needs ``constraints`` and a likelihood.
        params: the maximum, or its ``Fit``. The prior is not part of L, nor is a floor.
        data: the data of the fit. Observations count as often as their weight says.

    Returns:
        A scalar.

    Raises:
        ValueError: the model lacks ``constraints`` or a likelihood.

    Source: Akaike (1974).
    """
    return _aic(number_of_parameters(model, params), measure(model, params, data))


def aicc(model: Any, params: Params, data: Data) -> Array:
    r"""AIC with a correction for small n, at a maximum of the likelihood; lower is better.

    .. math:: AIC_c = -2 L + 2 p + \frac{2 p (p + 1)}{n - p - 1}

    Arguments:
        model, params, data: as in ``jaxem.inference.aic``; n is counted as in ``jaxem.inference.bic``.

    Returns:
        A scalar; infinite where n <= p + 1.

    Raises:
        ValueError: as in ``jaxem.inference.aic``.

    Source: Hurvich & Tsai (1989).
    """
    return _aicc(number_of_parameters(model, params), measure(model, params, data))


def bic(model: Any, params: Params, data: Data) -> Array:
    r"""The Bayesian information criterion at a maximum of the likelihood; lower is better.

    .. math:: BIC = -2 L + p \log n

    Arguments:
        model, params, data: as in ``jaxem.inference.aic``. n is the number of rows, each as often as its weight says;
            for a hidden Markov model it is the number of steps of all sequences.

    Returns:
        A scalar.

    Raises:
        ValueError: as in ``jaxem.inference.aic``.

    Source: Schwarz (1978).
    """
    return _bic(number_of_parameters(model, params), measure(model, params, data))


def icl(model: Any, params: Params, data: Data) -> Array:
    r"""The integrated completed likelihood, for models with latent classes: BIC plus twice the posterior entropy.

    .. math:: ICL = -2 L + p \log n + 2 H(q), \qquad q = p(z \mid x, \text{params})

    Lower is better. It favours classes that can be told apart, not only a good density. H is exact, as in McLachlan &
    Peel (2000, section 6.10.3); mclust assigns each observation to its most probable class instead, which makes H
    smaller.

    Arguments:
        model, params, data: as in ``jaxem.inference.bic``; the model also needs ``entropy`` and ``predict_proba``.

    Returns:
        A scalar.

    Raises:
        ValueError: the latent variable is not discrete, the model lacks ``entropy``, or as in ``jaxem.inference.aic``.

    Source: Biernacki, Celeux & Govaert (2000).
    """
    require(model, "icl", "entropy")
    p, measured = number_of_parameters(model, params), measure(model, params, data)
    require_classes(model, "icl", params, data)
    return _icl(p, measured)


CRITERIA = {"aic": aic, "aicc": aicc, "bic": bic, "icl": icl}


def _aic(p: int | Array, of: Measured) -> Array:
    return 2 * p - 2 * of.log_likelihood


def _aicc(p: int | Array, of: Measured) -> Array:
    left = of.n - p - 1
    return _aic(p, of) + jnp.where(left > 0, 2 * p * (p + 1) / jnp.where(left > 0, left, 1), jnp.inf)


def _bic(p: int | Array, of: Measured) -> Array:
    return p * jnp.log(of.n) - 2 * of.log_likelihood


def _icl(p: int | Array, of: Measured) -> Array:
    assert of.entropy is not None
    return _bic(p, of) + 2 * of.entropy


@program(quick="always")
def all_criteria(p: Array, of: Measured) -> dict[str, Array]:
    """Every criterion of a model with classes, or of many, from p and what was measured."""
    return {"aic": _aic(p, of), "aicc": _aicc(p, of), "bic": _bic(p, of), "icl": _icl(p, of)}
