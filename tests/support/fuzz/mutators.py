"""Damaging files on purpose, below checksums that hold: each seed gives one mutant.

A flipped bit almost never gets past a checksum, so it tests one comparison.  What tests the rest of
a reader is damage that is made first and checksummed afterwards: entries of an index, messages,
zip members, JSON headers.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.table import parse_table
from ckptkit.stores.tensor_bundle.table_writer import varint
from support import crafted

GRAPH_KEY = b"_CHECKPOINTABLE_OBJECT_GRAPH"
NUMBERS = (0, 1, 2, 127, 128, 255, 1 << 15, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 1)  # fmt: skip

Files = dict[str, bytes]
"""A checkpoint as file name -> content."""


def noise(data: bytes, rng: random.Random, rounds: tuple[int, ...] = (1, 1, 2, 5)) -> bytes:
    """Return `data` with some bytes changed, dropped, doubled, moved or cut."""
    out = bytearray(data)
    for _ in range(rng.choice(rounds)):
        if not out:
            break
        at, size = rng.randrange(len(out)), rng.choice((1, 1, 2, 4, 8, 40))
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = out[at : at + size]
        elif kind == 4:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 5:
            number = rng.choice(NUMBERS) & ((1 << 64) - 1)
            width = rng.choice((1, 2, 4, 8))
            out[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif kind == 6:
            out[at : at + 1] = varint(rng.choice(NUMBERS))
        else:
            del out[rng.randrange(len(out)) :]
    return bytes(out)


# --- tensor bundles -------------------------------------------------------------------------------


def bundle(files: Files, rng: random.Random) -> Files:
    """Return a mutant of a bundle of one shard: index, entries, graph or data."""
    (index_name,) = [name for name in files if name.endswith(".index")]
    (data_name,) = [name for name in files if ".data-" in name]
    index, data = files[index_name], files[data_name]
    choice = rng.random()
    if choice < 0.15:
        return {**files, index_name: noise(index, rng)}
    if choice < 0.30:
        return {**files, data_name: noise(data, rng)}
    items = dict(parse_table(index, index_name))
    if choice < 0.5 and GRAPH_KEY in items:
        data = _with_graph(items, data, rng)
    elif choice < 0.8:
        _mutate_fields(items, rng)
    else:
        for key in rng.sample(sorted(items), min(len(items), rng.choice((1, 1, 3)))):
            value = items.pop(key)
            new_key = noise(key, rng) if rng.random() < 0.2 else key
            items[new_key] = noise(value, rng) if rng.random() < 0.9 else value
    return {**files, index_name: table(items, rng), data_name: data}


def table(items: dict[bytes, bytes], rng: random.Random) -> bytes:
    """Return a well-formed index of these entries, in blocks of some size."""
    return crafted.table(items, block_bytes=rng.choice((60, 400, 1 << 18)))


def _mutate_fields(items: dict[bytes, bytes], rng: random.Random) -> None:
    """Set fields of the header or of entries to numbers that lie at some edge."""
    key = rng.choice(sorted(items))
    if not key:
        header = message_class("BundleHeaderProto").FromString(items[key])
        header.num_shards = rng.choice((-1, 0, 1, 2, 3, 100_001, (1 << 31) - 1))
        header.endianness = rng.choice((0, 1, 2, 5))
        header.version.min_consumer = rng.choice((0, 0, 1, 2, -1))
        items[key] = header.SerializeToString()
        return
    entry = message_class("BundleEntryProto").FromString(items[key])
    field = rng.choice(("dtype", "shard_id", "offset", "size", "crc32c", "dim", "dims", "slices"))
    if field == "dim" and entry.shape.dim:
        sizes = (-1, -2, 0, 1, 1 << 31, (1 << 62) + 1, (1 << 63) - 1)
        rng.choice(entry.shape.dim).size = rng.choice(sizes)
    elif field == "dims":
        for _ in range(rng.choice((1, 2, 250, 300))):
            entry.shape.dim.add(size=rng.choice((0, 1, 1, 2, 1 << 20)))
    elif field == "slices":
        extent = entry.slices.add().extent.add()
        extent.start, extent.length = rng.choice((0, 1, -1)), rng.choice((0, 1, 2, 1 << 40))
    elif field == "dtype":
        entry.dtype = rng.choice((*range(34), 99, 101, -1, 1 << 30))
    elif field == "crc32c":
        entry.crc32c = rng.getrandbits(32)
    elif field == "shard_id":
        entry.shard_id = rng.choice((-1, 0, 1, 2, (1 << 31) - 1))
    elif field in ("offset", "size"):
        old = getattr(entry, field)
        edges = (0, 1, old + 1, old - 1, old * 2, -1, 1 << 31, (1 << 63) - 1)
        setattr(entry, field, rng.choice(edges))
    items[key] = entry.SerializeToString()


def _with_graph(items: dict[bytes, bytes], data: bytes, rng: random.Random) -> bytes:
    """Mutate the object graph, its checksums made anew; return the data with it appended."""
    entry = message_class("BundleEntryProto").FromString(items[GRAPH_KEY])
    stored = data[entry.offset : entry.offset + entry.size]
    size, at = 0, 0
    while stored[at] >= 0x80:
        size |= (stored[at] & 0x7F) << 7 * at
        at += 1
    size |= stored[at] << 7 * at
    graph = noise(stored[at + 5 : at + 5 + size], rng)
    new, crc = crafted.string_tensor(graph)
    entry.offset, entry.size, entry.crc32c = len(data), len(new), crc
    items[GRAPH_KEY] = entry.SerializeToString()
    return data + new


# --- other formats --------------------------------------------------------------------------------


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """Return a mutant whose header length fits its header."""
    if rng.random() < 0.2:
        return noise(data, rng)
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.5:
        header = noise(header, rng)
    else:
        header = json.dumps(_mutated_json(json.loads(header), rng)).encode()
    return struct.pack("<Q", len(header)) + header + rest


def _mutated_json(value: object, rng: random.Random) -> object:
    """Return a JSON value with one part replaced."""
    parts: list[tuple[object, object]] = []
    pending: list[object] = [value]
    while pending:
        item = pending.pop()
        children = (
            item.items()
            if isinstance(item, dict)
            else enumerate(item)
            if isinstance(item, list)
            else ()
        )
        for key, child in children:
            parts.append((item, key))
            pending.append(child)
    if not parts:
        return value
    owner, key = rng.choice(parts)
    odd: list[object] = [None, -1, 0, 1.5, 1 << 63, True, "", "F32", [], {}, [[]], "\0", "../x",
                         [1 << 40, 1 << 40], {"class_name": "Lambda"}]  # fmt: skip
    if isinstance(owner, dict) and rng.random() < 0.2:
        owner[f"{key}_"] = owner.pop(key)
    else:
        owner[key] = rng.choice(odd)  # type: ignore[index]
    return value


def json_text(data: bytes, rng: random.Random, noisy: float = 0.4) -> bytes:
    """Return a mutant of a JSON text: of its bytes (a share of `noisy`), else of its values."""
    if rng.random() < noisy:
        return noise(data, rng)
    try:
        return json.dumps(_mutated_json(json.loads(data), rng)).encode()
    except ValueError:  # a mutant of a mutant
        return noise(data, rng)


def archive(data: bytes, rng: random.Random) -> bytes:
    """Return a mutant of a zip archive: its structure, or a member under a right CRC."""
    if rng.random() < 0.4:
        return noise(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    target = rng.choice(sorted(members))
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as new:
        for name, content in members.items():
            if name == target:
                content = _member(name, content, rng)
            new.writestr(name, content)
    return sink.getvalue()


def _member(name: str, content: bytes, rng: random.Random) -> bytes:
    if name.endswith(".json") and rng.random() < 0.7:
        return json.dumps(_mutated_json(json.loads(content), rng)).encode()
    if name.endswith(".npy") and rng.random() < 0.7:
        head = min(len(content), 128)
        return noise(content[:head], rng) + content[head:]
    return noise(content, rng)


def plain(data: bytes, rng: random.Random) -> bytes:
    """Return a mutant without any checksum to mind."""
    return noise(data, rng)


def deflated(data: bytes) -> bytes:
    """Return raw deflate data."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@cache
def golden_files(prefix: Path) -> Files:
    """Return the files of a golden checkpoint, named as prefix `c`."""
    return {
        "c" + path.name[len(prefix.name) :]: path.read_bytes()
        for path in sorted(prefix.parent.glob(f"{prefix.name}.*"))
    }


Mutator = Callable[[bytes, random.Random], bytes]
