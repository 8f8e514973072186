"""Bounded reads of HDF5 structures, and the account of which bytes belong to which of them.

Every structure that a file's headers lead to claims its bytes.  No two may share any: an address
with one wrong bit nearly always leads into another structure, and where it leads to a second copy
of the right signature, the claims meet.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from ckptkit.errors import FormatError, TruncatedError
from ckptkit.stores.containers.byte_range import PAGE, ByteRange, PageCache

_MOST_GAPS = 64 << 20  # bytes of gaps that are looked at
UNDEFINED = (1 << 64) - 1  # an address that leads nowhere


class LeftToLibhdf5(Exception):
    """Valid HDF5, as far as seen, of a kind that is left to libhdf5."""


class BoundedReader:
    """Bounded reads from the byte range, small ones from pages.

    end: where the file's superblock says that it ends.
    """

    def __init__(self, byte_range: ByteRange) -> None:
        self.byte_range = byte_range
        self.end = byte_range.nbytes
        self._pages = PageCache(byte_range)
        self._claims: dict[tuple[int, int], str] = {}
        self._left_over: list[tuple[int, int, str]] = []

    def error(self, address: int, message: str) -> FormatError:
        """Return the refusal of what lies at an address."""
        where = f"{self.byte_range.path} @ {self.byte_range.start + address}"
        return FormatError(where, f"damaged HDF5 data: {message}", hint="copy the file again")

    def read(self, address: int, nbytes: int) -> bytes:
        """Return bytes of the data; raises TruncatedError."""
        if address < 0 or address + nbytes > self.end:
            where = f"{self.byte_range.path} @ {self.byte_range.start + address}"
            raise TruncatedError(
                where,
                f"damaged HDF5 data: {nbytes} bytes lie past the end",
                hint="copy the file again",
            )
        if nbytes > PAGE:
            return self.byte_range.read(address, nbytes)
        number = address // PAGE
        skip = address - number * PAGE
        data = self._pages.page(number)[skip : skip + nbytes]
        if len(data) < nbytes:
            data += self._pages.page(number + 1)[: nbytes - len(data)]
        return data

    def signed(self, address: int, nbytes: int, signature: bytes) -> bytes:
        """Return bytes that must begin with a signature."""
        data = self.read(address, nbytes)
        if data[: len(signature)] != signature:
            raise self.error(address, f"expected {signature.decode()}, found {data[:4]!r}")
        return data

    def zeros(self, data: bytes, address: int, what: str) -> None:
        """Refuse bytes that every writer leaves zero and that are not."""
        if data and data.strip(b"\0"):
            raise self.error(address, f"{what} must be zero, found {data[:16].hex(' ')}")

    def claim(self, address: int, nbytes: int, what: str) -> None:
        """Note whose bytes these are; the same structure may be led to again."""
        if nbytes:
            self._claims[address, nbytes] = what

    def unclaimed(self) -> int:
        """Return how many bytes that are not zero nothing in the file leads to.

        libhdf5 leaves gaps in what it sets aside, and does not write them.  Of very large gaps only
        the beginning is read.
        """
        found = end = 0
        left = _MOST_GAPS
        everything = sorted(self._claims) + [(self.byte_range.nbytes, 0)]
        for address, nbytes in everything:
            while end < address and left > 0:
                step = min(address - end, left, 1 << 20)
                found += step - self.byte_range.read(end, step).count(0)
                end, left = end + step, left - step
            end = max(end, address + nbytes)
        return found

    def left_over(self, places: Iterable[int], address: int, what: str) -> None:
        """Note where entries lead that a node does not count.

        Most writers leave zeros there; HDF5 1.8 leaves what it has moved to another node, so that
        all of it is led to from there.  What nothing else leads to was lost by a wrong count; what
        leads out of the file is anything.
        """
        self._left_over += [(place, address, what) for place in places if place]

    def check_claims(self) -> None:
        """Refuse structures that share bytes, and those that are lost."""
        end, last = 0, ""
        for (address, nbytes), what in sorted(self._claims.items()):
            if address < end:
                raise self.error(address, f"{what} lies over {last}")
            end, last = address + nbytes, what
        claims = sorted(self._claims)
        for place, address, what in self._left_over:
            if place + 8 > self.end:
                continue
            at = bisect_right(claims, (place, UNDEFINED)) - 1
            is_claimed = at >= 0 and place < claims[at][0] + claims[at][1]
            if not is_claimed and self.read(place, 8).strip(b"\0"):
                raise self.error(address, f"{what} has more entries than it counts")
