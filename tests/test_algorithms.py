"""Each algorithm keeps its promises on a model of each kind; with ``--everything`` on every model, in both precisions.

``benchmarks/promises.py`` stores the table of all pairs.
"""

import pytest
from algorithms import ADDITIVE, ALGORITHMS, check_promises

# Every algorithm, and every model at least once.
PAIRS = [(name, ADDITIVE[i], "float64") for i, name in enumerate(ALGORITHMS)]
PAIRS += [(name, model, "float32") for name, model in zip(ALGORITHMS, ADDITIVE[len(ALGORITHMS) :], strict=False)]
PAIRS += [("EM", model, "float64") for model in ADDITIVE[2 * len(ALGORITHMS) :]]
REST = [(a, m, p) for p in ("float64", "float32") for m in ADDITIVE for a in ALGORITHMS if (a, m, p) not in PAIRS]


def test_the_pairs_cover_the_table():
    assert {name for _, name, _ in PAIRS} == set(ADDITIVE)
    assert {name for name, _, _ in PAIRS} == set(ALGORITHMS)


@pytest.mark.parametrize(("algorithm", "name", "precision"), PAIRS)
def test_algorithm_keeps_its_promises(algorithm, name, precision):
    assert check_promises(algorithm, name, precision) is not None


@pytest.mark.everything
@pytest.mark.parametrize(("algorithm", "name", "precision"), REST)
def test_every_other_pair(algorithm, name, precision):
    check_promises(algorithm, name, precision)  # None where the model lacks what the algorithm needs
