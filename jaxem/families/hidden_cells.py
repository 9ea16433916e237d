r"""Normal classes with a variance for each column, whose missing cells are hidden variables.

Classes that share the volume or the shape of their variances have an M-step in closed form only for rows that are
complete. Given the class, a missing cell has the distribution N(m_kd, v_kd) whatever else is seen, so that the expected
sums are those of complete rows:

.. math:: E[x_{nd} - o_{kd}] = m_{kd} - o_{kd}, \qquad E[(x_{nd} - o_{kd})^2] = (m_{kd} - o_{kd})^2 + v_{kd} .

Source: Dempster, Laird & Rubin (1977), section 4.1.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Dataset
from jaxem.core.matrices import product
from jaxem.families import scales
from jaxem.families.covariance import Form, deviations, first_moments


class HiddenCells(NamedTuple):
    """The posterior of the missing cells given the class: independent normal distributions."""

    missing: Array  # (N, D), where a cell is missing
    means: Array  # (K, D), shared by all rows
    variances: Array  # (K, D), shared by all rows


def infer(means: Array, variances: Array, x: Dataset) -> HiddenCells:
    """Each missing cell has the distribution of its column in the class."""
    return HiddenCells(~x.observed, means, jnp.broadcast_to(variances, means.shape))


def _over_missing(q: HiddenCells, table: Array) -> Array:
    """The sum over the missing cells of ``table (K, D)``, (N, K)."""
    return product(q.missing.astype(table.dtype), table.T)


def expected_log_density(means: Array, variances: Array, q: HiddenCells) -> Array:
    """The part of the missing cells in E_q log N(x; m, v), (N, K)."""
    squares = (q.variances + (q.means - means) ** 2) * scales.inverse_root(variances) ** 2
    return _over_missing(q, -0.5 * (math.log(2 * math.pi) + scales.log(variances) + squares))


def entropy(q: HiddenCells) -> Array:
    """sum over the missing cells of log(2 pi e v) / 2, (N, K)."""
    return _over_missing(q, 0.5 * (math.log(2 * math.pi) + 1 + scales.log(q.variances)))


def divergence(q: HiddenCells, p: HiddenCells) -> Array:
    """KL(q || p) between the posteriors of the missing cells, (N, K)."""
    squares = (q.variances + (q.means - p.means) ** 2) * scales.inverse_root(p.variances) ** 2
    return _over_missing(q, 0.5 * (squares - 1 + scales.log(p.variances) - scales.log(q.variances)))


def moments(form: Form, means: Array, r: Array, q: HiddenCells, x: Dataset) -> tuple[Array, Array]:
    """First (K, D) and second moments of whole rows about ``means``, from weights r (N, K)."""
    seen = jnp.where(x.observed.T[None], deviations(x.values, means, means.shape[0]), 0)
    lost, apart = product(r.T, q.missing.astype(r.dtype)), q.means - means  # (K, D), the weight of missing cells
    second = lost * (q.variances + apart**2)
    return first_moments(r, seen) + lost * apart, form.second(r, seen) + (
        second if form.axes == "K D" else second.sum(axis=1)
    )
