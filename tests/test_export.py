"""Exported functions: the answers of the library, for any number of observations, in a process without jaxem."""

import os
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, case
from closeness import assert_within, eps
from jax import export

import jaxem
from jaxem import Dataset
from jaxem.core.data import with_weights
from jaxem.files.exporting import _ANSWERS
from jaxem.models import HMM

EVERYTHING = pytest.mark.everything

# Artefacts and their inputs, and what a process without jaxem makes of them.
ELSEWHERE = """
import sys
import jax
import numpy as np
from jax import export

jax.config.update("jax_enable_x64", True)
for folder in sys.argv[1:]:
    call = export.deserialize(open(f"{folder}/model.bin", "rb").read()).call
    for inputs in np.load(f"{folder}/inputs.npy", allow_pickle=True):
        values = inputs.pop("values")
        found = jax.tree.leaves(call(values, **inputs))
        np.savez(f"{folder}/found{len(jax.tree.leaves(values)[0])}.npz", *found)
assert "jaxem" not in sys.modules
"""


def plain(record):
    """A record of the library as a dict, without parts that are ``None``."""
    if not hasattr(record, "_fields"):
        return record
    return {name: plain(part) for name, part in record._asdict().items() if part is not None}


def inputs_of(data, n):
    """The inputs of an artefact: n rows of data (their own, again and again), NaN in missing cells."""
    data = data if isinstance(data, Dataset) else Dataset(data)
    values = data.values
    if data.observed is not None:
        values = jax.tree.map(lambda leaf, seen: jnp.where(seen, leaf, jnp.nan), values, data.observed)
    found = {"values": values, "given": data.given, "lengths": data.lengths}
    take = lambda leaf: np.asarray(leaf)[np.arange(n) % len(leaf)]
    return jax.tree.map(take, {name: part for name, part in found.items() if part is not None})


def as_data(inputs):
    """The data of these inputs, as the library takes them."""
    inputs = dict(inputs)
    later = inputs.pop("later", None)
    values = inputs.pop("values")
    holes = any(np.isnan(leaf).any() for leaf in jax.tree.leaves(values) if leaf.dtype.kind == "f")
    return jaxem.dataset(values, **inputs, missing="nan" if holes else "refuse"), later


# Name of the case, function, dtype, options of the export, numbers of observations.
ROWS = [
    ("full", "predict_proba", "float64", {}, (1, 7, 1000)),
    ("full", "log_prob", "float32", {"platforms": ("cpu", "cuda", "tpu")}, (7,)),
    ("mixed columns", "predict_proba", "float64", {}, (60,)),
    ("experts", "predict", "float64", {}, (7,)),
    ("ragged hmm", "predict", "float32", {"any_length": True}, (7,)),
    ("driven hmm", "forecast", "float64", {"horizon": 3}, (7,)),
    ("factor analysis", "transform", "float32", {}, (7,)),
    ("state space", "filter", "float64", {"any_length": True}, (5,)),
    ("log-joint", "predict_proba", "float64", {}, (7,)),
]


def exported(row, folder):
    """An artefact in a folder with its inputs, and the answers of the library."""
    name, what, dtype, options, numbers = row
    model, params, data = case(name, dtype)
    if name == "driven hmm":  # a start has no slopes
        slopes = jnp.array([[0.8, -0.8], [-0.5, 0.5]], dtype)
        moves = params.transition.coefficients.at[:, :, 1].set(slopes)
        params = params._replace(transition=params.transition._replace(coefficients=moves))
    inputs = [inputs_of(data, n) for n in numbers]
    if options.get("any_length"):  # fewer steps than in the example
        inputs = [
            {part: leaf if part == "lengths" else leaf[:, :9] for part, leaf in each.items()}
            | ({"lengths": np.minimum(each["lengths"], 9)} if "lengths" in each else {})
            for each in inputs
        ]
    if what == "forecast" and "given" in inputs[0]:
        inputs = [each | {"later": each["given"][:, :3]} for each in inputs]
        options = {**options, "given": inputs[0]["later"]}
    jaxem.export(model, params, what, folder / "model.bin", like=data, **options)
    np.save(folder / "inputs.npy", np.array([*inputs, None], object)[:-1], allow_pickle=True)
    answers = {}
    for each in inputs:
        data, later = as_data(each)
        more = {part: value for part, value in options.items() if part == "horizon"}
        more |= {} if later is None else {"given": later}
        found = getattr(model, "predict" if what == "transform" else what)(params, data, **more)
        answers[len(jax.tree.leaves(each["values"])[0])] = jax.tree.leaves(plain(found))
    return answers


