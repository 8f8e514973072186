"""`show`: one tensor, streamed into statistics, with the values of a slice."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.files import taking_paths
from ckptkit._io.progress import phase
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.selection import tensor_json
from ckptkit.dtypes import kind, numpy_dtype
from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.operations.statistics import BINS, Statistics, is_numeric, statistics_of
from ckptkit.results import Document
from ckptkit.stores.archive_checksums import ArchiveChecksums
from ckptkit.stores.base import BLOCK_ELEMENTS, Store, TensorSpec, shaped
from ckptkit.stores.constants import quantisations_of
from ckptkit.stores.following import following_latest
from ckptkit.text import count_text, json_number, lazy_pattern
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.constants import Quantisation

SCHEMA = "ckptkit.show/2"
CORNER = 6  # elements per axis shown without --slice
MAX_SLICE_ELEMENTS = 1 << 24


@dataclass(frozen=True, repr=False)
class TensorSummary(Document):
    """One tensor: what the file says of it, its statistics, and the values of a slice.

    values: as many axes as the slice leaves.  slots: other tensors that belong to it (optimizer
    slots, averages).  quantisation: where statistics and values are the numbers that the stored
    integers stand for, how they do.
    """

    checkpoint: Checkpoint
    spec: TensorSpec
    naming: Naming
    slots: tuple[str, ...]
    statistics: Statistics | None
    slice_text: str
    values: Array | None
    quantisation: Quantisation | None = None

    @property
    def ok(self) -> bool:
        """True: a tensor that cannot be read, or whose checksum does not hold, raises."""
        return True

    def __repr__(self) -> str:
        name, spec = self.naming.name, self.spec
        return f"<TensorSummary {name}: {spec.dtype} {list(spec.shape)} of {self.checkpoint!r}>"

    def records(self) -> list[dict[str, Any]]:
        """Return one row: what the file says of the tensor, and its statistics.

        Returns:
            A list of one dictionary of plain values.
        """
        statistics = self.statistics.to_json() if self.statistics is not None else {}
        return [{**tensor_json(self.spec, self.naming), **statistics}]

    def to_json(self) -> dict[str, Any]:
        """Return one of the `results` of schema ckptkit.show/2 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": SCHEMA,
            "path": str(self.checkpoint.path),
            "format": self.checkpoint.store.format,
            "tensor": tensor_json(self.spec, self.naming),
            "slots": list(self.slots),
            "statistics": self.statistics and self.statistics.to_json(),
            "quantisation": self.quantisation
            and {
                "scales": self.quantisation.scales.tolist(),
                "zero_points": self.quantisation.zero_points.tolist(),
                "axis": self.quantisation.axis,
                "block": self.quantisation.block,
            },
            "slice": self.slice_text,
            "values": None if self.values is None else _json_values(self.values),
        }


@taking_paths
@following_latest
def show(
    path: str | os.PathLike[str], name: str, *, slice: str | None = None, stored: bool = False
) -> TensorSummary:
    """Look at one tensor; every byte of it is read, and its checksum compared where there is one.

    Args:
        path: as `ckptkit.open` takes it.
        name: of one tensor, as `Checkpoint.key` takes it.
        slice: numpy-like, `0:2,:,3`; by default a corner of each axis.
        stored: of a quantised tensor, the integers as they lie in the file, instead of the numbers
            that they stand for.

    Returns:
        What the file says of the tensor, its statistics (None for strings and opaque tensors), and
        the values of the slice.

    Raises:
        UnknownTensorError: no tensor or several are called so.
        UsageError: the slice does not fit the shape, or holds more elements than can be shown.
        TruncatedError, ChecksumError: the stored bytes are cut short, or not those written.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
    """
    checkpoint = open_checkpoint(path)
    key = checkpoint.key(name)
    spec, naming = checkpoint.specs[key], checkpoint.names[key]
    quantisation = None if stored else quantisations_of(checkpoint.store).get(key)
    ArchiveChecksums().compare(checkpoint.store, (key,), is_part=True)
    valued = valued_checkpoint(checkpoint, key, quantisation)
    indices = parse_slice(slice, spec.shape) if slice else corner(spec.shape)
    values = None if kind(spec.dtype) == "opaque" else read_slice(valued, key, indices)
    statistics = None
    if is_numeric(spec.dtype):
        with phase("statistics", 2 * spec.nbytes):  # a pass for extremes, one for the histogram
            statistics = statistics_of(valued, key, bins=BINS)
    return TensorSummary(
        checkpoint,
        spec,
        naming,
        tuple(n.name for n in checkpoint.names.values() if n.slot_of == naming.name),
        statistics,
        slice or slice_text(indices, spec.shape),
        values,
        quantisation,
    )


