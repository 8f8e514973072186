"""Decompression of what TensorStore compresses: zstd, gzip, zlib, bz2 and blosc, each bounded.

zstd, and lz4 and snappy inside of blosc, are decoded by `cramjam`, which the extra `orbax`
installs; the rest is in Python's own library.  What a decoder gives is written into memory that
was taken before, of the size that the array's metadata says, and one byte more or less is refused.

A blosc chunk (version 1) is a header of 16 bytes: versions of format and codec, flags (1: bytes are
shuffled, 2: not compressed, 4: bits are shuffled, 16: blocks are not split by the bytes of an
element; bits 5 to 7: the codec), bytes of an element, size, size of a block, size of the chunk
(uint32 little-endian).  Then the places of the blocks (uint32), and each block: one or, if split,
as many parts as an element has bytes, each its length (int32) and its bytes, which are plain where
they are as long as the part.  Source: c-blosc/README_CHUNK_FORMAT.rst, blosc/blosc.c.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ckptkit.errors import FormatError, MissingDependencyError, UnsupportedError

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

INSTALL = "pip install 'ckptkit-tf[orbax]'"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_FIRST_TRY = 1 << 16  # bytes of a frame that does not say how long it is
_BLOSC_HEADER = 16
_SHUFFLED, _PLAIN, _BIT_SHUFFLED, _UNSPLIT = 1, 2, 4, 16
_MIN_SPLIT = 128  # elements of a part: smaller blocks are never split
_MAX_SPLITS = 16
_BLOSC_CODECS = ("blosclz", "lz4", "snappy", "zlib", "zstd")


def decompress(codec: str, data: bytes, nbytes: int, where: str) -> bytes | bytearray:
    """Return the `nbytes` bytes that data decompresses to.

    Args:
        codec: zstd, gzip, zlib, bz2 or blosc.
        data: what was stored.
        nbytes: how many bytes it must give.
        where: for messages.

    Raises:
        FormatError: it does not decompress, or to another number of bytes.
        UnsupportedError: another codec.
        MissingDependencyError: cramjam is not installed.
    """
    decoder = _DECODERS.get(codec)
    if decoder is None:
        raise UnsupportedError(f"values compressed by {codec}, which is not read", where=where)
    try:
        found = decoder(data, nbytes, where)
    except (zlib.error, OSError, EOFError, ValueError) as error:
        raise FormatError(where, f"damaged {codec} data: {error}") from error
    if len(found) != nbytes:
        raise FormatError(where, f"bytes behind {codec}", expected=nbytes, found=len(found))
    return found


def decompress_unsized(data: bytes, max_bytes: int, where: str) -> bytes:
    """Return what a zstd frame decompresses to that may not say how long it is.

    Raises FormatError where it is damaged or longer than `max_bytes`, MissingDependencyError.
    """
    codec = _cramjam("zstd", where).zstd
    size = _zstd_size(data)
    room = min(max_bytes, _FIRST_TRY if size is None else size)
    while True:
        buffer = bytearray(room + 1)
        try:
            count = codec.decompress_into(data, buffer)
        except Exception as error:
            if not _is_damage(error):
                raise
            if size is not None or room >= max_bytes or "whole buffer" not in str(error):
                raise FormatError(where, f"damaged zstd data: {error}") from error
            room = min(max_bytes, room * 8)
            continue
        if count > room:
            raise FormatError(where, f"zstd data of more than {room:,} bytes")
        return bytes(memoryview(buffer)[:count])


def _zstd_size(data: bytes) -> int | None:
    """Return the length that the header of a zstd frame gives; None where it gives none."""
    if data[:4] != _ZSTD_MAGIC or len(data) < 6:
        return None
    flags = data[4]
    is_single = bool(flags & 0x20)
    width = (1 if is_single else 0, 2, 4, 8)[flags >> 6]
    at = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(data[at : at + width], "little")
    return (size + 256 if width == 2 else size) if width else None


def _zstd(data: bytes, nbytes: int, where: str) -> bytearray:
    return _into("zstd", _cramjam("zstd", where).zstd.decompress_into, data, nbytes, where)


def _into(
    codec: str, decode: Callable[[bytes, bytearray], int], data: bytes, nbytes: int, where: str
) -> bytearray:
    buffer = bytearray(nbytes)
    try:
        count = decode(data, buffer)
    except Exception as error:
        if not _is_damage(error):
            raise
        raise FormatError(where, f"damaged {codec} data: {error}") from error
    if count != nbytes:
        raise FormatError(where, f"bytes behind {codec}", expected=nbytes, found=count)
    return buffer


def _is_damage(error: Exception) -> bool:
    """Whether cramjam says that data are damaged; its class is no subclass of ours to catch."""
    return type(error).__name__ == "DecompressionError"


def _gzip(data: bytes, nbytes: int, where: str) -> bytes:
    return _inflated(data, nbytes, zlib.MAX_WBITS | 16, where)


def _zlib(data: bytes, nbytes: int, where: str) -> bytes:
    return _inflated(data, nbytes, zlib.MAX_WBITS, where)


def _inflated(data: bytes, nbytes: int, window: int, where: str) -> bytes:
    decoder = zlib.decompressobj(window)
    found = decoder.decompress(data, nbytes + 1)
    if len(found) == nbytes and not decoder.eof:
        found += decoder.decompress(decoder.unconsumed_tail, 1)
    if not decoder.eof or decoder.unused_data:
        raise FormatError(where, "deflated data do not end where they should")
    return found


def _bz2(data: bytes, nbytes: int, where: str) -> bytes:
    import bz2  # which few arrays need

    decoder = bz2.BZ2Decompressor()
    found = decoder.decompress(data, nbytes + 1)
    if len(found) == nbytes and not decoder.eof:
        found += decoder.decompress(b"", 1)
    if not decoder.eof or decoder.unused_data:
        raise FormatError(where, "bz2 data do not end where they should")
    return found


def _cramjam(codec: str, where: str) -> ModuleType:
    try:
        import cramjam
    except ImportError as error:
        raise MissingDependencyError(
            f"compressed by {codec}, which needs cramjam", where=where, hint=INSTALL
        ) from error
    module: ModuleType = cramjam
    return module


# --- blosc ----------------------------------------------------------------------------------------


def _blosc(data: bytes, nbytes: int, where: str) -> bytes:
    if len(data) < _BLOSC_HEADER:
        raise FormatError(where, "a blosc chunk without a header")
    version, _, flags, width = data[:4]
    size, block_size, stored = (int.from_bytes(data[at : at + 4], "little") for at in (4, 8, 12))
    if version != 2:
        raise UnsupportedError(f"blosc of version {version}", where=where)
    if size != nbytes or stored != len(data):
        raise FormatError(
            where, "size of a blosc chunk", expected=(nbytes, len(data)), found=(size, stored)
        )
    if not size:
        return b""
    if flags & _PLAIN:
        return data[_BLOSC_HEADER:]
    if not block_size or not width:
        raise FormatError(where, "a blosc chunk of blocks of no bytes")
    codec = flags >> 5
    name = _BLOSC_CODECS[codec] if codec < len(_BLOSC_CODECS) else str(codec)
    starts = range(0, size, block_size)
    if _BLOSC_HEADER + 4 * len(starts) > len(data):
        raise FormatError(where, "a blosc chunk without the places of its blocks")
    found = []
    for index, start in enumerate(starts):
        place = _BLOSC_HEADER + 4 * index
        at = int.from_bytes(data[place : place + 4], "little")
        length = min(block_size, size - start)
        block = _blosc_block(data, at, length, flags, width, length < block_size, name, where)
        found.append(_unshuffled(block, flags, width))
    return b"".join(found)


def _blosc_block(
    data: bytes,
    at: int,
    nbytes: int,
    flags: int,
    width: int,
    is_last: bool,
    codec: str,
    where: str,
) -> bytes:
    is_split = (
        not flags & _UNSPLIT
        and not is_last
        and width <= _MAX_SPLITS
        and nbytes // width >= _MIN_SPLIT
    )
    parts = width if is_split else 1
    if nbytes % parts:
        raise FormatError(where, "a blosc block that cannot be split")
    found = []
    for _ in range(parts):
        length = int.from_bytes(data[at : at + 4], "little", signed=True)
        part = data[at + 4 : at + 4 + length]
        if length < 0 or len(part) != length or at < _BLOSC_HEADER:
            raise FormatError(where, "a blosc block outside of its chunk")
        at += 4 + length
        room = nbytes // parts
        found.append(part if length == room else bytes(_of_blosc(codec, part, room, where)))
    return b"".join(found)


def _of_blosc(codec: str, data: bytes, nbytes: int, where: str) -> bytes | bytearray:
    if codec == "lz4":
        module = _cramjam(codec, where).lz4
        return _into(codec, _block_decoder(module), data, nbytes, where)
    if codec == "snappy":
        module = _cramjam(codec, where).snappy
        return _into(codec, module.decompress_raw_into, data, nbytes, where)
    if codec in ("zlib", "zstd"):
        return decompress(codec, data, nbytes, where)
    raise UnsupportedError(
        f"values compressed by blosc with {codec}, which is not read",
        where=where,
        hint="save it with zstd",
    )


def _block_decoder(lz4: Any) -> Callable[[bytes, bytearray], int]:
    def decode(data: bytes, buffer: bytearray) -> int:
        count: int = lz4.decompress_block_into(data, buffer, output_len=len(buffer))
        return count

    return decode


def _unshuffled(block: bytes, flags: int, width: int) -> bytes:
    """Return a block's bytes in the order in which they were before its bytes or bits were sorted.

    What is left over behind whole elements was not sorted; bits of elements whose number is no
    multiple of eight were not either.
    """
    import numpy as np

    data: Array = np.frombuffer(block, np.uint8)
    if flags & _SHUFFLED and width > 1:
        whole = len(data) // width * width
        turned = data[:whole].reshape(width, -1).T.tobytes()
        return turned + block[whole:]
    if flags & _BIT_SHUFFLED:
        whole = len(data) // width * width
        if whole // width % 8:
            return block
        bits = np.unpackbits(data[:whole], bitorder="little").reshape(8 * width, -1)
        return np.packbits(bits.T, bitorder="little").tobytes() + block[whole:]
    return block


_DECODERS: dict[str, Callable[[bytes, int, str], bytes | bytearray]] = {
    "zstd": _zstd,
    "gzip": _gzip,
    "zlib": _zlib,
    "bz2": _bz2,
    "blosc": _blosc,
}
