"""The rows that `benchmarks.reliability` makes, and TensorFlow's reader beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


class Peer:
    """TensorFlow's reader, in a process that outlives what it reads."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._tf_verdicts"],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def __call__(self, prefix: Path) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(str(prefix)) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))


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
