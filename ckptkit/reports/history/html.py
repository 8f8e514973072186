"""A history as one self-contained HTML page: heat map of layers by steps, a chart per layer.

What is in the frame of all pages (`ckptkit.reports.page`) are three files beside this one: parts
of the page, its style and its script.  A run of 750 tensors and 200 steps has a million numbers, so
they are stored in two bytes each: the upper half of a float32, which keeps two to three digits.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptkit.operations.history.result import History
from ckptkit.operations.history.types import HistoryFinding, TensorHistory, TensorMeasurement
from ckptkit.reports.history import text as report
from ckptkit.reports.page import frame
from ckptkit.reports.page.sections import column, plain, table
from ckptkit.reports.text import printable

_HERE = Path(__file__).parent
_LARGEST = 3.3e38  # what is beyond is shown as infinite


def lines(result: History) -> Iterator[str]:
    """Yield the page."""
    made = page(result)
    drawn = replace(
        made,
        sections=(),
        body=(_HERE / "page.html").read_text(encoding="utf-8"),
        own=_HERE,
        values=_data(result),
    )
    return frame.lines(drawn, plain(made))


def page(result: History) -> frame.Page:
    """Return what the page shows in a browser that runs no script, and in a notebook: tables."""
    names = ", ".join(path.name or str(path) for path in result.paths[:3])
    found = result.findings
    findings = [
        column("severity", "severity", [x.severity for x in found], "status", facet="chips"),
        column("name", "what was found", [x.message for x in found], "name"),
        column("code", "code", [x.code for x in found], "mono"),
    ]
    rows = report.layer_rows(result)
    layers = [
        column(*(header.lower(), header.lower(), [row[at] for row in rows]))
        for at, header in enumerate(report.HEADERS)
    ]
    return frame.Page(
        "history",
        f"{names} · ckptkit history",
        verdict=report.verdict(result),
        tone="good" if result.ok else "bad",
        notes=[("note", note) for note in result.notes],
        footer=frame.made_by(f"thresholds {json.dumps(result.thresholds.to_json())}"),
        sections=[
            table("findings", "Findings", findings, "finding", headed=True),
            table("layers", "Layers", layers, "layer", headed=True),
        ],
    )


def _data(result: History) -> dict[str, Any]:
    layers = list(dict.fromkeys(tensor.layer for tensor in result.tensors))
    return {
        "steps": [
            {"n": step.number, "name": printable(step.path.name), "bad": bool(step.problem)}
            for step in result.steps
        ],
        "layers": [printable(layer) for layer in layers],
        "findings": [_finding(finding, result, layers) for finding in result.findings],
        "tensors": [_tensor(tensor, result, layers) for tensor in result.tensors],
    }


def _finding(finding: HistoryFinding, result: History, layers: Sequence[str]) -> dict[str, Any]:
    at = next((i for i, s in enumerate(result.steps) if s.number == finding.step), None)
    return {
        "severity": finding.severity,
        "code": finding.code,
        "message": printable(finding.message),
        "at": at,
        "layers": [layers.index(layer) for layer in finding.layers if layer in layers],
    }


_MEASURES: tuple[tuple[str, Callable[[TensorMeasurement], float | None]], ...] = (
    ("norm", lambda m: m.statistics.norm),
    ("update", lambda m: m.update.norm if m.update else None),
    ("mean", lambda m: m.statistics.mean),
    ("std", lambda m: m.statistics.std),
    ("min", lambda m: m.statistics.minimum),
    ("max", lambda m: m.statistics.maximum),
)
_COUNTS: tuple[tuple[str, Callable[[TensorMeasurement], int]], ...] = (
    ("zeros", lambda m: m.statistics.n_zero),
    ("bad", lambda m: m.statistics.n_nan + m.statistics.n_inf),
    ("dead", lambda m: m.zero_units.bit_count()),
)


def _tensor(tensor: TensorHistory, result: History, layers: Sequence[str]) -> dict[str, Any]:
    steps = range(len(result.steps))
    measured = [tensor.measured.get(at) for at in steps]
    row: dict[str, Any] = {
        "name": printable(tensor.name),
        "layer": layers.index(tensor.layer),
        "role": tensor.role,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "size": tensor.size,
        "units": tensor.units,
        # where the content is that of the last step before, nothing changed
        "same": [at for at in steps if at and _is_same(measured, at)],
    }
    for name, value in _MEASURES:
        row[name] = _packed([None if m is None else value(m) for m in measured])
    for name, count in _COUNTS:
        # few tensors have any: index and count in turn; where most steps do, one byte each
        counts = [0 if m is None else count(m) for m in measured]
        pairs = [n for at, c in enumerate(counts) if c for n in (at, c)]
        row[name] = pairs if len(pairs) < len(counts) else _shares(counts, tensor.size)
    return row


def _is_same(measured: Sequence[TensorMeasurement | None], at: int) -> bool:
    here = measured[at]
    before = next((m for m in reversed(measured[:at]) if m is not None), None)
    return here is not None and before is not None and here.content == before.content


def _shares(counts: Sequence[int], size: int) -> str:
    """Return counts in base64, one byte each: the fourth root of the share of all elements."""
    return base64.b64encode(bytes(round(255 * (c / size) ** 0.25) for c in counts)).decode()


def _packed(values: Sequence[float | None]) -> str:
    """Return numbers in base64, two bytes each; NaN stands for none."""
    return base64.b64encode(b"".join(map(_upper_half, values))).decode()


def _upper_half(value: float | None) -> bytes:
    if value is None or math.isnan(value):
        return b"\xc0\x7f"
    number = float(value)
    if abs(number) > _LARGEST:
        number = math.copysign(math.inf, number)
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    rounded = bits + 0x8000 if math.isfinite(number) else bits
    return struct.pack("<H", min(rounded >> 16, 0xFFFF))
