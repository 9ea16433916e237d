"""As most users run it: 32 bits, JAX's own defaults, in an interpreter of its own; and import has no side effects."""

import os
import subprocess
import sys

import pytest
from closeness import eps


def run(script: str) -> list[str]:
    """The lines that a script prints in a new interpreter, where every warning is an error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_ENABLE_X64": "0", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


IMPORT = """
import logging
import jax
from jax._src import xla_bridge

before = dict(jax.config.values)
handlers = list(logging.getLogger().handlers), list(logging.getLogger("jax").handlers)
import jaxem, jaxem.datasets, jaxem.families, jaxem.models
print(dict(jax.config.values) == before)
print((list(logging.getLogger().handlers), list(logging.getLogger("jax").handlers)) == handlers)
print(xla_bridge.backends_are_initialized())
import jax.numpy as jnp
jnp.zeros(())
print(xla_bridge.backends_are_initialized())  # the check does see a backend
"""


def test_import_has_no_side_effects():
    same_config, same_handlers, started, started_later = run(IMPORT)
    assert same_config == "True"
    assert same_handlers == "True"
    assert started == "False" and started_later == "True"


FITS = """
import jax, jax.numpy as jnp, numpy as np
import jaxem, jaxem.datasets
from jaxem.families import MultivariateNormal, Poisson
from jaxem.models import Mixture

assert not jax.config.jax_enable_x64
x = jaxem.datasets.old_faithful()
model = Mixture(MultivariateNormal("full"), 2)
fit = jaxem.check(jaxem.fit(model, model.init(jax.random.key(0), x), x))
print(fit.objective.dtype, float(fit.objective), float(np.diff(fit.trace[: int(fit.steps) + 1]).min()))

counts = np.array([125, 18, 20, 34])
e_step = lambda theta, c: c[0] * theta / (2 + theta)
m_step = lambda z, c: (z + c[3]) / (z + c[1:].sum())
linkage = jaxem.check(jaxem.fit(jaxem.Model(e_step, m_step), 0.5, counts))
print(linkage.params.dtype, float(linkage.params))

quakes = jaxem.datasets.earthquakes()[1]
poisson = Mixture(Poisson(), 2)
fit = jaxem.check(jaxem.fit(poisson, poisson.init(jax.random.key(0), quakes), quakes))
print(fit.objective.dtype, float(fit.objective))
with jax.enable_x64(True):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), fit.params)
    print(float(poisson.log_likelihood(jax.tree.map(jnp.asarray, params), jnp.asarray(quakes))))
"""


@pytest.mark.slow
def test_fits_in_32_bits():
    faithful, linkage, quakes, exact = (line.split() for line in run(FITS))
    single = eps("float32")
    assert faithful[0] == linkage[0] == quakes[0] == "float32"
    # log-likelihood of mclust, to the digits printed and to what an objective over 544 values is known to
    rounding = 32 * single * (1130 + 544)
    assert abs(float(faithful[1]) + 1130.264) <= 5e-4 + rounding
    assert float(faithful[2]) >= -rounding / 8
    # a few roundings of a number of size one
    assert abs(float(linkage[1]) - 0.6268214978709824) <= 4 * single
    assert abs(float(quakes[1]) - float(exact[0])) <= 32 * single * (abs(float(exact[0])) + 107)
