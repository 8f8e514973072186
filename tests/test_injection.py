"""Writers under strace: killed at every write-class system call, or refused by the disk.

After each, what lies there must be the whole old file or the whole new one, sound by `verify`; an
error of the disk must leave the old one and no temporary file.
"""

from __future__ import annotations

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

import pytest
import writing

import ckptkit
from ckptkit._atomic import is_temporary
from ckptkit.operations.verify import verify

HERE = Path(__file__).parent
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
QUICK = ("bundle", "file")


class Call(NamedTuple):
    """The n-th call of a name in a run, and what strace printed of it."""

    name: str
    nth: int
    text: str


def run(kind: str, directory: Path, fill: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the writer under strace, which logs its calls to DIRECTORY.strace."""
    return subprocess.run(
        [
            *("strace", "-f", "-y", "-qq", "-e", f"trace={','.join(CALLS)}"),
            *("-o", f"{directory}.strace", *options),
            *(sys.executable, str(HERE / "writing.py"), kind, str(directory), str(fill)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )


@cache
def why_not() -> str:
    """Return why system calls cannot be injected here, "" where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-f", "-e", "inject=getppid:error=EIO", "-o", os.devnull, sys.executable]
    code = "import os; print(os.getppid())"
    done = subprocess.run([*command, "-c", code], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr[:80]}"


@pytest.fixture(autouse=True)
def strace() -> None:
    if why_not():
        pytest.skip(why_not())


def prepared(kind: str, directory: Path) -> Path:
    """Return a directory in which the old file lies."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    assert writing.main(kind, directory, 1) == 0
    return directory


def calls_of(kind: str, directory: Path) -> list[Call]:
    """Return the calls of an undisturbed run that touch the directory, in order."""
    prepared(kind, directory)
    assert run(kind, directory, 2).returncode == 0
    counts: Counter[str] = Counter()
    found: list[Call] = []
    for line in Path(f"{directory}.strace").read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match is None:
            continue
        counts[match[1]] += 1
        if f"{directory}/" in line or f"{directory}>" in line:
            if match[1] == "openat" and "O_CREAT" not in line:
                continue
            found.append(Call(match[1], counts[match[1]], line))
    return found


def content(kind: str, directory: Path) -> dict[str, bytes]:
    """Return the values that can be read, all checksums compared."""
    found = ckptkit.load(directory / writing.WRITERS[kind][1])
    return {key: repr(v.tolist()).encode() for key, v in found.items()}


def judged(kind: str, directory: Path, old: dict[str, bytes], new: dict[str, bytes]) -> str:
    """Return "old" or "new"; fails where it is neither, or `verify` finds damage."""
    result = verify(directory / writing.WRITERS[kind][1])
    wrong = [f for f in result.findings if f.severity != "note" and f.code not in LEFTOVERS]
    if kind == "saved-model":  # a donor's fingerprint is that of other values
        wrong = [f for f in wrong if f.code != "fingerprint.stale"]
    assert wrong == []
    found = content(kind, directory)
    assert found in (old, new), "neither the old file nor the new one"
    return "old" if found == old else "new"


def temporaries(directory: Path) -> list[str]:
    return [entry.name for entry in directory.rglob("*") if is_temporary(entry.name)]


def both(kind: str, tmp_path: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the values of the old and the new file."""
    directory = prepared(kind, tmp_path / "sample")
    old = content(kind, directory)
    assert writing.main(kind, directory, 2) == 0
    return old, content(kind, directory)


def sampled(kind: str, calls: list[Call]) -> Iterator[Call]:
    """Yield all calls, or some of each name."""
    seen: Counter[str] = Counter()
    for call in calls:
        seen[call.name] += 1
        if kind != "quick" or seen[call.name] <= 2:
            yield call


def killed_everywhere(kind: str, tmp_path: Path, *, quick: bool) -> None:
    old, new = both(kind, tmp_path)
    calls = calls_of(kind, tmp_path / "trace")
    verdicts = []
    for call in sampled("quick" if quick else kind, calls):
        directory = prepared(kind, tmp_path / "work")
        done = run(kind, directory, 2, "-e", f"inject={call.name}:signal=SIGKILL:when={call.nth}")
        assert done.returncode == -9 or done.returncode == 137, (call, done)
        verdicts.append(judged(kind, directory, old, new))
        assert writing.main(kind, directory, 2) == 0, call  # no clean-up by hand
        assert judged(kind, directory, old, new) == "new"
    assert verdicts == sorted(verdicts, reverse=True), verdicts  # old until the commit, then new
    assert {"old"} <= set(verdicts)


def errors_everywhere(kind: str, tmp_path: Path, *, quick: bool) -> None:
    old, new = both(kind, tmp_path)
    calls = [c for c in calls_of(kind, tmp_path / "trace") if c.name in ERRORS]
    for call in sampled("quick" if quick else kind, calls):
        directory = prepared(kind, tmp_path / "work")
        error = ERRORS[call.name]
        done = run(kind, directory, 2, "-e", f"inject={call.name}:error={error}:when={call.nth}")
        verdict = judged(kind, directory, old, new)
        if done.returncode == 0:  # an error that is made up for, or of the clean-up
            assert verdict == "new", call
            continue
        assert done.returncode == 2, (call, done)
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr
        # the last flush of a directory comes after the rename: the new file is there, unproven
        assert verdict == "old" or call.name == "fsync", (call, done.stderr)
        assert temporaries(directory) == [], call


@pytest.mark.parametrize("kind", QUICK)
def test_killed_at_some_system_calls(kind: str, tmp_path: Path) -> None:
    killed_everywhere(kind, tmp_path, quick=True)


@pytest.mark.parametrize("kind", QUICK)
def test_errors_of_some_system_calls(kind: str, tmp_path: Path) -> None:
    errors_everywhere(kind, tmp_path, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", writing.WRITERS)
def test_killed_at_every_system_call(kind: str, tmp_path: Path) -> None:
    killed_everywhere(kind, tmp_path, quick=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", writing.WRITERS)
def test_errors_of_every_system_call(kind: str, tmp_path: Path) -> None:
    errors_everywhere(kind, tmp_path, quick=False)


@pytest.mark.parametrize("kind", ["bundle", "file", "saved-model"])
def test_data_is_flushed_before_it_gets_its_name(kind: str, tmp_path: Path) -> None:
    """Between the last write to a file and its final name lies a flush, and after it one more."""
    flushed: set[str] = set()
    last = ""
    directory = tmp_path / "trace"
    for call in calls_of(kind, directory):
        paths = re.findall(r'<([^>]*)>|"([^"]*)"', call.text)
        names = [a or b for a, b in paths if str(tmp_path) in (a or b)]
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
            if Path(target).is_dir():
                for file in (f for f in Path(target).rglob("*") if f.is_file()):
                    assert f"{source}/{file.relative_to(target)}" in flushed, call
            assert source in flushed, call
    assert last == "fsync", "the last rename is not flushed"
