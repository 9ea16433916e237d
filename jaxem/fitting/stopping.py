"""Stopping rules, which can be combined.

A rule is a frozen dataclass with ``met(progress) -> bool``. Tolerances are dynamic: a new value does not compile again.
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

_HUNDREDTH = 0.01  # standard errors that may be left
_MANY = 5e5  # for more observed values the default tolerance per value would leave more than that


class Progress(NamedTuple):
    """What a stopping rule can read after each step."""

    params: Params
    previous: Params
    trace: Array | None  # objective of each iterate so far, then NaN
    steps: Array  # steps so far, at least 1
    size: Array  # number of observed values
    noise: Array | float = 0.0  # rounding error of the objective beyond ``rounding``
    left: Array | float = jnp.inf  # estimated rise of the objective still to come (see ``remaining``)
    blurred: Array | bool = False  # whether rounding error is all that moves the parameters
    relative: bool = False  # whether ``left`` is a squared relative distance instead
    leaps: bool = False  # whether ``left`` was estimated from the lengths of an accelerator's steps alone

    def objective(self, back: int | Array) -> Array:
        """The objective ``back`` iterations ago (a number or an array of them); NaN before the start."""
        index = self.steps - back
        return jnp.where(index >= 0, self.trace[jnp.maximum(index, 0)], jnp.nan)  # pyright: ignore


class Rule(Protocol):
    """A stopping rule.

    A rule that reads ``Progress.left`` also has ``blocked(progress)``: whether rounding error will always keep it from
    being met. For rules without ``blocked``, ``left`` is not estimated.
    """

    @property
    def needs_objective(self) -> bool:
        """Whether the rule reads the objective."""
        ...

    def met(self, progress: Progress) -> Array:
        """Whether to stop."""
        ...


@register
@dataclasses.dataclass(frozen=True)
class _ParameterChange:
    tol: float
    needs_objective = False

    def met(self, progress: Progress) -> Array:
        # Steps shorter than a few units in the last place cannot be resolved.
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
        blur = bound.rounding(new, progress.size) + progress.noise
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
        return rise <= 2 * jnp.sqrt(2 * variance / half)  # False for NaN, before the window is full


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
        # A leap may be short far from the optimum, so the parameters must also have come to rest.
        return met & parameter_change(self.tol**0.5).met(progress) if progress.leaps else met

    def blocked(self, progress: Progress) -> Array:
        """Whether rounding error will always keep the rule from being met."""
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
    """The difference of objectives that a tolerance per observed value allows.

    It is never finer than rounding error, here an eighth of the slack of the ascent law.
    """
    asked = jnp.asarray(tol, objective.dtype) * progress.size
    return jnp.maximum(asked, bound.rounding(objective, progress.size) / 8 + progress.noise)


def parameter_change(tol: float) -> Rule:
    r"""A rule that stops when no parameter array changes by more than ``tol`` relative to its largest element.

    .. math:: \|\theta_\ell^{t+1} - \theta_\ell^t\|_\infty \le tol \cdot \|\theta_\ell\|_\infty
              \quad\text{for every array } \theta_\ell

    The rule needs no objective. At a linear rate r the distance left is r / (1 - r) times the last change.

    Arguments:
        tol: greatest relative change; at least 16 eps is used, as smaller changes are rounding error.

    Returns:
        A stopping rule, for the argument ``stop`` of ``fit``.

    Raises:
        ValueError: ``tol`` is negative or not finite.
    """
    number("jaxem.fitting.parameter_change: tol", tol, 0, math.inf)
    return _ParameterChange(tol)


def objective_change(tol: float) -> Rule:
    r"""A rule that stops when the objective changes by at most ``tol`` per observed value.

    .. math:: |L_t - L_{t-1}| \le tol \cdot size(data)

    Arguments:
        tol: greatest change per observed value; the whole change allowed is at least rounding error.

    Returns:
        A stopping rule, for the argument ``stop`` of ``fit``.

    Raises:
        ValueError: ``tol`` is negative or not finite.
    """
    number("jaxem.fitting.objective_change: tol", tol, 0, math.inf)
    return _ObjectiveChange(tol)


def aitken(tol: float) -> Rule:
    r"""A rule that stops when the extrapolated limit of the objective is at most ``tol`` per observed value away.

    .. math:: a = \frac{L_t - L_{t-1}}{L_{t-1} - L_{t-2}}, \quad
              L_\infty = L_{t-1} + \frac{L_t - L_{t-1}}{1 - a}, \quad |L_\infty - L_t| \le tol \cdot size(data)

    The extrapolation needs 0 <= a < 1. The rule also stops where the last two changes are both rounding error.

    Arguments:
        tol: greatest distance per observed value; the whole distance allowed is at least rounding error.

    Returns:
        A stopping rule, for the argument ``stop`` of ``fit``.

    Raises:
        ValueError: ``tol`` is negative or not finite.

    Source: Boehning, Dietz, Schaub, Schlattmann & Lindsay (1994).
    """
    number("jaxem.fitting.aitken: tol", tol, 0, math.inf)
    return _Aitken(tol)


def plateau(window: int = 20) -> Rule:
    r"""A rule that stops when a noisy objective no longer rises.

    The last ``window`` iterations are divided into an older and a newer half. The rule is met when the mean objective
    rises from one to the other by no more than two standard errors of such a difference.

    .. math:: \bar L_{new} - \bar L_{old} \le 2 \sqrt{2 \sigma^2 / h}, \quad h = window / 2, \quad
              \sigma^2 = \operatorname{mean}\,(L_{t+1} - 2 L_t + L_{t-1})^2 / 6

    The noise is estimated from second differences, which do not contain a steady rise. So an ascent without noise goes
    on for as long as it rises, linearly or geometrically at any rate. Noise that is correlated between iterations is
    underestimated, and the fit goes on a little longer. A rise of less than about 2 sigma (2 / h)^(1/2) over half a
    window is hidden by the noise; a wider window finds it. The rule does not depend on units.

    Arguments:
        window: number of iterations, even and at least 8; default 20.

    Returns:
        A stopping rule, for the argument ``stop`` of ``fit``.

    Raises:
        ValueError: ``window`` is not an even whole number of at least 8.

    Source: von Neumann (1941), the difference estimator of variance, here of second order.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 8 or window % 2:
        raise ValueError(f"jaxem.fitting.plateau: window must be an even number of at least 8; it is {window}")
    return _Plateau(window)


