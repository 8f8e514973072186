"""A check as text for people, or as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptkit.reports.check.commands import localize_again
from ckptkit.reports.findings import finding_text
from ckptkit.reports.table import json_lines, render
from ckptkit.reports.text import count_text, printable

if TYPE_CHECKING:
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.execution.types import Row, RunRecord

FORMATS = ("table", "json", "github", "junit")
SHOWN = 40  # findings that are printed; JSON and JUnit have all

_HEADERS = (
    *("RUNNER", "CASE", "OUTPUT", "STATUS", "MAX ABS", "MAX REL", "ULP", "BAD"),
    *("COSINE", "ARGMAX", "NEEDED", "ALLOWED", "TIER"),
)
_ALIGN = ("left",) * 4 + ("right",) * 8 + ("left",)


def lines(report: Report, fmt: str = "table", *, verbose: bool = False) -> Iterator[str]:
    """Yield the report.

    fmt: "table", "json", "junit" or "github" (annotations of a workflow run).
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
    else:
        yield from _text(report, verbose)


def _document(report: Report) -> dict[str, Any]:
    """Return the JSON document: what the library gives, and the command that localises again."""
    document = report.to_json()
    if report.localization is not None:
        again = localize_again(report.subject, report.localization.again)
        document["localization"]["command"] = again
    return document


def _text(report: Report, verbose: bool) -> Iterator[str]:
    yield from _head(report)
    for run in report.runs:
        if verbose or run.error:
            yield from _run(run, verbose)
    if report.rows:
        yield ""
        yield from render([cells(row) for row in report.rows], _HEADERS, "table", _ALIGN)
        yield from _bad_rows(report)
        yield ""
    findings = report.findings
    for finding in findings[:SHOWN]:
        about = finding.where == report.subject  # which the first line names
        yield finding_text(replace(finding, where="") if about else finding)
    if len(findings) > SHOWN:
        yield f"... and {len(findings) - SHOWN} more (--format json has all)"
    if report.localization is not None:
        from ckptkit.reports.check import localize as localize_text

        yield from localize_text.lines(report.subject, report.localization)
    yield printable(report.verdict)


def _head(report: Report) -> Iterator[str]:
    what = f"signature {report.signature}" if report.signature not in ("", "call") else ""
    parts = [part for part in (what, report.inputs) if part]
    yield printable(f"{report.subject}: {', '.join(parts)}" if parts else f"{report.subject}:")
    if report.reference:
        yield printable(f"reference: {report.reference}")


def _run(run: RunRecord, verbose: bool) -> Iterator[str]:
    if run.error:
        yield printable(f"{run.subject} on {run.runner}: no outputs: {run.error}")
    elif verbose:
        yield printable(f"{run.subject} on {run.runner}: {where_text(run)}, {run.seconds:.1f} s")
        yield printable(f"  {environment_text(run.environment)}")


def where_text(run: RunRecord) -> str:
    """Return where the kernels of a run really ran."""
    parts = [
        f"{device} {count_text(int(counts.get('ops', 0)), 'op')}"
        + (f" ({counts['heavy']} heavy)" if counts.get("heavy") else "")
        for device, counts in run.devices.items()
    ]
    return ", ".join(parts) or "devices not told"


def environment_text(environment: Mapping[str, Any]) -> str:
    """Return what a run was done with, in one line."""
    versions = environment.get("versions")
    parts = []
    if isinstance(versions, Mapping):
        parts += [f"{name} {version}" for name, version in versions.items()]
    for key in ("python", "device_name", "cpu", "os"):
        if environment.get(key):
            parts.append(f"{key} {environment[key]}" if key == "python" else str(environment[key]))
    parts += [key for key in ("xla", "tf32", "deterministic", "eager") if environment.get(key)]
    parts += [f"{key} {environment[key]}" for key in ("threads", "policy") if environment.get(key)]
    return ", ".join(parts)


def _bad_rows(report: Report) -> Iterator[str]:
    for row in (*report.failed, *report.meaningless):
        yield printable(f"{row.name}: {row_text(row)}")


def row_text(row: Row) -> str:
    """Return one line on an output that does not pass."""
    result = row.result
    text = f"{result.status}: {result.message}" if result.message else result.status
    return "; ".join((text, *result.hints))


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of one output."""
    result = row.result
    share = f"{result.n_bad:,}/{result.n:,}" if result.n else "0"
    return (
        row.runner,
        row.case,
        result.name,
        result.status,
        number(result.max_abs),
        number(result.max_rel),
        number(result.max_ulp),
        share,
        "" if result.cosine is None else f"{result.cosine:.6f}",
        "" if result.argmax_agreement is None else f"{100 * result.argmax_agreement:.4g}%",
        number(result.needed),
        allowed(row),
        row.tier or result.tolerance.reason,
    )


def allowed(row: Row) -> str:
    """Return the relative tolerance that was allowed; the absolute one follows from the tier."""
    tolerance = row.result.tolerance
    if tolerance.min_cosine is not None:
        return f"cos {tolerance.min_cosine:g}"
    return number(max(tolerance.rtol, tolerance.atol))


def number(value: float | int | None) -> str:
    """Return a number with three digits; "" for None."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**9 else f"{value:.3g}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3g}"
