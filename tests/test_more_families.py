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
from jaxem.families.gamma import shape
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
@pytest.mark.slow
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
    forward = jax.jit(lambda u: constraints.forward(spaces, rebuild(u)))
    inside = lambda u: jax.tree.map(np.asarray, forward(u))
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
@pytest.mark.slow
def test_one_class_is_the_fit_of_scipy(name):
    x, family = draw(name)[:100], CASES[name].family
    model = Mixture(family, 1)
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x))
    for found, wanted in zip(jax.tree.leaves(fit.params.components), SCIPY_FITS[name](x), strict=True):
        assert_within(found[0], wanted, 1e-7 * np.abs(wanted))


# What compiles quickly; the others by --everything.
QUICK = [("von Mises", "float32"), ("Poisson vector", "float64")]
ALL = [(name, precision) for name in CASES for precision in ("float64", "float32")]


@pytest.mark.parametrize(
    ("name", "precision"), [row if row in QUICK else pytest.param(*row, marks=pytest.mark.everything) for row in ALL]
)
def test_every_law_holds(name, precision):
    model, x = Mixture(CASES[name].family, 2), jnp.asarray(draw(name), precision)
    start = model.init(jax.random.key(1), x)
    fit = jaxem.check(jaxem.fit(model, start, x, max_steps=2000))
    for point in (start, fit.params):
        certificate = jaxem.verify(model, point, x, strict=True)
        assert certificate.ok, certificate


@pytest.mark.everything
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "multinomial"])
def test_every_law_holds_with_weights_and_gaps(name, precision):
    x = np.array(draw(name))
    x[np.random.default_rng(2).random(x.shape) < 0.1] = np.nan
    weights = np.random.default_rng(3).integers(0, 3, len(x)).astype(precision)
    data = jaxem.dataset(jnp.asarray(x, precision), weights=weights, missing="nan")
    model = Mixture(CASES[name].family, 2)
    start = model.init(jax.random.key(1), data)
    fit = jaxem.check(jaxem.fit(model, start, data, max_steps=2000))
    for point in (start, fit.params):
        certificate = jaxem.verify(model, point, data, strict=True)
        assert certificate.ok, certificate


@pytest.mark.slow
def test_missing_cells_of_counts_are_left_out():
    """The maximum is that of the likelihood of the cells seen, and what a missing cell holds does not matter."""
    x = np.array(draw("Poisson vector"))
    gaps = np.random.default_rng(4).random(x.shape) < 0.2
    x[gaps] = np.nan
    model = Mixture(PoissonVector(), 2)
    data = jaxem.dataset(x, missing="nan")
    start = model.init(jax.random.key(0), data)
    fit = jaxem.check(jaxem.fit(model, start, data, tol=1e-12, max_steps=5000))

    def likelihood(weights: np.ndarray, rates: np.ndarray) -> float:
        cells = np.where(gaps[:, None], 0, stats.poisson.logpmf(np.where(gaps, 0, x)[:, None], rates[None]))
        return float(np.log(np.exp(cells.sum(axis=2)) @ weights).sum())

    def inside(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w = 1 / (1 + np.exp(-u[0]))
        return np.array([w, 1 - w]), np.exp(u[1:]).reshape(2, 2)

    w, rates = np.asarray(fit.params.weights), np.asarray(fit.params.components.rates)
    free = np.r_[np.log(w[0] / w[1]), np.log(rates).ravel()]
    search = optimize.minimize(lambda u: -likelihood(*inside(u)), free + 0.05, method="BFGS", options={"gtol": 1e-7})
    assert_within(fit.objective, -search.fun, 1e-8)
    assert_within(free, search.x, 1e-4)
    # A row of gaps counts for nothing, and so does any number in a gap.
    more = np.concatenate([np.where(gaps, 77.0, x), np.full((5, 2), 3.0)])
    seen = np.concatenate([~gaps, np.zeros((5, 2), bool)])
    other = jaxem.Dataset(jnp.asarray(more), observed=jnp.asarray(seen))
    assert_within(model.log_likelihood(fit.params, other), fit.objective, 64 * eps(np.float64) * len(x) * 10)


# Hostile data


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_values_outside_the_support(name, dtype):
    family, params, _, outside = CASES[name]
    model, good = Mixture(family, 2), draw(name)[:10]
    params = MixtureParams(*as_dtype((np.array([0.4, 0.6]), params), dtype))
    rows = as_dtype(np.concatenate([np.asarray(outside, float), good[:1], np.full_like(good[:1], np.nan)]), dtype)
    found = np.asarray(model.log_prob(params, rows))
    if name != "von Mises":
        assert (found[:-2] == -np.inf).all()
    assert not np.isfinite(found[:-2]).any() and np.isfinite(found[-2]) and np.isnan(found[-1])
    for value in outside:
        with pytest.raises(ValueError, match=f"{type(family).__name__} needs .* number 3"):
            jaxem.fit(model, params, as_dtype(np.insert(good, 3, value, axis=0), dtype))


@pytest.mark.parametrize("name", ["gamma", "log-normal", "beta", "von Mises"])
@pytest.mark.slow
def test_constant_data_are_refused(name):
    with pytest.raises(ValueError, match="no maximum, for all observations are one value"):
        Mixture(CASES[name].family, 2).init(jax.random.key(0), jnp.full(20, 0.3))


def test_other_data_without_a_maximum():
    with pytest.raises(ValueError, match="all counts are zero"):
        Mixture(Multinomial(), 2).init(jax.random.key(0), jnp.zeros((10, 3)))
    turns = jnp.asarray(0.3 + 2 * np.pi * np.arange(10), jnp.float32).astype(jnp.float64)
    assert VonMises().diagnose(np.asarray(turns), np.dtype(np.float32)) is None  # turns are rounded: not constant
    with pytest.raises(ValueError, match="Binomial: trials"):
        Binomial(0)
    with pytest.raises(ValueError, match="Multinomial: trials"):
        Multinomial(2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"give their total, Multinomial\(trials\)"):
        Mixture(Multinomial(), 2).sample(
            jax.random.key(0), MixtureParams(jnp.ones(2) / 2, MultinomialParams(jnp.ones((2, 3)) / 3)), 4
        )


@pytest.mark.parametrize("name", ["gamma", "beta", "von Mises"])
@pytest.mark.slow
def test_a_class_of_equal_values_has_collapsed_and_an_empty_one_is_no_number(name, dtype):
    family = CASES[name].family
    x = as_dtype(np.r_[np.full(40, 0.3), draw(name)[:40]], dtype)
    r = as_dtype(np.stack([np.r_[np.ones(40), np.zeros(40)], np.zeros(80)], axis=1), dtype)
    params = as_dtype(CASES[name].params, dtype)
    found = parts(family, params, params, r, x)["again"]
    one = jax.tree.map(lambda leaf: leaf[:1], found)
    assert protocol.degenerate(family, one) and jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), one))
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isnan(leaf[1]), found))
    assert not protocol.degenerate(family, params)


