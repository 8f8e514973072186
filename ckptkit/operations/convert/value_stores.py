"""Values on their way from a source to a file: as they are, or cast, averaged, transformed.

Each is a `Store` as far as a comparison needs one (specs and blocks), so that what was written can
be proven against what should have been.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io import crc32c
from ckptkit._io.files import Extent
from ckptkit._io.read_buffer import Bytes, ReadBuffer
from ckptkit._io.small_reads import SMALL, SmallReadCache
from ckptkit.align.transforms import Transform
from ckptkit.compare.spans import FileSpan, source_of
from ckptkit.dtypes import DTYPES, itemsize, kind, numpy_dtype
from ckptkit.errors import ChangedError, UsageError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, Structure, TensorSpec, shaped

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.base import Store


# Read, checksummed and written while it is in the processor's cache: 4 MiB at a time, the kernel
# takes eight times as long to copy the same bytes in and out.
BLOCK_BYTES = 1 << 20


class ValueSource(NamedTuple):
    """Where the values of one tensor come from: a key of a store."""

    store: Store
    key: str

    @property
    def spec(self) -> TensorSpec:
        return self.store.specs[self.key]

    def blocks(self, max_elements: int | None = None) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) as `Store.blocks` does, by default in blocks of BLOCK_BYTES."""
        if max_elements is None:
            max_elements = BLOCK_BYTES // (itemsize(self.spec.dtype) or 16)
        return self.store.blocks(self.key, max_elements)


def stored_bytes(
    source: ValueSource, small_reads: SmallReadCache, buffer: ReadBuffer
) -> Iterator[Bytes] | None:
    """Return the bytes of a tensor that lie in a file as they are to be written, in pieces.

    Args:
        source: the tensor.
        small_reads: small tensors are read with what lies around them.
        buffer: what others are read into: a piece lasts until the next one.

    Returns:
        The pieces in order, the stored checksum compared at their end; None where the file holds
        other bytes, and values have to be made of them.  Taking them raises as `Store.blocks` does.
    """
    if sys.byteorder == "big":
        return None
    span = source_of(source.store, source.key)
    return _pieces(source, span, small_reads, buffer) if isinstance(span, FileSpan) else None


def _pieces(
    source: ValueSource, span: FileSpan, small_reads: SmallReadCache, buffer: ReadBuffer
) -> Iterator[Bytes]:
    """Yield the bytes of a span; where something is wrong with them, reading its values tells."""
    if 0 < span.nbytes <= SMALL:
        data = small_reads.read(span.path, span.offset, span.nbytes)
        if data is not None and span.crc32c in (None, crc32c.value(data)):
            yield Bytes(memoryview(data))
            return
    extent = Extent(span.path, span.offset, span.nbytes)
    step, crc = len(buffer.view), 0
    for at in range(0, span.nbytes, step):
        view = buffer.view[: span.nbytes - at]
        extent.read_into(at, view)
        if span.crc32c is not None:
            crc = buffer.crc(crc, len(view))
        yield Bytes(view, buffer.address)
    if span.crc32c not in (None, crc):
        for _ in source.blocks():
            pass
        raise ChangedError(span.path)


class Cast(NamedTuple):
    """`--cast float32=bfloat16`: tensors of one dtype are written in another."""

    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.old}={self.new}"


_NUMBERS = ("float", "int", "uint", "bool", "complex")


def parse_cast(text: str) -> Cast:
    """Return the cast written as `OLD=NEW`.

    Raises:
        UsageError: a dtype does not exist or is of no numbers, or the cast loses what cannot be
            meant to be lost, such as the fraction of a float or an imaginary part.
    """
    old, equals, new = (part.strip() for part in text.partition("="))
    for dtype in (old, new):
        if not equals or dtype not in DTYPES:
            raise UsageError(
                f"{text!r} is not a cast", hint="write OLD=NEW, such as float32=bfloat16"
            )
        if kind(dtype) not in _NUMBERS:
            raise UsageError(f"{text!r}: {dtype} values are not numbers")
    kinds = kind(old), kind(new)
    if old == new or (kinds[0] in ("float", "complex") and kinds[1] not in ("float", "complex")):
        raise UsageError(f"{text!r}: a cast goes from float to float, or from integer to number")
    if kinds == ("complex", "float"):
        raise UsageError(f"{text!r} would lose the imaginary parts")
    return Cast(old, new)


