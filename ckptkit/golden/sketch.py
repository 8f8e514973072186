"""What is kept of a tensor's values so that a later change can be named without the old values.

Beside the SHA-256 of the values, some 64-bit sums over the elements that are made in one pass:

    places    sum of mix(bits, place): tells two orders of the same values apart
    values    sum of mix(bits): the same for any order
    rows      the same for any order of the rows (all axes but the last, flattened)
    columns   the same for any order of the last axis
    blocks    `places`, in 16 parts of the flat tensor (32 bits of each)
    units     `places`, in up to 16 parts of the last axis
    sums      of w, p*w and p*p*w over the 32-bit words w at place p (8 or 16 bits for small dtypes)

If one word changed by d, the three sums change by d, p*d and p*p*d: that gives its place and its
old value back.  A reordering that is guessed is verified by `places` of the values put back.
None of it is a secret or a signature; the SHA-256 alone decides whether values are the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np

from ckptkit.dtypes import Array, itemsize, kind
from ckptkit.golden.sketch_types import SAMPLED, Sketch
from ckptkit.model_io.sampling import places_of
from ckptkit.stores.base import Store, TensorSpec
from ckptkit.stores.digest import canonical_bytes

PARTS = 16  # of the flat tensor, and of the last axis
BLOCK = 1 << 15  # elements worked on at once: scratch arrays of 256 KiB stay near the core
MAX_COLUMNS = 1 << 20  # elements of the last axis for which sums per column are kept
_A, _B, _C = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_STEP = int(_B)
_DOT = 8192  # elements per BLAS call: below the size at which OpenBLAS starts threads of its own
_HALF, _SHIFT = np.uint64(32), np.uint64(29)
_MASK = (1 << 64) - 1


def sketch(store: Store, key: str) -> Sketch:
    """Return the sketch of one tensor, in one pass whose memory does not grow with it.

    Raises ChecksumError, TruncatedError, FormatError and UnsupportedError as the store does.
    """
    spec = store.specs[key]
    return sketch_blocks(spec, (values for _, values in store.blocks(key)))


def sketch_of(values: Array, dtype: str) -> Sketch:
    """Return the sketch of an array."""
    spec = TensorSpec("", dtype, values.shape, values.nbytes)
    return sketch_blocks(spec, [values.reshape(-1)] if values.size else [])


def sketch_blocks(spec: TensorSpec, blocks: Iterable[Array]) -> Sketch:
    """Return the sketch of the tensor whose flat values come in order."""
    total = hashlib.sha256()
    numeric = kind(spec.dtype) not in ("string", "opaque") and itemsize(spec.dtype) > 0
    maker = _Maker(spec) if numeric and spec.size else None
    for values in blocks:
        for chunk in canonical_bytes(values):
            total.update(chunk)
        if maker is not None:
            for start in range(0, len(values), BLOCK):
                maker.add(values[start : start + BLOCK])
    plain = Sketch(spec.dtype, spec.shape, total.hexdigest())
    return plain if maker is None else maker.finish(plain)


def bits_of(values: Array) -> Array:
    """Return the bits of each element as uint64; of 16-byte elements both halves, mixed."""
    width = values.dtype.itemsize
    if width == 16:
        halves = np.ascontiguousarray(values).view(np.uint64).reshape(-1, 2)
        return np.asarray(halves[:, 0] * _B + (halves[:, 1] ^ _C))
    return np.ascontiguousarray(values).view(f"u{width}").astype(np.uint64)


def _mix(values: Array, spare: Array) -> Array:
    """Hash each element in place; `spare` is overwritten."""
    np.right_shift(values, _HALF, out=spare)
    np.bitwise_xor(values, spare, out=values)
    np.multiply(values, _C, out=values)
    np.right_shift(values, _SHIFT, out=spare)
    return np.bitwise_xor(values, spare, out=values)


def places_sum(values: Array) -> int:
    """Return the sketch's `places` for an array in its present order."""
    flat, total = values.reshape(-1), 0
    for start in range(0, flat.size, BLOCK):
        part = bits_of(flat[start : start + BLOCK]) * _A
        part += _ramp(len(part)) + _wrapped(start * _STEP)
        total += _sum(_mix(part, np.empty_like(part)))
    return total & _MASK


