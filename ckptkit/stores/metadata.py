"""What ckptkit keeps beside the values in formats that know only names: safetensors and npz.

One JSON text: `{"version": 1, "tensors": {KEY: {...}}}`, where a tensor's entry has those of these
that say something: `name` (readable, where it is not the key), `role`, `slot_of`,
`checkpoint_key`, and for values that the format has no dtype for, their true `dtype` and `shape`.
Such values are *encoded*, bit for bit, in this form:

    string       uint8, 1-D: n end offsets (uint64 little-endian), then the bytes of all elements
    complex128   float64 with one more axis of size 2, where the format has no complex128
    others       an integer or unsigned integer of the same size

A text that is not understood never makes a file unreadable: encoded values then read as what
they are encoded as.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

from ckptkit.dtypes import DTYPES, itemsize, kind
from ckptkit.errors import FormatError
from ckptkit.stores.base import ROLES, StoredNames
from ckptkit.stores.containers import strict_json

KEY = "ckptkit"
VERSION = 1
MAX_AXES = 254  # of a tensor in TensorFlow


class TensorMetadata(NamedTuple):
    """One tensor's entry; `dtype` and `shape` are None for values that are what they seem."""

    name: str
    role: str
    slot_of: str | None
    checkpoint_key: str | None
    dtype: str | None
    shape: tuple[int, ...] | None


class StoredType(NamedTuple):
    """The dtype and shape under which a format holds the values of a tensor."""

    dtype: str
    shape: tuple[int, ...]


def stored_type(dtype: str, shape: tuple[int, ...], native: Container[str]) -> StoredType | None:
    """Return what values of `dtype` are encoded as, None where they are native or strings.

    Strings are left to the caller, since the size of their stored form depends on the values.
    """
    row = DTYPES[dtype]
    if dtype in native or row.kind == "string":
        return None
    if dtype == "complex128":
        return StoredType("float64", (*shape, 2))
    bits = 8 * row.itemsize
    return StoredType(f"int{bits}" if dtype.startswith("qint") else f"uint{bits}", shape)


def dump(entries: Iterable[tuple[str, TensorMetadata]]) -> str:
    """Return the JSON text for the tensors of a file, given in the order of their keys."""
    tensors: dict[str, dict[str, Any]] = {}
    for key, metadata in entries:
        entry = {field: value for field, value in metadata._asdict().items() if value is not None}
        if entry["name"] == key:
            del entry["name"]
        if entry["role"] == "weight":
            del entry["role"]
        if entry:
            tensors[key] = entry
    return json.dumps({"version": VERSION, "tensors": tensors}, separators=(",", ":"))


def load(text: bytes, where: str) -> dict[str, TensorMetadata]:
    """Return the entries by key; raises FormatError for a text that is not understood."""
    data = strict_json.loads(text, where)
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION or type(version) is not int:
        raise FormatError(where, "metadata version", expected=VERSION, found=version)
    tensors = data.get("tensors")
    if not isinstance(tensors, dict):
        raise FormatError(where, "metadata holds no tensors")
    return {key: _entry(key, entry, where) for key, entry in tensors.items()}


def stored_names(entries: Mapping[str, TensorMetadata], keys: Iterable[str]) -> StoredNames:
    """Return the structure for the tensors `keys`; those without an entry are plain weights."""
    names: dict[str, tuple[str, str, str | None]] = {}
    checkpoint_keys: dict[str, str] = {}
    for key in keys:
        entry = entries.get(key)
        if entry is None:
            names[key] = (key, "weight", None)
            continue
        names[key] = (entry.name, entry.role, entry.slot_of)
        if entry.checkpoint_key is not None:
            checkpoint_keys[key] = entry.checkpoint_key
    return StoredNames(names, checkpoint_keys)


def can_encode(metadata: TensorMetadata, dtype: str, shape: tuple[int, ...], nbytes: int) -> bool:
    """Whether `nbytes` stored as `dtype` and `shape` can be the encoded values of the entry."""
    if metadata.dtype is None or metadata.shape is None:
        return False
    size = 1
    for axis in metadata.shape:
        size *= axis
    if metadata.dtype == "string":
        return dtype == "uint8" and shape == (nbytes,) and nbytes >= 8 * size
    if metadata.dtype == "complex128":
        return dtype == "float64" and shape == (*metadata.shape, 2)
    return (
        kind(dtype) in ("int", "uint")
        and itemsize(dtype) == itemsize(metadata.dtype) > 0
        and shape == metadata.shape
    )


def _entry(key: str, entry: object, where: str) -> TensorMetadata:
    def text(field: str) -> str | None:
        value = entry.get(field) if isinstance(entry, dict) else None
        if value is not None and not isinstance(value, str):
            raise FormatError(where, f"metadata of {key!r}: {field} is no string")
        return value

    if not isinstance(entry, dict):
        raise FormatError(where, f"metadata of {key!r} is no object")
    role = text("role") or "weight"
    shape = entry.get("shape")
    if shape is not None and not (
        isinstance(shape, list)
        and len(shape) <= MAX_AXES
        and all(type(axis) is int and 0 <= axis < 1 << 63 for axis in shape)
    ):
        raise FormatError(where, f"metadata of {key!r}: shape is no list of sizes")
    return TensorMetadata(
        text("name") or key,
        role if role in ROLES else "other",
        text("slot_of"),
        text("checkpoint_key"),
        text("dtype"),
        None if shape is None else tuple(shape),
    )
