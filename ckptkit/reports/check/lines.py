"""A check in any of its forms: for people, for programs, for the services that run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.operations.findings import Finding
from ckptkit.reports.check import text as check_text
from ckptkit.reports.check.commands import localize_again
from ckptkit.reports.check.rows import row_text
from ckptkit.reports.documents import in_form, json_lines

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report


def lines(report: Report, fmt: str = "table", *, verbose: bool = False) -> Iterator[str]:
    """Yield the report.

    fmt: "table" (for people), "json" (schema ckptkit.check/1), "jsonl", "csv", "markdown", "html"
    and "table:NAME" (the outputs, see `remarks`), "junit", "github" (annotations of a workflow run)
    or "sarif".
    verbose: passing runs with their environments too.
    """
    if fmt == "table":
        yield from check_text.lines(report, verbose)
    elif fmt == "json":
        yield from json_lines(_document(report), report.ROWS)
    elif fmt == "junit":
        from ckptkit.reports.check import junit as check_junit

        yield from check_junit.lines(report)
    elif fmt == "github":
        from ckptkit.reports.check import github as check_github

        yield from check_github.commands(report)
    elif fmt == "html":
        from ckptkit.reports.check import html as check_html

        yield from check_html.lines(report)
    elif fmt == "sarif":
        from ckptkit.reports import sarif

        about = Path(report.subject)
        yield from sarif.lines_of([(about, f) for f in _found(report)], _not_told(report))
    else:
        yield from in_form(
            fmt,
            [report],
            lambda form: check_text.output_table(report, form),
            lambda: remarks(report, verbose=verbose),
        )


def _found(report: Report) -> Iterator[Finding]:
    """Yield every finding, and one for each output that is not as it should be."""
    yield from report.findings
    for row in report.failed:
        where = f"{report.subject}: {row.name}"
        yield Finding("error", f"outputs.{row.result.status}", where, row_text(row))


def _not_told(report: Report) -> list[str]:
    """Return what could not be told, a sentence each."""
    told = [f"{row.name}: {row_text(row)}" for row in report.meaningless]
    return told or ([report.verdict] if report.exit_code == 2 else [])


def remarks(report: Report, *, verbose: bool = False) -> Iterator[str]:
    """Yield what the report for people says beside the table of outputs."""
    return check_text.lines(report, verbose, with_table=False)


def _document(report: Report) -> dict[str, Any]:
    """Return the JSON document: what the library gives, and the command that localises again."""
    document = report.to_json()
    if report.localization is not None:
        again = localize_again(report.subject, report.localization.again)
        document["localization"]["command"] = again
    return document