def valued_checkpoint(
    checkpoint: Checkpoint, key: str, quantisation: Quantisation | None
) -> Checkpoint:
    """Return the checkpoint, or one of the numbers that a tensor's integers stand for."""
    if quantisation is None:
        return checkpoint
    from ckptkit.operations.quantised import numbers_store  # here, since few are quantised

    return Checkpoint(numbers_store(checkpoint.store, {key: quantisation}))


# --- slices -----------------------------------------------------------------------------------

Index = int | slice
_INTEGER = r"\s*(-?\d{1,18})?\s*"
_PART = lazy_pattern(f"{_INTEGER}(?:(:){_INTEGER}(?::{_INTEGER})?)?")


def parse_slice(text: str, shape: Sequence[int]) -> list[Index]:
    """Return one index per axis for numpy-like text: `0:2,:,3`, `...`, `-1`, `::2`.

    Raises UsageError for text that is not a slice, has too many axes, or leaves the tensor.
    """
    parts = text.strip().strip("[]").split(",")
    if sum(part.strip() == "..." for part in parts) > 1:
        raise UsageError(f"slice {text!r} has more than one '...'")
    indices: list[Index] = []
    for part in parts:
        if part.strip() == "...":
            indices += [slice(None)] * (len(shape) - len(parts) + 1)
            continue
        match = _PART.fullmatch(part)
        if match is None or not part.strip():
            raise UsageError(
                f"cannot read {part!r} in slice {text!r}", hint="write it as in numpy: 0:2,:,3"
            )
        start, colon, stop, step = match.groups()
        numbers = [None if number is None else int(number) for number in (start, stop, step)]
        if numbers[2] is not None and numbers[2] < 1:
            raise UsageError(f"slice {text!r}: steps must be positive")
        indices.append(slice(*numbers) if colon else int(start))
    if len(indices) > len(shape):
        given = count_text(len(indices), "axis", "axes")
        raise UsageError(f"slice {text!r} has {given}, the tensor {len(shape)}")
    for axis, index in enumerate(indices):
        if isinstance(index, int) and not -shape[axis] <= index < shape[axis]:
            raise UsageError(f"slice {text!r}: index {index} leaves axis {axis} of {shape[axis]}")
    return indices + [slice(None)] * (len(shape) - len(indices))


def corner(shape: Sequence[int]) -> list[Index]:
    """Return the index of the first few elements along the last two axes, 0 along the others."""
    return (
        [0] * (len(shape) - 2) + [slice(0, CORNER) for _ in shape[-2:]]
        if all(shape)
        else [slice(None) for _ in shape]
    )


def slice_text(indices: Sequence[Index], shape: Sequence[int]) -> str:
    """Return indices as text; a slice that takes the whole axis reads ":"."""
    parts = []
    for index, size in zip(indices, shape, strict=True):
        if isinstance(index, int):
            parts.append(str(index))
        elif _length(range(size)[index]) == size:
            parts.append(":")
        else:
            parts.append(f"{index.start or 0}:{index.stop}")
    return ",".join(parts)


