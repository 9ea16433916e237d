"""Tables as text, shared by every result that prints itself.

A name stays on one line, columns align, and a number has the digits that its standard error supports, or else those
that tell it from the numbers beside it.
"""

import itertools
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_LONGEST = 60  # most characters of a name, unless more are needed to tell it from another
_MOST = 17  # most significant digits: all that a double has
_FIXED = 9  # most digits before the point without a power of ten


def names(values: Iterable[Any]) -> list[str]:
    """Names as text, each on one line; different names stay different.

    Characters that cannot be printed are escaped, and the middle of a long name is left out.
    """
    values = list(values)
    texts = [one_line(value) for value in values]
    if len(set(texts)) < len(texts):
        told = [one_line(repr(value)) for value in values]
        texts = [text if texts.count(text) == 1 else other for text, other in zip(texts, told, strict=True)]
    half = _LONGEST // 2
    short = [text if len(text) <= _LONGEST else f"{text[:half]} … {text[3 - half :]}" for text in texts]
    return short if len(set(short)) == len(set(texts)) else texts


def one_line(value: Any) -> str:
    """A name as text on one line: unchanged, or quoted where it is empty, has spaces at an end or cannot be printed."""
    text = str(value)
    return text if text and text == text.strip() and text.isprintable() else repr(text)


def number(value: Any, digits: int = 6) -> str:
    """A number with ``digits`` significant digits, a whole one in full: ``0.5``, ``1986``, ``1e-300``, ``inf``."""
    value = float(value) + 0.0  # removes the sign of a negative zero
    whole = value.is_integer() and abs(value) < 10**_FIXED
    return f"{value:.0f}" if whole else f"{value:.{digits}g}"


def fixed(value: Any, decimals: int) -> str:
    """A number with ``decimals`` decimals, or with nine significant digits where it is huge."""
    value = float(value) + 0.0
    return f"{value:.{decimals}f}" if not abs(value) >= 10**_FIXED else number(value, _FIXED)


def numbers(values: Iterable[Any], digits: int = 6) -> list[str]:
    """Numbers printed side by side, with enough significant digits to tell them apart (at least ``digits``).

    Two numbers that differ only by rounding error need not be told apart.
    """
    array = np.asarray(list(values))
    array = array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
    apart = 4 * float(np.finfo(array.dtype).eps)
    known = sorted(float(value) for value in array if np.isfinite(value))
    pairs = [(a, b) for a, b in itertools.pairwise(known) if b - a > apart * max(abs(a), abs(b))]
    while digits < _MOST and any(number(a, digits) == number(b, digits) for a, b in pairs):
        digits += 1
    return [number(value, digits) for value in array]


def with_error(estimate: Any, error: Any, *ends: Any) -> list[str]:
    """An estimate, its standard error and the ends of its interval: the error to two digits, the others to the same
    decimal place.

    Each number keeps at least two significant digits. Without an error, half of the shortest distance to an end takes
    its place; without that too, the numbers have the digits that tell them apart.
    """
    values = [float(value) for value in (estimate, error, *ends)]
    distances = [abs(end - values[0]) / 2 for end in values[2:]]
    known = [size for size in (values[1], *sorted(distances)) if 0 < size < math.inf]
    if not known:
        return numbers(values)
    place = _exponent(known[0], 2)
    texts = [_significant(value, place) for value in values]
    return texts


def _exponent(value: float, digits: int) -> int:
    """The power of ten of the first digit, after rounding to ``digits`` digits."""
    return int(f"{abs(value):.{digits - 1}e}".split("e")[1])


def _significant(value: float, place: int) -> str:
    """A number to the decimal place of the second digit of an error whose first digit stands for 10^place."""
    if value == 0 or not math.isfinite(value):
        return number(value)
    exponent = _exponent(value, 2)
    decimals = min(max(1 - place, 1 - exponent), _MOST - 1 - exponent)
    if -5 <= exponent < max(_FIXED, exponent + decimals + 1):
        return f"{value:.{max(decimals, 0)}f}"
    return f"{value:.{max(decimals + exponent, 1)}e}"


def array(values: Any) -> str:
    """An array as text: each number has the digits that tell it from the others, and none is rounded to zero."""
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.floating):
        return np.array2string(values, threshold=40)
    texts = dict(zip(values.ravel().tolist(), numbers(values.ravel()), strict=True)) if values.size <= 4000 else {}
    width = max(map(len, texts.values()), default=0) if values.ndim else 0
    show = lambda value: texts.get(float(value), number(value)).rjust(width)
    return np.array2string(values, threshold=40, formatter={"float_kind": show})


def columns(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Rows of cells as aligned lines. The first row is the heading and has a rule below it.

    ``align``: ``<`` or ``>`` for each column.
    """
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for cell, side, width in zip(row, align, widths, strict=True):
            room = " " * (width - _width(cell))
            cells.append(cell + room if side == "<" else room + cell)
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * max(map(_width, lines)), *lines[1:]]


def fields(title: str, rows: Iterable[tuple[Any, str]]) -> str:
    """A title, then a line for each name and its text; further lines of a text are aligned with its first."""
    rows = list(rows)
    heads = names(head for head, _ in rows)
    width = max(map(_width, heads), default=0) + 2
    lines = [title]
    for head, (_, text) in zip(heads, rows, strict=True):
        first, *rest = text.split("\n")
        lines.append(f"  {head}{' ' * (width - _width(head))}{first}".rstrip())
        lines += [" " * (2 + width) + line for line in rest]
    return "\n".join(lines)


def _width(text: str) -> int:
    """The terminal columns that a text takes: two for a wide character, none for an accent."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
