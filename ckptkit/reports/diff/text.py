"""A comparison as text: grouped rows, totals, and one verdict line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.compare.tensors import Delta, Worst
from ckptkit.operations.diff.result import DiffResult, TensorDiff, totals_of
from ckptkit.reports.fitting import Fit
from ckptkit.reports.screen import folded, painted, screen, toned
from ckptkit.reports.table import is_bare, laid_out, padded, render
from ckptkit.reports.tensor_rows import pattern
from ckptkit.reports.text import bytes_text, count_text, line_text, printable, shape_text
from ckptkit.text import lazy_pattern

MARKS = {"removed": "-", "added": "+", "changed": "~", "renamed": "R", "within": "≈", "equal": "="}
_STYLES = {"-": "removed", "+": "added", "~": "changed", "R": "renamed", "≈": "equal", "=": "equal"}
_HEADERS = ("", "NAME", "DTYPE", "SHAPE", "DIFFER", "MAX ABS", "MAX REL", "CHANGE", "WORST")
_ALIGN = ("left", "left", "left", "left", "right", "right", "right", "right", "left")
_FIT = Fit(names=("NAME",), drops=("WORST", "MAX REL", "DTYPE", "DIFFER", "SHAPE", "MAX ABS"))
_CSV_HEADERS = (
    *("status", "name", "role", "new_name", "evidence", "dtype", "shape", "new_dtype", "new_shape"),
    *("n", "n_diff", "n_outside", "nonfinite", "max_abs", "max_rel", "mean_abs", "rmse", "max_ulp"),
    *("rel_l2", "cosine", "needed_rtol", "worst_index", "worst_old", "worst_new"),
    *("rtol", "atol", "rule", "cast", "hints"),
)
_NUMBER = lazy_pattern(r"\d+")
_BAR = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 6
_BAR_DECADES = 8  # a full bar is a relative change of 1, an empty one of 1e-8 or less


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
    shown = [change for change in changes if change.status in (only or MARKS)]
    if fmt == "csv":
        yield from render([csv_row(c) for c in shown], _CSV_HEADERS, "csv")
        return
    if is_bare(fmt):
        yield from _stat(result, fmt) if stat else _table([[c] for c in shown], result, fmt)
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
        groups = [[c] for c in shown] if full or fmt == "markdown" else grouped(shown)
        yield from _table(groups, result, fmt)
        yield ""
    for warning in result.warnings:
        yield toned(line_text(f"warning: {warning}", fmt))
    hidden = len(result.differences) - sum(c.is_difference for c in shown)
    text = verdict(result) + (f"; {hidden:,} not shown (--only)" if only and hidden else "")
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
    for number, (mark, side) in enumerate((("---", result.old), ("+++", result.new))):
        label = labels[number] if number < len(labels) else _path_text(side)
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


def grouped(changes: Iterable[TensorDiff]) -> list[list[TensorDiff]]:
    """Return changes that are alike together: names that differ in numbers, slots of one kind."""
    groups: dict[tuple[object, ...], list[TensorDiff]] = {}
    for change in changes:
        template = _NUMBER.sub("#", change.name)
        other = _NUMBER.sub("#", change.new.naming.name) if change.new else ""
        alike = change.status, dtype_text(change), shape_of(change), change.cast, change.role
        # what is worth a sentence of its own keeps a row of its own
        alone = change.name if change.hints else ""
        if change.role == "slot" and change.same_type and change.some.naming.slot and not alone:
            template = other = f"*@{change.some.naming.slot}"  # all variables of an optimizer
            alike = change.status, dtype_text(change), "", None, change.role
        groups.setdefault((template, other, alone, *alike), []).append(change)
    return list(groups.values())


def _table(groups: Sequence[Sequence[TensorDiff]], result: DiffResult, fmt: str) -> Iterator[str]:
    rows, headers, align = _columns(groups, result)
    if fmt != "table":
        yield from render(rows, headers, fmt, align)
        return
    table = laid_out(rows, headers, align, _FIT)
    yield from table.above
    body = padded(table)
    yield next(body)
    for line, group in zip(body, groups, strict=True):
        yield painted(line, _STYLES[MARKS[group[0].status]])
        for hint in _notes(group):
            yield painted(f"     {printable(hint)}", "note")
    for line in table.below:
        yield painted(line, "note")


def _columns(
    groups: Sequence[Sequence[TensorDiff]], result: DiffResult
) -> tuple[list[list[str]], list[str], list[str]]:
    """Return the cells of every row, the headings and the sides, of the columns that tell any."""
    rows = [_row(group) for group in groups]
    valueless = result.mode != "values" or not any(row[4] or row[8] for row in rows)
    keep = [0, 1, 2, 3] if valueless else range(len(_HEADERS))
    cells = [[row[i] for i in keep] for row in rows]
    return cells, [_HEADERS[i] for i in keep], [_ALIGN[i] for i in keep]


def _notes(group: Sequence[TensorDiff]) -> Iterator[str]:
    """Yield what stands below a row."""
    yield from group[0].hints
    deltas = [c.delta for c in group if c.delta is not None]
    bad = sum(d.nonfinite for d in deltas)
    if bad:
        yield f"{bad:,} NaN or infinite on one side only"
    rules = {d.rule for d in deltas} - {"default"}
    if rules:
        used = f"rtol {deltas[0].rtol:g}, atol {deltas[0].atol:g}"
        yield f"tolerance of {', '.join(sorted(rules))}: {used}"
    needed = max((d.needed_rtol or 0 for d in deltas if not d.ok), default=0)
    if deltas and (deltas[0].rtol or deltas[0].atol) and needed:
        yield f"would pass with --rtol {_up(needed)}" if needed < math.inf else "no rtol would pass"


def _up(rtol: float) -> str:
    """Return an rtol in few digits, rounded up."""
    text = f"{rtol:.3g}"
    return text if float(text) >= rtol else f"{rtol * 1.01:.3g}"


def _group_name(group: Sequence[TensorDiff]) -> str:
    """Return what a row calls its changes: `dense{1-2}/kernel ×2`, `*@momentum ×9`.

    Where the two files call a tensor differently: `old → new`.
    """
    first, many = group[0], f" ×{len(group)}" if len(group) > 1 else ""
    names = [c.name for c in group]
    if len({_NUMBER.sub("#", name) for name in names}) > 1:
        return f"*@{first.some.naming.slot}{many}"
    name = pattern(names)
    if first.old and first.new and names != (others := [_new_name(c) for c in group]):
        name += f" → {pattern(others)}"
    role = "" if first.role == "weight" or "@" in name else f" ({first.role})"
    return name + many + role


def _new_name(change: TensorDiff) -> str:
    return change.new.naming.name if change.new else ""


def _row(group: Sequence[TensorDiff]) -> tuple[str, ...]:
    first = group[0]
    shapes = {shape_of(change) for change in group}
    shape = shapes.pop() if len(shapes) == 1 else "(several)"
    head = (MARKS[first.status], _group_name(group), dtype_text(first), shape)
    deltas = [c.delta for c in group if c.delta is not None]
    if not deltas or first.status == "renamed":
        return (*head, "", "", "", "", "")
    worst = max(
        (c for c in group if c.delta is not None and c.delta.worst), key=_excess, default=None
    )
    change = max(d.rel_l2 for d in deltas)
    numeric = deltas[0].cosine is not None or deltas[0].max_abs or deltas[0].rel_l2
    return (
        *head,
        f"{sum(d.n_diff for d in deltas):,}/{sum(d.n for d in deltas):,}",
        number(max(d.max_abs for d in deltas)) if numeric else "",
        _max_rel_text(deltas) if numeric else "",
        (number(change) + (f" {bar(change)}" if screen().color else "")) if numeric else "",
        _worst_of(worst, len(group)) if worst is not None else "",
    )


def _max_rel_text(deltas: Sequence[Delta]) -> str:
    """Return the largest relative change; "-" where nothing that differs has one."""
    defined = [d.max_rel for d in deltas if d.defined_max_rel is not None]
    largest = max(defined, default=0.0)
    return "-" if not largest and any(d.n_diff for d in deltas) else number(largest)


def _excess(change: TensorDiff) -> float:
    return change.delta.rel_l2 if change.delta is not None else 0.0


def _worst_of(change: TensorDiff, many: int) -> str:
    assert change.delta is not None and change.delta.worst is not None
    return (change.name if many > 1 else "") + worst_text(change.delta.worst)


def dtype_text(change: TensorDiff) -> str:
    """Return "float32", or "float32→bfloat16 (lossy)"."""
    if change.old is None or change.new is None:
        return change.some.spec.dtype
    old, new = change.old.spec.dtype, change.new.spec.dtype
    return old if old == new else f"{old}→{new}" + (f" ({change.cast})" if change.cast else "")


def shape_of(change: TensorDiff) -> str:
    """Return the shape, with changed axes marked."""
    if change.old is None or change.new is None:
        return shape_text(change.some.spec.shape)
    return shape_change(change.old.spec.shape, change.new.spec.shape)


def shape_change(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    """Return a shape, or two with the axes marked that changed: `3,3,[64→128],64`."""
    if old == new:
        return shape_text(old)
    if len(old) != len(new):
        return f"[{shape_text(old)} → {shape_text(new)}]"
    return ",".join(str(a) if a == b else f"[{a}→{b}]" for a, b in zip(old, new, strict=True))


def number(value: float) -> str:
    """Return a number in three digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def worst_text(worst: Worst) -> str:
    """Return `[3,1] 0.1 → 0.1003`, with as many digits as it takes to tell the two apart."""
    index = ",".join(map(str, worst.index))
    old, new = _distinct_texts(worst.old, worst.new)
    return printable(f"[{index}] {old} → {new}")


