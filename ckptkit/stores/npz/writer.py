"""Writing `.npz`: a zip archive of one `KEY.npy` per tensor, which plain numpy loads.

The format is that of `ckptkit.stores.npz.reader`.  Members are stored, or deflated on request, in
the order of their keys, with fixed timestamps; the npy header is padded so that the values of a
stored member start at a multiple of 64 bytes in the file.  Dtypes that numpy lacks (bfloat16,
float8, ...) are encoded as unsigned integers of the same size; the member `ckptkit.json` (see
`ckptkit.stores.metadata`) tells what they are, and names and roles.  Strings are `S` where that is
lossless (no element ends in NUL) and not much larger, else encoded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ckptkit._io.atomic import replacing
from ckptkit.dtypes import itemsize
from ckptkit.errors import OutputError
from ckptkit.stores import metadata as tensor_metadata
from ckptkit.stores.npz.npy import MAGIC, NATIVE
from ckptkit.stores.npz.reader import METADATA_MEMBER
from ckptkit.stores.writing import (
    Blocks,
    TensorToWrite,
    checked_blocks,
    checked_tensors,
    element_bytes,
    encoded_string_chunks,
    measure_strings,
    metadata_of,
    numeric_chunks,
)
from ckptkit.text import lazy_pattern

_ALIGNMENT = 64  # bytes, of the first value in the file
_BUFFER_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive can hold
_PADDING_FLOOR = 1 << 20  # bytes; up to here fixed-width strings are never too large
_PADDING_FACTOR = 4  # times the bytes of encoded strings
_UNSAFE_NAME = lazy_pattern(r"\A/|\A[A-Za-z]:[/\\]|\\|\0|(\A|/)\.{0,2}(/|\Z)")


class _PlacedMember(NamedTuple):
    """A tensor with its npy header's descr and shape.  width: of fixed-width strings."""

    tensor: TensorToWrite
    descr: str
    shape: tuple[int, ...]
    nbytes: int
    encoded: bool
    width: int = 0


def write_npz(
    path: Path,
    tensors: Iterable[TensorToWrite],
    blocks: Blocks,
    *,
    compress: bool = False,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write the tensors to an npz file.

    Args:
        path: of the file.
        tensors: what to write; the file has them in the order of their keys.
        blocks: gives the values of a key.
        compress: deflate the members; equal bytes are then promised for one version of zlib only.
        overwrite: replace a file that is there.

    Returns:
        (path,).

    Raises:
        OutputError: the file is there already or cannot be written, two tensors have one key, the
            values are not those announced, or a name would be a path outside when the archive is
            unpacked.
    """
    where = str(path)
    placed = [_place(tensor, blocks, where) for tensor in checked_tensors(tensors, where)]
    entries = [(item.tensor.key, metadata_of(item.tensor, encoded=item.encoded)) for item in placed]
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with (
        replacing(path, overwrite=overwrite) as temporary,
        temporary.open("wb", buffering=_BUFFER_BYTES) as file,
        zipfile.ZipFile(file, "w", method) as archive,
    ):
        for item in placed:
            _write_member(archive, file, item, blocks, where)
        archive.writestr(_member(METADATA_MEMBER, method), tensor_metadata.dump(entries))
    return (path,)


def _place(tensor: TensorToWrite, blocks: Blocks, where: str) -> _PlacedMember:
    _check_name(tensor.key, where)
    if tensor.dtype == "string":
        sizes = measure_strings(tensor, blocks, where)
        encoded_bytes = 8 * tensor.size + sizes.total
        width = max(1, sizes.longest)
        limit = max(_PADDING_FLOOR, _PADDING_FACTOR * encoded_bytes)
        if not sizes.ends_in_nul and tensor.size * width <= limit:
            nbytes = tensor.size * width
            return _PlacedMember(
                tensor, f"|S{width}", tensor.shape, nbytes, encoded=False, width=width
            )
        return _PlacedMember(tensor, "|u1", (encoded_bytes,), encoded_bytes, encoded=True)
    stored = tensor_metadata.stored_type(tensor.dtype, tensor.shape, NATIVE)
    dtype, shape = stored or (tensor.dtype, tensor.shape)
    nbytes = tensor.size * itemsize(tensor.dtype)
    return _PlacedMember(tensor, NATIVE[dtype], shape, nbytes, stored is not None)


def is_safe_name(key: str) -> bool:
    """Whether `KEY.npy` can be the name of an archive member."""
    return not _UNSAFE_NAME.search(key) and len(key.encode("utf-8")) <= 0xFFFF - len(".npy")


def _check_name(key: str, where: str) -> None:
    try:
        safe = is_safe_name(key)
    except UnicodeEncodeError:
        raise OutputError(f"the name {key!r} is no Unicode text", where=where) from None
    if not safe:
        raise OutputError(
            f"{key!r} cannot be the name of an archive member",
            where=where,
            hint="it would be a path outside when unpacked; map it to another name",
        )


def _member(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = method
    info.create_system = 3  # Unix, on every system
    info.external_attr = 0o644 << 16
    return info


def _write_member(
    archive: zipfile.ZipFile, file: BinaryIO, item: _PlacedMember, blocks: Blocks, where: str
) -> None:
    info = _member(f"{item.tensor.key}.npy", archive.compression)
    info.file_size = item.nbytes + 4 * _ALIGNMENT + 32 * len(item.shape)  # decides on ZIP64
    with archive.open(info, "w") as member:
        member.write(_npy_header(item.descr, item.shape, file.tell()))
        for chunk in _chunks(item, blocks, where):
            member.write(chunk)


def _npy_header(descr: str, shape: tuple[int, ...], position: int) -> bytes:
    """Return a version 1.0 header after which the values, from `position` on, are aligned."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}"
    length = len(MAGIC) + 4 + len(text) + 1
    text += " " * (-(position + length) % _ALIGNMENT) + "\n"
    return MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")


def _chunks(item: _PlacedMember, blocks: Blocks, where: str) -> Iterator[bytes | memoryview]:
    if item.width:
        yield from _fixed_strings(item, blocks, where)
    elif item.tensor.dtype == "string":
        yield from encoded_string_chunks(item.tensor, blocks, where)
    else:
        for piece in numeric_chunks(item.tensor, blocks, where):
            yield piece.view


def _fixed_strings(item: _PlacedMember, blocks: Blocks, where: str) -> Iterator[bytes]:
    for values in checked_blocks(item.tensor, blocks, where):
        data = bytearray()
        for value in values:
            padded = element_bytes(value, item.tensor, where).ljust(item.width, b"\0")
            if len(padded) > item.width:
                raise OutputError(
                    f"the strings of {item.tensor.key!r} changed while written", where=where
                )
            data += padded
        yield bytes(data)
