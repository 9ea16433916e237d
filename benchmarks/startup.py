"""Start-up time in cold processes: the import, and a first fit of Old Faithful with and without a compilation cache.

Each figure is the median of several processes. jaxem loads its names when they are used, so the import is that of the
names of a first fit; it is compared with ``import jax, optax`` alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

IMPORT = """
import jax
import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal
from jaxem.models import Mixture
jaxem.fit, jaxem.check
"""
FIT = f"""{IMPORT}
x = datasets.old_faithful()
model = Mixture(MultivariateNormal("full"), 2)
fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x))
"""


def seconds(code: str, cache: str | None = None) -> float:
    # Modules are compiled to bytecode once, as in an installed package.
    unwanted = ("JAX_", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    if cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        seconds(FIT, cache)  # fills the compilation cache and that of the file system
        for _ in range(rounds):
            for name, code, where in (
                ("python", "", None),
                ("import jax, optax", "import jax, optax", None),
                ("import of a first fit", IMPORT, None),
                ("fit", FIT, None),
                ("fit, with a compilation cache", FIT, cache),
            ):
                found.setdefault(name, []).append(seconds(code, where))
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratios = zip(found["import of a first fit"], found["import jax, optax"], strict=True)
    print(json.dumps({**medians, "import_ratio": statistics.median(a / b for a, b in ratios)}))


if __name__ == "__main__":
    main()
