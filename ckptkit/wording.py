"""Keywords in sentences: said as keywords to a program, as options to a person at a shell.

    say("‹against› and ‹golden› exclude each other")
        against and golden exclude each other              whoever calls the library reads this,
        --against and --golden exclude each other          and whoever typed a command this
    say("‹on=CPU:0› twice")                                on='CPU:0', --on CPU:0
    say("‹record.layers=*› keeps them")                    record(layers='*'), `ckptkit record ...`

A message below the edge marks the keywords of its function so, and never spells an option.  Which
words are said is set once, by the edge, as a program sets the language of its messages; it holds
for the whole process, since worker threads write messages too.  Advice that names what the running
command lacks is not given: `check` uses `convert`, and has not all of its options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptkit.text import lazy_pattern

Speaker = Callable[[str, str, "str | None"], "str | None"]
"""(function or "", keyword, value or None) -> the words for it; None where there is none here."""

# ‹keyword›, ‹keyword=value›, ‹function.keyword› or ‹function.keyword=value›
_MARKED = lazy_pattern(r"‹(?:(\w+)\.)?(\w+)(?:=([^›]*))?›")


def as_keywords(function: str, keyword: str, value: str | None) -> str:
    """Return what Python calls it: `on`, `on='CPU:0'`, `record(float64=True)`."""
    if not function:
        return keyword if value is None else f"{keyword}={value!r}"
    return f"{function}({keyword}={True if value is None else value!r})"


_speaker: Speaker = as_keywords


class Said(str):
    """What was said, with the keywords that it names.

    foreign: those among them that what is running does not have.
    """

    keywords: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def say(text: str) -> Said:
    """Return `text` with every marked keyword in the words that are spoken here."""
    foreign: list[str] = []

    def words(mark: re.Match[str]) -> str:
        spoken = _speaker(mark[1] or "", mark[2], mark[3])
        if spoken is None:
            foreign.append(mark[2])
            return as_keywords(mark[1] or "", mark[2], mark[3])
        return spoken

    said = Said(_MARKED.sub(words, text))
    said.keywords = tuple(mark[2] for mark in _MARKED.finditer(text))
    said.foreign = tuple(foreign)
    return said


def useful(advice: str) -> str:
    """Return a piece of advice, or "" where it names what the running command does not have.

    What one function advises is read by whoever called another that uses it.
    """
    return "" if getattr(advice, "foreign", ()) else advice


@contextmanager
def spoken_by(speaker: Speaker) -> Iterator[None]:
    """Let `speaker` choose the words within the block."""
    global _speaker
    before, _speaker = _speaker, speaker
    try:
        yield
    finally:
        _speaker = before
