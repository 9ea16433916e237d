"""The README is true: its Python blocks run, and their fits converge; its shell blocks are what they must be."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).parents[1]
README = readme.TEXT
PYTHON = readme.BLOCKS
SHELL = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", PYTHON, ids=[f"block {i}" for i in range(len(PYTHON))])
def test_python_block_runs_and_its_fits_converge(block):
    readme.run(block)


def test_the_family_of_the_contributors_guide():
    [block] = readme.blocks_of((ROOT / "CONTRIBUTING.md").read_text())
    assert sum(line.startswith("    def ") for line in block.splitlines()) <= 9
    readme.run(block)


def test_python_blocks_in_32_bits():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, "-W", "error", readme.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_readme_has_examples_of_each_kind():
    assert len(PYTHON) >= 3
    assert "examples/old_faithful.py" in SHELL[0]
    assert "pytest" in SHELL[1]
    assert all(block.count("\n") == 1 for block in SHELL[:2])  # one command line each


def test_files_that_the_readme_names_exist():
    for path in re.findall(r"\]\(([\w/.]+)\)|`((?:examples|tests|benchmarks)/[\w/.]+)`", README):
        assert (ROOT / (path[0] or path[1])).exists(), path
    measurements = (ROOT / "benchmarks/README.md").read_text()
    for path in re.findall(r"\]\((results/[\w/.]+)\)|`([\w/]+\.py)`", measurements):
        assert any((ROOT / folder / (path[0] or path[1])).exists() for folder in ("benchmarks", ".")), path


def test_the_table_of_speed_is_that_of_the_stored_run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from peers import table

    told = (ROOT / "benchmarks/README.md").read_text()
    assert table(json.loads((ROOT / "benchmarks/results/peers.json").read_text())) in told
