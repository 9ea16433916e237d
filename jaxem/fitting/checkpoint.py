"""The file of a checkpoint: the state of a run, and what it is a run of (see ``core/container.py``)."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxem.core import container

FORMAT = 1


def check_path(name: str, path: Any) -> Path:
    """``path`` as a ``Path``; ``ValueError`` where it is no path, or its folder does not exist."""
    return container.check_path(f"{name}: checkpoint", path)


def write(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint. Whenever the process ends, the file is either the old one or the new one, and whole."""
    container.write(path, {**header, "format": FORMAT}, arrays)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a checkpoint; ``ValueError`` for any other file."""
    header, arrays = container.read(path, "checkpoint", "resume from an older copy, or fit from the start")
    if header.get("kind") == "saved":
        raise ValueError(f"{path} is a saved model, not a checkpoint: read it by jaxem.load")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} has the format {header.get('format')}, and this version of jaxem reads format {FORMAT}"
        )
    return header, arrays