@dataclass(frozen=True)
class ComputedStore:
    """A Store of tensors that no file holds; `specs` and `blocks` are all that it answers."""

    path: Path
    specs: Mapping[str, TensorSpec]
    format: str = "derived"
    style: str = ""
    shards: tuple[Path, ...] = ()
    missing_shards: tuple[Path, ...] = ()
    producer: str | None = None
    structure: Structure = None
    model: ModelInfo | None = None
    notes: tuple[str, ...] = ()

    def made_of(self, key: str) -> Sequence[ValueSource]:
        """Return the tensors that the values of a key are made of; see `StoreOfParts`."""
        return ()

    def mappable(self, key: str) -> bool:
        return False

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        raise NotImplementedError

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); walks the tensor from its beginning."""
        import numpy as np

        spec = self.specs[key]
        stop = spec.size if stop is None else min(stop, spec.size)
        out = np.empty(max(0, stop - start), numpy_dtype(spec.dtype))
        for first, values in self.blocks(key):
            low, high = max(first, start), min(first + len(values), stop)
            if low < high:
                out[low - start : high - start] = values[low - first : high - first]
        return out


@dataclass(frozen=True)
class CastStore(ComputedStore):
    """Tensors of other stores in another dtype, rounded to nearest, ties to even."""

    sources: Mapping[str, ValueSource] = field(default_factory=dict)

    def made_of(self, key: str) -> Sequence[ValueSource]:
        return (self.sources[key],)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        import numpy as np

        target = numpy_dtype(self.specs[key].dtype)
        for start, values in self.sources[key].blocks(max_elements):
            with np.errstate(over="ignore", invalid="ignore"):  # what is lost is measured later
                yield start, values.astype(target)


def cast_source(source: ValueSource, dtype: str) -> ValueSource:
    """Return the same values as `dtype`."""
    spec = TensorSpec(source.key, dtype, source.spec.shape, source.spec.size * itemsize(dtype))
    return ValueSource(
        CastStore(source.store.path, {source.key: spec}, sources={source.key: source}), source.key
    )


@dataclass(frozen=True)
class MeanStore(ComputedStore):
    """The mean of tensors of one shape and dtype, summed in float64 in the order given."""

    parts: Mapping[str, Sequence[ValueSource]] = field(default_factory=dict)

    def made_of(self, key: str) -> Sequence[ValueSource]:
        return self.parts[key]

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        import numpy as np

        spec = self.specs[key]
        target = numpy_dtype(spec.dtype)
        wide: Any = np.complex128 if kind(spec.dtype) == "complex" else np.float64
        parts = self.parts[key]
        # The same elements of every source, a block at a time.
        for aligned_blocks in zip(
            *(_even_blocks(part, max_elements) for part in parts), strict=True
        ):
            total = aligned_blocks[0][1].astype(wide)
            for _, values in aligned_blocks[1:]:
                total += values.astype(wide)
            total /= len(parts)
            yield aligned_blocks[0][0], total.astype(target)


def _even_blocks(source: ValueSource, step: int) -> Iterator[tuple[int, Array]]:
    """Yield blocks of exactly `step` elements (but for the last), however the store cuts.

    Several stores can then be read side by side, one block of each at a time.
    """
    import numpy as np

    pending: list[Array] = []
    start = count = 0
    for _, values in source.blocks(step):
        while count + len(values) >= step:
            missing = step - count
            yield start, np.concatenate([*pending, values[:missing]])
            start, values, pending, count = start + step, values[missing:], [], 0
        if len(values):
            pending.append(values.copy())
            count += len(values)
    if pending:
        yield start, np.concatenate(pending)


def mean_source(parts: Sequence[ValueSource]) -> ValueSource:
    """Return the mean of `parts`, which have one dtype and shape, in that dtype."""
    spec = parts[0].spec
    plain = TensorSpec(parts[0].key, spec.dtype, spec.shape, spec.nbytes)
    path = parts[0].store.path
    return ValueSource(
        MeanStore(path, {plain.key: plain}, parts={plain.key: tuple(parts)}), plain.key
    )


@dataclass(frozen=True)
class TransformedStore(ComputedStore):
    """Tensors whose elements are put elsewhere; several parts are joined along an axis, or added.

    A tensor that is only reshaped streams, and what is joined along axis 0 comes part by part; of
    any other all values are in memory at once, twice where blocks are put into another order.
    """

    parts: Mapping[str, Sequence[tuple[ValueSource, Transform]]] = field(default_factory=dict)

    def made_of(self, key: str) -> Sequence[ValueSource]:
        return [source for source, _transform in self.parts[key]]

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        import numpy as np

        parts = sorted(self.parts[key], key=_part_number)
        if parts[0][1].term is not None:
            first, *others = (_transformed_values(*part) for part in parts)
            total = sum(others, start=first)
            yield from _row_major_blocks(total, 0, max_elements)
            return
        into = parts[0][1].into
        if len(parts) > 1 and into is not None and into.axis:
            # Along an inner axis the elements of the parts alternate: all are needed at once.
            whole = np.concatenate([_transformed_values(*piece) for piece in parts], axis=into.axis)
            yield from _row_major_blocks(whole, 0, max_elements)
            return
        start = 0
        for source, transform in parts:
            if transform.keeps_order:
                for at, values in source.blocks(max_elements):
                    yield start + at, values
            else:
                yield from _row_major_blocks(
                    _transformed_values(source, transform), start, max_elements
                )
            start += math.prod(transform.without_into.shape(source.spec.shape))


def _part_number(part: tuple[ValueSource, Transform]) -> int:
    place = part[1].into or part[1].term
    return place.number if place is not None else 0


def _transformed_values(source: ValueSource, transform: Transform) -> Array:
    """Return all values of a tensor, transformed; their stored checksum has been compared."""
    import numpy as np

    spec = source.spec
    values = np.empty(spec.size, object if spec.dtype == "string" else numpy_dtype(spec.dtype))
    for start, block in source.blocks():
        values[start : start + len(block)] = block
    return transform.apply(shaped(values, spec.shape, f"{source.store.path}: {source.key}"))


def _row_major_blocks(array: Array, start: int, max_elements: int) -> Iterator[tuple[int, Array]]:
    """Yield (start, values) of an array that need not be contiguous, in row-major order."""
    if array.flags.c_contiguous or array.ndim < 2:
        flat = array.reshape(-1)
        for at in range(0, flat.size, max_elements):
            yield start + at, flat[at : at + max_elements]
        return
    width = array[0].size if len(array) else 0
    if width > max_elements:
        for at, row in enumerate(array):
            yield from _row_major_blocks(row, start + at * width, max_elements)
        return
    step = max(1, max_elements // max(1, width))
    for at in range(0, len(array) if width else 0, step):
        yield start + at * width, array[at : at + step].reshape(-1)


def transform_source(parts: Sequence[tuple[ValueSource, Transform]]) -> ValueSource:
    """Return what the parts become together.

    Args:
        parts: tensors and what is done to each; several have `into` steps that say who is where.

    Returns:
        The tensor that they make, under the key of the first part.

    Raises:
        UsageError: a step does not fit the shape of its tensor.
    """
    source, transform = parts[0]
    spec = source.spec
    shape = transform.shape(spec.shape)
    size = math.prod(shape)
    result = TensorSpec(spec.key, spec.dtype, shape, size * itemsize(spec.dtype) or spec.nbytes)
    store = TransformedStore(
        source.store.path, {result.key: result}, parts={result.key: tuple(parts)}
    )
    return ValueSource(store, result.key)


@dataclass(frozen=True)
class ConstantStore(ComputedStore):
    """Small tensors given as arrays."""

    arrays: Mapping[str, Any] = field(default_factory=dict)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        flat = self.arrays[key].reshape(-1)
        for start in range(0, flat.size, max_elements):
            yield start, flat[start : start + max_elements]


def constant_source(key: str, dtype: str, value: object) -> ValueSource:
    """Return a scalar that this tool gives; its store is called `ckptkit`."""
    import numpy as np

    array = np.array(value, numpy_dtype(dtype))
    spec = TensorSpec(key, dtype, (), array.nbytes)
    return ValueSource(ConstantStore(Path("ckptkit"), {key: spec}, arrays={key: array}), key)
