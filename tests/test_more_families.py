"""Families of positive numbers, shares, angles and counts: densities, M-steps and fits by other routes, all laws."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from scipy import optimize, stats

import jaxem
from jaxem.core import constraints, parameters
from jaxem.families import (
    Beta,
    BetaParams,
    Binomial,
    BinomialParams,
    Gamma,
    GammaParams,
    LogNormal,
    Multinomial,
    MultinomialParams,
    NormalParams,
    PoissonVector,
    PoissonVectorParams,
    VonMises,
    VonMisesParams,
    protocol,
    stirling,
)
from jaxem.models import Mixture, MixtureParams


class Case(NamedTuple):
    family: Any
    params: Any  # of two classes
    density: Callable[..., np.ndarray]  # by scipy: x, and the parameters of one class
    outside: list[Any]  # values that no parameters allow


CASES = {
    "gamma": Case(
        Gamma(),
        GammaParams(np.array([0.7, 40.0]), np.array([0.5, 8.0])),
        lambda x, a, b: stats.gamma.logpdf(x, a, scale=1 / b),
        [0.0, -1.0, np.inf],
    ),
    "log-normal": Case(
        LogNormal(),
        NormalParams(np.array([-1.0, 2.0]), np.array([1.0, 0.25])),
        lambda x, m, v: stats.lognorm.logpdf(x, np.sqrt(v), scale=np.exp(m)),
        [0.0, -1.0, np.inf],
    ),
    "beta": Case(
        Beta(),
        BetaParams(np.array([0.8, 30.0]), np.array([3.0, 12.0])),
        lambda x, a, b: stats.beta.logpdf(x, a, b),
        [0.0, 1.0, -0.1, 1.1],
    ),
    "von Mises": Case(
        VonMises(),
        VonMisesParams(np.array([3.0, 0.5]), np.array([2.0, 60.0])),
        lambda x, m, k: stats.vonmises.logpdf(x, k, loc=m),
        [np.inf],
    ),
    "binomial": Case(
        Binomial(12),
        BinomialParams(np.array([0.15, 0.7])),
        lambda x, p: stats.binom.logpmf(x, 12, p),
        [-1.0, 13.0, 2.5],
    ),
    "multinomial": Case(
        Multinomial(9),
        MultinomialParams(np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])),
        lambda x, p: stats.multinomial.logpmf(x, 9, p / p.sum()),  # scipy wants an exact sum
        [[-1.0, 5, 5], [4.5, 4.5, 0], [3.0, 3, 4]],
    ),
    "Poisson vector": Case(
        PoissonVector(),
        PoissonVectorParams(np.array([[0.5, 4.0], [6.0, 3.0]])),
        lambda x, rates: stats.poisson.logpmf(x, rates).sum(axis=-1),
        [[-1.0, 0], [0.5, 2], [np.inf, 1]],
    ),
}


@functools.cache
def draw(name: str, n: int = 200) -> np.ndarray:
    case = CASES[name]
    params = MixtureParams(jnp.array([0.4, 0.6]), as_dtype(case.params, np.float64))
    return np.asarray(Mixture(case.family, 2).sample(jax.random.key(0), params, n))


def by_scipy(case: Case, params: Any, x: np.ndarray) -> np.ndarray:
    leaves = jax.tree.leaves(params)
    return np.stack([case.density(x, *(leaf[k] for leaf in leaves)) for k in range(len(leaves[0]))], axis=1)


@jax.jit
def parts(family: Any, params: Any, other: Any, r: Any, x: Any) -> Any:
    """What a family computes, in one program: densities, the maximiser about two origins, Q from the sums."""
    c, far = family.prepare(params, x), family.prepare(other, x)
    sums, from_far = family.statistics(c, r, (), x), family.statistics(far, r, (), x)
    best = family.maximize(c, sums)
    q = jnp.stack([family.expected(c, p, sums) - family.expected(c, params, sums) for p in (best, other)])
    start = family.maximize(None, family.statistics(None, r, (), x))
    again = family.prepare(best, x)
    return {
        "density": family.log_density(c, x),
        "best": best,
        "from far": family.maximize(far, from_far),
        "from zero": start,
        "again": family.maximize(again, family.statistics(again, r, (), x)),
        "gain": q,
        "supported": family.supports(x),
    }


@pytest.mark.parametrize("name", CASES)
def test_densities_and_maximisers(name, dtype):
    """Against scipy, and against a direct search for the maximum of the weighted likelihood."""
    case = CASES[name]
    family, x = case.family, as_dtype(draw(name, 80), dtype)
    rng = np.random.default_rng(1)
    r = as_dtype(rng.random((80, 2)), dtype)
    params = as_dtype(case.params, dtype)
    other = jax.tree.map(lambda leaf: 0.8 * leaf[::-1] + 0.2 * leaf, params)
    found = parts(family, params, other, r, x)
    wide, wide_r, wide_params, wide_other = (
        jax.tree.map(lambda a: np.asarray(a, np.float64), tree) for tree in (x, r, params, other)
    )
    wanted = by_scipy(case, wide_params, wide)
    assert found["density"].dtype == dtype and bool(found["supported"].all())
    assert_within(found["density"], wanted, 64 * eps(dtype) * (4 + np.abs(wanted)))

    spaces = parameters.spaces(family.declare())
    best = jax.tree.map(lambda a: np.asarray(a, np.float64), found["best"])
    free, rebuild = jax.flatten_util.ravel_pytree(constraints.inverse(spaces, best))
    likelihood = lambda p: float((wide_r * by_scipy(case, p, wide)).sum())
    inside = lambda u: jax.tree.map(np.asarray, constraints.forward(spaces, rebuild(jnp.asarray(u))))
    search = optimize.minimize(lambda u: -likelihood(inside(u)), free + 0.05, method="BFGS", options={"gtol": 1e-7})
    # The gradient of the search is a difference of values, good to 1e-8 of their size.
    assert_within(np.asarray(free), search.x, (3e-5 if dtype == np.float64 else 0) + 1000 * eps(dtype))

    size = np.abs(wide_r * wanted).sum()
    gains = [likelihood(p) - likelihood(wide_params) for p in (best, wide_other)]
    assert_within(found["gain"], gains, 64 * eps(dtype) * (size + np.abs(gains)))
    for route in ("again", "from far"):
        jax.tree.map(lambda a, b: assert_within(a, b, 2000 * eps(dtype) * np.abs(b)), found[route], found["best"])
    jax.tree.map(lambda a, b: assert_within(a, b, 0.02 * np.abs(b) + 0.001), found["from zero"], found["best"])


SCIPY_FITS = {
    "gamma": lambda x: (lambda a, _, scale: (a, 1 / scale))(*stats.gamma.fit(x, floc=0)),
    "log-normal": lambda x: (lambda s, _, scale: (np.log(scale), s**2))(*stats.lognorm.fit(x, floc=0)),
    "beta": lambda x: stats.beta.fit(x, floc=0, fscale=1)[:2],
    "von Mises": lambda x: stats.vonmises.fit(x, fscale=1)[1::-1],
    "binomial": lambda x: (x.mean() / 12,),
    "multinomial": lambda x: (x.sum(axis=0) / x.sum(),),
    "Poisson vector": lambda x: (x.mean(axis=0),),
}


@pytest.mark.parametrize("name", CASES)
def test_one_class_is_the_fit_of_scipy(name):
    x, family = draw(name)[:100], CASES[name].family
    model = Mixture(family, 1)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x))
    for found, wanted in zip(jax.tree.leaves(fit.params.components), SCIPY_FITS[name](x), strict=True):
        assert_within(found[0], wanted, 1e-7 * np.abs(wanted))


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_every_law_holds(name, precision):
    model, x = Mixture(CASES[name].family, 2), jnp.asarray(draw(name), precision)
    start = model.init(jax.random.key(1), x)
    fit = jaxem.check(jaxem.fit(model, start, x, max_steps=2000))
    for point in (start, fit.params):
        certificate = jaxem.verify(model, point, x, strict=True)
        assert certificate.ok, certificate
    wanted = CASES[name].density
    assert wanted is not None
