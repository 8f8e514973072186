"""A proposed map in every form; as text it is the file of rules that `convert` takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from ckptkit.align.rules import OPEN_MARK
from ckptkit.reports.documents import in_form
from ckptkit.reports.page.frame import Page, Section
from ckptkit.reports.page.sections import cards, column, reported, table
from ckptkit.reports.screen import painted
from ckptkit.reports.table import render
from ckptkit.reports.text import printable, shape_text
from ckptkit.text import count_text, list_text

if TYPE_CHECKING:
    from ckptkit.operations.map.result import MapRule, OpenTensor, ProposedMap

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
        [proposal],
        lambda form: _table(proposal, form),
        lambda: remarks(proposal),
        page=lambda: page(proposal),
    )


def page(proposal: ProposedMap) -> Page:
    """Return what the page shows: what a person has to decide first, then what is decided."""
    files = [
        {"side": "from", "path": str(proposal.src), "about": ""},
        {"side": "to", "path": str(proposal.dst), "about": ""},
    ]
    return reported(
        "map",
        f"{proposal.src.name} → {proposal.dst.name}",
        [*(f"note: {note}" for note in proposal.notes), verdict(proposal)],
        proposal.exit_code,
        [*_open(proposal), *_alone(proposal), _rules(proposal)],
        files,
    )


def _open(proposal: ProposedMap) -> list[Section]:
    """Return a row per candidate of what is left open, each with the rule that would take it."""
    pairs: list[tuple[OpenTensor, MapRule | None]] = [
        (item, rule) for item in proposal.open for rule in item.candidates
    ]
    pairs += [(item, None) for item in proposal.open if not item.candidates]
    rules = [rule for _item, rule in pairs]
    targets = [item.target for item, _rule in pairs]
    columns = [
        column("to", "to", targets, "mono", facet="select"),
        column("name", "candidate", [r.source if r else "(none)" for r in rules], "name"),
        column("steps", "steps", [str(r.transform) if r else None for r in rules], "mono"),
        column("shape", "shape", [shape_text(x.shape) for x, _ in pairs], "mono", minor=True),
        column("why", "why it is open", [item.why for item, _rule in pairs], minor=True),
        column("rule", "rule that takes it", [r.text if r else None for r in rules], hidden=True),
    ]
    first = {target: row for row, target in reversed(list(enumerate(targets)))}
    shown = [
        {
            "title": item.target,
            "value": count_text(len(item.candidates), "candidate"),
            "text": item.why,
            "row": first[item.target],
            "severe": True,
        }
        for item in proposal.open[:_SHOWN]
    ]
    return [
        cards("undecided", "Left open", "open", shown, "no candidate is better than another"),
        table("open", "Candidates", columns, "candidate", headed=True),
    ]


def _alone(proposal: ProposedMap) -> list[Section]:
    """Return the tensors that have no partner, of either file."""
    sides = (
        (f"only in {proposal.src.name}", proposal.unmatched_sources),
        (f"only in {proposal.dst.name}", proposal.unmatched_targets),
        (f"stays as in {proposal.dst.name}", proposal.kept),
    )
    rows = [(side, name) for side, names in sides for name in names]
    columns = [
        column("name", "tensor", [name for _side, name in rows], "name"),
        column("side", "side", [side for side, _name in rows], facet="select"),
    ]
    return [table("alone", "Without a partner", columns, "tensor", headed=True)]


def _rules(proposal: ProposedMap) -> Section:
    rules = proposal.rules
    columns = [
        column("from", "from", [rule.source for rule in rules], "mono", wide=36),
        column("name", "to", [rule.target for rule in rules], "name"),
        column("steps", "steps", [str(rule.transform) for rule in rules], "mono", minor=True),
        column("why", "why", [rule.why for rule in rules], facet="select", minor=True),
        column("rule", "rule", [rule.text for rule in rules], "mono", hidden=True),
    ]
    return table("rules", "Pairs", columns, "pair", main=True)


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
