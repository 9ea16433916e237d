"""Covariance and standard errors of the estimate, in the model's own parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from jaxem.core import matrices, trees
from jaxem.core.checks import flag
from jaxem.core.compilation import ahead, program
from jaxem.core.conversion import convert
from jaxem.core.coordinates import into
from jaxem.core.data import Data, count
from jaxem.core.model import Params
from jaxem.fitting.validation import check_start
from jaxem.inference.coordinates import along_all, constant, coordinate_names, coordinates_like, flat_chart
from jaxem.inference.regularity import STATIONARY, without
from jaxem.inference.uncertainty.information import Route, choose_route, regular
from jaxem.inference.uncertainty.scores import filling, groups_that_count, prior_score, scores


class Spread(NamedTuple):
    """The covariance of the estimate in coordinates, and the map from coordinates to parameters."""

    free: Array  # (P, P); zero where a coordinate is held
    jacobian: Array  # (T, P), d params / d coordinates
    lives: Array  # (P,), True for coordinates that are not held
    held: Array  # (T,), True for parameters that are held at an edge and so have no standard error


def covariance(
    model: Any,
    params: Params,
    data: Data,
    *,
    route: Route | None = None,
    robust: bool = False,
    clusters: ArrayLike | None = None,
) -> Array:
    r"""The covariance matrix of the estimate, over all parameters in the order of ``ravel_pytree(params)``.

    .. math:: \operatorname{Cov} = J\, I_{observed}^{-1} J', \qquad J = \partial\theta / \partial u

    with u the unconstrained coordinates. The delta method through the constraints makes the covariance of K weights
    that sum to one a matrix of rank K - 1. The robust form replaces the inverse information by the sandwich

    .. math:: I_{observed}^{-1} \left(\sum_n s_n s_n'\right) I_{observed}^{-1}

    of the scores s_n of the observations. It is consistent where the model is wrong but the observations are
    independent. There is no small-sample factor.

    Arguments:
        model: the model.
        params: the maximum, or its ``Fit``.
        data: the data of the fit. Weights count as frequencies.
        route: how to compute the information, as in ``jaxem.inference.information``.
        robust: whether to return the sandwich; default False.
        clusters: labels (N,), where only clusters of observations are independent: the sandwich of the summed scores of
            each cluster. Inside a trace they must be whole numbers from 0 to N - 1. Default: no clusters.

    Returns:
        (T, T). A parameter at an edge of its space, such as a probability of zero, is held there: its row and column
        are NaN, and the rest is the covariance conditional on it (see ``jaxem.inference.information``). Inside a trace,
        NaN where there is no information or the scores have no spread.

    Raises:
        InformationError: there is no covariance (see ``jaxem.inference.information``).
        ValueError: for a sandwich, the rows of the data are not independent observations, or their scores have no
            spread: only one row or cluster has weight, or all rows are equal.

    Source: Efron & Hinkley (1978) for the observed information; Huber (1967); White (1982); Liang & Zeger (1986).
    """
    spread = spread_of(model, params, data, route, robust, clusters)
    return _covariance(spread)


def standard_errors(
    model: Any,
    params: Params,
    data: Data,
    *,
    route: Route | None = None,
    robust: bool = False,
    clusters: ArrayLike | None = None,
) -> Params:
    r"""The standard error of each parameter, shaped like ``params``.

    .. math:: \operatorname{se}_t = \operatorname{Cov}_{tt}^{1/2}

    Arguments:
        model, params, data, route, robust, clusters: as in ``jaxem.inference.covariance``.

    Returns:
        A pytree like ``params``: the square roots of the diagonal of ``jaxem.inference.covariance``. NaN for a
        parameter that is held at an edge of its space.

    Raises:
        InformationError: as in ``jaxem.inference.covariance``.
        ValueError: as in ``jaxem.inference.covariance``.

    Source: as in ``jaxem.inference.covariance``.
    """
    spread = spread_of(model, params, data, route, robust, clusters)
    return shaped_like(convert(model, params, data)[0], errors(spread))


@program(quick="few numbers")
def _covariance(spread: Spread) -> Array:
    whole = spread.jacobian @ spread.free @ spread.jacobian.T
    return jnp.where(spread.held[:, None] | spread.held[None, :], jnp.nan, whole)


@program(quick="few numbers")
def errors(spread: Spread) -> Array:
    """Standard errors of all parameters, (T,)."""
    variances = ((spread.jacobian @ spread.free) * spread.jacobian).sum(axis=1)
    return jnp.where(spread.held, jnp.nan, jnp.sqrt(jnp.maximum(variances, 0)))


@program(quick="few numbers")
def shaped_like(params: Params, values: Array) -> Params:
    """A vector (T,) as a pytree like the parameters."""
    return ravel_pytree(params)[1](values)


def spread_of(
    model: Any, params: Params, data: Data, route: Route | None, robust: bool, clusters: ArrayLike | None
) -> Spread:
    """The covariance in coordinates and the Jacobian of the chart; raises as ``covariance`` does."""
    flag("robust", robust)
    params, data = convert(model, params, data)
    check_start(model, params, data)
    if not robust and clusters is None:
        like = spread_like(model, params)
        ahead(_spread, model, params, like.free, like.lives, None)  # beside what gives the information
    found = regular(model, params, data, choose_route(model, route))
    params, lives, observed = found.params, found.lives, found.observed
    traced = trees.is_traced(observed)
    if not robust and clusters is None:
        return _spread(model, params, observed, lives, None)
    labels = None if clusters is None else _labels(clusters, count(data), traced)
    observed = without(observed, lives, 1)
    each, weights = scores(model, params, data)
    if not traced:
        _check_groups(weights, labels)
        _check_scores(observed, each, weights, prior_score(model, params), np.asarray(lives))
    between = filling(each, weights, labels, jnp.where(lives, jnp.diagonal(observed), 0))
    if not traced:
        _check_differ(between, coordinate_names(model, params))
    return _spread(model, params, observed, lives, between)


def _labels(clusters: ArrayLike, n: int, traced: bool) -> Array:
    if jnp.shape(clusters) != (n,):
        raise ValueError(f"clusters must be {n} labels, one for each observation; got shape {jnp.shape(clusters)}")
    if traced:
        return jnp.asarray(clusters)
    distinct, labels = np.unique(np.asarray(clusters), return_inverse=True)
    if len(distinct) < 2:
        raise ValueError("clusters: all observations are in one cluster; a robust covariance needs at least two")
    return jnp.asarray(labels, jnp.int32)


def _check_groups(weights: Array, labels: Array | None) -> None:
    if not groups_that_count(weights, labels) > 1:
        what = "observation" if labels is None else "cluster"
        raise ValueError(
            f"a robust covariance compares the scores of many {what}s, and only one {what} has weight here (one "
            "sequence is one observation). Use robust=False (without clusters), or jaxem.inference.bootstrap(..., "
            "kind='parametric')"
        )


def _check_differ(between: Array, names: tuple[str, ...]) -> None:
    """Raise ``ValueError`` where the scores are equal along a coordinate."""
    still = np.isnan(np.diagonal(between))
    if still.any():
        raise ValueError(
            f"the scores of the observations do not differ along {', '.join(np.array(names)[still][:4])}, so a robust "
            "standard error cannot be computed: are all observations equal? Use robust=False (without clusters), or "
            "jaxem.inference.bootstrap(..., kind='parametric')"
        )


def _check_scores(observed: Array, each: Array, weights: Array, prior: Array, lives: np.ndarray) -> None:
    """Raise ``ValueError`` unless the scores add up to the gradient of the objective, zero at the maximum."""
    total = np.where(lives, weights @ each + prior, 0)
    away = float(np.sqrt(max(total @ np.linalg.solve(np.asarray(observed), total), 0)))
    if not away <= 2 * STATIONARY:
        raise ValueError(
            f"the scores of the single observations do not add up to the gradient of the objective (off by {away:.3g} "
            "standard errors): the rows of these data are not independent observations, so the robust covariance is "
            "undefined. Use robust=False (without clusters)"
        )


def spread_like(model: Any, params: Params) -> Spread:
    """The shapes and dtypes of a ``Spread``."""
    u, t = coordinates_like(model, params), sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    like: Any = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype)
    return Spread(like(u.dtype, *u.shape, *u.shape), like(u.dtype, t, *u.shape), like(bool, *u.shape), like(bool, t))


@program(quick="few numbers")
def _spread(model: Any, params: Params, observed: Array, lives: Array, between: Array | None) -> Spread:
    u = into(model, params)
    chart = flat_chart(model, params)
    jacobian = along_all(lambda v: jax.jvp(chart, (u,), (v,))[1], u).T
    observed = without(observed, lives, 1)
    scale = 1 / jnp.sqrt(jnp.diagonal(observed))  # coordinates differ in units: solve a dimensionless system
    lower = matrices.cholesky(observed * scale[:, None] * scale[None, :])
    inverse = without(matrices.solve(lower, jnp.diag(scale)) * scale[:, None], lives, 0)
    moves = ((jacobian != 0) & lives[None, :]).any(axis=1)
    free = inverse if between is None else inverse @ without(between, lives, 0) @ inverse.T
    return Spread(free, jacobian, lives, ~(moves | constant(model, params)))
