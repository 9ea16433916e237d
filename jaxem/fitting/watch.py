"""The watch over a long run: it reports, saves checkpoints, and listens for Ctrl-C, between two pieces of the run.

An engine (a loop on the host over compiled pieces) is watched by four calls, each at a point where its whole state is
at hand and nothing is in flight::

    with watch:                                     # from here on Ctrl-C waits for ``watch.check``
        watch.save(tree, **facts)                   # so that the file is of this run from the start
        try:
            while ...:
                ...                                 # one piece
                watch.tell(arguments, done, total)  # the user's function, or the bar
                watch.check()                       # raises ``Interrupted`` after Ctrl-C
                if watch.due():
                    watch.save(tree, **facts)
        except Interrupted:
            ...                                     # end with what there is
        watch.save(tree, **facts)
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxem.core.checks import brief, number
from jaxem.core.interrupts import Interrupted, Interrupts
from jaxem.fitting import checkpoint, packing

PIECE = 0.2  # seconds that a piece should take: short for who waits for Ctrl-C, long beside the call of a program


def watching(name: str, progress: Any, path: Any, every: Any, what: str, unit: str) -> "Watch | None":
    """The watch of a call, or ``None`` where nothing is to be watched; ``ValueError`` where an option is invalid.

    Arguments:
        name: the public function.
        progress: as the user gave it: ``None``, a truth value, or a function.
        path: of the checkpoint, or ``None``.
        every: seconds between two checkpoints.
        what: the arguments of the user's function, for a message.
        unit: what the bar counts.
    """
    bar = progress is True
    if not bar and progress is not None and progress is not False and not callable(progress):
        raise ValueError(f"progress must be True, for a bar, or a function {what}; got {brief(progress)}")
    number("every", every, 0, float("inf"))
    path = None if path is None else checkpoint.check_path(name, path)
    if not progress and path is None:
        return None
    return Watch(progress if callable(progress) else None, _bar(unit) if bar else None, path, float(every))


class Watch:
    """See the head of this file."""

    def __init__(
        self, function: Callable[..., Any] | None, bar: Callable[..., Any] | None, path: Path | None, every: float
    ) -> None:
        self.path, self.every = path, every
        self.header: dict[str, Any] = {}  # what the file says of the run (see ``runs.describe``)
        self._function, self._bar, self._shown = function, bar, None
        self._interrupts = Interrupts()
        self._began = self._saved = time.monotonic()

    @property
    def piece(self) -> float:
        """The seconds that a piece should take."""
        return min(PIECE, self.every) if self.path is not None and self.every > 0 else PIECE

    def seconds(self) -> float:
        """The time that the run has taken so far, in all processes."""
        return time.monotonic() - self._began

    def continues(self, header: dict[str, Any]) -> None:
        """Take over the header of a run that goes on, and the time that it took."""
        self.header, self._began = header, self._began - header["seconds"]

    def __enter__(self) -> "Watch":
        self._interrupts.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._interrupts.__exit__(*error)
        if self._shown is not None:
            self._shown.close()

    def tell(self, arguments: tuple[Any, ...], done: int, total: int, text: str = "") -> None:
        """Call the user's function with ``arguments``, or show ``done`` of ``total`` and ``text`` in the bar."""
        if self._function is not None:
            try:
                self._function(*arguments)
            except KeyboardInterrupt as error:
                raise Interrupted from error
        if self._bar is not None:
            if self._shown is None:
                self._shown = self._bar(total=total, initial=done)
            self._shown.set_postfix_str(text, refresh=False)
            self._shown.update(done - self._shown.n)

    def check(self) -> None:
        """Raise ``Interrupted`` where a Ctrl-C came."""
        self._interrupts.check()

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.path is not None and time.monotonic() - self._saved >= self.every

    def save(self, tree: Any, **facts: Any) -> None:
        """Write a checkpoint, if one is wanted, of a tree of arrays and of facts that JSON can hold."""
        if self.path is not None:
            header = {**self.header, "seconds": self.seconds(), "facts": facts}
            checkpoint.write(self.path, header, packing.pack(tree))
            self._saved = time.monotonic()


def _bar(unit: str) -> Callable[..., Any]:
    """What makes a bar; ``ImportError`` where tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError('progress=True needs tqdm: pip install "jaxem[progress]"') from error
    return lambda **options: tqdm(unit=unit, **options)
