"""The laws catch what they are for: models that are wrong in one place, each by the law it breaks, in both precisions
(float32 with ``--everything``).

The changes of one model share its compiled programs (``mutants.Mutants``).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from mutants import Mutants, everywhere, scaled, with_lengths, with_weights

import jaxem
from jaxem import Dataset
from jaxem.families import Normal, NormalParams
from jaxem.gates import Sticky
from jaxem.inference.verify.certificate import Verdict
from jaxem.models import HMM

PRECISIONS = ["float64", pytest.param("float32", marks=pytest.mark.everything)]
START = jax.tree.map(np.asarray, case("normal mixture", "float64"))  # closed over by some


# Wrong E-steps


def parameters_ignored(m, amount):
    """It closes over the start: right there, and nowhere else."""
    return {"e_step": lambda params, x: m.e_step(like(params, START.params), x)}


def shifted_e_step(m, amount):
    return {"e_step": lambda p, x: edit(m.e_step(p, x), lambda r: jnp.roll(r, 1, axis=1))}


def sharpened(m, amount):
    return {"e_step": lambda p, x: edit(m.e_step(p, x), lambda r: r**1.1 / (r**1.1).sum(axis=1, keepdims=True))}


def unnormalised(m, amount):
    return {"e_step": lambda p, x: edit(m.e_step(p, x), lambda r: 1.001 * r)}


def normalised_over_rows(m, amount):
    """The wrong axis."""
    return {"e_step": lambda p, x: edit(m.e_step(p, x), lambda r: r / r.sum(axis=0, keepdims=True))}


def stale_weights(m, amount):
    """The E-step forgets the mixture weights."""
    return {"e_step": lambda params, x: m.e_step(params._replace(weights=jnp.full_like(params.weights, 0.5)), x)}


def stale_variances(m, amount):
    """The E-step takes the variances of the start."""

    def e_step(params, x):
        old = like(params, START.params).components.variances
        return m.e_step(params._replace(components=params.components._replace(variances=old)), x)

    return {"e_step": e_step}


def hard_e_step(m, amount):
    """The most probable class for the posterior."""
    hard = lambda r: jax.nn.one_hot(r.argmax(axis=1), r.shape[1], dtype=r.dtype)
    return {"e_step": lambda p, x: edit(m.e_step(p, x), hard)}


# Wrong bounds


def negative_entropy(m, amount):
    return {"entropy": lambda q, x: -m.entropy(q, x)}


def no_entropy(m, amount):
    return {"entropy": lambda q, x: 0 * m.entropy(q, x)}


def entropy_in_bits(m, amount):
    return {"entropy": lambda q, x: m.entropy(q, x) / jnp.log(2.0)}


def likelihood_without_constant(m, amount):
    return {"log_likelihood": lambda p, x: m.log_likelihood(p, x) + 0.5 * x.shape[0] * jnp.log(2 * jnp.pi)}


def likelihood_of_best_class(m, amount):
    """log max_k instead of log sum_k."""
    return {"log_likelihood": lambda p, x: m.table(m.prepare(p, x), x).max(axis=1).sum()}


def likelihood_without_first_row(m, amount):
    return {"log_likelihood": lambda p, x: m.log_prob(p, x)[1:].sum()}


def rounded_constant(m, amount):
    """log(2 pi) to seven digits, or three in single precision."""
    return {"log_likelihood": lambda p, x: m.log_likelihood(p, x) * (1 + 100 * amount)}


def nan_slope(m, amount):
    """A value that is right, and a derivative that is NaN."""
    trap = lambda v: jnp.where(v > 0, 0.0, jnp.sqrt(v - v))
    return {"log_likelihood": lambda p, x: m.log_likelihood(p, x) + trap(p.components.variances).sum()}


def constant_in_q(m, amount):
    return {"q_function": lambda p, q, x: m.q_function(p, q, x) + 1.0}


def weights_forgotten_in_q(m, amount):
    lost = lambda p, q: (q.probabilities * jnp.log(p.weights)[None, :]).sum()
    return {"q_function": lambda p, q, x: m.q_function(p, q, x) - lost(p, q)}


def distance_for_square_in_q(m, amount):
    def q_function(p, q, x):
        c = p.components
        gap = x[:, None] - c.means[None, :]
        return m.q_function(p, q, x) + (q.probabilities * (gap**2 - jnp.abs(gap)) / c.variances[None, :]).sum() / 2

    return {"q_function": q_function}


def wrong_normaliser(m, amount):
    return {"log_normalizer": lambda q, x: m.log_normalizer(q, x) * (1 + amount)}


def wrong_divergence(m, amount):
    return {"divergence": lambda q, p, x: m.divergence(p, q, x)}


def means_for_sums(m, amount):
    """Everything for one observation, on average."""
    return scaled(m, lambda x: 1 / x.shape[0])


def rows_ignored(m, amount):
    """It closes over the data that it was written for, and takes as many of them as are given."""
    return {"data": lambda x: jnp.resize(jnp.asarray(START.data, x.dtype), x.shape)}


def first_row_dropped(m, amount):
    """In all functions alike."""
    return {"data": lambda x: jnp.where((jnp.arange(x.shape[0]) == 0), x[-1], x)}


# Wrong M-steps of a normal mixture


def components(change):
    """An M-step whose components are changed: change(p, q, x) -> NormalParams."""

    def mutant(m, amount):
        def m_step(q, x):
            p = m.m_step(q, x)
            return p._replace(components=change(p.components, q.probabilities, x, amount))

        return {"m_step": m_step}

    mutant.__name__ = change.__name__
    return mutant


@components
def unweighted(c, r, x, amount):
    """All observations alike."""
    return NormalParams(jnp.full_like(c.means, x.mean()), jnp.full_like(c.variances, x.var()))


@components
def unbiased_variance(c, r, x, amount):
    """n - 1 in the denominator: a good estimator, and not the maximiser."""
    n = r.sum(axis=0)
    return c._replace(variances=c.variances * n / (n - 1))


@components
def deviation_for_variance(c, r, x, amount):
    return c._replace(variances=jnp.sqrt(c.variances))


@components
def pooled_variance(c, r, x, amount):
    return c._replace(variances=jnp.full_like(c.variances, (c.variances * r.mean(axis=0)).sum()))


@components
def variance_about_the_old_mean(c, r, x, amount):
    gap = c.means - jnp.asarray(START.params.components.means, x.dtype)
    return c._replace(variances=c.variances + gap**2)


@components
def median(c, r, x, amount):
    """Of the observations that are most probably of the class."""
    own = r.argmax(axis=1)
    return c._replace(means=jnp.stack([jnp.nanmedian(jnp.where(own == k, x, jnp.nan)) for k in range(2)]))


@components
def shrunk(c, r, x, amount):
    """By a thousandth towards zero."""
    return c._replace(means=c.means * 0.999)


@components
def shrunk_a_little(c, r, x, amount):
    return c._replace(means=c.means * (1 - 1e4 * amount))


@components
def capped(c, r, x, amount):
    return c._replace(variances=jnp.maximum(c.variances, 1.0))


@components
def posterior_ignored(c, r, x, amount):
    """Where the first iteration ended, whatever the posterior."""
    end = jaxem.core.em_map(START.model, START.params, START.data).components
    return like(c, end)


def weights_of_rows(m, amount):
    """They sum to 0.8."""
    return {"m_step": lambda q, x: (lambda p: p._replace(weights=0.8 * p.weights))(m.m_step(q, x))}


def even_weights(m, amount):
    return {"m_step": lambda q, x: (lambda p: p._replace(weights=jnp.full_like(p.weights, 0.5)))(m.m_step(q, x))}


def weights_in_other_order(m, amount):
    return {"m_step": lambda q, x: (lambda p: p._replace(weights=p.weights[::-1]))(m.m_step(q, x))}


def negative_variance(m, amount):
    def m_step(q, x):
        p = m.m_step(q, x)
        return p._replace(components=p.components._replace(variances=-p.components.variances))

    return {"m_step": m_step}


# Wrong statistics


def mean_instead_of_sum(m, amount):
    mean = lambda s, x: s._replace(sums=jax.tree.map(lambda leaf: leaf / x.shape[0], s.sums))
    return {"statistics": lambda q, x: mean(m.statistics(q, x), x)}


def dropped_last_row(m, amount):
    shorter = lambda q: jax.tree.map(lambda r: r[:-1], q._replace(at=None))._replace(at=q.at)
    return {"statistics": lambda q, x: m.statistics(shorter(q), x[:-1])}


def biased_maximize(m, amount):
    def maximize(statistics):
        p, n = m.maximize(statistics), statistics.sums.gate
        return p._replace(components=p.components._replace(variances=p.components.variances * n / (n - 1)))

    return {"maximize": maximize}


def half_of_q_from_sums(m, amount):
    return {"expected_log_joint": lambda p, s: m.expected_log_joint(p, s) / 2}


def weights_keep_their_names(m, amount):
    return {"permute": lambda p, order: m.permute(p, order)._replace(weights=p.weights)}


# Priors


def without(model):
    return dataclasses.replace(model, family=dataclasses.replace(model.family, prior=None))


def prior_left_out_of_m_step(m, amount):
    return {"m_step": lambda q, x: without(m).m_step(q, x)}


def prior_left_out(m, amount):
    """Of the objective, while the M-step has it."""
    return {"log_prior": lambda p: 0.0 * p.weights.sum()}


def prior_twice(m, amount):
    return {"log_prior": lambda p: 2 * m.log_prior(p)}


def prior_in_q(m, amount):
    return {"q_function": lambda p, q, x: m.q_function(p, q, x) + m.log_prior(p)}


# Chains, weights, lengths


def transposed_transitions(m, amount):
    def m_step(q, x):
        p, moves = m.m_step(q, x), m.statistics(q, x).sums.transition.T
        return p._replace(transition=moves / moves.sum(axis=1, keepdims=True))

    return {"m_step": m_step}


def transposed_transitions_in_q(m, amount):
    return {"q_function": lambda p, q, x: m.q_function(p._replace(transition=p.transition.T), q, x)}


def last_step_forgotten(m, amount):
    """The smoother's last step left out of the emissions."""

    def m_step(q, x):
        t = jnp.arange(q.smoothed.shape[1], dtype=x.lengths.dtype)[None, :, None]
        smoothed = jnp.where(t < x.lengths[:, None, None] - 1, q.smoothed, 0)
        return m.m_step(q, x)._replace(emissions=m.m_step(q._replace(smoothed=smoothed), x).emissions)

    return {"m_step": m_step}


