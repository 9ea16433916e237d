"""jaxem beside its peers: equal data, equal starts, equal iterations, one process, alternating order.

    python benchmarks/peers.py --output benchmarks/results/peers.json

For each work: the median of the warm runs of both sides, the median of the ratios pair by pair, the time of jaxem's
first call (compilation and all), and the log-likelihood that each reached, so that nobody is faster by doing less.
Needs the extra ``bench``.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from hmmlearn.hmm import GaussianHMM
from sklearn.mixture import GaussianMixture

import jaxem
from jaxem.families import MultivariateNormal, MultivariateNormalParams
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

ITERATIONS = 10
NEVER = 0.0  # a tolerance that is never met


def mixture(n: int, d: int, k: int, covariance: str, dtype: str) -> tuple[Callable, Callable, float]:
    """A Gaussian mixture: (ours, theirs, log-likelihood per observation of each)."""
    rng = np.random.default_rng(0)
    # Overlapping classes: well separated ones leave responsibilities that are subnormal numbers, on which BLAS crawls.
    centres = rng.normal(0, 1, (k, d))
    x = (centres[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(dtype)
    start = x[rng.choice(n, k, replace=False)].astype(np.float64)
    variances = x.astype(np.float64).var(axis=0)
    full = covariance == "full"
    precisions = np.tile(np.diag(1 / variances), (k, 1, 1)) if full else np.tile(1 / variances, (k, 1))
    spread = np.tile(np.diag(variances), (k, 1, 1)) if full else np.tile(variances, (k, 1))
    peer = GaussianMixture(
        k,
        covariance_type=covariance,
        tol=NEVER,
        reg_covar=0,
        max_iter=ITERATIONS,
        weights_init=np.full(k, 1 / k),
        means_init=start,
        precisions_init=precisions,
    )
    model = Mixture(MultivariateNormal(covariance), k)
    params = MixtureParams(jnp.full(k, 1 / k), MultivariateNormalParams(jnp.asarray(start), jnp.asarray(spread)))
    data = jnp.asarray(x)

    def ours() -> float:
        stop = jaxem.parameter_change(NEVER)
        fit = jaxem.fit(model, params, data, stop=stop, max_steps=ITERATIONS)
        return float(fit.objective) / n

    def theirs() -> float:
        return float(peer.fit(x).score(x))

    return ours, theirs


def hidden_markov(n: int, t: int, k: int) -> tuple[Callable, Callable]:
    """A Gaussian HMM of two dimensions, diagonal covariances, float64."""
    d = 2
    rng = np.random.default_rng(0)
    means = rng.normal(0, 2, (k, d))
    truth = HMMParams(
        jnp.full(k, 1 / k),
        jnp.asarray(0.9 * np.eye(k) + 0.1 / k),
        MultivariateNormalParams(jnp.asarray(means), jnp.ones((k, d))),
    )
    model = HMM(MultivariateNormal("diag"), k)
    x = np.asarray(model.sample(jax.random.key(0), truth, n, t))
    start = means + rng.normal(0, 0.5, (k, d))
    transition = np.full((k, k), 0.3 / k) + 0.7 * np.eye(k)
    params = HMMParams(
        jnp.full(k, 1 / k),
        jnp.asarray(transition),
        MultivariateNormalParams(jnp.asarray(start), jnp.full((k, d), 2.0)),
    )

    def ours() -> float:
        stop = jaxem.parameter_change(NEVER)
        fit = jaxem.fit(model, params, jnp.asarray(x), stop=stop, max_steps=ITERATIONS)
        return float(fit.objective) / (n * t)

    def theirs() -> float:
        peer = GaussianHMM(
            k,
            covariance_type="diag",
            n_iter=ITERATIONS,
            tol=-np.inf,
            init_params="",
            covars_prior=0,
            covars_weight=1,
            min_covar=0,
            implementation="scaling",
        )
        peer.startprob_, peer.transmat_ = np.full(k, 1 / k), transition
        peer.means_, peer.covars_ = start, np.full((k, d), 2.0)
        flat, lengths = x.reshape(n * t, d), np.full(n, t)
        peer.fit(flat, lengths)
        return float(peer.score(flat, lengths)) / (n * t)

    return ours, theirs


WORKS = {
    "Gaussian mixture, full, N = 200,000, D = 16, K = 32, float64": (
        "scikit-learn",
        lambda: mixture(200_000, 16, 32, "full", "float64"),
    ),
    "Gaussian mixture, full, N = 200,000, D = 16, K = 32, float32": (
        "scikit-learn",
        lambda: mixture(200_000, 16, 32, "full", "float32"),
    ),
    "Gaussian HMM, one sequence of 200,000, K = 4, float64": ("hmmlearn", lambda: hidden_markov(1, 200_000, 4)),
    "Gaussian HMM, 2,000 sequences of 100, K = 6, float64": ("hmmlearn", lambda: hidden_markov(2_000, 100, 6)),
}


def timed(run: Callable[[], float]) -> tuple[float, float]:
    """Seconds, and what it returned."""
    begin = time.perf_counter()
    value = run()
    return time.perf_counter() - begin, value


def measure(name: str, runs: int) -> dict:
    """One work, both sides."""
    peer, build = WORKS[name]
    ours, theirs = build()
    cold, reached = timed(ours)
    pairs = []
    for i in range(runs):
        order = (ours, theirs) if i % 2 == 0 else (theirs, ours)
        seconds = {side: timed(side) for side in order}
        pairs.append((seconds[ours][0], seconds[theirs][0]))
        peer_reached = seconds[theirs][1]
    return {
        "work": name,
        "iterations": ITERATIONS,
        "peer": f"{peer} {importlib.metadata.version(peer)}",
        "jaxem_cold_s": cold,
        "jaxem_s": statistics.median(a for a, _ in pairs),
        "peer_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "pairs_s": pairs,
        "jaxem_log_likelihood_per_value": reached,
        "peer_log_likelihood_per_value": peer_reached,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/peers.json"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="works whose name contains this")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore", category=UserWarning)  # the peers say that they did not converge: none should
    rows = []
    for name in WORKS:
        if arguments.only in name:
            rows.append(measure(name, arguments.runs))
            r = rows[-1]
            print(
                f"{name}: jaxem {r['jaxem_s']:.2f} s (first call {r['jaxem_cold_s']:.1f} s), {r['peer']} "
                f"{r['peer_s']:.2f} s, ratio {r['ratio']:.2f}; log-likelihood per value "
                f"{r['jaxem_log_likelihood_per_value']:.9f} and {r['peer_log_likelihood_per_value']:.9f}",
                flush=True,
            )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}, {jax.default_backend()}"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine, "works": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
