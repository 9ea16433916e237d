"""What mixtures and hidden Markov models ask of their data and parameters, said before anything is traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.compilation import quick_jit


def check_shape(model: Any, x: Array, leading: tuple[str, ...]) -> None:
    """Raise ``ValueError`` where ``x`` is not (leading axes) + one event of the family."""
    events = ("D",) * model.family.event_ndim
    if x.ndim != len(leading) + len(events):
        family, wanted = type(model.family).__name__, ", ".join(leading + events)
        hint = " For one sequence x, pass x[None]." if "T" in leading and x.ndim == 1 + len(events) else ""
        raise ValueError(
            f"{type(model).__name__} of {family} needs data of shape ({wanted}); got shape {tuple(x.shape)}.{hint}"
        )


def check_classes(model: Any, params: Any) -> None:
    """Raise ``ValueError`` where a leaf of the class parameters is not for ``k`` classes."""
    for leaf in jax.tree.leaves(params):
        if leaf.ndim == 0 or leaf.shape[0] != model.k:
            raise ValueError(
                f"{type(model).__name__} has k = {model.k}, but the start has a class parameter of shape "
                f"{tuple(leaf.shape)}"
            )


def check_enough(model: Any, n: int) -> None:
    """Raise ``ValueError`` where there are fewer observations than classes."""
    if n < model.k:
        raise ValueError(f"{n} observations cannot tell {model.k} classes apart; use k <= {n}")


def check_support(family: Any, x: Array, observed: Array | None) -> None:
    """Raise ``ValueError`` naming the first observation that the family does not allow."""
    possible = np.asarray(_possible(family, x, observed))
    if not possible.all():
        index = int(np.flatnonzero(~possible)[0])
        raise ValueError(
            f"{type(family).__name__} needs {family.support} in every observation; {int((~possible).sum())} of "
            f"{len(possible)} are not, the first is number {index}: {np.asarray(x[index])}"
        )


@quick_jit
def _possible(family: Any, x: Array, observed: Array | None) -> Array:
    possible = family.supports(x)
    return possible if observed is None else possible | ~observed


def check_weights(weights: Array | None, n: int) -> None:
    """Raise ``ValueError`` where observation weights are not (N,), finite, non-negative and somewhere positive."""
    if weights is None:
        return
    if weights.shape != (n,):
        raise ValueError(f"the weights of {n} observations need shape ({n},); got {tuple(weights.shape)}")
    if not (jnp.isfinite(weights).all() and (weights >= 0).all() and (weights > 0).any()):
        raise ValueError("observation weights must be finite and not negative, and one of them above zero")
