"""The README is true: each of its Python blocks runs, and the first two shell blocks are what they must be."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
SHELL = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", PYTHON, ids=[f"block {i}" for i in range(len(PYTHON))])
def test_python_block_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_readme_has_examples_of_each_kind():
    assert len(PYTHON) >= 3
    assert "examples/old_faithful.py" in SHELL[0]
    assert "pytest" in SHELL[1]
    assert all(block.count("\n") == 1 for block in SHELL[:2])  # one command line each


def test_files_that_the_readme_names_exist():
    for path in re.findall(r"\]\(([\w/.]+)\)|`((?:examples|tests|benchmarks)/[\w/.]+)`", README):
        assert (ROOT / (path[0] or path[1])).exists(), path


def test_the_table_of_speed_is_that_of_the_stored_run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from peers import table

    assert table(json.loads((ROOT / "benchmarks/results/peers.json").read_text())) in README
