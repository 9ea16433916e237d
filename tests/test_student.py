"""t distributions: densities, the equation of the degrees of freedom, laws, direct maximisation, outliers."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from scipy import optimize, stats

import jaxem
from jaxem import Dataset, datasets
from jaxem.core.records import register
from jaxem.families import (
    MultivariateNormal,
    MultivariateNormalParams,
    MultivariateStudentT,
    MultivariateStudentTParams,
    Normal,
    NormalParams,
    StudentT,
    StudentTParams,
    gamma_scale,
)
from jaxem.families.protocol import log_density
from jaxem.models import HMM, Mixture, MixtureParams


def draw(n=300):
    rng = np.random.default_rng(0)
    return np.where(rng.random(n) < 0.4, rng.standard_t(4, n), 6 + 2 * rng.standard_t(3, n))


@pytest.mark.slow
def test_the_equation_of_the_degrees_of_freedom_is_solved_to_rounding(dtype):
    i = as_dtype(np.r_[10.0 ** np.arange(-6, 7), 0.99, 1.0, 1.01], dtype)
    found = jax.jit(gamma_scale.gap)(i)
    with mpmath.mp.workdps(50):
        wanted = [mpmath.log(1 / mpmath.mpf(float(a))) - mpmath.digamma(1 / mpmath.mpf(float(a))) for a in i]
    wanted = np.array(list(map(float, wanted)))
    assert_within(found, wanted, 4 * eps(dtype) * wanted)
    # A change of log g by eps is a change of log tau by about eps; log g itself is rounded by eps |log g|.
    wanted = np.asarray(i, np.float64) / 2
    assert_within(jax.jit(gamma_scale.solve)(found), wanted, 16 * eps(dtype) * wanted * (1 + np.abs(np.log(found))))
    solve = jax.jit(jax.value_and_grad(gamma_scale.solve))
    assert float(solve(as_dtype(0.0, dtype))[0]) == 0
    assert np.isnan(solve(as_dtype(np.nan, dtype))[0])
    tau, slope = solve(as_dtype(0.3, dtype))
    inverse = jax.jit(jax.grad(lambda tau: gamma_scale.gap(2 * tau)))(tau)
    assert_within(slope * inverse, 1.0, 64 * eps(dtype))


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_densities_are_those_of_scipy_and_normal_at_the_edge(form):
    rng = np.random.default_rng(1)
    x, m = rng.normal(size=(40, 3)) * 3, rng.normal(size=(2, 3))
    a = rng.normal(size=(2, 3, 3))
    full = a @ a.swapaxes(1, 2) + np.eye(3)
    scatters = {"full": full, "tied": full[0], "diag": np.diagonal(full, axis1=1, axis2=2), "spherical": full[:, 0, 0]}
    wide = {"full": full, "tied": full[[0, 0]], "diag": full * np.eye(3), "spherical": full[:, :1, :1] * np.eye(3)}[
        form
    ]
    params = MultivariateStudentTParams(jnp.array(m), jnp.array(scatters[form]), jnp.array([0.5, 0.05]))
    found = jax.jit(log_density)(MultivariateStudentT(form), params, jnp.array(x))
    for k, nu in enumerate([2, 20]):
        np.testing.assert_allclose(found[:, k], stats.multivariate_t.logpdf(x, m[k], wide[k], nu), rtol=1e-12)
    normal = jax.jit(log_density)(MultivariateNormal(form), MultivariateNormalParams(*params[:2]), jnp.array(x))
    edge = jax.jit(log_density)(MultivariateStudentT(form, math.inf), params._replace(tails=None), jnp.array(x))
    np.testing.assert_allclose(edge, normal, rtol=1e-13)


def test_the_derivative_at_the_edge():
    """In tau at 0, h(z) = (z^2 - 2 z - 1) / 4 in one dimension: it says whether the objective rises into the space."""
    x = jnp.linspace(-4, 4, 9)
    params = StudentTParams(jnp.zeros(1), jnp.ones(1), jnp.zeros(1))
    slope = jax.jit(jax.jacfwd(lambda p: log_density(StudentT(), p, x)))(params).tails[:, 0, 0]
    np.testing.assert_allclose(slope, (x**4 - 2 * x**2 - 1) / 4, atol=1e-13)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(
            MultivariateStudentT(), "products", marks=pytest.mark.everything
        ),  # enough rows for matrix products
        pytest.param(MultivariateStudentT("tied", "tied"), "weighted", marks=pytest.mark.everything),
        pytest.param(MultivariateStudentT("spherical", 3), "plain", marks=pytest.mark.everything),
        pytest.param(MultivariateStudentT("diag"), "chain", marks=pytest.mark.everything),
    ],
    ids=str,
)
def test_laws(family, kind):
    x = datasets.old_faithful().astype(np.float32 if kind == "products" else float)
    x = np.concatenate([x, x[:, ::-1] * [0.05, 20]]).astype(x.dtype) if kind == "products" else x
    weights = np.random.default_rng(2).integers(0, 3, len(x)).astype(x.dtype)
    data: Any = Dataset(x, weights=weights) if kind == "weighted" else x.reshape(8, 34, 2) if kind == "chain" else x
    model = (HMM if kind == "chain" else Mixture)(family, 2)
    start = model.init(jax.random.key(0), data)
    end = jaxem.fit(model, start, data, max_steps=40)
    for point in (start, end.params):
        certificate = jaxem.verify(model, point, data)
        assert certificate.ok, certificate


@register
@dataclasses.dataclass(frozen=True)
class Wrong:
    """A family that is wrong in one place, by the amounts: zeros where it is right."""

    family: Any = dataclasses.field(metadata={"static": True})
    amounts: Any

    def __getattr__(self, name):
        return getattr(self.family, name)

    def complete(self, c, u, x):
        return self.family.complete(c, u._replace(gaps=u.gaps * (1 + self.amounts["E log u in Q"])), x)

    def hidden_entropy(self, c, u, x):
        return self.family.hidden_entropy(c, u, x) * (1 - self.amounts["entropy of u left out"])

    def hidden(self, c, x):
        u = self.family.hidden(c, x)
        return u._replace(means=u.means * (1 - self.amounts["weights of the E-step"]))

    def maximize(self, c, sums):
        p = self.family.maximize(c, sums)
        if c is None:
            return p
        tails = p.tails * (c.tails / p.tails) ** (2 * self.amounts["degrees of freedom the other way"])
        squares = p.squared_scales * (sums.sizes / sums.scales) ** self.amounts["scatter divided by the weights"]
        return p._replace(tails=tails, squared_scales=squares)


MUTANTS = {
    "": 0.0,
    "E log u in Q": 0.01,
    "entropy of u left out": 1.0,
    "weights of the E-step": 0.01,
    "degrees of freedom the other way": 1.0,
    "scatter divided by the weights": 1.0,  # another algorithm (Kent, Tyler & Vardi 1994): not the maximiser of Q
}


@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.everything)])
def test_the_laws_catch_what_is_wrong(precision):
    x = as_dtype(draw(), jnp.dtype(precision))
    right = Mixture(StudentT(), 2)
    params = right.init(jax.random.key(0), x)
    for name, amount in MUTANTS.items():
        amounts = {one: as_dtype(amount if one == name else 0.0, jnp.dtype(precision)) for one in MUTANTS if one}
        assert jaxem.verify(Mixture(Wrong(StudentT(), amounts), 2), params, x).ok == (name == ""), name


@pytest.mark.slow
def test_the_optimum_is_that_of_a_direct_search_and_errors_are_those_of_its_hessian():
    x = jnp.asarray(draw())
    model = Mixture(StudentT(), 2)
    start = model.init(jax.random.key(0), x)
    fit = jaxem.check(jaxem.fit(model, start, x, algorithm=jaxem.SQUAREM(), tol=1e-13, max_steps=2000))
    order = jnp.argsort(fit.params.components.locations)
    best = model.permute(fit.params, order)

    def minus(v):  # w, m, s, tau
        of = lambda k: jax.scipy.stats.t.logpdf(x, 1 / v[5 + k], v[1 + k], jnp.sqrt(v[3 + k]))
        return -jnp.logaddexp(jnp.log(v[0]) + of(0), jnp.log1p(-v[0]) + of(1)).sum()

    link = lambda u: jnp.concatenate([jax.nn.sigmoid(u[:1]), u[1:3], jnp.exp(u[3:])])
    direct = jax.jit(jax.value_and_grad(lambda u: minus(link(u))))
    search = optimize.minimize(
        lambda u: tuple(map(np.asarray, direct(u))),
        [0.0, 0.0, 6.0, 0.0, 1.0, -2.0, -2.0],
        jac=True,
        method="BFGS",
        options={"gtol": 1e-8},
    )
    assert float(fit.objective) == pytest.approx(-search.fun, rel=1e-11)
    w, (m, s, tau) = best.weights, best.components
    found = jnp.concatenate([w[:1], m, s, tau])
    np.testing.assert_allclose(found, link(jnp.asarray(search.x)), rtol=1e-5)
    wanted = np.sqrt(np.diag(np.linalg.inv(jax.jit(jax.hessian(minus))(found))))
    e = jaxem.inference.standard_errors(model, best, x)
    errors = jnp.concatenate([e.weights[:1], *e.components])
    np.testing.assert_allclose(errors, wanted, rtol=1e-6)


@pytest.mark.slow
def test_one_class_is_the_fit_of_scipy():
    x = np.random.default_rng(3).standard_t(3, 200) * 2 + 1
    model = Mixture(StudentT(), 1)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, algorithm=jaxem.SQUAREM(), tol=1e-12)
    to_the_end = lambda f, x0, args, disp: optimize.fmin(f, x0, args, xtol=1e-9, ftol=1e-13, disp=False)
    nu, m, s = stats.t.fit(x, 4, optimizer=to_the_end)
    c = fit.params.components
    # The search ends where its objective of 470 changes by 1e-13, the fit with 1e-12 for each of 200 left: by the root
    # of twice that, 2e-5 standard errors at most, each of them a tenth to a third of the parameter.
    found = [1 / c.tails[0], c.locations[0], np.sqrt(c.squared_scales[0])]
    np.testing.assert_allclose(found, [nu, m, s], rtol=7e-6)
    assert float(fit.objective) == pytest.approx(stats.t.logpdf(x, nu, m, s).sum(), abs=2e-10)


@pytest.mark.slow
def test_outliers_do_not_move_the_classes():
    """5 % of the observations lie anywhere within 50 standard deviations."""
    rng = np.random.default_rng(4)
    z = rng.random(400) < 0.5
    x = np.where(rng.random(400) < 0.05, rng.uniform(-50, 50, 400), np.where(z, 0.0, 6.0) + rng.normal(size=400))
    start = np.where(x < 3, 0, 1)
    found = {}
    for family in (Normal(), StudentT("tied")):
        model = Mixture(family, 2)
        fit = jaxem.fit(model, model.init(jax.random.key(0), x, start=start), x, max_steps=3000)
        found[type(family).__name__] = fit.params
    assert np.abs(np.sort(found["Normal"].components.means) - [0, 6]).max() > 1
    weights, (locations, squared, tail) = found["StudentT"]
    information = 400 * weights / squared * (1 + tail) / (1 + 3 * tail)  # (nu + 1) / (nu + 3), of the locations
    assert_within(locations, [0, 6], 3 / np.sqrt(information))


@pytest.mark.slow
def test_samples_have_the_variances_and_the_given_degrees_of_freedom(dtype):
    family = StudentT(8)
    params = as_dtype(StudentTParams(np.array([0.0, 5.0]), np.array([1.0, 4.0])), dtype)
    labels = jnp.repeat(jnp.arange(2), 20_000)
    sample = lambda family: jax.jit(family.sample)
    x = np.asarray(sample(family)(jax.random.key(0), params, labels), float).reshape(2, -1)
    for k in range(2):
        assert stats.kstest((x[k] - [0, 5][k]) / [1, 2][k], stats.t(8).cdf).pvalue > 1e-3
    # The kurtosis of t(8) is 4.5: a variance of 20,000 draws has a standard error of sqrt(3.5 / 20,000) = 1.3 %.
    np.testing.assert_allclose(x.var(axis=1), family.variances(params), rtol=4 * 0.0132)
    multivariate = MultivariateStudentT("tied", 8)
    wide = as_dtype(MultivariateStudentTParams(np.zeros((2, 2)), np.array([[1.0, 0.5], [0.5, 2.0]])), dtype)
    y = np.asarray(sample(multivariate)(jax.random.key(1), wide, labels), float)
    # Of 40,000 with the excess kurtosis 3 * 0.5 of t(8) in each direction (Muirhead 1982, section 1.6).
    c = np.asarray(multivariate.covariances(wide), float)
    product = np.outer(np.diag(c), np.diag(c))
    assert_within(np.cov(y.T), c, 4 * np.sqrt((product + c**2 + 0.5 * (product + 2 * c**2)) / 40_000))


def test_what_is_refused():
    for wrong in ("fixed", 0, -1.0, True, None):
        with pytest.raises(ValueError, match="freedom must be"):
            StudentT(wrong)
    with pytest.raises(ValueError, match="covariance must be"):
        MultivariateStudentT("round")


@pytest.mark.slow
def test_missing_numbers_and_infinite_deviations(dtype):
    x = draw()
    holes = jaxem.dataset(as_dtype(np.where(np.arange(300) % 7 == 0, np.nan, x), dtype), missing="nan")
    model = Mixture(StudentT(), 2)
    params = MixtureParams(np.array([0.4, 0.6]), StudentTParams(np.array([0.0, 6.0]), np.ones(2), np.full(2, 0.2)))
    params = as_dtype(params, dtype)
    left = as_dtype(x[np.arange(300) % 7 != 0], dtype)
    assert_within(model.log_likelihood(params, holes), model.log_likelihood(params, left), 300 * 8 * eps(dtype))
    far = as_dtype(np.array([1e30]), dtype)
    tail = StudentTParams(*as_dtype((np.zeros(1), np.full(1, 1e-10), np.full(1, 0.5)), dtype))
    value, slope = jax.jit(jax.value_and_grad(lambda p: log_density(StudentT(), p, far)[0, 0]))(tail)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, slope)))
    normal = NormalParams(*tail[:2])
    assert float(value) > float(log_density(Normal(), normal, far)[0, 0])
