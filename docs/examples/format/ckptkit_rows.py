"""The format `rows`: a line of JSON per tensor, then all values.

    ROWS1\n                                        the magic
    {"key": "a", "dtype": "float32", "shape": [2, 3]}\n   a line per tensor
    \n                                              an empty line ends the list
    values                                          row-major, little-endian, in that order

The values must fill the file to its last byte.  Dtypes are numpy's.  A list of more than 1 MiB is
refused.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit._io.atomic import replacing
from ckptkit._io.files import file_size, read_exact
from ckptkit.dtypes import DTYPES, itemsize
from ckptkit.errors import FormatError, OutputError, UnknownTensorError
from ckptkit.stores.base import BLOCK_ELEMENTS, TensorSpec
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.containers.encoded_array import PLAIN, EncodedArray
from ckptkit.stores.registry import Format, Head
from ckptkit.stores.reopening import pickled
from ckptkit.stores.writing import Blocks, TensorToWrite, checked_tensors

MAGIC = b"ROWS1\n"
MAX_LIST = 1 << 20  # bytes
ROWS = Format(
    "rows",
    "an example of a format from outside",
    "weights.rows",
    opener="ckptkit_rows:open_rows",
    detect="ckptkit_rows:is_rows",
    suffixes=(".rows",),
    writer="ckptkit_rows:write_rows",
)


def is_rows(head: Head) -> bool:
    """Whether a file begins as this format does."""
    return head.start.startswith(MAGIC)


@dataclass(frozen=True)
class RowsStore:
    """The tensors of one file; see `ckptkit.stores.base.Store`."""

    path: Path
    specs: Mapping[str, TensorSpec]
    format = "rows"
    style = ""
    producer = None
    structure = None
    model = None
    notes = ()
    missing_shards = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_rows, self.path)  # a worker opens the file for itself

    @property
    def shards(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Any]]:
        """Yield (start, values) over the whole tensor, in order."""
        return self._values(key).blocks(max_elements)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Any:
        """Return elements [start, stop)."""
        values = self._values(key)
        start, stop, _ = slice(start, stop).indices(values.size)
        return values.read(start, max(start, stop))

    def mappable(self, key: str) -> bool:
        """Whether the file's bytes are the values in this machine's order."""
        return key in self.specs and sys.byteorder == "little"

    def _values(self, key: str) -> EncodedArray:
        if key not in self.specs:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path))
        spec = self.specs[key]
        place = ByteRange(self.path, spec.offset or 0, spec.nbytes)
        where = f"{self.path}:{key}"
        return EncodedArray(place, 0, spec.nbytes, spec.dtype, spec.size, PLAIN, where)


def open_rows(path: Path) -> RowsStore:
    """Return the store of a `.rows` file.

    Raises FormatError where it breaks the format, PathNotFoundError where there is nothing.
    """
    size = file_size(path)
    head = read_exact(path, 0, min(size, MAX_LIST))
    lines, end, _ = head.removeprefix(MAGIC).partition(b"\n\n")
    if not head.startswith(MAGIC) or not end:
        raise FormatError(str(path), "no list of tensors at its beginning")
    offset = len(MAGIC) + len(lines) + len(end)
    specs: dict[str, TensorSpec] = {}
    for line in lines.splitlines():
        spec = _spec(line, offset, str(path))
        if spec.key in specs:
            raise FormatError(str(path), f"two tensors are called {spec.key!r}")
        specs[spec.key] = spec
        offset += spec.nbytes
    if offset != size:  # neither cut nor with anything behind
        raise FormatError(str(path), "its size", expected=offset, found=size)
    return RowsStore(path, specs)


def _spec(line: bytes, offset: int, where: str) -> TensorSpec:
    try:
        row = json.loads(line)
        key, dtype, shape = row["key"], row["dtype"], tuple(row["shape"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(where, f"a line that describes no tensor: {line[:40]!r}") from error
    whole = all(type(axis) is int and axis >= 0 for axis in shape)
    if not isinstance(key, str) or dtype not in DTYPES or not itemsize(dtype) or not whole:
        raise FormatError(where, f"a line that describes no tensor: {line[:40]!r}")
    # In Python's integers: no shape is too large to be told from the size of the file.
    return TensorSpec(key, dtype, shape, math.prod(shape) * itemsize(dtype), 0, offset)


def write_rows(
    path: Path, tensors: Iterable[TensorToWrite], blocks: Blocks, *, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write tensors, sorted by key, so that equal tensors give equal files; return (path,).

    Raises OutputError for a dtype without a fixed size, and where the file cannot be written.
    """
    where = os.fspath(path)
    ordered = checked_tensors(tensors, where)
    for tensor in ordered:
        if not itemsize(tensor.dtype):
            raise OutputError(f"{tensor.key!r} is {tensor.dtype}, which has no size", where=where)
    with replacing(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        file.write(MAGIC)
        for tensor in ordered:
            row = {"key": tensor.key, "dtype": tensor.dtype, "shape": tensor.shape}
            file.write(json.dumps(row).encode() + b"\n")
        file.write(b"\n")
        for tensor in ordered:
            for _, values in blocks(tensor.key):
                file.write(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return (path,)
