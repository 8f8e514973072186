"""Whether a path still leads to the same bytes: states of files, paths and handles that have one.

What is read of a file in many reads must be of one state of it, though a program may replace the
file or write to it in between, and many formats have no checksums that would tell.  So whoever
opens a file takes an `UnchangedPath`; every read by that path is of the state in which the file was
then, in whichever thread or process, or raises ChangedError (`ckptkit._io.files`).

What lies elsewhere has a `SourcePath` (`ckptkit._io.remote`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PosixPath
from typing import Any, NamedTuple

from ckptkit._io.pointers import MAX_POINTER_BYTES, pointer_in
from ckptkit._io.workers import here
from ckptkit.errors import (
    ChangedError,
    CkptkitError,
    FormatError,
    PathNotFoundError,
    UnsupportedError,
)

# What is said of a relative path where the working directory was removed.
GONE, GONE_HINT = "the current directory no longer exists", "cd to one that does"
ELSEWHERE = -1  # stands for the device of what no machine has: its state is the same on all
# The coarsest clock of a file system in use: FAT counts in steps of two seconds.
_SETTLED_NS = 2_000_000_000


class FileState(NamedTuple):
    """What tells one content of a path from another, as far as the file system says."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int  # of the inode: no program can set it back

    def is_that_of(self, other: FileState) -> bool:
        """Whether both are of one content, so far as one may say so.

        A file of which only the mode or the number of links changed counts as changed: nothing
        else tells one that was written over in place and given its old time.  Of a state that was
        taken on another machine, which may number files in its own way, size and time decide.
        """
        if not self.inode:
            return (self.size, self.modified_ns) == (other.size, other.modified_ns)
        return self[1:] == other[1:]  # a device may be called otherwise in another process

    def is_settled(self, at_ns: int) -> bool:
        """Whether any change after `at_ns` (nanoseconds since 1970) gives another state.

        Two changes within one tick of the file system's clock look the same.
        """
        return max(self.modified_ns, self.changed_ns) + _SETTLED_NS < at_ns


def file_state(path: Path) -> FileState | None:
    """Return the state of what is at `path`, links followed; None where nothing is."""
    try:
        return state_at(path)
    except OSError:
        return None


def state_at(path: Path) -> FileState:
    """Return the state of what is at `path`, links followed; raises OSError, CkptkitError."""
    return path.state_there() if isinstance(path, SourcePath) else state_from(path.stat())


class UnchangedPath(PosixPath):
    """A path, and the state of the file there when `unchanged` made it; paths made of it have none.

    It may be sent to another process, which may be in another directory: it becomes absolute then.
    It equals any other path that is spelled as it is.
    """

    state: FileState | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return path_in_state, (os.path.abspath(self), self.state, here())  # noqa: PTH100


class SourcePath(UnchangedPath):
    """A path of what no descriptor of this machine reads: an object of a store elsewhere."""

    @property
    def is_listed(self) -> bool:
        """Whether what lies in directories there can be listed."""
        raise NotImplementedError

    @property
    def is_web_page(self) -> bool:
        """Whether a web page came when it was asked for, and no file."""
        raise NotImplementedError

    def is_there_after_all(self) -> bool:
        """Whether a file that no listing has is there; a listing may be of a time before.

        Raises CkptkitError.
        """
        raise NotImplementedError

    def state_there(self) -> FileState:
        """Return the state of what lies there; raises FileNotFoundError, CkptkitError."""
        raise NotImplementedError

    def spelled(self, text: str) -> SourcePath:
        """Return the path in the same store that is spelled so."""
        raise NotImplementedError

    def in_state(self, state: FileState) -> SourcePath:
        """Return the path of which only that state is read."""
        raise NotImplementedError

    def use_copy(self, copy: Path) -> None:
        """Read from a file of this machine that holds the same bytes, from now on.

        Raises OSError.
        """
        raise NotImplementedError

    def begin_copy(self, place: Path) -> Callable[[], None]:
        """Begin to fetch all of it into a file of this machine, and read from that as it comes.

        Returns:
            What waits until the file is whole, and raises ChangedError, CkptkitError, OSError.

        Raises:
            OSError: it cannot be written.
        """
        raise NotImplementedError

    def open_handle(self) -> Handle:
        """Return what reads it; raises CkptkitError."""
        raise NotImplementedError


def path_in_state(path: str, state: FileState | None, machine: str | None = None) -> UnchangedPath:
    """Return a path of which only that state of the file is read.

    machine: where it was taken; None for here.
    """
    made = UnchangedPath(path)
    if state is not None:
        made.state = state_taken_on(machine, state)
    return made


