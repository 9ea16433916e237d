"""Labels: permuting changes nothing but names, matching finds them again, and the order is the documented one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case
from closeness import assert_within, eps
from scipy.optimize import linear_sum_assignment

import jaxem
from jaxem import Dataset
from jaxem.families import Categorical, CategoricalParams, Poisson, PoissonParams
from jaxem.inference.alignment import agreement, assignment
from jaxem.models import HMM, FactorAnalysis, HMMParams, Mixture, MixtureParams

MODELS = ["full", "tied"]


@pytest.mark.parametrize("name", MODELS)
def test_a_permutation_changes_the_names_only(name):
    model, params, data = case(name, "float64")
    swapped = model.permute(params, jnp.array([1, 0]))
    before, after = model.log_likelihood(params, data), model.log_likelihood(swapped, data)
    assert_within(after, before, 64 * eps("float64") * abs(before))
    r, turned = model.predict_proba(params, data), model.predict_proba(swapped, data)
    assert_within(turned, r[..., ::-1], 1e4 * eps("float64"))
    assert float(jnp.abs(r[..., 0] - r[..., 1]).max()) > 0.1  # else nothing was tested
    # what is shared by the classes stays, what belongs to one moves
    moved = [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(swapped), strict=True)]
    assert moved == [not (name == "tied" and i == len(moved) - 1) for i in range(len(moved))]


@pytest.mark.parametrize("name", MODELS)
def test_align_undoes_a_permutation(name):
    model, params, data = case(name, "float64")
    swapped = model.permute(params, jnp.array([1, 0]))
    for start in (params, swapped):
        back = jaxem.inference.align(model, start, params, data)
        jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.slow
def test_states_of_a_chain_are_permuted_and_matched():
    model, x = HMM(Poisson(), 2), jnp.array([[0.0, 7.0, 1.0, 6.0, 9.0, 0.0]])
    params = HMMParams(jnp.array([0.8, 0.2]), jnp.array([[0.3, 0.7], [0.9, 0.1]]), PoissonParams(jnp.array([1.0, 6.0])))
    swapped = model.permute(params, jnp.array([1, 0]))
    np.testing.assert_array_equal(swapped.transition, [[0.1, 0.9], [0.7, 0.3]])
    assert_within(model.log_likelihood(swapped, x), model.log_likelihood(params, x), 1e3 * eps("float64"))
    jax.tree.map(np.testing.assert_array_equal, jaxem.inference.align(model, swapped, params, x), params)
    jax.tree.map(np.testing.assert_array_equal, jaxem.inference.canonical(model, swapped), params)


def test_align_under_jit_and_vmap_and_with_three_classes():
    model, data = Mixture(Categorical((4,)), 3), jnp.array([[0.0], [1.0], [2.0], [3.0], [0.0]])
    p = jnp.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]])
    params = MixtureParams(jnp.array([0.5, 0.3, 0.2]), CategoricalParams((p,)))
    orders = jnp.array(list(itertools.permutations(range(3))))
    shuffled = jax.jit(jax.vmap(lambda order: model.permute(params, order)))(orders)
    back = jax.jit(jax.vmap(lambda one: jaxem.inference.align(model, one, params, data)))(shuffled)
    for leaf, wanted in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(leaf, jnp.broadcast_to(wanted, leaf.shape))
    # class order[k] of the old is class k of the new
    one = model.permute(params, jnp.array([2, 0, 1]))
    np.testing.assert_array_equal(one.weights, [0.2, 0.5, 0.3])


def test_agreement_counts_weights_and_ignores_what_does_not_count():
    model, params, data = case("full", "float64")
    few = data[:5]
    r = np.asarray(model.predict_proba(params, few))
    weights = jnp.array([1.0, 2.0, 0.0, 3.0, 1.0])
    wanted = (r * np.array([1.0, 2.0, 0.0, 3.0, 1.0])[:, None]).T @ r
    broken = Dataset(few.at[2].set(jnp.nan), weights=weights)
    assert_within(agreement(model, params, params, broken), wanted, 64 * eps("float64"))


def test_the_assignment_is_that_of_scipy():
    rng = np.random.default_rng(0)
    solve = jax.jit(jax.vmap(assignment))
    for k in (1, 2, 5, 8):
        gains = rng.normal(size=(6, k, k))
        for gain, order in zip(gains, solve(jnp.asarray(gains)), strict=True):
            rows, columns = linear_sum_assignment(gain, maximize=True)
            wanted = np.empty(k, int)
            wanted[columns] = rows
            np.testing.assert_array_equal(order, wanted)
    with pytest.raises(ValueError, match="at most 12"):
        assignment(jnp.zeros((13, 13)))


def test_canonical_sorts_by_place_and_breaks_ties():
    model = Mixture(Categorical((2,)), 3)
    p = CategoricalParams((jnp.array([[0.5, 0.5], [0.2, 0.8], [0.2, 0.7]]),))
    params = MixtureParams(jnp.array([0.5, 0.3, 0.2]), p)
    ordered = jaxem.inference.canonical(model, params)
    np.testing.assert_array_equal(ordered.weights, [0.2, 0.3, 0.5])
    jax.tree.map(np.testing.assert_array_equal, jaxem.inference.canonical(model, ordered), ordered)


def test_factors_are_turned_not_permuted():
    rng = np.random.default_rng(1)
    model, params, data = case("factor analysis", "float64")
    rotation, _ = np.linalg.qr(rng.normal(size=(2, 2)))
    turned = params._replace(loadings=params.loadings @ rotation)
    tolerance = 64 * eps("float64") * float(jnp.abs(params.loadings).max())
    assert_within(jaxem.inference.align(model, turned, params, data).loadings, params.loadings, tolerance)
    first, second = jaxem.inference.canonical(model, params), jaxem.inference.canonical(model, turned)
    assert_within(first.loadings, second.loadings, 16 * tolerance)
    inner = np.asarray(first.loadings.T @ (first.loadings / first.noise[:, None]))
    assert abs(inner[0, 1]) <= 64 * eps("float64") * inner[0, 0]
    assert inner[0, 0] > inner[1, 1]
    assert ((first.loadings / jnp.sqrt(first.noise)[:, None]).sum(axis=0) > 0).all()


def test_what_a_model_lacks_is_named():
    lone = jaxem.Model(lambda p, d: p, lambda q, d: q)
    with pytest.raises(ValueError, match="permute and predict_proba"):
        jaxem.inference.align(lone, 1.0, 1.0, jnp.ones(3))
    with pytest.raises(ValueError, match="permute and label_keys"):
        jaxem.inference.canonical(lone, 1.0)
    with pytest.raises(ValueError, match="permute and label_keys"):
        jaxem.inference.canonical(case("log-joint", "float64").model, case("log-joint", "float64").params)


def test_a_user_model_with_permute_is_aligned():
    _, params, data = case("log-joint", "float64")
    from cases import Coins, coins_log_joint

    def permute(p, order):
        shares = jnp.stack([p.choice, 1 - p.choice])[order]
        return Coins(shares[0], *jnp.stack([p.first, p.second])[order])

    model = jaxem.from_log_joint(coins_log_joint, constraints=jaxem.UnitInterval(), permute=permute)
    swapped = permute(params, jnp.array([1, 0]))
    jax.tree.map(np.testing.assert_array_equal, jaxem.inference.align(model, swapped, params, data), params)


def test_factor_analysis_with_one_factor_has_a_sign():
    model = FactorAnalysis(1)
    params = case("factor analysis", "float64").params
    one = params._replace(loadings=params.loadings[:, :1])
    mirrored = one._replace(loadings=-one.loadings)
    np.testing.assert_allclose(model.rotate(mirrored, one).loadings, one.loadings, rtol=8 * eps("float64"))


def test_what_has_no_answer_agrees_with_no_class():
    """NaN is not the largest gain, and a row without probabilities changes no names."""
    nan = jnp.nan
    order = np.asarray(assignment(jnp.asarray([[nan, 1.0, 0.0], [2.0, nan, 0.0], [0.0, 0.0, 3.0]])))
    np.testing.assert_array_equal(order, [1, 0, 2])
    for gain in (jnp.full((3, 3), nan), jnp.full((3, 3), jnp.inf)):
        assert sorted(np.asarray(assignment(gain)).tolist()) == [0, 1, 2]
    probabilities = jnp.asarray([[0.9, 0.1], [nan, nan], [0.2, 0.8]])
    model = jaxem.Model(lambda p, d: p, lambda q, d: q, predict_proba=lambda p, d: p)
    shared = agreement(model, probabilities, probabilities[:, ::-1], jnp.zeros(3))
    np.testing.assert_allclose(shared, np.asarray([[0.25, 0.85], [0.65, 0.25]]), atol=1e-15)
