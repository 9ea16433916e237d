"""The fourteen covariance forms beside R's mclust, from its own hard classifications.

    python benchmarks/mclust.py --output benchmarks/results/mclust.json

For the diabetes data (K = 6 to 9) and Old Faithful (K = 1 to 9) the stored file has, under "mclust", the classes of
``hclass(hc(x), K)`` and what ``me(x, modelName, z = unmap(classes))`` reached from them with its own stopping rule and
with ``emControl(tol = c(1e-12, 1e-12), itmax = c(20000, 2000))``; ``null`` where it returned NA, as it does where a
covariance is singular. R is not needed to run the script: it fits jaxem from the same classes and writes its rows under
"jaxem". ``--forms EVE VVE`` replaces the rows of these forms only. Reported is where jaxem ends lower by more than
1e-3, how often it ends higher, and the largest step down.
"""

import argparse
import importlib.metadata
import json
import platform
import warnings
from pathlib import Path

import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal
from jaxem.models import Mixture

STORED = Path(__file__).parent / "results" / "mclust.json"
APART = 1e-3


def fitted(x: np.ndarray, classes: str, form: str) -> dict:
    """The fit of one form from hard classes, digits from 1; the reason where there is no start."""
    labels = np.array([int(digit) - 1 for digit in classes])
    model = Mixture(MultivariateNormal(form), int(labels.max()) + 1)
    try:
        start = model.init(jax.random.key(0), x, start=labels)
        fit = jaxem.fit(model, start, x, tol=1e-12, max_steps=20_000)
    except ValueError as error:
        return {"refused": str(error)}
    steps = int(fit.steps)
    rises = np.diff(np.asarray(fit.trace)[: steps + 1])
    value = float(fit.objective)
    return {
        "log_likelihood": value if np.isfinite(value) else None,
        "steps": steps,
        "status": jaxem.Status(int(fit.status)).name,
        "largest step down": 0.0 - float(rises.min(initial=0)),
    }


def report(theirs: dict, ours: dict) -> str:
    """How often jaxem ends lower, as high, higher, or alone."""
    lower, equal, higher, alone, fall = [], 0, 0, 0, 0.0
    for name, row in ours.items():
        fall = max(fall, row.get("largest step down", 0.0) if row.get("status") == "CONVERGED" else 0.0)
        reached = [theirs[name][which] for which in ("default", "tight")]
        best = max((value for value in reached if value is not None), default=None)
        if best is None:
            alone += row.get("status") == "CONVERGED"
            continue
        value = row.get("log_likelihood")
        if value is None or value < best - APART:
            lower.append(name)
        elif value > best + APART:
            higher += 1
        else:
            equal += 1
    counted = f"{len(ours)} fits: {len(lower)} lower {lower}, {equal} within {APART}, {higher} higher"
    return f"{counted}, {alone} converged where mclust has none; largest step down of these: {fall:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default=None)
    parser.add_argument("--forms", nargs="*", default=None)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore")  # of singular classes and fits that did not converge, which are reported
    stored = json.loads(STORED.read_text())
    data = {"diabetes": datasets.diabetes()[0], "old_faithful": datasets.old_faithful()}
    ours = stored["jaxem"]
    for name in stored["mclust"]["fits"]:
        of, k, form = name.split()
        if options.forms is None or form in options.forms:
            ours[name] = fitted(data[of], stored["mclust"]["classes"][f"{of} {k}"], form)
            print(name, stored["mclust"]["fits"][name], ours[name], flush=True)
    print(report(stored["mclust"]["fits"], ours))
    stored["versions"] = {"jax": importlib.metadata.version("jax"), "python": platform.python_version()}
    if options.output:
        Path(options.output).write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
