"""The checksum of an archive's member, where some of its bytes are read without the others.

A tensor of a `.keras` is a part of a member, and bytes that lie in a file as they are wanted are
taken past the archive.  Whatever says something of such values has the members looked at whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit._io.file_states import is_local
from ckptkit._io.files import read_start
from ckptkit._io.places import begin_to_fetch
from ckptkit.errors import ChecksumError
from ckptkit.stores.base import StoreOfParts
from ckptkit.stores.containers import zip_archive
from ckptkit.stores.registry import HEAD_BYTES, Head, detect_format

if TYPE_CHECKING:
    from ckptkit.stores.base import Store, TensorSpec


class ArchiveChecksums:
    """Compares the CRC-32 of members that hold values; each once, however many tensors it holds.

    Members that are compressed are compared where they are inflated.
    """

    def __init__(self) -> None:
        self._members: dict[Path, Sequence[zip_archive.Member]] = {}
        self._problems: dict[tuple[Path, int], ChecksumError | None] = {}

    def compare(self, store: Store, keys: Iterable[str], *, is_part: bool = False) -> None:
        """Compare the checksums of all members that hold values of some tensors.

        An archive elsewhere is copied to this machine as it is read, so that whoever takes the
        values then fetches no byte again.

        Args:
            store: of tensors, in an archive or not; of values that are made of others, those count.
            keys: of the tensors.
            is_part: whether they are few of the tensors: of what is elsewhere, a member that holds
                much besides is then not fetched for its checksum.

        Raises:
            ChecksumError: a member has another checksum than the archive says.
            TruncatedError, FormatError: the archive is cut short, or breaks its format.
        """
        for key in keys:
            spec = store.specs[key]
            if spec.crc32c is not None:
                continue
            if spec.shard is None or not store.shards:
                if isinstance(store, StoreOfParts):
                    for part, its_key in store.made_of(key):
                        self.compare(part, (its_key,), is_part=is_part)
                continue
            path = store.shards[spec.shard]
            if path not in self._members:
                found = sorted(_stored_members(path), key=lambda member: member.offset)
                self._members[path] = found
                if found and not is_part:
                    begin_to_fetch(path, must=False)
            for member in self._members_of(path, spec):
                if is_part and member.nbytes > 2 * spec.nbytes and not is_local(path):
                    continue
                problem = self._problem(path, member)
                if problem is not None:
                    raise problem

    def _problem(self, path: Path, member: zip_archive.Member) -> ChecksumError | None:
        at = path, member.offset
        if at not in self._problems:
            self._problems[at] = None
            crc = zip_archive.crc32_of_stored(path, member, 0, member.nbytes)
            try:
                zip_archive.check_crc32(path, member, crc)
            except ChecksumError as error:
                self._problems[at] = error
        return self._problems[at]

    def _members_of(self, path: Path, spec: TensorSpec) -> Sequence[zip_archive.Member]:
        """Return the members that hold a tensor; all where the store does not say where it is."""
        members = self._members[path]
        if spec.offset is None:
            return members
        at = bisect_right(members, spec.offset, key=lambda member: member.offset)
        return members[max(0, at - 1) : at]


def _stored_members(path: Path) -> Iterator[zip_archive.Member]:
    head = Head(path, read_start(path, HEAD_BYTES))
    if not head.is_zip:
        return
    row = detect_format(head)
    if row is None or not row.is_archive:
        return
    for member in zip_archive.members_of(path):
        if member.method == zip_archive.STORED:
            yield member
