"""The child's side of a runner: `ckptkit.runners.process` calls `run`, argv REQUEST RESULT PIPE.

So does `ckptkit.runners.child.fork_server`, in a process that has the runtime imported.

Whatever a model raises becomes a line in the result; whatever it prints goes to the parent's log.
A fatal signal, and SIGUSR1, have Python write down where it is.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ckptkit.errors import CkptkitError, MissingDependencyError
from ckptkit.runners.child.guardian import guard
from ckptkit.runners.doing import report_beside

_MESSAGE_LINES = 3
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError", "OutOfMemoryError")


def run() -> None:
    """Carry out the request that the command line names, and end the process."""
    guardian = guard(int(sys.argv[3]))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.flush()
    guardian.end()
    os._exit(0)  # TensorFlow's threads need not be waited for


def main(request_file: Path, result_file: Path) -> None:
    """Carry out the request in one file and write its result, or its error, to the other."""
    report_beside(result_file)
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=False)
    request = json.loads(request_file.read_text(encoding="utf-8"))
    # code that a user names is importable from where the command was called
    try:
        sys.path.insert(0, str(Path.cwd()))
    except FileNotFoundError:  # that directory was removed, and packages ask for the current one
        os.chdir(os.sep)
    try:
        result = import_module(request["runner"]).ACTIONS[request["action"]](request)
    except CkptkitError as error:
        result = _refusal(_kind(error), str(error))
    except Exception as error:  # what user code raises is not ours to foresee
        lines = [line for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()][
            :_MESSAGE_LINES
        ]
        name = type(error).__name__
        kind = "memory" if name in _OUT_OF_MEMORY else name
        result = _refusal(kind, f"{name}: {' '.join(lines)}" if lines else name)
    # written beside and renamed: the parent never sees half a result
    beside = result_file.with_suffix(".part")
    beside.write_text(json.dumps(result), encoding="utf-8")
    beside.replace(result_file)


def _kind(error: CkptkitError) -> str:
    if isinstance(error, MissingDependencyError):
        return "missing"
    return getattr(error, "kind", "") or type(error).__name__


def _refusal(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}}


if __name__ == "__main__":
    run()
