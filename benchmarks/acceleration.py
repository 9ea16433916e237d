"""E-steps saved by SQUAREM and Anderson, and the log-likelihood they reach, against EM from the same starts.

    python benchmarks/acceleration.py --output benchmarks/results/acceleration.json

The models are the London Times deaths as Varadhan & Roland (2008) fit them, and every model in the table of cases
(``tests/cases.py``), in float64. Each is fitted until the parameters change by less than 1e-8 of their size. Cost is
counted in E-steps over all data (``fit.evaluations``). "behind" is how far the log-likelihood per observed value ends
below that of plain EM; "rounding" is the rounding error of double precision in it.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem import EM, SQUAREM, Anderson, datasets
from jaxem.core.bound import rounding
from jaxem.core.data import size
from jaxem.families import Poisson, PoissonParams
from jaxem.models import Mixture, MixtureParams

ALGORITHMS = {
    "EM": EM(),
    "SQUAREM": SQUAREM(),
    "SQUAREM, scheme 2": SQUAREM(scheme=2),
    "SQUAREM, scheme 3": SQUAREM(scheme=3),
    "Anderson": Anderson(),
}


def london() -> tuple:
    deaths, days = datasets.london_times_deaths()
    data = jaxem.dataset(jnp.asarray(deaths, float), weights=jnp.asarray(days, float))
    start = MixtureParams(jnp.array([0.3, 0.7]), PoissonParams(jnp.array([1.0, 2.5])))
    return Mixture(Poisson(), 2), start, data


def compare(model, start, data) -> dict:
    row = {}
    for name, algorithm in ALGORITHMS.items():
        fit = jaxem.fit(
            model, start, data, algorithm=algorithm, stop=jaxem.fitting.parameter_change(1e-8), max_steps=20_000
        )
        trace = np.asarray(fit.trace)[: int(fit.steps) + 1]
        count = float(size(data, jnp.float64))
        row[name] = {
            "status": jaxem.Status(int(fit.status)).name,
            "steps": int(fit.steps),
            "evaluations": int(fit.evaluations),
            "fallbacks": int(fit.fallbacks),
            "objective": float(fit.objective),
            "behind": (row["EM"]["objective"] - float(fit.objective)) / count if row else 0.0,
            "rounding": float(rounding(fit.objective, jnp.asarray(count))) / count,
            "largest fall": float(max(0.0, -np.diff(trace).min())) / count,
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from cases import CASES, case

    table = {"London Times deaths": compare(*london())}
    print_row("London Times deaths", table["London Times deaths"])
    for name in CASES:
        table[name] = compare(*case(name, "float64"))
        print_row(name, table[name])
    found = {"all": saving(table.values()), "where EM needs 100 or more": saving(filter(slow, table.values()))}
    print("median saving:", found)
    if arguments.output:
        arguments.output.write_text(json.dumps({"median saving": found, "cases": table}, indent=1) + "\n")


def slow(row: dict) -> bool:
    return row["EM"]["evaluations"] >= 100


def saving(rows: Iterable[dict]) -> dict:
    """For each algorithm, the median ratio of the E-steps of EM (or of its limit) to those of the algorithm."""
    rows = list(rows)
    return {
        name: round(statistics.median(row["EM"]["evaluations"] / row[name]["evaluations"] for row in rows), 2)
        for name in ALGORITHMS
    }


def print_row(name: str, row: dict) -> None:
    cells = (f"{end['evaluations']:6d} ({end['status'][:4]}, {end['behind']:+.0e})" for end in row.values())
    print(f"{name:24s}", *cells, flush=True)


if __name__ == "__main__":
    main()
