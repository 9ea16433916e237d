r"""Least squares: normal responses, and those that are normal given a hidden scale (t) or a hidden value (tobit).

With deviations e_nk = y_n - z_n . beta_k about the coefficients of the context and weights E u_nk of the hidden scale,

.. math:: A_k = \sum_n r_{nk} \bar u_{nk} z_n z_n', \quad b_k = \sum_n r_{nk} \bar u_{nk} e_{nk} z_n, \quad
          s_k = \sum_n r_{nk} E\, u_{nk} e_{nk}^2

are all that Q depends on. A move d = A^-1 b of the coefficients leaves the sum of squares s - 2 d . b + d' A d. The
rounding error of A is removed by the next iteration, whose sums are about the new coefficients.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices, newton
from jaxem.families import freedom, gamma_scale, normal_between, parts, scales
from jaxem.families.covariance import collapsed
from jaxem.families.freedom import Freedom
from jaxem.families.protocol import impossible
from jaxem.families.regression_design import Split
from jaxem.families.sums import weighted_sums
from jaxem.families.tails import Tails, of_normal, of_student_t


class Prepared(NamedTuple):
    """The context of a regression."""

    coefficients: Split  # (K, P), (Q,); the origin of the sums
    dispersions: Array  # (K,)
    tails: Array  # (K,)


class Squares(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    second: Array  # (K, P + Q, P + Q), A
    first: Split  # (K, P), (K, Q), b
    scatter: Array  # (K,), s
    excess: Array | None  # (K,), sum_n r_nk E (u_nk - 1 - log u_nk), where degrees of freedom are estimated


def second_moments(weights: Array, z: Array) -> Array:
    """sum_n weights_nk z_n z_n', (K, P, P), from ``weights (N, K)`` and ``z (N, P)``."""
    p = z.shape[1]
    pairs = [(i, j) for i in range(p) for j in range(i + 1)]
    sums = weighted_sums(weights, jnp.stack([z[:, i] * z[:, j] for i, j in pairs], axis=1))
    places = jnp.asarray([[pairs.index((max(i, j), min(i, j))) for j in range(p)] for i in range(p)])
    return sums[:, places]


def squares(r: Array, u: Array, z: Split, e: Array, spread: Array | float, excess: Array | None = None) -> Squares:
    """The sums, from weights r and E u, deviations e and the variance of hidden values, all (N, K)."""
    ru = r * u
    first = jnp.einsum("nk,np->kp", ru * e, z.joined(), precision="highest")
    return Squares(
        r.sum(axis=0),
        second_moments(ru, z.joined()),
        z.like(first),
        (ru * e * e + r * spread).sum(axis=0),
        excess,
    )


def about_zero(r: Array, z: Split, y: Array, freedom_of: Freedom = math.inf) -> Squares:
    """The sums of a start, which has no coefficients yet, from a response ``y (N,)``; NaN where nothing is known."""
    known = ~jnp.isnan(y)
    r = jnp.where(known[:, None], r, 0)
    e = jnp.broadcast_to(jnp.where(known, y, 0)[:, None], r.shape)
    return squares(r, jnp.ones_like(r), z, e, 0.0, freedom.first(r) if isinstance(freedom_of, str) else None)


def joint_step(score: Split, information: Array, gram: Array, n: Array, **limit: float) -> tuple[Array, Split]:
    """The Newton step of all coefficients (see ``core.newton``): (K, P + Q), and as the coefficients (K, P), (Q,).

    Where classes share columns there is one system, of K P + Q coefficients: the sums of the shared ones are added up.
    """
    b = score.joined()
    most = jnp.diagonal(gram, axis1=-2, axis2=-1)
    if score.shared is None:
        d = newton.step(b, information, most, n, gram, **limit)
        return d, Split(d, None)
    k, p = b.shape[0], 0 if score.own is None else score.own.shape[-1]
    q = b.shape[1] - p
    # Row k of ``places`` says where the coefficients of class k are among those of all classes.
    own, shared = jnp.arange(k * p).reshape(k, p), jnp.broadcast_to(k * p + jnp.arange(q), (k, q))
    places = jnp.concatenate([own, shared], axis=1)
    vector = lambda parts: jnp.zeros(k * p + q, b.dtype).at[places].add(parts)
    matrix = lambda parts: jnp.zeros((k * p + q,) * 2, b.dtype).at[places[:, :, None], places[:, None, :]].add(parts)
    d = newton.step(vector(b), matrix(information), vector(most), n.sum(), matrix(gram), **limit)
    return d[places], Split(None if score.own is None else d[: k * p].reshape(k, p), d[k * p :])


def moved(coefficients: Split | None, step: Split) -> Split:
    """Coefficients after a step, which is one from zero where there are none yet."""
    if coefficients is None:
        return step
    return Split(*(None if a is None or b is None else a + b for a, b in zip(coefficients, step, strict=True)))


def difference(new: Split, old: Split, k: int) -> Array:
    """The move of all coefficients, (K, P + Q)."""
    apart = [None if a is None or b is None else a - b for a, b in zip(new, old, strict=True)]
    shared = None if apart[1] is None else jnp.broadcast_to(apart[1], (k, apart[1].shape[-1]))
    return Split(apart[0], shared).joined()


