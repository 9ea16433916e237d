"""What ``verify`` returns: each law, what was measured, what it was held to, and the verdict."""

import dataclasses
import enum
from collections.abc import Iterator

import numpy as np

from jaxem.core import tables


class Verdict(enum.Enum):
    """The outcome of one law."""

    HOLDS = "holds"
    VIOLATED = "VIOLATED"
    UNCHECKED = "not checked"


@dataclasses.dataclass(frozen=True)
class Check:
    """One law of a certificate."""

    law: str
    statement: str
    residual: float  # by how much the law is broken, dimensionless; NaN where it was not measured
    tolerance: float  # NaN where it was not measured
    origin: str  # where the tolerance comes from, or why the law was not checked
    leaf: str | None  # what is farthest off, where the law is about several things, such as a parameter array
    verdict: Verdict
    decisive: bool = True  # whether it says that an E-step or an M-step is right

    @property
    def ratio(self) -> float:
        """The residual over the tolerance: above one the law is violated."""
        return self.residual / self.tolerance if self.tolerance else float(np.inf * np.sign(self.residual))

    @property
    def hidden(self) -> bool:
        """Whether the law was measured, and rounding error is too large for it to say anything."""
        return self.verdict is Verdict.UNCHECKED and np.isfinite(self.tolerance)


class LawViolationError(AssertionError):
    """A law of EM that does not hold, raised by ``verify(..., strict=True)``."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The laws of EM for one model at one point: iterates over its checks, finds one by its name, prints as a table."""

    checks: tuple[Check, ...]
    dtype: str
    size: float  # observed values
    point: str = "unknown"  # whether the point is a maximum, a saddle or at an edge: information, not a law

    @property
    def ok(self) -> bool:
        """Whether the certificate vouches for the model.

        No law is violated, none is hidden by rounding error, and at least one that can tell a right E-step or M-step
        from a wrong one holds. All of those need ``q_function``: of a model without it a certificate is neither ok nor
        violated.
        """
        return not self.violated and not self.hidden and self._decided

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the laws that do not hold."""
        return tuple(check.law for check in self.checks if check.verdict is Verdict.VIOLATED)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The names of the laws that were measured and, for rounding error, say nothing."""
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

        Raises ``KeyError`` that lists the names where there is none of that name.
        """
        for check in self.checks:
            if check.law == law:
                return check
        raise KeyError(f"no law is called {law!r}; these were looked at: {', '.join(c.law for c in self.checks)}")

    def raise_if_violated(self) -> None:
        """Raise ``LawViolationError`` naming each broken law and the parameter at fault."""
        broken = [check for check in self.checks if check.verdict is Verdict.VIOLATED]
        if broken:
            raise LawViolationError("; ".join(_complaint(check) for check in broken))

    @property
    def _summary(self) -> str:
        held = [check.law for check in self.checks if check.verdict is Verdict.HOLDS]
        if self.violated:
            return f"violated: {', '.join(self.violated)}"
        if self.hidden:
            return f"no verdict: rounding error hides {', '.join(self.hidden)}"
        if not self._decided:
            seen = f"{', '.join(held)} hold{'s' * (len(held) == 1)}" if held else "nothing could be checked"
            return f"no verdict: {seen}, but no law that tells a right E-step or M-step from a wrong one was checked"
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
