"""Whole objects in files of this machine, for libraries that open files by themselves.

They lie in a cache, named by what they are (URL and ETag), so that the next command downloads none
again.  The cache is bounded: those used longest ago go first.  A file is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from ckptkit._io.file_states import SourcePath, state_of, unchanged
from ckptkit._io.files import close_handles, file_size
from ckptkit._io.remote.blocks import MAX_PIECEMEAL
from ckptkit.errors import OutputError
from ckptkit.text import parse_size

DEFAULT_BYTES = 20 << 30
SIZE_VARIABLE, PLACE_VARIABLE = "CKPTKIT_CACHE_BYTES", "CKPTKIT_CACHE"
_UNFINISHED_S = 24 * 3600.0  # after that time a download that is not finished is nobody's


def cache_directory() -> Path:
    """Return where fetched files lie: of `CKPTKIT_CACHE`, else the user's cache."""
    named = os.environ.get(PLACE_VARIABLE)
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ckptkit" / "remote"


def fetched_file(path: Path) -> Path:
    """Return a file of this machine with the bytes of `path`, an object elsewhere.

    Raises OutputError where it is larger than the cache may be, or cannot be written; and what
    reading raises.
    """
    return fetched_files([path], path.parent) / path.name


def fetched_files(files: Sequence[Path], top: Path) -> Path:
    """Return a directory of this machine with copies of objects elsewhere.

    files: they lie in `top` or below it, and so do the copies in the directory.  Raises OutputError
    where they are larger than the cache may be, or cannot be written; and what reading raises.
    """
    directory, waits = _begun(files, top)
    with _refusing(top):
        for wait in waits:
            wait()
    return directory


def begin_to_fetch(path: Path, *, must: bool) -> None:
    """Begin to copy an object elsewhere to this machine; it is read from there as it comes.

    must: whether a copy will be needed; else a file for which there is no room stays where it is,
    and so does one of which memory has room.  Raises as `fetched_files` does.
    """
    if not must and not MAX_PIECEMEAL < file_size(path) <= _room():
        return
    _begun([path], path.parent)


def _begun(files: Sequence[Path], top: Path) -> tuple[Path, list[Callable[[], None]]]:
    """Return the directory that the copies will be in, and what waits for each."""
    files = [unchanged(file) for file in files]
    sizes = [file_size(file) for file in files]
    size, limit = sum(sizes), _limit()
    if size > limit:
        raise OutputError(
            f"{size:,} bytes are more than the cache may hold ({limit:,})",
            where=str(top),
            hint=f"set {SIZE_VARIABLE} to more, as 100GiB, or download it first",
        )
    told = "\n".join(f"{file}\n{state_of(file)}" for file in files)
    directory = cache_directory() / sha256(told.encode()).hexdigest()[:32]
    waits = []
    with _refusing(top):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(directory)
        _make_room(directory, limit - size)
        for file, nbytes in zip(files, sizes, strict=True):
            place = directory / str(file).removeprefix(f"{top}/")
            assert isinstance(file, SourcePath)
            close_handles([file])  # one of an earlier command would go on reading from elsewhere
            if place.is_file() and place.stat().st_size == nbytes:
                file.use_copy(place)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                waits.append(file.begin_copy(place))
    return directory, waits


@contextmanager
def _refusing(top: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"a copy of it cannot be kept: {error.strerror}",
            where=str(top),
            hint=f"set {PLACE_VARIABLE} to a directory with room",
        ) from error


def _room() -> int:
    """Return how many bytes of one file the cache takes without asking for anything."""
    place = cache_directory()
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return min(_limit(), shutil.disk_usage(place).free // 2)
    return 0


def _limit() -> int:
    text = os.environ.get(SIZE_VARIABLE)
    return parse_size(text) if text else DEFAULT_BYTES


def _make_room(kept: Path, room: int) -> None:
    """Remove what was used longest ago, until all but `kept` takes no more than `room` bytes."""
    entries = []
    for entry in kept.parent.iterdir():
        with suppress(OSError):
            files = [file for file in entry.rglob("*") if file.is_file()]
            is_part = any(file.suffix == ".part" for file in files)
            used_s = entry.stat().st_mtime
            if entry != kept and not (is_part and time.time() - used_s < _UNFINISHED_S):
                entries.append((used_s, sum(file.stat().st_size for file in files), entry))
    total = sum(nbytes for _used, nbytes, _entry in entries)
    for _used_s, nbytes, entry in sorted(entries):
        if total <= room:
            return
        shutil.rmtree(entry, ignore_errors=True)  # another process may be at it too
        total -= nbytes
