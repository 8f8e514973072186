"""Text for people: safe to print, with units."""

from __future__ import annotations

from ckptkit._printable import printable as printable

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


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


def count_text(count: int, noun: str) -> str:
    """Return "1 tensor", "2 tensors", "1,024 tensors"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return "3,3,64,64", "scalar" for rank 0, "?" for an unknown size."""
    return ",".join("?" if size is None else str(size) for size in shape) or "scalar"
