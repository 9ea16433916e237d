"""Compare stored results of ``peers.py`` and ``jobs.py`` with the thresholds below; exit with 1 if one is missed.

python benchmarks/check.py benchmarks/results/peers.json benchmarks/results/jobs.json
"""

import argparse
import json
import sys
from pathlib import Path

# (benchmark, peer, least number of times faster)
FASTER = [
    ("GMM full, N = 200k, D = 16, K = 32, float64", "scikit-learn", 12.0),
    ("GMM full, N = 200k, D = 16, K = 32, float32", "scikit-learn", 25.0),
    ("GMM full, N = 200k, D = 16, K = 32, float32", "gmmx", 30.0),
    ("GMM full, N = 50k, D = 64, K = 16, float64", "scikit-learn", 3.0),
    ("GMM diag, N = 100k, D = 64, K = 64, float64", "scikit-learn", 3.0),
    ("GMM full, N = 200k, D = 16, K = 32, float64", "two products", 1 / 1.2),
    ("GMM full, N = 200k, D = 16, K = 32, float32", "two products", 1 / 1.2),
    ("HMM, T = 200k, K = 4, float64", "hmmlearn", 2.0),
    ("HMM, T = 200k, K = 4, float64", "dynamax", 2.5),
    ("HMM, T = 200k, K = 16, float64", "hmmlearn", 3.0),
    ("HMM, T = 200k, K = 16, float64", "dynamax", 1.5),
    ("HMM, 2,000 x 100, K = 6, float64", "hmmlearn", 5.0),
    ("HMM, 2,000 x 100, K = 6, float64", "dynamax", 2.0),
    ("1,000 data sets of 200 x 2, K = 3, float64", "scikit-learn", 50.0),
    ("1,000 data sets of 200 x 2, K = 3, float64", "vmap(fit)", 5.0),
]


def verdicts(results: dict) -> list[tuple[bool, str]]:
    """For each threshold, whether it is met, and a line of text with the figures."""
    rows = {row["work"]: row["sides"] for row in results["works"]}
    found = []
    for work, peer, least in FASTER:
        ratio = rows.get(work, {}).get(peer, {}).get("times_faster", float("nan"))
        measured = f"{ratio:.2f} times faster" if ratio == ratio else "not measured"
        found.append((ratio >= least, f"{work}, {peer}: {measured}, bar {least:.2f}"))
    memory, startup = results["memory"], results["startup"]
    rise, ratio = memory["resident_rise"], startup["import_ratio"]
    cold, cached = startup["fit"], startup["fit, with a compilation cache"]
    found += [
        (rise <= 2, f"memory: {rise:.2f} times the data, bar 2"),
        (ratio <= 1.2, f"import of a first fit: {ratio:.2f} times that of jax and optax, bar 1.2"),
        (cold <= 3, f"cold process to a fit: {cold:.2f} s, bar 3"),
        (2 * cached <= cold, f"with a compilation cache: {cached:.2f} s, bar half of {cold:.2f} s"),
    ]
    return found


# (job, side, least number of times faster, warm)
FASTER_JOBS = [
    ("best of 20 starts, 5,000 x 5, K = 5, float32", "scikit-learn", 3.0),
    ("best of 10 starts, 50,000 x 8, K = 10, float32", "scikit-learn", 6.0),
    ("HMM, best of 10 starts, 20 x 1,000, K = 4, float64", "hmmlearn", 40.0),
    ("bootstrap, 1,000 samples of Old Faithful, K = 2, float64", "scikit-learn", 50.0),
    ("ten passes of OnlineEM, 200,000 x 8, K = 5", "EM", 0.5),
]
# (job, most seconds of the first call, of which so many more than a warm one)
FIRST = [
    ("best of 20 starts, 5,000 x 5, K = 5, float32", None, 1.5),
    ("select among 36 mixtures, Old Faithful, whole process", 6.0, None),
    ("summary of that fit", 1.2, None),
    ("verify of that fit", 1.2, None),
    ("HMM, best of 10 starts, 20 x 1,000, K = 4, float64", None, 8.0),
]
WARM = [("select among 36 mixtures, Old Faithful, whole process", 0.3)]
EVALUATIONS = {"SQUAREM": 60, "Anderson": 34}


def verdicts_on_jobs(jobs: dict) -> list[tuple[bool, str]]:
    """For each threshold of the jobs, whether it is met, and a line of text with the figures."""
    found = []
    for job, side, least in FASTER_JOBS:
        ratio = jobs[job][side]["times_faster"]
        found.append((ratio >= least, f"{job}, {side}: {ratio:.2f} times faster, bar {least:.2f}"))
    for job, most, more in FIRST:
        first, warm = jobs[job]["jaxem"]["first_s"], jobs[job]["jaxem"]["warm_s"]
        if most is not None:
            found.append((first <= most, f"{job}: first call {first:.2f} s, bar {most:.2f} s"))
        if more is not None:
            found.append((first - warm <= more, f"{job}: first call {first - warm:.2f} s more, bar {more:.2f} s"))
    for job, most in WARM:
        warm = jobs[job]["jaxem"]["warm_s"]
        found.append((warm <= most, f"{job}: warm {warm:.2f} s, bar {most:.2f} s"))
    sides = jobs["a fit of Old Faithful, whole process"]
    cold, most = sides["jaxem"]["first_s"], 1.5 * sides["import jax, optax"]["first_s"] + 0.6
    found.append((cold <= most, f"a fit of Old Faithful, whole process: {cold:.2f} s, bar {most:.2f} s"))
    for name, most in EVALUATIONS.items():
        steps = [jobs[job]["jaxem"]["reached"] for job in jobs if job.startswith(f"{name} from")]
        found.append((max(steps) <= most, f"{name}, London deaths: {max(steps):.0f} E-steps, bar {most}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path, nargs="?", default=Path("benchmarks/results/peers.json"))
    parser.add_argument("jobs", type=Path, nargs="?", default=Path("benchmarks/results/jobs.json"))
    arguments = parser.parse_args()
    found = verdicts(json.loads(arguments.peers.read_text()))
    found += verdicts_on_jobs(json.loads(arguments.jobs.read_text())["jobs"])
    for met, line in found:
        print("met   " if met else "MISSED", line)
    sys.exit(not all(met for met, _ in found))


if __name__ == "__main__":
    main()
