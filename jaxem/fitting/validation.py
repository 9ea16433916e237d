"""Checks of the input before anything is traced. Bad input raises a ``ValueError`` that says where it is."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import constraints, trees
from jaxem.core.compilation import program
from jaxem.core.conversion import check_shapes
from jaxem.core.data import Data, Sharded, counts_are_sound, observed_of, rows, split_weights
from jaxem.core.model import Params, has, spaces_of


def check_start(model: Any, params: Params, data: Data) -> None:
    """Raise ``ValueError`` where the start lies outside its spaces or the model refuses the data.

    In a trace only shapes are checked; ``is_valid`` checks the values there.
    """
    check_shapes(model, params, data)
    if trees.is_traced(model, params, data):
        return
    spread = isinstance(data, Sharded)  # sharded values are not gathered here; ``is_valid`` checks them
    seen = () if spread else jax.tree.leaves(observed_of(data))
    if seen and not any(bool(mask.any()) for mask in seen):
        raise ValueError("no value of the data is observed, so there is nothing to fit")
    # The data may allow no valid start: then say why.
    check_inside(model, params, (lambda: model.diagnose(data)) if has(model, "diagnose") and not spread else None)
    if has(model, "validate") and not spread:
        model.validate(params, data)


def check_inside(model: Any, params: Params, diagnose: Callable[[], None] | None = None) -> None:
    """Raise ``ValueError`` where the start lies outside its spaces; ``diagnose`` may raise one that says more."""
    # By NumPy: a program for this would take longer to compile than all of these take.
    with np.errstate(all="ignore"):
        inside = list(_membership(constraints.contains, spaces_of(model), jax.device_get(params)))
    for name, good, what in inside:
        if not good:
            if diagnose is not None:
                diagnose()
            raise ValueError(f"the start of {name} must be {what}; it is not. Correct its values.")


def is_valid(model: Any, params: Params, data: Data) -> Array:
    """Whether traced values would pass ``check_start``: weights, lengths, spaces and ``model.allows``."""
    inside = jnp.stack(jax.tree.leaves(constraints.contains(spaces_of(model), params))).all()
    allowed = model.allows(params, data) if has(model, "allows") else True
    return inside & counts_are_sound(data) & allowed


def _membership(inside: Callable[[Any, Params], Any], spaces: Any, params: Params) -> Iterator[tuple[str, Array, str]]:
    """For each leaf its name, the result of ``inside(spaces, params)``, and the description of its space."""
    found = jax.tree.leaves(inside(spaces, params))
    return zip(trees.leaf_names(params), found, constraints.describe(spaces, params), strict=True)


def check_starts(model: Any, params: Params, datasets: Data) -> None:
    """Raise ``ValueError`` with the number of the first of many data sets that ``check_start`` would refuse.

    All observations are checked together as one data set; only where that fails are the data sets checked one by one.
    """
    if has(model, "validate"):
        starts, data = jax.tree.map(np.asarray, (params, datasets))
        _validate(model, starts, data, 0)
        if not _passes_pooled(model, starts, data):
            for b in range(jax.tree.leaves(data)[0].shape[0]):
                _validate(model, starts, data, b)
    for name, good, what in _membership(_each_inside, spaces_of(model), params):
        if not good.all():
            if has(model, "diagnose"):
                _of_data_set(int(good.argmin()), lambda b: model.diagnose(rows(datasets, b)))
            raise ValueError(f"data set {int(good.argmin())}: the start of {name} must be {what}; it is not.")


@program(quick="few numbers")
def _each_inside(spaces: Any, params: Params) -> Array:
    return jax.vmap(lambda one: constraints.contains(spaces, one))(params)


def _passes_pooled(model: Any, params: Params, datasets: Data) -> bool:
    _, weights = split_weights(datasets)
    if weights is not None and not (weights > 0).any(axis=-1).all():
        return False  # one data set has no positive weight, which the pooled data would hide
    try:
        pooled = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), datasets)
        model.validate(rows(params, 0), pooled)
    except ValueError:
        return False
    return True


def _validate(model: Any, params: Params, datasets: Data, b: int) -> None:
    _of_data_set(b, lambda b: model.validate(rows(params, b), rows(datasets, b)))


def _of_data_set(b: int, check: Callable[[int], None]) -> None:
    """Run ``check(b)``, and add the number of the data set to its ``ValueError``."""
    try:
        check(b)
    except ValueError as error:
        raise ValueError(f"data set {b}: {error}") from error


def check_step(algorithm: Any, model: Any, state: Any, data: Data) -> None:
    """Raise ``ValueError`` where a step returns parameters unlike the start; runs while tracing."""
    while hasattr(algorithm, "inner"):  # an accelerator takes them from the M-step of another algorithm
        algorithm, state = algorithm.inner, state.memory.inner
    start, new = state.params, jax.eval_shape(lambda: algorithm.step(model, state, data)).params
    expected, found = jax.tree.structure(start), jax.tree.structure(new)
    if expected != found:
        names = [", ".join(trees.leaf_names(tree)) or "nothing" for tree in (start, new)]
        if names[0] == names[1]:
            names = [type(start).__name__, type(new).__name__]
        raise ValueError(
            f"the M-step returns another structure than the start has. Start: {names[0]}; M-step: {names[1]}. Return "
            "a tree like the start"
        )
    leaves = zip(trees.leaf_names(start), jax.tree.leaves(start), jax.tree.leaves(new), strict=True)
    for name, a, b in leaves:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ValueError(
                f"the M-step returns {name} as {b.dtype}{list(b.shape)}, but the start is {a.dtype}{list(a.shape)}. "
                "They must agree"
            )
