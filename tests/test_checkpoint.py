"""Checkpoints: a run that goes on ends with the same bits, and no file is taken for what it is not."""

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from cases import case
from closeness import assert_within
from watched import ROOT, child, many, run_of, same, start, until, whole

import jaxem
from jaxem import EM, GEM, SAEM, SQUAREM, Anderson, AnnealedEM, Model, Status
from jaxem.core import compilation
from jaxem.families import MultivariateNormal, Normal
from jaxem.fitting import checkpoint, packing, recipes, runs, watch
from jaxem.fitting.fingerprint import fingerprint
from jaxem.models import Mixture

MIXTURE = case("normal mixture", "float64")
EVERYTHING = pytest.mark.everything


@pytest.fixture
def without_safetensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)


# The same bits

ALGORITHMS = {
    "EM": EM(),
    "Anderson": Anderson(),
    "SQUAREM": SQUAREM(),
    "SAEM": SAEM(),
    "AnnealedEM": AnnealedEM(),
    "GEM": GEM(steps=2),
}
# In the first tier each algorithm once on either model, in either precision; GEM, which compiles long, only on one.
SLOW = {("GEM", "poisson hmm")}
ROWS = [
    pytest.param(
        name,
        model,
        precision,
        marks=[EVERYTHING] * ((model == "poisson hmm") == (precision == "float64") or (name, model) in SLOW),
    )
    for name in ALGORITHMS
    for model in ("normal mixture", "poisson hmm")
    for precision in ("float32", "float64")
]


def alike(a, b):
    """The same steps, and the same ends up to rounding error."""
    assert a.status == b.status and a.steps == b.steps and a.evaluations == b.evaluations
    eps = float(np.finfo(a.objective.dtype).eps)
    for one, other in zip(
        jax.tree.leaves((a.params, a.objective)), jax.tree.leaves((b.params, b.objective)), strict=True
    ):
        assert_within(one, other, 64 * eps * (1 + np.abs(other).max()))


@pytest.mark.parametrize("name, model_name, precision", ROWS)
@pytest.mark.slow
def test_interrupted_runs_end_with_the_same_bits(name, model_name, precision, tmp_path, monkeypatch):
    model, params, data = case(model_name, precision)
    algorithm, path = ALGORITHMS[name], tmp_path / "run"
    options = {"algorithm": algorithm, "max_steps": 12, "key": jax.random.key(1) if algorithm.random() else None}
    plain = jaxem.fit(model, params, data, **options, checkpoint=path)
    alike(jaxem.fit(model, params, data, **options), plain)  # one program, which may round otherwise
    monkeypatch.setattr(watch, "PIECE", 1e-9)
    part = jaxem.fit(model, params, data, **options, checkpoint=path, progress=until(2))
    assert part.steps == 2 and part.status == Status.INTERRUPTED
    part = jaxem.resume(path, model, data, progress=until(1))
    assert part.steps == 3 and part.status == Status.INTERRUPTED
    same(jaxem.resume(path, model, data), plain)
    same(jaxem.resume(path, model, data), plain)  # it has ended


@pytest.mark.slow
def test_pieces_are_compiled_like_the_whole(tmp_path, monkeypatch):
    seen = []
    decide = compilation.effort_for
    monkeypatch.setattr(compilation, "effort_for", lambda seconds: seen.append(seconds) or decide(seconds))
    jaxem.fit(*MIXTURE)
    jaxem.fit(*MIXTURE, checkpoint=tmp_path / "run")
    assert len(seen) > 2 and len(set(seen)) == 1


@pytest.mark.parametrize("calls", [1, 2, 4])
@pytest.mark.slow
def test_interrupted_runs_of_many_end_with_the_same_bits(calls, tmp_path):
    path = tmp_path / "run"
    part = start("many", checkpoint=path, progress=until(calls))
    assert Status.INTERRUPTED in part.status
    _, model, _, data = run_of("many")
    again = jaxem.resume(path, model, data, progress=until(1))
    assert (again.steps >= part.steps).all() and (again.steps > part.steps).any()
    same(jaxem.resume(path, model, data, every=0), whole("many"))
    same(jaxem.resume(path, model, list(data)), whole("many"))  # it has ended


