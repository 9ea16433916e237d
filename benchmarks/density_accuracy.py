"""Largest error of every log-density against 50-digit arithmetic, in units in the last place (ulp).

    python benchmarks/density_accuracy.py --output benchmarks/results/density_accuracy.json

Parameters and observations are drawn in the dtype under test, over the range that is printed, and taken as exact. The
reference is computed from them with 50 digits. Two errors are reported. "Of the result" is the error over the spacing
of the dtype at the result, or at 1.0 where terms have both signs and the result is smaller than that. "Of its terms" is
the error over the spacing at the largest number that the definition adds up; a change of the inputs in their last place
moves the result by as much. Where a covariance matrix is given, the distance term is multiplied by the condition number
of the correlations (Higham 2002, 10.1).
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from mpmath import mp, mpf

from jaxem.families import (
    Bernoulli,
    BernoulliParams,
    Beta,
    BetaParams,
    Binomial,
    BinomialParams,
    Categorical,
    CategoricalParams,
    Exponential,
    ExponentialParams,
    Gamma,
    GammaParams,
    LogNormal,
    Multinomial,
    MultinomialParams,
    MultivariateNormal,
    MultivariateNormalParams,
    NegativeBinomial,
    NegativeBinomialParams,
    Normal,
    NormalInverseWishart,
    NormalParams,
    Poisson,
    PoissonParams,
    PoissonVector,
    PoissonVectorParams,
    StudentT,
    StudentTParams,
    VonMises,
    VonMisesParams,
    Weibull,
    WeibullParams,
    ZeroInflated,
    ZeroInflatedParams,
    normal_prior,
    products,
    quadratic,
    whitening,
)
from jaxem.families.protocol import log_density
from jaxem.models import FactorAnalysis, FactorAnalysisParams

FORMS = ("full", "tied", "diag", "spherical")


class Draw(NamedTuple):
    """One comparison: the numbers that the library returns, and for each the exact value and its largest term."""

    found: np.ndarray
    exact: list[Any]
    terms: list[Any]


class Density(NamedTuple):
    name: str
    ranges: str
    draws: Callable[[np.random.Generator, np.dtype], Iterator[Draw]]
    of_one_sign: bool = False  # whether the definition is written so that all terms have one sign


def _exact(a: Any) -> Any:
    """An array of any shape as nested lists of multi-precision numbers."""
    a = np.asarray(a)
    return [_exact(row) for row in a] if a.ndim else mpf(float(a))


def _in(dtype: np.dtype, tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a, dtype)), tree)


_log_density = jax.jit(log_density)


def _pairs(family: Any, params: Any, x: Any, one: Callable[..., tuple[Any, Any]], k: int) -> Draw:
    """All pairs of an observation and a class; ``one(leaves of the class, x_n)`` gives log-density and largest term."""
    found = np.asarray(_log_density(family, params, x), np.float64)
    classes = [[_exact(leaf[i]) for leaf in jax.tree.leaves(params)] for i in range(k)]
    both = [one(classes[i], row) for row in _exact(x) for i in range(k)]
    return Draw(found.ravel(), [a for a, _ in both], [b for _, b in both])


def _decades(rng: np.random.Generator, low: float, high: float, n: int) -> np.ndarray:
    return 10 ** rng.uniform(low, high, n)


def poisson(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    top = 15 if dtype == np.float64 else 30

    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        (rate,) = leaves
        value = -rate if x == 0 else x * mp.log(rate) - rate - mp.loggamma(x + 1)
        return value, max(rate, x * abs(mp.log(rate)), mp.loggamma(x + 1))

    small = np.arange(24.0)
    large = np.round(_decades(rng, 1, top, 60))
    for x in (small, large, np.round(_decades(rng, 0, 7, 60))):
        x = np.asarray(x, dtype)
        size = float(np.exp(rng.uniform(-1, 1))) * x[rng.integers(len(x))] + 0.1
        near = x[rng.integers(0, len(x), 3)].astype(float)
        rates = [*_decades(rng, -30, 30, 4), size, *(near + np.sqrt(near) * rng.normal(size=3) + 0.01)]
        rates = np.abs(np.array(rates))
        yield _pairs(Poisson(), _in(dtype, PoissonParams(rates)), _in(dtype, x), one, len(rates))


def exponential(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        (rate,) = leaves
        return mp.log(rate) - rate * x, max(abs(mp.log(rate)), rate * x)

    for low, high in ((-1, 1), (-15, 15), (-30, -20), (20, 30)):
        rates = _decades(rng, low, high, 6)
        x = np.concatenate([[0.0], _decades(rng, -3, 2.5, 40) / rates[rng.integers(0, 6, 40)]])
        yield _pairs(Exponential(), _in(dtype, ExponentialParams(rates)), _in(dtype, x), one, 6)


def normal(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        m, v = leaves
        z = (x - m) ** 2 / v
        return -(mp.log(2 * mp.pi * v) + z) / 2, max(abs(mp.log(v)), z, mp.log(2 * mp.pi)) / 2

    for offset, low, high in ((0, -1, 1), (0, -36, 36), (1e4, -6, 0), (-1e6, -4, 30)):
        v = _decades(rng, low, high, 6)
        m = offset + np.sqrt(v) * rng.normal(size=6)
        at = rng.integers(0, 6, 50)
        x = m[at] + np.sqrt(v[at]) * rng.normal(size=50) * _decades(rng, -3, 1, 50)
        yield _pairs(Normal(), _in(dtype, NormalParams(m, v)), _in(dtype, x), one, 6)


def student_t(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        m, s, tau = leaves
        z = (x - m) ** 2 / s
        if tau == 0:
            return -(mp.log(2 * mp.pi * s) + z) / 2, max(abs(mp.log(s)), z, mp.log(2 * mp.pi)) / 2
        a = 1 / (2 * tau)
        constant = mp.loggamma(a + mpf(1) / 2) - mp.loggamma(a) - mp.log(a) / 2
        tail = (a + mpf(1) / 2) * mp.log1p(tau * z)
        return constant - mp.log(2 * mp.pi * s) / 2 - tail, max(abs(mp.log(s)), mp.log(2 * mp.pi), 2 * tail) / 2

    for low, high in ((-1, 1), (-4, 0), (-30, -1), (0, 6)):
        tails = np.append(_decades(rng, low, high, 5), 0.0)
        s, m = _decades(rng, -9, 9, 6), rng.normal(size=6)
        at = rng.integers(0, 6, 50)
        x = m[at] + np.sqrt(s[at]) * rng.normal(size=50) * _decades(rng, -3, 6, 50)
        yield _pairs(StudentT(), _in(dtype, StudentTParams(m, s, tails)), _in(dtype, x), one, 6)


def negative_binomial(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    """The terms are those of the deviance form; the textbook's cancel."""

    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        m, phi = leaves
        a = 1 / phi
        rest = a * mp.log1p(phi * m)
        if x == 0:
            return -rest, rest
        terms = x * mp.log(phi * m / (1 + phi * m)), mp.loggamma(x + a), mp.loggamma(a), mp.loggamma(x + 1)
        return terms[0] + terms[1] - terms[2] - terms[3] - rest, 0

    for x in (np.arange(24.0), np.round(_decades(rng, 1, 6, 30)), np.round(_decades(rng, 0, 7, 30))):
        near = x[rng.integers(0, len(x), 6)] + 0.1
        phi = _decades(rng, -9, 6, 6)
        m = near * np.exp(np.sqrt(1 / near + np.minimum(phi, 1)) * rng.normal(size=6))
        params = NegativeBinomialParams(m, phi)
        yield _pairs(NegativeBinomial(), _in(dtype, params), _in(dtype, x), one, 6)


