"""The benchmarks of the table, with equal data, starts and iterations for every side (jaxem and its peers).

A benchmark is built in a process of its own and returns its sides. A side is a function without arguments that runs
once, waits for the result, and returns the log-likelihood per observation (or time step) that it reached.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import works_state_space

import jaxem
from jaxem.families import MultivariateNormal, MultivariateNormalParams
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

ITERATIONS = 10
NEVER = 0.0  # a tolerance that is never met

Side = Callable[[], float]


class Sides(NamedTuple):
    run: dict[str, Side]
    operations: float | None = None  # in the matrix products of one run of jaxem; compared with the machine's rate
    scale: Mapping[str, float] = MappingProxyType({})  # factor on the time of a side that does only a share of the work


class Work(NamedTuple):
    build: Callable[[], Sides]
    dtype: str


def mixture_start(n: int, d: int, k: int, covariance: str, dtype: str):
    """Data and start of a mixture with overlapping classes; responsibilities of well separated ones are subnormal
    numbers, which are slow in BLAS."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (k, d))
    x = (centres[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(dtype)
    means = x[rng.choice(n, k, replace=False)].astype(np.float64)
    variances = x.astype(np.float64).var(axis=0)
    spread = np.tile(np.diag(variances), (k, 1, 1)) if covariance == "full" else np.tile(variances, (k, 1))
    precisions = np.tile(np.diag(1 / variances), (k, 1, 1)) if covariance == "full" else 1 / spread
    return x, means, spread, precisions


def mixture(n: int, d: int, k: int, covariance: str, dtype: str) -> Sides:
    """A Gaussian mixture against scikit-learn, gmmx (float32 only), and the two matrix products that it needs."""
    x, means, spread, precisions = mixture_start(n, d, k, covariance, dtype)
    weights = np.full(k, 1 / k)
    model = Mixture(MultivariateNormal(covariance), k)
    data = jnp.asarray(x)
    params = MixtureParams(
        jnp.asarray(weights, dtype), MultivariateNormalParams(jnp.asarray(means, dtype), jnp.asarray(spread, dtype))
    )

    def ours() -> float:
        stop = jaxem.fitting.parameter_change(NEVER)
        return float(jaxem.fit(model, params, data, stop=stop, max_steps=ITERATIONS).objective) / n

    def sklearn() -> float:
        from sklearn.mixture import GaussianMixture

        peer = GaussianMixture(
            k,
            covariance_type=covariance,
            tol=NEVER,
            reg_covar=0,
            max_iter=ITERATIONS,
            weights_init=weights,
            means_init=means,
            precisions_init=precisions,
        )
        return float(peer.fit(x).score(x))

    sides = {"jaxem": ours, "scikit-learn": sklearn}
    if covariance == "full" and dtype == "float32":
        sides["gmmx"] = gmmx_side(x, weights, means, spread)
    features = 1 + d + d * (d + 1) // 2
    if covariance == "full" and d <= 16:
        sides["two products"] = products_side(n, features, k, dtype)
    width = {"full": features, "diag": 1 + 2 * d}[covariance]
    return Sides(sides, operations=(2 * ITERATIONS + 1) * 2.0 * n * width * k)


def gmmx_side(x: np.ndarray, weights: np.ndarray, means: np.ndarray, spread: np.ndarray) -> Side:
    from gmmx import EMFitter, GaussianMixtureModelJax

    start = GaussianMixtureModelJax.from_squeezed(
        means=means.astype(x.dtype),
        covariances=spread.astype(x.dtype),
        weights=weights.astype(x.dtype),
        covariance_type="full",
    )
    data = jnp.asarray(x)

    def run() -> float:
        found = EMFitter(max_iter=ITERATIONS, tol=-1.0, reg_covar=0.0).fit(data, start)
        return float(found.log_likelihood)  # of the parameters one iteration earlier

    return run


def products_side(n: int, features: int, k: int, dtype: str) -> Side:
    """Only the two matrix products that the quadratic form needs, on whole arrays."""
    rng = np.random.default_rng(0)
    phi, w, r = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((n, features), (features, k), (n, k)))

    @jax.jit
    def pair(phi, w, r):
        return phi @ w, phi.T @ r

    def run() -> float:
        for _ in range(ITERATIONS):
            jax.block_until_ready(pair(phi, w, r))
        return float("nan")

    return run


def hidden_markov(n: int, t: int, k: int) -> Sides:
    """A two-dimensional Gaussian HMM with diagonal covariances, in float64, against hmmlearn and dynamax."""
    d = 2
    rng = np.random.default_rng(0)
    means = rng.normal(0, 2, (k, d))
    initial, ones = np.full(k, 1 / k), jnp.ones((k, d))
    truth = HMMParams(
        jnp.asarray(initial),
        jnp.asarray(0.9 * np.eye(k) + 0.1 / k),
        MultivariateNormalParams(jnp.asarray(means), ones),
    )
    model = HMM(MultivariateNormal("diag"), k)
    x = np.asarray(model.sample(jax.random.key(0), truth, n, t))
    start = means + rng.normal(0, 0.5, (k, d))
    transition = np.full((k, k), 0.3 / k) + 0.7 * np.eye(k)
    params = HMMParams(
        jnp.asarray(initial),
        jnp.asarray(transition),
        MultivariateNormalParams(jnp.asarray(start), 2.0 * ones),
    )
    data = jnp.asarray(x)

    def ours() -> float:
        stop = jaxem.fitting.parameter_change(NEVER)
        return float(jaxem.fit(model, params, data, stop=stop, max_steps=ITERATIONS).objective) / (n * t)

    def hmmlearn() -> float:
        from hmmlearn.hmm import GaussianHMM

        peer = GaussianHMM(
            k,
            covariance_type="diag",
            n_iter=ITERATIONS,
            tol=-np.inf,
            init_params="",
            covars_prior=0,
            covars_weight=1,
            min_covar=0,
            implementation="scaling",  # the fastest one
        )
        peer.startprob_, peer.transmat_ = initial, transition
        peer.means_, peer.covars_ = start, np.full((k, d), 2.0)
        peer.fit(x.reshape(n * t, d), np.full(n, t))
        return float(peer.monitor_.history[-1]) / (n * t)  # of the last E-step, before the last M-step

    return Sides({"jaxem": ours, "hmmlearn": hmmlearn, "dynamax": dynamax_side(x, initial, transition, start)})


def dynamax_side(x: np.ndarray, initial: np.ndarray, transition: np.ndarray, means: np.ndarray) -> Side:
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    n, t, d = x.shape
    k = len(initial)
    # Priors as flat as possible: flatter ones lead to a probability of zero, where dynamax returns NaN.
    model = DiagonalGaussianHMM(
        k,
        d,
        initial_probs_concentration=1.0001,
        transition_matrix_concentration=1.0001,
        emission_prior_mean_concentration=1e-8,
        emission_prior_concentration=1e-6,
        emission_prior_scale=1e-6,
    )
    params, props = model.initialize(
        initial_probs=jnp.asarray(initial),
        transition_matrix=jnp.asarray(transition),
        emission_means=jnp.asarray(means),
        emission_scale_diags=jnp.full((k, d), np.sqrt(2.0)),
    )
    data = jnp.asarray(x)
    # fit_em compiles anew at each call; inside this jit it does not.
    em = jax.jit(lambda params, x: model.fit_em(params, props, x, num_iters=ITERATIONS, verbose=False)[0])
    score = jax.jit(lambda params, x: jax.vmap(lambda each: model.marginal_log_prob(params, each))(x).sum())
    reached: list[float] = []

    def run() -> float:
        found = jax.block_until_ready(em(params, data))
        if not reached:  # only in the first run, which is not among the warm ones
            reached.append(float(score(found, data)) / (n * t))
        return reached[0]

    return run


def many(lanes: int, n: int, d: int, k: int) -> Sides:
    """Many small data sets, each fitted to convergence: 1e-6 on the mean log-likelihood."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2.5, (lanes, k, d))
    labels = rng.integers(0, k, (lanes, n))
    x = np.take_along_axis(centres, labels[:, :, None], axis=1) + rng.normal(size=(lanes, n, d))
    means = x[:, :k]  # rows are in random order, so that these are random draws
    variances = x.var(axis=1)
    covariances = np.tile((variances[:, :, None] * np.eye(d))[:, None], (1, k, 1, 1))
    model = Mixture(MultivariateNormal("full"), k)
    params = MixtureParams(
        jnp.full((lanes, k), 1 / k), MultivariateNormalParams(jnp.asarray(means), jnp.asarray(covariances))
    )
    data = jnp.asarray(x)
    stop, most, sample = jaxem.fitting.objective_change(1e-6 / d), 500, max(lanes // 20, 1)

    def reached(fit: jaxem.Fit) -> float:
        return float(jnp.median(fit.objective)) / n

    plain = jax.jit(jax.vmap(lambda p, x: jaxem.fit(model, p, x, stop=stop, max_steps=most)))

    def sklearn() -> float:
        from sklearn.mixture import GaussianMixture

        scores = []
        for i in range(sample):
            peer = GaussianMixture(
                k,
                tol=1e-6,  # with the default reg_covar of 1e-6: at 0 it raises where a class collapses
                max_iter=most,
                weights_init=np.full(k, 1 / k),
                means_init=means[i],
                precisions_init=np.linalg.inv(covariances[i]),
            )
            scores.append(peer.fit(x[i]).score(x[i]))
        return float(np.median(scores))

    return Sides(
        {
            "jaxem": lambda: reached(jaxem.fit_many(model, params, data, stop=stop, max_steps=most)),
            "vmap(fit)": lambda: reached(jax.block_until_ready(plain(params, data))),
            "scikit-learn": sklearn,
        },
        scale={"scikit-learn": lanes / sample},
    )


WORKS: dict[str, Work] = {
    "GMM full, N = 200k, D = 16, K = 32, float64": Work(lambda: mixture(200_000, 16, 32, "full", "float64"), "float64"),
    "GMM full, N = 200k, D = 16, K = 32, float32": Work(lambda: mixture(200_000, 16, 32, "full", "float32"), "float32"),
    "GMM full, N = 50k, D = 64, K = 16, float64": Work(lambda: mixture(50_000, 64, 16, "full", "float64"), "float64"),
    "GMM diag, N = 100k, D = 64, K = 64, float64": Work(lambda: mixture(100_000, 64, 64, "diag", "float64"), "float64"),
    "HMM, T = 200k, K = 4, float64": Work(lambda: hidden_markov(1, 200_000, 4), "float64"),
    "HMM, T = 200k, K = 16, float64": Work(lambda: hidden_markov(1, 200_000, 16), "float64"),
    "HMM, 2,000 x 100, K = 6, float64": Work(lambda: hidden_markov(2_000, 100, 6), "float64"),
    "State space, T = 5,000, 4 states, 6 outputs, float64": Work(
        lambda: Sides(works_state_space.sides(5_000, 4, 6)), "float64"
    ),
    "1,000 data sets of 200 x 2, K = 3, float64": Work(lambda: many(1_000, 200, 2, 3), "float64"),
}
