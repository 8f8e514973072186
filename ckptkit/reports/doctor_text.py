"""What `doctor` found, as text or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.findings import finding_text
from ckptkit.reports.table import is_bare, json_lines, render
from ckptkit.reports.text import printable

if TYPE_CHECKING:
    from ckptkit.operations.doctor import Diagnosis

FORMATS = ("table", "json")


def lines(found: Diagnosis, fmt: str = "table") -> Iterator[str]:
    """Yield the report.

    fmt: "table", "json" or "table:NAME" (the runtimes alone, see `remarks`).
    """
    if fmt == "json":
        yield from json_lines(found.to_json(), "runtimes")
    elif is_bare(fmt):
        yield from _runtimes(found, fmt)
    else:
        yield from _head(found)
        yield ""
        yield from _runtimes(found)
        yield ""
        yield from _foot(found)


def remarks(found: Diagnosis) -> Iterator[str]:
    """Yield what the report for people says beside the table of runtimes."""
    yield from _head(found)
    yield from _foot(found)


def _head(found: Diagnosis) -> Iterator[str]:
    yield printable(f"Python {found.python} on {found.system}")
    here = [f"{name} {version}" for name, version in found.packages.items() if version]
    missing = [name for name, version in found.packages.items() if not version]
    yield printable(f"packages: {', '.join(here)}")
    if missing:
        yield printable(f"not installed: {', '.join(missing)}")


def _runtimes(found: Diagnosis, fmt: str = "table") -> Iterator[str]:
    rows = [
        (
            row.runtime,
            row.device or "-",
            row.name or "-",
            ", ".join(f"{name} {version}" for name, version in row.versions.items()) or "not here",
        )
        for row in found.probed
    ]
    return render(rows, ("RUNTIME", "DEVICE", "NAME", "VERSIONS"), fmt)


def _foot(found: Diagnosis) -> Iterator[str]:
    for finding in found.findings:
        yield finding_text(finding)
    able = {row.device for row in found.probed if row.device}
    yield f"models can be run on: {', '.join(sorted(able))}" if able else "no model can be run here"