# Numbers


SHARP = {  # classes far narrower than their distance from zero: what the textbook's sums lose in 32 bits
    "gamma": (
        GammaParams(np.array([1e7, 2e7]), np.array([1e4, 2.001e4])),
        lambda rng: 1e3 * rng.gamma(1e7, size=80) / 1e7,
        lambda x: stats.gamma.fit(x, floc=0)[0],
    ),
    "beta": (
        BetaParams(np.array([3e6, 4e6]), np.array([7e6, 9.3e6])),
        lambda rng: rng.beta(3e6, 7e6, size=80),
        lambda x: stats.beta.fit(x, 3e6, 7e6, floc=0, fscale=1)[0],
    ),
    "von Mises": (
        VonMisesParams(np.array([1.2, 1.21]), np.array([1e6, 3e6])),
        lambda rng: 1.2 + rng.normal(size=80) / 1e3,
        lambda x: 1 / np.var(x),
    ),
}


@pytest.mark.parametrize("name", SHARP)
@pytest.mark.slow
def test_sharp_classes_in_float32(name):
    """Concentrations of a million and more, from sums about the mean, are as right as in 64 bits."""
    params, sample, by_scipy = SHARP[name]
    x = np.asarray(sample(np.random.default_rng(5)), np.float32)
    wanted, params = by_scipy(x.astype(np.float64)), as_dtype(params, np.float32)
    found = parts(CASES[name].family, params, params, jnp.ones((80, 2), np.float32), x)
    # The first origin is up to two standard deviations away from the mean, which is rounded by 1e-4 of one; the second
    # is the mean itself, so that only the sums are rounded.
    for best, allowed in ((found["best"], 1e-3), (found["again"], 128 * eps(np.float32))):
        concentrations = np.asarray(best[1 if name == "von Mises" else 0])
        assert concentrations.dtype == np.float32
        assert_within(concentrations, np.full(2, wanted), allowed * wanted)


def test_digamma_of_any_argument(dtype):
    """log a - psi(a) and its derivatives, to a few units in the last place."""
    a = as_dtype(np.array([1e-3, 0.3, 0.99, 1, 1.01, 1.46163, 2, 6.5, 9.9, 10.1, 300, 1e6]), dtype)
    f = stirling.log_minus_digamma
    with mpmath.workdps(50):
        exact = [mpmath.mpf(float(b)) for b in a]
        wanted = [
            np.array([float(mpmath.log(b) - mpmath.digamma(b)) for b in exact]),
            np.array([float(1 / b - mpmath.polygamma(1, b)) for b in exact]),
            np.array([float(-1 / b**2 - mpmath.polygamma(2, b)) for b in exact]),
        ]
    slope = jax.grad(f)
    found = jax.jit(lambda a: [jax.vmap(g)(a) for g in (f, slope, jax.grad(slope))])(a)
    for one, other in zip(found, wanted, strict=True):
        assert_within(one, other, 8 * eps(dtype) * np.abs(other))


