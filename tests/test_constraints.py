"""Parameter spaces: charts invert, stay finite at the ends, and have the dimension of their space."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps
from hypothesis import given
from hypothesis.extra.numpy import arrays

import jaxem
from jaxem import Positive, PositiveDefinite, Real, Simplex, UnitInterval
from jaxem.core import constraints
from jaxem.core.spaces import Decreasing, Orientation, UnitDeterminant, UnitProduct, ZeroSum, ZeroSumWhere, answers

forward = jax.jit(constraints.forward)
inverse = jax.jit(constraints.inverse)
_contains = jax.jit(constraints.contains)


def contains(spaces, params):
    """The answer in a program, which NumPy must give as well."""
    found = _contains(spaces, params)
    with np.errstate(all="ignore"):
        jax.tree.map(np.testing.assert_array_equal, found, constraints.contains(spaces, jax.device_get(params)))
    return found


K = 4  # classes of a simplex
D = 3  # rows of a matrix


def vectors(low: float, high: float, n: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, n, elements=st.floats(low, high))


def there_and_back(space: constraints.Space, value: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The value in this dtype, and forward(inverse(value))."""
    value = jnp.asarray(value, dtype)
    back = forward(space, inverse(space, value))
    assert back.dtype == dtype and back.shape == value.shape
    return np.asarray(value, np.float64), np.asarray(back, np.float64)