def _wrapped(number: int) -> np.uint64:
    return np.uint64(number & _MASK)


@cache
def _ramps() -> tuple[Array, Array, Array]:
    """Return place * _B, place and place**2 for the places of one block."""
    near = np.arange(BLOCK, dtype=np.uint64)
    return near * _B, near, near * near


def _ramp(count: int) -> Array:
    return _ramps()[0][:count]


def _sum(values: Array) -> int:
    return int(values.sum(dtype=np.uint64))


class _Maker:
    """Takes the values of one tensor in order, at most BLOCK at a time."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec, self.done = spec, 0
        self.size, self.width = spec.size, itemsize(spec.dtype)
        self.row = spec.shape[-1] if len(spec.shape) > 1 else 0
        self.tabled = 0 < self.row <= MAX_COLUMNS
        self.values = self.rows = self.open_row = 0
        self.sums = [0, 0, 0]
        self.blocks = [0] * PARTS
        self.columns = np.zeros(self.row if self.tabled else 0, np.uint64)
        self.units = np.zeros_like(self.columns)
        self.keys = _mix(
            _mix(np.arange(1, len(self.columns) + 1, dtype=np.uint64) * _B, _like(self.columns)),
            _like(self.columns),
        ) | np.uint64(1)
        self.coarse = dict.fromkeys(("bfloat16", "float16"), spec.dtype == "float32")
        self.low, self.high, self.squares = math.inf, -math.inf, 0.0
        self.nonfinite = self.zeros = 0
        self.wanted = places_of(self.size, min(SAMPLED, self.size), 0)
        self.sampled: list[float] = []
        self.bounds = [part * self.size // PARTS for part in range(1, PARTS)]
        self.scratch = [np.empty(min(BLOCK, self.size), np.uint64) for _ in range(4)]

    def add(self, values: Array) -> None:
        start, count = self.done, len(values)
        self.done += count
        bits, scaled, work, spare = (array[:count] for array in self.scratch)
        if self.width > 8:
            bits = bits_of(values)
        else:
            bits[...] = np.ascontiguousarray(values).view(f"u{self.width}")
        self._add_words(values, bits, start)
        # of the values alone: the same whatever their order
        np.multiply(bits, _A, out=scaled)
        np.add(scaled, 0, out=work)
        self.values += _sum(_mix(work, spare))
        # of values at their places: another order gives another sum
        np.add(scaled, _ramp(count), out=work)
        np.add(work, _wrapped(start * _STEP), out=work)
        placed = _mix(work, spare)
        # the share of each of the parts in this block
        edges = [min(max(bound - start, 0), count) for bound in self.bounds]
        for part, (low, high) in enumerate(zip([0, *edges], [*edges, count], strict=True)):
            if high > low:
                self.blocks[part] += _sum(placed[low:high])
        if self.tabled:
            self._add_table(scaled, placed, spare, start)
        self._add_numbers(values, start)

    def _add_table(self, scaled: Array, placed: Array, spare: Array, start: int) -> None:
        """Sums per row and per column; a row may be cut by the end of a block."""
        row, at, count = self.row, 0, len(scaled)
        while at < count:
            index, first = divmod(start + at, row)
            size = min(row - first, count - at)
            if first or size < row:  # a part of a row
                part = slice(at, at + size)
                here = slice(first, first + size)
                self.columns[here] += scaled[part] * _row_keys(index, 1)
                self.units[here] += placed[part]
                self.open_row += _sum(scaled[part] * self.keys[here])
                if first + size == row:
                    self.rows += _finished([self.open_row & _MASK])
                    self.open_row = 0
                at += size
                continue
            rows = (count - at) // row
            part = slice(at, at + rows * row)
            table, out = scaled[part].reshape(rows, row), spare[part].reshape(rows, row)
            np.multiply(table, _row_keys(index, rows)[:, None], out=out)
            self.columns += out.sum(axis=0, dtype=np.uint64)
            np.multiply(table, self.keys, out=out)
            self.rows += _finished(out.sum(axis=1, dtype=np.uint64))
            self.units += placed[part].reshape(rows, row).sum(axis=0, dtype=np.uint64)
            at += rows * row

    def _add_words(self, values: Array, bits: Array, start: int) -> None:
        width = min(self.width, 4)
        step = self.width // width
        near, square = _ramps()[1:]
        if step > 1:
            bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
        for at in range(0, len(bits), BLOCK):
            words = bits[at : at + BLOCK]
            first, count = start * step + at, len(words)
            plain = _sum(words)
            once, twice = int(np.dot(words, near[:count])), int(np.dot(words, square[:count]))
            self.sums[0] += plain
            self.sums[1] += first * plain + once
            self.sums[2] += first * first * plain + 2 * first * once + twice

    def _add_numbers(self, values: Array, start: int) -> None:
        with np.errstate(all="ignore"):
            numbers = self.scratch[0][: len(values)].view(np.float64)
            numbers[...] = np.abs(values) if values.dtype.kind == "c" else values
            squares = _squares(numbers)
        self.zeros += len(numbers) - int(np.count_nonzero(numbers))
        low, high = np.searchsorted(self.wanted, (start, start + len(values)))
        if high > low:
            self.sampled += numbers[self.wanted[low:high] - start].tolist()
        self._see_coarse(values)
        if not math.isfinite(squares):
            numbers = numbers[np.isfinite(numbers)]
            self.nonfinite += len(values) - len(numbers)
            squares = _squares(numbers)
        if len(numbers):
            self.low = min(self.low, float(numbers.min()))
            self.high = max(self.high, float(numbers.max()))
            self.squares += squares

    def _see_coarse(self, values: Array) -> None:
        """Look whether the values fit a shorter dtype, until one does not."""
        if self.coarse["bfloat16"]:
            bits = np.ascontiguousarray(values).view(np.uint32)
            self.coarse["bfloat16"] = not (bits & np.uint32(0xFFFF)).any()
        if self.coarse["float16"]:
            with np.errstate(all="ignore"):
                half = values.astype(np.float16).astype(np.float32)
            self.coarse["float16"] = bool(np.array_equal(half, values, equal_nan=True))

    def finish(self, plain: Sketch) -> Sketch:
        count = self.size - self.nonfinite
        table = self.tabled
        return plain._replace(
            places=sum(self.blocks) & _MASK,
            values=self.values & _MASK,
            rows=self.rows & _MASK if table else None,
            columns=_finished(self.columns) & _MASK if table else None,
            blocks=tuple(x & 0xFFFFFFFF for x in self.blocks),
            units=tuple(_grouped(self.units)) if table else (),
            coarse=tuple(name for name, fits in self.coarse.items() if fits),
            sums=tuple(x & _MASK for x in self.sums),
            low=self.low if count else 0.0,
            high=self.high if count else 0.0,
            rms=math.sqrt(self.squares / count) if count else 0.0,
            nonfinite=self.nonfinite,
            zeros=self.zeros,
            sampled=tuple(self.sampled),
        )


def _squares(numbers: Array) -> float:
    parts = (numbers[at : at + _DOT] for at in range(0, len(numbers), _DOT))
    with np.errstate(all="ignore"):
        return sum(float(np.dot(part, part)) for part in parts)


def _like(values: Array) -> Array:
    return np.empty_like(values)


def _row_keys(first: int, count: int) -> Array:
    """Return an odd multiplier for each of `count` rows from `first` on."""
    keys = np.arange(first + 1, first + 1 + count, dtype=np.uint64) * _A
    return np.asarray(_mix(keys, _like(keys)) | np.uint64(1))


def _finished(sums: Any) -> int:
    """Return a sum over hashed `sums`, the same for any order of them."""
    values = np.array(sums, np.uint64)
    return _sum(_mix(values, _like(values)))


def _grouped(units: Array) -> Iterator[int]:
    """Yield 32-bit sums of up to PARTS neighbouring groups of units."""
    parts = min(PARTS, len(units))
    for part in range(parts):
        low, high = (edge * len(units) // parts for edge in (part, part + 1))
        yield _sum(units[low:high]) & 0xFFFFFFFF