def least_squares(sums: Squares, precisions: Array | None) -> tuple[Array, Split]:
    """The move of the coefficients that maximises Q, for ``precisions (K,)`` 1 / v_k of the classes, up to a factor;
    ``None``: all equal."""
    w = 1.0 if precisions is None else precisions[:, None]
    b, a = sums.first.joined() * w, sums.second * (1.0 if precisions is None else precisions[:, None, None])
    d, step = joint_step(sums.first.like(b), a, a, sums.sizes, limit=math.inf)
    # Once more, for what the ridge and rounding left.
    rest = b - matrices.product(a, d[:, :, None])[:, :, 0]
    more, correction = joint_step(sums.first.like(rest), a, a, sums.sizes, limit=math.inf)
    return d + more, moved(step, correction)


def remaining(sums: Squares, d: Array) -> Array:
    """s - 2 d . b + d' A d, (K,)."""
    ad = matrices.product(sums.second, d[:, :, None])[:, :, 0]
    gain = (d * (2 * sums.first.joined() - ad)).sum(axis=1)
    # As for ``Normal``: an amount of the size of the rounding error keeps the difference from vanishing.
    hidden = 8 * d.shape[1] * float(jnp.finfo(d.dtype).eps)
    return jnp.maximum(sums.scatter - (1 - hidden) * gain, hidden * sums.scatter)


def expected(c: Prepared, coefficients: Split, dispersions: Array, tails: Array, sums: Squares) -> Array:
    """Q from the sums, exact up to a constant."""
    n = sums.sizes
    d = difference(coefficients, c.coefficients, n.shape[0])
    ad = matrices.product(sums.second, d[:, :, None])[:, :, 0]
    scatter = sums.scatter + (d * (ad - 2 * sums.first.joined())).sum(axis=1)
    normal = -0.5 * (n * jnp.log(dispersions) + scatter / dispersions)
    return normal.sum() if sums.excess is None else (normal + gamma_scale.expected_prior(tails, n, sums.excess)).sum()


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NormalResponse:
    """A normal response: its mean is the linear predictor, its dispersion the variance.

    A floor rho multiplies each density by exp(-rho / (2 v)), as in ``Normal``: it counts as a variance of every value.
    """

    floor: Any = None

    links: ClassVar[tuple[str, ...]] = ("identity",)
    event_ndim: ClassVar[int] = 0
    improves: ClassVar[bool] = False
    dispersed: ClassVar[bool] = True
    freedom: ClassVar[Freedom] = math.inf
    support: ClassVar[str] = "a finite number"

    def supports(self, y: Array) -> Array:
        return jnp.isfinite(y)

    def point(self, y: Array) -> Array:
        """A response (N,) that is linear in the covariates, for starts; NaN where nothing is known."""
        return y

    def mean(self, eta: Array) -> Array:
        return eta

    def log_density(self, c: Prepared, eta: Array, y: Array) -> Array:
        roots = scales.inverse_root(c.dispersions)[None, :]
        e = (y[:, None] - eta) * roots
        lost = 0.0 if self.floor is None else self._floor(e) * roots * roots  # the square of a root may overflow
        return -0.5 * (math.log(2 * math.pi) + scales.log(c.dispersions)[None, :] + lost + e**2)

    def _floor(self, like: Array) -> Array | float:
        return 0.0 if self.floor is None else jnp.asarray(self.floor, like.dtype)

    def tails(self, c: Prepared, eta: Array, y: Array) -> Tails:
        """Of responses ``y (N, 1)``."""
        return of_normal((y - eta) * scales.inverse_root(c.dispersions)[None, :])

    def statistics(self, c: Prepared, r: Array, u: Any, z: Split, eta: Array, y: Array) -> Squares:
        return squares(r, jnp.ones_like(r), z, y[:, None] - eta, self._floor(r))

    def sample(self, key: Array, eta: Array, dispersions: Array, tails: Array) -> Array:
        return eta + jnp.sqrt(dispersions) * jax.random.normal(key, eta.shape, eta.dtype)

    def degenerate(self, dispersions: Array, size: Array) -> Array:
        return collapsed(size[:, None], dispersions[:, None])


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StudentTResponse(NormalResponse):
    """A t response: normal given its hidden scale. The dispersion is the squared scale."""

    freedom: Freedom = "free"  # pyright: ignore[reportIncompatibleVariableOverride]

    def _distance(self, c: Prepared, eta: Array, y: Array) -> Array:
        e = (y[:, None] - eta) * scales.inverse_root(c.dispersions)[None, :]
        return jnp.minimum(e**2, float(jnp.finfo(e.dtype).max) ** 0.9)

    def _normal(self, c: Prepared) -> Array:
        return 0.5 * (math.log(2 * math.pi) + scales.log(c.dispersions)[None, :])

    def log_density(self, c: Prepared, eta: Array, y: Array) -> Array:
        return gamma_scale.log_kernel(c.tails, 1, self._distance(c, eta, y)) - self._normal(c)

    def hidden(self, c: Prepared, eta: Array, y: Array) -> gamma_scale.Scales:
        return gamma_scale.posterior(c.tails, 1, self._distance(c, eta, y))

    def complete(self, c: Prepared, u: Any, eta: Array, y: Array) -> Array:
        return gamma_scale.complete(c.tails, 1, self._distance(c, eta, y), u) - self._normal(c)

    def hidden_entropy(self, u: Any, y: Array) -> Array:
        return gamma_scale.entropy(u)

    def hidden_divergence(self, u: Any, other: Any) -> Array:
        return gamma_scale.divergence(u, other)

    def tails(self, c: Prepared, eta: Array, y: Array) -> Tails:
        return of_student_t((y - eta) * scales.inverse_root(c.dispersions)[None, :], c.tails[None, :])

    def statistics(self, c: Prepared, r: Array, u: Any, z: Split, eta: Array, y: Array) -> Squares:
        excess = (r * gamma_scale.excess(u)).sum(axis=0) if isinstance(self.freedom, str) else None
        return squares(r, u.means, z, y[:, None] - eta, 0.0, excess)

    def sample(self, key: Array, eta: Array, dispersions: Array, tails: Array) -> Array:
        of_noise, of_scales = jax.random.split(key)
        noise = jax.random.normal(of_noise, eta.shape, eta.dtype)
        return eta + jnp.sqrt(dispersions / gamma_scale.draw(of_scales, tails)) * noise


