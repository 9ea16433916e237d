"""The functions of a family on observations of which some may be missing; structures call these.

An observation that is a single cell is seen or missing as a whole, and families of single cells are not told: the
density of a missing one is 1, its weight in sums is 0, and its hidden variables have a distribution that never changes.
A family of several columns that declares ``takes = ("observed",)`` gets the masks and answers itself.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.contexts import Context, choose
from jaxem.core.data import Data, observed_of, plain, values_of
from jaxem.families.tails import Tails, of_family


def _split(family: Any, x: Data) -> tuple[Data, Array | None]:
    """The observations as the family takes them, and which of them are seen, (N,); ``None`` where it knows itself."""
    seen = observed_of(x)
    if seen is None or "observed" in getattr(family, "takes", ()):
        return x, None
    return plain(dataclasses.replace(x, observed=None, patterns=None)), seen


def _where(seen: Array | None, values: Any, otherwise: float) -> Any:
    if seen is None:
        return values
    return jax.tree.map(lambda leaf: jnp.where(seen.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, otherwise), values)


def log_density(family: Any, c: Context, x: Data) -> Array:
    """log p(x_n | class k), (N, K), of what is seen of x_n."""
    x, seen = _split(family, x)
    return _where(seen, family.log_density(c, x), 0)


def tails(family: Any, c: Context, x: Data) -> Tails:
    """The probabilities on both sides of each observation in each class, (N, K); NaN where it is missing."""
    x, seen = _split(family, x)
    return _where(seen, of_family(family, c, x), jnp.nan)


def statistics(family: Any, c: Context, r: Array, u: Any, x: Data) -> Any:
    """The family's sums, weighted by r (N, K)."""
    x, seen = _split(family, x)
    return family.statistics(c, _where(seen, r, 0), u, x)


def start(family: Any, key: Array, r: Array, x: Data) -> Any:
    """Parameters to start from, given class weights r (N, K)."""
    if hasattr(family, "start"):
        x, seen = _split(family, x)
        return family.start(key, _where(seen, r, 0), x)
    params = family.maximize(None, statistics(family, None, r, (), x))
    if not getattr(family, "centred", False):
        return params
    c = family.prepare(params, x)
    return family.maximize(c, choose(c, lambda c: statistics(family, c, r, hidden(family, c, x), x)))


def features(family: Any, x: Data) -> Array:
    """The family's features (N, F), NaN where missing."""
    x, seen = _split(family, x)
    return _where(seen, family.features(x), jnp.nan)


def supports(family: Any, x: Data) -> Array:
    """(N,), whether what is seen of each observation lies in the support."""
    x, seen = _split(family, x)
    return family.supports(x) if seen is None else family.supports(x) | ~seen


def hidden(family: Any, c: Context, x: Data) -> Any:
    """The posterior of the family's own hidden variables, leaves (N, K, ...); () where it has none."""
    if not hasattr(family, "hidden"):
        return ()
    x, seen = _split(family, x)
    return _where(seen, family.hidden(c, x), 1)


def infer(family: Any, c: Context, x: Data) -> tuple[Array, Any]:
    """``log_density`` and ``hidden`` of an E-step, from one computation where the family has ``infer(c, x)``."""
    if not hasattr(family, "infer"):
        return log_density(family, c, x), hidden(family, c, x)
    x, seen = _split(family, x)
    density, found = family.infer(c, x)
    return _where(seen, density, 0), _where(seen, found, 1)


def complete(family: Any, c: Context, u: Any, x: Data) -> Array:
    """E log p(x_n, u_n | class k), (N, K); without hidden variables, the log-density."""
    if not hasattr(family, "complete"):
        return log_density(family, c, x)
    x, seen = _split(family, x)
    return _where(seen, family.complete(c, u, x), 0)


def hidden_entropy(family: Any, c: Context, u: Any, x: Data) -> Array:
    """The entropy of the family's own hidden variables, (N, K); the family must have some."""
    x, seen = _split(family, x)
    return _where(seen, family.hidden_entropy(c, u, x), 0)


def impute(family: Any, params: Any, r: Array, x: Data, key: Array | None = None) -> Any:
    """The values of ``x`` with missing cells replaced, given the class probabilities r (N, K).

    Without ``key``: by their means given what is seen. With ``key``: by draws, of the class first.
    """
    if getattr(family, "partial", False):
        return family.filled(params, r, values_of(x), key)
    if observed_of(x) is None:
        return values_of(x)
    if key is not None:
        class_key, cell_key = jax.random.split(key)
        return redraw(family, cell_key, params, jax.random.categorical(class_key, jnp.log(r)), x)
    if hasattr(family, "impute"):
        return _completed(x, family.impute(params, r, x))
    if not hasattr(family, "mean"):
        raise ValueError(f"{type(family).__name__} has no mean(params) to replace missing cells by; pass key for draws")
    return _completed(x, r @ family.mean(params))


def _completed(x: Data, found: Any) -> Any:
    """The values of ``x``, with ``found`` in missing cells."""
    of_cells = lambda seen, old, new: jnp.where(seen, old, new.astype(old.dtype))
    return jax.tree.map(of_cells, observed_of(x), values_of(x), found)


def redraw(family: Any, key: Array, params: Any, labels: Array, x: Data) -> Any:
    """The values of ``x`` with missing cells replaced by draws given what is seen and the class ``labels (N,)``."""
    if hasattr(family, "redraw"):
        return _completed(x, family.redraw(key, params, labels, x))
    return _completed(x, family.sample(key, params, labels))
