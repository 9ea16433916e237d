r"""The fourteen forms of the covariances of K normal classes, by volume, shape and orientation.

.. math:: S_k = v_k\, O_k \operatorname{diag}(a_k)\, O_k', \qquad \textstyle\prod_j a_{kj} = 1

Three letters say of the volumes v_k, the shapes a_k and the orientations O_k whether they are equal for all classes
(E) or vary (V); I in place of a letter stands for the identity: equal lengths of all axes, or axes along the variables.
Four of the forms have longer names: ``"full"`` (VVV), ``"tied"`` (EEE), ``"diag"`` (VVI) and ``"spherical"`` (VII).

What all classes share is one array of the parameters, so that its constraint holds by construction. Densities and sums
are those of one of the four forms of ``covariance.py``, the *base*, of which the covariances are computed.

Source: Banfield & Raftery (1993); Celeux & Govaert (1995); Scrucca et al. (2016) for the names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices
from jaxem.core.parameters import Declared, Param
from jaxem.core.spaces import Orientation, Positive, UnitDeterminant, UnitProduct
from jaxem.families import common_axes
from jaxem.families.common_axes import along
from jaxem.families.covariance import FORMS as BASES
from jaxem.families.covariance import Factored, factored
from jaxem.families.principal_axes import principal_axes
from jaxem.families.proportional import log_precisions


class Shaped(NamedTuple):
    """Covariances as volumes times shapes."""

    volumes: Array  # (K,), or () where they are equal: det(S_k)^(1/D), in squared units of the data
    shapes: Array  # S_k / v_k: of VEI (D,), EVI (K, D), the diagonal; of VEE (D, D), EVV (K, D, D)


class Oriented(NamedTuple):
    """Covariances as volumes, shapes and orientations: v O diag(a) O'. A = D counts axes, which are no variables."""

    volumes: Array  # (K,), or () where they are equal: det(S_k)^(1/D), in squared units of the data
    shapes: Array  # (K, A), or (A,): the relative variances along the axes, of product one
    orientations: Array  # (K, D, A), or (D, A): the axes, in columns


class Form(NamedTuple):
    """One of the fourteen forms."""

    base: str  # "full", "tied", "diag" or "spherical"
    declared: Declared
    # the parameters, K, D -> covariances of the base, ``Factored`` where they come from axes and lengths
    covariances: Callable[[Any, int, int], Any]
    # class sizes n (K,), scatters about the class means (shaped like covariances of the base), D, the parameters of the
    # iteration before or None -> the parameters that maximise Q
    maximize: Callable[[Array, Array, int, Any], Any]


def _base(name: str) -> Form:
    """A form whose parameters are the covariances themselves."""
    form = BASES[name]
    return Form(name, Param.of(form.space, form.axes), lambda c, k, d: c, lambda n, w, d, at: w / form.divisor(n, d))


def _shaped(base: str, space: Any, volumes: str, shapes: str, maximize: Callable[..., Any]) -> Form:
    def covariances(c: Shaped, k: int, d: int) -> Array:
        shape = (k, d) if base == "diag" else (k, d, d)
        return jnp.broadcast_to(
            c.volumes.reshape(-1, *(1,) * (len(shape) - 1)) * c.shapes.reshape(-1, *shape[1:]), shape
        )

    declared = Shaped(Param.of(Positive(), volumes), Param.of(space, shapes))  # pyright: ignore[reportArgumentType]
    return Form(base, declared, covariances, maximize)


def _oriented(volumes: str, shapes: str, orientations: str, maximize: Callable[..., Any]) -> Form:
    def covariances(c: Oriented, k: int, d: int) -> Factored:
        variances = c.volumes.reshape(-1, 1) * c.shapes.reshape(-1, d)
        half = jnp.sqrt(variances)[:, None, :] * c.orientations.reshape(-1, d, d)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (k, d, d)), factored(half))

    declared = Oriented(
        Param.of(Positive(), volumes),  # pyright: ignore[reportArgumentType]
        Param.of(UnitProduct(), shapes),  # pyright: ignore[reportArgumentType]
        Param.of(Orientation(), orientations),  # pyright: ignore[reportArgumentType]
    )
    return Form("full", declared, covariances, maximize)


# Parts of a scatter: its volume |W|^(1/D), and what is left, of volume one.


def _of_lengths(w: Array) -> tuple[Array, Array]:
    """From variances (..., D)."""
    size = jnp.log(w).mean(axis=-1, keepdims=True)
    return jnp.exp(size[..., 0]), jnp.exp(jnp.log(w) - size)


def _of_matrices(w: Array) -> tuple[Array, Array]:
    """From matrices (..., D, D)."""
    volumes = jnp.exp(matrices.log_determinant(matrices.cholesky(w)) / w.shape[-1])
    return volumes, w / volumes[..., None, None]


