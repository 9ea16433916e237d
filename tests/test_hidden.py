"""A family with hidden variables of its own: their posterior is part of q, and the bound is that of both."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import digamma, gammaln
from scipy import optimize, stats

import jaxem
from jaxem import Dataset, Positive, Real
from jaxem.core.parameters import Param
from jaxem.models import HMM, Mixture

FREEDOM = 4.0
A = (FREEDOM + 1) / 2  # shape of the posterior of a weight


class Params(NamedTuple):
    places: jax.Array  # (K,)
    squares: jax.Array  # (K,), squared scales


class Sums(NamedTuple):
    sizes: jax.Array
    weights: jax.Array
    first: jax.Array
    second: jax.Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Student:
    """A t distribution: normal with variance square / w, w ~ Gamma(freedom / 2, freedom / 2) hidden; q is E w."""

    event_ndim, support = 0, "a finite number"

    def declare(self):
        return Params(Param.of(Real(), "K", location=True), Param.of(Positive(), "K"))

    def prepare(self, params, x):
        return params

    def _distance(self, c, x):
        return (x[:, None] - c.places[None]) ** 2 / c.squares[None]

    def log_density(self, c, x):
        constant = gammaln(A) - gammaln(FREEDOM / 2) - 0.5 * jnp.log(FREEDOM * jnp.pi * c.squares)[None]
        return constant - A * jnp.log1p(self._distance(c, x) / FREEDOM)

    def hidden(self, c, x):
        return 2 * A / (FREEDOM + self._distance(c, x))

    def complete(self, c, w, x):
        log_w, half = digamma(A) - jnp.log(A / w), FREEDOM / 2
        normal = 0.5 * (log_w - math.log(2 * math.pi) - jnp.log(c.squares)[None] - w * self._distance(c, x))
        return normal + half * math.log(half) - gammaln(half) + (half - 1) * log_w - half * w

    def hidden_entropy(self, c, w, x):
        return A - jnp.log(A / w) + gammaln(A) + (1 - A) * digamma(A)

    def hidden_divergence(self, w, other):
        return A * (jnp.log(other / w) + w / other - 1)

    def statistics(self, c, r, w, x):
        y = x[:, None] if c is None else x[:, None] - c.places[None]
        w = jnp.ones_like(r) if c is None else w
        return Sums(r.sum(axis=0), (r * w).sum(axis=0), (r * w * y).sum(axis=0), (r * w * y**2).sum(axis=0))

    def maximize(self, c, sums):
        n, w, first, second = sums
        change = first / w
        return Params(change if c is None else c.places + change, (second - change * first) / n)

    def expected(self, c, params, sums):
        n, w, first, second = sums
        d = params.places - c.places
        return -0.5 * (n * jnp.log(params.squares) + (second - 2 * d * first + d**2 * w) / params.squares).sum()

    def features(self, x):
        return x[:, None]

    def supports(self, x):
        return jnp.isfinite(x)

    def sample(self, key, params, labels):
        t = jax.random.t(key, FREEDOM, labels.shape, params.places.dtype)
        return params.places[labels] + jnp.sqrt(params.squares[labels]) * t


def draw(n=300):
    rng = np.random.default_rng(0)
    return np.where(rng.random(n) < 0.4, rng.standard_t(4, n), 6 + 2 * rng.standard_t(4, n))


@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.everything)])
@pytest.mark.parametrize("kind", ["mixture", "weighted mixture", "chain"])
def test_every_law_holds_and_the_fit_converges(kind, precision):
    x = jnp.asarray(draw(), precision)
    weights = jnp.asarray(np.random.default_rng(1).integers(0, 3, 300), precision)
    data = {"mixture": x, "weighted mixture": Dataset(x, weights=weights), "chain": x.reshape(10, 30)}[kind]
    model = (HMM if kind == "chain" else Mixture)(Student(), 2)
    start = model.init(jax.random.key(0), data)
    fit = jaxem.check(jaxem.fit(model, start, data, max_steps=2000))
    for point in (start, fit.params):
        certificate = jaxem.verify(model, point, data)
        assert certificate.ok, certificate


@pytest.mark.slow
def test_the_maximum_is_that_of_a_direct_search():
    x = draw()
    model = Mixture(Student(), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x)

    def minus(u):
        w = 1 / (1 + np.exp(-u[0]))
        parts = stats.t.pdf(x[:, None], FREEDOM, u[1:3], np.exp(u[3:5]))
        return -np.log(parts @ [w, 1 - w]).sum()

    best = optimize.minimize(minus, [0.0, 0.0, 6.0, 0.0, 0.5], method="BFGS", options={"gtol": 1e-8})
    assert float(fit.objective) == pytest.approx(-best.fun, abs=1e-6)


@pytest.mark.slow
def test_many_rows_are_met_in_blocks():
    x = draw(5000)
    model = Mixture(Student(), 2)
    start = model.init(jax.random.key(0), x)
    blocks = jaxem.fit(model, start, x, algorithm=jaxem.EM(block_size=300), max_steps=20)
    whole = jaxem.fit(model, start, x, algorithm=jaxem.EM(block_size=5000), max_steps=20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), blocks.params, whole.params)
