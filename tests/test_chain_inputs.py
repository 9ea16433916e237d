"""Hidden Markov models with covariates, named chains, priors, and forecasts: against enumeration of all paths and
against direct maximisation of the penalised likelihood."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps
from scipy import optimize, stats
from scipy.special import logsumexp

import jaxem
from jaxem import Dataset, datasets
from jaxem.core import coordinates
from jaxem.families import Bernoulli, Normal, NormalParams, Product
from jaxem.gates import Allowed, Constant, Cyclic, LeftToRight, Softmax, SoftmaxParams, Stationary, Sticky
from jaxem.latent import chain_sums
from jaxem.models import HMM, HMMParams

EPS = eps(np.float64)


def zero_sum(a: np.ndarray) -> np.ndarray:
    return a - a.mean(axis=-2, keepdims=True)


# Two ragged sequences of three states, with a missing step, driven by one covariate for starts and two for moves.

RNG = np.random.default_rng(2)
X = np.array([[0.3, -1.2, 2.1, 0.4, 1.9], [1.5, 0.2, -0.7, 9.0, 9.0]])
LENGTHS = np.array([5, 3])
SEEN = np.array([[True, False, True, True, True], [True, True, True, True, True]])
GIVEN = {"age": RNG.normal(size=(2, 5)), "drive": RNG.normal(size=(2, 5, 2))}
MODEL = HMM(Normal(), 3, initial=Softmax(on="age"), transition=Softmax(on="drive"))
PARAMS = HMMParams(
    SoftmaxParams(zero_sum(RNG.normal(size=(3, 2)))),
    SoftmaxParams(zero_sum(RNG.normal(size=(3, 3, 3)))),
    NormalParams(np.array([-1.0, 0.5, 2.0]), np.array([0.5, 1.0, 0.7])),
)
OTHER = jax.tree.map(lambda leaf: leaf * 0.8, PARAMS)
LATER = {"age": RNG.normal(size=(2, 4)), "drive": RNG.normal(size=(2, 4, 2))}


def data_set() -> Dataset:
    x = np.where(SEEN, X, np.nan)
    return jaxem.dataset(x, given=GIVEN, lengths=LENGTHS, missing="nan")


def design(u: np.ndarray) -> np.ndarray:
    u = u.reshape(*u.shape[:2], -1)
    return np.concatenate([np.ones((*u.shape[:2], 1)), u], axis=2)


def chain_of(params: HMMParams, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """log pi (N, K) and log A (N, T, K, K)."""
    start = design(given["age"])[:, 0] @ np.asarray(params.initial.coefficients).T
    moves = np.einsum("ntp,ijp->ntij", design(given["drive"]), np.asarray(params.transition.coefficients))
    return tuple(a - logsumexp(a, axis=-1, keepdims=True) for a in (start, moves))


def enumerated(params: HMMParams, horizon: int = 0) -> dict[str, Any]:
    """For each sequence every path, also over later steps, and log p(x, z)."""
    joined = {name: [np.r_[GIVEN[name][n, :t], LATER[name][n]] for n, t in enumerate(LENGTHS)] for name in GIVEN}
    found = []
    for n, t in enumerate(LENGTHS):
        log_pi, log_a = chain_of(params, {name: part[n][None] for name, part in joined.items()})
        log_b = stats.norm.logpdf(X[n, :t, None], params.emissions.means, np.sqrt(params.emissions.variances))
        log_b = np.where(SEEN[n, :t, None], log_b, 0)
        paths = np.array(list(itertools.product(range(3), repeat=t + horizon)))
        moves = log_a[0][np.arange(t + horizon - 1)[None], paths[:, :-1], paths[:, 1:]].sum(axis=1)
        joint = log_pi[0][paths[:, 0]] + moves + log_b[np.arange(t)[None], paths[:, :t]].sum(axis=1)
        found.append((paths, joint))
    return found


def probabilities(paths: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.stack([q @ (paths == k) for k in range(3)], axis=1)


@jax.jit
def _answers(params: HMMParams, other: HMMParams, data: Dataset, later: Any, key: jax.Array) -> dict[str, Any]:
    q, p = MODEL.e_step(params, data), MODEL.e_step(other, data)
    many = lambda tree: jax.tree.map(lambda a: jnp.repeat(a, 4000, 0), tree)
    return {
        "smoothed": q.smoothed,
        "log_prob": MODEL.log_prob(params, data),
        "normalizer": q.log_normalizer,
        "pairs": chain_sums.pairs(q),
        "q": MODEL.q_function(other, q, data),
        "entropy": MODEL.entropy(q, data),
        "divergence": MODEL.divergence(q, p, data),
        "path": MODEL.predict(params, data),
        "filter": MODEL.filter(params, data),
        "forecast": MODEL.forecast(params, data, 4, given=later),
        "density": MODEL.forecast_log_prob(params, data, jnp.ones((2, 4)), given=later),
        "tempered": MODEL.tempered_e_step(params, data, 0.5).smoothed,
        "draws": MODEL.sample_paths(key, params, data, 4000),
        "futures": MODEL.sample_forecast(key, params, many(data), 4, given=many(later)),
    }


@functools.cache
def answers() -> dict[str, Any]:
    return _answers(PARAMS, OTHER, data_set(), LATER, jax.random.key(0))


def test_inputs_agree_with_enumeration():
    found = answers()
    paths, others = enumerated(PARAMS), enumerated(OTHER)
    total = {"q": 0.0, "entropy": 0.0, "divergence": 0.0}
    tolerance = 200 * EPS * 20  # some hundred operations on terms of a log-likelihood of this size
    for n, t in enumerate(LENGTHS):
        (all_paths, joint), other = paths[n], others[n][1]
        log_p = logsumexp(joint)
        q, log_q, log_r = np.exp(joint - log_p), joint - log_p, other - logsumexp(other)
        assert_within(found["log_prob"][n], log_p, tolerance)
        assert_within(found["normalizer"][n], log_p, tolerance)
        assert_within(found["smoothed"][n, :t], probabilities(all_paths, q), tolerance)
        pairs = [
            [[q @ ((all_paths[:, s] == i) & (all_paths[:, s + 1] == j)) for j in range(3)] for i in range(3)]
            for s in range(t - 1)
        ]
        assert_within(found["pairs"][n, : t - 1], np.array(pairs), tolerance)
        assert_within(found["pairs"][n, t - 1 :], np.zeros((5 - t, 3, 3)), 0)
        np.testing.assert_array_equal(found["path"][n, :t], all_paths[joint.argmax()])
        hot = np.exp(0.5 * joint - logsumexp(0.5 * joint))
        assert_within(found["tempered"][n, :t], probabilities(all_paths, hot), tolerance)
        total["q"] += q @ other
        total["entropy"] -= q @ log_q
        total["divergence"] += q @ (log_q - log_r)
        draws = np.asarray(found["draws"][:, n])
        assert (draws[:, t:] == -1).all()
        share = np.stack([(draws[:, :t] == k).mean(axis=0) for k in range(3)], axis=1)
        assert_within(share, probabilities(all_paths, q), 5 * np.sqrt(0.25 / 4000))
    for name, value in total.items():
        assert_within(found[name], value, tolerance)


def test_filter_and_forecast_agree_with_enumeration():
    found, emissions = answers(), PARAMS.emissions
    tolerance = 200 * EPS * 20
    for n, t in enumerate(LENGTHS):
        filtered, log_prob = found["filter"].probabilities[n], found["filter"].log_prob[n]
        before = 0.0
        for s in range(1, t + 1):
            part = _cut(n, s)
            assert_within(filtered[s - 1], part[0], tolerance)
            assert_within(log_prob[s - 1], part[1] - before, tolerance)
            before = part[1]
        assert_within(filtered[t:], np.zeros((5 - t, 3)), 0)
        assert_within(log_prob[t:], np.zeros(5 - t), 0)
        paths, joint = enumerated(PARAMS, 4)[n]
        ahead = probabilities(paths, np.exp(joint - logsumexp(joint)))[t:]
        assert_within(found["forecast"].probabilities[n], ahead, tolerance)
        assert_within(found["forecast"].means[n], ahead @ emissions.means, tolerance)
        log_b = stats.norm.logpdf(1.0, emissions.means, np.sqrt(emissions.variances))
        assert_within(found["density"][n], logsumexp(np.log(ahead) + log_b, axis=1), tolerance)
        states, x = (np.asarray(part)[4000 * n : 4000 * (n + 1)] for part in found["futures"])
        share = np.stack([(states == k).mean(axis=0) for k in range(3)], axis=1)
        assert_within(share, ahead, 5 * np.sqrt(0.25 / 4000))
        assert_within(x.mean(axis=0), ahead @ emissions.means, 5 * 1.8 / np.sqrt(4000))


def _cut(n: int, s: int) -> tuple[np.ndarray, float]:
    """p(z_s | x_1 ... x_s) and log p(x_1 ... x_s) of sequence n."""
    log_pi, log_a = chain_of(PARAMS, GIVEN)
    log_b = stats.norm.logpdf(X[n, :s, None], PARAMS.emissions.means, np.sqrt(PARAMS.emissions.variances))
    log_b = np.where(SEEN[n, :s, None], log_b, 0)
    paths = np.array(list(itertools.product(range(3), repeat=s)))
    moves = log_a[n][np.arange(s - 1)[None], paths[:, :-1], paths[:, 1:]].sum(axis=1)
    joint = log_pi[n][paths[:, 0]] + moves + log_b[np.arange(s)[None], paths].sum(axis=1)
    return probabilities(paths, np.exp(joint - logsumexp(joint)))[-1], logsumexp(joint)


# Against direct maximisation


def padded(parts: list[np.ndarray]) -> np.ndarray:
    return np.stack([np.pad(part, (0, 168 - len(part))) for part in parts])


@functools.cache
def speed() -> tuple[Dataset, np.ndarray, np.ndarray, np.ndarray]:
    times, right = datasets.speed()
    lengths = np.array([len(part) for part in times])
    x, y = padded(times), padded(right)
    return jaxem.dataset({"rt": x, "corr": y}, given=y, lengths=lengths), x, y, lengths


FAMILY = Product({"rt": Normal(), "corr": Bernoulli()})


def masked_softmax(a: jax.Array, mask: np.ndarray) -> jax.Array:
    return jax.nn.softmax(jnp.where(mask, a, -1e5), axis=-1)


def solved(A: jax.Array) -> jax.Array:
    k = A.shape[0]
    return jnp.linalg.solve((jnp.eye(k) - A + 1).T, jnp.ones((k,)))


def dirichlet(p: jax.Array, a: np.ndarray, mask: np.ndarray) -> jax.Array:
    total = 0.0
    for row, concentrations, allowed in zip(p, a, mask, strict=True):
        free = np.flatnonzero(allowed)
        own = concentrations[free]
        total = total + jax.scipy.special.gammaln(own.sum()) - jax.scipy.special.gammaln(own).sum()
        total = total + ((own - 1) * jnp.log(row[free])).sum()
    return total


class Direct:
    """The penalised log-likelihood of a chain on ``speed`` in free coordinates, by the forward algorithm."""

    def __init__(self, k, mask=None, moves=None, starts=None, stationary=False, inputs=False):
        self.k, self.mask = k, np.ones((k, k), bool) if mask is None else mask
        self.moves, self.starts, self.stationary, self.inputs = moves, starts, stationary, inputs

    def __call__(self, v: jax.Array) -> jax.Array:
        k = self.k
        _, x, y, lengths = speed()
        means, logs, logits, start, a, slope = jnp.split(v, np.cumsum([k, k, k, k, k * k]))
        means, logs, logits = (part[None, None] for part in (means, logs, logits))
        log_b = -0.5 * (jnp.log(2 * jnp.pi) + logs + (x[..., None] - means) ** 2 / jnp.exp(logs))
        log_b = log_b + jnp.where(y[..., None] == 1, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits))
        drive = y[..., None, None] * slope.reshape(1, 1, k, k) if self.inputs else jnp.zeros((*y.shape, 1, 1))
        A = masked_softmax(a.reshape(1, 1, k, k) + drive, self.mask[None, None])
        pi = solved(A[0, 0]) if self.stationary else jax.nn.softmax(start)
        value = 0.0
        if self.moves is not None:
            value = value + dirichlet(A[0, 0], self.moves, self.mask)
        if self.starts is not None:
            value = value + dirichlet(pi[None], self.starts[None], np.ones((1, k), bool))
        log_A = jnp.log(jnp.where(self.mask[None, None], A, 1)) + jnp.where(self.mask[None, None], 0, -1e5)

        def step(alpha, now):
            log_b_t, log_A_t, inside = now
            after = jax.nn.logsumexp(alpha[:, :, None] + log_A_t, axis=1) + log_b_t
            return jnp.where(inside[:, None], after, alpha), None

        first = jnp.log(pi)[None] + log_b[:, 0]
        inside = np.arange(1, 168)[:, None] < lengths[None]
        later = (jnp.swapaxes(log_b, 0, 1)[1:], jnp.swapaxes(log_A, 0, 1)[:-1], inside)
        alpha, _ = jax.lax.scan(step, first, later)
        return value + jax.nn.logsumexp(alpha, axis=1).sum()

    def free(self, params: HMMParams) -> np.ndarray:
        """The coordinates of the parameters of a model."""
        rt, corr = params.emissions["rt"], params.emissions["corr"].probabilities[:, 0]
        start = np.zeros(self.k) if self.stationary else np.log(np.maximum(params.initial, 1e-30))
        if self.inputs:
            a, slope = np.moveaxis(np.asarray(params.transition.coefficients), -1, 0)
        else:
            a, slope = np.log(np.where(params.transition == 0, 1, params.transition)), np.zeros((self.k, self.k))
        parts = (rt.means, np.log(rt.variances), np.log(corr / (1 - corr)), start, a.ravel(), slope.ravel())
        return np.concatenate(parts)


STAY = 10.0 * np.eye(2)
LEFT = np.triu(np.ones((3, 3), bool)) & ~np.triu(np.ones((3, 3), bool), 2)
RING = LEFT | (np.arange(9).reshape(3, 3) == 6)
HUB = np.array([[True, True, False], [True, True, True], [False, True, True]])
CHAINS = {
    "inputs": (HMM(FAMILY, 2, transition=Softmax()), Direct(2, inputs=True)),
    "left to right by inputs": (HMM(FAMILY, 3, transition=LeftToRight(gate=Softmax())), Direct(3, LEFT, inputs=True)),
    "allowed by inputs": (HMM(FAMILY, 3, transition=Allowed(HUB, gate=Softmax())), Direct(3, HUB, inputs=True)),
    "stationary": (
        HMM(FAMILY, 2, initial=Stationary(), transition=Sticky(10.0, prior=2.0)),
        Direct(2, moves=STAY + 2, stationary=True),
    ),
    "left to right": (
        HMM(FAMILY, 3, initial=Constant(2.0), transition=LeftToRight(prior=3.0)),
        Direct(3, LEFT, moves=np.full((3, 3), 3.0), starts=np.full(3, 2.0)),
    ),
    "sticky": (
        HMM(FAMILY, 2, initial=Constant(np.array([2.0, 4.0])), transition=Sticky(10.0)),
        Direct(2, moves=STAY + 1, starts=np.array([2.0, 4.0])),
    ),
    "dirichlet": (
        HMM(FAMILY, 2, transition=Constant(np.array([2.0, 5.0]))),
        Direct(2, moves=np.array([[2.0, 5.0], [2.0, 5.0]])),
    ),
    "cyclic": (HMM(FAMILY, 3, initial=Stationary(), transition=Cyclic()), Direct(3, RING, stationary=True)),
    "allowed": (
        HMM(FAMILY, 3, initial=Constant(1.5), transition=Allowed(HUB, stay=4.0)),
        Direct(3, HUB, moves=4.0 * np.eye(3) + 1, starts=np.full(3, 1.5)),
    ),
}
QUICK = ("inputs", "stationary", "left to right", "allowed by inputs")


def hub_by_inputs() -> tuple[HMM, HMMParams, Dataset]:
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(4, 20)) + np.linspace(0, 4, 20)[None], rng.normal(size=(4, 20))
    data = jaxem.dataset(x, given=u)
    model = HMM(Normal(), 3, transition=Allowed(HUB, gate=Softmax()))
    start = model.init(jax.random.key(0), data)
    return model, start._replace(transition=SoftmaxParams(start.transition.coefficients * 1.5)), data


@pytest.mark.everything
def test_every_law_holds_where_moves_by_inputs_are_not_allowed():
    jaxem.verify(*hub_by_inputs(), strict=True)


@pytest.mark.slow
def test_moves_by_inputs_that_are_not_allowed():
    """They have no probability and no coefficient, and do not count as parameters."""
    model, params, data = hub_by_inputs()
    rng = np.random.default_rng(0)
    A = model.pi_A(model.prepare(params, data), data)[1]
    np.testing.assert_array_equal(np.asarray(A)[..., ~HUB], 0)
    assert_within(A.sum(axis=-1), np.ones((4, 19, 3)), 8 * EPS)
    space = model.declare().transition.coefficients.space
    free = jnp.asarray(rng.normal(size=(HUB.sum() - 3, 2)))
    value = space.forward(free)
    assert_within(space.inverse(value), free, 16 * EPS)
    for values, wrong in ((value, value.at[0, 2].set(1.0)), map(np.asarray, (value, value.at[0, 2].set(1.0)))):
        assert space.contains(values) and not space.contains(wrong)
    assert_within(value.sum(axis=1), np.zeros((3, 2)), 16 * EPS)
    assert space.names("b", [list("012"), list("012"), ["intercept", "u"]])[:3] == [
        "contrast b[0, 0, intercept]",
        "contrast b[0, 0, u]",
        "contrast b[1, 0, intercept]",
    ]
    free_parameters = 2 + 2 * (1 + 2 + 1) + 6  # starts, contrasts by intercept and slope, emissions
    assert int(coordinates.living(model, params).sum()) == free_parameters
    for wrong, says in [
        (lambda: jaxem.fit(model, params._replace(transition=SoftmaxParams(jnp.ones((3, 3, 2)))), data), "not allowed"),
        (lambda: Allowed(HUB, prior=2.0, gate=Softmax()), "prior or stay exclude each other"),
        (lambda: LeftToRight(stay=2.0, gate=Softmax()), "prior or stay exclude each other"),
        (lambda: Cyclic(gate=Constant()), "gate must be a Softmax"),
        (lambda: HMM(Normal(), 2, transition=Allowed(HUB, gate=Softmax())), "those of 3 states; the chain has 2"),
        (lambda: model.permute(params, jnp.array([1, 0, 2])), "that follow Allowed.* cannot be renumbered"),
        (lambda: HMM(Normal(), 3, initial=Stationary(), transition=Cyclic(gate=Softmax())), "no distribution of the"),
        (lambda: HMM(Normal(), 3, initial=Stationary(), transition=Softmax()), "each step has a transition matrix"),
    ]:
        with pytest.raises(ValueError, match=says):
            wrong()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.everything) for name in CHAINS]
)
def test_equals_direct_maximisation(name):
    """BFGS from the end of EM, moved, finds the same maximum: the objective to 1e-8."""
    model, direct = CHAINS[name]
    data = speed()[0] if direct.inputs else jaxem.dataset(speed()[0].values, lengths=speed()[3])
    start = model.init(jax.random.key(1), data)
    # Where the input separates moves from stays, coefficients rise for ever; the objective has an end.
    how = {"tol": 1e-14} if name == "left to right by inputs" else {"stop": jaxem.fitting.parameter_change(1e-10)}
    fit = jaxem.fit(model, start, data, **how, max_steps=3000)
    assert fit.converged
    own = direct.free(fit.params)
    both = jax.jit(jax.value_and_grad(lambda v: -direct(v)))
    assert_within(-both(own)[0], fit.objective, 1e-10)
    begin = own + 0.03 * np.random.default_rng(0).normal(size=own.shape)
    with np.errstate(all="ignore"):  # a line search that looks too far
        found = optimize.minimize(both, begin, jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 5000})
    assert_within(-found.fun, fit.objective, 1e-8)
    assert_within(found.x[: 3 * model.k], own[: 3 * model.k], 1e-4)
