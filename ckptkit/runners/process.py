"""Start the child process of a request, watch it, read its result.

    request.json   {"runner": module, "action": ..., what the action takes}
    result.json    what the action returns, or {"error": {"kind": ..., "message": ...}}

In a block of `ckptkit.runners.fork_server.sharing_imports` the child may be a fork of a process
that has the runtime imported; all that is said here is true of it as well.

The child has a session of its own, so that it and all that it starts can be ended together: here,
and by itself where this process is gone (`ckptkit.runners.child.guardian`).  It gets the variables
that `ckptkit.runners.environment` passes.  What it says of itself is cut to a length.  What
it prints goes to a file; of that only the end is read, and only where the child gave no result.  A
child that is too slow is asked for its stack (SIGUSR1) before it is ended.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

from ckptkit._io.processes import end_descendants
from ckptkit._io.progress import still_going
from ckptkit.errors import UsageError
from ckptkit.installation import CLAIM_NAME
from ckptkit.runners.doing import followed
from ckptkit.runners.environment import PASS, lacking, passed
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.fork_server import ForkedChild, shared_imports
from ckptkit.runners.registry import RUNNERS
from ckptkit.text import list_text, shortened
from ckptkit.wording import say

Child = subprocess.Popen[bytes] | ForkedChild
_PROGRAM = f"{CLAIM_NAME}; from ckptkit.runners.child.__main__ import run; run()"
_POLL_S = 0.05
_TAIL_BYTES = 16_000  # of what the child printed, for the message
_MESSAGE_CHARACTERS = 800  # of a message: some lines of a terminal
_STACK_POLLS = 100  # that a child gets to write its stack
# How a stack ends, which is written piece by piece: with our program, or where it is too deep.
_STACK_ENDS = ('  File "<string>"', "\n  ...\n")
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')
_LOG = re.compile(r"[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] ")
_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = frozenset({"site-packages", "dist-packages"})  # folders of other people's packages
_NO_MEMORY = ("std::bad_alloc", "Cannot allocate memory", "MemoryError")
_CAUSES = {
    "SIGSEGV": "a crash in native code",
    "SIGBUS": "a file was cut short while it was mapped",
    "SIGABRT": "native code gave up",
    "SIGILL": "an instruction that this processor does not have",
    "SIGFPE": "an integer divided by zero in native code",
    "SIGKILL": "killed from outside, as the system does when memory runs out",
}


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
    the child beside those that it gets of this process.
    Raises RunnerError; UsageError for a runner that does not exist.
    """
    if runner not in RUNNERS:
        raise UsageError(f"no runner {runner!r}", hint=f"one of {', '.join(RUNNERS)}")
    with tempfile.TemporaryDirectory(prefix="ckptkit-run-") as scratch:
        request_file, result_file = Path(scratch, "request.json"), Path(scratch, "result.json")
        request_file.write_text(
            json.dumps({"runner": RUNNERS[runner].module, **request}), encoding="utf-8"
        )
        files = [str(request_file), str(result_file)]
        variables = _environment(environment or {})
        shared = shared_imports()
        starting = "" if shared is None else list_text(RUNNERS[runner].imported_first)
        with (
            Path(scratch, "output").open("w+b") as output,
            followed(result_file, f"importing {starting}" if starting else "starting a process"),
        ):
            watched = partial(
                _watched, timeout_s=timeout_s, max_rss_bytes=max_rss_bytes, output=output
            )
            if shared is not None:
                with (
                    _held_pipe() as pipe,
                    shared.fork(RUNNERS[runner], variables, files, pipe, output) as fork,
                ):
                    status = watched(fork) if fork is not None else 0
            # whether the model or its fork is at fault for no answer, a fresh process tells
            if not result_file.exists():
                output.seek(0)
                output.truncate()
                with _held_pipe() as pipe:
                    status = watched(_started(files, pipe, output, variables))
            return _result(result_file, status, output)


def _started(
    files: Sequence[str], pipe: int, output: IO[bytes], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process for a request: the files of the request and its result."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *files, str(pipe)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(variables),
        start_new_session=True,  # so that what it starts can be ended with it
        pass_fds=(pipe,),
    )


