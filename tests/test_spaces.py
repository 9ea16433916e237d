"""A space answers what is asked of it: one class is all that a new space takes, and five names are enough."""

import collections
import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within

import jaxem
from jaxem import Positive, PositiveDefinite, Real, Simplex, UnitInterval
from jaxem.core import constraints
from jaxem.core.spaces import Decreasing, Orientation, UnitDeterminant, UnitProduct, ZeroSum, answers
from jaxem.core.spaces.edges import Zero


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Above:
    """Numbers above a bound, of which nothing is said but what every space must say."""

    low: float
    description: str = "above the bound"

    def forward(self, free, like=None):
        return self.low + jnp.exp(free)

    def inverse(self, value, like=None):
        return jnp.log(value - self.low)

    def free(self, value):
        return jnp.ones(jnp.shape(value), bool)

    def contains(self, value):
        return (value > self.low).all()


class OpenAbove(Above):
    """The same, with an answer to each question that has another one than real numbers have."""

    edge = Zero()
    unit_free = True
    unit = 5.0

    def names(self, name, shape):
        return answers.elements(f"log excess {name}", shape)

    def interval(self, value, half, free, free_half):
        return self.forward(free - free_half), self.forward(free + free_half)


jax.tree_util.register_static(OpenAbove)


def _model(space):
    """Normal numbers of a variance in this space."""

    def log_joint(p, x):
        return (-(((x - p["m"]) / p["s"]) ** 2) / 2 - jnp.log(p["s"]))[None]

    return jaxem.from_log_joint(log_joint, constraints={"m": Real(), "s": space})


X = np.random.default_rng(0).normal(size=200) * 3 + 1


@pytest.mark.slow
def test_a_space_of_five_names_is_taken_for_real_numbers():
    model = _model(Above(1.0))
    fit = jaxem.fit(model, {"m": 0.0, "s": 2.0}, X, tol=1e-12)
    assert_within(fit.params["s"], X.std(), 1e-4)
    table = jaxem.summary(model, fit, X)
    assert_within(table.standard_errors[1], X.std() / np.sqrt(400), 1e-4)
    assert_within(table.upper - table.estimates, table.estimates - table.lower, 1e-12)
    assert jaxem.inference.information(model, fit.params, X).names == ("m", "s")
    assert jaxem.inference.number_of_parameters(model, fit.params) == 2


@pytest.mark.slow
def test_a_new_space_is_one_class():
    model = _model(OpenAbove(1.0))
    fit = jaxem.fit(model, {"m": 0.0, "s": 2.0}, X, tol=1e-12)
    table = jaxem.summary(model, fit, X)
    assert jaxem.inference.information(model, fit.params, X).names == ("m", "log excess s")
    excess = np.array([table.lower[1], table.estimates[1], table.upper[1]]) - 1
    assert_within(excess[1] / excess[0], excess[2] / excess[1], 1e-9)


def test_what_holds_where_a_space_does_not_say():
    space, shape = Above(1.0), (2, 3)
    value = slope = jnp.full(shape, 2.0)
    assert answers.edge(space) is None and answers.unit(space) is None and answers.event_ndim(space) == 0
    assert answers.unit_free(space) and not answers.unit_free(Real())
    assert answers.dimension(space, shape) == 6 and answers.needs(space, shape) is None
    assert answers.names(space, "s", answers.numbered(shape))[-1] == "s[1, 2]" and answers.names(space, "s", ()) == [
        "s"
    ]
    assert not answers.repeated(space, shape).any() and not answers.constant(space, shape).any()
    assert answers.tangential(space, value, slope) is slope and answers.settle(space, value, 1.0) is value
    lower, upper = answers.interval(space, value, value / 4, value, value)
    assert (lower == 1.5).all() and (upper == 2.5).all()
    with pytest.raises(ValueError, match=r"above the bound cannot be held: Above has no hold"):
        answers.hold(space, np.ones(shape, bool), 3.0)


@pytest.mark.parametrize(
    ("space", "shape", "names"),
    [
        (Real(), (2,), ["x[0]", "x[1]"]),
        (Positive(), (), ["log x"]),
        (UnitInterval(), (1, 1), ["logit x[0, 0]"]),
        (Simplex(), (2, 2), ["ilr x[0, 0]", "ilr x[1, 0]"]),
        (PositiveDefinite(), (1, 2, 2), ["log scale x[0][0]", "log scale x[0][1]", "ratio x[0][1, 0]"]),
        (UnitProduct(), (2, 2), ["ilr x[0, 0]", "ilr x[1, 0]"]),
        (UnitDeterminant(), (1, 2, 2), ["ilr scale x[0][0]", "ratio x[0][1, 0]"]),
        (Orientation(), (3, 3), ["angle x[0, 1]", "angle x[0, 2]", "angle x[1, 2]"]),
        (ZeroSum(), (2, 2), ["contrast x[0, 0]", "contrast x[0, 1]"]),
        (Decreasing(), (3,), ["x[0]", "log gap x[1]", "log gap x[2]"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_coordinates_have_names(space, shape, names):
    assert answers.names(space, "x", answers.numbered(shape)) == names
    assert len(names) == answers.dimension(space, shape)


def test_a_space_is_known_by_what_it_has():
    borrowed = {name: getattr(Real(), name) for name in ("forward", "inverse", "free", "contains")}
    assert constraints.is_space(types.SimpleNamespace(description="mine", **borrowed))
    record = collections.namedtuple("Record", ["description", *borrowed])  # a tree with leaves of these names
    for node in (
        record("mine", *borrowed.values()),
        types.SimpleNamespace(**borrowed),
        (Real(),),
        [Real()],
        {"a": Real()},
        jnp.ones(2),
        np.ones(2),
        None,
    ):
        assert not constraints.is_space(node)


def test_leaves_know_their_spaces():
    params = {"a": jnp.ones(2), "b": (jnp.ones(3), {"c": jnp.ones(1)})}
    assert constraints.leaves(Positive(), params) == [Positive()] * 3
    assert constraints.leaves({"a": Above(1.0), "b": Simplex()}, params) == [Above(1.0), Simplex(), Simplex()]
