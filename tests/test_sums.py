"""Q from the sums alone is Q from the rows, on every row of the table that adds up."""

import itertools

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


# A prior adds nothing to either side. In the first tier a row of each kind: the certificate of every model says the
# same ("Q from sums", "slope from sums").
ROWS = [name for name in SUMMED if not name.endswith(", prior")]
FIRST = {("full", "float64"), ("full", "float32"), ("weighted hmm", "float64"), ("poisson regression", "float64")}
ROWS = [
    pytest.param(*row, marks=[] if row in FIRST else pytest.mark.everything)
    for row in itertools.product(ROWS, ("float64", "float32"))
]


@jax.jit
def by_sums_and_by_rows(model, params, data, steps):
    """Q from the sums and from the rows, here and at some points around, less Q here: the constant cancels.

    For leaves that only improve, the sums give the quadratic model about these parameters, of which only the gradient
    here is that of Q: the two gradients. Third, numbers of the size of what was added up.
    """
    q, at, u = model.e_step(params, data), chart(model, params), into(model, params)
    sums = model.statistics(q, data)
    of_sums, of_rows = (lambda u: model.expected_log_joint(at(u), sums)), (lambda u: model.q_function(at(u), q, data))
    if improving_of(model) is not None:
        slopes = jax.grad(of_sums)(u), jax.grad(of_rows)(u)
        return *slopes, slopes[1]
    here, around = (of_sums(u), of_rows(u)), jax.lax.map(lambda step: (of_sums(u + step), of_rows(u + step)), steps)
    return around[0] - here[0], around[1] - here[1], around[1]


@pytest.mark.parametrize(("name", "precision"), ROWS)
@pytest.mark.slow
def test_q_from_the_sums_is_q_from_the_rows(name, precision):
    model, params, data = case(name, precision)
    dimension = jax.eval_shape(lambda params: into(model, params), params).size
    steps = np.random.default_rng(0).normal(size=(3, dimension)) * 0.3
    steps = np.concatenate([steps, np.full((1, dimension), 0.3)]).astype(precision)
    by_sums, by_rows, sizes = by_sums_and_by_rows(model, params, data, steps)
    n = size(data, by_rows.dtype)
    if improving_of(model) is not None:
        slack = 64 * eps(precision) * (1 + np.abs(by_rows).max()) * float(n) ** 0.5
    else:
        slack = max(float(rounding(sizes[-1], n)), 1e-300)
    assert_within(by_sums, by_rows, slack)


def test_every_ready_made_model_has_it():
    assert set(CASES) - set(SUMMED) == {"log-joint"}


@pytest.mark.parametrize("name", ["normal mixture", "ragged hmm", "factor analysis", "poisson mixture", "tied, prior"])
def test_a_posterior_made_by_hand_has_an_m_step(name):
    """At no parameters: sums about zero."""
    model, params, data = case(name, "float64")

    @jax.jit
    def steps(model, params, data):
        q = model.e_step(params, data)
        return model.m_step(q._replace(at=None), data), model.m_step(q, data)

    by_hand, own = steps(model, params, data)
    jax.tree.map(lambda a, b: assert_within(a, b, 1e-10 * (1 + np.abs(b))), by_hand, own)
