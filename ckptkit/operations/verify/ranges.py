"""What a checksum covers in a data file, of one tensor or of very many."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, islice, repeat
from operator import inv, itemgetter, le
from typing import NamedTuple, overload

from ckptkit.errors import CkptkitError
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs

DECODED = ("string", "variant")  # their checksum is not that of the plain bytes
_PLACE = itemgetter(0, 1)  # of a range: its offset and bytes
_ROWS = 1 << 12  # that are gone over together


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


class Ranges(Sequence[ChecksummedRange]):
    """Ranges, each kept whole, or as a row of packed specs, which takes eight bytes."""

    def __init__(self, specs: PackedSpecs | None = None) -> None:
        self._specs = PackedSpecs() if specs is None else specs
        self._row = array("q")  # of the specs; ~n: of those kept whole, number n
        self._whole: list[ChecksummedRange] = []

    @classmethod
    def of(cls, pieces: Iterable[ChecksummedRange]) -> Ranges:
        """Return ranges that are kept whole."""
        found = cls()
        for piece in pieces:
            found.append(piece)
        return found

    def append(self, piece: ChecksummedRange) -> None:
        """Add a range that is kept whole."""
        self._row.append(~len(self._whole))
        self._whole.append(piece)

    def append_row(self, row: int) -> None:
        """Add the range of a row of the specs, which lies in one piece, by its form."""
        self._row.append(row)

    def emptied(self) -> Ranges:
        """Return ranges to which some of these can be added, and have not been yet."""
        found = Ranges(self._specs)
        found._whole = [*self._whole]
        return found

    def extend(self, other: Ranges, start: int, stop: int) -> None:
        """Add some of those whose `emptied` this was, in their order."""
        self._row.extend(other._row[start:stop])

    def sort(self) -> None:
        """Sort by offset and size."""
        if all(map(le, self.places(), islice(self.places(), 1, None))):
            return
        numbers = [offset << 64 | nbytes for offset, nbytes in self.places()]
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        self._row = array("q", map(self._row.__getitem__, order))

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield the offset of each, and how many bytes it has."""
        return chain.from_iterable(map(self._places_of, self._some_rows()))

    def are_decoded(self) -> Iterator[bool]:
        """Yield of each whether its checksum is not that of the plain bytes."""
        is_decoded = [form[0] in DECODED for form in self._specs.forms]
        if not any(is_decoded) and not any(piece.decoded for piece in self._whole):
            return repeat(False, len(self))
        form_of = self._specs.form_of
        return (
            self._whole[~row].decoded if row < 0 else is_decoded[form_of[row]] for row in self._row
        )

    def have(self, start: int, crcs: Sequence[int | CkptkitError]) -> bool:
        """Whether these are checksums that whole tensors have, from the one at `start` on."""
        rows = self._row[start : start + len(crcs)]
        if min(rows) >= 0:
            return [*self._specs.checksums(rows)] == crcs
        pairs = zip(self._pieces_of(rows), crcs, strict=True)
        return all(piece.label == piece.key and piece.crc32c == crc for piece, crc in pairs)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(map(itemgetter(1), self.places()))

    def decoded(self) -> Iterator[ChecksummedRange]:
        """Yield those whose checksum is not that of the plain bytes."""
        return map(self._of_row, compress(self._row, self.are_decoded()))

    def _some_rows(self) -> Iterator[array[int]]:
        return (self._row[at : at + _ROWS] for at in range(0, len(self), _ROWS))

    def _places_of(self, rows: array[int]) -> Iterator[tuple[int, int]]:
        if min(rows) >= 0:
            return self._specs.some_places(rows)
        return map(_PLACE, self._pieces_of(rows))

    def _pieces_of(self, rows: array[int]) -> Iterator[ChecksummedRange]:
        if max(rows) >= 0:
            return map(self._of_row, rows)
        return map(self._whole.__getitem__, map(inv, rows))

    def _of_row(self, row: int) -> ChecksummedRange:
        return self._whole[~row] if row < 0 else range_of(self._specs.at(row))

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
        return chain.from_iterable(map(self._pieces_of, self._some_rows()))
