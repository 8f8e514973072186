"""The rows that `benchmarks.reliability` makes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MB = 1e6


class Row(NamedTuple):
    """One line of the table.  is_met: whether what was asked for was found; None: no goal."""

    what: str
    files: int
    ours: str
    theirs: str = ""
    is_met: bool | None = None


def kind(verdict: dict[str, Any], clean: dict[str, Any]) -> str:
    """Return what TensorFlow made of a damaged file, beside the sound one."""
    if verdict["end"]:
        return f"ended by {verdict['end']}"
    if verdict["error"]:
        return "error"
    if verdict["list"] != clean["list"]:
        return "silently lists fewer or other tensors"
    return "same" if verdict["digest"] == clean["digest"] else "silently other values"


def told(counts: Counter[str]) -> str:
    """Return counts as text, most first."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.most_common())


def share(found: int, total: int) -> str:
    """Return how many of all were found."""
    return f"{found:,} of {total:,} found" + (" (100%)" if found == total else "  **MISSED SOME**")
