"""fit: every way it can end, what it returns, when it stops, and that it compiles once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import as_dtype, assert_within, eps

import jaxem
from jaxem import EM, GEM, Dataset, Fit, FitError, Model, Status
from jaxem.core import bound
from jaxem.core.expectation import expect, maximize_sums
from jaxem.core.passes import accumulate
from jaxem.families import (
    MultivariateNormal,
    MultivariateNormalParams,
    Normal,
    NormalInverseWishart,
    NormalParams,
    Poisson,
    PoissonParams,
)
from jaxem.fitting.fit import choose
from jaxem.fitting.stopping import Progress
from jaxem.models import Mixture, MixtureParams

EPS = eps(np.float64)
RNG = np.random.default_rng(0)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Never:
    """A stopping rule of one's own."""

    needs_objective = False

    def met(self, progress: Any) -> jax.Array:
        return jnp.bool_(False)


# A mixture of two Poisson distributions that overlap
POISSON = Mixture(Poisson(), 2)
COUNTS = np.concatenate([RNG.poisson(2, size=30), RNG.poisson(8, size=20)]).astype(float)
START = MixtureParams(np.array([0.5, 0.5]), PoissonParams(np.array([1.0, 10.0])))

# A mixture of two normal distributions that overlap: EM's rate is about 0.9
NORMAL = Mixture(Normal(), 2)
X = np.random.default_rng(0).normal(size=200) + np.repeat([0, 3.5], 100)
NORMAL_START = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.array([-1.0, 4.5]), np.array([1.0, 1.0])))

jitted_fit = jax.jit(jaxem.fit, static_argnames="max_steps")


