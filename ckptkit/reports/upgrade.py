"""What `upgrade` did, in every form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.documents import in_form
from ckptkit.reports.fitting import Fit
from ckptkit.reports.plan import pair_lines
from ckptkit.reports.screen import PAPER, folded, screen, shown_on
from ckptkit.reports.table import render
from ckptkit.reports.text import bytes_text, count_text, display_width, printable
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.operations.upgrade.report import UpgradeReceipt, UpgradeReport

_FIT = Fit(names=("MODEL",))


def report_lines(
    report: UpgradeReport, fmt: str = "table", *, verbose: bool = False
) -> Iterator[str]:
    """Yield what was done: the receipt of one model, a row for each of several.

    Args:
        report: of `upgrade`.
        fmt: "table" (for people), "json" (schema ckptkit.upgrade/1), "jsonl", "csv", "markdown",
            "html" or "table:NAME" (a row per model).
        verbose: every change and every weight of each model.
    """
    if fmt == "csv":
        yield from _table(report, fmt)
        return
    if fmt != "table":
        yield from in_form(
            fmt,
            "ckptkit upgrade",
            [report],
            lambda form: _table(report, form),
            lambda: report_remarks(report),
        )
        return
    receipt = report.rows[0].receipt
    if len(report.rows) == 1 and receipt is not None:
        yield from receipt_lines(receipt, verbose=verbose)
        return
    if verbose:
        for row in report.rows:
            if row.receipt is not None:
                yield from receipt_lines(row.receipt, verbose=True)
                yield ""
    yield from _fitting_table(report)
    yield ""
    yield report.verdict


def report_remarks(report: UpgradeReport) -> list[str]:
    """Return what the report for people says beside the table."""
    return [printable(report.verdict)]


def _fitting_table(report: UpgradeReport) -> Iterator[str]:
    """Yield the table; reasons that a screen has no room for stand below it, a line each."""
    with shown_on(PAPER):
        whole = list(_table(report, "table"))
    width = screen().width
    if width is None or max(map(display_width, whole)) <= width:
        yield from whole
        return
    rows = _rows(report)
    yield from render([row[:2] for row in rows], ("MODEL", ""), "table", fit=_FIT)
    yield from folded(printable(f"{model}: {said}") for model, _, said in rows if said)


def _rows(report: UpgradeReport) -> list[tuple[str, str, str]]:
    """Return model, status and what is to be said of it."""
    rows = []
    for row in report.rows:
        said = row.error
        if row.receipt is not None:
            said = "; ".join(row.receipt.failures) or f"outputs {row.receipt.outputs}"
        rows.append((str(row.source), row.status, printable(said)))
    return rows


def _table(report: UpgradeReport, fmt: str) -> Iterator[str]:
    headers = ("model", "status", "what") if fmt == "csv" else ("MODEL", "", "WHAT")
    yield from render(_rows(report), headers, fmt)


def receipt_lines(receipt: UpgradeReceipt, *, verbose: bool = False) -> Iterator[str]:
    """Yield a line per change of the configuration, and what was proven.

    Args:
        receipt: of one model.
        verbose: each place of a change, and where each weight came from.
    """
    grouped: dict[str, list[str]] = {}
    for change in receipt.changes:
        grouped.setdefault(change.what, []).append(change.where or "the model")
    for what, places in grouped.items():
        named = ", ".join(places) if verbose else list_text(places, 4)
        yield printable(f"changed: {named}: {what}")
    if verbose:
        yield from pair_lines(receipt.plan)
    for why, count in receipt.left_behind.items():
        yield printable(f"left behind: {count_text(count, 'tensor')} ({why})")
    for note in (*receipt.plan.notes, *receipt.notes):
        yield printable(f"note: {note}")
    counts = {name: n for name, n in receipt.plan.bases.items() if name != "source"}
    if counts:
        yield "paired by " + ", ".join(f"{name} {n:,}" for name, n in counts.items())
    if not receipt.ok:
        for failure in receipt.failures:
            yield printable(f"failed: {failure}")
        yield printable(f"{receipt.path}: not what it was; nothing else was written")
        return
    if receipt.scaled:
        yield f"multiplied on the way: {count_text(receipt.scaled, 'tensor')}"
    yield printable(f"outputs: {receipt.outputs}")
    tensors = receipt.plan.tensors
    yield printable(
        f"{receipt.path}: {count_text(len(tensors), 'tensor')}, {bytes_text(receipt.plan.nbytes)} "
        f"written and read again, every bit as it should be; {_loaded(receipt)}"
    )


def _loaded(receipt: UpgradeReceipt) -> str:
    keras = f"Keras {receipt.versions.get('keras', '3')}"
    if receipt.is_loaded:
        return f"loads in {keras}" + (", not in safe mode" if receipt.holds_code else "")
    return f"not loaded again by {keras}"
