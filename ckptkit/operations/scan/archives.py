"""Zip archives as their loaders see them: numpy's `.npz`, and `.keras`.

Both loaders read an archive through `zipfile`, so that is what lists the members here.  The strict
reader of `stores.containers` is asked too: where it refuses what `zipfile` takes, the archive is
made to be read in two ways, and that is a finding.  numpy goes by the first bytes of a member, not
by its suffix, and gives back what is no array as bytes.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from ckptkit._io.files import file_size, read_exact
from ckptkit._io.places import readable
from ckptkit.errors import CkptkitError, FormatError, MissingDependencyError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.scan.hdf5 import hdf5_check
from ckptkit.operations.scan.keras import text_findings
from ckptkit.operations.scan.pickles import FRONT, array_finding, is_pickle, pickle_finding
from ckptkit.stores.assets import is_plain_name
from ckptkit.stores.containers.byte_range import MAX_SPOOL_EXPANSION, member_range
from ckptkit.stores.containers.zip_archive import MAX_EXPANSION, Member, read_directory
from ckptkit.stores.npz.npy import MAGIC
from ckptkit.stores.npz.reader import METADATA_MEMBER, open_npz
from ckptkit.stores.registry import KERAS, format_of

CONFIG, WEIGHTS, WEIGHTS_NPZ = "config.json", "model.weights.h5", "model.weights.npz"
_KERAS_MEMBERS = frozenset(
    {CONFIG, WEIGHTS, WEIGHTS_NPZ, "metadata.json", "model.weights.json", "assets/"}
)
_MAX_DIRECTORY = 64 << 20  # bytes of it; zipfile keeps ten times as much in memory
MAX_JSON = 256 << 20  # the config of the largest Keras models is a few MB
_MAX_NESTED = 256 << 20  # bytes of an archive in an archive that is looked into
STRANGER = "archive.stranger"  # the code of a member that does not belong there
_BOMB_FLOOR = 256 << 20  # bytes; Keras refuses what is larger and grows 100 times
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_END, _END_SIZE = b"PK\x05\x06", 22
_ERRORS = (  # of zipfile; NotImplementedError is a RuntimeError
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error),
    *(OSError, ValueError, EOFError, RuntimeError, KeyError),
)


def is_archive(path: Path) -> bool:
    """Whether `zipfile` takes a file for an archive: its end says so, whatever its start says."""
    size = file_size(path)
    tail = read_exact(path, max(0, size - (1 << 16) - _END_SIZE), min(size, (1 << 16) + _END_SIZE))
    at = tail.rfind(_END)
    if at < 0 or at + _END_SIZE > len(tail):
        return False
    if int.from_bytes(tail[at + 12 : at + 16], "little") in range(_MAX_DIRECTORY, 0xFFFFFFFF):
        raise FormatError(str(path), "zip directory is too large to be looked at")
    try:
        with zipfile.ZipFile(readable(path)) as archive:
            return bool(archive.infolist()) or at == 0
    except _ERRORS:
        return False


def has_keras_name(path: Path) -> bool:
    """Whether Keras would ask of a file no more than to end as an archive does."""
    return path.name.endswith(format_of(KERAS).suffixes)


def is_keras_archive(path: Path) -> bool:
    """Whether Keras would load an archive as a model: by its name, or by its members."""
    if has_keras_name(path):
        return True
    with _opened(path) as archive:
        names = archive.namelist()
    return CONFIG in names or any(name.endswith(WEIGHTS) for name in names)


def scan_npz(path: Path) -> list[Check]:
    """Scan an archive of arrays; raises FormatError where `zipfile` does not read it."""
    with _opened(path) as archive:
        check = _arrays(archive, path, path.name, _strict(path))
    if not check.ok:
        return [check]
    try:
        open_npz(path)
    except CkptkitError as error:  # such as a shape that is not the member's
        finding = Finding("warning", "npz.unread", path.name, error.message, error.hint)
        return [replace(check, findings=(finding,))]
    return [check]


def scan_keras(path: Path) -> list[Check]:
    """Scan a `.keras` archive: members, configs, weights.

    Raises FormatError where Keras would not read it, unless there is something to say of it.
    """
    strict = _strict(path)
    unread: list[CkptkitError] = []
    checks: list[Check] = []
    with _opened(path) as archive:
        findings = list(_member_findings(archive, path.name, is_keras=True))
        findings += _ambiguity(path, strict)
        count = 0
        for info in archive.infolist():
            name = info.filename
            if not name.endswith(".json") or name.startswith("assets/"):
                continue
            count += 1
            try:
                data = _content(archive, info, path, MAX_JSON)
            except CkptkitError as error:
                unread.append(error)
                continue
            findings += text_findings(data, f"{path.name}:{name}")
        names = archive.namelist()
        if CONFIG not in names:
            unread.append(FormatError(str(path), f"no {CONFIG} in the archive"))
        if WEIGHTS_NPZ in names and WEIGHTS not in names:
            checks.append(_nested_arrays(archive, path, unread))
        elif WEIGHTS not in names:
            unread.append(FormatError(str(path), f"no {WEIGHTS} in the archive"))
    if WEIGHTS in names and isinstance(strict, dict):
        checks.append(_weights(path, strict[WEIGHTS], unread))
    checks.insert(0, Check("configs", (("config", count),), tuple(findings)))
    if not unread:
        return checks
    if all(check.ok for check in checks):
        raise unread[0]
    missed = [Finding("warning", "archive.unread", e.where, e.message, e.hint) for e in unread]
    return [*checks, Check("not read", (), tuple(missed))]


def _weights(path: Path, member: Member, unread: list[CkptkitError]) -> Check:
    try:
        return hdf5_check(member_range(path, member), f"{path.name}:{WEIGHTS}")
    except MissingDependencyError:
        raise
    except CkptkitError as error:
        unread.append(error)
        return Check("weights")


def _nested_arrays(archive: zipfile.ZipFile, path: Path, unread: list[CkptkitError]) -> Check:
    try:
        data = _content(archive, archive.getinfo(WEIGHTS_NPZ), path, _MAX_NESTED)
        with _opened_data(data, f"{path}:{WEIGHTS_NPZ}") as arrays:
            return _arrays(arrays, path, f"{path.name}:{WEIGHTS_NPZ}", {})
    except CkptkitError as error:
        unread.append(error)
        return Check("weights")


# --- members --------------------------------------------------------------------------------------


def _arrays(
    archive: zipfile.ZipFile, path: Path, label: str, strict: dict[str, Member] | CkptkitError
) -> Check:
    findings = list(_member_findings(archive, label, is_keras=False))
    findings += _ambiguity(path, strict)
    return Check("arrays", (("tensor", len(archive.infolist())),), tuple(findings))


def _member_findings(archive: zipfile.ZipFile, label: str, is_keras: bool) -> Iterator[Finding]:
    """Yield what there is to say of the members: names, kinds, and what they begin with."""
    seen: set[str] = set()
    for info in archive.infolist():
        where = f"{label}:{info.filename}"
        if not _is_plain(info):
            where = f"{label}:{info.orig_filename}"
            message = "an archive member that leads out of the place it is unpacked in"
            yield Finding("error", "archive.path", where, message)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            message = "an archive member that is a link or a device"
            yield Finding("error", "archive.link", where, message)
        if info.filename in seen:
            message = "an archive member that is there twice: which one is read is up to the loader"
            yield Finding("warning", "archive.twice", where, message)
        seen.add(info.filename)
        if info.file_size > max(_BOMB_FLOOR, MAX_SPOOL_EXPANSION * info.compress_size):
            message = f"{info.compress_size} bytes that are said to grow to {info.file_size}"
            yield Finding("error", "archive.bomb", where, message)
            continue
        if info.compress_type not in _METHODS or info.flag_bits & 1:
            message = "an archive member that is packed in a way that is not looked into"
            yield Finding("warning", "archive.unread", where, message)
            continue
        if info.filename.endswith("/"):  # is_dir() fails on a name that is empty
            if not (is_keras and info.filename.startswith("assets/")):
                yield Finding("warning", STRANGER, where, "a directory in the archive")
        else:
            yield from _content_findings(archive, info, where, is_keras)


def _content_findings(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, is_keras: bool
) -> Iterator[Finding]:
    name = info.filename
    own = name in _KERAS_MEMBERS or name.startswith("assets/")
    try:
        with archive.open(info) as member:
            front = _front(member, info)
    except _ERRORS as error:
        if not (is_keras and own):  # a config or weights that cannot be read are told elsewhere
            yield Finding("warning", "archive.unread", where, f"a member that is not read: {error}")
        return
    if front.startswith(MAGIC):
        finding = array_finding(front, where)
        if finding is not None:
            yield finding
    elif is_pickle(io.BytesIO(front)):
        yield pickle_finding(where)
    elif front.startswith(b"PK\3\4") and name != WEIGHTS_NPZ:
        yield Finding("warning", "archive.nested", where, "an archive in the archive")
    if is_keras and not own:
        yield Finding("warning", STRANGER, where, "a member that no Keras file has")
    elif not is_keras and not front.startswith(MAGIC) and name != METADATA_MEMBER:
        yield Finding("warning", STRANGER, where, "a member that is no array")
    elif not is_keras and name != METADATA_MEMBER and not name.endswith(".npy"):
        yield Finding("warning", STRANGER, where, "an array that is not called .npy")


def _front(member: IO[bytes], info: zipfile.ZipInfo) -> bytes:
    """Return the first bytes of a member: more than a few only where there is more to see."""
    front = member.read(256)
    if front.startswith(MAGIC) or (front and info.file_size < FRONT):
        front += member.read(FRONT)
    return front


def _is_plain(info: zipfile.ZipInfo) -> bool:
    names = (info.filename, info.orig_filename)
    return all(is_plain_name(name.removesuffix("/")) for name in names)


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, max_bytes: int) -> bytes:
    """Return a member as its loader reads it; raises FormatError, also for one too large."""
    where = f"{path}:{info.filename}"
    if info.compress_type not in _METHODS:
        raise FormatError(where, "is packed in a way that is not looked into")
    if info.file_size > min(max_bytes, max(1 << 20, MAX_EXPANSION * info.compress_size)):
        raise FormatError(where, "is too large to be looked at", found=f"{info.file_size} bytes")
    try:
        with archive.open(info) as member:
            return member.read(info.file_size + 1)
    except _ERRORS as error:
        raise FormatError(where, f"cannot be read: {error}") from error


# --- two readers of one archive -------------------------------------------------------------------


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(readable(path))
    except _ERRORS as error:
        raise FormatError(str(path), f"not a zip archive: {error}") from error


def _opened_data(data: bytes, where: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except _ERRORS as error:
        raise FormatError(where, f"not a zip archive: {error}") from error


def _strict(path: Path) -> dict[str, Member] | CkptkitError:
    """Return the members as the strict reader lists them, or why it refuses."""
    try:
        return read_directory(path)
    except CkptkitError as error:
        return error


def _ambiguity(path: Path, strict: dict[str, Member] | CkptkitError) -> Iterator[Finding]:
    if isinstance(strict, CkptkitError):
        message = f"an archive that two programs would read in two ways: {strict.message}"
        yield Finding("warning", "archive.ambiguous", path.name, message)
