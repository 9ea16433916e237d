"""Gates: constant weights with a prior, and the multinomial logit of covariates, in mixtures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from closeness import assert_within, eps
from scipy import optimize, special, stats

import jaxem
from jaxem import Dataset, datasets
from jaxem.core.spaces import ZeroSum
from jaxem.families import Categorical, Normal, NormalParams, Poisson, Regression
from jaxem.gates import Constant, Softmax, SoftmaxParams
from jaxem.models import Component, Mixture, MixtureParams

RNG = np.random.default_rng(0)
U = RNG.normal(size=150)
Y = RNG.normal(np.where(RNG.random(150) < special.expit(1.5 * U - 0.5), 3.0, 0.0))
EXPERTS = Mixture(Normal(), 2, gate=Softmax())
START = MixtureParams(SoftmaxParams(jnp.zeros((2, 2))), NormalParams(jnp.array([0.0, 3.0]), jnp.array([1.0, 1.0])))


def contrast(params):
    """The coefficients of each class relative to the first."""
    b = np.asarray(params.weights.coefficients)
    return b[1:] - b[:1]


# Statistics and steps


@pytest.mark.slow
def test_score_and_information_are_the_derivatives_of_q():
    """By automatic differentiation of sum r log p, for many gates at once and covariates of any units."""
    gate, k = Softmax(), 3
    u = jnp.asarray(RNG.normal(size=(40, 2)) * [1e-6, 10.0] + [0.0, 2000.0])
    r = jnp.asarray(RNG.dirichlet(np.ones(k), (2, 40))) * jnp.asarray(RNG.integers(0, 3, 40) + 0.0)[None, :, None]
    c = SoftmaxParams(jnp.asarray(RNG.normal(size=(2, k, 3)) * [1.0, 1e5, 1e-4]))
    c = SoftmaxParams(c.coefficients - c.coefficients.mean(axis=1, keepdims=True))
    x = Dataset(jnp.zeros(40), given=u)
    space = ZeroSum()

    def of_one(c, r):
        exact = lambda free: (r * gate.log_prob(SoftmaxParams(space.forward(free)), x)).sum()
        sums = gate.statistics(c, r, x)
        model = lambda free: gate.expected(c, SoftmaxParams(space.forward(free)), sums)
        free = space.inverse(c.coefficients)
        step = space.inverse(gate.maximize(c, sums).coefficients) - free
        return [jax.grad(f)(free) for f in (exact, model)], [jax.hessian(f)(free) for f in (exact, model)], step

    slopes, curvatures, step = jax.jit(jax.vmap(of_one))(c, r)
    size = np.sqrt(np.abs(np.asarray(jnp.einsum("gapap->gap", curvatures[0]))))
    assert_within(slopes[0], slopes[1], 1e-12 * size * 10)
    assert_within(curvatures[0], curvatures[1], 1e-12 * size[:, :, :, None, None] * size[:, None, None, :, :])
    # The step is Newton's, to the ridge and the condition of the covariates, (2000 / 10)^2.
    wanted = [
        np.linalg.solve(-h.reshape(6, 6), s.ravel())
        for h, s in zip(*map(np.asarray, (curvatures[0], slopes[0])), strict=True)
    ]
    whitened = np.abs(np.asarray(step).reshape(2, 6) - wanted) * size.reshape(2, 6)
    short = np.abs(wanted * size.reshape(2, 6)).max()
    assert whitened.max() < 1e-6 * short


def test_the_start_has_the_sizes_of_the_classes():
    x = Dataset(jnp.zeros(5), given=jnp.ones((5, 2)))
    params = Softmax().start(jnp.array([2.0, 3.0, 5.0]), x)
    assert_within(jnp.exp(Softmax().log_prob(params, x)), np.tile([0.2, 0.3, 0.5], (5, 1)), 1e-15)
    assert_within(params.coefficients.sum(axis=0), np.zeros(3), 1e-15)
    none = Softmax(intercept=False).start(jnp.array([2.0, 3.0]), x).coefficients
    assert none.shape == (2, 2) and not none.any()


# Maxima


def log_likelihood(v):
    """Of the two experts in numpy; v: gate of class 1 relative to class 0, means, logarithms of variances."""
    w = special.expit(v[0] + v[1] * U)
    normal = [stats.norm.pdf(Y, v[2 + k], np.exp(v[4 + k] / 2)) for k in range(2)]
    return np.log((1 - w) * normal[0] + w * normal[1]).sum()


@pytest.mark.slow
def test_experts_end_at_the_maximum():
    """Against a direct search; the errors are those of its Hessian; algorithms agree."""
    data = jaxem.dataset(Y, given=U)
    fit = jaxem.check(jaxem.fit(EXPERTS, START, data, tol=1e-14, max_steps=2000))
    v = np.r_[
        contrast(fit.params)[0],
        *map(np.asarray, (fit.params.components.means, np.log(fit.params.components.variances))),
    ]
    found = optimize.minimize(lambda v: -log_likelihood(v), v + 0.02, method="BFGS", options={"gtol": 1e-6})
    assert_within(fit.objective, -found.fun, 1e-8)
    assert_within(v, found.x, 1e-4)
    spread = jaxem.inference.covariance(EXPERTS, fit, data)
    h = 1e-3 * np.eye(6)
    curved = [[log_likelihood(v + i + j) - log_likelihood(v + i - j) for j in h] for i in np.concatenate([h, -h])]
    hessian = (np.array(curved[:6]) - np.array(curved[6:])) / (4 * 1e-3**2)
    wanted = np.linalg.inv(-hessian)
    gate = np.array([[-1, 0, 1, 0], [0, -1, 0, 1.0]])  # of the four coefficients, the contrast of the classes
    assert_within(gate @ np.asarray(spread)[:4, :4] @ gate.T, wanted[:2, :2], 1e-3 * np.abs(wanted[:2, :2]).max())
    faster = jaxem.check(jaxem.fit(EXPERTS, START, data, algorithm=jaxem.SQUAREM(), tol=1e-14))
    assert_within(faster.objective, fit.objective, 1e-9)
    profile = jaxem.inference.profile(EXPERTS, fit, data)
    assert_within(profile.sizes[1], special.expit(v[0] + v[1] * U).mean(), 1e-6)


def test_election_with_party_as_covariate():
    """The log-likelihood and the coefficients of poLCA; then also the rows in which answers are missing."""
    table = datasets.election()
    y, party = np.stack(list(table.values())[:12], axis=1) - 1, table["party"]
    whole = ~np.isnan(y).any(axis=1) & ~np.isnan(party)
    model, data = Mixture(Categorical((4,) * 12), 3, gate=Softmax()), jaxem.dataset(y[whole], given=party[whole])
    assert whole.sum() == 1300
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data), data, tol=1e-12))
    assert_within(fit.objective, -16222.32335, 1e-5)  # poLCA prints -16222.32
    b = np.asarray(fit.params.weights.coefficients)
    b = b[np.argsort(b[:, 1])]
    # poLCA stops early: its manual prints these.
    assert_within(b - b[1], [[1.16155, -0.57436], [0, 0], [-3.81813, 0.79327]], 5e-4)

    known = ~np.isnan(party) & ~np.isnan(y).all(axis=1)
    everyone = jaxem.dataset(y[known], given=party[known], missing="nan")
    more = jaxem.check(jaxem.fit(model, fit.params, everyone, tol=1e-14))
    params = jax.tree.map(np.asarray, more.params)
    log_w = special.log_softmax(np.c_[np.ones(known.sum()), party[known]] @ params.weights.coefficients.T, axis=1)
    seen, code = ~np.isnan(y[known]), np.nan_to_num(y[known]).astype(int)
    with np.errstate(divide="ignore"):
        each = [
            np.where(s[:, None], np.log(p.T[c]), 0)
            for s, c, p in zip(seen.T, code.T, params.components[0], strict=True)
        ]
    assert_within(more.objective, special.logsumexp(log_w + sum(each), axis=1).sum(), 1e-8)
    slope = jax.jit(jax.grad(lambda gate: model.log_likelihood(more.params._replace(weights=gate), everyone)))(
        more.params.weights
    )
    assert np.abs(ZeroSum().inverse(slope.coefficients)).max() < 1e-3  # beside an information of hundreds


def test_patents_by_spending():
    """The log-likelihood of flexmix: Poisson regressions, and classes that depend on the share of sales."""
    table = datasets.patents()
    data = jaxem.dataset(table["patents"], given={"rds": table["rds"], "lgrd": table["lgrd"]})
    model = Mixture(Regression(Poisson(), on="lgrd"), 3, gate=Softmax(on="rds"))
    best = jaxem.fit_restarts(model, data, key=jax.random.key(0), restarts=6, tol=1e-12).best
    assert_within(best.objective, -197.6750, 5e-5)
    b = np.sort(np.asarray(best.params.weights.coefficients)[:, 1])
    assert 39 < b[1] - b[0] < 42  # "about 40"
    drawn = model.sample_like(jax.random.key(1), best, data)
    assert drawn.values.shape == (70,) and (drawn.given["rds"] == data.given["rds"]).all()


# Separated classes and other covariates that are hard


def separated(name, dtype):
    """The data, and the class of each row to start from."""
    rng = np.random.default_rng(5)
    u = rng.normal(size=200)
    z, apart = (u > 0.1).astype(int), 20.0 if name == "far apart" else 3.0
    if name == "three classes":
        u, apart = rng.normal(size=(200, 2)) * [1e3, 1e-3], 5.0
        z = np.digitize(u[:, 0], [-500, 800])
    elif name == "dependent":
        z = (rng.random(200) < special.expit(u)).astype(int)
        u, apart = np.c_[u, 2 * u, np.full(200, 1e-3 / 7)], 6.0
    return jaxem.dataset(rng.normal(apart * z).astype(dtype), given=u.astype(dtype)), z


@pytest.mark.parametrize("name", ["far apart", "overlapping", "three classes", "dependent"])
@pytest.mark.slow
def test_a_separated_gate_ends(name, dtype):
    """With finite parameters, converged, and few steps refused; the probabilities are as good as 0 and 1."""
    data, labels = separated(name, dtype)
    model = Mixture(Normal(), int(labels.max()) + 1, gate=Softmax())
    fit = jaxem.fit(model, model.init(jax.random.key(0), data, labels), data)
    assert int(fit.status) == jaxem.Status.CONVERGED, name
    assert (
        int(fit.steps) < 100 and int(fit.fallbacks) < 30 and bool(jnp.isfinite(fit.params.weights.coefficients).all())
    )
    if name == "dependent":  # what the data cannot tell apart stays near zero
        assert np.abs(fit.params.weights.coefficients).max() < 1
    if name == "far apart":  # L is that of two separate normals
        y, z = np.asarray(data.values, float), np.asarray(data.given) > 0.1
        wanted = sum(stats.norm.logpdf(part, part.mean(), part.std()).sum() for part in (y[z], y[~z]))
        assert_within(fit.objective, wanted, 32 * eps(dtype) * 200 + 1e-8)


def test_units_of_covariates_do_not_matter(dtype):
    """The year as a covariate, in 32 bits too."""
    found = []
    for scale, offset in ((1, 0), (8, 2048), (1e-9, 0)):
        data = jaxem.dataset(Y.astype(dtype), given=(scale * np.round(8 * U) / 8 + offset).astype(dtype))
        start = jax.tree.map(lambda leaf: leaf.astype(dtype), START)
        fit = jaxem.fit(EXPERTS, start, data)
        found.append((float(fit.objective), contrast(fit.params)[0, 1] * scale))
    assert_within(found[1:], found[:1] * 2, [[64 * eps(dtype) * 300, 3e-2 if dtype == np.float32 else 1e-5]] * 2)


# Constant


@pytest.mark.slow
def test_a_dirichlet_prior_of_the_weights():
    a = np.array([3.0, 1.5])
    gate, w = Constant(prior=a), jnp.array([0.3, 0.7])
    assert_within(gate.log_prior(w), stats.dirichlet.logpdf(np.asarray(w), a), 1e-14)
    assert_within(gate.maximize(w, jnp.array([7.0, 0.0])), [9 / 9.5, 0.5 / 9.5], 1e-15)
    model = Mixture(Normal(), 2, gate=Constant(prior=2.0))
    plain, x, _ = (case("normal mixture", "float64")[i] for i in (1, 2, 2))
    certificate = jaxem.verify(model, plain, x)
    assert not certificate.violated, certificate
    fit = jaxem.check(jaxem.fit(model, plain, x, tol=1e-13))
    slope = jax.jit(
        jax.grad(
            lambda w: (
                model.log_likelihood(fit.params._replace(weights=w), x)
                + model.log_prior(fit.params._replace(weights=w))
            )
        )
    )
    assert_within(np.diff(slope(fit.params.weights))[0], 0, 1e-4)
    for prior in (0.5, [1.0, np.nan], np.inf):
        with pytest.raises(ValueError, match="Constant: prior must be finite numbers of at least 1"):
            Constant(prior=prior)


# Draws, refusals


def test_draws_follow_the_gate():
    u = np.repeat([-1.0, 0.0, 2.0], 4000)
    truth = MixtureParams(
        SoftmaxParams(jnp.array([[0.4, -0.8], [-0.4, 0.8]])), NormalParams(jnp.array([0.0, 50.0]), jnp.ones(2))
    )
    drawn = EXPERTS.sample_like(jax.random.key(2), truth, jaxem.dataset(np.zeros(12000), given=u))
    share = (np.asarray(drawn.values).reshape(3, 4000) > 25).mean(axis=1)
    p = special.expit(-0.8 + 1.6 * np.array([-1.0, 0.0, 2.0]))
    assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / 4000)).all()
    assert (drawn.given == u).all()


def test_refusals_are_by_name():
    data = jaxem.dataset(Y, given=U)
    with pytest.raises(ValueError, match="gate Softmax needs covariates"):
        EXPERTS.init(jax.random.key(0), Y)
    with pytest.raises(ValueError, match="draws depend on covariates; use sample_like"):
        EXPERTS.sample(jax.random.key(0), START, 5)
    with pytest.raises(ValueError, match=r"named 'age'; given is \['u'\]"):
        Mixture(Normal(), 2, gate=Softmax(on="age")).init(jax.random.key(0), jaxem.dataset(Y, given={"u": U}))
    with pytest.raises(ValueError, match="given is a dict, so say which"):
        EXPERTS.init(jax.random.key(0), jaxem.dataset(Y, given={"u": U}))
    with pytest.raises(ValueError, match=r"coefficients of shape \(2, 3\)"):
        jaxem.fit(EXPERTS, START, jaxem.dataset(Y, given=np.c_[U, U**2]))
    with pytest.raises(ValueError, match="on must be the name"):
        Softmax(on=3)
    with pytest.raises(ValueError, match="gate, such as Softmax"):
        Mixture(Normal(), 2, gate=3)
    with pytest.raises(ValueError, match=r"needs an M-step that maximises Q.*weights.coefficients"):
        jaxem.fit(EXPERTS, START, data, algorithm=jaxem.IncrementalEM())
    with pytest.raises(ValueError, match="has no covariates"):
        Mixture(Normal(), 2).init(jax.random.key(0), data)


@pytest.mark.slow
def test_several_covariates_by_name_and_a_gate_within_a_component():
    given = {"a": U, "b": np.c_[U**2, np.cos(U)]}
    data = jaxem.dataset(Y, given=given)
    named = Mixture(Normal(), 2, gate=Softmax(on=("a", "b")))
    params = MixtureParams(
        SoftmaxParams(jnp.asarray(np.c_[[0.1, -0.1], [1, -1], [0.5, -0.5], [2, -2]])), START.components
    )
    together = jaxem.dataset(Y, given=np.c_[given["a"], given["b"]])
    assert_within(named.log_likelihood(params, data), EXPERTS.log_likelihood(params, together), 1e-12)
    nested = Mixture(Component(EXPERTS), 1)
    lifted = MixtureParams(jnp.ones(1), jax.tree.map(lambda leaf: leaf[None], START))
    data = jaxem.dataset(Y, given=U)
    assert_within(nested.log_likelihood(lifted, data), EXPERTS.log_likelihood(START, data), 1e-12)
    one, other = (
        jaxem.EM().step(m, jaxem.EM().init(m, p, data, None), data) for m, p in ((nested, lifted), (EXPERTS, START))
    )
    assert_within(one.params.components.weights.coefficients[0], other.params.weights.coefficients, 1e-12)


# Mutants


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Changed(Softmax):
    """``Softmax`` with a fault."""

    fault: str = ""

    def statistics(self, c, r, x):
        sums = super().statistics(c, r, x)
        if self.fault == "score of the wrong sign":
            return sums._replace(score=-sums.score)
        u = jnp.ones((3, 3)) * r[0].sum()
        return sums._replace(pairs=sums.pairs - 0.1 * u[None, : sums.pairs.shape[1], : sums.pairs.shape[2]])


FAULTS = {"score of the wrong sign": "slope from sums", "information without a row": "additivity"}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_laws_see_a_fault(fault):
    model = Mixture(Normal(), 2, gate=Changed(fault=fault))
    assert FAULTS[fault] in jaxem.verify(model, START, jaxem.dataset(Y[:40], given=U[:40])).violated
