"""The pages of the API reference, in reStructuredText, from the docstrings of the public names."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import public
from public import Doc


def write(folder: Path) -> None:
    """Write a page for each public name, one for each module that lists its names, and one for the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = public.pages()
    for name, thing in pages.items():
        lines = class_page(name, thing) if inspect.isclass(thing) else function_page(name, thing)
        where = name.rpartition(".")[0]
        above = f"module-{where}" if where in public.modules() else "module-records"
        # The pages of names are in no tree of contents: the sidebar lists modules.
        up = f":doc:`{where if where in public.modules() else 'Protocols and records'} <{above}>`"
        (folder / f"{name}.rst").write_text("\n".join([":orphan:", "", *lines, "", f"Back to {up}."]) + "\n")
    listed: list[str] = []
    for name, module in public.modules().items():
        own = [page for page in pages if page.rpartition(".")[0] == name]
        elsewhere = [public.known_as()[f"{name}.{short}"] for short in public.exports(module)]
        listed += own
        if own or elsewhere:
            lines = module_page(name, public.doc_of(module), own, [page for page in elsewhere if page not in own])
            (folder / f"module-{name}.rst").write_text("\n".join(lines) + "\n")
    rest = [page for page in pages if page not in listed]
    (folder / "module-records.rst").write_text("\n".join(records_page(rest)) + "\n")


def names() -> list[str]:
    """The names of the pages that list others, in the order of the sidebar."""
    return [
        *(f"module-{name}" for name, module in public.modules().items() if public.exports(module)),
        "module-records",
    ]


def module_page(name: str, doc: Doc, own: list[str], elsewhere: list[str]) -> Iterator[str]:
    """The page of a module: the names that it exports, with their first lines."""
    yield from heading(name)
    yield from [doc.summary, "", doc.body, ""]
    yield from table(own)
    if elsewhere:
        yield from ["Exported here too:", ""]
        yield from [f"* {link(page)}" for page in sorted(elsewhere)]


def records_page(names: list[str]) -> Iterator[str]:
    """The page of what users meet and no module exports."""
    yield from heading("Protocols and records")
    yield "The protocols of algorithms, spaces and functions of rows, and the records that public functions return."
    yield ""
    yield from table(names)


def heading(text: str, line: str = "=") -> list[str]:
    """A heading with its underline."""
    return [text, line * len(text), ""]


def link(page: str) -> str:
    """A link to a page."""
    return f":py:obj:`{page.rpartition('.')[2]} <{page}>`"


def table(names: list[str]) -> Iterator[str]:
    """Names with the first lines of their docstrings; below them the records of parameters."""
    params = [name for name in names if name.endswith("Params")]
    yield from [".. list-table::", "   :widths: 30 70", ""]
    for name in names:
        if name not in params:
            yield f"   * - {link(name)}"
            yield f"     - {public.doc_of(public.pages()[name]).summary}"
    yield ""
    if params:
        yield from [f"Parameters: {', '.join(map(link, params))}.", ""]


def function_page(name: str, function: Any) -> Iterator[str]:
    """The page of a function."""
    yield from heading(name)
    yield f".. py:function:: {name}{signature(function)}"
    yield ""
    yield from indented(body(public.doc_of(function)))


def class_page(name: str, cls: type) -> Iterator[str]:
    """The page of a class: what it is, its fields, its methods, and the equations it has for the library."""
    yield from heading(name)
    kind = "exception" if issubclass(cls, BaseException) else "class"
    plain = cls in public.PROTOCOLS or issubclass(cls, BaseException) or is_enum(cls)
    yield f".. py:{kind}:: {name}{'' if plain else signature(cls)}"
    yield ""
    yield from indented(class_body(cls))


def is_enum(cls: type) -> bool:
    """Whether a class is an enumeration."""
    return hasattr(cls, "__members__")


def class_body(cls: type) -> Iterator[str]:
    """What stands below the signature of a class."""
    doc = public.doc_of(cls)
    named = doc.named("Arguments")
    own = {name: text for name, text in public.fields(cls).items() if text and name not in named}
    fields = "\n".join(f"{name}: {text}" for name, text in own.items())
    title = "Members" if is_enum(cls) else "Attributes" if cls in public.PROTOCOLS else "Fields"
    yield from body(doc, {title: fields} if fields else {})
    equations = {}
    for name, method in public.methods(cls).items():
        known = public.doc_of(method)
        stated = name in public.of_protocols() or public.is_equation(method)
        if stated and not known.sections and cls not in public.PROTOCOLS:
            equations[name if public.is_property(method) else f"{name}{signature(method)}"] = known.summary
            continue
        option = ["   :classmethod:"] if isinstance(method, classmethod) else []
        kind = "property" if public.is_property(method) else "method"
        yield from [f".. py:{kind}:: {name}{'' if kind == 'property' else signature(method)}", *option, ""]
        yield from indented(body(known))
    yield from functions_of_protocols(cls, equations)


def functions_of_protocols(cls: type, equations: dict[str, str]) -> Iterator[str]:
    """What a class has for the library to call: the functions without a text of their own in one line."""
    if not equations:
        return
    names = [f"``{each.__name__}``" for each in public.protocols_of(cls)]
    yield from [".. rubric:: Functions that the library calls", ""]
    yield from [f"Their contracts: {', '.join(names)}.", ""] if names else []
    plain = [f"``{name}``" for name, summary in equations.items() if not summary]
    yield from [f"{', '.join(plain)}.", ""] if plain else []
    for name, summary in equations.items():
        if summary:
            yield from [f"``{name}``", f"    {summary}"]
    yield ""


def body(doc: Doc, more: dict[str, str] | None = None) -> Iterator[str]:
    """A docstring in reStructuredText, with further sections before its own last ones."""
    yield from [doc.summary, "", *doc.body.splitlines(), ""]
    sections = {**doc.sections, **(more or {})}
    for title in ("Arguments", "Fields", "Members", "Attributes", "Returns", "Yields", "Raises", "Source"):
        if title in sections:
            yield f":{title}:"
            entries = title not in ("Returns", "Yields", "Source") and re.match(r"\*{0,2}\w+[,:]", sections[title])
            yield from indented(definitions(sections[title]) if entries else sections[title].splitlines())
    yield ""


def definitions(section: str) -> Iterator[str]:
    """The entries of a section, each a name and its text, as a list of definitions."""
    for line in section.splitlines():
        name, colon, text = line.partition(":")
        if line.startswith(" ") or not colon:
            yield line
        else:
            yield f"``{name}``"
            yield f"    {text.strip()}"


def indented(lines: Any) -> Iterator[str]:
    """Lines moved to the right."""
    for line in lines:
        yield textwrap.indent(line, "    ") if line.strip() else ""
    yield ""


def signature(function: Any) -> str:
    """The parameters of a function or class, with their defaults; the text says what each must be."""
    found = inspect.signature(function if inspect.isclass(function) else public.function_of(function))
    parameters = [each.replace(annotation=each.empty) for each in found.parameters.values()]
    parameters = parameters[1:] if parameters and parameters[0].name in ("self", "cls") else parameters
    shown = [
        each.replace(default=_Shown(each.default)) if each.default is not each.empty else each for each in parameters
    ]
    return str(inspect.Signature(shown))


class _Shown:
    """A default value as it is written."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        if inspect.isroutine(self.value):
            return self.value.__name__
        if hasattr(self.value, "__members__") or "object at 0x" in repr(self.value):
            return "..."
        return repr(self.value)
