"""Ctrl-C while a compiled program runs in the main thread, where Python looks at signals only after it."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """A function that any thread may call: whether Ctrl-C was pressed within the block.

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
