"""Steps taken under the default stopping rule, and log-likelihood still to gain where it stops.

    python benchmarks/stopping.py --output benchmarks/results/stopping.json

The models are those in the table of cases (``tests/cases.py``) and some slow ones, each fitted from its start by plain
EM in both precisions. "left" is the estimate of the fit. "truly left" is the log-likelihood that the same climb reaches
when it continues in 64 bits until the parameters no longer change, minus that at the end of the fit, both in 64 bits.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import conftest  # noqa: F401  (the settings of the tests)
import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES, case

import jaxem
from jaxem import datasets
from jaxem.core import bound
from jaxem.core.coordinates import chart, into
from jaxem.families import MultivariateNormal, Normal, Poisson, PoissonParams
from jaxem.models import HMM, FactorAnalysis, Mixture, MixtureParams


def london(dtype):
    deaths, days = datasets.london_times_deaths()
    data = jaxem.dataset(jnp.asarray(deaths, dtype), weights=jnp.asarray(days, dtype))
    start = MixtureParams(jnp.array([0.3, 0.7], dtype), PoissonParams(jnp.array([1.0, 2.5], dtype)))
    return Mixture(Poisson(), 2), start, data


def overlapping(n):
    def build(dtype):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, 2)) + 1.5 * rng.integers(0, 3, n)[:, None] * np.array([1.0, 0.5])
        x = jnp.asarray(x, dtype)
        model = Mixture(MultivariateNormal("full"), 3)
        return model, model.init(jax.random.key(0), x), x

    return build


def heywood(dtype):
    """Factor analysis with a variable that is itself a factor: its noise variance has the supremum at zero."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(150, 1))
    x = z * np.array([1.0, 0.7, 0.6, 0.5]) + rng.normal(size=(150, 4)) * np.array([1e-3, 0.7, 0.8, 0.9])
    x = jnp.asarray(x, dtype)
    model = FactorAnalysis(2)
    return model, model.init(jax.random.key(0), x), x


def missing(rate, n=10_000):
    """The mean of a normal sample with a share ``rate`` missing: an EM iteration leaves that share of the distance."""

    def build(dtype):
        m = round(n * rate / (1 - rate))
        y = jnp.asarray(np.random.default_rng(0).normal(2.0, 1.0, n), dtype)
        log_likelihood = lambda mean, y: (-0.5 * (jnp.log(2 * jnp.pi).astype(y.dtype) + (y - mean) ** 2)).sum()
        model = jaxem.Model(
            e_step=lambda mean, y: m * mean,
            m_step=lambda total, y: (y.sum() + total) / (n + m),
            log_likelihood=log_likelihood,
        )
        return model, jnp.asarray(0.0, dtype), y

    return build


def sticky_hmm(dtype):
    rng = np.random.default_rng(2)
    states = (rng.random((4, 400)) < 0.05).cumsum(axis=1) % 2
    x = jnp.asarray(rng.normal(size=(4, 400)) + 0.8 * states, dtype)
    model = HMM(Normal(), 2)
    return model, model.init(jax.random.key(0), x), x


SLOW = {
    "London Times deaths": london,
    "overlapping, 1,000": overlapping(1000),
    "overlapping, 30,000": overlapping(30_000),
    "Heywood": heywood,
    "missing, rate 0.9": missing(0.9),
    "missing, rate 0.99": missing(0.99),
    "missing, rate 0.999": missing(0.999),
    "sticky HMM": sticky_hmm,
}


def value(model, params, data):
    return float(bound.penalized(model, model.log_likelihood(params, data), params))


def row(model, start, data) -> dict:
    fit = jaxem.fit(model, start, data, max_steps=20_000)
    wide = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        (fit.params, data, model),
    )
    inside = chart(wide[2], wide[0])(into(wide[2], wide[0]))  # weights that sum to one in 64 bits too
    wide = inside, *wide[1:]
    here = value(wide[2], wide[0], wide[1])
    still = jaxem.fitting.parameter_change(1e-13)
    best = jaxem.fit(wide[2], wide[0], wide[1], algorithm=jaxem.SQUAREM(), stop=still, max_steps=5_000)
    plain = jaxem.fit(wide[2], best.params, wide[1], stop=still, max_steps=5_000)
    top = max(value(wide[2], end.params, wide[1]) for end in (best, plain))
    return {
        "status": jaxem.Status(int(fit.status)).name,
        "steps": int(fit.steps),
        "left": float(getattr(fit, "left", np.nan)),
        "truly left": top - here,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    rows = {}
    table = {name: (lambda dtype, name=name: case(name, dtype)) for name in CASES} | SLOW
    for name, build in table.items():
        if arguments.only and arguments.only not in name:
            continue
        for precision in ("float64", "float32"):
            found = rows[f"{name}, {precision}"] = row(*build(precision))
            print(f"{name:22s} {precision}", *(f"{k} {v}" for k, v in found.items()), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
