"""Arrays that an M-step only improves: Weibull, EM's halving, the laws, and algorithms that must refuse."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps
from scipy import optimize, stats

import jaxem
from jaxem.algorithms import em
from jaxem.core import newton
from jaxem.families import Weibull, WeibullParams
from jaxem.models import Mixture, MixtureParams

RNG = np.random.default_rng(0)
X = np.r_[0.5 * RNG.weibull(0.8, 90), 6 * RNG.weibull(7.0, 70)]
START = MixtureParams(jnp.array([0.5, 0.5]), WeibullParams(jnp.array([1.0, 3.0]), jnp.array([0.4, 4.0])))


def fitted(family: Any, **options: Any) -> jaxem.Fit:
    return jaxem.fit(Mixture(family, 2), START, jnp.asarray(X), **options)


def log_likelihood(u: np.ndarray) -> float:
    w = 1 / (1 + np.exp(-u[0]))
    a, b = np.exp(u[1:3]), np.exp(u[3:5])
    parts = [stats.weibull_min.pdf(X, a[k], scale=b[k]) for k in range(2)]
    return float(np.log(w * parts[0] + (1 - w) * parts[1]).sum())


def test_the_density_is_that_of_scipy(dtype):
    x = np.array([1e-8, 0.3, 2.0, 30.0, 9.0], dtype)
    params = WeibullParams(jnp.array([0.7, 12.0], dtype), jnp.array([0.5, 8.0], dtype))
    density = jax.jit(Weibull().log_density)
    found = density(params, jnp.asarray(x))
    wanted = np.stack([stats.weibull_min.logpdf(x.astype(float), a, scale=b) for a, b in ((0.7, 0.5), (12, 8))], axis=1)
    terms = 1 + np.abs(wanted) + 12 * np.exp(np.minimum(12 * np.log(x[:, None] / 0.5), 30) * (np.abs(wanted) > 1e3))
    assert found.dtype == dtype
    assert_within(found, wanted, 64 * eps(dtype) * np.maximum(terms, np.abs(wanted)))
    outside = density(params, jnp.array([0.0, -1.0, np.inf, np.nan], dtype))
    assert (np.asarray(outside[:3]) == -np.inf).all() and np.isnan(np.asarray(outside[3])).all()


def test_em_by_scoring_ends_at_the_maximum():
    """Against a direct search; the errors are those of its Hessian."""
    fit = jaxem.check(fitted(Weibull(), tol=1e-14, max_steps=2000))
    w, (a, b) = np.asarray(fit.params.weights), map(np.asarray, fit.params.components)
    u = np.r_[np.log(w[0] / w[1]), np.log(a), np.log(b)]
    found = optimize.minimize(lambda u: -log_likelihood(u), u + 0.02, method="BFGS", options={"gtol": 1e-6})
    assert_within(fit.objective, -found.fun, 1e-8)
    assert_within(u, found.x, 1e-4)
    errors = jaxem.inference.standard_errors(Mixture(Weibull(), 2), fit, X)
    h = 1e-3 * np.eye(5)
    curved = [[log_likelihood(u + i + j) - log_likelihood(u + i - j) for j in h] for i in np.concatenate([h, -h])]
    hessian = (np.array(curved[:5]) - np.array(curved[5:])) / (4 * 1e-3**2)
    wanted = np.sqrt(np.diagonal(np.linalg.inv(-hessian)))
    assert_within(np.asarray(errors.components.scales) / b, wanted[3:], 1e-4)
    for algorithm in (jaxem.SQUAREM(), jaxem.Anderson()):
        faster = jaxem.check(fitted(Weibull(), algorithm=algorithm, tol=1e-14, max_steps=2000))
        assert_within(faster.objective, fit.objective, 1e-8)


@pytest.mark.slow
def test_a_start_costs_one_e_step():
    """It has nothing to fall from, so no part of a step is tried."""
    for steps in (0, 3):
        fit = fitted(Weibull(), max_steps=steps)
        assert fit.evaluations == steps + 1 and fit.fallbacks == 0


def test_the_sample_follows_the_density():
    params = WeibullParams(jnp.array([0.7, 12.0]), jnp.array([0.5, 8.0]))
    x = np.asarray(Weibull().sample(jax.random.key(1), params, jnp.arange(4000) % 2))
    for k, (a, b) in enumerate(((0.7, 0.5), (12, 8))):
        assert stats.kstest(x[k::2], stats.weibull_min(a, scale=b).cdf).pvalue > 1e-3
        mean = stats.weibull_min(a, scale=b).mean()
        assert_within(Weibull().mean(params)[k], mean, 1e-12 * mean)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Changed(Weibull):
    """``Weibull`` with a fault, or with steps too long."""

    fault: str = ""

    def statistics(self, c, r, hidden, x):
        sums = super().statistics(c, r, hidden, x)
        if self.fault == "score":
            return sums._replace(score=-sums.score)
        return sums._replace(sizes=sums.sizes - r[0]) if self.fault == "a row" else sums

    def maximize(self, c, sums):
        new = super().maximize(c, sums)
        times = {"too long": 40.0, "none": 0.0}.get(self.fault, 1.0)
        return jax.tree.map(lambda old, new: old * (new / old) ** times, c, new)


@pytest.mark.slow
def test_steps_too_long_are_halved(monkeypatch):
    """EM, hard EM and accelerators climb all the same; without the halving the fit says that the objective fell."""
    for algorithm in (jaxem.EM(), jaxem.HardEM(), jaxem.SQUAREM(), jaxem.Anderson()):
        fit = fitted(Changed("too long"), algorithm=algorithm, max_steps=60)
        trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
        assert int(fit.status) in (jaxem.Status.CONVERGED, jaxem.Status.MAX_STEPS), algorithm
        assert int(fit.steps) > 1 and int(fit.fallbacks) > 0 and np.diff(trace).min() > -1e-9, algorithm
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), START)
    both = jax.vmap(lambda start: jaxem.fit(Mixture(Changed("too long"), 2), start, jnp.asarray(X), max_steps=60))(
        lanes
    )
    alone = fitted(Changed("too long"), max_steps=60)
    assert_within(both.objective, np.full(2, float(alone.objective)), 1e-8)
    unguarded = lambda algorithm, model, state, params, data: algorithm.move(model, state, params, data)
    monkeypatch.setattr(em, "climbed", unguarded)
    model = Mixture(Changed("too long"), 2)
    state = em.EM().init(model, START, jnp.asarray(X), None)
    assert not em.EM().step(model, state, jnp.asarray(X)).objective >= state.objective


FAULTS = {"score": "slope from sums", "a row": "additivity", "none": "M-step uphill"}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_laws_see_a_fault(fault):
    certificate = jaxem.verify(Mixture(Changed(fault), 2), START, jnp.asarray(X))
    assert FAULTS[fault] in certificate.violated


def test_algorithms_that_need_a_maximum_refuse():
    refusing = jaxem.AnnealedEM(), jaxem.OnlineEM(), jaxem.IncrementalEM(), jaxem.MonteCarloEM(), jaxem.SAEM()
    for algorithm in refusing:
        with pytest.raises(ValueError, match=r"needs an M-step that maximises Q.*components.shapes, components.scales"):
            fitted(Weibull(), algorithm=algorithm, key=jax.random.key(0))
    fit = jaxem.fit(Mixture(Weibull(), 2), START, jnp.asarray(X))
    with pytest.raises(ValueError, match='"sem" needs an M-step that maximises'):
        jaxem.inference.information(Mixture(Weibull(), 2), fit, X, route="sem")


def test_a_newton_step_is_finite_and_short(dtype):
    """The maximum of a quadratic where there is one; short, or zero, where there is none."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 3)) * np.array([1e-3, 1.0, 1e4])
    information = jnp.asarray(x.T @ x, dtype)
    score = jnp.asarray(x.T @ rng.normal(size=50), dtype)
    most, n = jnp.diagonal(information), jnp.asarray(50.0, dtype)
    wanted = np.linalg.solve(np.asarray(information, float), np.asarray(score, float))
    step = jax.jit(newton.step)
    found = step(score, information, most, n)
    assert_within(found, wanted, 2000 * eps(dtype) * np.abs(wanted).max() * np.array([1, 1, 1]))
    flat = step(score, 1e-30 * information, most, n)
    assert_within((jnp.abs(flat) * jnp.sqrt(most / n)).max(), 4, 64 * eps(dtype) * 4)
    dead = step(score.at[1].set(0), information.at[1].set(0).at[:, 1].set(0), most.at[1].set(0), n)
    assert dead[1] == 0 and bool(jnp.isfinite(dead).all())
    twice = jnp.asarray(np.c_[x, x[:, 1]].T @ np.c_[x, x[:, 1]], dtype)
    double = step(jnp.append(score, score[1]), twice, jnp.diagonal(twice), n)
    assert bool(jnp.isfinite(double).all())
