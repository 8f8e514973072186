"""A check as JUnit XML: one test case per output, per run and for the restore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.reports.check.rows import environment_text, row_text, where_text
from ckptkit.reports.junit import JUnitCase, JUnitSuite, document
from ckptkit.reports.text import finding_text

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.findings import Finding


def lines(report: Report) -> Iterator[str]:
    """Yield the document; what was not compared can not be seen as passed: it is an error."""
    cases = list(_cases(report))
    if report.exit_code == 2:
        cases.append(JUnitCase(report.subject, "compared", error=report.verdict))
    name = f"ckptkit check {report.subject}"
    return document(JUnitSuite(name, cases, list(_properties(report)), report.verdict))


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "mode", report.mode
    for name in ("reference", "signature", "inputs"):
        if getattr(report, name):
            yield name, getattr(report, name)
    for run in report.runs:
        yield f"{run.subject} on {run.runner}", environment_text(run.environment)
        yield f"{run.subject} on {run.runner}: devices", where_text(run)


def _cases(report: Report) -> Iterator[JUnitCase]:
    if report.coverage is not None:
        yield JUnitCase(report.subject, "restore", _failures(report.coverage.findings, report))
    findings = [finding for finding in report.run_findings if finding in report.failing_findings]
    for code in dict.fromkeys(finding.code for finding in findings):
        same = [finding for finding in findings if finding.code == code]
        yield JUnitCase(report.subject, code, _failures(same, report))
    for row in report.rows:
        failed = [] if row.result.ok else [(row.result.status, row_text(row))]
        yield JUnitCase(report.subject, row.name, failed)


def _failures(findings: Sequence[Finding], report: Report) -> list[tuple[str, str]]:
    failing_findings = report.failing_findings
    return [(f.code, finding_text(f)) for f in findings if f in failing_findings]
