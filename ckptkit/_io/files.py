"""Reading bytes of files: exact, bounded, and without reopening a file per tensor.

Each thread keeps a few open descriptors.  A descriptor is reused only while the path still leads to
the very same bytes (device, inode, size, times), so a replaced file is never read
through an old handle.  Reads are positional (`pread`): no seek state, no lock.

Every read by an `UnchangedPath` is of the state that the file had when the path was made, or raises
ChangedError (`ckptkit._io.file_states`).

What lies elsewhere is read through the same functions: a `SourcePath` opens a handle of its own
kind (`ckptkit._io.remote`), of which all below knows size, state, and how bytes are had.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from operator import is_
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ckptkit._io.file_states import Handle, SourcePath, file_state, os_error, state_at, state_of
from ckptkit._io.progress import bytes_read
from ckptkit._io.workers import sees_another_file
from ckptkit.errors import (
    ChangedError,
    CkptkitError,
    FormatError,
    PathNotFoundError,
    TruncatedError,
)

if TYPE_CHECKING:
    import mmap

    import numpy as np
    import numpy.typing as npt

_HANDLES_PER_THREAD = 8
_ALIGNMENT = 64  # bytes: a cache line
_HASHED_AT_ONCE = 1 << 20  # bytes
_MAX_SHOWN = 200  # characters of a path that the system refuses
P = ParamSpec("P")
R = TypeVar("R")


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


def taking_paths(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that takes paths take them as bytes too, and refuse what the system does.

    An error of the system about a path that nothing below expected (a name that is too long)
    becomes a CkptkitError.
    """
    with_texts: Callable[..., R] = function

    @wraps(function)
    def taking(*args: P.args, **keywords: P.kwargs) -> R:
        try:
            return with_texts(
                *map(_as_text, args), **{name: _as_text(given) for name, given in keywords.items()}
            )
        except OSError as error:
            if not isinstance(error.filename, str | bytes):
                raise  # of no path: a pipe of the caller's
            text = os.fsdecode(error.filename)
            shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
            raise os_error(Path(shown), error) from error

    return taking


def _as_text(given: object) -> object:
    """Return a path of bytes, or each among several, as the text that it is decoded to."""
    if isinstance(given, list | tuple):
        texts = list(map(_as_text, given))
        return given if all(map(is_, texts, given)) else texts
    if isinstance(given, os.PathLike) and not isinstance(given, PurePath):
        plain = os.fspath(given)  # of an entry of `os.scandir(b"...")`
        return os.fsdecode(plain) if isinstance(plain, bytes) else given
    return os.fsdecode(given) if isinstance(given, bytes) else given


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
            if state_at(path) == handle.state:
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
    return read_of(path, handle, offset, nbytes)


def read_of(path: Path, handle: Handle, offset: int, nbytes: int) -> bytes:
    """Return bytes [offset, offset + nbytes) by an open handle; raises as `read_exact` does."""
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


def read_start(path: Path, nbytes: int) -> bytes:
    """Return the first bytes of a regular file, all of it where it has fewer.

    Raises PathNotFoundError, FormatError (not a regular file), TruncatedError (it shrank).
    """
    handle = _handle(path)
    return read_of(path, handle, 0, min(handle.size, nbytes))


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
