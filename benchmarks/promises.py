"""Check of what algorithms promise: each one on every model with additive statistics, in both precisions.

    python benchmarks/promises.py --output benchmarks/results/promises.json

The promises are those in ``tests/algorithms.py``: the objective belongs to the parameters, a monotone algorithm never
lowers it, and the lanes of a ``vmap`` under ``jit`` equal separate fits. ``--share 0/4`` checks every fourth pair of
algorithm and model, from the first one.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import conftest  # noqa: F401  (the settings of the tests)
from algorithms import ADDITIVE, ALGORITHMS, check_promises


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--share", default="0/1")
    arguments = parser.parse_args()
    first, every = map(int, arguments.share.split("/"))
    found = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    pairs = [(a, m, p) for p in ("float64", "float32") for m in ADDITIVE for a in ALGORITHMS]
    for algorithm, model, precision in pairs[first::every]:
        begin = time.perf_counter()
        try:
            fit = check_promises(algorithm, model, precision)
            verdict = "kept" if fit is not None else "the model lacks what the algorithm needs"
        except Exception as error:
            verdict = "broken: " + " ".join(f"{type(error).__name__}: {error}".split())
        found[f"{algorithm}, {model}, {precision}"] = verdict
        print(f"{algorithm:15s} {model:20s} {precision} {time.perf_counter() - begin:5.1f} s  {verdict}", flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    verdicts = list(found.values())
    print({verdict[:6]: sum(v[:6] == verdict[:6] for v in verdicts) for verdict in verdicts})


if __name__ == "__main__":
    main()
