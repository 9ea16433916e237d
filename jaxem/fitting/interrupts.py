"""Ctrl-C at points where everything is whole: kept back until the code asks for it."""

import signal
import threading
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
