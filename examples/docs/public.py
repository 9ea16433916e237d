"""The public names of jaxem, and what a docstring says: read by the reference and by its test.

A module exports what it defines without a leading underscore and what it imports as itself (``from a import b as b``),
at once or on demand. The modules are ``jaxem``, those that it exports, and packages inside them that export something.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jaxem
from jaxem.algorithms.protocol import Algorithm, Climber
from jaxem.core import Model, Space
from jaxem.core.rows import Rows
from jaxem.core.spaces import Edge, answers
from jaxem.families import Family
from jaxem.gates import Gate

SECTIONS = ("Arguments", "Attributes", "Returns", "Yields", "Raises", "Source")

# Where the contract of a protocol function is written, once for all classes that have the function.
PROTOCOLS: tuple[Any, ...] = (Rows, Family, Gate, Space, Edge, Algorithm, Climber, Model)


@functools.cache
def modules() -> dict[str, ModuleType]:
    """The public modules by name."""
    inner = "jaxem.core.spaces", "jaxem.inference.verify"
    found = {"jaxem": jaxem, **{name: importlib.import_module(name) for name in inner}}
    for name in _bound(jaxem):
        thing = getattr(jaxem, name)
        if inspect.ismodule(thing):
            found[thing.__name__] = thing
    return dict(sorted(found.items()))


def _bound(module: ModuleType) -> list[str]:
    """The names that a module imports as themselves, or defines without a leading underscore."""
    names = []
    for node in _run_or_not(_tree(module)):
        if isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names if alias.asname == alias.name]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            names.append(node.name)
    return names


@functools.cache
def exports(module: ModuleType) -> dict[str, Any]:
    """The objects that a module exports, in the order of its file, without modules and constants."""
    found = {name: getattr(module, name) for name in _bound(module)}
    return {name: thing for name, thing in found.items() if inspect.isclass(thing) or inspect.isroutine(thing)}


@functools.cache
def homes() -> dict[str, Any]:
    """Each public object once, by its shortest public path (``jaxem.fit``, ``jaxem.models.Mixture``)."""
    found: dict[int, tuple[str, Any]] = {}
    for where, module in sorted(modules().items(), key=lambda item: item[0].count(".")):
        for name, thing in exports(module).items():
            found.setdefault(id(thing), (f"{where}.{name}", thing))
    return dict(sorted(found.values(), key=lambda item: item[0]))


@functools.cache
def records() -> dict[str, Any]:
    """The classes that no module exports and that users meet, by the path of their definition.

    They are those that a public class, or the section "Returns" of a public function, names in double backquotes.
    """
    known, found = homes(), {}
    told: list[tuple[str, dict[str, Any]]] = []
    for thing in known.values():
        if inspect.isclass(thing):
            told.append((doc_of(thing).body, vars(sys.modules[thing.__module__])))
        for function in [*methods(thing).values()] if inspect.isclass(thing) else [thing]:
            told.append(
                (doc_of(function).sections.get("Returns", ""), getattr(function_of(function), "__globals__", {}))
            )
    for text, names in told:
        for name in re.findall(r"``(\w+)(?:``|\()", text):
            record = names.get(name)
            if inspect.isclass(record) and record.__module__.startswith("jaxem") and record not in known.values():
                found[f"{record.__module__}.{name}"] = record
    return dict(sorted(found.items()))


@functools.cache
def of_protocols() -> dict[str, str]:
    """The names whose contract a protocol states, and which: its own, and those that its docstring lists.

    A docstring lists ``name(...)``, ``name = ...`` and, at the head of an item, ``name``.
    """
    found: dict[str, str] = {}
    for protocol in PROTOCOLS:
        text = inspect.getdoc(protocol) or ""
        listed = re.findall(r"``(\w+)(?:\(| = )", text) + re.findall(r"^ *\* ``(\w+)``", text, re.MULTILINE)
        for name in [*_own(protocol), *getattr(protocol, "__annotations__", {}), *listed]:
            found.setdefault(name, protocol.__name__)
    for name, answer in vars(answers).items():
        if inspect.isfunction(answer) and next(iter(inspect.signature(answer).parameters), None) == "space":
            found.setdefault(name, Space.__name__)
    return found


def protocols_of(cls: type) -> list[type]:
    """The protocols all of whose functions a class has."""
    own = {*dir(cls), *getattr(cls, "__dataclass_fields__", ())}
    return [protocol for protocol in PROTOCOLS if _own(protocol) and {*_own(protocol)} <= own]


def is_equation(thing: Any) -> bool:
    """Whether a method is an equation of its model, its parameters being the letters of the protocols.

    c: a context; x: rows; q, p, r: posteriors; u: hidden variables of a family; w: weights.
    """
    if is_property(thing):
        return False
    return bool({*"cxqpruw"} & {*inspect.signature(function_of(thing)).parameters})


def methods(cls: type) -> dict[str, Any]:
    """The public methods and properties of a class that jaxem defines, inherited ones too, in order of definition.

    One without a docstring stands for the one that it overrides.
    """
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("jaxem") and (base is cls or not getattr(base, "_is_protocol", False)):
            for name in _own(base):
                if name not in found or not getattr(found[name], "__doc__", None):
                    found[name] = vars(base)[name]
    return found


def _own(cls: type) -> list[str]:
    kinds = (classmethod, staticmethod, property, functools.cached_property)
    values = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    return [
        name
        for name, thing in vars(cls).items()
        if not name.startswith("_") and name not in values and (isinstance(thing, kinds) or _is_function(thing))
    ]


def _is_function(thing: Any) -> bool:
    """Whether a thing is a function, plain or compiled."""
    return inspect.isfunction(inspect.unwrap(thing)) if callable(thing) else False


def is_property(thing: Any) -> bool:
    """Whether an attribute of a class is computed when it is read."""
    return isinstance(thing, property | functools.cached_property)


def function_of(thing: Any) -> Any:
    """The plain function behind a method, a property or a compiled program."""
    if isinstance(thing, property):
        thing = thing.fget
    elif isinstance(thing, functools.cached_property):
        thing = thing.func
    return inspect.unwrap(getattr(thing, "__func__", thing))


@dataclasses.dataclass(frozen=True)
class Doc:
    """A docstring in parts."""

    summary: str  # the first paragraph
    body: str
    sections: dict[str, str]

    def named(self, section: str) -> list[str]:
        """The names that begin the entries of a section, in order: ``a, b: text`` has two."""
        found: list[str] = []
        for line in self.sections.get(section, "").splitlines():
            entry = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*):", line)
            found += [] if entry is None else [name.strip(" *") for name in entry[1].split(",")]
        return found


def doc_of(thing: Any) -> Doc:
    """The docstring of an object, in parts."""
    text = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", text, flags=re.MULTILINE)
    summary, _, body = parts[0].partition("\n\n")
    sections = {}
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        first, _, rest = content.partition("\n")
        sections[name] = f"{first.strip()}\n{textwrap.dedent(rest)}".strip()
    return Doc(summary.strip(), body.strip(), sections)


def fields(cls: type) -> dict[str, str]:
    """The fields that a class declares in its body, each with the comment that says what it holds, ``""`` without."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    lines = iter(source.splitlines(keepends=True))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(lambda: next(lines, ""))
        if token.type == tokenize.COMMENT and "pyright:" not in token.string
    }
    whole = source.splitlines()
    alone = {row for row in comments if whole[row - 1].lstrip().startswith("#")}
    found = {}
    for node in ast.parse(source).body[0].body:  # pyright: ignore[reportAttributeAccessIssue]
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and "ClassVar" not in ast.unparse(node.annotation)
        ):
            own = comments.get(node.end_lineno or 0, comments.get(node.lineno, ""))
            above, row = [], node.lineno - 1
            while not own and row in alone:
                above.insert(0, comments[row])
                row -= 1
            found[node.target.id] = own or " ".join(above)
    return {name: text for name, text in found.items() if not name.startswith("_")}


