"""State-space models: against their joint normal distribution, published figures, and direct maximisation."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from jax.flatten_util import ravel_pytree
from scipy import optimize, stats

import jaxem
from jaxem import Dataset, datasets
from jaxem.inference.selection.criteria import number_of_parameters
from jaxem.latent import gaussian_chain_roots as roots
from jaxem.models import StateSpace, StateSpaceParams, arma, dynamic_factors, local_level, local_trend, seasonal

EPS = eps(np.float64)
N, T, D, K, P = 3, 7, 3, 2, 2
LENGTHS = np.array([7, 4, 6], np.int32)
RNG = np.random.default_rng(0)


def parameters(diagonal: bool = True, seed: int = 1, shocks: int = K, first: bool = True) -> StateSpaceParams:
    rng = np.random.default_rng(seed)
    covariance = lambda n: (lambda a: a @ a.T + 0.3 * np.eye(n))(rng.normal(size=(n, n)) / np.sqrt(n))
    transition = np.array([[0.8, 0.3], [-0.2, 0.6]]) + 0.1 * rng.normal(size=(K, K))
    if shocks < K:
        transition = np.array([[0.8, 0.3], [1.0, 0.0]])
    return StateSpaceParams(
        rng.normal(size=K) if first else None,
        covariance(K) if first else None,
        transition,
        rng.normal(size=(K, P)) if shocks == K else None,
        covariance(shocks),
        rng.normal(size=(D, K)),
        rng.normal(size=(D, P)),
        np.exp(rng.normal(size=D)) if diagonal else covariance(D),
    )


MODEL = StateSpace(K, state_inputs="free", output_inputs="free")
FULL = dataclasses.replace(MODEL, noise="full")
STILL = StateSpace(K, transition=[[None, None], [1, 0]], output_inputs="free", shocks=1)


@functools.cache
def values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, inputs, and the mask of the cells that are seen."""
    rng = np.random.default_rng(2)
    seen = rng.random((N, T, D)) < 0.7
    seen[:, 2] = False
    return 2 * rng.normal(size=(N, T, D)), rng.normal(size=(N, T, P)), seen


def data(kind: str, dtype: Any = np.float64) -> Dataset:
    y, u, seen = *as_dtype(values()[:2], dtype), values()[2]
    if kind == "whole":
        return Dataset(y, given=u)
    ragged = Dataset(y, given=u, lengths=jnp.asarray(LENGTHS), weights=jnp.asarray([1.0, 2.0, 0.5], dtype))
    return ragged if kind == "ragged" else dataclasses.replace(ragged, observed=jnp.asarray(seen))


def lengths_and_mask(kind: str) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.full(N, T) if kind == "whole" else LENGTHS
    return lengths, values()[2] if kind == "gaps" else np.ones((N, T, D), bool)


