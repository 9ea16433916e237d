"""The table of cases: every model, on small data of its own, in either precision. Every law runs on every row."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem import Dataset, datasets
from jaxem.families import (
    Bernoulli,
    BetaPrior,
    Categorical,
    Censored,
    DirichletPrior,
    Exponential,
    Gamma,
    GammaPrior,
    MultivariateNormal,
    Normal,
    NormalInverseWishart,
    PerClass,
    Poisson,
    Product,
    Regression,
    StudentT,
    Truncated,
    Weibull,
    ZeroInflated,
)
from jaxem.gates import Softmax, Stationary, Sticky
from jaxem.models import HMM, FactorAnalysis, ItemResponse, Mixture, StateSpace


class Case(NamedTuple):
    model: Any
    params: Any  # a start, not an optimum
    data: Any


def _cast(data, dtype):
    return jax.tree.map(
        lambda x: jnp.asarray(x, dtype) if np.issubdtype(np.asarray(x).dtype, np.floating) else jnp.asarray(x), data
    )


def _case(model, data, dtype, **keywords):
    data = _cast(data, dtype)
    params = model.init(jax.random.key(1), data, **keywords)
    return Case(model, params, data)


def _sequences(dtype, n=6, t=12, d=None):
    rng = np.random.default_rng(4)
    states = (rng.random((n, t)) < 0.4).cumsum(axis=1) % 2
    noise = rng.normal(size=(n, t) if d is None else (n, t, d))
    values = noise + 3.0 * (states if d is None else states[..., None])
    return Dataset(np.asarray(values), lengths=np.array([12, 7, 12, 1, 3, 9], np.int32))


def normal_mixture(dtype):
    rng = np.random.default_rng(0)
    return _case(Mixture(Normal(), 2), np.r_[rng.normal(0, 1, 40), rng.normal(3, 0.5, 30)], dtype)


def old_faithful(covariance):
    return lambda dtype: _case(Mixture(MultivariateNormal(covariance), 2), datasets.old_faithful(), dtype)


def with_prior(covariance):
    def case(dtype):
        x = jnp.asarray(datasets.old_faithful(), dtype)
        return _case(Mixture(MultivariateNormal(covariance, NormalInverseWishart.from_data(x, 2)), 2), x, dtype)

    return case


def weighted(dtype):
    x = datasets.old_faithful()
    weights = np.random.default_rng(2).integers(0, 4, len(x)).astype(float)
    return _case(Mixture(MultivariateNormal("diag"), 2), Dataset(x, weights=weights), dtype)


def poisson_mixture(dtype):
    rng = np.random.default_rng(1)
    return _case(Mixture(Poisson(), 2), np.r_[rng.poisson(1.0, 40), rng.poisson(6.0, 30)].astype(float), dtype)


def bernoulli_mixture(dtype):
    rng = np.random.default_rng(1)
    p = np.array([[0.9, 0.8, 0.2, 0.5], [0.2, 0.1, 0.7, 0.5]])
    x = (rng.random((60, 4)) < p[rng.integers(0, 2, 60)]).astype(float)
    return _case(Mixture(Bernoulli(), 2), x, dtype)


def categorical_mixture(dtype):
    rng = np.random.default_rng(1)
    z = rng.integers(0, 2, 60)
    x = np.stack([(z + (rng.random(60) < 0.2)) % 2, rng.integers(0, 3, 60), np.where(z, 3, rng.integers(0, 4, 60))], 1)
    return _case(Mixture(Categorical((2, 3, 4)), 2), x.astype(float), dtype)


def exponential_mixture(dtype):
    rng = np.random.default_rng(1)
    return _case(Mixture(Exponential(), 2), np.r_[rng.exponential(1.0, 40), rng.exponential(9.0, 30)], dtype)


def gamma_mixture(dtype):
    """An M-step without a closed form."""
    rng = np.random.default_rng(1)
    return _case(Mixture(Gamma(), 2), np.r_[rng.gamma(0.8, 2.0, 40), rng.gamma(30.0, 0.2, 30)], dtype)


def weibull_mixture(dtype):
    """An M-step that only improves Q, by scoring."""
    rng = np.random.default_rng(1)
    return _case(Mixture(Weibull(), 2), np.r_[rng.weibull(0.8, 40), 6.0 * rng.weibull(7.0, 30)], dtype)


def mixed_columns(dtype):
    """Two parts with missing cells in each, and weights."""
    rng = np.random.default_rng(6)
    z = rng.integers(0, 2, 50)
    x = {"age": rng.normal(4.0 * z), "item": (rng.random((50, 2)) < np.where(z, 0.8, 0.3)[:, None]).astype(float)}
    x = {name: np.where(rng.random(values.shape) < 0.15, np.nan, values) for name, values in x.items()}
    data = jaxem.dataset(_cast(x, dtype), weights=rng.integers(0, 3, 50).astype(float), missing="nan")
    return _case(Mixture(Product({"age": Normal(), "item": Bernoulli()}), 2), data, dtype)


def poisson_hmm(dtype):
    return _case(HMM(Poisson(), 2), datasets.earthquakes()[1].astype(float).reshape(1, 107)[:, :60], dtype)


def ragged_hmm(dtype):
    return _case(HMM(Normal(), 2), _sequences(dtype), dtype)


def weighted_hmm(dtype):
    data = dataclasses.replace(_sequences(dtype, d=2), weights=np.array([1.0, 2.0, 0.0, 1.0, 3.0, 0.5]))
    return _case(HMM(MultivariateNormal("tied"), 2), data, dtype)


def factor_analysis(dtype):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(80, 5)) + 2.0
    return _case(FactorAnalysis(2), x, dtype)


def student_t_mixture(dtype):
    rng = np.random.default_rng(6)
    return _case(Mixture(StudentT(), 2), np.r_[rng.standard_t(3, 50), 6 + 2 * rng.standard_t(4, 40)], dtype)


def zero_inflated_chain(dtype):
    rng = np.random.default_rng(7)
    counts = rng.poisson(np.where(np.arange(120) // 10 % 2, 2.0, 12.0)) * (rng.random(120) < 0.8)
    return _case(HMM(ZeroInflated(Poisson()), 2), counts.astype(float).reshape(4, 30), dtype)


def priors_and_floors(dtype):
    """A conjugate prior of each kind, and floors under variances and matrices."""
    rng = np.random.default_rng(8)
    z = rng.integers(0, 2, 40)
    x = {
        "answer": np.where(rng.random((40, 1)) < 0.6, z[:, None], 2),
        "count": rng.poisson(np.where(z, 5.0, 1.0)),
        "item": rng.random((40, 1)) < np.where(z, 0.8, 0.3)[:, None],
        "length": rng.normal(3.0 * z),
        "pair": rng.normal(size=(40, 2)) + 2.0 * z[:, None],
    }
    families = {
        "answer": Categorical((3,), DirichletPrior(1.5)),
        "count": Poisson(GammaPrior(3.0, 1.0)),
        "item": Bernoulli(BetaPrior(2.0, 3.0)),
        "length": Normal(floor=0.1),
        "pair": MultivariateNormal(floor=0.2),
    }
    return _case(Mixture(Product(families), 2), jax.tree.map(lambda leaf: leaf.astype(float), x), dtype)


def experts(dtype):
    """Class probabilities that depend on covariates, one of them in units far from zero; weights and missing values."""
    rng = np.random.default_rng(8)
    u = rng.normal(size=(70, 2)) * [1.0, 20.0] + [0.0, 100.0]
    z = rng.random(70) < 1 / (1 + np.exp(-1.5 * u[:, 0]))
    y = np.where(rng.random(70) < 0.1, np.nan, rng.normal(np.where(z, 3.0, 0.0)))
    weights = rng.integers(0, 3, 70).astype(float)
    data = jaxem.dataset(_cast(y, dtype), given=_cast(u, dtype), weights=weights, missing="nan")
    return _case(Mixture(Normal(), 2, gate=Softmax()), data, dtype)


def graded_items(dtype):
    """Ordered answers of persons of normal ability; some are missing."""
    rng = np.random.default_rng(9)
    u = rng.normal(size=(90, 1)) * [1.0, 1.5, 0.8] + rng.logistic(size=(90, 3))
    x = (u > -0.5) * 1.0 + (u > 0.8) * [1.0, 0.0, 1.0]
    data = jaxem.dataset(_cast(np.where(rng.random(x.shape) < 0.1, np.nan, x), dtype), missing="nan")
    return _case(ItemResponse("graded", (3, 2, 3), points=15), data, dtype)


def poisson_regression(dtype):
    """Coefficients that a Newton step improves, of one column shared by the classes; weights and missing values."""
    rng = np.random.default_rng(10)
    u, up = rng.normal(size=(70, 2)), rng.random(70) < 0.5
    y = rng.poisson(np.exp(np.where(up, 0.5 + u[:, 0], 2.0 - 0.5 * u[:, 0]) + 0.3 * u[:, 1])).astype(float)
    y = np.where(rng.random(70) < 0.1, np.nan, y)
    weights = rng.integers(0, 3, 70).astype(float)
    data = jaxem.dataset(_cast(y, dtype), given=_cast(u, dtype), weights=weights, missing="nan")
    return _case(Mixture(Regression(Poisson(), tied=1), 2), data, dtype)


def switching_regression(dtype):
    """A chain of normal regressions, in closed form; covariates far from zero."""
    data = _sequences(dtype)
    rng = np.random.default_rng(11)
    u = rng.normal(size=(6, 12, 1)) + 10.0
    data = dataclasses.replace(data, values=data.values + np.where(data.values > 1.5, 1.0, -1.0) * u[..., 0], given=u)
    return _case(HMM(Regression(Normal()), 2), data, dtype)


def driven_hmm(dtype):
    """Starts and moves that depend on covariates; enough of them that no gate is separated."""
    rng = np.random.default_rng(8)
    states = (rng.random((8, 20)) < 0.4).cumsum(axis=1) % 2
    x, drive = rng.normal(size=(8, 20)) + 3.0 * states, rng.normal(size=(8, 20))
    drive[:, 0] = np.where(np.arange(8) % 3, 1, -1) * (2.0 * states[:, 0] - 1)
    weights, lengths = np.array([1.0, 2.0, 0.0, 1.0, 3.0, 0.5, 1.0, 1.0]), np.array([20, 12, 20, 20, 9, 20, 16, 1])
    data = Dataset(x, given=drive, lengths=lengths, weights=weights)
    return _case(HMM(Normal(), 2, initial=Softmax(intercept=False), transition=Softmax()), data, dtype)


def sticky_hmm(dtype):
    """A stationary start and a prior, with a family for each state."""
    model = HMM(PerClass((Normal(), StudentT())), 2, initial=Stationary(), transition=Sticky(4.0, prior=1.5))
    return _case(model, _sequences(dtype), dtype)


def state_space(dtype):
    """Restricted loadings, ragged sequences, missing cells and weights."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(5, 12)).cumsum(axis=1)
    y = np.stack([x, 0.5 * x], axis=2) + rng.normal(size=(5, 12, 2))
    y = np.where(rng.random(y.shape) < 0.15, np.nan, y)
    lengths, weights = np.array([12, 9, 12, 6, 12], np.int32), np.array([1.0, 2.0, 0.5, 1.0, 1.0])
    data = jaxem.dataset(_cast(y, dtype), lengths=lengths, weights=weights, missing="nan")
    return _case(StateSpace(1, loadings=[[1], [None]]), data, dtype)


