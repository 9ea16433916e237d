r"""The rise of the objective still to come, estimated after each step, in units of the log-likelihood.

Near a maximum EM is linear. With e the distance to the maximum, I_o the observed and I_c the complete information, g
the gradient of the objective and Delta the step,

.. math:: g = I_o e, \quad \Delta = I_c^{-1} g, \quad I_o = I_c (1 - r), \qquad
          \tfrac12 e' I_o e = \frac{\tfrac12\, g' \Delta}{1 - r}, \qquad \Delta_{t+1} = r\, \Delta_t

along the slowest direction, whose rate is r. So d = g' Delta / 2 measures the step in units of its own information:
d / (1 - r) was left before the step, and r^2 times that is left after it. A step whose gain is too small to see may be
one of many thousands, so the rate is needed. The distance left is (2 left)^(1/2) standard errors of the slowest
direction; a log-likelihood of 5e-5 is a hundredth of one.

*Where d comes from.* The gradient of Q at the parameters of its own E-step is that of the objective (Fisher's
identity). Where Q is a function of the sums, it costs nothing. Sums are taken about the parameters, so g is a small
number known to full precision, long after differences of the objective have become rounding error. Those resolve only
eps L, which is a unit of log-likelihood for a million observations in 32 bits. Without the sums d is the gain of the
objective. Once that gain is rounding error, d comes from a gradient computed by a pass over the data in 32 bits; in 64
bits, or where there is no gradient, d is proportional to the squared length of the step. Without any objective d is the
square of the relative change of the parameters, and what is left is a squared relative distance.

*Rounding of the parameters.* Parameters are known only to eps times their size, so a step may be longer by that much
than it looks. Where the parameters do not move because the next number is too far away, d is not zero.

*The rate* is measured between landmarks, steps at which d has fallen by a factor e^(1/2). It is measured over as many
steps as that takes, and no more, so that noise of a single step does not matter. There are three guards. The rate of
the last step alone is used where it is the slower one. A rise of d resets the landmarks, because a plateau, from which
gains grow, has no rate. The estimate must have fallen twice in a row, because it seems to grow where a slower
direction, or one in which gains grow, takes over.

*Leaps* of an accelerator tell little by their length. With sums at both ends, the step that EM would take from the end
of the leap is measured instead, and 1 - r is Delta' I_o Delta / Delta' I_c Delta along the leap: the change of the
gradient divided by the curvature of Q. The smallest 1 - r of the last leaps is used, of those long enough to show it.
Where the objective curves upwards along a leap, the maximum is not near, and what is left is unknown; no rate follows.

*The end by rounding error.* Successive steps of EM point in one direction. Where five short ones did not, and d did not
fall, only rounding error moves the parameters; the same holds where they did not move twice in a row. What is left is
then estimated by the rate measured before (0.999 where none was), and the fit has come as far as it can.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.protocol import State
from jaxem.core import constraints, expectation, trees
from jaxem.core.data import Data, Spread
from jaxem.core.model import Params, has, is_additive, spaces_of
from jaxem.core.spaces import Simplex, answers

_FALL = 0.5  # fall of log d from one landmark to the next
_SLOWEST = 1e-5  # the smallest 1 - r that can be told from zero
_CURVED_UP = -1.0  # in the place of 1 - r, where the objective curves upwards along a leap
_UNSEEN = 1e-3  # 1 - r assumed where no rate was measured before rounding error took over
_FALLING = 2  # falls of the estimate in a row before it is used
_FORGET = 1.5  # the smallest 1 - r of earlier leaps is multiplied by this at each leap
_BLURRED = 5  # steps of rounding error after which nothing else is taken to move the parameters
_ULPS = 4  # units in the last place by which a step may be longer than it looks
_FINE = 64  # a step this many times longer than rounding error is real
_SURE = 4  # a change of the gradient this many times larger than its rounding error is real


# Steps and gradients are measured as flat vectors: an operation on each of many small leaves takes longer to compile.


class Measured(NamedTuple):
    """Measures of one step; after a leap, of the step that EM would take next."""

    d: Array  # g' Delta / 2, or what replaces it
    along: Array  # squared length of the step
    turn: Array  # inner product with the step before
    fine: Array  # whether the step is far longer than rounding error
    unit: Array | None  # d / ``along`` at the last step whose gain the objective resolved
    rest: Array | None = None  # 1 - r along a leap with sums at both ends; NaN where hidden by rounding, or _CURVED_UP
    moved: Array | bool = True  # whether a leap moved any parameter


class Landmark(NamedTuple):
    """A step that the rate is measured from or to."""

    step: Array
    log_d: Array


class Remaining(NamedTuple):
    """What is known after some steps."""

    last: Array  # what is left, estimated from the last step without the guard that it must fall
    older: Landmark
    newer: Landmark
    log_d: Array  # of the last step
    step: Array  # the last step, or the one EM would take after the last leap, as one vector
    along: Array  # of the last step
    unit: Array | None  # of the last step; None where a gradient is always known
    still: Array  # steps of rounding error since d last fell or rose
    level: Array  # largest d of these steps
    rest: Array | None  # smallest 1 - r of the last leaps, infinite before any was measured; None where there are none
    falling: Array  # consecutive steps at which ``last`` did not rise


def by_sums(model: Any, algorithm: Any) -> bool:
    """Whether the gradient of the objective follows from the algorithm's sums, without a pass over the data."""
    if hasattr(algorithm, "inner"):
        return by_sums(model, algorithm.inner)
    return hasattr(algorithm, "sums") and is_additive(model) and has(model, "expected_log_joint")