def zero_inflated(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        p, rate = leaves
        log_f = x * mp.log(rate) - rate - mp.loggamma(x + 1)
        if x == 0:
            return mp.log(p + (1 - p) * mp.exp(log_f)), max(abs(mp.log(p)), rate)
        return mp.log(1 - p) + log_f, max(abs(mp.log(1 - p)), abs(log_f))

    p = np.concatenate([_decades(rng, -30, -1, 4), rng.random(4)])
    rates = _decades(rng, -3, 3, 8)
    params = ZeroInflatedParams(p, PoissonParams(rates))
    yield _pairs(ZeroInflated(Poisson()), _in(dtype, params), _in(dtype, np.arange(20.0)), one, 8)


def _covariance(rng: np.random.Generator, k: int, d: int, correlation: float, decades: float) -> np.ndarray:
    a = rng.normal(size=(k, d, d)) + correlation * rng.normal(size=(k, d, 1))
    full = a @ a.swapaxes(1, 2) + 0.5 * np.eye(d)
    scale = _decades(rng, -decades, decades, d)
    return full * scale[:, None] * scale[None, :]


def _condition(covariance: Any) -> float:
    c = np.array([[float(a) for a in row] for row in covariance])
    scale = np.sqrt(np.diag(c))
    return float(np.linalg.cond(c / scale[:, None] / scale[None, :]))


def _normal_value(m: Any, covariance: Any, x: Any) -> tuple[Any, Any]:
    d = len(m)
    c = mp.matrix(covariance)
    lower = mp.cholesky((c + c.T) / 2)
    y = mp.matrix([a - b for a, b in zip(x, m, strict=True)])
    z = mp.lu_solve(lower, y)
    distance, logs = sum(a**2 for a in z), [2 * mp.log(lower[i, i]) for i in range(d)]
    value = -(d * mp.log(2 * mp.pi) + sum(logs) + distance) / 2
    return value, max(sum(abs(a) for a in logs), distance * _condition(covariance), d * mp.log(2 * mp.pi)) / 2


def _as_matrix(form: str, covariance: Any, d: int) -> Any:
    if form == "diag":
        return [[covariance[i] if i == j else mpf(0) for j in range(d)] for i in range(d)]
    if form == "spherical":
        return [[covariance if i == j else mpf(0) for j in range(d)] for i in range(d)]
    return covariance


def _multivariate(form: str, by: Any, rows: int, d: int) -> Callable[..., Iterator[Draw]]:
    """``by``: the product kernel that must be chosen, or ``None`` for deviations from each mean."""

    def draws(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
        k = 3
        for offset, correlation, decades in ((0, 0.0, 0.0), (1e3, 1.0, 0.0), (0, 3.0, 4.0), (1e4, 0.0, 2.0)):
            full = _covariance(rng, k, d, correlation, decades)
            spread = np.sqrt(np.diagonal(full[0]))
            means = offset * spread + spread * rng.normal(size=(k, d))
            x = means[rng.integers(0, k, rows)] + spread * rng.normal(size=(rows, d))
            variances = np.diagonal(full, axis1=1, axis2=2)
            own = {"full": full, "tied": full[0], "diag": variances, "spherical": variances[:, 0]}[form]
            if form == "spherical":
                x, means = (a / spread * np.sqrt(own[0]) for a in (x, means))
            params, x = _in(dtype, (MultivariateNormalParams(means, own), x))
            chosen = products.chosen(form, rows, k, d)
            assert chosen is by
            if by is not None and not bool(by.view(form, *params).safe):
                continue  # the careful form is used here; it has a row of its own
            found = np.asarray(_log_density(MultivariateNormal(form), params, x), np.float64)
            shown = rng.integers(0, rows, 25)
            exact_x, exact_m, exact_c = _exact(x[shown]), _exact(params.means), _exact(params.covariances)
            both = [
                _normal_value(exact_m[i], _as_matrix(form, exact_c if form == "tied" else exact_c[i], d), row)
                for row in exact_x
                for i in range(k)
            ]
            yield Draw(found[shown].ravel(), [a for a, _ in both], [b for _, b in both])

    return draws


def bernoulli(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        terms = [mp.log(p) if seen == 1 else mp.log(1 - p) for p, seen in zip(leaves[0], x, strict=True)]
        return sum(terms), max(abs(a) for a in terms)

    for d in (1, 3, 30):
        tiny = _decades(rng, -30, 0, (4, d))
        p = np.where(rng.random((4, d)) < 0.3, 1 - tiny, np.where(rng.random((4, d)) < 0.5, tiny, rng.random((4, d))))
        p = np.clip(p.astype(dtype), np.finfo(dtype).tiny, 1 - np.finfo(dtype).epsneg)
        x = (rng.random((30, d)) < 0.5).astype(float)
        yield _pairs(Bernoulli(), _in(dtype, BernoulliParams(p)), _in(dtype, x), one, 4)


def categorical(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    levels = (2, 5, 3)

    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        terms = [mp.log(p[int(level)]) for p, level in zip(leaves, x, strict=True)]
        return sum(terms), max(abs(a) for a in terms)

    for power in (1, 30):
        p = []
        for count in levels:
            odds = _decades(rng, -power, 0, (4, count))
            p.append(odds / odds.sum(axis=1, keepdims=True))
        x = np.stack([rng.integers(0, count, 40) for count in levels], axis=1).astype(float)
        yield _pairs(Categorical(levels), _in(dtype, CategoricalParams(tuple(p))), _in(dtype, x), one, 4)


def gamma(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    top = 8 if dtype == np.float32 else 15

    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        a, b = leaves
        value = a * mp.log(b) + (a - 1) * mp.log(x) - b * x - mp.loggamma(a)
        moved = a * mp.log(b * x / a)  # by a relative change of the shape; by one of x, a - b x
        return value, max(1, abs(mp.log(x)), abs(mp.log(a)), abs(moved), abs(a - b * x), b * x - a - moved)

    for low, high, scale in ((-2, 1, 0), (0, top, 0), (-1, 3, 20), (-1, 3, -20)):
        a = _decades(rng, low, high, 6)
        b = a / _decades(rng, scale - 1, scale + 1, 6)
        at = rng.integers(0, 6, 50)
        x = np.maximum(rng.gamma(a[at]), 1e-9) / b[at] * np.exp(rng.normal(size=50) * _decades(rng, -9, 0, 50))
        yield _pairs(Gamma(), _in(dtype, GammaParams(a, b)), _in(dtype, x), one, 6)


def log_normal(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        m, v = leaves
        y, deviation = mp.log(x), mp.sqrt(v)
        z = (y - m) / deviation
        value = -(mp.log(2 * mp.pi * v) + z**2) / 2 - y
        return value, max(1, abs(y), abs(mp.log(v)) / 2, z**2 / 2, abs(z) * max(1, abs(m)) / deviation)

    for low, high, offset in ((-2, 1, 0), (-4, 0, 30), (-4, 0, -30)):
        v = _decades(rng, low, high, 6)
        m = offset + rng.normal(size=6)
        at = rng.integers(0, 6, 50)
        x = np.exp(m[at] + np.sqrt(v[at]) * rng.normal(size=50))
        yield _pairs(LogNormal(), _in(dtype, NormalParams(m, v)), _in(dtype, x), one, 6)


def weibull(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        a, b = leaves
        z = a * mp.log(x / b)
        moved = [
            a * abs(1 - mp.exp(z)),
            abs(z * (1 - mp.exp(z))),
        ]  # by relative changes of x, of a
        return mp.log(a) + z - mp.exp(z) - mp.log(x), max(1, abs(mp.log(a)), abs(mp.log(x)), abs(z), mp.exp(z), *moved)

    for low, high, scale in ((-1, 1, 0), (0, 5, 0), (-1, 2, 20), (-1, 2, -20)):
        a, b = _decades(rng, low, high, 6), _decades(rng, scale - 1, scale + 1, 6)
        at = rng.integers(0, 6, 50)
        x = b[at] * rng.exponential(size=50) ** (1 / a[at])
        yield _pairs(Weibull(), _in(dtype, WeibullParams(a, b)), _in(dtype, x), one, 6)


def beta(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    top = 7 if dtype == np.float32 else 14

    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        a, b = leaves
        s, y = a + b, 1 - x
        value = (a - 1) * mp.log(x) + (b - 1) * mp.log(y) - mp.loggamma(a) - mp.loggamma(b) + mp.loggamma(s)
        moved = [a * mp.log(s * x / a), b * mp.log(s * y / b)]  # by relative changes of the shapes
        logs = [mp.log(value) for value in (x, y, a, b)]
        return value, max(1, *map(abs, logs), *map(abs, moved), abs(a - s * x) / y, -sum(moved))

    for low, high in ((-2, 1), (0, top / 2), (top / 2, top)):
        a, b = _decades(rng, low, high, 6), _decades(rng, low, high, 6)
        at = rng.integers(0, 6, 50)
        limits = np.finfo(dtype)
        x = np.clip(rng.beta(a[at], b[at]), 1e-30, 1 - limits.epsneg)
        yield _pairs(Beta(), _in(dtype, BetaParams(a, b)), _in(dtype, x), one, 6)


def von_mises(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    top = 10 if dtype == np.float32 else 16

    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        m, k = leaves
        lost, moved = k * (1 - mp.cos(x - m)), abs(k * (x - m) * mp.sin(x - m))
        if k < 1000:
            constant = mp.log(2 * mp.pi * mp.besseli(0, k)) - k
        else:
            constant = (mp.log(2 * mp.pi) - mp.log(k)) / 2 + mp.log(mp.hyp2f0(0.5, 0.5, 1 / (2 * k)))
        return -lost - constant, max(1, lost, abs(constant), moved)

    for low, high in ((-4, 1), (0, 2.5), (2.5, top)):
        k = _decades(rng, low, high, 6)
        m = rng.uniform(-np.pi, np.pi, 6)
        at = rng.integers(0, 6, 50)
        yield _pairs(VonMises(), _in(dtype, VonMisesParams(m, k)), _in(dtype, rng.vonmises(m[at], k[at])), one, 6)


def binomial(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    for trials in (1, 20, 3000, 10**6, 10**7 if dtype == np.float32 else 10**12):

        def one(leaves: Any, x: Any, t: int = trials) -> tuple[Any, Any]:
            (p,) = leaves
            rest, choices = t - x, mp.loggamma(t + 1) - mp.loggamma(x + 1)
            value = choices - mp.loggamma(rest + 1) + x * mp.log(p) + rest * mp.log(1 - p)
            return value, max(1, mp.log(t), abs(x - t * p) / (1 - p), -value)

        p = _in(dtype, np.concatenate([_decades(rng, -8, -0.01, 4), 1 - _decades(rng, -5, -1, 2)]))
        x = rng.binomial(trials, np.asarray(p, np.float64)[rng.integers(0, 6, 40)]).astype(float)
        yield _pairs(Binomial(trials), BinomialParams(p), _in(dtype, x), one, 6)


def multinomial(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        p, total = [a / sum(leaves[0]) for a in leaves[0]], sum(x)
        value = mp.loggamma(total + 1) + sum(a * mp.log(b) - mp.loggamma(a + 1) for a, b in zip(x, p, strict=True))
        return value, max(1, mp.log(total + 1), -value, *(abs(a - total * b) for a, b in zip(x, p, strict=True)))

    for trials in (1, 15, 400, 10**6):
        odds = _decades(rng, -6, 0, (4, 5))
        p = odds / odds.sum(axis=1, keepdims=True)
        x = np.concatenate([rng.multinomial(trials, row, 10) for row in p]).astype(float)
        yield _pairs(Multinomial(), _in(dtype, MultinomialParams(p)), _in(dtype, x), one, 4)


def poisson_vector(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
    def one(leaves: Any, x: Any) -> tuple[Any, Any]:
        terms = [a * mp.log(rate) - rate - mp.loggamma(a + 1) for a, rate in zip(x, leaves[0], strict=True)]
        return sum(terms), max(abs(a) for a in terms)

    for low, high in ((-10, 1), (0, 7)):
        rates = _decades(rng, low, high, (4, 5))
        x = rng.poisson(rates[rng.integers(0, 4, 40)]).astype(float)
        yield _pairs(PoissonVector(), _in(dtype, PoissonVectorParams(rates)), _in(dtype, x), one, 4)


def _factor(route: str) -> Callable[..., Iterator[Draw]]:
    def draws(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
        d, k = 6, 2
        model = FactorAnalysis(k)
        for offset, low in ((0.0, 0), (100.0, -2), (0.0, -3)):
            params = FactorAnalysisParams(
                offset + rng.normal(size=d), rng.normal(size=(d, k)), _decades(rng, low, 0, d)
            )
            x = model.sample(jax.random.key(0), _in(np.dtype(np.float64), params), 30)
            params, x = _in(dtype, (params, np.asarray(x)))
            q = jax.jit(model.e_step)(params, x).log_normalizer if route == "e" else model.log_prob(params, x)
            mean, loadings, noise = (_exact(leaf) for leaf in params)
            covariance = mp.matrix(loadings) * mp.matrix(loadings).T + mp.diag(noise)
            both = [_normal_value(mean, covariance.tolist(), row) for row in _exact(x)]
            yield Draw(np.asarray(q, np.float64), [a for a, _ in both], [b for _, b in both])

    return draws


def _log_multigamma(a: Any, d: int) -> Any:
    return mpf(d * (d - 1)) / 4 * mp.log(mp.pi) + sum(mp.loggamma(a - mpf(j) / 2) for j in range(d))


def _prior(form: str) -> Callable[..., Iterator[Draw]]:
    def draws(rng: np.random.Generator, dtype: np.dtype) -> Iterator[Draw]:
        for d, dof in ((1, 3.0), (2, 4.5), (5, 7.0), (5, 300.0), (12, 1e5), (2, 1e8)):
            a = rng.normal(size=(d + 3, d))
            scale = a.T @ a / (d + 3) * dof
            noise = rng.normal(size=(d + 3, d)) / np.sqrt(dof)
            b = a + noise
            own = b.T @ b / (d + 3)
            own = own[None] if form == "full" else np.diag(own)[None]
            prior = NormalInverseWishart(rng.normal(size=d), np.array(0.3), np.array(dof), scale)
            prior, params = _in(dtype, (prior, MultivariateNormalParams(rng.normal(size=(1, d)), own)))
            found = np.asarray(
                jax.jit(normal_prior.log_prior, static_argnames="form")(prior, form, *params), np.float64
            )
            (m,), (c,) = (_exact(leaf) for leaf in params)
            m0, kappa, nu, scale = (_exact(leaf) for leaf in prior)
            matrix = mp.matrix(_as_matrix(form, c, d))
            normal_part, normal_terms = _normal_value(m0, (matrix / kappa).tolist(), m)
            condition = _condition(matrix.tolist()) if form == "full" else 1
            if form == "full":
                lam = mp.matrix(scale)
                inner = lam * mp.inverse(matrix)
                trace = sum(inner[i, i] for i in range(d))
                value = nu / 2 * (mp.log(mp.det(lam)) - d * mp.log(2)) - _log_multigamma(nu / 2, d)
                value += -(nu + d + 1) / 2 * mp.log(mp.det(matrix)) - trace / 2
                # The change of log-determinant and trace where scale or covariance changes in its last place.
                size = max(abs(nu * d - trace), mp.sqrt(nu) * d, d * d)
            else:
                shape, rate = nu / 2, sum(scale[i][i] for i in range(d)) / d / 2
                value, size = mpf(0), mpf(1)
                for v in c:
                    value += shape * mp.log(rate) - mp.loggamma(shape) - (shape + 1) * mp.log(v) - rate / v
                    size = max(size, abs(shape - rate / v), mp.sqrt(shape))
            size = max(size * condition, abs(value), normal_terms)
            yield Draw(found.reshape(1), [value + normal_part], [size])

    return draws


DENSITIES = [
    Density("Poisson", "counts 0 to 1e30 (1e15 in float64), rates 1e-30 to 1e30", poisson, True),
    Density("Exponential", "rates 1e-30 to 1e30, rate x from 0 to 300", exponential),
    Density("Normal", "variances 1e-36 to 1e36, means to 1e6, up to 30 deviations away", normal),
    Density("StudentT", "1 / nu from 0 to 1e6, up to 1e6 scales away", student_t),
    Density("NegativeBinomial", "counts 0 to 1e7, dispersions 1e-9 to 1e6", negative_binomial, True),
    Density("ZeroInflated Poisson", "probabilities 1e-30 to 1, rates 1e-3 to 1e3", zero_inflated),
    *(
        Density(
            f"MultivariateNormal {form}, deviations",
            "D 3, variances over 16 decades, 1e4 deviations from zero",
            _multivariate(form, None, 40, 3),
        )
        for form in FORMS
    ),
    *(
        Density(
            f"MultivariateNormal {form}, products",
            "D 6, where the guard lets them through",
            _multivariate(form, quadratic, 600, 6),
        )
        for form in FORMS
    ),
    Density(
        "MultivariateNormal full, whitened",
        "D 12, where the guard lets it through",
        _multivariate("full", whitening, 600, 12),
    ),
    Density("Bernoulli", "D 1 to 30, probabilities 1e-30 to 1 - eps", bernoulli, True),
    Density("Categorical", "three columns, probabilities 1e-30 to 1", categorical, True),
    Density("Gamma", "shapes 0.01 to 1e8 (1e15 in float64), x from 1e-20 to 1e20", gamma),
    Density("LogNormal", "variances of logs 1e-4 to 10, x from e^-30 to e^30", log_normal),
    Density("Weibull", "shapes 0.1 to 1e5, x from 1e-21 to 1e21", weibull),
    Density("Beta", "shapes 0.01 to 1e7 (1e14 in float64)", beta),
    Density("VonMises", "concentrations 1e-4 to 1e10 (1e16 in float64)", von_mises),
    Density("Binomial", "trials 1 to 1e7 (1e12 in float64), probabilities 1e-8 to 1 - 1e-5", binomial),
    Density("Multinomial", "five categories, totals 1 to 1e6, probabilities from 1e-6", multinomial),
    Density("PoissonVector", "D 5, rates 1e-10 to 1e7", poisson_vector, True),
    Density("FactorAnalysis, E-step", "D 6, k 2, noise 1e-3 to 1", _factor("e")),
    Density("FactorAnalysis, log_prob", "D 6, k 2, noise 1e-3 to 1", _factor("log_prob")),
    Density("NormalInverseWishart, full", "D 1 to 12, degrees of freedom 3 to 1e8", _prior("full")),
    Density("NormalInverseWishart, diag", "D 1 to 12, degrees of freedom 3 to 1e8", _prior("diag")),
]


def largest_errors(density: Density, dtype: np.dtype, rounds: int, seed: int = 0) -> tuple[float, float]:
    """The largest errors in ulp: of the result, and of its terms."""
    rng = np.random.default_rng(seed)
    eps, top = mpf(float(np.finfo(dtype).eps)), mpf(float(np.finfo(dtype).max))
    worst = [mpf(0), mpf(0)]
    with mp.workdps(50):
        for _ in range(rounds):
            for found, exact, terms in density.draws(rng, dtype):
                for a, b, size in zip(found, exact, terms, strict=True):
                    if abs(b) > top / 4:
                        continue  # beyond the range of this dtype
                    error = abs(mpf(float(a)) - b)
                    for i, of in enumerate((abs(b), size)):
                        least = mpf(float(np.finfo(dtype).tiny)) if density.of_one_sign and i == 0 else 1
                        unit = eps * mpf(2) ** mp.floor(mp.log(max(of, least), 2))
                        worst[i] = mpf("inf") if mpmath.isnan(error) else max(worst[i], error / unit)
    return float(worst[0]), float(worst[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    print(f"{'':38} {'ulp of the result':>24} {'ulp of its terms':>24}")
    print(f"{'':38} {'float32':>12}{'float64':>12} {'float32':>12}{'float64':>12}  range")
    for density in DENSITIES:
        if arguments.only.lower() not in density.name.lower():
            continue
        found = [largest_errors(density, np.dtype(t), arguments.rounds) for t in ("float32", "float64")]
        (a, c), (b, d) = found
        print(f"{density.name:38} {a:12.3g}{b:12.3g} {c:12.3g}{d:12.3g}  {density.ranges}", flush=True)
        of_result, of_terms = {"float32": a, "float64": b}, {"float32": c, "float64": d}
        rows.append(
            {
                "density": density.name,
                "range": density.ranges,
                "ulp of the result": of_result,
                "ulp of its terms": of_terms,
            }
        )
    if arguments.output:
        arguments.output.write_text(json.dumps({"jax": jax.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
