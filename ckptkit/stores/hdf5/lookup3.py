"""The checksum of HDF5's later structures: Bob Jenkins's lookup3 (`hashlittle`), initial value 0.

http://burtleburtle.net/bob/c/lookup3.c, which is in the public domain; libhdf5 has it as
`H5_checksum_lookup3`.
"""

from __future__ import annotations

import struct

_MASK = 0xFFFFFFFF


def checksum(data: bytes) -> int:
    """Return the 32-bit checksum of bytes."""
    size = len(data)
    a = b = c = (0xDEADBEEF + size) & _MASK
    if not size:
        return c
    blocks = (size - 1) // 12  # the last block, full or not, is mixed differently
    for x, y, z in struct.iter_unpack("<3I", data[: 12 * blocks]):
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        a = (a - c & _MASK) ^ (c << 4 & _MASK | c >> 28)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ (a << 6 & _MASK | a >> 26)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ (b << 8 & _MASK | b >> 24)
        b = b + a & _MASK
        a = (a - c & _MASK) ^ (c << 16 & _MASK | c >> 16)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ (a << 19 & _MASK | a >> 13)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ (b << 4 & _MASK | b >> 28)
        b = b + a & _MASK
    x, y, z = struct.unpack("<3I", data[12 * blocks :].ljust(12, b"\0"))
    a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
    c = (c ^ b) - (b << 14 & _MASK | b >> 18) & _MASK
    a = (a ^ c) - (c << 11 & _MASK | c >> 21) & _MASK
    b = (b ^ a) - (a << 25 & _MASK | a >> 7) & _MASK
    c = (c ^ b) - (b << 16 & _MASK | b >> 16) & _MASK
    a = (a ^ c) - (c << 4 & _MASK | c >> 28) & _MASK
    b = (b ^ a) - (a << 14 & _MASK | a >> 18) & _MASK
    return int((c ^ b) - (b << 24 & _MASK | b >> 8) & _MASK)
