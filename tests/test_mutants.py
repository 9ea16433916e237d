"""The laws catch what they are for: wrong steps, entropies, likelihoods and statistics, each by the law it breaks."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from cases import case

import jaxem
from jaxem.core.discrete import Responsibilities
from jaxem.families import MultivariateNormalParams, NormalParams, PoissonParams
from jaxem.inference.certificate import Verdict
from jaxem.models import MixtureParams

NAMES = [field.name for field in dataclasses.fields(jaxem.Model)]


def mutant(model, **wrong):
    """The model as a record of functions, with some of them replaced."""
    right = {name: getattr(model, name, None) for name in NAMES} | {"anchor": None}  # which returns the right model
    if "m_step" in wrong:  # the statistics would be used in its stead
        right["statistics"] = right["maximize"] = None
    return jaxem.Model(**(right | wrong))


def base(name):
    return case(name, "float64")


def unweighted_m_step(m):
    def m_step(q, x):
        hard = Responsibilities(jnp.ones_like(q.probabilities) / 2, q.log_normalizer)
        return m.m_step(hard, x)._replace(weights=m.m_step(q, x).weights)

    return {"m_step": m_step}


def shifted_e_step(m):
    def e_step(params, x):
        q = m.e_step(params, x)
        return q._replace(probabilities=jnp.roll(q.probabilities, 1, axis=1))

    return {"e_step": e_step}


def sharpened(m):
    def e_step(params, x):
        q = m.e_step(params, x)
        r = q.probabilities**1.1
        return q._replace(probabilities=r / r.sum(axis=1, keepdims=True))

    return {"e_step": e_step}


def unnormalised(m):
    def e_step(params, x):
        q = m.e_step(params, x)
        return q._replace(probabilities=1.001 * q.probabilities)

    return {"e_step": e_step}


def stale_weights(m):
    """The E-step forgets the mixture weights."""
    return {"e_step": lambda params, x: m.e_step(params._replace(weights=jnp.full_like(params.weights, 0.5)), x)}


def negative_entropy(m):
    return {"entropy": lambda q, x: -m.entropy(q, x)}


def entropy_in_bits(m):
    return {"entropy": lambda q, x: m.entropy(q, x) / jnp.log(2.0)}


def likelihood_without_constant(m):
    return {"log_likelihood": lambda p, x: m.log_likelihood(p, x) + 0.5 * x.shape[0] * jnp.log(2 * jnp.pi)}


def likelihood_of_best_class(m):
    """log max_k instead of log sum_k."""
    return {"log_likelihood": lambda p, x: m.log_joint_table(p, x).max(axis=1).sum()}


def wrong_normaliser(m):
    return {"log_normalizer": lambda q, x: m.log_normalizer(q, x) * (1 + 1e-9)}


def mean_instead_of_sum(m):
    return {"statistics": lambda q, x: jax.tree.map(lambda s: s / x.shape[0], m.statistics(q, x))}


def dropped_last_row(m):
    return {"statistics": lambda q, x: m.statistics(jax.tree.map(lambda r: r[:-1], q), x[:-1])}


def unbiased_variance(m):
    """n - 1 in the denominator: a good estimator, and not the maximiser."""

    def m_step(q, x):
        p, n = m.m_step(q, x), q.probabilities.sum(axis=0)
        return p._replace(components=NormalParams(p.components.means, p.components.variances * n / (n - 1)))

    return {"m_step": m_step}


def about_the_old_mean(m, old):
    """The covariance about the means before the step."""

    def m_step(q, x):
        p = m.m_step(q, x)
        gap = p.components.means - old.components.means
        covariances = p.components.covariances + gap[:, :, None] * gap[:, None, :]
        return MixtureParams(p.weights, MultivariateNormalParams(p.components.means, covariances))

    return {"m_step": m_step}


def forgotten_prior(m):
    bare = dataclasses.replace(m, family=dataclasses.replace(m.family, prior=None))
    return {"m_step": bare.m_step}


def transposed_transitions(m):
    def m_step(q, x):
        p = m.m_step(q, x)
        moves = m.statistics(q, x).transition.T
        return p._replace(transition=moves / moves.sum(axis=1, keepdims=True))

    return {"m_step": m_step}


def last_step_forgotten(m):
    """The smoother's last step left out of the emissions."""

    def m_step(q, x):
        p = m.m_step(q, x)
        gamma = q.smoothed[:, :-1].reshape(-1, m.k)
        return p._replace(emissions=PoissonParams(x[:, :-1].reshape(-1) @ gamma / gamma.sum(axis=0)))

    return {"m_step": m_step}