def one_step_late(m, amount):
    """The posterior of the step before."""

    def m_step(q, x):
        late = q._replace(smoothed=jnp.roll(q.smoothed, 1, axis=1))
        return m.m_step(q, x)._replace(emissions=m.m_step(late, x).emissions)

    return {"m_step": m_step}


def filtered_not_smoothed(m, amount):
    return {"e_step": lambda p, x: (lambda q: q._replace(smoothed=q.filtered))(m.e_step(p, x))}


def initial_never_moves(m, amount):
    fixed = lambda p: p._replace(initial=jnp.full_like(p.initial, 0.5))
    return {"m_step": lambda q, x: fixed(m.m_step(q, x))}


def weights_ignored(m, amount):
    return {"data": with_weights(lambda w: jnp.where(w > 0, jnp.ones_like(w), 0))}


def weights_squared_in_q(m, amount):
    return {"q_function": lambda p, q, x: m.q_function(p, q, Dataset(x.values, weights=x.weights**2))}


def weights_normalised(m, amount):
    return {"data": with_weights(lambda w: w / w.sum())}


def lengths_ignored(m, amount):
    return {"data": with_lengths(lambda x: jnp.full_like(x.lengths, x.values.shape[1]))}


def one_short(m, amount):
    return {"data": with_lengths(lambda x: jnp.maximum(x.lengths - 1, 1))}


