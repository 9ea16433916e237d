"""Data: weights, ragged sequences, sizes that tolerances scale with, and sums that stay accurate in float32."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

from jaxem import Sequences, Weighted, pad_sequences
from jaxem.core.data import count, counted, size, split_lengths, split_weights, take, total


def test_pad_sequences():
    padded = pad_sequences([[1.0, 2.0, 3.0], [4.0], np.array([5.0, 6.0])])
    assert isinstance(padded, Sequences)
    np.testing.assert_array_equal(padded.values, [[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    np.testing.assert_array_equal(padded.lengths, [3, 1, 2])
    assert padded.lengths.dtype == jnp.int32


def test_pad_sequences_keeps_the_dtype_and_the_trailing_shape():
    padded = pad_sequences([np.zeros((2, 3), np.float32), np.ones((4, 3), np.float32)])
    assert padded.values.shape == (2, 4, 3) and padded.values.dtype == jnp.float32
    assert pad_sequences([np.array([1, 2], np.int32)]).values.dtype == jnp.int32


@pytest.mark.parametrize(
    ("sequences", "says"),
    [
        ([], "no sequences"),
        ([[1.0], []], "sequence 1 is empty"),
        ([np.float64(3.0)], "sequence 0 is empty"),
        ([np.ones((2, 3)), np.ones((2, 4))], r"sequence 1 has observations of shape \(4,\), the first has \(3,\)"),
    ],
)
def test_pad_sequences_says_what_is_wrong(sequences, says):
    with pytest.raises(ValueError, match=says):
        pad_sequences(sequences)


def test_split():
    x, weights, lengths = jnp.ones((4, 2)), jnp.arange(4.0), jnp.array([1, 2, 2, 1])
    assert split_weights(x)[0] is x and split_weights(x)[1] is None
    assert split_weights(Weighted(x, weights)) == (x, weights)
    assert split_lengths(x)[0] is x and split_lengths(x)[1] is None
    assert split_lengths(Sequences(x, lengths)) == (x, lengths)


def test_what_does_not_count_is_replaced():
    x, labels = np.array([[jnp.nan, 1.0], [2.0, 3.0], [jnp.inf, 5.0]]), np.array([7, 8, 9])
    data, weights = counted(Weighted((jnp.asarray(x), jnp.asarray(labels)), jnp.array([0.0, 0.5, 0.0])))
    np.testing.assert_array_equal(data[0], [[2, 3]] * 3)
    np.testing.assert_array_equal(data[1], [8] * 3)
    np.testing.assert_array_equal(weights, [0, 0.5, 0])
    nothing, _ = counted(Weighted(jnp.asarray(x), jnp.zeros(3)))
    np.testing.assert_array_equal(nothing, np.zeros((3, 2)))
    unweighted = jnp.asarray(x)
    assert counted(unweighted)[0] is unweighted and counted(unweighted)[1] is None


def test_weighted_is_a_pytree():
    data = Weighted({"x": jnp.ones((3, 2))}, jnp.ones(3))
    doubled = jax.jit(lambda d: jax.tree.map(lambda leaf: 2 * leaf, d))(data)
    assert isinstance(doubled, Weighted) and (doubled.weights == 2).all()


def test_count():
    assert count(jnp.ones((5, 2))) == 5
    assert count({"x": jnp.ones((5, 2)), "y": jnp.ones(5)}) == 5
    assert count(Weighted(jnp.ones((5, 2)), jnp.ones(5))) == 5


@pytest.mark.parametrize("data", [(jnp.ones(3), jnp.ones(4)), jnp.ones(()), (jnp.ones(3), jnp.ones(()))])
def test_count_needs_a_shared_axis(data):
    with pytest.raises(ValueError, match="share a leading axis of observations; their shapes are"):
        count(data)


def test_size_counts_what_was_observed(dtype):
    x = jnp.ones((4, 3), dtype)
    values = {"x": x, "y": jnp.ones(4, dtype)}
    lengths = jnp.array([1, 3, 2, 2])
    sequences = Sequences(jnp.ones((4, 3, 5), dtype), lengths)
    weights = jnp.asarray([2, 0, 1, 0.5], dtype)
    for data, wanted in [
        (x, 12),
        (values, 16),
        (Weighted(x, weights), 3 * 3.5),
        (Weighted(values, weights), 4 * 3.5),
        (sequences, 8 * 5),
        (Weighted(sequences, weights), (2 + 2 + 1) * 5),
    ]:
        found = size(data, dtype)
        assert found.dtype == dtype and found.shape == ()
        assert_within(found, wanted, 8 * eps(dtype) * wanted)


def test_size_doubles_with_the_weights():
    x, weights = jnp.ones((7, 3)), jnp.asarray(np.random.default_rng(0).uniform(size=7))
    assert size(Weighted(x, 2 * weights), jnp.dtype("float64")) == 2 * size(Weighted(x, weights), jnp.dtype("float64"))
    assert size(Weighted(x, jnp.full(7, 2.0)), jnp.dtype("float64")) == 2 * size(x, jnp.dtype("float64"))


def test_take():
    data = Weighted((jnp.arange(12).reshape(6, 2), jnp.arange(6)), jnp.arange(6.0))
    part = jax.jit(lambda start: take(data, start, 3))(2)
    np.testing.assert_array_equal(part.data[0], [[4, 5], [6, 7], [8, 9]])
    np.testing.assert_array_equal(part.data[1], [2, 3, 4])
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