@pytest.mark.parametrize("calls", [1, 3, 8])
@pytest.mark.slow
def test_interrupted_restarts_end_with_the_same_bits(calls, tmp_path):
    path = tmp_path / "run"
    part = start("restarts", checkpoint=path, every=0, progress=until(calls))
    assert Status.INTERRUPTED in part.statuses
    _, model, _, data = run_of("restarts")
    again = jaxem.resume(path, model, data, progress=until(2), every=0)
    assert isinstance(again, jaxem.fitting.Restarts) and Status.INTERRUPTED in again.statuses
    same(jaxem.resume(path, model, data), whole("restarts"))
    same(jaxem.resume(path, model, data), whole("restarts"))  # it has ended
    with pytest.raises(ValueError, match="on other data"):
        jaxem.resume(path, model, data + 1)


@pytest.mark.slow
def test_interrupted_restarts_of_many_end_with_the_same_bits(tmp_path):
    model, _, data = many()
    path, options = tmp_path / "run", {"key": jax.random.key(5), "restarts": 5, "finalists": 2, "max_steps": 60}
    whole = jaxem.fit_many_restarts(model, data, **options)
    part = jaxem.fit_many_restarts(model, data, **options, checkpoint=path, progress=until(4))
    assert (part.statuses == Status.INTERRUPTED).any()
    same(jaxem.resume(path, model, data), whole)


@pytest.mark.parametrize("calls", [1, 2])
def test_interrupted_streams_end_with_the_same_bits(calls, tmp_path, single_steps):
    path = tmp_path / "run"
    part = start("stream", checkpoint=path, progress=until(calls))
    assert part.status == Status.INTERRUPTED and part.steps == calls
    _, model, _, data = run_of("stream")
    same(jaxem.resume(path, model, data), whole("stream"))
    with pytest.raises(ValueError, match="on other data"):
        jaxem.resume(path, model, data[::-1])


@pytest.mark.parametrize("chunk", [30, 44])
def test_a_stream_goes_on_in_the_middle_of_a_pass(chunk, tmp_path, single_steps):
    """The source fails in the middle of a pass; what the pass had added up is not read again."""
    _, model, params, data = run_of("stream")
    path, options = tmp_path / "run", {"max_steps": 8, "tol": 0.0, "chunk_bytes": 400}
    read = [0, np.inf]

    def source():
        for rows in np.array_split(data, 6):
            read[0] += 1
            if read[0] > read[1]:
                raise OSError("the disk is gone")
            yield rows

    whole = jaxem.fit_stream(model, params, source, **options, progress=lambda report: None)
    read[:] = 0, chunk
    with pytest.raises(OSError, match="the disk is gone"):
        jaxem.fit_stream(model, params, source, **options, checkpoint=path, every=0)
    read[:] = 0, np.inf
    kept = runs.read(path).facts["passes"]
    assert sum(len(passes) for passes in kept) > 0
    same(jaxem.resume(path, model, source), whole)


def kill(kind: str, path: Path, moment: Any) -> None:
    process = child(kind, path)
    assert process.stdout is not None and process.stdout.readline() == "a piece\n"
    moment(process.stdout)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    _, model, _, data = run_of(kind)
    same(jaxem.resume(path, model, data), whole(kind))


@pytest.mark.parametrize("pieces", [0, 7])
@pytest.mark.slow
def test_a_killed_process_loses_nothing(pieces, tmp_path):
    kill("one", tmp_path / "run", lambda lines: [lines.readline() for _ in range(pieces)])


