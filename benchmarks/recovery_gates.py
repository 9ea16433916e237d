"""Recovery of gates on covariates and of items: the coverage of 95 % intervals over simulated data.

    python benchmarks/recovery_gates.py --output benchmarks/results/recovery_gates.json

Data sets are drawn from each model, with covariates drawn once, fitted from the truth, and the interval of each
parameter is compared with the truth, all in one program. A data set whose information is refused counts as not covered.
The standard error of a coverage from 500 data sets is 1 %.
"""

import argparse
import json
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem.core.data import count
from jaxem.families import Categorical, CategoricalParams, ItemResponseParams, Normal, NormalParams
from jaxem.gates import Softmax, SoftmaxParams
from jaxem.inference.coordinates import parameter_names
from jaxem.models import ItemResponse, Mixture, MixtureParams


def covariates(n: int, columns: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, columns)))


def experts() -> tuple[MixtureParams, jaxem.Dataset]:
    gate = SoftmaxParams(jnp.array([[0.3, 0.8, -0.5], [-0.3, -0.8, 0.5]]))
    normal = NormalParams(jnp.array([0.0, 4.0]), jnp.array([1.0, 1.5]))
    return MixtureParams(gate, normal), jaxem.Dataset(jnp.zeros(600), given=covariates(600, 2))


def latent_classes() -> tuple[MixtureParams, jaxem.Dataset]:
    gate = SoftmaxParams(jnp.array([[0.2, 0.9], [0.1, -0.1], [-0.3, -0.8]]))
    p = 2 * [jnp.array([0.9, 0.5, 0.1]), jnp.array([0.85, 0.2, 0.15]), jnp.array([0.9, 0.8, 0.2])]
    items = CategoricalParams(tuple(jnp.stack([1 - one, one], axis=1) for one in p))
    return MixtureParams(gate, items), jaxem.Dataset(jnp.zeros((1500, 6)), given=covariates(1500, 1))


def two_levels() -> tuple[ItemResponseParams, jax.Array]:
    slopes, intercepts = jnp.array([1.0, 1.5, 0.8, 1.2, 2.0, 1.0]), jnp.array([1.0, 0.0, -0.5, 0.5, -1.0, 0.3])
    return ItemResponseParams(slopes, intercepts), jnp.zeros((1000, 6))


def ordered_levels() -> tuple[ItemResponseParams, jax.Array]:
    intercepts = [1.0, -1.0], [1.5, 0.0, -1.5], [0.5], [0.5, -0.5], [2.0, 0.5, -1.0]
    slopes = jnp.array([1.0, 1.5, 0.8, 1.2, 1.8])
    return ItemResponseParams(slopes, tuple(jnp.array(b) for b in intercepts)), jnp.zeros((1000, 5))


# The model, and its parameters with data of the shape of those that are drawn.
ROWS = {
    "experts of two normal classes": (Mixture(Normal(), 2, gate=Softmax()), experts),
    "three latent classes with a covariate": (Mixture(Categorical((2,) * 6), 3, gate=Softmax()), latent_classes),
    "two-parameter logistic items": (ItemResponse("2pl", points=21), two_levels),
    "graded items": (ItemResponse("graded", (3, 4, 2, 3, 4), points=21), ordered_levels),
}


def recovery(name: str, replications: int) -> dict:
    model, build = ROWS[name]
    truth, like = build()

    @jax.jit
    def run(keys):
        def one(key):
            x = model.sample_like(key, truth, like)
            fit = jaxem.fit(model, truth, x, algorithm=jaxem.SQUAREM(), max_steps=500)
            lower, upper = jaxem.inference.confidence_intervals(model, fit.params, x)
            inside = jax.tree.map(lambda low, true, high: (low <= true) & (true <= high), lower, truth, upper)
            return inside, jnp.isnan(jax.tree.leaves(lower)[0]).any(), fit.converged

        return jax.lax.map(one, keys, batch_size=50)

    inside, refused, converged = jax.block_until_ready(run(jax.random.split(jax.random.key(0), replications)))
    shares = [np.asarray(leaf).reshape(replications, -1).mean(axis=0) for leaf in jax.tree.leaves(inside)]
    names = parameter_names(model, truth)
    found = dict(zip(names, np.concatenate(shares).round(4).tolist(), strict=True))
    return {
        "observations": count(like),
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