def dense(params: StateSpaceParams, y: np.ndarray, u: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """One sequence by the joint normal distribution of all states and observations; a flat prior as its limit."""
    t, k = len(y), params.transition.shape[0]
    A, C, r = params.transition, params.loadings, params.process.shape[0]
    Q = np.zeros((k, k))
    Q[:r, :r] = params.process if params.process.ndim == 2 else np.diag(params.process)
    R = params.noise if params.noise.ndim == 2 else np.diag(params.noise)
    mean, M = np.zeros((t, k)), np.zeros((t, k, t, k))  # x = mean + M e, e = (first state, moves)
    mean[0] = params.initial_mean
    for i in range(t):
        M[i, :, i] = np.eye(k)
        if i:
            b = 0 if params.state_inputs is None else params.state_inputs @ u[i]
            mean[i] = A @ mean[i - 1] + b
            M[i, :, :i] = np.einsum("ab,bsc->asc", A, M[i - 1, :, :i])
    e = np.zeros((t, k, t, k))
    for i in range(t):
        e[i, :, i] = Q if i else params.initial_covariance
    M, e = M.reshape(t * k, -1), e.reshape(t * k, -1)
    X = M @ e @ M.T
    H = np.kron(np.eye(t), C)
    offset = np.zeros(t * D) if params.output_inputs is None else (u @ params.output_inputs.T).ravel()
    S = H @ X @ H.T + np.kron(np.eye(t), R)
    rows = seen.ravel()
    d = (y.ravel() - H @ mean.ravel() - offset)[rows]
    S, G = S[np.ix_(rows, rows)], (X @ H.T)[:, rows]
    return {
        "log_prob": stats.multivariate_normal(np.zeros(rows.sum()), S).logpdf(d) if rows.any() else 0.0,
        "means": (mean.ravel() + G @ np.linalg.solve(S, d)).reshape(t, k),
        "covariance": X - G @ np.linalg.solve(S, G.T),
    }


@functools.partial(jax.jit, static_argnames=())
def parts(model, params, other, data):
    q, p = model.e_step(params, data), model.e_step(other, data)
    return {
        "q": q,
        "log_prob": model.log_prob(params, data),
        "log_normalizer": q.log_normalizer,
        "q_function": model.q_function(other, q, data),
        "entropy": model.entropy(q, data),
        "divergence": model.divergence(q, p, data),
        "other": model.log_likelihood(other, data),
    }


@pytest.mark.parametrize(
    ("model", "kind"),
    [(MODEL, "whole"), (MODEL, "ragged"), (MODEL, "gaps"), (FULL, "ragged"), (FULL, "whole"), (STILL, "gaps")],
)
@pytest.mark.parametrize("parallel", [False, pytest.param(True, marks=pytest.mark.everything)])
@pytest.mark.slow
def test_agrees_with_the_joint_normal_distribution(model, kind, parallel):
    model = dataclasses.replace(model, parallel=parallel)
    shocks = 1 if model.shocks == 1 else K
    params = parameters(model.noise == "diagonal", shocks=shocks)
    other = parameters(model.noise == "diagonal", seed=5, shocks=shocks)
    x = data(kind)
    found = parts(model, *as_dtype((params, other), np.float64), x)
    (y, u, _), (lengths, seen) = values(), lengths_and_mask(kind)
    weights = np.ones(N) if x.weights is None else np.asarray(x.weights)
    q, bound = found["q"], 1e5 * EPS
    for n in range(N):
        t = lengths[n]
        wanted = dense(params, y[n, :t], u[n, :t], seen[n, :t])
        V = wanted["covariance"].reshape(t, K, t, K)
        own = min(n, q.covariances.shape[0] - 1)
        assert_within(found["log_prob"][n], wanted["log_prob"], bound)
        assert_within(found["log_normalizer"][n], wanted["log_prob"], bound)
        assert_within(q.means[n, :t], wanted["means"], bound)
        for i in range(t):
            assert_within(q.covariances[own, i], V[i, :, i], bound)
            if i:
                assert_within(q.moves[own, i - 1] @ q.covariances[own, i - 1], V[i, :, i - 1], bound)
    # L = Q + H + KL at other parameters than those of q
    total = found["q_function"] + found["entropy"] + found["divergence"]
    assert_within(total, found["other"], bound * abs(found["other"]))
    assert found["divergence"] > 0.1 and np.isfinite(weights @ np.asarray(found["log_prob"]))


# Restrictions


def simulated(n: int = 6, t: int = 25) -> np.ndarray:
    rng = np.random.default_rng(3)
    x, A = rng.normal(size=(n, 2)), np.array([[0.7, 0.2], [-0.3, 0.5]])
    y = []
    for _ in range(t):
        x = x @ A.T + rng.normal(size=(n, 2)) * np.array([1.0, 0.6])
        y.append(x @ np.array([[1.0, 0.0], [0.5, 1.0], [-0.4, 0.8]]).T + 0.5 * rng.normal(size=(n, 3)))
    return np.moveaxis(np.array(y), 0, 1)


IDENTIFIED = {"loadings": [[1, 0], [0, 1], [None, None]], "initial": "diffuse"}
# Each matrix restricted in turn: numbers, zeros, elements that are equal, and the number of free elements.
RESTRICTED = {
    "transition": (StateSpace(2, transition=[["a", None], [0, "a"]], **IDENTIFIED), 2 + 3 + 2 + 3),
    "process": (StateSpace(2, process=["q", "q"], **IDENTIFIED), 4 + 1 + 2 + 3),
    "process held": (StateSpace(2, process=[[1.0, 0.2], [0.2, 0.5]], **IDENTIFIED), 4 + 0 + 2 + 3),
    "no noise": (StateSpace(2, process=[None, 0], transition=[[None, None], [1, 0]], **IDENTIFIED), 2 + 1 + 2 + 3),
    "loadings": (StateSpace(2, **{**IDENTIFIED, "loadings": [[1, 0], ["c", 1], [-0.4, "c"]]}), 4 + 3 + 1 + 3),
    "noise": (StateSpace(2, noise=["r", 0.3, "r"], **IDENTIFIED), 4 + 3 + 2 + 1),
    "full noise": (
        StateSpace(2, noise="full", **{**IDENTIFIED, "loadings": [[1, 0], ["c", 1], [0.5, "c"]]}),
        4 + 3 + 1 + 6,
    ),
    "first state": (
        StateSpace(2, loadings=IDENTIFIED["loadings"], initial=([0.0, None], [1.0, None])),
        4 + 3 + 2 + 2 + 3,
    ),
}


SLOW = [pytest.param(name, marks=pytest.mark.everything) for name in RESTRICTED if name != "no noise"]


@pytest.mark.parametrize("name", ["no noise", *SLOW])
def test_restricted_fits_agree_with_direct_maximisation(name):
    model, free = RESTRICTED[name]
    x = jnp.asarray(simulated())
    start = model.init(jax.random.key(0), x)
    fit = jaxem.fit(model, start, x, algorithm=jaxem.SQUAREM(), tol=1e-12, max_steps=2000)
    space, params = jaxem.core.constraints, fit.params
    assert number_of_parameters(model, params) == free
    flat, back = ravel_pytree(space.inverse(model.constraints, start))
    negative = lambda u: -model.log_likelihood(space.forward(model.constraints, back(u), start), x)
    both = jax.jit(jax.value_and_grad(negative))
    found = optimize.minimize(
        lambda u: tuple(map(np.asarray, both(u))), flat, jac=True, method="BFGS", options={"gtol": 1e-7}
    )
    assert_within(fit.objective, -found.fun, 1e-8 * abs(found.fun))
    for leaf, spec in ((params.transition, model.transition), (params.loadings, model.loadings)):
        for row, wanted in zip(np.asarray(leaf), spec if isinstance(spec, tuple) else (), strict=False):
            assert all(w == v for v, w in zip(row, wanted, strict=True) if isinstance(w, float))  # exactly


# Published figures, and far


@functools.cache
def nile() -> tuple[StateSpace, jax.Array, jaxem.Fit]:
    model, x = local_level(), jnp.asarray(datasets.nile()[1])[None, :, None]
    return model, x, jaxem.fit(model, model.init(jax.random.key(0), x), x, algorithm=jaxem.SQUAREM(), tol=1e-9)


def test_the_local_level_of_the_nile():
    """Variances of Durbin & Koopman (2012), section 2.10; log-likelihood without its constant log(2 pi) / 2."""
    _, _, fit = nile()
    assert_within(fit.params.noise, [15099], 1)
    assert_within(fit.params.process, [1469], 1)
    assert_within(fit.objective, -633.4645636 + 0.5 * np.log(2 * np.pi), 1e-6)  # statsmodels 0.14, exact diffuse


@pytest.mark.slow
def test_covariances_stay_positive_in_float32():
    """A slope that hardly moves, with gaps; 20,000 steps."""
    model, rng = local_trend(process=[None, 1e-10]), np.random.default_rng(0)
    y = (0.1 * rng.normal(size=20_000)).cumsum() + rng.normal(size=20_000)
    one = np.ones((1, 1))
    params = StateSpaceParams(
        None,
        None,
        np.array([[1.0, 1.0], [0.0, 1.0]]),
        None,
        np.array([1e-2, 1e-10]),
        np.array([[1.0, 0.0]]),
        None,
        one[0],
    )
    seen = jnp.asarray(rng.random((1, 20_000, 1)) < 0.7)
    single, double = (
        model.smooth(as_dtype(params, dtype), Dataset(jnp.asarray(y, dtype)[None, :, None], observed=seen))
        for dtype in (np.float32, np.float64)
    )
    assert np.linalg.eigvalsh(np.asarray(single.covariances, np.float64)).min() > 0
    sd = np.sqrt(np.diagonal(double.covariances, axis1=-2, axis2=-1))
    # Rounding errors of 1 / gain steps, in which the level is remembered: some tens of units in the last place.
    assert_within(single.means / sd.astype(np.float32), double.means / sd, 5e4 * eps(np.float32))
    assert_within(single.log_normalizer, double.log_normalizer, 1e-6 * 20_000)


def test_a_recursion_that_rounding_leads_in_a_circle_has_settled():
    calls = []
    circle = {1.0: 2.0, 2.0: 3.0, 3.0: 1.0}  # from 8 on: 8, 4, 2, 3, 1, 2, ...

    def following(x):
        calls.append(float(x[0]))
        return np.array([circle.get(calls[-1], calls[-1] / 2)])

    def step(x):
        return jax.pure_callback(following, jax.ShapeDtypeStruct(x.shape, x.dtype), x), ()

    path = jax.jit(lambda last: roots.settling(step, last, 500)[0])(jnp.array([8.0]))
    assert path.shape == (1, 500)
    np.testing.assert_array_equal(path[0, -5:], [1, 3, 2, 4, 8])
    assert set(np.unique(path[0, :-5])) <= set(circle)
    assert len(calls) < 10


def test_redundant_directions():
    rotations = StateSpace(3, process=np.eye(3))
    for model, wanted in ((StateSpace(3), 9), (rotations, 3), (local_trend(), 0), (seasonal(4), 0), (arma(2, 1), 0)):
        assert model.redundant == wanted
    assert dynamic_factors(2, 5).redundant == 0
    for wrong, says in (
        (lambda: StateSpace(2, initial="diffuse"), "no bound"),
        (lambda: StateSpace(2, shocks=1), "row 1 of transition must be numbers"),
        (lambda: StateSpace(2, transition=[[1, 2]]), "needs 2 x 2"),
        (lambda: StateSpace(1, noise=[0.0]), "positive variances"),
    ):
        with pytest.raises(ValueError, match=says):
            wrong()
