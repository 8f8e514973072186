"""The history of a run as a table with sparklines, JSON, CSV or Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ckptkit.operations.history.result import MEASURES, History, LayerHistory
from ckptkit.operations.history.types import HistoryFinding, TensorHistory
from ckptkit.reports.annotations import LEVELS, MOST, annotation, file_in_repository
from ckptkit.reports.documents import json_lines
from ckptkit.reports.fitting import Fit
from ckptkit.reports.junit import JUnitCase, JUnitSuite, document
from ckptkit.reports.screen import folded, painted, screen, toned
from ckptkit.reports.table import is_bare, render
from ckptkit.reports.text import count_text, line_text, printable
from ckptkit.text import json_number

_BARS = "▁▂▃▄▅▆▇█"
_GAP, _NOT_FINITE = " ", "×"
SPARKS = 24  # letters of a sparkline, at most
_FEWEST, _OTHERS = 8, 52  # letters of one on a narrow screen; columns that all else takes
HEADERS = ("LAYER", "PARAMS", "NORM", "LAST", "OVER STEPS", "UPDATE/NORM", "LAST", "ZEROS", "NAN")
_ALIGN = ("left", "right", "right", "right", "left", "left", "right", "right", "right")
_FIT = Fit(names=("LAYER", "NAME"), drops=("PARAMS", "ZEROS", "ROLE"))
_KEYS = ("step", "path", "name", "layer", "role", "slot_of", "dtype", "shape")
_MOST_FINDINGS = 40  # notes beyond this many lines are counted


def lines(result: History, fmt: str = "table", *, full: bool = False) -> Iterator[str]:
    """Yield the history.

    fmt: "table" (for people), "markdown", "json" (schema ckptkit.history/1), "jsonl" and "csv" (a
    row per tensor and step), "junit" (a test case per step), "github" (annotations) or
    "table:NAME".
    full: a row per tensor, not per layer.
    """
    if fmt == "json":
        yield from json_lines(result.streamed(), result.ROWS)
    elif fmt == "jsonl":
        for record in result.records():
            row = {name: json_number(value) for name, value in record.items()}
            yield json.dumps(row, allow_nan=False)
    elif fmt == "csv":
        columns = (*_KEYS, *MEASURES)
        cells = [[_csv_cell(record[c]) for c in columns] for record in result.records()]
        yield from render(cells, columns, "csv")
    elif fmt == "junit":
        yield from _junit(result)
    elif fmt == "github":
        yield from _annotations(result)
    else:
        yield from _table(result, fmt, full)


def _table(result: History, fmt: str, full: bool) -> Iterator[str]:
    if result.tensors:
        rows = _tensor_rows(result) if full else layer_rows(result)
        headers = ("NAME", "ROLE", *HEADERS[1:]) if full else HEADERS
        align = ("left", *_ALIGN) if full else _ALIGN
        yield from render(rows, headers, fmt, align, _FIT)
    if not is_bare(fmt):
        if result.tensors:
            yield ""
        yield from remarks(result, fmt)


def _junit(result: History) -> Iterator[str]:
    """Yield a suite with a test case per step; what counts is a failure of its step."""
    failures: dict[int | None, list[tuple[str, str]]] = {}
    for finding in result.findings:
        if finding.severity != "note":
            failures.setdefault(finding.step, []).append((finding.code, finding.message))
    cases = [
        JUnitCase("history", f"step {step.number}: {step.path.name}", failures.get(step.number, ()))
        for step in result.steps
    ]
    yield from document(JUnitSuite(verdict(result), cases))


def _annotations(result: History) -> Iterator[str]:
    """Yield the verdict and the findings, as many as a workflow shows."""
    yield annotation("notice" if result.ok else "error", "ckptkit history", verdict(result))
    left = dict.fromkeys(LEVELS.values(), MOST - 1)
    for finding in result.findings:
        level = LEVELS[finding.severity]
        if left[level]:
            left[level] -= 1
            yield annotation(level, finding.code, finding.message, file_in_repository(finding.path))


def remarks(result: History, fmt: str = "table") -> Iterator[str]:
    """Yield findings and the verdict."""
    bullet = "- " if fmt == "markdown" else ""
    for finding in result.findings[:_MOST_FINDINGS]:
        yield from folded([toned(f"{bullet}{line_text(finding_text(finding), fmt)}")])
    more = len(result.findings) - _MOST_FINDINGS
    if more > 0:
        yield f"{bullet}and {count_text(more, 'more finding or note', 'more findings and notes')}"
    for note in result.notes:
        yield from folded([toned(f"{bullet}note: {line_text(note, fmt)}")])
    style = "good verdict" if result.ok else "bad verdict"
    yield bullet + painted(line_text(verdict(result), fmt), style)


def finding_text(finding: HistoryFinding) -> str:
    """Return a finding as one line."""
    return printable(f"{finding.severity}: {finding.message} [{finding.code}]")


def verdict(result: History) -> str:
    """Return how much there is of the run, and of what was found."""
    paths = ", ".join(printable(str(path)) for path in result.paths[:3])
    if len(result.paths) > 3:
        paths += f" and {len(result.paths) - 3:,} more"
    counted = sum(finding.severity != "note" for finding in result.findings)
    notes = len(result.findings) - counted
    found = count_text(counted, "finding") if counted else "no findings"
    if notes:
        found += f", {count_text(notes, 'note')}"
    return f"{paths}: {steps_text(result)}: {found}"


def steps_text(result: History) -> str:
    """Return "40 steps, 10 to 400 (by training step), 24 tensors"."""
    numbers = [step.number for step in result.steps if step.number >= 0]
    text = count_text(len(result.steps), "step")
    if numbers:
        text += f", {numbers[0]:,} to {numbers[-1]:,}" if len(numbers) > 1 else f", {numbers[0]:,}"
    if result.how:
        text += f" (by {result.how})"
    return f"{text}, {count_text(len(result.tensors), 'tensor')}" if result.tensors else text


def layer_rows(result: History) -> list[Sequence[object]]:
    """Return the cells of each layer, as HEADERS names them."""
    return [_layer_row(layer) for layer in result.layers]


def _layer_row(layer: LayerHistory) -> Sequence[object]:
    return (
        printable(layer.name),
        layer.params,
        *_curve(layer.norms),
        *_ratio_cells(layer.ratios),
        *_last_counts(layer.tensors),
    )


def _tensor_rows(result: History) -> list[Sequence[object]]:
    steps = range(len(result.steps))
    return [
        (
            printable(tensor.name),
            tensor.role,
            tensor.size,
            *_curve([t.measured[at].statistics.norm if at in t.measured else None for at in steps]),
            *_ratio_cells([t.ratio(at) for at in steps]),
            *_last_counts((t,)),
        )
        for tensor in result.tensors
        for t in (tensor,)
    ]


def _curve(values: Sequence[float | None]) -> tuple[str, str, str]:
    """Return the first value, the last, and a sparkline of all."""
    known = [value for value in values if value is not None]
    if not known:
        return "", "", ""
    return number_text(known[0]), number_text(known[-1]), sparkline(values)


def _ratio_cells(ratios: Sequence[float | None]) -> tuple[str, str]:
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return "", ""
    return sparkline(ratios, from_zero=True), number_text(known[-1])


def _last_counts(tensors: Sequence[TensorHistory]) -> tuple[str, str]:
    """Return the share of zeros and the number of NaN and infinities at the last step."""
    rows = [t.measured[max(t.measured)].statistics for t in tensors if t.measured]
    count = sum(row.n for row in rows)
    zeros = sum(row.n_zero for row in rows)
    bad = sum(row.n_nan + row.n_inf for row in rows)
    return f"{100 * zeros / count:.3g}%" if zeros else "0", f"{bad:,}"


def sparkline(values: Sequence[float | None], *, from_zero: bool = False) -> str:
    """Return values as SPARKS bars at most, from the least to the largest; × is not finite.

    On a narrow screen there are fewer.

    Of more steps, those that fall on one bar show the largest.  A step without a value is a gap.
    """
    cells = _resampled(values)
    finite = [v for v in cells if v is not None and math.isfinite(v)]
    low = 0.0 if from_zero else min(finite, default=0.0)
    width = max(finite, default=0.0) - low
    return "".join(_bar(value, low, width) for value in cells).rstrip()


def _resampled(values: Sequence[float | None]) -> list[float | None]:
    width = screen().width
    most = SPARKS if width is None else min(SPARKS, max(_FEWEST, (width - _OTHERS) // 2))
    if len(values) <= most:
        return list(values)
    cells: list[float | None] = []
    for at in range(most):
        part = values[at * len(values) // most : (at + 1) * len(values) // most]
        known = [value for value in part if value is not None]
        bad = [value for value in known if not math.isfinite(value)]
        cells.append(bad[0] if bad else max(known, default=None))
    return cells


def _bar(value: float | None, low: float, width: float) -> str:
    if value is None:
        return _GAP
    if not math.isfinite(value):
        return _NOT_FINITE
    if not width > 0 or not math.isfinite(width):
        return _BARS[0]
    return _BARS[min(len(_BARS) - 1, int((value - low) / width * len(_BARS)))]


def number_text(value: float | None) -> str:
    """Return a number with three digits; "" for none."""
    return "" if value is None else f"{value:.3g}"


def _csv_cell(value: Any) -> object:
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value


# --- a row per step, as a run grows ---------------------------------------------------------------

STEP_HEADERS = ("STEP", "CHECKPOINT", "NORM", "UPDATE", "UPDATE/NORM", "NAN", "FINDINGS")
_STEP_WIDTHS = (9, 28, 10, 10, 11, 7, 0)


def step_line(cells: Sequence[str]) -> str:
    """Return the cells of one step in columns of a fixed width, since more are to come."""
    padded = [cell.ljust(width) for cell, width in zip(cells, _STEP_WIDTHS, strict=True)]
    return "  ".join(padded).rstrip()


def step_cells(result: History, at: int) -> tuple[str, ...]:
    """Return what there is to say of a step, over all weights."""
    step = result.steps[at]
    norms = [layer.norms[at] for layer in result.layers]
    updates = [layer.updates[at] for layer in result.layers]
    norm = math.hypot(*(n for n in norms if n is not None))
    moved = [u for u in updates if u is not None]
    before = [
        layer.norms[at - 1] for layer in result.layers if at and layer.updates[at] is not None
    ]
    old = math.hypot(*(n for n in before if n is not None))
    update = math.hypot(*moved) if moved else None
    bad = sum(
        t.measured[at].statistics.n_nan + t.measured[at].statistics.n_inf
        for t in result.tensors
        if at in t.measured
    )
    codes = dict.fromkeys(
        f.code for f in result.findings if f.step == step.number and f.severity != "note"
    )
    return (
        f"{step.number:,}",
        printable(step.path.name),
        number_text(norm),
        number_text(update),
        number_text(update / old if update is not None and old else None),
        f"{bad:,}",
        ", ".join(codes),
    )
