"""What is left of a damaged tensor bundle: every block and entry that still holds, and what does
not.

`open_bundle` refuses an index at the first thing that is wrong with it, so that nobody takes half a
list for the whole.  Verifying and rescuing want the rest: blocks of the index are independent
(each has its own checksum), and so are entries.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit._io.places import can_list
from ckptkit.errors import CkptkitError, FormatError, MissingDependencyError, UnsupportedError
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.tensor_bundle import reader as tensor_bundle
from ckptkit.stores.tensor_bundle import table as leveldb_table
from ckptkit.stores.tensor_bundle.files import FOOTER_BYTES, index_path, shard_path
from ckptkit.stores.tensor_bundle.reader import TensorBundle
from ckptkit.stores.tensor_bundle.slices import sliced_name
from ckptkit.text import lazy_pattern

MAX_PROBLEMS = 1000  # listed of one index; a hostile one could have millions
_SHARD = lazy_pattern(r"\.data-(\d{5})-of-(\d{5})$")


class DamagedBundle(NamedTuple):
    """A bundle as far as its index can be read, and everything that is wrong with the index."""

    bundle: TensorBundle
    problems: tuple[CkptkitError, ...]


def survey(prefix: Path) -> DamagedBundle:
    """Return what can be read of the checkpoint at `prefix`; reads PREFIX.index and no data file.

    Raises PathNotFoundError, UnsupportedError (a newer layout), MissingDependencyError (snappy).
    """
    try:
        return DamagedBundle(tensor_bundle.open_bundle(prefix), ())
    except (FormatError, CkptkitError) as error:
        if not isinstance(error, FormatError):
            raise
        first = error
    problems: list[CkptkitError] = []
    path = index_path(prefix)
    items = _table(path, problems)
    shards, big_endian = _header(prefix, items, problems)
    specs = _specs(items, len(shards), str(path), problems)
    bundle = TensorBundle(
        prefix, MappingProxyType(specs), shards, big_endian, opener=open_damaged_bundle
    )
    return DamagedBundle(bundle, tuple(problems) or (first,))


def open_damaged_bundle(prefix: Path) -> TensorBundle:
    """Return what can be read of the checkpoint at `prefix`; raises as `survey` does."""
    return survey(prefix).bundle


def _note(problems: list[CkptkitError], error: CkptkitError) -> None:
    if isinstance(error, UnsupportedError | MissingDependencyError):
        raise error
    if len(problems) < MAX_PROBLEMS:
        problems.append(error)


def _table(path: Path, problems: list[CkptkitError]) -> list[leveldb_table.Item]:
    """Return the pairs of all blocks that hold."""
    size = file_size(path)
    where = str(path)
    try:
        if size > leveldb_table.MAX_TABLE_BYTES:
            raise FormatError(where, f"{size} bytes are more than an index may have")
        data = read_exact(path, 0, size)
        metaindex, index = leveldb_table.footer(data, where)
    except FormatError as error:
        _note(problems, error)
        return []
    for name, handle, end in (
        ("index", index, len(data) - FOOTER_BYTES),
        ("metaindex", metaindex, index[0]),
    ):
        if handle[0] + handle[1] + leveldb_table.TRAILER_BYTES != end:
            _note(
                problems,
                FormatError(where, f"the {name} block does not end where the next part begins"),
            )
    _block(data, metaindex, where, "metaindex block", problems)
    items: list[leveldb_table.Item] = []
    position = 0
    for _separator, value in _block(data, index, where, "index block", problems):
        try:
            handle, used = leveldb_table.read_handle(value, 0, f"{where}: index block")
        except FormatError as error:
            _note(problems, error)
            continue
        if used != len(value) or handle[0] != position:
            _note(
                problems,
                FormatError(
                    where, "data blocks leave a gap or overlap", expected=position, found=handle[0]
                ),
            )
            if handle[0] < position:  # no byte is read twice
                continue
        items += _block(data, handle, where, f"block at byte {handle[0]}", problems)
        position = handle[0] + handle[1] + leveldb_table.TRAILER_BYTES
    if position != metaindex[0]:
        _note(
            problems,
            FormatError(where, "bytes that no block covers", expected=metaindex[0], found=position),
        )
    return _rising(items, where, problems)


def _block(
    data: bytes, handle: tuple[int, int], where: str, name: str, problems: list[CkptkitError]
) -> list[leveldb_table.Item]:
    """Return the pairs of one block; those before a malformed one."""
    items: list[leveldb_table.Item] = []
    try:
        block = leveldb_table.read_block(data, handle, where)
        items.extend(leveldb_table.block_entries(block, f"{where}: {name}"))
    except FormatError as error:
        _note(problems, error)
    return items


def _rising(
    items: list[leveldb_table.Item], where: str, problems: list[CkptkitError]
) -> list[leveldb_table.Item]:
    """Return the pairs whose key is new, the first of each."""
    seen: dict[bytes, bytes] = {}
    previous = None
    for key, value in items:
        if previous is not None and key <= previous:
            _note(problems, FormatError(where, f"keys out of order: {key!r} after {previous!r}"))
        seen.setdefault(key, value)
        previous = key
    return sorted(seen.items())


def _header(
    prefix: Path, items: list[leveldb_table.Item], problems: list[CkptkitError]
) -> tuple[tuple[Path, ...], bool]:
    """Return (shards, big-endian) from the header, else the shards that lie there."""
    path = index_path(prefix)
    try:
        if not items or items[0][0]:
            raise FormatError(str(path), "the bundle header is missing")
        count, big_endian = tensor_bundle.read_header(items[0][1], path)
    except FormatError as error:
        _note(problems, error)
        return _shards_there(prefix), False
    shards = tuple(shard_path(prefix, shard, count) for shard in range(count))
    return shards, big_endian


def _shards_there(prefix: Path) -> tuple[Path, ...]:
    """Return the shards of the one set of data files beside a headless index, else none."""
    first = shard_path(prefix, 0, 1)
    stem = first.name.removesuffix(".data-00000-of-00001")
    counts = {
        int(match[2])
        for path in (first.parent.iterdir() if can_list(first.parent) else ())
        if path.name.startswith(stem) and (match := _SHARD.fullmatch(path.name[len(stem) :]))
    }
    if len(counts) != 1:
        return ()
    (count,) = counts
    return tuple(shard_path(prefix, shard, count) for shard in range(count))


def _specs(
    items: list[leveldb_table.Item], num_shards: int, where: str, problems: list[CkptkitError]
) -> dict[str, TensorSpec]:
    """Return the specs of all entries that hold."""
    specs: dict[str, TensorSpec] = {}
    partitioned: list[tuple[bytes, str, Any]] = []
    slices: dict[bytes, tuple[str, bytes]] = {}
    for raw_key, value in items:
        key = raw_key.decode("utf-8", "backslashreplace")
        if not raw_key:
            continue
        if raw_key[0] == 0 and sliced_name(raw_key) is not None:
            slices[raw_key] = key, value
            continue
        try:
            entry = parse("RawBundleEntryProto", value, f"{where}: {key}")
            if entry.slices:
                partitioned.append((raw_key, key, entry))
            else:
                specs[key] = tensor_bundle.entry_spec(key, entry, num_shards, where)
        except FormatError as error:
            _note(problems, error)
    blamed = {raw_key for raw_key, _key, _entry in partitioned}
    for raw_key, key, entry in partitioned:
        try:
            specs[key] = tensor_bundle.partitioned_spec(
                raw_key, key, entry, slices, num_shards, where
            )
        except FormatError as error:
            _note(problems, error)
        else:
            blamed.remove(raw_key)
    for raw_key in slices:
        if sliced_name(raw_key) not in blamed:  # else what is wrong with the tensor is told
            _note(problems, tensor_bundle.orphan_slice(raw_key, where))
    return specs
