"""Indexes of tensor bundles built byte by byte, with valid checksums over whatever they say."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptkit._io import crc32c as _crc32c
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY
from ckptkit.stores.tensor_bundle.slices import slice_key
from ckptkit.stores.tensor_bundle.table_writer import MAGIC, TableWriter, varint

EDGES = (1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
"""Sizes and places that no file has, at the edges of what integers hold."""


def table(items: Mapping[bytes, bytes], **options: Any) -> bytes:
    """Return a well-formed table of these entries."""
    sink = io.BytesIO()
    writer = TableWriter(sink, **options)
    for key, value in sorted(items.items()):
        writer.add(key, value)
    writer.finish()
    return sink.getvalue()


def entry_bytes(shared: int, suffix: bytes, value: bytes, length: int | None = None) -> bytes:
    """Return one entry of a block; it may lie about what it shares and about its length."""
    size = len(value) if length is None else length
    return varint(shared) + varint(len(suffix)) + varint(size) + suffix + value


def block(
    entries: Sequence[bytes], restarts: Sequence[int] = (0,), count: int | None = None
) -> bytes:
    """Return a block of encoded entries; `count` lies about the number of restarts."""
    numbers = [*restarts, len(restarts) if count is None else count]
    return b"".join(entries) + b"".join(number.to_bytes(4, "little") for number in numbers)


def handle(offset: int, size: int) -> bytes:
    return varint(offset) + varint(size)


def with_trailer(data: bytes, kind: int = 0) -> bytes:
    checked = data + bytes([kind])
    return checked + _crc32c.mask(_crc32c.value(checked)).to_bytes(4, "little")


def raw_table(
    blocks: Sequence[bytes],
    *,
    kinds: Sequence[int] = (),
    handles: Sequence[bytes] | None = None,
    index: bytes | None = None,
    footer: bytes | None = None,
    metaindex: bytes | None = None,
) -> bytes:
    """Return a table of data blocks as they are; what is given replaces what would be right.

    kinds: compression byte per block.  handles: values of the index block's entries.
    """
    data = bytearray()
    right = []
    for number, content in enumerate(blocks):
        right.append(handle(len(data), len(content)))
        data += with_trailer(content, kinds[number] if kinds else 0)
    if metaindex is None:
        metaindex = block([])
    places = [handle(len(data), len(metaindex))]
    data += with_trailer(metaindex)
    if index is None:
        values = right if handles is None else handles
        index = block([entry_bytes(0, b"%09d" % n, value) for n, value in enumerate(values)])
    places.append(handle(len(data), len(index)))
    data += with_trailer(index)
    if footer is None:
        footer = b"".join(places)
    return bytes(data) + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def header(num_shards: int = 1, min_consumer: int = 0, **fields: Any) -> bytes:
    message = message_class("BundleHeaderProto")(num_shards=num_shards, **fields)
    message.version.producer = 1
    message.version.min_consumer = min_consumer
    return bytes(message.SerializeToString())


def entry(shape: Sequence[int] = (2,), dtype: int = 1, size: int = 8, **fields: Any) -> bytes:
    """Return a BundleEntryProto: by default two float32 at the start of shard 0."""
    message = message_class("BundleEntryProto")(dtype=dtype, size=size, **fields)
    message.shape.SetInParent()
    for length in shape:
        message.shape.dim.add(size=length)
    return bytes(message.SerializeToString())


GOOD = block([entry_bytes(0, b"", header()), entry_bytes(0, b"a", entry())])
"""A block without a lie: the header, and one entry."""


def sliced(
    shape: tuple[int, ...], slices: list[list[tuple[int, int] | None]]
) -> dict[bytes, bytes]:
    """Return an index of one float32 `w` in slices; None is a whole axis."""
    whole = message_class("BundleEntryProto").FromString(entry(shape, size=0))
    items = {b"": header()}
    for extents in slices:
        proto = whole.slices.add()
        for extent in extents:
            part = proto.extent.add()
            if extent is not None:
                part.start, part.length = extent
        sizes = [
            size if extent is None else extent[1]
            for size, extent in zip(shape, extents, strict=False)
        ]
        elements = 1
        for size in sizes:
            elements *= size
        key = slice_key(b"w", [(0, -1) if extent is None else extent for extent in extents])
        items[key] = entry(sizes, size=4 * max(0, elements))
    items[b"w"] = whole.SerializeToString()
    return items


def bundle_items(**entries: bytes) -> dict[bytes, bytes]:
    return {b"": header(), **{key.encode(): value for key, value in entries.items()}}


def write_index(prefix: Path, index: bytes | Mapping[bytes, bytes], data: bytes = b"") -> Path:
    """Write PREFIX.index (bytes, or entries for a table) and one data file; return `prefix`."""
    content = index if isinstance(index, bytes) else table(index)
    Path(f"{prefix}.index").write_bytes(content)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    return prefix


def string_tensor(value: bytes) -> tuple[bytes, int]:
    """Return (stored bytes, masked crc32c) of a scalar string."""
    length_crc = _crc32c.value(len(value).to_bytes(4, "little"))
    checksum = _crc32c.mask(length_crc).to_bytes(4, "little")
    crc = _crc32c.extend(length_crc, checksum + value)
    return varint(len(value)) + checksum + value, _crc32c.mask(crc)


def write_graph(prefix: Path, graph: bytes, keys: Sequence[str] = ()) -> Path:
    """Write an object-based checkpoint with this serialised graph and scalars of these keys."""
    stored, crc = string_tensor(graph)
    items = {b"": header(), OBJECT_GRAPH_KEY.encode(): entry((), 7, len(stored), crc32c=crc)}
    zero = _crc32c.mask(_crc32c.value(bytes(4)))
    for number, key in enumerate(keys):
        offset = len(stored) + 4 * number
        items[key.encode()] = entry((), 1, 4, offset=offset, crc32c=zero)
    return write_index(prefix, items, stored + bytes(4 * len(keys)))


def graph_bytes(nodes: Sequence[Mapping[str, int]], keys: Mapping[int, str] | None = None) -> bytes:
    """Return a TrackableObjectGraph: children per node, and nodes that are variables."""
    graph = message_class("TrackableObjectGraph")()
    for number, children in enumerate(nodes):
        node = graph.nodes.add()
        for name, child in children.items():
            node.children.add(local_name=name, node_id=child)
        if keys and number in keys:
            node.attributes.add(name="VARIABLE_VALUE", checkpoint_key=keys[number])
    return bytes(graph.SerializeToString())


@contextmanager
def frugal(max_bytes: int = 128 << 20) -> Iterator[None]:
    """Assert that the body allocates little."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < max_bytes, f"{peak / 1e6:.0f} MB"
