"""Build the documentation: the guide from its scripts, the reference from the docstrings.

    python examples/docs/build.py                      # into build/docs/html

Warnings are errors, and so is a link that leads nowhere. Needs the extra ``docs``. The pages of the guide show what
their scripts print: each is run, unless it has not changed since it was run last. With ``--no-run`` they show code and
text alone.
"""

import argparse
import shutil
import sys
from pathlib import Path

import guide
import links
import reference
from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).parent

INDEX = """# jaxem

Expectation–maximisation on JAX. Take a ready-made model or write two functions; `jaxem` runs them in one compiled loop,
reports how the fit ended, and verifies every step by automatic differentiation.

The guide answers questions, a page each, by scripts that run. The reference has every public name.

```{{toctree}}
:caption: Guide
:maxdepth: 1

{guide}
```

```{{toctree}}
:caption: Reference
:maxdepth: 1

{reference}
```
"""


def main(arguments: list[str] | None = None) -> None:
    """Write the sources, build the pages, and check their links; exits with the errors where there are some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/docs"), help="folder (default: build/docs)")
    parser.add_argument("--no-run", action="store_true", help="leave out what the scripts of the guide print")
    options = parser.parse_args(arguments)
    source, html = options.output / "source", options.output / "html"
    for folder in (source, html):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    pages = {"guide": guide.ORDER, "reference": reference.names()}
    contents = {part: "\n".join(f"{part}/{name}" for name in names) for part, names in pages.items()}
    (source / "index.md").write_text(INDEX.format(**contents))
    guide.write(source / "guide", None if options.no_run else options.output / "printed")
    reference.write(source / "reference")
    command = ["-q", "-W", "--keep-going", "-E", "-b", "html", "-c", str(HERE), str(source), str(html)]
    if sphinx(command):
        sys.exit("the documentation has errors")
    found = links.broken(html)
    if found:
        sys.exit("\n".join(["broken links:", *found]))
    print(html / "index.html")


if __name__ == "__main__":
    main()
