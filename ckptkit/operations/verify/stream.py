"""Verifying files of one store by reading them to the end: safetensors, npz, HDF5, Keras."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import tee
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.beside import beside
from ckptkit._io.file_states import is_local, unchanged
from ckptkit._io.files import expect_whole, file_size
from ckptkit._io.pool import batched_map
from ckptkit._io.progress import Progress, ProgressMeter
from ckptkit.dtypes import itemsize, kind
from ckptkit.errors import ChecksumError, CkptkitError, MissingDependencyError, UnsupportedError
from ckptkit.operations.findings import Check, Finding, Unit, is_damage, of_error
from ckptkit.operations.verify.sampling import TensorSample
from ckptkit.operations.verify.tensor_reads import TensorRead, read_run, read_tensor, runs_of
from ckptkit.stores.base import Store, StoreOfChunks, TensorSpec
from ckptkit.stores.containers import zip_archive
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.registry import KERAS, LEGACY_KERAS, Format, format_of, open_format
from ckptkit.text import count_text
from ckptkit.wording import say

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_NO_CHECKSUM = "its values: the format keeps no checksum (a manifest would, ‹manifest›)"
INFLATED_FLOOR = 256 << 20  # bytes; below this no ratio is refused
MAX_EXPANSION = 200  # sparse weights with optimizer state reach 20
_CODES = {"tensor": "tensor", "member": "archive"}


class _TensorsRead(NamedTuple):
    """How many tensors were read, of how many bytes, and those that could not be."""

    tensors: int
    nbytes: int
    failed: list[TensorRead]


def verify_stream(
    format_name: str,
    path: Path,
    executor: Executor | None,
    progress: Progress | None,
    sample: TensorSample | None = None,
) -> tuple[Unit, Store | None]:
    """Return what is found in one file (or set of shards), and its store if it opens.

    sample: of the tensors to read; the file is not read in any other way then.  None for all.
    Raises UnsupportedError, MissingDependencyError, WorkerLostError.
    """
    row = format_of(format_name)
    _refuse_bomb(row, path)
    begun = _begun_archive(row, path, executor, progress) if sample is None else None
    try:
        store = open_format(format_name, path)
    except UnsupportedError:
        raise
    except CkptkitError as error:
        if not is_damage(error):
            raise
        checks = [Check("structure", (), (of_error(error, "file"),))]
        found = _archive(row, path, executor, progress) if begun is None else begun.result()
        checks.extend(found.checks)
        return Unit(path, format_name, tuple(checks)), None
    is_hdf5 = row.structure in (KERAS, LEGACY_KERAS)
    drawn = None if sample is None else sample.keys(store.specs)  # None also where it is of all
    readings = _begun_readings(store) if is_hdf5 and drawn is None else []
    not_checked: list[str] = []
    checks = [_structure(store)]
    sound: Sequence[zip_archive.Member] = ()
    if sample is not None and drawn is not None:
        not_checked.append(sample.left_out(len(store.specs)))
        if row.is_archive:
            not_checked.append("the checksums of members of the archive as wholes")
    else:
        expect_whole([shard for shard in store.shards if shard not in store.missing_shards])
        found = _archive(row, path, executor, progress) if begun is None else begun.result()
        checks.extend(found.checks)
        sound = found.sound
    read, check = _tensors(store, executor, progress, drawn, sound)
    checks.append(check)
    if not row.has_checksums:
        not_checked.append(say(_NO_CHECKSUM))
    unread = [failed for failed in read.failed if _is_opaque(store, failed)]
    if unread:
        not_checked.append(f"{count_text(len(unread), 'tensor')} of a dtype that is not read")
    if is_hdf5 and drawn is None:
        more, left_out = _hdf5(store, readings)
        checks += more
        not_checked += left_out
    elif is_hdf5:
        not_checked.append("whether libhdf5 reads the same")
    if row.model_config:
        checks.extend(_config(store))
    unit = Unit(
        path,
        format_name,
        tuple(checks),
        tuple(not_checked),
        read.tensors,
        read.nbytes,
        _refusal(store, read.failed, checks),
    )
    return unit, store


def _refusal(store: Store, reads: list[TensorRead], checks: list[Check]) -> CkptkitError | None:
    """Return why not all could be checked, or whether there was anything at all to check."""
    if not store.specs and not _has_layers(checks):
        return _nothing(store.path)
    kinds = UnsupportedError | MissingDependencyError
    return next(
        (
            read.error
            for read in reads
            if isinstance(read.error, kinds) and not _is_opaque(store, read)
        ),
        None,
    )


def _is_opaque(store: Store, read: TensorRead) -> bool:
    """Whether a tensor was not read because its dtype is none that has values."""
    return (
        isinstance(read.error, UnsupportedError)
        and not isinstance(read.error, MissingDependencyError)
        and not itemsize(store.specs[read.name].dtype)
    )


def _nothing(path: Path) -> CkptkitError:
    """Return why a file without tensors, and without a model that needs none, is not sound."""
    return UnsupportedError(
        "nothing in it to verify: it holds no tensors",
        where=str(path),
        hint="was it saved before the model was built?",
    )


def _has_layers(checks: list[Check]) -> bool:
    return any(check.name == "config" and any(n for _, n in check.counts) for check in checks)


def _refuse_bomb(row: Format, path: Path) -> None:
    """Raise UnsupportedError for an archive that would be inflated to far more than it stores."""
    if not row.is_archive:
        return
    try:
        inflated = zip_archive.inflated_bytes(path)
    except CkptkitError:
        return  # that it does not open will be a finding
    limit = max(INFLATED_FLOOR, MAX_EXPANSION * file_size(path))
    if inflated > limit:
        raise UnsupportedError(
            f"its {file_size(path)} bytes would be inflated to {inflated}, more than "
            f"{MAX_EXPANSION} times as much",
            where=str(path),
            hint="a zip bomb, or very empty tensors; store them without compression",
        )


def _structure(store: Store) -> Check:
    findings = [
        Finding("error", "data.missing", str(path), "this file of the set is missing")
        for path in store.missing_shards
    ]
    present = [path for path in store.shards if path not in store.missing_shards]
    for note in store.notes:
        findings.append(Finding("note", "file.note", str(store.path), note))
    counts = (
        ("tensor", len(store.specs)),
        ("file", len(present)),
        ("byte", sum(file_size(path) for path in present)),
    )
    return Check("structure", counts, tuple(findings))


def _tensors(
    store: Store,
    executor: Executor | None,
    progress: Progress | None,
    keys: frozenset[str] | None,
    sound: Sequence[zip_archive.Member] = (),
) -> tuple[_TensorsRead, Check]:
    """Read every tensor to its end, its checksum compared where the format keeps one.

    keys: of those to read; None for all.  sound: stored members whose bytes were read and compared
    already: a tensor that is a run of them has been read.
    """
    specs = store.specs
    if isinstance(specs, PackedSpecs) and keys is None:
        return _packed_tensors(store, specs, executor, progress)
    was_read = _BytesRead(sound)
    count = total = 0
    for key, spec in specs.items():
        if _is_read(key, spec, keys):
            count, total = count + 1, total + spec.nbytes

    def unread() -> Iterator[tuple[Store, str, int]]:
        for key, spec in specs.items():
            if _is_read(key, spec, keys) and not was_read.has_all_of(store, key):
                yield store, key, spec.nbytes

    left = sum(nbytes for _store, _key, nbytes in unread())
    meter = ProgressMeter(progress, "read", left, by_reads=True)
    items = sorted(unread(), key=_place)
    failed: list[TensorRead] = []
    for read in batched_map(executor, read_tensor, items, lambda item: item[2], _key_of, left):
        meter.add(read.nbytes)
        if read.error is not None:
            failed.append(read)
    if failed:
        place = {key: at for at, key in enumerate(specs)}
        failed.sort(key=lambda read: place[read.name])
    return _told(store, count, total, failed)


def _packed_tensors(
    store: Store, specs: PackedSpecs, executor: Executor | None, progress: Progress | None
) -> tuple[_TensorsRead, Check]:
    """Do the same with all tensors of a file of very many, which has no checksums."""
    total = sum(nbytes for _offset, nbytes in specs.places())
    meter = ProgressMeter(progress, "read", total, by_reads=True)
    failed: list[TensorRead] = []
    runs, given = tee(runs_of(store, specs))
    found = batched_map(executor, read_run, given, attrgetter("nbytes"), attrgetter("name"), total)
    for run, its_failed in zip(runs, found, strict=True):
        meter.add(run.nbytes)
        failed += its_failed
    return _told(store, len(specs), total, failed)


def _told(
    store: Store, count: int, total: int, failed: list[TensorRead]
) -> tuple[_TensorsRead, Check]:
    """Return what reading so many tensors of so many bytes came to, and those that failed."""
    done = total - sum(read.nbytes for read in failed)
    findings = [
        _finding(store.path, read, "tensor")
        for read in failed
        if not isinstance(read.error, UnsupportedError | MissingDependencyError)
    ]
    counts = (("tensor", count), ("byte", total))
    tensors = _TensorsRead(count - len(failed), done, failed)
    return tensors, Check("tensors", counts, tuple(findings))


def _is_read(key: str, spec: TensorSpec, keys: frozenset[str] | None) -> bool:
    """Whether a tensor has values to read, and is one of those to be read."""
    return (spec.shard is not None or bool(spec.slices)) and (keys is None or key in keys)


class _BytesRead:
    """Bytes of an archive that were read and compared with a checksum.

    members: stored ones.
    """

    def __init__(self, members: Iterable[zip_archive.Member]) -> None:
        self._runs = sorted((member.offset, member.offset + member.nbytes) for member in members)

    def has_all_of(self, store: Store, key: str) -> bool:
        """Whether a tensor is nothing but such bytes; of flags not every byte is one."""
        spec = store.specs[key]
        if spec.offset is None or kind(spec.dtype) == "bool" or not store.mappable(key):
            return False
        at = bisect_right(self._runs, (spec.offset, math.inf)) - 1
        return at >= 0 and spec.offset + spec.nbytes <= self._runs[at][1]


def _key_of(item: tuple[Store, str, int]) -> str:
    return item[1]


def _place(item: tuple[Store, str, int]) -> tuple[int, int]:
    """Return which file of a store has a tensor, and where in it the tensor begins."""
    store, key, _nbytes = item
    spec = store.specs[key]
    at = store.begins_at(key) if isinstance(store, StoreOfChunks) else spec.offset
    return spec.shard or 0, at or 0


class _ArchiveRead(NamedTuple):
    """The check of an archive's members, if it is one; and those stored that have their CRC-32."""

    checks: Sequence[Check] = ()
    sound: Sequence[zip_archive.Member] = ()


