"""libhdf5 in a process of its own: how it is asked.  `server` is what runs there.

libhdf5 is a large C library with a long history of memory errors on crafted files (three of the
156 files of HDFGroup/cve_hdf5 end h5py 3 with a segmentation fault, and the process with it).  So
it never runs in this process to read a file: a child is asked, and when it dies, that is a
FormatError like any other, unless it was killed, which no file does.  The child is started when the
first file needs it, serves all threads one after the other (h5py holds one lock anyway), and is
this Python with one fixed program, which imports nothing but what ckptkit itself does.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import ckptkit.errors as errors
from ckptkit._io.file_states import FileState, path_in_state, state_of
from ckptkit._io.files import handle_of
from ckptkit._io.places import fetched_path
from ckptkit._io.progress import bytes_read
from ckptkit.errors import CkptkitError, FormatError, MissingDependencyError, WorkerLostError
from ckptkit.installation import CLAIM_NAME
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.containers.zip_archive import Member
from ckptkit.stores.hdf5.types import Attribute, H5Dataset, H5Tree

PROGRAM = (
    f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); {CLAIM_NAME};"
    "from ckptkit.stores.hdf5.server import main; main()"
)
SECONDS = 2  # of the processor that a request may take, and one more per megabyte
_WALL = 20  # times as long by the clock: a machine may be busy
_PATIENCE_S = 60  # beside that
_MAX_ANSWER = 1 << 31  # bytes


def scan(byte_range: ByteRange) -> H5Tree:
    """Return what libhdf5 sees in a file, checked; raises as `hdf5.scan` does."""
    request = {"do": "scan", "range": _packed(byte_range)}
    with _asked(request, byte_range, byte_range.nbytes) as (head, answers):
        groups, datasets = json.loads(_exactly(answers, head["nbytes"]))
    return H5Tree(
        {path: {k: _attribute(v) for k, v in items.items()} for path, items in groups.items()},
        {dataset.path: dataset for dataset in map(dataset_of, datasets)},
    )


def read(
    byte_range: ByteRange, dataset: H5Dataset, start: int, stop: int, buffer: Any
) -> list[bytes]:
    """Fill a uint8 buffer with elements [start, stop); strings are returned instead."""
    request = {
        "do": "read",
        "range": _packed(byte_range),
        "dataset": list(dataset),
        "start": start,
        "stop": stop,
    }
    cost = byte_range.nbytes if start == 0 else 0
    if dataset.size:
        cost += dataset.nbytes * (stop - start) // dataset.size
    with _asked(request, byte_range, cost) as (head, answers):
        if "lengths" in head:
            return [_exactly(answers, length) for length in head["lengths"]]
        if head["nbytes"] != len(buffer):
            raise FormatError(str(byte_range.path), f"{dataset.path} is not as long as it was")
        done = 0
        while done < len(buffer):
            count = answers.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            done += count
            bytes_read(count)
    return []


# --- what goes over the pipe ----------------------------------------------------------------------


def _packed(byte_range: ByteRange) -> list[Any]:
    member = byte_range.deflated
    path = fetched_path(byte_range.path)
    state = state_of(path)
    return [str(path), state, byte_range.start, byte_range.nbytes, member and list(member)]


def range_of(packed: list[Any]) -> ByteRange:
    """Return the byte range that was packed."""
    path, state, start, nbytes, member = packed
    known = None if state is None else FileState(*state)
    return ByteRange(path_in_state(path, known), start, nbytes, member and Member(*member))


def dataset_of(packed: list[Any]) -> H5Dataset:
    """Return the dataset that was packed."""
    path, dtype, shape, *rest = packed
    return H5Dataset(path, dtype, tuple(shape), *rest)


def _attribute(value: Any) -> Attribute:
    return tuple(map(_attribute, value)) if isinstance(value, list) else value


def _exactly(answers: IO[bytes], nbytes: int) -> bytes:
    if not 0 <= nbytes <= _MAX_ANSWER:
        raise EOFError
    data = answers.read(nbytes)
    if len(data) < nbytes:
        raise EOFError
    return data


# --- the child ------------------------------------------------------------------------------------


class _ServerProcess:
    """The process, of the process that started it; None until it is needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0

    def running(self) -> subprocess.Popen[bytes]:
        """Return the process, started anew if it died, or if this is a fork."""
        process = self.process
        if process is not None and (self.owner != os.getpid() or process.poll() is not None):
            self.end()
        if self.process is None:
            _require_h5py()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", PROGRAM, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the parent
            )
            self.owner = os.getpid()
        return self.process

    def end(self) -> int | None:
        """End the process; return its exit status, None where it is not a child of this one."""
        process, self.process = self.process, None
        if process is None:
            return None
        is_child = self.owner == os.getpid()
        if is_child:
            with suppress(OSError):
                process.kill()
        else:
            process.returncode = 0  # the process that this one was forked from waits for it
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        return process.wait() if is_child else None


