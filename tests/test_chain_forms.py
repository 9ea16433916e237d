"""The forms of forward-backward: blocks side by side, sequences in order, log space. They agree to rounding."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps

import jaxem
from jaxem import Dataset, Status
from jaxem.families import Normal, NormalParams
from jaxem.latent import chain, chain_forward, chain_steps, chain_sums, scaled
from jaxem.models import HMM, HMMParams

K = 3
PI = np.array([0.2, 0.5, 0.3])
A = np.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.3, 0.3, 0.4]])
# Blocks of eight steps: one sequence ends within a block, one with a block, one with its first step, one with the last.
LENGTHS = np.array([30, 17, 1, 16], np.int32)
BLOCKS = 4


def densities(n: int, t: int, spread: float = 3.0) -> np.ndarray:
    return spread * np.random.default_rng(n + t).normal(size=(n, t, K))


@jax.jit(static_argnames="blocks")
def found(pi: Any, A: Any, log_b: Any, lengths: Any, weights: Any, blocks: int) -> dict[str, Any]:
    """All that a posterior is asked for, and the derivative of its normaliser."""

    def normalizer(given: tuple[Any, Any, Any]) -> tuple[Any, Any]:
        q = chain.posterior(*given, lengths, blocks)
        return (weights * q.log_normalizer).sum(), q

    (value, q), gradient = jax.value_and_grad(normalizer, has_aux=True)((pi, A, log_b))
    steps = chain_steps.within(lengths, log_b.shape[1])[:, :, None]
    return {
        "log p": value,
        "gradient": gradient,
        "filtered": jnp.where(steps, q.filtered, 0),
        "smoothed": q.smoothed,
        "ahead": q.ahead,
        "pairs": chain_sums.pair_counts(q, weights),
    }


@jax.jit
def by_the_other_route(pi: Any, A: Any, log_b: Any, lengths: Any, weights: Any) -> dict[str, Any]:
    """The forward algorithm of the likelihood."""
    given = pi, A, log_b
    value, gradient = jax.value_and_grad(lambda g: (weights * chain_forward.log_likelihood(*g, lengths)).sum())(given)
    return {"log p": value, "gradient": gradient}


def assert_equal_forms(a: dict[str, Any], b: dict[str, Any], steps: float) -> None:
    """Each step rounds some ten times; sums over steps, and derivatives, are as large as there are steps."""
    dtype = a["log p"].dtype
    for name in a:
        for x, y in zip(jax.tree.leaves(a[name]), jax.tree.leaves(b[name]), strict=True):
            assert x.dtype == dtype and np.isfinite(x).all(), name
            assert_within(x, y, 10 * np.sqrt(steps) * eps(dtype) * (1 + np.abs(y).max()))


@pytest.mark.parametrize(("shape", "precision"), [("one long", "float64"), ("ragged", "float32")])
@pytest.mark.slow
def test_blocks_side_by_side_are_the_sequence_in_order(shape, precision):
    dtype = np.dtype(precision)
    n, t = (1, 203) if shape == "one long" else (4, 30)
    lengths = np.array([t], np.int32) if n == 1 else LENGTHS
    weights = np.array([1.0, 2.0, 0.0, 0.5])[:n]
    pi, A_, log_b, weights = as_dtype((PI, A, densities(n, t), weights), dtype)
    lengths = jnp.asarray(lengths)
    one, four = (found(pi, A_, log_b, lengths, weights, blocks) for blocks in (1, BLOCKS))
    assert_equal_forms(four, one, n * t)
    wanted = by_the_other_route(pi, A_, log_b, lengths, weights)
    assert_equal_forms(wanted, {name: four[name] for name in wanted}, n * t)
    inside = np.arange(t)[None] < np.asarray(lengths)[:, None]
    assert_within(four["smoothed"].sum(axis=2), inside.astype(float), 4 * eps(dtype))


@pytest.mark.slow
def test_the_likelihood_in_plain_numbers_is_that_in_parts(dtype):
    """Value, gradient and Hessian. A vanishing transition chooses the parts; under vmap both forms run, beside a lane
    whose plain numbers would be 0 / 0."""
    log_b = densities(4, 30)
    log_b[0, 3, 1], log_b[1, 5, 0] = -np.inf, -90.0
    pi, A_, log_b = as_dtype((PI, A, log_b), dtype)
    nearly = np.asarray([[1 - 1e-300, 1e-300, 0], *A[1:]] if dtype == np.float64 else [[1, 1e-30, 0], *A[1:]], dtype)
    lost = np.asarray([[1, 0, 0], [0, 1, 0], [1, 0, 0]], dtype)  # and the likeliest state of a step out of reach
    lengths = jnp.asarray(LENGTHS)
    size = 10 * np.sqrt(LENGTHS.sum()) * eps(dtype)

    def all_of(form: Any, pi: Any, A: Any, log_b: Any) -> Any:
        f = lambda pi, A: form(pi, A, log_b)
        return f(pi, A), jax.grad(form, (0, 1, 2))(pi, A, log_b), jax.hessian(f, (0, 1))(pi, A)

    plain = lambda *given: chain_forward.log_likelihood(*given, lengths).sum()

    def parts(*given: Any) -> Any:
        _, log_c, end = chain_forward.forward_in_parts(*given, lengths)
        return log_c.sum() + jnp.log(end.sum(axis=1)).sum()

    wanted = jax.jit(lambda *given: all_of(parts, *given))(pi, A_, log_b)
    lanes = jnp.stack([A_, nearly, lost])
    apart = log_b.at[:, 2].set(jnp.asarray([-900.0, -900.0, 0.0], dtype))
    beside = jax.jit(jax.vmap(lambda A, log_b: all_of(plain, pi, A, log_b)))(lanes, jnp.stack([log_b, log_b, apart]))
    first = jax.tree.map(lambda leaf: leaf[0], beside)
    every = lambda A: jax.vmap(lambda A, log_b: plain(pi, A, log_b))(A, jnp.stack([log_b, log_b, apart])).sum()
    assert_within(jax.jit(jax.grad(every))(lanes), beside[1][1], size * (1 + np.abs(beside[1][1])))
    for found in (jax.jit(lambda *given: all_of(plain, *given))(pi, A_, log_b), first):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert_within(a, b, size * (1 + np.abs(b).max()))
    compiled = jax.jit(lambda *given: all_of(parts, *given))
    for lane, given, orders in (1, log_b, 3), (2, apart, 2):  # of the last the second derivatives are beyond any number
        found = jax.tree.map(lambda leaf, lane=lane: leaf[lane], beside)[:orders]
        wanted = compiled(pi, lanes[lane], given)[:orders]
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert np.isfinite(b).all()
            assert_within(a, b, size * (1 + np.abs(b)))


@pytest.mark.parametrize("blocks", [1, BLOCKS])
@pytest.mark.parametrize("kind", ["a row far below", "the likeliest out of reach", "no way back"])
@pytest.mark.slow
def test_what_underflows_is_done_in_logs(kind, blocks, dtype):
    """A row of densities that no exp can hold; one whose largest belongs to a state that cannot be; and a state that
    falls behind by more than exp can hold, and is all that is left in the end. By enumeration of what is possible."""
    far = {"float32": 120.0, "float64": 800.0}[dtype.name]
    assert np.exp(np.asarray(-far, dtype)) == 0
    pi, A_, log_b = PI, A, densities(1, 32)
    if kind == "a row far below":
        log_b[0, [0, 11, 31]] -= far
    elif kind == "the likeliest out of reach":
        pi, A_ = np.array([1.0, 0, 0]), np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
        log_b[0, [0, 8, 15], 1] += far
    else:
        pi, A_ = np.array([0.5, 0.5, 0.0]), np.array([[0.0, 1.0, 0], [0, 0.5, 0.5], [0, 0, 1.0]])
        log_b[0, 1:20, 2] -= far
    pi, A_, log_b = as_dtype((pi, A_, log_b), dtype)
    lengths = jnp.full((1,), 32, jnp.int32)
    q = posterior(pi, A_, log_b, lengths, blocks)
    wanted = chain_forward.log_likelihood(pi, A_, log_b, lengths)
    assert_within(q.log_normalizer, wanted, 10 * np.sqrt(32) * eps(dtype) * (1 + abs(float(wanted[0]))))
    np.testing.assert_allclose(q.smoothed, smoothed_in_logs(pi, A_, log_b), atol=32 * 8 * far * eps(dtype))


posterior = jax.jit(
    lambda pi, A, log_b, lengths, blocks: chain.posterior(pi, A, log_b, lengths, blocks),
    static_argnames="blocks",
)


def smoothed_in_logs(pi: Any, A: Any, log_b: Any) -> np.ndarray:
    """The textbook's alpha and beta, in the logarithms of numpy's double precision."""
    with np.errstate(divide="ignore"):
        log_pi, log_A = np.log(np.asarray(pi, float)), np.log(np.asarray(A, float))
    log_b = np.asarray(log_b, float)[0]
    alpha, beta = np.empty_like(log_b), np.zeros_like(log_b)
    alpha[0] = log_pi + log_b[0]
    for t in range(1, len(log_b)):
        alpha[t] = np.logaddexp.reduce(alpha[t - 1][:, None] + log_A, axis=0) + log_b[t]
    for t in range(len(log_b) - 2, -1, -1):
        beta[t] = np.logaddexp.reduce(log_A + (log_b[t + 1] + beta[t + 1])[None], axis=1)
    gamma = alpha + beta
    return np.exp(gamma - np.logaddexp.reduce(gamma, axis=1)[:, None])[None]


def test_what_is_chosen(monkeypatch):
    """Blocks of one long sequence where steps are dear and matrices small; by option in any case."""
    choose = scaled.segments
    assert choose(None, 1, 200_000, 4) == choose(None, 1, 200_000, 8) == choose(None, 2000, 100, 6) == 1
    assert choose(True, 1, 200_000, 8) == 64
    assert choose(True, 1, 100, 4) == 50 and choose(True, 32, 100, 4) == 2 and choose(True, 1, 1, 4) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [choose(None, *of) for of in ((1, 40_000, 4), (2000, 40_000, 4), (1, 50, 4))] == [5000, 32, 1]
    assert choose(False, 1, 40_000, 4) == 1
    with pytest.raises(ValueError, match="HMM: parallel must be None, True or False; got 'yes'"):
        HMM(Normal(), 2, parallel="yes")


START = HMMParams(PI, A, NormalParams(np.array([-1.0, 0.0, 3.0]), np.array([1.0, 2.0, 0.5])))


@pytest.mark.slow
def test_fits_agree_and_the_option_is_heeded():
    x = np.random.default_rng(0).normal(size=(4, 30)) + 3.0 * (np.arange(30) % 7 < 3)[None]
    data = Dataset(jnp.asarray(x), lengths=jnp.asarray(LENGTHS), weights=jnp.asarray([1.0, 2.0, 0.0, 0.5]))
    fits, scans = [], []
    for parallel in (False, True):
        model = HMM(Normal(), K, parallel=parallel)
        fits.append(jaxem.fit(model, START, data, stop=jaxem.fitting.parameter_change(0.0), max_steps=4))
        program = str(jax.make_jaxpr(model.e_step)(as_dtype(START, np.float64), data))
        scans.append(len(re.findall(r"length=2\b", program)))
    order, side_by_side = fits
    assert order.status == side_by_side.status == Status.MAX_STEPS
    # Rounding errors of 64 steps of four iterations, in parameters of size three.
    jax.tree.map(lambda a, b: assert_within(a, b, 4 * 10 * 8 * eps(np.float64) * 3), side_by_side.params, order.params)
    assert_within(side_by_side.trace, order.trace, 80 * eps(np.float64) * np.abs(order.trace).max())
    assert scans[0] == 0 < scans[1]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.slow
def test_many_states(n):
    """More than are summed one by one."""
    k, t = 20, 30
    rng = np.random.default_rng(n)
    pi, A_, log_b = rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), k), 2 * rng.normal(size=(n, t, k))
    pi, A_, log_b = as_dtype((pi, A_, log_b), np.dtype("float64"))
    lengths = t - 7 * jnp.arange(n, dtype=jnp.int32)
    q = posterior(pi, A_, log_b, lengths, 1)
    assert_within(q.log_normalizer, chain_forward.log_likelihood(pi, A_, log_b, lengths), 100 * eps(np.float64) * t)
    inside = np.arange(t)[None] < np.asarray(lengths)[:, None]
    assert_within(q.smoothed.sum(axis=2), inside.astype(float), 4 * eps(np.float64))
    assert_within(chain_sums.pair_counts(q, None).sum(), inside[:, 1:].sum(), 100 * eps(np.float64) * n * t)
