"""The documentation is built without a warning, and no link in it is broken."""

import os
import subprocess
import sys
from pathlib import Path

import extensions
import guide
import links
import public
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The built pages, without what the scripts of the guide print."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, str(ROOT / "examples" / "docs" / "build.py"), "--no-run", "--output", str(folder)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("XLA")}
    done = subprocess.run(command, env={**plain, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.mark.slow
def test_every_public_name_has_a_page(html):
    pages = {path.stem for path in (html / "reference").glob("*.html")}
    assert {*public.pages()} <= pages
    listed = "".join(path.read_text() for path in (html / "reference").glob("module-*.html"))
    assert all(f'href="{name}.html' in listed for name in public.homes())


@pytest.mark.slow
def test_formulas_need_no_script_and_no_network(html):
    page = (html / "reference" / "jaxem.models.Mixture.html").read_text()
    assert "<math" in page and "\\theta" not in page
    for path in html.rglob("*.html"):
        text = path.read_text()
        assert 'src="http' not in text and 'rel="stylesheet" type="text/css" href="http' not in text


@pytest.mark.slow
def test_every_script_of_the_guide_is_a_page(html):
    assert sorted(guide.ORDER) == sorted(path.stem for path in guide.SCRIPTS.glob("*.py"))
    for name in guide.ORDER:
        assert guide.title((guide.SCRIPTS / f"{name}.py").read_text()) in (html / "guide" / f"{name}.html").read_text()


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "b.html").write_text('<p id="there">')
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there"></a><a href="https://example.org/x"></a>'
        '<a href="b.html#gone"></a><a href="c.html"></a><img src="p.png"><a href="#up"></a>'
    )
    assert links.broken(tmp_path) == [
        "a.html: #up: no such anchor",
        "a.html: b.html#gone: no such anchor",
        "a.html: c.html: no such file",
        "a.html: p.png: no such file",
    ]


SCRIPT = """# %% [markdown]
# # A heading
#
# Some `text`.

# %%
x = 1
print(x)

# %%
y = x

# %% [markdown]
# The end.
"""


def test_a_script_becomes_a_page():
    printed = guide.run(SCRIPT)
    assert printed == ["1\n", ""]
    page = guide.page(SCRIPT, printed)
    assert page == (
        "# A heading\n\nSome `text`.\n\n```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\n\n"
        "```python\ny = x\n```\n\nThe end.\n"
    )
    assert guide.title(SCRIPT) == "A heading"


def test_a_script_that_fails_ends_the_build():
    with pytest.raises(SystemExit, match="A heading"):
        guide.run(SCRIPT + "\n# %%\nassert x == 2\n")


def test_names_of_functions_stand_apart():
    text = extensions.mathml(r"a \log b + \log_2 c - \log (x) + \Gamma")
    assert text.count("mspace") == 2 and 'mathvariant="normal">&#x00393;' in text
    assert "</mi><mspace" in text and "<msub><mi>log</mi><mn>2</mn></msub>" in text


def test_an_unknown_command_is_an_error():
    assert ">arg<" in extensions.mathml(r"\arg\max_k x_k")
    with pytest.raises(ValueError, match="no MathML"):
        extensions.mathml(r"\unknown x")
