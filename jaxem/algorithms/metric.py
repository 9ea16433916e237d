r"""Coordinates measured by the curvature of what is climbed, so that no unit counts, and what is left to gain.

With g and H the gradient and the Hessian of Q, per observed value, in the coordinates u of all that may move,

.. math:: s_i = (|H_{ii}| + g_i^2)^{-1/2}, \qquad S = \operatorname{diag}(s), \qquad S H S = V \Lambda V', \\
          u = u_0 + W w, \qquad W = S V (|\Lambda| + |S g|^2)^{-1/2} V' .

In w the curvature is one in every direction: a unit of w is about the standard error of one observation, and w moves
by the gradient of Q as by a Newton step. Other units of u_i change s_i and nothing else; data taken twice change
nothing. Far from the optimum, where the curvature says little, |S g|^2 keeps a unit of w from promising more than a
unit of Q per observed value.

Of more than ``LARGEST_MATRIX`` coordinates W is diagonal, and the size of row i of H stands for its entry H_ii: the
rows of S H S are brought to one size by products of H with a few vectors of random signs, again and again
(equilibration; Ruiz 2001, with the products of Bradley 2010).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices

LARGEST_MATRIX = 32  # up to so many coordinates the Hessian is formed
PROBES = 4  # vectors of random signs, where it is not
_PRODUCTS = 20  # steps of conjugate gradients to know what a Newton step would gain
_MARGIN = 1e6  # how much flatter than any direction that was met one may be that was not


class Metric(NamedTuple):
    """A point of the coordinates u, and W there: a matrix (P, P), or its diagonal (P,)."""

    origin: Array  # (P,)
    forward: Array  # W
    inverse: Array  # W^-1

    def into(self, u: Array) -> Array:
        """w of these coordinates."""
        return times(self.inverse, u - self.origin)


class Spectrum(NamedTuple):
    """S H S in its own directions, S and S g."""

    units: Array  # (P,), s
    curvatures: Array  # (P,), the diagonal of |Lambda|
    directions: Array  # (P, P), V
    slopes: Array  # (P,), S g


def times(matrix: Array, vector: Array) -> Array:
    """W v, where W may be given by its diagonal."""
    return matrix @ vector if matrix.ndim == 2 else matrix * vector


def identity(origin: Array, whole: bool) -> Metric:
    """Coordinates as they are: ``whole`` as a matrix."""
    w = jnp.eye(origin.size, dtype=origin.dtype) if whole else jnp.ones_like(origin)
    return Metric(origin, w, w)


def signs(p: int, dtype: jnp.dtype) -> Array:
    """The vectors of random signs, (PROBES, P); the same ones always."""
    return jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (PROBES, p)), dtype)


def derivatives(function: Callable[[Array], Array], at: Array, vectors: Array) -> tuple[Array, Array]:
    """The gradient (P,), and the products of the Hessian with ``vectors (M, P)``, (M, P)."""
    gradient, product = jax.linearize(jax.grad(function), at)
    return gradient, jax.vmap(product)(vectors)


def spectrum(gradient: Array, hessian: Array) -> Spectrum:
    """What is known of ``hessian (P, P)``; an entry that is not finite counts as zero here, and settles nothing."""
    gradient, hessian = (jnp.where(jnp.isfinite(x), x, 0) for x in (gradient, hessian))
    units = _root(jnp.abs(jnp.diagonal(hessian)) + gradient**2)
    values, directions = matrices.eigh(units[:, None] * hessian * units[None, :])
    return Spectrum(units, jnp.abs(values), directions, units * gradient)


def whitened(spectrum: Spectrum, origin: Array) -> Metric:
    """W of a Hessian that was formed."""
    units, curvatures, v, slopes = spectrum
    # A direction flatter than this is not stretched further: the curvature would not last for so long a step.
    flattest = jnp.sqrt(jnp.finfo(units.dtype).eps)
    stretch = jax.lax.rsqrt(jnp.maximum(curvatures, flattest) + slopes @ slopes)
    forward = units[:, None] * matrices.product(v * stretch[None, :], v.T)
    return Metric(origin, forward, matrices.product(v / stretch[None, :], v.T) / units[None, :])


def equilibrated(units: Array, gradient: Array, products: Array) -> Array:
    """``units (P,)`` after one round, by the products of H with S times the signs, (M, P)."""
    rows = jnp.sqrt(((units[None, :] * products) ** 2).mean(axis=0))  # of S H S
    corrected = units * _root(rows + (units * gradient) ** 2)
    return jnp.where(jnp.isfinite(corrected) & (corrected > 0), corrected, units)


def differ(new: Metric, old: Metric) -> Array:
    """Whether a coordinate's length is measured otherwise than it was, by more than a quarter."""
    new_units, old_units = (m.forward if m.forward.ndim == 1 else jnp.diagonal(m.forward) for m in (new, old))
    ratio = new_units / old_units
    return ~((ratio >= 0.8) & (ratio <= 1.25)).all()


