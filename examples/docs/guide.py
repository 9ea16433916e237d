"""The pages of the guide, in Markdown, from scripts in percent format.

A script is cells that begin with ``# %%`` (code) or ``# %% [markdown]`` (text in comments).
"""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jaxem

SCRIPTS = Path(__file__).parent.parent / "guide"
ORDER = (
    "choose_a_model",
    "frames_and_names",
    "gaps",
    "how_many_classes",
    "covariates_and_states",
    "what_a_fit_tells",
    "slow_em",
    "more_data_than_memory",
    "many_long_devices",
    "edges",
    "save_load_serve",
    "own_e_step",
    "coming_from_python",
    "coming_from_r",
)


class Cell(NamedTuple):
    """A cell of a script."""

    is_text: bool
    content: str  # Markdown, or code


def cells(script: str) -> list[Cell]:
    """The cells of a script, without empty ones."""
    found = []
    for part in ("\n" + script).split("\n# %%")[1:]:
        head, _, content = part.partition("\n")
        is_text = head.strip() == "[markdown]"
        if is_text:
            content = "\n".join(line.removeprefix("#").removeprefix(" ") for line in content.splitlines())
        found.append(Cell(is_text, content.strip("\n")))
    return [cell for cell in found if cell.content]


def title(script: str) -> str:
    """The heading of a script's first cell."""
    return cells(script)[0].content.splitlines()[0].removeprefix("# ")


_LINK = re.compile(rf"\]\(({'|'.join(ORDER)})\.py\)")  # from one script to another


def page(script: str, printed: list[str]) -> str:
    """A script as Markdown: text, code, and what each cell of code prints."""
    parts = []
    outputs = iter(printed)
    for cell in cells(script):
        if cell.is_text:
            parts.append(_LINK.sub(r"](\1.md)", cell.content))
            continue
        parts.append(f"```python\n{cell.content}\n```")
        output = next(outputs, "").rstrip()
        parts += [f"```text\n{output}\n```"] * bool(output)
    return "\n\n".join(parts) + "\n"


# Runs a script cell by cell in a process of its own, and prints what each cell printed.
_RUN = """
import contextlib, io, json, sys, warnings
warnings.simplefilter("error")
names, printed = {"__name__": "__main__"}, []
for number, code in enumerate(json.load(sys.stdin)):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, f"cell {number}", "exec"), names)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def run(script: str) -> list[str]:
    """What each cell of code of a script prints."""
    code = json.dumps([cell.content for cell in cells(script) if not cell.is_text])
    root = Path(jaxem.__file__).parent.parent
    command = [sys.executable, "-c", _RUN]
    done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=root)
    if done.returncode:
        sys.exit(f"{title(script)}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def write(folder: Path, kept: Path | None) -> None:
    """Write the pages; ``kept``: the folder of what scripts printed, ``None``: do not run them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ORDER:
        script = (SCRIPTS / f"{name}.py").read_text()
        (folder / f"{name}.md").write_text(page(script, [] if kept is None else _printed(script, kept)))


def _printed(script: str, kept: Path) -> list[str]:
    """What a script prints, run only where it has changed."""
    kept.mkdir(parents=True, exist_ok=True)
    file = kept / f"{hashlib.sha256(script.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        file.write_text(json.dumps(run(script)))
    return json.loads(file.read_text())
