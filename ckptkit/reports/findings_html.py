"""Findings of `verify`, `scan` and `gate` as an HTML page: what was found, in which file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.reports import findings
from ckptkit.reports.findings import SCAN, VERIFY, Phrasing
from ckptkit.reports.page import frame
from ckptkit.reports.page.sections import column, listed, plain, table
from ckptkit.reports.text import count_text

if TYPE_CHECKING:
    from ckptkit.operations.findings import Finding, Unit
    from ckptkit.operations.verify.api import Verification

_SEVERITIES = ["error", "warning", "note"]


def lines(
    results: Sequence[Verification], words: Phrasing = VERIFY, refused: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the page on several operands.  refused: why others gave nothing, a line each."""
    made = page(results, words, refused)
    return frame.lines(made, plain(made))


def page(
    results: Sequence[Verification], words: Phrasing = VERIFY, refused: Sequence[str] = ()
) -> frame.Page:
    """Return what the page shows."""
    verdicts = [findings.operand_verdict(result, words) for result in results]
    units = [unit for result in results for unit in result.units if unit.checks or unit.refusal]
    names = _names(units)
    found = [
        (name, each) for name, unit in zip(names, units, strict=True) for each in unit.findings
    ]
    sections: list[frame.Section] = []
    if found:
        sections.append(findings_table(found))
    if units:
        sections.append(_units(units, names, words))
    skipped = dict.fromkeys(text for result in results for text in result.not_checked)
    if skipped:
        sections.append(listed("not-checked", "Not checked", list(skipped)))
    codes = [result.exit_code for result in results] + [2] * bool(refused)
    paths = [str(result.path) for result in results]
    several = f"{count_text(len(paths), 'operand')}: " if len(paths) > 3 else ""
    return frame.Page(
        words.command,
        f"{', '.join(paths[:3])} · ckptkit {words.command}",
        verdict=verdicts[0] if len(verdicts) == 1 else several + (_together(units, words)),
        tone="bad" if 1 in codes else "warn" if 2 in codes else "good",
        summary=verdicts[:20] if len(verdicts) > 1 else [],
        notes=[("error", text) for text in refused],
        sections=sections,
    )


def scan_page(results: Sequence[Verification]) -> frame.Page:
    """Return what the page on scans shows."""
    return page(results, SCAN)


def _together(units: Sequence[Unit], words: Phrasing) -> str:
    good = sum(unit.ok for unit in units)
    return f"{good} of {count_text(len(units), 'file')} {words.fine_in_brief}"


def findings_table(found: Sequence[tuple[str, Finding]]) -> frame.Section:
    """Return a row per finding, each with the file that it is in."""
    files = [file for file, _finding in found]
    each = [finding for _file, finding in found]
    where = [f.where if f.where != file else "" for file, f in found]
    columns = [
        column(
            *("severity", "severity", [f.severity for f in each], "status"),
            facet="chips",
            order=_SEVERITIES,
        ),
        column("message", "what was found", [f.message for f in each], "name"),
        column("where", "where", where, "mono", minor=True, wide=24),
        column("code", "code", [f.code for f in each], "mono", facet="select", minor=True),
        column(
            *("file", "file", files, "mono"),
            **({"facet": "select", "minor": True} if len(set(files)) > 1 else {"hidden": True}),
        ),
        column("hint", "what to do", [f.hint or None for f in each], hidden=True),
        column(
            "tensor", "tensor", [f.name or f.key or None for f in each], hidden=True, searched=True
        ),
    ]
    return table("findings", "Findings", columns, "finding", main=True)


def _names(units: Sequence[Unit]) -> list[str]:
    """Return what to call files: of several, without the directory that they all lie in."""
    paths = [str(unit.path) for unit in units]
    if len(set(paths)) < 2:
        return paths
    try:
        common = os.path.commonpath(paths)
    except ValueError:  # on several drives, or some are relative and some are not
        return paths
    if not common:
        return paths
    return [path if path == common else os.path.relpath(path, common) for path in paths]


def _units(units: Sequence[Unit], names: Sequence[str], words: Phrasing) -> frame.Section:
    columns = [
        column("state", "state", [_state(u) for u in units], "status", facet="chips"),
        column("name", "file", names, "name"),
        column("format", "format", [unit.format for unit in units], "mono", minor=True),
        column("found", "findings", [len(unit.findings) for unit in units], "count"),
    ]
    if words.counts_bytes:
        columns += [
            column("tensors", "tensors", [unit.tensors for unit in units], "count", minor=True),
            column("bytes", "read", [unit.nbytes for unit in units], "bytes", minor=True),
        ]
    checks = [
        "\n".join(f"{check.name}: {findings.counts_text(check)}" for check in unit.checks) or None
        for unit in units
    ]
    columns.append(column("path", "path", [str(unit.path) for unit in units], "mono", hidden=True))
    columns.append(column("why", "why it was not checked", [_why(u) for u in units], hidden=True))
    columns.append(column("checks", "what was checked", checks, hidden=True))
    return table("files", "Files", columns, "file", main=not any(u.findings for u in units))


def _state(unit: Unit) -> str:
    return "not checked" if unit.refusal is not None else "ok" if unit.ok else "findings"


def _why(unit: Unit) -> str | None:
    return None if unit.refusal is None else str(unit.refusal)
