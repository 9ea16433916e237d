"""Peak memory of a Gaussian mixture fit, N = 2M, D = 8, K = 64, float32, relative to the size of the data.

Two figures are reported: the memory beyond the data that the compiled fit needs according to XLA (temporary and output
buffers), and the largest rise of the resident memory of the process during the first run of the compiled fit. A small
fit has loaded all code before that run.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxem
from jaxem.families import MultivariateNormal, MultivariateNormalParams
from jaxem.models import Mixture, MixtureParams

N, D, K = 2_000_000, 8, 64


def resident(what: str) -> int:
    """Bytes of resident memory now (``VmRSS``), or its peak since ``forget_the_peak`` (``VmHWM``); Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def forget_the_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(0, 2, (K, D)).astype(np.float32)
    model = Mixture(MultivariateNormal("full"), K)
    params = MixtureParams(
        jnp.full(K, 1 / K, jnp.float32),
        MultivariateNormalParams(jnp.asarray(means), jnp.asarray(np.tile(np.eye(D, dtype=np.float32), (K, 1, 1)))),
    )
    stop = jaxem.fitting.parameter_change(0.0)
    run = jax.jit(lambda params, x: jaxem.fit(model, params, x, stop=stop, max_steps=3))
    x = np.empty((N, D), np.float32)
    for part in np.array_split(np.arange(N), 100):
        x[part] = means[rng.integers(0, K, len(part))] + rng.normal(size=(len(part), D))
    jax.block_until_ready(run(params, jnp.asarray(x[:10_000])))
    data = jnp.asarray(x)
    size = data.size * 4
    compiled = run.lower(params, data).compile()
    analysis = compiled.memory_analysis()
    forget_the_peak()
    before = resident("VmRSS")
    objective = float(jax.block_until_ready(compiled(params, data)).objective) / N
    found = {
        "data_bytes": size,
        "beyond_the_data": (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / size,
        "resident_rise": (resident("VmHWM") - before) / size,
        "log_likelihood": objective,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
