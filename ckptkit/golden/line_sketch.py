"""What is kept of a list of texts (a vocabulary) so that the line that is gone can be named.

Each line is hashed to 48 bits; kept are their number n, and the sums of h, i*h and i*i*h over line
number i (from 0).  If one line is gone, the first sum tells its hash, and the others, with the
lines that are there now, its place.  Likewise for a line that is new, and for one that changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ckptkit.errors import FormatError

MAX_LINES = 2_000_000  # beyond, only the SHA-256 is kept
_SHOWN = 40  # characters of a line in a message
_HASH_BYTES = 6


class LineSketch(NamedTuple):
    """SHA-256 of the whole; lines: how many, -1 for what is no text or too large; sums as above."""

    sha256: str
    lines: int = -1
    sums: tuple[int, int, int] = (0, 0, 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        if self.lines < 0:
            return {"sha256": self.sha256}
        return {"sha256": self.sha256, "lines": self.lines, "sums": [f"{x:x}" for x in self.sums]}

    @classmethod
    def from_json(cls, value: Any, where: str) -> LineSketch:
        """Return the sketch that `to_json` described; raises FormatError."""
        try:
            sha256, lines = value["sha256"], value.get("lines", -1)
            one, two, three = (int(x, 16) for x in value.get("sums", ("0", "0", "0")))
            if not isinstance(sha256, str) or type(lines) is not int:
                raise TypeError("a field of the wrong kind")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(where, f"no description of a text: {error}") from None
        return cls(sha256, lines, (one, two, three))


def sketch_lines(lines: Sequence[bytes]) -> LineSketch:
    """Return the sketch of a list of texts; its SHA-256 is of each with its length."""
    total = hashlib.sha256()
    for line in lines:
        total.update(len(line).to_bytes(8, "little") + line)
    if len(lines) > MAX_LINES:
        return LineSketch(total.hexdigest())
    return LineSketch(total.hexdigest(), len(lines), _sums(_hashes(lines)))


def split_text(data: bytes) -> list[bytes]:
    """Return the lines of a file; newlines at its end do not count."""
    text = data.rstrip(b"\r\n")
    return text.splitlines() if text else []


def _hashes(lines: Iterable[bytes]) -> list[int]:
    digest = hashlib.blake2b
    return [
        int.from_bytes(digest(line, digest_size=_HASH_BYTES).digest(), "little") for line in lines
    ]


def _sums(hashes: list[int]) -> tuple[int, int, int]:
    return (
        sum(hashes),
        sum(i * h for i, h in enumerate(hashes)),
        sum(i * i * h for i, h in enumerate(hashes)),
    )


def explain_lines(old: LineSketch, now: Sequence[bytes]) -> str:
    """Return what happened to a list of texts that is not as recorded, in words."""
    if old.lines < 0:
        return "the content differs"
    hashes = _hashes(now)
    sums = _sums(hashes)
    # the three sums tell the place of one line that went, came or changed; not of several
    if len(now) == old.lines - 1:
        place = _gone(old.sums, sums, hashes)
        if place is not None:
            return f"line {place + 1} of {old.lines:,} is gone{_between(now, place - 1, place)}"
    if len(now) == old.lines + 1:
        place = _come(old.sums, sums, hashes)
        if place is not None:
            return f"line {place + 1} is new: {_quoted(now[place])}"
    if len(now) == old.lines:
        if sums[0] == old.sums[0]:
            return "the same lines in another order"
        place = _changed(old.sums, sums, len(now))
        if place is not None:
            return f"line {place + 1} of {old.lines:,} changed to {_quoted(now[place])}"
        return f"several of {old.lines:,} lines changed"
    word = "fewer" if len(now) < old.lines else "more"
    return f"{abs(len(now) - old.lines):,} lines {word}: {len(now):,}, recorded {old.lines:,}"


def _gone(old: tuple[int, int, int], new: tuple[int, int, int], hashes: list[int]) -> int | None:
    """Return the place of the one line that is gone.

    Below its place p the lines keep their numbers, the others went down by one, so that
    old[1] - new[1] = p * h + (the hashes of all lines from p on now).
    """
    lost, moved = old[0] - new[0], old[1] - new[1]
    tail = new[0]
    for place in range(len(hashes) + 1):
        if place * lost + tail == moved:
            return place
        if place < len(hashes):
            tail -= hashes[place]
    return None


def _come(old: tuple[int, int, int], new: tuple[int, int, int], hashes: list[int]) -> int | None:
    """Return the place of the one line that is new."""
    added, moved = new[0] - old[0], new[1] - old[1]
    tail = new[0]
    for place, value in enumerate(hashes):
        tail -= value
        if value == added and place * added + tail == moved:
            return place
    return None


def _changed(old: tuple[int, int, int], new: tuple[int, int, int], count: int) -> int | None:
    by, first, second = (b - a for a, b in zip(old, new, strict=True))
    place, rest = divmod(first, by) if by else (0, 1)
    if rest or not 0 <= place < count or second != place * place * by:
        return None
    return place


def _between(now: Sequence[bytes], before: int, after: int) -> str:
    sides = []
    if 0 <= before < len(now):
        sides.append(f"after {_quoted(now[before])}")
    if after < len(now):
        sides.append(f"before {_quoted(now[after])}")
    return f", {' and '.join(sides)}" if sides else ""


def _quoted(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")
