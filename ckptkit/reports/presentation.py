"""Results as a program or a notebook shows them: the text that a command prints, or HTML.

The one place where results meet their reports.  `results.Document` asks it when one is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple

from ckptkit.errors import UnsupportedError
from ckptkit.reports.page.sections import plain
from ckptkit.reports.screen import PAPER, shown_on

_STYLE = "text-align: left"


class _Presentation(NamedTuple):
    """Where a result's report is: a module, and the function of its text.

    text: result -> lines.  page: the module that makes the page of the command, and its function,
    where that is not `page`.  many: it takes a list of results.
    """

    module: str
    text: Callable[[Any, Any], Iterable[str]]
    page: str
    many: bool = False


def _alike(name: str, lines: str = "lines", page: str = "", *, many: bool = False) -> _Presentation:
    """Return what most reports are: `lines` of a result.

    name: of the module in `ckptkit.reports`.  lines: of its function.  page: as `_Presentation` has
    it; "" where the page is in the same module.  many: both take a list of results.
    """

    def shown(module: Any, result: Any) -> Iterable[str]:
        found: Iterable[str] = getattr(module, lines)([result] if many else result)
        return found

    return _Presentation(f"ckptkit.reports.{name}", shown, page or name, many)


_REPORTS = {
    "DiffResult": _alike("diff.text", page="diff.html"),
    "Diagnosis": _alike("doctor_text"),
    "GateReport": _alike("gate"),
    "Golden": _alike("golden"),
    "History": _alike("history.text", page="history.html"),
    "Inventory": _alike("inventory"),
    "Listing": _Presentation(
        "ckptkit.reports.listing",
        lambda module, result: module.lines(result, "table", module.layout_of(result)),
        "listing_html",
        many=True,
    ),
    "Needs": _alike("needs", many=True),
    "Plan": _alike("plan", "plan_lines", "plan:plan_page"),
    "ProposedMap": _alike("map"),
    "Receipt": _alike("plan", "receipt_lines", "plan:receipt_page"),
    "Report": _alike("check.lines", page="check.html"),
    "Scan": _Presentation(
        "ckptkit.reports.findings",
        lambda module, result: module.lines([result], words=module.SCAN),
        "findings_html:scan_page",
        many=True,
    ),
    "TensorSummary": _Presentation(
        "ckptkit.reports.tensor",
        lambda module, result: module.lines(result),
        "tensor_html",
        many=True,
    ),
    "Thinning": _alike("thin"),
    "ToleranceAudit": _alike("check.audit"),
    "UpgradeReport": _alike("upgrade", "report_lines"),
    "Verification": _alike("findings", page="findings_html", many=True),
}


def text_of(result: object) -> list[str]:
    """Return the lines that the command prints of a result, whole and without colour."""
    report, module = _found(result)
    with shown_on(PAPER):
        return list(report.text(module, result))


def html_of(result: object) -> str:
    """Return a fragment of HTML: what the page of the command has for browsers without script."""
    report, _module = _found(result)
    name, _, function = report.page.partition(":")
    page = getattr(import_module(f"ckptkit.reports.{name}"), function or "page")
    with shown_on(PAPER):
        parts = "\n".join(plain(page([result] if report.many else result)))
    return f'<div style="{_STYLE}">\n{parts}\n</div>'


def tree_of(checkpoint: Any, depth: int | None = None) -> str:
    """Return the names of a checkpoint as `ls --tree` prints them."""
    from ckptkit.operations.ls import listing_of
    from ckptkit.reports.listing import tree

    with shown_on(PAPER):
        return "\n".join(tree(listing_of(checkpoint), depth))


def _found(result: object) -> tuple[_Presentation, Any]:
    """Return the report of a result, by its class or one that this is derived from."""
    for each in type(result).__mro__:
        if each.__name__ in _REPORTS:
            report = _REPORTS[each.__name__]
            return report, import_module(report.module)
    raise UnsupportedError(f"there is no report on a {type(result).__name__}")
