"""Two million rows on disk: streamed, watched, killed, resumed, saved, then loaded and served by another process.

The script starts two more processes: one whose run is killed, and one that serves.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import jaxem
from jaxem.families import MultivariateNormal
from jaxem.models import Mixture

CENTRES = np.array([[0, 0, 0, 0], [4, 0, 2, 0], [0, 5, 0, 1]], np.float32)
MODEL = Mixture(MultivariateNormal(), k=3)


def write(file, rows):
    x = np.lib.format.open_memmap(file, "w+", np.float32, (rows, 4))
    rng = np.random.default_rng(0)
    for i in range(0, rows, 100_000):
        part = min(100_000, rows - i)
        x[i : i + part] = CENTRES[rng.integers(0, 3, part)] + 1.3 * rng.standard_normal((part, 4), np.float32)


def run(file, checkpoint):
    start = MODEL.init(jax.random.key(0), np.load(file, mmap_mode="r")[:2000])
    told = lambda report: print(report, flush=True)
    return jaxem.fit_stream(MODEL, start, file, progress=told, checkpoint=checkpoint, every=0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--part", nargs=2, type=Path, help="the data and the checkpoint of the run that is killed")
    options = parser.parse_args()
    if options.part:
        return run(*options.part)
    with tempfile.TemporaryDirectory() as folder:
        file, checkpoint, saved = (Path(folder) / name for name in ("rows.npy", "run", "model.jaxem"))
        write(file, options.rows)
        command = [sys.executable, __file__, "--part", file, checkpoint]
        victim = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        print("".join(victim.stdout.readline() for _ in range(3)), end="")
        victim.kill()
        fit = jaxem.check(jaxem.resume(checkpoint, MODEL, file))
        print(f"killed, and resumed from the checkpoint\n{fit}")
        jaxem.save(saved, MODEL, fit)
        serve = "import sys, jaxem; s = jaxem.load(sys.argv[1]); print(s.model.predict(s.fit, [[4.0, 0, 2, 0]]))"
        print("class of a new row:", subprocess.check_output([sys.executable, "-c", serve, saved], text=True))


if __name__ == "__main__":
    main()
