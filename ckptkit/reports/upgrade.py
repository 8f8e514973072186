"""What `upgrade` did, in every form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.check.html import outputs_table
from ckptkit.reports.documents import in_form
from ckptkit.reports.fitting import Fit
from ckptkit.reports.page.frame import Page
from ckptkit.reports.page.sections import column, facts, listed, reported, table
from ckptkit.reports.plan import pair_lines, pair_sections
from ckptkit.reports.screen import PAPER, folded, screen, shown_on
from ckptkit.reports.table import render
from ckptkit.reports.text import bytes_text, count_text, display_width, printable
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.operations.upgrade.report import UpgradeReceipt, UpgradeReport
    from ckptkit.operations.upgrade.translation.account import Change

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
            [report],
            lambda form: _table(report, form),
            lambda: report_remarks(report),
            page=lambda: page(report),
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


def page(report: UpgradeReport) -> Page:
    """Return what the page shows: of one model all that was done to it, of several a row each."""
    only = report.rows[0].receipt if len(report.rows) == 1 else None
    if only is not None:
        return _receipt_page(only)
    rows = report.rows
    changes = [
        None if row.receipt is None else "\n".join(map(_change_text, row.receipt.changes)) or None
        for row in rows
    ]
    columns = [
        column("state", "state", [row.status for row in rows], "status", facet="chips"),
        column("name", "model", [str(row.source) for row in rows], "name"),
        column("said", "what", [said or None for _model, _state, said in _rows(report)], wide=60),
        column("path", "to", [str(row.path) for row in rows], "mono", hidden=True),
        column("changes", "changes of its configuration", changes, hidden=True, searched=True),
    ]
    sections = [table("models", "Models", columns, "model", main=True)]
    about = str(rows[0].source) if len(rows) == 1 else ""
    told = [
        f"{row.status}: {said}" if said.startswith(model) else f"{row.status}: {model}: {said}"
        for row, (model, _state, said) in zip(rows, _rows(report), strict=True)
        if not row.ok
    ]
    return reported("upgrade", about, [*told, report.verdict], report.exit_code, sections)


def _receipt_page(receipt: UpgradeReceipt) -> Page:
    """Return the page on one model."""
    plan = receipt.plan
    columns = [
        column("name", "change", [change.what for change in receipt.changes], "name"),
        column("where", "layer", [x.where or "the model" for x in receipt.changes], "mono"),
    ]
    size = f"{count_text(len(plan.tensors), 'tensor')}, {bytes_text(plan.nbytes)}"
    proven = [
        ("weights", f"{size}, read again and compared bit for bit"),
        ("outputs", str(receipt.outputs)),
        ("loaded", _loaded(receipt)),
        *((f"version of {name}", version) for name, version in receipt.versions.items()),
    ]
    sections = [
        listed("failures", "What the proof found", receipt.failures),
        table("changes", "What changed in the configuration", columns, "change", headed=True),
        facts("proof", "Proof", proven),
        *([outputs_table(receipt.outputs.rows)] if receipt.outputs.rows else []),
        *pair_sections(plan),
    ]
    *_told, verdict = receipt_lines(receipt)
    remarks = [*(f"note: {note}" for note in (*plan.notes, *receipt.notes)), verdict]
    files = [
        {"side": "from", "path": str(receipt.source), "about": receipt.writer},
        {"side": "to", "path": str(receipt.path), "about": _loaded(receipt)},
    ]
    code = 0 if receipt.ok else 1
    return reported("upgrade", str(receipt.path), remarks, code, sections, files)


def _change_text(change: Change) -> str:
    return f"{change.where or 'the model'}: {change.what}"


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
