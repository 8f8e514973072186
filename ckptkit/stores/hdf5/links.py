"""Link messages: the links of a group that keeps no symbol table, one message each.

version 1, flags, [kind], [order of creation (8)], [encoding of the name],
length of the name (1, 2, 4 or 8 bytes, by flags & 3), name, where it leads
"""

from __future__ import annotations

import struct

from ckptkit.stores.hdf5.bounded import BoundedReader
from ckptkit.stores.hdf5.messages import LINK, ObjectHeader
from ckptkit.stores.hdf5.symbol_tables import GroupLink
from ckptkit.stores.hdf5.types import refusal


def links_of(source: BoundedReader, found: ObjectHeader, path: str) -> list[GroupLink]:
    """Return the links of a new-style group, sorted by name; raises FormatError."""
    links: dict[bytes, GroupLink] = {}
    for message in found.messages:
        if message.kind != LINK:
            continue
        raw, link = _link(source, message.data, message.address, path)
        if raw in links:
            raise source.error(message.address, f"two links called {link.name!r}")
        links[raw] = link
    return [links[raw] for raw in sorted(links)]


def _link(source: BoundedReader, data: bytes, address: int, path: str) -> tuple[bytes, GroupLink]:
    version, flags = data[0], data[1]
    if version != 1 or flags & ~0x1F:
        raise source.error(address, f"a link of version {version}, flags {flags:#04x}")
    at, kind = 2, 0
    if flags & 0x08:
        kind, at = data[at], at + 1
    if flags & 0x04:
        at += 8
    if flags & 0x10:
        if data[at] > 1:
            raise source.error(address, f"a link's name in encoding {data[at]}")
        at += 1
    width = 1 << (flags & 3)
    length = int.from_bytes(data[at : at + width], "little")
    at += width
    raw = data[at : at + length]
    at += length
    name = raw.decode("utf-8", "backslashreplace")
    if not raw or len(raw) < length or "/" in name or b"\0" in raw or name == ".":
        raise source.error(address, f"a link called {name!r}")
    if kind:
        if kind != 1 and kind < 64:
            raise source.error(address, f"a link of kind {kind}")
        what = "soft link" if kind == 1 else "link out of this file"
        raise refusal(source.byte_range.path, f"{path}/{name}" if path else name, what)
    if len(data) < at + 8:
        raise source.error(address, "a link that is too short")
    (target,) = struct.unpack_from("<Q", data, at)
    source.zeros(data[at + 8 :], address, "what follows a link")
    return raw, GroupLink(name, target, None, None)
