"""Running a small model several times, in imports of TensorFlow: both are nearly nothing else.

Seconds of the processors, of all processes together: those of a clock say little of what runs in
more than one process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import CKPTKIT, PYTHON, Result, processes
from benchmarks.inputs import path

_MOST_IMPORTS = 2.0
_PEER = "import tensorflow"
_RUNNERS = ("CPU:0", "xla:CPU:0", "CPU:0,threads=1")


def running() -> list[Result]:
    """Record a small model, and check it on several runners."""
    model = str(path("small_model", "model.keras"))
    on = [word for runner in _RUNNERS for word in ("--on", runner)]
    with tempfile.TemporaryDirectory() as scratch:
        golden = str(Path(scratch, "golden"))
        commands = {
            "import": (PYTHON, "-c", _PEER),
            "record": (*CKPTKIT, "record", model, "-o", golden, "--overwrite"),
            "several": (*CKPTKIT, "check", model, *on),
            "golden": (*CKPTKIT, "check", model, "--golden", golden),
        }
        costs = processes(commands)
    cpu = {label: cost.cpu_seconds for label, cost in costs.items()}
    rows = (
        ("record", "record", "record a small model, defaults (five runs)", 1 / _MOST_IMPORTS),
        ("check", "several", "check it on three runners (four runs)", 1 / _MOST_IMPORTS),
        ("check", "golden", "check it against a golden (one run)", None),
    )
    return [
        Result(name, work, "CPU s", cpu[label], cpu["import"], _PEER, goal)
        for name, label, work, goal in rows
    ]


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {"running": running}
