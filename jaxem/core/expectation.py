"""The E-step, summarised for the M-step in one pass over the data.

Where a model's statistics add up over observations, the posterior of each block is turned into sums before the next
block is processed. Memory then does not grow with the number of observations, and each block stays in the cache.

Sums such as those of squares cancel where data lie far from the origin. Ready-made models therefore take sums about
given parameters, by default those of the E-step, and the M-step undoes this.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound, trees
from jaxem.core.compilation import program
from jaxem.core.contexts import Context, choose
from jaxem.core.conversion import admit
from jaxem.core.data import Data, Spread, count, counted, tile_of, total
from jaxem.core.model import Params, Posterior, has, has_m_step, is_additive, require
from jaxem.core.passes import reduce, rows_in_cache
from jaxem.core.rows import FromRows, Statistics

By = Literal["infer", "mode", "tempered"]
_PUBLIC = {"infer": "e_step", "mode": "c_step", "tempered": "tempered_e_step"}


class Expectation(NamedTuple):
    """The result of one E-step."""

    summary: Any  # the sums if the model is additive, else q itself
    objective: Array | None  # at the parameters of this E-step


@program
def posterior(model: Any, params: Params, data: Data) -> Posterior:
    """The E-step of EM: q = p(z | x, params)."""
    return model.e_step(params, data)


def expect(
    model: Any, params: Params, data: Data, block_size: int | None = None, by: By = "infer", more: tuple[Any, ...] = ()
) -> Expectation:
    """The E-step at ``params``, summarised for the M-step, and the objective from the same pass.

    ``by``: the posterior: p(z | x) (``"infer"``), the most probable z (``"mode"``), or a power of p(x, z)
    (``"tempered"``, with the inverse temperature in ``more``). The objective is log p(x), or the bound for the most
    probable z, plus the log-prior; ``None`` where the model has no objective.
    """
    if is_additive(model):
        summary, value = sums(model, params, data, block_size=block_size, by=by, more=more)
    else:
        summary = _posterior(model, params, data, by, more)
        value = _evidence(model, params, summary, data, by)
    return Expectation(summary, None if value is None else bound.penalized(model, value, params))


def sums(
    model: Any,
    params: Params,
    data: Data,
    about: Params | None = None,
    block_size: int | None = None,
    by: By = "infer",
    more: tuple[Any, ...] = (),
) -> tuple[Any, Array | None]:
    """The sums of an additive model over ``data``, all data or a part of them, and their evidence.

    ``about``: the parameters about which the sums are taken; default: those of the E-step.
    """
    largest = block_size or default_block_size(model, params, data)
    if not _made_of_rows(model):

        def public(operands: Any, block: Data) -> tuple[Any, Array | None]:
            model, params, about, more = operands
            q = _posterior(model, params, block, by, more)
            return statistics(model, about, q, block), _evidence(model, params, q, block, by)

        return reduce(public, (model, params, about, more), data, largest)

    def of_rows(operands: Any, block: Data) -> tuple[Any, Array]:
        model, contexts, more = operands
        x, w = counted(block)

        def of(contexts: tuple[Any, ...]) -> tuple[Any, Array]:
            c = contexts[0]
            q = _rows(model, c, x, more, by)
            value = model.complete(c, q, x) + model.entropy_rows(c, q, x) if by == "mode" else q.log_normalizer
            return Centred(model.sums(contexts[-1], w, q, x)), total(value, w)

        return choose(contexts, of)

    context = model.prepare(params, data)  # computed once for all blocks
    contexts = (context,) if about is None else (context, model.prepare(about, data))
    return reduce(of_rows, (model, contexts, more), data, largest)


# A program of its own, so that the E-steps at the start and in the loop of a fit are lowered once.
@program(static_argnames=("by",))
def _rows(model: Any, c: Context, x: Data, more: tuple[Any, ...], by: By) -> Posterior:
    return getattr(model, by)(c, x, *more)


def _posterior(model: Any, params: Params, data: Data, by: By, more: tuple[Any, ...]) -> Posterior:
    if by == "infer":
        return posterior(model, params, data)
    return getattr(model, _PUBLIC[by])(params, data, *more)


def _evidence(model: Any, params: Params, q: Posterior, data: Data, by: By) -> Array | None:
    """log p(x | params), or the bound for the most probable z."""
    if by == "mode":
        return bound.elbo(model, params, q, data)
    if by == "tempered" and not has(model, "log_normalizer") and not has(model, "log_likelihood"):
        q = model.tempered_e_step(params, data, 1.0)  # the bound equals log p(x) only at the posterior itself
    return bound.evidence(model, params, q, data)


def statistics(model: Any, about: Params | None, q: Posterior, data: Data) -> Any:
    """The sums of a posterior, about the parameters ``about`` where the model supports it, else those of its E-step."""
    if about is not None and "at" in getattr(q, "_fields", ()):
        q = q._replace(at=about)
    return sums_of(model.statistics(q, data))


def _made_of_rows(model: Any) -> bool:
    return isinstance(model, FromRows)


class Centred(NamedTuple):
    """The sums of ``Statistics`` without the point they were taken about: the part that adds up."""

    sums: Any


def sums_of(statistics: Any) -> Any:
    """The part of the statistics that adds up."""
    return Centred(statistics.sums) if isinstance(statistics, Statistics) else statistics


def at_point(at: Params, sums: Any) -> Any:
    """The statistics that ``model.maximize`` takes, from sums taken about ``at``."""
    return Statistics(at, sums.sums) if isinstance(sums, Centred) else sums


def maximize(model: Any, at: Params, summary: Any, data: Data) -> Params:
    """The M-step on the summary of an E-step: sums about ``at``, or a posterior."""
    return maximize_sums(model, at, summary) if is_additive(model) else model.m_step(summary, data)


def maximize_sums(model: Any, at: Params, sums: Any) -> Params:
    """The M-step on sums taken about ``at``."""
    return model.maximize(at_point(at, sums))


def slope_from_sums(model: Any, params: Params, at: Params, sums: Any) -> Params:
    """The gradient of Q + log-prior at ``params``, from sums about ``at``; the model needs ``expected_log_joint``.

    From the sums of the E-step at ``params`` it is the gradient of the objective (Fisher's identity).
    """
    found = at_point(at, sums)
    return jax.grad(lambda to: bound.penalized(model, model.expected_log_joint(to, found), to))(params)


def slope(model: Any, params: Params, data: Data, prior: bool = True) -> Params | None:
    """The gradient of the objective, by a pass over the data; ``None`` with neither L nor Q.

    Without ``prior``, that of the log-likelihood alone, which adds up over observations.
    """
    if has(model, "log_likelihood"):
        climbed = lambda at: model.log_likelihood(at, data)
    elif has(model, "q_function"):
        q = model.e_step(params, data)
        climbed = lambda at: model.q_function(at, q, data)
    else:
        return None
    return jax.grad(lambda at: bound.penalized(model, climbed(at), at) if prior else climbed(at))(params)


def slopes(model: Any, points: tuple[Params, ...], data: Data) -> tuple[Params, ...]:
    """The gradients of the objective at several points; where only sums over parts are to be had, by one pass."""
    if not isinstance(data, Spread):
        return tuple(slope(model, at, data) for at in points)

    def one_block(operands: Any, block: Data) -> tuple[Params, ...]:
        model, points = operands
        return tuple(slope(model, at, block, prior=False) for at in points)

    found = reduce(one_block, (model, points), data, default_block_size(model, points[0], data))
    prior = jax.grad(lambda at: bound.penalized(model, jnp.zeros_like(trees.largest(at)), at))
    return jax.tree.map(jnp.add, found, tuple(map(prior, points)))


def em_map(model: Any, params: Params, data: Data) -> Params:
    r"""The parameters after one EM iteration.

    .. math:: M(\theta) = m\_step(e\_step(\theta, x), x)

    Arguments:
        model: the model; it needs ``e_step``, and ``m_step`` or ``statistics`` and ``maximize``.
        params: the parameters before the iteration, or a ``Fit``.
        data: the data.

    Returns:
        The new parameters, shaped like ``params``.

    Raises:
        ValueError: the model lacks an E-step or an M-step; or the parameters, the data and the model do not fit each
            other.

    Source: Dempster, Laird & Rubin (1977).
    """
    params, data = admit(model, params, data)
    require(model, "em_map", "e_step")
    if not has_m_step(model):
        require(model, "em_map", "m_step")
    return iterate(model, params, data)


def iterate(model: Any, params: Params, data: Data) -> Params:
    """``em_map`` without its checks."""
    return maximize(model, params, expect(model, params, data).summary, data)


_APART = np.array([3, 17, 59, 211])  # in eps: far enough to change the rounding, near enough to keep curvature small


def noise(objective: Callable[[Params], Array | None], params: Params) -> Array:
    """The rounding error of the objective at ``params``: its largest second difference over steps of a few eps.

    Over such steps a smooth function has a second difference of nearly zero, so what remains is rounding error. It is
    large where large terms cancel (the factorials of a multinomial), which only evaluating the objective can show.
    """
    return second_difference(around(objective, params))


def around(objective: Callable[[Params], Array | None], params: Params) -> Array:
    """The values from which ``noise`` is computed; those of the parts of the data add up."""
    eps = float(jnp.finfo(trees.float_dtype(params)).eps)
    # A zero is moved by the scale of the largest element of its leaf, or of all leaves.
    whole = jnp.where(trees.largest(params) > 0, trees.largest(params), 1)
    scales = jax.tree.map(
        lambda leaf: jnp.where(leaf != 0, leaf, jnp.where(trees.largest(leaf) > 0, trees.largest(leaf), whole)), params
    )

    def at(units: Array) -> Array:
        moved = jax.tree.map(lambda leaf, by: leaf + by * (units.astype(leaf.dtype) * eps), params, scales)
        value = objective(moved)
        assert value is not None
        return value

    return jax.lax.map(at, jnp.asarray(np.concatenate([_APART, [0], -_APART])))


def second_difference(values: Array) -> Array:
    """``noise`` from the values ``around`` the parameters."""
    differences = jnp.abs(values[:4] + values[5:] - 2 * values[4])
    # Curvature grows with the square of the step: the largest step bounds it, and this bound is subtracted.
    curved = jnp.asarray((_APART[:3] / _APART[3]) ** 2, differences.dtype) * differences[3]
    rounded = jnp.maximum(differences[:3] - curved, 0)
    return jnp.where(jnp.isfinite(rounded), rounded, 0).max()


def default_block_size(model: Any, params: Params, data: Data) -> int:
    """The number of rows in a block: as many as keep its data and posterior within the cache."""
    if not isinstance(data, Spread) and count(data) == 1:
        return 1  # one row, such as one sequence, is one block: tracing the E-step for its size would be for nothing

    def rows(data: Data) -> Posterior:
        if _made_of_rows(model):
            x = counted(data)[0]
            return choose(model.prepare(params, x), lambda c: model.infer(c, x))
        return posterior(model, params, data)

    if isinstance(data, Spread):  # functions of a user take the parts, which have this structure
        part = data.data
        q = jax.eval_shape(rows, part)
    else:
        part, q = data, jax.eval_shape(lambda: rows(data))
    n = max(count(data), 1)
    # What all rows share is met once per block: it should not be the larger part of a block. Tiles meet only their own.
    shared = sum(trees.size_in_bytes(leaf) for leaf in jax.tree.leaves(q) if leaf.ndim and leaf.shape[0] % n)
    size = (trees.size_in_bytes((q, part)) - shared) / n
    return max(rows_in_cache(size), int(2 * shared / size) if tile_of(part) == 1 else 0)
