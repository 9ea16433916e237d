"""Recovery of the parameters of every family: the coverage of 95 % intervals over simulated data sets.

    python benchmarks/recovery.py --output benchmarks/results/recovery.json

For each row of the table, data sets are drawn from a mixture of one or two classes, fitted from the truth, and the
interval of each parameter is compared with the truth; all in one program (``coverage.py``). A data set whose
information is refused counts as not covered. A coverage estimated from R data sets has a standard error of
(0.95 x 0.05 / R)^(1/2):
1 % for 500, 0.5 % for 2000. The table takes one line for each family: its name, the family, its parameters, and the
number of observations of a data set. Intervals are those of ``jaxem.inference.confidence_intervals``, from the observed
information, so that second derivatives of the log-density are tested too. Rows that are stored already are kept unless
``--only`` names them.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from coverage import coverage

import jaxem
from jaxem.families import (
    Beta,
    BetaParams,
    Binomial,
    BinomialParams,
    Censored,
    Gamma,
    GammaParams,
    LogNormal,
    Multinomial,
    MultinomialParams,
    MultivariateStudentT,
    MultivariateStudentTParams,
    NegativeBinomial,
    NegativeBinomialParams,
    Normal,
    NormalParams,
    Poisson,
    PoissonParams,
    PoissonVector,
    PoissonVectorParams,
    StudentT,
    StudentTParams,
    Truncated,
    VonMises,
    VonMisesParams,
    Weibull,
    WeibullParams,
    ZeroInflated,
    ZeroInflatedParams,
)
from jaxem.models import Mixture, MixtureParams


class Row(NamedTuple):
    family: Any
    params: Any  # of the classes, as tuples of numbers
    n: int


ROWS = {
    "Gamma": Row(Gamma(), GammaParams((2.0, 20.0), (2.0, 4.0)), 500),
    "LogNormal": Row(LogNormal(), NormalParams((0.0, 2.0), (0.5, 0.2)), 500),
    "Beta": Row(Beta(), BetaParams((2.0, 12.0), (8.0, 4.0)), 500),
    "VonMises": Row(VonMises(), VonMisesParams((-1.0, 1.5), (4.0, 8.0)), 500),
    "Binomial": Row(Binomial(10), BinomialParams((0.2, 0.6)), 500),
    "Multinomial": Row(Multinomial(20), MultinomialParams(((0.2, 0.5, 0.3), (0.5, 0.2, 0.3))), 500),
    "PoissonVector": Row(PoissonVector(), PoissonVectorParams(((1.0, 4.0, 2.0), (5.0, 3.0, 2.0))), 500),
    "Weibull": Row(Weibull(), WeibullParams((1.5, 5.0), (1.0, 6.0)), 500),
    # Families with hidden variables.
    "StudentT": Row(StudentT(), StudentTParams((0.0, 8.0), (1.0, 2.0), (0.3, 0.2)), 1000),
    "StudentT, tied": Row(StudentT("tied"), StudentTParams((0.0, 8.0), (1.0, 2.0), 0.25), 1000),
    "MultivariateStudentT": Row(
        MultivariateStudentT(),
        MultivariateStudentTParams(((1.0, -1.0),), (((1.0, 0.5), (0.5, 2.0)),), (0.25,)),
        400,
    ),
    "NegativeBinomial": Row(NegativeBinomial(), NegativeBinomialParams((2.0, 25.0), (0.5, 0.2)), 1000),
    "ZeroInflated Poisson": Row(ZeroInflated(Poisson()), ZeroInflatedParams((0.3,), PoissonParams((3.0,))), 400),
    "ZeroInflated NegativeBinomial": Row(
        ZeroInflated(NegativeBinomial()), ZeroInflatedParams((0.3,), NegativeBinomialParams((8.0,), (0.3,))), 600
    ),
    # Observations seen in part.
    "Censored Normal": Row(Censored(Normal(), edges=range(-3, 8)), NormalParams((0.0, 4.0), (1.0, 1.5)), 500),
    "Censored Weibull": Row(Censored(Weibull(), limits=(0.2, 1.2)), WeibullParams((1.5,), (1.0,)), 200),
    "Truncated Normal": Row(Truncated(Normal(), -0.5, 2.0), NormalParams((0.5,), (1.0,)), 1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=list(ROWS))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    stored = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    rows: dict = stored.get("rows", {})
    for name in arguments.only or [name for name in ROWS if name not in rows]:
        family, params, n = ROWS[name]
        params = jax.tree.map(jnp.array, params, is_leaf=lambda p: isinstance(p, float) or type(p) is tuple)
        k = max(leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim)
        truth = MixtureParams(jnp.array([0.4, 0.6] if k == 2 else [1.0]), params)
        found = coverage(Mixture(family, k), truth, n, arguments.replications, jaxem.SQUAREM())
        rows[name] = {"observations": n, **found}
        shares = found["coverage"].values()
        print(f"{name:16} {min(shares):.3f} to {max(shares):.3f}  {json.dumps(found)}", flush=True)
        results = {"machine": f"{platform.system()} {platform.machine()}", "jax": jax.__version__, "rows": rows}
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
