"""SQUAREM and Anderson: exact on linear maps, far fewer evaluations, never a fall, the same in other units."""

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import case
from closeness import as_dtype, assert_within, eps

import jaxem
from jaxem import EM, GEM, SQUAREM, Anderson, Dataset, Status, datasets
from jaxem.algorithms.anderson import _coefficients
from jaxem.families import MultivariateNormal, MultivariateNormalParams, Normal, NormalParams, Poisson, PoissonParams
from jaxem.models import Mixture, MixtureParams

EPS = eps(np.float64)


def resolution(objective: Any, size: float) -> Any:
    """What rounding hides of an objective: the slack of the gate."""
    return eps(np.asarray(objective).dtype) * (abs(float(objective)) + size)


# London: two Poisson distributions that hide 99.6 % of the information


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ShortUpdate:
    """The share and the two rates move less than 1e-7 together."""

    needs_objective = False

    def met(self, progress: Any) -> jax.Array:
        new, old = progress.params, progress.previous
        rates = new.components.rates - old.components.rates
        return (new.weights[0] - old.weights[0]) ** 2 + (rates**2).sum() < 1e-14


POISSON = Mixture(Poisson(), 2)
DEATHS, DAYS = datasets.london_times_deaths()
LONDON = Dataset(jnp.asarray(DEATHS, float), weights=jnp.asarray(DAYS, float))
LONDON_START = MixtureParams(jnp.array([0.3, 0.7]), PoissonParams(jnp.array([1.0, 2.5])))


def test_london_in_a_hundredth_of_the_evaluations():
    """Varadhan & Roland (2008): plain EM takes 2,055 maps to L = -1989.94586."""
    run = lambda algorithm: jaxem.fit(
        POISSON, LONDON_START, LONDON, algorithm=algorithm, stop=ShortUpdate(), max_steps=3000
    )
    plain = run(EM())
    assert plain.converged and plain.steps == 2055 and plain.evaluations == 2056
    assert_within(plain.objective, -1989.94586, 5e-6)
    for accelerated in (run(SQUAREM()), run(Anderson())):
        trace = np.asarray(accelerated.trace)[: int(accelerated.steps) + 1]
        assert accelerated.converged and accelerated.evaluations <= 100
        assert_within(accelerated.objective, plain.objective, 1e-8)
        assert np.diff(trace).min() >= -resolution(accelerated.objective, 1096) and trace.min() == trace[0]


@pytest.mark.parametrize(("algorithm", "most"), [(SQUAREM(), 60), (Anderson(), 34)], ids=["squarem", "anderson"])
@pytest.mark.parametrize("start", [(0.5, 1.0, 3.0), (0.3, 1.0, 2.5)], ids=str)
def test_london_in_few_evaluations(start, algorithm, most):
    """R's turboEM needs 45 (SQUAREM), daarem 39, for a last step below 1e-7."""
    params = MixtureParams(jnp.array([start[0], 1 - start[0]]), PoissonParams(jnp.array(start[1:])))
    for options, close in (({"stop": ShortUpdate()}, 2e-9), ({"tol": 1e-7}, 1e-4)):
        fit = jaxem.fit(POISSON, params, LONDON, algorithm=algorithm, **options)
        assert fit.converged and fit.evaluations <= most
        assert_within(fit.objective, -1989.945859883, close)


def test_a_leap_uses_the_length_before_too():
    """Two directions of different rates: a leap of lengths 1 / (1 - rate) of each ends at the optimum.

    With either length alone one direction would remain. The greatest length allowed says nothing: it is used twice.
    """
    rates = jnp.array([0.99, 0.75])
    model, algorithm, data = linear_map(rates), SQUAREM(), jnp.zeros(1)
    away = jnp.array([1.0, 1e-3])
    state = algorithm.init(model, TARGET[:2] + away, data, None)

    def left(longest):  # after an iteration, where the second direction was once the longer one
        memory = state.memory._replace(length=jnp.float64(4), longest=jnp.float64(longest), steps=jnp.array([0.0, 1e6]))
        return algorithm.step(model, state._replace(memory=memory), data).params - TARGET[:2]

    assert np.abs(left(1000)).max() <= 1e-9
    assert_within(left(50), away * (1 - 50 * (1 - rates)) ** 2 * rates, 1e-9)


