"""Every law on every row of the table; with ``--everything`` in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, case

import jaxem
from jaxem.core import expectation, trees
from jaxem.core.bound import rounding
from jaxem.core.data import count, size
from jaxem.inference.verify.certificate import Verdict

ROWS = [(name, "float64") for name in CASES]
ROWS += [pytest.param(name, "float32", marks=[] if name == "full, prior" else pytest.mark.everything) for name in CASES]

# What a law may be left unchecked for: a model of a user's own has no statistics.
ALLOWED = {"log-joint": {"additivity", "maximize"}}


@pytest.mark.parametrize(("name", "precision"), ROWS)
def test_certificate_holds(name, precision):
    certificate = jaxem.verify(*case(name, precision), strict=True)
    assert certificate.ok, certificate
    unchecked = {check.law for check in certificate.checks if check.verdict is Verdict.UNCHECKED}
    assert unchecked == ALLOWED.get(name, set()), certificate


# In the first tier a row of each kind; the certificate of every row looks at the step of EM, too.
CLIMBS = ["normal mixture", "full, prior", "gamma mixture", "mixed columns", "ragged hmm", "factor analysis"]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=[] if name in CLIMBS and precision == "float64" else pytest.mark.everything)
        for name in CASES
        for precision in ("float64", "float32")
    ],
)
def test_certificate_holds_at_the_end_of_a_climb(name, precision):
    model, params, data = case(name, precision)
    end = jaxem.fit(model, params, data, tol=1e-8, max_steps=60)
    assert end.objective.dtype == precision
    certificate = jaxem.verify(model, end.params, data, strict=True)
    assert certificate.ok, certificate
    unchecked = {check.law for check in certificate.checks if check.verdict is Verdict.UNCHECKED}
    assert unchecked == ALLOWED.get(name, set()), certificate
    steps = int(end.steps)
    slack = rounding(end.objective, size(data, end.objective.dtype))
    assert (np.diff(np.asarray(end.trace)[: steps + 1]) >= -slack).all()


# One case for each form of statistics: compilation is what these cost.
FORMS = ["normal mixture", "full", "tied, prior", "weighted", "categorical mixture", "ragged hmm", "weighted hmm"]
FORMS += ["factor analysis", "log-joint"]


@pytest.mark.parametrize("name", FORMS)
def test_jit_vmap_and_blocks_agree(name):
    model, params, data = case(name, "float64")
    stop = jaxem.fitting.parameter_change(0.0)
    run = lambda p, d, a: jaxem.fit(model, p, d, algorithm=a, stop=stop, max_steps=3)
    plain = run(params, data, jaxem.EM())
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, data))
    lanes = jax.jit(jax.vmap(lambda p, d: run(p, d, jaxem.EM())))(*twice)
    others = [jax.tree.map(lambda leaf, i=i: leaf[i], lanes) for i in range(2)]
    if hasattr(model, "statistics"):
        others.append(run(params, data, jaxem.EM(block_size=max(count(data) // 3, 1))))
    # Sums in another order: rounding error of the sums, carried through three iterations.
    tolerance = 64 * np.finfo(np.float64).eps
    for other in others:
        assert int(other.status) == int(plain.status)
        assert trees.relative_change(other.params, plain.params) <= tolerance
        np.testing.assert_allclose(other.trace, plain.trace, rtol=tolerance)


@pytest.mark.parametrize("name", ["full", "weighted", "ragged hmm", "factor analysis"])
def test_sharded_over_two_devices_agrees(name):
    """Observations on two devices, as XLA shards them: the same iteration."""
    model, params, data = case(name, "float64")
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    there = jax.device_put(data, jax.NamedSharding(mesh, jax.P("rows")))
    step = jax.jit(expectation.em_map)
    change = trees.relative_change(jax.device_get(step(model, params, there)), step(model, params, data))
    assert change <= 64 * np.finfo(np.float64).eps


@pytest.mark.parametrize("name", ["normal mixture", "ragged hmm", "factor analysis", "full, prior"])
def test_equal_shapes_compile_nothing(name, count_compilations):
    model, params, data = case(name, "float64")
    jaxem.fit(model, params, data, max_steps=5)
    fresh = jax.tree.map(lambda leaf: leaf + 0.0, model)  # an equal model, built anew
    moved = jax.tree.map(lambda leaf: leaf * 1 if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf * 1.01, data)
    other_start = jax.tree.map(lambda leaf: leaf * 1, params)
    jax.block_until_ready((fresh, moved, other_start))
    with count_compilations() as compiled:
        jaxem.fit(fresh, other_start, moved, tol=1e-5, max_steps=5)
    assert compiled.count == 0
