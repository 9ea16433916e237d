"""Whether short runs lose the best optimum: ``fit_restarts`` as it is, against all of its starts run to the end.

    python benchmarks/screening.py --output benchmarks/results/screening.json

For each pair of a model and a data set: the best objective of 20 starts both ways, the E-steps that each way took, and
the time of a second call. "lost" is the difference of the objectives; less than 1e-6 per observed value is nothing.
"""

import argparse
import json
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import Bernoulli, Exponential, MultivariateNormal, Normal, Poisson
from jaxem.fitting import restarts
from jaxem.fitting.lanes import climb_all
from jaxem.models import HMM, FactorAnalysis, Mixture

STARTS, STEPS = 20, 2000


def groups(n: int, d: int, k: int, apart: float) -> np.ndarray:
    rng = np.random.default_rng(n + d + k)
    return rng.normal(0, apart, (k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def answers(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    return (rng.random((n, d)) < rng.uniform(0.1, 0.9, (3, d))[rng.integers(0, 3, n)]).astype(float)


def pairs() -> dict[str, tuple]:
    faithful, iris, galaxies = datasets.old_faithful(), datasets.iris()[0], datasets.galaxies()
    quakes = datasets.earthquakes()[1].astype(float)
    normal = lambda form, k: Mixture(MultivariateNormal(form), k)
    return {
        **{
            f"Old Faithful, {form}, K = {k}": (normal(form, k), faithful)
            for form in ("full", "diag")
            for k in (2, 3, 4)
        },
        **{f"iris, {f}, K = {k}": (normal(f, k), iris) for f, k in (("full", 2), ("tied", 4), ("diag", 3))},
        **{f"galaxies, K = {k}": (Mixture(Normal(), k), galaxies) for k in (3, 4)},
        **{f"earthquakes, HMM, K = {k}": (HMM(Poisson(), k), quakes[None]) for k in (2, 3, 4)},
        "earthquakes, mixture, K = 3": (Mixture(Poisson(), 3), quakes),
        "waiting times, K = 2": (Mixture(Exponential(), 2), np.random.default_rng(0).exponential(size=300) ** 1.5),
        "answers, K = 3": (Mixture(Bernoulli(), 3), answers(500, 8)),
        "groups apart, K = 6": (normal("full", 6), groups(1000, 3, 6, 4.0)),
        "groups that overlap, K = 5": (normal("full", 5), groups(1000, 4, 5, 1.5)),
        "iris, two factors": (FactorAnalysis(2), iris),
    }


def run(model, data, finalists: int | None) -> tuple[jaxem.fitting.Restarts, int, float]:
    call = lambda: jaxem.fit_restarts(
        model, data, key=jax.random.key(0), restarts=STARTS, finalists=finalists, max_steps=STEPS
    )
    steps = []

    def counted(*given, **named):
        fits = climb_all(*given, **named)
        steps.append(int(fits.evaluations.sum()))
        return fits

    with mock.patch.object(restarts, "climb_all", counted):
        jax.block_until_ready(call().objectives)
    begin = time.perf_counter()
    found = call()
    jax.block_until_ready(found.objectives)
    return found, steps[0], time.perf_counter() - begin


def row(model, data) -> dict:
    (some, few, short), (every, many, long) = run(model, data, None), run(model, data, STARTS)
    lost = float(every.best.objective - some.best.objective)
    return {
        "best of all": float(every.best.objective),
        "lost": lost,
        "same": lost <= 1e-6 * np.size(data),
        "status": jaxem.Status(int(some.best.status)).name,
        "found, of those run to the end": int(some.times_best_found),
        "found, of all": int(every.times_best_found),
        "E-steps": few,
        "E-steps, all to the end": many,
        "seconds": short,
        "seconds, all to the end": long,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = {}
    for name, pair in pairs().items():
        found = rows[name] = row(*pair)
        print(f"{name:32s}", *(f"{key} {value}" for key, value in found.items()), sep="; ", flush=True)
    print(f"{sum(found['same'] for found in rows.values())} of {len(rows)} pairs: the same best optimum")
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
