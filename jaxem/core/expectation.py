"""One pass over the data: the E-step and what the M-step needs of it, in blocks of observations.

Where a model's statistics add up over observations, the posterior of one block is turned into statistics before
the next block is met: memory does not grow with the number of observations, and a block stays in the cache.

Statistics such as sums of squares cancel where data lie far from the origin. A model that has ``anchor(params)``
takes them about ``params`` instead, and undoes it in ``maximize``; EM anchors each iteration at the current
parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound, trees
from jaxem.core.compilation import program
from jaxem.core.conversion import admit
from jaxem.core.data import Data, count, take
from jaxem.core.model import Params, Posterior, has, has_m_step, is_additive, require

# Bytes a block may hold (its rows of data and of posterior): about the second-level cache of one CPU core; an
# accelerator wants work enough to fill it.
_BLOCK_BYTES = {"cpu": 2**20}
_BLOCK_BYTES_ELSEWHERE = 2**29
# Long rows (sequences, whole data sets) want to be side by side: so many, while they are no more than so many blocks.
_ABREAST, _BLOCKS = 128, 8


class Expectation(NamedTuple):
    """What one E-step leaves."""

    summary: Any  # the statistics where the model is additive, else q itself
    objective: Array | None  # at the parameters of this E-step


def anchored(model: Any, params: Params) -> Any:
    """The model with its statistics taken about ``params``."""
    return model.anchor(params) if has(model, "anchor") else model


@program
def posterior(model: Any, params: Params, data: Data) -> Posterior:
    """The E-step of EM: q = p(z | x, params)."""
    return model.e_step(params, data)


def expect(
    model: Any,
    params: Params,
    data: Data,
    block_size: int | None = None,
    e_step: Callable[..., Posterior] = posterior,
    evidence: Callable[..., Array | None] = bound.evidence,
) -> Expectation:
    """The E-step at ``params``, summarised for the M-step, and the objective from the same pass.

    ``e_step(model, params, data) -> q`` and ``evidence(model, params, q, data)``: those of EM, or of a variant that
    takes another q, and climbs something else by it.
    """
    model, forms = anchored(model, params), model.forms(params, data) if has(model, "forms") else None
    if is_additive(model):
        summary, value = sums(model, params, data, block_size, e_step, evidence, forms)
    else:
        summary = e_step(model, params, data)
        value = evidence(model, params, summary, data)
    return Expectation(summary, None if value is None else bound.penalized(model, value, params))


def sums(
    model: Any,
    params: Params,
    data: Data,
    block_size: int | None = None,
    e_step: Callable[..., Posterior] = posterior,
    evidence: Callable[..., Array | None] = bound.evidence,
    forms: tuple[Any, Any, Array] | None = None,
) -> tuple[Any, Array | None]:
    """The statistics of an additive model, taken about wherever it is anchored, and the evidence: sums over data that
    may be a part of all. ``forms``: those of the model, where it is anchored at ``params``."""

    def of(model: Any, block: Data) -> tuple[Any, Array | None]:
        q = e_step(model, params, block)
        return model.statistics(q, block), evidence(model, params, q, block)

    def one_block(block: Data) -> tuple[Any, Array | None]:
        if forms is None:
            return of(model, block)
        # One question a block, so that what it is asked of, and the answer, are all that passes the condition.
        quick, careful, safe = forms
        return jax.lax.cond(safe, lambda: of(quick, block), lambda: of(careful, block))

    return accumulate(one_block, data, block_size or default_block_size(model, params, data, e_step))


def maximize(model: Any, at: Params, summary: Any, data: Data) -> Params:
    """The M-step on the summary of an E-step taken ``at`` these parameters."""
    model = anchored(model, at)
    return model.maximize(summary) if is_additive(model) else model.m_step(summary, data)


def slope_from_sums(model: Any, params: Params, origin: Params, statistics: Any) -> Params:
    """The gradient of Q (and the log-prior) at ``params``, from sums about ``origin``; of a model that has
    ``expected_log_joint``. By the sums of the E-step at ``params`` it is that of the objective (Fisher's identity)."""
    model = anchored(model, origin)
    return jax.grad(lambda at: bound.penalized(model, model.expected_log_joint(at, statistics), at))(params)


def slope(model: Any, params: Params, data: Data) -> Params | None:
    """The gradient of the objective by a pass over the data, ``None`` where the model has nothing to make it of."""
    if has(model, "log_likelihood"):
        climbed = lambda at: model.log_likelihood(at, data)
    elif has(model, "q_function"):
        q = model.e_step(params, data)
        climbed = lambda at: model.q_function(at, q, data)
    else:
        return None
    return jax.grad(lambda at: bound.penalized(model, climbed(at), at))(params)


def em_map(model: Any, params: Params, data: Data) -> Params:
    """One EM iteration, M(params) = m_step(e_step(params)).

    Raises ``ValueError`` where the model lacks an E-step or an M-step, or parameters, data and model do not fit.
    """
    params, data = admit(model, params, data)
    require(model, "em_map", "e_step")
    if not has_m_step(model):
        require(model, "em_map", "m_step")
    return iterate(model, params, data)


def iterate(model: Any, params: Params, data: Data) -> Params:
    """``em_map`` of what has been checked."""
    return maximize(model, params, expect(model, params, data).summary, data)


def noise(objective: Callable[[Params], Array | None], params: Params) -> Array:
    """How far rounding error alone moves the objective at ``params``: its second differences over some eps.

    A smooth objective has none at that distance. One whose large terms cancel (the factorials of a multinomial) has,
    and only running it tells.
    """
    eps = float(jnp.finfo(trees.float_dtype(params)).eps)
    # What is zero is moved as far as what stands beside it.
    whole = jnp.where(trees.largest(params) > 0, trees.largest(params), 1)
    scales = jax.tree.map(
        lambda leaf: jnp.where(leaf != 0, leaf, jnp.where(trees.largest(leaf) > 0, trees.largest(leaf), whole)), params
    )

    def at(units: Array) -> Array:
        moved = jax.tree.map(lambda leaf, by: leaf + by * (units.astype(leaf.dtype) * eps), params, scales)
        value = objective(moved)
        assert value is not None
        return value

    apart = np.array([3, 17, 59, 211])  # far enough to round anew, near enough for curvature to show little
    values = jax.lax.map(at, jnp.asarray(np.concatenate([apart, [0], -apart])))
    differences = jnp.abs(values[:4] + values[5:] - 2 * values[4])
    # Curvature grows with the square of the distance: what of it the farthest may hold is taken from the others.
    curved = jnp.asarray((apart[:3] / apart[3]) ** 2, differences.dtype) * differences[3]
    rounded = jnp.maximum(differences[:3] - curved, 0)
    return jnp.where(jnp.isfinite(rounded), rounded, 0).max()


def default_block_size(model: Any, params: Params, data: Data, e_step: Callable[..., Posterior] = posterior) -> int:
    """Rows a block: as many as keep its data and posterior within the cache."""
    q = jax.eval_shape(lambda: e_step(model, params, data))
    return rows_in_cache(trees.size_in_bytes((q, data)) / max(count(data), 1))


def rows_in_cache(size: float) -> int:
    """How many rows of so many bytes make a block."""
    rows = _BLOCK_BYTES.get(jax.default_backend(), _BLOCK_BYTES_ELSEWHERE) / max(size, 1)
    return max(int(max(rows, min(_ABREAST, _BLOCKS * rows))), 1)


def accumulate(one_block: Callable[[Data], Any], data: Data, largest: int) -> Any:
    """The sum of ``one_block`` (a tree of sums over its observations) over blocks of at most ``largest`` rows.

    Compensated across blocks, so that the rounding error does not grow with their number.
    """
    rows = count(data)
    if rows <= largest:
        return one_block(data)
    block_size = rows // -(-rows // largest)  # equal blocks, and fewer rows than blocks left over
    blocks, rest = divmod(rows, block_size)
    sums = _sum_blocks(one_block, data, blocks, block_size)
    if rest:
        sums = trees.two_sum(*sums, one_block(take(data, rows - rest, rest)))
    return jax.tree.map(jnp.add, *sums)


def _sum_blocks(one_block: Any, data: Data, blocks: int, block_size: int) -> tuple[Any, Any]:
    """The sum over the full blocks and what rounding lost of it."""
    shapes = jax.eval_shape(one_block, jax.eval_shape(lambda: take(data, 0, block_size)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def body(sums: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], None]:
        return trees.two_sum(*sums, one_block(take(data, index * block_size, block_size))), None

    sums, _ = jax.lax.scan(body, (zeros, zeros), jnp.arange(blocks))
    return sums
