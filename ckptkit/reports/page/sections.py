"""The parts of a page as plain values: columns, tables, lists; and the same as HTML without script.

The kinds that only one page has are made where that page is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ckptkit.reports.page.frame import Page, Section
from ckptkit.reports.table import table_html
from ckptkit.reports.text import bytes_text, html_text, printable
from ckptkit.text import json_number

PLAIN_ROWS = 1000  # of a table without script
_NUMBERS = ("count", "number", "bytes", "meter")


def column(
    key: str, title: str, cells: Sequence[Any], kind: str = "text", **more: Any
) -> dict[str, Any]:
    """Return a column of a table.

    Args:
        key: what the address calls it.
        title: what stands above it.
        cells: a value per row; None where there is none.  NaN is an undefined number.
        kind: "name" (which opens the row), "text", "mono", "status", "count", "number", "bytes" or
            "meter" (a number with a bar).
        more: facet: "chips", "select" or "link", a way to filter.  hidden: it stands only in the
            details; searched: the filter goes over it all the same.  minor: it makes way in a
            narrow window.  order: of values that are words.  off: the chips that are not chosen at
            first.  by: the key of the column that it is sorted by.  wide: letters that it has room
            for.

    Returns:
        Plain values; words that are repeated are stored once.
    """
    if kind in _NUMBERS:
        values = [None if cell is None else json_number(cell) for cell in cells]
        return {"key": key, "title": title, "kind": kind, "cells": values, **more}
    texts = [None if cell is None else printable(str(cell)) for cell in cells]
    words = list(dict.fromkeys(texts))
    head = {"key": key, "title": title, "kind": kind, **more}
    if 2 * len(words) > len(texts) and len(texts) > 8:
        return {**head, "cells": texts}
    places = {word: at for at, word in enumerate(words)}
    return {**head, "words": words, "at": [places[text] for text in texts]}


def table(
    ident: str, title: str, columns: Sequence[Mapping[str, Any]], noun: str = "row", **more: Any
) -> dict[str, Any]:
    """Return a table.  noun: what a row is.

    more: main: whether its state has plain names.  headed: whether it has a heading without script.
    """
    cells = columns[0]
    count = len(cells["cells"] if "cells" in cells else cells["at"])
    return {
        "kind": "table",
        "id": ident,
        "title": title,
        "noun": noun,
        "count": count,
        "columns": list(columns),
        **more,
    }


def listed(ident: str, title: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return a list of lines."""
    return {"kind": "lines", "id": ident, "title": title, "lines": [printable(t) for t in texts]}