def back_and_there(space: constraints.Space, free: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates in this dtype, and inverse(forward(coordinates))."""
    free = jnp.asarray(free, dtype)
    again = inverse(space, forward(space, free))
    assert again.dtype == dtype and again.shape == free.shape
    return np.asarray(free, np.float64), np.asarray(again, np.float64)


@given(vectors(-1e9, 1e9, 5))
def test_real_is_the_identity(dtype, x):
    value, back = there_and_back(Real(), x, dtype)
    np.testing.assert_array_equal(back, value)


@given(vectors(-80, 80, 5))
@pytest.mark.slow
def test_positive_round_trips(dtype, u):
    # log x is rounded to eps |log x|, which is a relative error of x; 4 for log and exp themselves.
    value, back = there_and_back(Positive(), np.exp(u), dtype)
    assert_within(back, value, eps(dtype) * (4 + 2 * np.abs(u)) * value)
    free, again = back_and_there(Positive(), u, dtype)
    assert_within(again, free, eps(dtype) * (4 + 2 * np.abs(u)))


@given(vectors(-40, 36, 5))  # below exp(-42) a float32 probability is as good as zero
@pytest.mark.slow
def test_unit_interval_round_trips(dtype, u):
    # One minus x has an absolute error of eps, hence u one of eps / (1 - x) = eps (1 + exp u).
    u = np.minimum(u, -np.log(eps(dtype)) - 1)
    x = 1 / (1 + np.exp(-u))
    value, back = there_and_back(UnitInterval(), x, dtype)
    assert_within(back, value, eps(dtype) * value * (4 + (1 - x) * (4 + 2 * np.abs(u))))
    free, again = back_and_there(UnitInterval(), u, dtype)
    assert_within(again, free, eps(dtype) * (4 * (1 + np.exp(u)) + 2 * np.abs(u)))


@given(vectors(-12, 12, K))
def test_simplex_round_trips_to_a_point(dtype, log_x):
    x = np.exp(log_x) / np.exp(log_x).sum()
    value, back = there_and_back(Simplex(), x, dtype)
    largest = np.abs(np.log(x)).max()
    assert_within(back, value, eps(dtype) * 4 * K * (1 + largest) * value)
    assert_within(back.sum(), 1, K * eps(dtype))


@given(vectors(-10, 10, K - 1))
def test_simplex_round_trips_to_coordinates(dtype, u):
    free, again = back_and_there(Simplex(), u, dtype)
    assert_within(again, free, eps(dtype) * 4 * K * (2 + K * np.abs(u).max()))


@given(vectors(-2, 2, D * (D + 1) // 2))
def test_positive_definite_round_trips(dtype, u):
    lower = np.eye(D)
    lower[np.tril_indices(D, -1)] = u[D:]
    unit = lower @ lower.T
    scale = np.exp(u[:D])
    # Cholesky is backward stable row by row: L L' = S + E, |E_ij| <= (D + 1) eps sqrt(S_ii S_jj) (Higham 2002, 10.3).
    value, back = there_and_back(PositiveDefinite(), scale[:, None] * unit * scale, dtype)
    size = np.sqrt(np.outer(np.diag(value), np.diag(value)))
    assert_within(back, value, eps(dtype) * (4 * (D + 1) + 4 * np.abs(u[:D]).max()) * size)
    # The factor itself is off by as much times the condition number of the matrix in units of its own rows.
    free, again = back_and_there(PositiveDefinite(), u, dtype)
    assert_within(again, free, eps(dtype) * 4 * (D + 1) * np.linalg.cond(unit) * np.abs(lower).max())


@given(vectors(-100, 100, K - 1))
def test_zero_sums_round_trip(dtype, u):
    free, again = back_and_there(ZeroSum(), u[:, None], dtype)
    size = eps(dtype) * 8 * K * np.abs(u).max()
    assert_within(again, free, size)
    value = np.asarray(forward(ZeroSum(), jnp.asarray(u[:, None], dtype)), np.float64)
    assert_within(value.sum(axis=0), [0], size)
    assert_within((value**2).sum(), (free**2).sum(), size * 4 * np.abs(u).max() * K)  # no class is singled out


@given(vectors(-4, 4, K))
def test_decreasing_round_trips(dtype, u):
    # A gap is a difference of two entries, each rounded to eps of the largest.
    free, again = back_and_there(Decreasing(), u, dtype)
    value = np.asarray(forward(Decreasing(), jnp.asarray(u, dtype)), np.float64)
    assert (np.diff(value) < 0).all()
    assert_within(again, free, eps(dtype) * (8 + 8 * K * np.abs(value).max() * np.exp(np.maximum(-u.min(), 0))))


SHAPES = {  # space: shape of a point, of its coordinates
    Positive(): ((5,), (5,)),
    UnitInterval(): ((2, 5), (2, 5)),
    Simplex(): ((2, K), (2, K - 1)),
    PositiveDefinite(): ((2, D, D), (2, D * (D + 1) // 2)),
    UnitProduct(): ((2, K), (2, K - 1)),
    UnitDeterminant(): ((2, D, D), (2, D * (D + 1) // 2 - 1)),
    Orientation(): ((2, D, D), (2, D * (D - 1) // 2)),
    ZeroSum(): ((2, K, 3), (2, K - 1, 3)),
    ZeroSumWhere(((True, True, False), (True,) * 3, (False, False, True))): ((3, 3, 2), (3, 2)),
    Decreasing(): ((2, K), (2, K)),
}


@pytest.mark.parametrize("space", SHAPES, ids=lambda space: type(space).__name__)
def test_a_chart_has_the_dimension_of_its_space(space):
    point, coordinates = SHAPES[space]
    free = jnp.asarray(np.random.default_rng(0).normal(size=coordinates))
    value = forward(space, free)
    assert value.shape == point
    assert inverse(space, value).shape == coordinates
    assert contains(space, value)
    # No direction of the chart is lost: the Jacobian has full rank.
    jacobian = jax.jit(jax.jacobian(space.forward))(free).reshape(value.size, free.size)
    assert np.linalg.matrix_rank(jacobian) == free.size == answers.dimension(space, point)


@functools.partial(jax.jit, static_argnums=(0, 1))
def probe(space: constraints.Space, method: str, points: jax.Array) -> jax.Array:
    """Whether a chart's values and its gradients are finite at each of the points."""

    def finite(x: jax.Array) -> jax.Array:
        value, pull_back = jax.vjp(getattr(space, method), x)
        (gradient,) = pull_back(jnp.ones_like(value))
        return jnp.isfinite(value).all() & jnp.isfinite(gradient).all()

    return jax.vmap(finite)(points)


FAR = {
    Real(): [[-1e4], [1e4]],
    Positive(): [[-1e4], [1e4]],
    UnitInterval(): [[-1e4], [1e4]],
    Simplex(): [[-1e4, 0, 1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [0, 1e4, -1e4]],
    PositiveDefinite(): np.stack(np.meshgrid(*[[-1e4, 1, 1e4]] * 6)).reshape(6, -1).T,
    UnitProduct(): [[-1e4, 0, 1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [0, 1e4, -1e4]],
    UnitDeterminant(): np.stack(np.meshgrid(*[[-1e4, 1, 1e4]] * 5)).reshape(5, -1).T,
    Orientation(): np.stack(np.meshgrid(*[[-1e4, 1, 1e4]] * 3)).reshape(3, -1).T,
}


@pytest.mark.parametrize("space", FAR, ids=lambda space: type(space).__name__)
@pytest.mark.slow
def test_forward_is_finite_far_out(space, dtype):
    free = jnp.asarray(FAR[space], dtype)
    assert probe(space, "forward", free).all()
    value = forward(space, free)
    if isinstance(space, PositiveDefinite):
        value = jnp.diagonal(value, axis1=-2, axis2=-1)
    if isinstance(space, Positive | PositiveDefinite):
        assert (value > 0).all()


def test_inverse_is_finite_on_the_edge(dtype):
    tiny, below_one = np.finfo(dtype).tiny, 1 - np.finfo(dtype).epsneg
    small, large = (1e-300, 1e300) if dtype == jnp.float64 else (1e-38, 1e38)
    edges = {
        Positive(): [[0], [tiny], [small], [1], [large]],
        UnitInterval(): [[0], [tiny], [small], [0.5], [below_one], [1]],
        Simplex(): [[0, 1, 0], [tiny, 1, 0], [small, 0.5, 0.5], [1, 0, 0]],
        PositiveDefinite(): [np.diag(x) for x in ((1, 1), (tiny, 1), (large, 1), (tiny, large))],
    }
    for space, points in edges.items():
        good = probe(space, "inverse", jnp.asarray(np.array(points), dtype))
        assert good.all(), (space, good)


# A point with entries on the edge, which of its coordinates live, and another point that has none there.
HELD = {
    Positive(): ([0, 2, 0], [False, True, False], [1, 2, 3]),
    UnitInterval(): ([0, 1, 0.3], [False, False, True], [0.1, 0.2, 0.3]),
    Simplex(): (
        [[0, 0.25, 0.75, 0], [0.5, 0, 0, 0.5], [0, 0, 1, 0], [0.1, 0.2, 0.3, 0.4]],
        [[False, True, False], [False, False, True], [False] * 3, [True] * 3],
        [[0.1, 0.2, 0.3, 0.4]] * 4,
    ),
}


@pytest.mark.parametrize("space", HELD, ids=lambda space: type(space).__name__)
def test_a_chart_holds_what_lies_on_the_edge_where_it_is_made(space, dtype):
    point, lives, other = (jnp.asarray(np.array(part)) for part in HELD[space])
    point, other = point.astype(dtype), other.astype(dtype)
    np.testing.assert_array_equal(space.free(point), lives)
    free = inverse(space, point)
    np.testing.assert_array_equal(np.asarray(free)[~lives], 0)

    # Wherever the coordinates go, the edge stays, to the bit; the rest is what the space says, and moves.
    away = free + jnp.asarray(np.random.default_rng(0).normal(size=free.shape), dtype)
    there = forward(space, away, point)
    edge = np.asarray((point == 0) | ((point == 1) & isinstance(space, UnitInterval)))
    np.testing.assert_array_equal(np.asarray(there)[edge], np.asarray(point)[edge])
    assert contains(space, there) and (np.asarray(there)[~edge] > 0).all()
    back = inverse(space, there, point)
    assert_within(back, jnp.where(lives, away, 0), 64 * eps(dtype) * (1 + np.abs(away)))

    # A dead coordinate has no effect, a living one has its own: the rank is the number of those that live.
    jacobian = np.asarray(jax.jit(jax.jacobian(space.forward))(away, point), np.float64).reshape(point.size, free.size)
    np.testing.assert_array_equal(jacobian[:, ~np.asarray(lives).ravel()], 0)
    assert np.linalg.matrix_rank(jacobian, tol=1e-4) == np.asarray(lives).sum()
    assert np.isfinite(jax.jit(jax.jacobian(space.inverse))(point)).all()

    # Another point has coordinates in this chart too: what the chart holds is left out of them.
    moved = forward(space, inverse(space, other, point), point)
    np.testing.assert_array_equal(np.asarray(moved)[edge], np.asarray(point)[edge])
    kept = jnp.where(edge, 0, other)
    wanted = kept / kept.sum(axis=-1, keepdims=True) if isinstance(space, Simplex) else kept
    assert_within(np.asarray(moved)[~edge], np.asarray(wanted)[~edge], 64 * eps(dtype))


@pytest.mark.parametrize("space", HELD, ids=lambda space: type(space).__name__)
def test_an_edge_that_a_chart_does_not_hold_is_moved_inside_by_rounding_error(space, dtype):
    point, _, other = (jnp.asarray(np.array(part), dtype) for part in HELD[space])
    free = inverse(space, point, other)
    assert np.isfinite(free).all()
    # The coordinates of an edge point span |log tiny|: rounded to eps of that, all of it relative to the values.
    allowed = eps(dtype) * 4 * K * -np.log(np.finfo(dtype).tiny)
    back = forward(space, free, other)
    assert (np.asarray(back) > 0).all()
    assert_within(back, point, allowed * 2)


@pytest.mark.parametrize("space", HELD, ids=lambda space: type(space).__name__)
def test_charts_of_different_edges_run_side_by_side(space):
    points = [jnp.asarray(np.array(part), jnp.float64) for part in HELD[space][::2]]
    stacked = jnp.stack(points)
    free = jax.jit(jax.vmap(space.inverse))(stacked)
    back = jax.jit(jax.vmap(space.forward))(free + 0.1, stacked)
    for point, u, value in zip(points, free, back, strict=True):
        assert_within(u, inverse(space, point), 8 * eps(jnp.float64))
        assert_within(value, forward(space, u + 0.1, point), 8 * eps(jnp.float64))


def test_one_class_has_no_coordinates():
    one = jnp.ones((2, 1))
    assert inverse(Simplex(), one).shape == (2, 0) == Simplex().free(one).shape
    np.testing.assert_array_equal(forward(Simplex(), jnp.zeros((2, 0)), one), one)


@pytest.mark.parametrize("space", HELD, ids=lambda space: type(space).__name__)
def test_nan_is_no_edge(space):
    point = jnp.asarray(np.array(HELD[space][0], np.float64))
    index = (0,) if point.ndim == 1 else (3, 2)
    spoilt = point.at[index].set(jnp.nan)
    assert np.isnan(forward(space, inverse(space, spoilt), spoilt)[index])


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (Real(), [[0.0, -1e300]], [[0.0, np.nan], [np.inf, 0.0]]),
        (Positive(), [[0.0, 1e300]], [[-1e-300, 1.0], [np.nan, 1.0], [np.inf, 1.0]]),
        (UnitInterval(), [[0.0, 1.0]], [[-1e-9, 0.5], [0.5, 1.0 + 1e-9], [np.nan, 0.5]]),
        (Simplex(), [[0.0, 1.0], [1 / 3, 2 / 3]], [[0.5, 0.5001], [-0.1, 1.1], [np.nan, 1.0], [0.0, 0.0]]),
        (
            PositiveDefinite(),
            [np.eye(2), [[1e-300, 0.0], [0.0, 1e300]], [[1.0, 0.99], [0.99, 1.0]]],
            [
                np.zeros((2, 2)),
                -np.eye(2),
                [[1.0, 1.0], [1.0, 1.0]],
                [[1.0, 0.5], [0.4, 1.0]],
                [[1.0, 2.0], [2.0, 1.0]],
                [[np.nan, 0.0], [0.0, 1.0]],
            ],
        ),
        (UnitProduct(), [[1.0, 1.0], [1e-9, 1e9]], [[1.0, 1.001], [-1.0, -1.0], [0.0, np.inf], [np.nan, 1.0]]),
        (
            UnitDeterminant(),
            [np.eye(2), [[2.0, 1.0], [1.0, 1.0]]],
            [2 * np.eye(2), -np.eye(2), [[1.0, 0.5], [0.4, 1.2]], [[np.nan, 0.0], [0.0, 1.0]]],
        ),
        (
            Orientation(),
            [np.eye(2), [[0.0, 1.0], [1.0, 0.0]], [[0.6, -0.8], [0.8, 0.6]]],
            [2 * np.eye(2), [[1.0, 0.1], [0.0, 1.0]], [[np.nan, 0.0], [0.0, 1.0]], np.zeros((2, 2))],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_contains(space, inside, outside):
    for value in inside:
        assert contains(space, jnp.asarray(value)), value
    for value in outside:
        assert not contains(space, jnp.asarray(value)), value


def test_contains_allows_rounding_error(dtype):
    third = jnp.full((300,), 1 / 300, dtype)
    assert contains(Simplex(), third)
    x = np.random.default_rng(0).normal(size=(50, D)) * [1e-3, 1, 1e3]
    covariance = jnp.asarray(x.T @ x, dtype).at[0, 2].multiply(1 + 4 * eps(dtype))
    assert contains(PositiveDefinite(), covariance)


def test_one_space_serves_all_leaves():
    params = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array(3.0), jnp.array(4.0))}
    free = inverse(Positive(), params)
    assert jax.tree.structure(free) == jax.tree.structure(params)
    assert_within(free["b"][1], np.log(4.0), eps(jnp.float64) * 2)
    jax.tree.map(lambda x, y: assert_within(x, y, 8 * eps(jnp.float64)), forward(Positive(), free), params)
    assert contains(Positive(), params)["b"][0]
    assert constraints.describe(Positive(), params) == ["positive"] * 3


def test_spaces_may_be_a_prefix_of_the_tree():
    params = {"a": jnp.array([0.25, 0.75]), "b": (jnp.array(-3.0), jnp.array(4.0))}
    spaces = {"a": Simplex(), "b": Real()}
    free = inverse(spaces, params)
    assert free["a"].shape == (1,) and free["b"] == params["b"]
    inside = contains(spaces, {"a": jnp.array([0.5, 0.75]), "b": (jnp.array(-3.0), jnp.array(jnp.nan))})
    assert not inside["a"] and inside["b"][0] and not inside["b"][1]
    assert constraints.describe(spaces, params) == [Simplex.description, *[Real.description] * 2]


def test_spaces_are_compared_by_value():
    assert PositiveDefinite() == jaxem.PositiveDefinite()
    assert hash(Simplex()) == hash(Simplex())
    assert jax.tree.leaves(Simplex()) == []
    assert isinstance(Simplex(), constraints.Space)


def test_coordinates_know_the_manifold(dtype):
    """At the multinomial maximiser the gradient vanishes in coordinates; the raw one does not."""
    counts = jnp.asarray([10, 20, 5, 65], dtype)
    n = 100
    best = counts / n

    def log_likelihood(p):
        return (counts * jnp.log(p)).sum()

    raw = jax.jit(jax.grad(log_likelihood))(best)
    assert_within(raw, np.full(K, n), 4 * eps(dtype) * n)
    at_best = jax.jit(lambda p: jax.grad(lambda u: log_likelihood(Simplex().forward(u)))(Simplex().inverse(p)))
    inside = at_best(best)
    # V'(counts - n p) where p is known to a relative 4 K (1 + largest |log p|) eps (see the round trip).
    assert_within(inside, np.zeros(K - 1), eps(dtype) * 4 * K * (1 + np.log(20)) * n)


def test_units_only_shift_coordinates_of_scales(dtype):
    x = jnp.asarray([0.3, 2.0, 50.0], dtype)
    shift = Positive().inverse(1000 * x) - Positive().inverse(x)
    assert_within(shift, np.full(3, np.log(1000)), 4 * eps(dtype) * np.log(5e4))

    rng = np.random.default_rng(1)
    y = rng.normal(size=(50, D)) @ rng.normal(size=(D, D))
    units = np.array([1000, 1, 1e-3])
    covariance = y.T @ y / 50
    free, scaled = (
        inverse(PositiveDefinite(), jnp.asarray(c, dtype)) for c in (covariance, np.outer(units, units) * covariance)
    )
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    allowed = eps(dtype) * 8 * (D + 1) * np.linalg.cond(correlation) * np.maximum(1, np.abs(free)).max()
    assert_within(scaled[:D] - free[:D], np.log(units), allowed)
    assert_within(scaled[D:], free[D:], allowed)


@given(vectors(-12, 12, K - 1))
def test_unit_product_round_trips(dtype, u):
    free, again = back_and_there(UnitProduct(), u, dtype)
    assert_within(again, free, eps(dtype) * 4 * K * (2 + K * np.abs(u).max()))
    value = np.asarray(forward(UnitProduct(), jnp.asarray(u, dtype)), np.float64)
    assert_within(np.log(value).sum(), 0, 4 * K * eps(dtype) * (1 + np.abs(np.log(value)).max()))


@given(vectors(-2, 2, D * (D + 1) // 2 - 1))
def test_unit_determinant_round_trips(dtype, u):
    value = np.asarray(forward(UnitDeterminant(), jnp.asarray(u, dtype)), np.float64)
    scale = np.sqrt(np.diag(value))
    condition = np.linalg.cond(value / np.outer(scale, scale))
    assert_within(np.linalg.slogdet(value)[1], 0, 4 * (D + 1) ** 2 * eps(dtype) * condition)
    free, again = back_and_there(UnitDeterminant(), u, dtype)
    assert_within(again, free, eps(dtype) * 8 * (D + 1) * condition * (1 + np.abs(u).max()))


AXES = {
    "swapped": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "turned by a half": np.diag([-1.0, -1.0, 1.0]),
    "reflected": np.diag([1.0, -1.0, 1.0]),
    "moved on": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    **{f"random {i}": np.linalg.qr(np.random.default_rng(i).normal(size=(D, D)))[0] for i in range(4)},
}


@pytest.mark.parametrize("name", AXES)
def test_axes_have_coordinates_about_any_others(name, dtype):
    """Whatever the two orientations are: the chart at the one reaches the axes of the other, but for their signs."""
    about, axes = jnp.asarray(AXES["random 0"], dtype), jnp.asarray(AXES["random 0"] @ AXES[name], dtype)
    assert_within(inverse(Orientation(), about, about), np.zeros(D), 8 * eps(dtype))
    free = inverse(Orientation(), axes, about)
    back = np.asarray(forward(Orientation(), free, about), np.float64)
    signs = np.sign((back * np.asarray(axes)).sum(axis=0))
    assert np.abs(free).max() < 5  # a half turn is infinitely far away
    assert_within(back * signs[None, :], axes, 128 * eps(dtype))
    assert_within(back.T @ back, np.eye(D), 64 * eps(dtype))


@pytest.mark.parametrize("space", [UnitProduct(), UnitDeterminant(), Orientation()], ids=lambda s: type(s).__name__)
def test_points_of_single_precision_settle(space):
    free = np.random.default_rng(2).normal(size=SHAPES[space][1])
    rough = np.asarray(forward(space, jnp.asarray(free)), np.float32).astype(np.float64)
    settled = space.settle(rough, eps(np.float32))
    assert_within(settled, rough, 64 * eps(np.float32) * np.abs(rough).max())
    product = {1: lambda x: np.log(x).sum(axis=-1), 2: lambda x: np.log(np.abs(np.linalg.det(x)))}[space.event_ndim]
    assert_within(product(settled), np.zeros(2), 1e-11)
    if isinstance(space, Orientation):
        assert_within(settled.swapaxes(1, 2) @ settled, np.stack([np.eye(D)] * 2), 1e-12)