def censored_mixture(dtype):
    """Exact, left-censored, right-censored and grouped observations, and one of which nothing is known."""
    rng = np.random.default_rng(8)
    x = np.r_[rng.normal(0, 1, 40), rng.normal(4, 1.5, 30)]
    ends = np.stack([x, x], axis=1)
    ends[::3] = np.floor(ends[::3]) + np.array([0, 1])
    ends[1::7, 0], ends[2::9, 1], ends[5] = -np.inf, np.inf, (-np.inf, np.inf)
    return _case(Mixture(Censored(Normal()), 2), ends, dtype)


def truncated_mixture(dtype):
    rng = np.random.default_rng(9)
    x = np.r_[rng.normal(0, 1, 60), rng.normal(5, 1, 50)]
    return _case(Mixture(Truncated(Normal(), -1.0, 7.0), 2), x[(x >= -1) & (x <= 7)], dtype)


def restricted_mixture(dtype):
    """A mean held and variances tied: an M-step in closed form, and fewer coordinates."""
    rng = np.random.default_rng(8)
    model = jaxem.restrict(Mixture(Normal(), 2), {"components.means[0]": 0.0}, ["components.variances"])
    return _case(model, np.r_[rng.normal(0, 1, 40), rng.normal(3, 1, 30)], dtype)


