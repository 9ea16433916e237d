"""No unit decides anything in gradient M-steps: other units, shifts, and data taken twice leave every step the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem import GEM, Status
from jaxem.algorithms import Group, metric
from jaxem.core.data import size

RNG = np.random.default_rng(4)
LBFGS, SGD, ADAM, MOMENTUM = optax.lbfgs(), optax.sgd(0.5), optax.adam(0.2), optax.sgd(0.2, momentum=0.8)
GAIN = jaxem.fitting.objective_change(1e-10)  # and GEM's own verdict
OPTIMIZERS = {"L-BFGS": LBFGS, "sgd": SGD, "adam": ADAM, "momentum": MOMENTUM}


def log_normal(r: Any, v: Any) -> Any:
    return -(r**2) / (2 * v) - jnp.log(2 * jnp.pi * v) / 2


# Two groups of normal rows (N, 3), one mean and one variance a column and group; and a regression on three columns.

CLASSES = jaxem.from_log_joint(
    lambda p, y: jnp.log(p["w"]) + log_normal(y[None, :] - p["m"], p["v"]).sum(axis=1),
    constraints={"w": jaxem.Simplex(), "m": jaxem.Real(), "v": jaxem.Positive()},
)
ROWS = RNG.normal(size=(40, 3)) + 2.5 * (np.arange(40) < 15)[:, None]
CLASSES_START = {
    "w": np.array([0.4, 0.6]),
    "m": np.array([[2.0, 1.0, 3.0], [0.5, 0.0, -0.5]]),
    "v": np.full((2, 3), 2.0),
}

REGRESSION = jaxem.from_log_joint(
    lambda p, row: log_normal(row[1] - p["a"] - row[0] @ p["b"], p["v"])[None],
    constraints={"a": jaxem.Real(), "b": jaxem.Real(), "v": jaxem.Positive()},
)
DESIGN = RNG.normal(size=(30, 3))
RESPONSE = DESIGN @ np.array([1.0, -2.0, 0.5]) + 2 + 0.5 * RNG.normal(size=30)
REGRESSION_START = {"a": 0.0, "b": np.zeros(3), "v": 4.0}


def classes(scale: Any = 1.0, shift: Any = 0.0) -> tuple[Any, Any, Any]:
    """Columns times ``scale`` plus ``shift``, and the start moved along."""
    p = CLASSES_START
    start = {"w": p["w"], "m": p["m"] * scale + shift, "v": p["v"] * np.square(scale)}
    return CLASSES, start, ROWS * scale + shift


def regression(scale: Any = 1.0, shift: Any = 0.0, outcome: float = 1.0) -> tuple[Any, Any, Any]:
    """Covariates times ``scale`` plus ``shift``, the response times ``outcome``; the start is the same curve."""
    p = REGRESSION_START
    b = outcome * p["b"] / scale
    start = {"a": outcome * p["a"] - (b * shift).sum(), "b": b, "v": p["v"] * outcome**2}
    return REGRESSION, start, (DESIGN * scale + shift, RESPONSE * outcome)


UNITS = np.array([1e-4, 1.0, 3e5])
CASES = {
    "columns of unlike units": (classes, {"scale": UNITS}),
    "columns far from the origin": (classes, {"scale": UNITS, "shift": np.array([1e-2, -40.0, 7e7])}),
    "covariates of unlike units": (regression, {"scale": UNITS}),
    "response": (regression, {"outcome": 1e-5}),
}


def run(problem: Any, algorithm: Any, steps: int, dtype: Any = np.float64) -> jaxem.Fit:
    model, start, data = jax.tree.map(lambda x: x if callable(x) else np.asarray(x, dtype), problem)
    return jaxem.fit(model, start, data, algorithm=algorithm, max_steps=steps, stop=GAIN)


def trace_of(fit: jaxem.Fit) -> np.ndarray:
    return np.asarray(fit.trace)[: int(fit.steps) + 1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_other_units_leave_every_step_the_same(case, optimizer):
    build, units = CASES[case]
    algorithm = GEM(OPTIMIZERS[optimizer], steps=4)
    plain, other = (run(problem, algorithm, 60) for problem in (build(), build(**units)))
    assert int(plain.status) == int(other.status) and int(plain.steps) == int(other.steps)
    gained, as_much = (trace_of(fit) - float(fit.trace[0]) for fit in (plain, other))
    assert gained[-1] > 10
    # Where a number far from the origin is stored, 1e-9 of what it is apart is lost, and each climb carries that on.
    assert_within(as_much, gained, 1e-6 * gained[-1])


@pytest.mark.parametrize("optimizer", ["L-BFGS", "sgd", "momentum"])
@pytest.mark.slow
def test_a_shift_of_a_covariate_changes_nothing(optimizer):
    """It mixes the intercept with the slopes: only the whole curvature sees through it. (Adam works coordinate by
    coordinate, and so depends on how the whitened ones are turned.)"""
    algorithm = GEM(OPTIMIZERS[optimizer], steps=4)
    plain, other = (run(p, algorithm, 60) for p in (regression(), regression(UNITS, np.array([2e-3, -30.0, 6e6]))))
    assert int(plain.status) == int(other.status) == Status.CONVERGED
    gained, as_much = (trace_of(fit) - float(fit.trace[0]) for fit in (plain, other))
    # The metric of directions far from the optimum is not quite the same: where it starts is.
    assert_within(as_much[-1], gained[-1], 1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_data_taken_twice_change_no_step(optimizer):
    model, start, data = classes()
    algorithm = GEM(OPTIMIZERS[optimizer], steps=4)
    once, twice = (run((model, start, rows), algorithm, 15) for rows in (data, np.concatenate([data, data])))
    assert_within(trace_of(twice)[:15], 2 * trace_of(once)[:15], 1e-7 * abs(float(once.objective)))


@pytest.mark.parametrize("optimizer", ["L-BFGS", "sgd"])
@pytest.mark.slow
def test_blocks_are_measured_by_themselves(optimizer):
    algorithm = GEM(OPTIMIZERS[optimizer], steps=4, groups=(Group("v"), Group(("m", "w"))))
    build, units = CASES["columns far from the origin"]
    plain, other = (run(problem, algorithm, 60) for problem in (build(), build(**units)))
    assert int(plain.status) == int(other.status) == Status.CONVERGED and int(plain.steps) == int(other.steps)
    gained, as_much = (trace_of(fit) - float(fit.trace[0]) for fit in (plain, other))
    assert_within(as_much, gained, 1e-6 * gained[-1])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("spread", [1e4, 3e4, 1e-3])
@pytest.mark.slow
def test_a_normal_far_from_the_origin(spread, optimizer):
    """Twenty numbers near 70,000: CONVERGED is the maximum, mean and variance of the sample, from a start at another
    mean, in either precision."""
    x = 70_000 + spread * RNG.normal(size=20)
    model = jaxem.from_log_joint(
        lambda p, y: log_normal(y - p["m"], p["v"])[None], constraints={"m": jaxem.Real(), "v": jaxem.Positive()}
    )
    best = -10 * (np.log(2 * np.pi * x.var()) + 1)
    for dtype in (np.float64, np.float32) if spread > 1 else (np.float64,):  # 32 bits do not hold the data themselves
        start = {"m": 70_000 + 2 * spread, "v": 4 * spread**2}
        fit = run((model, start, x), GEM(OPTIMIZERS[optimizer]), 300, dtype)
        assert fit.status == Status.CONVERGED
        rounding = 32 * eps(dtype) * (abs(best) + 20)
        assert_within(fit.objective, best, 1e-8 + rounding)
        assert_within((float(fit.params["m"]) - x.mean()) / spread, 0, 0.002 + 4 * eps(dtype) * 7e4 / spread)


@pytest.mark.slow
def test_many_coordinates_are_equilibrated():
    """Forty covariates over ten orders of magnitude, without the Hessian: the least-squares fit, by any optimiser."""
    p, n = 40, 120
    assert p > metric.LARGEST_MATRIX
    units = 10.0 ** np.linspace(-5, 5, p)
    design = RNG.normal(size=(n, p))
    y = design @ RNG.normal(size=p) + RNG.normal(size=n)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    best = -n / 2 * (np.log(2 * np.pi * (residual**2).mean()) + 1)
    model = jaxem.from_log_joint(
        lambda q, row: log_normal(row[1] - row[0] @ q["b"], q["v"])[None],
        constraints={"b": jaxem.Real(), "v": jaxem.Positive()},
    )
    data = (design * units, y)
    for optimizer in (LBFGS, SGD):
        fit = run((model, {"b": np.zeros(p), "v": y.var()}, data), GEM(optimizer), 300)
        assert fit.status == Status.CONVERGED
        # What GEM settles at: 1e-10 an observed value.
        assert_within(fit.objective, best, 1e-10 * float(size(data, jnp.float64)))


# The metric and the verdict, on quadratic functions


def quadratic(p: int, condition: float) -> tuple[np.ndarray, np.ndarray]:
    """A negative-definite Hessian in unlike units, and a gradient."""
    basis = np.linalg.qr(RNG.normal(size=(p, p)))[0]
    units = 10.0 ** RNG.uniform(-4, 4, p)
    hessian = -(basis * np.geomspace(1, 1 / condition, p)) @ basis.T
    return units[:, None] * hessian * units[None, :], units * (hessian @ RNG.normal(size=p)) * 1e-6


def test_the_metric_whitens():
    hessian, gradient = quadratic(6, 50.0)
    w, inverse = metric.whitened(metric.spectrum(gradient, hessian), jnp.zeros(6))[1:]
    assert_within(w.T @ hessian @ w, -np.eye(6), 1e-9)
    assert_within(w @ inverse, np.eye(6), 1e-12 * np.abs(inverse).max() * np.abs(w).max())


@pytest.mark.parametrize("condition", [10.0, 1e4])
def test_the_gain_is_that_of_a_newton_step(condition):
    hessian, gradient = quadratic(8, condition)
    wanted = -0.5 * gradient @ np.linalg.solve(hessian, gradient)
    found = metric.newton_gain(gradient, hessian, metric.spectrum(gradient, hessian))
    assert_within(found, wanted, 1e-8 * wanted)
    # By its products: known to be more than it is asked for, or no less than it is.
    units = 1 / jnp.sqrt(jnp.abs(jnp.diagonal(hessian)))
    by_products = lambda enough: metric.conjugate_gain(lambda v: hessian @ v, gradient, units, jnp.asarray(enough))
    assert by_products(0.9 * wanted) > 0.9 * wanted
    assert not by_products(0.0) <= 0
    assert_within(by_products(1.1 * wanted), wanted, 0.1 * wanted)


def test_what_conjugate_gradients_have_not_seen_is_not_known():
    """Five hundred directions, one of them a million times flatter, along which the gain hides."""
    p = 500
    curvatures = np.geomspace(1, 1e-6, p)
    basis = np.linalg.qr(RNG.normal(size=(p, p)))[0]
    hessian = -(basis * curvatures) @ basis.T
    gradient = 1e-7 * basis @ np.ones(p)
    gain = 0.5 * gradient @ np.linalg.solve(-hessian, gradient)
    found = metric.conjugate_gain(lambda v: hessian @ v, jnp.asarray(gradient), jnp.ones(p), jnp.asarray(gain / 2))
    assert not found <= gain / 2


def test_a_coordinate_that_does_nothing_is_no_gain_and_no_matter():
    hessian, gradient = np.diag([-1e8, 0.0]), np.array([1e-2, 0.0])
    found = metric.spectrum(gradient, hessian)
    assert_within(metric.newton_gain(gradient, hessian, found), 0.5e-12, 1e-18)
    assert np.isfinite(metric.whitened(found, jnp.zeros(2)).forward).all()


def test_a_slope_without_curvature_is_not_settled():
    hessian, gradient = np.diag([-1.0, 0.0]), np.array([0.0, 1e-3])
    assert metric.newton_gain(gradient, hessian, metric.spectrum(gradient, hessian)) > 1e-2
