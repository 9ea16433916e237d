r"""Responses of generalised linear models, which an M-step improves by one Newton step.

Each states its log-density l(eta; y, phi) and, in closed form, the slope l' and the curvature h = -l'' in the linear
predictor. All are concave in eta, so that the observed information is positive semidefinite:

.. math:: s_k = \sum_n r_{nk}\, l'_{nk} z_n, \qquad I_k = \sum_n r_{nk}\, h_{nk} z_n z_n', \qquad d_k = I_k^{-1} s_k .

The logarithm of a dispersion takes a Newton step of its own, from the derivatives of l in it.

Source: McCullagh & Nelder (1989), chapter 2; Wedel & DeSarbo (1995) for mixtures.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr, ndtr, xlogy

from jaxem.families import gamma, restaurant, scales, stirling
from jaxem.families.binomial import Binomial, BinomialParams
from jaxem.families.freedom import Freedom
from jaxem.families.poisson import Poisson, PoissonParams
from jaxem.families.protocol import impossible
from jaxem.families.regression_design import Split
from jaxem.families.regression_squares import Prepared, difference, joint_step, moved, second_moments
from jaxem.families.tails import Tails, by_intervals, of_negative_binomial


class Scores(NamedTuple):
    """Sums about the parameters of the context."""

    sizes: Array  # (K,), sum_n r_nk
    score: Split  # (K, P), (K, Q)
    information: Array  # (K, P + Q, P + Q)
    gram: Array  # (K, P + Q, P + Q), sum_n r_nk z_n z_n'
    slope: Array | None  # (K,), the derivative in the log-dispersion; None without one
    curvature: Array | None  # (K,), minus the second one


class Curve(Protocol):
    """A log-density of y as a function of the linear predictor."""

    dispersed: ClassVar[bool]

    def log_density(self, c: Prepared, eta: Array, y: Array) -> Array: ...
    def derivatives(self, c: Prepared, eta: Array, y: Array) -> tuple[Array, Array]: ...


def statistics(curve: Any, c: Prepared, r: Array, z: Split, eta: Array, y: Array) -> Scores:
    """The sums of ``curve``, weighted by r (N, K)."""
    slope, information = curve.derivatives(c, eta, y)
    columns = z.joined()
    score = jnp.einsum("nk,np->kp", r * slope, columns, precision="highest")
    first = curvature = None
    if curve.dispersed:

        def at(shift: Array) -> Array:
            own = c._replace(dispersions=c.dispersions * jnp.exp(shift))
            return (r * curve.log_density(own, eta, y)).sum(axis=0)

        zero = jnp.zeros_like(c.dispersions)
        along = lambda shift: jax.jvp(at, (shift,), (jnp.ones_like(zero),))[1]
        first, second = jax.jvp(along, (zero,), (jnp.ones_like(zero),))
        curvature = -second
    return Scores(
        r.sum(axis=0),
        z.like(score),
        second_moments(r * information, columns),
        second_moments(r, columns),
        first,
        curvature,
    )


def coefficients(c: Prepared, sums: Scores) -> Split:
    """The coefficients after one Newton step."""
    return moved(c.coefficients, joint_step(sums.score, sums.information, sums.gram, sums.sizes)[1])


def _curvature(slope: Array, curvature: Array) -> Array:
    """A curvature by which the log-dispersion moves uphill, and by 2 at most."""
    return jnp.where(curvature > 0, jnp.maximum(curvature, jnp.abs(slope) / 2), jnp.abs(slope))


def _of_classes(sums: Scores, tied: bool) -> tuple[Array, Array]:
    """The slope and the curvature for each dispersion."""
    assert sums.slope is not None and sums.curvature is not None
    slope, curvature = (sums.slope.sum(), sums.curvature.sum()) if tied else (sums.slope, sums.curvature)
    return slope, _curvature(slope, curvature)


def dispersions(c: Prepared, sums: Scores, tied: bool) -> Array:
    """The dispersions after one Newton step, (K,), or () where classes share one."""
    slope, curvature = _of_classes(sums, tied)
    own = c.dispersions[0] if tied else c.dispersions
    return own * jnp.exp(slope / jnp.where(curvature == 0, 1, curvature))


def expected(c: Prepared, new: Split, dispersion: Array | None, sums: Scores, tied: bool) -> Array:
    """The quadratic model of Q whose maximiser is the step."""
    d = difference(new, c.coefficients, sums.sizes.shape[0])
    model = (d * sums.score.joined()).sum() - 0.5 * jnp.einsum("kp,kpq,kq", d, sums.information, d, precision="highest")
    model = model + 0 * (sums.gram.sum() + sums.sizes.sum())  # what is NaN there makes Q NaN too
    if dispersion is None:
        return model
    slope, curvature = _of_classes(sums, tied)
    old = c.dispersions[0] if tied else c.dispersions
    free = (old > 0) & (dispersion > 0)
    shift = jnp.where(free, jnp.log(jnp.where(free, dispersion, 1)) - jnp.log(jnp.where(free, old, 1)), 0)
    return model + (shift * slope - 0.5 * curvature * shift**2).sum()


def _limited(eta: Array) -> Array:
    """The predictor, at most so large that its exponential is finite."""
    return jnp.clip(
        eta, -0.9 * math.log(float(jnp.finfo(eta.dtype).max)), 0.9 * math.log(float(jnp.finfo(eta.dtype).max))
    )


class _GLM:
    """What the responses below share."""

    event_ndim: ClassVar[int] = 0
    improves: ClassVar[bool] = True
    freedom: ClassVar[Freedom] = math.inf
    dispersed: ClassVar[bool] = False

    def degenerate(self, dispersions: Array, size: Array) -> Array:
        return jnp.bool_(False)


def _where_possible(response: Any, y: Array, density: Array) -> Array:
    return jnp.where(response.supports(y)[:, None], density, impossible(y, density.dtype)[:, None])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PoissonResponse(_GLM):
    """A count with mean exp(eta)."""

    links: ClassVar[tuple[str, ...]] = ("log",)
    support: ClassVar[str] = "a non-negative whole number"

    def supports(self, y: Array) -> Array:
        return (y >= 0) & (y == jnp.round(y)) & jnp.isfinite(y)

    def point(self, y: Array) -> Array:
        return jnp.log(y + 0.5)

    def mean(self, eta: Array) -> Array:
        return jnp.exp(_limited(eta))

    def log_density(self, c: Prepared, eta: Array, y: Array) -> Array:
        count = jnp.where(self.supports(y), y, 0)[:, None]
        return _where_possible(self, y, stirling.of_count(count) - stirling.deviance(count, self.mean(eta)))

    def derivatives(self, c: Prepared, eta: Array, y: Array) -> tuple[Array, Array]:
        mean = self.mean(eta)
        return y[:, None] - mean, mean

    def tails(self, c: Prepared, eta: Array, y: Array) -> Tails:
        """Of responses ``y (N, 1)``."""
        return by_intervals(Poisson(), PoissonParams(self.mean(eta)), y, *Poisson.bounds)

    def sample(self, key: Array, eta: Array, dispersions: Array, tails: Array) -> Array:
        return jax.random.poisson(key, self.mean(eta)).astype(eta.dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NegativeBinomialResponse(PoissonResponse):
    """A count with mean m = exp(eta) and variance m + phi m^2."""

    dispersed: ClassVar[bool] = True

    def log_density(self, c: Prepared, eta: Array, y: Array) -> Array:
        count = jnp.where(self.supports(y), y, 0)
        return _where_possible(self, y, restaurant.log_probability(count, self.mean(eta), c.dispersions))

    def derivatives(self, c: Prepared, eta: Array, y: Array) -> tuple[Array, Array]:
        mean, phi = self.mean(eta), c.dispersions[None, :]
        below = 1 / (1 + phi * mean)
        return (y[:, None] - mean) * below, mean * below * ((1 + phi * y[:, None]) * below)

    def tails(self, c: Prepared, eta: Array, y: Array) -> Tails:
        at = jnp.exp(self.log_density(c, eta, y[:, 0]))
        return of_negative_binomial(y, self.mean(eta), c.dispersions[None, :], at)

    def sample(self, key: Array, eta: Array, dispersions: Array, tails: Array) -> Array:
        of_rates, of_counts = jax.random.split(key)
        poisson = dispersions == 0
        size = 1 / jnp.where(poisson, 1, dispersions)
        log_gamma = jax.random.loggamma(of_rates, size, dtype=eta.dtype) - jnp.log(size)
        rates = self.mean(jnp.where(poisson, eta, eta + log_gamma))
        return jax.random.poisson(of_counts, rates).astype(eta.dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GammaResponse(_GLM):
    """A positive number with mean m = exp(eta) and variance phi m^2: the shape is 1 / phi."""

    links: ClassVar[tuple[str, ...]] = ("log",)
    dispersed: ClassVar[bool] = True
    support: ClassVar[str] = "a positive finite number"

    def supports(self, y: Array) -> Array:
        return (y > 0) & jnp.isfinite(y)

    def point(self, y: Array) -> Array:
        return jnp.log(jnp.where(self.supports(y), y, 1))

    def mean(self, eta: Array) -> Array:
        return jnp.exp(_limited(eta))

    def log_density(self, c: Prepared, eta: Array, y: Array) -> Array:
        inside = jnp.where(self.supports(y), y, 1)[:, None]
        shape = scales.reciprocal(c.dispersions)[None, :]
        # y / m, by a difference of logarithms where the quotient of numbers far from 1 would overflow
        ratio = jnp.exp(_limited(jnp.log(inside) - eta))
        of_class = stirling.at_saddle(shape) - shape * stirling.deviance(jnp.ones_like(ratio), ratio)
        return _where_possible(self, y, of_class - scales.log(inside))

    def derivatives(self, c: Prepared, eta: Array, y: Array) -> tuple[Array, Array]:
        shape = scales.reciprocal(c.dispersions)[None, :]
        ratio = jnp.exp(_limited(jnp.log(y)[:, None] - eta))
        return shape * (ratio - 1), shape * ratio

    def tails(self, c: Prepared, eta: Array, y: Array) -> Tails:
        """Of responses ``y (N, 1)``."""
        mean, shape = self.mean(eta), scales.reciprocal(c.dispersions)[None, :]
        own = gamma.Prepared(jnp.broadcast_to(shape, mean.shape), shape / mean, mean)
        return by_intervals(gamma.Gamma(), own, y, *gamma.Gamma.bounds)

    def sample(self, key: Array, eta: Array, dispersions: Array, tails: Array) -> Array:
        shape = 1 / dispersions
        log_gamma = jax.random.loggamma(key, shape, dtype=eta.dtype) - jnp.log(shape)
        return jnp.maximum(self.mean(eta + log_gamma), float(jnp.finfo(eta.dtype).tiny))

    def degenerate(self, dispersions: Array, size: Array) -> Array:
        return (dispersions < (4 * float(jnp.finfo(dispersions.dtype).eps)) ** 2).any()


class _Half(NamedTuple):
    """log p as a function of the predictor, its slope, and minus its second derivative, which is not negative."""

    log: Array
    slope: Array
    curvature: Array


def _logit(eta: Array) -> _Half:
    p, rest = jax.nn.sigmoid(eta), jax.nn.sigmoid(-eta)
    return _Half(-jax.nn.softplus(-eta), rest, p * rest)


def _probit(eta: Array) -> _Half:
    """log Phi: the slope m = phi / Phi, and m (m + eta), whose difference is a series far in the tail."""
    far = eta < (-10 if eta.dtype.itemsize <= 4 else -30)
    a, log_p = -jnp.where(far, eta, -30), log_ndtr(eta)
    beyond = (1 - (2 - (10 - 74 / a**2) / a**2) / a**2) / a
    near = jnp.exp(-0.5 * jnp.where(far, 0, eta) ** 2 - 0.5 * math.log(2 * math.pi) - jnp.where(far, 0, log_p))
    slope = jnp.where(far, a + beyond, near)
    return _Half(log_p, slope, slope * jnp.where(far, beyond, jnp.maximum(near + eta, 0)))


def _cloglog(eta: Array) -> tuple[_Half, _Half]:
    """log(1 - exp(-e)) and -e, where e = exp(eta)."""
    largest = math.log(float(jnp.finfo(eta.dtype).max))
    e = jnp.exp(jnp.clip(eta, -0.9 * largest, 0.45 * largest))
    slope = e / jnp.expm1(e)
    return _Half(jnp.log(-jnp.expm1(-e)), slope, jnp.maximum(slope * (slope + e - 1), 0)), _Half(-e, -e, e)


def _symmetric(half: Callable[[Array], _Half]) -> Callable[[Array], tuple[_Half, _Half]]:
    """Of a link with 1 - p(eta) = p(-eta)."""

    def both(eta: Array) -> tuple[_Half, _Half]:
        success, failure = half(eta), half(-eta)
        return success, failure._replace(slope=-failure.slope)

    return both


# log p and log(1 - p) as functions of the predictor, by the name of the link
_LINKS = {"logit": _symmetric(_logit), "probit": _symmetric(_probit), "cloglog": _cloglog}
_MEANS = {
    "logit": jax.nn.sigmoid,
    "probit": ndtr,
    "cloglog": lambda eta: -jnp.expm1(-jnp.exp(_limited(eta))),
}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BinaryResponse(_GLM):
    """The number of successes among ``trials``, each with probability p: its link is the predictor."""

    trials: int
    link: str
    links: ClassVar[tuple[str, ...]] = ("logit", "probit", "cloglog")

    @property
    def support(self) -> str:
        """A description of valid observations."""
        return "0 or 1" if self.trials == 1 else f"a whole number from 0 to {self.trials}"

    def supports(self, y: Array) -> Array:
        return (y >= 0) & (y <= self.trials) & (y == jnp.round(y))

    def point(self, y: Array) -> Array:
        return jnp.log(y + 0.5) - jnp.log(self.trials - y + 0.5)

    def mean(self, eta: Array) -> Array:
        return self.trials * _MEANS[self.link](eta)

    def log_density(self, c: Prepared, eta: Array, y: Array) -> Array:
        successes = jnp.where(self.supports(y), y, 0)
        both = jnp.stack([successes, self.trials - successes])
        every = jnp.full_like(successes, self.trials)
        choices = (
            (stirling.of_count(both) - xlogy(both, both)).sum(axis=0) - stirling.of_count(every) + xlogy(every, every)
        )
        log_p, log_rest = (half.log for half in _LINKS[self.link](eta))
        of_class = both[0][:, None] * log_p + both[1][:, None] * log_rest
        return _where_possible(self, y, choices[:, None] + of_class)

    def derivatives(self, c: Prepared, eta: Array, y: Array) -> tuple[Array, Array]:
        p, rest = _LINKS[self.link](eta)
        ones, zeros = y[:, None], self.trials - y[:, None]
        return ones * p.slope + zeros * rest.slope, ones * p.curvature + zeros * rest.curvature

    def tails(self, c: Prepared, eta: Array, y: Array) -> Tails:
        """Of responses ``y (N, 1)``."""
        own = BinomialParams(_MEANS[self.link](eta))
        return by_intervals(Binomial(self.trials), own, y, 0.0, float(self.trials))

    def sample(self, key: Array, eta: Array, dispersions: Array, tails: Array) -> Array:
        p = _MEANS[self.link](eta)
        return jax.random.binomial(key, jnp.asarray(self.trials, p.dtype), p, dtype=p.dtype)
