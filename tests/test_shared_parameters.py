"""Parameters that all classes share have no axis of classes, however long they are."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem import Positive, PositiveDefinite, Real
from jaxem.core.parameters import Param
from jaxem.families import MultivariateNormal
from jaxem.models import HMM, Mixture


class Places(NamedTuple):
    scales: jax.Array  # (D,), of all classes
    means: jax.Array  # (K, D)


class Sums(NamedTuple):
    sizes: jax.Array
    first: jax.Array
    second: jax.Array


@jax.tree_util.register_static
class Laplacian:
    """A user's family: normal around a mean of each class, one variance a column; what is shared comes first."""

    event_ndim = 1
    support = "finite numbers"

    def declare(self):
        return Places(Param.of(Positive(), "D"), Param.of(Real(), "K D", location=True))

    def prepare(self, params, x):
        return params

    def log_density(self, c, x):
        y = (x[:, None, :] - c.means[None]) ** 2 / c.scales[None, None, :]
        return -0.5 * (y + jnp.log(2 * math.pi * c.scales)[None, None, :]).sum(axis=-1)

    def statistics(self, c, r, hidden, x):
        return Sums(r.sum(axis=0), r.T @ x, (r.sum(axis=1)[:, None] * x**2).sum(axis=0))

    def maximize(self, c, sums):
        n, first, second = sums
        between = (first**2 / n[:, None]).sum(axis=0)
        return Places((second - between) / n.sum(), first / n[:, None])

    def expected(self, c, params, sums):
        n, first, second = sums
        scales, means = params
        squares = second - (2 * first * means - n[:, None] * means**2).sum(axis=0)
        return -0.5 * (n.sum() * jnp.log(scales) + squares / scales).sum()

    def features(self, x):
        return x

    def supports(self, x):
        return jnp.isfinite(x).all(axis=-1)

    def sample(self, key, params, labels):
        noise = jax.random.normal(key, (labels.shape[0], params.scales.shape[0]))
        return params.means[labels] + jnp.sqrt(params.scales)[None, :] * noise


class Weighed(NamedTuple):
    means: jax.Array  # (K, D)
    covariance: jax.Array  # (D, D), of all classes


@jax.tree_util.register_static
class Tied:
    """A user's family with one covariance matrix."""

    event_ndim = 1
    support = "finite numbers"

    def declare(self):
        return Weighed(Param.of(Real(), "K D", location=True), Param.of(PositiveDefinite(), "D D"))

    def log_density(self, c, x):
        y = x[:, None, :] - c.means[None]
        precision = jnp.linalg.inv(c.covariance)
        distance = jnp.einsum("nkd,de,nke->nk", y, precision, y)
        return -0.5 * (distance + jnp.linalg.slogdet(2 * math.pi * c.covariance)[1])

    def statistics(self, c, r, hidden, x):
        return Sums(r.sum(axis=0), r.T @ x, (r.sum(axis=1)[:, None] * x).T @ x)

    def maximize(self, c, sums):
        n, first, second = sums
        means = first / n[:, None]
        return Weighed(means, (second - first.T @ means) / n.sum())

    def expected(self, c, params, sums):
        n, first, second = sums
        means, covariance = params
        cross = first.T @ means
        squares = second - cross - cross.T + (n[:, None] * means).T @ means
        precision = jnp.linalg.inv(covariance)
        return -0.5 * (n.sum() * jnp.linalg.slogdet(covariance)[1] + (precision * squares).sum())

    prepare, features, supports = Laplacian.prepare, Laplacian.features, Laplacian.supports

    def sample(self, key, params, labels):
        noise = jax.random.normal(key, (labels.shape[0], params.means.shape[1]))
        return params.means[labels] + noise @ jnp.linalg.cholesky(params.covariance).T


FAMILIES = {
    "user, a variance a column": Laplacian(),
    "user, one matrix": Tied(),
    "tied": MultivariateNormal("tied"),
    "full": MultivariateNormal("full"),
    "diag": MultivariateNormal("diag"),
    "spherical": MultivariateNormal("spherical"),
}


def data_of(d):
    rng = np.random.default_rng(d)
    z = np.repeat([0, 1], 40)
    return jnp.asarray(rng.normal(size=(80, d)) @ (np.eye(d) + 0.3) + 4.0 * z[:, None] * np.arange(1, d + 1))


@pytest.mark.parametrize("d", [1, 2, 3])  # with two classes: fewer columns, as many, more
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_classes_change_names_and_what_they_share_stays(name, d):
    x = data_of(d)
    for model, data in ((Mixture(FAMILIES[name], 2), x), (HMM(FAMILIES[name], 2), x[None])):
        start = model.init(jax.random.key(0), data)
        model.validate(start, data)
        turned = model.permute(start, jnp.array([1, 0]))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.shape, b.shape), turned, start)
        r, flipped = model.predict_proba(start, data), model.predict_proba(turned, data)
        assert_within(flipped, r[..., ::-1], 1e4 * eps("float64"))
        keys = np.asarray(model.label_keys(start))
        assert keys.shape == (2, d)
        np.testing.assert_array_equal(model.label_keys(turned), keys[::-1])
        jax.tree.map(
            np.testing.assert_array_equal, *(jaxem.inference.canonical(model, params) for params in (start, turned))
        )
        # A matrix that a user's M-step leaves symmetric but for rounding is made so at the door.
        back = jaxem.inference.align(model, turned, start, data)
        jax.tree.map(lambda a, b: assert_within(a, b, 2 * eps("float64") * np.abs(b)), back, start)


@pytest.mark.slow
def test_a_chain_with_a_shared_covariance_is_fitted():
    x = data_of(3)
    model = HMM(MultivariateNormal("tied"), 2)
    fit = jaxem.fit(model, model.init(jax.random.key(0), x[None]), x[None])
    assert fit.status == jaxem.Status.CONVERGED and fit.params.emissions.covariances.shape == (3, 3)
    assert_within(jnp.sort(fit.params.emissions.means, axis=0), [x[:40].mean(axis=0), x[40:].mean(axis=0)], 0.01)


@pytest.mark.slow
def test_too_few_classes_are_still_refused():
    x = data_of(2)
    for name, family in FAMILIES.items():
        model = Mixture(family, 2)
        three = Mixture(family, 3).init(jax.random.key(0), x)
        with pytest.raises(ValueError, match="k = 2"):
            jaxem.fit(model, three, x)
        assert name
