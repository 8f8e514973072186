"""What a checksum covers in a data file, of one tensor or of very many."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, overload

from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs

DECODED = ("string", "variant")  # their checksum is not that of the plain bytes


class ChecksummedRange(NamedTuple):
    """Stored bytes that one checksum covers; key None: a gap that no tensor covers."""

    offset: int
    nbytes: int
    key: str | None
    label: str
    crc32c: int | None
    decoded: bool = False  # strings and variants: their checksum is not that of the plain bytes


def range_of(spec: TensorSpec) -> ChecksummedRange:
    """Return the range of a tensor that lies in one piece."""
    assert spec.offset is not None
    decoded = spec.dtype in DECODED
    return ChecksummedRange(spec.offset, spec.nbytes, spec.key, spec.key, spec.crc32c, decoded)


class PackedRanges(Sequence[ChecksummedRange]):
    """Ranges of packed specs; one that is not that of a row is kept whole."""

    def __init__(self, specs: PackedSpecs) -> None:
        self.specs = specs
        self._row = array("q")  # of the specs; a negative one counts those kept whole
        self._whole: list[ChecksummedRange] = []

    def append(self, piece: ChecksummedRange) -> None:
        """Add a range that is kept whole."""
        self._whole.append(piece)
        self._row.append(-len(self._whole))

    def append_row(self, row: int) -> None:
        """Add the range of a row of the specs, which lies in one piece."""
        self._row.append(row)

    def append_from(self, other: PackedRanges, at: int) -> None:
        """Add what another has at a place."""
        row = other._row[at]
        if row < 0:
            self.append(other._whole[-1 - row])
        else:
            self._row.append(row)

    def sort(self) -> None:
        """Sort by offset and size."""
        places = [self._place(row) for row in self._row]
        if any(place < before for before, place in pairwise(places)):
            order = sorted(range(len(places)), key=places.__getitem__)
            self._row = array("q", [self._row[at] for at in order])

    def _place(self, row: int) -> int:
        if row < 0:
            piece = self._whole[-1 - row]
            return piece.offset << 64 | piece.nbytes
        offset, nbytes = self.specs.place(row)
        assert offset is not None
        return offset << 64 | nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        place, whole = self.specs.place, self._whole
        return sum(whole[-1 - row].nbytes if row < 0 else place(row)[1] for row in self._row)

    def decoded(self) -> Iterator[ChecksummedRange]:
        """Yield those whose checksum is not that of the plain bytes."""
        dtype = self.specs.dtype
        for row in self._row:
            if row < 0 or dtype(row) in DECODED:
                piece = self._of_row(row)
                if piece.decoded:
                    yield piece

    def _of_row(self, row: int) -> ChecksummedRange:
        if row < 0:
            return self._whole[-1 - row]
        specs = self.specs
        offset, nbytes = specs.place(row)
        assert offset is not None
        key = specs.keys_in_order[row]
        is_decoded = specs.dtype(row) in DECODED
        return ChecksummedRange(offset, nbytes, key, key, specs.checksum(row), is_decoded)

    def __len__(self) -> int:
        return len(self._row)

    @overload
    def __getitem__(self, index: int) -> ChecksummedRange: ...
    @overload
    def __getitem__(self, index: slice) -> list[ChecksummedRange]: ...
    def __getitem__(self, index: int | slice) -> ChecksummedRange | list[ChecksummedRange]:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        return self._of_row(self._row[index])

    def __iter__(self) -> Iterator[ChecksummedRange]:
        return map(self._of_row, self._row)


Ranges = list[ChecksummedRange] | PackedRanges


def nbytes_of(pieces: Ranges) -> int:
    """Return how many bytes ranges have together."""
    if isinstance(pieces, PackedRanges):
        return pieces.nbytes
    return sum(piece.nbytes for piece in pieces)


def decoded_in(pieces: Ranges) -> Iterator[ChecksummedRange]:
    """Yield the ranges whose checksum is not that of the plain bytes."""
    if isinstance(pieces, PackedRanges):
        return pieces.decoded()
    return (piece for piece in pieces if piece.decoded)