def nothing_known(model: Any, algorithm: Any, params: Params) -> Remaining:
    """The record before the first step."""
    dtype = trees.float_dtype(params)
    unknown, zero = jnp.asarray(jnp.inf, dtype), jnp.zeros((), dtype)
    mark, step = Landmark(jnp.int32(0), -unknown), jnp.zeros_like(trees.concatenate(params))
    return Remaining(
        last=unknown,
        older=mark,
        newer=mark,
        log_d=unknown,
        step=step,
        along=zero,
        unit=None if by_sums(model, algorithm) else jnp.full_like(zero, jnp.nan),
        still=jnp.int32(0),
        level=zero,
        rest=unknown if by_sums(model, algorithm) and hasattr(algorithm, "inner") else None,
        falling=jnp.int32(0),
    )


def estimate(
    known: Remaining, steps: Array, step: Array, m: Measured, settled: Array, relative: bool, finite: bool
) -> tuple[Remaining, Array, Array]:
    """What is left to climb after one more step.

    Arguments:
        steps: the number of this step in the fit.
        step: as ``measure`` returns it.
        settled: whether the algorithm regards itself as settled.
        relative: whether d is a squared relative distance.
        finite: whether the algorithm ends after finitely many steps, so that one that changes nothing is the last.

    Returns:
        The new record, what is left (infinite while unknown), and whether rounding error is all that moves the
        parameters.
    """
    log_d = jnp.log(jnp.maximum(m.d, jnp.finfo(m.d.dtype).tiny))
    one_way = (m.turn > 0.5 * jnp.sqrt(m.along * known.along)) & (m.along > 0)
    clear = (one_way | m.fine) & m.moved
    here = Landmark(steps, log_d)
    # The d of a step of a few units in the last place may rise by rounding, which is no new plateau.
    fell, rose = clear & (log_d <= known.newer.log_d - _FALL), clear & m.fine & ~(log_d < known.newer.log_d + _FALL)
    older = trees.select(rose, here, trees.select(fell, known.newer, known.older))
    newer = trees.select(rose | fell, here, known.newer)
    still = jnp.where(fell | rose, 0, known.still + (~clear & settled).astype(jnp.int32))
    level = jnp.where(fell | rose, 0, jnp.where(clear, known.level, jnp.maximum(known.level, m.d)))
    frozen = ((step == 0) & (known.step == 0)).all()
    blurred = (still >= _BLURRED) | (frozen & settled)

    fall = jnp.minimum(_fall(older, here), known.log_d - log_d)  # fall of log d per step, -2 log r
    fall = jnp.where(blurred, _fall(older, newer), fall)
    d = jnp.where(blurred, jnp.maximum(level, m.d), m.d)
    r = jnp.exp(-fall / 2)
    rest = jnp.where(fall > 0, jnp.maximum(1 - r, _SLOWEST), _UNSEEN)
    last = d * r**2 / (rest**2 if relative else rest)
    last = jnp.where(blurred | (clear & (fall > 0)), last, jnp.inf)
    slowest = known.rest
    if slowest is not None and m.rest is not None:
        slowest = jnp.where(m.rest > 0, jnp.minimum(m.rest, _FORGET * slowest), slowest)
        last = jnp.where(m.rest < 0, jnp.inf, d / jnp.where(jnp.isinf(slowest), _UNSEEN, slowest))
    last = jnp.where(jnp.isnan(last), jnp.inf, last)
    falling = jnp.where((last <= known.last) & (known.last < jnp.inf), known.falling + 1, 0)
    left = jnp.where(blurred | (falling >= _FALLING), last, jnp.inf)
    if slowest is not None:  # these estimates hold at the end of a leap: they need not fall, the larger of two counts
        left = jnp.maximum(last, known.last)
    if finite:
        ended = (step == 0).all() & settled
        left, blurred = jnp.where(ended, 0, left), blurred & ~ended
    return Remaining(last, older, newer, log_d, step, m.along, m.unit, still, level, slowest, falling), left, blurred


