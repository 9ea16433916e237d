"""The host side of a stream: a thread that reads one chunk ahead while the devices work on another.

Nothing here calls JAX, because the compiled program waits for it.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

_LOOK = 0.1  # seconds between two looks whether a wait was interrupted
_SLOTS = 2  # chunks in memory: the one that was handed out last, and the one that is read


class Cursor(Protocol):
    """A place in a source, from which rows are read in their order."""

    def read(self, out: Sequence[np.ndarray]) -> int:
        """Fill the arrays from their first row on, and return the number of rows: fewer only where the source ends."""
        ...

    def close(self) -> None:
        """Release what the cursor holds."""
        ...


class Layout(NamedTuple):
    """How the rows of a source are cut into chunks."""

    rows: int  # of a chunk, on all devices together
    chunks: int
    total: int  # rows of the source
    devices: int


class Stored(NamedTuple):
    """What a device had of a pass that was interrupted: the sums over all chunks before ``first``."""

    first: int  # the next chunk; the number of chunks for a pass that was complete
    sums: Sequence[np.ndarray]  # in the order of the leaves: the sums, and then their rounding errors


class Reader:
    """Hands out chunks in their order, pass after pass.

    Chunk n of the whole sequence lies in slot n modulo 2. A device that asks for a chunk has taken the one before, so
    that chunk n may be read as soon as every device has asked for chunk n - 1.

    Two hooks are for fits that are interrupted within a pass. ``stored`` has, for each device, what it had of its first
    passes; these then begin where they ended. ``keep(device, pass, chunk, sums)``, where given, receives the sums after
    each chunk.

    Arguments:
        open: a function of a row that returns a ``Cursor`` there.
        buffers: a function that returns the arrays of one chunk; the last one is for weights.
        weighted: whether the source has weights; if not, each row counts once.
        layout: how rows are cut into chunks.
        interrupted: whether the user wants the fit to end, by ``KeyboardInterrupt``.
    """

    def __init__(
        self,
        open: Callable[[int], Cursor],
        buffers: Callable[[], list[np.ndarray]],
        weighted: bool,
        layout: Layout,
        interrupted: Callable[[], bool] = lambda: False,
        stored: Sequence[Sequence[Stored]] = (),
        keep: Callable[[int, int, int, Sequence[np.ndarray]], None] | None = None,
    ) -> None:
        self.layout, self.keep = layout, keep
        self.error: BaseException | None = None
        self._interrupted = interrupted
        self._open, self._weighted = open, weighted
        self.stored = stored or ((),) * layout.devices
        self._changed = threading.Condition()
        self._slots = [buffers() for _ in range(_SLOTS)]
        self._filled, self._asked = 0, [0] * layout.devices
        self.begun = [0] * layout.devices  # passes of each device
        self._places = [layout.chunks] * layout.devices  # the next chunk of each device in its pass
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="jaxem stream", daemon=True)
        self._thread.start()

    def begin(self, device: int) -> Stored | None:
        """The next pass of a device begins: what it has of that pass already, ``None`` for nothing."""
        if self._places[device] != self.layout.chunks:
            raise RuntimeError("a pass over a stream began before the last one had ended")
        before, number = self.stored[device], self.begun[device]
        found = before[number] if number < len(before) else None
        self.begun[device] += 1
        self._places[device] = 0 if found is None else found.first
        return found

    def take(self, device: int, chunk: int) -> list[np.ndarray] | None:
        """The rows of a device in its next chunk, valid until it asks again; ``None`` after an error or the end."""
        if chunk != self._places[device]:
            raise RuntimeError("two passes over a stream ran at the same time")
        self._places[device] += 1
        with self._changed:
            number = self._asked[device]
            self._asked[device] += 1
            self._changed.notify_all()
            while number >= self._filled and self.error is None and not self._closed and not self._interrupted():
                self._changed.wait(_LOOK)
            if self._interrupted() and self.error is None:
                self.error = KeyboardInterrupt()
                self._changed.notify_all()
            if self.error is not None or self._closed:
                return None
        rows = self.layout.rows // self.layout.devices
        return [leaf[device * rows : (device + 1) * rows] for leaf in self._slots[number % _SLOTS]]

    def kept(self, device: int, chunk: int, sums: Sequence[np.ndarray]) -> None:
        """Hand the sums of a device after a chunk to ``keep``."""
        if self.keep is not None:
            self.keep(device, self.begun[device] - 1, chunk, sums)

    def fail(self, error: BaseException) -> None:
        """Remember an error, which ends every pass; of several the first counts."""
        with self._changed:
            self.error = error if self.error is None else self.error
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread. It may outlive this call by the read it is in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        try:
            number = 0
            for first in self._firsts():
                for _ in self._one_pass(number, first):
                    number += 1
                    with self._changed:
                        self._filled = number
                        self._changed.notify_all()
                if self._closed:
                    return
        except BaseException as error:  # whatever the source raises, ``fit_stream`` raises
            self.fail(error)

    def _firsts(self) -> Iterator[int]:
        """The first chunk of each pass that has any to read."""
        begun = (stored.first for stored in self.stored[0])
        return itertools.chain((first for first in begun if first < self.layout.chunks), itertools.repeat(0))

    def _one_pass(self, number: int, first: int) -> Iterator[None]:
        """Read the chunks of a pass, each as soon as its slot is free."""
        layout, cursor = self.layout, self._open(first * self.layout.rows)
        try:
            for chunk in range(first, layout.chunks):
                if not self._is_free(number):
                    return
                out = self._slots[number % _SLOTS]
                before, found = chunk * layout.rows, fill(cursor, out, self._weighted)
                last = chunk == layout.chunks - 1
                longer = before + found > layout.total or (last and found == layout.rows and not self._ended(cursor))
                if longer or found < min(layout.rows, layout.total - before):
                    count = "more" if longer else f"{before + found}"
                    raise ValueError(
                        f"the stream had {layout.total} rows in its first pass and has {count} in a later one; a "
                        "source must give the same rows in every pass"
                    )
                yield
                number += 1
        finally:
            cursor.close()

    def _ended(self, cursor: Cursor) -> bool:
        """Whether no row is left."""
        like = self._slots[0] if self._weighted else self._slots[0][:-1]
        return cursor.read([np.empty_like(leaf[:1]) for leaf in like]) == 0

    def _is_free(self, number: int) -> bool:
        """Wait until the slot of chunk ``number`` is free; False where the stream was closed before."""
        with self._changed:
            while number >= _SLOTS and min(self._asked) < number and not self._closed:
                self._changed.wait()
            return not self._closed


def fill(cursor: Cursor, out: Sequence[np.ndarray], weighted: bool) -> int:
    """Read one chunk and return its number of rows.

    The last array is for weights: those of the source, or ones. Rows after the end of the source get weight 0 and
    copies of the first row, so that no NaN arises from them.
    """
    found = cursor.read(out if weighted else out[:-1])
    rows = len(out[-1])
    if not weighted:
        out[-1][:found] = 1
    if found < rows:
        for leaf in out[:-1]:
            leaf[found:] = leaf[:1]
        out[-1][found:] = 0
    return found
