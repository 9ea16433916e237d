"""Standard errors and intervals: closed forms, spaces, the sandwich, and coverage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within
from jax.flatten_util import ravel_pytree

import jaxem
from jaxem import Dataset
from jaxem.families import (
    Categorical,
    CategoricalParams,
    MultivariateNormal,
    MultivariateNormalParams,
    Normal,
    NormalParams,
    Poisson,
    PoissonParams,
)
from jaxem.models import Mixture, MixtureParams

Z = 1.959963984540054


def one_class(components):
    return MixtureParams(jnp.ones(1), components)


@functools.cache
def normal_in_the_plane():
    """One normal class at its maximum: every figure of it is known in closed form."""
    x = np.random.default_rng(0).multivariate_normal([1.0, -2.0], [[2.0, 0.9], [0.9, 1.0]], 80)
    y = x - x.mean(axis=0)
    S = y.T @ y / 80
    params = one_class(MultivariateNormalParams(jnp.asarray(x.mean(axis=0))[None], jnp.asarray(S)[None]))
    return Mixture(MultivariateNormal("full"), 1), params, jnp.asarray(x), S


@pytest.mark.slow
def test_a_normal_covariance_matrix_in_closed_form():
    """Cov(mean) = S / N, Cov(S_ij, S_kl) = (S_ik S_jl + S_il S_jk) / N; nothing for the one weight."""
    model, params, x, S = normal_in_the_plane()
    found = np.asarray(jaxem.inference.covariance(model, params, x))
    index = [(0, 0), (0, 1), (1, 0), (1, 1)]
    wishart = [[(S[i, k] * S[j, m] + S[i, m] * S[j, k]) / 80 for k, m in index] for i, j in index]
    wanted = np.zeros((7, 7))
    wanted[1:3, 1:3], wanted[3:, 3:] = S / 80, wishart
    np.testing.assert_allclose(found, wanted, atol=1e-13)
    errors = jaxem.inference.standard_errors(model, params, x)
    assert jax.tree.structure(errors) == jax.tree.structure(params)
    np.testing.assert_allclose(ravel_pytree(errors)[0], np.sqrt(np.diagonal(wanted)), atol=1e-13)
    lower, upper = jaxem.inference.confidence_intervals(model, params, x)
    assert_within((lower.weights, upper.weights), [[1.0], [1.0]], 0)
    assert_within(upper.components.means[0], x.mean(axis=0) + Z * np.sqrt(np.diagonal(S) / 80), 1e-12)
    factor = np.exp(Z * np.sqrt(2 / 80))  # of a variance, on the log scale
    assert_within(jnp.diagonal(lower.components.covariances[0]), np.diagonal(S) / factor, 1e-12)
    assert_within(jnp.diagonal(upper.components.covariances[0]), np.diagonal(S) * factor, 1e-12)
    half = Z * np.sqrt((S[0, 0] * S[1, 1] + S[0, 1] ** 2) / 80)
    assert_within(lower.components.covariances[0, 0, 1], S[0, 1] - half, 1e-12)


@pytest.mark.slow
def test_shares_have_a_singular_covariance():
    """One class of one categorical variable: (diag p - p p') / N, of rank 2, and intervals by the logit."""
    counts = np.array([2.0, 30.0, 68.0])
    x = Dataset(jnp.arange(3.0)[:, None], weights=jnp.asarray(counts))  # weights are frequencies
    p = counts / 100
    model = Mixture(Categorical((3,)), 1)
    params = one_class(CategoricalParams((jnp.asarray(p)[None],)))
    found = np.asarray(jaxem.inference.covariance(model, params, x))[1:, 1:]
    np.testing.assert_allclose(found, (np.diag(p) - np.outer(p, p)) / 100, atol=1e-15)
    assert np.linalg.matrix_rank(found) == 2
    lower, upper = (
        ends.components.probabilities[0][0] for ends in jaxem.inference.confidence_intervals(model, params, x)
    )
    logit, half = np.log(p / (1 - p)), Z / np.sqrt(100 * p * (1 - p))
    np.testing.assert_allclose(lower, 1 / (1 + np.exp(half - logit)), rtol=1e-12)
    np.testing.assert_allclose(upper, 1 / (1 + np.exp(-half - logit)), rtol=1e-12)


@pytest.mark.slow
def test_other_units_change_nothing_but_the_units():
    model, params, x, _ = normal_in_the_plane()
    units = jnp.asarray([1e-6, 1e5])
    covariances = params.components.covariances * (units[:, None] * units[None, :])[None]
    other = one_class(MultivariateNormalParams(params.components.means * units[None], covariances))
    plain, scaled = (jaxem.inference.standard_errors(model, p, y) for p, y in ((params, x), (other, x * units[None])))
    np.testing.assert_allclose(scaled.components.means, plain.components.means * units[None], rtol=1e-9)
    wanted = plain.components.covariances * (units[:, None] * units[None, :])[None]
    np.testing.assert_allclose(scaled.components.covariances, wanted, rtol=1e-9)


def poisson(x):
    return one_class(PoissonParams(jnp.asarray(np.average(*x) if isinstance(x, tuple) else np.mean(x))[None]))


@pytest.mark.slow
def test_the_sandwich_in_closed_form():
    """A Poisson mean: the information says mean / N; the sandwich, with nothing assumed, variance / N."""
    x = np.random.default_rng(0).negative_binomial(2, 0.3, 60).astype(float)
    model, params = Mixture(Poisson(), 1), poisson(x)
    rate = lambda errors: float(errors.components.rates[0]) ** 2
    assert_within(rate(jaxem.inference.standard_errors(model, params, x)), x.mean() / 60, 1e-12)
    assert_within(rate(jaxem.inference.standard_errors(model, params, x, robust=True)), x.var() / 60, 1e-12)
    # Clusters: the totals of pairs. As many labels as observations are no clusters at all.
    labels = np.repeat(["a", *map(str, range(1, 30))], 2)
    totals = (x - x.mean()).reshape(30, 2).sum(axis=1)
    assert_within(
        rate(jaxem.inference.standard_errors(model, params, x, clusters=labels)), (totals**2).sum() / 60**2, 1e-12
    )
    assert_within(rate(jaxem.inference.standard_errors(model, params, x, clusters=np.arange(60))), x.var() / 60, 1e-12)
    # A weight of w is w observations, and a weight of 0 is none, whatever stands there.
    values, counts = np.unique(x, return_counts=True)
    weighted = Dataset(jnp.asarray(np.append(values, np.nan)), weights=jnp.asarray(np.append(counts, 0), float))
    assert_within(rate(jaxem.inference.standard_errors(model, params, weighted, robust=True)), x.var() / 60, 1e-12)
    with pytest.raises(ValueError, match="60 labels"):
        jaxem.inference.covariance(model, params, x, clusters=np.zeros(3))
    with pytest.raises(ValueError, match="one cluster"):
        jaxem.inference.covariance(model, params, x, clusters=np.zeros(60))


@pytest.mark.parametrize(
    ("rows", "weights", "clusters", "message"),
    [
        ([3.0, 1.0, 2.0, 5.0], [0.0, 4.0, 0.0, 0.0], None, "only one observation has weight"),
        ([3.0, 1.0, 2.0, 5.0], [1.0, 1.0, 0.0, 0.0], [0, 0, 1, 2], "only one cluster has weight"),
        ([2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 3.0, 1.0], None, r"do not differ along log components\.rates\[0\]"),
        ([2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 3.0, 1.0], [0, 1, 1, 2], "do not differ"),
        ([1.0, 3.0, 3.0, 1.0], [1.0] * 4, [0, 0, 1, 1], "do not differ"),  # the totals are equal
    ],
)
@pytest.mark.slow
def test_a_sandwich_of_nothing_is_refused(rows, weights, clusters, message):
    """What resampling could not move has no robust error, and never one of zero."""
    data = Dataset(jnp.asarray(rows), weights=jnp.asarray(weights))
    model, params = Mixture(Poisson(), 1), poisson(np.average(rows, weights=weights))
    how = {"robust": True} if clusters is None else {"clusters": np.asarray(clusters, np.int32)}
    for function in (jaxem.inference.covariance, jaxem.inference.standard_errors, jaxem.inference.confidence_intervals):
        with pytest.raises(ValueError, match=message) as caught:
            function(model, params, data, **how)
        assert "kind='parametric'" in str(caught.value)
    if clusters is None:
        traced = jax.jit(lambda data: jaxem.inference.standard_errors(model, params, data, **how))(data)
        assert np.isnan(traced.components.rates).all()
    # By the information there is an error: mean / N.
    wanted = np.average(rows, weights=weights) / np.sum(weights)
    assert_within(jaxem.inference.standard_errors(model, params, data).components.rates[0] ** 2, wanted, 1e-12)


@pytest.mark.slow
def test_scores_of_rows_by_fishers_identity():
    """A model without log_prob: the same scores, from one row each; and rows that are no observations are refused."""
    x = np.random.default_rng(0).poisson(3.0, 40).astype(float)
    plain, params = Mixture(Poisson(), 1), poisson(x)
    names = ("e_step", "m_step", "q_function", "log_likelihood", "constraints")
    model = jaxem.Model(**{name: getattr(plain, name) for name in names})
    wanted = jaxem.inference.standard_errors(plain, params, x, robust=True)
    found = jaxem.inference.standard_errors(model, params, x, robust=True)
    assert_within(found.components.rates, wanted.components.rates, 1e-13)
    # x is the first row, and the others are no more of the same
    square = jaxem.Model(
        lambda m, y: m * 0,
        lambda q, y: y[0],
        q_function=lambda m, q, y: -0.5 * (y[0] - m) ** 2,
        log_likelihood=lambda m, y: -0.5 * (y[0] - m) ** 2,
    )
    with pytest.raises(ValueError, match="not independent observations"):
        jaxem.inference.covariance(square, 5.0, jnp.asarray([5.0, 1.0, 2.0]), robust=True)


@pytest.mark.slow
def test_a_prior_in_closed_form():
    """N(m, 1) with prior N(0, 1 / 9): I = N + 9; the scores add up to 9 m, not to zero, and are centred."""
    y = jnp.asarray(np.random.default_rng(0).normal(2, 3, 30))
    model = jaxem.from_log_joint(lambda m, y: (-0.5 * (y - m) ** 2)[None], log_prior=lambda m: -4.5 * m**2)
    m = y.sum() / 39
    for route in ("hessian", "oakes"):
        assert_within(jaxem.inference.standard_errors(model, m, y, route=route), 39**-0.5, 1e-12)
    assert_within(jaxem.inference.standard_errors(model, m, y, robust=True), np.sqrt(30 * y.var()) / 39, 1e-12)


@pytest.mark.slow
def test_profile_likelihood_against_a_closed_form():
    """A Poisson mean: 2 N (m log(m / r) - m + r) = z^2, whatever function of it is asked for."""
    x = np.array([1.0, 0.0, 2.0, 4.0, 1.0, 1.0])
    model, params, m = Mixture(Poisson(), 1), poisson(x), x.mean()
    fall = lambda r: 12 * (m * np.log(m / r) - m + r)
    rate, cube = (lambda p: p.components.rates[0]), (lambda p: p.components.rates[0] ** 3)
    for function, back in ((rate, float), (cube, np.cbrt)):
        interval = jaxem.inference.profile_interval(model, params, x, function)
        assert interval.lower < m < interval.upper
        for end in interval:
            assert_within(fall(back(end)), Z**2, 1e-6)
    with pytest.raises(ValueError, match="one number"):
        jaxem.inference.profile_interval(model, params, x, lambda p: p.components.rates)
    with pytest.raises(ValueError, match="does not depend"):
        jaxem.inference.profile_interval(model, params, x, lambda p: 0 * p.components.rates[0])
    with pytest.raises(ValueError, match="level"):
        jaxem.inference.profile_interval(model, params, x, rate, level=95)


def test_a_profile_that_never_falls_so_far_is_refused():
    """A share of two known densities, 4 observations: at a share of 1 the likelihood is hardly lower."""
    density = jnp.asarray([1.0, 0.8])
    model = jaxem.from_log_joint(
        lambda p, y: jnp.stack([jnp.log(p) + jnp.log(density)[y], jnp.log1p(-p) + jnp.log(density)[1 - y]]),
        constraints=jaxem.UnitInterval(),
    )
    y = jnp.asarray([0, 1, 0, 1])
    with pytest.raises(ValueError, match="end was not found"):
        jaxem.inference.profile_interval(model, 0.5, y, lambda p: p)


def test_the_table():
    model, params, x, _ = normal_in_the_plane()
    fit = jaxem.fit(model, params, x, tol=1e-13)
    table = jaxem.summary(model, fit, x, level=0.9)
    assert table.names[0] == "weights[0]" and table.names[-2] == "components.covariances[0, 0, 1]"
    assert len(table.names) == 6  # what a symmetric matrix says twice is said once
    assert table.free == 5
    printed = str(table)
    assert printed.startswith("80 observations, 5 free parameters") and "90 % from" in printed
    assert_within(table.standard_errors[1], np.sqrt(x[:, 0].var() / 80), 1e-12)
    with pytest.raises(ValueError, match="level"):
        jaxem.summary(model, fit, x, level=95)
    with pytest.raises(ValueError, match="jit"):
        jax.jit(lambda fit: jaxem.summary(model, fit, x))(fit)


@pytest.mark.slow
def test_coverage_in_one_program():
    """Two overlapping normal classes, 500 data sets of 200: about 95 of 100 intervals hold the truth."""
    model = Mixture(Normal(), 2)
    truth = MixtureParams(jnp.asarray([0.4, 0.6]), NormalParams(jnp.asarray([0.0, 4.0]), jnp.asarray([1.0, 1.5])))

    @jax.jit
    def covered(keys):
        def one(key):
            x = model.sample(key, truth, 200)
            fit = jaxem.fit(model, truth, x, tol=1e-9, max_steps=200)  # from the truth: labels stay
            lower, upper = jaxem.inference.confidence_intervals(model, fit.params, x)
            return jax.tree.map(lambda a, b, c: (a <= b) & (b <= c), lower, truth, upper), jnp.isnan(lower.weights[0])

        return jax.vmap(one)(keys)

    inside, refused = covered(jax.random.split(jax.random.key(0), 500))
    assert refused.sum() <= 5
    shares = np.concatenate([np.asarray(leaf).mean(axis=0).ravel() for leaf in jax.tree.leaves(inside)])
    # 500 draws of probability 0.95 have a standard deviation of 0.0097; four of those.
    assert (np.abs(shares - 0.95) <= 4 * 0.0097).all(), shares


def test_no_batch_of_matrices_goes_to_lapack_at_once():
    """Intervals of many data sets: large batches, given to LAPACK two at a time on two threads, wait for ever."""
    model = Mixture(Normal(), 2)
    truth = MixtureParams(jnp.asarray([0.4, 0.6]), NormalParams(jnp.asarray([0.0, 4.0]), jnp.asarray([1.0, 1.5])))

    def calls(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("eigh", "cholesky", "triangular_solve"):
                yield equation.primitive.name, equation.invars[0].aval.ndim
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
                if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                    yield from calls(inner)

    of_many = jax.vmap(lambda x: jaxem.inference.confidence_intervals(model, truth, x))
    found = list(calls(jax.make_jaxpr(of_many)(jnp.zeros((3, 10))).jaxpr))
    assert {name for name, _ in found} == {"eigh", "cholesky", "triangular_solve"}
    assert all(ndim == 2 for _, ndim in found), found
