"""Text that is safe to print, whoever made it up."""

from __future__ import annotations


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
