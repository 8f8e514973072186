"""What `upgrade` did: a receipt per model, a row per model of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ckptkit.errors import CkptkitError
from ckptkit.operations.convert.plan import Plan
from ckptkit.operations.convert.proof import Proof
from ckptkit.operations.upgrade.outputs import OutputsCompared
from ckptkit.operations.upgrade.translation.account import Change, Obstacle
from ckptkit.operations.upgrade.weights import SCALED
from ckptkit.results import Document, Result
from ckptkit.text import count_text, list_text

SCHEMA = "ckptkit.upgrade/1"
_SHOWN = 8


class UpgradeRefusedError(CkptkitError):
    """The model has no counterpart in Keras 3, or not all of it; nothing was written.

    Args:
        obstacles: each layer that stands in the way, and why; at least one.
        where: the file.
        hint: the next step; "" where there is none.
    """

    code = "upgrade"

    def __init__(self, obstacles: Sequence[Obstacle], where: str, hint: str = "") -> None:
        grouped: dict[str, list[str]] = {}
        for item in obstacles:
            grouped.setdefault(item.what, []).append(item.where)
        texts = [str(Obstacle(list_text(places, 4), what)) for what, places in grouped.items()]
        shown = "; ".join(texts[:_SHOWN])
        if len(texts) > _SHOWN:
            shown += f"; and {len(texts) - _SHOWN} more"
        super().__init__(shown, where=where, hint=hint)
        self.obstacles = tuple(obstacles)

    def __reduce__(self) -> tuple[Any, ...]:
        return UpgradeRefusedError, (self.obstacles, self.where, self.hint)


@dataclass(frozen=True)
class UpgradeReceipt(Result):
    """One model, upgraded.

    source: the old file.  path: the new one, or PATH.rejected where the proof failed.  writer: what
    wrote the old one.  changes: of its configuration.  plan: where each weight comes from.
    proof: of the weights, bit for bit.  outputs: what both compute.  versions: of what took part.
    notes: what a person should know, a sentence each.  holds_code: whether it holds Python code, so
    that it does not load in safe mode.
    """

    source: Path
    path: Path
    writer: str
    changes: tuple[Change, ...]
    plan: Plan
    proof: Proof
    outputs: OutputsCompared
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    holds_code: bool = False

    @property
    def ok(self) -> bool:
        """Whether the new model was written and nothing speaks against it."""
        return self.proof.ok and self.outputs.ok

    @property
    def is_loaded(self) -> bool:
        """Whether a fresh process has loaded the new model."""
        return bool(self.outputs.runners[1]) and not self.outputs.failure

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per weight or output that is not what it was."""
        return (*self.proof.failures, *self.outputs.failures)

    @property
    def left_behind(self) -> Mapping[str, int]:
        """How many tensors of the old file are not in the new one, by the reason."""
        return Counter(item.why for item in self.plan.leftovers)

    @property
    def scaled(self) -> int:
        """How many weights were multiplied on the way."""
        return sum(tensor.values.store.format == SCALED for tensor in self.plan.tensors)

    def to_json(self) -> dict[str, Any]:
        """Return the receipt as plain values (schema ckptkit.upgrade/1, docs/upgrade.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "source": str(self.source),
            "path": str(self.path),
            "ok": self.ok,
            "writer": self.writer,
            "changes": [change._asdict() for change in self.changes],
            "weights": {
                "tensors": len(self.plan.tensors),
                "bytes": self.plan.nbytes,
                "paired_by": dict(self.plan.bases),
                "scaled": self.scaled,
                "left": [item._asdict() for item in self.plan.leftovers],
                "pairs": [tensor.to_json() for tensor in self.plan.tensors],
            },
            "proof": self.proof.to_json(),
            "outputs": self.outputs.to_json(),
            "loaded": self.is_loaded,
            "versions": dict(self.versions),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class UpgradeRow(Result):
    """One model of several.

    status: upgraded, kept (by an earlier run, from a source that has not changed since), current
    (written by Keras 3 already), refused (see `error`) or failed (see the receipt).
    """

    source: Path
    path: Path
    status: str
    receipt: UpgradeReceipt | None = None
    error: str = ""
    obstacles: tuple[Obstacle, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is a model that Keras 3 loads."""
        return self.status in ("upgraded", "kept", "current")

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "source": str(self.source),
            "path": str(self.path),
            "status": self.status,
            "error": self.error,
            "obstacles": [item._asdict() for item in self.obstacles],
            "receipt": self.receipt.to_json() if self.receipt is not None else None,
        }


@dataclass(frozen=True)
class UpgradeReport(Document):
    """All that one call of `upgrade` did, a row per model."""

    ROWS: ClassVar[str] = "rows"

    rows: tuple[UpgradeRow, ...]

    @property
    def ok(self) -> bool:
        """Whether every model is one that Keras 3 loads."""
        return all(row.ok for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some were refused or failed their proof."""
        return 0 if self.ok else 1

    @property
    def verdict(self) -> str:
        """The counts, in a line."""
        counts = Counter(row.status for row in self.rows)
        parts = [f"{count} {status}" for status, count in counts.items()]
        return f"{count_text(len(self.rows), 'model')}: {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.upgrade/1 (docs/upgrade.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "verdict": self.verdict,
            "rows": [row.to_json() for row in self.rows],
        }
