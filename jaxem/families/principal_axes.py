r"""The axes of a scatter matrix W = O diag(w) O', also where variables have very different units.

LAPACK's eigenvectors have errors of eps relative to their length. Beside an axis that is a thousand times longer, such
an error is as large as a short axis itself: O' W O has entries of eps times the largest length where it should have
zeros. Jacobi's rotations begin there and end where

.. math:: |(O' W O)_{ij}| \le 8\, \epsilon\, D \sqrt{w_i w_j},

which does not depend on the units of the variables. O' W O is computed anew before each sweep, as the smallest lengths
are wrong as long as the axes are. A sweep turns disjoint pairs of axes at a time, each pair once.

Source: Demmel & Veselic (1992), *Jacobi's method is more accurate than QR*; Golub & Van Loan (2013), section 8.5.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.spaces.orientation import orthonormal

_MOST = 8  # sweeps; one or two where variables have very different units


def turned(w: Array, axes: Array) -> Array:
    """O' W O."""
    return matrices.product(matrices.product(axes.T, w), axes)


@jax.custom_jvp
def principal_axes(w: Array) -> Array:
    """The eigenvectors (D, D) of a symmetric ``w (D, D)``, in columns, that of the largest eigenvalue first."""
    axes = matrices.eigh(w)[1]
    if w.shape[-1] > 1:
        carry = orthonormal(axes), jnp.bool_(True), jnp.int32(0)
        axes = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < _MOST), lambda carry: _sweep(w, carry), carry)[0]
    return jnp.take(axes, jnp.argsort(-jnp.diagonal(turned(w, axes))), axis=1)


@principal_axes.defjvp
def _principal_axes_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """dO = O X with X_ij = (O' dW O)_ij / (w_j - w_i); 0 in a plane of equal eigenvalues, where there is none."""
    (w,), (dw,) = primals, tangents
    axes = principal_axes(w)
    values = jnp.diagonal(turned(w, axes))
    apart = values[None, :] - values[:, None]
    larger = jnp.maximum(jnp.abs(values)[None, :], jnp.abs(values)[:, None])
    known = jnp.abs(apart) > 4 * w.shape[-1] * float(jnp.finfo(w.dtype).eps) * larger
    return axes, matrices.product(axes, jnp.where(known, turned(dw, axes) / jnp.where(known, apart, 1), 0))


def _sweep(w: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    axes, _, sweeps = carry
    d, t = w.shape[-1], turned(w, axes)
    lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(t), 0))
    small = 8 * d * float(jnp.finfo(w.dtype).eps) * lengths[:, None] * lengths[None, :]
    more = ((jnp.abs(t) > small) & ~jnp.eye(d, dtype=bool)).any()  # False for NaN
    partners = jnp.asarray(_rounds(d))

    def turn(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t, axes = carry
        rotation = _rotation(t, partners[i])
        return turned(t, rotation), matrices.product(axes, rotation)

    after = jax.lax.fori_loop(0, len(partners), turn, (t, axes))[1]
    return jnp.where(more, orthonormal(after), axes), more, sweeps + 1


def _rotation(t: Array, partner: Array) -> Array:
    """The rotation (D, D) of each axis i towards ``partner[i]``, by the angle below 45 degrees that makes t_ij zero."""
    own, other = jnp.diagonal(t), jnp.diagonal(t)[partner]
    index = jnp.arange(t.shape[-1])
    between = jnp.where(partner == index, 0, t[index, partner])
    none = between == 0
    ratio = (other - own) / jnp.where(none, 1, 2 * between)
    sign = jnp.where((ratio < 0) | ((ratio == 0) & (index > partner)), -1, 1)
    tangent = jnp.where(none, 0, sign / (jnp.abs(ratio) + jnp.hypot(1, ratio)))
    cosine = 1 / jnp.sqrt(1 + tangent**2)
    return jnp.diag(cosine) + jax.nn.one_hot(partner, len(index), dtype=t.dtype) * (tangent * cosine)[:, None]


def _rounds(d: int) -> np.ndarray:
    """The partner of each axis (rounds, D), itself where it has none, such that all pairs meet once (round robin)."""
    players = d + d % 2
    rounds = []
    for i in range(players - 1):
        order = [0, *(1 + (j - i) % (players - 1) for j in range(players - 1))]
        partner = np.arange(d)
        for a, b in zip(order[: players // 2], reversed(order[players // 2 :]), strict=True):
            if a < d and b < d:
                partner[a], partner[b] = b, a
        rounds.append(partner)
    return np.array(rounds)
