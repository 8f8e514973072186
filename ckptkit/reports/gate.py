"""What the rules of a policy said: a line per rule, and one that counts them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports import findings
from ckptkit.reports.page import frame
from ckptkit.reports.page.sections import cards, column, plain, reported, table
from ckptkit.reports.screen import folded, painted
from ckptkit.reports.text import count_text, printable

if TYPE_CHECKING:
    from ckptkit.operations.findings import Unit
    from ckptkit.operations.gate.api import GateReport

WORDS = findings.Phrasing("gate", "passes", "passes", False)


def lines(report: GateReport, fmt: str = "table") -> Iterator[str]:
    """Yield the report: text ("table"), or a format that findings have."""
    if fmt == "table":
        yield from folded(_text(report))
    elif fmt == "html":
        made = page(report)
        yield from frame.lines(made, plain(made))
    else:
        yield from findings.lines([report], fmt, words=WORDS)


def remarks(report: GateReport) -> Iterator[str]:
    """Yield what stands beside a table of the rules."""
    yield verdict(report)


_STATES = ("fails", "not told", "passes")  # in the order in which a person should read them


def page(report: GateReport) -> frame.Page:
    """Return what the page shows: the rules, those that fail first, and how to look further."""
    units = sorted(report.units, key=lambda unit: _STATES.index(_state(unit)))
    states = [_state(unit) for unit in units]
    found = [None if unit.refusal is not None else unit.findings[0] for unit in units]
    said = [
        str(unit.refusal) if finding is None else finding.message
        for unit, finding in zip(units, found, strict=True)
    ]
    codes = [
        unit.refusal.code if unit.refusal is not None else unit.findings[0].code for unit in units
    ]
    further = [None if finding is None else finding.hint.strip("`") or None for finding in found]
    shown = [
        {
            "title": units[row].format,
            "value": state,
            "text": said[row],
            "row": row,
            "severe": state == "fails",
        }
        for row, state in enumerate(states)
        if state != "passes"
    ]
    columns = [
        column("state", "verdict", states, "status", facet="chips", order=_STATES),
        column("rule", "rule", [unit.format for unit in units], "mono"),
        column("name", "what the model has", said, "name"),
        column("command", "command that tells more", further, "mono", minor=True),
        column("code", "code", codes, "mono", hidden=True, searched=True),
    ]
    sections = [
        cards("failing", "What stands in the way", "rules", shown),
        table("rules", "Rules", columns, "rule", main=True),
    ]
    return reported("gate", str(report.path), [verdict(report)], report.exit_code, sections)


def _state(unit: Unit) -> str:
    return "not told" if unit.refusal is not None else "passes" if unit.ok else "fails"


def _text(report: GateReport) -> Iterator[str]:
    for unit in report.units:
        if unit.refusal is not None:
            told = f"  {unit.format}: could not be told: {printable(str(unit.refusal))}"
            yield painted(told, "warning")
            continue
        for finding in unit.findings:
            if finding.severity == "note":
                yield f"  ok {unit.format}: {printable(finding.message)}"
            else:
                hint = f" ({printable(finding.hint)})" if finding.hint else ""
                told = f"  fails {unit.format}: {printable(finding.message)}{hint}"
                yield painted(f"{told} [{finding.code}]", "error")
    yield painted(verdict(report), "verdict")


def verdict(report: GateReport) -> str:
    """Return one line on all rules."""
    refused = len(report.refusals)
    failing = sum(unit.refusal is None and not unit.ok for unit in report.units)
    passing = len(report.units) - refused - failing
    parts = [f"{passing} of {count_text(len(report.units), 'rule')} passed"]
    parts += [f"{failing} failed"] * bool(failing)
    parts += [f"{refused} could not be told"] * bool(refused)
    word = {0: "passes", 1: "does not pass", 2: "could not tell"}[report.exit_code]
    return f"{printable(str(report.path))}: {word}: {', '.join(parts)}"
