"""One Newton step of a concave function, kept finite and of bounded length.

Leaves of the parameters that only improve Q (``Param.improves``) take one such step an iteration. The algorithm halves
it where the objective falls; but a step that is not finite or absurdly long never recovers from halving, so it is
caught here.
"""

import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices

LONGEST = 4.0  # the largest change of the linear predictor, root mean square


def step(
    score: Array, information: Array, most: Array, n: Array, gram: Array | None = None, limit: Array | float = LONGEST
) -> Array:
    r"""The Newton step d of each class, with a ridge at the level of rounding error and no coefficient moved too far.

    .. math:: (I + \epsilon\, \mathrm{diag}(m))\, d = s, \qquad |d_p| \sqrt{m_p / n} \le 4

    A nearly separated gate or regression has an information far below ``most``, and its maximum is at infinity: the
    ridge keeps the system solvable and the limit keeps each step within reach. Units of the covariates change neither.

    Arguments:
        score: the gradient of Q in the coefficients, (..., P).
        information: minus its Hessian or the expected one, (..., P, P), positive semidefinite but for rounding.
        most: the weighted sums of squares of the covariates, (..., P): the information of a predictor with curvature 1.
        n: the sum of the weights, (...).
        gram: the weighted sums of products of the covariates, (..., P, P), of which ``most`` is the diagonal. With it,
            the limit is on the predictor as a whole, d' gram d / n <= 4^2, so that covariates far from zero beside an
            intercept do not shorten the step; default ``None``: it is on each coefficient.
        limit: the limit, 4 by default; ``math.inf`` for least squares, where the step leads to the maximum.

    Returns:
        The step, (..., P); zero for a covariate that is always zero.
    """
    live = most > 0  # NaN is not
    scale = jnp.sqrt(jnp.where(live, most, 1))
    p = score.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(p, dtype=score.dtype), information.shape)
    unit = information / (scale[..., :, None] * scale[..., None, :])
    ridge = jnp.finfo(score.dtype).eps * 8 * p
    kept = live[..., :, None] & live[..., None, :]
    unit = jnp.where(kept, unit, 0) + eye * jnp.where(live, ridge, 1)[..., :, None]
    factor = matrices.cholesky(unit)
    moved = matrices.solve(factor, (jnp.where(live, score, 0) / scale)[..., None])[..., 0]
    # A system that is singular even so: uphill along the score. What is NaN stays NaN.
    sound = jnp.isfinite(information).all(axis=(-2, -1)) & jnp.isfinite(n)
    singular = sound[..., None] & ~jnp.isfinite(moved).all(axis=-1, keepdims=True)
    moved = jnp.where(singular, jnp.where(live, score, 0) / scale, moved)
    if gram is None:
        longest = jnp.abs(moved).max(axis=-1, keepdims=True)
    else:
        d = jnp.where(live, moved / scale, 0)
        squares = (d[..., :, None] * gram * d[..., None, :]).sum(axis=(-2, -1))
        longest = jnp.sqrt(jnp.where(squares <= 0, 0, squares))[..., None]
    longest = longest / jnp.sqrt(jnp.where(n <= 0, 1, n))[..., None]
    share = jnp.where(longest <= limit, 1, limit / longest)
    return jnp.where(jnp.isnan(most), jnp.nan, jnp.where(live, moved * share / scale, 0))
