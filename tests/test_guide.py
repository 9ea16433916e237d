"""Every page of the guide runs, and what it claims holds: the claims are its own assertions."""

import guide
import pytest

# The pages that take less than four seconds of compilation; the others run with --everything.
QUICK = ("what_a_fit_tells", "own_e_step")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.everything] * (name not in QUICK)) for name in guide.ORDER]
)
@pytest.mark.slow
def test_a_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = guide.SCRIPTS / f"{name}.py"
    script = path.read_text()
    cells = guide.cells(script)
    assert cells[0].is_text and cells[0].content.startswith("# ")  # a heading comes first
    assert len(script.splitlines()) <= 165
    exec(compile(script, str(path), "exec"), {"__name__": "__main__"})


def test_every_page_is_in_the_order():
    assert sorted(guide.ORDER) == sorted(path.stem for path in guide.SCRIPTS.glob("*.py"))
