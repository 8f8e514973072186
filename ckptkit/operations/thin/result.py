"""What `thin` did: a row per checkpoint of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit.results import Document

SCHEMA = "ckptkit.thin/1"

KEPT = "kept"
THINNED = "thinned"
WOULD_BE_THINNED = "would be thinned"
NOTHING_IN_IT = "no optimizer state"
GONE = "gone"
REFUSED = "refused"
STATUSES = (KEPT, THINNED, WOULD_BE_THINNED, NOTHING_IN_IT, GONE, REFUSED)


@dataclass(frozen=True, slots=True)
class ThinnedCheckpoint:
    """One checkpoint of the run.

    status: KEPT (one of the last), THINNED or WOULD_BE_THINNED, NOTHING_IN_IT (nothing was done),
    GONE (removed meanwhile), REFUSED.
    slots: tensors of optimizer state that were in it.  bytes_before, bytes_after: of its index and
    data files; after a dry run the latter is without the tensors alone, and not of a file.
    why: the reason of a refusal, in one line; else "".
    """

    path: Path
    status: str
    slots: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON row.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "path": str(self.path),
            "status": self.status,
            "slots": self.slots,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True, repr=False)
class Thinning(Document):
    """What was done to the checkpoints of a run.

    path: the training directory.  keep_slots: as it was asked for.  rows: a checkpoint each, oldest
    first, those that are not complete at the end.  order: how it was told which is newer.
    dry_run: whether nothing was changed.  notes: on files that belong to no checkpoint.
    """

    ROWS = "checkpoints"

    path: Path
    keep_slots: str
    rows: tuple[ThinnedCheckpoint, ...]
    order: str = ""
    dry_run: bool = False
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many checkpoints there are of each status."""
        return {status: sum(row.status == status for row in self.rows) for status in STATUSES}

    def __repr__(self) -> str:
        told = ", ".join(f"{count} {status}" for status, count in self.counts.items() if count)
        return f"<Thinning of {str(self.path)!r}{' (dry run)' if self.dry_run else ''}: {told}>"

    @property
    def ok(self) -> bool:
        """Whether every checkpoint that was to be thinned is thin."""
        return not any(row.status == REFUSED for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 where all was done, 2 where a checkpoint could not be thinned."""
        return 0 if self.ok else 2

    @property
    def bytes_before(self) -> int:
        """Bytes of all files of the checkpoints before."""
        return sum(row.bytes_before for row in self.rows)

    @property
    def bytes_after(self) -> int:
        """Bytes of all files of the checkpoints afterwards."""
        return sum(row.bytes_after for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.thin/1 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": SCHEMA,
            "path": str(self.path),
            "exit_code": self.exit_code,
            "keep_slots": self.keep_slots,
            "dry_run": self.dry_run,
            "order": self.order,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "notes": list(self.notes),
            "checkpoints": [row.to_json() for row in self.rows],
        }
