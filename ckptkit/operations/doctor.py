"""`doctor`: which runtimes and devices are here, with what versions, and what stands in the way."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ckptkit._version import __version__
from ckptkit.compare import kernel
from ckptkit.errors import UnsupportedError
from ckptkit.installation import DISTRIBUTION, OTHER, damage, mending
from ckptkit.operations.findings import Finding
from ckptkit.plugins import Registry
from ckptkit.results import Document
from ckptkit.runners.client import PROBE_TIMEOUT_S, probe
from ckptkit.runners.limits import time_limit
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.types import DeviceProbe
from ckptkit.stores.registry import FORMATS

SCHEMA = "ckptkit.doctor/1"
# What reads files, or runs models, beside the runtimes; by the name of the distribution.
_PACKAGES = (
    *("numpy", "ml_dtypes", "google-crc32c", "protobuf", "click", "tabulate"),
    *("h5py", "cramjam", "tensorflow", "keras", "pytest"),
)


class AddedRow(NamedTuple):
    """What another package adds: the group of entry points, the name, the package."""

    group: str
    name: str
    package: str


@dataclass(frozen=True)
class Diagnosis(Document):
    """What is here.

    packages: {distribution: version}, None where it is not installed.  probed: runtimes and devices
    as child processes found them.  findings: what stands in the way.
    kernel: what measures differences, "compiled, avx512", or "numpy: " and why.
    added: rows that other packages add to the tables of formats and runners, and to those that the
    caller named.
    """

    ROWS: ClassVar[str] = "runtimes"

    python: str
    system: str
    packages: dict[str, str | None]
    probed: tuple[DeviceProbe, ...]
    findings: tuple[Finding, ...]
    added: tuple[AddedRow, ...] = ()
    kernel: str = ""

    @property
    def ok(self) -> bool:
        """Whether a model can be run here and nothing stands in the way."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0 fine, 1 something is wrong, 2 no model can be run here."""
        if any(finding.severity != "note" for finding in self.findings):
            return 1
        return 0 if any(not row.why_not for row in self.probed) else 2

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.doctor/1 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": SCHEMA,
            "ckptkit": __version__,
            "python": self.python,
            "system": self.system,
            "packages": self.packages,
            "kernel": self.kernel,
            "runtimes": [
                {
                    "runtime": row.runtime,
                    "device": row.device or None,
                    "name": row.name,
                    "versions": dict(row.versions),
                    "why_not": row.why_not,
                }
                for row in self.probed
            ],
            "findings": [finding.to_json() for finding in self.findings],
            "added": [row._asdict() for row in self.added],
        }


def doctor(timeout_s: float = PROBE_TIMEOUT_S, tables: Sequence[Registry[Any]] = ()) -> Diagnosis:
    """Look at this machine; each runtime is imported in a child process of its own.

    tables: those that other packages may add to, beside formats and runners.  Raises UsageError
    where the environment asks for a kernel that there is not.
    """
    added, broken = _added((FORMATS, RUNNERS, *tables))
    packages = {name: _version(name) for name in _PACKAGES}
    probed = probe(time_limit(timeout_s))
    findings = (*_clashes(), *broken, *_runtimes(probed))
    python = f"{platform.python_version()} at {sys.executable}"
    system = platform.platform()
    return Diagnosis(python, system, packages, probed, findings, added, kernel.description())


def _added(tables: Sequence[Registry[Any]]) -> tuple[tuple[AddedRow, ...], list[Finding]]:
    """Return what other packages add, and findings on what of it cannot be loaded."""
    rows: list[AddedRow] = []
    broken: list[Finding] = []
    for table in tables:
        for name, package in table.added().items():
            rows.append(AddedRow(table.group, name, package))
            try:
                table[name]
            except UnsupportedError as error:
                broken.append(
                    Finding("warning", "plugin.broken", error.where, error.message, error.hint)
                )
    return tuple(rows), broken


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _clashes() -> Iterator[Finding]:
    """Yield other distributions that own the import name or the command `ckptkit`.

    Where there are none, yield what one has done to our files before it was removed.
    """
    owners: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        points = {(p.group, p.name) for p in distribution.entry_points}
        top = (distribution.read_text("top_level.txt") or "").split()
        owns = ("console_scripts", "ckptkit") in points or "ckptkit" in top
        if owns or name.lower() == OTHER:
            owners.add(name)
    others = sorted(owners - {DISTRIBUTION})
    for name in others:
        yield Finding(
            "error",
            "name.clash",
            name,
            "another package of the import name and command ckptkit is installed",
            mending(name),
        )
    found = damage(Path(__file__).resolve().parents[1])
    if found and not others:
        yield Finding("error", "name.damaged", DISTRIBUTION, found)


def _runtimes(probed: tuple[DeviceProbe, ...]) -> Iterator[Finding]:
    for row in probed:
        if row.why_not:
            built_in = RUNNERS.built_in.get(row.runtime)
            extra = built_in.extra if built_in is not None else ""
            hint = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else ""
            hint = "" if hint in row.why_not else hint
            yield Finding("note", "runtime.missing", row.runtime, row.why_not, hint)
