"""A check as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptkit.reports.check.rows import cells, environment_text, row_text, where_text
from ckptkit.reports.fitting import Fit
from ckptkit.reports.screen import folded, painted, toned
from ckptkit.reports.table import render
from ckptkit.reports.text import finding_text, printable

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.execution.types import RunRecord

SHOWN = 40  # findings that are printed; JSON and JUnit have all

_HEADERS = (
    *("RUNNER", "CASE", "OUTPUT", "STATUS", "MAX ABS", "MAX REL", "ULP", "BAD"),
    *("COSINE", "ARGMAX", "NEEDED", "ALLOWED", "TIER"),
)
_ALIGN = ("left",) * 4 + ("right",) * 8 + ("left",)
_FIT = Fit(
    names=("OUTPUT", "RUNNER"),
    drops=("ULP", "COSINE", "ARGMAX", "CASE", "BAD", "MAX REL", "TIER", "MAX ABS"),
)


def output_table(report: Report, fmt: str = "table") -> Iterator[str]:
    """Yield a row per output."""
    return render([cells(row) for row in report.rows], _HEADERS, fmt, _ALIGN, _FIT)


def lines(report: Report, verbose: bool, *, with_table: bool = True) -> Iterator[str]:
    """Yield the report; verbose: passing runs with their environments too."""
    yield from folded(_lines(report, verbose, with_table))


def _lines(report: Report, verbose: bool, with_table: bool) -> Iterator[str]:
    yield from _head(report)
    for run in report.runs:
        if verbose or run.error:
            yield from _run(run, verbose)
    if report.rows:
        yield ""
        if with_table:
            yield from output_table(report)
        yield from _bad_rows(report)
        yield ""
    findings = report.findings
    for finding in findings[:SHOWN]:
        about = finding.where == report.subject  # which the first line names
        yield toned(finding_text(replace(finding, where="") if about else finding))
    if len(findings) > SHOWN:
        yield f"... and {len(findings) - SHOWN} more (--format json has all)"
    if report.localization is not None:
        from ckptkit.reports.check import localize as localize_text

        yield from localize_text.lines(report.subject, report.localization)
    if report.audit is not None:
        from ckptkit.reports.check import audit as audit_text

        yield from audit_text.text(report.audit)
    yield painted(printable(report.verdict), "good verdict" if report.ok else "bad verdict")


def _head(report: Report) -> Iterator[str]:
    what = f"signature {report.signature}" if report.signature not in ("", "call") else ""
    parts = [part for part in (what, report.inputs) if part]
    yield printable(f"{report.subject}: {', '.join(parts)}" if parts else f"{report.subject}:")
    if report.reference:
        yield printable(f"reference: {report.reference}")


def _run(run: RunRecord, verbose: bool) -> Iterator[str]:
    if run.error:
        yield printable(f"{run.subject} on {run.runner}: no outputs: {run.error}")
    elif verbose:
        yield printable(f"{run.subject} on {run.runner}: {where_text(run)}, {run.seconds:.1f} s")
        yield printable(f"  {environment_text(run.environment)}")


def _bad_rows(report: Report) -> Iterator[str]:
    for row in (*report.failed, *report.meaningless):
        yield printable(f"{row.name}: {row_text(row)}")
