"""The score of each observation, from which the sandwich covariance is computed."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import bound
from jaxem.core.compilation import program
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data, count, counted
from jaxem.core.model import Params, has, require
from jaxem.inference.coordinates import along_all


@program(quick="few numbers")
def scores(model: Any, params: Params, data: Data) -> tuple[Array, Array]:
    """The gradient of log p(x_n | params) in unconstrained coordinates for each observation, (N, P), and weights (N,).

    From ``log_prob`` where the model has it. Otherwise by Fisher's identity on data of one row each: the gradient of
    Q(. | q_n) at fixed q_n = e_step(params, x_n). The log-prior is not included.
    """
    observations, weights = counted(data)
    u, at = into(model, params), chart(model, params)
    if weights is None:
        weights = jnp.ones((count(observations),), u.dtype)
    if has(model, "log_prob"):
        each = lambda w: model.log_prob(at(w), observations)
        return along_all(lambda v: jax.jvp(each, (u,), (v,))[1], u).T, weights.astype(u.dtype)
    require(model, "the score of an observation", "q_function")

    def one(row: Data) -> Array:
        alone = jax.tree.map(lambda leaf: leaf[None], row)
        q = model.e_step(at(u), alone)
        return jax.grad(lambda w: model.q_function(at(w), q, alone))(u)

    return jax.vmap(one)(observations), weights.astype(u.dtype)


@program(quick="few numbers")
def prior_score(model: Any, params: Params) -> Array:
    """The gradient of the log-prior, (P,); zero for a model without one."""
    u, at = into(model, params), chart(model, params)
    return jax.grad(lambda w: bound.penalized(model, 0 * w.sum(), at(w)))(u)


@program
def filling(each: Array, weights: Array, clusters: Array | None, information: Array) -> Array:
    """The variance of the summed scores, (P, P): sum_g S_g S_g' - (sum_g S_g)(sum_g S_g)' / G.

    S_g is the summed score of cluster g of G; without clusters each observation is a cluster, counted ``weights``
    times. At a maximum of the likelihood the second term is zero; with a prior it is not.

    NaN where the scores have no spread: with a single cluster or observation, and along coordinates on which all scores
    are equal. A variance within rounding error of the ``information (P,)`` along a coordinate counts as no spread.
    """
    weighted = weights[:, None] * each
    whole = weighted.sum(axis=0)
    number = groups_that_count(weights, clusters)
    if clusters is None:
        spread = weighted.T @ each - whole[:, None] * whole[None, :] / weights.sum()
    else:
        groups = jax.ops.segment_sum(weighted, clusters, each.shape[0])
        spread = groups.T @ groups - whole[:, None] * whole[None, :] / number.astype(each.dtype)
    still = (jnp.diagonal(spread) <= jnp.finfo(each.dtype).eps * information) & (information > 0)
    return jnp.where(still[:, None] | still[None, :] | (number < 2), jnp.nan, spread)


def groups_that_count(weights: Array, clusters: Array | None) -> Array:
    """The number of observations, or of clusters of them, with a weight above zero."""
    counts = (weights > 0).astype(jnp.int32)
    if clusters is None:
        return counts.sum()
    return (jax.ops.segment_max(counts, clusters, weights.shape[0]) > 0).sum()
