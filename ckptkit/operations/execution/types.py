"""What running models gives: a record of each run, a row per compared output, findings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptkit.operations.findings import Finding
from ckptkit.results import Result
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.model_io.results import OutputResult
    from ckptkit.model_io.signature import Discrepancy


@dataclass(frozen=True, slots=True)
class RunRecord(Result):
    """One run of a model in a child process.

    subject: as it was given.  runner: its text.  environment, devices: what the child reports.
    seconds: of wall-clock time, the child's start included.  error: why it gave no outputs, or "".
    """

    subject: str
    runner: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it gave outputs."""
        return not self.error

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "subject": self.subject,
            "runner": self.runner,
            "seconds": round(self.seconds, 3),
            "error": self.error,
            "environment": dict(self.environment),
            "devices": {name: dict(counts) for name, counts in self.devices.items()},
        }


@dataclass(frozen=True, slots=True)
class Row(Result):
    """One output of one case, compared.

    case: its name.  runner: that of the run that was judged; reference: what it was held against.
    tier: the row of the tolerance table that applied; the result's tolerance has the reason.
    """

    case: str
    runner: str
    reference: str
    result: OutputResult
    tier: str

    @property
    def ok(self) -> bool:
        """Whether the output passes."""
        return self.result.ok

    @property
    def name(self) -> str:
        """The output, with its case and runner: unique in a report."""
        return f"{self.runner} {self.case} {self.result.name}"

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        found = self.result.to_json()
        return {
            "case": self.case,
            "runner": self.runner,
            "reference": self.reference,
            "output": found.pop("name"),
            "tier": self.tier,
            **found,
        }


def finding_of(change: Discrepancy, severity: str = "") -> Finding:
    """Return a change of a binding or a signature as a finding."""
    return Finding(
        severity or change.severity, change.code, change.where, change.message, change.hint
    )


def findings_of(changes: Iterable[Discrepancy]) -> list[Finding]:
    """Return changes of a binding or a signature as findings."""
    return [finding_of(change) for change in changes]


TIMEOUT_S = 600.0  # of one child


Path_ = str | os.PathLike[str]


def listed(value: Any) -> list[Any]:
    """Return one path or runner, or several, as a list."""
    if isinstance(value, str | os.PathLike | RunnerSpec):
        return [value]
    return list(value)
