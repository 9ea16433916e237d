"""Ctrl-C: kept back until everything is whole, and seen while a compiled program runs in the main thread."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """An interrupt at a point where everything is whole, so that the run can end with what it has."""


class Interrupts:
    """While it is entered, a first Ctrl-C waits for ``check``; a second one interrupts at once, as usual.

    In another thread than the main one, or where the program handles the signal itself, nothing changes.
    """

    def __init__(self) -> None:
        self._came = self._entered = False

    def __enter__(self) -> "Interrupts":
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._entered = True
        return self

    def __exit__(self, *_: Any) -> None:
        if self._entered:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._entered = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._came = True

    def check(self) -> None:
        """Raise ``Interrupted`` where a Ctrl-C came."""
        if self._came:
            raise Interrupted


@contextlib.contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """A function that any thread may call: whether Ctrl-C was pressed within the block.

    Python looks at signals only after a compiled program that runs in the main thread.

    Python itself raises ``KeyboardInterrupt``, as soon as the program has ended. Where another handler of the signal is
    installed, or the block does not run in the main thread, the function says no.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    inside, outside = socket.socketpair()
    seen = bytearray()

    def pressed() -> bool:
        with contextlib.suppress(BlockingIOError):
            seen.extend(inside.recv(64))
        return signal.SIGINT in seen

    with inside, outside:
        inside.setblocking(False)
        outside.setblocking(False)
        before = signal.set_wakeup_fd(outside.fileno(), warn_on_full_buffer=False)
        try:
            yield pressed
        finally:
            signal.set_wakeup_fd(before)
            pressed()
            if before != -1 and seen:  # an event loop waits for these
                with contextlib.suppress(OSError):
                    os.write(before, bytes(seen))
