"""Rows as an aligned table, JSON, CSV or Markdown.  The only user of tabulate."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ckptkit.reports.text import printable

FORMATS = ("table", "json", "csv", "markdown")


def render(
    rows: Sequence[Sequence[object]],
    headers: Sequence[str],
    fmt: str = "table",
    align: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the lines of a table.

    fmt: "table", "csv" or "markdown".  align: "left" or "right" per column.  Cells are made
    printable, except in CSV, which is for programs and keeps names exact.
    """
    if fmt == "csv":
        yield from _csv(rows, headers)
        return
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    align = align or ["left"] * len(headers)
    if fmt == "table":
        yield from _padded(cells, headers, align)
        return
    from tabulate import tabulate

    cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    yield from tabulate(
        cells,
        headers=list(headers),
        tablefmt="github",
        colalign=list(align) if cells else None,
        disable_numparse=True,
    ).splitlines()


def _padded(cells: list[list[str]], headers: Sequence[str], align: Sequence[str]) -> Iterator[str]:
    """Yield what tabulate's "plain" format would print.

    Importing tabulate takes as long as all the rest of `ls`, and formatting 100,000 rows four
    seconds; so the format that a person waits for is padded here.
    """
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    layout = "  ".join(
        f"{{:{'>' if side == 'right' else '<'}{width}}}"
        for side, width in zip(align, widths, strict=True)
    )
    for row in (headers, *cells):
        yield layout.format(*row).rstrip()


def _csv(rows: Iterable[Sequence[object]], headers: Sequence[str]) -> Iterator[str]:
    for row in (headers, *rows):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(row)
        yield line.getvalue()


def json_lines(document: Mapping[str, Any], rows_key: str) -> Iterator[str]:
    """Yield a JSON object with one line per row of its list `rows_key`, so that it greps well."""
    head = {key: value for key, value in document.items() if key != rows_key}
    yield "{"
    for key, value in head.items():
        yield f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)},"
    rows = document[rows_key]
    yield f" {json.dumps(rows_key)}: ["
    encode = json.JSONEncoder(allow_nan=False, ensure_ascii=True).encode
    last = len(rows) - 1
    for index, row in enumerate(rows):
        yield f"  {encode(row)}{',' if index < last else ''}"
    yield " ]"
    yield "}"
