"""Results in the forms that all have: JSON, JSON lines, CSV of any rows, Markdown, a page of HTML.

A command prints one JSON object whose `schema` names its kind and version.  Where it takes several
operands, that object has `results`, one for each, and `refused`, a sentence for each that gave
none: the same shape for one and for many.  Everything is made a line at a time, and no more than
one result is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ckptkit.reports.screen import PAPER, shown_on
from ckptkit.reports.table import csv_rows
from ckptkit.reports.text import markdown_text, printable
from ckptkit.results import Document

if TYPE_CHECKING:
    from ckptkit.reports.page.frame import Page

_BATCH = 100  # rows; starting the encoder takes longer than encoding one
Refused = Callable[[], Sequence[str]]
"""Asked when all results are through: why operands gave none, a sentence each."""


def nothing_refused() -> Sequence[str]:
    """Return that every operand gave a result."""
    return ()


def json_lines(
    document: Mapping[str, Any], rows_key: str, texts: Iterable[str] | None = None
) -> Iterator[str]:
    """Yield a JSON object with one line per row of its list `rows_key`, so that it greps well.

    The rows may come from an iterator; then none is kept.  rows_key: "" where there is none.
    texts: the rows as JSON, where they are at hand.
    """
    head = {key: value for key, value in document.items() if key != rows_key}
    yield "{"
    last = list(head)[-1] if not rows_key else ""
    for key, value in head.items():
        comma = "" if key == last else ","
        yield f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}{comma}"
    if rows_key:
        yield f" {json.dumps(rows_key)}: ["
        held = None
        for text in _rows(document[rows_key]) if texts is None else texts:
            if held is not None:
                yield f"  {held},"
            held = text
        if held is not None:
            yield f"  {held}"
        yield " ]"
    yield "}"


def json_results(
    schema: str,
    results: Iterable[Document],
    refused: Refused = nothing_refused,
    texts: Callable[[Document], Iterable[str] | None] = lambda _result: None,
) -> Iterator[str]:
    """Yield the document of a command that takes several operands, one result after the other.

    schema: of the document, and of each result in it.  texts: gives the rows of one as JSON.
    """
    yield "{"
    yield f' "schema": {json.dumps(schema)},'
    yield ' "results": ['
    yield from _joined(
        json_lines(result.streamed(), result.ROWS, texts(result)) for result in results
    )
    yield " ],"
    yield f' "refused": {json.dumps([printable(text) for text in refused()])}'
    yield "}"


def _joined(items: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the lines of all items of a list, with a comma behind each but the last."""
    held = ""
    for lines in items:
        if held:
            held += ","
        for line in lines:
            if held:
                yield held
            held = f"  {line}"
    if held:
        yield held


def jsonl_lines(results: Iterable[Document]) -> Iterator[str]:
    """Yield each row of each result as a JSON object on one line, with the operand's `path` first.

    The rows are those of the JSON document; one that has a path of its own keeps that.
    """
    for result in results:
        document = result.streamed()
        head = {"path": _path_text(document)} if "path" in document else {}
        rows = document[result.ROWS] if result.ROWS else result.records()
        yield from _rows({**head, **row} for row in rows) if head else _rows(rows)


def _path_text(document: Mapping[str, Any]) -> str:
    subtree = document.get("subtree")
    return f"{document['path']}#{subtree}" if subtree else str(document["path"])


def csv_of_records(results: Iterable[Document]) -> Iterator[str]:
    """Yield the rows of the JSON documents as CSV, a column for each field.

    A list of plain values is one cell, "3,4"; what is nested deeper stands there as JSON; null is
    an empty cell.
    """
    documents = ((result, result.streamed()) for result in results)
    rows = (
        {**({"path": _path_text(document)} if "path" in document else {}), **row}
        for result, document in documents
        for row in (document[result.ROWS] if result.ROWS else result.records())
    )
    first = next(rows, None)
    if first is None:
        return
    cells = ([_csv_cell(row.get(name)) for name in first] for row in chain([first], rows))
    yield from csv_rows(cells, list(first))


def _csv_cell(value: Any) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict | list) else value


# --- any form ---------------------------------------------------------------------------------


def in_form(
    fmt: str,
    results: Iterable[Document],
    table: Callable[[str], Iterable[str]],
    remarks: Callable[[], Iterable[str]],
    *,
    page: Callable[[], Page] | None = None,
    schema: str = "",
    refused: Refused = nothing_refused,
) -> Iterator[str]:
    """Yield results in a form that needs to know nothing else about them.

    fmt: "json", "jsonl", "csv" (the fields of the JSON rows), "markdown", "html" or "table:NAME".
    table: format -> the table, for those that are a table.  remarks: what people should know beside
    it.  page: what a page shows, where the caller has no page of its own.  schema: where several
    operands make one document; "" for one result.
    """
    if fmt == "json" and schema:
        yield from json_results(schema, results, refused)
    elif fmt == "json":
        for result in results:
            yield from json_lines(result.streamed(), result.ROWS)
    elif fmt == "jsonl":
        yield from jsonl_lines(results)
    elif fmt == "csv":
        yield from csv_of_records(results)
    elif fmt == "html" and page is not None:
        from ckptkit.reports.page import frame, sections  # programs ask for JSON most of the time

        with shown_on(PAPER):
            made = page()
        yield from frame.lines(made, sections.plain(made))
    elif fmt == "markdown":
        yield from table(fmt)
        yield ""
        yield from (f"- {markdown_text(line)}" for line in _plain(remarks) if line)
    else:
        yield from table(fmt)


def _plain(remarks: Callable[[], Iterable[str]]) -> list[str]:
    """Return lines whole and without the colours of a terminal."""
    with shown_on(PAPER):
        return list(remarks())


# --- rows -------------------------------------------------------------------------------------


def _rows(rows: Iterable[object]) -> Iterator[str]:
    """Yield each row as JSON, a batch encoded together."""
    # Rows are made here and hold no cycles; looking for them takes a tenth of the time.
    encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH)):
        yield from _encoded(batch, encode)


def _encoded(rows: Sequence[object], encode: Callable[[object], str]) -> Sequence[str]:
    """Return each row as JSON: encoded together, and cut where that is sure to be between rows."""
    if all(isinstance(row, dict) and row for row in rows):
        texts = encode(rows)[2:-2].split("}, {")
        if len(texts) == len(rows):  # else a string, or a list in a row, has that in it
            return [f"{{{text}}}" for text in texts]
    return [encode(row) for row in rows]
