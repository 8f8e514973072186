"""FarmHash Fingerprint64, with which TensorFlow fills a SavedModel's `fingerprint.pb`.

`checkpoint_hash` is that of the bytes of variables.index, `saved_model_checksum` that of the
SavedModel message serialised in a fixed order, which is how Python writes saved_model.pb.
Source: google/farmhash (farmhashna::Hash64), tensorflow/cc/saved_model/fingerprinting.cc.
"""

from __future__ import annotations

import struct

_M = (1 << 64) - 1
_K0, _K1, _K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F
_SEED = 81


def fingerprint64(data: bytes) -> int:
    """Return the 64-bit fingerprint of `data`: about 8 MB/s."""
    if len(data) <= 16:
        return _up_to_16(data)
    if len(data) <= 32:
        return _up_to_32(data)
    if len(data) <= 64:
        return _up_to_64(data)
    return _long(data)


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _rotate(value: int, shift: int) -> int:
    return (value >> shift | value << (64 - shift)) & _M


def _mixed(value: int) -> int:
    return value ^ value >> 47


def _pair(u: int, v: int, mul: int) -> int:
    a = _mixed((u ^ v) * mul & _M)
    return _mixed((v ^ a) * mul & _M) * mul & _M


def _up_to_16(data: bytes) -> int:
    size = len(data)
    if size >= 8:
        mul = _K2 + size * 2
        a, b = (_word(data, 0) + _K2) & _M, _word(data, size - 8)
        c = (_rotate(b, 37) * mul + a) & _M
        d = (_rotate(a, 25) + b) * mul & _M
        return _pair(c, d, mul)
    if size >= 4:
        mul = _K2 + size * 2
        a = int.from_bytes(data[:4], "little")
        return _pair(size + (a << 3) & _M, int.from_bytes(data[-4:], "little"), mul)
    if size:
        y = data[0] + (data[size >> 1] << 8)
        z = size + (data[-1] << 2)
        return _mixed((y * _K2 ^ z * _K0) & _M) * _K2 & _M
    return _K2


def _up_to_32(data: bytes) -> int:
    size = len(data)
    mul = _K2 + size * 2
    a, b = _word(data, 0) * _K1 & _M, _word(data, 8)
    c, d = _word(data, size - 8) * mul & _M, _word(data, size - 16) * _K2 & _M
    return _pair(
        (_rotate((a + b) & _M, 43) + _rotate(c, 30) + d) & _M,
        (a + _rotate((b + _K2) & _M, 18) + c) & _M,
        mul,
    )


def _up_to_64(data: bytes) -> int:
    size = len(data)
    mul = _K2 + size * 2
    a, b = _word(data, 0) * _K2 & _M, _word(data, 8)
    c, d = _word(data, size - 8) * mul & _M, _word(data, size - 16) * _K2 & _M
    y = (_rotate((a + b) & _M, 43) + _rotate(c, 30) + d) & _M
    z = _pair(y, (a + _rotate((b + _K2) & _M, 18) + c) & _M, mul)
    e, f = _word(data, 16) * mul & _M, _word(data, 24)
    g, h = (y + _word(data, size - 32)) * mul & _M, (z + _word(data, size - 24)) * mul & _M
    return _pair(
        (_rotate((e + f) & _M, 43) + _rotate(g, 30) + h) & _M,
        (e + _rotate((f + a) & _M, 18) + g) & _M,
        mul,
    )


def _weak(words: tuple[int, ...], a: int, b: int) -> tuple[int, int]:
    """Mix four words into two seeds."""
    w, x, y, z = words
    a = (a + w) & _M
    b = _rotate((b + a + z) & _M, 21)
    c = a
    a = (a + x + y) & _M
    return (a + z) & _M, (b + _rotate(a, 44) + c) & _M


def _long(data: bytes) -> int:
    x = _SEED
    y = (_SEED * _K1 + 113) & _M
    z = _mixed((y * _K2 + 113) & _M) * _K2 & _M
    v = w = (0, 0)
    x = (x * _K2 + _word(data, 0)) & _M
    end = (len(data) - 1) // 64 * 64
    for words in struct.iter_unpack("<8Q", memoryview(data)[:end]):
        x = (_rotate((x + y + v[0] + words[1]) & _M, 37) * _K1) & _M
        y = (_rotate((y + v[1] + words[6]) & _M, 42) * _K1) & _M
        x ^= w[1]
        y = (y + v[0] + words[5]) & _M
        z = _rotate((z + w[0]) & _M, 33) * _K1 & _M
        v = _weak(words[:4], v[1] * _K1 & _M, (x + w[0]) & _M)
        w = _weak(words[4:], (z + w[1]) & _M, (y + words[2]) & _M)
        z, x = x, z
    mul = (_K1 + ((z & 0xFF) << 1)) & _M
    words = struct.unpack("<8Q", data[-64:])
    w = (w[0] + ((len(data) - 1) & 63) & _M, w[1])
    v = (v[0] + w[0] & _M, v[1])
    w = (w[0] + v[0] & _M, w[1])
    x = _rotate((x + y + v[0] + words[1]) & _M, 37) * mul & _M
    y = _rotate((y + v[1] + words[6]) & _M, 42) * mul & _M
    x ^= w[1] * 9 & _M
    y = (y + v[0] * 9 + words[5]) & _M
    z = _rotate((z + w[0]) & _M, 33) * mul & _M
    v = _weak(words[:4], v[1] * mul & _M, (x + w[0]) & _M)
    w = _weak(words[4:], (z + w[1]) & _M, (y + words[2]) & _M)
    z, x = x, z
    return _pair(
        (_pair(v[0], w[0], mul) + _mixed(y) * _K0 + z) & _M,
        (_pair(v[1], w[1], mul) + x) & _M,
        mul,
    )
