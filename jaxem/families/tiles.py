r"""Normal classes with missing cells, where rows come in tiles that miss the same cells (``missing_cells.in_tiles``).

All rows of a tile share their matrices, so that squared distances and moments are matrix products. With y the seen
cells of x_n - m_k, zero where a cell is missing, and the regression B of its pattern, the completed row deviates by B y
from the mean, and the sums of the rows of a tile follow from the moments of what is seen:

.. math:: \sum_n r_{nk} E[(x_n - m_k)(x_n - m_k)'] = B \left( \sum_n r_{nk}\, y y' \right) B' + C \sum_n r_{nk} .
"""

import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Dataset
from jaxem.core.matrices import product
from jaxem.families.covariance import Distance
from jaxem.families.incomplete import Completed, Conditional, constants


def _deviations(means: Array, masks: Array, x: Dataset) -> Array:
    """x_n - m_k, zero where a cell is missing: tiles of rows in columns, (T, K, D, rows)."""
    rows = x.values.astype(means.dtype).reshape(-1, x.patterns.tile, means.shape[1])
    y = jnp.swapaxes(rows, 1, 2)[:, None] - means[None, :, :, None]
    return jnp.where(masks[of_tiles(x)][:, None, :, None], y, 0)


def of_tiles(x: Dataset) -> Array:
    """The pattern of each tile, (T,)."""
    return x.patterns.index[:: x.patterns.tile]


def infer(means: Array, covariances: Array, found: Conditional, x: Dataset) -> tuple[Distance, Completed]:
    """The distances of the seen cells, and the posterior of the missing cells."""
    n, (k, d) = x.values.shape[0], means.shape
    pattern = of_tiles(x)
    y = _deviations(means, found.masks, x)
    z = product(found.whiteners[pattern], y)
    squares = jnp.swapaxes((z**2).sum(axis=2), 1, 2).reshape(n, k)
    # XLA computes the completed rows only where they are used; sums do without.
    predicted = jnp.moveaxis(product(found.regressions[pattern], y), 3, 1).reshape(n, k, d) + means[None]
    values = jnp.where(x.observed[:, None, :], x.values.astype(means.dtype)[:, None, :], predicted)
    q = Completed(values, x.patterns.index, found.masks, found.covariances, means, found.regressions)
    return Distance(squares, jnp.repeat(constants(found)[pattern], x.patterns.tile, axis=0)), q


def moments(means: Array, w: Array, r: Array, q: Completed, x: Dataset) -> tuple[Array, Array]:
    """``incomplete.moments``, from weights w of the rows and r of the covariances of their missing cells, (N, K)."""
    assert q.means is not None and q.regressions is not None
    pattern = of_tiles(x)
    y = _deviations(q.means, q.masks, x)
    w, r = (jnp.swapaxes(a.reshape(y.shape[0], y.shape[3], -1), 1, 2)[:, :, None, :] for a in (w, r))
    b = q.regressions[pattern]
    first = product(b, product(y, jnp.swapaxes(w, 2, 3)))[..., 0].sum(axis=0)
    within = product(product(b, product(w * y, jnp.swapaxes(y, 2, 3))), jnp.swapaxes(b, 2, 3))
    second = (within + r.sum(axis=3)[..., None] * q.covariances[pattern]).sum(axis=0)
    n, moved = w.sum(axis=(0, 2, 3))[:, None], q.means - means  # zero where the sums are about the point of the E-step
    shifted = n * moved
    cross = first[:, :, None] * moved[:, None, :]
    return first + shifted, second + cross + jnp.swapaxes(cross, 1, 2) + shifted[:, :, None] * moved[:, None, :]
