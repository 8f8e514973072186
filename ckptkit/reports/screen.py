"""What a report is printed on: how wide it is, and whether it shows colour.

A report asks `screen()`; the command line sets it with `shown_on`.  Files and pipes have no width:
everything is printed, as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TextIO

# One palette.  SGR parameters, ECMA-48 8.3.117.
_PALETTE = {
    "error": "31",
    "warning": "33",
    "note": "2",
    "verdict": "1",
    "good verdict": "32;1",
    "bad verdict": "31;1",
    "added": "32",
    "removed": "31",
    "changed": "33",
    "renamed": "36",
    "equal": "2",
}
_PLAIN = "\x1b[0m"
COLOR_CHOICES = ("auto", "always", "never")


class Screen(NamedTuple):
    """width: in columns; None where lines may be of any length.

    color, colors_errors: whether standard output, and standard error, shows any.
    """

    width: int | None = None
    color: bool = False
    colors_errors: bool = False


PAPER = Screen()  # a file, or a pipe
_SCREEN: ContextVar[Screen] = ContextVar("screen", default=PAPER)


def screen() -> Screen:
    """Return what reports are printed on."""
    return _SCREEN.get()


@contextmanager
def shown_on(place: Screen) -> Iterator[None]:
    """Print reports on `place` inside the block."""
    token = _SCREEN.set(place)
    try:
        yield
    finally:
        _SCREEN.reset(token)


def change_screen(place: Screen) -> None:
    """Print on `place` from here to the end of the block of `shown_on` around."""
    _SCREEN.set(place)


def painted(text: str, style: str, *, err: bool = False) -> str:
    """Return text in a style of the palette, where colour is shown; `text` is safe to print.

    err: it goes to standard error.
    """
    shown = screen().colors_errors if err else screen().color
    if not text or not shown or style not in _PALETTE:
        return text
    return f"\x1b[{_PALETTE[style]}m{text}{_PLAIN}"


def toned(line: str, *, err: bool = False) -> str:
    """Return a line in the style of the severity that it begins with: "  warning: ..."."""
    return painted(line, line.lstrip().partition(":")[0], err=err)


def folded(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, those that are wider than the screen folded between words and indented."""
    width = screen().width
    if width is None:
        yield from lines
        return
    from textwrap import wrap  # here, since files and pipes need none

    for line in lines:
        if len(line) <= width:
            yield line
            continue
        start, text, end = _painted_parts(line)
        indent = " " * (len(text) - len(text.lstrip()) + 2)
        parts = wrap(
            text,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for part in parts:
            yield f"{start}{part}{end}"


def _painted_parts(line: str) -> tuple[str, str, str]:
    """Return what begins the style of a whole line, the line, and what ends the style."""
    if not line.startswith("\x1b[") or not line.endswith(_PLAIN):
        return "", line, ""
    end = line.index("m") + 1
    return line[:end], line[end : -len(_PLAIN)], _PLAIN


def shows_color(
    stream: TextIO, choice: str = "auto", environment: Mapping[str, str] = os.environ
) -> bool:
    """Whether a stream is to get colour.

    choice: "always", "never", or "auto": NO_COLOR says no (https://no-color.org), then FORCE_COLOR
    (https://force-color.org) or CLICOLOR_FORCE yes, TERM=dumb no, and else a terminal gets some.
    """
    if choice != "auto":
        return choice == "always"
    if environment.get("NO_COLOR"):
        return False
    if any(environment.get(name, "0") not in ("", "0") for name in _FORCE):
        return True
    return environment.get("TERM") != "dumb" and stream.isatty()


_FORCE = ("FORCE_COLOR", "CLICOLOR_FORCE")


def width_of(stream: TextIO) -> int | None:
    """Return the columns of a terminal, COLUMNS first; None of anything else."""
    if not stream.isatty():
        return None
    import shutil

    return max(_NARROWEST, shutil.get_terminal_size().columns)


_NARROWEST = 20  # columns; a terminal that says 0 or 1 does not know
