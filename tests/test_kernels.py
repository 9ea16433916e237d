"""The quick forms of normal classes: as accurate as the textbook's, chosen by shape, in memory that does not grow."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem import Dataset
from jaxem.core import expectation
from jaxem.core.contexts import choose
from jaxem.families import MultivariateNormal, MultivariateNormalParams, products, quadratic, whitening
from jaxem.families.protocol import log_density
from jaxem.models import Mixture, MixtureParams

KERNELS = [("full", quadratic), ("tied", quadratic), ("diag", quadratic), ("spherical", quadratic), ("full", whitening)]
N, D, K = 601, 5, 3  # a prime number of rows: whatever the pieces, something is left over; D: beyond the unrolled


def covariances_of(form: str, scale: float = 1.0) -> np.ndarray:
    full = np.array([np.diag([1.0, 2, 0.5, 1.5, 1]), np.eye(5), np.diag([0.5, 1, 2, 1, 0.7])])
    i = np.arange(4)
    full[0, i, i + 1] = full[0, i + 1, i] = [0.5, -0.3, 0.2, 0.4]
    full = full * scale**2
    variances = np.diagonal(full, axis1=1, axis2=2)
    return {"full": full, "tied": full[0], "diag": variances, "spherical": variances[:, 0]}[form]


def setting(form: str, dtype: Any, offset: float, scale: float = 1.0) -> tuple[MultivariateNormalParams, Any, Any]:
    """Parameters, observations and weights, means some units apart, ``offset`` away from zero."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 1, 0, 1, 0], [2, 0, -1, 0, 1], [-1, -1, 1, 0, 0]])
    x = means[rng.integers(0, K, N)] + scale * rng.normal(size=(N, D))
    far = lambda values: jnp.asarray(offset + values, dtype)
    params = MultivariateNormalParams(far(means), jnp.asarray(covariances_of(form, scale), dtype))
    return params, far(x), jnp.asarray(rng.uniform(size=(N, K)), dtype)