class Coins(NamedTuple):
    choice: Any
    first: Any
    second: Any


def coins_log_joint(params, y):
    heads = jnp.stack([params.first, params.second])
    chosen = jnp.log(jnp.stack([params.choice, 1 - params.choice]))
    return chosen + y.sum() * jnp.log(heads) + (1 - y).sum() * jnp.log1p(-heads)


def coins_m_step(q, y):
    r = q.probabilities
    heads = (r * y.sum(axis=1, keepdims=True)).sum(axis=0) / (r.sum(axis=0) * y.shape[1])
    return Coins(r.mean(axis=0)[0], heads[0], heads[1])


def log_joint(dtype):
    """A model of a user's own: each row is tossed with one of two coins."""
    rng = np.random.default_rng(5)
    y = (rng.random((30, 5)) < np.where(rng.random((30, 1)) < 0.4, 0.8, 0.3)).astype(float)
    model = jaxem.from_log_joint(coins_log_joint, constraints=jaxem.UnitInterval(), m_step=coins_m_step)
    return Case(model, Coins(*jnp.asarray([0.5, 0.6, 0.4], dtype)), _cast(y, dtype))


CASES = {
    "normal mixture": normal_mixture,
    "full": old_faithful("full"),
    "tied": old_faithful("tied"),
    "diag": old_faithful("diag"),
    "spherical": old_faithful("spherical"),
    "full, prior": with_prior("full"),
    "tied, prior": with_prior("tied"),
    "diag, prior": with_prior("diag"),
    "spherical, prior": with_prior("spherical"),
    "weighted": weighted,
    "poisson mixture": poisson_mixture,
    "bernoulli mixture": bernoulli_mixture,
    "categorical mixture": categorical_mixture,
    "exponential mixture": exponential_mixture,
    "gamma mixture": gamma_mixture,
    "Weibull mixture": weibull_mixture,
    "mixed columns": mixed_columns,
    "poisson hmm": poisson_hmm,
    "ragged hmm": ragged_hmm,
    "weighted hmm": weighted_hmm,
    "factor analysis": factor_analysis,
    "student t mixture": student_t_mixture,
    "zero-inflated chain": zero_inflated_chain,
    "censored mixture": censored_mixture,
    "truncated mixture": truncated_mixture,
    "log-joint": log_joint,
    "VVE": old_faithful("VVE"),
    "VEV": old_faithful("VEV"),
    "experts": experts,
    "graded items": graded_items,
    "priors and floors": priors_and_floors,
    "poisson regression": poisson_regression,
    "switching regression": switching_regression,
    "driven hmm": driven_hmm,
    "sticky hmm": sticky_hmm,
    "state space": state_space,
    "restricted mixture": restricted_mixture,
}


@functools.cache
def case(name: str, dtype: str) -> Case:
    """One row of the table."""
    return CASES[name](jnp.dtype(dtype))
