"""The stored coverage of 95 % intervals: of every row, and as near 95 % as simulation can tell."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_stored_coverage_is_that_of_correct_intervals(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from recovery import CASES

    rows = json.loads((ROOT / "benchmarks/results/recovery.json").read_text())["rows"]
    assert rows.keys() == CASES.keys()
    for name, row in rows.items():
        # Four standard errors, because there are hundreds of shares.
        error = (0.95 * 0.05 / row["data sets"]) ** 0.5
        assert row["refused"] == row["not converged"] == 0, name
        assert all(abs(share - 0.95) < 4 * error for share in row["coverage"].values()), (name, row["coverage"])