@pytest.mark.parametrize("scheme", [2, 3])
def test_the_other_schemes_save_most_evaluations_too(scheme):
    fit = jaxem.fit(POISSON, LONDON_START, LONDON, algorithm=SQUAREM(scheme=scheme), stop=ShortUpdate())
    assert fit.converged and int(fit.evaluations) < 2056 / 10
    assert_within(fit.objective, -1989.94585988, 1e-8)
    assert fit.evaluations == 3 * fit.steps + 1 and fit.fallbacks > 0
    assert "fallbacks" in str(fit)


# Linear maps: u <- u* + R (u - u*), the EM of a quadratic objective


RATES = jnp.array([0.9, 0.5, 0.2])
TARGET = jnp.array([1.0, -2.0, 3.0])


def linear_map(rates: Any) -> jaxem.Model:
    """A model whose EM map multiplies the distance to the optimum by ``rates``."""
    return jaxem.Model(
        lambda params, data: params,
        lambda q, data: TARGET[: len(rates)] + rates * (q - TARGET[: len(rates)]),
        log_likelihood=lambda params, data: -((params - TARGET[: len(rates)]) ** 2).sum(),
    )


@pytest.mark.parametrize("scheme", [1, 2, 3])
def test_one_leap_ends_a_linear_map_of_one_dimension(scheme):
    """The step length is 1 / (1 - rate) = 4 in every scheme: the length that the second iteration may take."""
    algorithm, model, data = SQUAREM(scheme=scheme), linear_map(jnp.array([0.75])), jnp.zeros(1)
    state = algorithm.init(model, jnp.array([9.0]), data, None)
    state = algorithm.step(model, state, data)
    assert_within(state.params, [1 + 8 * 0.75**3], 8 * EPS)  # no leap is allowed yet: three plain steps
    state = algorithm.step(model, state, data)
    assert_within(state.params, [1.0], 64 * EPS)


def test_anderson_solves_a_linear_map():
    """Without damping, and with as many differences as dimensions, it is the secant method: exact."""
    algorithm, model, data = Anderson(order=3, kappa=-1000.0), linear_map(RATES), jnp.zeros(1)
    state = algorithm.init(model, jnp.array([9.0, 9.0, 9.0]), data, None)
    step = jax.jit(lambda state: algorithm.step(model, state, data))
    for _ in range(6):
        state = step(state)
    assert_within(state.params, TARGET, 1e-9)
    plain = TARGET + RATES**6 * (9 - TARGET)
    assert abs(plain - TARGET).max() > 1


def test_coefficients_are_least_squares_shortened_by_the_share():
    rng = np.random.default_rng(0)
    df, f = rng.normal(size=(3, 7)), rng.normal(size=7)
    wanted = np.linalg.lstsq(df.T, f)[0]
    assert_within(_coefficients(jnp.asarray(df), jnp.asarray(f), jnp.asarray(1.0)), wanted, 1e-9)
    half = np.asarray(_coefficients(jnp.asarray(df), jnp.asarray(f), jnp.asarray(0.25)))
    assert_within(np.linalg.norm(half), np.linalg.norm(wanted) / 2, 1e-6)
    # It is the ridge solution for some lambda: (F'F + lambda I) gamma = F'f.
    left = df @ f - df @ df.T @ half
    assert_within(left / half, np.full(3, (left / half).mean()), 1e-9)
    rows = np.concatenate([df, np.zeros((2, 7))])  # history that is not there yet counts for nothing
    assert_within(_coefficients(jnp.asarray(rows), jnp.asarray(f), jnp.asarray(0.25)), np.r_[half, 0, 0], 1e-12)


# In other units, in lanes, in single precision


X = np.random.default_rng(0).normal(size=200) + np.repeat([0, 2.5], 100)
NORMAL = Mixture(Normal(), 2)
START = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.array([-1.0, 4.5]), np.array([1.0, 1.0])))
BOTH = [SQUAREM(), Anderson()]