def facts(ident: str, title: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a list of names and values."""
    shown = [(name, printable(str(value))) for name, value in pairs]
    return {"kind": "facts", "id": ident, "title": title, "facts": shown}


def cards(
    ident: str, title: str, of: str, shown: Sequence[Mapping[str, Any]], about: str = ""
) -> dict[str, Any]:
    """Return what a person should see first; each leads to its row of a table.

    shown: title, value (a word or number, drawn large), text, row and severe of each.  of: the id
    of the table.  about: beside the title.
    """
    told = [
        {**each, **{key: printable(str(each[key])) for key in ("title", "value", "text")}}
        for each in shown
    ]
    section = {"kind": "callouts", "id": ident, "title": title, "of": of, "callouts": told}
    return {**section, "about": about} if about else section


_FIRST = 12  # remarks that stand above the sections
_SEVERITIES = {
    **dict.fromkeys(("error", "problem", "failed"), "error"),
    **dict.fromkeys(("warning", "refused", "left open", "blind", "no partner"), "warning"),
}


def reported(
    command: str,
    about: str,
    remarks: Sequence[str],
    code: int,
    sections: Sequence[Section],
    files: Sequence[Mapping[str, str]] = (),
) -> Page:
    """Return the page of a report whose remarks say in words what is to be known.

    Args:
        command: whose page it is.
        about: what it was given, for the title of the window.
        remarks: lines as the report for people has them beside its table, the verdict last.
        code: with which the command exits.
        sections: in their order.
        files: as `Page` has them; "" makes one of `about`.
    """
    lines = [line for line in remarks if line]
    verdict = lines.pop() if lines else ""
    notes = [(_SEVERITIES.get(line.partition(":")[0], "note"), line) for line in lines]
    notes.sort(key=lambda note: ("error", "warning", "note").index(note[0]))
    more = [line for _severity, line in notes[_FIRST:]]
    if more:
        told = f"and {len(more)} more, at the end of the page"
        notes = [*notes[:_FIRST], ("note", told)]
        sections = [*sections, listed("remarks", "More remarks", more)]
    return Page(
        command,
        f"{about} · ckptkit {command}" if about else f"ckptkit {command}",
        verdict=verdict,
        tone={0: "good", 1: "bad"}.get(code, "warn"),
        notes=notes,
        files=files or ([{"path": about, "about": ""}] if about else []),
        sections=[section for section in sections if not is_empty(section)],
    )


def is_empty(section: Section) -> bool:
    """Whether a section has nothing to show."""
    inside = {"table": "count", "callouts": "callouts", "lines": "lines", "facts": "facts"}
    return section["kind"] in inside and not section[inside[section["kind"]]]


# --- without script -------------------------------------------------------------------------------


def plain(page: Page, rows: int = PLAIN_ROWS) -> Iterator[str]:
    """Yield a page as HTML that needs neither script nor style: for notebooks, and for noscript.

    rows: of a table at most; how many are left out is said.
    """
    for file in page.files:
        path, about = (html_text(printable(file[key])) for key in ("path", "about"))
        yield f"<p><b>{path}</b>: {about}</p>"
    for section in page.sections:
        yield from _PLAIN.get(section["kind"], _nothing)(section, rows)
    for _severity, note in page.notes:
        yield f"<div>{html_text(printable(note))}</div>"
    for line in (page.verdict, *page.summary):
        if line:
            yield f"<div><b>{html_text(printable(line))}</b></div>"


def _nothing(_section: Section, _rows: int) -> Iterator[str]:
    return iter(())


def _table(section: Section, rows: int) -> Iterator[str]:
    if not section["count"]:
        return
    if section.get("headed"):
        yield f"<h3>{html_text(section['title'])}</h3>"
    columns = [each for each in section["columns"] if not each.get("hidden")]
    cells = [list(_texts(each)) for each in columns]
    yield from table_html(
        [each["title"] for each in columns],
        list(zip(*(texts[:rows] for texts in cells), strict=True)),
        ["right" if each["kind"] in _NUMBERS else "left" for each in columns],
    )
    more = section["count"] - rows
    if more > 0:
        yield f"<p>... and {more:,} more, which the page with script shows</p>"


def _texts(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the cells of a column as text."""
    values = part["cells"] if "cells" in part else [part["words"][at] for at in part["at"]]
    for value in values:
        if value is None:
            yield ""
        elif part["kind"] == "bytes":
            yield bytes_text(value)
        else:
            yield number_text(value) if part["kind"] in _NUMBERS else str(value)


def number_text(value: Any) -> str:
    """Return a number in three digits; an undefined one as "-"."""
    if value == "NaN" or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _lines(section: Section, _rows: int) -> Iterator[str]:
    if section["lines"]:
        yield f"<h3>{html_text(section['title'])}</h3>"
        yield from (f"<div>{html_text(line)}</div>" for line in section["lines"])


def _facts(section: Section, _rows: int) -> Iterator[str]:
    yield f"<h3>{html_text(section['title'])}</h3>"
    yield from table_html(["", ""], section["facts"])


def _cards(section: Section, _rows: int) -> Iterator[str]:
    if section["callouts"]:
        yield f"<h3>{html_text(section['title'])}</h3>"
    for each in section["callouts"]:
        title, value, text = (html_text(each[key]) for key in ("title", "value", "text"))
        yield f"<div><b>{title}</b>: {value}: {text}</div>"


def _histograms(section: Section, _rows: int) -> Iterator[str]:
    """Yield the pictures, drawn with attributes alone, since a policy may forbid styles."""
    for each in section["pictures"]:
        counts = each["counts"]
        top = max(counts, default=0) or 1
        heights = (
            [58 * math.log1p(n) / math.log1p(top) for n in counts]
            if section.get("logarithmic")
            else [58 * n / top for n in counts]
        )
        bars = "".join(
            f'<rect x="{6 * at}" y="{60 - h:.1f}" width="5" height="{h:.1f}" fill="#3d63d6"></rect>'
            for at, h in enumerate(heights)
            if h
        )
        low, high = number_text(each["low"]), number_text(each["high"])
        yield (
            f"<div>{html_text(each['title'])}: {low} to {high}</div>"
            f'<svg width="{6 * len(counts)}" height="60" role="img" '
            f'aria-label="histogram, {low} to {high}">{bars}</svg>'
        )


_PLAIN = {
    "table": _table,
    "lines": _lines,
    "facts": _facts,
    "histograms": _histograms,
    "callouts": _cards,
}
