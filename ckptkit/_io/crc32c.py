"""CRC-32C (Castagnoli), as LevelDB tables and tensor bundles use it.

Stored checksums are *masked*, because a checksum of bytes that hold checksums is weak:
mask(c) = rotr32(c, 15) + 0xa282ead8 (leveldb/util/crc32c.h).

Checksums of neighbouring runs of bytes can be joined, so that a tensor can be read in parts.  A CRC
is a polynomial over GF(2) modulo P: appending n zero bytes multiplies it by x^(8n) mod P, and the
checksum of A followed by B is that product for A, plus (xor) the checksum of B.  Polynomials are
held bit-reflected, as CRC-32C is: bit 31 is x^0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from google_crc32c import extend, value

__all__ = [
    "combine",
    "crc_of_repeated",
    "extend",
    "extend_address",
    "mask",
    "unlocked_extend",
    "unmask",
    "value",
]

_DELTA = 0xA282EAD8
_P = 0x82F63B78  # Castagnoli, reflected
_ONE = 1 << 31


def mask(crc: int) -> int:
    """Return the masked form of a crc32c, as stored in files."""
    return ((crc >> 15 | crc << 17) + _DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Return the crc32c behind its stored, masked form."""
    rotated = (masked - _DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


@cache
def extend_address() -> int | None:
    """Return where uint32 extend(uint32 crc, const void *bytes, size_t nbytes) lies, for code in C.

    None where google_crc32c has no compiled part.
    """
    import ctypes

    function = _compiled_extend()
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value


@cache
def unlocked_extend() -> Callable[[int, int, int], int] | None:
    """Return extend(crc, address, nbytes), which lets other threads run meanwhile; None without it.

    google_crc32c's own `extend` holds the interpreter's lock, so that two threads are no faster
    than one.  The C function behind it is called through ctypes, which lets the lock go.
    """
    function = _compiled_extend()
    if function is None:
        return None
    return lambda crc, address, nbytes: int(function(crc, address, nbytes))


@cache
def _compiled_extend() -> Any:
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
    return function


def combine(first: int, second: int, second_nbytes: int, polynomial: int = _P) -> int:
    """Return the crc32c of two runs laid end to end, from that of each and the second's length.

    polynomial: of another CRC of 32 bits that begins and ends as this one does, reflected.
    """
    return _multiply(_shift(second_nbytes, polynomial), first, polynomial) ^ second


def crc_of_repeated(pattern: bytes, nbytes: int) -> int:
    """Return the crc32c of `pattern` repeated to `nbytes` bytes, in O(log n) steps.

    `nbytes` must be a multiple of the pattern's length.
    """
    total, done = 0, 0
    crc, length = value(pattern), len(pattern)
    count = nbytes // length if length else 0
    while count:
        if count & 1:
            total = combine(total, crc, length)
            done += length
        crc, length, count = combine(crc, crc, length), length * 2, count >> 1
    return total if done else 0


def _multiply(a: int, b: int, polynomial: int) -> int:
    """Return a * b modulo the polynomial."""
    product, bit = 0, _ONE
    while bit:
        if a & bit:
            product ^= b
        b = b >> 1 ^ (polynomial if b & 1 else 0)
        bit >>= 1
    return product


@lru_cache(maxsize=256)
def _shift(nbytes: int, polynomial: int) -> int:
    """Return x^(8 * nbytes) modulo the polynomial, by squaring."""
    power, base = _ONE, 1 << 23  # x^8
    while nbytes:
        if nbytes & 1:
            power = _multiply(power, base, polynomial)
        base = _multiply(base, base, polynomial)
        nbytes >>= 1
    return power
