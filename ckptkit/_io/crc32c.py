"""CRC-32C (Castagnoli), as LevelDB tables and tensor bundles use it.

Stored checksums are *masked*, because a checksum of bytes that hold checksums is weak:
mask(c) = rotr32(c, 15) + 0xa282ead8 (leveldb/util/crc32c.h).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from google_crc32c import extend, value

__all__ = ["extend", "mask", "unlocked_extend", "unmask", "value"]

_DELTA = 0xA282EAD8


def mask(crc: int) -> int:
    """Return the masked form of a crc32c, as stored in files."""
    return ((crc >> 15 | crc << 17) + _DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Return the crc32c behind its stored, masked form."""
    rotated = (masked - _DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


@cache
def unlocked_extend() -> Callable[[int, int, int], int] | None:
    """Return extend(crc, address, nbytes), which lets other threads run meanwhile; None without it.

    google_crc32c's own `extend` holds the interpreter's lock, so that two threads are no faster
    than one.  The C function behind it is called through ctypes, which lets the lock go.
    """
    import ctypes

    try:
        import google_crc32c._crc32c as extension

        function = ctypes.CDLL(str(extension.__file__)).crc32c_extend
    except (ImportError, AttributeError, OSError):  # the pure-Python build of the package
        return None
    function.restype = ctypes.c_uint32
    function.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t]
    sample = ctypes.create_string_buffer(b"123456789", 9)
    # the check value of CRC-32C (RFC 3720): another function of that name is not used
    if function(0, ctypes.addressof(sample), 9) != 0xE3069283:
        return None
    return lambda crc, address, nbytes: int(function(crc, address, nbytes))
