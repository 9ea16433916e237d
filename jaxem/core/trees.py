"""Small operations on parameter trees: names of leaves, dtypes, norms, selection, accurate sums."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core.tables import one_line

Tree = Any


def leaf_names(tree: Tree) -> list[str]:
    """The dotted name of every leaf, e.g. ``components.means``; a lone array is called ``params``."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [one_line(jax.tree_util.keystr(path, simple=True, separator=".")) if path else "params" for path in paths]


def is_traced(*trees: Tree) -> bool:
    """Whether values cannot be looked at: a leaf is traced, or any result computed here would be (under ``jit``)."""
    return holds_tracers(trees) or _results_are_traced()


def _results_are_traced() -> bool:
    """Whether a result computed here would be traced: by the cheapest one, which outside a trace compiles nothing,
    since every program asks this."""
    return isinstance(jax.lax.stop_gradient(_ZERO), Tracer)


_ZERO = np.float32(0)


def holds_tracers(tree: Tree) -> bool:
    """Whether a leaf is traced."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def at_hand(tree: Tree) -> Tree:
    """The tree as NumPy arrays where that takes no copy (nothing is traced, or on an accelerator or several devices),
    else as it is. For what is looked at once: each operation of JAX on a new shape is a program to compile, of 20 ms.
    """

    def near(leaf: Any) -> bool:
        devices = leaf.devices() if isinstance(leaf, jax.Array) else set()
        return len(devices) <= 1 and all(device.platform == "cpu" for device in devices)

    return tree if is_traced(tree) or not all(map(near, jax.tree.leaves(tree))) else jax.tree.map(np.asarray, tree)


def float_dtype(*trees: Tree) -> jnp.dtype:
    """The widest floating dtype among the leaves, or JAX's default float where there is none."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(trees)]
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    if not floating:
        return jnp.result_type(float)
    return max(floating, key=lambda dtype: jnp.finfo(dtype).bits)


def size_in_bytes(tree: Tree) -> int:
    """The size of all leaves together; a leaf is an array, or its shape and dtype."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def cast(tree: Tree, dtype: jnp.dtype) -> Tree:
    """Every leaf as a strongly typed array of ``dtype``."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), tree)


def all_finite(tree: Tree) -> Array:
    """Whether every element of every leaf is finite."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all() if leaves else jnp.bool_(True)


def select(condition: Array, if_true: Tree, if_false: Tree) -> Tree:
    """``if_true`` where the scalar ``condition`` holds, else ``if_false``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jax.lax.select(condition, a, b), if_true, if_false)


def stored(tree: Tree, zero: Array) -> Tree:
    """The tree with the rounding that it has in memory, for differences of the size of rounding error.

    Where x is a product, a compiler may compute ``x - y`` before it rounds x. An exclusive or with ``zero`` prevents
    that: it is an int32 whose value, 0, is known only at run time. For derivatives this function is the identity.
    """
    return jax.tree.map(lambda leaf: _stored(leaf, zero), tree)


@jax.custom_jvp
def _stored(leaf: Array, zero: Array) -> Array:
    bits = jnp.dtype(f"int{8 * leaf.dtype.itemsize}")
    whole = jax.lax.bitcast_convert_type(leaf, bits) ^ zero.astype(bits)
    return jax.lax.bitcast_convert_type(whole, leaf.dtype)


@_stored.defjvp
def _stored_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _stored(*primals), tangents[0]


def largest(tree: Tree) -> Array:
    """The largest absolute value in the tree."""
    return jnp.max(_sizes(tree))


def _sizes(tree: Tree) -> Array:
    """The largest absolute value in each leaf; 0 where it is empty."""
    return jnp.stack(
        [jnp.abs(leaf).max() if leaf.size else jnp.zeros((), leaf.dtype) for leaf in jax.tree.leaves(tree)]
    )


def relative_change(new: Tree, old: Tree) -> Array:
    r"""The largest change of any leaf, relative to that leaf's own size.

    .. math:: \max_\ell\; \frac{\|new_\ell - old_\ell\|_\infty}{\max(\|new_\ell\|_\infty, \|old_\ell\|_\infty)}

    Each leaf is measured against itself, so that its units do not affect the other leaves. A leaf below ``eps`` times
    the largest absolute value in ``new`` counts as unchanged: a leaf of pure rounding error would never settle.
    """
    now, before, moved = _sizes(new), _sizes(old), _sizes(jax.tree.map(jnp.subtract, new, old))
    rounding = jnp.finfo(now.dtype).eps * now.max()
    rounding = jnp.where(jnp.isfinite(rounding), rounding, 0)  # an infinite leaf makes no other negligible
    size = jnp.maximum(now, before)
    return jnp.where(size <= rounding, 0, moved / size).max()  # NaN stays NaN, which is not a small change


def two_sum(total: Tree, lost: Tree, term: Tree) -> tuple[Tree, Tree]:
    """``total`` plus ``term``, and ``lost`` plus the rounding error of that addition (Neumaier 1974).

    ``total + lost`` is then the sum, with an error that does not grow with the number of terms.
    """

    def correction(s: Array, x: Array) -> Array:
        t = s + x
        return jnp.where(jnp.abs(s) >= jnp.abs(x), (s - t) + x, (x - t) + s)

    lost = jax.tree.map(lambda c, s, x: c + correction(s, x), lost, total, term)
    return jax.tree.map(jnp.add, total, term), lost


def concatenate(tree: Tree) -> Array:
    """All leaves as one flat vector."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])
