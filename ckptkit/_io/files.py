"""Reading bytes of files: exact, bounded, and without reopening a file per tensor.

Each thread keeps a few open descriptors.  A descriptor is reused only while the path still leads to
the very same bytes (device, inode, size, times), so a replaced file is never read
through an old handle.  Reads are positional (`pread`): no seek state, no lock.

What is read of a file in many reads must be of one state of it, though a program may replace the
file or write to it in between, and many formats have no checksums that would tell.  So whoever
opens a file takes an `UnchangedPath`; every read by that path is of the state in which the file was
then, in whichever thread or process, or raises ChangedError.

What lies elsewhere is read through the same functions: a `SourcePath` opens a handle of its own
kind (`ckptkit._io.remote`), of which all below knows size, state, and how bytes are had.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from ckptkit._io.pointers import MAX_POINTER_BYTES, pointer_in
from ckptkit._io.progress import bytes_read
from ckptkit._io.workers import here, sees_another_file
from ckptkit.errors import (
    ChangedError,
    CkptkitError,
    FormatError,
    PathNotFoundError,
    TruncatedError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    import mmap

    import numpy as np
    import numpy.typing as npt

ELSEWHERE = -1  # stands for the device of what no machine has: its state is the same on all
_HANDLES_PER_THREAD = 8
_ALIGNMENT = 64  # bytes: a cache line
_HASHED_AT_ONCE = 1 << 20  # bytes
_MAX_SHOWN = 200  # characters of a path that the system refuses
P = ParamSpec("P")
R = TypeVar("R")
MAX_RULES_BYTES = 64 << 20  # a rule of 200 bytes for each of 300,000 tensors

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
        return _state_at(path)
    except OSError:
        return None


def _state_at(path: Path) -> FileState:
    return path.state_there() if isinstance(path, SourcePath) else _state(path.stat())


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
    return path_in_state(str(path), _state(status)) if stat.S_ISREG(status.st_mode) else path


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
        self.state = _state(status)
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
        return _state(os.fstat(self.fd))

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


class _Handles(threading.local):
    def __init__(self) -> None:
        self.by_path: OrderedDict[Path, Handle] = OrderedDict()
        # Of the files of `checked_once`, those that were read and are still to be checked.
        self.unchecked: dict[Path, Handle] | None = None


_handles = _Handles()


@contextmanager
def checked_once() -> Iterator[None]:
    """Look at each file once, when the block is left, and not around each of its reads.

    For headers, which take hundreds of reads.  Files that are to be of one state are meant; nothing
    that was read of them may be told to anyone before the block is left.  What fails because a file
    was written to meanwhile is that: ChangedError, as it would be after the read.
    """
    if _handles.unchecked is not None:
        yield
        return
    _handles.unchecked = {}
    try:
        yield
    except (CkptkitError, OSError):
        _check_all()
        raise
    else:
        _check_all()
    finally:
        _handles.unchecked = None


def _check_all() -> None:
    unchecked = _handles.unchecked or {}
    while unchecked:
        path, handle = unchecked.popitem()
        now = file_state(path)
        if now is None or not handle.state.is_that_of(now):
            raise ChangedError(path)


def _state(status: os.stat_result) -> FileState:
    return FileState(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def os_error(path: Path, error: OSError) -> CkptkitError:
    """Return the refusal for an operating-system error met at `path`."""
    if isinstance(error, FileNotFoundError):
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


def refusing_os_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that takes paths refuse what the system does not: a name that is too long, ...

    An error of the system about a path that nothing below expected becomes a CkptkitError.
    """

    @wraps(function)
    def refusing(*args: P.args, **keywords: P.kwargs) -> R:
        try:
            return function(*args, **keywords)
        except OSError as error:
            if not isinstance(error.filename, str | bytes):
                raise  # of no path: a pipe of the caller's
            text = os.fsdecode(error.filename)
            shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
            raise os_error(Path(shown), error) from error

    return refusing


def _handle(path: Path) -> Handle:
    state = state_of(path)
    try:
        handle = _current_handle(path)
    except PathNotFoundError as error:
        if state is not None and not state.inode:  # as it was on another machine
            raise sees_another_file(path) from error
        raise
    if state is not None and not state.is_that_of(handle.state):
        if not state.inode:
            raise sees_another_file(path)
        raise ChangedError(path)
    return handle


def _check_still(path: Path, handle: Handle) -> None:
    """Raise ChangedError where a file that must not change was written to; call it after a read."""
    state = state_of(path)
    if _handles.unchecked and path in _handles.unchecked:
        return
    if state is not None and not state.is_that_of(handle.state_now()):
        raise ChangedError(path)


def _current_handle(path: Path) -> Handle:
    unchecked = _handles.unchecked
    if unchecked is None or state_of(path) is None:
        return _checked_handle(path)
    handle = unchecked.get(path)
    if handle is None:
        if len(unchecked) == _HANDLES_PER_THREAD:  # a set may have more files than can be open
            _check_all()
        handle = unchecked[path] = _checked_handle(path)
    return handle


