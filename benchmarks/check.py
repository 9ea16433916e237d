"""Compare a stored result of ``peers.py`` with the thresholds below; exit with 1 if one is missed.

python benchmarks/check.py benchmarks/results/peers.json
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
        (ratio <= 1.2, f"import: {ratio:.2f} times that of jax and optax, bar 1.2"),
        (cold <= 3, f"cold process to a fit: {cold:.2f} s, bar 3"),
        (2 * cached <= cold, f"with a compilation cache: {cached:.2f} s, bar half of {cold:.2f} s"),
    ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path("benchmarks/results/peers.json"))
    found = verdicts(json.loads(parser.parse_args().results.read_text()))
    for met, line in found:
        print("met   " if met else "MISSED", line)
    sys.exit(not all(met for met, _ in found))


if __name__ == "__main__":
    main()
