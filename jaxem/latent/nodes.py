"""A standard normal latent variable as a finite number of nodes with fixed weights: Gauss-Hermite quadrature."""

import functools

import numpy as np
from numpy.polynomial.hermite_e import hermegauss


@functools.cache
def standard_normal(points: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Nodes t_q and log-weights log w_q, (Q,), with E f(z) = sum_q w_q f(t_q) for z ~ N(0, 1).

    Exact for polynomials of degree below 2 Q. Source: Golub & Welsch (1969).
    """
    t, _ = hermegauss(points)
    # NumPy's weights underflow far out. With the orthonormal polynomials h_m, 1 / w_q = sum_{m < Q} h_m(t_q)^2; the
    # factor exp(scale) is divided out of the h_m as they grow.
    before, now = np.zeros(points), np.ones(points)
    total, scale = np.ones(points), np.zeros(points)
    for m in range(1, points):
        before, now = now, (t * now - np.sqrt(m - 1) * before) / np.sqrt(m)
        size = np.maximum(np.abs(now), 1)
        before, now, total, scale = before / size, now / size, total / size**2, scale + np.log(size)
        total = total + now**2
    return t, -np.log(total) - 2 * scale
