"""Coverage of confidence intervals, and agreement of the routes to the observed information.

    python benchmarks/coverage.py --output benchmarks/results/coverage.json

Coverage: the share of data sets, simulated from a model, in which the 95 % interval of each parameter contains the
truth. Sampling, fits and intervals of all data sets run in one program. A data set whose information is refused (no
maximum inside the space) counts as not covered. Each fit starts at the truth, so that the classes keep their numbers.

Routes, for every model in the table of cases (``tests/cases.py``): the difference of Oakes' identity and of SEM from
the Hessian, relative to its largest entry in units of the complete information; the smallest eigenvalue of the missing
information; the rate of EM from the information, from the EM map and from the trace. Where there is no information, the
reason is reported instead.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem.families import Bernoulli, BernoulliParams, Normal, NormalParams, Poisson, PoissonParams
from jaxem.inference.coordinates import parameter_names
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

MODELS = {
    "normal mixture, N = 400": (
        Mixture(Normal(), 2),
        lambda: MixtureParams(jnp.array([0.4, 0.6]), NormalParams(jnp.array([0.0, 4.0]), jnp.array([1.0, 1.5]))),
        400,
    ),
    "Bernoulli mixture of 5 variables, N = 500": (
        Mixture(Bernoulli(), 2),
        lambda: MixtureParams(
            jnp.array([0.4, 0.6]),
            BernoulliParams(jnp.array([[0.85, 0.8, 0.75, 0.8, 0.7], [0.2, 0.25, 0.2, 0.15, 0.3]])),
        ),
        500,
    ),
    "Poisson hidden Markov model, 60 sequences of 20": (
        HMM(Poisson(), 2),
        lambda: HMMParams(
            jnp.array([0.5, 0.5]), jnp.array([[0.8, 0.2], [0.3, 0.7]]), PoissonParams(jnp.array([1.0, 6.0]))
        ),
        60,
    ),
}


def coverage(model: Any, truth: Any, n: int, replications: int, algorithm: Any = None) -> dict:
    """The coverage of each parameter over data sets of n observations, and how many fits or intervals failed.

    The weight of a single class, which is known, is left out.
    """
    more = {"length": 20} if isinstance(model, HMM) else {}

    @jax.jit
    def run(keys):
        def one(key):
            x = model.sample(key, truth, n, **more)
            fit = jaxem.fit(model, truth, x, algorithm=algorithm or jaxem.EM(), max_steps=500)
            lower, upper = jaxem.inference.confidence_intervals(model, fit.params, x)
            inside = jax.tree.map(lambda low, true, high: (low <= true) & (true <= high), lower, truth, upper)
            return inside, jnp.isnan(jax.tree.leaves(lower)[-1]).any(), fit.converged

        return jax.lax.map(one, keys, batch_size=50)

    begin = time.perf_counter()
    inside, refused, converged = jax.block_until_ready(run(jax.random.split(jax.random.key(0), replications)))
    names = parameter_names(model, truth)
    shares = np.concatenate(
        [np.asarray(leaf).reshape(replications, -1).mean(axis=0) for leaf in jax.tree.leaves(inside)]
    )
    found = dict(zip(names, shares.round(4).tolist(), strict=True))
    if model.k == 1:
        del found[names[0]]
    return {
        "replications": replications,
        "seconds": round(time.perf_counter() - begin, 1),
        "refused": int(refused.sum()),
        "not converged": int((~converged).sum()),
        "coverage": found,
    }


def routes(name: str) -> dict:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from cases import case

    model, start, data = case(name, "float64")
    stop = jaxem.fitting.parameter_change(1e-11)
    fit = jaxem.fit(model, start, data, stop=stop, max_steps=5000)
    row: dict = {"status": jaxem.Status(int(fit.status)).name, "steps": int(fit.steps)}
    try:
        found = {r: jaxem.inference.information(model, fit.params, data, route=r) for r in ("hessian", "oakes", "sem")}
    except jaxem.inference.InformationError as error:
        return {**row, "refused": str(error)}
    size = 1 / np.sqrt(np.diagonal(found["hessian"].complete))
    scaled = {r: np.asarray(i.observed) * size[:, None] * size[None, :] for r, i in found.items()}
    for r in ("oakes", "sem"):
        row[r] = float(np.abs(scaled[r] - scaled["hessian"]).max() / np.abs(scaled["hessian"]).max())
    missing = np.asarray(found["hessian"].missing) * size[:, None] * size[None, :]
    row["least missing"] = float(np.linalg.eigvalsh(missing)[0])
    whole = np.asarray(found["hessian"].complete)
    row["share"] = float(np.linalg.eigvals(np.linalg.solve(whole, found["hessian"].missing)).real.max())
    rate = jaxem.inference.convergence_rate(model, fit.params, data, fit=fit)
    return {**row, "rate": float(rate.rate), "trace": float(rate.empirical)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--only", choices=["coverage", "routes"])
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    results: dict = {"machine": f"{platform.system()} {platform.machine()}", "jax": jax.__version__}
    if arguments.only != "routes":
        results["coverage"] = {}
        for name, (model, build, n) in MODELS.items():
            results["coverage"][name] = coverage(model, build(), n, arguments.replications)
            print(name, json.dumps(results["coverage"][name]), flush=True)
    if arguments.only != "coverage":
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from cases import CASES

        results["routes"] = {}
        for name in CASES:
            results["routes"][name] = routes(name)
            print(name, json.dumps(results["routes"][name]), flush=True)
    if arguments.output:
        old = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        arguments.output.write_text(json.dumps({**old, **results}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
