"""Text that is safe to print, whoever made it up."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with control, format and bidirectional characters escaped.

    Names come from files that nobody vouches for; printed raw they could move the cursor, hide
    themselves or write a title.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
