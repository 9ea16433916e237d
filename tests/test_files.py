"""Saved models: they come back to the bit, and no file is taken for what it is not."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import case, coins_log_joint, coins_m_step
from watched import same

import jaxem
from jaxem import Affine, Status
from jaxem.__main__ import main
from jaxem.core import container
from jaxem.families import (
    Bernoulli,
    BernoulliParams,
    Beta,
    BetaPrior,
    Binomial,
    Categorical,
    Censored,
    DirichletPrior,
    Exponential,
    Gamma,
    GammaPrior,
    LogNormal,
    Multinomial,
    MultivariateNormal,
    MultivariateNormalParams,
    MultivariateStudentT,
    NegativeBinomial,
    Normal,
    NormalInverseWishart,
    NormalParams,
    PerClass,
    Poisson,
    PoissonVector,
    PriorObservations,
    Product,
    Regression,
    StudentT,
    Truncated,
    VonMises,
    Weibull,
    ZeroInflated,
)
from jaxem.files import Saved, encoding, formats
from jaxem.files.classes import CLASSES
from jaxem.fitting import Fit
from jaxem.gates import Allowed, Constant, Cyclic, LeftToRight, Softmax, SoftmaxParams, Stationary, Sticky
from jaxem.models import (
    HMM,
    Component,
    FactorAnalysis,
    ItemResponse,
    Mixture,
    MixtureParams,
    StateSpace,
    SwitchingAutoregression,
    arma,
    dynamic_factors,
)

DATA = Path(__file__).parent / "data"
TWO = Mixture(Normal(), 2)
_WISHART = NormalInverseWishart(np.arange(2.0), np.float32(0.1), np.float64(4), np.eye(2))
_LINE = Affine([0.0, 1.0], [[1.0], [2.0]])

MODELS = {
    **{
        type(family).__name__: Mixture(family, 3)
        for family in (
            *(Bernoulli(BetaPrior(2, 3.0)), Beta(), Binomial(7), Exponential(), Gamma(), LogNormal(), Multinomial(3)),
            *(MultivariateStudentT("tied"), NegativeBinomial(), PoissonVector(), VonMises(), Weibull(), StudentT(4.0)),
            *(Poisson(GammaPrior(3.0, np.float32(1.5))), ZeroInflated(Poisson()), Truncated(Normal(), -np.inf, 7.0)),
        )
    },
    "categories": Mixture(Categorical((3, 3), DirichletPrior(np.array([1.5, 2.0, 1.0]))), 2),
    "prior": Mixture(MultivariateNormal("tied", _WISHART), 2),
    "prior observations": Mixture(MultivariateNormal("full", PriorObservations(0.0, 0.5, 3.0, 0.01 * np.eye(2))), 2),
    "a floor": Mixture(MultivariateNormal(floor=1 / 3), 2),
    "censored": Mixture(Censored(Normal(), edges=(0.0, 0.1, 2.5)), 2),
    "limits": Mixture(Censored(Weibull(), limits=(0.0, np.inf)), 2),
    "experts": Mixture(Normal(), 2, gate=Softmax(on=("age", "party"))),
    "weights with a prior": Mixture(Normal(), 2, gate=Constant(prior=1.5)),
    "regression": Mixture(Regression(Poisson(), on="u", tied=(1,)), 2),
    "nested": Mixture(Product({"x": Component(HMM(Normal(), 2)), "y": Component(FactorAnalysis(2))}), 2),
    "classes of their own": HMM(PerClass((Normal(), Component(Mixture(Normal(), 2)))), 2),
    "left to right": HMM(Poisson(), 3, transition=LeftToRight(skips=None, stay=2.0)),
    "cyclic": HMM(Poisson(), 3, initial=Stationary(), transition=Cyclic(prior=jnp.ones(3))),
    "allowed by inputs": HMM(Poisson(), 2, transition=Allowed([[True, False], [True, True]], gate=Softmax(on="u"))),
    "allowed": HMM(Poisson(), 2, transition=Allowed([[True, False], [True, True]]), parallel=False),
    "sticky, driven": HMM(Normal(), 2, initial=Softmax(intercept=False), transition=Sticky(4.0)),
    "factors": FactorAnalysis(3),
    "items": ItemResponse("graded", (3, 2, 3), points=15),
    "lags": SwitchingAutoregression(2, 2),
    "pattern": StateSpace(
        2, [[1.0, None], [0.0, 1.0]], [[0.1, 0.2]], ["b"], initial=([None, 0.5], [1.0, None]), shocks=1
    ),
    "arma": arma(2, 1),
    "dynamic factors": dynamic_factors(2, 4),
    "held": jaxem.restrict(TWO, {"components.means[0]": 1 / 3, "weights[1]": 0.25}, ["components.variances"]),
    "affine": jaxem.restrict(TWO, {"components.means": _LINE}),
    "zeros": jaxem.restrict(HMM(Poisson(), 3), {"transition[0, 2]": 0.0}),
    "linked": jaxem.restrict(
        Mixture(Product({"a": Normal(), "b": Normal()}), 2), tied=[["components.a.means", "components.b.means"]]
    ),
    "tied": jaxem.restrict(HMM(Poisson(), 3), tied=["transition[0] = transition[1]"]),
    "coefficients": jaxem.restrict(
        Mixture(Normal(), 3, gate=Softmax()),
        {"weights.coefficients[1, 0]": 0.0},
        params=MixtureParams(SoftmaxParams(np.zeros((3, 2))), NormalParams(np.zeros(3), np.ones(3))),
    ),
}


def fit_of(params, dtype="float64"):
    """A fit that was never made."""
    trace = jnp.asarray([-2.0, -1.5, np.nan], dtype)
    return Fit(params, trace[1], trace, *(jnp.int32(n) for n in (1, 2, 0, 0)), float("nan"), jnp.bool_(False))


@pytest.fixture(scope="module")
def fitted():
    model, params, data = case("normal mixture", "float64")
    return model, jaxem.fit(model, params, data, max_steps=7), data


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.jaxem"


def refused(path, says, *arguments, **keywords):
    with pytest.raises(ValueError, match=says) as caught:
        jaxem.load(path, *arguments, **keywords)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def changed(path, change, new=None):
    """The file with a header and arrays that ``change`` has changed in place."""
    header, arrays = container.read(path, "", "")
    change(header, arrays)
    header.pop("dtypes")
    container.write(new or path, header, arrays)


# What comes back


def test_every_model_comes_back():
    seen = set()
    for name, model in MODELS.items():
        arrays = {}
        recipe = json.loads(json.dumps(encoding.encode(model, "model", arrays)))
        place = lambda array, name: jnp.asarray(array)
        again = encoding.decode(recipe, arrays, place)
        assert again == model and type(again) is type(model) and hash(again) == hash(model), name
        assert not arrays and repr(again) == repr(model), name
        seen |= {part.split('"')[1] for part in json.dumps(recipe).split('"record": ')[1:]}
    params = {name for name, kind in CLASSES.items() if hasattr(kind, "_fields")} - {"NormalInverseWishart"}
    spaces = {"Edge", "Space", "Orientation", "Decreasing", "UnitDeterminant", "UnitProduct", "ZeroSum", "ZeroSumWhere"}
    spaces |= {"PositiveDefinite", "UnitInterval"}
    inner = {"Fit", "Free", "Items", "Nodes", "Pattern"}  # made within models, or below
    assert set(CLASSES) - seen - params - spaces - inner == set()


def test_every_record_of_parameters_comes_back():
    for name, kind in CLASSES.items():
        if hasattr(kind, "_fields"):
            arrays, value = {}, kind(*(np.arange(3.0) + i for i in range(len(kind._fields))))
            again = encoding.decode(encoding.encode(value, "x", arrays), arrays, lambda array, name: array)
            assert type(again) is kind, name
            same(again, value)


@pytest.mark.parametrize("format", ["safetensors", "npz"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_comes_back_to_the_bit(dtype, format, path, monkeypatch):
    if format == "npz":
        monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    rng = np.random.default_rng(0)
    alike = {name: jnp.asarray(rng.normal(size=(2, 3)), dtype) for name in ("a b/c", "a_b_c")}
    params = {**alike, "d": (jnp.zeros((), dtype), [np.float32(0.1)])}
    fit = fit_of(params, dtype)
    model = jaxem.Model(max, min, constraints=jaxem.Real())
    jaxem.save(path, model, fit, rng.normal(size=(5, 2)), notes="zwei\nZeilen")
    found = jaxem.load(path, model)
    assert isinstance(found, Saved) and found.model is model and found.fit == fit
    same(found.fit.params, fit.params)
    assert jax.tree.structure(found.fit) == jax.tree.structure(fit)
    assert list(path.parent.iterdir()) == [path] and (path.read_bytes()[:2] == b"PK") == (format == "npz")


def test_a_fit_goes_on_and_answers_without_compiling(fitted, path, count_compilations):
    model, fit, data = fitted
    model.predict_proba(fit, data), jaxem.fit(model, fit, data, max_steps=7)
    jaxem.save(path, model, fit, data)
    with count_compilations() as compiled:
        found = jaxem.load(path)
        same(found.model.predict_proba(found.fit, data), model.predict_proba(fit, data))
        same(jaxem.fit(found.model, found.fit, data, max_steps=7), jaxem.fit(model, fit, data, max_steps=7))
    assert compiled.names == []
    assert str(found.fit) == str(fit) and found.fit.converged == fit.converged


def test_lanes_come_back(path):
    fit = fit_of(MixtureParams(jnp.full((2, 2), 0.5), NormalParams(jnp.ones((2, 2)), jnp.ones((2, 2)))))
    fit = dataclasses.replace(fit, status=jnp.array([0, 4], jnp.int32), objective=jnp.array([-3.0, -1.0]))
    jaxem.save(path, TWO, fit)
    found = jaxem.load(path)
    assert found.fit == fit and found.card.status == "1 CONVERGED, 1 DEGENERATE"
    assert found.card.parameters == 5 and found.card.objective == -1.0


# Models with functions of the user


class Coins(NamedTuple):
    choice: jax.Array
    first: jax.Array
    second: jax.Array


def other_log_joint(params, y):
    return coins_log_joint(params, y) + 0.0


def test_a_model_with_functions_is_passed_again(path, monkeypatch):
    space = jaxem.UnitInterval()
    model = jaxem.from_log_joint(coins_log_joint, constraints=space, m_step=coins_m_step)
    fit = fit_of(Coins(*jnp.asarray([0.5, 0.6, 0.4])))
    jaxem.save(path, model, fit)
    assert not container.read(path, "", "")[0]["card"]["held"]
    refused(path, r"does not hold its model, .* \(log_joint, m_step\): pass the model")
    refused(path, "records of a class of yours, .* pass any parameters.* choice, first, second", model)
    example = Coins(0.0, 0.0, 0.0)
    refused(path, "params have other names than choice, first, second", model, params=(0.0, 0.0, 0.0))
    found = jaxem.load(path, model, params=example)
    assert found.fit == fit and type(found.fit.params) is Coins
    named = dataclasses.replace(model, spaces=Coins(space, space, space))
    refused(path, "with another model: class of spaces, .*spaces", named)
    assert jaxem.load(path, named, check=False).fit == fit
    other = jaxem.from_log_joint(other_log_joint, constraints=space, m_step=coins_m_step)
    refused(path, "with another model: log_joint differs. If", other, params=example)
    assert jaxem.load(path, other, params=example, check=False).model is other
    monkeypatch.setattr(sys, "version_info", (3, 99))
    with pytest.warns(UserWarning, match=r"and this is 3.99, so the code of log_joint cannot be compared"):
        jaxem.load(path, other, params=example)
    refused(path, "with another model: .*spaces", named)


def test_a_prior_of_ones_own_and_a_class_of_ones_own(fitted, path):
    model, fit, _ = fitted
    scale = 2.0
    with_prior = jaxem.with_prior(model, lambda params: -(params.components.means**2).sum() / scale)
    jaxem.save(path, with_prior, fit)
    refused(path, r"functions or classes of yours \(priors\[0\]\)")
    assert jaxem.load(path, with_prior).fit == fit
    scale = 3.0
    refused(path, r"another model: priors\[0\] differs", with_prior)

    @jax.tree_util.register_static
    @dataclasses.dataclass(frozen=True)
    class Own(Normal):
        def features(self, x):
            return x[:, None]

    jaxem.save(path, Mixture(Own(), 2), fit)
    refused(path, r"\(family.features\): pass the model")
    refused(path, "another model: class of family, family.features", model)
    assert jaxem.load(path, Mixture(Own(), 2)).fit == fit


def test_a_model_in_the_file_and_one_that_is_passed(fitted, path):
    model, fit, _ = fitted
    jaxem.save(path, model, fit)
    assert jaxem.load(path, Mixture(Normal(), 2)).model == model
    refused(path, "with another model: family.floor differs", Mixture(Normal(floor=0.1), 2))
    refused(path, "with another model: class of family", Mixture(Poisson(), 2))


# Dtypes


def test_64_bits_in_a_process_with_32(path, fitted):
    model = Mixture(MultivariateNormal("full", _WISHART), 2)
    covariances = jnp.broadcast_to(jnp.eye(2), (2, 2, 2)) / 3
    params = MixtureParams(jnp.array([1 / 3, 2 / 3]), MultivariateNormalParams(jnp.ones((2, 2)) / 7, covariances))
    model = dataclasses.replace(model, family=MultivariateNormal("full", _WISHART._replace(scale=jnp.eye(2) / 3)))
    jaxem.save(path, model, fit_of(params))
    with jax.enable_x64(False):
        refused(path, "is in float64 .*, and JAX computes with 32 bits here: enable 64 bits .* dtype='float32'")
        found = jaxem.load(path, dtype="float32")
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(found.fit)} - {"int32", "bool"} == {"float32"}
        assert found.model.family.prior.scale.dtype == jnp.float32
        with pytest.raises(ValueError, match="dtype=float64 needs 64 bits"):
            jaxem.load(path, dtype="float64")
        narrow = path.with_name("narrow")
        jaxem.save(
            narrow, TWO, fit_of(MixtureParams(jnp.float32([1 / 3, 2 / 3]), NormalParams(*jnp.ones((2, 2)))), "float32")
        )
    same(found.fit.params, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params))
    assert jaxem.load(narrow).fit.params.weights.dtype == jnp.float32
    wide = jaxem.load(narrow, dtype="float64").fit
    assert wide.params.weights.dtype == wide.trace.dtype == jnp.float64
    assert abs(float(wide.params.weights.sum()) - 1) < 1e-15  # in its space to the new precision
    with pytest.raises(ValueError, match="must be a floating dtype"):
        jaxem.load(path, dtype=int)
    big = dataclasses.replace(fitted[1], objective=jnp.asarray(1e300))
    jaxem.save(path, fitted[0], big)
    with pytest.raises(ValueError, match="has values that float32 cannot hold"):
        jaxem.load(path, dtype="float32")


# What is refused


def test_what_is_not_known_is_refused(fitted, path, tmp_path):
    model, fit, data = fitted
    jaxem.save(path, model, fit)
    new = tmp_path / "changed"

    def record(name, **fields):
        def change(header, arrays):
            header["model"] = {"record": name, "fields": header["model"]["fields"] | fields}

        return change

    def without(field, header, arrays):
        del header["model"]["fields"][field]

    for change, says in {
        record("os.system"): "there is no class os.system",
        record("Mixture", more=1): "Mixture has no field more",
        record("Mixture", k={"odd": 1}): "it holds a dict",
        record("Mixture", k={"array": "weights", "of": "pickle"}): "it holds a dict",
        (lambda header, arrays: without("k", header, arrays)): "Mixture cannot be made: .*'k'",
        (lambda header, arrays: header.update(more=1)): "differs in more",
        (lambda header, arrays: header.pop("parts")): "differs in parts",
        (lambda header, arrays: header.update(format=99)): "has the format 99, written by jaxem .*: update jaxem",
        (lambda header, arrays: header["card"].pop("notes")): "has a card that this version",
        (lambda header, arrays: arrays.pop("fit.params.weights")): "the array fit.params.weights is missing",
        (lambda header, arrays: arrays.update(more=np.ones(2))): "holds more than a fit",
        (lambda header, arrays: header.update(fit=header["model"])): "holds more than a fit",
        (lambda header, arrays: header.update(kind="fit")): "is a checkpoint of a run, not a saved model",
    }.items():
        changed(path, change, new)
        refused(new, says)
    content = path.read_bytes()
    new.write_bytes(content[:-1])
    refused(new, "is damaged")
    new.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(new, "its checksum is wrong")
    refused(tmp_path / "nothing", "cannot be read as a saved model")
    with pytest.raises(ValueError, match="is a saved model, not a checkpoint"):
        jaxem.resume(path, model, data)


def test_what_cannot_be_saved_is_refused(fitted, path, tmp_path):
    model, fit, _ = fitted
    for arguments, says in [
        ((tmp_path, model, fit), "must be the path of a file; .* is a folder"),
        ((path, model, fit.params), "fit must be a Fit"),
        ((path, fit, model), "a model"),
        ((path, Mixture(Poisson(), 2), fit), "parameters"),
    ]:
        with pytest.raises(ValueError, match=says):
            jaxem.save(*arguments)
    with pytest.raises(ValueError, match="notes must be a text"):
        jaxem.save(path, model, fit, notes=3)
    with pytest.raises(ValueError, match="cannot run inside jit"):
        jax.jit(lambda fit: jaxem.save(path, model, fit))(fit)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(fitted, path, monkeypatch):
    model, fit, _ = fitted
    jaxem.save(path, model, fit)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        jaxem.save(path, model, fit, notes="again")
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


# Formats


@pytest.mark.parametrize("name", ["saved_1.safetensors", "saved_1.npz"])
def test_a_file_of_format_1_can_be_read(name):
    """Written by the first version that wrote any; they are never written again."""
    found = jaxem.load(DATA / name)
    model = jaxem.restrict(
        Mixture(Product({"a": Normal(floor=0.125), "b": Bernoulli(BetaPrior(2.0, 3.0))}), 2), {"weights": [0.25, 0.75]}
    )
    assert found.model == model
    assert float(found.fit.objective) == -12.5 and found.fit.status == Status.CONVERGED
    np.testing.assert_array_equal(found.fit.params.components["a"].means, np.array([0.1, 1 / 3]))
    np.testing.assert_array_equal(found.fit.params.components["b"].probabilities, [[0.5], [0.75]])
    assert found.names == (("values.a", (("age",), (None,))), ("values.b", (("party",), (("left", "right"),))))
    assert found.card.notes == "format 1" and found.card.versions["jaxem"] == "0.1.0"


def test_an_older_format_is_brought_up_to_date(fitted, path, monkeypatch):
    model, fit, _ = fitted
    jaxem.save(path, model, fit)
    monkeypatch.setattr(formats, "FORMAT", 3)
    refused(path, "has the format 1, .* reads formats up to 3")

    def to_2(header, arrays):  # the class was called Mixture before
        return {
            **header,
            "format": 2,
            "model": json.loads(json.dumps(header["model"]).replace("Normal", "Gaussian")),
        }, arrays

    def to_3(header, arrays):
        return {
            **header,
            "format": 3,
            "model": json.loads(json.dumps(header["model"]).replace("Gaussian", "Normal")),
        }, arrays

    monkeypatch.setattr(formats, "UPGRADES", {1: to_2, 2: to_3})
    assert jaxem.load(path).model == model and jaxem.load(path).fit == fit


# The card


def test_the_card(path, capsys, tmp_path, count_compilations):
    import pandas as pd

    frame = pd.DataFrame({"age": [0.5, 1.5, 2.5, 9.0], "party": pd.Categorical(["b", "a", "a", "b"])})
    params = MixtureParams(jnp.array([0.25, 0.75]), MultivariateNormalParams(jnp.eye(2), jnp.ones((2, 2))))
    model = jaxem.restrict(Mixture(MultivariateNormal("diag"), 2), {"components.means[0, 1]": 0.0}, params=params)
    jaxem.save(path, model, fit_of(params), frame, algorithm=jaxem.SQUAREM(), notes="a\nb")
    card = jaxem.load(path).card
    assert card.model == "Mixture(MultivariateNormal('diag'), k=2) with restrictions on components.means"
    assert card.parameters == 8 and card.status == "CONVERGED" and card.objective == -1.5 and card.steps == 1
    assert card.algorithm == "SQUAREM(EM)" and card.data.names == jaxem.dataset(frame).names == jaxem.load(path).names
    assert set(card.versions) == {"jaxem", "jax", "jaxlib", "numpy", "python"} and card.saved.endswith("UTC")
    other = tmp_path / "other"
    jaxem.save(other, model, fit_of(params), frame.assign(age=[0.5, 1.5, 2.5, 9.5]))
    assert jaxem.load(other).card.data.fingerprint != card.data.fingerprint
    assert jaxem.files.card.data_card(frame) == card.data
    with count_compilations() as compiled:
        assert main(["show", str(path), str(other)]) == 0
    shown = capsys.readouterr().out
    assert compiled.count == 0 and str(card) in shown and "values party: a, b" in shown and "not recorded" in shown
    assert main(["show", str(tmp_path / "nothing")]) == 1 and "No such file" in capsys.readouterr().err


def test_a_checkpoint_is_shown(fitted, tmp_path, capsys):
    model, _, data = fitted
    jaxem.fit(model, model.init(jax.random.key(0), data), data, max_steps=3, tol=0.0, checkpoint=tmp_path / "run")
    assert main(["show", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "3 of 3" in shown and "jaxem.fit" in shown and "float64[70]" in shown
    container.write(tmp_path / "odd", {}, {})
    assert main(["show", str(tmp_path / "odd")]) == 1 and "is neither" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own():
    command = [sys.executable, "-m", "jaxem", "show", str(DATA / "saved_1.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "restrictions on weights" in done.stdout and not done.stderr


def write_stored() -> None:
    """The stored files of format 1; kept to show what is in them."""
    import pandas as pd

    family = Product({"a": Normal(floor=0.125), "b": Bernoulli(BetaPrior(2.0, 3.0))})
    model = jaxem.restrict(Mixture(family, 2), {"weights": [0.25, 0.75]})
    of = {
        "a": NormalParams(jnp.array([0.1, 1 / 3]), jnp.array([1.0, 2.0])),
        "b": BernoulliParams(jnp.array([[0.5], [0.75]])),
    }
    fit = dataclasses.replace(fit_of(MixtureParams(jnp.array([0.25, 0.75]), of)), objective=jnp.asarray(-12.5))
    data = jaxem.dataset(
        {"a": pd.Series([1.0, 2.0], name="age"), "b": pd.DataFrame({"party": pd.Categorical(["right", "left"])})}
    )
    for name in ("saved_1.safetensors", "saved_1.npz"):
        sys.modules |= {"safetensors.numpy": None} if name.endswith("npz") else {}
        jaxem.save(DATA / name, model, fit, data, notes="format 1")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    write_stored()
