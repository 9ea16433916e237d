"""Compiled programs: how thoroughly each is optimised, and how many are kept.

A compiled program takes one or two megabytes and, on a CPU, about a hundred memory maps, of which Linux allows a
process 65,530. ``jax.jit`` keeps up to 8,192 programs and every function that they were compiled for. So the library
keeps its programs itself, each in a ``jax.jit`` of its own: JAX drops what is dropped here.

A program is dropped when a function that it was compiled for no longer exists (a lambda or an optimiser, which no
other object ever equals), or when the table is full and it was used longest ago. Half of the programs, those used
longest ago, are dropped when the process takes more than half of its memory maps.
"""

import inspect
import math
import threading
from collections.abc import Callable
from itertools import chain, count
from typing import Any, Literal, TypeVar, overload

import jax
from jax.core import Tracer

from jaxem.core.keeping import Kept
from jaxem.core.trees import is_traced

R = TypeVar("R")
_LOOKED = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)

Quick = Literal["never", "very few numbers", "few numbers", "always"]

# Most numbers in the arguments of a quick program. A pass over 2**16 is fast, and over 2**12 even one per parameter.
_QUICK_UP_TO = {"never": 0, "very few numbers": 2**12, "few numbers": 2**16, "always": math.inf}
_PROGRAMS = Kept(256)  # all public functions on one small model take about 30
_TRACES = Kept(1024)  # programs within programs, which hold no memory maps
_BETWEEN_LOOKS = 16  # programs compiled between two counts of the maps; the largest hold some 300 maps
_compiled = count()
_MAPS, _LIMIT = "/proc/self/maps", "/proc/sys/vm/max_map_count"

# Little optimisation and, where JAX has them, the older fusions of the CPU: half the compile time, half the maps.
_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
# For few numbers the older fusions alone save up to half of the compile time and cost up to a third more run time.
_SMALL: dict[str, Any] = {}
_SMALL_UP_TO = 2**11
if jax.__version_info__[:2] == (0, 10):
    _SMALL["xla_cpu_use_fusion_emitters"] = False
    _QUICK |= _SMALL


@overload
def program(function: Callable[..., R], /) -> Callable[..., R]: ...
@overload
def program(
    *,
    static_argnames: tuple[str, ...] = (),
    donate_argnames: tuple[str, ...] = (),
    uncounted: tuple[str, ...] = (),
    quick: Quick = "never",
) -> Callable[[Callable[..., R]], Callable[..., R]]: ...
def program(
    function: Any = None,
    /,
    *,
    static_argnames: tuple[str, ...] = (),
    donate_argnames: tuple[str, ...] = (),
    uncounted: tuple[str, ...] = (),
    quick: Quick = "never",
) -> Any:
    """A decorator like ``jax.jit``, except for what is kept (see the head of this file).

    Arguments:
        function: what to compile; without it a decorator is returned.
        static_argnames: the arguments that are compared, not traced.
        donate_argnames: the arguments whose memory the result may reuse.
        uncounted: the arguments whose numbers do not count where the number of numbers decides how to compile. So a
            part of a computation can be compiled like the whole, which gives the same bits.
        quick: when to compile with little optimisation on a CPU: ``"never"``, ``"always"``, or up to 2^12 (``"very few
            numbers"``) or 2^16 (``"few numbers"``) numbers in the arguments. Compilation then takes a sixth of the
            time, and the program takes two to ten times as long: meant for what runs once. A program within another is
            compiled like the outer one.

    Returns:
        The compiled function, or a decorator.
    """
    if function is None:
        return lambda function: _program(function, static_argnames, donate_argnames, uncounted, quick)
    return _program(function, static_argnames, donate_argnames, uncounted, quick)


def _program(
    function: Any, static: tuple[str, ...], donated: tuple[str, ...], uncounted: tuple[str, ...], quick: Quick
) -> Any:
    signature = inspect.signature(function)
    names = list(signature.parameters)
    traced = [i for i, name in enumerate(names) if name not in static]
    fixed = [i for i, name in enumerate(names) if name in static]
    donate = tuple(i for i, place in enumerate(traced) if names[place] in donated)

    def call(*arguments: Any, **named: Any) -> Any:
        if named or len(arguments) != len(names):
            bound = signature.bind(*arguments, **named)
            bound.apply_defaults()
            arguments = tuple(bound.arguments.values())
        flat = [jax.tree.flatten(arguments[i]) for i in traced]
        leaves = [leaves for leaves, _ in flat]
        rest = tuple(structure for _, structure in flat), tuple(arguments[i] for i in fixed)
        every = list(chain(*leaves))
        counted = every
        if uncounted:
            counted = list(chain(*(part for i, part in zip(traced, leaves, strict=True) if names[i] not in uncounted)))
        options = _options(quick, counted)
        kept = _TRACES if any(isinstance(leaf, Tracer) for leaf in every) else _PROGRAMS
        key = (call, tuple(options), tuple(map(jax.typeof, every)), rest)
        compiled = kept.get(key)
        if compiled is not None:
            return compiled(leaves, rest)
        compiled = _Compiled(function, traced, fixed, donate, options)
        result = compiled(leaves, rest)
        kept.put(key, compiled)
        _look_at_maps()
        return result

    call.__name__, call.__qualname__, call.__module__ = function.__name__, function.__qualname__, function.__module__
    call.__doc__, call.__wrapped__ = function.__doc__, function  # pyright: ignore[reportFunctionMemberAccess]
    return call


def _options(quick: Quick, leaves: list[Any]) -> dict[str, Any]:
    """The compiler options for these arguments; a program within another is compiled like the outer one."""
    if jax.default_backend() != "cpu" or is_traced(leaves):
        return {}
    numbers = sum(getattr(leaf, "size", 1) for leaf in leaves)
    if numbers <= _QUICK_UP_TO[quick]:
        return _QUICK
    return _SMALL if numbers <= _SMALL_UP_TO else {}


class _Compiled:
    """A function compiled for arguments of one structure. That structure, and the functions in it, are held only
    during a call."""

    def __init__(
        self, function: Any, traced: list[int], fixed: list[int], donate: Any, options: dict[str, Any]
    ) -> None:
        self._here = here = threading.local()

        def run(*leaves: Any) -> Any:
            structures, values = here.rest
            given = dict(zip(fixed, values, strict=True))
            for place, structure, part in zip(traced, structures, leaves, strict=True):
                given[place] = jax.tree.unflatten(structure, part)
            return function(*(given[place] for place in range(len(given))))

        run.__name__ = run.__qualname__ = function.__name__
        self._run = jax.jit(run, donate_argnums=donate, compiler_options=options or None)

    def __call__(self, leaves: list[list[Any]], rest: Any) -> Any:
        before = getattr(self._here, "rest", None)
        self._here.rest = rest
        try:
            return self._run(*leaves)
        except _LOOKED as error:
            raise ValueError(
                "a function looks at values while it is traced; for example, a function of the model uses if, float() "
                "or NumPy. Write it with jax.numpy (jnp.where instead of if)"
            ) from error
        finally:
            self._here.rest = before


def _look_at_maps() -> None:
    """Once every 16 programs: drop half of them where more than half of the memory maps of the process are taken."""
    if next(_compiled) % _BETWEEN_LOOKS:
        return
    try:
        with open(_MAPS, "rb") as maps, open(_LIMIT) as limit:
            crowded = sum(1 for _ in maps) > int(limit.read()) / 2
    except (OSError, ValueError):  # not Linux
        return
    if crowded:
        _PROGRAMS.drop(len(_PROGRAMS) // 2)
