"""When to stop: small rules that look at the last steps, and combine.

A rule is a frozen dataclass with ``met(progress) -> bool``. Tolerances are dynamic: another one compiles nothing.
Every rule is scale-free: differences of objectives are taken per observed value, changes of parameters relative to
their size.
"""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import bound
from jaxem.core.checks import instance, number
from jaxem.core.model import Params
from jaxem.core.records import register
from jaxem.core.trees import float_dtype, relative_change

_HUNDREDTH = 0.01  # of a standard error
_MANY = 5e5  # observed values, beyond which ``tol`` for each would leave more than that


class Progress(NamedTuple):
    """What a rule may look at after each step."""

    params: Params
    previous: Params
    trace: Array | None  # the objective of each iterate so far, NaN after it
    steps: Array  # taken so far, at least 1
    size: Array  # the number of observed values
    noise: Array | float = 0.0  # rounding error of the objective beyond ``rounding``
    left: Array | float = jnp.inf  # what is left to climb (see ``remaining``)
    blurred: Array | bool = False  # whether rounding error is all that moves the parameters
    relative: bool = False  # whether ``left`` is not an objective but a relative distance, squared
    leaps: bool = False  # whether it was estimated from the lengths of leaps alone

    def objective(self, back: int | Array) -> Array:
        """The objective ``back`` iterations ago (one or many); NaN before the start."""
        index = self.steps - back
        return jnp.where(index >= 0, self.trace[jnp.maximum(index, 0)], jnp.nan)  # pyright: ignore


class Rule(Protocol):
    """A stopping rule.

    One that reads ``Progress.left`` also has ``blocked(progress)``: whether rounding error keeps it from being met for
    ever. For other rules what is left is not estimated.
    """

    @property
    def needs_objective(self) -> bool:
        """Whether it reads the trace."""
        ...

    def met(self, progress: Progress) -> Array:
        """Whether to stop."""
        ...


def rounding(objective: Array, size: Array) -> Array:
    """The rounding error to expect in an objective over ``size`` values: 32 times what one can show.

    32 covers the operations of one term and the error growth of the compensated or square-root-blocked sums.
    """
    return 32 * bound.resolution(objective, size)


@register
@dataclasses.dataclass(frozen=True)
class _ParameterChange:
    tol: float
    needs_objective = False

    def met(self, progress: Progress) -> Array:
        # No step can be resolved finer than a few units in the last place.
        finest = 16 * jnp.finfo(float_dtype(progress.params)).eps
        change = relative_change(progress.params, progress.previous)
        return change <= jnp.maximum(jnp.asarray(self.tol, change.dtype), finest)


@register
@dataclasses.dataclass(frozen=True)
class _ObjectiveChange:
    tol: float
    needs_objective = True

    def met(self, progress: Progress) -> Array:
        new = progress.objective(0)
        return jnp.abs(new - progress.objective(1)) <= _allowed(self.tol, new, progress)


@register
@dataclasses.dataclass(frozen=True)
class _Aitken:
    tol: float
    needs_objective = True

    def met(self, progress: Progress) -> Array:
        new, old, older = (progress.objective(back) for back in (0, 1, 2))
        allowed = _allowed(self.tol, new, progress)
        rate = (new - old) / jnp.where(old == older, 1, old - older)
        to_go = (new - old) * rate / (1 - rate)  # l_infinity - l_t of a geometric series
        geometric = (old != older) & (rate >= 0) & (rate < 1) & (jnp.abs(to_go) <= allowed)
        blur = rounding(new, progress.size) + progress.noise
        flat = (jnp.abs(new - old) <= blur) & (jnp.abs(old - older) <= blur)
        return geometric | flat


@register
@dataclasses.dataclass(frozen=True)
class _Plateau:
    window: int = dataclasses.field(metadata={"static": True})
    needs_objective = True

    def met(self, progress: Progress) -> Array:
        half = self.window // 2
        values = progress.objective(jnp.arange(2 * half, dtype=progress.steps.dtype)[::-1])
        rise = values[half:].mean() - values[:half].mean()
        bends = jnp.diff(values, n=2)
        variance = (bends**2).mean() / 6
        return rise <= 2 * jnp.sqrt(2 * variance / half)  # NaN, before there are as many, is not


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Never:
    needs_objective = False

    def met(self, progress: Progress) -> Array:
        return jnp.bool_(False)


@register
@dataclasses.dataclass(frozen=True)
class _LittleLeft:
    tol: float
    needs_objective = False

    def met(self, progress: Progress) -> Array:
        dtype = progress.size.dtype
        tol = jnp.asarray(self.tol, dtype)
        if progress.relative:
            asked, enough = jnp.maximum(tol, 4 * jnp.finfo(dtype).eps) ** 2, _HUNDREDTH**2 / progress.size
        else:
            asked, enough = tol * jnp.minimum(progress.size, _MANY), jnp.asarray(_HUNDREDTH**2 / 2, dtype)
        met = progress.left <= jnp.where(progress.blurred, jnp.maximum(asked, enough), asked)
        # A short leap need not be one that ended near: the parameters must have come to rest, too.
        return met & parameter_change(self.tol**0.5).met(progress) if progress.leaps else met

    def blocked(self, progress: Progress) -> Array:
        """Whether it will never be met."""
        return progress.blurred & ~self.met(progress)


