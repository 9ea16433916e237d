"""Coverage of confidence intervals for regressions, in mixtures and in a chain.

    python benchmarks/recovery_regression.py --output benchmarks/results/recovery_regression.json

Coverage: the share of data sets, simulated from a model with the same covariates, in which the 95 % interval of each
parameter contains the truth. Each fit starts at the truth, so that the classes keep their numbers. A data set whose
information is refused counts as not covered. With 500 data sets the standard error of a share is 1 %.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem.families import (
    Bernoulli,
    Binomial,
    Censored,
    Gamma,
    NegativeBinomial,
    Normal,
    Poisson,
    Regression,
    RegressionParams,
    StudentT,
    limited,
)
from jaxem.inference.coordinates import parameter_names
from jaxem.models import HMM, HMMParams, Mixture, MixtureParams

WEIGHTS = jnp.array([0.4, 0.6])
TWO = jnp.array([[0.5, 1.0, -0.5], [2.5, -1.0, 0.3]])
ONE = TWO[:1]


def mixture(*of_classes: Any) -> MixtureParams:
    params = RegressionParams(*of_classes)
    assert params.coefficients is not None
    return MixtureParams(WEIGHTS if params.coefficients.shape[0] == 2 else jnp.ones(1), params)


SPREAD = jnp.array([0.5, 0.3])
MODELS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "normal": (Mixture(Regression(Normal()), 2), mixture(TWO, None, SPREAD), (400,)),
    "normal, a shared column and variance": (
        Mixture(Regression(Normal(), tied=1, dispersion="tied"), 2),
        mixture(TWO[:, :2], jnp.array([0.4]), jnp.asarray(0.5)),
        (400,),
    ),
    "t, 5 degrees of freedom": (Mixture(Regression(StudentT(5.0)), 2), mixture(TWO, None, SPREAD), (400,)),
    "tobit": (Mixture(Regression(Censored(Normal())), 1), mixture(ONE, None, SPREAD[:1]), (300,)),
    "Poisson": (Mixture(Regression(Poisson()), 2), mixture(TWO), (400,)),
    "negative binomial": (Mixture(Regression(NegativeBinomial()), 1), mixture(ONE, None, SPREAD[:1]), (400,)),
    "gamma": (Mixture(Regression(Gamma()), 2), mixture(TWO, None, SPREAD), (400,)),
    "binomial, 10 trials": (Mixture(Regression(Binomial(10)), 2), mixture(TWO), (400,)),
    "Bernoulli, probit": (Mixture(Regression(Bernoulli(), "probit"), 1), mixture(ONE), (400,)),
    "chain of normal": (
        HMM(Regression(Normal()), 2),
        HMMParams(WEIGHTS, jnp.array([[0.9, 0.1], [0.2, 0.8]]), RegressionParams(TWO, None, SPREAD)),
        (60, 20),
    ),
}


def coverage(model: Any, truth: Any, shape: tuple[int, ...], replications: int) -> dict:
    """The coverage of each parameter over data sets of this shape, and how many fits or intervals failed."""
    given = jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 2)))
    tobit = isinstance(model.family.family, Censored)
    like = jaxem.Dataset(jnp.zeros((*shape, 2) if tobit else shape), given=given)

    def one(key: jax.Array) -> Any:
        data = model.sample_like(key, truth, like)
        if tobit:
            data = jaxem.Dataset(limited(data.values[:, 0], low=0.0), given=given)
        fit = jaxem.fit(model, truth, data, max_steps=1000)
        lower, upper = jaxem.inference.confidence_intervals(model, fit.params, data)
        inside = jax.tree.map(lambda low, true, high: (low <= true) & (true <= high), lower, truth, upper)
        return inside, jnp.isnan(jax.tree.leaves(lower)[0]).any(), fit.converged

    begin = time.perf_counter()
    keys = jax.random.split(jax.random.key(0), replications)
    inside, refused, converged = jax.block_until_ready(jax.jit(lambda keys: jax.lax.map(one, keys))(keys))
    shares = [np.asarray(leaf).reshape(replications, -1).mean(axis=0) for leaf in jax.tree.leaves(inside)]
    return {
        "replications": replications,
        "seconds": round(time.perf_counter() - begin, 1),
        "refused": int(refused.sum()),
        "not converged": int((~converged).sum()),
        "coverage": dict(zip(parameter_names(model, truth), np.concatenate(shares).round(4).tolist(), strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--replications", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=list(MODELS))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    results: dict = {"machine": f"{platform.system()} {platform.machine()}", "jax": jax.__version__}
    old = {}
    if arguments.output and arguments.output.exists():
        old = json.loads(arguments.output.read_text()).get("coverage", {})
    for name in arguments.only or MODELS:
        model, truth, shape = MODELS[name]
        truth = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), truth)
        old[name] = coverage(model, truth, shape, arguments.replications)
        print(name, json.dumps(old[name]), flush=True)
        if arguments.output:
            text = json.dumps({**results, "coverage": old}, indent=2, ensure_ascii=False)
            arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
