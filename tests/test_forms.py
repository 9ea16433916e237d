"""The fourteen forms of covariances: values of mclust, maximisers against direct maximisation, invariances, edges."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps
from scipy import linalg, optimize, stats

import jaxem
from jaxem import datasets
from jaxem.core import constraints, coordinates, parameters
from jaxem.core.contexts import choose
from jaxem.core.data import Columns
from jaxem.core.parameters import Param
from jaxem.families import (
    MultivariateNormal,
    MultivariateNormalParams,
    NormalInverseWishart,
    forms,
    hidden_cells,
)
from jaxem.families.common_axes import common_axes, equal_volumes, free_volumes
from jaxem.families.forms import FORMS, NAMES
from jaxem.families.multivariate_normal import MultivariateNormalStatistics
from jaxem.families.principal_axes import principal_axes
from jaxem.models import HMM, Mixture, MixtureParams

NEW = [name for name in NAMES if name in FORMS]  # those that have no longer name
ITERATED = ["VEI", "VEE", "EVE", "VVE", "VEV"]
EVERY_DAY = ["VEE", "EVE", "VVE", "VEV", "EVV"]
EVERYTHING = pytest.mark.everything

# mclust 6.0.0: me(x, modelName, z = unmap(start), control = emControl(tol = c(1e-13, 1e-13), itmax = c(1e5, 1e5))).
# Its iteration for VVE, which starts at the variables as axes, ends at a lower maximum than ours, -2327.783916.
MCLUST = {
    "EII": -2676.430437,
    "VII": -2568.344662,
    "EEI": -2464.382779,
    "VEI": -2410.060826,
    "EVI": -2455.531184,
    "VVI": -2364.137202,
    "EEE": -2445.889905,
    "VEE": -2378.521285,
    "EVE": -2377.134036,
    "VVE": -2330.807165,
    "EEV": -2401.527162,
    "VEV": -2342.388694,
    "EVV": -2341.737089,
    "VVV": -2307.853172,
}
PARAMETERS = dict(zip(NAMES, (12, 14, 14, 16, 18, 20, 17, 19, 21, 23, 23, 25, 27, 29), strict=True))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in EVERY_DAY else EVERYTHING) for name in NAMES])
def test_diabetes_as_in_mclust(name):
    x, start = datasets.diabetes()
    model = Mixture(MultivariateNormal(name), 3)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x, start=start), x, tol=1e-12, max_steps=1000)
    assert fit.status == jaxem.Status.CONVERGED
    trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
    assert np.diff(trace).min() >= -64 * eps(np.float64) * np.abs(trace).max()
    wanted = -2327.783916 if name == "VVE" else MCLUST[name]
    assert_within(fit.objective, wanted, 2e-6)
    assert fit.objective >= MCLUST[name] - 2e-6
    assert jaxem.inference.number_of_parameters(model, fit) == PARAMETERS[name]
    # The likelihood by another route, of matrices that have what the name says in common.
    weights, components = jax.tree.map(np.asarray, fit.params)
    matrices = np.asarray(model.family.covariances(fit.params.components))
    normals = [stats.multivariate_normal(m, c).pdf(x) for m, c in zip(components.means, matrices, strict=True)]
    assert_within(np.log(weights @ np.stack(normals)).sum(), fit.objective, 1e-8)
    check_form(name, matrices)


def check_form(name: str, matrices: np.ndarray) -> None:
    """That these matrices (K, D, D) are of the form, to 1e-9."""
    volume, shape, orientation = name
    volumes = np.linalg.det(matrices) ** (1 / matrices.shape[-1])
    if volume == "E":
        assert_within(volumes / volumes[0], np.ones(len(volumes)), 1e-9)
    lengths = np.linalg.eigvalsh(matrices) / volumes[:, None]
    if orientation == "I":
        diagonal = np.diagonal(matrices, axis1=1, axis2=2)
        assert_within(matrices, diagonal[:, :, None] * np.eye(matrices.shape[-1]), 0)
        lengths = diagonal / volumes[:, None]
    if shape == "I":
        assert_within(lengths, np.ones_like(lengths), 1e-9)
    if shape == "E":
        assert_within(lengths / lengths[0], np.ones_like(lengths), 1e-9)
    if orientation == "E":  # matrices of common eigenvectors commute
        for a, b in itertools.combinations(matrices, 2):
            assert_within(a @ b, b @ a, 1e-9 * np.linalg.norm(a) * np.linalg.norm(b))


# nMclustParams of mclust 6.0.0 for D = 2 to 5 (rows) and K = 1 to 4 (columns).
COUNTED = {
    "EII": [[3, 6, 9, 12], [4, 8, 12, 16], [5, 10, 15, 20], [6, 12, 18, 24]],
    "VII": [[3, 7, 11, 15], [4, 9, 14, 19], [5, 11, 17, 23], [6, 13, 20, 27]],
    "EEI": [[4, 7, 10, 13], [6, 10, 14, 18], [8, 13, 18, 23], [10, 16, 22, 28]],
    "VEI": [[4, 8, 12, 16], [6, 11, 16, 21], [8, 14, 20, 26], [10, 17, 24, 31]],
    "EVI": [[4, 8, 12, 16], [6, 12, 18, 24], [8, 16, 24, 32], [10, 20, 30, 40]],
    "VVI": [[4, 9, 14, 19], [6, 13, 20, 27], [8, 17, 26, 35], [10, 21, 32, 43]],
    "EEE": [[5, 8, 11, 14], [9, 13, 17, 21], [14, 19, 24, 29], [20, 26, 32, 38]],
    "VEE": [[5, 9, 13, 17], [9, 14, 19, 24], [14, 20, 26, 32], [20, 27, 34, 41]],
    "EVE": [[5, 9, 13, 17], [9, 15, 21, 27], [14, 22, 30, 38], [20, 30, 40, 50]],
    "VVE": [[5, 10, 15, 20], [9, 16, 23, 30], [14, 23, 32, 41], [20, 31, 42, 53]],
    "EEV": [[5, 9, 13, 17], [9, 16, 23, 30], [14, 25, 36, 47], [20, 36, 52, 68]],
    "VEV": [[5, 10, 15, 20], [9, 17, 25, 33], [14, 26, 38, 50], [20, 37, 54, 71]],
    "EVV": [[5, 10, 15, 20], [9, 18, 27, 36], [14, 28, 42, 56], [20, 40, 60, 80]],
    "VVV": [[5, 11, 17, 23], [9, 19, 29, 39], [14, 29, 44, 59], [20, 41, 62, 83]],
}


@pytest.mark.parametrize("name", NAMES)
def test_degrees_of_freedom_are_those_of_mclust(name):
    counted = []
    for d in range(2, 6):
        row = []
        for k in range(1, 5):
            model, sizes = Mixture(MultivariateNormal(name), k), {"K": k, "D": d, "A": d}
            shape = lambda param, sizes=sizes: jax.ShapeDtypeStruct(tuple(sizes[a] for a in param.axes), jnp.float64)
            shapes = jax.tree.map(shape, model.declare(), is_leaf=lambda node: isinstance(node, Param))
            row.append(jaxem.inference.number_of_parameters(model, shapes))
        counted.append(row)
    assert counted == COUNTED[name]


# One M-step, from sums alone: K scatters about means at the origin.


def scatters(seed: int, k: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Class sizes (K,) and scatters (K, D, D), of unlike volumes, shapes and orientations."""
    rng = np.random.default_rng(seed)
    n = rng.uniform(5, 30, k)
    factors = rng.normal(size=(k, d, d + 2)) * np.exp(rng.normal(size=(k, d, 1))) * np.exp(rng.normal(size=(k, 1, 1)))
    return n, n[:, None, None] * factors @ factors.swapaxes(1, 2)