def _begun_archive(
    row: Format, path: Path, executor: Executor | None, progress: Progress | None
) -> Future[_ArchiveRead] | None:
    """Begin to read an archive that is on its way to this machine, as it comes; None for others."""
    is_here = executor is None or isinstance(executor, ThreadPoolExecutor)
    if is_local(path) or not row.is_archive or not is_here:
        return None
    return beside(partial(_archive, row, path, executor, progress))


def _archive(
    row: Format, path: Path, executor: Executor | None, progress: Progress | None
) -> _ArchiveRead:
    """Compare the CRC-32 of every member of an archive, those without tensors included."""
    if not row.is_archive:
        return _ArchiveRead()
    members: list[zip_archive.Member] = []
    path = unchanged(path)  # so that a worker that sees another file says so
    damage: list[CkptkitError] = []

    def parts() -> Iterator[_MemberPart]:
        try:
            for member in zip_archive.members_of(path):
                members.append(member)
                yield from _member_parts(path, member)
        except CkptkitError as error:
            damage.append(error)

    given, again = tee(parts())
    found = batched_map(
        executor,
        _read_part,
        given,
        lambda part: part.stop - part.start,
        lambda part: part.name,
        file_size(path),
    )
    size = file_size(path)
    meter = ProgressMeter(progress, "checksums", size, by_reads=True)

    def told() -> Iterator[tuple[_MemberPart, int | CkptkitError]]:
        for part, crc in zip(again, found, strict=False):
            whole = part.member.method != zip_archive.STORED
            meter.add(part.member.stored_nbytes if whole else part.stop - part.start)
            yield part, crc
        meter.add(size)  # headers, and what lies between

    reads = list(_joined_parts(told()))
    if damage:  # that the archive does not open is a finding already
        return _ArchiveRead()
    findings = [_finding(path, read, "member") for read in reads if read.error is not None]
    counts = (("member", len(reads)), ("byte", sum(read.nbytes for read in reads)))
    failed = {read.name for read in reads if read.error is not None}
    sound = [m for m in members if m.method == zip_archive.STORED and m.name not in failed]
    return _ArchiveRead([Check("archive", counts, tuple(findings))], sound)


