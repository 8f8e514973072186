"""Joining CRC-32C checksums of neighbouring runs of bytes, so that a tensor can be cut into parts.

A CRC is a polynomial over GF(2) modulo P: appending n zero bytes multiplies it by x^(8n) mod P, and
the checksum of A followed by B is that product for A, plus (xor) the checksum of B.  Polynomials
are held bit-reflected, as CRC-32C is: bit 31 is x^0.
"""

from __future__ import annotations

from functools import lru_cache

from ckptkit._io.crc32c import value

_P = 0x82F63B78  # Castagnoli, reflected
_ONE = 1 << 31


def combine(first: int, second: int, second_nbytes: int) -> int:
    """Return the crc32c of two runs laid end to end, from that of each and the second's length."""
    return _multiply(_shift(second_nbytes), first) ^ second


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


def _multiply(a: int, b: int) -> int:
    """Return a * b mod P."""
    product, bit = 0, _ONE
    while bit:
        if a & bit:
            product ^= b
        b = b >> 1 ^ (_P if b & 1 else 0)
        bit >>= 1
    return product


@lru_cache(maxsize=256)
def _shift(nbytes: int) -> int:
    """Return x^(8 * nbytes) mod P, by squaring."""
    power, base = _ONE, 1 << 23  # x^8
    while nbytes:
        if nbytes & 1:
            power = _multiply(power, base)
        base = _multiply(base, base)
        nbytes >>= 1
    return power
