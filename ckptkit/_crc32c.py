"""CRC-32C (Castagnoli), as LevelDB tables and tensor bundles use it.

Stored checksums are *masked*, because a checksum of bytes that hold checksums is weak:
mask(c) = rotr32(c, 15) + 0xa282ead8 (leveldb/util/crc32c.h).
"""

from __future__ import annotations

from google_crc32c import extend, value

__all__ = ["extend", "mask", "unmask", "value"]

_DELTA = 0xA282EAD8


def mask(crc: int) -> int:
    """Return the masked form of a crc32c, as stored in files."""
    return ((crc >> 15 | crc << 17) + _DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Return the crc32c behind its stored, masked form."""
    rotated = (masked - _DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
