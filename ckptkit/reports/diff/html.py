"""A comparison as one self-contained HTML page: strip of layers, histograms, sortable table.

The page is three files beside this one: `page.html` (markup, with a mark for each part to fill),
`page.css` and `page.js`.  Nothing is fetched: a content security policy forbids every request.
Colours are variables, given twice: for light and for dark, which follows the system until a person
chooses.  Everything that comes from a checkpoint is JSON in the page, which the script puts there
as text (`textContent`), never as markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.diff.histograms import histograms
from ckptkit.operations.diff.result import DiffResult, TensorDiff
from ckptkit.reports.diff import text as diff_text
from ckptkit.reports.text import printable


def lines(result: DiffResult) -> Iterator[str]:
    """Yield the page; tensors with the largest change are read once more for their histograms."""
    title = f"{result.old.path.name} → {result.new.path.name} · ckptkit diff"
    page = _packaged("page.html")
    for mark, text in (
        ("@TITLE@", escape(printable(title))),
        ("@STYLE@", _packaged("page.css")),
        ("@SCRIPT@", _packaged("page.js")),
        ("@DATA@", _embedded(_data(result))),  # last: names in it are not looked at for marks
    ):
        before, _, after = page.partition(mark)
        page = before + text + after
    yield from page.splitlines()


def _packaged(name: str) -> str:
    """Return the text of a file that lies beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """Return JSON that no HTML parser can take for the end of its script element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(result: DiffResult) -> dict[str, Any]:
    from ckptkit._version import __version__

    return {
        "old": _file(result.old),
        "new": _file(result.new),
        "same": result.same,
        "verdict": diff_text.verdict(result),
        "totals": diff_text.totals(result),
        "beside": diff_text.beside_lines(result),
        "warnings": [printable(warning) for warning in result.warnings],
        "footer": f"made by ckptkit {__version__}; mode {result.mode}, options "
        + json.dumps(dict(result.options)),
        "rows": [_row(change) for change in result.changes],
        "histograms": [histogram._asdict() for histogram in histograms(result)],
    }


def _file(checkpoint: Checkpoint) -> dict[str, str]:
    store = checkpoint.store
    about = [store.format, store.style, f"written by {store.producer}" if store.producer else ""]
    subtree = f"#{checkpoint.subtree}" if checkpoint.subtree else ""
    return {
        "path": printable(f"{store.path}{subtree}"),
        "about": printable(" · ".join([*filter(None, about), *checkpoint.notes])),
    }


def _row(change: TensorDiff) -> dict[str, Any]:
    from ckptkit.operations.diff.result import entry

    row = entry(change)
    worst = change.delta.worst if change.delta is not None else None
    return {
        "status": change.status,
        "is_difference": change.is_difference,
        "name": printable(change.name),
        "new_name": printable(change.new.naming.name if change.new else ""),
        "role": change.role,
        "layer": printable(diff_text.layer_of(change)),
        "dtype": diff_text.dtype_text(change),
        "shape": diff_text.shape_of(change),
        "params": change.some.spec.size,
        "evidence": row["evidence"],
        "method": row["method"],
        "cast": change.cast,
        "hints": [printable(hint) for hint in change.hints],
        "old_key": printable(change.old.spec.key) if change.old else "",
        "new_key": printable(change.new.spec.key) if change.new else "",
        "worst": diff_text.worst_text(worst) if worst else "",
        "values": row["values"],
    }
