"""Packages whose public names load their modules when they are first used, so that an import costs what is used of it.

A package lists what it exports in the block ``if TYPE_CHECKING:`` of its file, as imports that never run. Type checkers
read them there; so does this module, in the compiled code of the file.
"""

import dis
import functools
import importlib
import importlib.util
import inspect
import sys
from types import CodeType, ModuleType
from typing import Any

_OWN = {"TYPE_CHECKING", "on_demand", "_code"}


def on_demand() -> None:
    """Load the public names of the package that calls this, in the last line of its file, when they are first used."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    package = sys.modules[frame.f_back.f_globals["__name__"]]
    vars(package)["_code"] = frame.f_back.f_code
    package.__class__ = _Package


@functools.cache
def _listed(code: CodeType) -> dict[str, str]:
    """The names that a file imports, whether or not the import runs, and the modules that they come from."""
    found, module = {}, ""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            module = instruction.argval
        elif instruction.opname == "IMPORT_FROM" and instruction.argval not in _OWN:
            found[instruction.argval] = module
    return found


class _Package(ModuleType):
    """A package that loads its public names, and its modules, on demand."""

    _code: CodeType

    def __getattr__(self, name: str) -> Any:
        listed, inside = _listed(self._code), f"{self.__name__}.{name}"
        if name == "__all__":  # of ``from package import *``: without what only loads on demand
            return [each for each, home in listed.items() if home != self.__name__ or each in vars(self)]
        if listed.get(name, self.__name__) != self.__name__:
            found = getattr(importlib.import_module(listed[name]), name)
        elif not name.startswith("__") and importlib.util.find_spec(inside):
            found = importlib.import_module(inside)
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        vars(self)[name] = found
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a module to its name in the package; a function that is listed there goes before it.
        if not isinstance(value, ModuleType) or _listed(self._code).get(name, self.__name__) == self.__name__:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*_listed(self._code), *vars(self)} - _OWN)
