"""The rounding error of the objective of a model that does not declare itself accurate."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import bound, expectation, trees
from jaxem.core.data import Data, Spread
from jaxem.core.model import Params
from jaxem.core.passes import accumulate


def of_objective(model: Any, params: Params, data: Data, algorithm: Any, key: Array | None, objective: Array) -> Array:
    """The rounding error of the objective at ``params`` beyond ``bound.rounding``; it takes nine evaluations.

    ``objective`` is that of the state which the climb starts from, NaN before its first E-step.

    A stream is read once for all of them, and devices add up their parts one by one. The log-prior is then counted once
    a part, which overstates its rounding error.
    """
    dtype = trees.float_dtype(params)

    def values(operands: Any, part: Data) -> Array:
        model, algorithm, params, key = operands
        return expectation.around(lambda at: algorithm.init(model, at, part, key).objective, params)

    def of_part(operands: Any, part: Data) -> tuple[Array, Array]:
        model, _, params, _ = operands
        largest = expectation.default_block_size(model, params, part)
        terms = accumulate(lambda block: jnp.asarray(bound.terms(model, params, block), dtype), part, largest)
        return values(operands, part), terms

    operands = (model, algorithm, params, key)
    if isinstance(data, Spread):
        # By this the pass follows the one that found the objective: two at a time would share the chunks of one.
        at = jax.tree.map(lambda leaf: jnp.where(jnp.isinf(objective), jnp.nan, leaf), params)
        found, terms = data.total(of_part, (model, algorithm, at, key))
    else:
        found, terms = values(operands, data), bound.terms(model, params, data)
    # The difference misses noise below one unit in the last place of Q, because moving by some eps may change no digit.
    return 8 * expectation.second_difference(found) + jnp.finfo(dtype).eps * terms
