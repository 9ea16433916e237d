"""Wald confidence intervals that stay inside the space of each parameter."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from jaxem.core import constraints
from jaxem.core.checks import number
from jaxem.core.compilation import ahead, program
from jaxem.core.conversion import convert
from jaxem.core.coordinates import into
from jaxem.core.data import Data
from jaxem.core.model import Params, spaces_of
from jaxem.core.spaces import answers
from jaxem.inference.coordinates import parameter_spaces
from jaxem.inference.uncertainty.information import Route
from jaxem.inference.uncertainty.standard_errors import Spread, errors, shaped_like, spread_like, spread_of


class Intervals(NamedTuple):
    """The lower and upper end of the interval of each parameter, two pytrees like the parameters."""

    lower: Params  # the lower ends
    upper: Params  # the upper ends


def confidence_intervals(
    model: Any,
    params: Params,
    data: Data,
    *,
    level: float = 0.95,
    route: Route | None = None,
    robust: bool = False,
    clusters: ArrayLike | None = None,
) -> Intervals:
    r"""Wald confidence intervals, one for each parameter, computed on an unbounded scale and mapped back.

    .. math:: g^{-1}\left(g(\hat\theta) \pm z\, \operatorname{se}\right), \qquad
              z = \Phi^{-1}\left((1 + level) / 2\right)

    with se the standard error of g(theta) by the delta method. The scale g depends on the space of the parameter: a
    real number is taken as it is; a positive number by its log; a number in the unit interval, and each weight of a
    simplex, by its logit; the diagonal of a covariance matrix by its log; an entry off the diagonal, which may have
    either sign, as it is. Parameters in a user's own space without an ``interval`` are treated as real numbers.

    Arguments:
        model: the model.
        params: the maximum, or its ``Fit``.
        data: the data of the fit.
        level: the coverage, a probability strictly between 0 and 1; default 0.95.
        route, robust, clusters: as in ``jaxem.inference.covariance``.

    Returns:
        ``Intervals``, (lower, upper), each a pytree like ``params``. A parameter that is held at an edge of its space
        has no interval: NaN. Inside a trace, all are NaN where ``covariance`` would raise ``InformationError``.

    Raises:
        InformationError: as in ``jaxem.inference.covariance``.
        ValueError: the level is not in (0, 1), or as in ``jaxem.inference.covariance``.

    Source: Wald (1943); for intervals that follow the likelihood, see ``jaxem.inference.profile_interval``.
    """
    check_level(level)
    params, data = convert(model, params, data)
    return wald_of(model, params, data, level, route, robust, clusters)[2]


def wald_of(
    model: Any,
    params: Params,
    data: Data,
    level: float,
    route: Route | None,
    robust: bool,
    clusters: ArrayLike | None,
) -> tuple[Spread, Array, Intervals]:
    """The covariance in coordinates, standard errors (T,) and intervals from it; raises as ``covariance`` does."""
    ahead(_wald, model, params, spread_like(model, params), level)  # beside what gives the covariance
    spread = spread_of(model, params, data, route, robust, clusters)
    return spread, *_wald(model, params, spread, level)


def check_level(level: Any) -> None:
    """Raise ``ValueError`` unless the level is a probability strictly between 0 and 1."""
    number("level (such as 0.95)", level, 0, 1, open_ends=True)


@program(quick="few numbers")
def _wald(model: Any, params: Params, spread: Spread, level: ArrayLike) -> tuple[Array, Intervals]:
    """Standard errors (T,) and intervals, from the covariance in coordinates."""
    dtype = spread.free.dtype
    z = ndtri((1 + jnp.asarray(level, dtype)) / 2)
    free = jax.tree.leaves(constraints.inverse(spaces_of(model), params))
    u = into(model, params)
    free_errors = _split(jnp.sqrt(jnp.maximum(jnp.diagonal(spread.free), 0)), free)
    leaves, structure = jax.tree.flatten(params)
    every = errors(spread)
    own_errors = jax.tree.leaves(shaped_like(params, every))
    assert u.shape[0] == spread.free.shape[0]
    ends = []
    spaces = parameter_spaces(model, params)
    for space, value, se, free_value, free_se in zip(spaces, leaves, own_errors, free, free_errors, strict=True):
        ends.append(answers.interval(space, value, z * se, free_value, z * free_se))
    # A parameter held at an edge has no standard error and therefore no Wald interval.
    ends = [[jnp.where(jnp.isnan(se), jnp.nan, end) for end in both] for both, se in zip(ends, own_errors, strict=True)]
    return every, Intervals(*(jax.tree.unflatten(structure, side) for side in zip(*ends, strict=True)))


def _split(vector: Array, like: list[Array]) -> list[Array]:
    parts, start = [], 0
    for leaf in like:
        parts.append(vector[start : start + leaf.size].reshape(leaf.shape))
        start += leaf.size
    return parts
