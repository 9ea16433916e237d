"""The Python blocks of the README, run with an eye on every fit. As a script: in JAX's own 32 bits."""

import contextlib
import re
from pathlib import Path
from unittest import mock

import jax
import numpy as np

import jaxem

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks_of(text):
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


BLOCKS = blocks_of(TEXT)


def run(block):
    """Run a block; every fit in it must converge, and one must be seen to."""
    fits = []

    def watched(name):
        function = getattr(jaxem, name)

        def call(*arguments, **keywords):
            result = function(*arguments, **keywords)
            fits.append(result.best if "restarts" in name else result)
            return result

        return mock.patch.object(jaxem, name, call)

    with contextlib.ExitStack() as stack:
        for name in ("fit", "fit_many", "fit_restarts", "fit_many_restarts", "fit_stream"):
            stack.enter_context(watched(name))
        exec(compile(block, "README.md", "exec"), {})
    concrete = [fit for fit in fits if not isinstance(fit.status, jax.core.Tracer)]
    assert concrete
    for fit in concrete:
        assert (np.asarray(fit.status) == jaxem.Status.CONVERGED).all(), fit
    assert re.search(r"jaxem\.check\(|assert .*\.converged", block), "a reader is not told that it converged"


if __name__ == "__main__":
    for block in BLOCKS + blocks_of((ROOT / "CONTRIBUTING.md").read_text()):
        if "jax_enable_x64" not in block:  # the others choose their precision
            run(block)
