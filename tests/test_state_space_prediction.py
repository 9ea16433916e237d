"""Filtering, forecasts, draws and imputation of state-space models, against their joint normal distribution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype
from test_state_space import FULL, LENGTHS, MODEL, D, N, T, data, dense, lengths_and_mask, parameters, values

import jaxem

H = 3
AHEAD = np.random.default_rng(5).normal(size=(N, H, 2))
TOLERANCE = 1e3 * np.finfo(np.float64).eps  # sequences of ten steps with numbers near 1


def extended(i: int, steps: int, kind: str = "gaps") -> dict[str, np.ndarray]:
    """Sequence i given what is seen in its first ``steps`` steps, and H steps more of which nothing is seen."""
    y, u, _ = values()
    seen = lengths_and_mask(kind)[1][i, :steps]
    later = np.concatenate([u[i, steps : LENGTHS[i]], AHEAD[i]])[:H]
    return dense(
        parameters(),
        np.concatenate([y[i, :steps], np.zeros((H, D))]),
        np.concatenate([u[i, :steps], later]),
        np.concatenate([seen, np.zeros((H, D), bool)]),
    )


@pytest.mark.parametrize("kind", ["ragged", "gaps"])
@pytest.mark.slow
def test_filter_and_forecast(kind):
    params = as_dtype(parameters(), np.float64)
    filtered = MODEL.filter(params, data(kind))
    forecast = MODEL.forecast(params, data(kind), H, given=AHEAD)
    C, B = np.asarray(params.loadings), np.asarray(params.output_inputs)
    for i, length in enumerate(LENGTHS):
        for t in range(1, length + 1):
            wanted = extended(i, t, kind)
            block = wanted["covariance"].reshape(t + H, 2, t + H, 2)[t - 1, :, t - 1]
            np.testing.assert_allclose(filtered.means[i, t - 1], wanted["means"][t - 1], TOLERANCE, TOLERANCE)
            np.testing.assert_allclose(filtered.covariances[i, t - 1], block, TOLERANCE, TOLERANCE)
        cells = wanted["covariance"].reshape(length + H, 2, length + H, 2)
        for h in range(H):
            x, V = wanted["means"][length + h], cells[length + h, :, length + h]
            np.testing.assert_allclose(forecast.state_means[i, h], x, TOLERANCE, TOLERANCE)
            np.testing.assert_allclose(forecast.state_covariances[i, h], V, TOLERANCE, TOLERANCE)
            np.testing.assert_allclose(forecast.means[i, h], C @ x + B @ AHEAD[i, h], TOLERANCE, TOLERANCE)
            spread = C @ V @ C.T + np.diag(params.noise)
            np.testing.assert_allclose(forecast.covariances[i, h], spread, TOLERANCE, TOLERANCE)


@pytest.mark.slow
def test_imputation_by_means_and_by_draws():
    params, gaps = as_dtype(parameters(), np.float64), data("gaps")
    y, u, seen = values()
    whole = np.arange(T)[None, :, None] < LENGTHS[:, None, None]
    filled = np.asarray(jaxem.impute(MODEL, params, gaps))
    keys = jax.random.split(jax.random.key(0), 4_000)
    draws = np.asarray(jax.vmap(lambda key: MODEL.impute(params, gaps, key))(keys))
    np.testing.assert_array_equal(filled[seen & whole], y[seen & whole])
    assert (draws[:, seen & whole] == y[seen & whole]).all()
    C, B = np.asarray(params.loadings), np.asarray(params.output_inputs)
    for i, length in enumerate(LENGTHS):
        wanted = dense(parameters(), y[i, :length], u[i, :length], seen[i, :length])
        means = (wanted["means"] @ C.T + u[i, :length] @ B.T).ravel()
        lifted = np.kron(np.eye(length), C)
        covariance = lifted @ wanted["covariance"] @ lifted.T + np.kron(np.eye(length), np.diag(params.noise))
        hidden = ~seen[i, :length].ravel()
        np.testing.assert_allclose(filled[i, :length].ravel()[hidden], means[hidden], TOLERANCE, TOLERANCE)
        drawn = draws[:, i, :length].reshape(len(keys), -1)[:, hidden]
        covariance = covariance[np.ix_(hidden, hidden)]
        assert_moments(drawn, means[hidden], covariance)


def assert_moments(draws: np.ndarray, means: np.ndarray, covariance: np.ndarray) -> None:
    """Means and covariances of normal draws are within five of their own standard errors."""
    n, variances = len(draws), np.diag(covariance)
    assert (np.abs(draws.mean(axis=0) - means) < 5 * np.sqrt(variances / n)).all()
    errors = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * errors).all()


@pytest.mark.parametrize("model", [MODEL, FULL], ids=["diagonal", "full"])
def test_samples_have_the_moments_of_the_model(model):
    params = as_dtype(parameters(model is MODEL), np.float64)
    u = np.broadcast_to(values()[1][:1, :3], (4_000, 3, 2))
    y = np.asarray(model.sample(jax.random.key(1), params, 4_000, 3, given=u)).reshape(4_000, -1)
    prior = dense(parameters(model is MODEL), np.zeros((3, D)), u[0], np.zeros((3, D), bool))
    C, R = np.asarray(params.loadings), np.asarray(params.noise)
    lifted = np.kron(np.eye(3), C)
    noise = np.kron(np.eye(3), np.diag(R) if R.ndim == 1 else R)
    means = (prior["means"] @ C.T + u[0] @ np.asarray(params.output_inputs).T).ravel()
    assert_moments(y, means, lifted @ prior["covariance"] @ lifted.T + noise)


def test_sample_like_keeps_lengths_inputs_and_gaps():
    params, gaps = as_dtype(parameters(), np.float64), data("gaps")
    drawn = MODEL.sample_like(jax.random.key(2), params, gaps)
    assert drawn.values.shape == (N, T, D) and drawn.weights is None
    for name in ("given", "observed", "lengths"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(gaps, name))
    same = MODEL.sample(jax.random.key(2), params, N, T, given=gaps.given)
    np.testing.assert_array_equal(np.where(gaps.observed, drawn.values, 0), np.where(gaps.observed, same, 0))


def test_inputs_of_a_forecast_are_checked():
    params = as_dtype(parameters(), np.float64)
    with pytest.raises(ValueError, match="needs inputs"):
        MODEL.forecast(params, data("whole"), H)
    with pytest.raises(ValueError, match=r"shape \(3, 3, 2\)"):
        MODEL.forecast(params, data("whole"), H, given=AHEAD[:, :2])
    without = dataclasses.replace(MODEL, state_inputs=None, output_inputs=None)
    with pytest.raises(ValueError, match="takes no inputs"):
        without.forecast(
            params._replace(state_inputs=None, output_inputs=None), jnp.asarray(values()[0]), H, given=AHEAD
        )
