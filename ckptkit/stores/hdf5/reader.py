"""HDF5 files, whole or inside a zip archive; h5py is imported here alone.

HDF5 (https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html) is a file system in a
file: groups hold links to groups and datasets; a dataset has a type, an extent, a layout
(compact, contiguous, chunked, virtual) and filters.  Links can lead to other names (soft) or to
other files (external), and a dataset can keep its values in other files (external storage) or
assemble them from other datasets (virtual).  A weights file needs none of that, and each has been
used to make a loader read files it should not: all four are refused, as are user-defined links,
groups that are linked twice (cycles), filters other than gzip, shuffle, fletcher32 and lzf,
more objects or deeper nesting than any model has, and datasets that declare far more than they
store.  `scan` walks the whole tree once and checks everything; nothing is read afterwards that
`scan` has not passed.

Headers of the classic kind of file, which Keras writes, are read by `classic` without
libhdf5.  For all else, bytes reach libhdf5 through a byte range (`file_object`).  Contiguous,
unfiltered values in native byte order are read around libhdf5, straight from the file
(`values`).

libhdf5 is a large C library with a long history of memory errors on crafted files (the
HDFGroup/cve_hdf5 list).  So it reads in a process of its own (`client`): what it reports, and
its death, becomes a FormatError here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import ckptkit.dtypes as dtypes
from ckptkit._io.files import expect_reads
from ckptkit.errors import (
    FormatError,
    MissingDependencyError,
    UnsupportedError,
)
from ckptkit.stores.containers.byte_range import ByteRange, whole_file
from ckptkit.stores.hdf5.bounded import LeftToLibhdf5
from ckptkit.stores.hdf5.classic import root_of, scan_classic
from ckptkit.stores.hdf5.file_object import opened
from ckptkit.stores.hdf5.types import (
    FILTERS,
    MAX_ATTRIBUTE_BYTES,
    MAX_ATTRIBUTES,
    MAX_CHUNK_BYTES,
    MAX_DEPTH,
    MAX_OBJECTS,
    Attribute,
    H5Dataset,
    H5Tree,
    check_place,
    check_stored,
    refusal,
)


def h5py_module() -> Any:
    """Return h5py; raises MissingDependencyError with the pip command where it is missing."""
    try:
        return import_module("h5py")
    except ModuleNotFoundError as error:
        if error.name != "h5py":
            raise
        raise MissingDependencyError(
            "reading .keras, .weights.h5 and .h5 files needs h5py, which is not installed",
            hint="pip install 'ckptkit-tf[hdf5]'",
        ) from error


def is_weights_h5(path: Path) -> bool:
    """Whether an HDF5 file has the layout of `.weights.h5`, not that of a legacy `.h5`.

    Legacy files list their layers in an attribute `layer_names` (or `layer_names0`, …) of the root
    or of the group `model_weights`.  Raises as `scan` does, for the root alone.
    """
    byte_range = whole_file(path)
    _announce(byte_range)
    try:
        names, attributes = root_of(byte_range)
    except LeftToLibhdf5:
        tree = scan_with_libhdf5(byte_range)
        names, attributes = set(tree.groups), dict(tree.groups[""])
    return "model_weights" not in names and not {"layer_names", "layer_names0"} & attributes.keys()


def scan(byte_range: ByteRange) -> H5Tree:
    """Return every group and dataset, all checked; reads no values.

    Files of the kind that Keras writes are read without libhdf5.
    Raises FormatError, TruncatedError, UnsupportedError, MissingDependencyError.
    """
    _announce(byte_range)
    try:
        return scan_classic(byte_range)
    except LeftToLibhdf5:
        return scan_with_libhdf5(byte_range)


def _announce(byte_range: ByteRange) -> None:
    """Say that headers will be read, which lie between the values."""
    if byte_range.deflated is None:
        expect_reads(byte_range.path, [(byte_range.start, byte_range.nbytes)])


def scan_with_libhdf5(byte_range: ByteRange) -> H5Tree:
    """Return what `scan` does, whatever kind of HDF5 file it is; libhdf5 runs in a child."""
    if not sys.executable:
        return scan_here(byte_range)
    from ckptkit.stores.hdf5 import client  # here, since few files need the process

    return client.scan(byte_range)


def scan_here(byte_range: ByteRange) -> H5Tree:
    """Return what `scan` does, by libhdf5 in this very process, which it may take down."""
    h5 = h5py_module()
    with opened(h5, byte_range) as file:
        return _Libhdf5Scanner(h5, byte_range).run(file)


# --- scanning -------------------------------------------------------------------------------------


class _Libhdf5Scanner:
    """One walk over a file, iterative, every object checked before it is opened."""

    def __init__(self, h5: Any, byte_range: ByteRange) -> None:
        self.h5 = h5
        self.byte_range = byte_range
        self.groups: dict[str, Mapping[str, Attribute]] = {}
        self.datasets: dict[str, H5Dataset] = {}
        self.seen: set[tuple[int, ...]] = set()
        self.types: dict[bytes, tuple[str, bool]] = {}

    def run(self, file: Any) -> H5Tree:
        root = self.h5.h5g.open(file, b"/")
        self._note_group(self.h5.h5g.get_objinfo(file, b"/"), "")
        stack = [("", 0, root)]
        while stack:
            path, depth, group = stack.pop()
            self.groups[path] = self._attributes(group, path)
            children = self._children(group, path, depth)
            stack.extend(reversed(children))
        return H5Tree(dict(sorted(self.groups.items())), dict(sorted(self.datasets.items())))

    def _children(self, group: Any, path: str, depth: int) -> list[tuple[str, int, Any]]:
        """Check and note every member of a group; return its subgroups as (path, depth, group)."""
        h5 = self.h5
        found: list[tuple[str, int, Any]] = []
        for raw in group:
            child = f"{path}/{_text(raw)}" if path else _text(raw)
            if len(self.groups) + len(self.datasets) + len(found) >= MAX_OBJECTS:
                raise self._error(child, f"more than {MAX_OBJECTS} objects")
            info = h5.h5g.get_objinfo(group, raw, follow_link=False)
            if info.type == h5.h5g.GROUP:
                if depth >= MAX_DEPTH:
                    raise self._error(child, f"groups nest deeper than {MAX_DEPTH}")
                self._note_group(info, child)
                found.append((child, depth + 1, h5.h5g.open(group, raw)))
            elif info.type == h5.h5g.DATASET:
                dataset = self._checked(h5.h5d.open(group, raw), child)
                low, high = info.objno
                self.datasets[child] = dataset._replace(header=low + (high << 32))
            elif info.type == h5.h5g.LINK:
                raise self._refusal(child, "soft link")
            elif info.type != h5.h5g.TYPE:
                raise self._refusal(child, "link out of this file")
        return found

    def _note_group(self, info: Any, path: str) -> None:
        place = (*info.fileno, *info.objno)
        if place in self.seen:
            raise self._refusal(path or "/", "group that is linked twice")
        self.seen.add(place)

    # -- datasets

    def _checked(self, handle: Any, path: str) -> H5Dataset:
        h5 = self.h5
        plist = handle.get_create_plist()
        if plist.get_external_count():
            raise self._refusal(path, "dataset whose values lie in another file")
        layout = plist.get_layout()
        if layout == h5.h5d.VIRTUAL:
            raise self._refusal(path, "virtual dataset")
        for index in range(plist.get_nfilters()):
            number = plist.get_filter(index)[0]
            if number not in FILTERS:
                raise UnsupportedError(
                    f"HDF5 filter {number} on {path}",
                    where=str(self.byte_range.path),
                    hint="rewrite it with: h5repack -f NONE IN OUT",
                )
        space = handle.get_space()
        if space.get_simple_extent_type() not in (h5.h5s.SCALAR, h5.h5s.SIMPLE):
            raise self._error(path, "dataset without an extent")
        shape = tuple(int(n) for n in space.get_simple_extent_dims())
        dtype, width, native = self._dtype(handle, path)
        itemsize = width or dtypes.itemsize(dtype) or handle.get_type().get_size()
        declared = math.prod(shape) * itemsize
        stored = handle.get_storage_size()
        self._check_sizes(path, declared, stored, layout, plist, itemsize)
        offset = handle.get_offset() if layout == h5.h5d.CONTIGUOUS and native else None
        if offset is not None and declared:
            # the address is relative to the base address, which `opened` pins to 0
            check_place(self.byte_range, offset, declared, path)
        elif not declared:
            offset = None
        nbytes = declared if dtype != "string" or width else stored
        return H5Dataset(path, dtype, shape, nbytes, offset, width)

    def _check_sizes(
        self, path: str, declared: int, stored: int, layout: int, plist: Any, itemsize: int
    ) -> None:
        if stored > self.byte_range.nbytes:
            raise self._error(path, f"claims {stored} stored bytes, more than the file has")
        check_stored(self.byte_range.path, path, declared, stored)
        if layout == self.h5.h5d.CHUNKED:
            chunk = math.prod(int(n) for n in plist.get_chunk()) * itemsize
            if chunk > MAX_CHUNK_BYTES:
                raise self._error(path, f"chunks of {chunk} bytes, at most {MAX_CHUNK_BYTES} do")

    def _dtype(self, handle: Any, path: str) -> tuple[str, int, bool]:
        """Return (dtype, width of opaque and fixed strings, whether stored bytes are the values).

        Keras marks what HDF5 has no type for with an attribute `dtype`, and stores it opaque.
        """
        h5 = self.h5
        stored = handle.get_type()
        kind = stored.get_class()
        if kind == h5.h5t.STRING:
            fixed = not stored.is_variable_str()
            return "string", stored.get_size() if fixed else 0, False
        width = stored.get_size()
        if kind == h5.h5t.OPAQUE:
            name = self._marked(handle, path)
            if dtypes.itemsize(name) == width:
                return name, 0, True
            return f"void{8 * width}", width, True
        if kind not in (h5.h5t.INTEGER, h5.h5t.FLOAT, h5.h5t.ENUM, h5.h5t.COMPOUND):
            raise UnsupportedError(
                f"{path} has an HDF5 type that holds no numbers", where=str(self.byte_range.path)
            )
        code = stored.encode()
        if code not in self.types:
            self.types[code] = self._number_type(stored, path)
        name, native = self.types[code]
        if kind == h5.h5t.INTEGER and h5.h5a.exists(handle, b"dtype"):
            marked = self._marked(handle, path)
            if dtypes.kind(marked) == "float" and dtypes.itemsize(marked) == width:
                name = marked  # float bits kept as integers of the same width
        return name, 0, native

    def _number_type(self, stored: Any, path: str) -> tuple[str, bool]:
        """Return (dtype, whether stored values have the layout that numpy has in memory)."""
        dtype = stored.dtype
        where = str(self.byte_range.path)
        if dtype.kind not in "biufc":
            raise UnsupportedError(f"{path} holds records ({dtype})", where=where)
        try:
            name = dtypes.dtype_of_numpy(dtype)
        except UnsupportedError as error:
            raise UnsupportedError(f"{path}: {error.message}", where=where) from None
        return name, dtype.isnative and bool(stored.equal(self.h5.h5t.py_create(dtype)))

    def _marked(self, handle: Any, path: str) -> str:
        """Return the attribute `dtype` of a dataset, or ""."""
        if not self.h5.h5a.exists(handle, b"dtype"):
            return ""
        value = self._attribute(handle, b"dtype", path)
        return value if isinstance(value, str) else ""

    # -- attributes

    def _attributes(self, group: Any, path: str) -> dict[str, Attribute]:
        h5 = self.h5
        count = h5.h5a.get_num_attrs(group)
        if count > MAX_ATTRIBUTES:
            raise self._error(path or "/", f"{count} attributes, more than {MAX_ATTRIBUTES}")
        names: list[bytes] = []
        if count:
            h5.h5a.iterate(group, lambda name, *_: names.append(name))
        return {_text(name): self._attribute(group, name, path) for name in names}

    def _attribute(self, handle: Any, name: bytes, path: str) -> Attribute:
        import numpy as np

        h5 = self.h5
        attribute = h5.h5a.open(handle, name)
        if attribute.get_space().get_simple_extent_type() == h5.h5s.NULL:
            return None
        dtype, shape = attribute.dtype, attribute.shape
        declared = math.prod(shape) * dtype.itemsize
        if declared > MAX_ATTRIBUTE_BYTES:
            raise self._error(
                f"{path}@{_text(name)}", f"attribute of more than {MAX_ATTRIBUTE_BYTES} bytes"
            )
        if dtype.kind not in "biufSO" or (
            dtype.kind == "O" and h5.h5t.check_string_dtype(dtype) is None
        ):
            return None  # references, records: nothing a weights file needs
        values = np.zeros(shape, dtype)
        attribute.read(values, mtype=h5.h5t.py_create(dtype))
        return _plain(values.tolist())

    def _error(self, path: str, message: str) -> FormatError:
        return FormatError(str(self.byte_range.path), f"{path}: {message}")

    def _refusal(self, path: str, what: str) -> FormatError:
        return refusal(self.byte_range.path, path, what)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _plain(value: Any) -> Attribute:
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, bytes):
        return _text(value)
    return value  # type: ignore[no-any-return]
