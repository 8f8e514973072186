"""Writing beside and renaming: a reader finds the whole old file or the whole new one, never a mix.

A new file is written under a temporary name in the same directory, flushed to the disk, renamed
over its target, and the directory is flushed.  Temporary names (`ckptkit._io.output_paths`) are
never taken for data.

One process at a time writes a directory or several files: `ckptkit._io.claims`.  Of two that write
one file, the last to rename wins.

Several files that belong together (`replacing_files`) are renamed one after the other, the last
being the one that makes them a whole (a bundle's `.index`, a `model.safetensors.index.json`).  A
kill between two renames is harmless as long as none of the earlier names was in use before;
`free_count` finds such names by choosing a number of shards that is not taken.  Then the old set
stays whole until the last rename and the new one is whole from it on; files of the old set go
afterwards.  What a kill can leave is data files that no index speaks of.

A directory (`replacing_directory`) is swapped in one step where the system can (renameat2 on
Linux); elsewhere the old one is moved aside first, and a kill in that instant leaves the old and
the new one complete under temporary names, with nothing at the target.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ckptkit._io.claims import Claim, claiming
from ckptkit._io.file_states import is_local
from ckptkit._io.output_paths import check_parent, is_temporary, refusing, temporary_name
from ckptkit.errors import OutputError
from ckptkit.wording import say

__all__ = [
    "free_count",
    "is_temporary",
    "replacing",
    "replacing_directory",
    "replacing_files",
    "same_file",
]

_RENAME_NOREPLACE = 1  # linux/fs.h
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def same_file(a: Path, b: Path) -> bool:
    """Whether both paths lead to one file: hard links and symbolic links are seen through."""
    if not (is_local(a) and is_local(b)):
        return a == b
    try:
        return a.samefile(b)
    except OSError:
        return os.path.realpath(a) == os.path.realpath(b)


@contextmanager
def replacing(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield the path of an empty file to fill; on success it takes the place of `path`.

    On any error (Ctrl-C included) it is removed and `path` is as it was.  A new file gets the usual
    mode, a replaced one keeps its own (and its owner, where permitted); a symbolic link stays a
    link to the replaced file.  Raises OutputError where `path` exists and `overwrite` is off, is
    no regular file, or where the
    system refuses: OSErrors of the body too.
    """
    with replacing_files([path], overwrite=overwrite) as (temporary,):
        yield temporary


@contextmanager
def replacing_files(
    paths: Sequence[Path],
    *,
    overwrite: bool = False,
    obsolete: Iterable[Path] = (),
    claim: Claim | None = None,
) -> Iterator[tuple[Path, ...]]:
    """Yield one empty file per path; on success they are renamed in order, the last one committing.

    obsolete: files of the set that is replaced, removed after the last rename.  claim: to the last
    path, where the caller holds it already; several files are claimed here otherwise.
    Raises OutputError as `replacing` does; nothing is renamed unless every file could be flushed.
    """
    targets = [_target(path, overwrite) for path in paths]
    if claim is None and len(paths) > 1:
        with (
            claiming(paths[-1]) as own,
            replacing_files(
                paths, overwrite=overwrite, obsolete=obsolete, claim=own
            ) as temporaries,
        ):
            yield temporaries
        return
    temporaries = tuple(_temporary(target, claim) for target in targets)  # known before they exist
    try:
        for path, temporary in zip(paths, temporaries, strict=True):
            with refusing(path):
                _make(temporary)
        with refusing(paths[-1]):
            yield temporaries
        for path, temporary, target in zip(paths, temporaries, targets, strict=True):
            with refusing(path):
                _keep_mode(temporary, target)
                _sync(temporary)
        for path, temporary, target in zip(paths, temporaries, targets, strict=True):
            with refusing(path):
                if target is targets[-1] and len(targets) > 1:
                    _sync(target.parent)  # the commit must not reach the disk before the data
                _rename(temporary, target, overwrite)
        with refusing(paths[-1]):
            _sync(targets[-1].parent)
        new = {os.path.realpath(target) for target in targets}
        for old in obsolete:
            if os.path.realpath(old) not in new:
                with suppress(OSError):
                    old.unlink()
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def replacing_directory(
    path: Path, *, overwrite: bool = False, marker: str = "", claim: Claim | None = None
) -> Iterator[Path]:
    """Yield an empty directory to fill; on success it takes the place of `path`.

    An existing directory is replaced only with `overwrite`, and only if it is empty or holds a file
    called `marker` (`saved_model.pb`): a slip must not remove a directory of something else.
    claim: to `path`, where the caller holds it already.
    Raises OutputError as `replacing` does.
    """
    target = Path(os.path.realpath(path))
    _check_directory(path, target, overwrite, marker)
    if claim is None:
        with (
            claiming(path) as own,
            replacing_directory(path, overwrite=overwrite, marker=marker, claim=own) as temporary,
        ):
            yield temporary
        return
    temporary = claim.temporary(target)
    try:
        with refusing(path):
            temporary.mkdir()
            yield temporary
            _sync_tree(temporary)
            _swap(temporary, target, overwrite, claim)
            _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def free_count(names: Callable[[int], Iterable[Path]], wanted: int) -> int:
    """Return the least number >= `wanted` of shards of whose file names none is in use.

    names: the file names of a set of so many shards (`x.data-00000-of-00002`, ...).
    """
    count = wanted
    while any(os.path.lexists(name) for name in names(count)):
        count += 1
    return count


