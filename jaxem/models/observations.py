"""Checks of data and parameters for mixtures and hidden Markov models.

Shapes are always checked; values only where they are not traced.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import data as datasets
from jaxem.core.arrays import check_precision
from jaxem.core.checks import instance, whole_number
from jaxem.core.compilation import program
from jaxem.core.data import Data, Dataset, Sharded
from jaxem.core.parameters import check_shapes


def check_definition(model: Any) -> None:
    """Raise ``ValueError`` where ``family`` is not a family or ``k`` no number of classes; ``k`` becomes an int."""
    name = type(model).__name__
    instance(
        f"{name}: family",
        model.family,
        "a family, such as Normal()",
        "declare",
        "log_density",
        "statistics",
        "maximize",
        "expected",
    )
    object.__setattr__(model, "k", whole_number(f"{name}: k", model.k, 1))


_REFUSED = {
    "given": "has no covariates: leave given out",
    "observed": "cannot use missing cells: leave those rows out",
    "lengths": "has no sequences of its own: join them to rows, or use HMM",
}


def values_of(model: Any, data: Data, *takes: str) -> Any:
    """The array of observations in ``data``.

    Raises ``ValueError`` where the observations are not one array, or the data have a part that the model cannot use:
    one that is neither weights nor named in ``takes``.
    """
    name, record = type(model).__name__, data.data if isinstance(data, Sharded) else data
    for part, why in _REFUSED.items():
        if part not in takes and isinstance(record, Dataset) and getattr(record, part) is not None:
            raise ValueError(f"{name} {why}")
    values = datasets.values_of(record)
    if not hasattr(values, "ndim"):
        what = "nothing" if not jax.tree.leaves(values) else f"a {type(values).__name__}"
        raise ValueError(f"{name} needs one array of data; got {what}")
    return values


def check_shape(model: Any, x: Array, leading: tuple[str, ...]) -> None:
    """Raise ``ValueError`` where the axes of ``x`` are not ``leading`` followed by those of one event of the family."""
    events = ("D",) * model.family.event_ndim
    family, wanted = type(model.family).__name__, ", ".join(leading + events)
    needs = f"{type(model).__name__} of {family} needs data of shape ({wanted})"
    if x.ndim != len(leading) + len(events):
        hint = " For one sequence x, pass x[None]." if "T" in leading and x.ndim == 1 + len(events) else ""
        raise ValueError(f"{needs}; got shape {tuple(x.shape)}.{hint}")
    if 0 in x.shape:
        raise ValueError(f"{needs}; got shape {tuple(x.shape)}, which holds nothing")
    columns = getattr(model.family, "dimensions", None)
    if columns is not None and x.shape[-1] != columns:
        why = "its prior is" if getattr(model.family, "prior", None) is not None else "its levels are"
        raise ValueError(f"{needs} with D = {columns}, as {why}; got shape {tuple(x.shape)}")


def check_params(model: Any, params: Any, x: Array | None, leading: int) -> None:
    """Raise ``ValueError`` where parameters do not have the shapes that the model declares.

    K is ``model.k``. D is the number of columns of ``x``, which has ``leading`` axes before them; without ``x`` it is
    that of the family, or of the parameters themselves.
    """
    family, sizes = model.family, {"K": model.k}
    if x is not None and family.event_ndim:
        sizes["D"] = x.shape[leading]
    elif getattr(family, "dimensions", None) is not None:
        sizes["D"] = family.dimensions
    on = f" on {sizes['D']} column{'s' * (sizes['D'] != 1)}" if "D" in sizes else ""
    title = f"{type(model).__name__} of {type(family).__name__} with k = {model.k}{on}"
    check_shapes(title, model.declare(), params, sizes)


def check_enough(model: Any, n: int) -> None:
    """Raise ``ValueError`` where there are fewer observations than classes."""
    if n < model.k:
        raise ValueError(f"{n} observations cannot tell {model.k} classes apart; use k <= {n}")


def check_support(family: Any, x: Array, observed: Array | None) -> None:
    """Raise ``ValueError`` where an observation lies outside the support, or whole numbers are too large for floats.

    The first such observation is named. ``observed (N,)`` says which observations count; ``None`` means all.
    """
    possible = np.asarray(_possible(family, x, observed))
    if not possible.all():
        index = int(np.flatnonzero(~possible)[0])
        raise ValueError(
            f"{type(family).__name__} needs {family.support} in every observation; {int((~possible).sum())} of "
            f"{len(possible)} are not, the first is number {index}: {np.asarray(x[index])}"
        )
    if jnp.issubdtype(x.dtype, jnp.integer):
        check_precision(x, jnp.result_type(float), "the data")


@program(quick="few numbers")
def _possible(family: Any, x: Array, observed: Array | None) -> Array:
    return supported(family, x, observed)


def supported(family: Any, x: Array, observed: Array | None) -> Array:
    """(N,), whether each observation lies in the support of the family or does not count."""
    possible = family.supports(real(x, jnp.result_type(float)))
    return possible if observed is None else possible | ~observed


def real(x: Array, dtype: Any) -> Array:
    """Whole numbers and booleans as floats of ``dtype``; floats unchanged.

    Numbers that are computed from data must not inherit an integer or boolean dtype.
    """
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(dtype)