@register
@dataclasses.dataclass(frozen=True)
class _AllOf:
    rules: tuple[Any, ...]

    @property
    def needs_objective(self) -> bool:
        return any(rule.needs_objective for rule in self.rules)

    def met(self, progress: Progress) -> Array:
        return jnp.stack([rule.met(progress) for rule in self.rules]).all()


@register
@dataclasses.dataclass(frozen=True)
class _AnyOf:
    rules: tuple[Any, ...]

    @property
    def needs_objective(self) -> bool:
        return any(rule.needs_objective for rule in self.rules)

    def met(self, progress: Progress) -> Array:
        return jnp.stack([rule.met(progress) for rule in self.rules]).any()


def _allowed(tol: Any, objective: Array, progress: Progress) -> Array:
    """A tolerance per observed value, as a difference of objectives; never finer than rounding (an eighth of the
    slack that the ascent law is given)."""
    asked = jnp.asarray(tol, objective.dtype) * progress.size
    return jnp.maximum(asked, rounding(objective, progress.size) / 8 + progress.noise)


def parameter_change(tol: float) -> Rule:
    r"""Stop when no parameter array changes by more than ``tol`` relative to its largest element.

    .. math:: \|\theta_\ell^{t+1} - \theta_\ell^t\|_\infty \le tol \cdot \|\theta_\ell\|_\infty
              \quad\text{for every array } \theta_\ell

    Works without a bound. At a linear rate r the distance left is r / (1 - r) times the last change.
    """
    number("jaxem.fitting.parameter_change: tol", tol, 0, math.inf)
    return _ParameterChange(tol)


def objective_change(tol: float) -> Rule:
    """Stop when the objective rises by at most ``tol`` an observed value: |L_t - L_{t-1}| <= tol * size(data)."""
    number("jaxem.fitting.objective_change: tol", tol, 0, math.inf)
    return _ObjectiveChange(tol)


def aitken(tol: float) -> Rule:
    r"""Stop when the objective's extrapolated limit is within ``tol`` an observed value.

    .. math:: a = \frac{L_t - L_{t-1}}{L_{t-1} - L_{t-2}}, \quad
              L_\infty = L_{t-1} + \frac{L_t - L_{t-1}}{1 - a}, \quad L_\infty - L_t \le tol \cdot size(data)

    Source: Boehning, Dietz, Schaub, Schlattmann & Lindsay (1994).
    """
    number("jaxem.fitting.aitken: tol", tol, 0, math.inf)
    return _Aitken(tol)


def plateau(window: int = 20) -> Rule:
    r"""Stop when a noisy objective no longer rises: from the mean of the older half of the last ``window`` iterations
    to that of the newer half, by no more than two standard errors of such a difference.

    .. math:: \bar L_{new} - \bar L_{old} \le 2 \sqrt{2 \sigma^2 / h}, \quad h = window / 2, \quad
              \sigma^2 = \operatorname{mean}\,(L_{t+1} - 2 L_t + L_{t-1})^2 / 6

    The noise is judged by second differences, in which a steady rise leaves no trace: an ascent without noise goes on
    for as long as it is one, be it even or geometric at any rate. Noise that hangs together from one iteration to the
    next is judged too small, and the fit goes on a little longer. A rise that the noise hides, of less than about
    2 sigma (2 / h)^(1/2) over half a window, is not seen: a wider window sees it. Nothing here has a unit.

    Raises ``ValueError`` for a window that is not an even number of at least 8.

    Source: the difference estimator of variance of von Neumann (1941), of second order.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 8 or window % 2:
        raise ValueError(f"jaxem.fitting.plateau: window must be an even number of at least 8; it is {window}")
    return _Plateau(window)


def all_of(*rules: Rule) -> Rule:
    """Stop when every rule is met."""
    return _AllOf(_some(rules, "all_of"))


def any_of(*rules: Rule) -> Rule:
    """Stop when one of the rules is met."""
    return _AnyOf(_some(rules, "any_of"))


def _some(rules: tuple[Rule, ...], name: str) -> tuple[Rule, ...]:
    if not rules:
        raise ValueError(f"jaxem.{name} needs at least one rule")
    for rule in rules:
        instance(
            f"jaxem.{name}: a part",
            rule,
            "a stopping rule, such as jaxem.fitting.aitken(1e-8)",
            "met",
            "needs_objective",
        )
    return rules


def default_rule(tol: float) -> Rule:
    r"""At most ``tol`` an observed value is left to climb, as ``jaxem.fitting.remaining`` estimates it.

    .. math:: \hat L_\infty - L_t \le tol \cdot \min(size(data), 5 \cdot 10^5)

    What is left and not what was gained: at a rate of 0.999 an iteration gains a five-hundredth of it. At the default
    1e-10 no fit of any size ends with more than 5e-5 left, a hundredth of a standard error. Where rounding error is all
    that still moves the parameters, 5e-5 is enough for any ``tol``, and more is ``Status.PRECISION``.

    Without an objective the relative distance of the parameters is held to ``tol`` (or 4 eps), at the end of the
    precision to a hundredth of size(data)^(-1/2).
    """
    return _LittleLeft(tol)


def noisy_rule(has_objective: bool) -> Rule:
    """``plateau()``; where there is no objective, nothing but ``max_steps``: noise moves the parameters for ever, and a
    step size that falls makes them seem settled wherever they are."""
    return plateau() if has_objective else _Never()
