"""Writers under strace, every write-class system call in turn killed or failed.

A server (`writing.py`, which has everything imported) forks a child per run; strace attaches to the
child before it begins, so that calls are counted from there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import ckptkit
from ckptkit._io.atomic import is_temporary
from ckptkit.operations.verify.api import verify
from support import writing
from support.places import environment

CALLS = (
    *("openat", "write", "pwrite64", "writev", "ftruncate", "fsync", "fdatasync", "rename"),
    *("renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat"),
    *("rmdir", "chmod", "fchmod", "fchmodat"),
)
# errors that the system gives for lack of room or a broken disk
ERRORS = {
    "openat": "ENOSPC",
    "write": "ENOSPC",
    "pwrite64": "EIO",
    "ftruncate": "ENOSPC",
    "fsync": "EIO",
    "rename": "EIO",
    "renameat2": "EDQUOT",
    "mkdir": "ENOSPC",
}
LEFTOVERS = ("data.extra", "leftover.data", "leftover.ckptkit")
_LINE = re.compile(r"(\d+ +)?(\w+)\(")


class Call(NamedTuple):
    """The n-th call of a name in a run, and what strace printed of it."""

    name: str
    nth: int
    text: str


class Done(NamedTuple):
    """How a run ended: exit code (minus the signal), and what it said on stderr."""

    code: int
    stderr: str


class Server:
    """Forks writers on request."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.writing", "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(
                PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="", OPENBLAS_NUM_THREADS="1"
            ),
        )

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server of writers died"
        return line

    def run(self, kind: str, directory: Path, fill: int, *options: str) -> Done:
        """Run a writer under strace, which logs its calls to DIRECTORY.strace."""
        self.say(json.dumps([kind, str(directory), fill]))
        pid = int(self.hear())
        strace = subprocess.Popen(
            [
                *("strace", "-f", "-y", "-e", f"trace={','.join(CALLS)}"),
                *("-o", f"{directory}.strace", *options, "-p", str(pid)),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert strace.stderr is not None
        strace.stderr.readline()  # "attached": from here on, not from the first sign in /proc
        self.say("go")
        code, stderr = json.loads(self.hear())
        strace.communicate()
        return Done(code, stderr)

    def close(self) -> None:
        self.process.communicate("")


@cache
def why_not() -> str:
    """Return why system calls cannot be injected here, "" where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-f", "-e", "inject=getppid:error=EIO", "-o", os.devnull, sys.executable]
    code = "import os; print(os.getppid())"
    done = subprocess.run([*command, "-c", code], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr[:80]}"


def prepared(kind: str, directory: Path) -> Path:
    """Return a directory in which the old file lies."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    assert writing.main(kind, directory, 1) == 0
    return directory


def calls_of(server: Server, kind: str, directory: Path) -> list[Call]:
    """Return the calls of an undisturbed run that touch the directory, in order."""
    for _ in range(2):  # the first run of all stores compiled modules: its calls are others
        prepared(kind, directory)
        done = server.run(kind, directory, 2)
        assert done.code == 0, done
    counts: Counter[tuple[str, str]] = Counter()  # of each thread: so strace counts for `when=`
    found: list[Call] = []
    for line in Path(f"{directory}.strace").read_text().splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, name = match.groups()
        counts[thread, name] += 1
        if f"{directory}/" in line or f"{directory}>" in line:
            if name == "openat" and "O_CREAT" not in line:
                continue
            found.append(Call(name, counts[thread, name], line))
    return found


def content(kind: str, directory: Path) -> dict[str, bytes]:
    """Return the values that can be read, all checksums compared; of a text, all its bytes."""
    if kind in writing.TEXTS:
        return {"": (directory / writing.WRITERS[kind][1]).read_bytes()}
    found = ckptkit.load(directory / writing.WRITERS[kind][1], jobs=1)
    return {key: repr(v.tolist()).encode() for key, v in found.items()}


def judged(kind: str, directory: Path, old: dict[str, bytes], new: dict[str, bytes]) -> str:
    """Return "old" or "new"; fails where it is neither, or `verify` finds damage."""
    found = content(kind, directory)
    assert found in (old, new), "neither the old file nor the new one"
    if kind not in writing.TEXTS:
        result = verify(directory / writing.WRITERS[kind][1])
        wrong = [f for f in result.findings if f.severity != "note" and f.code not in LEFTOVERS]
        if kind == "saved-model":  # a donor's fingerprint is that of other values
            wrong = [f for f in wrong if f.code != "fingerprint.stale"]
        assert wrong == [], wrong
    return "old" if found == old else "new"


def temporaries(directory: Path) -> list[str]:
    return [entry.name for entry in directory.rglob("*") if is_temporary(entry.name)]


def both(kind: str, place: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the values of the old and the new file."""
    directory = prepared(kind, place / "sample")
    old = content(kind, directory)
    assert writing.main(kind, directory, 2) == 0
    return old, content(kind, directory)


def sampled(calls: list[Call], quick: bool) -> Iterator[Call]:
    """Yield all calls, or some of each name."""
    seen: Counter[str] = Counter()
    for call in calls:
        seen[call.name] += 1
        if not quick or seen[call.name] <= 2:
            yield call


def killed_everywhere(server: Server, kind: str, place: Path, *, quick: bool = False) -> list[str]:
    """Kill the writer at each call; return what lay there afterwards."""
    old, new = both(kind, place)
    calls = calls_of(server, kind, place / "trace")
    verdicts = []
    for call in sampled(calls, quick):
        directory = prepared(kind, place / "work")
        inject = f"inject={call.name}:signal=SIGKILL:when={call.nth}"
        done = server.run(kind, directory, 2, "-e", inject)
        assert done.code == -9, (call, done)
        verdicts.append(judged(kind, directory, old, new))
        assert writing.main(kind, directory, 2) == 0, call  # no clean-up by hand
        assert judged(kind, directory, old, new) == "new"
    assert verdicts == sorted(verdicts, reverse=True), verdicts  # old until the commit, then new
    assert {"old"} <= set(verdicts)
    return verdicts


def failed_everywhere(server: Server, kind: str, place: Path, *, quick: bool = False) -> list[str]:
    """Let each call fail; return what lay there afterwards."""
    old, new = both(kind, place)
    calls = [c for c in calls_of(server, kind, place / "trace") if c.name in ERRORS]
    verdicts = []
    for call in sampled(calls, quick):
        directory = prepared(kind, place / "work")
        inject = f"inject={call.name}:error={ERRORS[call.name]}:when={call.nth}"
        done = server.run(kind, directory, 2, "-e", inject)
        verdict = judged(kind, directory, old, new)
        verdicts.append(verdict)
        if done.code == 0:  # an error that is made up for, or of the clean-up
            assert verdict == "new", call
            continue
        assert done.code == 2, (call, done)
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr
        # the last flush of a directory comes after the rename: the new file is there, unproven
        assert verdict == "old" or call.name == "fsync", (call, done.stderr)
        assert temporaries(directory) == [], call
    return verdicts


def flush_violations(calls: list[Call], place: Path) -> list[str]:
    """Return where a file got its name before a flush, or the last name was not flushed."""
    flushed: set[str] = set()
    wrong: list[str] = []
    last = ""
    for call in calls:
        paths = re.findall(r'<([^>]*)>|"([^"]*)"', call.text)
        names = [a or b for a, b in paths if str(place) in (a or b)]
        if call.name in ("write", "pwrite64", "ftruncate") and names:
            flushed.discard(names[0])
        elif call.name in ("fsync", "fdatasync"):
            flushed.add(names[0])
            last = "fsync"
        elif call.name in ("rename", "renameat", "renameat2", "link") and "= 0" in call.text:
            source, target = names[-2:]
            if any(is_temporary(part) for part in Path(target).parts):
                continue  # within a directory that has no name yet
            last = "rename"
            inside = (f for f in Path(target).rglob("*") if f.is_file())
            files = [f"{source}/{f.relative_to(target)}" for f in inside]
            wrong += [f"{call.text}: {f}" for f in (source, *files) if f not in flushed]
    return wrong if last == "fsync" else [*wrong, "the last rename is not flushed"]