def raised(function: Any) -> list[str]:
    """The exceptions that the body of a function raises itself, or by a check of its arguments (``core/checks.py``)."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function_of(function))))
    except (OSError, TypeError):
        return []
    found = []
    for node in _walk(tree.body[0]):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.append(ast.unparse(node.exc.func).rpartition(".")[2])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _checks():
            found.append("ValueError")
    return sorted(set(found))


@functools.cache
def _checks() -> set[str]:
    from jaxem.core import checks

    return {
        name
        for name, thing in vars(checks).items()
        if inspect.isfunction(thing) and "raise" in inspect.getsource(thing)
    }


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from _walk(child)


def _run_or_not(tree: ast.Module) -> list[ast.stmt]:
    """The statements of a module, with those of a block that never runs: what is imported there loads on demand."""
    unpacked = [node.body if isinstance(node, ast.If) else [node] for node in tree.body]
    return [node for nodes in unpacked for node in nodes]


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


@functools.cache
def pages() -> dict[str, Any]:
    """What has a page of its own in the reference, by name."""
    protocols = {f"{each.__module__}.{each.__name__}": each for each in PROTOCOLS}
    known = homes()
    more = {name: thing for name, thing in {**records(), **protocols}.items() if thing not in known.values()}
    return {**known, **more}


@functools.cache
def known_as() -> dict[str, str]:
    """The names under which a text may mention what has a page, and the name of the page.

    Classes and functions with an underscore are known by their last name, others by a path that begins with ``jaxem``.
    A name that two things share is left out.
    """
    found: dict[str, str] = {}
    several: set[str] = set()
    for page, thing in pages().items():
        last = page.rpartition(".")[2]
        paths = {f"{where}.{last}" for where, module in modules().items() if getattr(module, last, None) is thing}
        short = {last} if last[0].isupper() or "_" in last else set()
        for name in {page, *paths, *short}:
            several |= {name} & set(found)
            found[name] = page
    return {name: page for name, page in found.items() if name not in several}
