"""Imports point one way, and importing jaxem does nothing but define it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*command, **keywords):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, **keywords)


def test_imports_point_one_way():
    tool = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    assert tool, "import-linter is part of the extra `dev`"
    done = run(tool, "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_programs_are_compiled_in_one_place():
    """What ``jax.jit`` or a cache of Python's keeps of a model, it keeps for ever: see jaxem/core/compilation.py."""
    files = [path for path in (ROOT / "jaxem").rglob("*.py") if path.name != "compilation.py"]
    assert not [path.name for path in files if re.search(r"\bjax\.(jit|pmap)\b|import jit\b", path.read_text())]


def test_import_has_no_side_effects():
    """No setting of JAX changes, no device is touched, no handler is added, nothing optional is imported."""
    script = """
import logging, sys, jax
from jax._src.xla_bridge import backends_are_initialized
before = dict(jax.config.values)
import jaxem, jaxem.plot, jaxem.models, jaxem.families, jaxem.datasets
assert dict(jax.config.values) == before, "a setting changed"
assert not backends_are_initialized(), "a device was initialised"
assert not logging.getLogger("jaxem").handlers
optional = {"matplotlib", "scipy.stats", "sklearn", "hmmlearn", "pytest", "orbax"} & set(sys.modules)
assert not optional, optional
"""
    done = run(sys.executable, "-W", "error", "-c", script)
    assert done.returncode == 0, done.stderr
