"""Recovery of the parameters of every family: the coverage of 95 % intervals over simulated data sets.

    python benchmarks/recovery.py --output benchmarks/results/recovery.json

For each row of the table, data sets are drawn from a mixture of two classes, fitted, and the interval of each parameter
is compared with the truth; all in one program (``coverage.py``). A coverage estimated from R data sets has a standard
error of (0.95 x 0.05 / R)^(1/2): 1 % for 500, 0.5 % for 2000. The table takes one line for each family: its name, the
family, its parameters for two classes, and the number of observations of a data set. Intervals are those of
``jaxem.inference.confidence_intervals``, from the observed information, so that second derivatives of the log-density
are tested too. Rows that are stored already are kept unless ``--only`` names them.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from coverage import coverage

from jaxem.families import (
    Beta,
    BetaParams,
    Binomial,
    BinomialParams,
    Gamma,
    GammaParams,
    LogNormal,
    Multinomial,
    MultinomialParams,
    NormalParams,
    PoissonVector,
    PoissonVectorParams,
    VonMises,
    VonMisesParams,
)
from jaxem.models import Mixture, MixtureParams


class Row(NamedTuple):
    family: Any
    params: Any  # of two classes, as tuples of numbers
    n: int


ROWS = {
    "Gamma": Row(Gamma(), GammaParams((2.0, 20.0), (2.0, 4.0)), 500),
    "LogNormal": Row(LogNormal(), NormalParams((0.0, 2.0), (0.5, 0.2)), 500),
    "Beta": Row(Beta(), BetaParams((2.0, 12.0), (8.0, 4.0)), 500),
    "VonMises": Row(VonMises(), VonMisesParams((-1.0, 1.5), (4.0, 8.0)), 500),
    "Binomial": Row(Binomial(10), BinomialParams((0.2, 0.6)), 500),
    "Multinomial": Row(Multinomial(20), MultinomialParams(((0.2, 0.5, 0.3), (0.5, 0.2, 0.3))), 500),
    "PoissonVector": Row(PoissonVector(), PoissonVectorParams(((1.0, 4.0, 2.0), (5.0, 3.0, 2.0))), 500),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    stored = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    rows: dict = stored.get("rows", {})
    for name in arguments.only:
        family, params, n = ROWS[name]
        truth = MixtureParams(jnp.array([0.4, 0.6]), type(params)(*map(jnp.array, params)))
        found = coverage(Mixture(family, 2), truth, n, arguments.replications)
        rows[name] = {"observations": n, **found}
        shares = found["coverage"].values()
        print(f"{name:16} {min(shares):.3f} to {max(shares):.3f}  {json.dumps(found)}", flush=True)
    results = {"machine": f"{platform.system()} {platform.machine()}", "jax": jax.__version__, "rows": rows}
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
