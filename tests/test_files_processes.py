"""Saved models of several processes: one file of what all have, a folder of what is spread over them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxem
from jaxem.files.show import show
from jaxem.files.spread import is_spread


def model_and_fit(place=lambda leaf: leaf):
    """A model of six means, and a fit of it."""
    model = jaxem.Model(len, len, constraints=jaxem.Real())
    means = place(np.arange(6.0).reshape(6, 1) / 7)
    fit = jaxem.Fit({"means": means, "scale": jnp.ones(())}, jnp.asarray(-1.5), None, *(jnp.int32(0),) * 4)
    return model, fit


def process(rank: int, port: int, folder: str) -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    place = lambda whole: jax.make_array_from_process_local_data(sharding, whole[3 * rank : 3 * rank + 3])
    model, fit = model_and_fit(place=place)
    assert is_spread(fit.params["means"])
    for notes in ("first", "second"):  # the second replaces the first
        jaxem.save(f"{folder}/spread", model, fit, jaxem.shard(np.arange(3.0 + rank)), notes=notes)
    found = jaxem.load(f"{folder}/spread", model, mesh=mesh)
    assert found.fit.params["means"].sharding == sharding and found.card.notes == "second"
    mine = [each.params["means"].addressable_shards[0].data for each in (found.fit, fit)]
    np.testing.assert_array_equal(*mine)
    whole = jaxem.load(f"{folder}/spread", model)
    np.testing.assert_array_equal(whole.fit.params["means"], model_and_fit()[1].params["means"])
    everywhere = lambda whole: jax.device_put(whole, NamedSharding(mesh, PartitionSpec()))
    model, fit = model_and_fit(place=everywhere)
    jaxem.save(f"{folder}/replicated", model, fit)
    jax.distributed.shutdown()


@pytest.mark.everything
def test_two_processes_save_and_one_loads(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, __file__]
    running = [
        subprocess.Popen([*command, str(rank), str(port), str(tmp_path)], env=environment, stderr=-1, text=True)
        for rank in range(2)
    ]
    ends = [one.communicate(timeout=100) for one in running]
    assert all(one.returncode == 0 for one in running), ends
    assert sorted(each.name for each in tmp_path.iterdir()) == ["replicated", "spread"]
    model, fit = model_and_fit(place=jnp.asarray)
    for name in ("spread", "replicated"):
        found = jaxem.load(tmp_path / name, model)
        assert found.fit == fit and "free parameters  7" in show(tmp_path / name)
    assert (tmp_path / "replicated").is_file() and (tmp_path / "spread").is_dir()
    with pytest.raises(ValueError, match="dtype is not for arrays that are spread"):
        jaxem.load(tmp_path / "spread", model, dtype="float32")
    with jax.enable_x64(False), pytest.raises(ValueError, match="is in float64"):
        jaxem.load(tmp_path / "spread", model)


if __name__ == "__main__":
    process(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
