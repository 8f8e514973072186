"""How libhdf5 is let at the bytes of a byte range, and what is made of its complaints.

An archive member is read in place, without the file locks and the driver choice that a path would
bring.  Small reads come from pages, and a damaged global heap is refused before libhdf5 sees it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptkit.errors import CkptkitError, FormatError, TruncatedError
from ckptkit.stores.containers.byte_range import PAGE, ByteRange, PageCache
from ckptkit.stores.hdf5.types import MAX_ATTRIBUTE_BYTES
from ckptkit.stores.hdf5.user_block import SIGNATURE

_HEAP_HEAD = 16  # bytes of a global heap's header, and of each object's in it


class ByteRangeFile(io.RawIOBase):
    """A byte range as the read-only file object that h5py's "fileobj" driver wants."""

    def __init__(self, byte_range: ByteRange) -> None:
        self._range = byte_range
        self._at = 0
        self._pages = PageCache(byte_range)
        self._heaps: set[int] = set()
        self.error: CkptkitError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._at, self._range.nbytes)[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._range.nbytes - self._at))
        try:
            if count >= _HEAP_HEAD:
                self._check_heap()
            if count <= PAGE:
                self._copy_cached(view[:count])
            else:
                self._range.read_into(self._at, view[:count])
        except CkptkitError as error:
            self.error = error  # libhdf5 would turn it into a message about addresses
            raise
        self._at += count
        return count

    def _check_heap(self) -> None:
        """Refuse a damaged global heap (the place of variable-length strings) before it is read.

        libhdf5 1.14 loops for ever on an object whose size wraps around.  Layout: "GCOL", version,
        3 zero bytes, size (8 bytes); then objects: index (2), references (2), 4 zero bytes, size
        (8), data padded to 8 bytes; index 0 is free space, its size counts its own header.
        """
        start = self._at
        if start in self._heaps or self._range.read(start, 4) != b"GCOL":
            return
        self._heaps.add(start)
        size = int.from_bytes(self._range.read(start + 8, 8), "little")
        where = f"{self._range.path} @ {self._range.start + start}"
        if not _HEAP_HEAD <= size <= min(MAX_ATTRIBUTE_BYTES, self._range.nbytes - start):
            raise FormatError(where, "damaged HDF5 global heap", found=f"a size of {size} bytes")
        heap = self._range.read(start, size)
        at = _HEAP_HEAD
        while at + _HEAP_HEAD <= size:
            length = int.from_bytes(heap[at + 8 : at + 16], "little")
            if heap[at] or heap[at + 1]:
                length = _HEAP_HEAD + (length + 7) // 8 * 8
            if not _HEAP_HEAD <= length <= size - at:
                raise FormatError(where, f"damaged HDF5 global heap: object of {length} bytes")
            at += length

    def _copy_cached(self, view: memoryview) -> None:
        """Serve small reads from pages: libhdf5 asks for a group's parts in a dozen small reads."""
        at, done = self._at, 0
        while done < len(view):
            number, skip = divmod(at + done, PAGE)
            part = self._pages.page(number)[skip : skip + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)


@contextmanager
def guard(path: Path, source: ByteRangeFile | None = None) -> Iterator[None]:
    """Turn whatever h5py says of a damaged file into one FormatError; our own errors pass."""
    try:
        yield
    except CkptkitError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
        if source is not None and source.error is not None:
            raise source.error from None
        text = " ".join(str(error.args[0] if error.args else error).split())
        kind = TruncatedError if "truncated" in text else FormatError
        raise kind(
            str(path), f"damaged HDF5 data: {text[:200]}", hint="copy the file again"
        ) from None


@contextmanager
def opened(h5: Any, byte_range: ByteRange) -> Iterator[Any]:
    """Open the byte range as an HDF5 file (low-level FileID); all of it is closed at the end."""
    if byte_range.nbytes < len(SIGNATURE) or byte_range.read(0, len(SIGNATURE)) != SIGNATURE:
        raise FormatError(str(byte_range.path), "no HDF5 signature at the start of the data")
    source = ByteRangeFile(byte_range)
    with guard(byte_range.path, source):
        access = h5.h5p.create(h5.h5p.FILE_ACCESS)
        access.set_fclose_degree(h5.h5f.CLOSE_STRONG)
        access.set_fileobj_driver(h5.h5fd.fileobj_driver, source)
        file = h5.h5f.open(os.fsencode(byte_range.path), h5.h5f.ACC_RDONLY, fapl=access)
        try:
            yield file
        finally:
            file.close()
