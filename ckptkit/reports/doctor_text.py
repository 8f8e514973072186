"""What `doctor` found, in every form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.documents import in_form
from ckptkit.reports.fitting import Fit
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
            "ckptkit doctor",
            [diagnosis],
            lambda form: _runtimes(diagnosis, form),
            lambda: remarks(diagnosis),
        )
        return
    yield from folded(_head(diagnosis))
    yield ""
    yield from _runtimes(diagnosis)
    if verbose:
        yield from folded(_reasons(diagnosis))
    yield ""
    yield from folded(_foot(diagnosis))


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
