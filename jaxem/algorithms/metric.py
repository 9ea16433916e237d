r"""Coordinates measured by the curvature of Q, which makes them free of units; and the gain of a Newton step.

With g and H the gradient and the Hessian of Q, per observed value, in the free coordinates u,

.. math:: s_i = (|H_{ii}| + g_i^2)^{-1/2}, \qquad S = \operatorname{diag}(s), \qquad S H S = V \Lambda V', \\
          u = u_0 + W w, \qquad W = S V (|\Lambda| + |S g|^2)^{-1/2} V' .

In w the curvature is one in every direction: a unit of w is about the standard error of one observation, and a step
along the gradient of Q is a Newton step. Other units of u_i change s_i and nothing else; data taken twice change
nothing. Far from the optimum the curvature says little, and |S g|^2 limits what a unit of w can gain to a unit of Q per
observed value.

For more than ``LARGEST_MATRIX`` coordinates W is diagonal, and the size of row i of H takes the place of H_ii. Products
of H with a few vectors of random signs, repeated over several rounds, bring the rows of S H S to one size
(equilibration; Ruiz 2001, with the products of Bradley 2010).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices

LARGEST_MATRIX = 32  # the Hessian is formed for at most this many coordinates
PROBES = 4  # vectors of random signs, where it is not formed
_PRODUCTS = 20  # greatest number of conjugate-gradient steps to find the gain of a Newton step
_MARGIN = 1e6  # an unseen direction may be this much flatter than the flattest one seen


class Metric(NamedTuple):
    """A point in the coordinates u, and W there: a matrix (P, P), or its diagonal (P,)."""

    origin: Array  # (P,)
    forward: Array  # W
    inverse: Array  # W^-1

    def into(self, u: Array) -> Array:
        """The coordinates w of u."""
        return times(self.inverse, u - self.origin)


class Spectrum(NamedTuple):
    """The eigendecomposition of S H S, with S and S g."""

    units: Array  # (P,), s
    curvatures: Array  # (P,), the diagonal of |Lambda|
    directions: Array  # (P, P), V
    slopes: Array  # (P,), S g


def times(matrix: Array, vector: Array) -> Array:
    """W v, where W is a matrix or its diagonal."""
    return matrix @ vector if matrix.ndim == 2 else matrix * vector


def identity(origin: Array, whole: bool) -> Metric:
    """The metric W = I: a matrix where ``whole``, else its diagonal."""
    w = jnp.eye(origin.size, dtype=origin.dtype) if whole else jnp.ones_like(origin)
    return Metric(origin, w, w)


def signs(p: int, dtype: jnp.dtype) -> Array:
    """The vectors of random signs, (PROBES, P); the same at every call."""
    return jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (PROBES, p)), dtype)


def derivatives(function: Callable[[Array], Array], at: Array, vectors: Array) -> tuple[Array, Array]:
    """The gradient (P,), and the products (M, P) of the Hessian with ``vectors (M, P)``."""
    gradient, product = jax.linearize(jax.grad(function), at)
    return gradient, jax.vmap(product)(vectors)


def spectrum(gradient: Array, hessian: Array) -> Spectrum:
    """The spectrum of ``hessian (P, P)``. Entries that are not finite count as zero here; ``newton_gain`` sees them."""
    gradient, hessian = (jnp.where(jnp.isfinite(x), x, 0) for x in (gradient, hessian))
    units = _root(jnp.abs(jnp.diagonal(hessian)) + gradient**2)
    values, directions = matrices.eigh(units[:, None] * hessian * units[None, :])
    return Spectrum(units, jnp.abs(values), directions, units * gradient)


def whitened(spectrum: Spectrum, origin: Array) -> Metric:
    """The metric from the spectrum of a Hessian, at ``origin``."""
    units, curvatures, v, slopes = spectrum
    # Flatter directions are not stretched further: the curvature does not hold over so long a step.
    flattest = jnp.sqrt(jnp.finfo(units.dtype).eps)
    stretch = jax.lax.rsqrt(jnp.maximum(curvatures, flattest) + slopes @ slopes)
    forward = units[:, None] * matrices.product(v * stretch[None, :], v.T)
    return Metric(origin, forward, matrices.product(v / stretch[None, :], v.T) / units[None, :])


def equilibrated(units: Array, gradient: Array, products: Array) -> Array:
    """``units (P,)`` after one round of equilibration, from the products (M, P) of H with S times the signs."""
    rows = jnp.sqrt(((units[None, :] * products) ** 2).mean(axis=0))  # of S H S
    corrected = units * _root(rows + (units * gradient) ** 2)
    return jnp.where(jnp.isfinite(corrected) & (corrected > 0), corrected, units)


def differ(new: Metric, old: Metric) -> Array:
    """Whether the unit of a coordinate has changed by more than a quarter."""
    new_units, old_units = (m.forward if m.forward.ndim == 1 else jnp.diagonal(m.forward) for m in (new, old))
    ratio = new_units / old_units
    return ~((ratio >= 0.8) & (ratio <= 1.25)).all()


def newton_gain(gradient: Array, hessian: Array, spectrum: Spectrum) -> Array:
    r"""The gain of a Newton step per observed value, :math:`\tfrac12 g' |H|^{-1} g`; NaN where it is not known.

    A curvature below its rounding error is replaced by that rounding error. So a direction along which Q is flat up to
    rounding adds nothing to the gain.
    """
    _, curvatures, directions, slopes = spectrum
    gain = 0.5 * ((slopes @ directions) ** 2 / jnp.maximum(curvatures, _blur(slopes))).sum()
    return jnp.where(jnp.isfinite(gradient).all() & jnp.isfinite(hessian).all(), gain, jnp.nan)


def conjugate_gain(product: Callable[[Array], Array], gradient: Array, units: Array, enough: Array) -> Array:
    r"""The same gain by conjugate gradients on -S H S, from products with H; NaN where it is not known.

    Step k adds :math:`\tfrac12 (r'r)^2 / d'(-S H S)d` to the gain. The iteration ends where the gain exceeds
    ``enough``, where the residual r is rounding error, or where r could gain no more than ``enough`` even in a
    direction a million times flatter than any seen before. The gain is unknown where the iteration ends otherwise, as
    it does where Q is convex along a direction.
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

    # The flattest curvature starts at one, that of a single coordinate.
    begin = (0 * one, slopes, slopes, slopes @ slopes, one, jnp.int32(0))
    gain, _, _, squared, flattest, _ = jax.lax.while_loop(going, again, begin)
    found = ((gain > enough) | known(squared, flattest)) & jnp.isfinite(slopes).all()
    return jnp.where(found, gain, jnp.nan)


def _blur(slopes: Array) -> Array:
    """The rounding error of a curvature of S H S."""
    return jnp.asarray(64 * slopes.size * jnp.finfo(slopes.dtype).eps, slopes.dtype)


def _root(size: Array) -> Array:
    """size^-1/2, the length over which a function with curvature ``size`` changes by about one; 1 at zero."""
    return jnp.where(size > 0, jax.lax.rsqrt(jnp.where(size > 0, size, 1)), 1)
