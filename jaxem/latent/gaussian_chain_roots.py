r"""Square roots of information, and the Riccati recursion in terms of them.

Information J about a state is kept as rows Y with J = Y'Y, so that it cannot lose its sign: in any precision Y'Y is
positive semidefinite. ``compress`` turns many rows into k rows, by orthogonalisation, which never squares them.

Source: Kailath, Sayed & Hassibi (2000), chapter 12; Yaghoobi, Corenflos, Hassan & Särkkä (2025) for the parallel form.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.scans import running

_FEW = 8  # up to so many states a product is written as a sum that XLA fuses with what surrounds it


def turned(a: Array) -> Array:
    """The transposes of matrices."""
    return a.mT


def lifted(a: Array, ndim: int) -> Array:
    """The array with leading axes of length 1 added, ``ndim`` axes in all."""
    return a if a.ndim == ndim else jax.lax.expand_dims(a, range(ndim - a.ndim))


def times(a: Array, b: Array) -> Array:
    """The products of matrices; leading axes are broadcast."""
    (m, k), n = a.shape[-2:], b.shape[-1]
    if max(m, k, n) > _FEW:
        ndim = max(a.ndim, b.ndim)
        return jnp.matmul(lifted(a, ndim), lifted(b, ndim), precision="highest")
    return _summed(_products((m, k, n), (a, 0, 1), (b, 1, 2)), -2)


def apply(a: Array, x: Array) -> Array:
    """The products of matrices (..., m, k) and vectors (..., k); leading axes are broadcast."""
    return _summed(_products(a.shape[-2:], (a, 0, 1), (x, 1)), -1)


# Primitives, because ``jax.numpy`` traces a function of its own for each new shape.


def _products(shape: tuple[int, ...], *factors: Any) -> Array:
    """The products of two arrays, (..., *shape); each comes with the places of its last axes in ``shape``, and leading
    axes are broadcast."""
    leading = jax.lax.broadcast_shapes(*(factor.shape[: factor.ndim - len(places)] for factor, *places in factors))

    def whole(factor: Array, *places: int) -> Array:
        if factor.shape == (*leading, *shape):
            return factor
        first = len(leading) + len(places) - factor.ndim
        axes = (*range(first, len(leading)), *(len(leading) + place for place in places))
        return jax.lax.broadcast_in_dim(factor, (*leading, *shape), axes)

    return jax.lax.mul(*(whole(*factor) for factor in factors))


def _summed(a: Array, axis: int) -> Array:
    return jax.lax.reduce_sum(a, (a.ndim + axis,))


def compress(rows: Array) -> Array:
    """The upper triangular R (..., k, k) with R'R = M'M, for the rows M (..., m, k).

    By Gram-Schmidt, modified, whose R is as good as that of reflections. A column without any length gives a row of
    zeros.
    """
    k, found = rows.shape[-1], []
    if k > matrices.UNROLLED:
        return _compress(rows)
    for j in range(k):
        rows, row = _without(rows, rows[..., j])
        found.append(row)
    return _upper(jnp.stack(found, axis=-2))


def _compress(rows: Array) -> Array:
    """``compress`` by a loop over the columns."""
    k = rows.shape[-1]
    places = jnp.arange(k)[:, None]

    def one(j: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, row = _without(state[0], jax.lax.dynamic_index_in_dim(state[0], j, -1, keepdims=False))
        return rows, jnp.where(lifted(places == j, rows.ndim), row[..., None, :], state[1])

    found = jax.lax.fori_loop(0, k, one, (rows, jnp.zeros((*rows.shape[:-2], k, k), rows.dtype)))[1]
    return _upper(found)


def _upper(a: Array) -> Array:
    """The upper triangles of square matrices."""
    return jnp.where(np.tri(a.shape[-1], k=-1, dtype=bool), 0, a)


def _without(rows: Array, column: Array) -> tuple[Array, Array]:
    """The columns of M (..., m, k) without their parts along one of them (..., m); and the lengths of these parts,
    (..., k). They are zero for a column without length."""
    m, k = rows.shape[-2:]
    squares = _summed(_products((m,), (column, 0), (column, 0)), -1)
    length = jnp.sqrt(jnp.where(squares == 0, 1, squares))  # NaN stays NaN
    unit = column / length[..., None]
    along = _summed(_products((m, k), (unit, 0), (rows, 0, 1)), -2)
    return jax.lax.sub(rows, _products((m, k), (unit, 0), (along, 1))), along


def divide(upper: Array, b: Array) -> Array:
    """R^-T b, for the upper triangular R (..., k, k) and b (..., k, m)."""
    k = upper.shape[-1]
    if k <= matrices.UNROLLED:
        return matrices.solve_lower(turned(upper), b)
    places = jnp.arange(k)[:, None]

    def one(i: Any, x: Array) -> Array:
        column = jax.lax.dynamic_index_in_dim(upper, i, -1, keepdims=False)[..., None]
        right = jax.lax.dynamic_index_in_dim(b, i, -2, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(column, i, -2, keepdims=False)
        known = jnp.where(lifted(places < i, x.ndim), column * x, 0).sum(axis=-2)
        return jnp.where(lifted(places == i, x.ndim), ((right - known) / pivot)[..., None, :], x)

    return jax.lax.fori_loop(0, k, one, jnp.zeros(b.shape, b.dtype))


def one_more(rows: Array) -> Array:
    """The upper triangular R with R'R = I + B'B, for the rows B (..., m, r)."""
    r = rows.shape[-1]
    return compress(joined(rows, jnp.asarray(np.eye(r, dtype=rows.dtype))))


def soften(root: Array, noise: Array) -> Array:
    """Rows of a root of (J^-1 + L L')^-1 = Y' (I + Y L L' Y')^-1 Y, from Y (..., k, k) and L (..., k, r)."""
    return divide(one_more(turned(times(root, noise))), root)


def joined(*rows: Array) -> Array:
    """Rows one below the other, with their leading axes broadcast."""
    leading = jnp.broadcast_shapes(*(part.shape[:-2] for part in rows))
    whole = lambda part: jnp.broadcast_to(lifted(part, len(leading) + 2), leading + part.shape[-2:])
    return jnp.concatenate([whole(part) for part in rows], axis=-2)


def settling(step: Callable[[Array], tuple[Array, Any]], last: Array, t: int) -> tuple[Array, Any]:
    """The values x_T = last, x_{t-1} = step(x_t), (n, T, ...), and what else the steps return, (n, T - 1, ...).

    The recursion of the information does not depend on the data. It has ended where a step gives the same numbers, bit
    by bit, as the one after it, or as one that was marked: rounding errors may lead in a circle. All steps before are
    then known. Each step whose number is a power of two is marked, so that a circle of any length is found.

    Source: Brent (1980).
    """

    def moving(state: Any) -> Array:
        i, _, _, settled, _ = state
        return (i < t - 1) & ~settled

    def move(state: Any) -> Any:
        i, now, marked, _, found = state
        new, more = step(now)

        def put(path: Array, value: Array) -> Array:
            place = (t - 2 - i, *(0,) * value.ndim)
            return jax.lax.dynamic_update_slice(path, value[None], place, allow_negative_indices=False)

        settled = (new == now).all() | (new == marked).all()
        marked = jnp.where(i & (i - 1) == 0, new, marked)
        return i + 1, new, marked, settled, jax.tree.map(put, found, (new, more))

    shapes = jax.eval_shape(step, last)
    empty = jax.tree.map(lambda leaf: jnp.zeros((t - 1, *leaf.shape), leaf.dtype), shapes)
    start = (0, last, jnp.full_like(last, jnp.nan), False, empty)
    i, _, _, _, found = jax.lax.while_loop(moving, move, start)

    known = jnp.arange(t - 1) > t - 2 - i

    def filled(path: Array) -> Array:
        final = jax.lax.dynamic_slice_in_dim(path, t - 1 - i, 1, allow_negative_indices=False)
        return jnp.where(known.reshape(-1, *(1,) * (path.ndim - 1)), path, final)

    path, more = jax.tree.map(filled, found)
    return _by_sequence(jnp.concatenate([path, last[None]]), more)


def following(step: Callable[[Array, Array], tuple[Array, Any]], W: Array) -> tuple[Array, Any]:
    """The same for steps that differ: x_T = compress(W_T) and x_t = step(x_{t+1}, W_t), from ``W (N, T, p, k)``."""
    rows = jnp.moveaxis(W, 1, 0)
    last = compress(rows[-1])

    def one(after: Array, w: Array) -> tuple[Array, tuple[Array, Any]]:
        now, more = step(after, w)
        return now, (now, more)

    _, (path, more) = jax.lax.scan(one, last, rows[:-1], reverse=True)
    path = jnp.concatenate([path, last[None]])
    return _by_sequence(path, more)


def _by_sequence(*found: Any) -> tuple[Any, ...]:
    """Arrays (T, n, ...) as (n, T, ...)."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)


class _Stretch(NamedTuple):
    """Several steps at once: x -> A x + noise, and the information about the first state in what is seen on the way."""

    A: Array
    noise: Array  # rows Z, of which Z'Z is the covariance of the noise
    root: Array  # rows Y, of which Y'Y is the information


def _follow(later: _Stretch, earlier: _Stretch) -> _Stretch:
    """One stretch after the other: what the later one sees informs about the noise of the earlier one."""
    noise, root = soften(earlier.noise, turned(later.root)), soften(later.root, turned(earlier.noise))
    seen = times(turned(noise), times(noise, times(turned(later.root), times(later.root, earlier.A))))
    return _Stretch(
        times(later.A, earlier.A - seen),
        compress(joined(times(noise, turned(later.A)), later.noise)),
        compress(joined(times(root, earlier.A), earlier.root)),
    )


def parallel(A: Array, L: Array, W: Array) -> Array:
    """Roots of the information at each step of each sequence, (N, T, k, k), from rows ``W (N, T, p, k)``, in log2(T)
    rounds (Särkkä & García-Fernández 2021)."""
    n, t, _, k = W.shape
    goes_on = (jnp.arange(t) < t - 1)[None, :, None, None]
    rows = jnp.concatenate([turned(L), jnp.zeros((k - L.shape[1], k), L.dtype)])
    whole = lambda a: jnp.where(goes_on, jnp.broadcast_to(lifted(a, 4), (n, t, k, k)), 0)
    steps = _Stretch(whole(A), whole(rows), compress(W))
    return running(_follow, steps, axis=1, reverse=True).root


def path(M: Array, c: Array, first: Array, reverse: bool, side_by_side: bool) -> Array:
    """x_1 = first (N, k) and x_{t+1} = M_t x_t + c_t, (N, T, k), for M (N or 1, T - 1, k, k) and c (N, T - 1, k).

    With ``reverse`` x_T = first and x_t = M_t x_{t+1} + c_t.
    """
    if side_by_side:
        M = jnp.broadcast_to(M, (*c.shape, c.shape[-1]))
        join = lambda a, b: (times(b[0], a[0]), apply(b[0], a[1]) + b[1])
        product, sums = running(join, (M, c), axis=1, reverse=reverse)
        rest = apply(product, first[:, None]) + sums
    else:

        def step(x: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            x = apply(now[0], x) + now[1]
            return x, x

        _, rest = jax.lax.scan(step, first, (jnp.moveaxis(M, 1, 0), jnp.moveaxis(c, 1, 0)), reverse=reverse)
        rest = jnp.moveaxis(rest, 0, 1)
    parts = [rest, first[:, None]] if reverse else [first[:, None], rest]
    return jnp.concatenate(parts, axis=1)


def spread(F: Array, H: Array, first: Array, side_by_side: bool) -> Array:
    """V_1 = first and V_{t+1} = F_t V_t F_t' + H_t H_t', (n, T, k, k): sums of squares, in which nothing cancels."""
    G = times(H, turned(H))
    if side_by_side:
        join = lambda a, b: (times(b[0], a[0]), times(times(b[0], a[1]), turned(b[0])) + b[1])
        product, sums = running(join, (F, G), axis=1)
        rest = times(times(product, first[:, None]), turned(product)) + sums
    else:

        def step(V: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            V = times(times(now[0], V), turned(now[0])) + now[1]
            return V, V

        _, rest = jax.lax.scan(step, first, (jnp.moveaxis(F, 1, 0), jnp.moveaxis(G, 1, 0)))
        rest = jnp.moveaxis(rest, 0, 1)
    return jnp.concatenate([first[:, None], rest], axis=1)
