"""How the time of an EM iteration grows with N, D, K of a Gaussian mixture, T of an HMM, and the number of data sets.

    python benchmarks/growth.py --output benchmarks/results/growth.json

Each size is fitted for enough iterations to take a measurable time; the best of three runs counts. The slope is that of
log time against log size over the upper half of the sizes (1: in proportion). A picture is drawn beside the JSON.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from works import mixture_start

import jaxem
from jaxem.core.records import register
from jaxem.families import MultivariateNormal, MultivariateNormalParams
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

MOST = 1024


@register
@dataclasses.dataclass(frozen=True)
class After:
    """Stopping rule: stop after ``steps`` steps. Another number does not compile anew."""

    steps: jax.Array

    needs_objective = False

    def met(self, progress) -> jax.Array:
        return progress.steps >= self.steps


def per_iteration(model, params, data) -> float:
    """Seconds per iteration, from a long fit minus a short one, so that the cost of a call cancels."""
    run = lambda steps: jaxem.fit(model, params, data, stop=After(jnp.int32(steps)), max_steps=MOST)
    jax.block_until_ready(run(1))  # compiled
    seconds = {}
    most = 4
    while True:
        for steps in (1, most):
            best = np.inf
            for _ in range(3):
                begin = time.perf_counter()
                fit = jax.block_until_ready(run(steps))
                best = min(best, time.perf_counter() - begin)
                assert fit.steps == steps, f"ended after {int(fit.steps)} steps: {fit.status}"
            seconds[steps] = best
        if seconds[most] - seconds[1] > 0.02 or most >= MOST:
            return (seconds[most] - seconds[1]) / (most - 1)
        most *= 4


def gmm(n: int, d: int, k: int) -> float:
    x, means, spread, _ = mixture_start(n, d, k, "full", "float64")
    model = Mixture(MultivariateNormal("full"), k)
    params = MixtureParams(jnp.full(k, 1 / k), MultivariateNormalParams(jnp.asarray(means), jnp.asarray(spread)))
    data = jnp.asarray(x)
    return per_iteration(model, params, data)


def hmm(t: int) -> float:
    k, rng = 4, np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, t, 2)) + 2 * (rng.random((1, t, 1)) < 0.5))
    params = HMMParams(
        jnp.full(k, 1 / k),
        jnp.asarray(0.6 * np.eye(k) + 0.1),
        MultivariateNormalParams(jnp.asarray(rng.normal(1, 1, (k, 2))), jnp.ones((k, 2))),
    )
    model = HMM(MultivariateNormal("diag"), k)
    return per_iteration(model, params, x)


def lanes(count: int) -> float:
    """Seconds to fit ``count`` data sets of 200 x 2 with three classes at once, to 1e-6 on the mean log-likelihood."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2.5, (count, 3, 2))
    labels = rng.integers(0, 3, (count, 200))
    x = np.take_along_axis(centres, labels[:, :, None], axis=1) + rng.normal(size=(count, 200, 2))
    covariances = np.tile((x.var(axis=1)[:, :, None] * np.eye(2))[:, None], (1, 3, 1, 1))
    params = MixtureParams(
        jnp.full((count, 3), 1 / 3), MultivariateNormalParams(jnp.asarray(x[:, :3]), jnp.asarray(covariances))
    )
    model, stop = Mixture(MultivariateNormal("full"), 3), jaxem.fitting.objective_change(5e-7)
    run = lambda: jax.block_until_ready(jaxem.fit_many(model, params, jnp.asarray(x), stop=stop, max_steps=500))
    run()
    best = np.inf
    for _ in range(2):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


GROWTH: dict[str, tuple[list[int], Callable[[int], float]]] = {
    "N (D = 8, K = 8)": ([1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000], lambda n: gmm(n, 8, 8)),
    "D (N = 10,000, K = 8)": ([1, 2, 4, 8, 16, 32, 64, 128], lambda d: gmm(10_000, d, 8)),
    "K (N = 100,000, D = 8)": ([1, 2, 4, 8, 16, 32, 64, 128, 256, 512], lambda k: gmm(100_000, 8, k)),
    "T (K = 4)": ([1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000], hmm),
    "data sets": ([10, 30, 100, 300, 1_000, 3_000, 10_000], lanes),
}


def slope(sizes: list[int], seconds: list[float]) -> float:
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0])


def draw(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(3 * len(results), 3.2), layout="constrained")
    for axes, (name, row) in zip(panels, results.items(), strict=True):
        axes.loglog(row["sizes"], row["seconds"], "o-", color="#0072B2")
        axes.set_xlabel(name)
        axes.set_title(f"slope {row['slope']:.2f}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds an iteration")
    panels[-1].set_ylabel("seconds in all")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/growth.json"))
    parser.add_argument("--only", default="", help="rows whose name contains this; the others stay as they are stored")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    stored = json.loads(arguments.output.read_text()) if arguments.only else {}
    results = {name: stored[name] for name in GROWTH if name in stored}
    for name, (sizes, run) in GROWTH.items():
        if arguments.only not in name:
            continue
        seconds = [run(size) for size in sizes]
        results[name] = {"sizes": sizes, "seconds": seconds, "slope": slope(sizes, seconds)}
        print(name, [f"{s:.3g}" for s in seconds], f"slope {results[name]['slope']:.2f}", flush=True)
        jax.clear_caches()
    results = {name: results[name] for name in GROWTH if name in results}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