@EVERYTHING
@pytest.mark.parametrize("kind", ["one", "many", "restarts", "stream"])
def test_a_process_may_be_killed_at_any_moment(kind, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        wait = rng.uniform(0, 0.5 if kind == "one" else 0.3)
        kill(kind, tmp_path / f"{number}", lambda lines, wait=wait: time.sleep(wait))


# What can go on


class Own(NamedTuple):
    theta: Any


def own_m_step(q, x):
    return Own(q + x.mean())


OWN = Model(lambda params, x: params.theta / 2, own_m_step)
X = jnp.arange(3.0)


def test_parameters_of_a_class_of_ones_own(tmp_path, single_steps):
    path = tmp_path / "run"
    whole = jaxem.fit(OWN, Own(0.5), X)
    jaxem.fit(OWN, Own(0.5), X, checkpoint=path, progress=until(2))
    with pytest.raises(ValueError, match=r"records of a class of your own \(.*Own.*as params=\.\.\."):
        jaxem.resume(path, OWN, X)
    with pytest.raises(ValueError, match="params have another structure than those of the run"):
        jaxem.resume(path, OWN, X, params={"theta": 0.5})
    same(jaxem.resume(path, OWN, X, params=Own(77.0)), whole)
    same(jaxem.resume(path, OWN, X, params=whole), whole)


@pytest.mark.parametrize("tree", [0.5, {"a": 0.5}, [0.5, (0.25, None)], {"b": [0.5], "a": {"c": 0.1}}])
def test_parameters_in_containers_of_python(tree, tmp_path, single_steps):
    path, move = tmp_path / "run", lambda theta: theta / 2 + 1
    model = Model(lambda params, x: params, lambda q, x: jax.tree.map(move, q))
    whole = jaxem.fit(model, tree, X)
    jaxem.fit(model, tree, X, checkpoint=path, progress=until(2))
    same(jaxem.resume(path, model, X), whole)


@pytest.mark.slow
def test_what_a_file_cannot_make_is_passed_again(tmp_path, single_steps):
    path, algorithm = tmp_path / "run", AnnealedEM(optax.linear_schedule(0.3, 1.0, 4))
    whole = jaxem.fit(*MIXTURE, algorithm=algorithm, max_steps=5)
    jaxem.fit(*MIXTURE, algorithm=algorithm, max_steps=5, checkpoint=path, progress=until(2))
    with pytest.raises(ValueError, match=r"algorithm=AnnealedEM, .* pass it again, algorithm=\.\.\."):
        jaxem.resume(path, MIXTURE.model, MIXTURE.data)
    with pytest.raises(ValueError, match=r"algorithm=AnnealedEM, and this one is SQUAREM\(EM\)"):
        jaxem.resume(path, MIXTURE.model, MIXTURE.data, algorithm=SQUAREM())
    same(jaxem.resume(path, MIXTURE.model, MIXTURE.data, algorithm=algorithm), whole)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Never:
    needs_objective = False

    def met(self, progress):
        return jnp.bool_(False)


@pytest.mark.slow
def test_a_rule_of_ones_own_is_passed_again(tmp_path, single_steps):
    path = tmp_path / "run"
    jaxem.fit(*MIXTURE, stop=Never(), max_steps=5, checkpoint=path, progress=until(2))
    with pytest.raises(ValueError, match=r"stop=Never, .* pass it again, stop=\.\.\."):
        jaxem.resume(path, MIXTURE.model, MIXTURE.data)
    same(
        jaxem.resume(path, MIXTURE.model, MIXTURE.data, stop=Never()),
        jaxem.fit(*MIXTURE, stop=Never(), max_steps=5),
    )


RECIPES = [
    EM(block_size=7),
    SQUAREM(Anderson().inner, scheme=2),
    Anderson(order=3, alpha=1.5, kappa=jnp.float32(0.1)),
    AnnealedEM(),
    SAEM(n_samples=3),
    GEM(steps=3, groups=(jaxem.algorithms.Group("weights"), jaxem.algorithms.Group(("components",)))),
    jaxem.fitting.any_of(jaxem.fitting.aitken(1e-8), jaxem.fitting.all_of(jaxem.fitting.plateau(10))),
    jaxem.fitting.parameter_change(np.float64(1e-300)),
    jaxem.fitting.objective_change(0),
    None,
]


@pytest.mark.parametrize("record", RECIPES, ids=[recipes.kind_of(record) for record in RECIPES])
def test_recipes_come_back(record):
    recipe = json.loads(json.dumps(recipes.describe(record)))
    back = recipes.rebuild(recipe)
    assert type(back) is type(record)
    if isinstance(record, Anderson):
        assert back.kappa == float(record.kappa) and back.alpha == record.alpha and back.inner == record.inner
    elif record is not None:
        assert back == record or jax.tree.leaves(back) == [float(leaf) for leaf in jax.tree.leaves(record)]


def test_every_algorithm_is_in_the_table():
    kinds = {name: getattr(jaxem.algorithms, name) for name in dir(jaxem.algorithms)}
    names = {name for name, kind in kinds.items() if isinstance(kind, type)}
    assert {"EM", "GEM", "SQUAREM", "Group", "IncrementalEM"} <= names <= set(recipes._records())
    assert all("made" in recipes.describe(kind()) for name, kind in kinds.items() if name[-2:] == "EM")


@pytest.mark.parametrize("held", [GEM(optax.adam(0.1)), SQUAREM(GEM(optax.adam(0.1))), AnnealedEM(lambda count: 1.0)])
def test_what_holds_functions_has_no_recipe(held):
    assert "made" not in recipes.describe(held)
    assert recipes.kind_of(SQUAREM(GEM())) == "SQUAREM(GEM)"


@pytest.mark.slow
def test_more_steps(tmp_path):
    path, (model, params, data) = tmp_path / "run", MIXTURE
    jaxem.fit(model, params, data, max_steps=5, checkpoint=path)
    before = path.stat().st_mtime_ns
    assert jaxem.resume(path, model, data).status == Status.MAX_STEPS
    assert path.stat().st_mtime_ns == before  # a run that has ended is not written again
    same(jaxem.resume(path, model, data, max_steps=30), jaxem.fit(model, params, data, max_steps=30))
    with pytest.raises(ValueError, match="max_steps is 4, and the run has already made"):
        jaxem.resume(path, model, data, max_steps=4)


@pytest.mark.slow
def test_more_steps_for_many(tmp_path):
    path, (function, model, params, data) = tmp_path / "run", run_of("many")
    function(model, params, data, max_steps=10, checkpoint=path)
    before = path.stat().st_mtime_ns
    assert (jaxem.resume(path, model, data).status == Status.MAX_STEPS).any() and path.stat().st_mtime_ns == before
    more, whole_fit = jaxem.resume(path, model, data, max_steps=300), whole("many")
    np.testing.assert_array_equal(more.status, whole_fit.status)
    np.testing.assert_array_equal(more.steps, whole_fit.steps)  # lanes run beside others, so the bits may differ


def test_no_steps(tmp_path):
    path = tmp_path / "run"
    jaxem.fit(*MIXTURE, max_steps=0, checkpoint=path)
    end = jaxem.resume(path, MIXTURE.model, MIXTURE.data)
    assert end.status == Status.MAX_STEPS and end.steps == 0


@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3, impl="rbg"), jax.random.key(3)])
@pytest.mark.slow
def test_keys_of_every_kind(key, tmp_path, single_steps):
    path, options = tmp_path / "run", {"algorithm": SAEM(), "max_steps": 4, "key": key}
    jaxem.fit(*MIXTURE, **options, checkpoint=path, progress=until(2))
    same(jaxem.resume(path, MIXTURE.model, MIXTURE.data), jaxem.fit(*MIXTURE, **options))