def of_base(name: str, scatter: jax.Array) -> jax.Array:
    """The scatters as the sums of this form have them."""
    base = FORMS[MultivariateNormal(name).covariance].base
    if base == "tied":
        return scatter.sum(axis=0)
    diagonal = jnp.diagonal(scatter, axis1=1, axis2=2)
    return {"full": scatter, "diag": diagonal, "spherical": diagonal.sum(axis=-1)}[base]


def sums_of(name: str, n: jax.Array, scatter: jax.Array) -> MultivariateNormalStatistics:
    return MultivariateNormalStatistics(n, jnp.zeros(scatter.shape[:2], scatter.dtype), of_base(name, scatter))


@functools.partial(jax.jit, static_argnums=0)
def maximum(name, n, scatter, at=None):
    """The parameters at the maximum of Q, about means at the origin; ``at``: the covariances of the step before."""
    family = MultivariateNormal(name)
    zero = jnp.zeros(scatter.shape[:2], scatter.dtype)
    c = None if at is None else family.prepare(MultivariateNormalParams(zero, at), None)
    return choose(c, lambda c: family.maximize(c, sums_of(name, n, scatter)))


@functools.partial(jax.jit, static_argnums=0)
def matrices_of(name, params):
    return MultivariateNormal(name).covariances(params)


