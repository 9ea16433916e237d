"""Recovery of the parameters of chains whose moves depend on covariates: the coverage of 95 % intervals.

    python benchmarks/recovery_chains.py --output benchmarks/results/recovery_chains.json

Data sets are drawn from the model by the same covariates, fitted from the truth, and the interval of each parameter is
compared with the truth, all in one program. A data set whose information is refused counts as not covered. The standard
error of a coverage from 500 data sets is 1 %.
"""

import argparse
import json
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem.families import Normal, NormalParams
from jaxem.gates import Softmax, SoftmaxParams
from jaxem.inference.coordinates import parameter_names
from jaxem.models import HMM, HMMParams

N, T = 50, 25
MODEL = HMM(Normal(), 2, transition=Softmax())
TRUTH = HMMParams(
    jnp.array([0.4, 0.6]),
    SoftmaxParams(jnp.array([[[0.8, 0.4], [-0.8, -0.4]], [[-0.5, 0.6], [0.5, -0.6]]])),
    NormalParams(jnp.array([0.0, 2.5]), jnp.array([1.0, 0.7])),
)


def recovery(replications: int) -> dict:
    drive = np.random.default_rng(0).normal(size=(N, T))
    like = jaxem.dataset(np.zeros((N, T)), given=drive)
    truth = jax.tree.map(jnp.asarray, TRUTH)

    @jax.jit
    def run(keys):
        def one(key):
            data = MODEL.sample_like(key, truth, like)
            fit = jaxem.fit(MODEL, truth, data, max_steps=300)
            lower, upper = jaxem.inference.confidence_intervals(MODEL, fit.params, data)
            inside = jax.tree.map(lambda low, true, high: (low <= true) & (true <= high), lower, truth, upper)
            return inside, jnp.isnan(lower.emissions.means).any(), fit.converged

        return jax.lax.map(one, keys, batch_size=50)

    inside, refused, converged = jax.block_until_ready(run(jax.random.split(jax.random.key(0), replications)))
    shares = [np.asarray(leaf).reshape(replications, -1).mean(axis=0) for leaf in jax.tree.leaves(inside)]
    found = dict(zip(parameter_names(MODEL, truth), np.concatenate(shares).round(4).tolist(), strict=False))
    return {
        "sequences": N,
        "steps": T,
        "replications": replications,
        "refused": int(refused.sum()),
        "not converged": int((~converged).sum()),
        "coverage": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--replications", type=int, default=500)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = {"HMM of normals, moves by a covariate": recovery(arguments.replications)}
    print(json.dumps(rows, indent=2))
    results = {"machine": f"{platform.system()} {platform.machine()}", "jax": jax.__version__, "rows": rows}
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
