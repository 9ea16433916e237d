"""Each algorithm keeps its promises on a model of each kind; all pairs are in ``benchmarks/promises.py``."""

import pytest
from algorithms import ADDITIVE, ALGORITHMS, check_promises

# Every algorithm in either precision, and every model at least once.
PAIRS = [(name, ADDITIVE[i % len(ADDITIVE)], "float64") for i, name in enumerate(ALGORITHMS)]
PAIRS += [(name, ADDITIVE[(i + len(ALGORITHMS)) % len(ADDITIVE)], "float32") for i, name in enumerate(ALGORITHMS)]


def test_the_pairs_cover_the_table():
    assert {name for _, name, _ in PAIRS} == set(ADDITIVE)


@pytest.mark.parametrize(("algorithm", "name", "precision"), PAIRS)
def test_algorithm_keeps_its_promises(algorithm, name, precision):
    assert check_promises(algorithm, name, precision) is not None
