"""npz: a zip archive of `.npy` files, one per tensor, as `numpy.savez` writes it.

    \\x93NUMPY, major, minor    version 1.0, 2.0 or 3.0
    header length              uint16 (1.0) or uint32 little-endian, at most 10,000 here
    header                     {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
    values                     to the end of the member, which must be exactly as long

The zip around it is read by `ckptkit.stores.containers`; its CRC-32 is compared at the end of
`blocks`.
Nothing is unpickled, ever: an array of Python objects is listed as dtype `object` and refused when
read.  Other dtypes without a counterpart (records, dates, long doubles, and the `V2` and `V1` that
numpy makes of bfloat16 and float8 arrays) are opaque bytes.  `npz.writer` keeps the true
dtypes of what it writes in the member `ckptkit.json`.  `U` strings are given as UTF-8; trailing
NULs of `S` and `U` are padding.
Source: numpy.lib.format.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.dtypes import itemsize
from ckptkit.errors import (
    FormatError,
    TruncatedError,
    UnknownTensorError,
    UnsupportedError,
)
from ckptkit.stores import metadata as tensor_metadata
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, StoredNames, TensorSpec
from ckptkit.stores.containers import zip_archive
from ckptkit.stores.containers.encoded_array import PLAIN, ByteSource, EncodedArray, Encoding
from ckptkit.stores.containers.member_source import (
    SequentialMember,
    member_source,
    verify_member,
)
from ckptkit.stores.npz import column_major
from ckptkit.stores.npz.npy import MAGIC, NpyHeader, decode_descr, read_npy_header
from ckptkit.stores.reopening import pickled
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

METADATA_MEMBER = "ckptkit.json"
MAX_METADATA = 256 << 20  # bytes; names of a million tensors


class NpzMember(NamedTuple):
    """Where one tensor lies: its member, where its values start in it, and how they are kept."""

    member: zip_archive.Member
    start: int
    encoding: Encoding
    fortran: bool


@dataclass(frozen=True, slots=True)
class NpzStore:
    """An npz file; made by `open_npz`."""

    path: Path
    producer: str | None
    specs: Mapping[str, TensorSpec]
    structure: StoredNames | None
    notes: tuple[str, ...]
    parts: Mapping[str, NpzMember]

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_npz, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return (self.path,)

    @property
    def format(self) -> str:
        return "npz"

    @property
    def style(self) -> str:
        return ""

    @property
    def shards(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def missing_shards(self) -> tuple[Path, ...]:
        return ()

    @property
    def model(self) -> ModelInfo | None:
        return None

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) over the tensor; see `Store.blocks`.  The CRC-32 is the zip's."""
        spec, part = self._found(key)
        if part.fortran:
            yield from column_major.blocks(self._encoded(spec, part), spec.shape, max_elements)
            verify_member(self.path, part.member)
        elif part.encoding.form == "strings":  # not read front to back
            yield from self._encoded(spec, part).blocks(max_elements)
            verify_member(self.path, part.member)
        else:
            source = SequentialMember(self.path, part.member, part.start)
            yield from self._encoded(spec, part, source).blocks(max_elements)
            source.finish()

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); see `Store.read`."""
        spec, part = self._found(key)
        start, stop, _ = slice(start, stop).indices(spec.size)
        encoded = self._encoded(spec, part)
        if part.fortran:
            return column_major.read(encoded, spec.shape, start, max(start, stop))
        return encoded.read(start, max(start, stop))

    def mappable(self, key: str) -> bool:
        """Whether the stored bytes are the values in native order."""
        spec, part = self._found(key)
        native = part.encoding.byteorder == sys.byteorder or itemsize(spec.dtype) == 1
        plain = part.encoding.form == PLAIN.form
        return plain and native and spec.offset is not None

    def _found(self, key: str) -> tuple[TensorSpec, NpzMember]:
        try:
            spec, part = self.specs[key], self.parts[key]
        except KeyError:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path)) from None
        if spec.dtype == "object":
            raise UnsupportedError(
                "the array holds pickled Python objects, which are never loaded",
                where=f"{self.path}:{key}",
                hint="save it again as numbers or strings",
            )
        return spec, part

    def _encoded(
        self, spec: TensorSpec, part: NpzMember, source: ByteSource | None = None
    ) -> EncodedArray:
        return EncodedArray(
            source or member_source(self.path, part.member),
            part.start,
            spec.nbytes,
            spec.dtype,
            spec.size,
            part.encoding,
            f"{self.path}:{spec.key}",
        )


def open_npz(path: Path) -> NpzStore:
    """Return the store of an npz file; reads the directory and the header of every member.

    Raises FormatError, TruncatedError, ChecksumError, UnsupportedError, PathNotFoundError.
    """
    members = zip_archive.read_directory(path)
    notes: list[str] = []
    entries = _metadata_in(path, members, notes)
    specs: dict[str, TensorSpec] = {}
    parts: dict[str, NpzMember] = {}
    for name, member in members.items():
        if not name.endswith(".npy") and not _is_array(path, member):
            if name != METADATA_MEMBER:
                notes.append(f"{name!r} in the archive is no array")
            continue
        key = name.removesuffix(".npy")
        if key in specs:
            raise FormatError(
                str(path),
                f"two arrays are called {key!r}: members {key!r} and {key + '.npy'!r}",
                hint="numpy gives the first and hides the other",
            )
        header = read_npy_header(path, member)
        specs[key], parts[key] = _checked(path, key, member, header, entries, notes)
    notes.extend(_opaque_notes(specs))
    return NpzStore(
        path=path,
        producer=None if entries is None else "ckptkit",
        specs=specs,
        structure=None if entries is None else tensor_metadata.stored_names(entries, specs),
        notes=tuple(notes),
        parts=parts,
    )


def _is_array(path: Path, member: zip_archive.Member) -> bool:
    """Whether numpy takes a member for an array, which it does by content, whatever its name."""
    return next(zip_archive.member_chunks(path, member), b"").startswith(MAGIC)


def _metadata_in(
    path: Path, members: Mapping[str, zip_archive.Member], notes: list[str]
) -> dict[str, tensor_metadata.TensorMetadata] | None:
    member = members.get(METADATA_MEMBER)
    if member is None:
        return None
    text = zip_archive.read_member(path, member, MAX_METADATA)
    try:
        return tensor_metadata.load(text, METADATA_MEMBER)
    except FormatError as error:
        notes.append(f"names in {METADATA_MEMBER} are ignored: {error.message}")
        return None


def _checked(
    path: Path,
    key: str,
    member: zip_archive.Member,
    header: NpyHeader,
    entries: dict[str, tensor_metadata.TensorMetadata] | None,
    notes: list[str],
) -> tuple[TensorSpec, NpzMember]:
    """Return spec and part of one member, its size compared with what the header says."""
    where = f"{path}:{member.name}"
    dtype, encoding, width = decode_descr(header.descr, where)
    shape = header.shape
    size = math.prod(shape)
    nbytes = member.nbytes - header.start
    if width is not None and nbytes != size * width:
        error = TruncatedError if nbytes < size * width else FormatError
        raise error(
            where,
            f"values of {header.descr} {shape}",
            expected=f"{size * width} bytes",
            found=nbytes,
        )
    # Raw bytes stay in the order of the file; a single long axis has but one order.
    turned = header.fortran and encoding.form != "raw" and nbytes > 0
    fortran = turned and sum(axis != 1 for axis in shape) > 1
    entry = entries.get(key) if entries else None
    if entry is not None and entry.dtype is not None:
        if tensor_metadata.can_encode(entry, dtype, shape, nbytes) and entry.shape is not None:
            dtype, shape = entry.dtype, entry.shape
            encoding = Encoding("strings") if dtype == "string" else encoding
        else:
            notes.append(f"{key!r} does not hold the {entry.dtype} that {METADATA_MEMBER} claims")
    in_one_run = member.method == zip_archive.STORED and not fortran
    offset = member.offset + header.start if in_one_run else None
    spec = TensorSpec(key, dtype, shape, nbytes, 0, offset)
    return spec, NpzMember(member, header.start, encoding, fortran)


def _opaque_notes(specs: Mapping[str, TensorSpec]) -> Iterator[str]:
    objects = [key for key, spec in specs.items() if spec.dtype == "object"]
    if objects:
        yield (
            f"{list_text([*map(repr, objects)])} hold pickled Python objects: listed, never loaded"
        )
    voids = [key for key, spec in specs.items() if spec.dtype in ("void8", "void16", "float8")]
    if voids:
        yield (
            f"{list_text([*map(repr, voids)])}: numpy kept the bytes but not the dtype (bfloat16 "
            "or float8, most likely), so they are compared as bytes"
        )
