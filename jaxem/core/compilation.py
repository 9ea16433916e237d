"""Compiled programs: how thoroughly each is optimised, and how many are kept.

A compiled program takes one or two megabytes and, on a CPU, about a hundred memory maps, of which Linux allows a
process 65,530. ``jax.jit`` keeps up to 8,192 programs and every function that they were compiled for. So the library
keeps its programs itself, each in a ``jax.jit`` of its own: JAX drops what is dropped here.

A program is dropped when a function that it was compiled for no longer exists (a lambda or an optimiser, which no
other object ever equals), or when the table is full and it was used longest ago. Half of the programs, those used
longest ago, are dropped when the process takes more than half of its memory maps.
"""

import contextlib
import functools
import inspect
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from typing import Any, Literal, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxem.core.checks import brief
from jaxem.core.keeping import Kept
from jaxem.core.trees import is_traced

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
_LOOKED = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)

Quick = Literal["never", "very few numbers", "few numbers", "always"]
Effort = Literal["quick", "light", "full"]

# Most numbers in the arguments of a quick program. A pass over 2**16 is fast, and over 2**12 even one per parameter.
_QUICK_UP_TO = {"never": 0, "very few numbers": 2**12, "few numbers": 2**16, "always": math.inf}
_LIGHT_UP_TO = 2**11  # for so few numbers half of the compile time is worth more than the run time
_PROGRAMS = Kept(256)  # all public functions on one small model take about 30
_TRACES = Kept(1024)  # programs within programs, which hold no memory maps
_BETWEEN_LOOKS = 16  # programs compiled between two counts of the maps; the largest hold some 300 maps
_compiled = count()
_MAPS, _LIMIT = "/proc/self/maps", "/proc/sys/vm/max_map_count"

