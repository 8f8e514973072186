"""Scripts of tests that need TensorFlow, in children that share its import."""

from __future__ import annotations

from pathlib import Path

from ckptkit.runners import process
from ckptkit.runners.registry import RUNNERS, Runtime
from support.places import environment

_NAME = "script"
_ROW = Runtime("support.script_runtime", imported_first=("tensorflow",))
_LIMIT_S = 600.0


def run_script(*argv: object, directory: Path | None = None) -> str:
    """Run `python ARGV` (`-c CODE ...`, `-m NAME ...` or a file) in a directory, on the CPU.

    Returns what it prints; raises RunnerError with what it raises.  The runner is known no longer
    than that: tests ask for all that there are.
    """
    request = {
        "action": "run",
        "argv": [str(word) for word in argv],
        "directory": str(directory or Path.cwd()),
    }
    variables = {
        "PYTHONPATH": environment()["PYTHONPATH"],
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    RUNNERS.built_in[_NAME] = _ROW
    try:
        answer = process.run(_NAME, request, timeout_s=_LIMIT_S, environment=variables)
    finally:
        del RUNNERS.built_in[_NAME]
    return str(answer["printed"])