@functools.partial(jax.jit, static_argnums=0)
def slope(name, n, scatter, params, u):
    """Q and its gradient at coordinates u of the covariances, in their chart at ``params``; and those of ``params``."""
    family = MultivariateNormal(name)
    spaces = parameters.spaces(family.declare().covariances)
    flat, unravel = jax.flatten_util.ravel_pytree(constraints.inverse(spaces, params.covariances, params.covariances))

    def q(u):
        there = params._replace(covariances=constraints.forward(spaces, unravel(u), params.covariances))
        return family.expected(family.prepare(params, None), there, sums_of(name, n, scatter)) / n.sum()

    return *jax.value_and_grad(q)(flat + u), flat


TOP = [pytest.param(name, marks=[] if name in ("EVE", "VVE", "VEV") else EVERYTHING) for name in NEW]


@pytest.mark.parametrize("name", TOP)
@pytest.mark.slow
def test_no_other_parameters_have_a_larger_q(name):
    """L-BFGS from many starts, in coordinates: neither near the maximum nor far away does it find a higher one.

    Where classes have axes in common Q has several maxima; there nothing higher is found near the maximum.
    """
    n, scatter = map(jnp.asarray, scatters(0, 3, 3))
    best = maximum(name, n, scatter)
    zero = np.zeros(slope(name, n, scatter, best, 0.0)[2].shape)
    top, gradient, _ = slope(name, n, scatter, best, zero)
    assert_within(gradient, zero, 64 * eps(np.float64) * (1 + np.abs(top)))
    rng = np.random.default_rng(1)
    down = lambda u: tuple(-np.asarray(part, np.float64) for part in slope(name, n, scatter, best, u)[:2])
    for width in (0.1, 0.1, 1.0, 1.0):
        if width > 0.1 and name in ("EVE", "VVE"):
            continue
        start = width * rng.normal(size=zero.size)
        found = optimize.minimize(down, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
        assert -found.fun <= top + 64 * eps(np.float64) * (1 + np.abs(top))
        assert width > 0.1 or -found.fun >= top - 1e-6  # the same maximum


@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.slow
def test_the_maximum_has_the_derivative_of_its_equations(name):
    """Through loops and eigenvectors: the slope along a change of the sums is that of differences."""
    n, scatter = map(jnp.asarray, scatters(3, 3, 3))
    at = maximum(name, n, scatter).covariances
    map_ = jnp.asarray(np.random.default_rng(4).normal(size=(3, 3, 3)))
    change = map_ @ scatter + scatter @ map_.swapaxes(1, 2)
    along = lambda t: matrices_of(name, maximum(name, n * (1 + t), scatter + t * change, at))
    tangent = jax.jvp(along, (0.0,), (1.0,))[1]
    h = 1e-5
    differences = (along(h) - along(-h)) / (2 * h)
    assert_within(tangent, differences, 1e-6 * np.abs(differences).max())
    pull = jax.grad(lambda t: (along(t) * change).sum())(0.0)
    assert_within(pull, (tangent * change).sum(), 1e-9 * np.abs(tangent * change).sum())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("VVE", "VEV") else EVERYTHING) for name in NEW]
)
def test_one_class_and_one_column(name):
    """One class has the covariance of every form that allows it; one column leaves equal or unequal variances."""
    alike = {"I": "spherical" if name[1] == "I" else "diag"}.get(name[2], "full")
    n, scatter = map(jnp.asarray, scatters(5, 1, 4))
    own, wanted = (np.asarray(matrices_of(one, maximum(one, n, scatter))) for one in (name, alike))
    assert_within(own, wanted, 256 * eps(np.float64) * np.abs(wanted).max())
    n, scatter = map(jnp.asarray, scatters(6, 3, 1))
    alike = {"E": "tied", "V": "full"}[name[0]]
    own, wanted = (np.asarray(matrices_of(one, maximum(one, n, scatter))) for one in (name, alike))
    assert_within(own, wanted, 64 * eps(np.float64) * wanted)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in EVERY_DAY else EVERYTHING) for name in NAMES])