def filtered_not_smoothed(m):
    return {"e_step": lambda p, x: (lambda q: q._replace(smoothed=q.filtered))(m.e_step(p, x))}


def uncertainty_forgotten(m):
    """E[z z'] without the posterior covariance: factor scores taken for the factors."""
    return {"m_step": lambda q, x: m.m_step(q._replace(covariance=1e-9 * q.covariance), x)}


def wrong_divergence(m):
    return {"divergence": lambda q, p, x: m.divergence(p, q, x)}


# mutant, case, the laws of which at least these must be named
MUTANTS = [
    (unweighted_m_step, "normal mixture", {"M-step stationary", "M-step optimal"}),
    (shifted_e_step, "normal mixture", {"touch", "tangent", "E-step"}),
    (sharpened, "normal mixture", {"touch", "tangent", "E-step"}),
    (unnormalised, "normal mixture", {"touch", "tangent"}),
    (stale_weights, "normal mixture", {"touch", "tangent", "decomposition"}),
    (negative_entropy, "normal mixture", {"touch"}),
    (entropy_in_bits, "normal mixture", {"touch"}),
    (likelihood_without_constant, "normal mixture", {"touch", "objective", "decomposition"}),
    (likelihood_of_best_class, "normal mixture", {"touch", "tangent", "KL ≥ 0", "minorisation"}),
    (wrong_normaliser, "normal mixture", {"objective"}),
    (mean_instead_of_sum, "normal mixture", {"additivity"}),
    (dropped_last_row, "normal mixture", {"additivity", "maximize"}),
    (unbiased_variance, "normal mixture", {"M-step stationary"}),
    (wrong_divergence, "normal mixture", {"decomposition"}),
    (about_the_old_mean, "full", {"M-step stationary"}),
    (forgotten_prior, "full, prior", {"M-step stationary"}),
    (transposed_transitions, "poisson hmm", {"M-step stationary"}),
    (last_step_forgotten, "poisson hmm", {"M-step stationary"}),
    (filtered_not_smoothed, "poisson hmm", {"tangent", "minorisation"}),
    (uncertainty_forgotten, "factor analysis", {"M-step stationary", "M-step optimal"}),
]


@pytest.mark.parametrize(("change", "name", "laws"), MUTANTS, ids=[change.__name__ for change, _, _ in MUTANTS])
def test_mutant_is_caught_by_the_law_it_breaks(change, name, laws):
    model, params, data = base(name)
    wrong = change(model, params) if change is about_the_old_mean else change(model)
    certificate = jaxem.verify(mutant(model, **wrong), params, data)
    assert laws <= set(certificate.violated), certificate


def test_strict_names_the_law_and_the_parameter():
    model, params, data = base("normal mixture")
    wrong = mutant(model, **unbiased_variance(model))
    with pytest.raises(jaxem.LawViolationError, match=r"M-step stationary.*components\.variances"):
        jaxem.verify(wrong, params, data, strict=True)


def test_unmutated_record_holds():
    model, params, data = base("normal mixture")
    assert jaxem.verify(mutant(model), params, data).ok


def test_what_is_missing_is_said_and_not_held():
    model, params, data = base("normal mixture")
    no_likelihood = jaxem.verify(mutant(model, log_likelihood=None), params, data)
    for law in ("touch", "tangent", "KL ≥ 0", "minorisation", "curvature", "objective"):
        assert no_likelihood[law].verdict is Verdict.UNCHECKED
        assert "log_likelihood" in no_likelihood[law].origin
    assert no_likelihood["E-step"].verdict is Verdict.HOLDS
    bare = jaxem.Model(model.e_step, model.m_step)
    certificate = jaxem.verify(bare, params, data)
    assert not certificate.ok  # nothing could be checked
    assert "nothing checked" in str(certificate)
