"""The format of saved files, and how older ones are brought up to date.

Format 1: arrays under the names of their places, and a header with

- ``kind`` ("saved") and ``format``;
- ``card``, see ``card.py``;
- ``model``, a recipe (see ``encoding.py``), or ``None`` where the user passes the model again, and then ``parts``, the
  fingerprints of its parts;
- ``fit``, a recipe, and ``leaves``, the names of the parameters, where they are records of a user's class, which no
  recipe can make;
- ``spread``, shapes and axes of the arrays that are spread over processes (see ``spread.py``).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxem.core import container
from jaxem.files import spread

Header = dict[str, Any]
Arrays = dict[str, Any]

FORMAT = 1
_FIELDS = {"kind", "format", "card", "model", "parts", "fit", "leaves", "spread", "dtypes"}

# Of each older format what makes the next one of it. A change to a class or a field that files name needs one, and a
# stored file of the older format in tests/data.
UPGRADES: dict[int, Callable[[Header, Arrays], tuple[Header, Arrays]]] = {}


def write(path: Path, header: Header, arrays: Arrays) -> None:
    """Write a saved file, whole or not at all; all processes call it."""
    parts = {name: array for name, array in arrays.items() if spread.is_spread(array)}
    rest = {name: array for name, array in arrays.items() if name not in parts}
    spread.write(path, {**header, "spread": spread.describe(parts), "kind": "saved", "format": FORMAT}, rest, parts)


def read(path: Path) -> tuple[Header, Arrays]:
    """The header and the arrays of a saved file in the present format; ``ValueError`` for any other file."""
    file = path / spread.FILE if path.is_dir() else path
    header, arrays = container.read(file, "saved model", "save it again, or load another copy")
    if header.get("kind") != "saved":
        raise ValueError(f"{path} is a checkpoint of a run, not a saved model: go on from it by jaxem.resume")
    return current(path, header, arrays)


def current(path: Path, header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """The parts of a saved file in the present format; ``ValueError`` where there is no way to it."""
    while header["format"] in UPGRADES and header["format"] != FORMAT:
        header, arrays = UPGRADES[header["format"]](header, arrays)
    if header["format"] != FORMAT:
        by = header["card"]["versions"]["jaxem"] if isinstance(header.get("card"), dict) else "another version"
        raise ValueError(
            f"{path} has the format {header['format']}, written by jaxem {by}; this version reads formats up to "
            f"{FORMAT}: update jaxem"
        )
    odd = sorted(set(header) ^ _FIELDS)
    if odd:
        raise ValueError(
            f"{path} is not a saved model that this version of jaxem knows: it differs in {', '.join(odd)}"
        )
    return header, arrays
