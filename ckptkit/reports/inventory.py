"""Checkpoints and models below a directory, in every form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptkit.operations.inventory import Inventory, InventoryRow, time_text
from ckptkit.reports.fitting import Fit
from ckptkit.reports.screen import folded, painted, toned
from ckptkit.reports.table import is_bare, render
from ckptkit.reports.text import bytes_text, count_text, line_text, printable

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

        title = f"ckptkit ls -r {' '.join(map(str, inventory.paths))}"
        yield from in_form(
            fmt,
            title,
            [inventory],
            lambda form: _table(inventory, form),
            lambda: remarks(inventory),
        )
    else:
        yield from _table(inventory, fmt)
        if not is_bare(fmt):
            yield ""
            yield from remarks(inventory, fmt)


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
