"""What a check finds: runs, one row per compared output, findings, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ckptkit.operations.execution.coverage_types import RestoreCoverage
from ckptkit.operations.execution.types import Row, RunRecord
from ckptkit.operations.findings import SEVERITIES, Finding
from ckptkit.results import Document, Result
from ckptkit.text import count_text

if TYPE_CHECKING:
    from ckptkit.operations.check.audit import ToleranceAudit
    from ckptkit.operations.localize.values import Localization

SCHEMA = "ckptkit.check/1"


@dataclass(frozen=True, slots=True)
class ResumedRun(Result):
    """How a training run went on from a checkpoint.

    steps: how many were taken.  compared: (step, checkpoint of the run that never stopped) of each
    save that was compared.  first_difference: the first of those steps after which something
    differs; None where nothing does.  not_restored: names of what the restore left, or changed.
    different: (name, role, status) of what differs at the end, status as `ckptkit.diff` has it.
    unsaved: variables that training changes and no checkpoint keeps.
    """

    steps: int
    compared: tuple[tuple[int, str], ...]
    first_difference: int | None = None
    not_restored: tuple[str, ...] = ()
    different: tuple[tuple[str, str, str], ...] = ()
    unsaved: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all was restored, and the run became the same."""
        return self.first_difference is None and not self.not_restored

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "steps": self.steps,
            "compared": [{"step": step, "checkpoint": path} for step, path in self.compared],
            "first_difference": self.first_difference,
            "not_restored": list(self.not_restored),
            "different": [
                {"name": name, "role": role, "status": status}
                for name, role, status in self.different
            ],
            "unsaved": list(self.unsaved),
        }


@dataclass(frozen=True)
class Report(Document):
    """The answer of a check.

    subject: as it was given.  mode: "coverage", "runners", "against", "golden" or "resume";
    reference: what the outputs, or the run that went on (`resumed`), were held against.
    signature: what was called.  inputs: where they came from.  strict: notes count as findings.
    localization: where two runs part, if that was asked for.  audit: which faults the tolerance
    would let pass, likewise.
    """

    ROWS: ClassVar[str] = "outputs"

    subject: str
    mode: str
    reference: str = ""
    signature: str = ""
    inputs: str = ""
    runs: tuple[RunRecord, ...] = ()
    rows: tuple[Row, ...] = ()
    coverage: RestoreCoverage | None = None
    run_findings: tuple[Finding, ...] = ()
    strict: bool = False
    localization: Localization | None = None
    resumed: ResumedRun | None = None
    audit: ToleranceAudit | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, those of the restore coverage first, the most severe first in each part."""
        covered = self.coverage.findings if self.coverage is not None else ()
        own = sorted(self.run_findings, key=lambda f: SEVERITIES.index(f.severity))
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
    def failing_findings(self) -> tuple[Finding, ...]:
        """The findings that make the check fail."""
        serious = SEVERITIES if self.strict else SEVERITIES[:2]
        return tuple(finding for finding in self.findings if finding.severity in serious)

    @property
    def exit_code(self) -> int:
        """0 the same, 1 differences or findings, 2 nothing (or nothing meaningful) was compared."""
        if self.failed or self.failing_findings:
            return 1
        compared = bool(self.rows) or (self.mode == "coverage" and self.coverage is not None)
        compared = compared or self.resumed is not None
        if self.audit is not None and not self.audit.tried:  # which was asked for
            return 2
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
        if self.resumed is not None:
            saves = count_text(len(self.resumed.compared), "checkpoint")
            same = "the same as" if self.resumed.first_difference is None else "not as"
            steps = count_text(self.resumed.steps, "step")
            parts.append(f"{steps} on, {same} the run that never stopped ({saves} compared)")
        if self.rows:
            good = len(self.rows) - len(self.failed) - len(self.meaningless)
            parts.append(f"{good} of {count_text(len(self.rows), 'output')} as they should be")
        if self.meaningless:
            parts.append(f"{len(self.meaningless)} too small to tell")
        if self.audit is not None:
            parts.append(f"audit: {self.audit.verdict}")
        if self.failing_findings:
            parts.append(count_text(len(self.failing_findings), "finding"))
        word = {0: "ok", 1: "failed", 2: "could not tell"}[self.exit_code]
        return f"{word}: {'; '.join(parts) or 'nothing was compared'}"

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.check/1 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
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
            **({"audit": self.audit.to_json()} if self.audit is not None else {}),
            **({"resumed": self.resumed.to_json()} if self.resumed is not None else {}),
        }
