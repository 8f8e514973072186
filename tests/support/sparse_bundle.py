"""A tensor bundle of a hundred gigabytes that takes no room: data files of holes, all zeros."""

from __future__ import annotations

from pathlib import Path

from ckptkit._io.crc32c import crc_of_repeated
from ckptkit.stores.tensor_bundle.table_writer import TableWriter
from ckptkit.stores.tensor_bundle.writer import _IndexEntry, index_items, shard_names
from ckptkit.stores.writing import TensorToWrite

SHAPE = (125, 1000)
NBYTES = 4 * 125 * 1000


def write_sparse(prefix: Path, tensors: int, shards: int, *, wrong: tuple[int, ...] = ()) -> Path:
    """Write `tensors` tensors of NBYTES bytes in `shards` files; return the prefix.

    wrong: numbers of tensors whose stored checksum is not that of zeros.
    """
    crc = crc_of_repeated(b"\0", NBYTES)
    listed = [TensorToWrite(f"layer_{n:06d}/kernel", "float32", SHAPE) for n in range(tensors)]
    entries = {}
    for number, tensor in enumerate(listed):
        place, shard = divmod(number, shards)
        found = crc ^ (number in wrong)
        entries[tensor.key] = _IndexEntry(shard, place * NBYTES, NBYTES, found)
    for shard, path in enumerate(shard_names(str(prefix), shards)):
        with path.open("wb") as file:
            file.truncate(NBYTES * len(range(shard, tensors, shards)))
    with Path(f"{prefix}.index").open("wb") as file:
        table = TableWriter(file)
        for key, value in index_items(listed, entries, shards):
            table.add(key, value)
        table.finish()
    return prefix