def textbook(form: str, params: MultivariateNormalParams, w: Any, x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log N(x_n; m_k, S_k), and the moments about the means: deviations first, in 64 bits."""
    means, covariances, w, x = (np.asarray(a, np.float64) for a in (*params, w, x))
    full = {
        "full": lambda: covariances,
        "tied": lambda: np.stack([covariances] * K),
        "diag": lambda: np.stack([np.diag(c) for c in covariances]),
        "spherical": lambda: np.stack([c * np.eye(D) for c in covariances]),
    }[form]()
    y = x[:, None, :] - means[None]  # exact: the subtraction of neighbours
    distance = np.einsum("nki,kij,nkj->nk", y, np.linalg.inv(full), y)
    density = -0.5 * (distance + np.linalg.slogdet(full)[1] + D * np.log(2 * np.pi))
    second = np.einsum("nk,nki,nkj->kij", w, y, y)
    squares = np.diagonal(second, axis1=1, axis2=2)
    pooled = {"full": second, "tied": second.sum(axis=0), "diag": squares, "spherical": squares.sum(axis=1)}[form]
    return density, np.einsum("nk,nki->ki", w, y), pooled


def run(form: str, params: MultivariateNormalParams, w: Any, x: Any) -> Any:
    """Compiled anew, as the modules are now."""
    family = MultivariateNormal(form)

    def both(params: Any, w: Any, x: Any) -> Any:
        sums = lambda c: family.statistics(c, w, (), x)
        statistics = choose(family.prepare(params, x), sums)
        return log_density(family, params, x), statistics.first, statistics.second

    return jax.jit(both)(params, w, x)


def assert_as_the_textbook(form: str, params: MultivariateNormalParams, w: Any, x: Any) -> None:
    density, first, second = textbook(form, params, w, x)
    found = run(form, params, w, x)
    unit = eps(x.dtype)
    # A row is allowed what an objective is, 32 eps of its D values and its size; it takes some of it.
    assert_within(found[0], density, 8 * unit * (D + np.abs(density)))
    # Sums of N terms, of the size of a deviation or its square, here up to 2 standard deviations and 2 apart.
    size = 2 + 2 * float(jnp.sqrt(jnp.max(params.covariances)))
    assert_within(found[1], first, 2 * unit * N * size)
    assert_within(found[2], second, 2 * unit * N * size**2)


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this the form for any shape, its triangles in several bands."""
    monkeypatch.setattr(whitening, "_BAND", 2)
    return lambda by: monkeypatch.setattr(products, "chosen", lambda *_: by)


PRECISIONS = (("float32", 1e4), ("float64", 1e8))


@pytest.mark.parametrize(("form", "by"), KERNELS)
@pytest.mark.parametrize(("precision", "offset"), PRECISIONS)
@pytest.mark.slow
def test_far_from_zero_the_quick_form_is_as_good_as_the_textbook(form, by, precision, offset, take):
    params, x, w = setting(form, jnp.dtype(precision), offset)
    take(by)
    assert bool(by.view(form, *params).safe)  # it is the quick form that is tested
    assert_as_the_textbook(form, params, w, x)


@pytest.mark.parametrize(("form", "by"), [("full", quadratic), ("diag", quadratic), ("full", whitening)])
def test_tight_classes_far_apart_take_the_textbook_form(form, by, take):
    params, x, w = setting(form, jnp.float32, 0.0, 1e-3)
    take(by)
    assert not bool(by.view(form, *params).safe)
    assert_as_the_textbook(form, params, w, x)


@pytest.mark.parametrize("form", ["full", "diag"])
def test_what_tight_classes_far_apart_would_lose(form, take, monkeypatch):
    """A standard deviation of 1e-3 at distances of 1: of squared terms, 1e6 eps of each log-density."""
    params, x, w = setting(form, jnp.float32, 0.0, 1e-3)
    take(quadratic)
    monkeypatch.setattr(quadratic, "_is_safe", lambda *_: jnp.bool_(True))
    density = textbook(form, params, w, x)[0]
    near = density > 0  # the rows of the class itself
    lost = np.abs(np.asarray(run(form, params, w, x)[0], np.float64) - density)[near]
    assert lost.max() > 100 * 8 * eps(jnp.float32) * (D + np.abs(density[near]).max())


@pytest.mark.slow
def test_em_asks_once_a_block(monkeypatch):
    """Tight classes: EM takes the careful form, to the bit what it takes where there is no other."""
    params, x, _ = setting("full", jnp.float32, 0.0, 1e-3)
    model, params = Mixture(MultivariateNormal("full"), K), MixtureParams(jnp.full((K,), 1 / 3, jnp.float32), params)
    step = lambda: jax.jit(lambda params: expectation.expect(model, params, x, 200))(params)
    asked = step()
    with monkeypatch.context() as patch:
        patch.setattr(quadratic, "_is_safe", lambda *_: jnp.bool_(True))
        assert abs(float(step().objective - asked.objective)) > 1e-4 * N
    monkeypatch.setattr(products, "chosen", lambda *_: None)
    jax.tree.map(np.testing.assert_array_equal, asked, step())


def correlated(common: float) -> np.ndarray:
    """Covariances whose rows have a factor in common, (K, D, D): eigenvalues 1 and about 5 ``common``^2."""
    loading = common * np.array([[1.0, 1, 1, 1, 1], [1, -1, 1, -1, 1], [1, 1, -1, -1, 1]])
    return np.eye(D)[None] + loading[:, :, None] * loading[:, None, :]


def test_strongly_correlated_coordinates_are_whitened_at_once(take):
    """Where squared terms would lose a condition number of 500, whitening loses no more than deviations do."""
    params, x, w = setting("full", jnp.float32, 1e4)
    params = params._replace(covariances=jnp.asarray(correlated(10.0), jnp.float32))
    take(whitening)
    assert bool(whitening.view("full", *params).safe) and not bool(quadratic.view("full", *params).safe)
    wanted, found = textbook("full", params, w, x), run("full", params, w, x)
    take(None)
    careful = run("full", params, w, x)
    lost = lambda sides: [np.abs(np.asarray(a, np.float64) - b).max() for a, b in zip(sides, wanted, strict=True)]
    assert all(a <= 8 * b for a, b in zip(lost(found), lost(careful), strict=True))


@pytest.mark.parametrize(("form", "by"), [("full", quadratic), ("tied", quadratic), ("full", whitening)])
def test_in_pieces(form, by, take, monkeypatch):
    params, x, w = setting(form, jnp.float64, 1e8)
    take(by)
    monkeypatch.setattr(products, "_BYTES", {"cpu": 3200})
    assert products._rows(by, form, K, x) < N / 5
    assert_as_the_textbook(form, params, w, x)


def mixture(form: str) -> tuple[Mixture, MixtureParams, jaxem.Dataset]:
    params, x, _ = setting(form, jnp.float64, 100.0)
    weights = jnp.asarray(np.random.default_rng(1).integers(0, 3, N), jnp.float64)
    x = jnp.where(weights[:, None] > 0, x, jnp.nan)
    return (
        Mixture(MultivariateNormal(form), K),
        MixtureParams(jnp.full((K,), 1 / K), params),
        Dataset(x, weights=weights),
    )


@pytest.mark.parametrize(("form", "by"), [("full", quadratic), ("spherical", quadratic), ("full", whitening)])
@pytest.mark.slow
def test_steps_and_gradients_are_those_of_the_textbook_form(form, by, take):
    """With weights, some zero, and NaN where they are."""
    model, params, data = mixture(form)

    def run(params: Any) -> Any:
        gradient = jax.grad(lambda p: model.log_normalizer(model.e_step(p, data), data))(params)
        return expectation.em_map(model, params, data), gradient

    take(by)
    quick = jax.jit(run)(params)
    take(None)
    slow = jax.jit(lambda params: run(params))(params)
    for found, wanted, allowed in ((quick[0], slow[0], 64), (quick[1], slow[1], 64 * N)):
        # New parameters are means over rows; the gradient is a sum. Values are below 128, squared deviations about 10.
        jax.tree.map(lambda a, b, allowed=allowed: assert_within(a, b, allowed * 10 * eps(a.dtype)), found, wanted)


@pytest.mark.slow
def test_a_fit_never_falls_by_more_than_rounding():
    """In 32 bits, from a bad start, 300 iterations or until nothing moves."""
    params, x, _ = setting("full", jnp.float32, 1e4)
    start = MixtureParams(jnp.full((K,), 1 / 3, jnp.float32), params._replace(means=x[:K]))
    fit = jaxem.fit(Mixture(MultivariateNormal("full"), K), start, x, tol=0.0, max_steps=300)
    # Without a tolerance it goes on until nothing is told from rounding any more.
    assert fit.status in (jaxem.Status.CONVERGED, jaxem.Status.MAX_STEPS, jaxem.Status.PRECISION)
    steps = int(fit.steps)
    assert steps > 20 and fit.trace[steps] > fit.trace[0] + 10


def test_the_monomials_of_a_block_are_made_once():
    """For the E-step and the moments, in a loop over blocks: two gathers, of the first and the second factors."""
    params, x, _ = setting("full", np.float64, 0.0)
    model, x = Mixture(MultivariateNormal(), K), jnp.concatenate([x[:600], x[:600]])
    step = jax.jit(lambda params, x: expectation.expect(model, params, x, 600).summary)
    program = step.lower(MixtureParams(jnp.full(K, 1 / K), params), x).compile().as_text()
    assert len(re.findall(r"f64\[15,(?:1,)?600\]\S* gather\(", program)) == 2  # D (D + 1) / 2 = 15 of 600 rows


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows():
    """What a fit holds beside the data: not even one number for each row and class."""
    model, params, _ = mixture("full")
    held = []
    for n in (2**18, 2**20):
        x = jax.ShapeDtypeStruct((n, D), jnp.float64)
        held.append(jax.jit(expectation.expect).lower(model, params, x).compile().memory_analysis().temp_size_in_bytes)
    assert held[1] <= 2**20 * D * 8
    assert held[1] - held[0] <= (2**20 - 2**18)  # a byte a row


def test_sums_about_zero(take):
    """Of a start, which has no parameters yet."""
    _, x, w = setting("full", jnp.float64, 0.0)
    found = []
    for by in (whitening, quadratic, None):
        take(by)
        found.append(jax.jit(lambda w, x: MultivariateNormal("full").statistics(None, w, (), x))(w, x))
    for other in found[:2]:
        jax.tree.map(lambda a, b: assert_within(a, b, 2 * N * 25 * eps(jnp.float64)), other, found[2])


def test_the_form_is_chosen_by_shape():
    assert products.chosen("full", 4096, 4, 64) is whitening  # few classes beside the dimension
    assert products.chosen("full", 4096, 32, 64) is quadratic
    assert products.chosen("full", 4096, 32, 65) is whitening
    assert products.chosen("diag", 4096, 4, 65) is quadratic
    assert products.chosen("full", 511, 4, 64) is None  # one of many, under vmap, where both branches would be run

    def is_guarded(n: int, d: int) -> bool:
        params = MultivariateNormalParams(jnp.zeros((2, d)), jnp.ones((2, 1, 1)) * jnp.eye(d)[None])
        x = jax.ShapeDtypeStruct((n, d), jnp.float64)
        density = lambda params, x: log_density(MultivariateNormal("full"), params, x)
        return "cond[" in str(jax.make_jaxpr(density)(params, x))

    assert is_guarded(4096, 5) and is_guarded(4096, 65)
    assert not is_guarded(200, 5)