def test_other_axes_and_units(name):
    """A rotation of the data for forms that have an orientation or none, a linear map where shape and orientation
    belong together, and other units of the variables where axes lie along them."""
    n, scatter = scatters(7, 3, 3)
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    maps = [3.0 * np.eye(3), np.eye(3)[[2, 0, 1]]]
    if name[2] != "I" or name[1] == "I":
        maps.append(turn)
    if name in ("EEE", "VEE", "EVV", "VVV"):
        maps.append(rng.normal(size=(3, 3)))
    if name in ("EEI", "VEI", "EVI", "VVI"):
        maps.append(np.diag([1e-3, 1.0, 1e3]))
    before = np.asarray(matrices_of(name, maximum(name, n, scatter)))
    for a in maps:
        after = np.asarray(matrices_of(name, maximum(name, n, a @ scatter @ a.T)))
        wanted = a @ before @ a.T
        size = np.sqrt(np.abs(np.diagonal(wanted, axis1=1, axis2=2)))
        assert_within(after, wanted, 1e-9 * size[:, :, None] * size[:, None, :])


@pytest.mark.parametrize("name", EVERY_DAY)
@pytest.mark.slow
def test_classes_in_another_order_and_an_empty_one(name, dtype):
    n, scatter = scatters(8, 4, 3)
    n, scatter = jnp.asarray(n, dtype), jnp.asarray(scatter, dtype)
    params = maximum(name, n, scatter)
    plain = np.asarray(matrices_of(name, params))
    order = np.array([2, 0, 3, 1])
    other = np.asarray(matrices_of(name, maximum(name, n[order], scatter[order])))
    scale = np.abs(plain).max(axis=(1, 2), keepdims=True)
    tolerance = 2e4 * eps(dtype) * scale  # the condition of the equations, with shapes from 1 to 1e3
    assert_within(other, plain[order], tolerance[order])
    # An empty class: the others as they are without it.
    three = np.asarray(matrices_of(name, maximum(name, n[:3], scatter[:3])))
    at = params.covariances
    none = np.asarray(matrices_of(name, maximum(name, n.at[3].set(0), scatter.at[3].set(0))))
    assert_within(none[:3], three, tolerance[:3])
    again = np.asarray(matrices_of(name, maximum(name, n.at[3].set(0), scatter.at[3].set(0), at)))
    assert np.isfinite(again[:3]).all()


