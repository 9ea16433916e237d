"""Sizes of saved models and exported functions; CPU time of ``save``, ``load``, ``show`` and of an exported call.

Times are CPU seconds, the least of several rounds, in which the functions that are compared take turns.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal, Poisson
from jaxem.models import HMM, Mixture

ROUNDS = 7


def cpu(function: Callable[[], Any]) -> float:
    begin = time.process_time()
    jax.block_until_ready(function())
    return time.process_time() - begin


def turns(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    for function in functions.values():
        jax.block_until_ready(function())  # compiles
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            found[name].append(cpu(function))
    return {name: round(min(values), 6) for name, values in found.items()}


def child(*arguments: str) -> float:
    """The CPU time of a process."""
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = used()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return used() - before


def wide(k: int, d: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, d)) + 3.0 * rng.integers(0, k, 1000)[:, None]
    return Mixture(MultivariateNormal(), k), x, {"max_steps": 3}


def main() -> None:
    jobs = {
        "Old Faithful, K = 2": (Mixture(MultivariateNormal(), 2), datasets.old_faithful(), {}),
        "earthquakes, 3 states": (HMM(Poisson(), 3), datasets.earthquakes()[1][None].astype(float), {}),
        "D = 8, K = 8": wide(8, 8),
        "D = 64, K = 16": wide(16, 64),
    }
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, x, options) in jobs.items():
            x = np.asarray(x, np.float32)
            fit = jaxem.fit(model, model.init(jax.random.key(0), x), x, **options)
            file, artefact = Path(folder) / "model.jaxem", Path(folder) / "model.bin"
            load = lambda file=file: jaxem.load(file).fit
            times = turns({"save": partial(jaxem.save, file, model, fit, x), "load": load})
            begin = time.process_time()
            jaxem.export(model, fit, "predict_proba", artefact, like=x)
            made = time.process_time() - begin
            call = export.deserialize(artefact.read_bytes()).call
            calls = {}
            for n in (1, 1000, 100_000) if x.ndim == 2 and x.shape[1] < 64 else (1, 1000):
                rows = jax.numpy.asarray(x[np.arange(n) % len(x)])
                predict = partial(model.predict_proba, fit, rows)
                calls[n] = turns({"predict_proba": predict, "call": partial(call, rows)})
            figures[name] = {
                "file, bytes": os.path.getsize(file),
                "parameters, bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(fit.params)),
                **times,
                "artefact, bytes": os.path.getsize(artefact),
                "export": round(made, 3),
                "calls, by rows": calls,
            }
        figures["a cold process"] = {
            "python -m jaxem show": round(min(child("-m", "jaxem", "show", str(file)) for _ in range(3)), 3),
            "import jaxem": round(min(child("-c", "import jaxem") for _ in range(3)), 3),
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
