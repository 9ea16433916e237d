"""Agreement of the routes to the observed information, on every model in the table of cases (``tests/cases.py``).

    python benchmarks/routes.py --output benchmarks/results/routes.json

For each model: the difference of Oakes' identity and of SEM from the Hessian, relative to its largest entry in units of
the complete information; the smallest eigenvalue of the missing information; the rate of EM from the information, from
the EM map and from the trace. Where there is no information, the reason is reported instead.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import jax
import numpy as np

import jaxem

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cases import CASES, case


def routes(name: str) -> dict:
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(CASES), metavar="CASE")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    stored = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    rows: dict = stored.get("rows", {})
    for name in arguments.only or CASES:
        rows[name] = routes(name)
        print(name, json.dumps(rows[name]), flush=True)
    results = {"machine": f"{platform.system()} {platform.machine()}", "jax": jax.__version__, "rows": rows}
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
