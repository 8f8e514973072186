"""A check as JUnit XML: one test case per output, per run and for the restore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from ckptkit.reports.check.text import environment_text, row_text, where_text
from ckptkit.reports.findings import finding_text
from ckptkit.reports.text import printable

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.findings import Finding

Case = tuple[str, str, list[tuple[str, str]]]  # class name, name, failures as (type, message)


def lines(report: Report) -> Iterator[str]:
    """Yield the document; what was not compared can not be seen as passed: it is an error."""
    cases = list(_cases(report))
    failures = sum(1 for case in cases if case[2])
    errors = int(report.exit_code == 2)
    counts = f'tests="{len(cases) + errors}" failures="{failures}" errors="{errors}"'
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f"<testsuites {counts}>"
    yield f"<testsuite name={_attribute(f'ckptkit check {report.subject}')} {counts}>"
    yield "<properties>"
    for name, value in _properties(report):
        yield f"<property name={_attribute(name)} value={_attribute(value)}/>"
    yield "</properties>"
    for class_name, name, failed in cases:
        head = f"<testcase classname={_attribute(class_name)} name={_attribute(name)}"
        if not failed:
            yield f"{head}/>"
            continue
        yield f"{head}>"
        for kind, message in failed:
            yield f"<failure type={_attribute(kind)} message={_attribute(message)}/>"
        yield "</testcase>"
    if errors:
        subject = _attribute(report.subject)
        message = _attribute(report.verdict)
        yield f'<testcase classname={subject} name="compared"><error message={message}/></testcase>'
    yield f"<system-out>{escape(printable(report.verdict))}</system-out>"
    yield "</testsuite>"
    yield "</testsuites>"


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "mode", report.mode
    for name in ("reference", "signature", "inputs"):
        if getattr(report, name):
            yield name, getattr(report, name)
    for run in report.runs:
        yield f"{run.subject} on {run.runner}", environment_text(run.environment)
        yield f"{run.subject} on {run.runner}: devices", where_text(run)


def _cases(report: Report) -> Iterator[Case]:
    if report.coverage is not None:
        yield report.subject, "restore", _failures(report.coverage.findings, report)
    own = [finding for finding in report.run_findings if finding in report.failing_findings]
    for code in dict.fromkeys(finding.code for finding in own):
        same = [finding for finding in own if finding.code == code]
        yield report.subject, code, _failures(same, report)
    for row in report.rows:
        failed = [] if row.result.ok else [(row.result.status, row_text(row))]
        yield report.subject, row.name, failed


def _failures(findings: Sequence[Finding], report: Report) -> list[tuple[str, str]]:
    failing_findings = report.failing_findings
    return [(f.code, finding_text(f)) for f in findings if f in failing_findings]


def _attribute(text: str) -> str:
    # XML has no form for most control characters, escaped or not
    return quoteattr(printable(text))
