"""Runs to watch, interrupt and kill. As a script (a kind of run, a path): one that checkpoints after every piece."""

import functools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import case

import jaxem
from jaxem import Status
from jaxem.families import Normal
from jaxem.fitting import watch
from jaxem.models import Mixture

ROOT = Path(__file__).parents[1]


def many() -> tuple[Any, Any, Any]:
    """Nine data sets: lanes that converge early and late, and one that collapses."""
    rng = np.random.default_rng(0)
    apart = np.array([6.0, 1.0, 5.0, 0.0, 2.0, 4.0, 0.5, 3.0, 8.0])
    x = rng.normal(size=(9, 30)) + apart[:, None] * (rng.random((9, 30)) < 0.4)
    x[3, :12] = 7.0
    model = Mixture(Normal(), 2)
    return model, jax.vmap(model.init)(jax.random.split(jax.random.key(0), 9), jnp.asarray(x)), jnp.asarray(x)


@functools.cache
def run_of(kind: str) -> tuple[Any, Any, Any, Any]:
    """The function, and its model, start and data."""
    if kind == "many":
        return functools.partial(jaxem.fit_many, batch_size=2, max_steps=300), *many()
    model, params, data = case("normal mixture", "float64")
    if kind == "restarts":

        def restarts(model: Any, params: Any, data: Any, **watched: Any) -> Any:
            return jaxem.fit_restarts(model, data, key=jax.random.key(3), restarts=7, finalists=2, tol=0.0, **watched)

        return functools.partial(restarts, max_steps=80), model, params, data
    if kind == "stream":
        stream = functools.partial(jaxem.fit_stream, max_steps=25, tol=0.0, chunk_bytes=400)
        return stream, model, params, np.array(data)
    return functools.partial(jaxem.fit, max_steps=100, tol=0.0), *case("normal mixture", "float64")


def start(kind: str, **watched: Any) -> jaxem.Fit:
    function, model, params, data = run_of(kind)
    return function(model, params, data, **watched)


@functools.cache
def whole(kind: str) -> jaxem.Fit:
    """The fit without interruption; of a stream in pieces too, because one program may round otherwise."""
    return start(kind, **({"progress": lambda report: None} if kind == "stream" else {}))


def same(a: Any, b: Any) -> None:
    """To the bit; NaN is NaN."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def until(calls: int) -> Any:
    """A ``progress`` that interrupts at its call of this number."""
    left = [calls]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise KeyboardInterrupt

    return count


def child(kind: str, path: Path) -> subprocess.Popen[str]:
    """A process with such a run, which prints a line after every piece, and how it ended."""
    command = [sys.executable, str(Path(__file__)), kind, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    watch.PIECE = 1e-9

    def slowly(*_: Any) -> None:
        print("a piece", flush=True)
        time.sleep(0.01)

    fit = start(sys.argv[1], progress=slowly, checkpoint=sys.argv[2], every=0)
    statuses = np.atleast_1d(np.asarray(fit.statuses if hasattr(fit, "statuses") else fit.status))
    print("INTERRUPTED" if Status.INTERRUPTED in statuses else "ended", flush=True)