def _distinct_texts(old: Any, new: Any) -> tuple[str, str]:
    if isinstance(old, float) and isinstance(new, float):
        for digits in range(4, 18):
            left, right = f"{old:.{digits}g}", f"{new:.{digits}g}"
            if left != right:
                return left, right
    if isinstance(old, bytes) and isinstance(new, bytes):
        return _short(old), _short(new)
    return str(old), str(new)


def _short(value: bytes) -> str:
    text = repr(value[:24])[1:]
    return text + (f"… ({len(value)} bytes)" if len(value) > 24 else "")


def bar(change: float) -> str:
    """Return a bar of the relative change on a logarithmic scale."""
    if not change > 0:
        return " " * _BAR_WIDTH
    share = min(1.0, max(0.0, 1 + math.log10(min(change, 1.0)) / _BAR_DECADES))
    eighths = max(1, round(share * _BAR_WIDTH * 8))
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_BAR[part] if part else "")).ljust(_BAR_WIDTH)


# -- one row per layer -----------------------------------------------------------------------------


def _stat(result: DiffResult, fmt: str) -> Iterator[str]:
    layers: dict[str, list[TensorDiff]] = {}
    for change in result.changes:
        layers.setdefault(layer_of(change), []).append(change)
    rows = []
    for layer, changes in layers.items():
        different = [c for c in changes if c.is_difference]
        if not different:
            continue
        measured = [c.delta.rel_l2 for c in different if c.delta is not None]
        largest = max(measured, default=0.0)
        marks = "".join(sorted({MARKS[c.status] for c in different}))
        tail = [bar(largest)] if screen().color else []
        size = number(largest) if measured else ""
        rows.append([layer, f"{len(different)}/{len(changes)}", marks, size, *tail])
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
        *(change.status, change.name, change.role, _new_name(change), change.evidence),
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
