"""Rows as an aligned table, CSV or Markdown.  The only user of tabulate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, islice
from typing import NamedTuple

from ckptkit.reports.fitting import GAP, Fit, Table, fitted
from ckptkit.reports.screen import folded, painted, screen
from ckptkit.reports.text import (
    display_width,
    html_text,
    markdown_text,
    printable,
    spreadsheet_text,
)

_KEPT_ROWS = 200_000  # of a table that fits no screen; of more, none is kept
_TOGETHER = 1024  # rows that are looked at together
_REPEATED = 4096  # ends of rows that are kept, since others end so
TABULATE = "table:"  # before the name of a format of tabulate's: "table:grid"


def tabulate_formats() -> list[str]:
    """Return the names of all table formats that the installed tabulate knows, sorted."""
    import tabulate  # here, since importing it takes as long as all the rest of `ls`

    return sorted(tabulate.tabulate_formats)


def is_bare(fmt: str) -> bool:
    """Whether a format is a table and nothing else: what a report says around it has no place."""
    return fmt.startswith(TABULATE)


def render(
    rows: Sequence[Sequence[object]],
    headers: Sequence[str],
    fmt: str = "table",
    align: Sequence[str] = (),
    fit: Fit | None = None,
) -> Iterator[str]:
    """Yield the lines of a table.

    fmt: "table", "csv", "markdown" or "table:NAME", a format of tabulate's.  align: "left" or
    "right" per column.  fit: what may be done to make a "table" fit the screen.

    Cells are made printable, and integers get thousands separators, except in CSV and TSV, which
    are for programs.  What Markdown would take for markup is escaped there, and what a spreadsheet
    would run as a formula gets a "'" before it in CSV and TSV.
    """
    if fmt in _SEPARATORS:
        yield from _separated(rows, headers, _SEPARATORS[fmt])
        return
    align = align or ["left"] * len(headers)
    if fmt == "table":
        table = parts(rows, len(rows), headers, align, fit)
        yield from folded(table.above)
        yield from table.body
        yield from folded(painted(line, "note") for line in table.below)
        return
    cells = [[_cell(cell) for cell in row] for row in rows]
    from tabulate import tabulate

    name = fmt.removeprefix(TABULATE) if fmt.startswith(TABULATE) else "github"
    if name in _MARKDOWN:
        cells = [[markdown_text(cell) for cell in row] for row in cells]
    text = tabulate(
        cells,
        headers=list(headers),
        tablefmt=name,
        colalign=list(align) if cells else None,
        disable_numparse=True,
    )
    yield from text.split("\n")


_MARKDOWN = ("github", "pipe")
# tabulate's TSV pads its cells, and leaves out those at the end of a row that are empty.
_SEPARATORS = {"csv": ",", f"{TABULATE}tsv": "\t"}


_BETWEEN = "\0"  # cells; none has it, nor a line break, since they are printable


def _cell(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else printable(str(cell))


def table_html(
    headers: Sequence[str], rows: Iterable[Sequence[str]], align: Sequence[str] = ()
) -> Iterator[str]:
    """Yield a table as HTML, of cells that are plain text.  align: "left" or "right" by column."""
    classes = [' class="n"' if side == "right" else "" for side in align or ["left"] * len(headers)]
    yield "<table><thead><tr>"
    for name, kind in zip(headers, classes, strict=True):
        yield f'<th scope="col"{kind}>{html_text(name)}</th>'
    yield "</tr></thead><tbody>"
    for row in rows:
        cells = (f"<td{kind}>{html_text(c)}</td>" for c, kind in zip(row, classes, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table>"


class TableLines(NamedTuple):
    """The lines of a table: the heading first in the body."""

    above: Sequence[str]
    body: Iterator[str]
    below: Sequence[str]


def parts(
    rows: Iterable[Sequence[object]],
    count: int,
    headers: Sequence[str],
    align: Sequence[str],
    fit: Fit | None = None,
) -> TableLines:
    """Return a table as it is printed: safe cells, and no wider than the screen.

    All rows are made before the first line of the body.

    rows: looked at once.  count: how many there are.  fit: as `render` has it.
    """
    width = screen().width
    if width is None and count > _KEPT_ROWS and len(headers) > 1:
        return TableLines((), _streamed(rows, headers, align), ())
    cells = [[_cell(cell) for cell in row] for row in rows]
    table = Table(list(headers), cells, list(align))
    if width is not None:
        table = fitted(table, width, fit or Fit())
    return TableLines(table.above, _padded(table), table.below)


def _padded(table: Table) -> Iterator[str]:
    """Yield the heading and the rows, as tabulate's "plain" format would print them.

    Importing tabulate takes as long as all the rest of `ls`, and formatting 100,000 rows four
    seconds; so the format that a person waits for is padded here.
    """
    rows = [table.headers, *table.cells]
    is_ascii = all(cell.isascii() for row in rows for cell in row)
    if is_ascii:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    else:
        widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    return map(str.rstrip, map(_padder(widths, table.align, is_ascii=is_ascii), rows))


def _streamed(
    rows: Iterable[Sequence[object]], headers: Sequence[str], align: Sequence[str]
) -> Iterator[str]:
    """Yield the same of many rows, which are kept in little memory until all widths are known.

    What follows the first cell of a row is often what follows that of another.
    """
    from ckptkit.stores.packed_texts import PackedTexts  # here, since few tables are so long

    kept = PackedTexts()
    firsts, ends = _Widths(headers[:1]), _Widths(headers[1:])

    @lru_cache(_REPEATED, typed=True)
    def end_of(*values: object) -> str:
        cells = list(map(_cell, values))
        ends.take(cells)
        return _BETWEEN.join(cells)

    each = iter(rows)
    while some := list(islice(each, _TOGETHER)):
        cells = [_cell(row[0]) for row in some]
        for cell in [max(cells, key=len)] if all(map(str.isascii, cells)) else cells:
            firsts.take((cell,))
        ends_of_rows = (end_of(*row[1:]) for row in some)
        kept.extend(list(map(_BETWEEN.join, zip(cells, ends_of_rows, strict=True))))
    is_ascii = firsts.is_ascii and ends.is_ascii
    pad_first = _padder(firsts.widths, align[:1], is_ascii=is_ascii)
    pad_end = _padder(ends.widths, align[1:], is_ascii=is_ascii)

    @lru_cache(_REPEATED)
    def padded_end(text: str) -> str:
        return " " * GAP + pad_end(text.split(_BETWEEN))

    yield (pad_first(headers[:1]) + padded_end(_BETWEEN.join(headers[1:]))).rstrip()
    for text in kept:
        first, _, end = text.partition(_BETWEEN)
        yield (pad_first((first,)) + padded_end(end)).rstrip()


class _Widths:
    """How wide columns have to be for their cells."""

    def __init__(self, headers: Sequence[str]) -> None:
        self.widths = [0] * len(headers)
        self.is_ascii = True
        self.take(headers)

    def take(self, cells: Sequence[str]) -> None:
        """Make room for the cells of a row."""
        self.is_ascii = self.is_ascii and all(map(str.isascii, cells))
        self.widths = list(map(max, self.widths, map(display_width, cells)))


def _padder(
    widths: Sequence[int], align: Sequence[str], *, is_ascii: bool
) -> Callable[[Sequence[str]], str]:
    """Return what makes a line of cells, not ended where the last one ends.

    is_ascii: else letters may take two columns, or none.
    """
    if not is_ascii:
        return partial(_padded_wide, widths, align)
    layout = (" " * GAP).join(
        f"{{:{'>' if side == 'right' else '<'}{width}}}"
        for side, width in zip(align, widths, strict=True)
    )
    return lambda row: layout.format(*row)


def _padded_wide(widths: Sequence[int], align: Sequence[str], row: Sequence[str]) -> str:
    padded_cells = []
    for cell, side, width in zip(row, align, widths, strict=True):
        space = " " * (width - display_width(cell))
        padded_cells.append(space + cell if side == "right" else cell + space)
    return (" " * GAP).join(padded_cells)


def csv_rows(rows: Iterable[Sequence[object]], headers: Sequence[str]) -> Iterator[str]:
    """Yield rows as CSV, a line at a time; the headers come first."""
    return _separated(rows, headers, ",")


def _separated(
    rows: Iterable[Sequence[object]], headers: Sequence[str], separator: str
) -> Iterator[str]:
    import csv
    import io

    for row in chain((headers,), rows):
        line = io.StringIO()
        cells = [_csv_cell(cell) for cell in row]
        csv.writer(line, delimiter=separator).writerow(cells)
        yield line.getvalue().removesuffix("\r\n")


def _csv_cell(cell: object) -> object:
    """Return a cell for programs: numbers as they are, text that is safe in a spreadsheet too."""
    return spreadsheet_text(printable(cell)) if isinstance(cell, str) else cell
