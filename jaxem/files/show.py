"""What a file of jaxem holds, as text; nothing is compiled."""

import os
from pathlib import Path

import numpy as np

from jaxem.core import container, tables
from jaxem.files import formats, spread
from jaxem.files.card import from_json


def show(path: str | os.PathLike[str]) -> str:
    """The card of a saved model, or what a checkpoint says of its run.

    Arguments:
        path: a file that ``jaxem.save`` wrote, or a checkpoint of a run.

    Returns:
        A text of some lines.

    Raises:
        ValueError: the file is neither, or is damaged.
    """
    path = Path(path)
    file = path / spread.FILE if path.is_dir() else path
    header, arrays = container.read(file, "saved model or checkpoint", "look at another copy")
    if header.get("kind") == "saved":
        return str(from_json(path, formats.current(path, header, arrays)[0]["card"]))
    return _checkpoint(path, header, arrays)


def _checkpoint(path: Path, header: formats.Header, arrays: formats.Arrays) -> str:
    """What a checkpoint says of its run."""
    try:
        steps = [array for name, array in arrays.items() if name.endswith(".steps")]
        rows = [
            ("run of", f"jaxem.{header['kind']}"),
            ("model", header["model"][0]),
            ("data", f"{', '.join(header['data'][0])}\nfingerprint {header['data'][1]}"),
            ("dtype", header["dtype"]),
            ("algorithm", header["algorithm"]["type"]),
            ("rule", "the default" if header["stop"]["type"] == "none" else header["stop"]["type"]),
            ("steps so far", f"{max((int(np.max(each)) for each in steps), default=0)} of {header['max_steps']}"),
            ("seconds", tables.number(header["seconds"], 3)),
            ("versions", f"jaxem {header['jaxem']}"),
        ]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path} is neither a saved model nor a checkpoint that this version of jaxem knows"
        ) from error
    return tables.fields("jaxem, checkpoint (go on by jaxem.resume)", rows)
