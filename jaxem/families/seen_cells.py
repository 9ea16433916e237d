r"""Rows with missing cells of classes that have locations m_k and scatters S_k: the normal and the t distribution.

For the four forms of ``covariance.py``. With matrices the missing cells are hidden variables (``incomplete.py``, in
tiles ``tiles.py``); with variances each seen cell counts by itself (``by_cell.py``). The sums have two weights: w of
the rows, r of the covariances C of their missing cells,

.. math:: \sum_n w_{nk}\, (\hat x_{nk} - o_k)(\hat x_{nk} - o_k)' + \sum_n r_{nk}\, C_{nk} ,

with w = r for the normal distribution. For a t distribution, whose missing cells have the covariance C / u given the
scale u, w = r E u: the u of the weight and that of the covariance cancel.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data, Dataset, tile_of
from jaxem.core.matrices import product
from jaxem.families import by_cell, incomplete, tiles
from jaxem.families.covariance import Distance, Form, first_moments
from jaxem.families.incomplete import Completed


def _matrices(scatters: Array) -> Array:
    """The matrices, (K, D, D), or (1, D, D) where all classes share one."""
    return scatters.reshape(-1, *scatters.shape[-2:])


def prepare(form: Form, scatters: Array, x: Data) -> Any:
    """What depends only on which cells a row misses; ``None`` where there is no such thing."""
    return incomplete.prepare(_matrices(scatters), x) if form.of_matrices else None


def distance(form: Form, m: Array, scatters: Array, patterns: Any, x: Dataset, floor: Any = None) -> Distance:
    """The distances of the seen cells from their classes; a ``floor`` only with variances."""
    if not form.of_matrices:
        return by_cell.distance(m, form.variances(scatters, m.shape[1]), x, floor)
    if patterns is not None and tile_of(x) > 1:
        return tiles.infer(m, _matrices(scatters), patterns, x)[0]
    return incomplete.distance(m, _matrices(scatters), patterns, x)


def infer(form: Form, m: Array, scatters: Array, patterns: Any, x: Dataset, floor: Any = None) -> tuple[Distance, Any]:
    """``distance``, and the posterior of the missing cells; () with variances."""
    if not form.of_matrices:
        return distance(form, m, scatters, patterns, x, floor), ()
    by: Any = tiles if patterns is not None and tile_of(x) > 1 else incomplete
    return by.infer(m, _matrices(scatters), patterns, x)


def expected_distance(m: Array, scatters: Array, q: Completed) -> Distance:
    """``incomplete.expected_distance``, for matrices."""
    return incomplete.expected_distance(m, _matrices(scatters), q)


def moments(form: Form, m: Array | None, w: Array, r: Array, q: Any, x: Dataset) -> tuple[Array, Array, Array]:
    """sum_n w_nk, first moments (K, D) and second moments about m; with variances, (K, D) over the seen cells.

    Without ``m``, for a start, missing cells are set to means; the second pass, about its means, has their posterior.
    """
    if not form.of_matrices:
        return by_cell.moments(form, m, w, x)
    if m is None:
        y = incomplete.filled(w, x)
        return w.sum(axis=0), first_moments(w, y), form.second(w, y)
    if q.regressions is not None:
        first, second = tiles.moments(m, w, r, q, x)
        return w.sum(axis=0), first, second.sum(axis=0) if form.axes == "D D" else second
    y = jnp.moveaxis(q.values - m[None], 0, 2)
    uncertain = incomplete.summed_covariances(r, q)
    second = form.second(w, y) + (uncertain.sum(axis=0) if form.axes == "D D" else uncertain)
    return w.sum(axis=0), first_moments(w, y), second


def impute(form: Form, m: Array, scatters: Array, r: Array, x: Dataset) -> Array:
    """The means of the missing cells given those seen and the class probabilities r (N, K), (N, D)."""
    if not form.of_matrices:
        return product(r, m)
    _, q = incomplete.infer(m, _matrices(scatters), prepare(form, scatters, x), x)
    return (r[:, :, None] * q.values).sum(axis=1)
