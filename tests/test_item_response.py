"""Item response: published numbers, integrals by another rule, abilities, and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from closeness import assert_within, eps
from scipy import special, stats

import jaxem
from jaxem import datasets
from jaxem.families import ItemResponseParams
from jaxem.gates import Nodes
from jaxem.models import ItemResponse, Mixture, MixtureParams

GRID = np.linspace(-9, 9, 1201)
LOG_WEIGHTS = stats.norm.logpdf(GRID) + np.log(GRID[1] - GRID[0])
LEVELS = (3, 2, 4)
MODEL = ItemResponse("graded", LEVELS)
TRUTH = ItemResponseParams(
    jnp.array([1.2, 0.8, 1.6]), (jnp.array([1.0, -0.5]), jnp.array([0.3]), jnp.array([1.5, 0.2, -1.0]))
)


def answers(n=300):
    x = np.asarray(MODEL.sample(jax.random.key(3), TRUTH, n), float)
    return np.where(np.random.default_rng(1).random(x.shape) < 0.15, np.nan, x)


def table(v, x):
    """log p(x_n | t) + log of the weight of t at the points of the grid, by subtraction of logistic curves."""
    a, b = v[:3], jnp.split(v[3:], np.cumsum([level - 1 for level in LEVELS])[:-1])
    found = jnp.asarray(LOG_WEIGHTS)[None, :]
    for d in range(3):
        curves = jax.nn.sigmoid(a[d] * jnp.asarray(GRID)[:, None] + b[d][None, :])
        ends = jnp.ones((len(GRID), 1))
        log_p = jnp.log(-jnp.diff(jnp.concatenate([ends, curves, 0 * ends], axis=1), axis=1))
        seen = ~np.isnan(x[:, d])
        code = np.where(seen, x[:, d], 0).astype(int)
        found = found + jnp.where(jnp.asarray(seen)[:, None], log_p[:, code].T, 0)
    return found


def flat(params):
    return jnp.concatenate([params.slopes, *params.intercepts])


def test_the_nodes_integrate_polynomials():
    for points in (2, 9, 61, 200):
        log_w = np.asarray(Nodes(points).log_prob((), jnp.zeros(1))[0])
        t = Nodes(points).positions
        assert np.isfinite(log_w).all()
        for order in range(0, min(2 * points, 12), 2):
            assert_within(np.exp(log_w) @ t**order, special.factorial2(order - 1) if order else 1, 1e-12 * 1e4)
            assert_within(np.exp(log_w) @ t ** (order + 1), 0, 1e-12 * 1e4)


def test_lsat_as_published():
    """Bock & Lieberman's data: the two-parameter model as in mirt and ltm, the Rasch model as in mirt."""
    x, counts = datasets.lsat7()
    data = jaxem.dataset(x, weights=counts.astype(float))
    model = ItemResponse("2pl")
    fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), data), data, tol=1e-13))
    assert_within(fit.objective, -2658.805114, 1e-6)
    assert_within(fit.params.slopes, [0.9875, 1.0808, 1.7075, 0.7650, 0.7357], 6e-5)
    assert_within(fit.params.intercepts, [1.8559, 0.8080, 1.8052, 0.4860, 1.8545], 6e-5)
    ordered = ItemResponse("graded", (2,) * 5)
    same = ItemResponseParams(fit.params.slopes, tuple(fit.params.intercepts[:, None]))
    assert_within(ordered.log_likelihood(same, data), fit.objective, 1e-8)
    rasch = ItemResponse("rasch")
    fit = jaxem.check(jaxem.fit(rasch, rasch.init(jax.random.key(0), data), data, tol=1e-13))
    assert_within(fit.objective, -2664.901, 1e-3)


