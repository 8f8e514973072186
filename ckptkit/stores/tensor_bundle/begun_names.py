"""Names of a large checkpoint's tensors that begin with some letters, without reading all of it.

For whoever offers names while they are typed: nothing is checked but what is read, and where it is
not plain which names a file has, nothing is said.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from pathlib import Path

from ckptkit._io.files import file_size
from ckptkit.stores.proto import wire
from ckptkit.stores.tensor_bundle import data_blocks
from ckptkit.stores.tensor_bundle.files import index_path, shard_path
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, entry_spec, read_header
from ckptkit.stores.tensor_bundle.table import TableIndex, block_entries, read_block_of, read_index

LARGE = 1 << 20  # bytes of an index; all of a smaller one is soon read
_SLICE = 0  # the byte that the keys of slices begin with
_VARIABLE = b"VARIABLE_VALUE"  # the attribute under which the graph keeps a variable's key
_NAME, _FULL_NAME, _ = sorted(wire.TENSOR)  # tags, in the order in which they are written
_GRAPH_KEY = OBJECT_GRAPH_KEY.encode()


def begun_names(prefix: Path, begun: str) -> list[str] | None:
    """Return the names that begin so, of a large checkpoint.

    Args:
        prefix: of the checkpoint.
        begun: the beginning.

    Returns:
        Readable names: keys, or where there is an object graph full names.  None where all has to
        be read to tell them: of a small checkpoint, and where variables share a name.

    Raises:
        FormatError, ChecksumError, TruncatedError: what is read is damaged.
    """
    index = index_path(prefix)
    if file_size(index) < LARGE:
        return None
    table = read_index(index)
    graph = _items(table, _GRAPH_KEY)[:1]
    start = begun.encode("utf-8", "surrogateescape")
    if not graph or graph[0][0] != _GRAPH_KEY:
        keys = [key for key, _ in _items(table, start) if key and key[0] != _SLICE]
        return [key.decode("utf-8", "surrogateescape") for key in keys]
    return _full_names(prefix, table, graph[0][1], start)


def _items(table: TableIndex, start: bytes) -> list[tuple[bytes, bytes]]:
    """Return the entries whose keys begin so; one block after the other is read."""
    found: list[tuple[bytes, bytes]] = []
    for number in range(bisect_left(table.separators, start), len(table.handles)):
        block = list(block_entries(read_block_of(table, number), str(table.path)))
        found += [item for item in block if item[0].startswith(start)]
        if block and block[-1][0] > start and not block[-1][0].startswith(start):
            break
    return found


def _full_names(prefix: Path, table: TableIndex, entry: bytes, start: bytes) -> list[str] | None:
    """Return the full names in an object graph that begin so, by a search in its bytes."""
    where = str(prefix)
    (_, header), *_ = block_entries(read_block_of(table, 0), where)
    num_shards, big_endian = read_header(header, table.path)
    plain = wire.entry(entry)
    if plain is None:
        return None
    spec = entry_spec(OBJECT_GRAPH_KEY, plain, num_shards, where)
    if spec.shard is None or spec.shape != () or spec.dtype != "string":
        return None
    shard = shard_path(prefix, spec.shard, num_shards)
    [(_start, [data])] = data_blocks.string_lists(shard, spec, big_endian, where)
    # name, full_name: a tag, a length of one byte or two, the text
    pattern = (
        bytes([_NAME, len(_VARIABLE)])
        + _VARIABLE
        + re.escape(bytes([_FULL_NAME]))
        + rb"([\x00-\x7f]|[\x80-\xff][\x00-\x7f])(?="
        + re.escape(start)
        + rb")"
    )
    names: list[bytes] = []
    for match in re.finditer(pattern, data, re.DOTALL):
        length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(match[1]))
        names.append(data[match.end() : match.end() + length])
    names = [name for name in names if name.startswith(start)]
    if len(set(names)) < len(names) or b"" in names:
        return None  # those are called by their paths
    return [name.decode("utf-8", "surrogateescape") for name in names]