def _of_class(n: Array, volumes: Array) -> Array:
    """The volumes of the scatters, 0 for an empty class, which must not spoil what all classes share."""
    return jnp.where(n > 0, volumes, 0)


# Maximisers. ``w`` are scatters, sums of squares about the class means.


def _equal_shapes(parts: Callable[[Array], tuple[Array, Array]], n: Array, w: Array) -> Shaped:
    """VEI and VEE: the pooled sum of W_k / v_k is proportional to the shape, and v_k = tr(shape^-1 W_k) / (n_k D)."""
    d = w.shape[-1]
    scale = jnp.exp(log_precisions(n, w)).reshape(-1, *(1,) * (w.ndim - 1))
    shape = parts((scale * w).sum(axis=0))[1]
    if w.ndim == 2:
        return Shaped((w / shape[None]).sum(axis=1) / (d * n), shape)
    lower = jnp.broadcast_to(matrices.cholesky(shape), w.shape)
    return Shaped(jnp.trace(matrices.solve(lower, w), axis1=1, axis2=2) / (d * n), shape)


def _equal_volumes(parts: Callable[[Array], tuple[Array, Array]], n: Array, w: Array) -> Shaped:
    """EVI and EVV: each class has the shape of its scatter, and the volume is the mean of their volumes."""
    volumes, shapes = parts(w)
    return Shaped(_of_class(n, volumes).sum() / n.sum(), shapes)


def _own_axes(n: Array, w: Array, at: Oriented | None) -> tuple[Array, Array]:
    """The axes of each class's scatter (K, D, D) and the scatters along them (K, D), for a shape that all share.

    The longest axis comes first; or axes are in the order, and have the signs, of the iteration before.
    """
    d = w.shape[-1]
    seen = (n > 0)[:, None, None]
    axes = jax.vmap(principal_axes)(jnp.where(seen, w, jnp.eye(d, dtype=w.dtype)[None]))
    if at is not None:
        rank = jnp.argsort(jnp.argsort(-at.shapes))
        axes = jnp.take(axes, rank, axis=-1)
        axes = axes * jnp.where((axes * at.orientations).sum(axis=1) < 0, -1, 1).astype(w.dtype)[:, None, :]
    return axes, along(w, axes)


def _eev(n: Array, w: Array, d: int, at: Oriented | None) -> Oriented:
    axes, lengths = _own_axes(n, w, at)
    volume, shape = _of_lengths(lengths.sum(axis=0))
    return Oriented(volume / n.sum(), shape, axes)


def _vev(n: Array, w: Array, d: int, at: Oriented | None) -> Oriented:
    axes, lengths = _own_axes(n, w, at)
    return Oriented(*_equal_shapes(_of_lengths, n, lengths), axes)


def _eve(n: Array, w: Array, d: int, at: Oriented | None) -> Oriented:
    axes = common_axes.common_axes(common_axes.equal_volumes, n, w, None if at is None else at.orientations)
    return Oriented(*_equal_volumes(_of_lengths, n, along(w, axes)), axes)


def _vve(n: Array, w: Array, d: int, at: Oriented | None) -> Oriented:
    axes = common_axes.common_axes(common_axes.free_volumes, n, w, None if at is None else at.orientations)
    volumes, shapes = _of_lengths(along(w, axes))
    return Oriented(volumes / n, shapes, axes)


FORMS: dict[str, Form] = {
    "full": _base("full"),
    "tied": _base("tied"),
    "diag": _base("diag"),
    "spherical": _base("spherical"),
    "EII": Form(
        "spherical",
        Param.of(Positive(), ""),
        lambda c, k, d: jnp.broadcast_to(c, (k,)),
        lambda n, w, d, at: w.sum() / (n.sum() * d),
    ),
    "EEI": Form(
        "diag",
        Param.of(Positive(), "D"),
        lambda c, k, d: jnp.broadcast_to(c, (k, d)),
        lambda n, w, d, at: w.sum(axis=0) / n.sum(),
    ),
    "VEI": _shaped("diag", UnitProduct(), "K", "D", lambda n, w, d, at: _equal_shapes(_of_lengths, n, w)),
    "EVI": _shaped("diag", UnitProduct(), "", "K D", lambda n, w, d, at: _equal_volumes(_of_lengths, n, w)),
    "VEE": _shaped("full", UnitDeterminant(), "K", "D D", lambda n, w, d, at: _equal_shapes(_of_matrices, n, w)),
    "EVE": _oriented("", "K A", "D A", _eve),
    "VVE": _oriented("K", "K A", "D A", _vve),
    "EEV": _oriented("", "A", "K D A", _eev),
    "VEV": _oriented("K", "A", "K D A", _vev),
    "EVV": _shaped("full", UnitDeterminant(), "", "K D D", lambda n, w, d, at: _equal_volumes(_of_matrices, n, w)),
}

# mclust's names of the forms that have longer ones here.
SAME = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}
NAME_OF = {longer: name for name, longer in SAME.items()}
NAMES = ("EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV")
