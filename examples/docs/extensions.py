"""Two extensions of Sphinx: formulas as MathML, and public names in text as links to their pages."""

import re
from typing import Any

import public
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_displayed, None))
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


_NAME = r"<mi>(?:log|exp|cos|sin)</mi>"
_ROOM = '<mspace width="0.17em" />'


def mathml(formula: str, display: str = "inline") -> str:
    """A formula of TeX as MathML, with what the converter leaves out: room about ``log``, upright Greek capitals.

    Raises:
        ValueError: the converter does not know a command.
    """
    formula = formula.replace(r"\arg", r"\operatorname{arg}")
    formula = re.sub(r"\\text\{[^}]*\}", lambda found: found[0].replace(r"\_", "_"), formula)
    text = convert(formula, display=display)
    if "\\" in text:
        raise ValueError(f"no MathML for {formula!r}: {text[text.index(chr(92)) :][:20]}")
    text = re.sub(r"<mi>(&#x0039[3-9A-F];|&#x003A[0-9];)</mi>", r'<mi mathvariant="normal">\1</mi>', text)
    text = re.sub(rf"(</mi>|</mn>|</msub>|</mfrac>|&#x00029;</mo>)({_NAME})", rf"\1{_ROOM}\2", text)
    return re.sub(rf"(?<!<msub>)({_NAME})(?!<mo stretchy|<mrow><mo stretchy)", rf"\1{_ROOM}", text)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _displayed(writer: Any, node: nodes.math_block) -> None:
    """Each part between wide spaces is a formula of its own, so that a long line wraps."""
    formulas = "".join(mathml(part, "block") for part in re.split(r"\\q?quad\b", node.astext()) if part.strip())
    writer.body.append(f'<div class="math">{formulas}</div>')
    raise nodes.SkipNode


def _link(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Make ``Mixture``, ``jaxem.fit`` and ``Softmax(on="x")`` links, and on the page of a class its methods."""
    known = public.known_as()
    for node in list(tree.findall(nodes.literal)):
        name = node.astext().partition("(")[0].rpartition("=")[2]  # of transition=Sticky(...) too
        target, method = known.get(name), f"{page.rpartition('/')[2]}.{name}"
        if isinstance(node.parent, nodes.reference | nodes.term) or page.endswith(f"/{target}"):
            continue
        if target is not None:
            address = app.builder.get_relative_uri(page, f"reference/{target}")
        elif method in tree.ids:
            address = f"#{method}"
        else:
            continue
        node.replace_self(nodes.reference("", "", node.deepcopy(), internal=True, refuri=address))
