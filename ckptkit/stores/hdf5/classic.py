"""HDF5 files of the kind that Keras writes, read without libhdf5, every field of them checked.

Keras writes the oldest layout that HDF5 has (h5py's default), a small and well-defined part of
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html:

    superblock          `superblock`      place of the root group
    object header       `object_headers`  messages of a group or dataset
    messages            `messages`, `datatypes`, `layouts`, `links`
    symbol-table group  `symbol_tables`   B-tree of nodes of entries; names in a heap
    global heap         `global_heap`     values of variable length

All integers are little-endian, offsets and lengths 8 bytes, addresses from the start of the data.
Reading them here costs neither h5py nor numpy, takes a fraction of the time, and a crafted file
cannot crash or hang the process, which libhdf5 does not promise.  HDF5 of this kind has no
checksums: what a bit that was flipped leaves is often valid for libhdf5, and something else.  So
all that can be told twice is compared, every byte belongs to one structure alone, and what every
writer leaves zero must be zero.

What is valid HDF5 but not of this kind (links or attributes in heaps of their own, chunks of later
kinds, records) raises `LeftToLibhdf5`, once the rest was looked at: then libhdf5 reads the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import ckptkit.dtypes as dtypes
from ckptkit.errors import FormatError
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.hdf5.bounded import BoundedReader, LeftToLibhdf5
from ckptkit.stores.hdf5.datatypes import FIXED, OPAQUE, STRING, VARIABLE, Datatype
from ckptkit.stores.hdf5.layouts import StoredArray, read_filters, read_layout
from ckptkit.stores.hdf5.links import links_of
from ckptkit.stores.hdf5.messages import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    COMMENT,
    CONTINUATION,
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILL,
    FILTERS,
    GROUP_INFO,
    LAYOUT,
    LINK,
    LINK_INFO,
    NIL,
    OLD_FILL,
    OLD_TIME,
    REFERENCES,
    SYMBOLS,
    TIME,
    MessageReader,
    ObjectHeader,
)
from ckptkit.stores.hdf5.object_headers import read_header
from ckptkit.stores.hdf5.superblock import Superblock, read_superblock
from ckptkit.stores.hdf5.symbol_tables import GroupLink, read_links
from ckptkit.stores.hdf5.types import (
    MAX_DEPTH,
    MAX_OBJECTS,
    Attribute,
    H5Dataset,
    H5Tree,
    refusal,
)

_ANYWHERE = {NIL, ATTRIBUTE, COMMENT, OLD_TIME, CONTINUATION, TIME, ATTRIBUTE_INFO, REFERENCES}
_REPEATED = {NIL, ATTRIBUTE, CONTINUATION, LINK}
# kinds of messages that an object of each sort has
_GROUP = _ANYWHERE | {LINK_INFO, LINK, GROUP_INFO, SYMBOLS}
_DATASET = _ANYWHERE | {DATASPACE, DATATYPE, OLD_FILL, FILL, EXTERNAL, LAYOUT, FILTERS}
_TYPE = _ANYWHERE | {DATATYPE}
_MAX_CELLS = 10_000_000  # of variable length, whose places are checked one by one


def scan_classic(byte_range: ByteRange) -> H5Tree:
    """Return all groups and datasets of a classic file, checked as `hdf5.scan` promises.

    Raises FormatError, TruncatedError, UnsupportedError, and LeftToLibhdf5 where the file is of
    another kind.
    """
    with _guarded(byte_range):
        return _ClassicScanner(byte_range).run()


class CloseScan(NamedTuple):
    """A tree, and what about it is odd, though a reader need not mind.

    stray: bytes that are not zero and that nothing in the file leads to.  foreign: datasets whose
    numbers are in the other byte order than those of most.
    """

    tree: H5Tree
    stray: int
    foreign: tuple[str, ...]


def scan_closely(byte_range: ByteRange) -> CloseScan:
    """Return what `scan_classic` does and what is odd; reads gaps too.  Raises as that does."""
    with _guarded(byte_range):
        scanner = _ClassicScanner(byte_range)
        tree = scanner.run()
        big = [path for path, order in scanner.orders.items() if order]
        little = [path for path, order in scanner.orders.items() if not order]
        foreign = min(big, little, key=len)
        return CloseScan(tree, scanner.source.unclaimed(), tuple(foreign))


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


class _ClassicScanner:
    """One walk over a file, from its root."""

    def __init__(self, byte_range: ByteRange) -> None:
        self.source = BoundedReader(byte_range)
        self.messages = MessageReader(self.source)
        self.superblock: Superblock = read_superblock(self.source)
        self.seen: set[int] = set()
        self.sorts: dict[tuple[int, ...], set[int]] = {}  # of objects that are not the root
        self.orders: dict[str, int] = {}  # dataset -> 0 little-endian, 1 big-endian
        self.left = ""  # why libhdf5 must read it, if so

    def run(self) -> H5Tree:
        groups: dict[str, dict[str, Attribute]] = {}
        datasets: dict[str, H5Dataset] = {}
        pending = [("", 0, self._root_link())]
        while pending:
            path, depth, link = pending.pop()
            try:
                found = read_header(self.source, link.address, path)
                sort = self._sort(found, path)
                if sort is not _GROUP and link.tree is not None:
                    raise self.source.error(link.address, f"{path}, linked as a group, is none")
                if sort is _GROUP:
                    members = self._group(found, link, path)
                    groups[path] = self._attributes(found, path)
                    if depth > MAX_DEPTH:
                        raise self.source.error(
                            link.address, f"groups nest deeper than {MAX_DEPTH}"
                        )
                    if len(groups) + len(datasets) + len(pending) + len(members) > MAX_OBJECTS:
                        raise self.source.error(link.address, f"more than {MAX_OBJECTS} objects")
                    pending.extend(
                        (f"{path}/{member.name}" if path else member.name, depth + 1, member)
                        for member in reversed(members)
                    )
                elif sort is _DATASET:
                    datasets[path] = self._dataset(found, path)
                else:
                    self._attributes(found, path)
            except LeftToLibhdf5 as reason:
                self.left = self.left or str(reason)
        self.source.check_claims()
        if self.left:
            raise LeftToLibhdf5(self.left)
        return H5Tree(dict(sorted(groups.items())), dict(sorted(datasets.items())))

    def root(self) -> tuple[set[str], dict[str, Attribute]]:
        link = self._root_link()
        found = read_header(self.source, link.address, "")
        if self._sort(found, "") is not _GROUP:
            raise self.source.error(found.address, "the root is no group")
        links = self._group(found, link, "")
        return {member.name for member in links}, self._attributes(found, "")

    def _root_link(self) -> GroupLink:
        return GroupLink("", self.superblock.root, self.superblock.tree, self.superblock.heap)

    # -- objects

    def _sort(self, found: ObjectHeader, path: str) -> set[int]:
        """Return the kinds of messages of what an object is; others and pairs are refused."""
        kinds = tuple([message.kind for message in found.messages])
        sort = self.sorts.get(kinds) if path else None
        if sort is None:
            sort = self._checked_sort(found, kinds, path)
            if path:
                self.sorts[kinds] = sort
        if sort is not _DATASET:
            for message in found.messages:
                self.messages.check(message)
        return sort

    def _checked_sort(self, found: ObjectHeader, kinds: tuple[int, ...], path: str) -> set[int]:
        if LAYOUT in kinds:
            sort = _DATASET
        elif SYMBOLS in kinds or LINK_INFO in kinds:
            sort = _GROUP
        elif DATATYPE in kinds and path:
            sort = _TYPE
        else:
            raise self.source.error(found.address, f"{path or '/'} is neither group nor dataset")
        for kind in set(kinds):
            if kind not in sort and not kind > REFERENCES:
                raise self.source.error(
                    found.address, f"{path or '/'} has a message of kind {kind:#04x}, out of place"
                )
            if kind not in _REPEATED and kinds.count(kind) > 1:
                raise self.source.error(
                    found.address, f"{path or '/'} has two messages of kind {kind:#04x}"
                )
        if SYMBOLS in kinds and (LINK_INFO in kinds or LINK in kinds):
            raise self.source.error(found.address, f"{path or '/'} is a group of two kinds")
        return sort

    def _attributes(self, found: ObjectHeader, path: str) -> dict[str, Attribute]:
        return self.messages.attributes(found, path)

    # -- groups

    def _group(self, found: ObjectHeader, link: GroupLink, path: str) -> list[GroupLink]:
        """Return the members of a group, in the order of their names."""
        if found.address in self.seen:
            raise refusal(self.source.byte_range.path, path or "/", "group that is linked twice")
        self.seen.add(found.address)
        symbols = found.first(SYMBOLS)
        if symbols is None:
            # What the parent says of a table is stale: libhdf5 turned the group into another kind.
            return links_of(self.source, found, path)
        tree, heap = struct.unpack_from("<2Q", symbols.data)
        self.source.zeros(symbols.data[16:], symbols.address, "the end of a table of links")
        if link.tree is not None and (link.tree, link.heap) != (tree, heap):
            raise self.source.error(
                found.address, f"{path or '/'} keeps its links elsewhere than its parent says"
            )
        return read_links(self.source, tree, heap, self.superblock.fanout, path)

    # -- datasets

    def _dataset(self, found: ObjectHeader, path: str) -> H5Dataset:
        space, kind, layout = found.first(DATASPACE), found.first(DATATYPE), found.first(LAYOUT)
        if space is None or kind is None or layout is None:
            raise self.source.error(found.address, f"{path} lacks its type or extent")
        if found.first(EXTERNAL) is not None:
            raise refusal(
                self.source.byte_range.path, path, "dataset whose values lie in another file"
            )
        extent = self.messages.extent(space.data, space.address)
        if extent.shape is None:
            raise self.source.error(found.address, f"{path} has no extent")
        stored = self.messages.type(kind.data, kind.address)
        if stored.order is not None:
            self.orders[path] = stored.order
        for message in found.messages:
            if message.kind in (FILL, OLD_FILL):
                self.messages.fill(message, stored.size)
            else:
                self.messages.check(message)
        attributes = self._attributes(found, path)
        filters = read_filters(self.source, found.first(FILTERS), path)
        target = StoredArray(path, extent.shape, extent.most, stored.size)
        offset = read_layout(self.source, layout, filters, target, self.superblock.fanout.chunks)
        if stored.has_heap and offset is not None:
            self._check_cells(stored, offset, target)
        known = stored.dtype or stored.kind in (STRING, OPAQUE)
        if not known or (stored.kind == VARIABLE and filters):
            raise LeftToLibhdf5(f"{path} is of an unusual type")
        dtype, width = self._dtype(stored, attributes)
        native = stored.native and target.nbytes > 0
        place = offset if native else None
        return H5Dataset(path, dtype, extent.shape, target.nbytes, place, width, found.address)

    def _check_cells(self, stored: Datatype, offset: int, target: StoredArray) -> None:
        """Refuse values of variable length that are not where their dataset says."""
        if stored.kind != VARIABLE or target.nbytes > 16 * _MAX_CELLS:
            return
        data = self.source.read(offset, target.nbytes)
        for at in range(0, target.nbytes, 16):
            cell = data[at : at + 16]
            self.messages.heaps.value(cell, stored.base, offset + at, f"a value of {target.path}")

    def _dtype(self, stored: Datatype, attributes: dict[str, Attribute]) -> tuple[str, int]:
        """Return (dtype, width); Keras marks bfloat16 and float8 with an attribute `dtype`."""
        if stored.kind == STRING:
            return "string", stored.size
        if stored.kind not in (OPAQUE, FIXED):
            return stored.dtype, 0
        marked = attributes.get("dtype")
        if isinstance(marked, str) and dtypes.itemsize(marked) == stored.size:  # noqa: SIM102
            if stored.kind == OPAQUE or dtypes.kind(marked) == "float":
                return marked, 0
        return (stored.dtype, 0) if stored.dtype else (f"void{8 * stored.size}", stored.size)
