"""A process that meets many models, as a notebook does, comes to hold no more than one that meets a few."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxem
from jaxem.core import compilation

COUNTS = jnp.array([125.0, 18.0, 20.0, 34.0])


def linkage():
    """Rao's genetic linkage, in functions that are those of no other model."""

    def q_function(theta, z, counts):
        return (z + counts[3]) * jnp.log(theta) + (counts[1] + counts[2]) * jnp.log1p(-theta)

    def log_likelihood(theta, counts):
        return q_function(theta, 0.0, counts) + counts[0] * jnp.log(2 + theta)

    return jaxem.Model(
        lambda theta, counts: counts[0] * theta / (2 + theta),
        lambda z, counts: (z + counts[3]) / (z + counts[1:].sum()),
        q_function=q_function,
        log_likelihood=log_likelihood,
        constraints=jaxem.UnitInterval(),
    )


def use(model):
    fit = jaxem.check(jaxem.fit(model, 0.5, COUNTS))
    assert jaxem.verify(model, fit.params, COUNTS, probes=1).ok
    assert "0.627" in str(jaxem.summary(model, fit, COUNTS))


def executables():
    return len(jax.devices()[0].client.live_executables())


def maps():
    return Path("/proc/self/maps").read_bytes().count(b"\n")


def live(count):
    models = [linkage() for _ in range(count)]
    for model in models[: count // 2]:
        use(model)
    half, held = maps(), executables()
    for model in models[count // 2 :]:
        use(model)
    assert len(compilation._PROGRAMS) == 256  # the most that is kept
    assert executables() <= held + 10
    assert maps() <= half + 500  # a hundred models of these have ten times as many
    use(models[0])  # long dropped, and compiled again
    before = executables()
    del model, models
    gc.collect()
    assert executables() <= before - 200  # what was compiled for functions that are gone is gone


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are counted where Linux lists them")
@pytest.mark.everything
@pytest.mark.parametrize("count", [200])
def test_many_models_are_fitted_verified_and_summarised_in_one_process(tmp_path, count):
    # Equal programs are read from a cache on the disk, which is quicker than to compile them, and as many are held.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_ENABLE_X64": "1",
    }
    command = [sys.executable, __file__, str(count)]
    done = subprocess.run(command, env=os.environ | cache, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    live(int(sys.argv[1]))
