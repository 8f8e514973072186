"""Text on its way to a reader: safe to print, in natural order, with counts that agree."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, AnyStr, cast


class _LazyPattern:
    def __init__(self, source: str | bytes, flags: int) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        """Compile it, and keep what was asked for, so that this is asked once."""
        pattern = re.compile(self._source, self._flags)
        for method in ("fullmatch", "match", "search", "sub", "split", "findall", "finditer"):
            setattr(self, method, getattr(pattern, method))
        return getattr(pattern, name)


def lazy_pattern(source: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return a regular expression that is compiled when it is first used.

    For those of modules that every command imports, and most need none of: compiling one takes as
    long as listing a hundred tensors.
    """
    return cast("re.Pattern[AnyStr]", _LazyPattern(source, flags))


_IES = lazy_pattern(r"(?<=[^aeiou])y$")  # directory, directories; but key, keys


def plural(noun: str) -> str:
    """Return "tensors" for "tensor", "entries" for "entry"."""
    return _IES.sub("ie", noun) + "s"


def count_text(count: int, noun: str, many: str = "") -> str:
    """Return "1 tensor", "2 tensors", "1,024 entries"; `many` where the plural is irregular."""
    return f"{count:,} {noun if count == 1 else many or plural(noun)}"


def list_text(items: Sequence[object], most: int = 3) -> str:
    """Return "a, b, c and 4 more": the first `most` of the items, and how many others there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def nearest_text(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.5) -> str:
    """Return "did you mean a or b?" of what is called nearly so; "" where nothing is."""
    from difflib import get_close_matches  # here, since almost every name is known

    near = get_close_matches(name, list(dict.fromkeys(known)), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}?" if near else ""


def printable(text: str) -> str:
    """Return `text` with control, format and bidirectional characters escaped.

    Names come from files that nobody vouches for; printed raw they could move the cursor, hide
    themselves or write a title.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_DIGITS = lazy_pattern(r"\d{1,18}")  # int() refuses thousands of digits
_NUMBERS = lazy_pattern(r"(\d{1,18})")


_WEB = r"https?:/{1,2}"
_USER = lazy_pattern(
    # In other stores, a container stands before "@" (abfs://container@account/).
    rf"(?i)(\b{_WEB}|\b[a-z][a-z0-9+.-]*:/{{1,2}}(?=[^/\s?#@]*:))[^/\s?#]*@"
)
_QUERY = lazy_pattern(rf"""(?i)(\b{_WEB}[^\s?#'"]*)\?[^\s#'":,;)]*""")


def without_secrets(text: str) -> str:
    """Return text with each URL in it, also one that pathlib took a slash of, without secrets.

    Those are a user's name and password, and what stands behind "?" (a signature).
    """
    if ":/" not in text:
        return text
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))


def shortened(text: str, most: int) -> str:
    """Return `text`, cut in the middle where it has more than `most` characters, which is said."""
    if len(text) <= most:
        return text
    start, end = most * 2 // 3, most // 4
    left_out = len(text) - start - end
    return f"{text[:start]} [... {left_out:,} characters ...] {text[-end:]}"


def natural(name: str) -> str:
    """Return a sort key that puts layer2 before layer10.

    It is text, which compares fastest: a run of digits is a mark below all letters, how long the
    number is, and the number.
    """
    above, slash, last = name.rpartition("/")
    return _sortable(above + slash) + _sortable(last)  # a scope has many names, in a row


def naturals(names: Sequence[str]) -> list[str]:
    """Return such a key for each of many names, in less time."""
    text = "\n".join(names)
    if "\0" in text or "\1" in text or text.count("\n") >= len(names):
        return list(map(natural, names))
    parts = _NUMBERS.split(text)
    parts[1::2] = map(_marked, parts[1::2])
    return "".join(parts).split("\n")


@lru_cache(maxsize=4096)
def _sortable(text: str) -> str:
    if "\0" in text or "\1" in text:  # out of the way of the mark, in the same order
        text = text.replace("\1", "\1\2").replace("\0", "\1\1")
    return _DIGITS.sub(_sortable_number, text)


def _sortable_number(match: re.Match[str]) -> str:
    return _marked(match[0])


@lru_cache(maxsize=4096)
def _marked(number: str) -> str:
    digits = str(int(number))
    return f"\0{chr(len(digits))}{digits}"


def json_number(value: Any) -> Any:
    """Return a number that JSON can hold: non-finite ones become "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


_SIZE = lazy_pattern(r"(\d+(?:\.\d+)?)\s*([kmgt]?)((?<=[kmgt])i|)b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return bytes for "500MB", "2GiB" or "1000000"; raises ValueError, also for less than one."""
    match = _SIZE.fullmatch(text.strip())
    base = 1024 if match and match[3] else 1000
    size = int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " ")) if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size, such as 500MB, 2GiB or 1000000")
    return size


def parse_seconds(given: float | str) -> float:
    """Return a number of seconds that is more than none; raises ValueError, also for NaN."""
    try:
        seconds = float(given)
    except (TypeError, ValueError, OverflowError):
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"{given!r} is not a number of seconds above 0")
    return seconds
