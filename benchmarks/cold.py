"""Growth of cold time with the size of the model: seconds of a first call, of which most are compilation.

    python benchmarks/cold.py --output benchmarks/results/cold.json

Every call runs in a process of its own: one fit of ten iterations to 2,000 rows (or 2,000 steps of one sequence).
Reported are the seconds of the first call and of a second one.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SIZES = {
    "mixture, D = 4": [("mixture", k, 4) for k in (1, 2, 4, 8, 16, 32)],
    "mixture, K = 4": [("mixture", 4, d) for d in (1, 2, 4, 8, 16, 32, 64)],
    "HMM, D = 2": [("hmm", k, 2) for k in (2, 4, 8, 16)],
}


def run(kind: str, k: int, d: int) -> list[float]:
    import jax
    import numpy as np

    import jaxem
    from jaxem.families import MultivariateNormal
    from jaxem.models import HMM, Mixture

    x = np.random.default_rng(0).normal(size=(2000, d)).astype(np.float32)
    model, data = (
        (Mixture(MultivariateNormal(), k), x) if kind == "mixture" else (HMM(MultivariateNormal(), k), x[None])
    )
    params = jax.block_until_ready(model.init(jax.random.key(0), data))
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        jax.block_until_ready(jaxem.fit(model, params, data, max_steps=10).params)
        seconds.append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=3)
    arguments = parser.parse_args()
    if arguments.one:
        kind, k, d = arguments.one
        print(json.dumps(run(kind, int(k), int(d))))
        return
    rows: dict = {}
    for name, sizes in SIZES.items():
        for size in sizes:
            command = [sys.executable, str(Path(__file__).resolve()), "--one", *map(str, size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            first, again = json.loads(done.stdout.splitlines()[-1])
            rows.setdefault(name, []).append({"k": size[1], "d": size[2], "first_s": first, "again_s": again})
            print(name, rows[name][-1], flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
