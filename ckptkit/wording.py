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

Operands are called as whoever gave them did, never by their place in a usage line:

    say("‹LIKE› has no place for it")                      export-2 has no place for it
    f"{name} of {operand('LIKE')} has no value"            the same, where names of tensors are said
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from ckptkit.text import lazy_pattern, without_secrets

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
_OPERANDS: ContextVar[Mapping[str, str]] = ContextVar("operands", default={})  # noqa: B039
_LABELS: ContextVar[Mapping[str, str]] = ContextVar("labels", default={})  # noqa: B039


def operand(place: str) -> str:
    """Return what the operand at a place ("SRC", "LIKE", "OLD", ...) is called; the place, if any.

    Operands are called something within `operands_called` alone.
    """
    called = _OPERANDS.get().get(place, place)
    return without_secrets(_LABELS.get().get(called, called))


@contextmanager
def operands_called(names: Mapping[str, str]) -> Iterator[None]:
    """Call operands so within the block: {place: what was given there}."""
    token = _OPERANDS.set({**_OPERANDS.get(), **names})
    try:
        yield
    finally:
        _OPERANDS.reset(token)


@contextmanager
def labelled(labels: Mapping[str, str]) -> Iterator[None]:
    """Call operands otherwise than they were given within the block: {operand: its label}."""
    token = _LABELS.set(labels)
    try:
        yield
    finally:
        _LABELS.reset(token)


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
        if mark[2].isupper():
            return operand(mark[2])
        spoken = _speaker(mark[1] or "", mark[2], mark[3])
        if spoken is None:
            foreign.append(mark[2])
            return as_keywords(mark[1] or "", mark[2], mark[3])
        return spoken

    said = Said(_MARKED.sub(words, text))
    marks = _MARKED.finditer(text)
    said.keywords = tuple(mark[2] for mark in marks if not mark[2].isupper())
    said.foreign = tuple(foreign)
    return said


def with_operands(text: str) -> str:
    """Return `text` for `say`, with the operands that it marks called as they are here and now."""
    return re.sub("‹([A-Z]+)›", lambda mark: operand(mark[1]), text)


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