def one_long(m, amount):
    return {"data": with_lengths(lambda x: jnp.minimum(x.lengths + 1, x.values.shape[1]))}


def one_short_in_likelihood(m, amount):
    shorter = with_lengths(lambda x: jnp.maximum(x.lengths - 1, 1))
    return {"log_likelihood": lambda p, x: m.log_likelihood(p, shorter(x))}


# Factors


def uncertainty_forgotten(m, amount):
    """E[z z'] without the posterior covariance: factor scores taken for the factors."""
    return {"m_step": lambda q, x: m.m_step(q._replace(covariance=1e-9 * q.covariance), x)}


def noise_has_a_floor(m, amount):
    return {"m_step": lambda q, x: (lambda p: p._replace(noise=p.noise + 1e-3))(m.m_step(q, x))}


def mean_of_the_data(m, amount):
    """As if the factors had mean zero in every sample."""
    return {"m_step": lambda q, x: m.m_step(q, x)._replace(mean=x.mean(axis=0))}


def edit(q, change):
    return q._replace(probabilities=change(q.probabilities))


def like(params, other):
    """Other parameters, in the precision of these."""
    return jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), params, other)


def weighted_chains(dtype):
    """Sequences of unequal lengths and weights."""
    data = case("ragged hmm", dtype).data
    weights = jnp.asarray([1.0, 2.0, 0.0, 1.0, 3.0, 0.5], dtype)
    model, data = HMM(Normal(), 2), dataclasses.replace(data, weights=weights)
    return model, model.init(jax.random.key(1), data), data


