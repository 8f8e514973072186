"""Text for people: safe to print, with units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptkit.text import count_text as count_text
from ckptkit.text import lazy_pattern
from ckptkit.text import printable as printable

if TYPE_CHECKING:
    from ckptkit.operations.findings import Finding

# What Markdown may take for markup, links or HTML; a "_" or "~" only where it can begin or end it.
_MARKUP = lazy_pattern(r"[\\`*<>&\[\]|]|(?<![^\W_])_|_(?![^\W_])|~(?=\S)|^#")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def line_text(text: str, fmt: str) -> str:
    """Return a line of a report in a format: escaped as Markdown where that is "markdown"."""
    return markdown_text(text) if fmt == "markdown" else printable(text)


def finding_text(finding: Finding) -> str:
    """Return one line on a finding."""
    hint = f" ({finding.hint})" if finding.hint else ""
    name = f" ({finding.name})" if finding.name not in ("", finding.where) else ""
    where = f"{finding.where}{name}: " if finding.where else ""
    return printable(f"{finding.severity}: {where}{finding.message}{hint} [{finding.code}]")


def html_text(text: str) -> str:
    """Return text that HTML shows as it is, also within quotes."""
    from html import escape  # here, since it brings the names of all letters

    return escape(text)


def spreadsheet_text(text: str) -> str:
    """Return text that no spreadsheet runs as a formula: a "'" goes before what would begin one.

    Numbers stay as they are.  https://owasp.org/www-community/attacks/CSV_Injection
    """
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def bytes_text(nbytes: int) -> str:
    """Return a size with three digits and a decimal unit: 1536 -> "1.54 kB"."""
    if nbytes < 1000:
        return f"{nbytes} B"
    size = float(nbytes)
    for unit in _UNITS:
        if size < 999.5 or unit == _UNITS[-1]:
            digits = 2 if size < 10 else 1 if size < 100 else 0
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def display_width(text: str) -> int:
    """Return how many columns of a terminal `text` takes: East Asian letters take two."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


# What is drawn with letters that not every terminal has, and what stands in for each.
_DRAWN = {
    "→": "->",
    "×": "x",
    "…": "...",
    "≈": "w",
    "−": "-",
    "├": "|",
    "└": "`",
    "─": "-",
    "│": "|",
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
    **dict.fromkeys("▏▎▍▌", "-"),
    **dict.fromkeys("▋▊▉", "="),
}


def stand_ins(encoding: str) -> dict[int, str]:
    """Return a table for `str.translate` of what the tool draws and `encoding` lacks."""
    return {ord(letter): text for letter, text in _DRAWN.items() if not _has(encoding, letter)}


def _has(encoding: str, letter: str) -> bool:
    try:
        letter.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return "3,3,64,64", "scalar" for rank 0, "?" for an unknown size."""
    return ",".join("?" if size is None else str(size) for size in shape) or "scalar"
