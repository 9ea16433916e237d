"""Speed of jaxem and its peers with equal data, starts and iterations, on this machine, in one run.

    python benchmarks/peers.py --output benchmarks/results/peers.json

Each benchmark (``works.py``) runs in a process of its own. Its sides run one after the other, in an order that is
reversed from round to round. Reported for each side are the first call with its compilation, the median and range of
the warm calls, and the log-likelihood reached, which shows that no side is faster by doing less. For jaxem the share of
the machine's rate on a large matrix product is reported too, from the operations in the products of the benchmark.
Ratios are medians of the ratios within a round. Memory (``memory.py``) and start-up (``startup.py``) follow. The extra
``bench`` is needed.

The script writes JSON and a picture, and prints the Markdown table of the README. ``check.py`` compares the result with
its thresholds.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"scikit-learn", "gmmx", "hmmlearn", "dynamax", "jax", "numpy"}


def timed(run: Callable[[], float]) -> tuple[float, float]:
    """The seconds that a call takes, and what it returns."""
    begin = time.perf_counter()
    value = run()
    return time.perf_counter() - begin, value


def product_rate(dtype: str) -> float:
    """Operations per second of a large matrix product, the best of five runs."""
    import jax
    import jax.numpy as jnp

    n = 2048
    a = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    return 2 * n**3 / min(timed(lambda: product(a, a).block_until_ready())[0] for _ in range(5))


def measure(name: str, rounds: int, chosen: list[str]) -> dict:
    """The times and results of one benchmark, all sides (or jaxem and the ``chosen`` ones) in this process."""
    import jax
    from works import WORKS

    jax.config.update("jax_enable_x64", WORKS[name].dtype == "float64")
    warnings.filterwarnings("ignore")  # peers warn of no convergence, which is intended here
    sides = WORKS[name].build()
    if chosen:
        sides = sides._replace(run={side: run for side, run in sides.run.items() if side in ("jaxem", *chosen)})
    cold, reached = {}, {}
    for side, run in sides.run.items():
        cold[side], reached[side] = timed(run)
    warm: dict[str, list[float]] = {side: [] for side in sides.run}
    for i in range(rounds):
        order = list(sides.run) if i % 2 == 0 else list(sides.run)[::-1]
        for side in order:
            warm[side].append(timed(sides.run[side])[0] * sides.scale.get(side, 1.0))
    row = {
        "work": name,
        "sides": {
            side: {
                "first_s": cold[side] * sides.scale.get(side, 1.0),
                "median_s": statistics.median(seconds),
                "range_s": [min(seconds), max(seconds)],
                "log_likelihood": reached[side] if reached[side] == reached[side] else None,
                "times_faster": statistics.median(b / a for a, b in zip(warm["jaxem"], seconds, strict=True)),
            }
            for side, seconds in warm.items()
        },
    }
    if sides.operations is not None:
        rate = sides.operations / row["sides"]["jaxem"]["median_s"]
        row["share_of_product_rate"] = rate / product_rate(WORKS[name].dtype)
    return row


def in_a_child(script: str, *arguments: str) -> dict:
    """The last line that a script of this folder prints, as JSON; it runs in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict:
    import jax

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        cores = sum(line.startswith("processor") for line in lines)
    except (OSError, StopIteration):
        model, cores = platform.machine(), 0
    versions = {}
    for package in sorted(PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {"processor": model, "cores": cores, "device": jax.devices()[0].device_kind, "versions": versions}


def table(results: dict) -> str:
    """The Markdown table of the README."""
    lines = ["| work | jaxem (first call) | beside | times faster |", "|---|---|---|---|"]
    for row in results["works"]:
        ours = row["sides"]["jaxem"]
        for side, other in row["sides"].items():
            if side != "jaxem":
                cells = (
                    row["work"],
                    f"{ours['median_s']:.3g} s ({ours['first_s']:.3g} s)",
                    f"{side}: {other['median_s']:.3g} s",
                    f"{other['times_faster']:.2g}" if other["times_faster"] < 10 else f"{other['times_faster']:.0f}",
                )
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict, path: Path) -> None:
    """Draw how many times faster jaxem is than each peer, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [
        (f"{row['work']}  –  {side}", other["times_faster"])
        for row in results["works"]
        for side, other in row["sides"].items()
        if side not in ("jaxem", "two products")
    ][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(bars) + 1), layout="constrained")
    colours = ["#0072B2" if ratio >= 1 else "#D55E00" for _, ratio in bars]
    axes.barh([name for name, _ in bars], [ratio for _, ratio in bars], color=colours)
    axes.set_xscale("log")
    axes.axvline(1, color="0.4", linewidth=1)
    for i, (_, ratio) in enumerate(bars):
        axes.annotate(f" {ratio:.3g}", (ratio, i), va="center")
    axes.set_xlabel("times faster")
    axes.set_title(f"{results['machine']['processor']}, {results['machine']['cores']} cores", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/peers.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="works whose name contains this; the others stay as they are stored")
    parser.add_argument("--sides", nargs="*", default=[], help="peers to run; default: all")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(measure(arguments.work, arguments.rounds, arguments.sides)))
        return

    from works import WORKS

    stored = json.loads(arguments.output.read_text()) if arguments.output.exists() and arguments.only else {}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows = {row["work"]: row for row in stored.get("works", [])}
    for name in WORKS:
        if arguments.only in name:
            how = "--work", name, "--rounds", str(arguments.rounds), "--sides", *arguments.sides
            rows[name] = in_a_child("peers.py", *how)
            for side, found in rows[name]["sides"].items():
                low, high = found["range_s"]
                print(
                    f"{name:45s} {side:13s} {found['median_s']:8.3f} s ({low:.3f} to {high:.3f}, first "
                    f"{found['first_s']:.2f})  x{found['times_faster']:.2f}  log-likelihood {found['log_likelihood']}",
                    flush=True,
                )
            print(f"{'':45s} share of the product rate: {rows[name].get('share_of_product_rate', float('nan')):.2f}")
            so_far = {**stored, "machine": machine(), "works": [rows[name] for name in WORKS if name in rows]}
            arguments.output.write_text(json.dumps(so_far, indent=1) + "\n")
    results = {"machine": machine(), "works": [rows[name] for name in WORKS if name in rows]}
    for script in ("memory", "startup"):
        results[script] = (
            in_a_child(f"{script}.py") if arguments.only in script or script not in stored else stored[script]
        )
        print(script, results[script], flush=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, arguments.output.with_suffix(".png"))
    print(table(results))


if __name__ == "__main__":
    main()