def newton_gain(gradient: Array, hessian: Array, spectrum: Spectrum) -> Array:
    r"""What a Newton step would gain per observed value, :math:`\tfrac12 g' |H|^{-1} g`; NaN where it is not known.

    A direction whose curvature is below its rounding error is taken to have that much, so that a direction along which
    nothing changes, the gradient's rounding error included, promises nothing.
    """
    _, curvatures, directions, slopes = spectrum
    gain = 0.5 * ((slopes @ directions) ** 2 / jnp.maximum(curvatures, _blur(slopes))).sum()
    return jnp.where(jnp.isfinite(gradient).all() & jnp.isfinite(hessian).all(), gain, jnp.nan)


def conjugate_gain(product: Callable[[Array], Array], gradient: Array, units: Array, enough: Array) -> Array:
    r"""The same by conjugate gradients on -S H S, from products with H; NaN where it is not known.

    Step k gains :math:`\tfrac12 (r'r)^2 / d'(-S H S)d` more than the one before. They end where more than ``enough``
    was found, or where the rest r is rounding error, or could gain no more than ``enough`` even in a direction a
    million times flatter than any met before. Until then, and where Q bends upwards, it is not known.
    """
    slopes = units * gradient
    rounding = (16 * jnp.finfo(slopes.dtype).eps) ** 2 * slopes.size
    one = jnp.ones((), slopes.dtype)

    def known(squared: Array, flattest: Array) -> Array:
        return (squared <= rounding) | (0.5 * squared / flattest <= enough / _MARGIN)

    def going(carry: tuple[Array, ...]) -> Array:
        gain, _, _, squared, flattest, count = carry
        return (gain <= enough) & ~known(squared, flattest) & (flattest > 0) & (count < _PRODUCTS)

    def again(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        gain, left, along, squared, flattest, count = carry
        bent, length = -units * product(units * along), along @ along
        curvature, blur = along @ bent, _blur(slopes) * length
        concave, curvature = curvature > -blur, jnp.maximum(curvature, blur)
        left = left - squared / curvature * bent
        new = left @ left
        along = left + new / squared * along
        flattest = jnp.where(concave, jnp.minimum(flattest, curvature / length), 0)
        return gain + 0.5 * squared**2 / curvature, left, along, new, flattest, count + 1

    # Before any direction was met: a curvature of one, that of a coordinate alone.
    begin = (0 * one, slopes, slopes, slopes @ slopes, one, jnp.int32(0))
    gain, _, _, squared, flattest, _ = jax.lax.while_loop(going, again, begin)
    found = ((gain > enough) | known(squared, flattest)) & jnp.isfinite(slopes).all()
    return jnp.where(found, gain, jnp.nan)


def _blur(slopes: Array) -> Array:
    """The rounding error of a curvature of S H S."""
    return jnp.asarray(64 * slopes.size * jnp.finfo(slopes.dtype).eps, slopes.dtype)


def _root(size: Array) -> Array:
    """size^-1/2, the length along which something of this size changes by one; 1 where nothing changes."""
    return jnp.where(size > 0, jax.lax.rsqrt(jnp.where(size > 0, size, 1)), 1)
