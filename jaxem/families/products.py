"""K normal classes by products of matrices: which of the forms, over how many observations at a time, and what where
it would not be accurate.

A form is a module, ``quadratic`` or ``whitening``: what does not depend on an observation (``view``), log-densities
(``table``), sums over observations (``sums``) and the moments that they stand for (``moments``). Observations stand in
columns, so that rows are long and contiguous.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.expectation import accumulate
from jaxem.families import quadratic, whitening

# Of fewer rows the products are not the greater part of the work.
_FEWEST_ROWS = 512
# Of fewer dimensions monomials are few; of more they are so many that whitening pays for any number of classes.
_FEWEST_WHITENED, _MOST_SQUARED = 12, 64
# Bytes that observations become at a time: what a CPU keeps close, without making their rows too short.
_BYTES = {"cpu": 2**22}
_BYTES_ELSEWHERE = 2**31

Textbook = Callable[..., Any]


View = quadratic.View | whitening.View


class Products(Protocol):
    """What a form offers; see ``quadratic.py``."""

    def numbers(self, form: str, k: int, d: int) -> int: ...
    def view(self, form: str, means: Array, covariances: Array) -> Any: ...
    def table(self, form: str, classes: Any, x: Array) -> Array: ...
    def sums(self, form: str, classes: Any, r: Array, x: Array) -> tuple[Array, ...]: ...
    def moments(self, form: str, classes: Any, n: Array, sums: tuple[Array, ...]) -> tuple[Array, Array]: ...


def chosen(form: str, rows: int, k: int, d: int) -> Products | None:
    """The quickest form for such shapes; ``None`` where deviations from each mean are no slower."""
    if rows < _FEWEST_ROWS:
        return None
    # Whitening handles K D numbers an observation, the other D (D + 3) / 2: with K = D / 4 they take as long.
    whitened = form == "full" and (d > _MOST_SQUARED or (d >= _FEWEST_WHITENED and 4 * k <= d))
    return whitening if whitened else quadratic


def of(classes: View) -> Products:
    """The form that this is a view of."""
    return whitening if isinstance(classes, whitening.View) else quadratic


def log_density(by: Products, form: str, classes: Any, x: Array, textbook: Textbook | None = None) -> Array:
    """log N(x_n; m_k, S_k), (K, N), from ``x (N, D)``; ``textbook(x)`` is the same where this form is not safe (without
    it, it is known to be)."""

    def all_rows(table: Callable[[Array], Array]) -> Array:
        n, most = x.shape[0], _rows(by, form, classes.means.shape[0], x)
        if n <= most:
            return table(x)
        pieces = -(-n // most)
        size = -(-n // pieces)
        padded = jnp.concatenate([x, jnp.broadcast_to(x[:1], (pieces * size - n, x.shape[1]))])
        tables = jax.lax.map(table, padded.reshape(pieces, size, -1))
        return jnp.moveaxis(tables, 0, 1).reshape(-1, pieces * size)[:, :n]

    fast = functools.partial(all_rows, functools.partial(by.table, form, classes))
    return fast() if textbook is None else jax.lax.cond(classes.safe, fast, functools.partial(all_rows, textbook))


def moments(
    by: Products, form: str, classes: Any, weights: Array, x: Array, textbook: Textbook | None = None
) -> tuple[Array, Array]:
    """sum_n r_nk (x_n - o_k), (K, D), and sum_n r_nk (x_n - o_k)(x_n - o_k)', in the form of the covariances.

    ``weights (N, K)``, ``x (N, D)``, o_k the means of ``classes``; ``textbook(weights, x)`` is the same where this form
    is not safe (without it, it is known to be). Without ``classes`` they are about zero, and nothing cancels.
    """
    most = _rows(by, form, weights.shape[1], x)

    def fast() -> tuple[Array, Array]:
        sums = accumulate(lambda rows: by.sums(form, classes, rows[0].T, rows[1]), (weights, x), most)
        return by.moments(form, classes, weights.sum(axis=0), sums)

    if textbook is None or classes is None:
        return fast()
    return jax.lax.cond(classes.safe, fast, lambda: accumulate(lambda rows: textbook(*rows), (weights, x), most))


def _rows(by: Products, form: str, k: int, x: Array) -> int:
    """How many observations at a time."""
    size = by.numbers(form, k, x.shape[1]) * x.dtype.itemsize
    return max(_BYTES.get(jax.default_backend(), _BYTES_ELSEWHERE) // size, 1)