# Wrong gates of chains


def staying_left_out(m, amount):
    """An M-step without the part of the prior that makes states stay."""
    return {"m_step": dataclasses.replace(m, transition=Sticky(0.0, m.transition.prior)).m_step}


def starts_left_out(m, amount):
    """An M-step of a stationary chain that looks at the moves alone."""

    def m_step(q, x):
        of_moves = m.moves.maximize(q.at.transition, m.statistics(q, x).sums.transition)
        return m.m_step(q, x)._replace(transition=of_moves)

    return {"m_step": m_step}


BASES = {"weighted chains": weighted_chains}
STEP, SLOPE = "M-step stationary", {"M-step stationary"}

# Wrong posteriors of what is hidden in an interval or beyond a limit


def of_hidden(m, change):
    """The E-step with another posterior of the family's own hidden variables."""

    def e_step(params, x):
        q = m.e_step(params, x)
        return q._replace(hidden=change(q.hidden))

    return {"e_step": e_step}


def of_part(m, change):
    """The same for the part of it that is due to the interval."""
    return of_hidden(m, lambda u: (u[0], change(u[1])))


def intervals_for_points(m, amount):
    """The spread inside the intervals is left out."""
    return of_part(m, lambda u: u._replace(moments=u.moments._replace(variance=0 * u.moments.variance)))


def whole_mass(m, amount):
    """The posterior density is not divided by the probability of the interval."""
    return of_part(m, lambda u: u._replace(log_mass=0 * u.log_mass))


def shifted_moments(m, amount):
    return of_part(m, lambda u: u._replace(moments=u.moments._replace(deviation=u.moments.deviation + 1e-3)))


def of_tails(m, change):
    """An E-step whose unrecorded draws are ``change(tails)``."""
    return of_part(m, lambda part: part._replace(tails=change(part.tails)))


def one_tail(m, amount):
    """Draws above the upper limit are forgotten."""
    return of_tails(m, lambda tails: (tails[0], tails[1]._replace(odds=0 * tails[1].odds)))


def probability_for_odds(m, amount):
    return of_tails(m, lambda tails: tuple(t._replace(odds=t.odds / (1 + t.odds)) for t in tails))


def tails_exchanged(m, amount):
    return of_tails(m, lambda tails: (tails[0]._replace(moments=tails[1].moments), tails[1]))


def recorded_only(m, amount):
    """Sums without the unrecorded draws."""
    return {"m_step": lambda q, x: m.m_step(q._replace(hidden=of_none(q.hidden)), x)}


def of_none(u):
    return u[0], u[1]._replace(tails=tuple(t._replace(odds=0 * t.odds) for t in u[1].tails))


# Of each model: the changes, and the laws of which at least these must be named.
# Wrong volumes, shapes and orientations


def of_covariances(m, change):
    """An M-step whose covariances are ``change(those of the model, those of the step before)``."""

    def m_step(q, x):
        new = m.m_step(q, x)
        covariances = change(new.components.covariances, q.at.components.covariances)
        return new._replace(components=new.components._replace(covariances=covariances))

    return {"m_step": m_step}


def axes_never_turn(m, amount):
    return of_covariances(m, lambda new, old: new._replace(orientations=old.orientations))


def axes_of_the_first_class(m, amount):
    """One orientation where each class has its own."""
    one = lambda axes: jnp.broadcast_to(axes[:1], axes.shape)
    return of_covariances(m, lambda new, old: new._replace(orientations=one(new.orientations)))


def shape_is_not_solved_for(m, amount):
    """Half of the way from the old shape to the new one, of product one."""
    return of_covariances(m, lambda new, old: new._replace(shapes=jnp.sqrt(new.shapes * old.shapes)))


def volume_has_another_power(m, amount):
    """The determinant for its D-th root, D = 2."""
    return of_covariances(m, lambda new, old: new._replace(volumes=new.volumes**2))


def volumes_a_little_off(m, amount):
    return of_covariances(m, lambda new, old: new._replace(volumes=new.volumes * (1 + 1000 * amount)))


def shapes_with_a_size(m, amount):
    return of_covariances(m, lambda new, old: new._replace(shapes=1.1 * new.shapes))