@pytest.mark.parametrize("algorithm", BOTH, ids=["squarem", "anderson"])
def test_units_change_no_decision(algorithm):
    """Metres or parsecs: means have units, charts of variances have not, and nothing is decided by them."""
    ways = []
    for unit in (1.0, 2.0**40):
        start = START._replace(components=NormalParams(START.components.means * unit, np.full(2, unit**2)))
        fit = jaxem.fit(NORMAL, start, X * unit, algorithm=algorithm, stop=jaxem.fitting.parameter_change(1e-6))
        ways.append((int(fit.status), int(fit.steps), int(fit.evaluations), int(fit.fallbacks)))
        assert fit.converged
    assert ways[0] == ways[1]


@pytest.mark.parametrize("algorithm", BOTH, ids=["squarem", "anderson"])
def test_columns_have_units_of_their_own(algorithm):
    """In other units a column, and far from the origin, each iterate is the same."""
    model, rng = Mixture(MultivariateNormal("diag"), 2), np.random.default_rng(0)
    x = rng.normal(size=(150, 3)) + 1.6 * (np.arange(150) < 60)[:, None]
    means = np.array([[1.5, 2.0, 1.0], [0.5, -0.5, 0.0]])
    climbs = []
    for unit, shift in ((np.ones(3), 0.0), (np.array([1e-4, 1.0, 3e5]), np.array([1e5, -1e4, 1e3]))):
        components = MultivariateNormalParams((means + shift) * unit, np.ones((2, 3)) * unit**2)
        start = MixtureParams(np.array([0.4, 0.6]), components)
        stop = jaxem.fitting.parameter_change(0.0)
        fit = jaxem.fit(model, start, (x + shift) * unit, algorithm=algorithm, stop=stop, max_steps=8)
        climbs.append(np.asarray(fit.trace) - float(fit.trace[0]))
    assert climbs[0][-1] > 10
    # What is lost where numbers are stored 1e5 from the origin: 2e-11, and ten times more a step.
    assert_within(climbs[1], climbs[0], 1e-6)


@pytest.mark.slow
def test_what_only_rounding_moves_decides_nothing():
    """The means of a factor analysis are right from the start: their steps are rounding error, no unit of length."""
    model, params, data = case("factor analysis", "float64")
    rng = np.random.default_rng(0)
    run = lambda start: np.asarray(jaxem.fit(model, start, data, algorithm=Anderson(), max_steps=6).trace)
    nudged = run(jax.tree.map(lambda leaf: leaf * (1 + 4 * EPS * rng.normal(size=leaf.shape)), params))
    # Each step may magnify a difference some ten times; by rounding taken for a direction it became 1.
    assert_within(nudged, run(params), 10**6 * resolution(nudged[0], data.size))


@pytest.mark.parametrize("algorithm", BOTH, ids=["squarem", "anderson"])
@pytest.mark.slow
def test_lanes_are_what_they_are_alone(algorithm):
    starts = jax.tree.map(lambda a, b: jnp.stack([a, b]), as_dtype(START, float), as_dtype(START, float))
    starts = starts._replace(weights=jnp.array([[0.5, 0.5], [0.9, 0.1]]))
    run = lambda start: jaxem.fit(NORMAL, start, X, algorithm=algorithm, stop=jaxem.fitting.parameter_change(1e-6))
    lanes = jax.vmap(run)(starts)
    for i in range(2):
        alone = run(jax.tree.map(lambda leaf, i=i: leaf[i], starts))
        assert int(lanes.steps[i]) == int(alone.steps) and int(lanes.fallbacks[i]) == int(alone.fallbacks)
        assert int(lanes.evaluations[i]) == int(alone.evaluations)
        assert_within(lanes.objective[i], alone.objective, 4 * resolution(alone.objective, len(X)))


@pytest.mark.parametrize("algorithm", BOTH, ids=["squarem", "anderson"])
def test_at_the_edge_of_a_space(algorithm):
    """A probability on its way to zero: its coordinate runs to minus infinity, and no leap follows it off the map."""
    model, params, data = case("bernoulli mixture", "float64")
    stop = jaxem.fitting.parameter_change(1e-8)
    plain = jaxem.fit(model, params, data, stop=stop)
    fit = jaxem.fit(model, params, data, algorithm=algorithm, stop=stop)
    assert fit.converged and fit.fallbacks > 0 and int(fit.evaluations) < int(plain.evaluations) / 4
    assert fit.objective >= plain.objective - 1e-7
    trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
    assert np.diff(trace).min() >= -resolution(fit.objective, 240)