@pytest.mark.slow
def test_graded_items_end_at_the_maximum():
    """Of the likelihood integrated by the trapezoidal rule: one Newton step there moves nothing; errors agree."""
    x = answers()
    data = jaxem.dataset(x, missing="nan")
    fit = jaxem.check(jaxem.fit(MODEL, MODEL.init(jax.random.key(0), data), data, tol=1e-13, max_steps=3000))
    of_grid = lambda v: jax.nn.logsumexp(table(v, x), axis=1).sum()
    v = flat(fit.params)
    value, slope, hessian = jax.jit(lambda v: (of_grid(v), jax.grad(of_grid)(v), jax.hessian(of_grid)(v)))(v)
    assert_within(fit.objective, value, 1e-6)
    assert_within(np.linalg.solve(hessian, slope), np.zeros(9), 1e-4)
    errors = jaxem.inference.standard_errors(MODEL, fit, data)
    wanted = np.sqrt(np.diagonal(np.linalg.inv(-np.asarray(hessian))))
    assert_within(flat(errors), wanted, 1e-3 * wanted)

    posterior = np.asarray(jax.nn.softmax(table(v, x), axis=1))
    found = MODEL.abilities(fit, data)
    means = posterior @ GRID
    assert_within(found.means, means, 1e-4)
    assert_within(found.deviations, np.sqrt(posterior @ GRID**2 - means**2), 1e-4)
    nobody = MODEL.abilities(fit, jaxem.dataset(np.vstack([x[:1], np.full((1, 3), np.nan), x[2:]]), missing="nan"))
    assert_within([nobody.means[1], nobody.deviations[1]], [0, 1], 1e-12)


def test_the_m_step_maximises(dtype):
    """The gradient of Q vanishes to rounding, from a start far away; in 32 bits with a slope that all items share."""
    x = answers()
    model = MODEL if dtype == np.float64 else ItemResponse("rasch", points=21)
    data = jaxem.dataset((x if model is MODEL else np.minimum(x, 1)).astype(dtype), missing="nan")
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(5), data))

    @jax.jit
    def step(params, data):
        sums = model.statistics(model.e_step(params, data), data)
        best = model.maximize(sums)
        q = lambda p: model.expected_log_joint(p, sums)
        return best, q(params), *jax.value_and_grad(q)(best)

    best, before, q, slope = step(params, data)
    assert q > before
    for leaf, of_leaf in zip(jax.tree.leaves(best), jax.tree.leaves(slope), strict=True):
        assert leaf.dtype == dtype
        assert_within(of_leaf, np.zeros(leaf.shape), 32 * eps(dtype) * x.size)  # the size of what is added up


def test_draws_have_the_probabilities():
    ability, x = MODEL.sample_joint(jax.random.key(1), TRUTH, 20000)
    assert abs(float(ability.mean())) < 4 / np.sqrt(20000) and abs(float(ability.std()) - 1) < 0.03
    for d, b in enumerate(TRUTH.intercepts):
        above = special.expit(np.asarray(TRUTH.slopes)[d] * GRID[:, None] + np.asarray(b)[None, :])
        wanted = np.exp(LOG_WEIGHTS) @ above
        found = (np.asarray(x)[:, d][:, None] >= np.arange(1, len(b) + 1)).mean(axis=0)
        assert (np.abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 20000)).all()
    like = MODEL.sample_like(jax.random.key(1), TRUTH, jaxem.dataset(answers(), missing="nan"))
    assert like.values.shape == (300, 3) and (np.asarray(like.observed) == ~np.isnan(answers())).all()


@pytest.mark.slow
def test_nodes_as_the_gate_of_a_mixture():
    """The same likelihood and the same step as the model that is made of them; the weights have no parameters."""
    model, params, data = case("graded items", "float64")
    mixture = Mixture(model.family, model.points, gate=Nodes(model.points))
    lifted = MixtureParams((), params)
    assert_within(mixture.log_likelihood(lifted, data), model.log_likelihood(params, data), 1e-10)
    step = jax.jit(lambda model, params, data: model.m_step(model.e_step(params, data), data))
    new, same = step(mixture, lifted, data), step(model, params, data)
    assert_within(flat(new.components), flat(same), 1e-10)


def test_refusals_are_by_name():
    with pytest.raises(ValueError, match="kind must be 'rasch', '2pl' or 'graded'"):
        ItemResponse("3pl")
    with pytest.raises(ValueError, match="kind 'graded' needs levels"):
        ItemResponse("graded")
    with pytest.raises(ValueError, match="no other kind takes them"):
        ItemResponse("2pl", (2, 2))
    with pytest.raises(ValueError, match="nobody has level 1 of item 1"):
        ItemResponse("2pl").init(jax.random.key(0), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="codes from 0 to levels - 1"):
        ItemResponse("2pl").init(jax.random.key(0), np.array([[0.0, 2.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match=r"codes \(N, 3\)"):
        MODEL.init(jax.random.key(0), np.zeros((5, 2)))
    assert not any(hasattr(MODEL, name) for name in ("permute", "label_keys", "predict_proba"))