class _Located(NamedTuple):
    """The context of ``normal_between``, with a mean for each observation."""

    means: Array  # (N, K)
    inverse_roots: Array  # (1, K)
    logs: Array  # (1, K)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CensoredResponse(NormalResponse):
    """A normal response of which only an interval is known (tobit): the hidden variable is its value."""

    family: Any = None  # Censored(Normal())
    event_ndim: ClassVar[int] = 1

    @property
    def support(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.family.support

    def supports(self, y: Array) -> Array:
        return self.family.supports(y)

    def point(self, y: Array) -> Array:
        return self.family.features(y)[:, 0]

    def _located(self, c: Prepared, eta: Array) -> _Located:
        roots, logs = scales.inverse_root(c.dispersions), scales.log(c.dispersions)
        k = roots.shape[0]
        return _Located(
            jnp.broadcast_to(eta, (eta.shape[0], k)), *(jnp.broadcast_to(a, eta.shape) for a in (roots, logs))
        )

    def _by_kind(self, seen: Any, exact: Array, partly: Array) -> Array:
        return jnp.where(seen.partly[:, None], partly, jnp.where(seen.exact[:, None], exact, 0))

    def log_density(self, c: Prepared, eta: Array, y: Array) -> Array:
        seen = self.family.read(y, eta.dtype)
        mass = normal_between.log_interval(self._located(c, eta), seen.low[:, None], seen.high[:, None])
        density = self._by_kind(seen, NormalResponse.log_density(self, c, eta, seen.point), mass)
        return jnp.where(seen.possible[:, None], density, impossible(y, density.dtype)[:, None])

    def hidden(self, c: Prepared, eta: Array, y: Array) -> parts.Part:
        seen, located = self.family.read(y, eta.dtype), self._located(c, eta)
        ends = seen.low[:, None], seen.high[:, None]
        found = parts.Part(normal_between.log_interval(located, *ends), normal_between.between(located, *ends), located)
        return jax.tree.map(lambda leaf: jnp.where(seen.partly[:, None], leaf, 1), found)

    def complete(self, c: Prepared, u: parts.Part, eta: Array, y: Array) -> Array:
        seen = self.family.read(y, eta.dtype)
        inside = normal_between.expected_log_density(self._located(c, eta), u.moments)
        density = self._by_kind(seen, NormalResponse.log_density(self, c, eta, seen.point), inside)
        return jnp.where(seen.possible[:, None], density, impossible(y, density.dtype)[:, None])

    def hidden_entropy(self, u: parts.Part, y: Array) -> Array:
        seen = self.family.read(y, u.log_mass.dtype)
        own = u.log_mass - normal_between.expected_log_density(u.c, u.moments)
        return jnp.where(seen.partly[:, None], own, 0)

    def hidden_divergence(self, u: parts.Part, other: parts.Part) -> Array:
        own, theirs = (normal_between.expected_log_density(c, u.moments) for c in (u.c, other.c))
        return (own - theirs) - (u.log_mass - other.log_mass)

    def statistics(self, c: Prepared, r: Array, u: Any, z: Split, eta: Array, y: Array) -> Squares:
        seen = self.family.read(y, r.dtype)
        inside = u.moments.deviation - (eta - u.moments.origin)
        e = self._by_kind(seen, seen.point[:, None] - eta, inside)
        spread = jnp.where(seen.partly[:, None], u.moments.variance, 0)
        known = (seen.partly | seen.exact)[:, None]
        return squares(jnp.where(known, r, 0), jnp.ones_like(r), z, e, spread)

    def sample(self, key: Array, eta: Array, dispersions: Array, tails: Array) -> Array:
        y = NormalResponse.sample(self, key, eta, dispersions, tails)
        return jnp.stack([y, y], axis=-1)
