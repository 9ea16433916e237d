"""What can be said of the input before anything is traced; a bad input is a ``ValueError`` that says where."""

from typing import Any

import jax
from jax import Array

from jaxem.core import constraints, trees
from jaxem.core.compilation import quick_jit
from jaxem.core.data import Data
from jaxem.core.model import Params, has, spaces_of


def check_start(model: Any, params: Params, data: Data) -> None:
    """Raise ``ValueError`` where the start lies outside its spaces or the model refuses the data."""
    if trees.is_traced(model, params, data):
        return
    spaces = spaces_of(model)
    try:
        inside = _inside(spaces, params)
    except ValueError as error:
        raise ValueError(f"the parameters do not have the structure of the model's constraints: {error}") from error
    asked = constraints.describe(spaces, params)
    for name, good, what in zip(trees.leaf_names(params), jax.tree.leaves(inside), asked, strict=True):
        if not good:
            raise ValueError(f"the start of {name} must be {what}; it is not. Look at its values.")
    if has(model, "validate"):
        model.validate(params, data)


@quick_jit
def _inside(spaces: Any, params: Params) -> Array:
    return constraints.contains(spaces, params)


def check_step(algorithm: Any, model: Any, state: Any, data: Data) -> None:
    """Raise ``ValueError`` where a step does not return parameters like the start (seen while tracing)."""
    start, new = state.params, jax.eval_shape(algorithm.step, model, state, data).params
    expected, found = jax.tree.structure(start), jax.tree.structure(new)
    if expected != found:
        raise ValueError(f"the M-step returns another structure than the start has. Start: {expected}; M-step: {found}")
    leaves = zip(trees.leaf_names(start), jax.tree.leaves(start), jax.tree.leaves(new), strict=True)
    for name, a, b in leaves:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ValueError(
                f"the M-step returns {name} as {b.dtype}{list(b.shape)}, but the start is {a.dtype}{list(a.shape)}"
            )