def test_float32():
    data = Dataset(jnp.asarray(DEATHS, jnp.float32), weights=jnp.asarray(DAYS, jnp.float32))
    start = as_dtype(LONDON_START, np.float32)
    for algorithm in BOTH:
        fit = jaxem.fit(POISSON, start, data, algorithm=algorithm)
        assert fit.converged and fit.objective.dtype == jnp.float32
        trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
        # One resolution is the gate's; the objective of a plain step has its own rounding error.
        assert np.diff(trace).min() >= -4 * resolution(fit.objective, 1096)
        assert_within(fit.objective, -1989.94586, 8 * resolution(fit.objective, 1096))


# What they wrap, and what they refuse


def test_gem_is_accelerated_too():
    fit = jaxem.fit(POISSON, LONDON_START, LONDON, algorithm=SQUAREM(GEM()), stop=ShortUpdate())
    assert fit.converged and int(fit.evaluations) < 2056 / 10
    assert_within(fit.objective, -1989.94585988, 1e-7)


def test_what_cannot_be_accelerated_says_why():
    half = types.SimpleNamespace(**dict.fromkeys(("init", "step", "propose", "move")))
    with pytest.raises(ValueError, match="Anderson cannot wrap SimpleNamespace: it has no before"):
        Anderson(half)
    with pytest.raises(ValueError, match="SQUAREM cannot wrap Anderson: its step is not a map"):
        SQUAREM(Anderson())
    with pytest.raises(ValueError, match="may fall in a correct step"):
        Anderson(GEM(optax.sgd(0.1), batch_size=10))
    with pytest.raises(ValueError, match="scheme must be 1, 2 or 3; it is 4"):
        SQUAREM(scheme=4)
    with pytest.raises(ValueError, match="order must be at least 1"):
        Anderson(order=0)
    model = jaxem.Model(lambda params, data: params, lambda q, data: q)
    with pytest.raises(ValueError, match="SQUAREM compares objectives, and the model has none: write log_likelihood"):
        jaxem.fit(model, 1.0, X, algorithm=SQUAREM())
    with pytest.raises(ValueError, match="m_step"):
        jaxem.fit(jaxem.Model(lambda params, data: params), 1.0, X, algorithm=SQUAREM())


def test_a_leap_out_of_the_model_is_refused():
    """Below -1 this model is degenerate, though higher; a leap of four steps would end at -13."""
    model = jaxem.Model(
        lambda params, data: params,
        lambda q, data: 0.99 * q - 2.0,
        log_likelihood=lambda params, data: -params.sum(),
        degenerate=lambda params: (params < -1).any(),
    )
    fit = jaxem.fit(model, jnp.array([9.0]), jnp.zeros(1), algorithm=SQUAREM(), max_steps=2)
    after = 9.0
    for _ in range(4):  # three plain steps, and the one that replaces the leap
        after = 0.99 * after - 2
    assert fit.status == Status.MAX_STEPS and fit.fallbacks == 1
    assert_within(fit.params, [after], 64 * EPS)


def test_equal_accelerators_share_a_program(count_compilations):
    jaxem.fit(NORMAL, START, X, algorithm=SQUAREM(), max_steps=5)
    with count_compilations() as compiled:
        jaxem.fit(NORMAL, START, X, algorithm=SQUAREM(growth=3.0), max_steps=5)
    assert compiled.count == 0


@pytest.mark.parametrize("algorithm", [EM(), SQUAREM(), Anderson(), SQUAREM(EM(block_size=100))], ids=str)
def test_a_fit_holds_one_e_step(algorithm):
    """The E-step takes longest to compile: the start and every evaluation of an iteration share one."""

    def count(trace):
        inside = [part for eqn in trace.eqns for part in jax.tree.leaves(eqn.params) if hasattr(part, "jaxpr")]
        here = sum(eqn.params.get("name") == "expect" for eqn in trace.eqns)
        return here + sum(count(part.jaxpr) for part in inside)

    fit = lambda start: jaxem.fit(POISSON, start, LONDON, algorithm=algorithm).objective
    assert count(jax.make_jaxpr(fit)(LONDON_START).jaxpr) == 1
