"""Results as a program or a notebook shows them: the text that a command prints, or HTML.

The one place where results meet their reports.  `results.Document` asks it when one is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from html import escape
from importlib import import_module
from typing import Any, NamedTuple

from ckptkit.errors import UnsupportedError
from ckptkit.reports.page.sections import plain
from ckptkit.reports.screen import PAPER, shown_on
from ckptkit.reports.table import PAGE

_STYLE = "text-align: left"


class _Presentation(NamedTuple):
    """Where a result's report is: a module, the functions of its text, table and remarks.

    text: result -> lines.  table: (result, format) -> lines, none where it has no table.  remarks:
    result -> the lines that stand beside the table.  page: the module that makes the page of the
    command, where it has one of its own, and its function, where that is not `page`; many: it takes
    a list of results.
    """

    module: str
    text: Callable[[Any, Any], Iterable[str]]
    table: Callable[[Any, Any, str], Iterable[str]] | None = None
    remarks: Callable[[Any, Any], Iterable[str]] | None = None
    page: str = ""
    many: bool = False


def _alike(
    name: str,
    lines: str = "lines",
    remarks: str = "remarks",
    *,
    many: bool = False,
    page: str = "",
) -> _Presentation:
    """Return what most reports are: `lines` of a result, and in a format, and `remarks` on it.

    name: of the module in `ckptkit.reports`.  lines, remarks: of its functions.  many: they take a
    list of results, as `page` does, the module of the page.
    """

    def shown(module: Any, result: Any, *fmt: str) -> Iterable[str]:
        found: Iterable[str] = getattr(module, lines)([result] if many else result, *fmt)
        return found

    def beside(module: Any, result: Any) -> Iterable[str]:
        found: Iterable[str] = getattr(module, remarks)([result] if many else result)
        return found

    return _Presentation(f"ckptkit.reports.{name}", shown, shown, beside, page, many)


_REPORTS = {
    "DiffResult": _alike("diff.text", page="diff.html"),
    "Diagnosis": _alike("doctor_text"),
    "GateReport": _alike("gate"),
    "History": _alike("history.text"),
    "Inventory": _alike("inventory"),
    "Needs": _alike("needs", many=True),
    "Plan": _alike("plan", "plan_lines", "plan_remarks"),
    "Receipt": _alike("plan", "receipt_lines", "receipt_remarks"),
    "Report": _alike("check.lines", page="check.html"),
    "Thinning": _alike("thin"),
    "ToleranceAudit": _alike("check.audit"),
    "UpgradeReport": _alike("upgrade", "report_lines", "report_remarks"),
    "Verification": _alike("findings", many=True, page="findings_html"),
    "Golden": _Presentation(
        "ckptkit.reports.golden",
        lambda module, result: module.lines(result),
        lambda module, result, fmt: module.lines(result, fmt=fmt),
        lambda module, result: module.remarks(result),
    ),
    "Listing": _Presentation(
        "ckptkit.reports.listing",
        lambda module, result: module.lines(result, "table", module.layout_of(result)),
        lambda module, result, fmt: module.bare_table([result], fmt, module.layout_of(result)),
        lambda module, result: module.remarks(result),
        "listing_html",
        many=True,
    ),
    "ProposedMap": _Presentation(
        "ckptkit.reports.map", lambda module, result: module.lines(result)
    ),
    "Scan": _Presentation(
        "ckptkit.reports.findings",
        lambda module, result: module.lines([result], words=module.SCAN),
        lambda module, result, fmt: module.lines([result], fmt, words=module.SCAN),
        lambda module, result: module.remarks([result], module.SCAN),
        "findings_html:scan_page",
        many=True,
    ),
    "TensorSummary": _Presentation(
        "ckptkit.reports.tensor",
        lambda module, result: module.lines(result),
        page="tensor_html",
        many=True,
    ),
}


def text_of(result: object) -> list[str]:
    """Return the lines that the command prints of a result, whole and without colour."""
    report, module = _found(result)
    with shown_on(PAPER):
        return list(report.text(module, result))


def html_of(result: object) -> str:
    """Return a fragment of HTML: what the page of the command has for browsers without script.

    Of results whose page is but a table, that and what the report says beside it.
    """
    report, module = _found(result)
    with shown_on(PAPER):
        if report.page:
            name, _, function = report.page.partition(":")
            page = getattr(import_module(f"ckptkit.reports.{name}"), function or "page")
            parts = "\n".join(plain(page([result] if report.many else result)))
            return f'<div style="{_STYLE}">\n{parts}\n</div>'
        if report.table is None or report.remarks is None:
            return f"<pre>{escape(chr(10).join(report.text(module, result)))}</pre>"
        table = "\n".join(report.table(module, result, PAGE))
        remarks = "\n".join(_paragraphs(report.remarks(module, result)))
    return f'<div style="{_STYLE}">\n{table}\n{remarks}\n</div>'


def tree_of(checkpoint: Any, depth: int | None = None) -> str:
    """Return the names of a checkpoint as `ls --tree` prints them."""
    from ckptkit.operations.ls import listing_of
    from ckptkit.reports.listing import tree

    with shown_on(PAPER):
        return "\n".join(tree(listing_of(checkpoint), depth))


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    return (f"<div>{escape(line)}</div>" for line in lines if line)


def _found(result: object) -> tuple[_Presentation, Any]:
    """Return the report of a result, by its class or one that this is derived from."""
    for each in type(result).__mro__:
        if each.__name__ in _REPORTS:
            report = _REPORTS[each.__name__]
            return report, import_module(report.module)
    raise UnsupportedError(f"there is no report on a {type(result).__name__}")
