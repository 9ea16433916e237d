"""What a cold process pays: the modules that the import loads, and the programs that a first fit compiles."""

import subprocess
import sys

import pytest

IMPORT = """
import sys
import jax, optax
before = set(sys.modules)
import jaxem
for package in (jaxem, jaxem.algorithms, jaxem.families, jaxem.fitting, jaxem.gates, jaxem.inference, jaxem.models):
    _ = [getattr(package, name) for name in dir(package) if name not in ("plot", "sklearn")]
print(*sorted(name for name in set(sys.modules) - before if name.split(".")[0] != "jaxem"))
"""

FIT = """
import jax
import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal
from jaxem.models import Mixture

programs = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **about: event.endswith("backend_compile_duration") and programs.append(about["fun_name"])
)
model = Mixture(MultivariateNormal("full"), 2)

def fit(key, x):
    return jaxem.check(jaxem.fit(model, model.init(key, x), x))

x = datasets.old_faithful()
fit(jax.random.key(0), x)
print(*programs)
programs.clear()
fit(jax.random.key(1), 2 * x)
print(*programs)
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.split("\n")[:-1]]


@pytest.mark.slow
def test_all_names_load_little_beyond_jax_and_optax():
    (loaded,) = run(IMPORT)
    assert "concurrent.futures.thread" in loaded  # the names were asked for
    heavy = (
        "jax.extend",
        "jax._src.pallas",
        "scipy",
        "matplotlib",
        "sklearn",
        "tqdm",
        "narwhals",
        "pandas",
        "formulaic",
    )
    assert not [name for name in loaded if name.startswith(heavy)]
    assert len(loaded) < 30


def test_a_first_fit_compiles_a_handful_of_programs_and_a_second_none():
    first, second = run(FIT)
    assert sum(name == "jit(_fit)" for name in first) == sum(name == "jit(_init)" for name in first) == 1
    assert len(first) <= 8, first
    assert not second
