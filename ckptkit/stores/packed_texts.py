"""Texts in little memory: what a list holds, compressed a few dozen at a time.

A file may have a million tensors, whose names are alike.  In a list a name takes a hundred bytes or
more; here it takes five to ten.  What goes over texts in order, or asks for some near those that it
asked for last, unpacks a block once; so one takes about as long as one of a list.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain
from typing import Any

_BLOCK = 64  # texts that are compressed together
_UNPACKED = 256  # blocks that are kept as they were unpacked
_FASTEST = 1  # level of compression; the best one saves a tenth and takes five times as long
_END = "\n"  # between texts; a block that has it in one is kept as it is
_HASH, _NUMBER = 0xFFFF_FFFF << 32, 0xFFFF_FFFF
_MARKS = 16  # bytes of marks for each text; of texts that are not there, one in as many is searched


class PackedTexts:
    """Texts by their number, in the order in which they were added, and numbers by their text.

    It is filled first, and then asked.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        import zlib  # here, since few files have so many tensors

        self._compress, self._decompress = zlib.compress, zlib.decompress
        self._blocks: list[bytes | list[str]] = []
        self._last: list[str] = []  # of the block that is being filled
        self._unpacked: dict[int, list[str]] = {}
        self._sorted: array[int] | None = None  # of each, 32 bits of its hash and its number
        self._marks = bytearray()  # 1 at the hash of each, which tells most that are not there
        # the block in which a text was found last, its first number, and where in it: what is asked
        # next is often there, or beside it.  One value, since threads may ask at the same time.
        self._near: tuple[list[str], int, int] = [], 0, 0
        for text in texts:
            self.append(text)

    def __getstate__(self) -> dict[str, Any]:
        # hashes are those of this process alone
        return {**self.__dict__, "_sorted": None, "_marks": bytearray(), "_unpacked": {}}

    def append(self, text: str) -> None:
        """Add a text behind the others."""
        self._last.append(text)
        if len(self._last) == _BLOCK:
            self._blocks.append(self._packed(self._last))
            self._last = []

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts behind the others."""
        start = -len(self._last) % _BLOCK
        for text in texts[:start]:
            self.append(text)
        stop = start + (len(texts) - start) // _BLOCK * _BLOCK
        blocks = range(start, stop, _BLOCK)
        self._blocks += [self._packed(texts[at : at + _BLOCK]) for at in blocks]
        self._last += texts[max(start, stop) :]

    def _packed(self, texts: Sequence[str]) -> bytes | list[str]:
        joined = _END.join(texts)
        if joined.count(_END) >= _BLOCK:
            return list(texts)
        return self._compress(joined.encode("utf-8", "surrogatepass"), _FASTEST)

    def _unpack(self, block: bytes | list[str]) -> list[str]:
        if isinstance(block, list):
            return block
        return self._decompress(block).decode("utf-8", "surrogatepass").split(_END)

    def __len__(self) -> int:
        return len(self._blocks) * _BLOCK + len(self._last)

    def __getitem__(self, number: int) -> str:
        """Return a text by its number, which is not negative; raises IndexError."""
        block, at = divmod(number, _BLOCK)
        found = self._unpacked.get(block)
        return (self._block(block) if found is None else found)[at]

    def _block(self, number: int) -> list[str]:
        found = self._unpacked.get(number)
        if found is not None:
            return found
        if number == len(self._blocks):
            return self._last
        if len(self._unpacked) >= _UNPACKED:
            self._unpacked = {}
        found = self._unpacked[number] = self._unpack(self._blocks[number])
        return found

    def __iter__(self) -> Iterator[str]:
        return chain(chain.from_iterable(map(self._unpack, self._blocks)), self._last)

    def any_has(self, part: str) -> bool:
        """Whether a text has this in it, which is no line break."""
        blocks = chain(map(self._unpack, self._blocks), (self._last,))
        return any(part in _END.join(texts) for texts in blocks)

    def find(self, text: str) -> int | None:
        """Return the number of a text, any of them where it is there several times, else None."""
        near, first, at = self._near
        if at < len(near) and near[at] == text:
            return first + at
        at += 1
        if at < len(near) and near[at] == text:
            self._near = near, first, at
            return first + at
        if not self._may_have(text):
            return None
        after = first + len(near)
        if after < len(self) and self._is_at(after, text):
            return after
        places = self._places()
        start = hash(text) << 32 & _HASH
        for place in range(bisect_left(places, start), len(places)):
            if places[place] & _HASH != start:
                return None
            number = places[place] & _NUMBER
            if self._is_at(number, text):
                return number
        return None

    def _is_at(self, number: int, text: str) -> bool:
        """Whether it is the text of a number; if so, what is asked next may be near."""
        block, at = divmod(number, _BLOCK)
        texts = self._block(block)
        if texts[at] != text:
            return False
        self._near = texts, block * _BLOCK, at
        return True

    def _may_have(self, text: str) -> bool:
        """Whether a text may be there; made of all when it is asked first."""
        if not self._marks:
            marks = bytearray(1 << (_MARKS * len(self)).bit_length())
            last = len(marks) - 1
            for number in map(hash, self):
                marks[number & last] = 1
            self._marks = marks
        return self._marks[hash(text) & len(self._marks) - 1] == 1

    def repeated(self) -> Iterator[str]:
        """Yield texts that are there more than once."""
        if len(set(map(hash, self))) == len(self):
            return
        places = self._places()
        start = 0
        for at in range(1, len(places) + 1):
            if at < len(places) and (places[at] ^ places[start]) & _HASH == 0:
                continue
            if at - start > 1:
                seen: set[str] = set()
                for place in places[start:at]:
                    text = self[place & _NUMBER]
                    if text in seen:
                        yield text
                    seen.add(text)
            start = at

    def _places(self) -> array[int]:
        if self._sorted is None or len(self._sorted) != len(self):
            hashes = (hash(text) << 32 & _HASH for text in self)
            numbered = [start | number for number, start in enumerate(hashes)]
            numbered.sort()
            self._sorted = array("Q", numbered)
        return self._sorted


def places_in_order(texts: Iterable[Sequence[str]]) -> array[int]:
    """Return the places of texts in their order: sorted a part at a time, then merged.

    Equal ones stay as they come.
    """
    runs: list[tuple[PackedTexts, array[int]]] = []
    last, start = "", 0
    for part in texts:
        order = sorted(range(len(part)), key=part.__getitem__)
        in_order = list(map(part.__getitem__, order))
        if not runs or in_order[0] < last:
            runs.append((PackedTexts(), array("I")))
        runs[-1][0].extend(in_order)
        runs[-1][1].extend(start + at for at in order)
        last, start = in_order[-1], start + len(part)
    if len(runs) == 1:
        return runs[0][1]
    merged = merge(*(zip(run, places, strict=True) for run, places in runs))
    return array("I", (place for _text, place in merged))
