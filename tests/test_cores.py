"""Programs that run one on each core at a time, in threads."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.core import compilation
from jaxem.core.compilation import on_all_cores, program
from jaxem.families import Normal
from jaxem.models import Mixture


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(compilation, "cores", lambda: 2)


def test_calls_run_at_the_same_time_and_results_keep_their_order():
    both = threading.Barrier(2)

    def meet(x):
        both.wait(timeout=60)
        return x

    @program
    def double(x):
        return 2 * jax.pure_callback(meet, jax.ShapeDtypeStruct((), x.dtype), x)

    assert [int(x) for x in on_all_cores(double, [(np.int64(3),), (np.int64(5),)])] == [6, 10]


def test_an_error_of_one_call_is_raised():
    def refuse(x):
        raise RuntimeError("no such number")

    @program
    def ask(x):
        return jax.pure_callback(refuse, jax.ShapeDtypeStruct((), x.dtype), x)

    with pytest.raises(jax.errors.JaxRuntimeError, match="no such number"):
        on_all_cores(ask, [(jnp.float32(1),), (jnp.float32(2),)])


@pytest.mark.slow
def test_starts_are_those_of_one_core_with_the_settings_of_the_caller(monkeypatch, count_compilations):
    x = np.random.default_rng(0).normal(size=231) + 3.0 * (np.arange(231) % 2)

    def starts():
        return jaxem.fit_restarts(Mixture(Normal(), 2), x, key=jax.random.key(0), restarts=6, max_steps=50)

    with jax.enable_x64(False):  # a setting of this thread
        there = starts()
        with count_compilations() as compiled:
            again = starts()
        assert compiled.count == 0
        monkeypatch.setattr(compilation, "cores", lambda: 1)
        here = starts()
    assert there.best.objective.dtype == np.float32
    for one in (again, here):
        jax.tree.map(np.testing.assert_array_equal, one.best.params, there.best.params)
        np.testing.assert_array_equal(one.objectives, there.objectives)
