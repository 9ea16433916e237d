"""Operations on parameter trees: names, dtypes, sizes of changes, sums that keep what rounding loses."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

from jaxem.core import trees


class Params(NamedTuple):
    weights: jax.Array
    components: dict


TREE = Params(jnp.array([0.5, 0.5]), {"means": jnp.array([-3.0, 2.0]), "scales": (jnp.array(1.0), jnp.array(2.0))})


def test_leaf_names():
    assert trees.leaf_names(TREE) == ["weights", "components.means", "components.scales.0", "components.scales.1"]
    assert trees.leaf_names(jnp.ones(3)) == ["params"]
    assert trees.leaf_names(0.5) == ["params"]


def test_is_traced():
    assert not trees.is_traced(TREE, 1.0)
    seen = []
    jax.jit(lambda x: seen.append(trees.is_traced({"a": 1.0}, {"b": x})) or x)(1.0)
    jax.grad(lambda x: seen.append(trees.is_traced(x)) or x)(1.0)
    jax.jit(lambda x: seen.append(trees.is_traced(TREE)) or x)(1.0)  # known, but nothing computed from it would be
    assert seen == [True, True, True]


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        ((jnp.ones(2, jnp.float32), jnp.ones(2, jnp.int64)), jnp.float32),
        ((jnp.ones(2, jnp.float32), jnp.ones(2)), jnp.float64),
        ((jnp.ones(2, jnp.float16), jnp.ones(2, jnp.float32)), jnp.float32),
        (jnp.ones(2, jnp.int32), jnp.float64),
        (np.ones(2, np.float32), jnp.float32),
    ],
)
def test_float_dtype(tree, wanted):
    assert trees.float_dtype(tree) == wanted


def test_cast_gives_strong_types(dtype):
    cast = trees.cast({"a": 1.0, "b": 2, "c": jnp.asarray(3.0)}, dtype)
    assert all(leaf.dtype == dtype and not leaf.weak_type for leaf in jax.tree.leaves(cast))


def test_all_finite():
    assert trees.all_finite(TREE) and trees.all_finite(())
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not trees.all_finite(TREE._replace(weights=jnp.array([0.5, bad])))
    assert trees.all_finite({"whole": jnp.arange(3)})


def test_select_and_concatenate():
    other = jax.tree.map(jnp.zeros_like, TREE)
    assert trees.select(jnp.bool_(True), TREE, other).components["means"][1] == 2
    assert trees.select(jnp.bool_(False), TREE, other).components["means"][1] == 0
    np.testing.assert_array_equal(trees.concatenate([jnp.ones((2, 2)), jnp.zeros(1)]), [1, 1, 1, 1, 0])


def test_largest():
    assert trees.largest(TREE) == 3
    assert trees.largest({"none": jnp.zeros((0, 2)), "some": jnp.array(-1.0)}) == 1
    assert jnp.isnan(trees.largest({"a": jnp.array([jnp.nan, 1.0])}))


def scaled(tree: Params, factor: float) -> Params:
    """One leaf in other units."""
    return tree._replace(components=tree.components | {"means": factor * tree.components["means"]})


def test_relative_change_is_the_largest_of_the_leaves(dtype):
    old = trees.cast(TREE, dtype)
    new = scaled(old, 1.25)._replace(weights=jnp.asarray([0.25, 0.75], dtype))
    change = trees.relative_change(new, old)
    assert change.dtype == dtype
    assert_within(change, 1 / 3, eps(dtype))  # 0.25 of 0.75 against 0.25 of 1.25
    assert trees.relative_change(old, old) == 0


@pytest.mark.parametrize("units", [2.0**-12, 2.0**12])
def test_relative_change_knows_no_units(units):
    """The units of one leaf matter neither to it nor to the others: to the bit, even in float32."""
    old = trees.cast(TREE, jnp.float32)
    in_weights = old._replace(weights=old.weights * jnp.array([1 + 1e-6, 1], jnp.float32))
    in_means = scaled(old, 1 + 1e-6)
    for new in (in_weights, in_means):
        change = trees.relative_change(new, old)
        assert_within(change, 1e-6, eps(jnp.float32))
        assert trees.relative_change(scaled(new, units), scaled(old, units)) == change
        assert trees.relative_change(*(jax.tree.map(lambda x: x * units, tree) for tree in (new, old))) == change


def test_relative_change_of_nan_is_nan():
    for bad in (TREE._replace(weights=jnp.array([0.5, jnp.nan])), scaled(TREE, jnp.nan)):
        assert jnp.isnan(trees.relative_change(bad, TREE))
        assert not trees.relative_change(bad, TREE) <= 1


def test_a_leaf_that_is_zero_but_for_rounding_has_settled(dtype):
    noise = 0.1 * eps(dtype)
    old = {"means": jnp.asarray([noise, 0], dtype), "variances": jnp.asarray([1, 2], dtype)}
    new = {"means": jnp.asarray([0, -noise], dtype), "variances": jnp.asarray([1, 2], dtype)}
    assert trees.relative_change(new, old) == 0
    # A small leaf that is more than noise has not: it is measured against itself.
    old, new = ({**tree, "means": 1e3 * tree["means"]} for tree in (old, new))
    assert trees.relative_change(new, old) == 1


def test_relative_change_of_zeros_is_zero():
    zeros = jax.tree.map(jnp.zeros_like, TREE)
    assert trees.relative_change(zeros, zeros) == 0
    assert trees.relative_change(TREE, zeros) == 1
    assert trees.relative_change(zeros, TREE) == 1


@jax.jit
def compensated_sum(terms):
    zero = jnp.zeros((), terms.dtype)
    (total, lost), _ = jax.lax.scan(lambda sums, x: (trees.two_sum(*sums, x), None), (zero, zero), terms)
    return total, lost


@pytest.mark.parametrize("kind", ["one value", "cancelling", "growing"])
def test_two_sum_keeps_what_rounding_lost(kind, dtype):
    rng = np.random.default_rng(0)
    n = 10_000
    terms = {
        "one value": np.full(n, -1.7231),
        "cancelling": np.concatenate([[1e6], rng.normal(size=n), [-1e6]]),
        "growing": 10.0 ** rng.uniform(-6, 6, size=n),
    }[kind].astype(dtype)
    exact, scale = math.fsum(terms.tolist()), math.fsum(np.abs(terms).tolist())
    total, lost = compensated_sum(jnp.asarray(terms))
    # Neumaier (1974), with u = eps / 2: u |S| + (3 n^2 / 4 + n) u^2 sum |x|, and one rounding to add the two.
    u, n = eps(dtype) / 2, len(terms)
    allowed = 2 * u * abs(exact) + (0.75 * n**2 + n) * u**2 * scale
    assert_within(total + lost, exact, allowed)
    assert abs(float(total) - exact) > allowed  # which the plain sum is not
