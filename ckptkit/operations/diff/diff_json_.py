"""A DiffResult as the JSON document of schema ckptkit.diff/1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptkit.operations.ls import tensor_json
from ckptkit.text import json_number

if TYPE_CHECKING:
    from ckptkit.checkpoint.checkpoint import Checkpoint
    from ckptkit.checkpoint.selection import Tensor
    from ckptkit.compare.tensors import Delta
    from ckptkit.operations.diff.api import Change, DiffResult

SCHEMA = "ckptkit.diff/1"
_NUMBERS = (
    *("n", "n_diff", "n_outside", "nonfinite", "max_abs", "max_rel", "mean_abs", "rmse"),
    *("max_ulp", "rel_l2", "cosine", "needed_rtol", "rtol", "atol", "rule"),
)


def document(result: DiffResult) -> dict[str, Any]:
    """Return what docs/diff.md describes; numbers that JSON cannot hold are strings."""
    return {
        "schema": SCHEMA,
        "old": _file(result.old),
        "new": _file(result.new),
        "mode": result.mode,
        "options": dict(result.options),
        "summary": {
            **result.counts,
            "verdict": "same" if result.same else "different",
            "exit": result.exit_code,
        },
        "left_out": [
            {"count": item.count, "what": item.what, "why": item.why} for item in result.left_out
        ],
        "warnings": list(result.warnings),
        "entries": [entry(change) for change in result.changes],
    }


def _file(checkpoint: Checkpoint) -> dict[str, Any]:
    store = checkpoint.store
    return {
        "path": str(store.path),
        "subtree": checkpoint.subtree,
        "format": store.format,
        "style": store.style or None,
        "producer": store.producer,
        "notes": list(checkpoint.notes),
    }


def entry(change: Change) -> dict[str, Any]:
    """Return the JSON row of one change."""
    return {
        "status": change.status,
        "name": change.name,
        "role": change.role,
        "evidence": change.evidence or None,
        "method": change.method or None,
        "cast": change.cast,
        "hints": list(change.hints),
        "old": _tensor(change.old),
        "new": _tensor(change.new),
        "values": _values(change.delta) if change.delta else None,
    }


def _tensor(tensor: Tensor | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    row = tensor_json(*tensor)
    kept = ("name", "key", "full_name", "role", "dtype", "shape", "params", "bytes", "crc32c")
    return {name: row[name] for name in kept}


def _values(delta: Delta) -> dict[str, Any]:
    row = {name: json_number(getattr(delta, name)) for name in _NUMBERS}
    worst = delta.worst
    row["worst"] = worst and {
        "index": list(worst.index),
        "old": _scalar(worst.old),
        "new": _scalar(worst.new),
    }
    return row


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, complex):
        return [json_number(value.real), json_number(value.imag)]
    return json_number(value)