def _checked_handle(path: Path) -> Handle:
    """Return this thread's handle of what is at `path` now."""
    handles = _handles.by_path
    handle = handles.get(path)
    if handle is not None:
        try:
            if _state_at(path) == handle.state:
                return handle
        except OSError as error:
            raise os_error(path, error) from error
        del handles[path]
    handle = path.open_handle() if isinstance(path, SourcePath) else Handle(path)
    handles[path] = handle
    if len(handles) > _HANDLES_PER_THREAD:
        handles.popitem(last=False)
    return handle


def handle_of(path: Path) -> Handle:
    """Return this thread's handle of `path`, for many reads in a row.

    Raises PathNotFoundError, FormatError (not a regular file), ChangedError.
    """
    return _handle(path)


def read_what_is_there(path: Path, offset: int, nbytes: int) -> bytes:
    """Return up to `nbytes` bytes at `offset`, fewer at the end, none where the system fails.

    Raises what opening the file raises, and ChangedError.
    """
    handle = _handle(path)
    try:
        data = handle.read_at(offset, nbytes)
        _check_still(path, handle)
    except OSError:
        return b""
    return data


def mapped(path: Path, access: int) -> mmap.mmap:
    """Return a regular file mapped into memory; what replaces the file is not seen through it.

    access: mmap.ACCESS_READ or mmap.ACCESS_COPY.  Raises what opening the file raises.
    """
    import mmap  # here, since `ls` maps nothing

    handle = _handle(path)
    try:
        return mmap.mmap(handle.fd, 0, access=access)
    except OSError as error:
        raise os_error(path, error) from error


def is_local(path: Path) -> bool:
    """Whether this machine's system reads a file, so that it has a descriptor and can be mapped."""
    return not isinstance(path, SourcePath)


def expect_reads(path: Path, spans: Sequence[tuple[int, int]]) -> None:
    """Say that these bytes of a file, (offset, nbytes) each, will be read piecemeal, in any order.

    Of a file elsewhere they are fetched at once, as far as they are few.  Raises what opening the
    file raises.
    """
    if isinstance(path, SourcePath):
        _handle(path).will_be_read(spans)


def expect_whole(paths: Iterable[Path]) -> None:
    """Say that files will be read to their ends, one after the other, and in order.

    Of files elsewhere what comes next is fetched without waiting for signs of it, from now on.
    Raises what opening a file raises.
    """
    handles = [_handle(path) for path in paths if isinstance(path, SourcePath)]
    if handles:
        for handle, then in pairwise(handles):
            handle.will_be_read_on(then)
        handles[-1].will_be_read_on(None)
        handles[0].begin()


def close_handles(paths: Iterable[Path] | None = None) -> None:
    """Close the descriptors that this thread keeps, or those of `paths` among them."""
    if paths is None:
        _handles.by_path.clear()
        return
    for path in paths:
        _handles.by_path.pop(path, None)


def file_size(path: Path) -> int:
    """Return the size of a regular file in bytes; raises PathNotFoundError, FormatError."""
    return _handle(path).size


def read_exact(path: Path, offset: int, nbytes: int) -> bytes:
    """Return bytes [offset, offset + nbytes) of `path`.

    The range is compared with the file's size before anything is allocated.
    Raises TruncatedError, PathNotFoundError, ChangedError.
    """
    handle = _handle(path)
    _check_range(path, handle, offset, nbytes)
    return _read(path, handle, offset, nbytes)


def _read(path: Path, handle: Handle, offset: int, nbytes: int) -> bytes:
    try:
        data = handle.read_at(offset, nbytes)
        while len(data) < nbytes:  # one pread returns 2 GiB at most
            more = handle.read_at(offset + len(data), nbytes - len(data))
            if not more:
                _check_still(path, handle)
                raise TruncatedError(
                    f"{path} @ {offset}", "file shrank while read", expected=nbytes, found=len(data)
                )
            data += more
        _check_still(path, handle)
    except OSError as error:
        raise os_error(path, error) from error
    bytes_read(nbytes)
    return data


def read_into(path: Path, offset: int, buffer: memoryview) -> None:
    """Fill `buffer` (bytes, writable) from `path` at `offset`; raises as `read_exact` does."""
    Extent(path, offset, len(buffer)).read_into(0, buffer)