def axes_that_lean(m, amount):
    """They are no longer at right angles."""
    lean = lambda axes: axes.at[..., 0, 0].add(0.1)
    return of_covariances(m, lambda new, old: new._replace(orientations=lean(new.orientations)))


def equal_volumes(m, amount):
    even = lambda volumes: jnp.full_like(volumes, volumes.mean())
    return of_covariances(m, lambda new, old: new._replace(volumes=even(new.volumes)))


MUTANTS = {
    ("censored mixture", False): [
        (intervals_for_points, {"tangent"}),
        (whole_mass, {"touch"}),
        (shifted_moments, {"tangent"}),
    ],
    ("truncated mixture", False): [
        (one_tail, {"tangent"}),
        (probability_for_odds, {"tangent"}),
        (tails_exchanged, {"tangent"}),
        (recorded_only, SLOPE),
    ],
    ("normal mixture", False): [
        (parameters_ignored, {"touch", "tangent"}),
        (shifted_e_step, {"touch", "tangent", "E-step"}),
        (sharpened, {"touch", "tangent", "E-step"}),
        (unnormalised, {"touch", "tangent"}),
        (normalised_over_rows, {"touch", "tangent"}),
        (stale_weights, {"touch", "tangent", "decomposition"}),
        (stale_variances, {"touch", "tangent"}),
        (hard_e_step, {"touch", "tangent"}),
        (negative_entropy, {"touch"}),
        (no_entropy, {"touch"}),
        (entropy_in_bits, {"touch"}),
        (likelihood_without_constant, {"touch", "objective", "decomposition"}),
        (likelihood_of_best_class, {"touch", "tangent", "KL ≥ 0", "minorisation"}),
        (likelihood_without_first_row, {"touch", "tangent"}),
        (rounded_constant, {"touch", "objective"}),
        (nan_slope, {"tangent"}),
        (constant_in_q, {"touch"}),
        (weights_forgotten_in_q, {"touch", "tangent"}),
        (distance_for_square_in_q, {"touch", "tangent"} | SLOPE),
        (wrong_normaliser, {"objective"}),
        (wrong_divergence, {"decomposition"}),
        (means_for_sums, {"halves"}),
        (rows_ignored, {"halves"}),
        (unweighted, SLOPE | {"M-step optimal"}),
        (unbiased_variance, SLOPE),
        (deviation_for_variance, SLOPE),
        (pooled_variance, SLOPE),
        (variance_about_the_old_mean, SLOPE),
        (median, SLOPE),
        (shrunk, SLOPE),
        (shrunk_a_little, SLOPE),
        (capped, SLOPE),
        (posterior_ignored, SLOPE),
        (weights_of_rows, {"M-step inside"}),
        (even_weights, SLOPE),
        (weights_in_other_order, SLOPE),
        (negative_variance, {"M-step inside"}),
    ],
    ("normal mixture", True): [
        (mean_instead_of_sum, {"additivity"}),
        (dropped_last_row, {"additivity", "maximize"}),
        (biased_maximize, SLOPE | {"maximize"}),
        (half_of_q_from_sums, {"Q from sums"}),
        (weights_keep_their_names, {"labels"}),
        (first_row_dropped, {"additivity", "halves"}),
        (means_for_sums, {"halves"}),
    ],
    ("diag, prior", False): [
        (prior_left_out_of_m_step, SLOPE),
        (prior_left_out, SLOPE),
        (prior_twice, SLOPE),
        (prior_in_q, {"touch", "tangent"}),
    ],
    ("sticky hmm", False): [
        (staying_left_out, SLOPE),
        (starts_left_out, SLOPE),
    ],
    ("weighted chains", False): [
        (transposed_transitions, SLOPE),
        (transposed_transitions_in_q, {"touch"}),
        (last_step_forgotten, SLOPE),
        (one_step_late, SLOPE),
        (filtered_not_smoothed, {"touch", "tangent"}),
        (initial_never_moves, SLOPE),
        (weights_ignored, {"weights"}),
        (weights_squared_in_q, {"touch", "weights"}),
        (weights_normalised, {"weights"}),
        (lengths_ignored, {"lengths"}),
        (one_short, {"lengths"}),
        (one_long, {"lengths"}),
        (one_short_in_likelihood, {"touch", "lengths"}),
    ],
    ("VVE", False): [
        (axes_never_turn, SLOPE),
        (volume_has_another_power, SLOPE),
        (volumes_a_little_off, SLOPE),
        (shape_is_not_solved_for, SLOPE),
        (equal_volumes, SLOPE),
        (shapes_with_a_size, {"M-step inside"}),
        (axes_that_lean, {"M-step inside"}),
    ],
    ("VEV", False): [
        (axes_never_turn, SLOPE),
        (axes_of_the_first_class, SLOPE),
        (shape_is_not_solved_for, SLOPE),
        (equal_volumes, SLOPE),
    ],
    ("factor analysis", False): [
        (uncertainty_forgotten, SLOPE | {"M-step optimal"}),
        (noise_has_a_floor, SLOPE),
        (mean_of_the_data, SLOPE),
    ],
}


