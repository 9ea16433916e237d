"""Every kind of restriction against direct maximisation: the free model's likelihood under linear equations.

The equations are written by hand here. Their null space is searched by a trust region with exact second derivatives,
from a point a few per cent away from the end of the fit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from closeness import assert_within
from jax.flatten_util import ravel_pytree
from test_restrict import CASES, HUB, case, data

import jaxem
from jaxem import SQUAREM
from jaxem.models import HMM, FactorAnalysis

EQUATIONS = {  # zero under the restriction
    "a variance": lambda p: [p.components.variances[1] - 1],
    "a mean": lambda p: [p.components.means[0] - 0.5],
    "variances": lambda p: [jnp.diff(p.components.variances)],
    "two classes": lambda p: [jnp.diff(p.components.means[:2]), jnp.diff(p.components.variances[:2])],
    "means": lambda p: [p.components.means[0] - p.components.means[1]],
    "even means": lambda p: [jnp.diff(p.components.means, n=2)],
    "a weight": lambda p: [p.weights[0] - 0.25],
    "a move": lambda p: [p.transition[0, 2], p.emissions.means[0]],
    "rows": lambda p: [p.transition[1, 0] - 0.1, p.transition[0] - p.transition[2]],
    "diag": lambda p: [p.components.means[0, 1] - 0.2, jnp.diff(p.components.covariances[:, 0])],
    "spherical": lambda p: [p.components.means[0], jnp.diff(p.components.covariances)],
    "full": lambda p: [p.components.means[0], jnp.diff(p.components.covariances, axis=0)],
    "zeros": lambda p: [p.components.covariances[0, 0, 1]],
    "tied": lambda p: [jnp.diff(p.components.means, axis=0)],
    "tied, an element": lambda p: [p.components.means[0, 1] - 0.2],
    "bernoulli": lambda p: [jnp.diff(p.components.probabilities[:, 2])],
    "categorical": lambda p: [
        p.components.probabilities[1][0, 0] - 0.2,
        jnp.diff(p.components.probabilities[0], axis=0),
    ],
    "poisson": lambda p: [p.components.rates[0] - 1],
    "exponential": lambda p: [p.weights - 0.5, jnp.diff(p.components.rates)],
    "factors": lambda p: [p.loadings[0, 1], p.mean[0] - 0.1],
    "two arrays": lambda p: [p.components["a"].variances - p.components["b"].variances],
    "a slope": lambda p: [p.weights.coefficients[:, 1]],
    "slopes of moves": lambda p: [
        p.transition.coefficients[0, :, 1],
        p.transition.coefficients[2, 1, 0] + 0.5,
        p.transition.coefficients[1, 0, 1] - p.transition.coefficients[1, 2, 1],
    ],
}


def of_the_space(model, p):
    """The equations that the free model's parameters satisfy: sums of probabilities, symmetry."""
    if isinstance(model, FactorAnalysis):
        return []
    if isinstance(model, HMM) and hasattr(p.transition, "coefficients"):
        moves = p.transition.coefficients
        return [p.initial.sum() - 1, moves.sum(axis=1), moves[~HUB]]
    if isinstance(model, HMM):
        return [p.initial.sum() - 1, p.transition.sum(axis=1) - 1]
    weights = getattr(p.weights, "coefficients", p.weights)
    found = [weights.sum(axis=0) - float(weights.ndim == 1)]
    covariances = getattr(p.components, "covariances", None)
    if getattr(model.family, "covariance", "") in ("full", "tied"):
        found.append(covariances - jnp.swapaxes(covariances, -1, -2))
    probabilities = getattr(p.components, "probabilities", None)
    if isinstance(probabilities, tuple):
        found += [each.sum(axis=-1) - 1 for each in probabilities]
    return found


@pytest.mark.everything
@pytest.mark.parametrize("name", CASES)
def test_a_fit_ends_at_the_maximum_under_the_equations(name):
    model, start, x = case(name)
    own = CASES[name][0]
    if name == "means":  # from its own start EM ends where two classes are the same
        means, variances = jnp.array([0.0, 0.0, 9.0]), jnp.array([0.2, 9.0, 2.0])
        start = start._replace(components=type(start.components)(means, variances))
    fit = jaxem.fit(model, start, x, algorithm=SQUAREM(), tol=1e-12, max_steps=20_000)
    assert fit.status in (jaxem.Status.CONVERGED, jaxem.Status.PRECISION)
    end, back = ravel_pytree(fit.params)
    edge = np.flatnonzero((np.abs(end) < 1e-20) | (np.asarray(end) == 1))  # of a simplex: stays there

    def equations(flat):
        p = back(flat)
        parts = [*EQUATIONS[name](p), *of_the_space(own, p), flat[edge] - end[edge]]
        return jnp.concatenate([jnp.ravel(part) for part in parts])

    rows = np.asarray(jax.jacobian(equations)(end))  # the last are those of the edge
    assert np.abs(equations(end)).max() <= 1e-12
    assert len(end) - np.linalg.matrix_rank(rows[: len(rows) - len(edge)]) == jaxem.inference.number_of_parameters(
        model, fit.params
    )
    free = scipy.linalg.null_space(rows)
    free[edge] = 0  # not -1e-17
    # The diagonal of covariances rises, so that they stay positive definite.
    away = np.random.default_rng(3).uniform(-0.03, 0.03, len(end)) * np.asarray(end)
    point = np.asarray(end) + free @ (free.T @ away)
    minus = jax.jit(lambda z: -own.log_likelihood(back(point + free @ z), x))
    slope, hessian = jax.jit(jax.grad(minus)), jax.jit(jax.hessian(minus))
    finite = lambda value: float(value) if np.isfinite(value) else 1e10
    found = scipy.optimize.minimize(
        lambda z: finite(minus(z)),
        np.zeros(free.shape[1]),
        jac=lambda z: np.nan_to_num(slope(z)),  # NaN: outside of the space
        hess=lambda z: np.nan_to_num(hessian(z)),
        method="trust-exact",
        options={"gtol": 1e-7, "initial_trust_radius": 0.02, "max_trust_radius": 0.1},  # in the same basin
    )
    assert finite(minus(np.zeros(free.shape[1]))) > found.fun + 1e-6  # the start was not the end
    assert_within(fit.objective, -found.fun, 1e-8)


def test_every_case_has_equations():
    assert set(EQUATIONS) == set(CASES)
    assert data()["numbers"].shape == (150,)
