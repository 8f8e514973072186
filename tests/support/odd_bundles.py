"""Tensor bundles that TensorFlow reads but does not write here: big-endian, partitioned, snappy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ckptkit._io import crc32c as _crc32c
from ckptkit.dtypes import DTYPES
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.slices import slice_key
from ckptkit.stores.tensor_bundle.table_writer import BLOCK_BYTES, TableWriter, varint
from support.values import Array

Extents = Sequence[tuple[int, int]]
"""(start, length) per axis."""


def write_odd_bundle(
    prefix: Path,
    tensors: Mapping[str, tuple[str, Array]],
    *,
    big_endian: bool = False,
    slices: Mapping[str, Sequence[Extents]] | None = None,
    num_shards: int = 1,
    compression: str = "none",
    block_bytes: int = BLOCK_BYTES,
    padding: int = 0,
) -> Path:
    """Write `tensors` (dtype and values by key) as a name-based checkpoint; return `prefix`.

    slices: the rectangles that a tensor is stored as.  num_shards: data files, filled by turns.
    padding: zero bytes after each tensor.  compression, block_bytes: of the index.
    """
    header = message_class("BundleHeaderProto")(num_shards=num_shards, endianness=int(big_endian))
    header.version.producer = 1
    items = {b"": header.SerializeToString()}
    shards = [bytearray() for _ in range(num_shards)]
    turn = 0

    def place(key: bytes, dtype: str, values: Array) -> None:
        nonlocal turn
        shard = turn % num_shards
        turn += 1
        data, crc = (
            _string_bytes(values, big_endian)
            if dtype == "string"
            else _number_bytes(values, big_endian)
        )
        entry = _entry(dtype, values.shape)
        entry.shard_id, entry.offset = shard, len(shards[shard])
        entry.size, entry.crc32c = len(data), _crc32c.mask(crc)
        items[key] = entry.SerializeToString()
        shards[shard].extend(data + bytes(padding))

    for key, (dtype, values) in tensors.items():
        parts = (slices or {}).get(key)
        if parts is None:
            place(key.encode(), dtype, values)
            continue
        whole = _entry(dtype, values.shape)
        for extents in parts:
            part = whole.slices.add()
            for (start, length), size in zip(extents, values.shape, strict=True):
                extent = part.extent.add()
                if (start, length) != (0, size):  # a whole axis has neither start nor length
                    extent.start, extent.length = start, length
            window = tuple(slice(start, start + length) for start, length in extents)
            place(slice_key(key.encode(), _stored_extents(extents, values)), dtype, values[window])
        items[key.encode()] = whole.SerializeToString()
    for number, data in enumerate(shards):
        Path(f"{prefix}.data-{number:05d}-of-{num_shards:05d}").write_bytes(data)
    with Path(f"{os.fspath(prefix)}.index").open("wb") as file:
        table = TableWriter(file, compression=compression, block_bytes=block_bytes)
        for item in sorted(items.items()):
            table.add(*item)
        table.finish()
    return prefix


def _stored_extents(extents: Extents, values: Array) -> list[tuple[int, int]]:
    return [
        (0, -1) if (start, length) == (0, size) else (start, length)
        for (start, length), size in zip(extents, values.shape, strict=True)
    ]


def _entry(dtype: str, shape: Sequence[int]) -> Any:
    entry = message_class("BundleEntryProto")(dtype=DTYPES[dtype].enum)
    entry.shape.SetInParent()
    for size in shape:
        entry.shape.dim.add(size=size)
    return entry


def _number_bytes(values: Array, big_endian: bool) -> tuple[bytes, int]:
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    unit = values.dtype.itemsize // (2 if values.dtype.kind == "c" else 1)
    if big_endian:
        raw = raw.reshape(-1, unit)[:, ::-1]
    data = raw.tobytes()
    return data, _crc32c.value(data)


def _string_bytes(values: Array, big_endian: bool) -> tuple[bytes, int]:
    order: Literal["big", "little"] = "big" if big_endian else "little"  # of lengths and checksum
    items = [bytes(value) for value in values.reshape(-1)]
    crc = _crc32c.value(b"".join(len(item).to_bytes(4, order) for item in items))
    checksum = _crc32c.mask(crc).to_bytes(4, order)
    content = b"".join(items)
    crc = _crc32c.extend(crc, checksum + content)
    return b"".join(varint(len(item)) for item in items) + checksum + content, crc
