"""A check in a GitHub workflow: annotations on standard output, and a summary in Markdown.

Workflow commands are lines `::error title=T::MESSAGE`; in the message `%`, CR and LF are written
`%25`, `%0D`, `%0A`, in a property `:` and `,` as `%3A` and `%2C` too.  `file=` is a path in the
repository.  A workflow shows ten annotations of a level a step, those that are printed first: so
the verdict comes first, then outputs, then findings, those of one code together.  The summary of a
step holds 1 MiB in all (actions/runner, CreateStepSummaryCommand).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.reports.check import localize
from ckptkit.reports.check.rows import cells, row_text
from ckptkit.reports.findings import finding_text
from ckptkit.reports.repository import file_of, in_repository
from ckptkit.reports.table import render
from ckptkit.reports.text import markdown_text, printable
from ckptkit.text import count_text, list_text

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.execution.types import Row
    from ckptkit.operations.findings import Finding

_LEVELS = {"error": "error", "warning": "warning", "note": "notice"}
_SEVERITIES = tuple(_LEVELS)
_HEADERS = ("runner", "case", "output", "status", "max abs", "max rel", "needed", "allowed", "tier")
_COLUMNS = (0, 1, 2, 3, 4, 5, 10, 11, 12)
MOST = 10  # annotations of a level that a step shows
_OUTPUTS = 4  # of them that tell of one output each
_LINES = 20  # of one annotation
SUMMARY_BYTES = 1024 * 1024  # of all that a step writes to its summary
_CUT = "Cut here: a step's summary holds 1 MiB. The log has all."


def commands(report: Report) -> Iterator[str]:
    """Yield the verdict, failed outputs and findings as at most MOST workflow commands a level."""
    verdict = _command(
        "notice" if report.ok else "error",
        f"ckptkit check {report.subject}",
        report.verdict,
        _file(report.subject),
    )
    yield verdict
    outputs = [*_rows(report.failed, "error"), *_rows(report.meaningless, "warning")]
    if report.localization is not None:  # a level of its own, so that it takes no output's place
        text = "\n".join(localize.verdict(report.localization))
        outputs.append(_command("notice", f"ckptkit check {report.subject}: layers", text))
    yield from outputs
    told = [verdict, *outputs]
    for severity in _SEVERITIES:
        level = _LEVELS[severity]
        left = MOST - sum(line.startswith(f"::{level} ") for line in told)
        yield from _findings([f for f in report.findings if f.severity == severity], level, left)


def _rows(rows: Sequence[Row], level: str) -> Iterator[str]:
    """Yield a command for each of the first outputs, and one for all others."""
    own, rest = rows[:_OUTPUTS], rows[_OUTPUTS:]
    if len(rest) == 1:
        own, rest = rows, ()
    for row in own:
        yield _command(level, f"{row.result.status}: {row.name}", row_text(row))
    if rest:
        texts = [f"{row.result.status}: {row.name}: {row_text(row)}" for row in rest]
        yield _command(level, count_text(len(rest), "more output"), _listed(texts))


def _findings(findings: Sequence[Finding], level: str, most: int) -> Iterator[str]:
    """Yield a command for the findings of each code, at most `most`."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)
    several = list(groups.values())
    if len(several) > most:
        rest = [finding for group in several[most - 1 :] for finding in group]
        several = [*several[: most - 1], rest]
    for group in several:
        codes = list(dict.fromkeys(finding.code for finding in group))
        title = codes[0] if len(group) == 1 else f"{list_text(codes)} ({len(group):,})"
        files = {_file(finding.where) for finding in group}
        text = _listed([finding_text(finding) for finding in group])
        yield _command(level, title, text, files.pop() if len(files) == 1 else "")


def _listed(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - _LINES:,} more"] if len(texts) > _LINES else []
    return "\n".join([*map(printable, texts[:_LINES]), *more])


def _file(where: str) -> str:
    """Return the path of the file that something is about, as the repository has it; "" of none."""
    path = file_of(where)
    return (in_repository(path) or "") if path is not None else ""


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


def _command(level: str, title: str, message: str, file: str = "") -> str:
    properties = [f"file={_property(file)}"] if file else []
    properties.append(f"title={_property(title)}")
    return f"::{level} {','.join(properties)}::{_escaped(message)}"


def _property(text: str) -> str:
    return _escaped(printable(text)).replace(":", "%3A").replace(",", "%2C")


def _escaped(text: str) -> str:
    lines = (printable(line) for line in text.split("\n"))
    return "%0A".join(line.replace("%", "%25").replace("\r", "%0D") for line in lines)