PART_BYTES = 16 << 20  # of a member that is read in parts


class _MemberPart(NamedTuple):
    """Bytes [start, stop) of the content of a member of an archive; all of a compressed one."""

    path: Path
    member: zip_archive.Member
    start: int
    stop: int

    @property
    def name(self) -> str:
        return self.member.name


def _member_parts(path: Path, member: zip_archive.Member) -> Iterator[_MemberPart]:
    """Yield what is read of a member, in pieces that can be read at once."""
    if member.method != zip_archive.STORED or not member.nbytes:
        yield _MemberPart(path, member, 0, member.nbytes)
        return
    for start in range(0, member.nbytes, PART_BYTES):
        yield _MemberPart(path, member, start, min(start + PART_BYTES, member.nbytes))


def _read_part(part: _MemberPart) -> int | CkptkitError:
    """Return the CRC-32 of a part, or why it cannot be read (or is not what it should be)."""
    path, member, start, stop = part
    try:
        if member.method == zip_archive.STORED:
            return zip_archive.crc32_of_stored(path, member, start, stop)
        for _ in zip_archive.member_chunks(path, member):
            pass
    except CkptkitError as error:
        return error
    return member.crc32


def _joined_parts(
    parts: Iterable[tuple[_MemberPart, int | CkptkitError]],
) -> Iterator[TensorRead]:
    """Yield what reading each member came to, from its parts."""
    crc, error = 0, None
    for part, found in parts:
        if isinstance(found, CkptkitError):
            error = error or found
        elif not part.start:
            crc = found
        else:
            crc = zip_archive.joined_crc32(crc, found, part.stop - part.start)
        if part.stop < part.member.nbytes:
            continue
        if error is None:
            try:
                zip_archive.check_crc32(part.path, part.member, crc)
            except ChecksumError as mismatch:
                error = mismatch
        yield TensorRead(part.name, part.member.nbytes, error)
        crc, error = 0, None


def _finding(path: Path, read: TensorRead, what: str) -> Finding:
    assert read.error is not None
    finding = of_error(read.error, _CODES[what])
    where = f"{path}: {read.name}"
    key = read.name if what == "tensor" else ""
    return Finding("error", finding.code, where, finding.message, finding.hint, key=key)


def _config(store: Store) -> Iterator[Check]:
    from ckptkit.operations.verify.keras import config_check

    check = config_check(store)
    if check is not None:
        yield check


def _begun_readings(store: Store) -> Sequence[Any]:
    from ckptkit.operations.verify.hdf5 import begin_readings
    from ckptkit.stores.keras.h5_store import H5Store

    return begin_readings(store) if isinstance(store, H5Store) else ()


def _hdf5(store: Store, readings: Sequence[Any]) -> tuple[list[Check], list[str]]:
    from ckptkit.operations.verify.hdf5 import hdf5_checks
    from ckptkit.stores.keras.h5_store import H5Store

    return hdf5_checks(store, readings) if isinstance(store, H5Store) else ([], [])