@pytest.mark.slow
def test_data_over_devices(tmp_path, single_steps):
    path, (model, params, data) = tmp_path / "run", MIXTURE
    whole = jaxem.fit(model, params, jaxem.shard(data), max_steps=5)
    jaxem.fit(model, params, jaxem.shard(data), max_steps=5, checkpoint=path, progress=until(2))
    same(jaxem.resume(path, model, jaxem.shard(data)), whole)
    with pytest.raises(ValueError, match="is of a run on"):
        jaxem.resume(path, model, data)


@pytest.mark.slow
def test_the_derivative_comes_back(tmp_path, single_steps):
    path, (model, params, data) = tmp_path / "run", MIXTURE
    jaxem.fit(model, params, data, checkpoint=path, progress=until(2))
    slope = jax.grad(lambda x: jaxem.resume(path, model, x).objective)(data)
    np.testing.assert_array_equal(slope, jax.grad(lambda x: jaxem.fit(model, params, x).objective)(data))
    with pytest.raises(ValueError, match="cannot be traced by jit or vmap"):
        jax.jit(lambda x: jaxem.resume(path, model, x).params)(data)


def test_the_time_goes_on(tmp_path, single_steps):
    path, seen = tmp_path / "run", []
    jaxem.fit(*MIXTURE, checkpoint=path, progress=until(2))
    spent = runs.read(path).header["seconds"]
    jaxem.resume(path, MIXTURE.model, MIXTURE.data, progress=seen.append)
    assert seen[0].steps == 3 and seen[0].seconds > spent > 0
    assert runs.read(path).header["seconds"] > seen[-1].seconds


