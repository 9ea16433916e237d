"""Log-densities and moments of K normal classes by matrix products: choice of the method and of the block size.

There are two methods, the modules ``quadratic`` and ``whitening``. Each has the functions ``view`` (everything that
does not depend on an observation), ``table`` (log-densities), ``sums`` (sums over observations) and ``moments`` (the
moments that follow from those sums). Observations are in columns, so that rows are long and contiguous. The argument
``form`` names the form of the covariances; ``textbook`` is a function that works with deviations from each mean.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.passes import accumulate
from jaxem.core.sizes import is_symbol
from jaxem.families import quadratic, whitening

# With fewer rows the matrix products are not the larger part of the work.
_FEWEST_ROWS = 512
# Below 12 dimensions the quadratic method is faster; above 64 whitening is, for any number of classes.
_FEWEST_WHITENED, _MOST_SQUARED = 12, 64
# Bytes of intermediate numbers per block of observations: small enough for the cache of a CPU, yet with long rows.
_BYTES = {"cpu": 2**22}
_BYTES_ELSEWHERE = 2**31

Textbook = Callable[[Array, Array], tuple[Array, Array]]
View = quadratic.View | whitening.View


class Products(Protocol):
    """The functions of a method; see ``quadratic.py``."""

    def numbers(self, form: str, k: int, d: int) -> int: ...
    def view(self, form: str, means: Array, covariances: Any) -> Any: ...
    def table(self, form: str, classes: Any, x: Array) -> Array: ...
    def sums(self, form: str, classes: Any, r: Array, x: Array) -> tuple[Array, ...]: ...
    def moments(self, form: str, classes: Any, n: Array, sums: tuple[Array, ...]) -> tuple[Array, Array]: ...


def chosen(form: str, rows: int, k: int, d: int) -> Products | None:
    """The fastest method for these shapes; ``None`` where deviations from each mean are no slower."""
    if is_symbol(rows) or rows < _FEWEST_ROWS:
        return None
    # Whitening makes K D numbers per observation, the quadratic method D (D + 3) / 2; at K = D / 4 they take as long.
    whitened = form == "full" and (d > _MOST_SQUARED or (d >= _FEWEST_WHITENED and 4 * k <= d))
    return whitening if whitened else quadratic


def of(classes: View) -> Products:
    """The method that made this view."""
    return whitening if isinstance(classes, whitening.View) else quadratic


def log_density(form: str, view: View, x: Array) -> Array:
    """log N(x_n; m_k, S_k), (K, N), from ``x (N, D)``, where the view is safe."""
    by = of(view)
    return _in_pieces(lambda x: by.table(form, view, x), x, _rows(by, form, view.means.shape[0], x))


def in_pieces(textbook: Callable[[Array], Array], form: str, k: int, x: Array) -> Array:
    """``textbook(x) (K, N)``, block by block where there are many observations."""
    by = chosen(form, x.shape[0], k, x.shape[1])
    return textbook(x) if by is None else _in_pieces(textbook, x, _rows(by, form, k, x))


def _in_pieces(table: Callable[[Array], Array], x: Array, most: int) -> Array:
    n = x.shape[0]
    if n <= most:
        return table(x)
    pieces = -(-n // most)
    size = -(-n // pieces)
    padded = jnp.concatenate([x, jnp.broadcast_to(x[:1], (pieces * size - n, x.shape[1]))])
    tables = jax.lax.map(table, padded.reshape(pieces, size, -1))
    return jnp.moveaxis(tables, 0, 1).reshape(-1, pieces * size)[:, :n]


def moments(form: str, view: View | None, r: Array, x: Array, textbook: Textbook) -> tuple[Array, Array]:
    """sum_n r_nk (x_n - o_k), (K, D), and sum_n r_nk (x_n - o_k)(x_n - o_k)', shaped like the covariances.

    From ``r (N, K)`` and ``x (N, D)``, where o_k are the means of ``view``, which must be safe. Without ``view`` the
    origin is zero, and ``textbook(r, x)`` is used where there are few observations.
    """
    by = chosen(form, x.shape[0], r.shape[1], x.shape[1]) if view is None else of(view)
    if by is None:
        return textbook(r, x)
    sums = accumulate(lambda rows: by.sums(form, view, rows[0].T, rows[1]), (r, x), _rows(by, form, r.shape[1], x))
    return by.moments(form, view, r.sum(axis=0), sums)


def sum_of_pieces(textbook: Textbook, form: str, r: Array, x: Array) -> tuple[Array, Array]:
    """``textbook(r, x)``, summed over blocks where there are many observations."""
    by = chosen(form, x.shape[0], r.shape[1], x.shape[1])
    if by is None:
        return textbook(r, x)
    return accumulate(lambda rows: textbook(*rows), (r, x), _rows(by, form, r.shape[1], x))


def _rows(by: Products, form: str, k: int, x: Array) -> int:
    """How many observations make a block."""
    size = by.numbers(form, k, x.shape[1]) * x.dtype.itemsize
    return max(_BYTES.get(jax.default_backend(), _BYTES_ELSEWHERE) // size, 1)