def all_of(*rules: Rule) -> Rule:
    """A rule that stops when every one of ``rules`` is met.

    Arguments:
        rules: one or more stopping rules.

    Returns:
        A stopping rule, for the argument ``stop`` of ``fit``.

    Raises:
        ValueError: there is no rule, or one is not a stopping rule.
    """
    return _AllOf(_some(rules, "all_of"))


def any_of(*rules: Rule) -> Rule:
    """A rule that stops when at least one of ``rules`` is met.

    Arguments:
        rules: one or more stopping rules.

    Returns:
        A stopping rule, for the argument ``stop`` of ``fit``.

    Raises:
        ValueError: there is no rule, or one is not a stopping rule.
    """
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
    r"""The default rule of ``fit``: stops when the rise still to come is at most ``tol`` per observed value.

    .. math:: \hat L_\infty - L_t \le tol \cdot \min(size(data), 5 \cdot 10^5)

    The rise still to come is estimated by ``jaxem.fitting.remaining``. It differs from the last gain: at a rate of
    0.999 an iteration gains a five-hundredth of it. With the default 1e-10 no fit of any size ends with more than 5e-5
    left, a hundredth of a standard error. Where rounding error is all that still moves the parameters, 5e-5 is enough
    for any ``tol``, and more is ``Status.PRECISION``.

    Without an objective, the relative distance of the parameters to their limit must be at most ``tol`` (or 4 eps).
    Where rounding error is all that moves the parameters, a hundredth of size(data)^(-1/2) is enough.

    Arguments:
        tol: greatest rise per observed value that may be left; ``fit`` has the default 1e-10.
    """
    return _LittleLeft(tol)


def noisy_rule(has_objective: bool) -> Rule:
    """The default rule for a noisy objective: ``plateau()``, or a rule that never stops where there is no objective.

    Without an objective only ``max_steps`` can end the fit: noise moves the parameters for ever, and a falling step
    size makes them seem to have converged wherever they are.
    """
    return plateau() if has_objective else _Never()
