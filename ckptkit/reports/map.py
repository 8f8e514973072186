"""A proposed map in every form; as text it is the file of rules that `convert` takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from ckptkit.align.rules import OPEN_MARK
from ckptkit.reports.documents import in_form
from ckptkit.reports.screen import painted
from ckptkit.reports.table import render
from ckptkit.reports.text import printable
from ckptkit.text import count_text, list_text

if TYPE_CHECKING:
    from ckptkit.operations.map.result import ProposedMap

_SHOWN = 6  # of each kind, beside the map
_UNPROVEN = "unproven: `ckptkit check --against` tells whether both compute the same"
_WHY = {
    "name": "the same name",
    "shape": "nothing else fits",
    "scope": "the rest of its scope",
    "words": "words and numbers of the names",
    "numbers": "numbers as in the pairs that are known",
    "order": "the order of both files",
}


def lines(proposal: ProposedMap, fmt: str = "table") -> Iterator[str]:
    """Yield the report.

    fmt: "table" (the map, a rule a line, all else as comments), "json" (schema ckptkit.map/1),
    "jsonl", "csv", "markdown", "html" or "table:NAME" (a row per rule).
    """
    if fmt == "table":
        yield from _map(proposal)
        return
    yield from in_form(
        fmt,
        f"ckptkit map {proposal.src} {proposal.dst}",
        [proposal],
        lambda form: _table(proposal, form),
        lambda: remarks(proposal),
    )


def remarks(proposal: ProposedMap) -> Iterator[str]:
    """Yield what stands beside the rules: what is left open, and the verdict."""
    for item in proposal.open[:_SHOWN]:
        names = list_text([rule.source for rule in item.candidates])
        text = f"left open: {item.target}: {names}: {item.why}"
        yield painted(printable(text), "warning")
    if len(proposal.open) > _SHOWN:
        yield f"left open: {len(proposal.open) - _SHOWN} more tensors, as the map says"
    for texts in (_unmatched(proposal), _allowed(proposal)):
        said = list(texts)
        yield from map(printable, said[:_SHOWN])
        if len(said) > _SHOWN:
            yield f"and {len(said) - _SHOWN} more, as the map says"
    yield painted(verdict(proposal), "verdict")


def verdict(proposal: ProposedMap) -> str:
    """Return one line on the map."""
    why = Counter(rule.why for rule in proposal.rules)
    by = ", ".join(f"{count} by {word}" for word, count in why.items())
    parts = [count_text(len(proposal.rules), "rule") + (f" ({by})" if by else "")]
    if proposal.open:
        parts.append(f"{count_text(len(proposal.open), 'tensor')} left open")
    unmatched = len(proposal.unmatched_sources) + len(proposal.unmatched_targets)
    if unmatched:
        parts.append(f"{unmatched} without a partner")
    state = "complete" if proposal.ok else "incomplete"
    return printable(f"{state}: {', '.join(parts)}; {_UNPROVEN}")


def _map(proposal: ProposedMap) -> Iterator[str]:
    """Yield the file of rules; what is open begins with a mark that makes `convert` stop."""
    yield printable(f"# from {proposal.src} to {proposal.dst}")
    yield f"# {verdict(proposal)}"
    for why, rules in groupby(proposal.rules, key=lambda rule: rule.why):
        yield f"# {_WHY[why]}"
        for rule in rules:
            yield rule.text
    for item in proposal.open:
        shape = ",".join(map(str, item.shape))
        yield printable(f"# left open: {item.target} ({shape}): {item.why}")
        for rule in item.candidates:
            yield f"{OPEN_MARK} {rule.text}"
    if proposal.open:
        yield f"# take `{OPEN_MARK}` off the rule that is right, for each tensor"
    for text in (*_unmatched(proposal), *_allowed(proposal)):
        yield printable(f"# {text}")


def _unmatched(proposal: ProposedMap) -> Iterator[str]:
    files = proposal.src.name, proposal.dst.name
    for name in proposal.unmatched_sources:
        yield f"no partner: {name} of {files[0]}"
    for name in proposal.unmatched_targets:
        yield f"no partner: {name} of {files[1]}"


def _allowed(proposal: ProposedMap) -> Iterator[str]:
    """Yield what `convert` has to be told beside the map."""
    for name in proposal.kept:
        allowed = f"--allow-missing '{name}'"
        yield f"no counterpart: {name} stays as it is in {proposal.dst.name} ({allowed})"
    yield from proposal.notes


def _table(proposal: ProposedMap, fmt: str) -> Iterator[str]:
    rows = [
        (
            printable(rule.source),
            printable(rule.target),
            printable(str(rule.transform)),
            rule.why,
        )
        for rule in proposal.rules
    ]
    yield from render(rows, ("FROM", "TO", "STEPS", "WHY"), fmt, align=("left",) * 4)