# The light effort takes half of the compile time, by the older fusions of the CPU where JAX has them, and the program
# up to a half longer. The quick effort takes a quarter, and the program two to ten times as long.
_LIGHT: dict[str, Any] = {"xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__[:2] == (0, 10):
    _LIGHT["xla_cpu_use_fusion_emitters"] = False
_OPTIONS: dict[Effort, dict[str, Any]] = {
    "quick": {**_LIGHT, "xla_backend_optimization_level": 0},
    "light": _LIGHT,
    "full": {},
}
# Programs that run for less than this, in seconds and at full effort, are compiled in these ways: as it pays for those
# that are called some ten times. Mixtures of 2,000 rows that are estimated at 0.09 to 0.26 s take 1.4 to 2.3 s at the
# quick effort and 4 to 5 s at the others when first called, and again 0.2 to 0.6 instead of 0.07 to 0.2 s.
_RUNS: dict[Effort, float] = {"quick": 0.2, "light": 0.3}
_forced = threading.local()


@overload
def program(function: Callable[..., R], /) -> Callable[..., R]: ...
@overload
def program(
    *,
    static_argnames: tuple[str, ...] = (),
    donate_argnames: tuple[str, ...] = (),
    quick: Quick = "never",
    seconds: Callable[..., float] | None = None,
) -> Callable[[Callable[..., R]], Callable[..., R]]: ...
def program(
    function: Any = None,
    /,
    *,
    static_argnames: tuple[str, ...] = (),
    donate_argnames: tuple[str, ...] = (),
    quick: Quick = "never",
    seconds: Callable[..., float] | None = None,
) -> Any:
    """A decorator like ``jax.jit``, except for what is kept (see the head of this file).

    Arguments:
        function: what to compile; without it a decorator is returned.
        static_argnames: the arguments that are compared, not traced.
        donate_argnames: the arguments whose memory the result may reuse.
        quick: when to compile with little optimisation on a CPU: ``"never"``, ``"always"``, or up to 2^12 (``"very few
            numbers"``) or 2^16 (``"few numbers"``) numbers in the arguments. Compilation then takes a sixth of the
            time, and the program takes two to ten times as long: meant for what runs once. A program within another is
            compiled like the outer one.
        seconds: a function of the same arguments that estimates how long the program runs; it decides how hard to
            compile in the place of ``quick``.

    Returns:
        The compiled function, or a decorator.
    """
    if function is None:
        return lambda function: _program(function, static_argnames, donate_argnames, quick, seconds)
    return _program(function, static_argnames, donate_argnames, quick, seconds)


def _program(function: Any, static: tuple[str, ...], donated: tuple[str, ...], quick: Quick, seconds: Any) -> Any:
    signature = inspect.signature(function)
    names = list(signature.parameters)
    traced = [i for i, name in enumerate(names) if name not in static]
    fixed = [i for i, name in enumerate(names) if name in static]
    donate = tuple(i for i, place in enumerate(traced) if names[place] in donated)

    def divided(arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        """The operands, and all else: structures and what is compared."""
        flat = [jax.tree.flatten(arguments[i]) for i in traced]
        rest = tuple(structure for _, structure in flat), tuple(arguments[i] for i in fixed)
        return [leaves for leaves, _ in flat], rest

    def prepared(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
        """The program for these arguments, its operands, and, where it is new, the function that keeps it."""
        if named or len(arguments) != len(names):
            bound = signature.bind(*arguments, **named)
            bound.apply_defaults()
            arguments = tuple(bound.arguments.values())
        leaves, rest = divided(arguments)
        every = list(chain(*leaves))
        options = _options(quick, every, seconds and (lambda: seconds(*arguments)))
        kept = _TRACES if any(isinstance(leaf, Tracer) for leaf in every) else _PROGRAMS
        key = (call, tuple(options), tuple(map(jax.typeof, every)), rest)
        compiled = kept.get(key)
        if compiled is not None:
            return compiled, leaves, rest, None
        return _Compiled(function, traced, fixed, donate, options), leaves, rest, lambda new: kept.put(key, new)

    def call(*arguments: Any, **named: Any) -> Any:
        compiled, leaves, rest, keep = prepared(arguments, named)
        result = compiled(leaves, rest)
        if keep is not None:
            keep(compiled)
            _look_at_maps()
        return result

    def begin(*arguments: Any) -> None:
        compiled, leaves, rest, keep = prepared(arguments, {})
        if keep is not None and not is_traced(leaves):
            with contextlib.suppress(Exception):  # the call that follows meets the same error
                compiled.begin(leaves, rest)
                keep(compiled)

    def abreast(calls: list[tuple[Any, ...]]) -> list[Any]:
        if not calls:
            return []
        compiled, _, _, keep = prepared(calls[0], {})
        found = [divided(each) for each in calls]
        if len(calls) == 1 or cores() == 1 or is_traced(calls):
            results = [compiled(*each) for each in found]
        else:
            run = compiled.executable(*found[0])
            given = _for_threads([leaves for leaves, _ in found])
            results = list(_workers(os.getpid()).map(lambda leaves: _ended(run(*leaves)), given))
        if keep is not None:
            keep(compiled)
            _look_at_maps()
        return results

    call.abreast = abreast  # pyright: ignore[reportFunctionMemberAccess]
    call.begin = begin  # pyright: ignore[reportFunctionMemberAccess]
    call.__name__, call.__qualname__, call.__module__ = function.__name__, function.__qualname__, function.__module__
    call.__doc__, call.__wrapped__ = function.__doc__, function  # pyright: ignore[reportFunctionMemberAccess]
    return call


def ahead(program: Callable[..., Any], *arguments: Any) -> None:
    """Begin to compile a program for these arguments, or their shapes, beside what follows; its next call waits."""
    program.begin(*arguments)  # pyright: ignore[reportFunctionMemberAccess]


def on_all_cores(program: Callable[..., R], calls: list[tuple[Any, ...]]) -> list[R]:
    """The results of calls with arguments of the same structures, shapes and dtypes, one on each core at a time.

    On a CPU JAX itself runs one program after another, even where it returns before they have ended.
    """
    return program.abreast(calls)  # pyright: ignore[reportFunctionMemberAccess]


def cores() -> int:
    """How many programs run at a time: one per core, as small programs use one core each; one on an accelerator."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _workers(process: int) -> ThreadPoolExecutor:
    """The threads of this process in which compiled programs run; its children have none of them."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="jaxem")


def lowerable(function: Callable[..., R]) -> Any:
    """The function as ``jax.export`` takes it: traced once, never called, and dropped with the result."""
    return jax.jit(function)


def _options(quick: Quick, leaves: list[Any], seconds: Callable[[], float] | None) -> dict[str, Any]:
    """The compiler options for these arguments; a program within another is compiled like the outer one."""
    if jax.default_backend() != "cpu" or is_traced(leaves):
        return {}
    if seconds is not None:
        return _OPTIONS[effort_for(seconds())]
    numbers = sum(getattr(leaf, "size", 1) for leaf in leaves)
    return _OPTIONS["quick" if numbers <= _QUICK_UP_TO[quick] else "light" if numbers <= _LIGHT_UP_TO else "full"]


def effort_for(seconds: float) -> Any:
    """How hard a program is compiled that runs for so many seconds at full effort, unless ``effort`` forces another."""
    forced = getattr(_forced, "effort", None)
    runs = seconds * getattr(_forced, "times", 1)
    return forced or next((effort for effort, most in _RUNS.items() if runs < most), "full")


@contextlib.contextmanager
def runs(times: int) -> Iterator[None]:
    """A context in which each program runs so many times, and is compiled accordingly."""
    before = getattr(_forced, "times", 1)
    _forced.times = times
    try:
        yield
    finally:
        _forced.times = before


@contextlib.contextmanager
def effort(level: Effort) -> Iterator[None]:
    """A context in which fits are compiled with one effort, whatever their size; only a CPU knows the difference.

    Left alone, the effort is in proportion to the work: a fit that takes milliseconds is compiled quickly.

    Arguments:
        level: ``"quick"``: a quarter of the compile time, and programs that take two to ten times as long;
            ``"light"``: half of the compile time, and programs that take up to a half longer; ``"full"``.

    Yields:
        Nothing; the effort holds inside the ``with`` block.

    Raises:
        ValueError: ``level`` is none of the three.
    """
    if level not in _OPTIONS:
        raise ValueError(f"effort must be one of {list(_OPTIONS)}; got {brief(level)}")
    before = getattr(_forced, "effort", None)
    _forced.effort = level
    try:
        yield
    finally:
        _forced.effort = before


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
        self._ahead: threading.Thread | None = None
        self._executable: Callable[..., Any] | None = None

    def begin(self, leaves: list[list[Any]], rest: Any) -> None:
        """Compile beside what follows; the first call waits for it."""
        lowered = self._with(rest, lambda: self._run.lower(*leaves))
        self._ahead = threading.Thread(target=_compile, args=(lowered,))
        self._ahead.start()

    def __call__(self, leaves: list[list[Any]], rest: Any) -> Any:
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None
        return self._with(rest, lambda: self._run(*leaves))

    def executable(self, leaves: list[list[Any]], rest: Any) -> Callable[..., Any]:
        """What runs in any thread, whatever its settings of JAX are: all that depends on them is done here."""
        if self._executable is not None:
            return self._executable
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None
        run = self._executable = self._with(rest, lambda: self._run.lower(*leaves).compile())
        return run

    def _with(self, rest: Any, act: Callable[[], Any]) -> Any:
        before = getattr(self._here, "rest", None)
        self._here.rest = rest
        try:
            with all_digits():
                return act()
        except _LOOKED as error:
            raise ValueError(
                "a function looks at values while it is traced; for example, a function of the model uses if, float() "
                "or NumPy. Write it with jax.numpy (jnp.where instead of if)"
            ) from error
        finally:
            self._here.rest = before


def all_digits(platforms: Iterable[str] = ()) -> contextlib.AbstractContextManager[Any]:
    """A context in which matrix products keep all digits of their dtype, unless they are told otherwise.

    Accelerators multiply float32 in fewer digits if they may (in 10 or 7 bits; an E-step of factor analysis on an H200
    lost a factor of 85). A CPU knows no such thing, and compiles faster without being told.

    Arguments:
        platforms: what programs are compiled for; default: the default backend.
    """
    everywhere = set(platforms or [jax.default_backend()])
    return contextlib.nullcontext() if everywhere == {"cpu"} else jax.default_matmul_precision("highest")


def precise(function: F) -> F:
    """The function with ``all_digits``, for what users call in programs of their own."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        with all_digits():
            return function(*arguments, **named)

    return call  # pyright: ignore[reportReturnType]


def _for_threads(calls: Any) -> Any:
    """The operands as they mean the same in each thread, whatever its settings of JAX are: numbers of 64 bits are made
    arrays of JAX here, once where calls share them."""
    known: dict[int, Any] = {}

    def array(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) or (isinstance(leaf, (np.ndarray, np.generic)) and leaf.itemsize <= 4):
            return leaf
        if id(leaf) not in known:
            known[id(leaf)] = jnp.asarray(leaf)
        return known[id(leaf)]

    return [[[array(leaf) for leaf in leaves] for leaves in call] for call in calls]


def _ended(result: R) -> R:
    """The result of a program, when it has ended: all of its arrays are then there."""
    for leaf in jax.tree.leaves(result)[:1]:
        leaf.block_until_ready()
    return result


def _compile(lowered: Any) -> None:
    with contextlib.suppress(Exception):  # the call that follows meets the same error
        lowered.compile()


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
