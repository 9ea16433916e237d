"""What a device other than a CPU would run: the other blocks, lanes and scans give the same fits. They run on a CPU
here, with another name; shapes are those of no other test, because programs are kept by shape."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem.families import MultivariateNormal, Normal
from jaxem.families.normal import NormalParams
from jaxem.latent import scaled
from jaxem.models import HMM, FactorAnalysis, HMMParams, Mixture, StateSpace

STEPS = jaxem.fitting.parameter_change(0.0)


def elsewhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(jax, "default_backend", lambda: "another device")


def assert_same(a, b, size: float) -> None:
    jax.tree.map(lambda x, y: assert_within(x, y, size * eps(np.float64) * (1 + np.abs(y).max())), a, b)


def chain_of_levels():
    rng = np.random.default_rng(0)
    x = 2.0 * ((np.arange(211) // 9) % 2)[None] + rng.normal(size=(3, 211))
    A = np.array([[0.8, 0.2], [0.3, 0.7]])
    params = HMMParams(jnp.array([0.4, 0.6]), jnp.asarray(A), NormalParams(jnp.array([0.0, 1.5]), jnp.ones(2)))
    return HMM(Normal(), 2), params, jaxem.dataset(x, lengths=np.array([211, 64, 3]))


def levels():
    y = np.random.default_rng(1).normal(size=(1, 131, 2)).cumsum(axis=1)
    model = StateSpace(2, noise="diagonal", initial=("free", [[1.0, 0.0], [0.0, 1.0]]))
    return model, model.init(jax.random.key(0), y), y


def classes_with_gaps():
    x = np.random.default_rng(2).normal(size=(611, 3)) + 3.0 * (np.arange(611) % 2)[:, None]
    x[::5, 1] = np.nan
    data, model = jaxem.dataset(x, missing="nan"), Mixture(MultivariateNormal(), 2)
    return model, model.init(jax.random.key(0), data), data


@pytest.mark.parametrize("make", [chain_of_levels, levels, classes_with_gaps])
@pytest.mark.slow
def test_fits_are_those_of_a_cpu(make, monkeypatch):
    model, params, data = make()
    fit = lambda steps: jaxem.fit(model, params, data, algorithm=jaxem.EM(), stop=STEPS, max_steps=steps)
    here = fit(6)
    elsewhere(monkeypatch)
    if make is chain_of_levels:
        assert scaled.segments(None, 3, 211, 2) == 26
    there = fit(7)  # one more: a program of its own
    assert_same(there.trace[:7], here.trace, 2000)


@pytest.mark.slow
def test_starts_run_side_by_side_and_their_program_is_compiled_once(monkeypatch, count_compilations):
    x = np.random.default_rng(3).normal(size=(217, 2)) + 4.0 * (np.arange(217) % 3)[:, None]
    model, key = Mixture(MultivariateNormal("diag"), 3), jax.random.key(1)
    here = jaxem.fit_restarts(model, x, key=key, restarts=12, max_steps=300)
    elsewhere(monkeypatch)
    with count_compilations() as compiled:
        there = jaxem.fit_restarts(model, x, key=key, restarts=12, max_steps=301)
    # Both end with at most 1e-10 left to climb for each of 434 values.
    assert_within(there.best.objective, here.best.objective, 1e-7)
    assert compiled.names.count("jit(_climb)") == 1


def factors():
    x = np.random.default_rng(4).normal(size=(53, 5)).astype(np.float32)
    model = FactorAnalysis(2)
    return model, model.init(jax.random.key(0), x), jnp.asarray(x)


@pytest.mark.parametrize("make", [chain_of_levels, levels, classes_with_gaps, factors])
def test_products_keep_all_digits(make, monkeypatch):
    """Unless told otherwise an accelerator multiplies in fewer digits."""
    model, params, data = make()
    elsewhere(monkeypatch)

    def both(params, data):
        q = model.e_step(params, data)
        return model.m_step(q, data), model.q_function(params, q, data), model.entropy(q, data)

    program = str(jax.make_jaxpr(both)(params, data))
    told = re.findall(r"precision=(\S+)", program)
    assert told and all("HIGHEST" in each for each in told), set(told)


def test_an_exported_program_keeps_all_digits():
    model, params, data = factors()
    fit = jaxem.fit(model, params, data, max_steps=2)
    told = lambda platforms: jaxem.export(model, fit, "log_prob", like=data, platforms=platforms).mlir_module()
    assert "precision" not in told(("cpu",))
    elsewhere = told(("cuda",))
    assert elsewhere.count("stablehlo.dot_general") == elsewhere.count("precision = [HIGHEST, HIGHEST]") > 0