@pytest.mark.parametrize("name", ITERATED)
def test_no_loop_is_endless(name):
    """NaN, a class on one point, and a class on a line: the loops end, and nothing of this looks like a maximum."""
    family = MultivariateNormal(name)
    n, scatter = map(jnp.asarray, scatters(9, 3, 3))
    ends = []
    for spoilt in (
        scatter.at[1, 0, 0].set(jnp.nan),
        scatter.at[1].set(0.0),
        scatter.at[1].set(jnp.zeros((3, 3)).at[0, 0].set(1.0)),
        scatter.at[1].set(jnp.inf),
    ):
        params = maximum(name, n, spoilt)
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
        ends.append(finite and not bool(family.degenerate(params)))
    assert not any(ends[:2]) and not ends[3]
    # A class may lie on a line that is no axis, or share its shape; the likelihood is unbounded for VVE only.
    assert not ends[2] or name != "VVE"


@pytest.mark.parametrize("objective", [equal_volumes, free_volumes])
def test_common_axes_in_single_precision_are_found_in_any_units(objective):
    """From starts at many distances, also where the objective, large in small units, is too coarse to show the gain."""
    n, scatter = scatters(3, 3, 3)
    scatter = 1e9 * scatter
    wanted = np.asarray(common_axes(objective, jnp.asarray(n), jnp.asarray(scatter), None))
    aside = [linalg.expm(size * np.array([[0, 1, 1], [-1, 0, 1], [-1, -1, 0]])) for size in np.geomspace(1e-4, 0.1, 20)]
    starts = jnp.asarray(wanted @ np.stack(aside), jnp.float32)
    single = functools.partial(common_axes, objective, jnp.asarray(n, jnp.float32), jnp.asarray(scatter, jnp.float32))
    found = np.asarray(jax.jit(jax.vmap(single))(starts), np.float64)
    found = found * np.sign((found * wanted).sum(axis=1, keepdims=True))
    assert_within(found, np.broadcast_to(wanted, found.shape), 16 * eps(jnp.float32))


@pytest.mark.slow
def test_the_orientation_starts_where_it_was():
    """A step begins at the axes of the step before, and never ends below them: here at each of many local maxima."""
    n, scatter = map(jnp.asarray, scatters(10, 4, 4))
    for seed in range(5):
        axes = jnp.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0])
        at = maximum("VVE", n, scatter).covariances._replace(orientations=axes)
        params = maximum("VVE", n, scatter, at)
        lengths = ((axes.T @ scatter @ axes) * np.eye(4)[None]).sum(axis=-1)
        there = np.asarray(jnp.log(lengths / n[:, None]).sum(axis=-1))
        here = np.log(np.linalg.det(matrices_of("VVE", params)))
        assert (np.asarray(n) * here).sum() <= (np.asarray(n) * there).sum()
        _, gradient, _ = slope("VVE", n, scatter, params, 0.0)
        assert_within(gradient, np.zeros(gradient.shape), 1e-12)


@pytest.mark.parametrize("name", ["EVE", "VVE", "EEV", "VEV"])
def test_axes_keep_their_order_and_signs(name):
    """At a fixed point in any order and with any signs of the axes, a step leaves every array where it is."""
    n, scatter = map(jnp.asarray, scatters(11, 3, 3))
    at = maximum(name, n, scatter).covariances
    order = np.array([1, 2, 0])
    at = at._replace(
        shapes=at.shapes[..., order], orientations=at.orientations[..., order] @ jnp.diag(jnp.array([1.0, -1, -1]))
    )
    again = maximum(name, n, scatter, at).covariances
    for leaf, wanted in zip(again, at, strict=True):
        assert_within(leaf, wanted, 1e-9 * np.abs(wanted).max())


def test_names():
    for name, longer in (("VVV", "full"), ("EEE", "tied"), ("VVI", "diag"), ("VII", "spherical")):
        assert MultivariateNormal(name) == MultivariateNormal(longer)
        assert MultivariateNormal(name).covariance == longer
    with pytest.raises(ValueError, match=r"covariance must be one of \['full', .*'VVE'.*\]; got 'VEX'"):
        MultivariateNormal("VEX")
    prior = NormalInverseWishart.from_data(datasets.old_faithful(), 2)
    assert MultivariateNormal("VVV", prior) == MultivariateNormal("full", prior)
    with pytest.raises(ValueError, match=r"there is no prior for 'VVE'; use one of \['full', 'tied'"):
        MultivariateNormal("VVE", prior)