def compare(rows, tmp_path):
    folders = [tmp_path / str(number) for number in range(len(rows))]
    for folder in folders:
        folder.mkdir()
    answers = [exported(row, folder) for row, folder in zip(rows, folders, strict=True)]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *map(str, folders)], check=True, env={**os.environ})
    for folder, row, of_row in zip(folders, rows, answers, strict=True):
        for n, wanted in of_row.items():
            with np.load(folder / f"found{n}.npz") as file:
                found = [file[name] for name in file.files]
            assert len(found) == len(wanted), row
            for one, other in zip(found, wanted, strict=True):
                assert one.dtype == other.dtype and one.shape == other.shape, row
                other = np.asarray(other)
                slack = 1e4 * eps(row[2]) if one.dtype.kind == "f" else 0
                known = np.isfinite(other)
                assert_within(one[known], other[known], slack * (1 + np.abs(other[known]).max(initial=0)))
                np.testing.assert_array_equal(one[~known], other[~known])


@pytest.mark.slow
def test_the_answers_in_a_process_without_jaxem(tmp_path):
    compare(ROWS, tmp_path)


@EVERYTHING
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_every_function_of_every_model(name, dtype, tmp_path):
    model, rows = case(name, dtype).model, []
    for what in _ANSWERS:
        if hasattr(model, what):
            rows.append((name, what, dtype, {"horizon": 3} if what == "forecast" else {}, (5,)))
    if isinstance(model, HMM):
        rows += [(name, what, dtype, {"any_length": True}, (5,)) for what in ("predict", "predict_proba", "filter")]
    compare(rows, tmp_path)


def test_shapes_alone_and_one_process():
    """From shapes, whose number of rows does not count; rows that cannot be are answered, not refused."""
    model, params, x = case("full", "float64")
    made = jaxem.export(model, params, "predict", like=jax.ShapeDtypeStruct((0, 2), jnp.float64))
    x = jnp.asarray(x).at[3, 1].set(jnp.nan)
    found = export.deserialize(made.serialize()).call(x)
    assert found[3] == -1
    np.testing.assert_array_equal(found, model.predict(params, x))
    assert made.fun_name == "predict" and [str(each.shape) for each in made.in_avals] == ["(n, 2)"]
    named = with_weights(x, jnp.ones(len(x)))  # weights are no input
    assert str(jaxem.export(model, params, "predict", like=named).in_avals) == str(made.in_avals)


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    model, params, x = case("full", "float64")
    for what, says in [
        ("fit", "Mixture has predict, predict_proba, log_prob; got 'fit'"),
        ("filter", "Mixture has predict"),
        ("transform", "Mixture has predict"),
    ]:
        with pytest.raises(ValueError, match=says):
            jaxem.export(model, params, what, like=x)
    with pytest.raises(ValueError, match="any_length is for sequences"):
        jaxem.export(*case("normal mixture", "float64")[:2], "predict", like=jnp.ones(3), any_length=True)
    with pytest.raises(ValueError, match="on 3 columns"):
        jaxem.export(model, params, "predict", like=jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="cannot run inside jit"):
        jax.jit(lambda params: jaxem.export(model, params, "predict", like=x))(params)
    chain, start, y = case("state space", "float64")
    with pytest.raises(ValueError, match="smooth of StateSpace cannot be computed for a number of observations and st"):
        jaxem.export(chain, start, "smooth", like=y, any_length=True)
    monkeypatch.setattr(export.Exported, "serialize", no_flatbuffers)
    with pytest.raises(ImportError, match=r'pip install "jaxem\[export\]"'):
        jaxem.export(model, params, "predict", tmp_path / "model.bin", like=x)
    assert not list(tmp_path.iterdir())


@pytest.mark.xfail(
    jax.__version__.startswith("0.12."),
    reason="JAX 0.12 caches the traced function of an artefact of free length by itself, with its constants",
    strict=True,
)
def test_nothing_is_kept(collect):
    """The parameters are constants of the artefact, and not held by JAX beyond it."""
    model, params, x = case("normal mixture", "float64")
    params = jax.tree.map(lambda leaf: leaf + 0, params)
    weights = weakref.ref(params.weights)
    made = jaxem.export(model, params, "predict", like=x)
    del params, made
    collect()
    assert weights() is None


def no_flatbuffers(*_):
    raise ImportError("Please install 'flatbuffers' in order to use Exported serialization")
