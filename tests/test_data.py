"""Data: weights, ragged sequences, sizes that tolerances scale with, and sums that stay accurate in float32."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

from jaxem import Dataset, dataset
from jaxem.core.data import count, counted, lengths_of, size, split_weights, take, total, values_of
from jaxem.core.dataset import as_data


def test_sequences_are_padded():
    padded = dataset([[1.0, 2.0, 3.0], [4.0], np.array([5.0, 6.0])])
    assert isinstance(padded, Dataset)
    np.testing.assert_array_equal(padded.values, [[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    np.testing.assert_array_equal(padded.lengths, [3, 1, 2])
    assert padded.lengths.dtype == jnp.int32


def test_sequences_keep_the_dtype_and_the_trailing_shape():
    padded = dataset([np.zeros((2, 3), np.float32), np.ones((4, 3), np.float32)])
    assert padded.values.shape == (2, 4, 3) and padded.values.dtype == jnp.float32
    assert dataset([np.array([1, 2], np.int32), np.array([1], np.int32)]).values.dtype == jnp.int32


@pytest.mark.parametrize(
    ("sequences", "says"),
    [
        ([[1.0], []], "sequence 1 is empty"),
        ([np.ones((2, 3)), np.ones((3, 4))], r"sequence 1 has observations of shape \(4,\), the first has \(3,\)"),
        ([np.ones((2, 3)), np.ones((2, 4))], "parts of unequal shape"),
    ],
)
def test_what_is_wrong_with_sequences(sequences, says):
    with pytest.raises(ValueError, match=says):
        dataset(sequences)


def test_split():
    x, weights, lengths = jnp.ones((4, 2)), jnp.arange(4.0), jnp.array([1, 2, 2, 1])
    assert split_weights(x)[0] is x and split_weights(x)[1] is None
    assert split_weights(Dataset(x, weights=weights)) == (x, weights)
    assert lengths_of(x) is None and values_of(x) is x
    both = Dataset(x, lengths=lengths, weights=weights)
    assert lengths_of(both) is lengths and values_of(both) is x
    assert split_weights(both) == (Dataset(x, lengths=lengths), weights)


def test_what_does_not_count_is_replaced():
    x, labels = np.array([[jnp.nan, 1.0], [2.0, 3.0], [jnp.inf, 5.0]]), np.array([7, 8, 9])
    data, weights = counted(Dataset((jnp.asarray(x), jnp.asarray(labels)), weights=jnp.array([0.0, 0.5, 0.0])))
    np.testing.assert_array_equal(data[0], [[2, 3]] * 3)
    np.testing.assert_array_equal(data[1], [8] * 3)
    np.testing.assert_array_equal(weights, [0, 0.5, 0])
    nothing, _ = counted(Dataset(jnp.asarray(x), weights=jnp.zeros(3)))
    np.testing.assert_array_equal(nothing, np.zeros((3, 2)))
    unweighted = jnp.asarray(x)
    assert counted(unweighted)[0] is unweighted and counted(unweighted)[1] is None


def test_weighted_is_a_pytree():
    data = Dataset({"x": jnp.ones((3, 2))}, weights=jnp.ones(3))
    doubled = jax.jit(lambda d: jax.tree.map(lambda leaf: 2 * leaf, d))(data)
    assert isinstance(doubled, Dataset) and (doubled.weights == 2).all()


def test_count():
    assert count(jnp.ones((5, 2))) == 5
    assert count({"x": jnp.ones((5, 2)), "y": jnp.ones(5)}) == 5
    assert count(Dataset(jnp.ones((5, 2)), weights=jnp.ones(5))) == 5


@pytest.mark.parametrize("data", [(jnp.ones(3), jnp.ones(4)), jnp.ones(()), (jnp.ones(3), jnp.ones(()))])
def test_count_needs_a_shared_axis(data):
    with pytest.raises(ValueError, match="share a leading axis of observations; their shapes are"):
        count(data)


def test_size_counts_what_was_observed(dtype):
    x = jnp.ones((4, 3), dtype)
    values = {"x": x, "y": jnp.ones(4, dtype)}
    lengths = jnp.array([1, 3, 2, 2])
    sequences = Dataset(jnp.ones((4, 3, 5), dtype), lengths=lengths)
    weights = jnp.asarray([2, 0, 1, 0.5], dtype)
    for data, wanted in [
        (x, 12),
        (values, 16),
        (Dataset(x, weights=weights), 3 * 3.5),
        (Dataset(values, weights=weights), 4 * 3.5),
        (sequences, 8 * 5),
        (dataclasses.replace(sequences, weights=weights), (2 + 2 + 1) * 5),
    ]:
        found = size(data, dtype)
        assert found.dtype == dtype and found.shape == ()
        assert_within(found, wanted, 8 * eps(dtype) * wanted)


def test_size_doubles_with_the_weights():
    x, weights = jnp.ones((7, 3)), jnp.asarray(np.random.default_rng(0).uniform(size=7))
    assert size(Dataset(x, weights=2 * weights), jnp.dtype("float64")) == 2 * size(
        Dataset(x, weights=weights), jnp.dtype("float64")
    )
    assert size(Dataset(x, weights=jnp.full(7, 2.0)), jnp.dtype("float64")) == 2 * size(x, jnp.dtype("float64"))


def test_take():
    data = Dataset((jnp.arange(12).reshape(6, 2), jnp.arange(6)), weights=jnp.arange(6.0))
    part = jax.jit(lambda start: take(data, start, 3))(2)
    np.testing.assert_array_equal(part.values[0], [[4, 5], [6, 7], [8, 9]])
    np.testing.assert_array_equal(part.values[1], [2, 3, 4])
    np.testing.assert_array_equal(part.weights, [2, 3, 4])


MILLION = 1_000_000
TERMS = {
    "log-densities": lambda rng: -(rng.normal(size=MILLION) ** 2) - 1,
    "two values": lambda rng: rng.choice([-1.3331, -2.7773], size=MILLION),
    "one value": lambda rng: np.full(MILLION, -1.7231),
    "cancelling": lambda rng: rng.normal(size=MILLION) * 1e3,
}
jitted_total = jax.jit(total)


@pytest.mark.parametrize("kind", TERMS)
def test_total_of_a_million_terms(kind, dtype):
    # The accuracy that the slack of the ascent law counts on: 32 eps of the sum of sizes, whatever their number.
    terms = TERMS[kind](np.random.default_rng(0)).astype(dtype)
    exact, scale = math.fsum(terms.tolist()), math.fsum(np.abs(terms).tolist())
    assert_within(jitted_total(jnp.asarray(terms)), exact, 32 * eps(dtype) * scale)


def test_a_plain_sum_would_not_do():
    terms = TERMS["one value"](None).astype(np.float32)
    one_by_one = float(np.cumsum(terms)[-1])
    exact = math.fsum(terms.tolist())
    assert abs(one_by_one - exact) > 1000 * eps(np.float32) * abs(exact)


@pytest.mark.parametrize("n", [0, 1, 1000, 1024, 1025, 1100])
def test_total_leaves_nothing_out(n):
    # Whole numbers: exact, whatever the rows.
    assert jitted_total(jnp.arange(n, dtype=jnp.float32)) == n * (n - 1) / 2


def test_total_weighted():
    values, weights = jnp.array([1.0, jnp.nan, -jnp.inf, 4.0]), jnp.array([2.0, 0.0, 0.0, 0.5])
    assert total(values, weights) == 4.0  # a weight of zero is the same as not having seen it
    assert jnp.isnan(total(values, jnp.ones(4)))
    assert total(jnp.array([1.0, 2.0], jnp.float32), jnp.array([1, 3])) == 7  # whole-number weights


# The conversion of whatever comes in


def _narrow(data):
    """The dtype that data end in where JAX has 32 bits only."""
    with jax.enable_x64(False):
        return jax.tree.leaves(as_data(data))[0].dtype


CLUSTERS = np.concatenate([np.random.default_rng(i).normal(86400 * i, 50, 150) for i in range(3)])
SPREAD = np.random.default_rng(0).normal(size=300)
LOST = {
    "seconds": 1.7e9 + 50 * SPREAD,
    "sessions": 1.7e9 + CLUSTERS,
    "julian dates": 2.46e6 + SPREAD / 50,
    "degrees": 51.5 + 1e-5 * SPREAD,
    "one column": np.stack([SPREAD, 1e8 + SPREAD], axis=1),
    "of sequences": np.stack([SPREAD, 1e8 + SPREAD], axis=1).reshape(10, 30, 2),
    "few": 1e9 + np.arange(5.0),
    "vanishing": 1e-60 * SPREAD,
    "overflowing": 1e60 * SPREAD,
}
KEPT = {
    "ordinary": SPREAD,
    "years": 1900 + SPREAD,
    "far": 1e4 + SPREAD,
    "wide": 1.7e9 + 1e7 * SPREAD,
    "a constant column": np.stack([SPREAD, np.full(300, 0.1)], axis=1),
    "heavy tails": np.random.default_rng(1).standard_cauchy(2000),
    "orders of magnitude": np.exp(5 * SPREAD),
    "many zeros": np.where(SPREAD > 1, SPREAD, 0),
    "a grid": np.round(10 * SPREAD) / 10,
    "ties but for rounding": 0.1 + 1e-17 * np.round(SPREAD),
    "one sequence": SPREAD[None] + 3,
    "a common first value": np.concatenate([np.full((20, 1), 0.1), SPREAD.reshape(20, 15)], axis=1),
    "large, but exact": 2.0**30 + 2.0**10 * np.round(SPREAD),
    "nan": np.where(SPREAD > 1, np.nan, SPREAD),
}


@pytest.mark.parametrize("kind", LOST)
def test_digits_that_matter_are_not_lost(kind):
    with pytest.raises(ValueError, match=r"Subtract an offset|cannot hold"):
        _narrow(LOST[kind])
    assert as_data(LOST[kind]).dtype == np.float64  # which holds them


@pytest.mark.parametrize("kind", KEPT)
def test_digits_that_do_not_matter_may_be_lost(kind):
    assert _narrow(KEPT[kind]) == np.float32


def test_rounding_below_the_threshold_moves_estimates_by_little():
    """What is let through costs less than 0.02 standard errors of a mean, and of a variance."""
    for offset in 10.0 ** np.arange(0, 9, 0.25):
        x = offset + SPREAD
        try:
            _narrow(x)
        except ValueError:
            assert offset > 1e4
            continue
        y = x.astype(np.float32).astype(float)
        assert abs(y.mean() - x.mean()) < 0.02 * x.std() / np.sqrt(300)
        assert abs(y.var() - x.var()) < 0.02 * x.var() * np.sqrt(2 / 300)


def test_whole_numbers_that_do_not_fit():
    for data in [np.array([2**31, 0]), np.array([-(2**31) - 1, 0]), np.array([2**32 - 1], np.uint32), [2**40], [2**70]]:
        with pytest.raises(ValueError, match="do not fit"):
            _narrow(data)
    assert _narrow(np.array([2**31 - 1, -(2**31)])) == np.int32
    assert _narrow(np.array([2**31 - 1], np.uint64)) == np.int32
    np.testing.assert_array_equal(as_data(np.array([2**32 - 1], np.uint32)), [2**32 - 1])
    with pytest.raises(ValueError, match="do not fit"), jax.enable_x64(False):
        dataset([np.array([1]), np.array([2**40, 2])])
    with pytest.raises(ValueError, match="Subtract an offset"), jax.enable_x64(False):
        dataset([LOST["seconds"][:200], LOST["seconds"][200:]])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        *((kind, "int32") for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", ">i2")),
        *((kind, "int64") for kind in ("int64", "uint64")),
        *((kind, "float32") for kind in ("float16", "float32", ">f4")),
        *((kind, "float64") for kind in ("float64", "longdouble")),
        ("bool", "bool"),
    ],
)
def test_every_kind_of_number_comes_in_exactly(given, wanted):
    values = np.array([1, 0, 1, 1]).astype(given)
    found = as_data(values)
    assert found.dtype == wanted and not found.weak_type
    np.testing.assert_array_equal(found, [1, 0, 1, 1])
    np.testing.assert_array_equal(as_data(values.tolist()), [1, 0, 1, 1])
    np.testing.assert_array_equal(as_data(values.astype(object)), [1, 0, 1, 1])


def test_data_in_a_trace_pass_through():
    data = Dataset((jnp.ones(3), jnp.arange(3)), weights=jnp.ones(3, jnp.int32))
    out = jax.eval_shape(as_data, data)
    assert [leaf.dtype for leaf in jax.tree.leaves(out)] == ["float64", "int64", "float64"]
    with pytest.raises(ValueError, match="complex"):
        jax.eval_shape(as_data, jnp.ones(3, complex))
