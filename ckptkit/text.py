"""Text on its way to a reader: safe to print, in natural order, with counts that agree."""

from __future__ import annotations

import math
import re
from typing import Any


def count_text(count: int, noun: str, plural: str = "") -> str:
    """Return "1 tensor", "2 tensors", "1,024 tensors"; `plural` where an "s" does not do."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """Return `text` with control, format and bidirectional characters escaped.

    Names come from files that nobody vouches for; printed raw they could move the cursor, hide
    themselves or write a title.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_DIGITS = re.compile(r"(\d{1,18})")  # int() refuses thousands of digits


def natural(name: str) -> list[str | int]:
    """Return a sort key that puts layer2 before layer10."""
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = map(int, parts[1::2])
    return parts


def json_number(value: Any) -> Any:
    """Return a number that JSON can hold: non-finite ones become "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