@pytest.mark.parametrize("algorithm", [EM(), jaxem.HardEM(), jaxem.AnnealedEM()], ids=lambda a: type(a).__name__)
def test_the_start_and_all_steps_share_one_e_step(algorithm):
    def e_steps(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "jit" and equation.params["name"] == "expect":
                yield equation
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
                if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                    yield from e_steps(inner)

    fit = lambda params: jaxem.fit(NORMAL, params, X, algorithm=algorithm, max_steps=30)
    assert len(list(e_steps(jax.make_jaxpr(fit)(NORMAL_START).jaxpr))) == 1
    # Each step costs one E-step, and so does the start; the first objective is that of the start.
    found = fit(NORMAL_START)
    assert found.evaluations == found.steps + 1
    state = algorithm.init(NORMAL, as_dtype(NORMAL_START, np.float64), jnp.asarray(X), None)
    assert_within(found.trace[0], state.objective, 4 * EPS * abs(state.objective))


def same(a: Any, b: Any) -> None:
    """To the bit; NaN is NaN."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_consistent(fit: Fit, model: Any, data: Any) -> None:
    """What every fit with an objective promises of its record."""
    steps, trace = int(fit.steps), np.asarray(fit.trace)
    assert np.isfinite(trace[: steps + 1]).all()
    assert np.isnan(trace[steps + 1 :]).all()
    assert trace[steps] == fit.objective
    data = jax.tree.map(jnp.asarray, data)
    wanted = bound.penalized(model, model.log_likelihood(fit.params, data), fit.params)
    assert_within(fit.objective, wanted, 32 * eps(trace.dtype) * (abs(float(wanted)) + 1))


# The two-function model


def linkage_e_step(theta, counts):
    return counts[0] * theta / (2.0 + theta)


def linkage_m_step(z, counts):
    return (z + counts[3]) / (z + counts[1:].sum())


def linkage_log_likelihood(theta, counts):
    p = jnp.stack([0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4])
    return (counts * jnp.log(p)).sum()


LINKAGE = np.array([125.0, 18.0, 20.0, 34.0])
BEST = 0.6268214978709824  # the positive root of 197 t^2 - 15 t - 68


def test_two_functions_are_enough():
    fit = jaxem.check(jaxem.fit(Model(linkage_e_step, linkage_m_step), 0.5, LINKAGE))
    assert_within(BEST, (15 + np.sqrt(15**2 + 4 * 197 * 68)) / (2 * 197), EPS)
    # Stopped where a step was below 1e-10 of theta; at a rate of 0.13 what is left is less.
    assert_within(fit.params, BEST, 1e-10)
    assert fit.objective is None and fit.trace is None
    assert fit.evaluations == fit.steps + 1
    assert "none (the model has no bound)" in str(fit)


def test_a_log_likelihood_is_an_objective():
    model = Model(linkage_e_step, linkage_m_step, log_likelihood=linkage_log_likelihood)
    fit = jaxem.check(jaxem.fit(model, 0.5, LINKAGE))
    assert_consistent(fit, model, LINKAGE)


# The record of a good fit


@pytest.mark.slow
def test_the_record_of_a_fit(dtype):
    data = as_dtype(COUNTS, dtype)
    fit = jaxem.fit(POISSON, START, data, max_steps=300)
    assert fit.status == Status.CONVERGED and fit.converged
    assert fit.trace.shape == (301,)
    assert fit.evaluations == fit.steps + 1
    assert fit.objective.dtype == fit.trace.dtype == dtype
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(fit.params))
    assert_consistent(fit, POISSON, data)
    # Ascent, up to rounding.
    gains = np.diff(np.asarray(fit.trace)[: int(fit.steps) + 1])
    assert gains.min() >= -4 * eps(dtype) * (abs(float(fit.objective)) + len(COUNTS))


def test_no_steps():
    fit = jaxem.fit(POISSON, START, COUNTS, max_steps=0)
    assert fit.status == Status.MAX_STEPS and fit.steps == 0 and fit.evaluations == 1
    same(fit.params, as_dtype(START, np.float64))
    assert fit.trace.shape == (1,)
    assert_consistent(fit, POISSON, COUNTS)


def test_max_steps():
    fit = jaxem.fit(POISSON, START, COUNTS, max_steps=3)
    assert fit.status == Status.MAX_STEPS and not fit.converged
    assert fit.steps == 3 and fit.evaluations == 4 and fit.trace.shape == (4,)
    assert_consistent(fit, POISSON, COUNTS)
    with pytest.raises(ValueError, match="max_steps must be at least 0; it is -1"):
        jaxem.fit(POISSON, START, COUNTS, max_steps=-1)


@pytest.mark.slow
def test_params_are_cast_to_the_dtype_of_the_data():
    model = Model(linkage_e_step, linkage_m_step, log_likelihood=linkage_log_likelihood)
    plain = jaxem.fit(model, 0.5, LINKAGE)  # a Python float
    for start in (np.float32(0.5), jnp.asarray(0.5, jnp.float32), np.float64(0.5), jnp.asarray(0.5)):
        same(jaxem.fit(model, start, LINKAGE), plain)
    assert plain.params.dtype == jnp.float64 and not plain.params.weak_type
    assert jaxem.fit(model, np.float64(0.5), LINKAGE.astype(np.float32)).params.dtype == jnp.float32
    # Whole numbers have no floating dtype: JAX's default.
    fit = jaxem.fit(POISSON, as_dtype(START, np.float32), COUNTS.astype(int), max_steps=3)
    assert fit.objective.dtype == jnp.float64
    same(fit, jaxem.fit(POISSON, START, COUNTS, max_steps=3))


@pytest.mark.slow
def test_a_fit_inside_jit_equals_one_outside():
    outside = jaxem.fit(POISSON, START, COUNTS)
    params, data = as_dtype((START, COUNTS), np.float64)
    same(jitted_fit(POISSON, params, data), outside)
    # Of nothing but constants, which XLA folds with roundings of its own.
    folded = jax.jit(lambda: jaxem.fit(POISSON, params, data))()
    assert folded.steps == outside.steps and folded.status == outside.status
    assert_within(folded.objective, outside.objective, 32 * EPS * abs(float(outside.objective)))


# Failures


def test_nan_in_the_data():
    bad = COUNTS.copy()
    bad[7] = np.nan
    with pytest.raises(ValueError, match=r"a non-negative whole number .* 1 of 50 are not, the first is number 7: nan"):
        jaxem.fit(POISSON, START, bad)
    start = as_dtype(START, np.float64)
    fit = jitted_fit(POISSON, start, jnp.asarray(bad))
    assert fit.status == Status.INVALID and not fit.converged
    assert fit.steps == 0 and not np.isfinite(fit.objective)
    same(fit.params, start)


def test_an_impossible_value_in_the_data():
    bad = COUNTS.copy()
    bad[7] = -1
    with pytest.raises(ValueError, match="the first is number 7: -1"):
        jaxem.fit(POISSON, START, bad)
    assert jitted_fit(POISSON, as_dtype(START, np.float64), jnp.asarray(bad)).status == Status.INVALID


def test_an_objective_that_is_no_number():
    """The parameters are fine and the objective is not: the last iterate with both is returned."""

    def log_likelihood(theta, counts):
        return jnp.where(theta > 0.6, jnp.nan, linkage_log_likelihood(theta, counts))

    model = Model(linkage_e_step, linkage_m_step, log_likelihood=log_likelihood)
    fit = jaxem.fit(model, 0.3, LINKAGE)
    assert fit.status == Status.NON_FINITE
    assert fit.steps > 0 and fit.params <= 0.6
    assert_consistent(fit, model, LINKAGE)
    assert jaxem.fit(model, 0.7, LINKAGE, max_steps=0).status == Status.NON_FINITE


def test_nan_in_the_data_of_a_model_of_ones_own():
    model = Model(linkage_e_step, linkage_m_step)
    fit = jaxem.fit(model, 0.5, np.array([125.0, np.nan, 20.0, 34.0]))
    assert fit.status == Status.NON_FINITE
    assert fit.params == 0.5 and fit.steps == 0


def test_a_start_that_is_impossible():
    bad = START._replace(components=PoissonParams(np.array([-1.0, 2.0])))
    with pytest.raises(ValueError, match=r"the start of components\.rates must be positive; it is not"):
        jaxem.fit(POISSON, bad, COUNTS)
    with pytest.raises(ValueError, match=r"the parameters must be MixtureParams\(weights, components\)"):
        jaxem.fit(POISSON, {"weights": np.ones(2) / 2}, COUNTS)
    # Inside its space, and yet no count but zero is possible.
    zero = START._replace(components=PoissonParams(np.zeros(2)))
    fit = jaxem.fit(POISSON, zero, COUNTS)
    assert fit.status == Status.NON_FINITE and fit.objective == -np.inf
    same(fit.params, as_dtype(zero, np.float64))


def test_fewer_observations_than_components():
    with pytest.raises(ValueError, match="1 observations cannot tell 2 classes apart; use k <= 1"):
        jaxem.fit(NORMAL, NORMAL_START, X[:1])
    fit = jitted_fit(NORMAL, as_dtype(NORMAL_START, np.float64), jnp.asarray(X[:1]))
    assert fit.status == Status.DEGENERATE


EMPTY = START._replace(components=PoissonParams(np.array([5.0, 1e5])))  # exp(-1e5) is zero: nothing is of class 1


def test_a_component_that_empties():
    fit = jaxem.fit(POISSON, EMPTY, COUNTS)
    assert fit.status == Status.DEGENERATE
    assert fit.steps == 0 and fit.evaluations == 2
    same(fit.params, as_dtype(EMPTY, np.float64))
    assert_consistent(fit, POISSON, COUNTS)


# The largest observation and nothing near it
COLLAPSING = MixtureParams(np.array([0.005, 0.995]), NormalParams(np.array([X.max(), 1.7]), np.array([1e-4, 4.0])))


def test_a_component_that_collapses_on_a_point():
    fit = jaxem.fit(NORMAL, COLLAPSING, X)
    assert fit.status == Status.DEGENERATE
    assert_consistent(fit, NORMAL, X)
    assert fit.params.components.variances.min() > 0
    # Thirty observations on one point are no better.
    x = np.concatenate([X, np.full(30, X.max())])
    fit = jaxem.fit(NORMAL, COLLAPSING, x)
    assert fit.status == Status.DEGENERATE
    assert_consistent(fit, NORMAL, x)


@pytest.mark.parametrize("form", ["full", "tied"])
@pytest.mark.slow
def test_data_on_a_line(form):
    x = X[:60, None] * np.array([1.0, -2.0]) + np.array([0.5, 100.0])
    covariances = {"full": np.stack([np.eye(2)] * 2), "tied": np.eye(2)}[form]
    start = MixtureParams(np.array([0.5, 0.5]), MultivariateNormalParams(x[:2], covariances))
    model = Mixture(MultivariateNormal(form), 2)
    for units in (1.0, 1e-6):
        scaled = start._replace(components=MultivariateNormalParams(units * x[:2], units**2 * covariances))
        fit = jaxem.fit(model, scaled, units * x)
        assert fit.status == Status.DEGENERATE
        assert_consistent(fit, model, units * x)
    if form == "tied":
        return
    # A prior makes it a model again.
    model = Mixture(MultivariateNormal(form, NormalInverseWishart(x.mean(axis=0), 0.01, 4.0, np.eye(2))), 2)
    assert jaxem.fit(model, start, x, max_steps=30).status in (Status.CONVERGED, Status.MAX_STEPS)


def overshooting_m_step(z, counts):
    """Right as long as there is far to go; near the optimum it steps past it."""
    return jnp.minimum(linkage_m_step(z, counts) + 0.05, 0.99)


def test_an_m_step_that_lowers_the_objective():
    model = Model(linkage_e_step, overshooting_m_step, log_likelihood=linkage_log_likelihood)
    fit = jaxem.fit(model, 0.1, LINKAGE)
    assert fit.status == Status.DECREASED and not fit.converged
    assert 0 < fit.steps < 10
    assert fit.evaluations == fit.steps + 2  # the step that was not taken is paid for
    assert_consistent(fit, model, LINKAGE)
    trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
    assert (np.diff(trace) > 0).all()  # the last good iterate is the best one


def test_a_fall_within_rounding_error_is_no_failure():
    """The objective of a fit at its optimum goes up and down by rounding error for ever."""
    optimum = jaxem.fit(POISSON, START, COUNTS, stop=jaxem.fitting.parameter_change(0.0))
    for scale in (1.0, 3.0):
        data = Dataset(COUNTS, weights=np.full(50, scale))
        fit = jaxem.fit(POISSON, optimum.params, data, stop=Never(), max_steps=300)
        assert fit.status == Status.MAX_STEPS
        assert_consistent(fit, POISSON, data)


# Lanes


def lanes(params: Any, data: Any) -> Fit:
    return jax.vmap(lambda p, x: jaxem.fit(POISSON, p, x))(params, data)


def stack(*trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


@pytest.mark.parametrize("trouble", ["nan", "empty"])
def test_a_bad_lane_leaves_the_others_alone(trouble):
    other_start = START._replace(weights=np.array([0.2, 0.8]))
    nan = np.where(np.arange(50) == 3, np.nan, COUNTS)
    middle = (START, nan) if trouble == "nan" else (EMPTY, COUNTS)
    good = [(START, COUNTS), (START, COUNTS), (other_start, COUNTS[::-1] + 1)]
    bad = [good[0], middle, good[2]]
    batches = [
        lanes(stack(*(p for p, _ in batch)), jnp.asarray(np.stack([x for _, x in batch]))) for batch in (good, bad)
    ]
    assert batches[1].status[1] == (Status.INVALID if trouble == "nan" else Status.DEGENERATE)
    # In the same program, to the bit.
    for lane in (0, 2):
        same(*(jax.tree.map(lambda leaf, lane=lane: leaf[lane], batch) for batch in batches))
    # Beside a fit of its own, to rounding: N terms of at most 20, some 100 steps that each forget the last's error.
    for lane in (0, 2):
        one = jaxem.fit(POISSON, *good[lane])
        assert one.steps == batches[1].steps[lane] and one.status == Status.CONVERGED
        assert_within(batches[1].objective[lane], one.objective, 32 * EPS * abs(float(one.objective)))
        for a, b in zip(jax.tree.leaves(batches[1].params), jax.tree.leaves(one.params), strict=True):
            assert_within(a[lane], b, 64 * np.sqrt(50) * EPS * 20)
    # The bad lane gave back its start, and one lane's end is not another's.
    same(jax.tree.map(lambda leaf: leaf[1], batches[1].params), as_dtype(middle[0], np.float64))
    assert batches[1].steps[1] == 0 and batches[1].steps[0] != batches[1].steps[2]
    trace, steps = np.asarray(batches[1].trace), np.asarray(batches[1].steps)
    for lane in (0, 2):
        assert np.isfinite(trace[lane, : steps[lane] + 1]).all() and np.isnan(trace[lane, steps[lane] + 1 :]).all()


# check and str


def test_check_returns_what_converged():
    fit = jaxem.fit(POISSON, START, COUNTS)
    assert jaxem.check(fit) is fit


def test_check_names_the_causes():
    with pytest.raises(FitError, match=r"MAX_STEPS after 3 steps: .*raise max_steps"):
        jaxem.check(jaxem.fit(POISSON, START, COUNTS, max_steps=3))
    with pytest.raises(FitError, match=r"DEGENERATE after 0 steps: a component emptied .* Use fewer components"):
        jaxem.check(jaxem.fit(POISSON, EMPTY, COUNTS))
    with pytest.raises(FitError, match=r"NON_FINITE after 0 steps: .*NaN or inf in the data"):
        jaxem.check(jaxem.fit(Model(linkage_e_step, linkage_m_step), 0.5, np.full(4, np.nan)))


def records(*statuses: Status) -> Fit:
    n = len(statuses)
    objective = np.where([status == Status.NON_FINITE for status in statuses], np.nan, -np.arange(n) - 1.0)
    return Fit(
        {"theta": jnp.zeros(n)},
        jnp.asarray(objective),
        jnp.zeros((n, 3)),
        jnp.arange(n),
        jnp.arange(n) + 1,
        jnp.zeros(n, jnp.int32),
        jnp.asarray(statuses, jnp.int32),
    )


def test_check_names_the_lanes():
    assert jaxem.check(records(Status.CONVERGED, Status.CONVERGED)).status.shape == (2,)
    with pytest.raises(FitError) as caught:
        jaxem.check(records(Status.CONVERGED, Status.MAX_STEPS, Status.DEGENERATE, Status.MAX_STEPS))
    assert "MAX_STEPS in lane(s) 1, 3:" in str(caught.value)
    assert "DEGENERATE in lane(s) 2:" in str(caught.value)
    assert "CONVERGED" not in str(caught.value)
    with pytest.raises(FitError, match=r"DECREASED in lane\(s\) 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.:"):
        jaxem.check(records(*[Status.DECREASED] * 12))


def test_check_cannot_look_into_a_trace():
    with pytest.raises(ValueError, match=r"jaxem.check looks at values, .* use fit.status"):
        jax.jit(jaxem.check)(records(Status.CONVERGED))


def test_every_status_has_causes():
    from jaxem.fitting.result import CAUSES

    assert set(CAUSES) == set(Status)


def test_a_fit_prints_as_a_table():
    fit = jaxem.fit(POISSON, START, COUNTS)
    lines = str(fit).splitlines()
    assert lines[0] == "Fit" and repr(fit) == str(fit)
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:]}
    assert rows["status"] == "CONVERGED"
    assert rows["left"] == f"about {float(fit.left):.1g}"
    assert rows["steps"] == str(int(fit.steps))
    assert float(rows["objective"]) == pytest.approx(float(fit.objective), rel=1e-9)
    assert rows["weights"].startswith("[0.") and rows["components.rates"].startswith("[")
    assert "evaluations" not in rows  # one a step, as it must be
    assert len({line.index(row) for line, row in zip(lines[1:], rows.values(), strict=True)}) == 1  # in one column


def test_an_array_of_rows_keeps_its_column():
    x = np.stack([X, X[::-1]], axis=1)
    start = MixtureParams(np.array([0.5, 0.5]), MultivariateNormalParams(x[:2], np.stack([np.eye(2)] * 2)))
    text = str(jaxem.fit(Mixture(MultivariateNormal(), 2), start, x, max_steps=1))
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if "components.means" in line)
    assert lines[first].index("[[") + 1 == lines[first + 1].index("[")


def test_a_batch_prints_as_a_summary():
    text = str(records(Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED))
    assert text.splitlines() == [
        "Fit of 3 lanes",
        "  CONVERGED   2",
        "  NON_FINITE  1",
        "  objective   -3 to -1",
        "  steps       0 to 2",
    ]
    assert "none finite" in str(records(Status.NON_FINITE))


def test_a_traced_fit_prints():
    seen = []
    shapes = jax.eval_shape(lambda: seen.append(str(f := jaxem.fit(POISSON, START, COUNTS))) or f)
    assert seen[0].startswith("Fit(abstract, params=") and str(shapes).startswith("Fit(abstract, params=")


# Stopping rules


def target_m_step(q, data):
    """theta moves a share 1 - r of the way to 1: errors r^t."""
    return 1 + data[0] * (q - 1)


GEOMETRIC = Model(
    lambda theta, data: theta,
    target_m_step,
    log_likelihood=lambda theta, data: -((theta - 1) ** 2).sum(),
)
RATE = 0.9


def expected_steps(met: Any) -> int:
    """The first step at which met(theta, objective, step) holds, for theta_t = 1 + r^t."""
    theta = 1 + RATE ** np.arange(400.0)
    objective = -((theta - 1) ** 2)
    return next(t for t in range(1, 400) if met(theta, objective, t))


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
@pytest.mark.parametrize(
    ("rule", "met"),
    [
        (
            lambda tol: jaxem.fitting.parameter_change(tol),
            lambda tol: lambda x, f, t: abs(x[t] - x[t - 1]) <= tol * max(x[t], x[t - 1]),
        ),
        (lambda tol: jaxem.fitting.objective_change(tol), lambda tol: lambda x, f, t: f[t] - f[t - 1] <= tol),
        # The series is geometric, so the limit that Aitken extrapolates is the limit: 0.
        (lambda tol: jaxem.fitting.aitken(tol), lambda tol: lambda x, f, t: t >= 2 and -f[t] <= tol),
        (
            lambda tol: jaxem.fitting.all_of(jaxem.fitting.objective_change(tol), jaxem.fitting.parameter_change(tol)),
            lambda tol: lambda x, f, t: f[t] - f[t - 1] <= tol and abs(x[t] - x[t - 1]) <= tol * x[t - 1],
        ),
        (
            lambda tol: jaxem.fitting.any_of(jaxem.fitting.objective_change(tol), jaxem.fitting.parameter_change(tol)),
            lambda tol: lambda x, f, t: f[t] - f[t - 1] <= tol or abs(x[t] - x[t - 1]) <= tol * x[t - 1],
        ),
    ],
    ids=["parameter_change", "objective_change", "aitken", "all_of", "any_of"],
)
def test_rules_stop_where_they_should(rule, met, tol):
    fit = jaxem.fit(GEOMETRIC, 2.0, np.array([RATE]), stop=rule(tol))
    assert fit.status == Status.CONVERGED
    assert fit.steps == expected_steps(met(tol))


def test_the_default_rule_asks_what_is_left():
    for tol in (1e-4, 1e-6, 1e-9):
        fit = jaxem.fit(GEOMETRIC, 2.0, np.array([RATE]), tol=tol)
        left = -float(fit.objective)
        assert fit.converged and left <= tol and float(fit.left) == pytest.approx(left, rel=2)
        assert left >= tol * RATE**4 / 4  # and no more than that
    without = Model(GEOMETRIC.e_step, GEOMETRIC.m_step)
    fit = jaxem.fit(without, 2.0, np.array([RATE]), tol=1e-6)
    assert 0.5e-6 <= float(fit.params) - 1 <= 1e-6 and np.isnan(fit.left)


def test_rules_of_different_tolerances_nest():
    rule = jaxem.fitting.any_of(
        jaxem.fitting.all_of(jaxem.fitting.parameter_change(1e-3), jaxem.fitting.aitken(1e-3)),
        jaxem.fitting.objective_change(1e-12),
    )
    assert rule.needs_objective
    assert not jaxem.fitting.all_of(
        jaxem.fitting.parameter_change(1e-3), jaxem.fitting.any_of(jaxem.fitting.parameter_change(1e-2))
    ).needs_objective
    fit = jaxem.fit(GEOMETRIC, 2.0, np.array([RATE]), stop=rule)
    assert fit.steps == expected_steps(lambda x, f, t: x[t - 1] - x[t] <= 1e-3 * x[t - 1] and -f[t] <= 1e-3)


def progress(trace: list, **changes: Any) -> Progress:
    values = jnp.asarray([*trace, jnp.nan])
    record = Progress(jnp.ones(2), jnp.ones(2), values, jnp.int32(len(trace) - 1), jnp.asarray(1.0))
    return record._replace(**changes)


def test_rules_and_nan():
    for rule in (jaxem.fitting.objective_change(1e9), jaxem.fitting.aitken(1e9)):
        assert not rule.met(progress([-1.0, jnp.nan]))
    assert not jaxem.fitting.aitken(1e9).met(progress([-2.0, -1.0]))  # two values have no rate
    assert not jaxem.fitting.parameter_change(1e9).met(progress([-1.0], params=jnp.array([1.0, jnp.nan])))


def test_aitken_waits_while_the_gains_grow():
    assert not jaxem.fitting.aitken(1e-3).met(progress([-3.0, -2.9999, -2.9]))
    assert not jaxem.fitting.aitken(1e-3).met(progress([-3.0, -2.9, -2.8]))  # a straight line has no limit
    # Small gains, and small what a series of this rate would leave: but this is none that ends.
    assert not jaxem.fitting.aitken(1e-3).met(progress([-3.0, -3.0 + 1e-4, -3.0 + 2.5e-4]))
    assert not jaxem.fitting.aitken(1e-3).met(progress([-3.0, -3.0 + 1e-4, -3.0 + 0.5e-4]))
    assert jaxem.fitting.aitken(1e-3).met(progress([-3.0, -3.0 + 1e-4, -3.0 + 1.5e-4]))
    assert jaxem.fitting.aitken(1e-3).met(progress([-3.0, -3.0, -3.0]))


def test_rules_that_need_an_objective_say_so():
    model = Model(linkage_e_step, linkage_m_step)
    for rule in (
        jaxem.fitting.objective_change(1e-6),
        jaxem.fitting.aitken(1e-6),
        jaxem.fitting.any_of(jaxem.fitting.parameter_change(1e-6), jaxem.fitting.aitken(1e-6)),
        jaxem.fitting.all_of(jaxem.fitting.parameter_change(1e-6), jaxem.fitting.aitken(1e-6)),
    ):
        with pytest.raises(ValueError, match=r"reads the objective, and the model has none\. Use .*parameter_change"):
            jaxem.fit(model, 0.5, LINKAGE, stop=rule)
    for combine in (jaxem.fitting.any_of, jaxem.fitting.all_of):
        with pytest.raises(ValueError, match=f"jaxem.{combine.__name__} needs at least one rule"):
            combine()


def test_the_default_rule_ends_near_the_optimum():
    """Two normal classes that overlap, rate 0.9: the gap is below the 5e-10 an observed value that is promised."""
    fit = jaxem.check(jaxem.fit(NORMAL, NORMAL_START, X))
    gains = np.diff(np.asarray(fit.trace)[: int(fit.steps) + 1])
    rate = np.sqrt(gains[-1] / gains[-2])
    assert 0.85 < rate < 0.93
    longest = jaxem.fit(NORMAL, NORMAL_START, X, stop=Never(), max_steps=2000)
    gap = float(longest.objective - fit.objective)
    # r^2 / (1 - r^2) of the last change allowed, 1e-10 an observed value
    assert 0 <= gap <= 1e-10 * rate**2 / (1 - rate**2) * len(X)
    assert gap < 1e-6 * abs(float(longest.objective))


def test_decisions_know_neither_size_nor_units():
    plain = jaxem.fit(NORMAL, NORMAL_START, Dataset(X, weights=np.ones(200)))
    twice = jaxem.fit(NORMAL, NORMAL_START, Dataset(X, weights=np.full(200, 2.0)))
    assert plain.steps == twice.steps and plain.status == twice.status == Status.CONVERGED
    assert_within(twice.objective, 2 * plain.objective, 32 * EPS * 2 * abs(float(plain.objective)))
    for units in (1e3, 1e-3):
        m, v = NORMAL_START.components
        start = NORMAL_START._replace(components=NormalParams(units * m, units**2 * v))
        scaled = jaxem.fit(NORMAL, start, Dataset(units * X, weights=np.ones(200)))
        assert scaled.steps == plain.steps and scaled.status == Status.CONVERGED
        assert_within(scaled.objective, plain.objective - 200 * np.log(units), 32 * EPS * 2000)


# Compilation


def test_a_second_fit_compiles_nothing(count_compilations):
    def problem(seed: int, dof: float, tol: float) -> Fit:
        x = np.random.default_rng(seed).normal(size=(40, 2))
        prior = NormalInverseWishart(np.zeros(2), np.array(0.01), np.array(dof), np.eye(2))
        model = Mixture(MultivariateNormal("diag", prior), 2)
        params = model.init(jax.random.key(seed), x)
        return jaxem.fit(model, params, x, tol=tol, max_steps=50)

    with count_compilations() as first:
        one = problem(0, 4.0, 1e-6)
    assert first.count > 0
    with count_compilations() as second:
        other = problem(1, 6.0, 1e-9)
    assert second.count == 0
    assert one.objective != other.objective


def test_other_rules_of_the_same_kind_compile_nothing(count_compilations):
    def rule(tol: float) -> Any:
        return jaxem.fitting.any_of(
            jaxem.fitting.aitken(tol),
            jaxem.fitting.all_of(jaxem.fitting.objective_change(tol), jaxem.fitting.parameter_change(tol)),
        )

    first = jaxem.fit(POISSON, START, COUNTS, stop=rule(1e-3))
    with count_compilations() as compiled:
        second = jaxem.fit(Mixture(Poisson(), 2), START, COUNTS, stop=rule(1e-8), algorithm=EM())
    assert compiled.count == 0
    assert second.steps > first.steps


def test_compilations_are_counted(count_compilations):
    """Without this the tests above would prove nothing."""
    with count_compilations() as compiled:
        jax.jit(lambda x: 3 * x + 1)(1.0)
    assert compiled.count == 1


# What a model lacks, or gets wrong


def test_what_is_missing_is_named():
    nothing = Model(linkage_e_step)
    for function, says in [
        (lambda: jaxem.fit(object(), 0.5, LINKAGE), r"EM needs e_step, which object lacks. Write: e_step\(params"),
        (lambda: jaxem.fit(nothing, 0.5, LINKAGE), r"EM needs m_step, which Model lacks. Write: m_step\(q, data\)"),
        (
            lambda: jaxem.fit(Model(linkage_e_step, linkage_m_step), 0.5, LINKAGE, algorithm=GEM()),
            r"GEM needs q_function.*, which Model lacks\. Write: q_function\(params, q, data\) = E_q log p\(x, z",
        ),
        (
            lambda: jaxem.fit(Model(linkage_e_step, entropy=lambda q, d: 0.0), 0.5, LINKAGE, algorithm=GEM()),
            "GEM needs q_function, which Model lacks",
        ),
        (
            lambda: jaxem.core.elbo(nothing, 0.5, 0.1, LINKAGE),
            "the ELBO needs q_function and entropy, which Model lacks",
        ),
        (
            lambda: jaxem.core.kl(nothing, 0.5, 0.1, LINKAGE),
            "the KL divergence needs log_likelihood, which Model lacks",
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            function()


def test_the_default_algorithm():
    assert choose(None, POISSON) == EM()
    gradient_only = jaxem.from_log_joint(lambda params, x: params)
    assert choose(None, gradient_only) == GEM()
    assert choose(None, Model(linkage_e_step, linkage_m_step)) == EM()


@pytest.mark.parametrize(
    ("m_step", "says"),
    [
        (
            lambda q, d: {"a": jnp.zeros(3), "b": q["b"]},
            r"the M-step returns a as float64\[3\], .* start is float64\[2\]",
        ),
        (
            lambda q, d: q | {"b": q["b"].astype(jnp.float32)},
            r"the M-step returns b as float32\[\], but the start is float64\[\]",
        ),
        (lambda q, d: {"a": q["a"]}, "the M-step returns another structure than the start has"),
        (lambda q, d: (q["a"], q["b"]), "the M-step returns another structure than the start has"),
    ],
)
def test_an_m_step_that_returns_something_else(m_step, says):
    with pytest.raises(ValueError, match=says):
        jaxem.fit(Model(lambda params, data: params, m_step), {"a": np.zeros(2), "b": 1.0}, np.zeros(3))


# Generalised EM


@pytest.mark.parametrize("optimizer", [optax.sgd(1e6), optax.adam(1e3)], ids=["sgd(1e6)", "adam(1e3)"])
@pytest.mark.slow
def test_gem_ascends_at_any_learning_rate(optimizer):
    fit = jaxem.fit(POISSON, START, COUNTS, algorithm=GEM(optimizer), max_steps=100)
    assert fit.status in (Status.CONVERGED, Status.MAX_STEPS)
    assert_consistent(fit, POISSON, COUNTS)
    trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
    assert np.diff(trace).min() >= -4 * EPS * (abs(trace[-1]) + len(COUNTS))
    assert trace[-1] > trace[0] + 0.1


@pytest.mark.slow
def test_gem_does_not_take_slow_for_settled():
    fit = jaxem.fit(POISSON, START, COUNTS, algorithm=GEM(optax.sgd(1e-12)), max_steps=100)
    assert fit.status == Status.MAX_STEPS and fit.steps == 100
    assert_consistent(fit, POISSON, COUNTS)


@pytest.mark.slow
def test_gem_reaches_the_optimum_of_em():
    em = jaxem.fit(POISSON, START, COUNTS, stop=jaxem.fitting.parameter_change(1e-12))
    gem = jaxem.check(jaxem.fit(POISSON, START, COUNTS, algorithm=GEM()))
    assert_consistent(gem, POISSON, COUNTS)
    # What the default rule leaves: 5e-10 an observed value at a rate of 0.9, and GEM settles at a gain of 1e-10.
    assert_within(gem.objective, em.objective, 1e-9 * len(COUNTS))


# Accumulation


def test_the_number_of_blocks_does_not_matter(dtype):
    x = as_dtype(np.full(100_003, -1.7231), dtype)
    found = jax.jit(
        lambda x: accumulate(lambda block: {"sum": block.sum(), "count": block.shape[0] + 0 * block[0]}, x, 10)
    )(x)
    exact = 100_003 * float(x[0])
    assert found["count"] == 100_003
    assert_within(found["sum"], exact, 8 * eps(dtype) * abs(exact))  # a sum of ten, and one more rounding
    one_by_one = float(jax.jit(lambda x: jax.lax.scan(lambda s, y: (s + y, None), 0 * x[0], x)[0])(x))
    assert abs(one_by_one - exact) > 100 * eps(dtype) * abs(exact)


def test_a_million_rows_in_float32():
    n = 1_000_000
    rng = np.random.default_rng(0)
    x = (100 + np.where(rng.random(n) < 0.3, rng.normal(size=n), 3 + 0.5 * rng.normal(size=n))).astype(np.float32)
    params = MixtureParams(np.array([0.25, 0.75]), NormalParams(np.array([100.0, 103.0]), np.array([1.0, 0.25])))
    single, double = (
        jax.jit(expect)(NORMAL, as_dtype(params, dtype), as_dtype(x, dtype)) for dtype in (np.float32, np.float64)
    )
    assert single.objective.dtype == jnp.float32
    # The accuracy on which fit's slack for the ascent law counts.
    assert_within(single.objective, double.objective, 32 * eps(np.float32) * (abs(float(double.objective)) + n))
    # The sums are of n terms of size one, r, r |y| and r y^2 with r <= 1 and y = x - mean of a few; rounding that
    # grew with the number of terms would show.
    jax.tree.map(lambda a, b: assert_within(a, b, 4 * eps(np.float32) * n), single.summary, double.summary)
    new = maximize_sums(NORMAL, as_dtype(params, np.float32), single.summary)
    exact = maximize_sums(NORMAL, as_dtype(params, np.float64), double.summary)
    assert_within(new.components.means, exact.components.means, eps(np.float32) * 128)
    assert_within(new.components.variances, exact.components.variances, 32 * eps(np.float32))
