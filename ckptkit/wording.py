"""Keywords in sentences: said as keywords to a program, as options to a person at a shell.

    say("‹against› and ‹golden› exclude each other")
        against and golden exclude each other              whoever calls the library reads this,
        --against and --golden exclude each other          and whoever typed a command this
    say("‹on=CPU:0› twice")                                on='CPU:0', --on CPU:0
    say("‹record.layers=*› keeps them")                    record(layers='*'), `ckptkit record ...`

A message below the edge marks the keywords of its function so, and never spells an option.  Which
words are said is set once, by the edge, as a program sets the language of its messages; it holds
for the whole process, since worker threads write messages too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Speaker = Callable[[str, str, "str | None"], str]
"""(function or "", keyword, value or None) -> the words for it."""

# ‹keyword›, ‹keyword=value›, ‹function.keyword› or ‹function.keyword=value›
_MARKED = re.compile(r"‹(?:(\w+)\.)?(\w+)(?:=([^›]*))?›")


def as_keywords(function: str, keyword: str, value: str | None) -> str:
    """Return what Python calls it: `on`, `on='CPU:0'`, `record(float64=True)`."""
    if not function:
        return keyword if value is None else f"{keyword}={value!r}"
    return f"{function}({keyword}={True if value is None else value!r})"


_speaker: Speaker = as_keywords


class Said(str):
    """What was said, with the keywords that it names."""

    keywords: tuple[str, ...] = ()


def say(text: str) -> Said:
    """Return `text` with every marked keyword in the words that are spoken here."""
    said = Said(_MARKED.sub(lambda mark: _speaker(mark[1] or "", mark[2], mark[3]), text))
    said.keywords = tuple(mark[2] for mark in _MARKED.finditer(text))
    return said


@contextmanager
def spoken_by(speaker: Speaker) -> Iterator[None]:
    """Let `speaker` choose the words within the block."""
    global _speaker
    before, _speaker = _speaker, speaker
    try:
        yield
    finally:
        _speaker = before
