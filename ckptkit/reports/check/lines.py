"""A check in any of its forms: text for people, JSON, JUnit XML, annotations of a workflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ckptkit.reports.check import text as check_text
from ckptkit.reports.check.commands import localize_again
from ckptkit.reports.table import is_bare, json_lines

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report

FORMATS = ("table", "json", "github", "junit")


def lines(report: Report, fmt: str = "table", *, verbose: bool = False) -> Iterator[str]:
    """Yield the report.

    fmt: "table", "json", "junit", "github" (annotations of a workflow run) or "table:NAME" (the
    outputs alone, see `remarks`).
    verbose: passing runs with their environments too.
    """
    if fmt == "json":
        yield from json_lines(_document(report), "outputs")
    elif fmt == "junit":
        from ckptkit.reports.check import junit as check_junit

        yield from check_junit.lines(report)
    elif fmt == "github":
        from ckptkit.reports.check import github as check_github

        yield from check_github.commands(report)
    elif is_bare(fmt):
        yield from check_text.output_table(report, fmt)
    else:
        yield from check_text.lines(report, verbose)


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
