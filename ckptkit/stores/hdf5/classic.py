"""Headers of classic HDF5 files, read without libhdf5.

Keras writes the oldest layout that HDF5 has (h5py's default), a small and well-defined part of
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html:

    superblock 0 or 1        place of the root group
    object header 1          messages of a group or dataset: 0x01 dataspace, 0x03 datatype,
                             0x08 layout, 0x0C attribute, 0x10 continuation, 0x11 symbol table
    symbol-table group       B-tree ("TREE") of nodes ("SNOD") of entries; names in a "HEAP"
    global heap ("GCOL")     variable-length strings

All integers little-endian, offsets and lengths 8 bytes, addresses from the start of the data.
Reading them here costs neither h5py nor numpy, takes a fraction of the time, and a crafted file
cannot crash or hang the process, which libhdf5 does not promise.  What is valid HDF5 but not of
this kind (new-style groups, chunks, filters, records) raises `LeftToLibhdf5`: then libhdf5 reads
the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import ckptkit.dtypes as dtypes
from ckptkit.errors import FormatError, TruncatedError
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.hdf5.messages import (
    ATTRIBUTE,
    FIXED,
    OPAQUE,
    STRING,
    VARIABLE,
    Datatype,
    LeftToLibhdf5,
    MessageReader,
    ObjectHeader,
)
from ckptkit.stores.hdf5.types import (
    EXPANSION_FLOOR,
    MAX_DEPTH,
    MAX_OBJECTS,
    SIGNATURE,
    Attribute,
    H5Dataset,
    H5Tree,
    check_place,
    refusal,
)

_UNDEFINED = (1 << 64) - 1
_MAX_HEADER = 64 << 20  # bytes of one object header with its continuations
_MAX_NAME = 4096

_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL = 0x01, 0x02, 0x03, 0x06, 0x07
_LAYOUT, _FILTERS, _CONTINUATION, _SYMBOLS = 0x08, 0x0B, 0x10, 0x11
_ATTRIBUTE_INFO = 0x15


def scan_classic(byte_range: ByteRange) -> H5Tree:
    """Return all groups and datasets of a classic file, checked as `hdf5.scan` promises.

    Raises FormatError, TruncatedError, and Unusual where the file is of another kind.
    """
    with _guarded(byte_range):
        return _ClassicScanner(byte_range).run()


def root_of(byte_range: ByteRange) -> tuple[set[str], dict[str, Attribute]]:
    """Return the names in the root group and its attributes; raises as `scan_classic` does."""
    with _guarded(byte_range):
        return _ClassicScanner(byte_range).root()


@contextmanager
def _guarded(byte_range: ByteRange) -> Iterator[None]:
    """Turn a message that ends before its fields do into a refusal."""
    try:
        yield
    except (struct.error, IndexError) as error:
        raise FormatError(
            str(byte_range.path),
            f"damaged HDF5 data: a header is too short ({error})",
            hint="copy the file again",
        ) from None


class _ClassicScanner(MessageReader):
    def __init__(self, byte_range: ByteRange) -> None:
        super().__init__(byte_range)
        self.seen: set[int] = set()

    def run(self) -> H5Tree:
        groups: dict[str, dict[str, Attribute]] = {}
        datasets: dict[str, H5Dataset] = {}
        pending = [("", 0, self._root())]
        while pending:
            path, depth, address = pending.pop()
            found = self._object(address, path)
            symbols = found.first(_SYMBOLS)
            if symbols is not None:
                if address in self.seen:
                    raise refusal(self.byte_range.path, path or "/", "group that is linked twice")
                self.seen.add(address)
                if depth > MAX_DEPTH:
                    raise self.error(address, f"groups nest deeper than {MAX_DEPTH}")
                groups[path] = self.attributes(found, path)
                members = list(self._members(symbols, path))
                if len(groups) + len(datasets) + len(pending) + len(members) > MAX_OBJECTS:
                    raise self.error(address, f"more than {MAX_OBJECTS} objects")
                pending.extend((name, depth + 1, at) for name, at in reversed(members))
            elif found.first(_LAYOUT) is not None:
                datasets[path] = self._dataset(found, path)
            elif found.first(_DATATYPE) is None or not path:  # else a named datatype
                raise self.error(address, f"{path or '/'} is neither group nor dataset")
        return H5Tree(dict(sorted(groups.items())), dict(sorted(datasets.items())))

    def root(self) -> tuple[set[str], dict[str, Attribute]]:
        found = self._object(self._root(), "")
        symbols = found.first(_SYMBOLS)
        if symbols is None:
            raise self.error(found.address, "the root is no group")
        return {name for name, _ in self._members(symbols, "")}, self.attributes(found, "")

    def _root(self) -> int:
        """Return the address of the root group's object header."""
        head = self.read(0, 96)
        if head[:8] != SIGNATURE:
            raise FormatError(
                str(self.byte_range.path), "no HDF5 signature at the start of the data"
            )
        version = head[8]
        if version in (2, 3):
            raise LeftToLibhdf5("superblock of HDF5 1.8 or later")
        if version > 3:
            raise self.error(8, f"superblock version {version}")
        if head[13:15] != b"\x08\x08":
            raise LeftToLibhdf5("addresses of another size")
        at = 24 if version == 0 else 28
        base, _, end, driver, _, root = struct.unpack_from("<6Q", head, at)
        if base or driver != _UNDEFINED:
            raise LeftToLibhdf5("user block or driver information")
        if end > self.byte_range.nbytes:
            raise TruncatedError(
                str(self.byte_range.path),
                "truncated HDF5 file",
                expected=f"{end} bytes",
                found=self.byte_range.nbytes,
                hint="copy the file again",
            )
        return int(root)

    # -- object headers

    def _object(self, address: int, path: str) -> ObjectHeader:
        head = self.read(address, 16)
        if head[:4] == b"OHDR":
            raise LeftToLibhdf5("object headers of version 2")
        version, _, _, _, size = struct.unpack_from("<BBHII", head)
        if version != 1:
            raise self.error(address, f"object header of {path or '/'} has version {version}")
        messages: list[tuple[int, int, bytes]] = []
        blocks = [(address + 16, size)]
        seen: set[int] = set()
        total = 0
        while blocks:
            start, length = blocks.pop(0)
            total += length
            if start in seen or total > _MAX_HEADER:
                raise self.error(start, f"object header of {path or '/'} has no end")
            seen.add(start)
            data = self.read(start, length)
            at = 0
            while at + 8 <= length:
                kind, nbytes, flags = struct.unpack_from("<HHB", data, at)
                body = data[at + 8 : at + 8 + nbytes]
                if len(body) < nbytes:
                    raise self.error(start + at, "a message that reaches past its header")
                if kind == _CONTINUATION:
                    if nbytes < 16:
                        raise self.error(start + at, "a continuation that is too short")
                    blocks.append(struct.unpack_from("<2Q", body))
                messages.append((kind, flags, body))
                at += 8 + nbytes
        found = ObjectHeader(address, tuple(messages))
        self._refuse_kinds(found)
        return found

    def _refuse_kinds(self, found: ObjectHeader) -> None:
        for kind, flags, data in found.messages:
            if kind in (_LINK_INFO, _LINK, _FILTERS, _EXTERNAL):
                raise LeftToLibhdf5("new-style group, filters or external values")
            if kind == _ATTRIBUTE_INFO and data[-16:-8] != b"\xff" * 8:
                raise LeftToLibhdf5("attributes in a heap of their own")
            if flags & 0x02 and kind in (_DATASPACE, _DATATYPE, _LAYOUT, ATTRIBUTE):
                raise LeftToLibhdf5("messages shared between objects")

    # -- groups

    def _members(self, symbols: bytes, path: str) -> Iterator[tuple[str, int]]:
        """Yield (path, address) of the members of a group, in the order of their names."""
        tree, heap = struct.unpack_from("<2Q", symbols.ljust(16, b"\0"))
        header = self.signed(heap, 32, b"HEAP")
        size, _, names_at = struct.unpack_from("<3Q", header, 8)
        if size > _MAX_HEADER:
            raise self.error(heap, f"a heap of {size} bytes")
        names = self.read(names_at, size)
        for node in self._leaves(tree):
            data = self.signed(node, 8, b"SNOD")
            count = struct.unpack_from("<H", data, 6)[0]
            entries = self.read(node + 8, 40 * count)
            for at in range(0, 40 * count, 40):
                place, address, cache = struct.unpack_from("<QQI", entries, at)
                name = self._name(names, place, node)
                child = f"{path}/{name}" if path else name
                if cache == 2:
                    raise refusal(self.byte_range.path, child, "soft link")
                yield child, address

    def _name(self, names: bytes, place: int, node: int) -> str:
        end = names.find(b"\0", place) if place < len(names) else -1
        if end < 0 or not 0 < end - place <= _MAX_NAME:
            raise self.error(node, "a link without a name")
        name = names[place:end].decode("utf-8", "backslashreplace")
        if "/" in name:
            raise self.error(node, f"a link called {name!r}")
        return name

    def _leaves(self, tree: int) -> Iterator[int]:
        """Yield the addresses of a group's symbol nodes, in order."""
        stack = [(tree, -1)]
        while stack:
            address, above = stack.pop()
            if address in self.seen:
                raise self.error(address, "a B-tree that runs in circles")
            self.seen.add(address)
            head = self.signed(address, 24, b"TREE")
            kind, level, used = struct.unpack_from("<BBH", head, 4)
            if kind != 0 or (above >= 0 and level != above - 1):
                raise self.error(address, "a B-tree node of the wrong kind")
            data = self.read(address + 24, 8 + 16 * used)
            children = [struct.unpack_from("<Q", data, 8 + 16 * i)[0] for i in range(used)]
            if level:
                stack.extend((child, level) for child in reversed(children))
            else:
                for child in children:
                    if child in self.seen:
                        raise self.error(child, "a symbol node that is used twice")
                    self.seen.add(child)
                    yield child

    # -- datasets

    def _dataset(self, found: ObjectHeader, path: str) -> H5Dataset:
        space, kind, layout = found.first(_DATASPACE), found.first(_DATATYPE), found.first(_LAYOUT)
        if space is None or kind is None or layout is None:
            raise self.error(found.address, f"{path} lacks its type or extent")
        shape = self.extent(space, found.address)
        if shape is None:
            raise self.error(found.address, f"{path} has no extent")
        stored = self.type(kind, found.address)
        if stored.kind == VARIABLE or not (stored.dtype or stored.kind in (STRING, OPAQUE)):
            raise LeftToLibhdf5(f"{path} is of an unusual type")
        dtype, width = self._dtype(stored, found, path)
        declared = math.prod(shape) * stored.size
        offset = self._offset(layout, declared, found.address, path)
        native = stored.native and stored.kind != STRING and declared > 0
        return H5Dataset(path, dtype, shape, declared, offset if native else None, width)

    def _dtype(self, stored: Datatype, found: ObjectHeader, path: str) -> tuple[str, int]:
        """Return (dtype, width); Keras marks bfloat16 and float8 with an attribute `dtype`."""
        if stored.kind == STRING:
            return "string", stored.size
        if stored.kind not in (OPAQUE, FIXED):
            return stored.dtype, 0
        marked = self.attributes(found, path).get("dtype")
        if isinstance(marked, str) and dtypes.itemsize(marked) == stored.size:  # noqa: SIM102
            if stored.kind == OPAQUE or dtypes.kind(marked) == "float":
                return marked, 0
        return (stored.dtype, 0) if stored.dtype else (f"void{8 * stored.size}", stored.size)

    def _offset(self, layout: bytes, declared: int, address: int, path: str) -> int | None:
        """Return where contiguous values lie; None: nowhere yet, or in the header itself."""
        version, kind = layout[0], layout[1] if len(layout) > 1 else 255
        if version != 3 or kind == 2:
            raise LeftToLibhdf5(f"{path} is chunked or of an old layout")
        if kind not in (0, 1) or len(layout) < (18 if kind else 4):
            raise self.error(address, f"{path} has layout {kind} of version {version}")
        stored, offset = struct.unpack_from("<H", layout, 2)[0], _UNDEFINED
        if kind == 1:
            offset, stored = struct.unpack_from("<2Q", layout, 2)
            stored = 0 if offset == _UNDEFINED else stored
        if declared > (stored or EXPANSION_FLOOR):
            raise FormatError(
                str(self.byte_range.path),
                f"{path} declares more than it stores",
                expected=f"at most {stored or EXPANSION_FLOOR} bytes",
                found=declared,
            )
        if offset == _UNDEFINED:
            return None
        check_place(self.byte_range, offset, declared, path)
        return int(offset)
