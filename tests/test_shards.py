"""Data over devices and over processes: the same fit, and nothing of the size of the data moves."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_within, eps

import jaxem
from jaxem import GEM, SQUAREM, Dataset, HardEM, IncrementalEM, OnlineEM
from jaxem.core import expectation
from jaxem.families import MultivariateNormal, Poisson
from jaxem.models import HMM, FactorAnalysis, Mixture

N = 1203  # odd: a row of weight zero fills the second device up


def full(n=N):
    rng = np.random.default_rng(0)
    x = (
        rng.normal(size=(n, 3)) @ np.array([[1.0, 0.5, 0], [0, 1, 0.2], [0, 0, 1]])
        + 5.0 * rng.integers(0, 2, n)[:, None]
    )
    return Mixture(MultivariateNormal(), 2), x


def ragged():
    rng = np.random.default_rng(1)
    states = (np.arange(40) // 7) % 2
    values = rng.poisson(np.array([2.0, 9.0])[states], size=(101, 40)).astype(float)
    lengths, weights = rng.integers(3, 41, 101).astype(np.int32), rng.integers(0, 3, 101).astype(float)
    return HMM(Poisson(), 2), Dataset(values, lengths=lengths, weights=weights)


def factors():
    rng = np.random.default_rng(2)
    return FactorAnalysis(1), rng.normal(size=(N, 1)) * np.array([1.0, 2, -1, 0.5]) + rng.normal(size=(N, 4))


CASES = {"full": full, "ragged chain, weighted": ragged, "factors": factors}


@pytest.mark.parametrize("name", CASES)
def test_a_fit_over_devices_is_the_fit(name):
    model, data = CASES[name]()
    start, spread = model.init(jax.random.key(0), data), jaxem.shard(data)
    plain, found = (jaxem.fit(model, start, each, max_steps=200) for each in (data, spread))
    assert found.status == plain.status == jaxem.Status.CONVERGED
    assert abs(int(found.steps) - int(plain.steps)) <= 1
    slack = 64 * eps("float64") * N
    assert_within(found.objective, plain.objective, slack * abs(float(plain.objective)) / N**0.5)
    for answer in ("log_prob", "predict"):  # of the data's own rows, without those that fill devices up
        one, other = (getattr(model, answer)(plain, each) for each in (data, spread))
        assert one.shape == other.shape
        assert_within(other, one, 1e-9 * np.abs(np.asarray(one)).max())
    assert_within(jaxem.inference.bic(model, found, spread), jaxem.inference.bic(model, found, data), slack)
    again = model.log_likelihood(found.params, spread)
    assert_within(again, model.log_likelihood(found.params, data), slack * abs(float(again)) / N**0.5)
    both = slice(1 + min(int(found.steps), int(plain.steps)))  # far from the end objectives tell parameters apart
    assert both.stop > 4 and np.diff(plain.trace[both]).max() > 1
    assert_within(found.trace[both], plain.trace[both], slack * np.abs(np.asarray(plain.trace[both])) / N**0.5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_only_sums_pass_between_devices(name):
    """In the compiled pass, with several blocks on each device."""
    model, data = CASES[name]()
    params, spread = model.init(jax.random.key(0), data), jaxem.shard(data)
    params = spread.replicated(params)
    step = jax.jit(lambda params, data: expectation.expect(model, params, data, 20))
    text = step.lower(params, spread).compile().as_text()
    assert re.search("while", text)
    for collective in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast"):
        assert collective not in text, collective
    moved = [
        shape for line in text.splitlines() if "all-reduce(" in line for shape in re.findall(r"f64\[([\d,]*)\]", line)
    ]
    assert moved
    assert max(int(np.prod([int(n) for n in shape.split(",") if n] or [1])) for shape in moved) < 20
    held = jax.tree.leaves(spread)[0]
    assert len({shard.device for shard in held.addressable_shards}) == 2
    plain = expectation.expect(model, params, data, 20)
    jax.tree.map(
        lambda a, b: assert_within(a, b, 1e3 * eps("float64") * N * (1 + np.abs(b).max())), step(params, spread), plain
    )


@pytest.mark.slow
def test_variants_that_work_on_sums_do_and_others_say_why_not():
    model, x = full(101)
    start, spread = model.init(jax.random.key(0), x), jaxem.shard(x)
    for algorithm in (HardEM(), SQUAREM()):
        plain, found = (jaxem.fit(model, start, each, algorithm=algorithm, max_steps=50) for each in (x, spread))
        assert found.status == plain.status
        jax.tree.map(lambda a, b: assert_within(a, b, 1e-6 * (1 + np.abs(b).max())), found.params, plain.params)
    for algorithm in (GEM(), IncrementalEM(), OnlineEM(), SQUAREM(GEM())):
        with pytest.raises(ValueError, match="takes rows in an order of its own, or all at once"):
            jaxem.fit(model, start, spread, algorithm=algorithm, key=jax.random.key(0))
        with pytest.raises(ValueError, match="takes rows in an order of its own, or all at once"):
            jaxem.fit_restarts(model, spread, algorithm=algorithm, key=jax.random.key(0), restarts=2)
    plain, *spreads = (
        jaxem.fit_restarts(model, each, key=jax.random.key(0), restarts=6, batch_size=size)
        for each, size in ((x, None), (spread, None), (spread, 3))
    )
    for found in spreads:
        np.testing.assert_array_equal(found.statuses, plain.statuses)
        assert_within(found.best.objective, plain.best.objective, 1e-10 * x.size)  # tol, an observed value
    by_hand = jaxem.Model(model.e_step, model.m_step)
    with pytest.raises(ValueError, match="EM on data that are spread over devices needs statistics and maximize"):
        jaxem.fit(by_hand, start, spread)


@pytest.mark.slow
def test_bad_values_are_a_status_and_bad_calls_a_sentence():
    model, x = full(101)
    start = model.init(jax.random.key(0), x)
    x[7, 1] = np.nan
    assert jaxem.fit(model, start, jaxem.shard(x)).status == jaxem.Status.INVALID
    with pytest.raises(ValueError, match="spread over devices already"):
        jaxem.shard(jaxem.shard(x))
    with pytest.raises(ValueError, match=r"mesh must be a jax\.sharding\.Mesh; got 2"):
        jaxem.shard(x, 2)
    with pytest.raises(ValueError, match="cannot run inside jit"):
        jax.jit(lambda x: jaxem.shard(x).data.weights)(x)
    with pytest.raises(ValueError, match="weights must be finite"):
        jaxem.shard(Dataset(x, weights=-np.ones(101)))


def process(rank: int, port: int) -> None:
    """One of two processes, with rows of its own: unequally many."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    model, x = full()
    start = jax.tree.map(np.asarray, model.init(jax.random.key(0), x))
    mine = x[:700] if rank == 0 else x[700:]
    found = jaxem.check(jaxem.fit(model, start, jaxem.shard(mine)))
    print(int(found.steps), repr(float(found.objective)), *np.asarray(found.params.components.means).ravel())
    jax.distributed.shutdown()


@pytest.mark.slow
def test_two_processes_agree_with_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, __file__]
    running = [
        subprocess.Popen([*command, str(rank), str(port)], env=environment, stdout=-1, stderr=-1, text=True)
        for rank in range(2)
    ]
    ends = [one.communicate(timeout=100) for one in running]
    assert all(one.returncode == 0 for one in running), ends
    outputs = [out.splitlines()[-1].split() for out, _ in ends]
    assert outputs[0] == outputs[1]
    model, x = full()
    plain = jaxem.fit(model, model.init(jax.random.key(0), x), x)
    assert abs(int(outputs[0][0]) - int(plain.steps)) <= 1
    assert_within(float(outputs[0][1]), plain.objective, 64 * eps("float64") * abs(float(plain.objective)) * N**0.5)
    means = np.array([float(number) for number in outputs[0][2:]]).reshape(2, 3)
    assert_within(means, plain.params.components.means, 1e-6 * jnp.abs(plain.params.components.means).max())


if __name__ == "__main__":
    process(int(sys.argv[1]), int(sys.argv[2]))
