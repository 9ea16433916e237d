"""What a model can do, and that a fit stands for its parameters everywhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem import datasets
from jaxem.core.capabilities import GROUPS, capabilities
from jaxem.families import MultivariateNormal, Poisson
from jaxem.models import HMM, FactorAnalysis, Mixture

X = datasets.old_faithful()
MODEL = Mixture(MultivariateNormal(), k=2)
FIT = jaxem.fit(MODEL, MODEL.init(jax.random.key(0), X), X)


def test_every_function_of_a_model_is_in_one_group_and_described():
    named = [name for _, functions in GROUPS.values() for name in functions]
    assert len(named) == len(set(named)) == len(dataclasses.fields(jaxem.Model))
    assert set(named) == {field.name for field in dataclasses.fields(jaxem.Model)}
    for name in named:
        assert f"``{name}" in (jaxem.Model.__doc__ or "")
    for _, functions in GROUPS.values():
        assert all(how.startswith(name) for name, how in functions.items())


@pytest.mark.parametrize("model", [MODEL, HMM(Poisson(), 2), FactorAnalysis(1)], ids=lambda m: type(m).__name__)
def test_ready_made_models_have_whole_groups(model):
    found = capabilities(model)
    assert found.lacking["sums"] == found.lacking["bound"] == () and "e_step" in found.offered["EM"]
    assert all(set(found.offered[group]) | set(found.lacking[group]) == set(GROUPS[group][1]) for group in GROUPS)


def test_two_functions_lack_what_they_lack():
    found = capabilities(jaxem.Model(lambda params, data: data, lambda q, data: q))
    assert found.offered["EM"] == ("e_step", "m_step") and found.offered["bound"] == ()
    table = str(found)
    assert table.startswith("Model\n") and "statistics, maximize, expected_log_joint" in table
    with pytest.raises(ValueError, match=r"needs log_likelihood, which Model lacks. Write: log_likelihood\("):
        jaxem.core.kl(jaxem.Model(lambda params, data: data, lambda q, data: q), 1.0, jnp.ones(3), jnp.ones(3))


Q = MODEL.e_step(FIT.params, X)
KEY = jax.random.key(0)
TAKE_PARAMS = {
    "fit": lambda p: jaxem.fit(MODEL, p, X, max_steps=1).params,
    "fit_many": lambda p: jaxem.fit_many(MODEL, p, [X, X], params_axis=None, max_steps=1).params,
    "verify": lambda p: str(jaxem.verify(MODEL, p, X)),
    "summary": lambda p: str(jaxem.summary(MODEL, p, X)),
    "em_map": lambda p: jaxem.core.em_map(MODEL, p, X),
    "elbo": lambda p: jaxem.core.elbo(MODEL, p, Q, X),
    "kl": lambda p: jaxem.core.kl(MODEL, p, Q, X),
    "surrogate": lambda p: jaxem.core.surrogate(MODEL, p, p, X),
    "aic": lambda p: jaxem.inference.aic(MODEL, p, X),
    "aicc": lambda p: jaxem.inference.aicc(MODEL, p, X),
    "bic": lambda p: jaxem.inference.bic(MODEL, p, X),
    "icl": lambda p: jaxem.inference.icl(MODEL, p, X),
    "number_of_parameters": lambda p: jaxem.inference.number_of_parameters(MODEL, p),
    "align": lambda p: jaxem.inference.align(MODEL, p, p, X),
    "canonical": lambda p: jaxem.inference.canonical(MODEL, p),
    "information": lambda p: jaxem.inference.information(MODEL, p, X).observed,
    "information_product": lambda p: jaxem.inference.information_product(MODEL, p, X, jnp.ones(11)),
    "standard_errors": lambda p: jaxem.inference.standard_errors(MODEL, p, X),
    "covariance": lambda p: jaxem.inference.covariance(MODEL, p, X),
    "confidence_intervals": lambda p: jaxem.inference.confidence_intervals(MODEL, p, X),
    "profile_interval": lambda p: jaxem.inference.profile_interval(
        MODEL, p, X, lambda params: params.components.means[0, 0]
    ),
    "convergence_rate": lambda p: jaxem.inference.convergence_rate(MODEL, p, X).rate,
    "bootstrap": lambda p: jaxem.inference.bootstrap(MODEL, p, X, key=KEY, replicates=2).replicates,
    "predict": lambda p: MODEL.predict(p, X),
    "predict_proba": lambda p: MODEL.predict_proba(p, X),
    "log_prob": lambda p: MODEL.log_prob(p, X),
    "log_likelihood": lambda p: MODEL.log_likelihood(p, X),
    "e_step": lambda p: MODEL.e_step(p, X),
    "c_step": lambda p: MODEL.c_step(p, X),
    "tempered_e_step": lambda p: MODEL.tempered_e_step(p, X, 0.5),
    "sample_posterior": lambda p: MODEL.sample_posterior(KEY, p, X),
    "q_function": lambda p: MODEL.q_function(p, Q, X),
    "expected_log_joint": lambda p: MODEL.expected_log_joint(p, MODEL.statistics(Q, X)),
    "sample": lambda p: MODEL.sample(KEY, p, 3),
    "permute": lambda p: MODEL.permute(p, jnp.array([1, 0])),
    "label_keys": lambda p: MODEL.label_keys(p),
}


@pytest.mark.parametrize("name", TAKE_PARAMS)
@pytest.mark.slow
def test_a_fit_stands_for_its_parameters(name):
    call = TAKE_PARAMS[name]
    found, wanted = call(FIT), call(FIT.params)
    if isinstance(found, str):
        assert found == wanted
    else:
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.slow
def test_many_starts_are_refused_by_name():
    found = jaxem.fit_restarts(MODEL, X, key=KEY, restarts=2)
    with pytest.raises(ValueError, match=r"the result of many starts.*give its \.best"):
        MODEL.predict(found, X)
