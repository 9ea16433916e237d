"""Gradients through a fit: the implicit function theorem beside central differences of tightly converged fits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Coins, coins_log_joint
from closeness import assert_within, eps
from jax.flatten_util import ravel_pytree

import jaxem
from jaxem import Dataset, FitError, Status
from jaxem.core import linear
from jaxem.families import MultivariateNormal, Normal, NormalInverseWishart, NormalParams, Poisson, PoissonParams
from jaxem.fitting import implicit
from jaxem.models import HMM, FactorAnalysis, Mixture, MixtureParams

TIGHT = jaxem.fitting.parameter_change(1e-13)
RNG = np.random.default_rng(0)
# Central differences at h: h^2 of curvature, and eps / h of rounding: each about 1e-9 here. What is asked is 1e-5.
H = 1e-4


def flat(fit: Any) -> Any:
    """Parameters and objective of a fit as one vector."""
    return ravel_pytree((fit.params, fit.objective))[0]


def random_like(tree: Any, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=jnp.shape(leaf)), jnp.result_type(leaf)), tree)


def moved(inputs: Any, direction: Any, h: float) -> Any:
    return jax.tree.map(lambda a, b: a + h * b, inputs, direction)


def central(f: Any, inputs: Any, direction: Any) -> Any:
    return (f(moved(inputs, direction, H)) - f(moved(inputs, direction, -H))) / (2 * H)


def assert_derivative(f: Any, inputs: Any) -> None:
    """The gradient of a random combination of all outputs, along a random direction of all inputs."""
    direction = random_like(inputs)
    wanted = central(f, inputs, direction)
    c = random_like(wanted, 2)
    gradient = jax.grad(lambda i: f(i) @ c)(inputs)
    along = sum((a * b).sum() for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    assert_within(along, c @ wanted, 1e-5 * np.abs(c * wanted).max())


# A mixture with everything that can move: data, weights (some zero), and a prior

MVN_X = np.concatenate([RNG.normal(size=(14, 2)), RNG.normal(size=(12, 2)) * [1.0, 0.5] + [3.0, 1.0]])
MVN_W = np.array([1.0, 2.0, 0.5, 1.5] * 6 + [0.0, 1.0])
PRIOR = NormalInverseWishart.from_data(MVN_X, 2)
MVN_START = Mixture(MultivariateNormal("full", PRIOR), 2).init(jax.random.key(0), jnp.asarray(MVN_X))
INPUTS = jax.tree.map(jnp.asarray, {"x": MVN_X, "w": MVN_W, "prior": PRIOR})


def mvn(inputs: Any, **options: Any) -> Any:
    model = Mixture(MultivariateNormal("full", inputs["prior"]), 2)
    return flat(jaxem.fit(model, MVN_START, Dataset(inputs["x"], weights=inputs["w"]), **options))


@pytest.mark.slow
def test_a_mixture_forward_and_backward():
    """Every parameter and the objective, along each input, and both modes of autodiff."""
    zero = jax.tree.map(jnp.zeros_like, INPUTS)
    counts = jnp.asarray(MVN_W > 0, jnp.float64)
    scale = PRIOR.scale
    directions = [
        {**zero, "x": random_like(zero["x"])},
        {**zero, "w": random_like(zero["w"]) * counts},  # a weight of zero cannot fall: see below
        {**zero, "prior": NormalInverseWishart(random_like(PRIOR.mean), PRIOR.shrinkage, PRIOR.dof, scale)},
    ]
    value, push = jax.linearize(mvn, INPUTS)
    pull = jax.linear_transpose(push, INPUTS)
    c = random_like(value, 3)
    (gradient,) = pull(c)
    for direction in directions:
        forward, wanted = push(direction), central(lambda i: mvn(i, stop=TIGHT), INPUTS, direction)
        assert_within(forward[:-1], wanted[:-1], 1e-5 * np.abs(forward[:-1]).max())
        # The parameters are refined, the objective's partial derivative is taken where the fit stopped: within
        # sqrt(tol) / (1 - rate) of the optimum, relative.
        assert_within(forward[-1], wanted[-1], 1e-4 * np.abs(forward).max())
        backward = sum((a * b).sum() for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        assert_within(backward, c @ forward, 1e-9 * np.abs(c * forward).max())
    # The first weight of zero, from the right, by a difference of second order.
    first = {**zero, "w": jnp.zeros(26).at[24].set(1.0)}
    f0, f1, f2 = (mvn(moved(INPUTS, first, k * H), stop=TIGHT) for k in (0, 1, 2))
    forward = push(first)
    assert_within(forward, (4 * f1 - 3 * f0 - f2) / (2 * H), 1e-5 * np.abs(forward).max())
    assert np.abs(forward).max() > 1e-2


# Other models


def linkage_log_likelihood(theta, y):
    p = jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])
    return (y * jnp.log(p)).sum()


def linkage_e_step(theta, y):
    return y[0] * theta / (2 + theta)


def linkage_m_step(z, y):
    return (z + y[3]) / (z + y[1:].sum())


TWO = jaxem.Model(linkage_e_step, linkage_m_step)
LINKAGE = jaxem.Model(linkage_e_step, linkage_m_step, log_likelihood=linkage_log_likelihood)
Y = jnp.array([125.0, 18.0, 20.0, 34.0])


def linkage_exact(y):
    """The positive root of n t^2 - (a - 2 b - d) t - 2 d, by which every derivative is known."""
    a, b, d = y[0], y[1] + y[2], y[3]
    n, half = a + b + d, a - 2 * b - d
    return (half + jnp.sqrt(half**2 + 8 * n * d)) / (2 * n)


@pytest.mark.slow
def test_two_functions():
    theta = lambda y: jaxem.fit(TWO, 0.5, y).params
    wanted = jax.grad(linkage_exact)(Y)
    # The fixed point is found to rounding error, however loosely the fit stopped.
    for loose in (theta, lambda y: jaxem.fit(TWO, 0.5, y, stop=jaxem.fitting.parameter_change(1e-4)).params):
        assert_within(jax.grad(loose)(Y), wanted, 64 * eps(np.float64))
    assert_within(jax.jacfwd(theta)(Y), wanted, 64 * eps(np.float64))
    assert_within(jax.jvp(theta, (Y,), (Y,))[1], wanted @ Y, 64 * eps(np.float64) * np.abs(wanted * Y).sum())
    assert jax.grad(lambda start: jaxem.fit(TWO, start, Y).params)(0.5) == 0  # where it began does not matter


@pytest.mark.slow
def test_second_derivatives():
    def both(y: Any) -> Any:
        fit = jaxem.fit(LINKAGE, 0.5, y, stop=TIGHT)
        return fit.objective + 30 * fit.params

    wanted = jax.hessian(lambda y: linkage_log_likelihood(linkage_exact(y), y) + 30 * linkage_exact(y))(Y)
    # As far from the optimum as TIGHT leaves it, and what the square root cancels.
    assert_within(jax.hessian(both)(Y), wanted, 1e-9 * np.abs(wanted).max())


def test_a_hidden_markov_model_of_whole_numbers():
    """Integer counts and lengths; a start that is impossible in one state, so an optimum on the edge."""
    counts = (
        np.random.default_rng(1).poisson(np.where(np.arange(12) // 4 % 2, 8, 1)[None].repeat(4, 0)).astype(np.int32)
    )
    model = HMM(Poisson(), 2)
    data = lambda w: Dataset(jnp.asarray(counts), lengths=jnp.array([12, 7, 10, 3]), weights=w)
    w = jnp.array([1.0, 2.0, 0.7, 1.2])
    start = model.init(jax.random.key(0), data(w))
    assert_derivative(lambda w: flat(jaxem.fit(model, start, data(w), stop=TIGHT)), w)


@pytest.mark.slow
def test_factors_known_up_to_sign():
    x = jnp.asarray(RNG.normal(size=(40, 1)) @ np.array([[1.0, -1.0, 2.0, 0.5]]) + 0.7 * RNG.normal(size=(40, 4)))
    model = FactorAnalysis(1)
    start = model.init(jax.random.key(0), x)
    run = lambda x: flat(jaxem.fit(model, start, x, max_steps=5000, stop=TIGHT))
    direction = random_like(x)
    tangent = jax.jvp(run, (x,), (direction,))[1]
    assert_within(tangent, central(run, x, direction), 1e-5 * np.abs(tangent).max())


FACTORS = FactorAnalysis(2)
FACTORS_X = jnp.asarray(
    RNG.normal(size=(200, 2)) @ np.array([[2.0, 2, 2, 0, 0, 1], [0.0, 1, 0, 2, 2, 2]]) + RNG.normal(size=(200, 6))
)


@pytest.mark.parametrize("tol", [1e-10, 1e-14])
def test_factors_that_rotate(tol):
    """The objective has a derivative, the loadings have none, be they converged well or just enough."""
    start = FACTORS.init(jax.random.key(0), FACTORS_X)
    fit = lambda x: jaxem.fit(FACTORS, start, x, max_steps=5000, tol=tol)
    value, pull = jax.vjp(lambda x: fit(x).objective, FACTORS_X)
    assert jnp.isfinite(value)
    end = fit(FACTORS_X).params
    # At fixed parameters, by the dense covariance: not the route of the E-step.
    wanted = jax.grad(lambda x: FACTORS.log_likelihood(end, x))(FACTORS_X)
    assert_within(pull(jnp.ones(()))[0], wanted, 1e-12 * np.abs(wanted).max())
    with pytest.raises(FitError, match=r"I - dM is singular.*loadings that rotate"):
        jax.grad(lambda x: fit(x).params.loadings.sum())(FACTORS_X)
    if tol == 1e-10:
        _, tangent = jax.jvp(fit, (FACTORS_X,), (FACTORS_X,))
        assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(tangent.params))
        assert jnp.isfinite(tangent.objective)


@pytest.mark.slow
def test_a_model_without_an_m_step():
    """GEM: the equation is that the gradient vanishes. Differences are those of EM, which converges further."""
    space = jaxem.UnitInterval()
    model = jaxem.from_log_joint(coins_log_joint, constraints=space)
    exact = jaxem.from_log_joint(coins_log_joint, constraints=space, m_step=weighted_coins_m_step)
    rng = np.random.default_rng(5)
    y = jnp.asarray((rng.random((20, 6)) < np.where(rng.random((20, 1)) < 0.4, 0.8, 0.3)).astype(float))
    run = lambda model, w, **options: flat(jaxem.fit(model, Coins(0.5, 0.7, 0.4), Dataset(y, weights=w), **options))
    w = jnp.asarray(rng.uniform(0.5, 1.5, 20))
    direction = random_like(w)
    wanted = central(lambda w: run(exact, w, stop=TIGHT), w, direction)
    tangent = jax.jvp(lambda w: run(model, w), (w,), (direction,))[1]
    assert_within(tangent[:-1], wanted[:-1], 1e-5 * np.abs(wanted[:-1]).max())
    assert_within(tangent[-1], wanted[-1], 1e-4 * np.abs(wanted).max())


def weighted_coins_m_step(q, data):
    """Each row counts ``weights`` times."""
    y, r = data.values, q.probabilities * data.weights[:, None]
    heads = (r * y.sum(axis=1, keepdims=True)).sum(axis=0) / (r.sum(axis=0) * y.shape[1])
    return Coins(r.sum(axis=0)[0] / r.sum(), heads[0], heads[1])


def test_gmres_on_a_slow_operator():
    """Rates of convergence up to 0.9999, in a basis that is not orthogonal; and none where it is singular."""
    n = 150
    assert n > linear.LARGEST_MATRIX
    basis = np.eye(n) + 0.3 * np.random.default_rng(2).normal(size=(n, n)) / n**0.5
    rates = np.concatenate([[0.9999, 0.99, 0.9], np.linspace(0, 0.8, n - 3)])
    a = jnp.asarray(np.eye(n) - basis @ np.diag(rates) @ np.linalg.inv(basis))
    b = jnp.asarray(np.random.default_rng(3).normal(size=n))
    wanted = np.linalg.solve(a, b)
    solve = jax.jit(lambda a, b: linear.solve(lambda v: a @ v, b))
    solution = solve(a, b)
    # |A^-1| = 1e4 times what rounding leaves of b
    assert_within(solution.x, wanted, 1e5 * n * eps(np.float64) * np.abs(wanted).max())
    assert solution.left <= 64 * eps(np.float64) * np.linalg.norm(b)
    assert solve(a.at[0].set(0), b).left > 0.1 * abs(b[0])


# A mixture of one dimension, for all the ways in which a derivative can be asked for

MIXTURE = Mixture(Normal(), 2)
X = jnp.asarray(np.random.default_rng(1).normal(size=30) + np.repeat([0.0, 3.5], 15))
START = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.array([-1.0, 4.5]), np.array([1.0, 1.0])))


def loss(x: Any, start: Any = START, **options: Any) -> Any:
    params = jaxem.fit(MIXTURE, start, x, **options).params
    return (
        params.weights[0]
        + params.components.means @ jnp.array([0.3, 1.0], params.weights.dtype)
        + params.components.variances[1]
    )


def objective(x: Any) -> Any:
    return jaxem.fit(MIXTURE, START, x, stop=TIGHT).objective


@pytest.mark.slow
def test_observations_of_weight_zero():
    """One class: its rate is the weighted mean, its derivatives w / sum w and (x - mean) / sum w.

    What is never looked at may be NaN, except where the derivative in its weight is asked for.
    """
    model = Mixture(Poisson(), 1)
    start = MixtureParams(np.ones(1), PoissonParams(np.array([2.0])))
    rate = lambda x, w: jaxem.fit(model, start, Dataset(x, weights=w)).params.components.rates[0]
    x, w = jnp.array([1.0, 2.0, 4.0, 3.0, 9.0]), jnp.array([1.0, 2.0, 0.5, 1.0, 0.0])
    by_x, by_w = jax.grad(rate, argnums=(0, 1))(x, w)
    assert_within(by_x, w / w.sum(), 64 * eps(np.float64))
    assert_within(by_w, (x - (w @ x) / w.sum()) / w.sum(), 64 * eps(np.float64))
    hidden = x.at[4].set(jnp.nan)
    assert_within(jax.grad(rate)(hidden, w), w / w.sum(), 64 * eps(np.float64))
    assert jnp.isnan(jax.grad(rate, argnums=(0, 1))(hidden, w)[1]).all()


@pytest.mark.slow
def test_the_objective_by_the_envelope():
    fit = jaxem.fit(MIXTURE, START, X, stop=TIGHT)
    wanted = jax.grad(lambda x: MIXTURE.log_likelihood(fit.params, x))(X)
    gradient = jax.grad(objective)(X)
    assert_within(gradient, wanted, 64 * eps(np.float64) * np.abs(wanted).max())
    direction = random_like(X)
    assert_within(gradient @ direction, central(objective, X, direction), 1e-7 * np.abs(gradient).max())


@pytest.mark.slow
def test_a_second_gradient_compiles_nothing(count_compilations):
    gradient = jax.grad(loss)(X)
    moved = jax.block_until_ready(X * 1.01)
    jax.grad(loss)(moved)
    with count_compilations() as compiled:
        jax.grad(loss)(moved)
        jax.grad(lambda x: loss(x, tol=1e-11))(X)
    assert compiled.count == 0
    assert_within(jax.jit(jax.grad(loss))(X), gradient, 1e-10)


def test_float32():
    """The same numbers, to eps times |A^-1| times the cancellation in a second derivative of the log-density."""
    wanted = jax.grad(loss)(X)
    gradient = jax.grad(loss)(X.astype(jnp.float32))
    assert gradient.dtype == jnp.float32
    fit = jaxem.fit(MIXTURE, START, X)
    gain = float(implicit._refine(MIXTURE, X, fit.params, fit.objective, fit.status)[1].gain)
    assert_within(gradient, wanted, 32 * gain * eps(np.float32) * np.abs(wanted).max())


def lanes(y: Any, starts: Any) -> Any:
    return jax.vmap(lambda start: jaxem.fit(LINKAGE, start, y, max_steps=8, stop=TIGHT))(starts)


@pytest.mark.slow
def test_a_lane_without_derivative_leaves_the_others_alone():
    """The second lane starts where it needs more steps than it is given."""
    starts = jnp.array([linkage_exact(Y), 0.01])
    assert lanes(Y, starts).converged.tolist() == [True, False]
    each = jax.jit(jax.vmap(jax.grad(lambda y, start: jaxem.fit(LINKAGE, start, y, max_steps=8, stop=TIGHT).params)))
    gradients = each(jnp.stack([Y, Y]), starts)
    assert_within(gradients[0], jax.grad(linkage_exact)(Y), 64 * eps(np.float64))
    assert jnp.isnan(gradients[1]).all()

    @jax.jit
    def sound_only(y: Any) -> Any:
        """What is masked out does no harm to what the lanes share."""
        fits = lanes(y, starts)
        return jnp.stack([jnp.where(fits.converged, values, 0).sum() for values in (fits.params, fits.objective)])

    wanted = jax.jacrev(lambda y: jnp.stack([linkage_exact(y), linkage_log_likelihood(linkage_exact(y), y)]))(Y)
    assert_within(jax.jacrev(sound_only)(Y), wanted, 1e-10 * np.abs(wanted).max())


@pytest.mark.slow
def test_a_fit_that_did_not_converge():
    for mode in (jax.grad, jax.jacfwd):
        with pytest.raises(FitError, match=r"did not converge \(MAX_STEPS\), so it has no derivative.*stop_gradient"):
            mode(lambda x: loss(x, max_steps=3))(X)
    kept = jax.grad(lambda x: (x * loss(jax.lax.stop_gradient(x), max_steps=3)).sum())(X)
    assert jnp.isfinite(kept).all()
    fit = lambda y: jaxem.fit(LINKAGE, 0.01, y, max_steps=3)
    tangent = jax.jit(lambda y: jax.jvp(fit, (y,), (y,))[1])(Y)
    assert jnp.isnan(tangent.params) and jnp.isnan(tangent.objective)
    for name in ("params", "objective"):
        assert jnp.isnan(jax.jit(jax.grad(lambda y, name=name: getattr(fit(y), name)))(Y)).all()


def test_a_fit_that_stopped_far_from_its_fixed_point():
    far = lambda y: jaxem.fit(TWO, 0.8, y, stop=jaxem.fitting.parameter_change(0.5)).params
    with pytest.raises(FitError, match=r"stopped a relative distance of .* from the nearest fixed point of EM"):
        jax.grad(far)(Y)
    assert jnp.isnan(jax.jit(jax.grad(far))(Y)).all()


@pytest.mark.slow
def test_an_algorithm_that_climbs_something_else():
    hard = jaxem.HardEM(block_size=30)
    with pytest.raises(FitError, match="climbed another objective"):
        jax.grad(lambda x: loss(x, algorithm=hard))(X)
    classified = lambda x: jaxem.fit(MIXTURE, START, x, algorithm=hard).objective
    assert jnp.isnan(jax.jit(jax.grad(classified))(X)).all()


def test_an_accelerator_has_the_same_derivative():
    assert_within(jax.grad(lambda x: loss(x, algorithm=jaxem.SQUAREM()))(X), jax.grad(loss)(X), 1e-9)


def test_bad_data_is_an_error_as_ever():
    with pytest.raises(ValueError, match="finite"):
        jax.grad(loss)(X.at[0].set(jnp.nan))


def test_classes_that_coincide():
    """Two equal classes: the share of each is not determined."""
    same = MixtureParams(np.array([0.4, 0.6]), NormalParams(np.full(2, 1.7), np.full(2, 4.0)))
    with pytest.raises(FitError, match="classes that coincide"):
        jax.grad(lambda x: jaxem.fit(MIXTURE, same, x).params.weights[0])(X)


@pytest.mark.slow
def test_restarts():
    model = dataclasses.replace(LINKAGE, init=linkage_init)
    best = lambda y: jaxem.fit_restarts(model, y, key=jax.random.key(0), restarts=3).best
    assert_within(jax.grad(lambda y: best(y).params)(Y), jax.grad(linkage_exact)(Y), 64 * eps(np.float64))


def linkage_init(key, y):
    return jax.random.uniform(key, dtype=y.dtype)


def test_memory_does_not_grow_with_the_iterations():
    def temporary(max_steps: int) -> int:
        gradient = jax.jit(jax.grad(lambda y: jaxem.fit(TWO, 0.5, y, max_steps=max_steps).params))
        return gradient.lower(Y).compile().memory_analysis().temp_size_in_bytes

    assert temporary(10) == temporary(100_000)


def test_without_differentiation_nothing_is_attached():
    fit = jaxem.fit(MIXTURE, START, X)
    assert implicit.attach(MIXTURE, X, fit) is fit
    assert fit.status == Status.CONVERGED
