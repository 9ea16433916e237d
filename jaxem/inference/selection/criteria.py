"""Criteria for the choice of a model: -2 log-likelihood and a penalty, lower is better.

The signs and the scale are those of R and of most other software; mclust's are minus these numbers.
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


def number_of_parameters(model: Any, params: Params) -> int:
    """p, the dimension of the parameter space: K weights that sum to one count K - 1, a covariance D (D + 1) / 2.

    It is the number of unconstrained coordinates, less those directions in which the likelihood does not change
    (``model.redundant``: the rotations of factors), and at most that of what the data tell of (``model.identified``:
    D means and D (D + 1) / 2 covariances, Ledermann's bound on factors). What lies exactly on the edge of its space,
    such as a transition of probability zero, is held there and not counted; nor is what a space holds. An array where
    ``params`` are traced.
    Raises ``ValueError`` where the model names no ``constraints``, or the parameters are none of its own.
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
    """What the criteria are made of, at ``params``."""

    log_likelihood: Array  # log p(x | params), without the prior
    entropy: Array | None  # of the posterior; None where the model has none
    n: Array


def measure(model: Any, params: Params, data: Data) -> Measured:
    """Log-likelihood, posterior entropy and sample size, in one program; ``ValueError`` for a model without a bound."""
    params, data = admit(model, params, data)
    require(model, "a criterion", "e_step")
    return _measure(model, params, data)


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
    """-2 L + 2 p, a scalar; lower is better. Akaike (1974).

    This and the other criteria are meant at a maximum of the likelihood. Weighted observations count as often as
    their weight. Raises ``ValueError`` where the model lacks ``constraints`` or a likelihood.
    """
    p = number_of_parameters(model, params)
    return 2 * p - 2 * measure(model, params, data).log_likelihood


def aicc(model: Any, params: Params, data: Data) -> Array:
    """-2 L + 2 p + 2 p (p + 1) / (n - p - 1), for small n; infinite where n <= p + 1. Hurvich & Tsai (1989)."""
    p = number_of_parameters(model, params)
    left = measure(model, params, data).n - p - 1
    correction = jnp.where(left > 0, 2 * p * (p + 1) / jnp.where(left > 0, left, 1), jnp.inf)
    return aic(model, params, data) + correction


def bic(model: Any, params: Params, data: Data) -> Array:
    """-2 L + p log n, a scalar; lower is better. Schwarz (1978).

    n: the number of rows; for a hidden Markov model that of all steps of all sequences.
    """
    p = number_of_parameters(model, params)
    L, _, n = measure(model, params, data)
    return p * jnp.log(n) - 2 * L


def icl(model: Any, params: Params, data: Data) -> Array:
    r"""The integrated completed likelihood, for models with latent classes: BIC and twice the posterior's entropy.

    .. math:: -2 L + p \log n + 2 H(q), \qquad q = p(z \mid x, \text{params})

    It asks not only for a good density but for classes that can be told apart. H is exact, as in McLachlan & Peel
    (2000, section 6.10.3); mclust puts each observation into its most probable class instead, which makes H smaller.

    Raises ``ValueError`` where the latent variable is not discrete or the model lacks ``entropy``.

    Source: Biernacki, Celeux & Govaert (2000).
    """
    require(model, "icl", "entropy")
    score = bic(model, params, data)
    require_classes(model, "icl", params, data)
    entropy = measure(model, params, data).entropy
    assert entropy is not None
    return score + 2 * entropy


CRITERIA = {"aic": aic, "aicc": aicc, "bic": bic, "icl": icl}