def check_target(path: Path) -> None:
    """Raise OutputError where a file cannot take this place: it is a directory, or has none."""
    _target(path, overwrite=True)


def _target(path: Path, overwrite: bool) -> Path:
    """Return the file to replace, links resolved; raises OutputError if that must not happen."""
    with refusing(path):
        target = Path(os.path.realpath(path))
        try:
            mode = target.stat().st_mode
        except FileNotFoundError:
            check_parent(path, target)
            return target
        if stat.S_ISDIR(mode):
            raise OutputError("is a directory", where=str(path), hint="give a file name")
        if not stat.S_ISREG(mode):
            raise OutputError("is not a regular file, so it cannot be replaced", where=str(path))
        if not overwrite:
            raise _exists(path)
    return target


def _check_directory(path: Path, target: Path, overwrite: bool, marker: str) -> None:
    with refusing(path):
        if not os.path.lexists(target):
            check_parent(path, target)
            return
        if not target.is_dir():
            raise OutputError("exists and is not a directory", where=str(path))
        if not overwrite:
            raise _exists(path)
        if any(target.iterdir()) and not (marker and (target / marker).is_file()):
            what = f"holds no {marker}" if marker else "is not empty"
            raise OutputError(
                f"the directory {what}, so it is not replaced",
                where=str(path),
                hint="remove it yourself, or write elsewhere",
            )


def _exists(path: Path) -> OutputError:
    return OutputError("already exists", where=str(path), hint=say("‹overwrite› replaces it"))


def _temporary(target: Path, claim: Claim | None) -> Path:
    if claim is not None:
        return claim.temporary(target)
    return temporary_name(target, os.urandom(4).hex())


def _make(file: Path) -> None:
    # 0666: the system takes the umask off, which Python could not read without changing it.
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def _keep_mode(temporary: Path, target: Path) -> None:
    """Give `temporary` the owner and mode of the file that it will replace, if there is one."""
    try:
        old = target.stat()
    except FileNotFoundError:
        return
    new = temporary.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(PermissionError):
            os.chown(temporary, old.st_uid, old.st_gid)
    if stat.S_IMODE(old.st_mode) != stat.S_IMODE(new.st_mode):
        temporary.chmod(stat.S_IMODE(old.st_mode))


def _sync(path: Path) -> None:
    """Flush a file or directory to the disk; a failure is final and never retried."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # some file systems cannot flush a directory
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(fd)


def _sync_tree(root: Path) -> None:
    for directory, _, files in os.walk(root, topdown=False):
        for file in files:
            _sync(Path(directory, file))
        _sync(Path(directory))


def _rename(temporary: Path, target: Path, overwrite: bool) -> None:
    """Rename; without `overwrite` a target that appeared meanwhile is an OutputError."""
    if overwrite:
        temporary.replace(target)
        return
    try:
        if not _renameat2(temporary, target, _RENAME_NOREPLACE):
            os.link(temporary, target)  # fails where the target exists; the caller unlinks
    except FileExistsError:
        raise _exists(target) from None
    except OSError:
        if os.path.lexists(target):  # no hard links here: the best that is left
            raise _exists(target) from None
        temporary.replace(target)


def _swap(temporary: Path, target: Path, overwrite: bool, claim: Claim) -> None:
    """Put the directory `temporary` at `target`; what was there ends up at `temporary`."""
    if not os.path.lexists(target):
        temporary.rename(target)
    elif not overwrite:
        raise _exists(target)
    else:
        temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        if _renameat2(temporary, target, _RENAME_EXCHANGE):
            return
        aside = claim.temporary(target)
        target.rename(aside)
        temporary.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


@cache
def _renameat2_function() -> Any:
    """Return libc's renameat2, or None where there is none (it is Linux's own)."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [
            ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
        ]  # fmt: skip
    return function


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Rename with flags; False where the system or the file system cannot.  Raises OSError."""
    function = _renameat2_function()
    if function is None:
        return False
    import ctypes

    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(target))
