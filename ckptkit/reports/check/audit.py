"""Which faults a tolerance would let pass, as text for people and as a table of any form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.reports.documents import in_form
from ckptkit.reports.fitting import Fit
from ckptkit.reports.page.frame import Page, Section
from ckptkit.reports.page.sections import column, listed, reported, table
from ckptkit.reports.screen import PAPER, folded, shown_on, toned
from ckptkit.reports.table import render
from ckptkit.reports.text import count_text, printable
from ckptkit.runners.child.faults import KINDS
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.operations.check.audit import AuditedFault, ToleranceAudit

SHOWN = 20  # faults that are printed; JSON has all
_KIND_HEADERS = ("FAULT", "TRIED", "PASS", "PASS THE SUGGESTED")
_KIND_ALIGN = ("left", "right", "right", "right")
_HEADERS = ("WHERE", "FAULT", "VERDICT", "NEEDED")
_ALIGN = ("left", "left", "left", "right")
_FIT = Fit(names=("WHERE",), drops=("NEEDED",))


def lines(audit: ToleranceAudit, fmt: str = "table") -> Iterator[str]:
    """Yield the report: text ("table"), or a row per fault in another form."""
    if fmt == "table":
        yield from folded(text(audit))
    else:
        yield from in_form(
            fmt,
            [audit],
            lambda form: _table(audit.faults, form),
            lambda: remarks(audit),
            page=lambda: page(audit),
        )


def remarks(audit: ToleranceAudit) -> Iterator[str]:
    """Yield what the report says beside a table of all faults."""
    yield from _head(audit)
    yield from _suggested(audit)
    yield printable(audit.verdict)


def text(audit: ToleranceAudit) -> Iterator[str]:
    """Yield the report for people: by kind, then what passes, then what would see it."""
    yield from _head(audit)
    if audit.faults:
        yield ""
        yield from render(list(_kinds(audit)), _KIND_HEADERS, "table", _KIND_ALIGN)
    passing = sorted(audit.passing, key=lambda fault: -fault.needed)
    if passing:
        yield ""
        yield from _table(passing[:SHOWN], "table")
        if len(passing) > SHOWN:
            yield f"... and {len(passing) - SHOWN} more (--format json has all)"
    yield from _suggested(audit)
    yield ""


def _head(audit: ToleranceAudit) -> Iterator[str]:
    if audit.why_not:
        yield toned(f"warning: the tolerance was not audited: {printable(audit.why_not)}")
        return
    tried = count_text(len(audit.tried), "fault")
    yield printable(
        f"tolerance in use: {audit.tolerance}; {tried} on {audit.runner}, one at a time"
    )
    same = sum(fault.verdict == "same" for fault in audit.faults)
    if same:
        yield f"{same} more change nothing on other inputs either: no faults"
    late = sum(why == "time" for _, _, why in audit.untried)
    if late:
        yield toned(say(f"warning: no time for {late} more: ‹timeout_s›"))


def _kinds(audit: ToleranceAudit) -> Iterator[tuple[str, ...]]:
    for kind, what in KINDS.items():
        alike = [fault for fault in audit.tried if fault.kind == kind]
        if alike:
            passing = sum(not fault.ok for fault in alike)
            blind = sum(fault.verdict == "blind" for fault in alike)
            yield what, f"{len(alike):,}", f"{passing:,}", f"{blind:,}"


def _table(faults: Sequence[AuditedFault], fmt: str) -> Iterator[str]:
    rows = [(fault.where, fault.text, fault.verdict, f"{fault.needed:.3g}") for fault in faults]
    yield from render(rows, _HEADERS, fmt, _ALIGN, _FIT)


def _suggested(audit: ToleranceAudit) -> Iterator[str]:
    if not audit.suggested:
        return
    yield ""
    yield say("suggested, for a file that ‹tolerance› takes:")
    yield from (f"  {printable(line)}" for line in audit.file_lines)


# A rule that passes is good news, a fault that passes is none.
_SAID = {
    **{verdict: verdict for verdict in ("seen", "blind", "same")},
    "passes": "passes unseen",
}

# --- a page ---------------------------------------------------------------------------------------


def page(audit: ToleranceAudit) -> Page:
    """Return what the page on an audit alone shows."""
    return reported("check", "", [audit.verdict], audit.exit_code, sections(audit))


def sections(audit: ToleranceAudit) -> list[Section]:
    """Return what faults the tolerance would let pass, and a row for each that was tried."""
    with shown_on(PAPER):
        told = [line for line in remarks(audit) if line]
    found: list[Section] = [listed("audit", "Audit of the tolerance", told)]
    if audit.faults:
        faults = audit.faults
        columns = [
            column(
                "verdict", "verdict", [_SAID[f.verdict] for f in faults], "status", facet="chips"
            ),
            column("where", "where", [fault.where for fault in faults], "name"),
            column("kind", "fault", [fault.kind for fault in faults], facet="select"),
            column("needed", "needed", [fault.needed for fault in faults], "number"),
            column("text", "what was done", [fault.text for fault in faults], hidden=True),
        ]
        found.append(table("faults", "Faults that were put in", columns, "fault"))
    return found
