"""What a scan of an HDF5 file gives, and the limits that it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ckptkit.errors import FormatError, TruncatedError
from ckptkit.stores.containers.byte_range import ByteRange

MAX_OBJECTS = 1_000_000  # groups and datasets; a large model has 20,000
MAX_DEPTH = 64  # nested models reach about 20
MAX_ATTRIBUTES = 4096  # per object; legacy files split long lists over a few dozen
MAX_ATTRIBUTE_BYTES = 64 << 20  # a model's config is one attribute; the largest seen is 4 MB
MAX_EXPANSION = 1000  # declared bytes per stored byte
MAX_CHUNK_BYTES = 256 << 20  # libhdf5 allocates a chunk whole
# registered filter numbers: deflate, shuffle, fletcher32; 32000 is lzf, which h5py brings along
FILTERS = {1, 2, 3, 32000}
EXPANSION_FLOOR = 64 << 20  # bytes that may be declared without storing anything

Attribute = str | int | float | bool | tuple["Attribute", ...] | None


class H5Dataset(NamedTuple):
    """A dataset that passed every check.

    path: from the file's root, no leading slash.  dtype: see `ckptkit.dtypes`.  nbytes: bytes of
    the values (of the stored form for strings).  offset: of the values within the byte range, where
    they are one run of bytes in native order; else None.  width: bytes per element of an opaque
    or fixed-length string type, 0 otherwise.  header: address of its object header, which HDF5
    gives out in rising order (values lie elsewhere, small ones apart from large ones).
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int | None
    width: int = 0
    header: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class H5Tree(NamedTuple):
    """All groups (path -> attributes; the root is "") and datasets of a file, in file order."""

    groups: Mapping[str, Mapping[str, Attribute]]
    datasets: Mapping[str, H5Dataset]


LEADS_OUT = "hdf5.link"  # the code of what can lead a reader to other files


def refusal(path: Path, name: str, what: str) -> FormatError:
    """Return the error for something in an HDF5 file that no weights file needs."""
    error = FormatError(
        str(path),
        f"{name} is a {what}, which is refused",
        hint="no Keras file has one; it can lead a reader to other files",
    )
    error.code = LEADS_OUT
    return error


BOMB = "hdf5.bomb"  # the code of a dataset that takes far more memory than it stores


def check_stored(path: Path, name: str, nbytes: int, stored: int) -> None:
    """Raise FormatError where a dataset declares far more bytes than it stores."""
    if nbytes > max(EXPANSION_FLOOR, MAX_EXPANSION * stored):
        error = FormatError(
            str(path),
            f"{name} declares far more than it stores",
            expected=f"at most {MAX_EXPANSION} times {stored} bytes",
            found=nbytes,
        )
        error.code = BOMB
        raise error


def check_place(byte_range: ByteRange, offset: int, nbytes: int, path: str) -> None:
    """Raise TruncatedError where the values of a dataset reach past the end of the data."""
    if offset + nbytes > byte_range.nbytes:
        raise TruncatedError(
            f"{byte_range.path} @ {byte_range.start + offset}",
            f"{path} reaches past the end of the data",
            expected=f"{nbytes} bytes",
            found=max(0, byte_range.nbytes - offset),
        )