def _fall(older: Landmark, newer: Landmark) -> Array:
    """The fall of log d per step between two landmarks; 0 where it did not fall far enough to tell."""
    whole = older.log_d - newer.log_d
    steps = jnp.maximum(newer.step - older.step, 1).astype(whole.dtype)
    return jnp.where(whole >= _FALL, whole / steps, 0)


def measure(
    model: Any, algorithm: Any, old: State, new: State, data: Data, known: Remaining, blur: Array
) -> tuple[Array, Measured, bool]:
    """The step from ``old`` to ``new`` as one vector, its measures, and whether d is a squared relative distance.

    ``blur`` is the rounding error of the objective.
    """
    before = trees.concatenate(old.params)
    step = trees.concatenate(new.params) - before
    if by_sums(model, algorithm):
        if hasattr(algorithm, "inner"):
            step, measured = _after_a_leap(model, algorithm, old, new, step, known)
        else:
            gradient = expectation.slope_from_sums(model, old.params, *algorithm.sums(old))
            measured = _by_gradient(model, old.params, gradient, None, step, known)
        return step, measured, False
    eps = jnp.finfo(blur.dtype).eps
    # Without a gradient, lengths are relative to the size of each array.
    sizes = trees.concatenate(jax.tree.map(lambda leaf: jnp.broadcast_to(trees.largest(leaf), leaf.shape), old.params))
    scaled = step / (sizes**2 + jnp.finfo(sizes.dtype).tiny)
    along, turn = (scaled * step).sum(), (scaled * known.step).sum()
    change = trees.relative_change(new.params, old.params)
    if old.objective is None:
        return step, Measured((change + _ULPS * eps) ** 2, along, turn, change > _FINE * eps, known.unit), True
    assert new.objective is not None
    gain = new.objective - old.objective
    resolved = gain > 8 * blur
    assert known.unit is not None
    unit = jnp.where(resolved, gain / along, known.unit)
    by_length = jnp.where(jnp.isnan(unit), gain + blur, unit * along)
    d = jnp.where(resolved, gain, by_length)
    if blur.dtype == jnp.float32 and getattr(algorithm, "exact", False) and _has_slope(model, old.params, data):

        def by_slope() -> Array:
            moved = jax.tree.map(lambda leaf: leaf * (1 + eps), old.params)
            gradient, beside = expectation.slopes(model, (old.params, moved), data)
            return _by_gradient(model, old.params, gradient, beside, step, known).d

        d = jax.lax.cond(resolved, lambda: d, by_slope)
    return step, Measured(d, along, turn, resolved | (change > _FINE * eps), unit), False


