"""Recovery of the parameters of families with hidden variables: the coverage of 95 % intervals over simulated data.

    python benchmarks/recovery_hidden.py --output benchmarks/results/recovery_hidden.json

Data sets are drawn from each model, fitted from the truth, and the interval of each parameter is compared with the
truth, all in one program. A data set whose information is refused counts as not covered. The standard error of a
coverage from 500 data sets is 1 %.
"""

import argparse
import json
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem.families import (
    MultivariateStudentT,
    MultivariateStudentTParams,
    NegativeBinomial,
    NegativeBinomialParams,
    Poisson,
    PoissonParams,
    StudentT,
    StudentTParams,
    ZeroInflated,
    ZeroInflatedParams,
)
from jaxem.inference.coordinates import parameter_names
from jaxem.models import Mixture, MixtureParams

# The family, its parameters, and the number of observations of a data set.
ROWS = {
    "StudentT": (StudentT(), StudentTParams((0.0, 8.0), (1.0, 2.0), (0.3, 0.2)), 1000),
    "StudentT, tied": (StudentT("tied"), StudentTParams((0.0, 8.0), (1.0, 2.0), 0.25), 1000),
    "MultivariateStudentT": (
        MultivariateStudentT(),
        MultivariateStudentTParams(((1.0, -1.0),), (((1.0, 0.5), (0.5, 2.0)),), (0.25,)),
        400,
    ),
    "NegativeBinomial": (NegativeBinomial(), NegativeBinomialParams((2.0, 25.0), (0.5, 0.2)), 1000),
    "ZeroInflated Poisson": (
        ZeroInflated(Poisson()),
        ZeroInflatedParams((0.3,), PoissonParams((3.0,))),
        400,
    ),
    "ZeroInflated NegativeBinomial": (
        ZeroInflated(NegativeBinomial()),
        ZeroInflatedParams((0.3,), NegativeBinomialParams((8.0,), (0.3,))),
        600,
    ),
}


def recovery(name: str, replications: int) -> dict:
    family, params, n = ROWS[name]
    params = jax.tree.map(lambda p: jnp.array(p), params, is_leaf=lambda p: isinstance(p, float) or (type(p) is tuple))
    k = len(jax.tree.leaves(params)[0])
    model = Mixture(family, k)
    truth = MixtureParams(jnp.array([0.4, 0.6] if k == 2 else [1.0]), params)

    @jax.jit
    def run(keys):
        def one(key):
            x = model.sample(key, truth, n)
            fit = jaxem.fit(model, truth, x, algorithm=jaxem.SQUAREM(), max_steps=500)
            lower, upper = jaxem.inference.confidence_intervals(model, fit.params, x)
            inside = jax.tree.map(lambda low, true, high: (low <= true) & (true <= high), lower, truth, upper)
            return inside, jnp.isnan(jax.tree.leaves(lower.components)[0]).any(), fit.converged

        return jax.lax.map(one, keys, batch_size=50)

    inside, refused, converged = jax.block_until_ready(run(jax.random.split(jax.random.key(0), replications)))
    shares = [np.asarray(leaf).reshape(replications, -1).mean(axis=0) for leaf in jax.tree.leaves(inside)]
    names = parameter_names(model, truth)
    found = dict(zip(names, np.concatenate(shares).round(4).tolist(), strict=True))
    if k == 1:
        del found[names[0]]  # the weight of the only class
    return {
        "observations": n,
        "replications": replications,
        "refused": int(refused.sum()),
        "not converged": int((~converged).sum()),
        "coverage": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--replications", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    stored = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    rows: dict = stored.get("rows", {})
    for name in arguments.only:
        rows[name] = recovery(name, arguments.replications)
        print(name, json.dumps(rows[name]), flush=True)
        results = {"machine": f"{platform.system()} {platform.machine()}", "jax": jax.__version__, "rows": rows}
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
