"""Formulas written out for small matrices, and loops over larger ones, are LAPACK's in what they give, refuse, and how
they bend."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxem.core import matrices

SIZES = [1, 3, 4, 5]  # the last is LAPACK's


def definite(d: int, n: int = 6) -> np.ndarray:
    """Symmetric positive-definite matrices (n, d, d) of scales from 1e-3 to 1e3."""
    rng = np.random.default_rng(d)
    half = rng.normal(size=(n, d, d + 2)) * 10.0 ** rng.uniform(-3, 3, size=(n, d, 1))
    return half @ np.swapaxes(half, -1, -2)


@pytest.mark.parametrize("d", SIZES)
def test_factors_multiply_to_the_matrix(d, dtype):
    a = as_dtype(definite(d), dtype)
    lower = jax.jit(matrices.cholesky)(a)
    assert lower.dtype == dtype
    np.testing.assert_array_equal(np.triu(lower, 1), 0)
    exact = np.asarray(lower, np.float64)
    scale = np.sqrt(np.einsum("nii->ni", np.asarray(a, np.float64)))
    # Higham (2002), theorem 10.3: the error of L L' is at most about (d + 1) eps of a_ii^1/2 a_jj^1/2.
    assert_within(exact @ np.swapaxes(exact, 1, 2), a, (d + 1) * eps(dtype) * scale[:, :, None] * scale[:, None, :])
    assert_within(
        matrices.log_determinant(lower), np.linalg.slogdet(exact @ np.swapaxes(exact, 1, 2))[1], 1e3 * eps(dtype)
    )


@pytest.mark.parametrize("d", SIZES)
def test_solves_leave_no_residual(d, dtype):
    rng = np.random.default_rng(d)
    lower, b = as_dtype((np.linalg.cholesky(definite(d)), rng.normal(size=(6, d, 3))), dtype)
    wide = lambda x: np.asarray(x, np.float64)
    factor, x, y = wide(lower), wide(jax.jit(matrices.solve_lower)(lower, b)), wide(jax.jit(matrices.solve)(lower, b))
    # Higham (2002), theorem 8.5: |L x - b| <= d eps |L| |x|, row by row; the second solve once more.
    assert_within(factor @ x, b, 2 * d * eps(dtype) * np.abs(factor) @ np.abs(x))
    turned = np.swapaxes(factor, 1, 2)
    allowed = 6 * d * eps(dtype) * np.abs(factor) @ np.abs(turned) @ np.abs(y)
    assert_within(factor @ turned @ y, b, allowed)


CORNERS = np.array(
    [
        [[4.0, 1.0], [1.0, 3.0]],
        [[1.0, 2.0], [2.0, 1.0]],  # indefinite
        [[1.0, 1.0], [1.0, 1.0]],  # singular
        [[0.0, 0.0], [0.0, 1.0]],
        [[-1.0, 0.0], [0.0, 1.0]],
        [[np.nan, 0.0], [0.0, 1.0]],
        [[1.0, np.nan], [np.nan, 1.0]],
        [[1.0, 0.0], [0.0, np.nan]],
        [[np.inf, 1.0], [1.0, 3.0]],
        [[1e-300, 0.0], [0.0, 1e300]],
        [[2.0, 0.5], [0.7, 2.0]],  # not symmetric: the mean of the two
    ]
)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["NumPy", "JAX"])
def test_corners_are_those_of_lapack(array):
    found, wanted = np.asarray(matrices.cholesky(array(CORNERS))), np.asarray(jnp.linalg.cholesky(CORNERS))
    refused = np.isnan(wanted).any(axis=(1, 2))
    # Of a matrix with NaN LAPACK returns the part before it; here all of the factor is NaN.
    np.testing.assert_array_equal(np.isnan(found[:, [0, 1, 1], [0, 0, 1]]), np.repeat(refused[:, None], 3, axis=1))
    assert_within(found[~refused], wanted[~refused], 4 * eps(np.float64) * np.abs(wanted[~refused]))
    zero, one = jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.ones((2, 1))
    np.testing.assert_array_equal(matrices.solve_lower(zero, one), solve_triangular(zero, one, lower=True))


@pytest.mark.parametrize("d", [3, 4])
def test_near_singular_matrices_are_refused_as_lapack_refuses(d, dtype):
    """The smallest pivot falls through rounding error: refused well below it, accepted well above."""
    rng = np.random.default_rng(d)
    half = rng.normal(size=(d, d - 1))
    ridge = np.array([-64.0, 64.0, 1e4]) * eps(dtype)
    a = as_dtype(half @ half.T + ridge[:, None, None] * np.eye(d), dtype)
    wanted = np.isnan(np.asarray(jnp.linalg.cholesky(a))).any(axis=(1, 2))
    np.testing.assert_array_equal(wanted, [True, False, False])
    np.testing.assert_array_equal(np.isnan(np.asarray(matrices.cholesky(a))).any(axis=(1, 2)), wanted)


@pytest.mark.parametrize("d", [3, 5])
@pytest.mark.slow
def test_derivatives_are_those_of_lapack(d):
    a, b = jnp.asarray(definite(d, 2) / 10 ** np.arange(0, 4, 2)[:, None, None]), jnp.ones((2, d, 1))
    a = a + jnp.eye(d)[None]

    def value(cholesky, solve):
        return lambda a: jnp.sin(solve(cholesky(a), b)).sum() + jnp.cos(cholesky(a)).sum()

    ours = value(matrices.cholesky, matrices.solve)
    lapack = value(jnp.linalg.cholesky, jax.vmap(lambda lower, b: cho_solve((lower, True), b)))
    wanted = jax.jit(jax.grad(lapack))(a)
    assert_within(jax.jit(jax.grad(ours))(a), wanted, 1e3 * eps(np.float64) * np.abs(wanted).max())
    # and the second derivative, forward over reverse, along the identity
    along = lambda f: jax.jit(lambda a: jax.jvp(jax.grad(f), (a,), (jnp.broadcast_to(jnp.eye(d), a.shape),))[1])(a)
    wanted = along(lapack)
    assert_within(along(ours), wanted, 1e3 * eps(np.float64) * np.abs(wanted).max())


TWO_AT_A_TIME = """
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from jaxem.core import matrices
cholesky = jax.vmap(matrices.cholesky)
def step(i, all):  # no part waits for another
    a, b, c = all
    return cholesky(a) * 0 + a, cholesky(2 * b) * 0 + b, c @ c * 0 + 1
a = jnp.tile(jnp.eye(64), (32, 1, 1))
print(jax.jit(lambda *all: jax.lax.fori_loop(0, 1000, step, all))(a, a, jnp.ones((400, 400)))[0].shape)
"""


@pytest.mark.slow
def test_large_batches_do_not_wait_for_each_other():
    """As large batches as these, given to LAPACK two at a time on two threads, wait for ever."""
    environment = os.environ | {"NPROC": "2"}
    done = subprocess.run([sys.executable, "-c", TWO_AT_A_TIME], timeout=120, capture_output=True, env=environment)
    assert done.stdout.decode().strip() == "(32, 64, 64)", done.stderr.decode()


def test_a_refused_matrix_leaves_the_derivative_of_another_alone():
    slope = jax.jit(jax.grad(lambda a: matrices.cholesky(a)[0].sum()))(jnp.asarray(CORNERS[:3]))
    assert np.isfinite(slope[0]).all() and (slope[1:] == 0).all()
