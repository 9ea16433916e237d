"""Which algorithm should be the default: the time from the start to within 5e-5 of the best log-likelihood.

    python benchmarks/defaults.py --output benchmarks/results/defaults.json

Each model is fitted by EM, SQUAREM and Anderson from the same starts, by the default rule. Reported are the seconds of
the first call, with compilation, and of a warm one, E-steps, the status, and the log-likelihood that is missing from
the best of the three: starts are equal, but an accelerator may climb to another optimum.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import Categorical, MultivariateNormal, Poisson
from jaxem.models import HMM, FactorAnalysis, Mixture

WAYS = {"EM": jaxem.EM(), "SQUAREM": jaxem.SQUAREM(), "Anderson": jaxem.Anderson()}


def normal_classes(n: int, d: int, k: int, apart: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = apart * rng.normal(size=(k, d))
    return centres[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def cases() -> dict:
    rng = np.random.default_rng(1)
    counts, weights = datasets.london_times_deaths()
    london = jaxem.dataset(np.asarray(counts, float), weights=np.asarray(weights, float))
    loadings, scores = rng.normal(size=(20, 3)), rng.normal(size=(5000, 3))
    factors = scores @ loadings.T + rng.normal(size=(5000, 20))
    answers = (rng.random((5000, 8)) < np.array([0.2, 0.5, 0.8])[rng.integers(0, 3, 5000), None]).astype(int)
    chain = np.cumsum(rng.random((20, 1000)) < 0.05, axis=1) % 4
    frames = 1.5 * rng.normal(size=(4, 2))[chain] + rng.normal(size=(20, 1000, 2))
    return {
        "Old Faithful, K = 2": (Mixture(MultivariateNormal(), 2), datasets.old_faithful()),
        "Old Faithful, K = 4": (Mixture(MultivariateNormal(), 4), datasets.old_faithful()),
        "London deaths": (Mixture(Poisson(), 2), london),
        "classes of 5,000 answers": (Mixture(Categorical((2,) * 8), 3), answers),
        "factors of 5,000 x 20": (FactorAnalysis(3), factors),
        "HMM, 20 x 1,000, K = 4": (HMM(MultivariateNormal(), 4), frames),
        "5,000 x 5, K = 5, far": (Mixture(MultivariateNormal(), 5), normal_classes(5_000, 5, 5, 3.0)),
        "5,000 x 5, K = 5, near": (Mixture(MultivariateNormal(), 5), normal_classes(5_000, 5, 5, 1.0)),
        "50,000 x 8, K = 10, far": (Mixture(MultivariateNormal(), 10), normal_classes(50_000, 8, 10, 3.0)),
        "50,000 x 8, K = 10, near": (Mixture(MultivariateNormal(), 10), normal_classes(50_000, 8, 10, 1.0)),
        "200,000 x 8, K = 5, near": (Mixture(MultivariateNormal(), 5), normal_classes(200_000, 8, 5, 1.0)),
    }


def row(model, data, dtype: str, starts: int = 2) -> dict:
    narrow = lambda leaf: np.asarray(leaf, dtype) if np.asarray(leaf).dtype.kind == "f" else leaf
    data = jax.tree.map(narrow, data)
    params = [model.init(jax.random.key(seed), data) for seed in range(starts)]
    found: dict = {}
    for name, algorithm in WAYS.items():
        fit = lambda start, algorithm=algorithm: jax.block_until_ready(
            jaxem.fit(model, start, data, algorithm=algorithm, max_steps=2000)
        )
        begin = time.perf_counter()
        fit(params[0])
        cold = time.perf_counter() - begin
        begin = time.perf_counter()
        fits = [fit(start) for start in params]
        found[name] = {
            "first_s": cold,
            "warm_s": (time.perf_counter() - begin) / starts,
            "evaluations": [int(fit.evaluations) for fit in fits],
            "status": [jaxem.Status(int(fit.status)).name for fit in fits],
            "reached": [float(fit.objective) for fit in fits],
        }
    best = np.max([found[name]["reached"] for name in WAYS], axis=0)
    for name in WAYS:
        found[name]["missing"] = (best - found[name].pop("reached")).tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--leave-out", help="leave out rows whose names contain this")
    arguments = parser.parse_args()
    rows = {}
    for dtype in ("float32", "float64"):
        jax.config.update("jax_enable_x64", dtype == "float64")
        for name, (model, data) in cases().items():
            if arguments.leave_out and arguments.leave_out in name:
                continue
            found = rows[f"{name}, {dtype}"] = row(model, data, dtype)
            print(f"{name}, {dtype}", json.dumps(found), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
