"""Every example runs, prints its figures, and draws its pictures."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

# script: (what it prints, the pictures it draws)
TABLE = {
    "genetic_linkage": (
        ["theta", "0.626821", "0.1328", "all checked laws hold", "decomposition"],
        [],
    ),
    "missing_information": (
        ["377.5", "435.3", "57.8", "0.1328", "0.0515", "seen in the trace", "profile likelihood"],
        [],
    ),
    "error_bars": (
        ["272 observations, 11 free parameters", "components.means[1, 1]", "bootstrap and the sandwich differ"],
        ["error_bars.png"],
    ),
    "missing_cells": (["all 153 days", "log-likelihood -1896.171507", "94 % of the species"], []),
    "three_coins": (["0.4064", "0.5368", "0.6432", "log-likelihood -6.7301166701   chance of a 1: 0.6"], []),
    "earthquakes": (["328.5275", "20 starts", "violent"], ["earthquakes.png"]),
    "trials": (["held-out", "mean  0.00", "of 1024 steps", "with it"], ["trials.png"]),
    "acceleration": (["2055", "SQUAREM", "Anderson", "-1989.94585988"], ["acceleration.png"]),
    "gem_optax": (["ECME", "batches of 32", "-342.851084", "all checked laws hold"], ["gem_optax.png"]),
    "online": (["100,000 rows", "One pass of OnlineEM comes as near as 15 passes of EM."], ["online.png"]),
    "tuning_a_prior": (
        ["implicit function theorem  0.140546", "before  strength  1.00", "-4.5723", "-4.4493"],
        ["tuning_a_prior.png"],
    ),
    "how_many_components": (
        ["441.612", "CONVERGED <- best", "2 against 3: likelihood ratio 34.128", "agrees"],
        ["how_many_components.png"],
    ),
    "gallery": (
        ["-1130.26", "<- best", "relative entropy 0.97", "moralg", "distance of u   0.055"],
        [
            f"gallery_{name}.png"
            for name in ("mixture", "intervals", "selection", "pairs", "classes", "profile", "states", "transitions")
        ]
        + [f"gallery_{name}.png" for name in ("residuals", "smoothed", "test")],
    ),
    "nile": (["-632.5456", "-380.0077", "15099", "1469", "agrees"], ["nile.png"]),
    "survey": (["-20627.355", "CONVERGED <- best", "6 classes, 1785 observations", "Bush"], ["survey.png"]),
    "first_principles": (
        [*(f"\nT{number:<3} " for number in range(1, 19)), "All 18 statements hold."],
        ["kl.png", "bound.png"],
    ),
}
OLD_FAITHFUL = (
    ["CONVERGED", "-1130.264", "-2322.192", "all checked laws hold", "35.6 %"],
    ["old_faithful.png", "old_faithful_bound.png"],
)


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(printed, folder, figures, pictures):
    for figure in figures:
        assert figure in printed
    assert "DIFFERS" not in printed and "VIOLATED" not in printed
    assert sorted(path.name for path in folder.glob("*")) == sorted(pictures)
    for picture in pictures:
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.slow
def test_example(name, monkeypatch, capsys, tmp_path):
    figures, pictures = TABLE[name]
    main = load(name, monkeypatch).main
    main(["--output", str(tmp_path)]) if pictures else main()
    check(capsys.readouterr().out, tmp_path, figures, pictures)


def test_old_faithful_as_a_script(tmp_path):
    command = [
        sys.executable,
        "-W",
        "error",
        str(EXAMPLES / "old_faithful.py"),
        "--output",
        str(tmp_path / "new" / "one"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check(done.stdout, tmp_path / "new" / "one", *OLD_FAITHFUL)


def test_every_example_is_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("_")}
    assert scripts == {*TABLE, "old_faithful"}


def test_a_figure_that_differs_ends_the_example(monkeypatch, capsys):
    compare = load("_report", monkeypatch).compare
    compare("book", [("theta", "0.62", 0.6299)])
    with pytest.raises(SystemExit, match="differs from book: theta"):
        compare("book", [("theta", "0.62", 0.631), ("rate", "1", 1.0)])
    assert "DIFFERS" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="differs"):
        compare("book", [("theta", "0.62", float("nan"))])
