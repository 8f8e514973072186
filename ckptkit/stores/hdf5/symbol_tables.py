"""Classic groups: a B-tree of nodes of links, and a heap of their names.

    "TREE", kind 0 (groups), level, entries (2), left and right neighbour (8 each)
        key, child, key, child, ..., key: a key is the place in the heap of the largest name on its
        left; nodes have room for 2 K entries.  What is not used is anything: libhdf5 1.8 leaves
        there what stood in a node before it was split
    "SNOD", version 1, 0, entries (2); entries of 40 bytes, room for 2 K:
        place of the name in the heap (8), object header (8), cached (4), 0 (4), scratch (16)
        cached 1: scratch has the tree and heap of the group that it is; 2: a soft link
    "HEAP", version 0, 3 zero bytes, size of the names (8), first free block (8), place (8)
        a free block: place of the next (1: none), its own size

Links are sorted by name; libhdf5 looks for one by bisection, so that one that is out of place is
listed, but not found.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ckptkit.stores.hdf5.bounded import UNDEFINED, BoundedReader
from ckptkit.stores.hdf5.object_headers import MAX_HEADER
from ckptkit.stores.hdf5.types import refusal

_MAX_NAME = 4096
_ENTRY = 40  # bytes of an entry of a symbol node
_NO_BLOCK = 1  # H5HL_FREE_NULL
_LEAST_BLOCK = 16  # bytes that a free block needs to say what it is


class Fanout(NamedTuple):
    """How many entries the nodes of a file have room for: half of it, as the superblock says."""

    leaf: int
    internal: int
    chunks: int


class GroupLink(NamedTuple):
    """A link of a classic group.  tree, heap: what its entry says of the group that it leads to."""

    name: str
    address: int
    tree: int | None
    heap: int | None


def read_links(
    source: BoundedReader, tree: int, heap: int, fanout: Fanout, path: str
) -> list[GroupLink]:
    """Return the links of a group, in the order of their names, everything about them checked.

    Raises FormatError, TruncatedError.
    """
    names = _LocalHeap(source, heap, path)
    links: list[GroupLink] = []
    last = b""
    for node, (low, high) in _leaves(source, tree, fanout.internal, path):
        if not low < UNDEFINED:
            raise source.error(node, "a key that leads nowhere")
        least, most = names.at(low, tree), names.at(high, tree)
        found = list(_entries(source, node, fanout.leaf, names, path))
        for raw, link in found:
            if raw <= last:
                raise source.error(node, f"link {link.name!r} of {path or '/'} is out of order")
            if not least < raw <= most:
                raise source.error(node, f"link {link.name!r} of {path or '/'} is not by its key")
            last = raw
            links.append(link)
    names.check()
    return links


class _LocalHeap:
    """The names of a group's links."""

    def __init__(self, source: BoundedReader, address: int, path: str) -> None:
        self.source = source
        self.address = address
        head = source.signed(address, 32, b"HEAP")
        size, free, place = struct.unpack_from("<3Q", head, 8)
        if head[4]:
            raise source.error(address, f"a heap of names of version {head[4]}")
        source.zeros(head[5:8], address, "bytes 5 to 8 of a heap of names")
        if not 8 <= size <= MAX_HEADER:
            raise source.error(address, f"a heap of {size} bytes")
        source.claim(address, 32, f"the heap of {path or '/'}")
        source.claim(place, size, f"the names in {path or '/'}")
        self.data = source.read(place, size)
        self.used: dict[int, int] = {0: 0}  # place -> bytes; the empty name is the first
        self.blocks = list(self._free_blocks(free))

    def _free_blocks(self, place: int) -> Iterator[tuple[int, int]]:
        """Yield (place, bytes) of the free blocks."""
        size, count = len(self.data), 0
        while place != _NO_BLOCK:
            count += 1
            if place % 8 or place + _LEAST_BLOCK > size or count > size // _LEAST_BLOCK:
                raise self.source.error(self.address, f"a free block at {place} of {size} bytes")
            following, nbytes = struct.unpack_from("<2Q", self.data, place)
            if nbytes < _LEAST_BLOCK or nbytes % 8 or place + nbytes > size:
                raise self.source.error(self.address, f"a free block of {nbytes} bytes at {place}")
            yield place, nbytes
            place = following

    def at(self, place: int, address: int) -> bytes:
        """Return the name at a place; address: of what says so."""
        end = self.data.find(b"\0", place) if place < len(self.data) else -1
        if end < 0 or end - place > _MAX_NAME or place % 8:
            raise self.source.error(address, f"a name at {place} of {len(self.data)} bytes")
        return self.data[place:end]

    def use(self, place: int, nbytes: int) -> None:
        """Note that a name lies there."""
        self.used[place] = nbytes

    def check(self) -> None:
        """Refuse names that lie over each other or over what is free."""
        taken = [(place, nbytes // 8 * 8 + 8) for place, nbytes in self.used.items()]
        end = 0
        for place, nbytes in sorted(taken + self.blocks):
            if place < end:
                raise self.source.error(
                    self.address, f"the name at {place} shares bytes with another, or with none"
                )
            end = place + nbytes


def _entries(
    source: BoundedReader, node: int, leaf: int, names: _LocalHeap, path: str
) -> Iterator[tuple[bytes, GroupLink]]:
    nbytes = 8 + 2 * leaf * _ENTRY
    source.claim(node, nbytes, f"links of {path or '/'}")
    data = source.signed(node, nbytes, b"SNOD")
    version, reserved, count = struct.unpack_from("<BBH", data, 4)
    if version != 1 or reserved:
        raise source.error(node, f"a node of links of version {version}, {reserved}")
    if not 0 < count <= 2 * leaf:
        raise source.error(node, f"{count} links in a node for {2 * leaf}")
    stale = data[8 + count * _ENTRY :]
    if stale.strip(b"\0"):
        places = [struct.unpack_from("<Q", stale, at)[0] for at in range(8, len(stale), _ENTRY)]
        source.left_over(places, node, f"a node of links of {path or '/'}")
    for at in range(8, 8 + count * _ENTRY, _ENTRY):
        place, address, cached, rest, tree, heap = struct.unpack_from("<QQII2Q", data, at)
        raw = names.at(place, node)
        if not raw:
            raise source.error(node, "a link without a name")
        names.use(place, len(raw))
        name = raw.decode("utf-8", "backslashreplace")
        if "/" in name or name == ".":
            raise source.error(node, f"a link called {name!r}")
        if cached == 2:
            raise refusal(source.byte_range.path, f"{path}/{name}" if path else name, "soft link")
        if cached > 2 or rest:
            raise source.error(node, f"link {name!r} is of kind {cached}, {rest}")
        is_group = cached == 1
        link = GroupLink(name, address, tree if is_group else None, heap if is_group else None)
        yield raw, link


def _leaves(
    source: BoundedReader, tree: int, internal: int, path: str
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the addresses of a group's symbol nodes, in order, each with the keys beside it."""
    nbytes = 24 + 8 * (4 * internal + 1)
    seen: set[int] = set()
    # address, level above, keys beside it
    stack: list[tuple[int, int, tuple[int, int] | None]] = [(tree, -1, None)]
    ends: dict[int, tuple[int, int]] = {}  # level -> last node and what it says is on its right
    while stack:
        address, above, beside = stack.pop()
        if address in seen:
            raise source.error(address, "a B-tree that runs in circles")
        seen.add(address)
        source.claim(address, nbytes, f"a B-tree of {path or '/'}")
        data = source.signed(address, nbytes, b"TREE")
        kind, level, used, left, right = struct.unpack_from("<BBH2Q", data, 4)
        if kind != 0 or (above >= 0 and level != above - 1):
            raise source.error(address, f"a B-tree node of kind {kind} at level {level}")
        if used > 2 * internal or (not used and (above >= 0 or level)):
            raise source.error(address, f"{used} entries in a B-tree node for {2 * internal}")
        before, expected = ends.get(level, (UNDEFINED, address))
        if left != before or expected != address:
            raise source.error(address, "a B-tree node whose neighbours are others")
        ends[level] = address, right
        stale = data[32 + 16 * used :]
        if stale.strip(b"\0"):
            places = struct.unpack(f"<{len(stale) // 8}Q", stale)[::2]
            source.left_over(places, address, f"a B-tree of {path or '/'}")
        numbers = struct.unpack_from(f"<{2 * used + 1}Q", data, 24)
        keys, children = numbers[::2], numbers[1::2]
        if beside is not None and used and (keys[0], keys[-1]) != beside:
            raise source.error(address, "a B-tree node whose keys are not those above it")
        pairs = list(pairwise(keys))
        if level:
            for child, pair in reversed(list(zip(children, pairs, strict=True))):
                stack.append((child, level, pair))
            continue
        for child, pair in zip(children, pairs, strict=True):
            if child in seen:
                raise source.error(child, "a symbol node that is used twice")
            seen.add(child)
            yield child, pair
    for address, right in ends.values():
        if right != UNDEFINED:
            raise source.error(address, "a B-tree node whose neighbours are others")
