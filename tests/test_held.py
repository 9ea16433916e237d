"""Spaces with held elements: these are exact constants, and the rest has the dimension that is left."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem import Positive, PositiveDefinite, Real, Simplex, UnitInterval
from jaxem.core import constraints
from jaxem.core.spaces import answers

T, F = True, False
SHARES = [  # of six rows: what is held at what, and how many degrees of freedom are left
    ([T, F, F, F], [0.0, 0, 0, 0], 2),
    ([F, T, F, T], [0, 0.5, 0, 0.2], 1),
    ([F, F, F, F], [0, 0, 0, 0], 3),
    ([T, T, T, T], [0.1, 0.2, 0.3, 0.4], 0),
    ([T, F, T, T], [0.1, 0, 0.2, 0], 0),
    ([T, F, T, F], [0.25, 0, 0.75, 0], 0),
]
WHOLE, DIAGONAL, PAIR = np.ones((3, 3), bool), ~np.eye(3, dtype=bool), np.zeros((3, 3), bool)
PAIR[[0, 1, 1, 2], [1, 0, 2, 1]] = True  # the first and the last variable covary, the second is by itself
MATRIX = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, -0.3], [0.1, -0.3, 3.0]])

CASES = {  # the space, what is held, at what, and the dimension of the rest
    "real": (Real(), [[T, F, F], [F, T, F]], [[-1.5, 9, 9], [9, 0.1, 9]], 4),
    "positive": (Positive(), [T, F, T, F], [0.1, -1, 0, -1], 2),
    "unit interval": (UnitInterval(), [T, F, T, T], [0.1, 7, 1, 0], 1),
    "simplex": (Simplex(), [mask for mask, _, _ in SHARES], [value for _, value, _ in SHARES], 6),
    "matrices": (
        PositiveDefinite(),
        np.stack([WHOLE, DIAGONAL, PAIR, np.zeros((3, 3), bool)]),
        np.stack([MATRIX, *np.zeros((3, 3, 3))]),
        0 + 3 + 4 + 6,
    ),
}


@functools.cache
def case(name):
    space, mask, value, dimension = CASES[name]
    mask, value = np.array(mask), np.array(value, float)
    return space.hold(mask, value), mask, value, dimension


def coordinates(space, shape, dtype, seed=0):
    free = np.random.default_rng(seed).normal(size=answers.coordinates_shape(space, shape))
    return jnp.asarray(free, dtype)


forward, inverse = jax.jit(constraints.forward), jax.jit(constraints.inverse)
each_case = pytest.mark.parametrize("name", CASES)


@each_case
def test_held_elements_are_exact_and_the_rest_lies_in_the_space(name, dtype):
    space, mask, value, _ = case(name)
    free = coordinates(space, mask.shape, dtype)
    for like in (None, forward(space, coordinates(space, mask.shape, dtype, 1))):
        for far in (1, 1e4):
            point = np.asarray(forward(space, far * free, like))
            assert point.dtype == dtype and point.shape == mask.shape
            np.testing.assert_array_equal(point[mask], value[mask].astype(dtype))
        point = forward(space, free, like)
        for values in (point, np.asarray(point)):
            assert space.contains(values) and CASES[name][0].contains(values)
        other = np.asarray(forward(space, free + 1, like))
        assert (other != point)[~mask & ~answers.constant(space, mask.shape)].all()


@each_case
def test_charts_invert(name, dtype):
    space, mask, _, _ = case(name)
    free = coordinates(space, mask.shape, dtype)
    like = forward(space, coordinates(space, mask.shape, dtype, 1))
    for at in (None, like):
        point = forward(space, free, at)
        lives = np.asarray(space.free(point))
        # Coordinates of at most 3 in size, through sums of at most 4 logs, or a factor of condition at most 1e4.
        assert_within(inverse(space, point, at), np.where(lives, free, 0), 1e4 * eps(dtype))
        assert_within(forward(space, inverse(space, point, at), at), point, 64 * eps(dtype) * np.abs(point).max())


@each_case
def test_the_dimension_is_what_is_left(name):
    space, mask, _, dimension = case(name)
    free = coordinates(space, mask.shape, jnp.float64)
    lives = np.asarray(space.free(forward(space, free)))
    jacobian = np.asarray(jax.jit(jax.jacobian(space.forward))(free)).reshape(mask.size, free.size)
    assert lives.sum() == dimension == answers.dimension(space, mask.shape)
    np.testing.assert_array_equal(jacobian[:, ~lives.ravel()], 0)
    assert np.linalg.matrix_rank(jacobian) == dimension
    assert len(answers.names(space, "x", answers.numbered(mask.shape))) == free.size
    model = jaxem.Model(lambda p, x: x, lambda q, x: q, constraints=space)
    specs = jax.ShapeDtypeStruct(mask.shape, jnp.float64)
    assert jaxem.inference.number_of_parameters(model, forward(space, free)) == dimension
    assert jaxem.inference.number_of_parameters(model, specs) == dimension


@each_case
def test_gradients_are_finite(name, dtype):
    space, mask, _, _ = case(name)
    for far in (1, 1e4):
        free = far * coordinates(space, mask.shape, dtype)
        slope = jax.jit(jax.grad(lambda u: space.forward(u).sum()))(free)
        assert np.isfinite(slope).all()
    point = forward(space, coordinates(space, mask.shape, dtype))
    slope = np.asarray(jax.jit(jax.grad(lambda x: space.inverse(x).sum()))(point))
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[mask], 0)


@each_case
def test_held_spaces_run_in_a_trace_and_side_by_side(name):
    space, mask, value, _ = case(name)
    again = CASES[name][0].hold(mask, value)
    assert again == space and hash(again) == hash(space) and jax.tree.leaves(space) == []
    assert space != CASES[name][0] and constraints.is_space(space)
    free = jnp.stack([coordinates(space, mask.shape, jnp.float64, seed) for seed in range(3)])
    points = jax.jit(jax.vmap(space.forward))(free)
    back = jax.jit(jax.vmap(space.inverse))(points)
    assert jax.jit(jax.vmap(space.contains))(points).all()
    for u, x, b in zip(free, points, back, strict=True):
        assert_within(x, forward(space, u), 64 * eps(np.float64) * np.abs(x).max())
        assert_within(b, inverse(space, x), 1e4 * eps(np.float64))


@each_case
def test_what_is_held_elsewhere_lies_outside(name):
    space, mask, _, _ = case(name)
    point = forward(space, coordinates(space, mask.shape, jnp.float64))
    for index in np.argwhere(mask):
        for wrong in (point[tuple(index)] + 1e-3, jnp.nan):
            moved = point.at[tuple(index)].set(wrong)
            assert not space.contains(moved)
            with np.errstate(all="ignore"):
                assert not space.contains(np.asarray(moved))


@each_case
def test_values_of_a_lower_precision_are_moved_to_what_is_held(name):
    space, mask, value, _ = case(name)
    narrow = np.asarray(forward(space, coordinates(space, mask.shape, jnp.float32)))
    settled = constraints.settle(space, jnp.asarray(narrow, jnp.float64), eps(np.float32))
    np.testing.assert_array_equal(np.asarray(settled)[mask], value[mask])
    assert_within(settled, narrow, 64 * eps(np.float32) * np.abs(narrow).max())
    assert space.contains(settled)
    kept = constraints.settle(space, settled, eps(np.float64))
    assert_within(kept, settled, 4 * eps(np.float64) * np.abs(narrow).max())


def test_edges_of_the_rest_are_held_too(dtype):
    space, mask, _, _ = case("simplex")
    point = np.array(forward(space, coordinates(space, mask.shape, dtype)))
    point[0] = [0, 0.25, 0, 0.75]
    assert space.contains(jnp.asarray(point))
    assert np.asarray(space.free(jnp.asarray(point))).sum() == 5
    moved = np.asarray(forward(space, coordinates(space, mask.shape, dtype, 2), jnp.asarray(point)))
    np.testing.assert_array_equal(moved[0, [0, 2]], 0)
    positive, _, _, _ = case("positive")
    assert list(positive.free(jnp.asarray([0.1, 0, 0, 2], dtype))) == [False, False, False, True]
    assert forward(positive, jnp.ones(4, dtype), jnp.asarray([0.1, 0, 0, 2], dtype))[1] == 0


def test_the_rest_of_a_simplex_is_a_simplex_of_its_own():
    """Interval, edge and tangent are those of the shares of what is left."""
    space = Simplex().hold(np.array([F, T, F, F]), 0.6)
    shares = jnp.array([0.2, 0.3, 0.5])
    x = jnp.array([0.08, 0.6, 0.12, 0.2])
    others = np.array([0, 2, 3])
    take = lambda vector: np.asarray(vector)[others]
    assert_within(space.inverse(x)[jnp.array([1, 2])], Simplex().inverse(shares), 1e-14)
    half, nothing = jnp.array([0.01, 0, 0.02, 0.03]), jnp.zeros(3)
    ends = space.interval(x, half, nothing, nothing)
    wanted = Simplex().interval(shares, half[others] / 0.4, nothing[:2], nothing[:2])
    for end, of_shares in zip(ends, wanted, strict=True):
        assert end[1] == 0.6
        assert_within(take(end), 0.4 * np.asarray(of_shares), 1e-14)
    edge, of_shares = space.edge, Simplex().edge
    slope = jnp.array([3.0, 100, -1, 2])
    assert_within(take(edge.inward(x, slope)), 0.4 * np.asarray(of_shares.inward(shares, slope[others])), 1e-13)
    assert_within(take(space.tangential(x, slope)), take(slope) - (shares @ slope[others]), 1e-14)
    assert space.tangential(x, slope)[1] == 0
    near = jnp.array([0.4, 0.6, 1e-17, 0])
    assert list(edge.strays(near, 1e-15)) == [False, False, True, False]
    placed, left_out = edge.place(x, jnp.array([T, F, F, F]))
    assert_within(placed, [0, 0.6, 0.15, 0.25], 1e-15)
    assert placed[1] == 0.6 and not left_out.any()
    away = edge.runs_off(x, jnp.array([-0.05, -0.5, -0.05, 0.1]), nothing, 0.5)
    assert list(away) == [True, False, False, False]


def test_edges_of_single_numbers_leave_out_what_is_held():
    space = UnitInterval().hold(np.array([T, F, F]), np.array([1e-17, 0, 0]))
    near = jnp.array([1e-17, 1e-17, 0.5])
    assert list(space.edge.strays(near, 1e-15)) == [False, True, False]
    placed, left_out = space.edge.place(near, jnp.array([T, T, F]))
    assert list(left_out) == [False, True, False] and (placed == near).all()
    away = space.edge.runs_off(near, -jnp.ones(3), jnp.array([T, F, T]), 0.5)
    assert list(away) == [False, True, True]
    assert list(space.edge.inward(near, jnp.ones(3))) == [0, 1, -1]


def test_more_may_be_held_later():
    first = Simplex().hold(np.array([T, F, F, F]), 0.1)
    both = first.hold(np.array([T, F, F, T]), np.array([0.1, 0, 0, 0.3]))
    assert both == Simplex().hold(np.array([T, F, F, T]), np.array([0.1, 0, 0, 0.3]))
    with pytest.raises(ValueError, match=r"\[0\] is held already, at another value"):
        first.hold(np.array([T, F, F, F]), 0.2)
    with pytest.raises(ValueError, match=r"sum to more than one"):
        first.hold(np.array([F, T, F, F]), 0.95)
    assert Real().hold(np.zeros(3, bool), 1.0) == Real()


def _square(*held):
    mask = np.zeros((3, 3), bool)
    for i, j in held:
        mask[i, j] = mask[j, i] = True
    return mask


@pytest.mark.parametrize(
    ("space", "mask", "value", "message"),
    [
        (Real(), [T, F], np.inf, r"Real.hold: values that are held must be finite; got inf at \[0\]"),
        (Real(), [1, 0], 0, "must be booleans"),
        (Real(), [T, F], [1, 2, 3], r"numbers of the mask's shape \(2,\)"),
        (Real(), [T, F], "one", "must be a number"),
        (Positive(), [[F, F], [F, T]], -2.0, r"must be positive; got -2. at \[1, 1\]"),
        (UnitInterval(), [F, T], [0, 1.5], r"must be between 0 and 1; got 1.5 at \[1\]"),
        (Simplex(), [[F, F], [F, T]], [[0, 0], [0, -0.1]], r"must be non-negative; got -0.1 at \[1, 1\]"),
        (Simplex(), [[F, F, F], [T, T, F]], 0.6, r"sum to more than one; those of row \[1\] sum to 1.2"),
        (Simplex(), [T, T, T], 0.3, "sum to less than one, and nothing is left; they sum to 0.9"),
        (Simplex(), T, 1.0, "must have the shape of the parameter"),
        (PositiveDefinite(), _square((1, 1)), 2.0, r"a variance is held .*at \[1, 1\].*whole matrices, and zeros"),
        (PositiveDefinite(), _square((0, 1)), 0.0, r"may covary with a third one, at \[0, 1\].*leave blocks"),
        (PositiveDefinite(), _square((0, 1), (0, 2)), 0.5, r"another value than zero, at \[0, 1\].*leave blocks"),
        (PositiveDefinite(), WHOLE, -MATRIX, "must be symmetric and positive definite"),
        (PositiveDefinite(), WHOLE, np.triu(MATRIX), "must be symmetric and positive definite"),
        (PositiveDefinite(), np.ones((2, 3), bool), 0.0, r"square matrices; its shape is \(2, 3\)"),
    ],
)
def test_what_cannot_be_held_is_refused(space, mask, value, message):
    with pytest.raises(ValueError, match=message):
        space.hold(np.array(mask), value)


def test_nothing_traced_can_be_held():
    with pytest.raises(ValueError, match="must be known numbers"):
        jax.jit(lambda value: constraints.forward(Real().hold(np.array([T, F]), value), jnp.zeros(2)))(1.0)
    inside = jax.jit(lambda u: Positive().hold(np.array([T, F]), 3.0).forward(u))(jnp.zeros(2))  # known, in a trace
    assert list(inside) == [3, 1]


def test_a_leaf_of_another_shape_is_refused():
    model = jaxem.Model(lambda p, x: x, lambda q, x: q, constraints=Real().hold(np.array([T, F]), 0.5))
    with pytest.raises(ValueError, match=re.escape("need the shape (2,); one has shape (3,)")):
        jaxem.inference.number_of_parameters(model, jnp.zeros(3))


def _levels(levels):
    """Counts of levels, as a model of one class, its M-step by gradient."""
    return jaxem.from_log_joint(lambda p, x: jnp.log(p["share"][x])[None], constraints={"share": levels})


@pytest.mark.slow
def test_a_fit_leaves_alone_what_is_held():
    """Shares of four levels, one of which is known: the others are counts, of what it leaves."""
    counts = np.array([40, 10, 30, 20])
    x = np.repeat(np.arange(4), counts)
    model = _levels(Simplex().hold(np.array([F, F, T, F]), 0.4))
    fit = jaxem.fit(model, {"share": np.array([0.2, 0.2, 0.4, 0.2])}, x, tol=1e-12)
    assert fit.status == jaxem.Status.CONVERGED
    p = np.array([40, 10, 0, 20]) / 70
    assert_within(fit.params["share"], [0.6 * p[0], 0.6 * p[1], 0.4, 0.6 * p[3]], 1e-5)
    assert fit.params["share"][2] == 0.4
    assert jaxem.inference.number_of_parameters(model, fit) == 2
    table = jaxem.summary(model, fit, x)
    assert table.free == 2 and table.held == ()
    assert table.lower[2] == 0.4 == table.upper[2] and table.standard_errors[2] == 0
    wanted = 0.6 * np.sqrt(p * (1 - p) / 70)
    assert_within(table.standard_errors, wanted, 1e-4)
    assert (table.lower < table.estimates)[[0, 1, 3]].all() and (table.upper < 0.6).all()
    names = jaxem.inference.information(model, fit.params, x).names
    assert names == ("ilr share[0]", "ilr share[2]")


def test_a_start_that_is_not_held_where_it_must_be_is_refused():
    model = _levels(Simplex().hold(np.array([F, F, T, F]), 0.4))
    with pytest.raises(ValueError, match=r"share must be non-negative.*1 of 4 elements held at their values"):
        jaxem.fit(model, {"share": np.array([0.2, 0.2, 0.25, 0.2])}, np.arange(4))
