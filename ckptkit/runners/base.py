"""The parent's side of a runner: start the child, watch it, read its result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit.errors import CkptkitError, UsageError


class Runtime(NamedTuple):
    """What this package knows of a runtime without importing it.

    module: has `ACTIONS`.  subjects: the kinds that it runs.  switches: of RunnerSpec, those that
    it has.  environment: variables that must be set before it is imported.  package: what must be
    installed; extra: of this distribution, the extra that brings it.
    """

    module: str
    subjects: frozenset[str] = frozenset()
    devices: tuple[str, ...] = ("CPU",)
    switches: frozenset[str] = frozenset()
    environment: Mapping[str, str] = {}
    package: str = ""
    extra: str = ""


RUNNERS: dict[str, Runtime] = {
    "tensorflow": Runtime(
        "ckptkit.runners.tensorflow",
        frozenset({"saved_model", "keras", "code"}),
        ("CPU", "GPU"),
        frozenset({"xla", "deterministic", "tf32", "threads", "eager", "mirrored"}),
        {"TF_FORCE_GPU_ALLOW_GROWTH": "true"},
        "tensorflow",
        "tensorflow",
    ),
}
_POLL_S = 0.05
_TAIL_BYTES = 4000  # of what the child printed, for the message


class RunnerError(CkptkitError):
    """A model could not be run: the child refused, failed, hung, or died.

    kind: the class of the exception in the child, "timeout", "memory" or "died".
    """

    def __init__(self, message: str, *, kind: str = "", where: str = "", hint: str = "") -> None:
        super().__init__(message, where=where, hint=hint)
        self.kind = kind


def run(
    runner: str,
    request: Mapping[str, Any],
    *,
    timeout_s: float,
    max_rss_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what the runner's child answers to `request`.

    timeout_s: seconds of wall-clock time.  max_rss_bytes: of resident memory (Linux only; address
    space says nothing, since TensorFlow maps far more than it uses).  environment: variables for
    the child beside those of this process.
    Raises RunnerError; UsageError for a runner that does not exist.
    """
    if runner not in RUNNERS:
        raise UsageError(f"no runner {runner!r}", hint=f"one of {', '.join(RUNNERS)}")
    with tempfile.TemporaryDirectory(prefix="ckptkit-run-") as scratch:
        asked, answer = Path(scratch, "request.json"), Path(scratch, "result.json")
        asked.write_text(
            json.dumps({"runner": RUNNERS[runner].module, **request}), encoding="utf-8"
        )
        with Path(scratch, "output").open("w+b") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "ckptkit.runners._child", str(asked), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(environment or {}),
                start_new_session=True,  # so that what it starts can be ended with it
            )
            try:
                status = _wait(child, timeout_s, max_rss_bytes)
            finally:
                _end(child)
            return _result(answer, status, output)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: this package importable, and TensorFlow's chatter off."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **extra,
    }


def _wait(child: subprocess.Popen[bytes], timeout_s: float, max_rss_bytes: int | None) -> int:
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(_POLL_S)
        if time.monotonic() > deadline:
            raise RunnerError(
                f"the model ran for more than {timeout_s:g} s",
                kind="timeout",
                hint="--timeout gives it longer",
            )
        if max_rss_bytes is not None and resident_bytes(child.pid) > max_rss_bytes:
            raise RunnerError(
                f"the model took more than {max_rss_bytes:,} bytes of memory", kind="memory"
            )


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _result(answer: Path, status: int, output: Any) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        raise RunnerError(f"the model's process died ({how}){_tail(output)}", kind="died") from None
    error = result.get("error")
    if error is not None:
        raise RunnerError(error["message"], kind=error["kind"], hint=error.get("hint", ""))
    return result


def _tail(output: Any) -> str:
    """Return the last line that the child printed."""
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - _TAIL_BYTES))
    lines = output.read().decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