def state_taken_on(machine: str | None, state: FileState) -> FileState:
    """Return a state that was taken on a machine of that name, as far as it tells anything here."""
    is_known = machine in (None, here()) or state.device == ELSEWHERE
    return state if is_known else state._replace(device=0, inode=0)


def unchanged(path: Path) -> Path:
    """Return the path of a file as it is now: from then on it is read in that state, or not at all.

    A path that has a state keeps it; one where no regular file lies is returned as it is.
    """
    if state_of(path) is not None:
        return path
    if isinstance(path, SourcePath):
        return path.in_state(path.state_there()) if path.is_file() else path
    try:
        status = path.stat()
    except (OSError, ValueError):
        return path
    return path_in_state(str(path), state_from(status)) if stat.S_ISREG(status.st_mode) else path


def unchanged_part(path: Path) -> Path:
    """Return what `unchanged` does of a file that another one names; raises CkptkitError.

    One that no listing of a store elsewhere has is asked for by itself before it counts as missing.
    """
    is_file(path)
    return unchanged(path)


def state_of(path: Path) -> FileState | None:
    """Return the state in which alone a file is read by this path; None where any will do."""
    return path.state if isinstance(path, UnchangedPath) else None


def check_unchanged(paths: Iterable[Path]) -> None:
    """Raise ChangedError where a file is no longer in the state of its path; one may be gone."""
    for path in paths:
        if isinstance(path, SourcePath):
            continue  # each answer of a store elsewhere is compared with the state by itself
        state = state_of(path)
        now = None if state is None else file_state(path)
        if state is not None and now is not None and not state.is_that_of(now):
            raise ChangedError(path)


class Handle:
    """One open descriptor of a regular file; closed when the last reference goes.

    size: bytes when it was opened.  state: what the system said of its content then.
    """

    def __init__(self, path: Path) -> None:
        self.fd = -1
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise os_error(path, error) from error
        except ValueError as error:  # a NUL in it
            raise PathNotFoundError("not a path", where=repr(str(path))) from error
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(str(path), "not a regular file")
        self.size = status.st_size
        self.state = state_from(status)
        if 0 < self.size <= MAX_POINTER_BYTES:
            pointer = pointer_in(os.pread(self.fd, self.size, 0))
            if pointer is not None:
                raise UnsupportedError(str(pointer), where=str(path), hint=f"run {pointer.command}")

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return `nbytes` bytes from `offset` on, fewer at the end or where the system so wills.

        Raises OSError.
        """
        return os.pread(self.fd, nbytes, offset)

    def read_into(self, offset: int, buffer: memoryview, until: int = 0) -> int:
        """Fill the start of `buffer` from `offset` on; return how many bytes; raises OSError.

        until: the byte up to which is read on.
        """
        return os.preadv(self.fd, [buffer], offset)

    def state_now(self) -> FileState:
        """Return the state of the content now; raises OSError."""
        return state_from(os.fstat(self.fd))

    def lent(self, offset: int, nbytes: int, until: int = 0) -> memoryview | None:
        """Return bytes that are in memory, or wait for them; at least one, at most `nbytes`.

        until: as of `read_into`.  Returns None where they must be read into a buffer.
        """
        return None

    def will_be_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Take note that (offset, nbytes) are read soon, by many small reads in any order."""

    def will_be_read_on(self, then: Handle | None) -> None:
        """Take note that who reads it does so to its end, and then reads another to its end."""

    def begin(self) -> None:
        """Begin to fetch what will be read on, where it is not of this machine."""

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def state_from(status: os.stat_result) -> FileState:
    """Return the state of a file that the system tells so of."""
    return FileState(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def is_left_behind(path: str | os.PathLike[str]) -> bool:
    """Whether a relative path leads nowhere, since the working directory was removed."""
    if os.path.isabs(path):  # noqa: PTH117 (no path is made of it)
        return False
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return True
    except OSError:  # one above it may not be read
        return False
    return False


def os_error(path: Path, error: OSError) -> CkptkitError:
    """Return the refusal for an operating-system error met at `path`."""
    if isinstance(error, FileNotFoundError):
        if is_left_behind(path):
            return PathNotFoundError(GONE, where=str(path), hint=GONE_HINT)
        return PathNotFoundError("no such file", where=str(path))
    return CkptkitError(error.strerror or type(error).__name__, where=str(path))


def is_file(path: Path) -> bool:
    """Whether a regular file lies at a path, links followed; False for what no path can be.

    `Path.is_file` raises for a name that is too long, which a file that is read may hold.
    """
    try:
        return path.is_file() or (isinstance(path, SourcePath) and path.is_there_after_all())
    except (OSError, ValueError):
        return False


def is_local(path: Path) -> bool:
    """Whether this machine's system reads a file, so that it has a descriptor and can be mapped."""
    return not isinstance(path, SourcePath)