@functools.cache
def mutants(name, additive, precision):
    """The model with all its changes, none of them made yet."""
    model, params, data = BASES[name](jnp.dtype(precision)) if name in BASES else case(name, precision)
    changes = tuple(change for change, _ in MUTANTS[name, additive])
    amount = jnp.asarray({"float64": 1e-9, "float32": 1e-5}[precision], precision)
    return Mutants(model, jnp.int32(0), amount, changes, additive), params, data


ROWS = [(key, index) for key in MUTANTS for index in range(len(MUTANTS[key]))]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("key", "index"), ROWS, ids=[f"{MUTANTS[k][i][0].__name__}-{k[0]}" for k, i in ROWS])
def test_mutant_is_caught_by_the_law_it_breaks(key, index, precision):
    model, params, data = mutants(*key, precision)
    certificate = jaxem.verify(dataclasses.replace(model, which=jnp.int32(index + 1)), params, data)
    assert MUTANTS[key][index][1] <= set(certificate.violated), certificate
    assert not certificate.ok


def test_data_that_are_not_looked_at():
    """All functions close over the data, whatever they are given."""
    model, params, data = START
    parts = {name: getattr(model, name) for name in ("e_step", "m_step", "constraints")}
    parts |= everywhere(model, lambda x: START.data)
    del parts["statistics"]
    certificate = jaxem.verify(jaxem.Model(**parts), params, data)
    assert certificate.violated == ("halves",), certificate


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("key", MUTANTS, ids=[f"{name}-{additive}" for name, additive in MUTANTS])
def test_unchanged_it_holds(key, precision):
    model, params, data = mutants(*key, precision)
    certificate = jaxem.verify(model, params, data)
    assert certificate.ok, certificate


def test_strict_names_the_law_and_the_parameter():
    model, params, data = mutants("normal mixture", False, "float64")
    changes = [change.__name__ for change in model.changes]
    wrong = lambda name: dataclasses.replace(model, which=jnp.int32(changes.index(name) + 1))
    with pytest.raises(jaxem.inference.verify.LawViolationError, match=r"M-step stationary.*components\.variances"):
        jaxem.verify(wrong("unbiased_variance"), params, data, strict=True)
    with pytest.raises(
        jaxem.inference.verify.LawViolationError, match=r"M-step inside.*weights, which must be non-negative with sum 1"
    ):
        jaxem.verify(wrong("weights_of_rows"), params, data, strict=True)


def test_what_is_missing_is_said_and_not_held():
    model, params, data = case("normal mixture", "float64")
    names = [field.name for field in dataclasses.fields(jaxem.Model)]
    right = {name: getattr(model, name, None) for name in names}
    no_likelihood = jaxem.verify(jaxem.Model(**(right | {"log_likelihood": None})), params, data)
    for law in ("touch", "tangent", "KL ≥ 0", "minorisation", "curvature", "objective"):
        assert no_likelihood[law].verdict is Verdict.UNCHECKED
        assert "log_likelihood" in no_likelihood[law].origin
    assert no_likelihood["E-step"].verdict is Verdict.HOLDS
    assert no_likelihood.ok


@pytest.mark.parametrize("more", [(), ("log_likelihood",), ("log_likelihood", "constraints", "statistics", "maximize")])
def test_without_q_there_is_no_verdict(more):
    """Neither ok nor violated: what was checked is said, and that it decides nothing."""
    model, params, data = case("normal mixture", "float64")
    parts = {name: getattr(model, name) for name in ("e_step", "m_step", *more)}
    certificate = jaxem.verify(jaxem.Model(**parts), params, data, strict=True)
    assert not certificate.ok and certificate.violated == ()
    assert "no verdict" in str(certificate) and "violated" not in str(certificate)
    assert "M-step inside" in str(certificate).splitlines()[0]
    assert certificate["touch"].origin.startswith("the model lacks q_function")
