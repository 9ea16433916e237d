"""Printed tables: no answer hidden, no name that breaks a line, no column out of place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.core import tables, trees
from jaxem.inference.coordinates import coordinate_names
from jaxem.inference.uncertainty.information import Information
from jaxem.inference.uncertainty.summary import Summary
from jaxem.inference.verify.certificate import Certificate, Check, Verdict

NAMES = [
    "{",
    "}",
    "{0}",
    "%s",
    "$x$",
    "\n",
    "a\r\nb",
    "\x1b[2J",
    "",
    " ",
    3,
    "3",
    None,
    "ü",
    "漢字",
    "e\u0301",
    "x" * 300,
]


def test_names_are_one_line_each_and_different():
    found = tables.names(NAMES)
    assert len(set(found)) == len(NAMES)
    assert all(name.isprintable() and name.strip() for name in found)
    assert found[:5] == ["{", "}", "{0}", "%s", "$x$"] and found[13:15] == ["ü", "漢字"]
    assert len(found[-1]) <= 60
    long = ["x" * 40 + middle + "y" * 40 for middle in "ab"]
    assert tables.names(long) == long  # what tells them apart stands in the middle
    assert tables.names(["long" * 50, "other"])[1] == "other"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((1986.001, 0.0004, 1986.0002, 1986.0018), ["1986.00100", "0.00040", "1986.00020", "1986.00180"]),
        ((1986.25, 312.4, 1374.0, 2598.6), ["1986", "312", "1374", "2599"]),
        ((9.9996, 0.0104, 9.98, 10.02), ["10.000", "0.010", "9.980", "10.020"]),
        ((1.0, 0.0996, 0.805, 1.195), ["1.00", "0.10", "0.81", "1.20"]),  # 0.0996 rounds to 0.10
        ((1.7e9 + 0.5, 0.25, 1.7e9, 1.7e9 + 1), ["1700000000.50", "0.25", "1700000000.00", "1700000001.00"]),
        ((1e300, 1e298, 9e299, 1.2e300), ["1.000e+300", "1.0e+298", "9.00e+299", "1.200e+300"]),
        ((1e-300, 1e-301, 8e-301, 1.2e-300), ["1.00e-300", "1.0e-301", "8.0e-301", "1.20e-300"]),
        ((0.001, 0.02, 1e-9, 15.0), ["0.0010", "0.020", "1.0e-09", "15.000"]),  # small ones are not rounded to zero
        ((1986.25, np.nan, 1986.0, 1986.5), ["1986.25", "nan", "1986.00", "1986.50"]),
        ((-0.0, 0.0, 0.0, np.nan), ["0", "0", "0", "nan"]),
        ((3, np.inf, -np.inf, np.inf), ["3", "inf", "-inf", "inf"]),
        ((1986.0015, np.nan, np.nan, 1986.0015), ["1986", "nan", "nan", "1986"]),  # alone: six digits
    ],
)
def test_the_error_decides_the_digits(values, wanted):
    assert tables.with_error(*values) == wanted


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_are_told_apart(dtype):
    years = np.asarray([1986.001, 1986.002, 2000.0], dtype)
    assert tables.numbers(years) == ["1986.001", "1986.002", "2000"]
    assert tables.numbers(np.asarray([0.1, 0.1 * (1 + np.finfo(dtype).eps)], dtype)) == ["0.1", "0.1"]  # rounding
    assert tables.numbers(np.asarray([1e-30, 1.0, -0.0, np.inf, np.nan], dtype)) == ["1e-30", "1", "0", "inf", "nan"]
    assert "1e-09" in tables.array(np.asarray([1.0, 1e-9], dtype)) and tables.array(np.asarray(1e-12, dtype)) == "1e-12"
    assert tables.array(np.arange(2)) == "[0 1]" and len(tables.array(np.ones((300, 300)))) < 400
    assert tables.number(1234567) == "1234567" and tables.number(1e300) == "1e+300"
    assert tables.fixed(-2314.3864, 3) == "-2314.386" and tables.fixed(1e300, 3) == "1e+300"


def starts_of_columns(lines):
    """Where the last column of each line starts."""
    return {tables._width(line) - tables._width(line.split("  ")[-1]) for line in lines}


def test_columns_align_whatever_the_names():
    rows = [["name", "a", "b"], *([name, "1", "x"] for name in tables.names(NAMES))]
    lines = tables.columns(rows, "<><")
    assert len(lines) == len(NAMES) + 2
    assert len(starts_of_columns([lines[0], *lines[2:]])) == 1
    lines = tables.columns([["n", "v"], ["漢字", "1"], ["abcd", "1"], ["e\u0301", "1"]], "<>")
    assert lines == ["n     v", "-------", "漢字  1", "abcd  1", "e\u0301     1"]


def test_every_table_keeps_a_parameter_on_its_line():
    """Through the whole library: a dictionary of parameters with names that ask for trouble."""
    params = {name: jnp.full((2,), 0.25) for name in ["a{0}", "b\nc", "", "%d", "漢"]} | {"m{}": jnp.eye(2)}
    named = trees.leaf_names(params)
    assert all(name.isprintable() and name for name in named) and len(set(named)) == 6
    spaces = {name: jaxem.PositiveDefinite() if name == "m{}" else jaxem.Positive() for name in params}
    model = jaxem.Model(lambda p, d: p, lambda q, d: q, constraints=spaces)
    coordinates = coordinate_names(model, params)
    assert "log scale m{}[0]" in coordinates and "ratio m{}[1, 0]" in coordinates and "log a{0}[1]" in coordinates
    p = len(coordinates)
    information = Information(jnp.eye(p), None, None, coordinates)
    columns = [np.array(column, np.float64) for column in ([1986.001] * p, [4e-4] * p, [1986.0] * p, [np.inf] * p)]
    summary = Summary(coordinates, *columns, 0.95, -1.0, 12345678.0, p)
    checks = tuple(Check(name, "{}", 1e-3, 1e-9, "", name, Verdict.VIOLATED) for name in ["touch", "b\n"])
    for table, extra in ((information, 3), (summary, 3)):
        assert len(str(table).splitlines()) == p + extra
    assert "1986.00100" in str(summary) and "12345678 observations" in str(summary)
    assert len(str(Certificate(checks, "float64", 3.0)).splitlines()) >= 5
    fit = jaxem.fit(jaxem.Model(lambda p, d: p, lambda q, d: q), params, jnp.ones(3), max_steps=1)
    body = [line for line in str(fit).splitlines() if "  " in line.strip() and not line.strip().startswith("[")]
    assert len(body) == 3 + len(params) and jax.tree.structure(fit.params) == jax.tree.structure(params)
