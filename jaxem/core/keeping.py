"""A bounded table whose keys do not keep the functions in them alive."""

import dataclasses
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from types import MethodType
from typing import Any

import jax


class Same(weakref.ref):
    """A weak reference, compared by identity: it equals another reference to the same object while that lives."""

    __slots__ = ("key", "number")

    def __init__(self, thing: Any, gone: Callable[["Same"], None] | None = None) -> None:
        super().__init__(thing, gone)  # pyright: ignore[reportCallIssue]
        self.number = id(thing)
        self.key: Hashable = None  # the key of the table that contains this reference

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        thing = self()
        return self is other or (thing is not None and isinstance(other, Same) and other() is thing)


def loose(thing: Any, hold: Callable[[Any], Hashable] = Same) -> Hashable:
    """A key that is equal for equal things, with ``hold(part)`` in place of each part that equals only itself.

    Such parts are functions, bound methods and objects without their own ``__eq__``. They are found in tuples, in
    dataclasses and in the static data of a pytree.
    """
    kind = type(thing)
    if kind in _PLAIN or isinstance(thing, type):
        return thing
    if kind is jax.tree_util.PyTreeDef:
        data = thing.node_data()
        if data is None:
            return None
        node, beside = data
        beside = tuple(beside) if node is dict else beside
        return (node, loose(beside, hold), *(loose(child, hold) for child in thing.children()))
    if isinstance(thing, tuple):
        return (kind, *(loose(part, hold) for part in thing))
    if kind is MethodType:
        weak = type(thing.__self__).__weakrefoffset__
        return (hold(thing.__self__), hold(thing.__func__)) if weak else thing
    if kind.__eq__ is object.__eq__:
        return hold(thing) if kind.__weakrefoffset__ else thing
    if dataclasses.is_dataclass(thing):
        parts = [getattr(thing, field.name) for field in dataclasses.fields(thing)]
        if all(type(part).__hash__ for part in parts):
            return (kind, *(loose(part, hold) for part in parts))
    return thing


_PLAIN = (type(None), bool, int, float, str)


class Kept:
    """A table of at most ``most`` values; beyond that, the value used longest ago is dropped.

    A value is also dropped when an object in its key dies.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._dead: deque[Same] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, parts: tuple[Any, ...]) -> Any:
        """The value under this key, or ``None``."""
        key = loose(parts)
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
        self._bury()
        return value

    def put(self, parts: tuple[Any, ...], value: Any) -> None:
        """Keep a value. Where there are too many, drop the one used longest ago."""
        held: list[Same] = []

        def hold(thing: Any) -> Same:
            held.append(Same(thing, self._gone))
            return held[-1]

        key = loose(parts, hold)
        for each in held:
            each.key = key
        with self._lock:
            self._values[key] = value
        self.drop(len(self) - self._most)

    def drop(self, number: int) -> None:
        """Drop ``number`` values, those used longest ago."""
        with self._lock:
            for _ in range(min(number, len(self._values))):
                self._values.popitem(last=False)
        self._bury()

    def _gone(self, dead: Same) -> None:
        self._dead.append(dead)
        self._bury()

    def _bury(self) -> None:
        """Drop the values of dead objects. An object may die at any time, even in the thread that holds the lock."""
        while self._dead and self._lock.acquire(blocking=False):
            try:
                self._values.pop(self._dead.popleft().key, None)
            except IndexError:  # another thread took it first
                pass
            finally:
                self._lock.release()
