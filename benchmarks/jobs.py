"""Whole jobs as users run them, cold and warm, beside peers, in one run.

    python benchmarks/jobs.py --output benchmarks/results/jobs.json
    python benchmarks/jobs.py --before ../other-checkout

Every side of a job runs in processes of its own, one after the other, in rounds. A process prints the seconds of its
first call, with compilation, those of warm calls, and what was reached (a log-likelihood, a criterion, a number of
E-steps), which shows that no side is faster by doing less. A job that is a whole process is timed from outside, with
the imports. ``--before`` adds another version of jaxem as a side. Peers fit with their own defaults, which stop far
from an optimum; the log-likelihoods are reported beside the times. Ratios are medians of those within a round.
``check.py`` compares the result with its thresholds. The extra ``bench`` is needed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WARM = 3
Call = Callable[[], float]


class Job(NamedTuple):
    sides: dict[str, Callable[[], Call]]  # each makes its data, and returns what is timed
    dtype: str = "float32"
    whole: bool = False  # whether the process is timed from outside
    scale: Mapping[str, float] = MappingProxyType({})  # factor on the time of a side that does only a share of the job
    warm: int = WARM


def mixture_data(n: int, d: int, k: int, seed: int = 0) -> np.ndarray:
    """Overlapping normal classes."""
    rng = np.random.default_rng(seed)
    centres = 1.5 * rng.normal(size=(k, d))
    return (centres[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(np.float32)


def starts(n: int, d: int, k: int, restarts: int, algorithm: str | None = None) -> Job:
    def ours() -> Call:
        import jax

        import jaxem
        from jaxem.families import MultivariateNormal
        from jaxem.models import Mixture

        x, model, key = mixture_data(n, d, k), Mixture(MultivariateNormal(), k), jax.random.key(0)
        how = None if algorithm is None else getattr(jaxem, algorithm)()
        return lambda: float(jaxem.fit_restarts(model, x, key=key, restarts=restarts, algorithm=how).best.objective)

    def sklearn() -> Call:
        from sklearn.mixture import GaussianMixture

        x = mixture_data(n, d, k)
        return lambda: float(GaussianMixture(k, n_init=restarts, random_state=0).fit(x).score(x) * n)

    return Job({"jaxem": ours, "scikit-learn": sklearn}, warm=WARM if n < 10_000 else 1)


def select() -> Job:
    forms, most, restarts = ("full", "tied", "diag", "spherical"), 9, 5

    def ours() -> Call:
        import jax

        import jaxem
        from jaxem import datasets
        from jaxem.families import MultivariateNormal
        from jaxem.models import Mixture

        x, key = datasets.old_faithful(), jax.random.key(0)
        models = [Mixture(MultivariateNormal(form), k) for form in forms for k in range(1, most + 1)]

        def call() -> float:
            best = jaxem.inference.select(models, x, key=key, restarts=restarts).best
            return best.criteria["bic"]

        return call

    def sklearn() -> Call:
        from sklearn.mixture import GaussianMixture

        x = _old_faithful()

        def call() -> float:
            peers = [
                GaussianMixture(k, covariance_type=form, n_init=restarts, random_state=0).fit(x)
                for form in forms
                for k in range(1, most + 1)
            ]
            return float(min(peer.bic(x) for peer in peers))

        return call

    return Job({"jaxem": ours, "scikit-learn": sklearn}, whole=True)


def _old_faithful() -> np.ndarray:
    return np.loadtxt(ROOT / "jaxem" / "datasets" / "old_faithful.csv", delimiter=",", skiprows=1)


def old_faithful(what: str) -> Job:
    """A first fit of Old Faithful, and what follows it; the fit itself is not part of what follows."""

    def ours() -> Call:
        import jax

        import jaxem
        from jaxem import datasets
        from jaxem.families import MultivariateNormal
        from jaxem.models import Mixture

        x, model = datasets.old_faithful(), Mixture(MultivariateNormal(), 2)
        fit = lambda: jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x))
        if what == "fit":
            return lambda: float(fit().objective)
        fitted, act = fit(), getattr(jaxem, what)
        return lambda: float("nan") if str(act(model, fitted, x)) else 0.0

    def imports() -> Call:
        import jax  # noqa: F401
        import optax  # noqa: F401

        return lambda: float("nan")

    sides = {"jaxem": ours, "import jax, optax": imports} if what == "fit" else {"jaxem": ours}
    return Job(sides, whole=what == "fit")


def online() -> Job:
    def steps(name: str) -> Callable[[], Call]:
        def make() -> Call:
            import jax

            import jaxem
            from jaxem.algorithms import OnlineEM
            from jaxem.families import MultivariateNormal
            from jaxem.models import Mixture

            x, model, key = mixture_data(200_000, 8, 5), Mixture(MultivariateNormal(), 5), jax.random.key(0)
            start = jaxem.fit(model, model.init(key, x), x, max_steps=3).params
            how = OnlineEM() if name == "OnlineEM" else jaxem.EM()
            fit = lambda n: jaxem.fit(
                model,
                start,
                x,
                algorithm=how,
                key=key,
                max_steps=n,
                stop=jaxem.fitting.parameter_change(0.0),
            )
            jax.block_until_ready(fit(2).objective)

            def call() -> float:
                return float(fit(12).objective) / x.shape[0]

            return call

        return make

    return Job({"jaxem": steps("OnlineEM"), "EM": steps("EM")})


def london(algorithm: str, start: tuple[float, float, float]) -> Job:
    """E-steps of one fit to the London Times deaths, at tolerance 1e-7."""

    def ours() -> Call:
        import jax.numpy as jnp

        import jaxem
        from jaxem import datasets
        from jaxem.families import Poisson, PoissonParams
        from jaxem.models import Mixture, MixtureParams

        counts, weights = datasets.london_times_deaths()
        data = jaxem.dataset(np.asarray(counts, float), weights=np.asarray(weights, float))
        p, *rates = start
        params = MixtureParams(jnp.array([p, 1 - p]), PoissonParams(jnp.array(rates)))
        fit = lambda: jaxem.check(
            jaxem.fit(Mixture(Poisson(), 2), params, data, algorithm=getattr(jaxem, algorithm)(), tol=1e-7)
        )
        return lambda: float(fit().evaluations)

    return Job({"jaxem": ours}, dtype="float64", warm=1)


def hidden_markov() -> Job:
    n, t, k, restarts, share = 20, 1000, 4, 10, 1

    def data() -> np.ndarray:
        rng = np.random.default_rng(0)
        centres, x = 2 * rng.normal(size=(k, 2)), np.empty((n, t, 2))
        for each in x:
            z = 0
            for step in range(t):
                z = z if rng.random() < 0.9 else rng.integers(k)
                each[step] = centres[z] + rng.normal(size=2)
        return x

    def ours() -> Call:
        import jax

        import jaxem
        from jaxem.families import MultivariateNormal
        from jaxem.models import HMM

        x, model, key = data(), HMM(MultivariateNormal(), k), jax.random.key(0)
        return lambda: float(jaxem.fit_restarts(model, x, key=key, restarts=restarts).best.objective)

    def hmmlearn() -> Call:
        from hmmlearn.hmm import GaussianHMM

        x = data()
        rows, lengths = x.reshape(-1, 2), [t] * n

        def call() -> float:
            each = (
                GaussianHMM(k, "full", n_iter=1000, tol=1e-2, random_state=seed, min_covar=0).fit(rows, lengths)
                for seed in range(share)
            )
            return max(peer.score(rows, lengths) for peer in each)

        return call

    return Job({"jaxem": ours, "hmmlearn": hmmlearn}, dtype="float64", scale={"hmmlearn": restarts / share}, warm=1)


def bootstrap() -> Job:
    replicates, share = 1000, 50

    def ours() -> Call:
        import jax

        import jaxem
        from jaxem import datasets
        from jaxem.families import MultivariateNormal
        from jaxem.models import Mixture

        x, model, key = datasets.old_faithful(), Mixture(MultivariateNormal(), 2), jax.random.key(0)
        fit = jaxem.fit(model, model.init(key, x), x)
        act = lambda: jaxem.inference.bootstrap(model, fit, x, key=key, replicates=replicates)
        return lambda: float(np.mean(np.asarray(act().objectives)))

    def sklearn(from_the_fit: bool) -> Call:
        from sklearn.mixture import GaussianMixture

        x, rng = _old_faithful(), np.random.default_rng(0)
        plain = GaussianMixture(2, tol=1e-8, random_state=0).fit(x)
        start = {"weights_init": plain.weights_, "means_init": plain.means_, "precisions_init": plain.precisions_}

        def call() -> float:
            reached = []
            for _ in range(share):
                again = x[rng.integers(0, len(x), len(x))]
                peer = GaussianMixture(2, **(start if from_the_fit else {})).fit(again)
                reached.append(peer.score(again) * len(x))
            return float(np.mean(reached))

        return call

    sides = {
        "jaxem": ours,
        "scikit-learn": lambda: sklearn(False),
        "scikit-learn, from the fit": lambda: sklearn(True),
    }
    scale = dict.fromkeys(list(sides)[1:], replicates / share)
    return Job(sides, dtype="float64", scale=scale)


def predict() -> Job:
    def ours() -> Call:
        import jax

        import jaxem
        from jaxem.families import MultivariateNormal
        from jaxem.models import Mixture

        x, model, sizes = mixture_data(4000, 5, 3), Mixture(MultivariateNormal(), 3), iter(range(1501, 4000, 7))
        fit = jaxem.fit(model, model.init(jax.random.key(0), x), x)
        model.predict(fit, x[:2000]).block_until_ready()
        return lambda: float(np.asarray(model.predict(fit, x[: next(sizes)])).mean())

    return Job({"jaxem": ours})


JOBS: dict[str, Callable[[], Job]] = {
    "best of 20 starts, 5,000 x 5, K = 5, float32": lambda: starts(5_000, 5, 5, 20),
    "best of 10 starts, 50,000 x 8, K = 10, float32": lambda: starts(50_000, 8, 10, 10),
    "select among 36 mixtures, Old Faithful, whole process": select,
    "a fit of Old Faithful, whole process": lambda: old_faithful("fit"),
    "summary of that fit": lambda: old_faithful("summary"),
    "verify of that fit": lambda: old_faithful("verify"),
    "ten passes of OnlineEM, 200,000 x 8, K = 5": online,
    "SQUAREM from (.5, 1, 3), E-steps": lambda: london("SQUAREM", (0.5, 1.0, 3.0)),
    "SQUAREM from (.3, 1, 2.5), E-steps": lambda: london("SQUAREM", (0.3, 1.0, 2.5)),
    "Anderson from (.5, 1, 3), E-steps": lambda: london("Anderson", (0.5, 1.0, 3.0)),
    "Anderson from (.3, 1, 2.5), E-steps": lambda: london("Anderson", (0.3, 1.0, 2.5)),
    "HMM, best of 10 starts, 20 x 1,000, K = 4, float64": hidden_markov,
    "bootstrap, 1,000 samples of Old Faithful, K = 2, float64": bootstrap,
    "predict of a new batch size": predict,
}


def run(name: str, side: str) -> dict:
    """One side of a job in this process: seconds of the first call and of warm ones, and what was reached."""
    job = JOBS[name]()
    warnings.filterwarnings("ignore")
    if side in ("jaxem", "EM"):
        import jax

        jax.config.update("jax_enable_x64", job.dtype == "float64")
    call = job.sides[side]()
    if job.whole and side.startswith("import"):
        return {"first_s": 0.0, "warm_s": [], "reached": None}
    seconds, value = [], 0.0
    for _ in range(1 + job.warm):
        begin = time.perf_counter()
        value = call()
        seconds.append(time.perf_counter() - begin)
    return {"first_s": seconds[0], "warm_s": seconds[1:], "reached": value if value == value else None}


def whole(name: str, side: str) -> None:
    """One side of a job that is a whole process: the first call only."""
    warnings.filterwarnings("ignore")
    JOBS[name]().sides[side]()()


def child(name: str, side: str, tree: Path, timed: bool) -> dict:
    """The result of a process for one side, with jaxem from the folder ``tree``."""
    unwanted = ("JAX_", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    command = [sys.executable, str(Path(__file__).resolve()), "--job", name, "--side", side]
    environment["PYTHONPATH"] = str(tree)
    begin = time.perf_counter()
    done = subprocess.run(command + ["--whole"] * timed, capture_output=True, text=True, env=environment, cwd=tree)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{name}, {side}\n{done.stderr[-2000:]}")
    return {"first_s": seconds, "warm_s": []} if timed else json.loads(done.stdout.splitlines()[-1])


def measure(name: str, rounds: int, before: Path | None, alone: bool) -> dict:
    job = JOBS[name]()
    sides = [(side, side, ROOT) for side in job.sides if not alone or side in ("jaxem", "EM") or "import" in side]
    if before is not None:
        sides.append(("before", "jaxem", before))
    found: dict[str, list[dict]] = {}
    for number in range(rounds):
        for shown, side, tree in sides if number % 2 == 0 else sides[::-1]:
            if shown == "before" and number:
                continue  # another version is slow: once is enough
            once = child(name, side, tree, False)
            if job.whole:
                once["first_s"] = child(name, side, tree, True)["first_s"]
            found.setdefault(shown, []).append(once)
    row: dict = {}
    for shown, runs in found.items():
        scale = job.scale.get(shown, 1.0)
        warm = [scale * statistics.median(one["warm_s"]) for one in runs if one["warm_s"]]
        row[shown] = {
            "first_s": scale * statistics.median(one["first_s"] for one in runs),
            "warm_s": statistics.median(warm) if warm else None,
            "reached": runs[0]["reached"],
        }
    ours = row["jaxem"]
    for shown, one in row.items():
        if shown != "jaxem" and one["warm_s"] and ours["warm_s"]:
            one["times_faster"] = one["warm_s"] / ours["warm_s"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--alone", action="store_true", help="without peers, which on another device run as here")
    parser.add_argument("--job")
    parser.add_argument("--side")
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    if arguments.job and arguments.whole:
        whole(arguments.job, arguments.side)
        return
    if arguments.job:
        print(json.dumps(run(arguments.job, arguments.side)))
        return
    from peers import machine

    stored = {}
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        stored = json.loads(arguments.output.read_text()) if arguments.only and arguments.output.exists() else {}
    rows = stored.get("jobs", {})
    for name in arguments.only or JOBS:
        rows[name] = measure(name, arguments.rounds, arguments.before and arguments.before.resolve(), arguments.alone)
        print(name, json.dumps(rows[name]), flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps({"machine": machine(), "jobs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
