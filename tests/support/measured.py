"""Run a command and tell what it took: `run(command)`.

A process that a large one starts counts the large one's memory as its own peak (Linux keeps the
high-water mark over `execve`), so a small process stands between.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from support.places import ROOT, environment

_BETWEEN = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stdout.decode(errors="replace"),
                  used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


class Measured(NamedTuple):
    """What a command answered and took; `output` holds both streams."""

    code: int
    output: str
    cpu_seconds: float
    peak_bytes: int


def run(command: Sequence[str]) -> Measured:
    """Run `command` in the project's folder; it may import what tests share."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", _BETWEEN, *command],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return Measured(*json.loads(done.stdout))