@contextmanager
def _held_pipe() -> Iterator[int]:
    """Yield the reading end of a pipe; the writing end is closed afterwards, or by our death."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: this package importable, and TensorFlow's chatter off.

    Of the variables of this process, those that `passed` names.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **passed(os.environ),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **extra,
    }


def _watched(child: Child, timeout_s: float, max_rss_bytes: int | None, output: IO[bytes]) -> int:
    """Return how a child ended, which it and all that it started have then; raises RunnerError."""
    try:
        return _wait(child, timeout_s, max_rss_bytes, output)
    finally:
        _end(child)


def _wait(child: Child, timeout_s: float, max_rss_bytes: int | None, output: IO[bytes]) -> int:
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(_POLL_S)
        still_going()
        if time.monotonic() > deadline:
            raise RunnerError(
                f"the model ran for more than {timeout_s:g} s{_where_it_is(child, output)}",
                kind="timeout",
                hint=say("‹timeout_s› gives it longer"),
            )
        if max_rss_bytes is not None and resident_bytes(child.pid) > max_rss_bytes:
            raise RunnerError(
                f"the model took more than {max_rss_bytes:,} bytes of memory"
                f"{_where_it_is(child, output)}",
                kind="memory",
            )


def _where_it_is(child: Child, output: IO[bytes]) -> str:
    """Have the child write its stack; return ` (in f, file.py:3)`, or "" where it does not."""
    before = os.fstat(output.fileno()).st_size
    with suppress(ProcessLookupError, AttributeError):
        child.send_signal(signal.SIGUSR1)
    for _ in range(_STACK_POLLS):
        time.sleep(_POLL_S)
        if any(end in _printed(output, before) for end in _STACK_ENDS):
            break
    frame = _frame(_printed(output))
    return f" (in {frame})" if frame else ""


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _end(child: Child) -> None:
    """End the child and all that it started."""
    if child.poll() is None:
        end_descendants(child.pid)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _result(file: Path, status: int, output: IO[bytes]) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        raise _death(status, _printed(output)) from None
    error = result.get("error")
    if error is not None:
        hint = say(error.get("hint", ""))
        variable = lacking(error["kind"], error["message"], os.environ)
        if variable:
            hint = say(f"{PASS}={variable} passes that variable on")
        raise RunnerError(bounded(error["message"]), kind=error["kind"], hint=hint)
    return result


def _death(status: int, printed: str) -> RunnerError:
    """Return the error for a child that ended without an answer, with what it shows of why."""
    words = [line for line in printed.splitlines() if line.strip()]
    if any(sign in printed for sign in _NO_MEMORY):
        return RunnerError(f"the model's process ran out of memory{_tail(words)}", kind="memory")
    if status >= 0:
        return RunnerError(
            f"the model's process died (exit code {status}){_tail(words)}", kind="died"
        )
    name = signal.Signals(-status).name if -status in set(signal.Signals) else "unknown"
    cause = _CAUSES.get(name, "")
    how = f"signal {-status}, {name}{f': {cause}' if cause else ''}"
    frame = _frame(printed)
    seen = f", in {frame}" if frame else ""
    words = [line for line in words if not _is_noise(line)]
    return RunnerError(f"the model's process died ({how}){seen}{_tail(words)}", kind="died")


def _printed(output: IO[bytes], since: int = 0) -> str:
    """Return the end of what the child printed, of what came after so many bytes.

    The child writes where this process has sought to: so this does not seek.
    """
    start = max(since, os.fstat(output.fileno()).st_size - _TAIL_BYTES)
    return os.pread(output.fileno(), _TAIL_BYTES, start).decode("utf-8", "replace")


def _frame(printed: str) -> str:
    """Return `f, file.py:3`, the innermost frame of a stack in which Python says where it was.

    Of the user's own files, where there are some on the stack.
    """
    start = max(printed.rfind("(most recent call first)"), 0)
    frames = _FRAME.findall(printed[start:]) if start else []
    of_user = [frame for frame in frames if _is_users(frame[0])]
    for path, line, function in of_user or frames:
        return f"{function}, {Path(path).name}:{line}"
    return ""


def _is_users(file: str) -> bool:
    """Whether a file of a stack is the user's: no package that is installed, and none of ours.

    The reference models of this package count as the user's, since they are run as such.
    """
    path = Path(file).resolve()
    if path.is_relative_to(_PACKAGE):
        return path.is_relative_to(_PACKAGE / "fixtures")
    # modules that Python holds in memory are called "<frozen importlib>" and the like
    if file.startswith("<") or not _INSTALLED.isdisjoint(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in _standard_library())


@cache
def _standard_library() -> tuple[Path, ...]:
    """Return the folders of Python's own modules; those of a child are the same."""
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def _is_noise(line: str) -> bool:
    """Whether a line is of Python's dump, or of a C++ log below fatal."""
    starts = ("Fatal Python", "Current thread", "Thread 0x", "  File ", "Extension", "WARNING: All")
    return line.startswith(starts) or bool(_LOG.match(line))


def _tail(lines: Sequence[str]) -> str:
    """Return the last line that the child printed."""
    return f": {bounded(lines[-1].strip())}" if lines else ""


def bounded(message: str) -> str:
    """Return what a child says, as one line that can be read; the traceback of a model has pages.

    Lines are joined, since what a line of ours says must not look like two.
    """
    return shortened(" ".join(message.split()), _MESSAGE_CHARACTERS)