def test_how_often_a_file_is_written(tmp_path, single_steps, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoint, "write", lambda path, header, arrays: written.append(arrays))
    steps = int(jaxem.fit(*MIXTURE, checkpoint=tmp_path / "run", every=0).steps)
    assert len(written) == 1 + steps + 1
    written.clear()
    jaxem.fit(*MIXTURE, checkpoint=tmp_path / "run")
    assert len(written) == 2


# What cannot


@pytest.fixture(scope="module", params=["safetensors", "npz"])
def content(request, tmp_path_factory):
    """The bytes of a checkpoint in either format."""
    path = tmp_path_factory.mktemp("content") / "run"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "npz":
            patch.setitem(sys.modules, "safetensors.numpy", None)
        jaxem.fit(*MIXTURE, max_steps=5, checkpoint=path)
    content = path.read_bytes()
    assert (content[:4] == b"PK\x03\x04") == (request.param == "npz")
    return content


def refused(path: Path, says: str, model: Any = MIXTURE.model, data: Any = MIXTURE.data) -> None:
    """In one sentence that names the file."""
    with pytest.raises(ValueError, match=says) as caught:
        jaxem.resume(path, model, data)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and ". " not in str(caught.value)


def test_both_formats_are_read(content, tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.write_bytes(content)
    same(jaxem.resume(path, MIXTURE.model, MIXTURE.data), jaxem.fit(*MIXTURE, max_steps=5))
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    if content[:2] == b"PK":
        jaxem.resume(path, MIXTURE.model, MIXTURE.data)
    else:
        refused(path, r'not installed: pip install "jaxem\[checkpoint\]"')


def test_a_file_that_was_cut_short(content, tmp_path):
    path = tmp_path / "run"
    for length in [0, 1, 4, 8, 9, 100, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        refused(path, "is damaged|is not a checkpoint")


def test_a_byte_that_was_changed(content, tmp_path):
    path = tmp_path / "run"
    path.write_bytes(content)
    header, arrays = checkpoint.read(path)
    rng, found = np.random.default_rng(0), 0
    for place in [*rng.integers(0, len(content), 200), 0, 3, 8, 9, len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            again, others = checkpoint.read(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            found += 1
        else:  # a byte that means nothing, such as the date of a part of a zip file
            assert again == header and others.keys() == arrays.keys()
            same(others, arrays)
    assert found > 150


def test_foreign_files(tmp_path):
    path = tmp_path / "run"
    np.savez(tmp_path / "other.npz", x=np.arange(3.0))
    path.write_bytes((tmp_path / "other.npz").read_bytes())
    refused(path, "is not a checkpoint of jaxem")
    from safetensors.numpy import save

    for metadata in (None, {"format": "np"}):
        path.write_bytes(save({"x": np.arange(3.0)}, metadata=metadata))
        refused(path, "is not a checkpoint of jaxem")
    path.write_text("a text that is no checkpoint")
    refused(path, "is not a checkpoint of jaxem: it is neither")
    refused(tmp_path / "nothing", "cannot be read as a checkpoint: No such file")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path):
    path, harm = tmp_path / "run", tmp_path / "harm"
    path.write_bytes(pickle.dumps(Bomb(harm)))
    refused(path, "is not a checkpoint of jaxem")
    np.savez(tmp_path / "bomb.npz", **{"jaxem header": np.array([Bomb(harm)], object), "jaxem checksum": np.zeros(1)})
    path.write_bytes((tmp_path / "bomb.npz").read_bytes())
    refused(path, "is damaged")
    # A file that is whole, but names what is in no table.
    jaxem.fit(*MIXTURE, max_steps=5, checkpoint=path)
    header, arrays = checkpoint.read(path)
    for made in ({"record": "os.system", "fields": {}}, {"function": "exit"}, {"record": "EM", "fields": {"x": 1}}):
        checkpoint.write(path, header | {"algorithm": {"type": "EM", "made": made}}, arrays)
        refused(path, "option algorithm that this version of jaxem cannot make")
    assert not harm.exists()


def test_another_model_data_or_setting(tmp_path):
    path, (model, params, data) = tmp_path / "run", MIXTURE
    jaxem.fit(model, params, data, max_steps=5, checkpoint=path)
    refused(path, "with another Mixture: a field", model=Mixture(Normal(), 3))
    refused(path, "with the model Mixture, and this one is HMM", model=case("ragged hmm", "float64").model)
    refused(path, r"on data float64\[70\], and these are float64\[69\]", data=data[1:])
    refused(path, "on other data: the shapes are equal", data=data.at[3].add(1e-15))
    refused(path, "on other data", data=data[::-1])
    refused(path, "in float64, and these data are float32", data=data.astype("float32"))
    header, arrays = checkpoint.read(path)
    for change, says in [
        ({"jaxem": "9.9"}, "by jaxem 9.9, and this is"),
        ({"x64": False}, "with jax_enable_x64 off, and it is on here"),
        ({"kind": "fit_other"}, "is a checkpoint of fit_other, which this version"),
    ]:
        checkpoint.write(path, header | change, arrays)
        refused(path, says)
    checkpoint.write(path, header, dict(list(arrays.items())[1:]))
    refused(path, "does not fit this model and algorithm: .* another structure")
    name = next(name for name in arrays if arrays[name].ndim)
    checkpoint.write(path, header, arrays | {name: arrays[name][:-1]})
    refused(path, f"does not fit this model and algorithm: .* has {name} as")


def test_another_format(tmp_path, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    jaxem.fit(*MIXTURE, max_steps=5, checkpoint=path)
    monkeypatch.undo()
    refused(path, "has the format 2, and this version of jaxem reads format 1")


@pytest.mark.parametrize("breaks", ["os.replace", "os.fsync"])
def test_a_write_that_fails_leaves_the_old_file(breaks, tmp_path, monkeypatch, without_safetensors):
    path = tmp_path / "run"
    checkpoint.write(path, {}, {"x": np.arange(3)})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(breaks, fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.write(path, {}, {"x": np.arange(4)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint32", "bool", "bfloat16", "float16"])
@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_arrays_come_back(dtype, format, tmp_path, monkeypatch):
    if format == "npz":
        monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    arrays = {"0.a": np.arange(6).reshape(2, 3).astype(kind).T, "1": np.zeros((), kind), "2.b": np.zeros((0, 3), kind)}
    checkpoint.write(tmp_path / "run", {"text": "ä\n"}, arrays)
    header, found = checkpoint.read(tmp_path / "run")
    assert header["text"] == "ä\n" and found.keys() == arrays.keys()
    for name in arrays:
        assert found[name].dtype == kind and found[name].shape == arrays[name].shape
        np.testing.assert_array_equal(found[name], arrays[name])


def test_names_are_unique():
    tree = {"a.b": 1.0, "a": {"b": 2.0}, "c/d e": jnp.ones(2), "f": [jax.random.key(0)]}
    tree = jax.tree.map(jnp.asarray, tree)
    arrays = packing.pack(tree)
    assert len(arrays) == 4
    same(jax.tree.map(jax.random.key_data, packing.unpack(tree, arrays)["f"]), [jax.random.key_data(tree["f"][0])])


# Fingerprints


def at(value: Any) -> Any:
    return lambda x: x + value


def with_default(value: Any) -> Any:
    return lambda x, by=value: x * by


GLOBAL = np.arange(3.0)


def reads_a_global(x):
    return helper(x) * GLOBAL


def helper(x):
    return x + 1


class Plain:
    def __init__(self, value):
        self.value = value


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


DIFFERENT = {
    "values": (np.arange(3.0), np.arange(3.0) + 1),
    "shapes": (np.zeros((2, 3)), np.zeros((3, 2))),
    "dtypes": (np.zeros(2), np.zeros(2, np.int64)),
    "zeros": (np.zeros(1), -np.zeros(1)),
    "numbers": (1, 1.0),
    "truths": (1, True),
    "texts": ("a", "b"),
    "order": ((1, 2), (2, 1)),
    "nesting": (((1,), 2), (1, (2,))),
    "kinds of containers": ((1,), [1]),
    "keys of a dictionary": ({"a": 1}, {"b": 1}),
    "random keys": (jax.random.key(0), jax.random.key(1)),
    "implementations": (jax.random.key(0), jax.random.key(0, impl="rbg")),
    "constants of functions": (lambda x: x + 1, lambda x: x + 2),
    "names in functions": (lambda x: x.sum(), lambda x: x.mean()),
    "sets in functions": (lambda x: x in {"a", "b", "c"}, lambda x: x in {"a", "b", "d"}),
    "operations": (lambda x: x + 1, lambda x: x - 1),
    "closures": (at(1), at(2)),
    "closures of arrays": (at(np.zeros(2)), at(np.ones(2))),
    "functions in functions": (at(helper), at(reads_a_global)),
    "defaults": (with_default(1), with_default(2)),
    "families": (Mixture(Normal(), 2), Mixture(MultivariateNormal(), 2)),
    "static fields": (Mixture(Normal(), 2), Mixture(Normal(), 3)),
    "attributes": (Plain(1), Plain(2)),
    "slots": (Slots(1), Slots(2)),
    "classes": (Plain(1), Slots(1)),
    "optimisers": (optax.adam(0.1), optax.adam(0.2)),
    "compiled functions": (jax.jit(at(1)), jax.jit(at(2))),
    "mapped functions": (jax.vmap(at(1)), jax.vmap(at(2))),
    "models": (Model(at(1), at(2)), Model(at(1), at(3))),
    "weights": (jaxem.dataset(X, weights=X + 1), jaxem.dataset(X, weights=X + 2)),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_fingerprints_tell_apart(what):
    a, b = DIFFERENT[what]
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(a) == fingerprint(a)


def test_fingerprints_of_equal_things_are_equal():
    assert fingerprint(Model(at(1), at(2))) == fingerprint(Model(at(1), at(2)))
    assert fingerprint((X, X)) == fingerprint((X, jnp.array(X)))  # whether they are one object does not count
    assert fingerprint(jnp.arange(3.0)) == fingerprint(np.arange(3.0))
    rows = np.arange(6.0).reshape(2, 3)
    assert fingerprint(rows.T) == fingerprint(np.ascontiguousarray(rows.T)) != fingerprint(rows)


def test_a_function_counts_with_what_it_names(monkeypatch):
    before = fingerprint(reads_a_global)
    monkeypatch.setitem(globals(), "GLOBAL", np.arange(4.0))
    assert fingerprint(reads_a_global) != before
    monkeypatch.undo()
    assert fingerprint(reads_a_global) == before
    monkeypatch.setitem(globals(), "helper", lambda x: x + 2)
    assert fingerprint(reads_a_global) != before


def test_what_leads_back_to_itself_has_a_fingerprint():
    loop: list[Any] = [1]
    loop.append(loop)
    assert len(fingerprint(loop)) == 32


@pytest.mark.slow
def test_fingerprints_are_the_same_in_every_process():
    script = """
import sys, jax
sys.path.insert(0, "tests")
jax.config.update("jax_enable_x64", True)
import test_checkpoint as t
print(*[t.fingerprint(pair) for pair in t.DIFFERENT.values()])
"""
    found = set()
    for seed in "1", "2":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1 and len(found.pop().split()) == len(DIFFERENT)
