"""What `doctor` found, in every form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.documents import in_form
from ckptkit.reports.fitting import Fit
from ckptkit.reports.page.frame import Page
from ckptkit.reports.page.sections import column, facts, reported, table
from ckptkit.reports.screen import folded, toned
from ckptkit.reports.table import render
from ckptkit.reports.text import finding_text, printable

if TYPE_CHECKING:
    from ckptkit.operations.doctor import Diagnosis

_FIT = Fit(names=("NAME", "VERSIONS"))


def lines(diagnosis: Diagnosis, fmt: str = "table", *, verbose: bool = False) -> Iterator[str]:
    """Yield the report.

    fmt: "table" (for people), "json" (schema ckptkit.doctor/1), "jsonl", "csv", "markdown", "html"
    or "table:NAME" (the runtimes, see `remarks`).  verbose: why runtimes are not here.
    """
    if fmt != "table":
        yield from in_form(
            fmt,
            [diagnosis],
            lambda form: _runtimes(diagnosis, form),
            lambda: remarks(diagnosis),
            page=lambda: page(diagnosis),
        )
        return
    yield from folded(_head(diagnosis))
    yield ""
    yield from _runtimes(diagnosis)
    if verbose:
        yield from folded(_reasons(diagnosis))
    yield ""
    yield from folded(_foot(diagnosis))


def page(diagnosis: Diagnosis) -> Page:
    """Return what the page shows: on what models run here, what stands in the way, what is here."""
    probed = diagnosis.probed
    here = ["no" if row.why_not else "yes" for row in probed]
    versions = [", ".join(f"{name} {text}" for name, text in x.versions.items()) for x in probed]
    runtimes = [
        column("here", "here", here, "status", facet="chips", order=["yes", "no"]),
        column("name", "runtime", [row.runtime for row in probed], "name"),
        column("device", "device", [row.device or None for row in probed], "mono"),
        column("called", "name of the device", [row.name or None for row in probed], minor=True),
        column("versions", "versions", versions, "mono", minor=True, wide=48),
        column("why", "why not", [row.why_not or None for row in probed], hidden=True),
    ]
    found = diagnosis.findings
    stands = [
        column("severity", "severity", [x.severity for x in found], "status", facet="chips"),
        column("name", "what was found", [x.message for x in found], "name"),
        column("where", "where", [x.where for x in found], "mono", minor=True),
        column("hint", "what to do", [x.hint or None for x in found], hidden=True),
    ]
    packages = [(name, text or "not installed") for name, text in diagnosis.packages.items()]
    added = [
        column("name", "name", [row.name for row in diagnosis.added], "name"),
        column("group", "kind", [row.group for row in diagnosis.added]),
        column("package", "package", [row.package for row in diagnosis.added], "mono"),
    ]
    ordered = [
        table("runtimes", "Runtimes", runtimes, "runtime", main=True),
        table("findings", "What was found", stands, "finding", headed=True),
    ]
    if any(finding.severity != "note" for finding in found):
        ordered.reverse()
    sections = [
        *ordered,
        facts("packages", "Packages", packages),
        table("added", "Added by other packages", added, "row", headed=True),
    ]
    *_findings, able = _foot(diagnosis)
    told = [line for line in _head(diagnosis) if line.startswith(("Python ", "differences "))]
    wrong = [f"{x.where}: {x.message}" for x in found if x.severity != "note"]
    if wrong:
        told.append(able)
        able = wrong[0] + (f" (and {len(wrong) - 1} more)" if wrong[1:] else "")
    return reported("doctor", "", [*told, able], diagnosis.exit_code, sections)


def _reasons(diagnosis: Diagnosis) -> Iterator[str]:
    yield ""
    for row in diagnosis.probed:
        if row.why_not:
            yield printable(f"not here: {row.runtime}: {row.why_not}")


def remarks(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield what the report for people says beside the table of runtimes."""
    yield from _head(diagnosis)
    yield from _foot(diagnosis)


def _head(diagnosis: Diagnosis) -> Iterator[str]:
    yield printable(f"Python {diagnosis.python} on {diagnosis.system}")
    here = [f"{name} {version}" for name, version in diagnosis.packages.items() if version]
    missing = [name for name, version in diagnosis.packages.items() if not version]
    yield printable(f"packages: {', '.join(here)}")
    if missing:
        yield printable(f"not installed: {', '.join(missing)}")
    yield printable(f"differences are measured by: {diagnosis.kernel}")
    for row in diagnosis.added:
        yield printable(f"added: {row.name} ({row.group}) by {row.package}")


def _runtimes(diagnosis: Diagnosis, fmt: str = "table") -> Iterator[str]:
    rows = [
        (
            row.runtime,
            row.device or "-",
            row.name or "-",
            ", ".join(f"{name} {version}" for name, version in row.versions.items()) or "not here",
        )
        for row in diagnosis.probed
    ]
    return render(rows, ("RUNTIME", "DEVICE", "NAME", "VERSIONS"), fmt, fit=_FIT)


def _foot(diagnosis: Diagnosis) -> Iterator[str]:
    for finding in diagnosis.findings:
        yield toned(finding_text(finding))
    able = {row.device for row in diagnosis.probed if row.device}
    yield f"models can be run on: {', '.join(sorted(able))}" if able else "no model can be run here"
