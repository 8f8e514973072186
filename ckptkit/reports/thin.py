"""What `thin` did to the checkpoints of a run, in every form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.documents import in_form
from ckptkit.reports.page.frame import Page
from ckptkit.reports.page.sections import column, reported, table
from ckptkit.reports.screen import painted
from ckptkit.reports.table import render
from ckptkit.reports.text import bytes_text, count_text, printable

if TYPE_CHECKING:
    from ckptkit.operations.thin.result import Thinning


def lines(thinning: Thinning, fmt: str = "table") -> Iterator[str]:
    """Yield the report.

    fmt: "table" (for people), "json" (schema ckptkit.thin/1), "jsonl", "csv", "markdown", "html" or
    "table:NAME" (a row per checkpoint).
    """
    if fmt == "table":
        yield from _table(thinning, fmt)
        yield ""
        yield from remarks(thinning)
        return
    yield from in_form(
        fmt,
        [thinning],
        lambda form: _table(thinning, form),
        lambda: remarks(thinning),
        page=lambda: page(thinning),
    )


def page(thinning: Thinning) -> Page:
    """Return what the page shows: the checkpoints, and what became of each."""
    rows = thinning.rows
    columns = [
        column("state", "state", [row.status for row in rows], "status", facet="chips"),
        column("name", "checkpoint", [row.path.name for row in rows], "name"),
        column("slots", "slots", [row.slots for row in rows], "count", minor=True),
        column("before", "before", [row.bytes_before for row in rows], "bytes"),
        column("after", "after", [row.bytes_after for row in rows], "bytes"),
        column("why", "why not", [row.why or None for row in rows], hidden=True, searched=True),
    ]
    sections = [table("checkpoints", "Checkpoints", columns, "checkpoint", main=True)]
    return reported(
        "thin", str(thinning.path), list(remarks(thinning)), thinning.exit_code, sections
    )


def remarks(thinning: Thinning) -> Iterator[str]:
    """Yield what stands beside the table: refusals, notes, and the bytes before and after."""
    for row in thinning.rows:
        if row.why:
            yield painted(printable(f"{row.status}: {row.path.name}: {row.why}"), "warning")
    for note in thinning.notes:
        yield printable(f"note: {note}")
    yield painted(verdict(thinning), "verdict")


def verdict(thinning: Thinning) -> str:
    """Return one line on the run."""
    counted = thinning.counts
    done = counted["would be thinned"] if thinning.dry_run else counted["thinned"]
    of = count_text(len(thinning.rows), "checkpoint")
    word = "would be thinned" if thinning.dry_run else "thinned"
    parts = [f"{done} of {of} {word}" if done else f"nothing to take out of {of}"]
    parts += [f"{counted['refused']} refused"] * bool(counted["refused"])
    size = f"{bytes_text(thinning.bytes_before)} before"
    if done:
        about = "about " if thinning.dry_run else ""
        size += f", {about}{bytes_text(thinning.bytes_after)} after"
    kept = [row.path.name for row in thinning.rows if row.status == "kept"]
    newest = f"; newest {thinning.order}: {kept[-1]}" if kept else ""
    return printable(f"{thinning.path}: {', '.join(parts)}; {size}{newest}")


def _table(thinning: Thinning, fmt: str) -> Iterator[str]:
    rows = [
        (
            printable(row.path.name),
            row.status,
            f"{row.slots:,}",
            f"{row.bytes_before:,}",
            f"{row.bytes_after:,}",
        )
        for row in thinning.rows
    ]
    headers = ("CHECKPOINT", "", "SLOTS", "BYTES BEFORE", "AFTER")
    yield from render(rows, headers, fmt, align=("left", "left", "right", "right", "right"))
