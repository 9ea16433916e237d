"""A fit to a file in chunks against the same fit in memory: a Gaussian mixture, N = 2M, D = 16, K = 8, float32.

    python benchmarks/streams.py --output benchmarks/results/streams.json

The file has 128 MB and is read from a warm file cache in chunks of 32 MiB. Memory is measured in one process and time
in another, each fresh. ``rise`` is the largest rise of the resident memory above that before the fit: of the first fit
of the process with its compilation, and of a second one without. A pass is the difference between fits of 25 and 5
steps divided by 20, the median over alternating rounds; whole fits of 25 steps contain the pass that checks the file.
The command exits with 1 where a bar is missed.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from memory import forget_the_peak, resident

import jaxem
from jaxem.families import MultivariateNormal, MultivariateNormalParams
from jaxem.models import Mixture, MixtureParams

N, D, K = 2_000_000, 16, 8
FEW, MANY = 5, 25
RISE, RATIO = 200e6, 1.3  # bytes, and the time of a pass relative to that in memory
STOP = jaxem.fitting.parameter_change(0.0)


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.float32, (N, D))
    for part in np.array_split(np.arange(N), 100):
        x[part] = centres()[rng.integers(0, K, len(part))] + rng.normal(size=(len(part), D))


def centres() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.7, (K, D)).astype(np.float32)


def model_and_start() -> tuple[Mixture, MixtureParams]:
    """A start that is one standard deviation off in each mean."""
    moved = centres() + np.random.default_rng(2).normal(size=(K, D)).astype(np.float32)
    covariances = jnp.asarray(np.tile(np.eye(D, dtype=np.float32), (K, 1, 1)))
    components = MultivariateNormalParams(jnp.asarray(moved), covariances)
    return Mixture(MultivariateNormal("full"), K), MixtureParams(jnp.full(K, 1 / K, jnp.float32), components)


def streamed(path: Path, steps: int) -> jaxem.Fit:
    return jaxem.fit_stream(*model_and_start(), path, stop=STOP, max_steps=steps)


def in_memory(x: jax.Array, steps: int) -> jaxem.Fit:
    return jax.block_until_ready(jaxem.fit(*model_and_start(), x, stop=STOP, max_steps=steps))


def memory(path: Path) -> dict:
    """The rise of the resident memory, in bytes."""
    rises = []
    for _ in range(2):
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps of the first fit would hide what the second needs
        forget_the_peak()
        before = resident("VmRSS")
        streamed(path, FEW)
        rises.append(resident("VmHWM") - before)
    return {"rise with compilation": rises[0], "rise": rises[1]}


def memory_of_fit(path: Path) -> dict:
    """The same for a fit in memory, beyond the data, with its compilation."""
    x = jnp.asarray(np.load(path))
    forget_the_peak()
    before = resident("VmRSS")
    in_memory(x, FEW)
    return {"rise with compilation, in memory": resident("VmHWM") - before}


def seconds(path: Path) -> dict:
    x = jnp.asarray(np.load(path))
    runs = {"stream": lambda steps: streamed(path, steps), "memory": lambda steps: in_memory(x, steps)}
    traces = {name: np.asarray(run(steps).trace, float) for name, run in runs.items() for steps in (FEW, MANY)}
    took: dict[tuple[str, int], list[float]] = {}
    for _ in range(7):
        for name, run in runs.items():
            for steps in (FEW, MANY):
                begin = time.perf_counter()
                assert run(steps).steps == steps, run(steps)
                took.setdefault((name, steps), []).append(time.perf_counter() - begin)
    found = {}
    for name in runs:
        pairs = zip(took[name, MANY], took[name, FEW], strict=True)
        found[f"pass, {name}"] = statistics.median((many - few) / (MANY - FEW) for many, few in pairs)
        found[f"fit of {MANY} steps, {name}"] = statistics.median(took[name, MANY])
    eps = float(np.finfo(np.float32).eps)
    apart = np.abs(traces["stream"] - traces["memory"]) / (eps * np.abs(traces["memory"]))
    return found | {"traces apart, in eps": float(apart.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # one measurement, in a process of its own
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(globals()[arguments.one[0]](Path(arguments.one[1]))))
        return
    found = {"data": N * D * 4}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        write(path)
        for name in ("memory", "memory_of_fit", "seconds"):
            command = [sys.executable, __file__, "--one", name, str(path)]
            found |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    found["pass, ratio"] = found["pass, stream"] / found["pass, memory"]
    met = {
        f"rise without compilation: {found['rise'] / 1e6:.0f} MB, bar {RISE / 1e6:.0f}": found["rise"] <= RISE,
        f"time of a pass: {found['pass, ratio']:.2f} of that in memory, bar {RATIO}": found["pass, ratio"] <= RATIO,
        f"traces: {found['traces apart, in eps']:.1f} eps apart, bar 4": found["traces apart, in eps"] <= 4,
    }
    print(json.dumps(found, indent=1))
    for line, good in met.items():
        print("met   " if good else "MISSED", line)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(not all(met.values()))


if __name__ == "__main__":
    main()
