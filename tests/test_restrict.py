"""Restricted models: what is fixed stays fixed, and the rest is the maximum of the restricted likelihood."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from closeness import assert_within

import jaxem
from jaxem import SQUAREM, Affine, Positive, Real, Simplex, restrict, with_prior
from jaxem.core import constraints
from jaxem.core.coordinates import chart, into, living
from jaxem.core.spaces import answers
from jaxem.core.spaces.fixed import Fixed
from jaxem.core.spaces.tied import Tied
from jaxem.families import Bernoulli, Categorical, Exponential, MultivariateNormal, Normal, Poisson, Product
from jaxem.gates import Allowed, Softmax
from jaxem.models import HMM, Component, FactorAnalysis, Mixture
from jaxem.models.restricted import newton

KEY = jax.random.key(0)
NORMALS = Mixture(Normal(), 3)
EVEN = [[1.0, 0], [1, 1], [1, 2]]  # means at equal distances


@functools.cache
def data():
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(0, 1, 60), rng.normal(3, 0.5, 50), rng.normal(7, 1.5, 40)]
    moves = np.array([[0.8, 0.2, 0], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])
    states = np.zeros((5, 40), int)
    for t in range(1, 40):
        states[:, t] = [rng.choice(3, p=moves[z]) for z in states[:, t - 1]]
    two = rng.normal(size=(110, 2)) * np.where(np.arange(110) < 60, 1, 0.6)[:, None]
    classes = rng.integers(0, 2, 80)
    found = {
        "numbers": x,
        "widths": np.random.default_rng(7).normal([0, 0, 9] * 50, [0.4, 3, 1.5] * 50),
        "chains": np.array([0, 3, 7.0])[states] + rng.normal(size=states.shape),
        "planes": two + np.where(np.arange(110) < 60, 0, 3)[:, None],
        "answers": (rng.random((80, 3)) < np.array([[0.9, 0.8, 0.2], [0.2, 0.1, 0.7]])[classes]).astype(float),
        "codes": np.stack([(classes + (rng.random(80) < 0.2)) % 2, rng.integers(0, 3, 80)], 1).astype(float),
        "counts": rng.poisson(np.array([1.0, 6.0])[classes]).astype(float),
        "times": rng.exponential(np.array([1.0, 6.0])[classes]),
        "factors": rng.normal(size=(80, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(80, 5)),
    }
    return {name: jnp.asarray(values) for name, values in found.items()} | {
        "pairs": {"a": jnp.asarray(x), "b": jnp.asarray(rng.normal(size=150) * 2)},
        "given": jaxem.dataset(jnp.asarray(x), given=jnp.asarray(rng.normal(size=(150, 1)))),
        "driven": jaxem.dataset(found["chains"], given=rng.normal(size=(5, 40, 1))),
    }


def normals(covariance):
    return Mixture(MultivariateNormal(covariance), 2)


HUB = np.array([[True, True, False], [True, True, True], [False, True, True]])

# The model, the data, what is fixed, what is tied, and whether the M-step is in closed form.
CASES = {
    "a variance": (NORMALS, "numbers", {"components.variances[1]": 1.0}, [], True),
    "a mean": (NORMALS, "numbers", {"components.means[0]": 0.5}, [], True),
    "variances": (NORMALS, "numbers", {}, ["components.variances"], True),
    "two classes": (NORMALS, "numbers", {}, ["components.means[:2]", "components.variances[:2]"], True),
    "means": (NORMALS, "widths", {}, ["components.means[0] = components.means[1]"], False),
    "even means": (NORMALS, "numbers", {"components.means": Affine(0.0, EVEN)}, [], False),
    "a weight": (NORMALS, "numbers", {"weights[0]": 0.25}, [], True),
    "a move": (HMM(Normal(), 3), "chains", {"transition[0, 2]": 0.0, "emissions.means[0]": 0.0}, [], True),
    "rows": (HMM(Normal(), 3), "chains", {"transition[1, 0]": 0.1}, ["transition[0] = transition[2]"], True),
    "diag": (normals("diag"), "planes", {"components.means[0, 1]": 0.2}, ["components.covariances[:, 0]"], True),
    "spherical": (normals("spherical"), "planes", {"components.means[0]": 0.0}, ["components.covariances"], True),
    "full": (normals("full"), "planes", {"components.means[0]": 0.0}, ["components.covariances"], True),
    "zeros": (normals("full"), "planes", {"components.covariances[0, 0, 1]": 0.0}, [], True),
    "tied": (normals("tied"), "planes", {}, ["components.means[0] = components.means[1]"], True),
    "tied, an element": (normals("tied"), "planes", {"components.means[0, 1]": 0.2}, [], False),
    "bernoulli": (Mixture(Bernoulli(), 2), "answers", {}, ["components.probabilities[:, 2]"], True),
    "categorical": (
        Mixture(Categorical((2, 3)), 2),
        "codes",
        {"components.probabilities.1[0, 0]": 0.2},
        ["components.probabilities.0"],
        True,
    ),
    "poisson": (Mixture(Poisson(), 2), "counts", {"components.rates[0]": 1.0}, [], True),
    "exponential": (Mixture(Exponential(), 2), "times", {"weights": [0.5, 0.5]}, ["components.rates"], True),
    "factors": (FactorAnalysis(2), "factors", {"loadings[0, 1]": 0.0, "mean[0]": 0.1}, [], False),
    "two arrays": (
        Mixture(Product({"a": Normal(), "b": Normal()}), 2),
        "pairs",
        {},
        [["components.a.variances", "components.b.variances"]],
        False,
    ),
    "a slope": (Mixture(Normal(), 2, gate=Softmax()), "given", {"weights.coefficients[:, 1]": 0.0}, [], False),
    "slopes of moves": (
        HMM(Normal(), 3, transition=Allowed(HUB, gate=Softmax())),
        "driven",
        {"transition.coefficients[0, :, 1]": 0.0, "transition.coefficients[2, 1, 0]": -0.5},
        ["transition.coefficients[1, 0, 1] = transition.coefficients[1, 2, 1]"],
        False,
    ),
}


@functools.cache
def case(name):
    model, of, fixed, tied, _ = CASES[name]
    x = data()[of]
    restricted = restrict(model, fixed, tied, model.init(KEY, x))
    return restricted, restricted.init(KEY, x), x


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_an_m_step_maximises_q_under_the_restriction(name, monkeypatch):
    model, params, x = case(name)
    climbs = []
    monkeypatch.setattr(newton, "maximizer", lambda *a, own=newton.maximizer: climbs.append(1) or own(*a))

    @jax.jit
    def measured(params):
        s = model.statistics(model.e_step(params, x), x)
        new = model.maximize(s)
        q = lambda u: model.expected_log_joint(chart(model, new)(u), s)
        inside = jnp.stack(jax.tree.leaves(constraints.contains(model.constraints, new))).all()
        u = into(model, new)
        slope = jnp.where(living(model, new), jax.grad(q)(u), 0)
        near = jax.vmap(q)(u[None] + 0.01 * jax.random.normal(KEY, (8, u.size), u.dtype))
        return inside, q(u), q(into(model, params, new)), near, jnp.abs(slope).max()

    inside, value, before, near, slope = measured(params)
    assert inside and value >= before and (near <= value).all()
    # The slopes of single rows are of order one to ten, and are added up over at most 200 of them.
    assert slope <= 200 * 64 * np.finfo(np.float64).eps * 10
    assert bool(climbs) is not CASES[name][-1]  # closed forms where there are some


def spread(u):
    return jnp.exp(u)


def log_normal(x, m, v):
    return -0.5 * (jnp.log(2 * jnp.pi * v) + (x - m) ** 2 / v)


def mixture(log_w, means, variances, x):
    return jax.nn.logsumexp(jax.nn.log_softmax(log_w) + log_normal(x[:, None], means, variances), axis=1).sum()


def chain(log_pi, log_A, means, variances, x):
    log_b = log_normal(x[..., None], means, variances)

    def of(log_b):
        step = lambda a, b: (jax.nn.logsumexp(a[:, None] + log_A, axis=0) + b, None)
        return jax.nn.logsumexp(jax.lax.scan(step, log_pi + log_b[0], log_b[1:])[0])

    return jax.vmap(of)(log_b).sum()


def four(u, x):
    """A forbidden move, a first state, a mean that is held, and equal variances."""
    never = -1e4  # exp of it is zero, and its derivative too
    rows = jax.nn.log_softmax(jnp.stack([jnp.r_[0, u[0], never], jnp.r_[0, u[1:3]], jnp.r_[0, u[3:5]]]), axis=1)
    return chain(jnp.array([0, never, never]), rows, jnp.r_[0.0, u[5:7]], spread(u[7]), x)


FOUR = {"transition[0, 2]": 0.0, "initial": [1.0, 0, 0], "emissions.means[0]": 0.0}, ["emissions.variances"]

# The restricted log-likelihood written by hand in coordinates u, and a start.
DIRECT = {
    "a mean": (
        lambda u, x: mixture(jnp.r_[0, u[:2]], jnp.r_[0.5, u[2:4]], spread(u[4:7]), x),
        [0, 0, 3, 7, 0, 0, 0],
    ),
    "even means": (
        lambda u, x: mixture(jnp.r_[0, u[:2]], u[2] + u[3] * jnp.arange(3.0), spread(u[4:7]), x),
        [0, 0, 0, 3, 0, 0, 0],
    ),
    "variances": (lambda u, x: mixture(jnp.r_[0, u[:2]], u[2:5], spread(u[5]), x), [0, 0, 0, 3, 7, 0]),
    "four": (four, [0, 0, 0, 0, 0, 3, 7, 0]),
    "prior": (
        lambda u, x: mixture(jnp.r_[0, u[:2]], u[2:5], spread(u[5:8]), x) - 0.05 * (u[2:5] ** 4).sum(),
        [0, 0, 0, 3, 5, 0, 0, 0],
    ),
}


def fitted(name):
    if name == "four":
        x = data()["chains"]
        model = restrict(HMM(Normal(), 3), *FOUR)
    elif name == "prior":
        x = data()["numbers"]
        model = with_prior(NORMALS, lambda params: -0.05 * (params.components.means**4).sum())
    else:
        model, _, x = case(name)
    return model, x, jaxem.check(jaxem.fit(model, model.init(KEY, x), x, algorithm=SQUAREM(), tol=1e-9))


@functools.cache
def directly(name):
    with jax.numpy_rank_promotion("allow"):
        return search(name)


def search(name):
    function, start = DIRECT[name]
    x = data()["chains" if name == "four" else "numbers"]
    both = jax.jit(jax.value_and_grad(lambda u: -function(u, x)))
    found = scipy.optimize.minimize(both, np.array(start, float), jac=True, method="BFGS", options={"gtol": 1e-7})
    hessian = np.asarray(jax.jit(jax.hessian(lambda u: -function(u, x)))(found.x))
    step = np.linalg.solve(hessian, np.asarray(both(found.x)[1]))  # one Newton step: the maximum to rounding
    return found.x - step, -float(both(found.x - step)[0]), hessian


@pytest.mark.parametrize("name", DIRECT)
def test_a_fit_ends_at_the_maximum_of_the_restricted_likelihood(name):
    model, x, fit = fitted(name)
    u, value, _ = directly(name)
    assert_within(fit.objective, value, 1e-8)
    p = jaxem.inference.number_of_parameters(model, fit.params)
    assert p == len(u) == jaxem.inference.number_of_parameters(model, jax.eval_shape(lambda: fit.params))
    if name != "prior":
        size = 200 if name == "four" else 150  # steps
        assert_within(jaxem.inference.bic(model, fit, x), -2 * value + len(u) * np.log(size), 1e-7)


@pytest.mark.slow
def test_errors_are_those_of_the_free_coordinates():
    model, x, fit = fitted("even means")
    u, _, hessian = directly("even means")
    covariance = np.linalg.inv(hessian)
    design = np.array(EVEN)
    own = jaxem.inference.standard_errors(model, fit, x).components
    expected = np.sqrt(np.diag(design @ covariance[2:4, 2:4] @ design.T))
    assert_within(own.means, expected, 1e-5)
    assert_within(own.variances, np.exp(u[4:]) * np.sqrt(np.diag(covariance)[4:]), 1e-5)


def test_four_restrictions_at_once_still_ascend():
    model, x, fit = fitted("four")
    plain = jaxem.fit(model, model.init(KEY, x), x, max_steps=40)
    trace = np.asarray(plain.trace)[: plain.steps + 1]
    assert (np.diff(trace) >= -64 * np.finfo(float).eps * np.abs(trace[1:])).all() and plain.fallbacks == 0
    found = fit.params
    assert found.transition[0, 2] == 0 and found.emissions.means[0] == 0  # exactly
    assert (found.initial == jnp.array([1.0, 0, 0])).all() and np.unique(found.emissions.variances).size == 1


@pytest.mark.slow
def test_the_derivative_of_a_newton_m_step_is_that_of_the_maximiser():
    model, params, x = case("means")
    step = jax.jit(lambda x: model.m_step(model.e_step(params, x), x).components.variances[0])
    moved = jnp.cos(jnp.arange(150.0))
    slope = jax.jit(jax.jvp, static_argnums=0)(step, (x,), (moved,))[1]
    backward = jax.jit(jax.grad(step))(x) @ moved
    h = 1e-5
    # A central difference: h^2 times a third derivative, and rounding over h.
    assert_within(slope, (step(x + h * moved) - step(x - h * moved)) / (2 * h), 1e-8)
    assert_within(backward, slope, 1e-12)


@pytest.mark.parametrize(("name", "algorithm"), [("even means", jaxem.GEM()), ("a mean", jaxem.Anderson())])
def test_other_algorithms_climb_under_the_restriction(name, algorithm):
    model, params, x = case(name)
    fit = jaxem.check(jaxem.fit(model, params, x, algorithm=algorithm, max_steps=4000))
    assert_within(fit.objective, directly(name)[1], 1e-3)
    assert all(map(bool, jax.tree.leaves(constraints.contains(model.constraints, fit.params))))


@pytest.mark.slow
def test_restarts_start_under_the_restriction():
    model, _, x = case("even means")
    best = jaxem.fit_restarts(model, x, key=KEY, restarts=3).best
    means = np.asarray(best.params.components.means)
    assert_within(means[2] - means[1], means[1] - means[0], 64 * np.finfo(float).eps * np.abs(means).max())


@pytest.mark.slow
def test_a_restricted_model_can_be_a_family():
    inner = restrict(Mixture(Normal(), 2), tied=["components.variances"])
    model, x = Mixture(Component(inner), 2), data()["numbers"]
    fit = jaxem.fit(model, model.init(KEY, x), x, max_steps=20)
    variances = np.asarray(fit.params.components.components.variances)
    assert (variances[:, 0] == variances[:, 1]).all() and variances[0, 0] != variances[1, 0]
    assert jaxem.inference.number_of_parameters(model, fit.params) == 1 + 2 * 4


@pytest.mark.slow
def test_both_precisions(dtype):
    model, params, x = case("means")
    fit = jaxem.fit(model, jax.tree.map(lambda a: a.astype(dtype), params), x.astype(dtype))
    assert fit.status == jaxem.Status.CONVERGED and fit.params.weights.dtype == dtype
    assert_within(fit.objective, jaxem.fit(model, params, x).objective, 3e-3)


def test_classes_may_be_renumbered_only_where_the_restriction_allows_it():
    for fixed, tied, offered in (
        ({"components.means[0]": 0.0}, [], False),
        ({"components.variances": 1.0}, [], True),
        ({"components.variances": [1.0, 2.0, 1.0]}, [], False),
        ({}, ["components.variances"], True),
        ({}, ["components.variances[:2]"], False),
        ({"components.means": Affine(0.0, EVEN)}, [], False),
        ({"components.means": Affine(0.0, np.eye(3))}, [], True),
    ):
        model = restrict(NORMALS, fixed, tied)
        assert hasattr(model, "permute") is offered and hasattr(model, "label_keys") is offered
    assert not hasattr(with_prior(NORMALS, lambda p: 0.0), "permute")


def test_what_is_wrong_is_refused_by_name():
    full = Mixture(MultivariateNormal(), 2)
    for arguments, message in (
        ((NORMALS, {"components.mean": 0.0}), "no parameter 'components.mean'; it has weights, components.means"),
        ((NORMALS, {"components.means[3]": 0.0}), "does not fit components.means, whose shape is (3,)"),
        ((NORMALS, {"components.means[a]": 0.0}), "must be whole numbers and slices"),
        ((NORMALS, {"components.means": [0.0, 1.0]}), "has shape (3,); its value must be a number"),
        ((NORMALS, {"components.means": None}), "give params"),
        ((NORMALS, {"components.means": np.inf}), "finite numbers"),
        ((NORMALS, {"components.variances": -1.0}), "must be positive"),
        ((NORMALS, {"weights[:2]": 0.6}), "sum to more than one"),
        ((NORMALS, {"weights": Affine(0.0, EVEN)}), "an affine map needs a whole array of real numbers"),
        ((NORMALS, {"components.means[0]": 0.0, "components.means[:2]": [1.0, 1.0]}), "is fixed at 0 and at 1"),
        ((NORMALS, {"components.means[:2]": [0.0, 1.0]}, ["components.means"]), "what it is tied to at"),
        ((NORMALS, {}, ["components.means = components.variances"]), "must be of one kind"),
        ((NORMALS, {}, ["components.means[:2] = components.means[2]"]), "must have one shape"),
        ((NORMALS, {}, ["components.means[0]"]), "has no axis of classes"),
        ((NORMALS, {}, ["weights[0] = weights[1]"]), "must be whole rows"),
        ((NORMALS, {}, "components.means"), "tied a list"),
        ((full, {"components.means[0, 0]": 0.0}), "give parameters of the right shapes"),
        ((jaxem.Model(lambda p, x: x, lambda q, x: q), {}), "Model lacks the functions of rows that say so: its own"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            restrict(*arguments)
    model, x = case("a mean")[0], data()["numbers"]
    with pytest.raises(
        ValueError, match=re.escape("the start of components.means must be finite, 1 of 3 elements held")
    ):
        jaxem.fit(model, NORMALS.init(KEY, x), x)
    assert model.project(NORMALS.init(KEY, x)).components.means[0] == 0.5
    with pytest.raises(ValueError, match="must be independent"):
        Affine(0.0, [[1.0, 2], [2, 4], [3, 6]])
    with pytest.raises(ValueError, match="log_prior must be a function"):
        with_prior(NORMALS, 3.0)
    with pytest.raises(ValueError, match=r"with_prior makes a new M-step.*Put the restriction or the prior into"):
        with_prior(jaxem.Model(lambda p, x: x, statistics=lambda q, x: q, maximize=lambda s: s), lambda p: 0.0)


def test_restrictions_add_up():
    once = restrict(NORMALS, {"components.means[0]": 0.5}, ["components.variances"])
    twice = restrict(restrict(NORMALS, tied=["components.variances"]), {"components.means[0]": 0.5})
    assert once == twice
    assert restrict(NORMALS).spaces == restrict(NORMALS, {}).spaces
    values = case("a variance")[1]
    taken = restrict(NORMALS, {"components": None, "components.means[0]": None}, params=values)
    held = restrict(
        NORMALS, {"components.means": values.components.means, "components.variances": values.components.variances}
    )
    assert taken == held
    masked = restrict(NORMALS, {"components.means": (np.array([True, False, False]), 0.5)})
    assert masked == restrict(NORMALS, {"components.means[0]": 0.5})


SPACES = {  # the space, the shape of a point, and the dimension
    "tied numbers": (Tied(Real(), Fixed.of(np.array([[0, 1], [0, 3]]))), (2, 2), 3),
    "tied and held": (
        Tied(Positive().hold(np.array([True, False, False]), 2.0), Fixed.of(np.array([0, 1, 1]))),
        (3,),
        1,
    ),
    "tied rows": (Tied(Simplex().hold(np.eye(3, k=2) > 0, 0.0), Fixed.of(np.array([0, 1, 1]))), (3, 3), 3),
    "affine": (Affine([0.0, 1, 2], EVEN), (3,), 2),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_a_chart_of_what_is_free(name, dtype):
    space, shape, dimension = SPACES[name]
    free = jnp.asarray(np.random.default_rng(0).normal(size=answers.coordinates_shape(space, shape)), dtype)

    @jax.jit
    def chart(free):
        point, both = space.forward(free), jnp.stack([free, free + 1])
        copies = space.forward(both), jax.vmap(space.forward)(both)
        return point, space.contains(point), space.free(point), space.inverse(point), copies

    point, inside, live, back, (together, copies) = chart(free)
    assert point.dtype == dtype and point.shape == shape and inside
    live = np.asarray(live)
    eps = float(np.finfo(dtype).eps)
    assert_within(back, np.where(live, free, 0), 64 * eps * (1 + np.abs(free).max()))
    assert live.sum() == dimension == answers.dimension(space, shape) == answers.live(space, shape).sum()
    jacobian = jax.jit(jax.jacobian(space.forward))(free).reshape(point.size, -1)
    assert np.linalg.matrix_rank(jacobian, tol=1e-3) == dimension
    other = np.abs(np.random.default_rng(1).normal(size=shape))
    other = jnp.asarray(other / other.sum(axis=-1, keepdims=True), dtype)
    outside, moved_in = jax.jit(lambda x: (space.contains(x), space.contains(answers.project(space, x))))(other)
    assert not outside and moved_in
    assert len(answers.names(space, "x", answers.numbered(shape))) == free.size
    assert_within(together, copies, 8 * eps * np.abs(copies).max())
    assert answers.dimension(space, (5, *shape)) == 5 * dimension


def _moved(self, c, sums):
    """A mutant of ``maximum``: the model's own, moved under the restriction."""
    return self.project(self.model.maximum(c and c.own, sums))


def _one_step(make, arrays, starts):
    """A mutant: a step uphill in place of Newton's method."""
    function = make(arrays)
    return starts[0] + 1e-3 * jax.grad(function)(starts[0])


def _unweighted(form, means, covariances, k, d):
    return np.ones((k, d))


MUTANTS = {
    "the free maximiser moved": ("a mean", "jaxem.models.restricted.model.Restricted.maximum", _moved),
    "no Newton method": ("even means", "jaxem.models.restricted.newton.maximizer", _one_step),
    "means tied as if variances were equal": ("means", "jaxem.models.restricted.closed._weight", _unweighted),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_certificate_catches_a_wrong_m_step(name, monkeypatch):
    of, where, mutant = MUTANTS[name]
    model, params, x = case(of)
    monkeypatch.setattr(where, mutant)
    jax.clear_caches()  # programs of the right model
    with pytest.raises(Exception, match=r"m_step|M-step"):
        jaxem.verify(model, params, x, strict=True)
    jax.clear_caches()
