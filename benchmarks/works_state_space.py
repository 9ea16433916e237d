"""The benchmark of a linear Gaussian state-space model, against dynamax: 20 iterations from the same start."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem.models import StateSpace, StateSpaceParams

ITERATIONS = 20


def simulate(t: int, k: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """One sequence (T, D) of k states, and the loadings of a start near the truth."""
    rng = np.random.default_rng(0)
    transition = np.diag(np.linspace(0.9, 0.5, k)) + 0.05 * rng.normal(size=(k, k))
    loadings, state, rows = rng.normal(size=(d, k)), np.zeros(k), []
    for _ in range(t):
        state = transition @ state + rng.normal(size=k)
        rows.append(loadings @ state + rng.normal(size=d))
    return np.array(rows), loadings + 0.3


def sides(t: int, k: int, d: int) -> dict:
    """Full covariances, a first state of covariance 1 that is held here and estimated by dynamax."""
    y, loadings = simulate(t, k, d)
    model = StateSpace(k, noise="full", initial=("free", np.eye(k).tolist()))
    start = StateSpaceParams(
        jnp.zeros(k), jnp.eye(k), 0.5 * jnp.eye(k), None, jnp.eye(k), jnp.asarray(loadings), None, 2.0 * jnp.eye(d)
    )
    data = jnp.asarray(y)[None]

    def ours() -> float:
        stop = jaxem.fitting.parameter_change(0.0)
        return float(jaxem.fit(model, start, data, stop=stop, max_steps=ITERATIONS).objective) / t

    return {"jaxem": ours, "dynamax": _dynamax(y, loadings)}


def _dynamax(y: np.ndarray, loadings: np.ndarray):
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM

    (t, d), k = y.shape, loadings.shape[1]
    model = LinearGaussianSSM(k, d, has_dynamics_bias=False, has_emissions_bias=False)
    params, props = model.initialize(
        jax.random.PRNGKey(0),
        dynamics_weights=0.5 * jnp.eye(k),
        emission_weights=jnp.asarray(loadings),
        dynamics_covariance=jnp.eye(k),
        emission_covariance=2.0 * jnp.eye(d),
    )
    data = jnp.asarray(y)[None]

    # fit_em compiles anew at each call; inside this jit it does not.
    @jax.jit
    def em(params, data):
        return model.fit_em(params, props, data, num_iters=ITERATIONS, verbose=False)[1]

    return lambda: float(em(params, data)[-1]) / t  # of the parameters one iteration earlier
