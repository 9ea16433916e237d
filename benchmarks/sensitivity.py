"""The smallest error that each law detects, and the certificates of right and wrong models.

    python benchmarks/sensitivity.py --output benchmarks/results/sensitivity.json

Each law is tested with one kind of error, in a mixture of two normals (70 values) or in weighted sequences. The size of
the error is divided by ten until the law no longer detects it. An inequality detects only errors that outweigh the
distance of its probes. Right models are those of ``tests/user_models.py`` and ``tests/cases.py``, at a start and after
ten iterations; wrong models are those of ``tests/test_mutants.py``.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import conftest  # noqa: F401  (the settings of the tests)
import jax.numpy as jnp
import test_mutants
from cases import CASES, case
from mutants import Mutants, everywhere, with_lengths
from user_models import RIGHT, ROUGH

import jaxem
from jaxem.families import NormalParams


def likelihood(m, a):
    return {"log_likelihood": lambda p, x: m.log_likelihood(p, x) * (1 + a)}


def likelihood_slope(m, a):
    shift = lambda p: p._replace(components=p.components._replace(means=p.components.means + a))
    return {"log_likelihood": lambda p, x: m.log_likelihood(shift(p), x)}


def likelihood_bend(m, a):
    """Information added to the log-likelihood, in proportion to the share ``a`` and the number of observations."""
    more = lambda p, x: (p.components.means**2).sum() * x.shape[0]
    return {"log_likelihood": lambda p, x: m.log_likelihood(p, x) + a * more(p, x)}


def posterior(m, a):
    return {"e_step": lambda p, x: test_mutants.edit(m.e_step(p, x), lambda r: normalised(r ** (1 + a)))}


def normalised(r):
    return r / r.sum(axis=1, keepdims=True)


def normaliser(m, a):
    return {"log_normalizer": lambda q, x: m.log_normalizer(q, x) * (1 + a)}


def divergence(m, a):
    return {"divergence": lambda q, p, x: m.divergence(q, p, x) * (1 + a)}


def entropy(m, a):
    return {"entropy": lambda q, x: m.entropy(q, x) * (1 + a)}


def m_step_mean(m, a):
    def m_step(q, x):
        p = m.m_step(q, x)
        c = p.components
        return p._replace(components=NormalParams(c.means + a * jnp.sqrt(c.variances), c.variances))

    return {"m_step": m_step}


def m_step_weights(m, a):
    return {"m_step": lambda q, x: (lambda p: p._replace(weights=p.weights * (1 + a)))(m.m_step(q, x))}


def first_row(m, a):
    """Statistics in which the first observation counts 1 - a."""

    def statistics(q, x):
        r = q.probabilities
        return m.statistics(q._replace(probabilities=r.at[0].multiply(1 - a)), x)

    return {"statistics": statistics}


def sums(m, a):
    """Statistics times N^-a: sums at a = 0, means at a = 1."""
    return test_mutants.scaled(m, lambda x: float(x.shape[0]) ** -a)


def maximize(m, a):
    def maximize(statistics):
        p = m.maximize(statistics)
        return p._replace(components=p.components._replace(means=p.components.means * (1 + a)))

    return {"maximize": maximize}


def from_sums(m, a):
    return {"expected_log_joint": lambda p, s: m.expected_log_joint(p, s) * (1 + a)}


def permute(m, a):
    def permute(p, order):
        new = m.permute(p, order)
        return new._replace(components=new.components._replace(means=new.components.means * (1 + a)))

    return {"permute": permute}


def powers(m, a):
    """Observation weights to the power of 1 + a."""
    power = lambda w: jnp.where(w > 0, jnp.where(w > 0, w, 1) ** (1 + a), 0)
    return everywhere(m, lambda x: jaxem.dataset(x.values, weights=power(x.weights)))


def behind(m, a):
    """A log-likelihood of which the share ``a`` is that with every sequence one step longer."""
    longer = with_lengths(lambda x: jnp.minimum(x.lengths + 1, x.values.shape[1]))
    return {"log_likelihood": lambda p, x: (1 - a) * m.log_likelihood(p, x) + a * m.log_likelihood(p, longer(x))}


# Law, error, model, whether it is additive, and the unit of the error's size.
ERRORS = [
    ("touch", likelihood, "normal mixture", False, "share of L"),
    ("tangent", likelihood_slope, "normal mixture", False, "units of the data, of means in L"),
    ("objective", normaliser, "normal mixture", False, "share of the normaliser"),
    ("KL ≥ 0", likelihood, "normal mixture", False, "share of L"),
    ("decomposition", divergence, "normal mixture", False, "share of KL"),
    ("E-step", posterior, "normal mixture", False, "power of the posterior"),
    ("minorisation", entropy, "normal mixture", False, "share of H"),
    ("curvature", likelihood_bend, "normal mixture", False, "of information, an observation"),
    ("M-step stationary", m_step_mean, "normal mixture", False, "standard deviations, of a mean"),
    ("M-step optimal", m_step_mean, "normal mixture", False, "standard deviations, of a mean"),
    ("M-step inside", m_step_weights, "normal mixture", False, "share of the weights"),
    ("ascent", m_step_mean, "normal mixture", False, "standard deviations, of a mean"),
    ("additivity", first_row, "normal mixture", True, "of one observation in 70"),
    ("Q from sums", from_sums, "normal mixture", True, "share of Q"),
    ("halves", sums, "normal mixture", True, "power of N"),
    ("labels", permute, "normal mixture", True, "share of the means"),
    ("maximize", maximize, "normal mixture", True, "share of the means"),
    ("weights", powers, "weighted chains", False, "power of the weights"),
    ("lengths", behind, "weighted chains", False, "share of L beyond the end"),
]


def smallest(precision: str) -> dict[str, float | None]:
    """For each law the smallest power of ten that it detects; None where it does not detect even 0.1."""
    found: dict[str, float | None] = {}
    groups = {(name, additive) for _, _, name, additive, _ in ERRORS}
    for name, additive in sorted(groups):
        rows = [row for row in ERRORS if row[2:4] == (name, additive)]
        changes = tuple(dict.fromkeys(row[1] for row in rows))
        for law, change, *_ in rows:
            least = None
            for k in range(1, 17):
                # Some inequalities are broken by a log-likelihood that is too large, others by one too small.
                sizes = [sign * 10.0**-k for sign in (1, -1)]
                if not any(seen(law, changes, change, name, additive, precision, size) for size in sizes):
                    break
                least = 10.0**-k
            found[law] = least
            print(f"{precision}  {law:18s} {least}", flush=True)
    return found


def seen(law, changes, change, name, additive, precision, size) -> bool:
    if name in test_mutants.BASES:
        model, params, data = test_mutants.BASES[name](jnp.dtype(precision))
    else:
        model, params, data = case(name, precision)
    which = jnp.int32(changes.index(change) + 1)
    if law == "ascent":  # an iteration can lower the objective only near the maximum
        params = jaxem.fit(model, params, data, tol=1e-12 if precision == "float64" else 1e-6, max_steps=3000).params
    wrong = Mutants(model, which, jnp.asarray(size, precision), changes, additive)
    return law in jaxem.verify(wrong, params, data).violated


def confusion(precision: str) -> dict[str, int]:
    """The numbers of right and wrong models whose certificates are ok, violated, or without a verdict."""
    counts = {f"{kind}, {verdict}": 0 for kind in ("right", "wrong") for verdict in ("ok", "violated", "no verdict")}

    def count(kind, certificate):
        verdict = "violated" if certificate.violated else "ok" if certificate.ok else "no verdict"
        counts[f"{kind}, {verdict}"] += 1
        if (kind, verdict) in (("right", "violated"), ("wrong", "ok")):
            print(kind, verdict, certificate, flush=True)

    rows = [maker(precision) for maker in (RIGHT | ROUGH).values()] + [case(name, precision) for name in CASES]
    for model, params, data in rows:
        count("right", jaxem.verify(model, params, data))
        if getattr(model, "m_step", None) or getattr(model, "maximize", None):
            for _ in range(10):
                params = jaxem.core.em_map(model, params, data)
            count("right", jaxem.verify(model, params, data))
    for key in test_mutants.MUTANTS:
        model, params, data = test_mutants.mutants(*key, precision)
        for index in range(len(model.changes)):
            wrong = dataclasses.replace(model, which=jnp.int32(index + 1))
            count("wrong", jaxem.verify(wrong, params, data))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    units = {law: f"{change.__name__}: {unit}" for law, change, _, _, unit in ERRORS}
    found = {"errors": units}
    for precision in ("float64", "float32"):
        found[precision] = {"smallest error seen": smallest(precision), "models": confusion(precision)}
        print(precision, found[precision]["models"], flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