_child = _ServerProcess()
_deadly: dict[tuple[ByteRange, FileState], FormatError] = {}  # files that libhdf5 died over
atexit.register(_child.end)


def _require_h5py() -> None:
    from importlib.util import find_spec

    try:
        found = find_spec("h5py")
    except ValueError:  # sys.modules says that there is none
        found = None
    if found is None:
        raise MissingDependencyError(
            "reading .keras, .weights.h5 and .h5 files needs h5py, which is not installed",
            hint="pip install 'ckptkit-tf[hdf5]'",
        )


def begin() -> None:
    """Start the process, where h5py is installed, so that it is there when it is asked."""
    with suppress(MissingDependencyError), _child.lock:
        _child.running()


@contextmanager
def _asked(
    request: dict[str, Any], byte_range: ByteRange, nbytes: int
) -> Iterator[tuple[dict[str, Any], IO[bytes]]]:
    """Ask, and yield the head of the answer and where its bytes come from; raises its error.

    nbytes: how much the request is about; longer ones may take longer.
    """
    seconds = SECONDS + nbytes / 1e6
    file = (byte_range, handle_of(byte_range.path).state)
    with _child.lock:
        if file in _deadly:  # what ended one process will end the next
            raise _deadly[file]
        process = _child.running()
        assert process.stdin is not None
        assert process.stdout is not None
        limit = seconds * _WALL + _PATIENCE_S
        timer = threading.Timer(limit, _end_late, (process, overdue := threading.Event()))
        timer.daemon = True
        timer.start()
        try:
            whole = {**request, "seconds": seconds, "directory": _directory()}
            process.stdin.write(json.dumps(whole).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise EOFError
            head = json.loads(line)
            if "error" not in head:
                yield head, process.stdout
        except (EOFError, BrokenPipeError):
            status = process.wait()
            late = _overdue(byte_range, limit) if overdue.is_set() else None
            died = late or _death(byte_range, seconds, status)
            if isinstance(died, FormatError):
                _deadly[file] = died
            raise died from None
        except BaseException:  # what is left in the pipe is no answer to the next request
            _child.end()
            raise
        finally:
            timer.cancel()
    if "error" in head:
        raise _error(head, byte_range.path)


def _directory() -> str:
    """Return the working directory, which may be another than when the child was started."""
    with suppress(OSError):
        return str(Path.cwd())
    return os.sep


def _end_late(process: subprocess.Popen[bytes], overdue: threading.Event) -> None:
    overdue.set()  # first, so that whoever sees the process end knows why
    process.kill()


def _overdue(byte_range: ByteRange, limit_s: float) -> CkptkitError:
    _child.end()
    return WorkerLostError(
        f"libhdf5 was not done with it after {limit_s:.0f} s, in a process of its own",
        where=str(byte_range.path),
        hint="nothing is known of the file; is its disk slow, or the machine very busy?",
    )


def _death(byte_range: ByteRange, seconds: float, status: int) -> CkptkitError:
    _child.end()
    if status == -getattr(signal, "SIGKILL", 0):  # by the system, or somebody
        return WorkerLostError(
            "the process in which libhdf5 reads it was killed",
            where=str(byte_range.path),
            hint="nothing is known of the file; the system does so when memory runs out",
        )
    what = f"ended with exit code {status}"
    if status < 0:
        with suppress(ValueError):
            what = f"was ended by {signal.Signals(-status).name}"
    if status == -getattr(signal, "SIGXCPU", 0):
        what = f"took more than {seconds:.0f} s of the processor"
    return FormatError(
        str(byte_range.path),
        f"libhdf5 {what} over it, in a process of its own",
        hint="the file is damaged or crafted; do not load it with Keras or h5py",
    )


def _error(head: dict[str, Any], path: Path) -> CkptkitError:
    there = fetched_path(path)
    if there is not path:  # the child knows the copy alone
        fields = head["fields"].items()
        head["fields"] = {
            name: text.replace(str(there), str(path)) if isinstance(text, str) else text
            for name, text in fields
        }
    kind = getattr(errors, head["error"], None)
    assert isinstance(kind, type)
    assert issubclass(kind, CkptkitError)
    return errors._rebuild(kind, head["fields"])