def _after_a_leap(
    model: Any, algorithm: Any, old: State, new: State, leap: Array, known: Remaining
) -> tuple[Array, Measured]:
    """The step EM would take from the end of a leap, and its measures.

    A leap itself tells nothing: far from the optimum it may be short, go sideways or end no higher than it began. 1 - r
    is I_o / I_c along the leap. Both come from changes of gradients over it: that of the objective, and that of the Q
    of its begin. A gradient from sums is known as well as the parameters of its M-step, so it has an error of I_c times
    a few units in the last place of them.
    """
    sums_before, sums = algorithm.sums(old), algorithm.sums(new)
    places = (old.params, *sums_before), (new.params, *sums_before), (new.params, *sums)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *places)
    gradients = jax.vmap(lambda place: expectation.slope_from_sums(model, *place))(stacked)
    before, away, _ = jax.vmap(trees.concatenate)(gradients)
    here = jax.tree.map(lambda leaf: leaf[2], gradients)
    params = trees.concatenate(new.params)
    step = trees.concatenate(expectation.maximize_sums(model, *sums)) - params
    curved = away - before  # -I_c times the leap
    complete = -(leap * curved).sum()
    observed = (leap * (before - trees.concatenate(here))).sum()
    blur = _ULPS * _rounded(params, curved)
    rest = jnp.where(observed > _SURE * blur, jnp.clip((observed - blur) / complete, _SLOWEST, 1), jnp.nan)
    rest = jnp.where(observed < -_SURE * blur, _CURVED_UP, rest)
    return step, _by_gradient(model, new.params, here, None, step, known)._replace(rest=rest, moved=(leap != 0).any())


def _has_slope(model: Any, params: Params, data: Data) -> bool:
    """Whether the gradient can be computed: a loop or a callback in a user's function may have no derivative."""
    data = data.data if isinstance(data, Spread) else data
    try:
        # The model comes by closure: JAX would keep an argument alive, and the user's functions with it.
        return jax.eval_shape(lambda params, data: expectation.slope(model, params, data), params, data) is not None
    except (TypeError, ValueError, NotImplementedError):
        return False


def _by_gradient(
    model: Any, params: Params, gradient: Params, beside: Params | None, step: Array, known: Remaining
) -> Measured:
    """The measures of a step from ``params``, where the objective has the gradient ``gradient``.

    ``beside`` is the gradient at a point that differs by rounding only; it shows the rounding error of the gradient.
    """
    spaces = spaces_of(model) if has(model, "constraints") else None
    tangential = lambda slope: trees.concatenate(_tangential(spaces, params, slope))
    at, slope = trees.concatenate(params), tangential(gradient)
    along, turn = (slope * step).sum(), (slope * known.step).sum()
    rounded = _rounded(at, slope)
    if beside is not None:
        noise, eps = jnp.abs(tangential(beside) - slope), jnp.finfo(along.dtype).eps
        rounded = rounded + (noise * (jnp.abs(step) + eps * jnp.abs(at))).sum()
    uphill = jnp.maximum(along, 0)
    return Measured((uphill + _ULPS * rounded) / 2, uphill, turn, along > _FINE * rounded, known.unit)


def _rounded(params: Array, slope: Array) -> Array:
    """The largest change of a function with this slope by one unit in the last place of each parameter."""
    return jnp.finfo(params.dtype).eps * jnp.abs(params * slope).sum()


def _tangential(spaces: Any, params: Params, gradient: Params) -> Params:
    """The gradient along directions that stay inside the spaces.

    Where the model names no spaces, each array is treated as a simplex if it looks like probabilities.
    """
    if spaces is None:
        return jax.tree.map(
            lambda leaf, slope: Simplex().tangential(leaf, slope) if leaf.ndim else slope, params, gradient
        )
    return constraints.each(answers.tangential, spaces, params, gradient)
