"""Values of HDF5 datasets that `hdf5.scan` has checked: read in spans, or written.

Values that are one run of bytes in native order are read straight from the byte range; the rest
(chunked, compressed, foreign byte order, strings) through libhdf5.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ckptkit.dtypes as dtypes
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.hdf5.file_object import guard, opened
from ckptkit.stores.hdf5.reader import h5py_module
from ckptkit.stores.hdf5.types import H5Dataset

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_CHUNK_CACHE = 32 << 20  # bytes that libhdf5 may keep decompressed while a dataset is read


def dataset_blocks(
    byte_range: ByteRange, dataset: H5Dataset, max_elements: int
) -> Iterator[tuple[int, Array]]:
    """Yield (start, values): 1-D, row-major, at most `max_elements` each, through one buffer.

    Strings come as object arrays of bytes, opaque values as their bytes (uint8).
    """
    if dataset.offset is not None:
        yield from _direct_blocks(byte_range, dataset, max_elements)
        return
    if not dataset.size:
        return
    for start in range(0, dataset.size, max_elements):
        stop = min(start + max_elements, dataset.size)
        yield start, _by_libhdf5(byte_range, dataset, start, stop)


def read_span(byte_range: ByteRange, dataset: H5Dataset, start: int, stop: int) -> Array:
    """Return elements [start, stop) as a new 1-D array; opaque values as bytes (uint8)."""
    import numpy as np

    if start == stop:
        return np.empty(0, _array_dtype(dataset))
    if dataset.offset is None:
        return _by_libhdf5(byte_range, dataset, start, stop)
    dtype = _array_dtype(dataset)
    per = dataset.width or 1 if dtypes.kind(dataset.dtype) == "opaque" else 1
    values = np.empty((stop - start) * per, dtype)
    at = dataset.offset + start * per * dtype.itemsize
    byte_range.read_into(at, memoryview(values.view(np.uint8).data))
    return values


def _by_libhdf5(byte_range: ByteRange, dataset: H5Dataset, start: int, stop: int) -> Array:
    """Return elements [start, stop), read in a child."""
    import numpy as np

    if not sys.executable:
        with open_dataset(byte_range, dataset) as handle:
            return read_here(handle, dataset, start, stop)
    from ckptkit.stores.hdf5 import client  # here, since few values need the process

    if dataset.dtype == "string":
        texts = client.read(byte_range, dataset, start, stop, memoryview(b""))
        result = np.empty(len(texts), object)
        result[:] = texts
        return result
    per = dataset.width or 1 if dtypes.kind(dataset.dtype) == "opaque" else 1
    values = np.empty((stop - start) * per, _array_dtype(dataset))
    client.read(byte_range, dataset, start, stop, memoryview(values.view(np.uint8).data))
    return values


@contextmanager
def open_dataset(byte_range: ByteRange, dataset: H5Dataset) -> Iterator[Any]:
    """Yield the dataset as libhdf5 has it, opened in this process."""
    h5 = h5py_module()
    with opened(h5, byte_range) as file:
        access = h5.h5p.create(h5.h5p.DATASET_ACCESS)
        access.set_chunk_cache(521, _CHUNK_CACHE, 1.0)
        yield h5.h5d.open(file, dataset.path.encode(), access)


def write_dataset(path: Path, dataset: H5Dataset, blocks: Iterator[Array]) -> None:
    """Write the blocks, in order, over the values of a dataset of the HDF5 file at `path`.

    The file must be one that `hdf5.scan` has passed.  Raises FormatError for what libhdf5 reports.
    """
    h5 = h5py_module()
    with guard(path):
        file = h5.h5f.open(os.fsencode(path), h5.h5f.ACC_RDWR)
        try:
            handle = h5.h5d.open(file, dataset.path.encode())
            kind, memory_type = _memory(h5, handle.get_type())
            start = 0
            for values in blocks:
                data = values if values.dtype == kind else values.view(kind)
                for first, space in _spaces(handle, dataset, start, start + len(data)):
                    size = space.get_select_npoints()
                    part = data[first : first + size]
                    handle.write(h5.h5s.create_simple((size,)), space, part, memory_type)
                start += len(data)
        finally:
            file.close()


def _array_dtype(dataset: H5Dataset) -> Any:
    import numpy as np

    if dtypes.kind(dataset.dtype) == "opaque":
        return np.dtype(np.uint8)
    return dtypes.numpy_dtype(dataset.dtype)


def _direct_blocks(
    byte_range: ByteRange, dataset: H5Dataset, max_elements: int
) -> Iterator[tuple[int, Array]]:
    import numpy as np

    assert dataset.offset is not None
    dtype = _array_dtype(dataset)
    per = dataset.width or 1 if dtypes.kind(dataset.dtype) == "opaque" else 1
    size = dataset.size
    buffer = np.empty(min(size, max_elements) * per, dtype)
    raw = memoryview(buffer.view(np.uint8).data)
    step = per * dtype.itemsize
    for start in range(0, size, max_elements):
        count = min(max_elements, size - start)
        byte_range.read_into(dataset.offset + start * step, raw[: count * step])
        yield start, buffer[: count * per]


def _memory(h5: Any, stored: Any) -> tuple[Any, Any]:
    """Return the numpy dtype that libhdf5 fills for a stored type, and its HDF5 type.

    bfloat16 and float8 come as the opaque or unsigned values that they are stored as.
    """
    kind = stored.dtype
    if stored.get_class() == h5.h5t.OPAQUE:
        return kind, stored
    if kind.kind not in "SO":
        kind = kind.newbyteorder("=")
    return kind, h5.h5t.py_create(kind)


def read_here(handle: Any, dataset: H5Dataset, start: int, stop: int) -> Array:
    """Read elements [start, stop) through libhdf5 (filters, foreign byte order, strings)."""
    import numpy as np

    h5 = h5py_module()
    kind, memory_type = _memory(h5, handle.get_type())
    values = np.empty(stop - start, kind)
    for first, space in _spaces(handle, dataset, start, stop):
        size = space.get_select_npoints()
        part = values[first : first + size]
        handle.read(h5.h5s.create_simple((size,)), space, part, memory_type)
    if dataset.dtype == "string":
        return _bytes_objects(values)
    wanted = _array_dtype(dataset)
    return values if kind == wanted else values.view(wanted)


def _spaces(handle: Any, dataset: H5Dataset, start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield (number of elements before it, selection) for the boxes that make up a span."""
    done = 0
    for offset, count in _boxes(dataset.shape, start, stop):
        space = handle.get_space()
        if dataset.shape:
            space.select_hyperslab(offset, count)
        yield done, space
        done += math.prod(count)


def _bytes_objects(values: Array) -> Array:
    import numpy as np

    result = np.empty(values.shape, object)
    result[:] = [v.encode() if isinstance(v, str) else bytes(v) for v in values.tolist()]
    return result


def _boxes(
    shape: tuple[int, ...], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (offset, count) boxes that cover row-major elements [start, stop), in order."""
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:])
    first, last = start // row, (stop - 1) // row
    if first == last and row > 1:
        for offset, count in _boxes(shape[1:], start - first * row, stop - first * row):
            yield (first, *offset), (1, *count)
        return
    if start % row:
        yield from _boxes(shape, start, (first + 1) * row)
        first += 1
    whole = stop // row
    if whole > first:
        yield (first, *(0 for _ in shape[1:])), (whole - first, *shape[1:])
    if stop % row:
        yield from _boxes(shape, whole * row, stop)
