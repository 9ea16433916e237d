"""Q from the sums alone is Q from the rows, on every row of the table that adds up."""

import jax
import numpy as np
import pytest
from cases import CASES, case
from closeness import assert_within, eps

from jaxem.core.bound import rounding
from jaxem.core.coordinates import chart, into
from jaxem.core.data import size
from jaxem.core.model import has
from jaxem.core.parameters import improving_of

SUMMED = [name for name in CASES if has(case(name, "float64").model, "expected_log_joint")]


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", [name for name in SUMMED if "prior" not in name])
def test_q_from_the_sums_is_q_from_the_rows(name, precision):
    model, params, data = case(name, precision)
    q, at = model.e_step(params, data), chart(model, params)
    sums, u = model.statistics(q, data), into(model, params)
    if improving_of(model) is not None:  # the quadratic model about these parameters: only its gradient here is Q's
        by_sums = jax.grad(lambda u: model.expected_log_joint(at(u), sums))(u)
        by_rows = jax.grad(lambda u: model.q_function(at(u), q, data))(u)
        slack = 64 * eps(precision) * (1 + np.abs(by_rows).max()) * float(size(data, u.dtype)) ** 0.5
        return assert_within(by_sums, by_rows, slack)

    def differences(function):
        """Q at some points around less Q here: the constant cancels."""
        steps = np.random.default_rng(0).normal(size=(3, u.size)).astype(u.dtype) * 0.3
        return np.stack([function(at(u + step)) - function(params) for step in steps])

    by_sums = differences(lambda params: model.expected_log_joint(params, sums))
    by_rows = differences(lambda params: model.q_function(params, q, data))
    slack = max(float(rounding(model.q_function(at(u + 0.3), q, data), size(data, u.dtype))), 1e-300)
    assert_within(by_sums, by_rows, slack)


def test_every_ready_made_model_has_it():
    assert set(CASES) - set(SUMMED) == {"log-joint"}


@pytest.mark.parametrize("name", ["normal mixture", "ragged hmm", "factor analysis", "poisson mixture", "tied, prior"])
def test_a_posterior_made_by_hand_has_an_m_step(name):
    """At no parameters: sums about zero."""
    model, params, data = case(name, "float64")
    q = model.e_step(params, data)
    by_hand = model.m_step(q._replace(at=None), data)
    jax.tree.map(lambda a, b: assert_within(a, b, 1e-10 * (1 + np.abs(b))), by_hand, model.m_step(q, data))
