"""One writer at a time: the claim to an output of several files.

A claim is a file `.NAME.ckptkit-tmp-claim` beside the output NAME.  It appears whole (a hard link,
which fails where one is there already, as O_EXCL does) and locked (`flock`) by the process that
made it, and goes when that process is done.  The system drops the lock when the process dies, in
whatever way, so a claim that can be locked is one that nobody holds: the next writer removes the
temporary files that its owner made, which end in the token that the claim holds, and takes its
place.  Nothing else is removed.

A lock is known only to the machines that share it.  On a file system of several machines (NFS) it
may be one's own alone; so a claim of another machine, or one without a lock, where the file system
has none, is never taken over: the writer is refused, with the name of the file to remove by hand.
Owners that were on this machine before it was started again are known by the time of the claim.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.output_paths import (
    check_parent,
    claim_name,
    is_claim,
    refusing,
    temporary_name,
    token_of,
)
from ckptkit.errors import OutputError

_MAX_CLAIM = 4096  # bytes
_TRIES, _PAUSE_S = 10, 0.02  # a lock may be held for an instant by who looks whether it is held
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EBADF)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class ClaimOwner(NamedTuple):
    """Who made a claim.

    pid: of the process.  host: name of its machine.  boot: what tells one start of a machine from
    all others, "" where the system does not say.  token: how its temporary names end.  locked:
    whether the file system could lock the claim.
    """

    pid: int
    host: str
    boot: str
    token: str
    locked: bool

    def __str__(self) -> str:
        there = "" if self.host == os.uname().nodename else f" on {self.host}"
        return f"process {self.pid}{there}"


class Claim:
    """The right to write one output, until it is released; names for temporary files with it."""

    def __init__(self, file: Path, descriptor: int, token: str) -> None:
        self._file, self._descriptor, self._token = file, descriptor, token
        self._names = 0

    def temporary(self, target: Path) -> Path:
        """Return a new temporary name beside `target`, which tells whose it is."""
        self._names += 1
        return temporary_name(target, f"{self._token}{self._names:02x}")

    def release(self) -> None:
        """Let the next writer in; in a forked child, whose claim it is not, do nothing."""
        if self._descriptor not in _descriptors:
            return
        with suppress(OSError):
            if _is_at(self._descriptor, self._file):
                self._file.unlink()
        _close(self._descriptor)


@contextmanager
def claiming(path: Path) -> Iterator[Claim]:
    """Hold the claim to what lies, or will lie, at `path`; links are seen through.

    Raises OutputError where another process holds it, or may hold it, and where the system refuses.
    """
    claim = None
    try:  # from here on, for an interruption may come between any two steps
        with refusing(path):
            target = Path(os.path.realpath(path))
            check_parent(path, target)
            with suppress(FileNotFoundError):
                target.lstat()  # a name that no file can have is refused before any work is done
            claim = _claimed(target, path)
        yield claim
    finally:
        if claim is not None:
            claim.release()


def names_in_use(directory: Path) -> dict[str, ClaimOwner]:
    """Return who writes into the directory now, by the names of their claims and temporaries."""
    found: dict[str, ClaimOwner] = {}
    with suppress(OSError):
        names = [entry.name for entry in directory.iterdir()]
        for claim in filter(is_claim, names):
            owner = _holder(directory / claim)
            if owner is not None:
                found |= {name: owner for name in names if _is_of(name, owner.token)}
                found[claim] = owner
    return found


def _is_of(name: str, token: str) -> bool:
    """Whether a temporary name is one of the claim with that token."""
    return bool(token) and token_of(name).startswith(token)


# --- taking -------------------------------------------------------------------------------------


def _claimed(target: Path, shown: Path) -> Claim:
    """Return a claim to `target`; shown: what to call it in a refusal."""
    file, token = claim_name(target), os.urandom(4).hex()
    made = temporary_name(target, token)
    descriptor = -1
    try:
        descriptor = _make(made, token)
        for _ in range(_TRIES):
            try:
                if _linked(made, file) or _taken_over(made, file, shown):
                    with suppress(OSError):
                        made.unlink()
                    return Claim(file, descriptor, token)
            except FileNotFoundError:
                continue  # its owner is done
            time.sleep(_PAUSE_S)
        raise _busy(_read(file), file, shown)
    except BaseException:
        if descriptor >= 0:
            Claim(file, descriptor, token).release()
        with suppress(OSError):
            made.unlink()
        raise


def _make(made: Path, token: str) -> int:
    """Write the text of a claim under a temporary name; return its descriptor, locked."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(made, flags, 0o666)
    _descriptors.add(descriptor)
    try:
        owner = ClaimOwner(
            os.getpid(), os.uname().nodename, _boot(), token, _lock(descriptor) is not None
        )
        os.write(descriptor, (json.dumps(owner._asdict()) + "\n").encode())
    except BaseException:
        _close(descriptor)
        raise
    return descriptor


