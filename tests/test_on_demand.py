"""Packages load on demand, and nothing but the time of an import tells: names, stars, pickles, modules, errors."""

import ast
import inspect
import pickle
import subprocess
import sys

import public
import pytest

import jaxem
from jaxem.core.on_demand import _Package

PACKAGES = [module for module in public.modules().values() if type(module) is _Package]


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_these_packages_do():
    assert {"jaxem", "jaxem.core", "jaxem.families", "jaxem.fitting", "jaxem.models"} <= {p.__name__ for p in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_name_is_what_its_import_says(package):
    """The imports of the file run here, one by one."""
    (block,) = [node for node in ast.parse(inspect.getsource(package)).body if isinstance(node, ast.If)]
    names = []
    for statement in block.body:
        found = {}
        exec(ast.unparse(statement), found)
        for alias in statement.names:
            assert getattr(package, alias.name) is found[alias.name]
            names.append(alias.name)
    assert set(names) <= set(dir(package))
    assert dir(package) == sorted(dir(package)) and not {"TYPE_CHECKING", "on_demand", "_code"} & set(dir(package))


@pytest.mark.slow
def test_a_module_does_not_take_the_name_of_its_function():
    """In whichever order they are loaded: the import system binds a module to its name in the package."""
    script = """
import importlib, sys
names = "fitting.fit", "fitting.explain", "fitting.resume", "inference.residuals", "inference.separation", "files.show"
for name in names if sys.argv[1:] else ():
    importlib.import_module(f"jaxem.{name}")
import jaxem, jaxem.fitting.fit, jaxem.core.capabilities
from jaxem.fitting import fit
from jaxem.core import capabilities
functions = [getattr(getattr(jaxem, name.split(".")[0]), name.split(".")[1]) for name in names]
assert all(callable(each) for each in [jaxem.fitting.fit, jaxem.core.capabilities, fit, capabilities, *functions])
importlib.import_module("jaxem.fitting.stream")
assert fit is jaxem.fit is jaxem.fitting.fit and sys.modules["jaxem.fitting.fit"].fit is fit
"""
    for before in ([], ["modules"]):
        subprocess.run([sys.executable, "-c", script, *before], check=True)


@pytest.mark.slow
def test_what_a_script_may_write():
    """Modules without an import of their own, imports of everything, subpackages, and what is defined in the file."""
    script = """
from jaxem import *
from jaxem.families import *
import jaxem
assert Normal is families.Normal and EM is jaxem.algorithms.EM and "MultivariateNormal" in globals()
assert not {"plot", "sklearn", "datasets"} & set(globals()), "they may need an extra"
assert jaxem.core.rows.FromRows and jaxem.inference.verify.laws and jaxem.core.spaces.ZeroSum and jaxem.latent.classes
assert jaxem.datasets.nile and jaxem.__version__
"""
    assert not run(script)


def test_an_unknown_name_is_an_error():
    for package in PACKAGES:
        for name in ("nothing", "__nothing__"):
            with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute '{name}'"):
                getattr(package, name)
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        exec("from jaxem.families import Nothing")


@pytest.mark.slow
def test_pickles_need_nothing_but_themselves():
    """A process that unpickles an object loads its class, though nobody has imported the package."""
    model = jaxem.models.Mixture(jaxem.families.Poisson(), 2)
    for thing in (model, jaxem.fit, jaxem.families.Poisson):
        script = f"import pickle; print(pickle.loads({pickle.dumps(thing)!r}).__class__.__name__)"
        assert run(script) == [type(thing).__name__]


@pytest.mark.slow
def test_only_what_is_used_is_loaded():
    script = """
import sys, jaxem
print("jax" in sys.modules, sum(name.startswith("jaxem.") for name in sys.modules))
jaxem.families.Poisson
print(*("jaxem." + name in sys.modules for name in ("families.poisson", "families.beta", "models.hmm", "fitting.fit")))
from jaxem.models import Mixture
jaxem.fit
print("optax" in sys.modules, "jaxem.algorithms.anderson" in sys.modules)
"""
    jax, modules, *loaded = run(script)
    assert jax == "False" and int(modules) < 15
    assert loaded == ["True", "False", "False", "False", "False", "False"]


@pytest.mark.slow
def test_names_are_found_by_whoever_asks_first():
    """Eight threads at once ask a new process for the same names."""
    script = """
import concurrent.futures as futures, jaxem
names = "Beta", "Normal", "Poisson", "Weibull", "Regression"
ask = lambda i: [getattr(jaxem.families, name) for name in names] + [jaxem.fit, jaxem.select]
with futures.ThreadPoolExecutor(8) as pool:
    first, *others = pool.map(ask, range(8))
assert all(other == first for other in others)
"""
    assert not run(script)


def test_a_name_can_be_replaced_for_a_while(monkeypatch):
    poisson = jaxem.families.Poisson
    monkeypatch.setattr(jaxem.families, "Poisson", None)
    assert jaxem.families.Poisson is None
    monkeypatch.undo()
    assert jaxem.families.Poisson is poisson
