"""Findings of `verify` and `scan` in every form: text, tables, and what programs read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.reports.junit import JUnitCase, JUnitSuite, document_of_suites
from ckptkit.reports.screen import folded, painted, toned
from ckptkit.reports.table import render
from ckptkit.reports.text import (
    bytes_text,
    count_text,
    finding_text,
    printable,
)
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.operations.verify.api import Check, Unit, Verification


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
    fmt: str = "table",
    *,
    verbose: bool = False,
    words: Phrasing = VERIFY,
    refused: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the report on several operands.

    fmt: "table" (for people), "json" (schema ckptkit.verify/2 or ckptkit.scan/2), "jsonl" (a line
    per file), "csv", "markdown" and "table:NAME" (a row per finding, and one for each file
    without), "junit" (one test suite per file, one test case per check), "github" (annotations) or
    "sarif".  verbose: sound checks too.  refused: why other operands gave nothing, a line each.
    """
    title = f"ckptkit {words.command}"
    if fmt == "table":
        for result in results:
            yield from folded(_text(result, verbose, words))
    elif fmt == "junit":
        yield from junit(results, words, refused)
    elif fmt == "sarif":
        from ckptkit.reports import sarif

        yield from sarif.lines(results, refused, is_about_safety=words is SCAN)
    elif fmt == "github":
        from ckptkit.reports import annotations

        texts = [*_verdicts(results, words), *refused]
        yield from annotations.of_findings(title, texts, results, bool(refused))
    elif fmt == "csv":
        yield from table(results, fmt, words)
    else:
        from ckptkit.reports.documents import in_form

        yield from in_form(
            fmt,
            results,
            lambda form: table(results, form, words),
            lambda: chain(remarks(results, words), refused),
            schema=f"ckptkit.{words.command}/2",
            refused=lambda: refused,
        )


# --- a row per finding ----------------------------------------------------------------------------

_HEADERS = ("PATH", "FORMAT", "SEVERITY", "CODE", "WHERE", "MESSAGE")


def table(results: Sequence[Verification], fmt: str, words: Phrasing = VERIFY) -> Iterator[str]:
    """Yield a row per finding; a file without any has a row that says so, or "not checked"."""
    rows = [row for result in results for unit in result.units for row in _rows(unit, words)]
    if fmt == "csv":
        headers = [*(header.lower() for header in _HEADERS), "hint", "key", "name"]
        yield from render(rows, headers, "csv")
        return
    hinted = [(*row[:5], f"{row[5]} ({row[6]})" if row[6] else row[5]) for row in rows]
    yield from render(hinted, _HEADERS, fmt)


def _rows(unit: Unit, words: Phrasing) -> Iterator[tuple[str, ...]]:
    head = (str(unit.path), unit.format)
    if unit.refusal is not None:
        yield (*head, "not checked", "", "", str(unit.refusal), "", "", "")
    elif not unit.findings and unit.checks:
        yield (*head, words.fine_in_brief, "", "", "", "", "", "")
    for each in unit.findings:
        told = (each.severity, each.code, each.where, each.message, each.hint, each.key, each.name)
        yield (*head, *told)


def remarks(results: Sequence[Verification], words: Phrasing = VERIFY) -> Iterator[str]:
    """Yield what stands beside that table: a verdict per operand, and what was not checked."""
    yield from _verdicts(results, words)
    for result in results:
        yield from (f"not checked: {printable(text)}" for text in result.not_checked)


def _verdicts(results: Sequence[Verification], words: Phrasing) -> list[str]:
    return [operand_verdict(result, words) for result in results]


def operand_verdict(result: Verification, words: Phrasing) -> str:
    """Return one line on an operand: the verdict on its file, where it is one."""
    only = result.units[0] if len(result.units) == 1 else None
    if only is None or only.refusal is not None or not only.checks:
        return f"{printable(str(result.path))}: {verdict(result, words)}"
    return f"{printable(str(only.path))}: {_unit_verdict(only, result.strict, words)}"


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


def junit(
    results: Iterable[Verification], words: Phrasing = VERIFY, refused: Sequence[str] = ()
) -> Iterator[str]:
    """Yield JUnit XML: one suite per file, one case per check; findings are failures.

    refused: why operands could not be looked at; each is an error, so that none is seen as passed.
    """
    suites = [_suite(unit, result.strict) for result in results for unit in result.units]
    if refused:
        cases = [JUnitCase(f"ckptkit {words.command}", text, error=text) for text in refused]
        suites.append(JUnitSuite("not read", cases))
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
