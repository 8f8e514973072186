"""A check in a GitHub workflow: annotations on standard output, and a summary in Markdown.

Workflow commands are lines `::error title=T::MESSAGE`; in the message `%`, CR and LF are written
`%25`, `%0D`, `%0A`, in a property `:` and `,` as `%3A` and `%2C` too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.check.rows import cells, row_text
from ckptkit.reports.findings import finding_text
from ckptkit.reports.table import render
from ckptkit.reports.text import markdown_text, printable

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report

_LEVELS = {"error": "error", "warning": "warning", "note": "notice"}
_HEADERS = ("runner", "case", "output", "status", "max abs", "max rel", "needed", "allowed", "tier")
_COLUMNS = (0, 1, 2, 3, 4, 5, 10, 11, 12)


def commands(report: Report) -> Iterator[str]:
    """Yield one workflow command per finding and failed output, then the verdict."""
    for finding in report.findings:
        yield _command(_LEVELS[finding.severity], finding.code, finding_text(finding))
    for row in (*report.failed, *report.meaningless):
        level = "error" if row in report.failed else "warning"
        yield _command(level, f"{row.result.status}: {row.name}", row_text(row))
    level = "notice" if report.ok else "error"
    yield _command(level, f"ckptkit check {report.subject}", report.verdict)


def summary(report: Report) -> Iterator[str]:
    """Yield the summary of a step, in Markdown."""
    yield f"### ckptkit check {_inline(report.subject)}"
    yield ""
    yield _inline(report.verdict)
    if report.reference:
        yield ""
        yield f"Held against {_inline(report.reference)}."
    if report.findings:
        yield ""
        yield from (f"- {_inline(finding_text(finding))}" for finding in report.findings)
    if report.rows:
        yield ""
        rows = [[cells(row)[column] for column in _COLUMNS] for row in report.rows]
        yield from render(rows, _HEADERS, "markdown")
    yield ""


def _inline(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return markdown_text(text)


def _command(level: str, title: str, message: str) -> str:
    name = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={name}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
