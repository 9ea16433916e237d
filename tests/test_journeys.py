"""The journeys run as a new user would run them: each script in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

JOURNEYS = Path(__file__).parent.parent / "examples" / "journeys"

# script: (its arguments, what it prints, the pictures it draws)
TABLE = {
    "own_bound": ([], ["CONVERGED", "0.730463"], ["own_bound.png"]),
    "own_log_joint": ([], ["DECREASED", "violated: M-step stationary", "one hour more"], None),
    "trials": ([], ["3:  -14", "emissions.means[0]", "the log-likelihood"], None),
    "survey": ([], ["<- best", "observations; mean ± standard error", "voter 4"], ["survey_profile.png"]),
    "stream": (["--rows", "50000"], ["1 step, ", "killed; going on", "CONVERGED", "class of a new row: ["], None),
}
SLOW = {"own_log_joint", "trials", "survey", "stream"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.everything] * (name in SLOW)) for name in TABLE]
)
@pytest.mark.slow
def test_a_journey(name, tmp_path):
    arguments, printed, pictures = TABLE[name]
    output = ["--output", str(tmp_path)] if pictures else []
    command = [sys.executable, "-W", "error", str(JOURNEYS / f"{name}.py"), *arguments, *output]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for text in printed:
        assert text in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == (pictures or [])


def test_every_journey_is_tested_and_short():
    assert {path.stem for path in JOURNEYS.glob("*.py")} == set(TABLE)
    for path in JOURNEYS.glob("*.py"):
        assert len(path.read_text().splitlines()) < 65, path