def _linked(made: Path, file: Path) -> bool:
    """Give a claim its name; False where one is there."""
    try:
        os.link(made, file)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No hard links here: the name is made first, and the text comes an instant later.
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            return False
        made.replace(file)
    return True


def _taken_over(made: Path, file: Path, shown: Path) -> bool:
    """Take the place of a claim whose owner is gone; False where it is held.

    Raises OutputError where that cannot be told, FileNotFoundError where it went.
    """
    descriptor = _open(file)
    try:
        locked = _lock(descriptor)
        if locked is False or not _is_at(descriptor, file):
            return False
        owner = _text(descriptor)
        if owner is None or locked is None or not owner.locked or not _was_here(owner, descriptor):
            raise _unknown(owner, file, shown)
        _remove_temporaries(file.parent, owner.token)
        made.replace(file)
        return True
    finally:
        os.close(descriptor)


def _remove_temporaries(directory: Path, token: str) -> None:
    """Remove the temporary files and directories of a claim."""
    for entry in list(directory.iterdir()):
        if _is_of(entry.name, token):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with suppress(OSError):
                    entry.unlink()


def _busy(owner: ClaimOwner | None, file: Path, shown: Path) -> OutputError:
    """Return the refusal for an output that another process writes."""
    return OutputError(
        f"{owner or 'another process'} is writing it",
        where=str(shown),
        hint="wait until it is done, or write elsewhere",
    )


def _unknown(owner: ClaimOwner | None, file: Path, shown: Path) -> OutputError:
    """Return the refusal for a claim of which nobody here can tell whether it is held."""
    return OutputError(
        f"{owner or 'another process'} may be writing it: whether it still runs cannot be told "
        "from here",
        where=str(shown),
        hint=f"if it does not, remove {file}",
    )


# --- looking ------------------------------------------------------------------------------------


def _holder(file: Path) -> ClaimOwner | None:
    """Return the owner of a claim that is held, or may be; None where it is gone."""
    try:
        descriptor = _open(file)
    except OSError:
        return None
    try:
        owner = _text(descriptor)
        if owner is None:
            return None
        is_free = _lock(descriptor) is True and owner.locked and _was_here(owner, descriptor)
        return None if is_free else owner
    finally:
        os.close(descriptor)


def _read(file: Path) -> ClaimOwner | None:
    try:
        descriptor = _open(file)
    except OSError:
        return None
    try:
        return _text(descriptor)
    finally:
        os.close(descriptor)


def _open(file: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        return os.open(file, flags | os.O_RDWR)  # NFS locks no file that is open for reading alone
    except PermissionError:
        return os.open(file, flags | os.O_RDONLY)


def _text(descriptor: int) -> ClaimOwner | None:
    """Return what a claim says; None where it says nothing that can be understood."""
    try:
        fields: Any = json.loads(os.pread(descriptor, _MAX_CLAIM, 0))
        owner = ClaimOwner(**fields)
    except (OSError, ValueError, TypeError):
        return None
    kinds = (int, str, str, str, bool)
    fits = all(type(value) is kind for value, kind in zip(owner, kinds, strict=True))
    return owner if fits else None


def _lock(descriptor: int) -> bool | None:
    """Lock a claim: whether that could be done; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether the open file is what lies at the path; raises FileNotFoundError for nothing."""
    return os.path.samestat(os.fstat(descriptor), file.stat())


def _was_here(owner: ClaimOwner, descriptor: int) -> bool:
    """Whether the owner was a process of this machine, whose locks are known here."""
    if owner.boot and owner.boot == _boot():
        return True
    if owner.host != os.uname().nodename:
        return False
    if not owner.boot:
        return not _boot()
    started_s = _started_s()
    return started_s is not None and os.fstat(descriptor).st_mtime < started_s


def _boot() -> str:
    """Return what Linux calls this start of the machine; "" elsewhere."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started_s() -> float | None:
    """Return when this machine was started, in seconds since 1970; None where it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                return float(line.split()[1])
    return None


# --- descriptors --------------------------------------------------------------------------------

# A forked child shares its parent's lock as long as it has the descriptor: it must not keep it.
_descriptors: set[int] = set()


def _close(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    with suppress(OSError):
        os.close(descriptor)


def _close_all() -> None:
    while _descriptors:
        _close(next(iter(_descriptors)))


os.register_at_fork(after_in_child=_close_all)