@EVERYTHING
def test_missing_cells():
    """Oriented forms take them; with a floor, forms of shared variances refuse them."""
    x = datasets.old_faithful().copy()
    x[::7, 0] = np.nan
    data = jaxem.dataset(x, missing="nan")
    model = Mixture(MultivariateNormal("VVE"), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), data), data, tol=1e-10)
    assert fit.status == jaxem.Status.CONVERGED
    assert jaxem.verify(model, fit.params, data).ok
    with pytest.raises(ValueError, match="cannot use missing cells"):
        Mixture(MultivariateNormal("EEI", floor=0.1), 2).init(jax.random.key(0), data)


@pytest.mark.parametrize("name", ["VEI", *(pytest.param(name, marks=EVERYTHING) for name in ("EII", "EEI", "EVI"))])
@pytest.mark.slow
def test_forms_of_shared_variances_treat_missing_cells_as_hidden(name):
    """EM ends where a search on the likelihood of the seen cells ends, and the laws hold for the hidden cells."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(60, 3)) * [1, 2, 0.5], rng.normal(size=(50, 3)) * [0.5, 1, 2] + 3])
    x[rng.random(x.shape) < 0.2] = np.nan
    model, data = Mixture(MultivariateNormal(name), 2), jaxem.dataset(x, missing="nan")
    start = model.init(jax.random.key(0), data, start=np.repeat([0, 1], [60, 50]))
    fit = jaxem.fit(model, start, data, max_steps=3000, tol=1e-13)
    chart, u = coordinates.chart(model, fit.params), np.asarray(coordinates.into(model, fit.params))

    def of_what_is_seen(u):
        params = chart(u)
        variances = jnp.diagonal(model.family.covariances(params.components), axis1=1, axis2=2)
        z = (jnp.nan_to_num(x)[:, None] - params.components.means[None]) / jnp.sqrt(variances)[None]
        cells = jax.scipy.stats.norm.logpdf(z) - 0.5 * jnp.log(variances)[None]
        table = jnp.where(np.isnan(x)[:, None], 0, cells).sum(axis=2)
        return jax.nn.logsumexp(table + jnp.log(params.weights)[None], axis=1).sum()

    climbed = jax.jit(jax.value_and_grad(lambda u: -of_what_is_seen(u)))
    away = u + 0.02 * rng.normal(size=u.shape)
    found = optimize.minimize(lambda u: tuple(np.asarray(a) for a in climbed(u)), away, jac=True, tol=1e-12)
    assert float(fit.objective) == pytest.approx(-found.fun, abs=1e-8)
    assert jaxem.verify(model, start, data, strict=True).ok
    wrong = lambda form, means, r, q, x: right(form, means, r, q._replace(variances=0 * q.variances), x)
    right = hidden_cells.moments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hidden_cells, "moments", wrong)
        assert not jaxem.verify(model, start, jax.tree.map(lambda leaf: leaf[:101], data)).ok


def test_which_forms_are_special_cases():
    of = MultivariateNormal
    assert all(of("VVV").holds(of(name)) and of(name).holds(of("EII")) and of(name).holds(of(name)) for name in NAMES)
    assert of("VVE").holds(of("VEI")) and of("tied").holds(of("EEI")) and of("VEV").holds(of("VEE"))
    assert not of("VVE").holds(of("EEV")) and not of("EVE").holds(of("spherical")) and not of("diag").holds(of("tied"))


def test_summary_names_axes_and_variables():
    x, start = datasets.diabetes()
    model = Mixture(MultivariateNormal("VVE"), 3)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x, start=start), x, tol=1e-12)
    table = jaxem.summary(model, fit, x)
    errors = dict(zip(table.names, table.standard_errors, strict=True))
    assert np.isfinite(table.standard_errors).all() and (table.standard_errors > 0).all()
    assert {"components.covariances.volumes[1]", "components.covariances.shapes[2, 0]"} <= set(errors)
    inside = [name.startswith("components.covariances.orientations") for name in table.names]
    assert (np.abs(table.lower[inside]) <= 1).all() and (np.abs(table.upper[inside]) <= 1).all()
    columns = Columns(("glucose", "insulin", "sspg"), (None,) * 3)
    labels = dict(parameters.named(fit.params, model.declare(), parameters.Labels({"": columns})))
    assert labels["components.covariances.orientations"] == [list(columns.names), ["0", "1", "2"]]


@EVERYTHING
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("name", NEW)
def test_every_law(name, chain, precision):
    x = jnp.asarray(datasets.iris()[0], precision)
    if chain:
        model, x = HMM(MultivariateNormal(name), 2), x.reshape(6, 25, 4)
    else:
        model = Mixture(MultivariateNormal(name), 2)
    params = model.init(jax.random.key(1), x)
    end = jaxem.fit(model, params, x, tol=1e-8, max_steps=60)
    for point in (params, end.params):
        assert jaxem.verify(model, point, x, strict=True).ok


@EVERYTHING
def test_select_over_all_forms():
    x = datasets.diabetes()[0]
    models = {(name, k): Mixture(MultivariateNormal(name), k) for name in NAMES for k in (1, 2, 3)}
    selection = jaxem.select(models, x, key=jax.random.key(0), restarts=4)
    assert all(one.sound for one in selection.candidates)
    bic = {one.name: one.criteria["bic"] for one in selection.candidates}
    found = {one.name: one.log_likelihood for one in selection.candidates}
    for name, k in models:
        p = COUNTED[name][1][k - 1]
        assert_within(bic[name, k], p * np.log(len(x)) - 2 * found[name, k], 1e-9 * abs(bic[name, k]))
    # Forms that are the same for a single class.
    for one, other in itertools.pairwise(("EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV")):
        assert_within(found[one, 1], found[other, 1], 1e-6)


@pytest.mark.slow
def test_params_of_a_mixture_move_with_their_classes():
    model = Mixture(MultivariateNormal("VVE"), 2)
    x = datasets.old_faithful()
    params = model.init(jax.random.key(0), x)
    other = model.permute(params, jnp.array([1, 0]))
    assert isinstance(other, MixtureParams)
    assert_within(model.log_likelihood(other, x), model.log_likelihood(params, x), 1e-9)
    np.testing.assert_array_equal(other.components.covariances.orientations, params.components.covariances.orientations)
    np.testing.assert_array_equal(other.components.covariances.volumes, params.components.covariances.volumes[::-1])


# Variables of very different units: axes and lengths, not entries of matrices, have the digits.


def in_units(seed: int, d: int, units: float, dtype) -> np.ndarray:
    """A scatter whose variables have standard deviations from 1 / ``units`` to ``units``."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6 * d, d)) @ rng.normal(size=(d, d)) * units ** np.linspace(-1, 1, d)[rng.permutation(d)]
    x = x.astype(dtype)
    return x.T @ x


