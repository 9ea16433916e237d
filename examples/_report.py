"""Helpers shared by the examples: the table that compares our figures with a source, and the folder for pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def output_folder(arguments: Sequence[str] | None, description: str | None) -> Path:
    """The folder for pictures, ``--output DIR`` or else ``output``; it is created if it does not exist."""
    lines = (description or "").strip().splitlines()
    parser = argparse.ArgumentParser(description=lines[0] if lines else None)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for pictures (default: output)")
    folder: Path = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def heading(text: str) -> None:
    """Print a heading, underlined."""
    print(f"\n{text}\n{'-' * len(text)}")


def compare(source: str, rows: Sequence[tuple[str, str, float]]) -> None:
    """Print the source's figures beside ours; exit with an error where one differs.

    Each row holds a name, the source's figure as printed there, and our figure. They agree if they are within one unit
    of the last digit that the source prints.
    """
    width = max(len(what) for what, _, _ in rows) + 2
    columns = max(len(source), 12) + 2
    print(f"{'':<{width}}{source:>{columns}}{'jaxem':>14}")
    wrong = []
    for what, figure, ours in rows:
        decimals = len(figure.partition(".")[2])
        agree = abs(ours - float(figure)) <= 10.0**-decimals
        print(f"{what:<{width}}{figure:>{columns}}{ours:>14.{decimals}f}  {'agrees' if agree else 'DIFFERS'}")
        if not agree:
            wrong.append(what)
    require(not wrong, f"differs from {source}: {', '.join(wrong)}")


def require(holds: bool, what: str) -> None:
    """End the example with an error if ``holds`` is false."""
    if not holds:
        raise SystemExit(f"This should hold and does not: {what}")
