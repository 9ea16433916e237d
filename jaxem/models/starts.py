"""Starts of EM: seeds among the observations, or random responsibilities, followed by one M-step of the family."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import parameters
from jaxem.core.arrays import as_array
from jaxem.core.constraints import Simplex
from jaxem.core.contexts import choose
from jaxem.core.data import Data, Dataset, count, given_of, plain, values_of
from jaxem.core.passes import accumulate, rows_in_cache
from jaxem.core.trees import all_finite, float_dtype
from jaxem.families import observed
from jaxem.families import protocol as families

Start = Literal["kmeans++", "points", "responsibilities"] | Array | np.ndarray | list[Any]
STARTS = ("kmeans++", "points", "responsibilities")

# The share of each observation that is spread evenly over all classes. So a class with a single observation of its own
# still gets a covariance of full rank and probabilities above zero.
_SHARED = 0.1


def read_start(start: Start, k: int, shape: tuple[int, ...], dtype: jnp.dtype) -> tuple[str, Array | None]:
    """The name of a start, and the class probabilities (*shape, K) that the user gave, if any.

    ``start`` is one of ``STARTS``, class probabilities (*shape, K), or classes of shape ``shape``, which become
    one-hot probabilities. Anything else raises ``ValueError``.
    """
    if isinstance(start, str) and start in STARTS:
        return start, None
    if isinstance(start, str | int | float | None) or callable(start):
        raise ValueError(f"start must be one of {list(STARTS)}, classes {shape} or probabilities; got {start!r}")
    given = as_array(start, "start", False)
    if given.shape == (*shape, k) and jnp.issubdtype(given.dtype, jnp.floating):
        r = given.astype(dtype)
        if not (isinstance(r, Tracer) or bool(Simplex().contains(r))):
            raise ValueError(f"start: the probabilities of the {k} classes must be non-negative and sum to 1")
        return "given", r
    if given.shape == shape and jnp.issubdtype(given.dtype, jnp.integer):
        if not (isinstance(given, Tracer) or bool(((given >= 0) & (given < k)).all())):
            raise ValueError(f"start: classes must be whole numbers from 0 to {k - 1}")
        if not isinstance(given, Tracer) and np.unique(np.asarray(given)).size < k:
            raise ValueError(f"start: each of the {k} classes needs an observation")
        return "given", jax.nn.one_hot(given, k, dtype=dtype)
    raise ValueError(
        f"start must be whole numbers of shape {shape}, the class of each observation, or probabilities of shape "
        f"{(*shape, k)}; got {given.dtype} of shape {tuple(given.shape)}"
    )


def start_components(
    key: Array,
    family: Any,
    x: Data,
    weights: Array | None,
    k: int,
    start: str,
    given: Array | None,
    dtype: jnp.dtype,
    active: Array | None = None,
) -> tuple[Array, Any]:
    """Class weights (K,) and the family's parameters for a start.

    ``"kmeans++"``: K seeds, each drawn with probability proportional to the squared distance to the nearest earlier
    seed (Arthur & Vassilvitskii 2007). ``"points"``: seeds drawn evenly among the observations. With either, an
    observation belongs mostly to the class of the nearest seed. ``"responsibilities"``: class probabilities drawn
    evenly from the simplex. ``"given"``: the class probabilities ``given (N, K)``. Distances are between the family's
    features, each divided by its standard deviation, so that units do not matter.
    ``active (K,)``: the classes that take part, for the two kinds with seeds only.
    """
    n = count(x)
    counts = jnp.ones((n,), dtype) if weights is None else weights.astype(dtype)
    evenly = jnp.full((k,), 1 / k, dtype) if active is None else active.astype(dtype) / active.sum().astype(dtype)
    which = given if given is not None else jnp.arange(n)
    if start == "given":
        assign = lambda rows: rows[2]
    elif start == "responsibilities":

        def assign(rows: tuple[Array, Array, Array]) -> Array:
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows[2])
            return jax.vmap(lambda key: jax.random.dirichlet(key, jnp.ones((k,), dtype), dtype=dtype))(keys)

    else:
        seeds, middle, scale = _seeds(key, family, x, counts, k, start, dtype)

        def assign(rows: tuple[Array, Array, Array]) -> Array:
            features = _standardized(observed.features(family, rows[0]).astype(dtype), middle, scale)
            distance = ((features[:, None, :] - seeds[None, :, :]) ** 2).sum(axis=-1)
            if active is not None:
                distance = jnp.where(active[None, :], distance, jnp.inf)
            nearest = jax.nn.one_hot(distance.argmin(axis=-1), k, dtype=dtype)
            return (1 - _SHARED) * nearest + _SHARED * evenly[None, :]

    if hasattr(family, "start"):
        r = assign((x, counts, which)) * counts[:, None]
        components = family.start(jax.random.fold_in(key, 1), r, x)
        size = r.sum(axis=0) / counts.sum()
        return size, components if active is None else parameters.masked(family.declare(), components, active)

    def sums(c: Any) -> Any:
        def one_block(rows: tuple[Array, Array, Array]) -> tuple[Array, Any]:
            r = assign(rows) * rows[1][:, None]

            def of(c: Any) -> tuple[Array, Any]:
                hidden = () if c is None else observed.hidden(family, c, rows[0])
                return r.sum(axis=0), observed.statistics(family, c, r, hidden, rows[0])

            return choose(c, of)

        size = (1 + k) * (1 + sum(leaf[0].size for leaf in jax.tree.leaves(x))) * dtype.itemsize
        return accumulate(one_block, (x, counts, which), rows_in_cache(size))

    def living(components: Any) -> Any:
        return components if active is None else parameters.masked(family.declare(), components, active)

    size, about_zero = sums(None)
    components = living(family.maximize(None, about_zero))
    c = family.prepare(components, x)
    if getattr(family, "centred", False):  # sums about zero are accurate enough for the means only: a second pass
        components = living(family.maximize(c, sums(c)[1]))
    return size / size.sum(), components


def is_sound(family: Any, components: Any, x: Data) -> Array:
    """Whether these parameters of the family can start a fit to the observations ``x``.

    They must be finite and not degenerate, and no feature of the data may be constant.
    """
    return all_finite(components) & ~families.degenerate(family, components) & varies(observed.features(family, x))


def varies(x: Array) -> Array:
    """Whether no column of ``x (N, F)`` is constant to rounding error; NaN stands for missing cells.

    The computed variance of a constant column need not be zero, so it cannot be used for this check.
    """
    size = jnp.nanmax(jnp.abs(x), axis=0).astype(float_dtype(x))
    spread = (jnp.nanmax(x, axis=0) - jnp.nanmin(x, axis=0)).astype(size.dtype)
    return (spread > 8 * float(jnp.finfo(size.dtype).eps) * size).all()


def check_sound(sound: Array, model: Any, data: Any) -> None:
    """Raise ``ValueError`` where a start is not sound and the data show why; in a trace the status of the fit does."""
    if not isinstance(sound, Tracer) and not bool(sound):
        model.diagnose(data)


def blame(family: Any, x: Data, counts: Array | None) -> None:
    """Raise a ``ValueError`` that says why no start can be made from the observations ``x``.

    ``counts (N,)`` says which observations count; ``None`` means all.
    """
    which = slice(None) if counts is None else np.asarray(counts)
    seen = plain(Dataset(values_of(x), given_of(x)))
    rows = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[which], seen)
    found = families.diagnose(family, rows, np.dtype(float_dtype(x)))
    if found is not None:
        raise ValueError(found)


def _seeds(
    key: Array, family: Any, x: Data, counts: Array, k: int, start: str, dtype: jnp.dtype
) -> tuple[Array, Array, Array]:
    """K seeds (K, F) among the standardised features, and the mean and standard deviation (F,) used for that."""
    raw = observed.features(family, x).astype(dtype)
    share = jnp.where(jnp.isnan(raw), 0, counts[:, None])
    share = share / share.sum(axis=0)[None, :]
    mean = lambda values: jnp.where(share > 0, share * values, 0).sum(axis=0)
    middle = mean(raw)
    spread = jnp.sqrt(mean((raw - middle[None, :]) ** 2))
    scale = jnp.where(spread > 0, spread, 1)
    features = _standardized(raw, middle, scale)
    uniform = jax.random.uniform(key, (k,), dtype)
    first = features[_draw(uniform[0], counts)]

    def distance(seed: Array) -> Array:
        return ((features - seed[None, :]) ** 2).sum(axis=-1)

    def next_seed(nearest: Array, u: Array) -> tuple[Array, Array]:
        # A seed is never drawn twice where that can be avoided: two equal classes stay equal for ever.
        odds = counts * (nearest if start == "kmeans++" else (nearest > 0).astype(dtype))
        seed = features[_draw(u, jnp.where(odds.sum() > 0, odds, counts))]
        return jnp.minimum(nearest, distance(seed)), seed

    _, others = jax.lax.scan(next_seed, distance(first), uniform[1:])
    return jnp.concatenate([first[None], others]), middle, scale


def _standardized(features: Array, middle: Array, scale: Array) -> Array:
    """Features (N, F) in standard deviations from the mean; a missing one lies at the mean."""
    return jnp.where(jnp.isnan(features), 0, (features - middle[None, :]) / scale[None, :])


def _draw(u: Array, odds: Array) -> Array:
    """An index with probability proportional to ``odds``: the inverse cumulative distribution at ``u`` in [0, 1)."""
    cumulative = jnp.cumsum(odds)
    # A comparison with each compiles faster than a search, and the sums have passed over all of them anyway.
    return jnp.minimum((cumulative <= u * cumulative[-1]).sum(), odds.shape[0] - 1)