@pytest.mark.parametrize("units", [1.0, 1e3, 1e6])
def test_axes_of_a_scatter_in_any_units(units, dtype):
    """O' W O is diagonal to rounding relative to its own diagonal, and O w O' is W, entry by entry in units of each."""
    of, worst = jax.jit(principal_axes), 0.0

    def along(axes, w):
        turned = axes.astype(np.longdouble).T @ w @ axes
        lengths = np.sqrt(np.abs(np.diagonal(turned)))
        return turned / lengths[:, None] / lengths, lengths

    for d, seed in itertools.product((2, 3, 5, 9), range(6)):
        w = in_units(seed, d, units, dtype)
        axes, rough = np.asarray(of(jnp.asarray(w)), np.float64), np.linalg.eigh(w)[1]
        w = w.astype(np.longdouble)
        (turned, lengths), sizes = along(axes, w), np.sqrt(np.diagonal(w))
        assert (np.diff(lengths) <= 0).all()
        correlations = w / sizes[:, None] / sizes
        small = (32 * d + 4 * np.linalg.cond(correlations.astype(float))) * eps(dtype)
        assert_within(turned, np.eye(d), small)
        assert_within((axes * lengths**2) @ axes.T / sizes[:, None] / sizes, correlations, small)
        worst = max(worst, np.abs(along(rough, w)[0] - np.eye(d)).max())
    assert worst > 1e3 * eps(dtype) or units == 1  # of the axes that LAPACK alone has


