"""A comparison as text: grouped rows, totals, and one verdict line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.operations.diff.result import (
    DIFFERENT,
    DiffResult,
    TensorDiff,
    of_statuses,
    totals_of,
)
from ckptkit.reports.diff.rows import (
    ALIGN,
    FIT,
    HEADERS,
    MARKS,
    WITHOUT_VALUES,
    bar,
    has_numbers,
    new_name,
    number,
    table_rows,
)
from ckptkit.reports.fitting import Fit
from ckptkit.reports.screen import folded, painted, screen, toned
from ckptkit.reports.table import csv_rows, is_bare, parts, render
from ckptkit.reports.text import bytes_text, count_text, line_text, printable, shape_text
from ckptkit.stores.packed_texts import PackedTexts

_STYLES = {"-": "removed", "+": "added", "~": "changed", "R": "renamed", "≈": "equal", "=": "equal"}
_CSV_HEADERS = (
    *("status", "name", "role", "new_name", "evidence", "dtype", "shape", "new_dtype", "new_shape"),
    *("n", "n_diff", "n_outside", "nonfinite", "max_abs", "max_rel", "mean_abs", "rmse", "max_ulp"),
    *("rel_l2", "cosine", "needed_rtol", "worst_index", "worst_old", "worst_new"),
    *("rtol", "atol", "rule", "cast", "hints"),
)
_BETWEEN = "\0"  # notes on one row; none has it, since they are printable


def lines(
    result: DiffResult,
    fmt: str = "table",
    *,
    only: Sequence[str] = (),
    full: bool = False,
    stat: bool = False,
    labels: Sequence[str] = (),
) -> Iterator[str]:
    """Yield a comparison.

    fmt: "table" (for people), "markdown", "csv", "json" (schema ckptkit.diff/1), "jsonl" (all
    entries) or "table:NAME" (a table alone).
    only: statuses to show.  full: one row per tensor, equal ones too.  stat: one row per layer.
    labels: what to call OLD and NEW, in that order.
    """
    if fmt in ("json", "jsonl"):
        from ckptkit.reports import documents

        one = documents.json_lines(result.streamed(), result.ROWS)
        yield from one if fmt == "json" else documents.jsonl_lines([result])
        return
    changes = result.changes if full else result.differences
    shown = of_statuses(changes, only) if only else changes
    if fmt == "csv":
        yield from csv_rows(map(csv_row, shown), _CSV_HEADERS)
        return
    if is_bare(fmt):
        yield from _stat(result, fmt) if stat else _table(shown, result, fmt)
        return
    text = _text(result, fmt, shown, labels, only=only, full=full, stat=stat)
    yield from text if fmt == "markdown" else folded(text)


def _text(
    result: DiffResult,
    fmt: str,
    shown: Sequence[TensorDiff],
    labels: Sequence[str],
    *,
    only: Sequence[str],
    full: bool,
    stat: bool,
) -> Iterator[str]:
    bullet = "- " if fmt == "markdown" else ""
    yield from _head(result, fmt, labels)
    if stat:
        layers = list(_stat(result, fmt))
        yield from (*layers, "") if layers else ()
    elif shown:
        yield from _table(shown, result, fmt, together=not (full or fmt == "markdown"))
        yield ""
    for warning in result.warnings:
        yield toned(line_text(f"warning: {warning}", fmt))
    hidden = sum(result.counts[status] for status in DIFFERENT.difference(only)) if only else 0
    text = verdict(result) + (f"; {hidden:,} not shown (--only)" if hidden else "")
    yield painted(line_text(text, fmt), "good verdict" if result.same else "bad verdict")
    for line in beside_lines(result):
        yield painted(f"{bullet}{line_text(line, fmt)}", "warning")


def remarks(result: DiffResult) -> Iterator[str]:
    """Yield what stands around the table: the files, warnings, the verdict, what else differs."""
    yield from _head(result, "table", ())
    yield from (f"warning: {warning}" for warning in result.warnings)
    yield verdict(result)
    yield from beside_lines(result)


def verdict(result: DiffResult) -> str:
    """Return the one line that says it all, with everything that was left out."""
    counts = result.counts
    how = {
        "values": "by value",
        "quick": "by stored checksum, bytes not read",
        "structure": "in structure, values not compared",
    }[result.mode]
    equal = f"{counts['equal']:,} equal {how}"
    if counts["within"]:
        equal += f", {counts['within']:,} within tolerance"
    text = f"{'same weights' if result.beside or result.config else 'same'}: {equal}"
    if not result.changes:  # a model without weights, of which the rest is compared
        text = "no weights"
    if result.config and result.beside:
        text = f"different: {', '.join(row.what for row in result.beside)}; {text}"
    elif result.config and not result.changes:
        text = f"same {', '.join(result.compared)}; {text}"
    elif result.config:
        text = f"same {', '.join(result.compared)} and weights: {equal}"
    if not result.same_weights:
        parts = [f"{counts[s]:,} {s}" for s in ("changed", "removed", "added", "renamed")]
        if result.config:
            parts = [*(row.what for row in result.beside), *parts]
        text = f"different: {', '.join(parts)}; {equal}"
        alike = [x for x in result.compared if x not in [row.what for row in result.beside]]
        if result.config and alike:
            text += f"; same {', '.join(alike)}"
    if result.left_out:
        text += f"; left out: {', '.join(map(str, result.left_out))}"
    return printable(text)


def beside_lines(result: DiffResult) -> list[str]:
    """Return what stands below the verdict: the kind of change, what differs beside the weights.

    A line per thing; where that was asked for, a line per difference.
    """
    kind = [f"kind of change: {result.kind}"] if result.kind else []
    if not result.config:
        return [*kind, *(printable(str(difference)) for difference in result.beside)]
    items = (f"{row.heading}: {item}" for row in result.beside for item in row.items)
    return [*kind, *map(printable, items)]


def _head(result: DiffResult, fmt: str, labels: Sequence[str]) -> Iterator[str]:
    bullet = "- " if fmt == "markdown" else ""
    for at, (mark, side) in enumerate((("---", result.old), ("+++", result.new))):
        label = labels[at] if at < len(labels) else _path_text(side)
        yield f"{bullet}{mark} {line_text(label + _form_text(side), fmt)}"
        for note in side.notes:
            yield f"{bullet}    note: {line_text(note, fmt)}"
    yield f"{bullet}{totals(result)}"
    yield ""


def _path_text(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.path}" + (f"#{checkpoint.subtree}" if checkpoint.subtree else "")


def _form_text(checkpoint: Checkpoint) -> str:
    store = checkpoint.store
    return f"  ({store.format}, {store.style})" if store.style else f"  ({store.format})"


def totals(result: DiffResult) -> str:
    """Return tensors, elements and bytes on either side."""
    old, new = totals_of(result.changes)
    size = old.nbytes, new.nbytes
    text = f"{_step(old.tensors, new.tensors, 'tensor')}, "
    text += f"{_step(old.elements, new.elements, 'element')}, "
    if size[0] == size[1]:
        return text + bytes_text(size[0])
    part = f" ({(size[1] - size[0]) / size[0]:+.1%})" if size[0] else ""
    return text + f"{bytes_text(size[0])} → {bytes_text(size[1])}{part}"


def _step(old: int, new: int, noun: str) -> str:
    return (f"{old:,} → " if old != new else "") + count_text(new, noun)


# -- rows ------------------------------------------------------------------------------------------


def _table(
    shown: Sequence[TensorDiff], result: DiffResult, fmt: str, *, together: bool = False
) -> Iterator[str]:
    """Yield the table of changes.  together: those that are alike have one row."""
    count, each = table_rows(shown, together=together)
    has_values = result.mode == "values" and any(map(has_numbers, shown))
    used = slice(None if has_values else WITHOUT_VALUES)
    headers, align = HEADERS[used], ALIGN[used]
    if fmt != "table":
        yield from render([row.cells[used] for row in each], headers, fmt, align)
        return
    marks: list[str] = []
    notes = PackedTexts()

    def cells() -> Iterator[Sequence[str]]:
        for row in each:
            marks.append(row.cells[0])
            notes.append(_BETWEEN.join(map(printable, row.notes)))
            yield row.cells[used]

    table = parts(cells(), count, headers, align, FIT)
    yield from table.above
    yield next(table.body)
    for line, mark, text in zip(table.body, marks, notes, strict=True):
        yield painted(line, _STYLES[mark])
        for note in text.split(_BETWEEN) if text else ():
            yield painted(f"     {note}", "note")
    for line in table.below:
        yield painted(line, "note")


# -- one row per layer -----------------------------------------------------------------------------


@dataclass
class _LayerRow:
    """What became of the tensors of a layer."""

    tensors: int = 0
    different: int = 0
    marks: set[str] = field(default_factory=set)
    largest: float | None = None

    def take(self, change: TensorDiff) -> None:
        """Count a tensor."""
        self.tensors += 1
        if change.is_difference:
            self.different += 1
            self.marks.add(MARKS[change.status])
            if change.delta is not None:
                size = change.delta.rel_l2
                self.largest = size if self.largest is None else max(self.largest, size)


def _stat(result: DiffResult, fmt: str) -> Iterator[str]:
    layers: dict[str, _LayerRow] = {}
    for change in result.changes:
        layers.setdefault(layer_of(change), _LayerRow()).take(change)
    rows = []
    for name, layer in layers.items():
        if not layer.different:
            continue
        size = "" if layer.largest is None else number(layer.largest)
        tail = [bar(layer.largest or 0.0)] if screen().color else []
        marks = "".join(sorted(layer.marks))
        rows.append([name, f"{layer.different}/{layer.tensors}", marks, size, *tail])
    if rows or is_bare(fmt):
        headers = ["LAYER", "TENSORS", "", "CHANGE", *([""] if screen().color else [])]
        align = ["left", "right", "left", "right", "left"][: len(headers)]
        for line in render(rows, headers, fmt, align, Fit(names=("LAYER",))):
            yield line.rstrip()


def layer_of(change: TensorDiff) -> str:
    """Return the name of the layer: that of the variable, without its last part."""
    name = change.some.naming.slot_of or change.name
    return name.rpartition("/")[0] or name


# -- csv -------------------------------------------------------------------------------------------


def csv_row(change: TensorDiff) -> tuple[Any, ...]:
    """Return every field of a change, in the order of the CSV's header."""
    d = change.delta
    worst = d.worst if d is not None else None
    numbers: tuple[Any, ...] = ("",) * 12
    if d is not None:
        numbers = (
            *(d.n, d.n_diff, d.n_outside, d.nonfinite, d.max_abs, _or_empty(d.defined_max_rel)),
            *(
                d.mean_abs,
                d.rmse,
                _or_empty(d.max_ulp),
                d.rel_l2,
                _or_empty(d.cosine),
                _or_empty(d.needed_rtol),
            ),
        )
    return (
        *(change.status, change.name, change.role, new_name(change), change.evidence),
        *_types(change.old),
        *_types(change.new),
        *numbers,
        *((",".join(map(str, worst.index)), worst.old, worst.new) if worst else ("", "", "")),
        *((d.rtol, d.atol, d.rule) if d is not None else ("", "", "")),
        change.cast or "",
        "; ".join(change.hints),
    )


def _types(tensor: Tensor | None) -> tuple[str, str]:
    return (tensor.spec.dtype, shape_text(tensor.spec.shape)) if tensor else ("", "")


def _or_empty(value: Any) -> Any:
    return "" if value is None else value
