"""Checkpoints and models below a directory, in every form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.operations.inventory import Inventory, InventoryRow, time_text
from ckptkit.reports.fitting import Fit
from ckptkit.reports.screen import folded, painted, toned
from ckptkit.reports.table import is_bare, render
from ckptkit.reports.text import bytes_text, count_text, line_text, printable

if TYPE_CHECKING:
    from ckptkit.reports.page.frame import Page

_HEADERS = ("PATH", "FORMAT", "STEP", "TENSORS", "PARAMS", "SIZE", "COMPLETE", "MODIFIED", "DIGEST")
_ALIGN = ("left", "left", "right", "right", "right", "right", "left", "left", "left")
_FIT = Fit(names=("PATH",), drops=("FORMAT", "TENSORS", "MODIFIED", "PARAMS"))
_CSV = ("path", "format", "step", "tensors", "params", "bytes", "complete", "modified", "digest")


def lines(inventory: Inventory, fmt: str = "table") -> Iterator[str]:
    """Yield the inventory.

    fmt: "table" (for people), "json" (schema ckptkit.inventory/1), "jsonl", "csv", "markdown",
    "html" or "table:NAME" (the rows alone, see `remarks`).
    """
    if fmt == "csv":
        yield from render([_csv_row(row) for row in inventory.rows], _CSV, "csv")
    elif fmt in ("json", "jsonl", "html"):
        from ckptkit.reports.documents import in_form

        yield from in_form(
            fmt,
            [inventory],
            lambda form: _table(inventory, form),
            lambda: remarks(inventory),
            page=lambda: page(inventory),
        )
    else:
        yield from _table(inventory, fmt)
        if not is_bare(fmt):
            yield ""
            yield from remarks(inventory, fmt)


def page(inventory: Inventory) -> Page:
    """Return what the page shows: a row per checkpoint or model, and which is not whole."""
    from ckptkit.reports.page.sections import column, reported, table

    rows = inventory.rows
    states = ["incomplete" if row.problems else "complete" for row in rows]
    modified = [None if row.modified is None else time_text(row.modified) for row in rows]
    columns = [
        column("state", "state", states, "status", facet="chips"),
        column("name", "path", [printable(str(row.path)) for row in rows], "name"),
        column("format", "format", [x.format for x in rows], "mono", facet="select", minor=True),
        column("step", "step", [row.step for row in rows], "count"),
        column("tensors", "tensors", [row.tensors for row in rows], "count", minor=True),
        column("params", "params", [row.params for row in rows], "count", minor=True),
        column("bytes", "size", [row.nbytes for row in rows], "bytes"),
        column("modified", "modified", modified, "mono", minor=True),
        column("digest", "digest", [row.digest for row in rows], "mono", hidden=True),
        column(
            *("why", "what is wrong", ["\n".join(row.problems) or None for row in rows]),
            hidden=True,
        ),
    ]
    *told, last = (line.strip() for line in remarks(inventory))
    sections = [table("files", "Checkpoints and models", columns, "row", main=True)]
    about = " ".join(map(str, inventory.paths))
    return reported("ls", about, [*told, last], inventory.exit_code, sections)


def _table(inventory: Inventory, fmt: str) -> Iterator[str]:
    keep = [i for i, name in enumerate(_HEADERS) if name != "DIGEST" or _has_digests(inventory)]
    cells = [_cells(row) for row in inventory.rows]
    rows = [[row[i] for i in keep] for row in cells]
    headers, align = [_HEADERS[i] for i in keep], [_ALIGN[i] for i in keep]
    yield from render(rows, headers, fmt, align, _FIT)


def remarks(inventory: Inventory, fmt: str = "table") -> Iterator[str]:
    """Yield what is wrong with any, and how much there is in all."""
    bullet = "- " if fmt == "markdown" else ""
    for row in inventory.rows:
        for problem in row.problems:
            yield from folded([toned(f"{bullet}error: {line_text(f'{row.path}: {problem}', fmt)}")])
    for unlisted in inventory.not_listed:
        yield toned(f"{bullet}error: {line_text(unlisted, fmt)}")
    count = count_text(len(inventory.rows), "checkpoint or model", "checkpoints and models")
    nbytes = sum(row.nbytes or 0 for row in inventory.rows)
    below = ", ".join(map(str, inventory.paths))
    text = f"{below}: {count}, {bytes_text(nbytes)} of tensors"
    yield bullet + painted(line_text(text, fmt), "verdict")


def _has_digests(inventory: Inventory) -> bool:
    return any(row.digest for row in inventory.rows)


def _cells(row: InventoryRow) -> Sequence[str]:
    numbers = (row.step, row.tensors, row.params)
    return (
        printable(str(row.path)),
        row.format,
        *("" if number is None else f"{number:,}" for number in numbers),
        "" if row.nbytes is None else bytes_text(row.nbytes),
        "no" if row.problems else "yes",
        "" if row.modified is None else time_text(row.modified),
        row.digest or "",
    )


def _csv_row(row: InventoryRow) -> Sequence[object]:
    numbers = (row.step, row.tensors, row.params, row.nbytes)
    return (
        str(row.path),
        row.format,
        *("" if number is None else number for number in numbers),
        "no" if row.problems else "yes",
        "" if row.modified is None else time_text(row.modified),
        row.digest or "",
    )
