"""Recovery of parameters: the coverage of 95 % intervals over simulated data sets, for every kind of model.

    python benchmarks/recovery.py --output benchmarks/results/recovery.json

For each row, data sets are drawn from a model by the same covariates and fitted from the truth, so that classes keep
their numbers; the interval of each parameter is compared with the truth; all in one program. Intervals are those of
``jaxem.inference.confidence_intervals``, from the observed information, so that second derivatives of the log-density
are tested too. A data set whose information is refused counts as not covered, and so does a parameter that is held at
an edge. Parameters that are known, such as the weight of a single class, are left out.

A coverage estimated from R data sets has a standard error of (0.95 x 0.05 / R)^(1/2): 1 % for 500, 0.5 % for 2000. To
repeat a row because its coverage looked wrong, take another seed: the coverage that made it look so is not evidence.
Rows that are stored already are kept unless ``--only`` names them. The rows are in ``recovery_cases_*.py``.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from recovery_cases import Case
from recovery_cases_chains import CHAINS
from recovery_cases_families import FAMILIES
from recovery_cases_gates import GATES
from recovery_cases_regressions import REGRESSIONS

import jaxem
from jaxem.core.data import count
from jaxem.inference.coordinates import parameter_names

CASES = FAMILIES | REGRESSIONS | GATES | CHAINS


def recover(case: Case, replications: int, seed: int) -> dict:
    """The coverage of each parameter, and how many data sets had a fit or intervals that failed."""
    model, like = case.model, jax.tree.map(jnp.asarray, case.like)
    truth = jax.tree.map(jnp.asarray, case.truth)

    @jax.jit
    def run(keys):
        def one(key):
            data = model.sample_like(key, truth, like)
            fit = jaxem.fit(model, truth, data, algorithm=jaxem.SQUAREM(), max_steps=1000)
            ends = jaxem.inference.confidence_intervals(model, fit.params, data)
            lower, true, upper = (
                jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(p)]) for p in (ends[0], truth, ends[1])
            )
            return (lower <= true) & (true <= upper), upper > lower, jnp.isnan(lower), fit.converged

        return jax.lax.map(one, keys, batch_size=50)

    begin = time.process_time()
    inside, wide, missing, converged = map(np.asarray, run(jax.random.split(jax.random.key(seed), replications)))
    estimated = wide.any(axis=0)
    refused = missing[:, estimated].all(axis=1)
    shares = inside.mean(axis=0).round(4).tolist()
    names = parameter_names(model, truth)
    return {
        "observations": count(like),
        "shape": list(np.shape(like.values if isinstance(like, jaxem.Dataset) else like)),
        "data sets": replications,
        "seed": seed,
        "CPU seconds": round(time.process_time() - begin),
        "refused": int(refused.sum()),
        "at an edge": int((missing[:, estimated].any(axis=1) & ~refused).sum()),
        "not converged": int((~converged).sum()),
        "coverage": {name: share for name, share, known in zip(names, shares, ~estimated, strict=True) if not known},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data-sets", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(CASES), metavar="ROW")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    stored = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    rows: dict = stored.get("rows", {})
    for name in arguments.only or [name for name in CASES if name not in rows]:
        rows[name] = recover(CASES[name], arguments.data_sets, arguments.seed)
        shares = rows[name]["coverage"].values()
        print(f"{name}: {min(shares):.3f} to {max(shares):.3f}  {json.dumps(rows[name])}", flush=True)
        results = {"machine": f"{platform.system()} {platform.machine()}", "jax": jax.__version__, "rows": rows}
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
