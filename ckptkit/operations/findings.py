"""What a verification says: findings, checks that were made, and what was not checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit.errors import (
    ChecksumError,
    CkptkitError,
    FormatError,
    PathNotFoundError,
    TruncatedError,
)
from ckptkit.results import Result
from ckptkit.wording import useful

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    severity: "error" (damaged, incomplete, or a loader would fail), "warning" (a sound save does
    not look like this), "note" (worth knowing; counts only with `strict`).
    code: stable, dotted, e.g. "tensor.checksum".  where: file, tensor or member.
    key: of the tensor that it is about, "" if of none; name: its readable name, where that differs.
    """

    severity: str
    code: str
    where: str
    message: str
    hint: str = ""
    key: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hint", useful(self.hint))

    def to_json(self) -> dict[str, str | None]:
        """Return the JSON row."""
        return {
            "severity": self.severity,
            "code": self.code,
            "where": self.where,
            "message": self.message,
            "hint": self.hint,
            "key": self.key or None,
            "name": self.name or self.key or None,
        }


@dataclass(frozen=True, slots=True)
class Check(Result):
    """One thing that was looked at.

    name: what.  counts: how much of it, (noun, number) pairs; the noun "byte" is for sizes.
    """

    name: str
    counts: tuple[tuple[str, int], ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing but notes was found."""
        return all(finding.severity == "note" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Unit(Result):
    """One file or set of files that belong together, verified.

    tensors, nbytes: whose stored bytes were compared with a checksum (or read, where the format
    keeps none).  not_checked: what was left out and why, one sentence each.
    refusal: why it could not be checked at all, if so.
    """

    path: Path
    format: str
    checks: tuple[Check, ...] = ()
    not_checked: tuple[str, ...] = ()
    tensors: int = 0
    nbytes: int = 0
    refusal: CkptkitError | None = None

    @property
    def ok(self) -> bool:
        """Whether it could be checked and nothing but notes was found."""
        return self.refusal is None and all(check.ok for check in self.checks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, in the order of the checks."""
        return tuple(finding for check in self.checks for finding in check.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of a unit.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "path": str(self.path),
            "format": self.format,
            "tensors": self.tensors,
            "bytes": self.nbytes,
            "checks": [
                {"name": c.name, "counts": dict(c.counts), "findings": len(c.findings)}
                for c in self.checks
            ],
            "not_checked": list(self.not_checked),
            "refusal": None if self.refusal is None else str(self.refusal),
            "findings": [finding.to_json() for finding in self.findings],
        }


def is_damage(error: CkptkitError) -> bool:
    """Whether a refusal is about the bytes of a file, not about this system or what is asked."""
    return isinstance(error, FormatError | PathNotFoundError)


def of_error(error: CkptkitError, code: str) -> Finding:
    """Return the finding that a refusal of a reader comes to; its kind is added to `code`."""
    if isinstance(error, ChecksumError):
        code = f"{code}.checksum"
    elif isinstance(error, TruncatedError):
        code = f"{code}.truncated"
    elif not is_damage(error):
        code = f"{code}.unreadable"
    else:
        code = f"{code}.malformed"
    return Finding("error", code, error.where, error.message, error.hint)
