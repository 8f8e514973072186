"""Findings of `verify` and `scan` as text, JSON or JUnit XML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.reports.junit import JUnitCase, JUnitSuite, document_of_suites
from ckptkit.reports.screen import folded, painted, toned
from ckptkit.reports.table import json_documents
from ckptkit.reports.text import bytes_text, count_text, printable
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.operations.verify.api import Check, Finding, Unit, Verification

FORMATS = ("table", "json", "junit")


class Phrasing(NamedTuple):
    """How a report speaks.  command: of the suite.  fine, fine_in_brief: said of sound files."""

    command: str
    fine: str
    fine_in_brief: str
    counts_bytes: bool


VERIFY = Phrasing("verify", "sound", "sound", True)
SCAN = Phrasing(
    "scan", "only ops and classes that are known to be harmless", "without findings", False
)
SHOWN = 200  # findings of one file that are printed; JSON and JUnit have all
_COUNTED = ("error", "warning", "note")


def lines(
    results: Sequence[Verification],
    fmt: str,
    *,
    verbose: bool = False,
    words: Phrasing = VERIFY,
) -> Iterator[str]:
    """Yield the report on several operands.

    fmt: "table" (for people), "json" (one document per operand; a list where there are several) or
    "junit" (one test suite per file, one test case per check).  verbose: sound checks too.
    """
    if fmt == "json":
        yield from json_documents([result.to_json() for result in results], "units")
    elif fmt == "junit":
        yield from junit(results, words)
    else:
        for result in results:
            yield from folded(_text(result, verbose, words))


# --- text -----------------------------------------------------------------------------------------


def _text(result: Verification, verbose: bool, words: Phrasing) -> Iterator[str]:
    for unit in result.units:
        if unit.checks or unit.refusal is not None:  # else it holds what was not checked
            yield from _unit(unit, verbose, result.strict, words)
    if len(result.units) > 1:
        yield painted(f"{printable(str(result.path))}: {verdict(result, words)}", "verdict")
    for text in result.not_checked:
        yield f"  not checked: {printable(text)}"


def _unit(unit: Unit, verbose: bool, strict: bool, words: Phrasing) -> Iterator[str]:
    path = printable(str(unit.path))
    if unit.refusal is not None:
        yield f"{path}: not checked"
        yield f"  {printable(str(unit.refusal))}"
        return
    yield painted(f"{path}: {_unit_verdict(unit, strict, words)}", "verdict")
    if verbose:
        for check in unit.checks:
            yield f"  {'ok ' if check.ok else '!! '} {check.name}: {counts_text(check)}"
    findings = [f for f in unit.findings if f.severity != "note"]
    findings += [f for f in unit.findings if f.severity == "note"]
    for finding in findings[:SHOWN]:
        yield toned(f"  {finding_text(finding)}")
    if len(findings) > SHOWN:
        yield f"  ... and {len(findings) - SHOWN} more (--format json has all)"


def _unit_verdict(unit: Unit, strict: bool, words: Phrasing) -> str:
    counts = {s: sum(f.severity == s for f in unit.findings) for s in _COUNTED}
    read = f"{count_text(unit.tensors, 'tensor')}, {bytes_text(unit.nbytes)} read"
    if unit.format == "directory" or not words.counts_bytes:
        read = ", ".join(counts_text(check) for check in unit.checks)
    severities = [count_text(counts[s], s) for s in _COUNTED if counts[s]]
    bad = counts["error"] or counts["warning"] or (strict and counts["note"])
    if bad:
        return f"{', '.join(severities)} ({read})"
    return f"{words.fine} ({read}{', ' + severities[0] if severities else ''})"


def counts_text(check: Check) -> str:
    """Return how much a check looked at: "3 tensors, 1.2 MB"."""
    parts = [
        bytes_text(number) if noun == "byte" else count_text(number, noun)
        for noun, number in check.counts
    ]
    return ", ".join(parts) or "unreadable"


def finding_text(finding: Finding) -> str:
    """Return one line on a finding."""
    hint = f" ({finding.hint})" if finding.hint else ""
    name = f" ({finding.name})" if finding.name not in ("", finding.where) else ""
    where = f"{finding.where}{name}: " if finding.where else ""
    return printable(f"{finding.severity}: {where}{finding.message}{hint} [{finding.code}]")


def verdict(result: Verification, words: Phrasing = VERIFY) -> str:
    """Return one line on everything that was verified."""
    files = [unit for unit in result.units if unit.format != "directory"]
    bad = [u for u in files if any(f.severity in _COUNTED[:2] for f in u.findings)]
    refused = [unit for unit in files if unit.refusal is not None]
    nbytes = sum(unit.nbytes for unit in files)
    parts = [f"{len(files) - len(bad) - len(refused)} of {len(files)} {words.fine_in_brief}"]
    if bad:
        parts.append(f"{len(bad)} with findings")
    if refused:
        parts.append(f"{len(refused)} not checked")
    parts += _of_directories(result)
    read = f" ({bytes_text(nbytes)} read)" if words.counts_bytes else ""
    return f"{', '.join(parts)}{read}"


def _of_directories(result: Verification) -> Iterator[str]:
    """Yield what was found in directories, beside the files that were counted, by name and code."""
    failing = _COUNTED if result.strict else _COUNTED[:2]
    found = [
        f"{PurePath(finding.where).name} [{finding.code}]"
        for unit in result.units
        if unit.format == "directory"
        for finding in unit.findings
        if finding.severity in failing
    ]
    if found:
        yield f"{count_text(len(found), 'finding')} in the directory itself: {list_text(found)}"


# --- JUnit ----------------------------------------------------------------------------------------


def junit(results: Iterable[Verification], words: Phrasing = VERIFY) -> Iterator[str]:
    """Yield JUnit XML: one suite per file, one case per check; findings are failures."""
    suites = (_suite(unit, result.strict) for result in results for unit in result.units)
    return document_of_suites(f"ckptkit {words.command}", suites)


def _suite(unit: Unit, strict: bool) -> JUnitSuite:
    path = str(unit.path)
    cases = [JUnitCase(path, check.name, _failures(check, strict)) for check in unit.checks]
    if unit.refusal is not None:
        cases.append(JUnitCase(path, "open", error=str(unit.refusal)))
    return JUnitSuite(path, cases, [("not checked", text) for text in unit.not_checked])


def _failures(check: Check, strict: bool) -> list[tuple[str, str]]:
    return [
        (finding.code, finding_text(finding))
        for finding in check.findings
        if strict or finding.severity != "note"
    ]
