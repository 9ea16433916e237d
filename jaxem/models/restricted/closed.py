"""M-steps under a restriction in closed form, where there is one.

Each function returns the arrays of one part of the model, or ``None`` where the restriction leaves no closed form,
which shapes and the restriction decide alone. A leaf that is not restricted has its space as declared.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.spaces import Space, answers
from jaxem.core.spaces.held import Held
from jaxem.core.spaces.linked import Linked
from jaxem.core.spaces.tied import Tied
from jaxem.families import (
    Bernoulli,
    Binomial,
    Categorical,
    Exponential,
    Multinomial,
    MultivariateNormal,
    Normal,
    Poisson,
    PoissonVector,
    PriorObservations,
    by_cell,
)
from jaxem.families.covariance import FORMS, Form, scatter_about_mean

Arrays = list[Array]


class Pattern(NamedTuple):
    """What a space holds and ties."""

    mask: np.ndarray  # which elements are held
    value: np.ndarray  # at what
    leader: np.ndarray  # of each element, the number of the element that leads it


def pattern(space: Space, shape: tuple[int, ...]) -> Pattern | None:
    """The pattern of a space; ``None`` for an affine map, or elements that follow another array."""
    if isinstance(space, Linked) or not isinstance(answers.event_ndim(space), int) or hasattr(space, "design"):
        return None
    tied, inner = (space, space.space) if isinstance(space, Tied) else (None, space)
    mask, value = np.zeros(shape, bool), np.zeros(shape)
    if isinstance(inner, Held):
        mask, value = inner.mask.array, inner.value.array
    leader = np.arange(mask.size).reshape(shape)
    if tied is not None:
        points = tied.leader.array
        width = mask.size // points.size
        within = np.arange(width)[None, :]
        leader = (points.reshape(-1, 1) * width + within).reshape(shape)
    return Pattern(mask, value, leader)


def probabilities(space: Space, at: Array | None, loose: Array, counts: Callable[[], Array]) -> Array | None:
    """Rows p that maximise sum n log p: of what is not held, shares in proportion to n, summed over rows that are tied.

    ``loose`` is the maximiser without a restriction, and ``counts()`` returns n.
    """
    found = pattern(space, loose.shape)
    if found is None:
        return None
    held = space.space if isinstance(space, Tied) else space
    shares = loose if not isinstance(space, Tied) else space.summed(counts(), 1)
    free = jnp.where(found.mask, 0, shares)
    total = free.sum(axis=-1, keepdims=True)
    # Where nothing was counted any shares maximise: the old ones are kept.
    old = jnp.ones_like(free) if at is None else at
    free = jnp.where(total > 0, free, jnp.where(found.mask, 0, old))
    total = free.sum(axis=-1, keepdims=True)
    y = free / jnp.where(total > 0, total, 1)
    if isinstance(held, Held):
        y = held.outside(jnp.where(found.mask, held.point.array.astype(y.dtype), y))
    return y if not isinstance(space, Tied) else space.spread(y, 1)


_ONE_BY_ONE = (Poisson, PoissonVector, Exponential, Bernoulli, Binomial)  # Q is a sum over the elements of one array
_ROW_BY_ROW = (Categorical, Multinomial)


def of_family(
    family: Any, c: Any, sums: Any, spaces: Sequence[Space], at: Arrays, loose: Arrays, counts: Callable[[], Arrays]
) -> Arrays | None:
    """The restricted maximiser of a family, from its context and sums, or ``None``."""
    plain = getattr(family, "prior", None) is None and getattr(family, "floor", None) is None
    if type(family) in _ROW_BY_ROW:
        found = [
            probabilities(space, here, free, lambda i=i: counts()[i])
            for i, (space, here, free) in enumerate(zip(spaces, at, loose, strict=True))
        ]
        return None if any(each is None for each in found) else found  # pyright: ignore[reportReturnType]
    if type(family) in _ONE_BY_ONE:
        return _one_by_one(family, c, sums, spaces[0], loose[0], plain)
    if type(family) is Normal and plain:
        to = lambda leaf: leaf[:, None]
        columns = [
            None if found is None else Pattern(*(part[:, None] for part in found))
            for found in (pattern(space, leaf.shape) for space, leaf in zip(spaces, loose, strict=True))
        ]
        if None in columns:
            return None
        new = _normal(FORMS["diag"], to(c.means), *map(to, (sums.sizes, sums.first, sums.second)), *columns)  # pyright: ignore
        return None if new is None else [leaf[:, 0] for leaf in new]
    prior = getattr(family, "prior", None)
    added = isinstance(prior, PriorObservations) and family.floor is None
    if type(family) is MultivariateNormal and (plain or added) and family.covariance in FORMS and len(spaces) == 2:
        found = [pattern(space, leaf.shape) for space, leaf in zip(spaces, loose, strict=True)]
        if None in found or (sums.sizes.ndim == 2 and family.covariance != "diag"):
            return None
        form, origin, d = FORMS[family.covariance], c.at.means, c.at.means.shape[1]
        if not isinstance(prior, PriorObservations):
            return _normal(form, origin, *sums, *found)  # pyright: ignore[reportArgumentType]
        by = form if sums.sizes.ndim == 1 else by_cell.FORMS["diag"]
        divisor = prior.divisor(by, sums.sizes, d)
        return _normal(form, origin, *prior.added(by, origin, *sums), *found, divisor)  # pyright: ignore
    return None


def _one_by_one(family: Any, c: Any, sums: Any, space: Space, loose: Array, plain: bool) -> Arrays | None:
    """Held elements at their values; the sums of elements that are tied are added first."""
    if pattern(space, loose.shape) is None or (isinstance(space, Tied) and not plain):
        return None
    if isinstance(space, Tied):
        wide = lambda leaf: jnp.broadcast_to(leaf.reshape(leaf.shape + (1,) * (loose.ndim - leaf.ndim)), loose.shape)
        pooled = jax.tree.map(lambda leaf: space.summed(wide(leaf), 0), sums)
        return [answers.project(space, jax.tree.leaves(family.maximize(c, pooled))[0])]
    return [answers.project(space, loose)]


def _normal(
    form: Form,
    origin: Array,
    n: Array,
    first: Array,
    second: Array,
    means: Pattern,
    covariances: Pattern,
    divisor: Array | None = None,
) -> Arrays | None:
    """Means and covariances of K normal classes, from sums about ``origin (K, D)``.

    ``divisor`` is that of the sums of squares; default: the one for ``n``, from which that of a prior differs.

    Means that are held or free are the same whatever the covariances are. Means that are tied are averages with weights
    n_k over covariances: these must be equal, or held. The covariances follow from the scatter about the new means.
    """
    k, d = first.shape
    weight = _weight(form, means, covariances, k, d)
    if weight is None:
        return None
    n_each = n if n.ndim == 2 else n[:, None]
    wide = jnp.broadcast_to(n_each, first.shape)
    if (means.leader != np.arange(k * d).reshape(k, d)).any():
        together = jnp.asarray(_together(means.leader), first.dtype)
        pool = lambda leaf: jnp.matmul(together, leaf.reshape(-1), precision="highest").reshape(k, d)
        precision = jnp.asarray(weight, first.dtype)
        total, moved = pool(precision * wide), pool(precision * first)
    else:
        total, moved = wide, first
    delta = moved / jnp.where(total == 0, 1, total)
    delta = jnp.where(means.mask, jnp.asarray(means.value, delta.dtype) - origin, delta)
    new_means = jnp.where(means.mask, jnp.asarray(means.value, delta.dtype), origin + delta)
    new_means = jnp.take(new_means.reshape(-1), jnp.asarray(means.leader.reshape(-1))).reshape(k, d)

    scatter = _scatter(form, second, first, delta, n)
    if divisor is None:
        divisor = form.divisor(n, d) if n.ndim == 1 else n
    divisor = jnp.broadcast_to(divisor, scatter.shape)
    leader = covariances.leader
    if (leader != np.arange(leader.size).reshape(leader.shape)).any():
        together = jnp.asarray(_together(leader), first.dtype)
        pool = lambda leaf: jnp.matmul(together, leaf.reshape(-1), precision="highest").reshape(leaf.shape)
        scatter, divisor = pool(scatter), pool(divisor)
        scatter, divisor = (
            jnp.take(leaf.reshape(-1), leader.reshape(-1)).reshape(leader.shape) for leaf in (scatter, divisor)
        )
    new = jnp.where(covariances.mask, jnp.asarray(covariances.value, delta.dtype), scatter / divisor)
    return [new_means, new]


def _scatter(form: Form, second: Array, first: Array, delta: Array, n: Array) -> Array:
    """Sums of squares about origin + delta: those about the free means, and n times the square of the distance."""
    per = n if n.ndim == 2 else n[:, None]
    free = first / jnp.where(per == 0, 1, per)
    apart = delta - free
    if n.ndim == 2:
        eps = 8 * free.shape[-1] * float(jnp.finfo(free.dtype).eps)
        return second - (1 - eps) * n * free**2 + n * apart**2
    return scatter_about_mean(form, second, free, n) + form.outer(apart, n)


def _together(leader: np.ndarray) -> np.ndarray:
    flat = leader.reshape(-1)
    return flat[:, None] == flat[None, :]


def _weight(form: Form, means: Pattern, covariances: Pattern, k: int, d: int) -> np.ndarray | None:
    """The precision (K, D) by which tied means are averaged, where it is known; ``None`` where it is not."""
    ones = np.ones((k, d))
    if form.of_matrices:
        rows = means.leader.reshape(k, d)
        aligned = ((rows - np.arange(d)[None, :]) % d == 0).all() and (rows // d == rows[:, :1] // d).all()
        whole = (means.mask == means.mask[:, :1]).all()
        if not (aligned and whole):
            return None
        shared = covariances.leader.ndim == 2
        owner = np.zeros(k, int) if shared else covariances.leader.reshape(k, -1)[:, 0]
        groups = [np.flatnonzero(rows[:, 0] == first) for first in np.unique(rows[:, 0])]
        equal = lambda g: len(set(owner[g].tolist())) == 1 or _equal_matrices(covariances, g)
        return ones if all(len(g) == 1 or equal(g) for g in groups) else None
    shape = covariances.leader.shape
    fit = lambda part: np.broadcast_to(part.reshape(part.shape + (1,) * (2 - len(shape))), (k, d))
    owner, held, value = fit(covariances.leader), fit(covariances.mask), fit(covariances.value)
    weight = np.where(held, 1 / np.where(held, value, 1), 1)
    for first in np.unique(means.leader):
        group = means.leader == first
        known = held[group].all() or len(set(owner[group].tolist())) == 1
        if group.sum() > 1 and not known:
            return None
    return weight


def _equal_matrices(covariances: Pattern, group: np.ndarray) -> bool:
    value = covariances.value[group]
    return bool(covariances.mask[group].all() and (value == value[:1]).all())
