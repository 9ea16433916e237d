r"""Conjugate priors of rates and probabilities: a prior counts as data that were seen before.

A gamma prior of a rate is the likelihood of a - 1 events in an exposure of b, a beta prior of a probability that of
alpha - 1 successes and beta - 1 failures, a Dirichlet prior that of c_l - 1 observations of each level. So the M-step
adds these numbers to its sums and is otherwise that of maximum likelihood.

Each log-density is that of a Poisson, binomial or multinomial count (not always whole) and a factor free of the
parameter. It is computed as theirs are, from terms that do not cancel (see ``stirling.py``).

Source: Gelman et al. (2013), sections 2.4, 2.6 and 3.4.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxem.core.checks import brief
from jaxem.core.records import register
from jaxem.families.stirling import deviance, gamma_at_saddle


@register
@dataclasses.dataclass(frozen=True)
class GammaPrior:
    r"""The gamma prior of a rate, the same for all classes.

    .. math:: \log p(\lambda) = a \log b - \log\Gamma(a) + (a - 1) \log\lambda - b \lambda

    The parameters of the prior may be traced, so that other values compile nothing anew.

    Arguments:
        shape: a, at least 1; a number, or one for each column (D,).
        rate: b, positive, in units of 1 / rate; likewise. The mode of the rate is (a - 1) / b, its mean a / b.

    Raises:
        ValueError: a shape is below 1, where the density would have its maximum at a rate of zero whatever the data, or
            a rate is not positive; or one of them is not finite or has another shape.
    """

    shape: ArrayLike
    rate: ArrayLike

    def __post_init__(self) -> None:
        _check(self, "shape", 1)
        _check(self, "rate", 0, above=True)

    def added(self, events: Array, exposure: Array) -> tuple[Array, Array]:
        """The sums with those of the prior.

        Arguments:
            events: the number of events of each class.
            exposure: the exposure of each class.

        Returns:
            Events and exposure, shaped as given.
        """
        return events + (_like(self.shape, events) - 1), exposure + _like(self.rate, exposure)

    def log_density(self, rates: Array) -> Array:
        """Summed over all rates, ()."""
        events, b = _like(self.shape, rates) - 1, _like(self.rate, rates)
        return jnp.sum(_saddle(events) - deviance(events, b * rates) + jnp.log(b))


@register
@dataclasses.dataclass(frozen=True)
class BetaPrior:
    r"""The beta prior of a probability, the same for all classes.

    .. math:: \log p(p) = \log\frac{\Gamma(\alpha + \beta)}{\Gamma(\alpha)\,\Gamma(\beta)}
              + (\alpha - 1) \log p + (\beta - 1) \log (1 - p)

    The parameters of the prior may be traced, so that other values compile nothing anew.

    Arguments:
        alpha: alpha, at least 1; a number, or one for each column (D,). 1 and 1 is the uniform distribution.
        beta: beta, likewise.

    Raises:
        ValueError: alpha or beta is below 1, where the density would be unbounded at 0 or 1, is not finite, or has
            another shape.
    """

    alpha: ArrayLike
    beta: ArrayLike

    def __post_init__(self) -> None:
        _check(self, "alpha", 1)
        _check(self, "beta", 1)

    def added(self, successes: Array, trials: Array) -> tuple[Array, Array]:
        """The sums with those of the prior.

        Arguments:
            successes: the number of successes.
            trials: the number of trials.

        Returns:
            Successes and trials, shaped as given.
        """
        before = _like(self.alpha, successes) - 1
        return successes + before, trials + (before + (_like(self.beta, successes) - 1))

    def log_density(self, probabilities: Array) -> Array:
        """Summed over all probabilities, ()."""
        p = probabilities
        counts = jnp.broadcast_arrays(_like(self.alpha, p) - 1, _like(self.beta, p) - 1, p)[:2]
        return _log_dirichlet(jnp.stack(counts, axis=-1), jnp.stack([p, 1 - p], axis=-1))


@register
@dataclasses.dataclass(frozen=True)
class DirichletPrior:
    r"""The Dirichlet prior of probabilities that sum to one, the same for all classes.

    .. math:: \log p(p) = \log\Gamma\Bigl(\sum_l c_l\Bigr) - \sum_l \log\Gamma(c_l) + \sum_l (c_l - 1) \log p_l

    The parameters of the prior may be traced, so that other values compile nothing anew.

    Arguments:
        concentration: c, at least 1; a number, the same for every level, or one for each level (L,). 1 is the uniform
            distribution.

    Raises:
        ValueError: a concentration is below 1, where the density would be unbounded at 0, is not finite, or has another
            shape.
    """

    concentration: ArrayLike

    def __post_init__(self) -> None:
        _check(self, "concentration", 1)

    def added(self, counts: Array) -> tuple[Array]:
        """The counts with those of the prior.

        Arguments:
            counts: the number of observations of each class at each level, (K, L).

        Returns:
            The counts (K, L), alone in a tuple.
        """
        return (counts + (_like(self.concentration, counts) - 1),)

    def log_density(self, probabilities: Array) -> Array:
        """Summed over the classes of probabilities (K, L), ()."""
        p = probabilities
        return _log_dirichlet(jnp.broadcast_to(_like(self.concentration, p) - 1, p.shape), p)


def added(prior: Any, *sums: Array) -> Any:
    """The sums with those of the prior, as they are where it is ``None``."""
    return sums if prior is None else prior.added(*sums)


def log_density(prior: Any, params: Array) -> Array | float:
    """The log-density of the prior, summed over all parameters; 0 where it is ``None``."""
    return 0.0 if prior is None else prior.log_density(params)


def columns(prior: Any) -> int | None:
    """D where the prior has a number for each column; else ``None``."""
    if prior is None:
        return None
    shapes = [np.shape(getattr(prior, field.name)) for field in dataclasses.fields(prior)]
    return next((shape[0] for shape in shapes if shape), None)


def check(family: Any, kind: type, prior: Any, *, by_column: bool) -> None:
    """Raise ``ValueError`` where ``prior`` is neither ``None`` nor of this kind, or has numbers for columns that there
    are not."""
    name = type(family).__name__
    if prior is not None and not isinstance(prior, kind):
        raise ValueError(f"{name}: prior must be a {kind.__name__}; got {brief(prior)}")
    if not by_column and columns(prior) is not None:
        raise ValueError(f"{name}: the parameters of its prior must be single numbers; they are {columns(prior)}")


def _check(prior: Any, name: str, least: float, *, above: bool = False) -> None:
    value = getattr(prior, name)
    if isinstance(value, Tracer):
        return
    number = np.asarray(value) if isinstance(value, int | float | np.ndarray | np.number | Array) else np.array("")
    good = number.dtype.kind in "iuf" and number.ndim <= 1 and number.size > 0
    if not (good and np.isfinite(number).all() and ((number > least) if above else (number >= least)).all()):
        bound = f"above {least:g}" if above else f"of at least {least:g}"
        name = f"{type(prior).__name__}: {name}"
        raise ValueError(f"{name} must be a finite number {bound}, or one a column; it is {brief(value)}")
    object.__setattr__(prior, name, jnp.asarray(value, jnp.result_type(value, float)))


def _like(value: ArrayLike, params: Array) -> Array:
    """The numbers of a prior, () or (D,), in the dtype of ``params (..., D)``, with as many axes."""
    value = jnp.asarray(value, params.dtype)
    return value.reshape(*(1,) * (params.ndim - value.ndim), *value.shape)


def _saddle(x: Array) -> Array:
    """x log x - x - log Gamma(x + 1), 0 for x = 0."""
    return gamma_at_saddle(x, -jnp.ones_like(x))


def _log_dirichlet(counts: Array, p: Array) -> Array:
    """The log-density of Dirichlet(counts + 1) at ``p``, both (..., L), summed over all but the last axis, ()."""
    total, levels = counts.sum(axis=-1, keepdims=True), p.shape[-1]
    own = (_saddle(counts) - deviance(counts, total * p)).sum(axis=-1) - _saddle(total)[..., 0]
    # Gamma(T + L) / T!
    further = jnp.log(total + jnp.arange(1, levels, dtype=p.dtype).reshape(*(1,) * (p.ndim - 1), -1)).sum(axis=-1)
    return jnp.sum(own + further)
