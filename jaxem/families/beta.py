"""The beta distribution."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.spaces import Positive
from jaxem.families import beta_between, scales, stirling, unbounded
from jaxem.families.newton import settle
from jaxem.families.protocol import impossible
from jaxem.families.stirling import deviance, log_minus_digamma
from jaxem.families.sums import weighted_sum
from jaxem.families.tails import Tails, of_beta


class BetaParams(NamedTuple):
    """The parameters of ``Beta``."""

    alphas: Array  # (K,), the shapes near 0
    betas: Array  # (K,), the shapes near 1


class BetaStatistics(NamedTuple):
    sizes: Array  # (K,), sum_n r_nk
    first: Array  # (K,), sum_n r_nk (x_n - mean_k); about zero, sum_n r_nk x_n
    below: Array  # (K,), sum_n r_nk D(mean_k, x_n); about zero, sum_n r_nk log x_n
    above: Array  # (K,), sum_n r_nk D(1 - mean_k, 1 - x_n); about zero, sum_n r_nk log(1 - x_n)


class Prepared(NamedTuple):
    alphas: Array  # (K,)
    betas: Array  # (K,)
    means: Array  # (K,), alpha / (alpha + beta), the origin of the sums
    rests: Array  # (K,), beta / (alpha + beta)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Beta:
    r"""The beta distribution of a number between 0 and 1.

    .. math:: \log p(x \mid k) = (a_k - 1) \log x + (b_k - 1) \log (1 - x) - \log B(a_k, b_k)

    .. math:: \text{M: } \psi(a_k) - \psi(a_k + b_k) = \frac{\sum_n r_{nk} \log x_n}{\sum_n r_{nk}},\quad
              \psi(b_k) - \psi(a_k + b_k) = \frac{\sum_n r_{nk} \log (1 - x_n)}{\sum_n r_{nk}}

    The data are (N,); the parameters are a ``BetaParams``, shapes a (``alphas``) and b (``betas``). The equations are
    solved to rounding in each M-step. Classes with a + b above 1 / (16 eps^2), which are points to the precision of the
    data, count as collapsed.

    With s = a + b, m = a / s and D(m, x) = m log(m / x) + x - m >= 0, computed without cancellation (``stirling.py``),
    the log-density is -log x - log(1 - x) - s (D(m, x) + D(1 - m, 1 - x)) plus a function of a and b. Both this form
    and sums of D about the mean of the context stay accurate where a + b is so large that the textbook's terms cancel.

    Source: Loader (2000) for this form of the binomial distribution, of which it is the conjugate.
    """

    event_ndim: ClassVar[int] = 0
    accurate: ClassVar[bool] = True
    centred: ClassVar[bool] = True
    support: ClassVar[str] = "a number strictly between 0 and 1"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def declare(self) -> BetaParams:
        alphas, betas = (Param.of(Positive(), "K", location=True) for _ in range(2))
        return BetaParams(alphas, betas)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: BetaParams, x: Data | None) -> Prepared:
        inverse = scales.reciprocal(params.alphas + params.betas)
        return Prepared(*params, params.alphas * inverse, params.betas * inverse)

    def log_density(self, c: Prepared, x: Array) -> Array:
        possible = self.supports(x)
        x_in = jnp.where(possible, x, 0.5)
        below, above = _deviances(c, x_in)
        density = _at_mean(c.alphas, c.betas)[None, :] - (c.alphas + c.betas)[None, :] * (below + above)
        density = density - (jnp.log(x_in) + jnp.log(1 - x_in))[:, None]
        return jnp.where(possible[:, None], density, impossible(x, density.dtype)[:, None])

    def statistics(self, c: Prepared | None, r: Array, hidden: Any, x: Array) -> BetaStatistics:
        if c is None:
            logs = (weighted_sum(r, log) for log in (jnp.log(x), jnp.log1p(-x)))
            return BetaStatistics(r.sum(axis=0), weighted_sum(r, x), *logs)
        # Taken from the nearer end, the deviation is right even where the mean and x are almost 1.
        low = (x < 0.5)[:, None]
        deviations = jnp.where(low, x[:, None] - c.means[None, :], c.rests[None, :] - (1 - x)[:, None])
        below, above = _deviances(c, x)
        return BetaStatistics(*((r * a).sum(axis=0) for a in (jnp.ones_like(r), deviations, below, above)))

    def maximize(self, c: Prepared | None, sums: BetaStatistics) -> BetaParams:
        n, first, below, above = sums
        if c is None:
            m, rest = first / n, (n - first) / n
            moved, below, above = jnp.zeros_like(m), jnp.log(m) - below / n, jnp.log(rest) - above / n
        else:
            m, rest = c.means, c.rests
            moved, below, above = first / n, below / n / m, above / n / rest
        return _solve(m, rest, moved, below, above)

    def expected(self, c: Prepared, params: BetaParams, sums: BetaStatistics) -> Array:
        n, first, below, above = sums
        a, b = params
        s = a + b
        deviances = n * (deviance(a, s * c.means) + deviance(b, s * c.rests))
        deviances = deviances + a * (below / c.means) + b * (above / c.rests)
        return (n * _at_mean(a, b) - deviances + first * (a * c.rests - b * c.means) / (c.means * c.rests)).sum()

    def tails(self, c: Prepared, x: Array) -> Tails:
        return of_beta(x[:, None], c.alphas[None, :], c.betas[None, :])

    def contrasts(self, params: BetaParams) -> Array:
        s, means = params.alphas + params.betas, self.mean(params)
        spread = jnp.sqrt((means * (1 - means) / (1 + s)).mean())
        return jnp.stack([(means - means.mean()) / spread, jnp.log(params.alphas), jnp.log(params.betas)], axis=1)

    def mean(self, params: BetaParams) -> Array:
        return params.alphas / (params.alphas + params.betas)

    def features(self, x: Array) -> Array:
        return x[:, None]

    def supports(self, x: Array) -> Array:
        return (x > 0) & (x < 1)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        return unbounded.constant(x[:, None], dtype)

    def degenerate(self, params: BetaParams) -> Array:
        s = params.alphas + params.betas
        return (s > 1 / (4 * float(jnp.finfo(s.dtype).eps)) ** 2).any()

    def sample(self, key: Array, params: BetaParams, labels: Array) -> Array:
        a, b = params.alphas[labels], params.betas[labels]
        limits = jnp.finfo(a.dtype)  # small shapes give numbers so near to an end that they are rounded to it
        return jnp.clip(jax.random.beta(key, a, b), float(limits.tiny), 1 - float(limits.epsneg))

    def log_interval(self, c: Prepared, low: Array, high: Array) -> Array:
        return beta_between.log_interval(c, low, high)

    def between(self, c: Prepared, low: Array, high: Array) -> beta_between.Moments:
        return beta_between.between(c, low, high)

    def mean_between(self, c: Prepared, low: Array, high: Array) -> Array:
        u = beta_between.between(c, low, high)
        return u.origin * (1 + u.rest * u.slope)

    def expected_log_density(self, c: Prepared, moments: beta_between.Moments) -> Array:
        return beta_between.expected_log_density(c, moments)

    def expected_statistics(self, c: Prepared, r: Array, moments: beta_between.Moments) -> BetaStatistics:
        parts = beta_between.deviation(c, moments), *beta_between.deviances(c, moments)
        return BetaStatistics(r.sum(axis=0), *((r * part).sum(axis=0) for part in parts))

    def sample_between(self, key: Array, params: BetaParams, labels: Array, low: Array, high: Array) -> Array:
        of_each = jax.tree.map(lambda leaf: leaf[labels][:, None], self.prepare(params, None))
        return beta_between.sample(key, of_each, *(jnp.broadcast_to(a, labels.shape)[:, None] for a in (low, high)))


def _deviances(c: Prepared, x: Array) -> tuple[Array, Array]:
    """D(m_k, x_n) and D(1 - m_k, 1 - x_n), (N, K)."""
    return deviance(c.means[None, :], x[:, None]), deviance(c.rests[None, :], (1 - x)[:, None])


def _at_mean(a: Array, b: Array) -> Array:
    """The log-density at the mean of the class, plus the logarithms of the mean and of one minus the mean."""
    return stirling.at_saddle(a) + stirling.at_saddle(b) - stirling.at_saddle(a + b)


def _solve(m: Array, rest: Array, moved: Array, below: Array, above: Array) -> BetaParams:
    r"""The shapes that satisfy the equations of the M-step, element by element.

    With ``m`` and ``rest`` = 1 - m, the mean of x is m + ``moved``, that of log x is log m + ``moved`` / m - ``below``,
    and that of log(1 - x) is log(1 - m) - ``moved`` / (1 - m) - ``above``. For the mean mu = a / s of the class and
    f(a) = log a - psi(a) the difference of the two equations, and their mean with weights mu and 1 - mu, are

    .. math:: f(a) - f(b) = \operatorname{logit} \mu - \overline{\operatorname{logit} x}, \qquad
              \mu f(a) + (1 - \mu) f(b) - f(s) = E(\mu)

    with E >= 0 the mean of log p(x) lost by a mean of mu. Newton's method is used in logit mu - logit m and in 1 / s,
    in which the second equation is nearly linear.
    """
    eps = float(jnp.finfo(m.dtype).eps)
    per_mean = moved / (m * rest)

    def share(u: Array, m: Array, rest: Array) -> tuple[Array, Array]:
        total = m * jnp.exp(u) + rest
        return m * jnp.exp(u) / total, rest / total

    def lost(u: Array, given: tuple[Array, ...]) -> Array:
        m, rest, per_mean, below, above, _ = given
        mu, nu = share(u, m, rest)
        change = jnp.expm1(u) * m * nu  # mu - m
        return deviance(mu, m) + deviance(nu, rest) - change * per_mean + mu * below + nu * above

    def equations(u: Array, y: Array, given: tuple[Array, ...]) -> tuple[Array, Array]:
        m, rest, per_mean, below, above, spare = given
        mu, nu = share(u, m, rest)
        s = scales.reciprocal(y)
        f, g = log_minus_digamma(mu * s), log_minus_digamma(nu * s)
        return f - g - (u - per_mean + below - above), mu * f + nu * g - log_minus_digamma(s) - lost(u, given) - spare

    def step(at: tuple[Array, Array], given: tuple[Array, ...]) -> tuple[Array, Array]:
        u, y = at
        one, zero = jnp.ones_like(u), jnp.zeros_like(u)
        along = lambda *tangents: jax.jvp(lambda u, y: equations(u, y, given), at, tangents)
        basis = jnp.stack([one, zero]), jnp.stack([zero, one])
        (first, second), ((a, b), (c, d)) = jax.vmap(along, out_axes=(None, 0))(*basis)
        determinant = a * d - b * c
        turn, longer = (d * first - b * second) / determinant, (a * second - c * first) / determinant
        return u - jnp.clip(turn, -2, 2), jnp.clip(y - longer, y / 4, 4 * y)

    # The mean of x is a good start. Where it is far from the origin, E is rounding error there; a little is added.
    tiny = float(jnp.finfo(m.dtype).tiny)
    mean, other = jnp.maximum(m + moved, tiny), jnp.maximum(rest - moved, tiny)
    start = jnp.log(mean / m) - jnp.log(other / rest)
    plain = lost(start, (m, rest, per_mean, below, above, jnp.zeros_like(m)))
    floor = 8 * eps * (deviance(mean, m) + deviance(other, rest)) + eps**2 / 8
    spare = jnp.maximum(plain, floor) - plain
    u, y = settle(step, (start, 2 * jnp.maximum(plain, floor)), (m, rest, per_mean, below, above, spare))
    mu, nu = share(u, m, rest)
    return BetaParams(mu / y, nu / y)