def test_densities_by_axes_keep_their_digits(dtype):
    """Axes a little off those of their lengths: correlations of condition 1e5, of which eps of an entry is much."""
    rng, lengths = np.random.default_rng(3), np.array([1e3, 1.0, 1e-3])
    angles = np.array([[0, 0.01, 1e-4], [0, 0, 0.01], [0, 0, 0]])
    axes = linalg.expm(angles - angles.T)
    x = (rng.normal(size=(40, 3)) * lengths).astype(dtype)
    log = np.log(lengths**2)
    at = forms.Oriented(np.exp(log.mean()), np.exp(log - log.mean()), axes)
    at = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), at)
    family = MultivariateNormal("EEV")
    params = MultivariateNormalParams(jnp.zeros((1, 3), dtype), at._replace(orientations=at.orientations[None]))
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), at)
    variances = exact.volumes * exact.shapes
    y = x.astype(np.float64) @ exact.orientations
    wanted = -0.5 * ((y**2 / variances).sum(axis=1) + np.log(2 * np.pi * variances).sum())
    matrices = np.asarray(family.covariances(params), np.float64)[0]
    sizes = np.sqrt(np.diagonal(matrices))
    condition = np.linalg.cond(matrices / sizes[:, None] / sizes)
    assert 1e4 < condition < 1e6
    density = lambda params: family.log_density(family.prepare(params, None), jnp.asarray(x))[:, 0]
    found = np.asarray(jax.jit(density)(params), np.float64)
    tolerance = 2 * condition**0.5 * eps(dtype) * np.abs(wanted)
    assert_within(found, wanted, tolerance)
    rough = MultivariateNormalParams(params.means, jnp.asarray(matrices, dtype)[None])
    family = MultivariateNormal("full")  # of the same matrices, rounded
    found = np.asarray(jax.jit(density)(rough), np.float64)
    assert (np.abs(found - wanted) > tolerance).any()


UNITS = {"small and large": (1e-3, 1, 1e3), "large": (1, 1e3, 1e6), "middle small": (1e3, 1e-3, 1)}


@pytest.mark.parametrize("units", [pytest.param(name, marks=EVERYTHING) for name in UNITS])
@pytest.mark.parametrize("name", ["EVE", "VVE", "EEV", "VEV"])
def test_every_law_in_single_precision_for_variables_in_other_units(name, units):
    x, start = datasets.diabetes()
    x, model = jnp.asarray(x * np.array(UNITS[units]), jnp.float32), Mixture(MultivariateNormal(name), 3)
    params = model.init(jax.random.key(0), x, start=start)
    end = jaxem.fit(model, params, x, tol=1e-6, max_steps=100)
    for point in (params, end.params):
        assert jaxem.verify(model, point, x, strict=True).ok


@EVERYTHING
def test_laws_tell_axes_from_those_of_lapack(monkeypatch):
    """Covariances that are formed and factored again break no law here, as their entries are rounded in proportion;
    ``test_densities_by_axes_keep_their_digits`` tells them apart."""
    x, start = datasets.diabetes()
    x = x * np.array(UNITS["small and large"])

    def holds(name: str, rows: int) -> bool:  # of other shapes: compiled anew
        data, model = jnp.asarray(x[:rows], jnp.float32), Mixture(MultivariateNormal(name), 3)
        return jaxem.verify(model, model.init(jax.random.key(0), data, start=start[:rows]), data).ok

    assert holds("EEV", 144)
    with monkeypatch.context() as patch:
        patch.setattr(forms, "principal_axes", lambda w: jnp.linalg.eigh(w)[1][:, ::-1])
        assert not holds("EEV", 142)
