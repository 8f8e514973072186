"""What every report on a check says of a run and of one output, in words and cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckptkit.reports.text import count_text

if TYPE_CHECKING:
    from ckptkit.operations.execution.types import Row, RunRecord


def where_text(run: RunRecord) -> str:
    """Return where the kernels of a run really ran."""
    parts = [
        f"{device} {count_text(int(counts.get('ops', 0)), 'op')}"
        + (f" ({counts['heavy']} heavy)" if counts.get("heavy") else "")
        for device, counts in run.devices.items()
    ]
    return ", ".join(parts) or "devices not told"


def environment_text(environment: Mapping[str, Any]) -> str:
    """Return what a run was done with, in one line."""
    versions = environment.get("versions")
    parts = []
    if isinstance(versions, Mapping):
        parts += [f"{name} {version}" for name, version in versions.items()]
    for key in ("python", "device_name", "cpu", "os"):
        if environment.get(key):
            parts.append(f"{key} {environment[key]}" if key == "python" else str(environment[key]))
    parts += [key for key in ("xla", "tf32", "deterministic", "eager") if environment.get(key)]
    parts += [f"{key} {environment[key]}" for key in ("threads", "policy") if environment.get(key)]
    return ", ".join(parts)


def row_text(row: Row) -> str:
    """Return one line on an output that does not pass."""
    result = row.result
    text = f"{result.status}: {result.message}" if result.message else result.status
    return "; ".join((text, *result.hints))


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of one output."""
    result = row.result
    share = f"{result.n_bad:,}/{result.n:,}" if result.n else "0"
    return (
        row.runner,
        row.case,
        result.name,
        result.status,
        number(result.max_abs),
        "-" if result.defined_max_rel is None else number(result.max_rel),
        number(result.max_ulp),
        share,
        "" if result.cosine is None else f"{result.cosine:.6f}",
        "" if result.argmax_agreement is None else f"{100 * result.argmax_agreement:.4g}%",
        number(result.needed),
        allowed(row),
        row.tier or result.tolerance.reason,
    )


def allowed(row: Row) -> str:
    """Return the relative tolerance that was allowed; the absolute one follows from the tier."""
    tolerance = row.result.tolerance
    if tolerance.min_cosine is not None:
        return f"cos {tolerance.min_cosine:g}"
    return number(max(tolerance.rtol, tolerance.atol))


def number(value: float | int | None) -> str:
    """Return a number with three digits; "" for None."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**9 else f"{value:.3g}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3g}"
