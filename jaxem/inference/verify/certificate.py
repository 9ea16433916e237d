"""The result of ``verify``: each law, its measured residual, its tolerance, and the verdict."""

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxem.core import frame_output, tables


class Verdict(enum.Enum):
    """The verdict on one law."""

    HOLDS = "holds"
    VIOLATED = "VIOLATED"
    UNCHECKED = "not checked"


@dataclasses.dataclass(frozen=True)
class Check:
    """The check of one law."""

    law: str  # the name of the law
    statement: str  # what the law says
    residual: float  # the amount by which the law is violated, dimensionless; NaN where it was not measured
    tolerance: float  # NaN where it was not measured
    origin: str  # where the tolerance comes from, or why the law was not checked
    leaf: str | None  # where the residual is largest, such as a parameter array; None for a law about one number
    verdict: Verdict  # whether the law holds, is violated, or was not checked
    decisive: bool = True  # whether the law can tell a correct E-step or M-step from a wrong one

    @property
    def ratio(self) -> float:
        """The residual divided by the tolerance: above one the law is violated."""
        return self.residual / self.tolerance if self.tolerance else float(np.inf * np.sign(self.residual))

    @property
    def hidden(self) -> bool:
        """Whether the law was measured but rounding error is too large for a verdict."""
        return self.verdict is Verdict.UNCHECKED and np.isfinite(self.tolerance)


class LawViolationError(AssertionError):
    """A law of EM is violated; raised by ``verify(..., strict=True)``."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The laws of EM for one model at one point.

    Iterates over its checks, each a ``Check``, finds a check by the name of its law, and prints as a table.
    """

    checks: tuple[Check, ...]  # one for each law, with its verdict
    dtype: str  # the dtype of the parameters
    size: float  # the number of observed values
    point: str = "unknown"  # whether the point is a maximum, a saddle or at an edge: for information, not a law

    @property
    def ok(self) -> bool:
        """Whether the certificate shows that the model is correct at this point.

        True where no law is violated, none is hidden by rounding error, and at least one law holds that can tell a
        correct E-step or M-step from a wrong one. All laws of that kind need ``q_function``: without it a certificate
        is never ok, even where no law is violated.
        """
        return not self.violated and not self.hidden and self._decided

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the violated laws."""
        return tuple(check.law for check in self.checks if check.verdict is Verdict.VIOLATED)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The names of the laws that were measured but have no verdict because of rounding error."""
        return tuple(check.law for check in self.checks if check.hidden)

    @property
    def _decided(self) -> bool:
        return any(check.decisive and check.verdict is Verdict.HOLDS for check in self.checks)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def __getitem__(self, law: str) -> Check:
        """The check of one law, by name.

        Raises:
            KeyError: there is no law of that name; the message lists the names.
        """
        for check in self.checks:
            if check.law == law:
                return check
        raise KeyError(f"no law is called {law!r}; this certificate has: {', '.join(c.law for c in self.checks)}")

    def raise_if_violated(self) -> None:
        """Raise ``LawViolationError`` where a law is violated.

        The message names each violated law and where its residual is largest.

        Raises:
            LawViolationError: a law is violated.
        """
        broken = [check for check in self.checks if check.verdict is Verdict.VIOLATED]
        if broken:
            raise LawViolationError("; ".join(_complaint(check) for check in broken))

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The laws by columns.

        Returns:
            A dict: ``law``, ``statement``, ``residual``, ``tolerance``, ``ratio``, ``verdict`` and
            ``worst``.
        """
        return {
            **{name: [getattr(check, name) for check in self.checks] for name in ("law", "statement")},
            **{name: [float(getattr(one, name)) for one in self.checks] for name in ("residual", "tolerance", "ratio")},
            "verdict": [check.verdict.value for check in self.checks],
            "worst": [check.leaf or "" for check in self.checks],
        }

    @property
    def _summary(self) -> str:
        held = [check.law for check in self.checks if check.verdict is Verdict.HOLDS]
        if self.violated:
            return f"violated: {', '.join(self.violated)}"
        if self.hidden:
            return f"no verdict: rounding error hides {', '.join(self.hidden)}"
        if not self._decided:
            seen = f"{', '.join(held)} hold{'s' * (len(held) == 1)}" if held else "nothing could be checked"
            return f"no verdict: {seen}, but no law that tells a correct E-step or M-step from a wrong one was checked"
        return "all checked laws hold"

    def __str__(self) -> str:
        rows = [["law", "statement", "residual", "tolerance", "ratio", ""]]
        for check in self.checks:
            verdict = check.verdict.value
            if check.verdict is Verdict.UNCHECKED:
                verdict += f": {check.origin}"
            elif check.verdict is Verdict.VIOLATED and check.leaf:
                verdict += f" at {tables.names([check.leaf])[0]}"
            numbers = [f"{check.residual:.1e}", f"{check.tolerance:.1e}", f"{check.ratio:.2g}"]
            measured = numbers if np.isfinite(check.tolerance) else ["", "", ""]
            rows.append([check.law, check.statement, *measured, verdict])
        lines = tables.columns(rows, "<<>>><")
        title = f"Certificate ({self.dtype}, {self.size:.0f} observed values): {self._summary}"
        return "\n".join([title, *lines, f"The point: {self.point}"])

    __repr__ = __str__


def _complaint(check: Check) -> str:
    where = f", worst at {check.leaf}" if check.leaf else ""
    return (
        f"{check.law} is violated{where}: {check.statement} is off by {check.residual:.2e}, "
        f"tolerance {check.tolerance:.2e} ({check.origin})"
    )
