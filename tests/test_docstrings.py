"""Every public name says what it does, what it takes, what it returns and what it raises.

A docstring begins with one line. It names every parameter under "Arguments", says under "Returns" what comes back, and
under "Raises" which exceptions the function itself raises. Each field of a record has a comment, an entry under
"Arguments", or a place under "Attributes".

Less is asked where the contract stands elsewhere, once for all classes: of functions that a protocol lists
(``public.of_protocols``), and of equations, whose parameters are the letters of the protocols
(``public.is_equation``). Those have a first line or nothing, unless they have sections, which are then complete.
"""

import inspect
import re
from typing import NamedTuple

import public
import pytest

import jaxem


def faults(thing, stated_elsewhere=False):
    """What the docstring of a function, method or property lacks."""
    doc = public.doc_of(thing)
    if not doc.summary:
        return [] if stated_elsewhere else ["no docstring"]
    found = faults_of_summary(doc)
    if public.is_property(thing) or (stated_elsewhere and not doc.sections):
        return found
    signature = inspect.signature(public.function_of(thing))
    parameters = [name for name in signature.parameters if name not in ("self", "cls")]
    named = doc.named("Arguments")
    found += [f"Arguments lacks {name}" for name in parameters if name not in named]
    found += [f"Arguments has {name}, which is no parameter" for name in named if name not in parameters]
    returns = str(signature.return_annotation) not in ("None", "NoReturn")
    found += ["no Returns"] * (returns and not {"Returns", "Yields"} & set(doc.sections))
    return found + faults_of_raises(doc, thing)


def faults_of_summary(doc):
    return [] if re.fullmatch(r"[^\n]+[.:]", doc.summary) else ["the docstring does not begin with one line"]


def faults_of_raises(doc, function):
    return [f"Raises lacks {kind}" for kind in public.raised(function) if kind not in doc.named("Raises")]


def faults_of_class(cls):
    """What the docstring of a class and the comments of its fields lack."""
    doc = public.doc_of(cls)
    if not doc.summary:
        return ["no docstring"]
    found = faults_of_summary(doc)
    if cls not in public.PROTOCOLS:
        said = doc.named("Arguments") + re.findall(r"``(\w+)``", doc.sections.get("Attributes", ""))
        untold = [name for name, comment in public.fields(cls).items() if not comment and name not in said]
        found += [f"neither Arguments nor a comment says what {name} is" for name in untold]
    for name in ("__init__", "__post_init__"):
        maker = vars(cls).get(name)
        written = inspect.isfunction(maker) and maker.__code__.co_filename != "<string>"  # not by dataclasses
        if written and maker.__qualname__ == f"{cls.__qualname__}.{name}":  # nor by typing
            found += faults_of_raises(doc, maker)
            if name == "__init__" and not issubclass(cls, BaseException):
                taken = [each for each in inspect.signature(cls).parameters if each not in doc.named("Arguments")]
                found += [f"Arguments lacks {each}" for each in taken]
    return found


def all_faults():
    listed = public.of_protocols()
    for name, thing in {**public.homes(), **public.records()}.items():
        if not inspect.isclass(thing):
            yield from (f"{name}: {fault}" for fault in faults(thing))
            continue
        yield from (f"{name}: {fault}" for fault in faults_of_class(thing))
        for own, method in public.methods(thing).items():
            stated = own in listed or public.is_equation(method)
            yield from (f"{name}.{own}: {fault}" for fault in faults(method, stated))


@pytest.mark.slow
def test_public_names_are_documented():
    assert not sorted(set(all_faults()))


def test_the_walk_meets_what_it_should():
    names = {**public.homes(), **public.records()}
    for name in (
        "jaxem.fit",
        "jaxem.models.HMM",
        "jaxem.core.spaces.ZeroSum",
        "jaxem.datasets.iris",
        "jaxem.plot.trace",
    ):
        assert name in names
    assert "jaxem.inference.verify.certificate.Check" in names
    assert {"e_step", "predict", "forecast", "log_b"} <= set(public.methods(jaxem.models.HMM))
    assert len(names) > 180


def undocumented(x):
    return x


def two_lines(x: int) -> None:
    """A summary that
    runs on.

    Arguments:
        x: a number.
    """


def wrong_names(x: int, y: int) -> None:
    """A summary.

    Arguments:
        x, z: numbers.
    """


def silent(x: int) -> int:
    """A summary.

    Arguments:
        x: a number.
    """
    if x:
        raise ValueError("x")
    return x


def complete(x: int, *more: int) -> int:
    """A summary.

    Arguments:
        x: a number.
        *more: numbers.

    Returns:
        A number.

    Raises:
        ValueError: there is no x.
    """
    if x:
        raise ValueError("x")
    return x


class Told:
    """A class.

    Arguments:
        x: a number.

    Attributes: ``y_``, a number.
    """

    y_: int
    z_: int

    def __init__(self, x: int, w: int) -> None:
        self.x, self.w = x, w


class Untold(NamedTuple):
    """A record."""

    first: int  # said
    second: int


@pytest.mark.parametrize(
    ("thing", "found"),
    [
        (undocumented, ["no docstring"]),
        (two_lines, ["the docstring does not begin with one line"]),
        (wrong_names, ["Arguments lacks y", "Arguments has z, which is no parameter"]),
        (silent, ["no Returns", "Raises lacks ValueError"]),
        (complete, []),
    ],
)
def test_faults_are_found(thing, found):
    assert faults(thing) == found


def test_faults_of_classes_are_found():
    assert faults_of_class(Untold) == ["neither Arguments nor a comment says what second is"]
    assert faults_of_class(Told) == ["neither Arguments nor a comment says what z_ is", "Arguments lacks w"]