def read_slice(checkpoint: Checkpoint, key: str, indices: Sequence[Index]) -> Array:
    """Return tensor[indices] as a new array, read once and a few MiB at a time.

    Where the values are one run of bytes, only stretches that hold wanted elements are read.
    Raises UsageError for more elements than are reasonably shown.
    """
    import numpy as np

    spec = checkpoint.specs[key]
    ranges = [
        range(size)[index : index + 1 or None] if isinstance(index, int) else range(size)[index]
        for index, size in zip(indices, spec.shape, strict=True)
    ]
    wanted = math.prod(map(_length, ranges))
    if wanted > MAX_SLICE_ELEMENTS:
        raise UsageError(
            f"the slice holds {wanted:,} elements",
            where=spec.key,
            hint=say("take a smaller one, or save the whole with ‹npy›"),
        )
    shape = tuple(
        _length(r) for r, index in zip(ranges, indices, strict=True) if not isinstance(index, int)
    )
    out = np.empty(wanted, numpy_dtype(spec.dtype))
    if not wanted:  # an axis of the others may be longer than memory
        return shaped(out, shape, spec.key)
    positions = np.zeros(1, np.int64)  # of the wanted elements, row-major, rising
    for axis, size in zip(ranges, spec.shape, strict=True):
        positions = (
            positions[:, None] * size + np.arange(axis.start, axis.stop, axis.step)
        ).ravel()
    done = 0
    for start, values in _stretches(checkpoint.store, spec, positions):
        last = int(np.searchsorted(positions, start + len(values)))
        out[done:last] = values[positions[done:last] - start]
        done = last
        if done == wanted:
            break
    return shaped(out, shape, spec.key)


def _length(span: range) -> int:
    """Return how many numbers a range has; `len` takes none of 2**63 and more."""
    return max(0, -((span.start - span.stop) // span.step))


def _stretches(store: Store, spec: TensorSpec, positions: Array) -> Iterator[tuple[int, Array]]:
    """Yield (start, values) of stretches of a tensor that hold all `positions` (rising)."""
    if spec.offset is None or spec.dtype == "string":  # can only be walked from the beginning
        yield from store.blocks(spec.key)
        return
    done = 0
    while done < len(positions):
        start = int(positions[done])
        done = int(positions.searchsorted(start + BLOCK_ELEMENTS))
        yield start, store.read(spec.key, start, int(positions[done - 1]) + 1)


# --- values as JSON ----------------------------------------------------------------------------


def _json_values(values: Array) -> Any:
    """Return nested lists that JSON can hold; bytes as text with escapes, complex as [re, im]."""
    return _json_value(values.tolist())


def _json_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, complex):
        return [json_number(value.real), json_number(value.imag)]
    if isinstance(value, (bool, int)):
        return value
    return json_number(float(value))


# --- .npy files ---------------------------------------------------------------------------------


def write_npy(
    summary: TensorSummary, path: Path, *, whole: bool, overwrite: bool = False
) -> str | None:
    """Write a tensor (`whole`) or the shown slice of it, streamed, never half a file.

    bfloat16, float8 and sub-byte integers, which numpy alone cannot read, are written as their
    bits; the dtype of those (uint16 or uint8) is returned then, else None.
    Raises OutputError, and UnsupportedError (strings, opaque).
    """
    import numpy as np
    from numpy.lib import format as npy_format

    from ckptkit._io.atomic import replacing  # here, since most of `show` writes nothing

    source = valued_checkpoint(summary.checkpoint, summary.spec.key, summary.quantisation).store
    spec = source.specs[summary.spec.key]
    if kind(spec.dtype) in ("opaque", "string"):
        raise UnsupportedError(
            f"{spec.dtype} tensors cannot be written as .npy without pickle", where=spec.key
        )
    first = source.read(spec.key, 0, 0)
    plain = _plain(first).dtype
    with replacing(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        if not whole:
            assert summary.values is not None
            npy_format.write_array(file, _plain(summary.values), allow_pickle=False)
        else:
            header = {
                "descr": npy_format.dtype_to_descr(plain),
                "fortran_order": False,
                "shape": spec.shape,
            }
            npy_format.write_array_header_1_0(file, header)
            with phase("written", spec.nbytes):
                for _start, values in source.blocks(spec.key):
                    file.write(np.ascontiguousarray(_plain(values)).data)
    return None if plain == first.dtype else str(plain)


def _plain(values: Array) -> Array:
    """View dtypes that numpy alone does not know as unsigned integers of their width."""
    if values.dtype.isbuiltin == 1:
        return values
    return values.view(f"u{values.dtype.itemsize}")