class Extent:
    """A range of bytes of a file, checked once and then read in pieces through one descriptor."""

    def __init__(self, path: Path, offset: int, nbytes: int) -> None:
        """Raises TruncatedError, PathNotFoundError, FormatError."""
        self._path, self._offset, self._end = path, offset, offset + nbytes
        self._handle = _handle(path)
        _check_range(path, self._handle, offset, nbytes)

    @property
    def descriptor(self) -> int:
        """The open file, to be read with positional reads while this object is there.

        -1 for one that is not of this machine (`is_local`).
        """
        return self._handle.fd

    @property
    def offset(self) -> int:
        """The byte of the file at which the range starts."""
        return self._offset

    def check_still(self) -> None:
        """Raise ChangedError where the file is no longer what was opened, after own reads of it."""
        try:
            _check_still(self._path, self._handle)
        except OSError as error:
            raise os_error(self._path, error) from error

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of the range; raises TruncatedError, CkptkitError."""
        try:
            self._fill(start, buffer)
        except OSError as error:  # a bad sector, a network that went away
            raise os_error(self._path, error) from error
        bytes_read(len(buffer))

    def lent(self, start: int, nbytes: int) -> memoryview | None:
        """Return bytes from byte `start` of the range on where they lie, at most `nbytes`.

        Returns None where they must be read (`read_into`); raises as that does.
        """
        nbytes = min(nbytes, self._end - self._offset - start)
        lent = self._handle.lent(self._offset + start, nbytes, self._end)
        if lent is not None:
            bytes_read(len(lent))
        return lent

    def _fill(self, start: int, buffer: memoryview) -> None:
        offset, nbytes = self._offset + start, len(buffer)
        done = self._handle.read_into(offset, buffer, self._end)
        while done < nbytes:
            count = self._handle.read_into(offset + done, buffer[done:], self._end)
            if not count:
                _check_still(self._path, self._handle)
                raise TruncatedError(
                    f"{self._path} @ {offset}",
                    "file shrank while read",
                    expected=nbytes,
                    found=done,
                )
            done += count
        _check_still(self._path, self._handle)


def check_range(path: Path, offset: int, nbytes: int) -> None:
    """Raise TruncatedError unless the file holds these bytes; for use before memory is taken."""
    _check_range(path, _handle(path), offset, nbytes)


def aligned_buffer(nbytes: int) -> npt.NDArray[np.uint8]:
    """Return an uninitialised uint8 array that starts on a cache line.

    The kernel copies into an aligned buffer up to five times faster than into one that starts 16
    bytes into a page, which is where numpy's own large arrays start.
    """
    import numpy as np

    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % _ALIGNMENT
    return raw[skip : skip + nbytes]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hex, in one pass of bounded memory.

    Raises PathNotFoundError, FormatError (not a regular file), TruncatedError (it shrank).
    """
    import hashlib  # here, since `ls` reads files and hashes none

    from ckptkit._io.read_buffer import ReadBuffer

    size = file_size(path)
    extent = Extent(path, 0, size)
    buffer = ReadBuffer(_HASHED_AT_ONCE)
    total = hashlib.sha256()
    for start in range(0, size, _HASHED_AT_ONCE):
        part = buffer.view[: min(_HASHED_AT_ONCE, size - start)]
        extent.read_into(start, part)
        total.update(part)
    return total.hexdigest()


def read_whole(path: Path, max_bytes: int, what: str) -> bytes:
    """Return all bytes of a regular file that stands beside a model: rules, a manifest, code.

    Its size is compared before anything is read, so that no device, pipe or giant is.

    Args:
        path: the file; links are followed.
        max_bytes: more is refused.
        what: the noun for messages, with its article: "a manifest".

    Raises:
        PathNotFoundError: nothing lies there.
        FormatError: it is no regular file, or too large.
        TruncatedError: it shrank while it was read.
    """
    handle = _handle(path)  # one for size and bytes, since the file may be replaced in between
    if handle.size > max_bytes:
        raise FormatError(
            str(path),
            f"too large for {what}",
            expected=f"at most {max_bytes:,} bytes",
            found=handle.size,
        )
    return _read(path, handle, 0, handle.size)


def read_start(path: Path, nbytes: int) -> bytes:
    """Return the first bytes of a regular file, all of it where it has fewer.

    Raises PathNotFoundError, FormatError (not a regular file), TruncatedError (it shrank).
    """
    handle = _handle(path)
    return _read(path, handle, 0, min(handle.size, nbytes))


def rule_lines(path: Path, beside: str = "") -> list[tuple[str, str]]:
    """Return (rule, "path, line N") of a text file that a person wrote: one a line.

    Empty lines, and comment lines that `#` starts, are left out, but for those that `beside`
    starts.
    Raises UsageError where it is not text, and what `read_whole` raises.
    """
    try:
        lines = read_whole(path, MAX_RULES_BYTES, "a file of rules").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError("not a text file", where=str(path)) from error
    stripped = ((line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1))
    return [
        (line, where)
        for line, where in stripped
        if line and (not line.startswith("#") or (beside and line.startswith(beside)))
    ]


def _check_range(path: Path, handle: Handle, offset: int, nbytes: int) -> None:
    if offset < 0 or nbytes < 0:
        raise FormatError(f"{path} @ {offset}", f"{nbytes} bytes at a negative place")
    if offset + nbytes > handle.size:
        raise TruncatedError(
            f"{path} @ {offset}",
            f"{nbytes} bytes reach past the end",
            expected=f"a file of at least {offset + nbytes} bytes",
            found=handle.size,
            hint="the file was cut short; copy it again",
        )
