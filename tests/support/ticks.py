"""The clock by which a file system tells when a file was changed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def after_a_tick(path: Path) -> Path:
    """Return `path` once what is written to it gets another time than it has.

    Before Linux 6.13, two changes within one tick of its clock (up to 10 ms) have the same time.
    """
    changed_ns = path.stat().st_ctime_ns
    with tempfile.TemporaryFile(dir=path.parent) as probe:
        while os.fstat(probe.fileno()).st_ctime_ns <= changed_ns:
            os.utime(probe.fileno())
    return path
