"""What ``verify`` returns: each law, what was measured, what it was held to, and the verdict."""

import enum
from typing import NamedTuple

from jaxem.core import tables


class Verdict(enum.Enum):
    """The outcome of one law."""

    HOLDS = "holds"
    VIOLATED = "VIOLATED"
    UNCHECKED = "not checked"


class Check(NamedTuple):
    """One law of a certificate."""

    law: str
    statement: str
    residual: float  # by how much the law is broken, dimensionless; NaN where it was not measured
    tolerance: float
    origin: str  # where the tolerance comes from, or why the law was not checked
    leaf: str | None  # the parameter array at which a violated law is broken most
    verdict: Verdict


class LawViolationError(AssertionError):
    """A law of EM that does not hold, raised by ``verify(..., strict=True)``."""


class Certificate(NamedTuple):
    """The laws of EM for one model at one point; prints as a table."""

    checks: tuple[Check, ...]
    dtype: str
    size: float  # observed values

    @property
    def ok(self) -> bool:
        """Whether no law is violated and at least one was checked."""
        verdicts = [check.verdict for check in self.checks]
        return Verdict.VIOLATED not in verdicts and Verdict.HOLDS in verdicts

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the laws that do not hold."""
        return tuple(check.law for check in self.checks if check.verdict is Verdict.VIOLATED)

    def __getitem__(self, law: str) -> Check:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The check of one law, by name."""
        return {check.law: check for check in self.checks}[law]

    def raise_if_violated(self) -> None:
        """Raise ``LawViolationError`` naming each broken law and the parameter at fault."""
        broken = [check for check in self.checks if check.verdict is Verdict.VIOLATED]
        if broken:
            raise LawViolationError("; ".join(_complaint(check) for check in broken))

    def __str__(self) -> str:
        rows = [["law", "statement", "residual", "tolerance", ""]]
        for check in self.checks:
            if check.verdict is Verdict.UNCHECKED:
                rows.append([check.law, check.statement, "", "", f"not checked: {check.origin}"])
                continue
            verdict = check.verdict.value
            if check.verdict is Verdict.VIOLATED and check.leaf:
                verdict += f" at {tables.names([check.leaf])[0]}"
            rows.append([check.law, check.statement, f"{check.residual:.1e}", f"{check.tolerance:.1e}", verdict])
        lines = tables.columns(rows, "<<>><")
        summary = "all checked laws hold" if self.ok else f"violated: {', '.join(self.violated) or 'nothing checked'}"
        return "\n".join([f"Certificate ({self.dtype}, {self.size:.0f} observed values): {summary}", *lines])

    __repr__ = __str__


def _complaint(check: Check) -> str:
    where = f", worst at parameter {check.leaf}" if check.leaf else ""
    return (
        f"{check.law} is violated{where}: {check.statement} is off by {check.residual:.2e}, "
        f"tolerance {check.tolerance:.2e} ({check.origin})"
    )
