"""What a check finds: runs, one row per compared output, findings, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.operations.execution.coverage_types import Coverage
from ckptkit.operations.findings import SEVERITIES, Finding

if TYPE_CHECKING:
    from ckptkit.model_io.compare_outputs import OutputResult
    from ckptkit.model_io.signature import Change
    from ckptkit.operations.localize.values import Localization

SCHEMA = "ckptkit.check/1"


@dataclass(frozen=True, slots=True)
class Ran:
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

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain values."""
        return {
            "subject": self.subject,
            "runner": self.runner,
            "seconds": round(self.seconds, 3),
            "error": self.error,
            "environment": dict(self.environment),
            "devices": {name: dict(counts) for name, counts in self.devices.items()},
        }


class Row(NamedTuple):
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
    def name(self) -> str:
        """The output, with its case and runner: unique in a report."""
        return f"{self.runner} {self.case} {self.result.name}"

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        found = self.result.to_json()
        return {
            "case": self.case,
            "runner": self.runner,
            "reference": self.reference,
            "output": found.pop("name"),
            "tier": self.tier,
            **found,
        }


@dataclass(frozen=True)
class Report:
    """The answer of a check.

    subject: as it was given.  mode: "coverage", "runners", "against" or "golden"; reference: what
    the outputs were held against.  signature: what was called.  inputs: where they came from.
    strict: notes count as findings.  localization: where two runs part, if that was asked for.
    """

    subject: str
    mode: str
    reference: str = ""
    signature: str = ""
    inputs: str = ""
    runs: tuple[Ran, ...] = ()
    rows: tuple[Row, ...] = ()
    coverage: Coverage | None = None
    own_findings: tuple[Finding, ...] = ()
    strict: bool = False
    localization: Localization | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, those of the restore coverage first, the most severe first in each part."""
        covered = self.coverage.findings if self.coverage is not None else ()
        own = sorted(self.own_findings, key=lambda f: SEVERITIES.index(f.severity))
        return (*covered, *own)

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that do not pass; meaningless ones are neither here nor among the passed."""
        return tuple(r for r in self.rows if not r.result.ok and r.result.status != "meaningless")

    @property
    def meaningless(self) -> tuple[Row, ...]:
        """The rows whose tolerance would let anything pass."""
        return tuple(row for row in self.rows if row.result.status == "meaningless")

    @property
    def counting(self) -> tuple[Finding, ...]:
        """The findings that make the check fail."""
        serious = SEVERITIES if self.strict else SEVERITIES[:2]
        return tuple(finding for finding in self.findings if finding.severity in serious)

    @property
    def exit_code(self) -> int:
        """0 the same, 1 differences or findings, 2 nothing (or nothing meaningful) was compared."""
        if self.failed or self.counting:
            return 1
        compared = bool(self.rows) or (self.mode == "coverage" and self.coverage is not None)
        return 0 if compared and not self.meaningless else 2

    @property
    def ok(self) -> bool:
        """Whether something was compared, and all of it is as it should be."""
        return self.exit_code == 0

    @property
    def verdict(self) -> str:
        """One line."""
        parts = []
        if self.coverage is not None:
            parts.append(f"restore: {self.coverage.verdict}")
        if self.rows:
            good = len(self.rows) - len(self.failed) - len(self.meaningless)
            parts.append(f"{good} of {counted(len(self.rows), 'output')} as they should be")
        if self.meaningless:
            parts.append(f"{len(self.meaningless)} too small to tell")
        if self.counting:
            parts.append(counted(len(self.counting), "finding"))
        word = {0: "ok", 1: "failed", 2: "could not tell"}[self.exit_code]
        return f"{word}: {'; '.join(parts) or 'nothing was compared'}"

    def told(self, command: str) -> Report:
        """Return the report with the command that localises again."""
        if self.localization is None:
            return self
        return replace(self, localization=replace(self.localization, command=command))

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.check/1 (docs/json.md)."""
        localized = self.localization
        return {
            "schema": SCHEMA,
            "subject": self.subject,
            "mode": self.mode,
            "reference": self.reference,
            "signature": self.signature,
            "inputs": self.inputs,
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            "strict": self.strict,
            "findings": [finding.to_json() for finding in self.findings],
            "coverage": None if self.coverage is None else self.coverage.to_json(),
            "runs": [run.to_json() for run in self.runs],
            "outputs": [row.to_json() for row in self.rows],
            **({"localization": localized.to_json()} if localized is not None else {}),
        }


def finding_of(change: Change, severity: str = "") -> Finding:
    """Return a change of a binding or an interface as a finding."""
    return Finding(
        severity or change.severity, change.code, change.where, change.message, change.hint
    )


def findings_of(changes: Iterable[Change]) -> list[Finding]:
    """Return changes of a binding or an interface as findings."""
    return [finding_of(change) for change in changes]


def counted(number: int, noun: str) -> str:
    """Return "1 output" or "2 outputs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
