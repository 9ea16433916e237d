"""Normal classes with a variance for each column, and missing cells: each cell counts by itself.

Given its class, what is missing tells nothing about what is seen, so no hidden variables are needed. Sums go over the
observed cells, and each column has class sizes of its own, n_kd = sum_n r_nk [x_nd is seen].
"""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Dataset
from jaxem.core.matrices import product
from jaxem.families import covariance, scales
from jaxem.families.covariance import Distance, Form, deviations, first_moments
from jaxem.families.sums import weighted_sums

# The forms of variances, for class sizes n (K, D).
FORMS: dict[str, Form] = {
    "diag": covariance.FORMS["diag"]._replace(outer=lambda d, n: n * d * d, divisor=lambda n, d: n),
    "spherical": covariance.FORMS["spherical"]._replace(
        outer=lambda d, n: (n * d * d).sum(axis=-1), divisor=lambda n, d: n.sum(axis=-1)
    ),
}


def distance(means: Array, variances: Array, x: Dataset, floor: Any = None) -> Distance:
    """The distances of the observed cells; each constant log 2 pi v_kd grows by floor / v_kd."""
    z = _deviations(means, x) * scales.inverse_root(variances)[:, :, None]
    constants = math.log(2 * math.pi) + scales.log(variances)
    if floor is not None:
        constants = constants + jnp.asarray(floor, variances.dtype) * scales.reciprocal(variances)
    return Distance((z**2).sum(axis=1).T, product(x.observed.astype(means.dtype), constants.T))


def _deviations(means: Array | None, x: Dataset) -> Array:
    """x_nd - m_kd, (K, D, N); 0 where missing."""
    k = 1 if means is None else means.shape[0]
    return jnp.where(x.observed.T[None], deviations(x.values, means, k), 0)


def moments(form: Form, means: Array | None, r: Array, x: Dataset) -> tuple[Array, Array, Array]:
    """Class sizes (K, D), and first and second moments about ``means``, over the observed cells."""
    y = jnp.broadcast_to(_deviations(means, x), (r.shape[1], *x.values.T.shape))
    return weighted_sums(r, x.observed), first_moments(r, y), form.second(r, y)
