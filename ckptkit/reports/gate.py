"""What the rules of a policy said: a line per rule, and one that counts them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports import findings
from ckptkit.reports.screen import folded, painted
from ckptkit.reports.text import count_text, printable

if TYPE_CHECKING:
    from ckptkit.operations.gate.api import GateReport

WORDS = findings.Phrasing("gate", "passes", "passes", False)


def lines(report: GateReport, fmt: str = "table") -> Iterator[str]:
    """Yield the report: text ("table"), or a format that findings have."""
    if fmt == "table":
        yield from folded(_text(report))
    else:
        yield from findings.lines([report], fmt, words=WORDS)


def remarks(report: GateReport) -> Iterator[str]:
    """Yield what stands beside a table of the rules."""
    yield verdict(report)


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
