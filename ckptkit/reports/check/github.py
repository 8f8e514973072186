"""A check in a GitHub workflow: annotations on standard output, and a summary in Markdown.

The verdict comes first, then outputs, then findings, as a workflow shows ten annotations of a level
(`reports.annotations`).  The summary of a step holds 1 MiB in all (actions/runner,
CreateStepSummaryCommand).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.reports.annotations import (
    annotation,
    annotations_of,
    file_in_repository,
    listed,
)
from ckptkit.reports.check import localize
from ckptkit.reports.check.rows import cells, row_text
from ckptkit.reports.table import render
from ckptkit.reports.text import finding_text, markdown_text
from ckptkit.text import count_text

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.execution.types import Row

_HEADERS = ("runner", "case", "output", "status", "max abs", "max rel", "needed", "allowed", "tier")
_COLUMNS = (0, 1, 2, 3, 4, 5, 10, 11, 12)
_OUTPUTS = 4  # of them that tell of one output each
SUMMARY_BYTES = 1024 * 1024  # of all that a step writes to its summary
_CUT = "Cut here: a step's summary holds 1 MiB. The log has all."


def commands(report: Report) -> Iterator[str]:
    """Yield the verdict, failed outputs and findings as annotations, not too many of a level."""
    verdict = annotation(
        "notice" if report.ok else "error",
        f"ckptkit check {report.subject}",
        report.verdict,
        file_in_repository(report.subject),
    )
    yield verdict
    outputs = [*_rows(report.failed, "error"), *_rows(report.meaningless, "warning")]
    if report.localization is not None:  # a level of its own, so that it takes no output's place
        text = "\n".join(localize.verdict(report.localization))
        outputs.append(annotation("notice", f"ckptkit check {report.subject}: layers", text))
    yield from outputs
    yield from annotations_of(report.findings, [verdict, *outputs])


def _rows(rows: Sequence[Row], level: str) -> Iterator[str]:
    """Yield a command for each of the first outputs, and one for all others."""
    own, rest = rows[:_OUTPUTS], rows[_OUTPUTS:]
    if len(rest) == 1:
        own, rest = rows, ()
    for row in own:
        yield annotation(level, f"{row.result.status}: {row.name}", row_text(row))
    if rest:
        texts = [f"{row.result.status}: {row.name}: {row_text(row)}" for row in rest]
        yield annotation(level, count_text(len(rest), "more output"), listed(texts))


def summary(report: Report, room: int = SUMMARY_BYTES) -> Iterator[str]:
    """Yield the summary of a step, in Markdown, the verdict first.

    room: bytes that it may take: of a step whose summary is larger, GitHub shows none at all.
    """
    left = room - len(_CUT.encode()) - 2
    for line in _summary(report):
        left -= len(line.encode()) + 1
        if left < 0:
            yield from ("", _CUT) if room > len(_CUT) + 2 else ()
            return
        yield line


def _summary(report: Report) -> Iterator[str]:
    yield f"### {_inline(report.verdict)}"
    yield ""
    held = f", held against {_inline(report.reference)}" if report.reference else ""
    yield f"`ckptkit check` of {_inline(report.subject)}{held}."
    if report.rows:
        yield ""
        ordered = [*report.failed, *(row for row in report.rows if row not in report.failed)]
        rows = [[cells(row)[column] for column in _COLUMNS] for row in ordered]
        yield from render(rows, _HEADERS, "markdown")
    if report.localization is not None:
        yield ""
        yield from (f"- {_inline(line)}" for line in localize.verdict(report.localization))
    if report.findings:
        yield ""
        yield from (f"- {_inline(finding_text(finding))}" for finding in report.findings)
    yield ""


def _inline(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return markdown_text(text)