@pytest.mark.slow
def test_the_root_has_the_derivatives_of_the_root(dtype):
    """a(g) with f(a) = g: a' = 1 / f', a'' = -f'' / f'^3, from Newton steps."""
    gap = as_dtype(np.array([1e-4, 0.05, 0.6, 3.0, 40.0]), dtype)
    found = jax.jit(lambda g: [jax.vmap(h)(g) for h in (shape, jax.grad(shape), jax.grad(jax.jacfwd(shape)))])(gap)
    with mpmath.workdps(50):
        wanted = np.zeros((3, 5))
        for i, g in enumerate(gap):
            a = mpmath.findroot(lambda a, g=g: mpmath.log(a) - mpmath.digamma(a) - float(g), float(found[0][i]))
            first, second = 1 / a - mpmath.polygamma(1, a), -1 / a**2 - mpmath.polygamma(2, a)
            wanted[:, i] = [float(v) for v in (a, 1 / first, -second / first**3)]
    for one, other in zip(found, wanted, strict=True):
        assert_within(one, other, 64 * eps(dtype) * np.abs(other))


def test_angles_turn():
    """Directions, data and starts may lie on any side of pi and any number of turns away."""
    rng = np.random.default_rng(6)
    x = np.r_[rng.vonmises(np.pi, 20, 150), rng.vonmises(0.5, 5, 150)]
    model = Mixture(VonMises(), 2)
    start = MixtureParams(jnp.array([0.5, 0.5]), VonMisesParams(jnp.array([-2.8, 1.0]), jnp.array([5.0, 5.0])))
    fit = jaxem.check(jaxem.fit(model, start, x, tol=1e-10))
    turned = start._replace(components=start.components._replace(directions=start.components.directions + 4 * np.pi))
    other = jaxem.check(jaxem.fit(model, turned, x + 2 * np.pi * rng.integers(-2, 3, 300), tol=1e-10))
    assert (np.abs(fit.params.components.directions) <= np.pi).all()
    apart = np.asarray(fit.params.components.directions - other.params.components.directions)
    assert_within(np.exp(1j * apart).real, np.ones(2), 1e-12)
    assert_within(fit.objective, other.objective, 1e-9)
    assert abs(abs(fit.params.components.directions[0]) - np.pi) < 0.1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_samples_follow_the_density(name):
    """Kolmogorov-Smirnov for numbers; means and variances for counts. Also at small shapes and concentrations."""
    case, n = CASES[name], 20_000
    labels = jnp.arange(n) % 2
    params = as_dtype(case.params, np.float64)
    x = np.asarray(case.family.sample(jax.random.key(1), params, labels))
    assert bool(np.asarray(case.family.supports(jnp.asarray(x))).all())
    cdf = {
        "gamma": lambda a, b: stats.gamma(a, scale=1 / b).cdf,
        "log-normal": lambda m, v: stats.lognorm(np.sqrt(v), scale=np.exp(m)).cdf,
        "beta": lambda a, b: stats.beta(a, b).cdf,
        "von Mises": lambda m, k: stats.vonmises(k).cdf,
    }
    for k in range(2):
        of_class = [leaf[k] for leaf in case.params]
        y = x[k::2]
        if name in cdf:
            y = np.angle(np.exp(1j * (y - of_class[0]))) if name == "von Mises" else y
            assert stats.kstest(y, cdf[name](*of_class)).pvalue > 1e-4
        else:
            p = of_class[0]
            mean, variance = (p, p) if name == "Poisson vector" else (12 * p, 12 * p * (1 - p))
            if name == "multinomial":
                mean, variance = 9 * p, 9 * p * (1 - p)
            assert_within(y.mean(axis=0), mean, 5 * np.sqrt(variance / len(y)))
            assert_within(y.var(axis=0), variance, 0.1 * variance)


def test_trials_of_each_observation():
    """Successes and failures as two categories are the binomial distribution with trials of each row."""
    rng = np.random.default_rng(7)
    trials = rng.integers(1, 30, 60)
    x = rng.binomial(trials, 0.3)
    rows = jnp.asarray(np.stack([x, trials - x], axis=1), jnp.float64)
    p = np.array([[0.25, 0.75], [0.6, 0.4]])
    found = jax.jit(protocol.log_density)(Multinomial(), MultinomialParams(jnp.asarray(p)), rows)
    wanted = stats.binom.logpmf(x[:, None], trials[:, None], p[None, :, 0])
    assert_within(found, wanted, 64 * eps(np.float64) * (4 + np.abs(wanted)))


def test_second_derivatives_of_a_table_of_counts():
    """The Hessian of a mixture, whose cotangents depend on the parameters, against that of the textbook's formula."""
    x = jnp.asarray(draw("multinomial")[:20])
    table = {
        "ours": lambda p: protocol.log_density(Multinomial(), MultinomialParams(p), x),
        "textbook": lambda p: x @ jnp.log(p).T,
    }
    of = lambda f: lambda u: jax.nn.logsumexp(f(jax.nn.softmax(u, axis=1)), axis=1).sum()
    u = jnp.log(jnp.asarray(CASES["multinomial"].params.probabilities))
    ours, textbook = (jax.jit(jax.hessian(of(table[name])))(u) for name in ("ours", "textbook"))
    assert_within(ours, textbook, 1000 * eps(np.float64) * np.abs(textbook).max())
