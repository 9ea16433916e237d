"""The certificate: what it says of right models, of rounding, of the point, and how it is read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from user_models import RIGHT, ROUGH, normals

import jaxem
from jaxem.families import NormalParams, Poisson, PoissonParams
from jaxem.inference.verify.certificate import Certificate, Check, Verdict
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

PRECISIONS = ["float64", "float32"]


def both_ends(model, params, data):
    """At the start, and some iterations on."""
    yield jaxem.verify(model, params, data)
    for _ in range(10):
        params = jaxem.core.em_map(model, params, data)
    yield jaxem.verify(model, params, data)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_model_is_not_called_wrong(name, precision):
    for certificate in both_ends(*RIGHT[name](precision)):
        assert certificate.ok, certificate


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ROUGH)
@pytest.mark.slow
def test_rounding_is_no_violation_and_no_proof(name, precision):
    for certificate in both_ends(*ROUGH[name](precision)):
        assert certificate.violated == (), certificate
        assert certificate.ok == (precision == "float64" or not certificate.hidden)
    if precision == "float32":
        assert certificate.hidden and not certificate.ok
        hidden = certificate[certificate.hidden[0]]
        assert hidden.verdict is Verdict.UNCHECKED and hidden.origin.startswith("rounding hides it")
        assert "no verdict: rounding error hides" in str(certificate)


@pytest.mark.parametrize("offset", [1e5, 1e6])
def test_a_wrong_m_step_far_from_zero_is_never_said_to_hold(offset):
    """In single precision a tolerance of one error bar, or nine, would hide anything."""
    model, params, data = normals("float32", offset=offset)
    wide = lambda r, x: (lambda w, c: (w, (c[0], 1.2 * c[1])))(*model.m_step(r, x))
    off = lambda r, x: (lambda w, c: (w, (c[0] + 10, c[1])))(*model.m_step(r, x))
    for wrong in (wide, off):
        certificate = jaxem.verify(dataclasses.replace(model, m_step=wrong), params, data)
        assert certificate["M-step stationary"].verdict is not Verdict.HOLDS, certificate
        assert not certificate.ok
    if offset == 1e5:  # by ten error bars: no rounding does that
        assert "M-step stationary" in certificate.violated


def zeros_and_scales(precision):
    """Ready-made models that were called wrong: zeros by structure, large counts, small units."""
    rng, cast = np.random.default_rng(0), lambda x: jnp.asarray(x, precision)
    cycle = cast([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])
    counts = cast(np.tile([0.0, 0, 0, 5, 6, 4, 15, 14, 16], 7)[None])
    yield HMM(Poisson(), 3), HMMParams(cast([1.0, 0, 0]), cycle, PoissonParams(cast([0.0, 5, 15]))), counts
    weights = cast([0.4, 0.6])
    many = cast(np.r_[np.zeros(20), rng.poisson(5, 40)])
    yield Mixture(Poisson(), 2), MixtureParams(weights, PoissonParams(cast([0.0, 5.0]))), many
    for rate in (1e4, 1e6):
        x = cast(np.r_[rng.poisson(rate, 30), rng.poisson(1.1 * rate, 30)])
        yield Mixture(Poisson(), 2), MixtureParams(weights, PoissonParams(cast([0.99 * rate, 1.12 * rate]))), x
    model, params, x = case("normal mixture", precision)
    for scale in (1e-8, 1e8):
        c = params.components
        small = NormalParams(c.means * cast(scale), c.variances * cast(scale**2))
        yield model, params._replace(components=small), x * cast(scale)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.slow
def test_zeros_counts_and_units_are_no_fault(precision):
    for model, params, data in zeros_and_scales(precision):
        certificate = jaxem.verify(model, params, data)
        assert certificate.ok, certificate


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.slow
def test_the_point_is_named(precision):
    model, start, x = case("normal mixture", precision)
    end = jaxem.fit(model, start, x, tol=1e-8 if precision == "float64" else 1e-5, max_steps=2000).params
    assert jaxem.verify(model, start, x).point.startswith("not stationary")
    assert jaxem.verify(model, end, x).point == "maximum"
    same = NormalParams(jnp.full_like(start.components.means, x.mean()), jnp.full_like(start.components.means, x.var()))
    for apart in (0.0, 1e-7):
        shift = jnp.asarray([0.0, apart], precision)
        at = MixtureParams(jnp.full_like(start.weights, 0.5), same._replace(means=same.means + shift))
        certificate = jaxem.verify(model, at, x)
        assert certificate.point.startswith("saddle") and certificate.violated == ()
        assert certificate.point in str(certificate)


@pytest.mark.slow
def test_the_point_may_be_at_an_edge_flat_or_unknown():
    counts = np.r_[np.zeros(20), np.random.default_rng(0).poisson(5, 40)].astype(float)
    model = Mixture(Poisson(), 2)
    end = jaxem.fit(model, MixtureParams(np.array([0.4, 0.6]), PoissonParams(np.array([0.0, 5.0]))), counts).params
    point = jaxem.verify(model, end, counts).point
    assert point.startswith("maximum") and "edge" in point and "components.rates" in point
    one = np.random.default_rng(0).poisson(5, 60).astype(float)  # of one class: two coincide at the best
    both = MixtureParams(np.array([0.5, 0.5]), PoissonParams(np.full(2, one.mean())))
    assert jaxem.verify(model, both, one).point.startswith("flat")
    # A posterior that knows of no rows: nothing is said of classes.
    assert "posterior" not in jaxem.verify(*RIGHT["values missing"]("float64")).point
    bare = jaxem.Model(model.e_step, model.m_step)
    assert jaxem.verify(bare, end, counts).point == "unknown: the model lacks q_function, log_likelihood"


def test_certificate_is_a_record_with_lookup_by_name():
    check = Check("touch", "L = ELBO", 1e-16, 7e-15, "32 eps", None, Verdict.HOLDS)
    certificate = Certificate((check,), "float64", 10.0)
    assert certificate["touch"] is check and list(certificate) == [check] and len(certificate) == 1
    assert not isinstance(certificate, tuple) and certificate == dataclasses.replace(certificate)
    assert check.ratio == pytest.approx(1 / 70) and "0.014" in str(certificate)
    for wrong in (0, "curvature", None):
        with pytest.raises(KeyError, match="this certificate has: touch"):
            certificate[wrong]
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate.size = 1.0


def test_nothing_compiles_for_other_values(count_compilations):
    model, params, data = RIGHT["normals"]("float64")
    jaxem.verify(model, params, data)
    moved = jax.tree.map(lambda leaf: leaf * 1, params)
    with count_compilations() as compiled:
        jaxem.verify(model, moved, data, key=jax.random.key(3))
    assert compiled.count == 0
